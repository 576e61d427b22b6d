//! An archive into a folder, which nobody else can enter before the end.
//!
//! Every name is used relative to the descriptor of a folder that was made here, and nothing is ever
//! opened through a symbolic link, so no archive reaches out of its folder.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use backup_core::{Error, ErrorKind, Result};
use bytes::Bytes;
use rustix::fs::{AtFlags, Gid, Mode, OFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use super::FILES_TAR;
use super::tar::{Entry, EntryKind, TarEvent, TarReader};
use crate::publish::file_error;

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const SET_USER_ID: u32 = 0o4000;
const SET_GROUP_ID: u32 = 0o2000;

/// Writes an archive below one folder.
#[derive(Debug)]
pub(super) struct Unpacker {
    reader: TarReader,
    root: OwnedFd,
    place: PathBuf,
    /// The folder itself, then the folders on the way to where the archive is.
    folders: Vec<(Entry, OwnedFd)>,
    file: Option<(Entry, File)>,
    owners: bool,
    /// Entries whose owner is another now.
    others: u64,
}

impl Unpacker {
    /// Below `place`, a folder that is empty and this user's alone. `owners` are kept where that is
    /// allowed: by root.
    pub(super) fn new(place: &Path, owners: bool) -> Result<Self> {
        let root = rustix::fs::open(place, FOLDER, Mode::empty())
            .map_err(|errno| file_error(place, "cannot be opened", errno.into()))?;
        let reader = TarReader::new();
        Ok(Self { reader, root, place: place.to_owned(), folders: Vec::new(), file: None, owners, others: 0 })
    }

    /// Writes what a chunk holds.
    pub(super) fn push(&mut self, mut chunk: Bytes) -> Result<()> {
        while let Some(event) = self.reader.next(&mut chunk).map_err(super::TarError::at_port)? {
            match event {
                TarEvent::Entry(entry) => self.entry(entry)?,
                TarEvent::Data(data) => {
                    if let Some((entry, file)) = &mut self.file {
                        let fail = |error| {
                            file_error(&self.place.join(shown(&entry.path)), "cannot be written", error)
                        };
                        file.write_all(&data).map_err(fail)?;
                    }
                }
                TarEvent::Complete => {
                    if let Some((entry, file)) = self.file.take() {
                        self.dress(&entry, file.as_fd())?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Ends at the end of the archive; gives what a person should know.
    pub(super) fn finish(mut self) -> Result<Vec<String>> {
        self.reader.finish().map_err(super::TarError::at_port)?;
        if self.folders.is_empty() {
            return Err(refused("it does not hold the folder itself", b""));
        }
        while let Some((entry, fd)) = self.folders.pop() {
            self.dress(&entry, fd.as_fd())?;
        }
        rustix::fs::syncfs(&self.root)
            .map_err(|errno| file_error(&self.place, "cannot be synced", errno.into()))?;
        if self.others == 0 {
            return Ok(Vec::new());
        }
        Ok(vec![format!(
            "{} entries belong to this user now and not to their former owners, which only root can give them; bits \
             that run a program as its owner were taken from them",
            self.others
        )])
    }

    fn entry(&mut self, entry: Entry) -> Result<()> {
        if entry.path.is_empty() {
            if !self.folders.is_empty() {
                return Err(refused("the folder itself stands in it twice", b""));
            }
            let again = rustix::fs::openat(&self.root, c".", FOLDER, Mode::empty());
            let again = again.map_err(|errno| self.fail(&entry, "cannot be opened", errno))?;
            self.folders.push((entry, again));
            return Ok(());
        }
        let (folder, name) = split(&entry.path);
        // The archive goes through a folder before it leaves it.
        while self.folders.last().is_some_and(|(top, _)| !is_below(folder, &top.path)) {
            if let Some((done, fd)) = self.folders.pop() {
                self.dress(&done, fd.as_fd())?;
            }
        }
        let Some((_, parent)) = self.folders.last().filter(|(top, _)| top.path == folder) else {
            return Err(refused("an entry stands in it before its folder, or after", &entry.path));
        };
        let made = match entry.kind {
            EntryKind::Folder => rustix::fs::mkdirat(parent, name, Mode::RWXU)
                .and_then(|()| rustix::fs::openat(parent, name, FOLDER, Mode::empty()))
                .map(Made::Folder),
            EntryKind::File => {
                let flags =
                    OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                rustix::fs::openat(parent, name, flags, Mode::RUSR | Mode::WUSR).map(Made::File)
            }
            EntryKind::SymbolicLink => rustix::fs::symlinkat(&*entry.link, parent, name).map(|()| Made::Link),
            EntryKind::HardLink => self.hard_link(&entry, parent.as_fd(), name).map(|()| Made::Link),
        };
        match made.map_err(|errno| self.fail(&entry, "cannot be made", errno))? {
            Made::Folder(fd) => self.folders.push((entry, fd)),
            Made::File(fd) => self.file = Some((entry, File::from(fd))),
            Made::Link if entry.kind == EntryKind::SymbolicLink => self.dress_link(&entry)?,
            Made::Link => {}
        }
        Ok(())
    }

    /// Only to what this archive made: each folder on the way is opened without following a link.
    fn hard_link(&self, entry: &Entry, parent: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<()> {
        let (folder, target) = split(&entry.link);
        let mut at = rustix::fs::openat(&self.root, c".", FOLDER, Mode::empty())?;
        for part in folder.split(|byte| *byte == b'/').filter(|part| !part.is_empty()) {
            at = rustix::fs::openat(&at, part, FOLDER, Mode::empty())?;
        }
        rustix::fs::linkat(&at, target, parent, name, AtFlags::empty())
    }

    /// Gives owner, mode and time.
    fn dress(&mut self, entry: &Entry, fd: BorrowedFd<'_>) -> Result<()> {
        let fail = |errno| self.fail(entry, "cannot be given its owner, mode and time", errno);
        let mut mode = entry.mode;
        if self.owners {
            rustix::fs::fchown(fd, owner(entry), group(entry)).map_err(fail)?;
        } else {
            // The file has the group that the system gave it, perhaps its folder's.
            let now = rustix::fs::fstat(fd).map_err(fail)?;
            if now.st_uid != entry.uid {
                mode &= !(SET_USER_ID | SET_GROUP_ID);
            }
            if now.st_gid != entry.gid {
                mode &= !SET_GROUP_ID;
            }
        }
        rustix::fs::fchmod(fd, Mode::from_raw_mode(mode)).map_err(fail)?;
        rustix::fs::futimens(fd, &times(entry)).map_err(fail)?;
        self.count(entry);
        Ok(())
    }

    fn dress_link(&mut self, entry: &Entry) -> Result<()> {
        let (_, name) = split(&entry.path);
        if let Some((_, parent)) = self.folders.last() {
            let fail = |errno| self.fail(entry, "cannot be given its owner and time", errno);
            if self.owners {
                rustix::fs::chownat(parent, name, owner(entry), group(entry), AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(fail)?;
            }
            rustix::fs::utimensat(parent, name, &times(entry), AtFlags::SYMLINK_NOFOLLOW).map_err(fail)?;
        }
        self.count(entry);
        Ok(())
    }

    fn count(&mut self, entry: &Entry) {
        if !self.owners && rustix::process::geteuid().as_raw() != entry.uid {
            self.others += 1;
        }
    }

    fn fail(&self, entry: &Entry, what: &str, errno: Errno) -> Error {
        match errno {
            // The folder was empty: both are in the archive.
            Errno::EXIST | Errno::LOOP | Errno::NOTDIR => refused("two entries have one name", &entry.path),
            Errno::NOENT if entry.kind == EntryKind::HardLink => {
                refused("a hard link leads to what is not in it", &entry.path)
            }
            errno => file_error(&self.place.join(shown(&entry.path)), what, errno.into()),
        }
    }
}

enum Made {
    Folder(OwnedFd),
    File(OwnedFd),
    Link,
}

fn refused(what: &str, path: &[u8]) -> Error {
    let shown = String::from_utf8_lossy(path);
    Error::new(ErrorKind::Integrity, FILES_TAR, format!("the archive is wrong: {what} ({shown:?})"))
        .with_hint("use another backup")
}

fn shown(path: &[u8]) -> PathBuf {
    std::ffi::OsStr::from_bytes(path).into()
}

/// The folder and the name in it.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

fn is_below(path: &[u8], folder: &[u8]) -> bool {
    folder.is_empty()
        || path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

fn owner(entry: &Entry) -> Option<Uid> {
    (entry.uid != u32::MAX).then(|| Uid::from_raw(entry.uid))
}

fn group(entry: &Entry) -> Option<Gid> {
    (entry.gid != u32::MAX).then(|| Gid::from_raw(entry.gid))
}

fn times(entry: &Entry) -> Timestamps {
    let time = Timespec { tv_sec: entry.modified.0, tv_nsec: entry.modified.1.into() };
    Timestamps { last_access: time, last_modification: time }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

    use super::super::tar::END;
    use super::*;

    fn entry(path: &str, kind: EntryKind, link: &str) -> Entry {
        let own = rustix::process::geteuid().as_raw();
        let (path, link) = (path.as_bytes().to_vec(), link.as_bytes().to_vec());
        Entry { path, kind, mode: 0o755, uid: own, gid: 0, size: 0, modified: (1, 0), link }
    }

    fn unpack(place: &Path, entries: &[Entry]) -> Result<Vec<String>> {
        let mut unpacker = Unpacker::new(place, false)?;
        unpacker.push(entry("", EntryKind::Folder, "").headers())?;
        for entry in entries {
            unpacker.push(entry.headers())?;
        }
        unpacker.push(Bytes::from_static(&END))?;
        unpacker.finish()
    }

    #[test]
    fn no_archive_reaches_out_of_its_folder() {
        use EntryKind::{File, Folder, HardLink, SymbolicLink};
        let around = tempfile::tempdir().unwrap();
        let outside = around.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("secret"), "s").unwrap();
        let before = std::fs::metadata(&outside).unwrap();
        let out = outside.to_str().unwrap();
        let cases: [&[Entry]; 9] = [
            // A link, and something below it.
            &[entry("a", SymbolicLink, out), entry("a/x", File, "")],
            &[entry("a", SymbolicLink, "../outside"), entry("a", Folder, "")],
            &[entry("a", SymbolicLink, "../outside/x"), entry("a", File, "")],
            // A folder that becomes a link.
            &[entry("a", Folder, ""), entry("a", SymbolicLink, out), entry("a/x", File, "")],
            // Hard links by way of a link, and out of the archive.
            &[entry("a", SymbolicLink, out), entry("b", HardLink, "a/secret")],
            &[entry("b", HardLink, "outside/secret")],
            // Twice the same name, a name before its folder, a folder that was left.
            &[entry("a", File, ""), entry("a", File, "")],
            &[entry("a/b", File, "")],
            &[entry("a", Folder, ""), entry("b", File, ""), entry("a/c", File, "")],
        ];
        for (number, entries) in cases.into_iter().enumerate() {
            let place = around.path().join(format!("place{number}"));
            std::fs::create_dir(&place).unwrap();
            let error = unpack(&place, entries).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Integrity, "{number}: {error}");
            let names: Vec<_> =
                std::fs::read_dir(&outside).unwrap().map(|e| e.unwrap().file_name()).collect();
            assert_eq!(names, ["secret"], "{number}");
        }
        let after = std::fs::metadata(&outside).unwrap();
        assert_eq!((before.mode(), before.mtime()), (after.mode(), after.mtime()));
        assert_eq!(std::fs::metadata(outside.join("secret")).unwrap().nlink(), 1);
    }

    #[test]
    fn a_link_is_made_as_it_is_and_not_followed() {
        let around = tempfile::tempdir().unwrap();
        let place = around.path().join("place");
        std::fs::create_dir(&place).unwrap();
        symlink(around.path(), around.path().join("here")).unwrap();
        let entries = [entry("a", EntryKind::SymbolicLink, "../here"), entry("b", EntryKind::HardLink, "a")];
        assert_eq!(unpack(&place, &entries).unwrap(), Vec::<String>::new());
        assert_eq!(std::fs::read_link(place.join("b")).unwrap(), Path::new("../here"));
        assert_ne!(std::fs::metadata(around.path()).unwrap().mtime(), 1);
    }

    #[test]
    fn without_owners_nothing_runs_as_somebody_else() {
        let around = tempfile::tempdir().unwrap();
        let mut other = entry("run", EntryKind::File, "");
        (other.uid, other.mode) = (12_345, 0o6755);
        let warnings = unpack(around.path(), &[other]).unwrap();
        assert!(warnings[0].starts_with("1 entries"), "{warnings:?}");
        let mode = std::fs::metadata(around.path().join("run")).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o755);
    }

    #[test]
    fn without_owners_nothing_runs_as_another_group() {
        let around = tempfile::tempdir().unwrap();
        let group = std::fs::metadata(around.path()).unwrap().gid();
        let with = |path: &str, gid| Entry { gid, mode: 0o6755, ..entry(path, EntryKind::File, "") };
        unpack(around.path(), &[with("other", group + 1), with("own", group)]).unwrap();
        for (name, expected) in [("other", 0o4755), ("own", 0o6755)] {
            let mode = std::fs::metadata(around.path().join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o7777, expected, "{name}");
        }
    }
}
