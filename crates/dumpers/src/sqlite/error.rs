//! What can go wrong with a SQLite database.

use std::path::{Path, PathBuf};

use backup_core::{Error, ErrorKind};
use rusqlite::ErrorCode;

/// How a database or an image failed us.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SqliteError {
    /// There is no such file.
    #[error("there is no such file")]
    Absent,
    /// The file has no page at all.
    #[error("the file is empty: it holds no database")]
    Empty,
    /// The file is something else, or encrypted.
    #[error("the file is not a SQLite database, or it is encrypted")]
    NotADatabase,
    /// A writer held its lock for too long.
    #[error("a writer held its lock on the database for too long")]
    Locked,
    /// A crashed writer left a journal that only a writer may roll back.
    #[error("a crashed writer left a journal that has to be rolled back first")]
    NeedsRecovery,
    /// A log in shared memory could not be made or opened.
    #[error("it is in WAL mode, and its -shm file can neither be made nor opened beside it: {0}")]
    NoSharedMemory(String),
    /// A log and another page size exclude each other.
    #[error("it is in WAL mode, which cannot take the other page size of the image")]
    OtherPageSize,
    /// The system refused the file.
    #[error("the file cannot be opened: {0}")]
    Refused(String),
    /// The folder for checks took no more.
    #[error("the image cannot be checked in the scratch folder: {0}")]
    Scratch(String),
    /// Pages are not what their database says.
    #[error("the database is damaged: {0}")]
    Damaged(String),
    /// An image is not whole or not an image.
    #[error("not a whole SQLite image: {0}")]
    Image(&'static str),
    /// This program was built without the table that reads pages.
    #[error("this program was built without SQLITE_ENABLE_DBPAGE_VTAB")]
    NoPageTable,
    /// Everything else SQLite says.
    #[error("{0}")]
    Other(String),
}

impl SqliteError {
    /// The port's error, about this file.
    #[must_use]
    pub fn at(self, path: &Path) -> Error {
        let (kind, hint) = match &self {
            Self::Absent => (ErrorKind::NotFound, "check the path; nothing is ever created in its place"),
            Self::Empty => {
                (ErrorKind::NotFound, "check the path: an empty file is not backed up as a database")
            }
            Self::NotADatabase => (ErrorKind::Unsupported, "check the path"),
            Self::Locked => (ErrorKind::Unavailable, "try again, raise lock_seconds, or switch to WAL mode"),
            Self::NeedsRecovery => {
                (ErrorKind::Unavailable, "open the database once with the program that writes it")
            }
            Self::NoSharedMemory(_) => (
                ErrorKind::Denied,
                "let this user write to the folder of the database, or run while a program that writes it \
                 has it open",
            ),
            Self::OtherPageSize => (
                ErrorKind::Conflict,
                "restore to a new name, or set PRAGMA journal_mode=DELETE on the existing database first",
            ),
            Self::Refused(_) => (ErrorKind::Denied, "check owner and mode of the file and its folder"),
            Self::Scratch(_) => {
                (ErrorKind::Unavailable, "name another folder with --scratch, or make room there")
            }
            Self::Damaged(_) => (ErrorKind::Integrity, "run PRAGMA integrity_check on it"),
            Self::Image(_) => (ErrorKind::Integrity, "use another backup"),
            Self::NoPageTable => {
                (ErrorKind::Unsupported, "build with LIBSQLITE3_FLAGS=-DSQLITE_ENABLE_DBPAGE_VTAB")
            }
            Self::Other(_) => (ErrorKind::Unavailable, "see the message of SQLite"),
        };
        Error::new(kind, path.display().to_string(), self.to_string()).with_hint(hint).with_source(self)
    }
}

impl From<rusqlite::Error> for SqliteError {
    fn from(error: rusqlite::Error) -> Self {
        let text = error.to_string();
        if text.contains("no such table: sqlite_dbpage") {
            return Self::NoPageTable;
        }
        match error.sqlite_error().map(|inner| (inner.code, inner.extended_code)) {
            Some((ErrorCode::NotADatabase, _)) => Self::NotADatabase,
            Some((ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked, _)) => Self::Locked,
            // A hot journal, seen by a connection that may not write.
            Some((ErrorCode::ReadOnly, _)) => Self::NeedsRecovery,
            Some((
                ErrorCode::CannotOpen
                | ErrorCode::PermissionDenied
                | ErrorCode::AuthorizationForStatementDenied,
                _,
            )) => Self::Refused(text),
            Some((ErrorCode::DatabaseCorrupt, _)) => Self::Damaged(text),
            _ => Self::Other(text),
        }
    }
}

/// The path as SQLite has to be given it: a relative one could be read as a URI or as `:memory:`.
pub(super) fn plain(path: &Path) -> PathBuf {
    // Joining keeps an absolute path as it is.
    Path::new(".").join(path)
}

/// The companions of a database file: they belong to exactly this file.
pub(super) fn companions(path: &Path) -> [PathBuf; 3] {
    ["-wal", "-journal", "-shm"].map(|suffix| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_neither_a_uri_nor_memory() {
        for (path, expected) in
            [("file:x?mode=memory", "./file:x?mode=memory"), (":memory:", "./:memory:"), ("/a/b", "/a/b")]
        {
            assert_eq!(plain(Path::new(path)), Path::new(expected));
        }
    }
}
