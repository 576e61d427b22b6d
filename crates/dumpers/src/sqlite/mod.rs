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

mod bundle;
mod content;
mod dump;
mod error;
mod image;
mod restore;

use std::path::PathBuf;

use serde::Deserialize;

pub use bundle::{SqliteBundleDumper, SqliteBundleInspector};
pub use dump::SqliteDumper;
pub use error::SqliteError;
pub use image::{ImageHeader, SqliteInspector};
pub use restore::SqliteRestorer;

/// The name of the format.
pub const SQLITE_IMAGE: &str = "sqlite-image";
/// The name of the format for several files: a [bundle](crate::bundle) of images.
pub const SQLITE_BUNDLE: &str = "sqlite-bundle";

/// Settings of a SQLite database, or of several files in one backup.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "Fields")]
pub struct SqliteConfig {
    /// The database file; for a restore of several files the folder that will hold them. Empty where
    /// `paths` is not.
    pub path: PathBuf,
    /// Several database files, by path or by pattern with `*` and `?`, as one backup.
    pub paths: Vec<String>,
    /// Databases with a rollback journal up to this many bytes are copied into memory first, so
    /// that writers wait for milliseconds only; 16 MiB without it.
    pub memory_limit: Option<u64>,
    /// Seconds to wait for a lock that a writer holds; 30 without it.
    pub lock_seconds: Option<u64>,
}

/// The keys as they are written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    path: Option<PathBuf>,
    #[serde(default)]
    paths: Vec<String>,
    #[serde(default)]
    memory_limit: Option<u64>,
    #[serde(default)]
    lock_seconds: Option<u64>,
}

impl TryFrom<Fields> for SqliteConfig {
    type Error = &'static str;

    fn try_from(fields: Fields) -> Result<Self, Self::Error> {
        let Fields { path, paths, memory_limit, lock_seconds } = fields;
        match (path, paths.is_empty()) {
            (None, true) => Err("missing field `path` or `paths`"),
            (Some(_), false) => Err("`path` and `paths` exclude each other"),
            (path, _) => Ok(Self { path: path.unwrap_or_default(), paths, memory_limit, lock_seconds }),
        }
    }
}

impl SqliteConfig {
    /// A file with the usual limits.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), paths: Vec::new(), memory_limit: None, lock_seconds: None }
    }
}
