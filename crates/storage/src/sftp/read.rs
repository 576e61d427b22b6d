//! Looking at objects, reading them and listing them.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use backup_core::{ByteStream, EntityTag, Error, ErrorKind, ObjectInfo, ObjectKey, Result, Sealed};
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use jiff::Timestamp;

use crate::again::Again;
use crate::local::{UNFINISHED, too_short};
use crate::sftp::SftpStore;
use crate::sftp::fault::Fault;
use crate::sftp::files;
use crate::sftp::session::{Handle, Waiting};
use crate::sftp::wire::{Attributes, Reply, Request, kind, status};
use crate::trouble::Trouble;

/// Bytes that are asked for ahead of the reader.
const AHEAD: u64 = 4 << 20;
/// Folders that are listed at the same time.
const FOLDERS: usize = 16;

/// A file's identity as far as version 3 knows one: its length and the second of its last change.
pub(super) fn tag(found: &Attributes) -> EntityTag {
    EntityTag(format!("{:x}-{:x}", found.size.unwrap_or_default(), found.modified.unwrap_or_default()))
}

pub(super) fn info(key: ObjectKey, found: &Attributes) -> ObjectInfo {
    ObjectInfo {
        key,
        len: found.size.unwrap_or_default(),
        tag: Some(tag(found)),
        modified: found.modified.and_then(|at| Timestamp::from_second(i64::from(at)).ok()),
    }
}

/// A file that is open for reading, and which version of it.
struct Opened {
    handle: Handle,
    found: Attributes,
}

async fn open(store: &SftpStore, path: &str) -> Result<Opened, Fault> {
    store
        .again(|session| async move {
            let handle = files::open(&session, path).await?;
            let found = files::look_at(&handle).await?;
            if !found.is_file() {
                return Err(Fault::Known(Trouble::NoSuchObject));
            }
            Ok(Opened { handle, found })
        })
        .await
}

pub(super) async fn fetch(
    store: &SftpStore,
    key: &ObjectKey,
    range: Option<Range<u64>>,
    pin: Option<&EntityTag>,
) -> Result<ByteStream<Sealed>> {
    let (path, subject) = (store.path(key), store.subject(key));
    let opened = open(store, &path).await.map_err(|fault| match fault.trouble() {
        Trouble::NoSuchObject => Trouble::NoSuchObject.with(&subject, ""),
        _ => fault.at(&subject, "opening"),
    })?;
    let tag = tag(&opened.found);
    if pin.is_some_and(|pin| *pin != tag) {
        return Err(Trouble::Changed.with(subject, ""));
    }
    let len = opened.found.size.unwrap_or_default();
    let range = range.unwrap_or(0..len);
    if range.start > range.end || range.end > len {
        return Err(too_short(subject, len, &range));
    }
    let reading = Reading {
        store: store.clone(),
        path,
        subject,
        tag,
        handle: opened.handle,
        asked: VecDeque::new(),
        next: range.start,
        at: range.start,
        end: range.end,
        again: Again::new(store.retry()),
    };
    Ok(ByteStream::declare_sealed(futures::stream::try_unfold(reading, Reading::next)))
}

/// One piece that was asked for.
struct Asked {
    at: u64,
    len: u64,
    answer: Waiting,
}

struct Reading {
    store: SftpStore,
    path: String,
    subject: String,
    tag: EntityTag,
    handle: Handle,
    asked: VecDeque<Asked>,
    /// Where the next request begins.
    next: u64,
    /// Where the next chunk begins.
    at: u64,
    end: u64,
    again: Again,
}

impl Reading {
    /// The next chunk; the end only when every byte was there.
    async fn next(mut self) -> Result<Option<(Bytes, Self)>> {
        loop {
            if self.at == self.end {
                return Ok(None);
            }
            match self.chunk().await {
                Ok(chunk) => {
                    self.again = Again::new(self.store.retry());
                    return Ok(Some((chunk, self)));
                }
                Err(fault) if fault.may_pass() => {
                    if !self.again.wait().await {
                        return Err(fault.at(self.subject, "reading"));
                    }
                    self.reopen().await?;
                }
                // The end of the file, before the end that it had.
                Err(Fault::Refused { code: status::EOF, .. }) => {
                    let left = self.end - self.at;
                    let what = format!("became shorter while it was read: {left} bytes are missing");
                    return Err(Error::new(ErrorKind::Integrity, self.subject, what)
                        .with_hint("objects are never changed by this program: find out who changed it"));
                }
                Err(fault) => return Err(fault.at(self.subject, "reading")),
            }
        }
    }

