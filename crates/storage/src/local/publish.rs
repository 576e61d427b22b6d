//! Making a file visible under its name, once, and so that it survives a power cut.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;

/// Makes `folder` and what is missing above it, with mode 0700, each one synced into its parent.
pub(super) fn ensure_folder(folder: &Path) -> io::Result<()> {
    if fs::metadata(folder).is_ok_and(|found| found.is_dir()) {
        return Ok(());
    }
    let parent = folder.parent();
    if let Some(parent) = parent {
        ensure_folder(parent)?;
    }
    match DirBuilder::new().mode(0o700).create(folder) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            if !fs::metadata(folder)?.is_dir() {
                return Err(io::ErrorKind::NotADirectory.into());
            }
        }
        Err(error) => return Err(error),
    }
    parent.map_or(Ok(()), sync_folder)
}

/// Writes a folder's entries to the disk.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    match File::open(folder)?.sync_all() {
        // Some file systems have no such thing as syncing a folder.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        done => done,
    }
}

/// Gives the file `from` the name `to`, in one step, and never in place of another file.
///
/// # Errors
/// `AlreadyExists` when the name is taken; `Unsupported` where no such step exists.
pub(super) fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(()),
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => link_new(from, to),
        Err(errno) => Err(errno.into()),
    }
}

/// The same through a second name: a link never replaces.
fn link_new(from: &Path, to: &Path) -> io::Result<()> {
    match rustix::fs::link(from, to) {
        // What stays under the first name is swept later.
        Ok(()) => fs::remove_file(from).or(Ok(())),
        Err(Errno::PERM | Errno::NOSYS | Errno::OPNOTSUPP | Errno::INVAL) => {
            Err(io::ErrorKind::Unsupported.into())
        }
        Err(errno) => Err(errno.into()),
    }
}

/// Whether the error says that there is no such file, also when something above it is no folder.
pub(super) fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn neither_way_replaces() {
        for way in [rename_new, link_new] {
            let folder = tempfile::tempdir().unwrap();
            let (first, second, to) =
                (folder.path().join("1"), folder.path().join("2"), folder.path().join("to"));
            fs::write(&first, "first").unwrap();
            fs::write(&second, "second").unwrap();
            way(&first, &to).unwrap();
            assert_eq!(way(&second, &to).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
            assert_eq!(fs::read_to_string(&to).unwrap(), "first");
            assert!(!first.exists() && second.exists());
        }
    }

    #[test]
    fn folders_are_for_the_owner_alone() {
        let root = tempfile::tempdir().unwrap();
        let deep = root.path().join("a/b/c");
        ensure_folder(&deep).unwrap();
        ensure_folder(&deep).unwrap();
        for folder in ["a", "a/b", "a/b/c"] {
            let mode = fs::metadata(root.path().join(folder)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o700, "{folder}");
        }
        fs::write(root.path().join("file"), "").unwrap();
        let error = ensure_folder(&root.path().join("file/x")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotADirectory);
    }
}
