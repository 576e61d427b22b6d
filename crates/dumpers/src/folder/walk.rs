//! Every entry below a folder, parents before children, names in order; no symbolic link is followed.

use std::ffi::{CStr, CString};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use backup_core::{Error, ErrorKind, Result};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::dump::stamp;
use super::pattern::Wanted;
use crate::publish::file_error;

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Something below the folder.
pub(super) struct Found<'a> {
    /// Its name below the folder; empty for the folder itself.
    pub(super) path: &'a [u8],
    pub(super) stat: &'a Stat,
    /// The folder it lies in, and its name there; for a folder the folder itself and `.`.
    pub(super) parent: BorrowedFd<'a>,
    pub(super) name: &'a CStr,
}

/// Whoever is shown the entries.
pub(super) trait Visitor {
    /// An entry that is wanted.
    fn visit(&mut self, found: Found<'_>) -> Result<()>;

    /// A folder that cannot be read.
    fn closed(&mut self, path: &[u8], error: Error) -> Result<()>;

    /// A folder whose list of names is another now than when it was read.
    fn altered(&mut self, path: &[u8]) -> Result<()>;

    /// An entry that went away after its folder was listed.
    fn vanished(&mut self, path: &[u8]) -> Result<()>;
}

struct Frame {
    fd: OwnedFd,
    names: std::vec::IntoIter<CString>,
    /// Length of its own name below the folder.
    len: usize,
    /// All below is wanted.
    included: bool,
    /// Its own entry, until something below is wanted.
    pending: Option<Stat>,
    /// What it was like before its names were read.
    listed: Stat,
}

/// The path of an entry, for a person.
pub(super) fn full(root: &Path, path: &[u8]) -> PathBuf {
    root.join(std::ffi::OsStr::from_bytes(path))
}

/// Shows `visitor` what is wanted below `root`.
pub(super) fn walk(root: &Path, wanted: &Wanted, visitor: &mut dyn Visitor) -> Result<()> {
    let fd = rustix::fs::open(root, FOLDER, Mode::empty()).map_err(|errno| match errno {
        Errno::NOTDIR => Error::new(ErrorKind::Config, root.display().to_string(), "is not a folder")
            .with_hint("back a single file up by its folder and include"),
        errno => file_error(root, "cannot be opened", errno.into()),
    })?;
    let mut path = Vec::new();
    let included = wanted.everything() || wanted.includes(b"");
    let mut frames = vec![frame(fd, root, &path, included)?];
    show(&mut frames, &path, visitor)?;
    while let Some(top) = frames.last_mut() {
        path.truncate(top.len);
        let Some(name) = top.names.next() else {
            let after = rustix::fs::fstat(&top.fd)
                .map_err(|errno| file_error(&full(root, &path), "cannot be looked at", errno.into()))?;
            let altered = stamp(&top.listed) != stamp(&after);
            frames.pop();
            if altered {
                visitor.altered(&path)?;
            }
            continue;
        };
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name.to_bytes());
        if wanted.excludes(&path) {
            continue;
        }
        // Asked in any case, so that it knows which patterns fit something.
        let included = wanted.includes(&path) || top.included;
        let stat = match rustix::fs::statat(&top.fd, &*name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => {
                visitor.vanished(&path)?;
                continue;
            }
            Err(errno) => return Err(file_error(&full(root, &path), "cannot be looked at", errno.into())),
        };
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            let opened = rustix::fs::openat(&top.fd, &*name, FOLDER | OFlags::NOFOLLOW, Mode::empty());
            match opened
                .map_err(std::io::Error::from)
                .and_then(|fd| frame(fd, root, &path, included).map_err(std::io::Error::other))
            {
                Ok(frame) => {
                    frames.push(frame);
                    show(&mut frames, &path, visitor)?;
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => visitor.vanished(&path)?,
                Err(error) => {
                    let error = file_error(&full(root, &path), "cannot be read", error);
                    visitor.closed(&path, error)?;
                }
            }
        } else if included {
            show_parents(&mut frames, &path, visitor)?;
            if let Some(top) = frames.last() {
                use std::os::fd::AsFd as _;
                visitor.visit(Found { path: &path, stat: &stat, parent: top.fd.as_fd(), name: &name })?;
            }
        }
    }
    Ok(())
}

fn frame(fd: OwnedFd, root: &Path, path: &[u8], included: bool) -> Result<Frame> {
    let fail = |errno: Errno| file_error(&full(root, path), "cannot be read", errno.into());
    let stat = rustix::fs::fstat(&fd).map_err(fail)?;
    let mut names = Vec::new();
    for entry in Dir::read_from(&fd).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    names.sort();
    Ok(Frame { fd, names: names.into_iter(), len: path.len(), included, pending: Some(stat), listed: stat })
}

/// Shows the last folder if it is wanted for itself.
fn show(frames: &mut [Frame], path: &[u8], visitor: &mut dyn Visitor) -> Result<()> {
    if frames.last().is_some_and(|frame| frame.included) {
        show_parents(frames, path, visitor)
    } else {
        Ok(())
    }
}

/// Shows the folders on the way that were not shown yet.
fn show_parents(frames: &mut [Frame], path: &[u8], visitor: &mut dyn Visitor) -> Result<()> {
    use std::os::fd::AsFd as _;
    for frame in frames {
        if let Some(stat) = frame.pending.take() {
            let path = &path[..frame.len];
            visitor.visit(Found { path, stat: &stat, parent: frame.fd.as_fd(), name: c"." })?;
        }
    }
    Ok(())
}
