//! A folder into an archive.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use backup_core::{
    Context, Dump, DumpFormat, DumpReport, Dumper, Error, ErrorKind, Event, Obstacle, Probe, ProbeItem,
    Result, Selection, Stage,
};
use bytes::BytesMut;
use rustix::fs::{Access, AtFlags, FileType, Mode, OFlags, Stat};

use super::pattern::Wanted;
use super::tar::{END, Entry, EntryKind, padding};
use super::walk::{Found, Visitor, full, walk};
use super::{Changes, FILES_TAR, FolderConfig};
use crate::produce::{Outlet, produce};
use crate::publish::{blocking, file_error};

/// Bytes of a chunk.
const CHUNK: usize = 1024 * 1024;
/// The most obstacles that a probe names.
const OBSTACLES_MAX: usize = 50;

/// Dumps one folder.
#[derive(Debug, Clone)]
pub struct FolderDumper {
    path: PathBuf,
    changes: Changes,
}

impl FolderDumper {
    /// The folder of these settings; it is opened when it is needed.
    #[must_use]
    pub fn new(config: &FolderConfig) -> Self {
        Self { path: config.path.clone(), changes: config.changes }
    }

    fn read(&self, cx: &Context, what: &Selection, outlet: &Outlet) -> Result<DumpReport> {
        let mut archive = Archive {
            root: &self.path,
            changes: self.changes,
            cx,
            outlet,
            chunk: BytesMut::with_capacity(CHUNK),
            links: HashMap::new(),
            counts: Counts::default(),
        };
        let wanted = Wanted::new(what);
        walk(&self.path, &wanted, &mut archive)?;
        let unused = wanted.unused();
        if !unused.is_empty() || archive.counts.folders == 0 {
            let what = match unused.len() {
                0 => "nothing in it fits the patterns of include".to_owned(),
                _ => format!("nothing in it fits the pattern of include {}", unused.join(", ")),
            };
            return Err(Error::new(ErrorKind::NotFound, self.path.display().to_string(), what).with_hint(
                "check the patterns: one without a slash is held against the last part of a name",
            ));
        }
        archive.append(&END)?;
        if !archive.chunk.is_empty() {
            outlet.put(archive.chunk.split().freeze())?;
        }
        let counts = archive.counts;
        let mut options = vec![
            format!("{} files, {} folders, {} links", counts.files, counts.folders, counts.links),
            format!("{} bytes in files", counts.bytes),
        ];
        if counts.left_out > 0 {
            options.push(format!("{} left out", counts.left_out));
        }
        options.extend(what.include.iter().map(|pattern| format!("include {pattern}")));
        options.extend(what.exclude.iter().map(|pattern| format!("exclude {pattern}")));
        Ok(DumpReport { engine: "files".to_owned(), options, ..DumpReport::default() })
    }
}

#[async_trait]
impl Dumper for FolderDumper {
    async fn probe(&self, cx: &Context) -> Result<Probe> {
        let (path, cx) = (self.path.clone(), cx.clone());
        blocking(move || {
            let mut look =
                Look { root: &path, cx: &cx, items: BTreeMap::new(), bytes: 0, obstacles: Vec::new() };
            walk(&path, &Wanted::new(&Selection::default()), &mut look)?;
            Ok(look.probe())
        })
        .await
        .map_err(|error| error.at(Stage::Probe))
    }

    async fn dump(&self, cx: &Context, what: &Selection) -> Result<Dump> {
        let subject = self.path.display().to_string();
        cx.check(&subject)?;
        let (this, own, what) = (self.clone(), cx.clone(), what.clone());
        let (bytes, report) = produce(cx, &subject, move |outlet| {
            this.read(&own, &what, outlet).map_err(|error| error.at(Stage::Dump))
        })?;
        Ok(Dump { format: DumpFormat::new(FILES_TAR), bytes, report })
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    files: u64,
    folders: u64,
    links: u64,
    bytes: u64,
    left_out: u64,
}

/// An archive that is being written.
struct Archive<'a> {
    root: &'a Path,
    changes: Changes,
    cx: &'a Context,
    outlet: &'a Outlet,
    chunk: BytesMut,
    /// The first name of each file that has several.
    links: HashMap<(u64, u64), Vec<u8>>,
    counts: Counts,
}

