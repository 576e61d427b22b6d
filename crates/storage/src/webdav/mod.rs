//! A collection on a WebDAV server (RFC 4918) as a place.
//!
//! An upload is one PUT of unknown length below `.strongroom-tmp/`, followed by a MOVE with `Overwrite: F`. Requests
//! that change nothing, or nothing more the second time, are made again when one fails; a PUT is not.
//!
//! Nothing here removes a collection: DELETE of one takes everything in it.

mod multistatus;
pub(crate) mod place;
mod read;
mod requests;
mod upload;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use backup_core::{
    ByteStream, EntityTag, Limits, ObjectInfo, ObjectKey, Remover, Result, Sealed, Sink, Source, Swept,
    Upload,
};
use http::header::{ETAG, LAST_MODIFIED};
use http::{HeaderMap, HeaderName, StatusCode};
use jiff::Timestamp;
use reqwest::Body;

use crate::config::{Login, Retrying};
use crate::local::{UNFINISHED, check_key};
use crate::percent::decoded;
use crate::webdav::multistatus::Found;
use crate::webdav::place::WebDavPlace;
use crate::webdav::requests::{Fault, Requests};

/// A collection and the ports to it; clones share the connections.
#[derive(Clone)]
pub(crate) struct WebDavStore {
    place: Arc<WebDavPlace>,
    requests: Requests,
    /// As people write it.
    name: Arc<str>,
}

impl WebDavStore {
    /// Prepares the place; sends nothing.
    pub(crate) fn open(place: &WebDavPlace, login: &Login, retry: Retrying) -> Result<Self> {
        Ok(Self {
            place: Arc::new(place.clone()),
            requests: Requests::new(place, login, retry)?,
            name: place.to_string().into(),
        })
    }

    fn subject(&self, key: &ObjectKey) -> String {
        format!("{}/{key}", self.name)
    }

    /// What the server says of one name (a decoded path), or `None`.
    async fn look(&self, path: &str) -> Result<Option<Found>, Fault> {
        let Some(found) = self.requests.look(&self.place.url(path), "0").await? else { return Ok(None) };
        let mut found = found.into_iter();
        match (found.next(), found.next()) {
            (Some(one), None) => Ok(Some(one)),
            (None, _) => Ok(None),
            _ => Err(Fault::Malformed("the server tells of more than was asked for")),
        }
    }

    /// The object of this key, or `None`; a collection is none.
    async fn object(&self, key: &ObjectKey) -> Result<Option<ObjectInfo>, Fault> {
        self.object_at(key, &self.place.object_path(key)).await
    }

    /// The object that lies, or will lie, under `key`, where it is now; and which version it is.
    async fn object_at(&self, key: &ObjectKey, path: &str) -> Result<Option<ObjectInfo>, Fault> {
        let Some(mut found) = self.look(path).await? else { return Ok(None) };
        if found.is_folder {
            return Ok(None);
        }
        if found.etag.is_none() {
            // nginx has ETags, and does not tell them here.
            match self.requests.again("HEAD", &self.place.url(path), &HeaderMap::new()).await {
                Ok(answer) => {
                    let header = |name: HeaderName| {
                        answer.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
                    };
                    found.etag = header(ETAG);
                    found.modified = header(LAST_MODIFIED).or(found.modified);
                }
                Err(fault) if fault.status() == Some(StatusCode::NOT_FOUND) => return Ok(None),
                Err(fault) => return Err(fault),
            }
        }
        let mut info = read::info(key.clone(), &found)?;
        info.tag.get_or_insert_with(|| read::tag_without_etag(&found));
        Ok(Some(info))
    }

    /// What is in a collection, by name, where the names are plain text; `None` where there is no collection.
    async fn entries(&self, within: &str) -> Result<Option<Vec<(String, Found)>>, Fault> {
        let path = self.place.folder_path(within);
        let Some(all) = self.requests.look(&self.place.url(&path), "1").await? else { return Ok(None) };
        let (mut entries, mut itself) = (Vec::new(), false);
        for found in all {
            let rest = path_of(&found.href)
                .and_then(|href| {
                    let folder = path.trim_end_matches('/').as_bytes();
                    href.strip_prefix(folder).map(<[u8]>::to_vec)
                })
                .ok_or(Fault::Malformed("a listing has names from elsewhere"))?;
            // Names that are no text are not ours.
            let Ok(rest) = String::from_utf8(rest) else { continue };
            match rest.trim_end_matches('/').strip_prefix('/') {
                None if rest.trim_matches('/').is_empty() => itself = found.is_folder,
                Some(name) if !name.is_empty() && !name.contains('/') => {
                    entries.push((name.to_owned(), found));
                }
                _ => return Err(Fault::Malformed("a listing has names from elsewhere")),
            }
        }
        if itself {
            Ok(Some(entries))
        } else {
            Err(Fault::Malformed("a listing is not of what was asked for"))
        }
    }

