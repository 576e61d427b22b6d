//! Looking at objects, reading them and listing them.

use std::ops::Range;

use backup_core::{ByteStream, EntityTag, Error, ErrorKind, ObjectInfo, ObjectKey, Result, Sealed};
use bytes::{Bytes, BytesMut};
use futures::{StreamExt as _, TryStreamExt as _};
use http::header::{CONTENT_RANGE, ETAG, LAST_MODIFIED, RANGE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use reqwest::Response;

use crate::again::Again;
use crate::local::{UNFINISHED, too_short};
use crate::trouble::Trouble;
use crate::webdav::WebDavStore;
use crate::webdav::multistatus::Found;
use crate::webdav::requests::{self, Fault};

/// Pieces that arrive are gathered to chunks of this size.
const CHUNK: usize = 1 << 20;
/// Folders that are listed at the same time.
const FOLDERS: usize = 8;

/// A version by its ETag. Servers call an ETag weak (`W/`) while its file is young, and no longer afterwards.
fn tag(etag: &str) -> EntityTag {
    EntityTag(etag.strip_prefix("W/").unwrap_or(etag).to_owned())
}

/// A version where a server has no ETags: the length and the second of the last change.
pub(super) fn tag_without_etag(found: &Found) -> EntityTag {
    let seconds = found.modified().map_or(0, jiff::Timestamp::as_second);
    EntityTag(format!("{:x}-{seconds:x}", found.len.unwrap_or_default()))
}

/// What a listing says of an object; no version where it names none.
pub(super) fn info(key: ObjectKey, found: &Found) -> Result<ObjectInfo, Fault> {
    let len = found.len.ok_or(Fault::Malformed("the server does not say how long an object is"))?;
    Ok(ObjectInfo { key, len, tag: found.etag.as_deref().map(tag), modified: found.modified() })
}

pub(super) async fn fetch(
    store: &WebDavStore,
    key: &ObjectKey,
    range: Option<Range<u64>>,
    pin: Option<&EntityTag>,
) -> Result<ByteStream<Sealed>> {
    let subject = store.subject(key);
    let found = match store.object(key).await {
        Ok(Some(found)) => found,
        Ok(None) => return Err(Trouble::NoSuchObject.with(subject, "")),
        Err(fault) => return Err(fault.at(subject, "looking for it")),
    };
    if pin.is_some() && pin != found.tag.as_ref() {
        return Err(Trouble::Changed.with(subject, ""));
    }
    let range = range.unwrap_or(0..found.len);
    if range.start > range.end || range.end > found.len {
        return Err(too_short(subject, found.len, &range));
    }
    if range.is_empty() {
        return Ok(ByteStream::declare_sealed(futures::stream::empty()));
    }
    let mut reading = Reading {
        store: store.clone(),
        url: store.place.url(&store.place.object_path(key)),
        subject,
        found,
        response: None,
        gathered: BytesMut::new(),
        at: range.start,
        end: range.end,
        again: Again::new(store.requests.retry()),
    };
    reading.open().await?;
    Ok(ByteStream::declare_sealed(futures::stream::try_unfold(reading, Reading::next)))
}

struct Reading {
    store: WebDavStore,
    url: String,
    subject: String,
    /// The version that is read.
    found: ObjectInfo,
    /// `None` after its end, or when it broke.
    response: Option<Response>,
    gathered: BytesMut,
    /// Where the next piece begins.
    at: u64,
    end: u64,
    again: Again,
}

impl Reading {
    /// The next chunk; the end only when every byte was there and no more.
    async fn next(mut self) -> Result<Option<(Bytes, Self)>> {
        let patience = self.store.requests.retry().patience;
        while self.at < self.end && self.gathered.len() < CHUNK {
            let Some(response) = &mut self.response else {
                self.open().await?;
                continue;
            };
            match requests::chunk(response, patience).await {
                Ok(Some(piece)) => {
                    let len = piece.len() as u64;
                    if len > self.end - self.at {
                        return Err(Error::new(
                            ErrorKind::Integrity,
                            self.subject,
                            "the server sent more bytes than asked for",
                        ));
                    }
                    self.at += len;
                    self.gathered.extend_from_slice(&piece);
                    self.again = Again::new(self.store.requests.retry());
                }
                Ok(None) => {
                    let fault = Fault::Failed {
                        trouble: Trouble::ConnectionLost,
                        said: format!("the answer ended {} bytes before its end", self.end - self.at),
                    };
                    self.broken(fault).await?;
                }
                Err(fault) => self.broken(fault).await?,
            }
        }
        if self.gathered.is_empty() {
            return Ok(None);
        }
        let chunk = self.gathered.split().freeze();
        Ok(Some((chunk, self)))
    }

    /// Waits before another try, or ends.
    async fn broken(&mut self, fault: Fault) -> Result<()> {
        self.response = None;
        if fault.may_pass() && self.again.wait().await {
            return Ok(());
        }
        Err(fault.at(&self.subject, "reading"))
    }

    /// Asks for what is left, of the version that is read and no other.
    async fn open(&mut self) -> Result<()> {
        let mut headers = HeaderMap::new();
        let part = self.at > 0 || self.end < self.found.len;
        if part {
            let range = HeaderValue::from_str(&format!("bytes={}-{}", self.at, self.end - 1));
            headers.extend(range.ok().map(|range| (RANGE, range)));
        }
        let response = match self.store.requests.again("GET", &self.url, &headers).await {
            Ok(response) => response,
            Err(fault) => {
                return Err(match fault.status() {
                    Some(StatusCode::NOT_FOUND | StatusCode::RANGE_NOT_SATISFIABLE) => Trouble::Changed
                        .with(&self.subject, "reading")
                        .with_source("it vanished while it was read"),
                    _ => fault.at(&self.subject, "reading"),
                });
            }
        };
        let header = |name: HeaderName| {
            response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
        };
        let version = match (header(ETAG), header(LAST_MODIFIED)) {
            (Some(etag), _) => Some(tag(&etag)),
            (None, Some(modified)) => Some(tag_without_etag(&Found {
                len: Some(self.found.len),
                modified: Some(modified),
                ..Found::default()
            })),
            (None, None) => None,
        };
        if version.is_some() && version != self.found.tag {
            return Err(Trouble::Changed.with(&self.subject, "reading"));
        }
        let whole = match header(CONTENT_RANGE) {
            Some(range) if response.status() == StatusCode::PARTIAL_CONTENT => {
                range == format!("bytes {}-{}/{}", self.at, self.end - 1, self.found.len)
            }
            _ => !part && response.content_length().is_none_or(|len| len == self.found.len),
        };
        if !whole {
            let fault = Fault::Malformed("the server answers with other bytes than were asked for");
            return Err(fault.at(&self.subject, "reading"));
        }
        self.response = Some(response);
        Ok(())
    }
}

pub(super) async fn list(store: &WebDavStore, prefix: &str) -> Result<Vec<ObjectInfo>> {
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
                entries.map_err(|fault| fault.at(format!("{}/{folder}", store.name), "listing"))
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

/// The objects of one collection and the collections in it, all by their keys.
async fn entries(store: &WebDavStore, within: &str) -> Result<(Vec<ObjectInfo>, Vec<String>), Fault> {
    let (mut objects, mut below) = (Vec::new(), Vec::new());
    for (name, found) in store.entries(within).await?.unwrap_or_default() {
        if within.is_empty() && name == UNFINISHED {
            continue;
        }
        // Names that are no key are not ours.
        let key = if within.is_empty() { name } else { format!("{within}/{name}") };
        let Ok(key) = key.parse::<ObjectKey>() else { continue };
        if found.is_folder {
            below.push(key.as_str().to_owned());
        } else {
            objects.push(info(key, &found)?);
        }
    }
    Ok((objects, below))
}
