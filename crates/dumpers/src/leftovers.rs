//! Hidden files of restores that were killed. They hold plaintext, so the next restore to the same
//! name takes them away.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use crate::publish::folder_of;

/// Characters between the parts of a hidden file's name.
const RANDOM: usize = 6;
const SUFFIX: &str = ".partial";
/// Whoever tidies up can take a file away only in the instant before it is locked.
const ATTEMPTS: usize = 8;

/// A hidden file that no process works on. It stays locked while this lives.
#[derive(Debug)]
pub(crate) struct Leftover {
    path: PathBuf,
    file: File,
}

/// The hidden files of killed restores to `target` that are this user's. What cannot be looked at is
/// nobody's leftover.
pub(crate) fn find(target: &Path) -> Vec<Leftover> {
    let prefix = prefix(target);
    let Ok(entries) = std::fs::read_dir(folder_of(target)) else { return Vec::new() };
    let mut found: Vec<Leftover> = entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let name = entry.file_name().into_string().ok()?;
            let random = name.strip_prefix(&prefix)?.strip_suffix(SUFFIX)?;
            let ours = random.len() == RANDOM && random.bytes().all(|b| b.is_ascii_alphanumeric());
            if ours { Leftover::claim(entry.path()) } else { None }
        })
        .collect();
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// A new hidden file beside `target`, mode 0600, locked for as long as it is open, so that nobody
/// takes it for a leftover.
pub(crate) fn begin(target: &Path) -> std::io::Result<tempfile::NamedTempFile> {
    let prefix = prefix(target);
    for _ in 0..ATTEMPTS {
        let file = tempfile::Builder::new()
            .prefix(&prefix)
            .suffix(SUFFIX)
            .rand_bytes(RANDOM)
            .tempfile_in(folder_of(target))?;
        match file.as_file().try_lock() {
            Err(TryLockError::WouldBlock) => continue,
            // A file system without locks: nothing there is ever taken for a leftover.
            Err(TryLockError::Error(_)) => return Ok(file),
            Ok(()) if same(file.as_file(), file.path()) => return Ok(file),
            Ok(()) => {}
        }
    }
    Err(std::io::Error::other("another restore to the same name takes the hidden files away"))
}

fn prefix(target: &Path) -> String {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    let short: String = name.chars().take(100).collect();
    format!(".{short}.")
}

/// Whether the open file still has this name.
fn same(file: &File, path: &Path) -> bool {
    match (file.metadata(), path.symlink_metadata()) {
        (Ok(open), Ok(named)) => open.dev() == named.dev() && open.ino() == named.ino(),
        _ => false,
    }
}

impl Leftover {
    fn claim(path: PathBuf) -> Option<Self> {
        let named = path.symlink_metadata().ok()?;
        if !named.is_file() || named.uid() != rustix::process::geteuid().as_raw() {
            return None;
        }
        let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
        let flags = i32::try_from(flags.bits()).ok()?;
        let file = OpenOptions::new().read(true).custom_flags(flags).open(&path).ok()?;
        file.try_lock().ok()?;
        same(&file, &path).then_some(Self { path, file })
    }

    /// Where it lies.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// How many bytes it takes.
    pub(crate) fn len(&self) -> u64 {
        self.file.metadata().map_or(0, |metadata| metadata.len())
    }

    /// Removes it, and what SQLite may have put beside it.
    pub(crate) fn remove(self) -> std::io::Result<()> {
        for suffix in ["-wal", "-journal", "-shm"] {
            let mut name = self.path.as_os_str().to_owned();
            name.push(suffix);
            match std::fs::remove_file(name) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        std::fs::remove_file(&self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn only_what_no_process_works_on_and_belongs_to_this_target_is_left_over() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("app.db");
        let working = begin(&target).unwrap();
        let strangers = [
            ".app.db.partial",
            ".app.db.abc.partial",
            ".app.db.ab-def.partial",
            ".app.db.old.abcdef.partial",
            ".other.db.abcdef.partial",
            "app.db.abcdef.partial",
        ];
        for name in strangers.iter().chain(&[".app.db.abcdef.partial", ".app.db.abcdef.partial-wal"]) {
            std::fs::write(folder.path().join(name), "plaintext").unwrap();
        }
        std::os::unix::fs::symlink("/etc/hostname", folder.path().join(".app.db.linked.partial")).unwrap();
        std::fs::create_dir(folder.path().join(".app.db.folder.partial")).unwrap();

        let found = find(&target);
        assert_eq!(found.iter().map(Leftover::len).collect::<Vec<_>>(), [9]);
        assert!(find(&target).is_empty(), "what somebody has claimed is not claimed again");
        for leftover in found {
            leftover.remove().unwrap();
        }
        let mut expected: Vec<String> = strangers.map(str::to_owned).to_vec();
        expected.extend([".app.db.linked.partial", ".app.db.folder.partial"].map(str::to_owned));
        expected.push(working.path().file_name().unwrap().to_str().unwrap().to_owned());
        expected.sort();
        assert_eq!(names(folder.path()), expected);
        drop(working);
        assert!(find(&target).is_empty());
    }
}
