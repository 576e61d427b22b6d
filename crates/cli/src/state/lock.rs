//! Locks that end with their process, however it ends.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use backup_core::{Error, ErrorKind, Result};

use super::durable;
use crate::failure::io_error;

/// An advisory lock (flock) on a file; freed when dropped or when the process dies.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock now; `what` names the work that another process does.
    ///
    /// # Errors
    /// `Conflict` while another process holds it.
    pub(crate) fn take(folder: &Path, name: &str, what: &str) -> Result<Self> {
        let (file, path) = open(folder, name)?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => {
                Err(Error::new(ErrorKind::Conflict, what, "is already running on this host")
                    .with_hint("wait for it to end; a process that died holds no lock"))
            }
            Err(TryLockError::Error(error)) => Err(io_error(&path, "lock", error)),
        }
    }

    /// Takes the lock as soon as it is free. For work of moments only.
    pub(crate) fn wait(folder: &Path, name: &str) -> Result<Self> {
        let (file, path) = open(folder, name)?;
        file.lock().map_err(|e| io_error(&path, "lock", e))?;
        Ok(Self { _file: file })
    }
}

fn open(folder: &Path, name: &str) -> Result<(File, std::path::PathBuf)> {
    durable::create_folder(folder)?;
    let path = folder.join(format!("{name}.lock"));
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
    Ok((file.map_err(|e| io_error(&path, "open", e))?, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_held_once_and_freed_by_dropping() {
        let folder = tempfile::tempdir().unwrap();
        let held = Lock::take(folder.path(), "a", "the work").unwrap();
        assert_eq!(Lock::take(folder.path(), "a", "the work").unwrap_err().kind(), ErrorKind::Conflict);
        Lock::take(folder.path(), "b", "other work").unwrap();
        drop(held);
        Lock::take(folder.path(), "a", "the work").unwrap();
    }
}
