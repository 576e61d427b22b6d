//! The hidden folder of a restore, which goes away with everything in it unless it is kept.

use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use backup_core::{Error, Result};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags};
use tempfile::TempDir;

use crate::publish::{file_error, folder_of};

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const RANDOM: usize = 6;
const SUFFIX: &str = ".partial";

/// A folder beside the target that only this user can enter.
#[derive(Debug)]
pub(crate) struct Hidden(Option<TempDir>, PathBuf);

impl Hidden {
    pub(crate) fn beside(target: &Path) -> Result<Self> {
        let made = tempfile::Builder::new()
            .prefix(&prefix(target))
            .suffix(SUFFIX)
            .rand_bytes(RANDOM)
            .tempdir_in(folder_of(target))
            .map_err(|error| file_error(target, "cannot be begun", error))?;
        let path = made.path().to_owned();
        Ok(Self(Some(made), path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.1
    }

    /// Leaves it to whoever has it now.
    pub(crate) fn keep(mut self) -> PathBuf {
        if let Some(folder) = self.0.take() {
            let _ = folder.keep();
        }
        self.1.clone()
    }

    /// Removes it after `error`, which tells if that fails: what is in it is plaintext.
    pub(crate) fn give_up(mut self, error: Error) -> Error {
        match self.remove() {
            Ok(()) => error,
            Err(left) => {
                let hint = format!(
                    "remove {} by hand, which holds what was unpacked and cannot be removed ({left})",
                    self.1.display()
                );
                let hint = match error.hint() {
                    Some(own) => format!("{own}; {hint}"),
                    None => hint,
                };
                error.with_hint(hint)
            }
        }
    }

    fn remove(&mut self) -> std::io::Result<()> {
        let Some(folder) = self.0.take() else { return Ok(()) };
        // Nothing keeps root out, and what others own by now is not to be changed by a name.
        if !rustix::process::geteuid().is_root() {
            open_up(&self.1)?;
        }
        folder.close()
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        let _ = self.remove();
    }
}

/// Lets its owner remove everything in a folder: an archive may have folders without write permission.
fn open_up(path: &Path) -> rustix::io::Result<()> {
    rustix::fs::chmodat(CWD, path, Mode::RWXU, AtFlags::empty())?;
    open_below(&rustix::fs::open(path, FOLDER, Mode::empty())?)
}

fn open_below(folder: &OwnedFd) -> rustix::io::Result<()> {
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let stat = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            rustix::fs::chmodat(folder, name, Mode::RWXU, AtFlags::empty())?;
            open_below(&rustix::fs::openat(folder, name, FOLDER, Mode::empty())?)?;
        }
    }
    Ok(())
}

/// Hidden folders of this user that earlier restores to `target` left: killed ones, and exchanges,
/// which keep there what had the name before. Which of both nobody can tell, so they stay.
pub(crate) fn left_over(target: &Path) -> Vec<PathBuf> {
    let prefix = prefix(target);
    let Ok(entries) = std::fs::read_dir(folder_of(target)) else { return Vec::new() };
    let own = rustix::process::geteuid().as_raw();
    let ours = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        let random = name.and_then(|name| name.strip_prefix(&prefix)?.strip_suffix(SUFFIX));
        random
            .is_some_and(|random| random.len() == RANDOM && random.bytes().all(|b| b.is_ascii_alphanumeric()))
            && path.symlink_metadata().is_ok_and(|found| found.is_dir() && found.uid() == own)
    };
    let mut found: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(ours).collect();
    found.sort();
    found
}

fn prefix(target: &Path) -> String {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    let short: String = name.chars().take(100).collect();
    format!(".{short}.")
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use backup_core::ErrorKind;

    use super::*;

    fn mode(path: &Path, mode: u32) {
        std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn folders_without_write_permission_go_away_too() {
        let around = tempfile::tempdir().unwrap();
        let outside = around.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("file"), "f").unwrap();
        mode(&outside, 0o555);
        let hidden = Hidden::beside(&around.path().join("target")).unwrap();
        let at = |name: &str| hidden.path().join(name);
        std::fs::create_dir_all(at("a/b")).unwrap();
        std::fs::write(at("a/b/secret"), "s").unwrap();
        symlink(&outside, at("a/link")).unwrap();
        mode(&at("a/b"), 0);
        mode(&at("a"), 0o555);
        mode(hidden.path(), 0o555);
        // Root needs none of this, so the modes are looked at.
        open_up(hidden.path()).unwrap();
        for folder in ["", "a", "a/b"] {
            assert_eq!(at(folder).metadata().unwrap().mode() & 0o777, 0o700, "{folder}");
        }
        mode(&at("a/b"), 0);
        mode(&at("a"), 0o555);
        let path = hidden.path().to_owned();
        let error = hidden.give_up(Error::new(ErrorKind::Integrity, "dump", "broken").with_hint("own"));
        assert_eq!(error.hint(), Some("own"));
        assert!(!path.exists());
        assert_eq!(outside.metadata().unwrap().mode() & 0o777, 0o555);
        assert!(outside.join("file").exists());
        mode(&outside, 0o755);
    }

    #[test]
    fn what_cannot_be_removed_is_named() {
        let around = tempfile::tempdir().unwrap();
        let hidden = Hidden::beside(&around.path().join("target")).unwrap();
        let path = hidden.path().to_owned();
        std::fs::remove_dir(&path).unwrap();
        std::fs::write(&path, "no folder").unwrap();
        let error = hidden.give_up(Error::new(ErrorKind::Integrity, "dump", "broken").with_hint("own"));
        let hint = error.hint().unwrap();
        assert!(hint.starts_with("own; ") && hint.contains(path.to_str().unwrap()), "{hint}");
    }

    #[test]
    fn only_folders_of_this_target_are_left_over() {
        let around = tempfile::tempdir().unwrap();
        for name in [".app.abc123.partial", ".app.abc.partial", ".other.abc123.partial", "app"] {
            std::fs::create_dir(around.path().join(name)).unwrap();
        }
        std::fs::write(around.path().join(".app.abc124.partial"), "a file").unwrap();
        assert_eq!(left_over(&around.path().join("app")), [around.path().join(".app.abc123.partial")]);
    }
}
