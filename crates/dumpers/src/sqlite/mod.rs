//! SQLite databases, dumped as images and restored into new files.
//!
//! The dump is the exact database image (<https://sqlite.org/fileformat2.html>) as one read
//! transaction sees it. Pages are read in order through the `sqlite_dbpage` virtual table and
//! streamed: no temporary file, no second copy, bounded memory.
//!
//! While writers write:
//! - In WAL mode they go on; the read transaction keeps its snapshot. The log cannot be reset
//!   before the dump ends, so it grows by what is written meanwhile.
//! - With a rollback journal a reader and a writer exclude each other. A database of at most 16 MiB
//!   (a setting) is therefore copied into memory by the online backup API, which takes
//!   milliseconds, and streamed from there. A larger one is streamed inside the read transaction
//!   and its writers wait until the end of the dump, as they would for one uninterrupted step of
//!   the backup API. A probe says so; WAL mode is the remedy.

mod dump;
mod error;
mod image;
mod restore;

use std::path::PathBuf;

use serde::Deserialize;

pub use dump::SqliteDumper;
pub use error::SqliteError;
pub use image::{ImageHeader, SqliteInspector};
pub use restore::SqliteRestorer;

/// The name of the format.
pub const SQLITE_IMAGE: &str = "sqlite-image";

/// Settings of a SQLite database.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SqliteConfig {
    /// The database file.
    pub path: PathBuf,
    /// Databases with a rollback journal up to this many bytes are copied into memory first, so
    /// that writers wait for milliseconds only; 16 MiB without it.
    #[serde(default)]
    pub memory_limit: Option<u64>,
    /// Seconds to wait for a lock that a writer holds; 30 without it.
    #[serde(default)]
    pub lock_seconds: Option<u64>,
}

impl SqliteConfig {
    /// A file with the usual limits.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), memory_limit: None, lock_seconds: None }
    }
}
