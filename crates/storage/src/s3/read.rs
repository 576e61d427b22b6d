//! Looking at objects, reading them and listing them.

use std::ops::Range;

use backup_core::{ByteStream, EntityTag, Error, ErrorKind, ObjectInfo, ObjectKey, Result, Sealed};
use bytes::{Bytes, BytesMut};
use futures::{StreamExt as _, TryStreamExt as _};
use jiff::Timestamp;
use opendal::Metadata;

use crate::local::UNFINISHED;
use crate::s3::S3Store;
use crate::trouble::{Trouble, from_opendal};

/// Pieces that arrive are gathered to chunks of this size.
const CHUNK: usize = 1 << 20;

pub(super) fn info(key: ObjectKey, found: &Metadata) -> ObjectInfo {
    ObjectInfo {
        key,
        len: found.content_length(),
        tag: found.etag().map(|etag| EntityTag(etag.to_owned())),
        modified: found
            .last_modified()
            .and_then(|time| Timestamp::try_from(std::time::SystemTime::from(time)).ok()),
    }
}

pub(super) async fn fetch(
    store: &S3Store,
    key: &ObjectKey,
    range: Option<Range<u64>>,
    pin: Option<&EntityTag>,
) -> Result<ByteStream<Sealed>> {
    let subject = store.subject(key);
    let found = match store.head(key).await {
        Ok(Some(found)) => info(key.clone(), &found),
        Ok(None) => return Err(Trouble::NoSuchObject.with(subject, "")),
        Err(error) => return Err(from_opendal(subject, "looking for it", &error)),
    };
    if pin.is_some() && pin != found.tag.as_ref() {
        return Err(Trouble::Changed.with(subject, ""));
    }
    let len = found.len;
    let range = range.unwrap_or(0..len);
    if range.start > range.end || range.end > len {
        return Err(crate::local::too_short(subject, len, &range));
    }
    if range.is_empty() {
        return Ok(ByteStream::declare_sealed(futures::stream::empty()));
    }
    // Every request of this stream, also one that goes on after a broken connection, names the
    // version, so that the bytes are of one object.
    let mut reader = store.operator.reader_with(key.as_str());
    if let Some(EntityTag(tag)) = &found.tag {
        reader = reader.if_match(tag);
    }
    let wanted = range.end - range.start;
    let pieces = match reader.await {
        Ok(reader) => reader.into_stream(range).await,
        Err(error) => Err(error),
    };
    let pieces = pieces.map_err(|error| broken(&subject, &error))?;
    let failed = subject.clone();
    let pieces = pieces.map_err(move |error| broken(&failed, &error)).boxed();
    let state = Reading { pieces: Some(pieces), gathered: BytesMut::new(), left: wanted, subject };
    Ok(ByteStream::declare_sealed(futures::stream::try_unfold(state, Reading::next)))
}

struct Reading {
    /// `None` after its end.
    pieces: Option<futures::stream::BoxStream<'static, Result<opendal::Buffer>>>,
    gathered: BytesMut,
    left: u64,
    subject: String,
}

impl Reading {
    /// The next chunk; the end only when every byte was there and no more.
    async fn next(mut self) -> Result<Option<(Bytes, Self)>> {
        while let Some(pieces) = &mut self.pieces {
            let Some(piece) = pieces.next().await else {
                self.pieces = None;
                break;
            };
            for part in piece? {
                let len = part.len() as u64;
                if len > self.left {
                    return Err(Error::new(
                        ErrorKind::Integrity,
                        self.subject,
                        "the server sent more bytes than asked for",
                    ));
                }
                self.left -= len;
                self.gathered.extend_from_slice(&part);
            }
            if self.gathered.len() >= CHUNK {
                break;
            }
        }
        if !self.gathered.is_empty() {
            let chunk = self.gathered.split().freeze();
            return Ok(Some((chunk, self)));
        }
        if self.left > 0 {
            return Err(Trouble::ConnectionLost
                .with(self.subject, &format!("reading, {} bytes before the end", self.left)));
        }
        Ok(None)
    }
}

/// An object that vanishes or changes while it is read is not what it was.
fn broken(subject: &str, error: &opendal::Error) -> Error {
    match Trouble::of_opendal(error) {
        Trouble::NoSuchObject => {
            Trouble::Changed.with(subject, "reading").with_source("it vanished while it was read")
        }
        _ => from_opendal(subject, "reading", error),
    }
}

pub(super) async fn list(store: &S3Store, prefix: &str) -> Result<Vec<ObjectInfo>> {
    let failed = |error: &opendal::Error| from_opendal(format!("{}/{prefix}", store.name), "listing", error);
    let path = if prefix.is_empty() { "/" } else { prefix };
    let mut entries =
        store.operator.lister_with(path).recursive(true).await.map_err(|error| failed(&error))?;
    let mut found = Vec::new();
    while let Some(entry) = entries.try_next().await.map_err(|error| failed(&error))? {
        if !entry.metadata().is_file() || entry.path().starts_with(UNFINISHED) {
            continue;
        }
        // Names that are no key are not ours.
        if let Ok(key) = entry.path().parse::<ObjectKey>() {
            found.push(info(key, entry.metadata()));
        }
    }
    found.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(found)
}