    /// Makes a collection and what is missing above it.
    async fn ensure_folder(&self, path: &str) -> Result<(), Fault> {
        let mut missing = Vec::new();
        let mut next = path.trim_end_matches('/');
        // Upwards to what is there, then downwards again.
        loop {
            match self.look(&format!("{next}/")).await? {
                Some(found) if found.is_folder => break,
                Some(_) => return Err(Fault::Malformed("there is a file where a folder is needed")),
                None => missing.push(next),
            }
            match next.rsplit_once('/') {
                Some((parent, _)) => next = parent,
                None => break,
            }
        }
        for folder in missing.into_iter().rev() {
            let url = self.place.url(&format!("{folder}/"));
            match self.requests.again("MKCOL", &url, &HeaderMap::new()).await {
                Ok(_) => {}
                // It is there: somebody else was faster, or our own first try.
                Err(fault) if fault.status() == Some(StatusCode::METHOD_NOT_ALLOWED) => {}
                Err(fault) => return Err(fault),
            }
        }
        Ok(())
    }

    /// Removes what is no collection; what is not there is no error.
    async fn delete(&self, path: &str) -> Result<bool, Fault> {
        match self.requests.again("DELETE", &self.place.url(path), &HeaderMap::new()).await {
            Ok(_) => Ok(true),
            Err(fault) if fault.status() == Some(StatusCode::NOT_FOUND) => Ok(false),
            Err(fault) => Err(fault),
        }
    }
}

/// The decoded path of what a server names, by a path or a URL.
fn path_of(href: &str) -> Option<Vec<u8>> {
    let path = match href.split_once("://") {
        Some((_, rest)) => rest.find('/').map_or("/", |at| &rest[at..]),
        None => href,
    };
    decoded(path.split(['?', '#']).next().unwrap_or_default())
}

impl fmt::Display for WebDavStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl fmt::Debug for WebDavStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebDavStore").field("name", &self.name).finish_non_exhaustive()
    }
}

#[async_trait]
impl Sink for WebDavStore {
    fn limits(&self) -> Limits {
        // Servers look whether the name is taken and then rename, which is two steps to most of them.
        Limits { object_len_max: i64::MAX as u64, put_if_absent: false }
    }

    async fn begin(&self, key: &ObjectKey, _size_hint: Option<u64>) -> Result<Box<dyn Upload>> {
        check_key(key)?;
        Ok(Box::new(upload::WebDavUpload::begin(self, key).await?))
    }
}

#[async_trait]
impl Source for WebDavStore {
    async fn stat(&self, key: &ObjectKey) -> Result<Option<ObjectInfo>> {
        self.object(key).await.map_err(|fault| fault.at(self.subject(key), "looking for it"))
    }

    async fn fetch(
        &self,
        key: &ObjectKey,
        range: Option<Range<u64>>,
        pin: Option<&EntityTag>,
    ) -> Result<ByteStream<Sealed>> {
        read::fetch(self, key, range, pin).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        read::list(self, prefix).await
    }
}

#[async_trait]
impl Remover for WebDavStore {
    async fn remove(&self, key: &ObjectKey) -> Result<()> {
        let removing = async {
            match self.object(key).await? {
                // A collection is no object.
                None => Ok(()),
                Some(_) => self.delete(&self.place.object_path(key)).await.map(drop),
            }
        };
        removing.await.map_err(|fault: Fault| fault.at(self.subject(key), "removing"))
    }

    async fn sweep_unfinished(&self, older_than: Timestamp) -> Result<Swept> {
        let sweeping = async {
            let mut swept = Swept::default();
            let Some(found) = self.entries(UNFINISHED).await? else { return Ok(swept) };
            for (name, found) in found {
                let old = found.modified().is_some_and(|modified| modified < older_than);
                // Also what a server made while it wrote one: nginx adds a number.
                if name.contains(".part") && !found.is_folder && old {
                    let removed =
                        self.delete(&format!("{}{name}", self.place.folder_path(UNFINISHED))).await?;
                    swept.uploads += u64::from(removed);
                }
            }
            Ok(swept)
        };
        sweeping.await.map_err(|fault: Fault| fault.at(format!("{}/{UNFINISHED}", self.name), "sweeping"))
    }
}

/// A request without a body.
fn nothing() -> Body {
    Body::default()
}
