//! Looking at files, reading them and listing them. Everything here blocks, but the streams.

use std::fs::{self, File, Metadata};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use backup_core::{ByteStream, EntityTag, Error, ErrorKind, ObjectInfo, ObjectKey, Result, Sealed};
use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::mpsc;

use crate::local::{UNFINISHED, publish};
use crate::trouble::{Trouble, from_io};

/// How much is read at once.
const CHUNK: u64 = 1 << 20;
/// Chunks that may wait for the reader.
const WAITING: usize = 2;

/// A file's identity: replaced or changed files have another.
pub(super) fn tag(found: &Metadata) -> EntityTag {
    EntityTag(format!("{:x}-{:x}-{:x}.{:x}", found.ino(), found.len(), found.mtime(), found.mtime_nsec()))
}

/// When a file was last written.
pub(super) fn modified(found: &Metadata) -> Option<Timestamp> {
    found.modified().ok().and_then(|time| Timestamp::try_from(time).ok())
}

fn info(key: ObjectKey, found: &Metadata) -> ObjectInfo {
    ObjectInfo { key, len: found.len(), tag: Some(tag(found)), modified: modified(found) }
}

pub(super) fn stat(path: &Path, key: &ObjectKey) -> Result<Option<ObjectInfo>> {
    match fs::metadata(path) {
        Ok(found) if found.is_file() => Ok(Some(info(key.clone(), &found))),
        Ok(_) => Ok(None),
        Err(error) if publish::is_absent(&error) => Ok(None),
        Err(error) => Err(from_io(path.display().to_string(), "looking for it", error)),
    }
}

pub(super) fn fetch(
    path: &Path,
    range: Option<Range<u64>>,
    pin: Option<&EntityTag>,
) -> Result<ByteStream<Sealed>> {
    let subject = path.display().to_string();
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if publish::is_absent(&error) => return Err(Trouble::NoSuchObject.with(subject, "")),
        Err(error) => return Err(from_io(subject, "opening", error)),
    };
    let found = file.metadata().map_err(|error| from_io(&subject, "opening", error))?;
    if !found.is_file() {
        return Err(Trouble::NoSuchObject.with(subject, ""));
    }
    if pin.is_some_and(|pin| *pin != tag(&found)) {
        return Err(Trouble::Changed.with(subject, ""));
    }
    let len = found.len();
    let range = range.unwrap_or(0..len);
    if range.start > range.end || range.end > len {
        return Err(too_short(subject, len, &range));
    }
    if range.start > 0 {
        file.seek(SeekFrom::Start(range.start)).map_err(|error| from_io(&subject, "reading", error))?;
    }
    let left = range.end - range.start;
    let (chunks, queue) = mpsc::channel(WAITING);
    tokio::task::spawn_blocking(move || read_on(file, left, &chunks, &subject));
    // The thread ends with an error or with the last byte; the stream itself counts what came.
    Ok(ByteStream::declare_sealed(futures::stream::unfold((queue, left), |(mut queue, left)| async move {
        if left == 0 {
            return None;
        }
        match queue.recv().await {
            Some(Ok(chunk)) => {
                let left = left - (chunk.len() as u64).min(left);
                Some((Ok(chunk), (queue, left)))
            }
            Some(Err(error)) => Some((Err(error), (queue, left))),
            None => Some((Err(Error::bug("a reading thread ended before the object")), (queue, left))),
        }
    })))
}

/// Reads until the end, an error, or nobody listens.
fn read_on(mut file: File, mut left: u64, chunks: &mpsc::Sender<Result<Bytes>>, subject: &str) {
    while left > 0 {
        let wanted = left.min(CHUNK);
        let mut chunk = Vec::with_capacity(usize::try_from(wanted).unwrap_or_default());
        let item = match (&mut file).take(wanted).read_to_end(&mut chunk) {
            Ok(got) if got as u64 == wanted => Ok(Bytes::from(chunk)),
            Ok(_) => Err(Error::new(
                ErrorKind::Integrity,
                subject,
                format!("became shorter while it was read: {left} bytes are missing"),
            )
            .with_hint("objects are never changed by this program: find out who changed it")),
            Err(error) => Err(from_io(subject, "reading", error)),
        };
        left -= wanted;
        if item.is_err() {
            left = 0;
        }
        if chunks.blocking_send(item).is_err() {
            return;
        }
    }
}

/// The object has not all the bytes that are asked for.
pub(crate) fn too_short(subject: impl Into<String>, len: u64, range: &Range<u64>) -> Error {
    Error::new(
        ErrorKind::Integrity,
        subject,
        format!("has {len} bytes, and not the bytes {} to {}", range.start, range.end),
    )
    .with_hint("the object is not the one that was stored; check another copy")
}

pub(super) fn list(root: &Path, prefix: &str) -> Result<Vec<ObjectInfo>> {
    let mut found = Vec::new();
    // Whole segments only, and none that leads out.
    let within = prefix.trim_end_matches('/');
    if within.is_empty() || within.parse::<ObjectKey>().is_ok() {
        walk(root, within, &mut found)?;
    }
    found.sort_by(|a: &ObjectInfo, b| a.key.cmp(&b.key));
    Ok(found)
}

fn walk(root: &Path, within: &str, found: &mut Vec<ObjectInfo>) -> Result<()> {
    let folder = root.join(within);
    let failed = |error: io::Error| from_io(folder.display().to_string(), "listing", error);
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if publish::is_absent(&error) => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    for entry in entries {
        let entry = entry.map_err(failed)?;
        // Names that are no key are not ours.
        let Ok(name) = entry.file_name().into_string() else { continue };
        if within.is_empty() && name == UNFINISHED {
            continue;
        }
        let key = if within.is_empty() { name } else { format!("{within}/{name}") };
        let Ok(key) = key.parse::<ObjectKey>() else { continue };
        match entry.metadata() {
            Ok(meta) if meta.is_dir() => walk(root, key.as_str(), found)?,
            Ok(meta) if meta.is_file() => found.push(info(key, &meta)),
            Ok(_) => {}
            // Removed while we looked.
            Err(error) if publish::is_absent(&error) => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(())
}