impl Archive<'_> {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        if self.chunk.len() + bytes.len() > CHUNK {
            self.outlet.put(self.chunk.split().freeze())?;
            self.chunk.reserve(CHUNK);
        }
        self.chunk.extend_from_slice(bytes);
        Ok(())
    }

    fn warn(&mut self, path: &[u8], what: &str) {
        self.counts.left_out += 1;
        self.cx.report(Event::Warning(&format!("{}: {what}", full(self.root, path).display())));
    }

    fn changed(&self, path: &[u8], what: &str) -> Error {
        Error::new(ErrorKind::Unavailable, full(self.root, path).display().to_string(), what).with_hint(
            "stop whatever writes there, leave it out with --exclude, or pass --set changes=warn to keep what was read",
        )
    }

    fn file(&mut self, found: &Found<'_>) -> Result<()> {
        let shown = full(self.root, found.path);
        // Not blocking, should it have become a pipe meanwhile.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let mut file = match rustix::fs::openat(found.parent, found.name, flags, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(rustix::io::Errno::NOENT) => return self.vanished(found.path),
            Err(errno) => return Err(file_error(&shown, "cannot be opened", errno.into())),
        };
        let fail = |errno: rustix::io::Errno| file_error(&shown, "cannot be read", errno.into());
        let before = rustix::fs::fstat(&file).map_err(fail)?;
        if FileType::from_raw_mode(before.st_mode) != FileType::RegularFile {
            return Err(self.changed(found.path, "became something else while it was looked at"));
        }
        let entry = entry(found.path, EntryKind::File, &before);
        self.append(&entry.headers())?;
        let mut rest = entry.size;
        while rest > 0 {
            if self.chunk.len() == CHUNK {
                self.outlet.put(self.chunk.split().freeze())?;
                self.chunk.reserve(CHUNK);
            }
            let at = self.chunk.len();
            let want = usize::try_from(rest).unwrap_or(CHUNK).min(CHUNK - at);
            self.chunk.resize(at + want, 0);
            let read = file
                .read(&mut self.chunk[at..])
                .map_err(|error| file_error(&shown, "cannot be read", error))?;
            self.chunk.truncate(at + read);
            if read == 0 {
                return Err(self.changed(found.path, "shrank while it was read"));
            }
            rest -= read as u64;
        }
        let zeros = [0; 512];
        self.append(&zeros[..padding(entry.size)])?;
        let after = rustix::fs::fstat(&file).map_err(fail)?;
        if stamp(&before) != stamp(&after) {
            match self.changes {
                Changes::Fail => return Err(self.changed(found.path, "changed while it was read")),
                Changes::Warn => {
                    let what = "changed while it was read, so its content may be of several moments";
                    self.cx.report(Event::Warning(&format!("{}: {what}", shown.display())));
                }
            }
        }
        self.counts.files += 1;
        self.counts.bytes += entry.size;
        Ok(())
    }

    fn link(&mut self, found: &Found<'_>, kind: EntryKind, target: Vec<u8>) -> Result<()> {
        let entry = Entry { link: target, size: 0, ..entry(found.path, kind, found.stat) };
        self.counts.links += 1;
        self.append(&entry.headers())
    }
}

impl Visitor for Archive<'_> {
    fn visit(&mut self, found: Found<'_>) -> Result<()> {
        let kind = FileType::from_raw_mode(found.stat.st_mode);
        if !found.path.contains(&b'/') && !found.path.is_empty() {
            self.cx.report(Event::Table(&String::from_utf8_lossy(found.path)));
        }
        match kind {
            FileType::Directory => {
                self.counts.folders += 1;
                let entry = Entry { size: 0, ..entry(found.path, EntryKind::Folder, found.stat) };
                self.append(&entry.headers())
            }
            FileType::RegularFile => {
                if found.stat.st_nlink > 1 {
                    let identity = (found.stat.st_dev, found.stat.st_ino);
                    if let Some(first) = self.links.get(&identity) {
                        let first = first.clone();
                        return self.link(&found, EntryKind::HardLink, first);
                    }
                    let files = self.counts.files;
                    self.file(&found)?;
                    // Unless it vanished.
                    if self.counts.files > files {
                        self.links.insert(identity, found.path.to_vec());
                    }
                    return Ok(());
                }
                self.file(&found)
            }
            FileType::Symlink => match rustix::fs::readlinkat(found.parent, found.name, Vec::new()) {
                Ok(target) => self.link(&found, EntryKind::SymbolicLink, target.into_bytes()),
                Err(rustix::io::Errno::NOENT) => self.vanished(found.path),
                Err(errno) => Err(file_error(&full(self.root, found.path), "cannot be read", errno.into())),
            },
            _ => {
                self.warn(found.path, "left out: it is a socket, a pipe or a device");
                Ok(())
            }
        }
    }

    fn closed(&mut self, _path: &[u8], error: Error) -> Result<()> {
        Err(error)
    }

    fn altered(&mut self, path: &[u8]) -> Result<()> {
        match self.changes {
            Changes::Fail => Err(self.changed(path, "the folder changed while what is in it was read")),
            Changes::Warn => {
                let what =
                    "the folder changed while what is in it was read, so what came or moved may be missing";
                self.cx.report(Event::Warning(&format!("{}: {what}", full(self.root, path).display())));
                Ok(())
            }
        }
    }

    fn vanished(&mut self, path: &[u8]) -> Result<()> {
        match self.changes {
            Changes::Fail => Err(self.changed(path, "went away while the folder was read")),
            Changes::Warn => {
                self.warn(path, "left out: it went away while the folder was read");
                Ok(())
            }
        }
    }
}

