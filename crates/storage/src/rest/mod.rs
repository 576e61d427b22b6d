//! Places with an HTTP interface of their own, and the ports to them.
//!
//! A service says in an [`Api`] how it looks, reads, lists and removes, and in an [`Upload`](upload::Pieces)
//! how it takes an object. What all of them share is here: requests that are tried again, streams that go on
//! after a broken connection, uploads with bounded memory, and commits that are settled by looking.

pub(crate) mod http;
mod read;
mod settle;
pub(crate) mod token;
pub(crate) mod upload;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use backup_core::{
    ByteStream, EntityTag, Limits, ObjectInfo, ObjectKey, Remover, Result, Sealed, Sink, Source, Swept,
    Upload,
};
use jiff::Timestamp;

use crate::local::UNFINISHED;
use crate::rest::http::{Answer, Fault};
use crate::rest::upload::{Pieces, RestUpload};
use crate::trouble::Trouble;

/// The metadata by which we know our own objects again.
pub(crate) const MARK: &str = "strongroom_upload";

/// What a service says of an object.
#[derive(Debug, Clone, Default)]
pub(crate) struct Head {
    pub(crate) len: u64,
    /// The version.
    pub(crate) tag: String,
    pub(crate) modified: Option<Timestamp>,
    /// The value of [`MARK`].
    pub(crate) mark: Option<String>,
    /// The CRC-32C that the service made of the bytes.
    pub(crate) crc32c: Option<u32>,
}

/// One page of a listing: names with the prefix, and where the next page begins.
#[derive(Debug, Default)]
pub(crate) struct Page {
    pub(crate) objects: Vec<(String, Head)>,
    pub(crate) next: Option<String>,
}

/// How a service looks, reads, lists and removes. Keys carry the place's prefix.
#[async_trait]
pub(crate) trait Api: Send + Sync + 'static {
    /// What the place can hold.
    fn limits(&self) -> Limits;
    /// Tries after the first, when a stream breaks.
    fn retries(&self) -> usize;
    /// What is known of an object; `None` where there is none.
    async fn head(&self, key: &str) -> Result<Option<Head>, Fault>;
    /// The bytes of a range, which is not empty, of one version.
    async fn get(&self, key: &str, range: Range<u64>, tag: &str) -> Result<Answer, Fault>;
    /// Objects whose names begin with `prefix`.
    async fn page(&self, prefix: &str, after: Option<&str>) -> Result<Page, Fault>;
    /// Removes an object, or only that version of it; one that is not there is no error.
    async fn remove(&self, key: &str, tag: Option<&str>) -> Result<(), Fault>;
    /// Begins an object that will bear the mark. Sends nothing.
    fn pieces(self: Arc<Self>, key: &str, mark: &str, size_hint: Option<u64>) -> Box<dyn Pieces>;
}

/// A bucket or container, or a prefix in it, and the ports to it.
pub(crate) struct RestStore<A> {
    pub(crate) api: Arc<A>,
    /// As people write it.
    pub(crate) name: Arc<str>,
    /// With a slash at its end, or empty.
    pub(crate) prefix: Arc<str>,
}

impl<A: Api> RestStore<A> {
    pub(crate) fn new(api: A, name: &str, prefix: &str) -> Self {
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        Self { api: Arc::new(api), name: name.into(), prefix: prefix.into() }
    }

    /// The key with the prefix.
    pub(crate) fn full(&self, key: &ObjectKey) -> String {
        format!("{}{key}", self.prefix)
    }

    pub(crate) fn subject(&self, key: &ObjectKey) -> String {
        format!("{}/{key}", self.name)
    }
}

impl<A> fmt::Display for RestStore<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl<A> fmt::Debug for RestStore<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RestStore").field("name", &self.name).finish_non_exhaustive()
    }
}

fn info(key: ObjectKey, head: Head) -> ObjectInfo {
    ObjectInfo { key, len: head.len, tag: Some(EntityTag(head.tag)), modified: head.modified }
}

#[async_trait]
impl<A: Api> Sink for RestStore<A> {
    fn limits(&self) -> Limits {
        self.api.limits()
    }

    async fn begin(&self, key: &ObjectKey, size_hint: Option<u64>) -> Result<Box<dyn Upload>> {
        match self.api.head(&self.full(key)).await {
            Ok(None) => {}
            Ok(Some(_)) => return Err(Trouble::Taken.with(self.subject(key), "")),
            // A key that may only write cannot look; the server's own refusal has to do.
            Err(fault) if fault.trouble == Trouble::AccessDenied => {}
            Err(fault) => return Err(fault.at(self.subject(key), "looking for it")),
        }
        Ok(Box::new(RestUpload::begin(self, key, size_hint)))
    }
}

#[async_trait]
impl<A: Api> Source for RestStore<A> {
    async fn stat(&self, key: &ObjectKey) -> Result<Option<ObjectInfo>> {
        match self.api.head(&self.full(key)).await {
            Ok(found) => Ok(found.map(|head| info(key.clone(), head))),
            Err(fault) => Err(fault.at(self.subject(key), "looking for it")),
        }
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
        let below = format!("{}{prefix}", self.prefix);
        let mut found = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let page = self.api.page(&below, after.as_deref()).await;
            let page = page.map_err(|fault| fault.at(format!("{}/{prefix}", self.name), "listing"))?;
            for (name, head) in page.objects {
                let Some(key) = name.strip_prefix(&*self.prefix) else { continue };
                // Names that are no key are not ours.
                if let (false, Ok(key)) = (key.starts_with(UNFINISHED), key.parse::<ObjectKey>()) {
                    found.push(info(key, head));
                }
            }
            if page.next.is_none() || page.next == after {
                break;
            }
            after = page.next;
        }
        found.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(found)
    }
}

#[async_trait]
impl<A: Api> Remover for RestStore<A> {
    async fn remove(&self, key: &ObjectKey) -> Result<()> {
        self.api.remove(&self.full(key), None).await.map_err(|fault| fault.at(self.subject(key), "removing"))
    }

    /// Unfinished uploads cannot be listed in these services, which remove them after a week.
    async fn sweep_unfinished(&self, _older_than: Timestamp) -> Result<Swept> {
        Ok(Swept::default())
    }
}
