//! A folder as a tar stream, for the files that belong with a database.
//!
//! The stream is a POSIX pax archive (IEEE Std 1003.1-2017, `pax`, "pax Interchange Format"): GNU tar
//! and bsdtar restore it by hand. Folders, files, symbolic links and hard links are kept with modes,
//! owners by number, and modification times to the nanosecond. Sockets, pipes and devices are left
//! out with a warning; extended attributes and ACLs are not kept.
//!
//! A folder has no moments: each file is read when its turn comes. A file that shrinks or vanishes
//! while it is read ends the dump with an error, and so does one that merely changes unless
//! `changes = "warn"` allows it. Nothing outside of the folder is ever read: no symbolic link is
//! followed below it.

mod dump;
mod error;
mod hidden;
mod inspect;
mod pattern;
mod restore;
mod tar;
mod unpack;
mod walk;

use std::path::PathBuf;

use serde::Deserialize;

pub use dump::FolderDumper;
pub use error::TarError;
pub(crate) use hidden::{Hidden, left_over};
pub use inspect::TarInspector;
pub(crate) use pattern::matches;
pub use restore::FolderRestorer;
pub use tar::{Entry, EntryKind, TarEvent, TarReader};

/// The name of the format.
pub const FILES_TAR: &str = "files-tar";

/// Settings of a folder.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FolderConfig {
    /// The folder: to dump, or to create by a restore.
    pub path: PathBuf,
    /// What to do when a file changes while it is read; `fail` without it.
    #[serde(default)]
    pub changes: Changes,
}

/// What to do when a file changes while it is read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Changes {
    /// No backup.
    #[default]
    Fail,
    /// A backup with a warning, unless the file shrank.
    Warn,
}

impl FolderConfig {
    /// A folder with the usual settings.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), changes: Changes::default() }
    }
}