/// What changes with every change of a file, or of a folder's list of names.
pub(super) fn stamp(stat: &Stat) -> (i64, i64, u64, i64, u64) {
    (stat.st_size, stat.st_mtime, stat.st_mtime_nsec, stat.st_ctime, stat.st_ctime_nsec)
}

fn entry(path: &[u8], kind: EntryKind, stat: &Stat) -> Entry {
    Entry {
        path: path.to_vec(),
        kind,
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        size: u64::try_from(stat.st_size).unwrap_or(0),
        modified: (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0)),
        link: Vec::new(),
    }
}

/// A look that reads no file.
struct Look<'a> {
    root: &'a Path,
    cx: &'a Context,
    /// Files and their bytes by the first part of their names.
    items: BTreeMap<Vec<u8>, (u64, u64)>,
    bytes: u64,
    obstacles: Vec<Obstacle>,
}

impl Look<'_> {
    fn unreadable(&mut self, path: &[u8], folder: bool) {
        if self.obstacles.len() < OBSTACLES_MAX {
            let shown = full(self.root, path);
            let rights = if folder { "rx" } else { "r" };
            let user = rustix::process::geteuid().as_raw();
            self.obstacles.push(Obstacle::new(
                format!("{} cannot be read by user {user}", shown.display()),
                format!(
                    "setfacl -m u:{user}:{rights} -- '{}'",
                    shown.display().to_string().replace('\'', r"'\''")
                ),
            ));
        }
    }

    fn probe(self) -> Probe {
        let items = self.items.into_iter().map(|(name, (files, bytes))| ProbeItem {
            name: String::from_utf8_lossy(&name).into_owned(),
            estimated_rows: Some(files),
            estimated_bytes: Some(bytes),
        });
        Probe {
            engine: "files".to_owned(),
            estimated_bytes: Some(self.bytes),
            items: items.collect(),
            obstacles: self.obstacles,
            ..Probe::default()
        }
    }
}

impl Visitor for Look<'_> {
    fn visit(&mut self, found: Found<'_>) -> Result<()> {
        self.cx.check("files")?;
        // A header, and one for the time's fractions.
        self.bytes += 1536;
        if found.path.is_empty() {
            return Ok(());
        }
        let top = found.path.split(|byte| *byte == b'/').next().unwrap_or_default();
        let item = self.items.entry(top.to_vec()).or_default();
        if FileType::from_raw_mode(found.stat.st_mode) == FileType::RegularFile {
            let size = u64::try_from(found.stat.st_size).unwrap_or(0);
            *item = (item.0 + 1, item.1 + size);
            self.bytes += size + padding(size) as u64;
            if rustix::fs::accessat(found.parent, found.name, Access::READ_OK, AtFlags::EACCESS).is_err() {
                self.unreadable(found.path, false);
            }
        }
        Ok(())
    }

    fn closed(&mut self, path: &[u8], _error: Error) -> Result<()> {
        self.unreadable(path, true);
        Ok(())
    }

    fn altered(&mut self, _path: &[u8]) -> Result<()> {
        Ok(())
    }

    fn vanished(&mut self, _path: &[u8]) -> Result<()> {
        Ok(())
    }
}