    async fn chunk(&mut self) -> Result<Bytes, Fault> {
        let session = Arc::clone(&self.handle.session);
        let piece = u64::from(session.offers().read_len);
        while self.next < self.end && self.next - self.at < AHEAD.max(piece) {
            let len = piece.min(self.end - self.next);
            match self.ask(self.next, len).await {
                Ok(answer) => self.asked.push_back(Asked { at: self.next, len, answer }),
                // What has arrived before the connection broke is not thrown away.
                Err(_) if !self.asked.is_empty() => break,
                Err(fault) => return Err(fault),
            }
            self.next += len;
        }
        let Some(Asked { at, len, answer }) = self.asked.pop_front() else { return Err(Fault::Malformed) };
        match answer.reply(session.patience()).await? {
            // More, or nothing, is no answer.
            Reply::Data(chunk) if chunk.is_empty() || chunk.len() as u64 > len || at != self.at => {
                Err(Fault::Malformed)
            }
            Reply::Data(chunk) => {
                let got = chunk.len() as u64;
                if got < len {
                    // Servers may give less; the rest comes before what was asked for after it.
                    match self.ask(at + got, len - got).await {
                        Ok(answer) => self.asked.push_front(Asked { at: at + got, len: len - got, answer }),
                        Err(_) => {
                            self.asked.clear();
                            self.next = at + got;
                        }
                    }
                }
                self.at += got;
                Ok(chunk)
            }
            Reply::Status { code, said } => Err(Fault::Refused { code, said }),
            _ => Err(Fault::Malformed),
        }
    }

    async fn ask(&self, at: u64, len: u64) -> Result<Waiting, Fault> {
        let request = Request::new(kind::READ).text(self.handle.bytes()).u64(at).u32(len as u32);
        self.handle.session.send(request).await
    }

    /// Goes on over another connection, with the same version of the file.
    async fn reopen(&mut self) -> Result<()> {
        self.asked.clear();
        self.next = self.at;
        let opened = match open(&self.store, &self.path).await {
            Ok(opened) => opened,
            Err(fault) if fault.trouble() == Trouble::NoSuchObject => {
                return Err(Trouble::Changed
                    .with(&self.subject, "reading")
                    .with_source("it vanished while it was read"));
            }
            Err(fault) => return Err(fault.at(&self.subject, "reading")),
        };
        if tag(&opened.found) != self.tag {
            return Err(Trouble::Changed.with(&self.subject, "reading"));
        }
        self.handle = opened.handle;
        Ok(())
    }
}

pub(super) async fn list(store: &SftpStore, prefix: &str) -> Result<Vec<ObjectInfo>> {
    // Whole segments only, and none that leads out.
    let within = prefix.trim_end_matches('/');
    if !within.is_empty() && within.parse::<ObjectKey>().is_err() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    let mut folders = vec![within.to_owned()];
    while !folders.is_empty() {
        let mut listing = futures::stream::iter(std::mem::take(&mut folders))
            .map(|folder| async move {
                let entries = entries(store, &folder).await;
                entries.map_err(|fault| fault.at(format!("{}/{folder}", store.inner.name), "listing"))
            })
            .buffer_unordered(FOLDERS);
        while let Some((objects, below)) = listing.try_next().await? {
            found.extend(objects);
            folders.extend(below);
        }
    }
    found.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(found)
}

/// The objects of one folder and the folders in it, all by their keys.
async fn entries(store: &SftpStore, within: &str) -> Result<(Vec<ObjectInfo>, Vec<String>), Fault> {
    let path = if within.is_empty() { store.place().folder.clone() } else { store.place().path(within) };
    let path = &path;
    let entries = store
        .again(|session| async move {
            let entries = files::entries(&session, path).await?;
            // To some servers a file is a folder that is not there.
            if entries.is_none()
                && within.is_empty()
                && files::look(&session, path, true).await?.is_some_and(|found| !found.is_folder())
            {
                return Err(Fault::Known(Trouble::NotAFolder));
            }
            Ok(entries.unwrap_or_default())
        })
        .await?;
    let (mut objects, mut below) = (Vec::new(), Vec::new());
    for (name, mut attributes) in entries {
        if within.is_empty() && name == UNFINISHED {
            continue;
        }
        // Names that are no key are not ours.
        let key = if within.is_empty() { name } else { format!("{within}/{name}") };
        let Ok(key) = key.parse::<ObjectKey>() else { continue };
        if attributes.mode.is_none() || attributes.size.is_none() {
            let path = store.place().path(key.as_str());
            let looked = store.again(|session| {
                let path = path.clone();
                async move { files::look(&session, &path, false).await }
            });
            attributes = looked.await?.unwrap_or_default();
        }
        if attributes.is_folder() {
            below.push(key.as_str().to_owned());
        } else if attributes.is_file() {
            objects.push(info(key, &attributes));
        }
    }
    Ok((objects, below))
}
