//! A place in memory that keeps every promise of the storage ports.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use jiff::Timestamp;

use crate::context::{Clock, SystemClock};
use crate::digest::Sha256Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::id::ObjectKey;
use crate::store::{
    EntityTag, Held, Limits, ObjectInfo, Receipt, Remover, Sink, Source, Swept, Upload, Whole,
};
use crate::stream::{ByteStream, Sealed};

/// How many bytes one chunk of a fetched stream has.
const FETCH_CHUNK: usize = 64 * 1024;

/// A sink, source and remover over one map; clones are the same store.
///
/// Nothing is visible before its commit, a key is taken once and for all, and uploads that were
/// dropped stay counted as unfinished until they are swept, as on a server.
#[derive(Clone)]
pub struct MemoryStore {
    inner: Arc<Mutex<Inner>>,
    clock: Arc<dyn Clock>,
}

#[derive(Default)]
struct Inner {
    objects: BTreeMap<ObjectKey, Object>,
    unfinished: BTreeMap<u64, Unfinished>,
    held: BTreeMap<ObjectKey, Held>,
    next: u64,
}

struct Object {
    bytes: Bytes,
    version: u64,
    modified: Timestamp,
}

struct Unfinished {
    key: ObjectKey,
    begun: Timestamp,
}

impl MemoryStore {
    /// An empty store that reads the machine's clock.
    #[must_use]
    pub fn new() -> Self {
        Self::with_clock(Arc::new(SystemClock))
    }

    /// An empty store that reads `clock`.
    #[must_use]
    pub fn with_clock(clock: Arc<dyn Clock>) -> Self {
        Self { inner: Arc::default(), clock }
    }

    /// The keys of all committed objects, in order.
    #[must_use]
    pub fn keys(&self) -> Vec<ObjectKey> {
        self.lock().objects.keys().cloned().collect()
    }

    /// The bytes of an object.
    #[must_use]
    pub fn bytes(&self, key: &ObjectKey) -> Option<Bytes> {
        self.lock().objects.get(key).map(|object| object.bytes.clone())
    }

    /// Replaces or makes an object behind everybody's back, as an attacker or a defect would. The
    /// version changes.
    pub fn overwrite(&self, key: &ObjectKey, bytes: impl Into<Bytes>) {
        let now = self.clock.now();
        let mut inner = self.lock();
        let version = inner.take_number();
        inner.objects.insert(key.clone(), Object { bytes: bytes.into(), version, modified: now });
    }

    /// Says of an object that the place keeps it.
    pub fn lock_object(&self, key: &ObjectKey, held: Held) {
        self.lock().held.insert(key.clone(), held);
    }

    /// How many uploads were begun and neither committed, aborted nor swept.
    #[must_use]
    pub fn unfinished(&self) -> usize {
        self.lock().unfinished.len()
    }

    /// The keys of unfinished uploads, in the order they were begun.
    #[must_use]
    pub fn unfinished_keys(&self) -> Vec<ObjectKey> {
        self.lock().unfinished.values().map(|upload| upload.key.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl Inner {
    fn take_number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn info(&self, key: &ObjectKey) -> Option<ObjectInfo> {
        self.objects.get(key).map(|object| object.info(key))
    }
}

impl Object {
    fn info(&self, key: &ObjectKey) -> ObjectInfo {
        ObjectInfo {
            key: key.clone(),
            len: self.bytes.len() as u64,
            tag: Some(tag(self.version)),
            modified: Some(self.modified),
        }
    }
}

fn tag(version: u64) -> EntityTag {
    EntityTag(format!("v{version}"))
}

fn conflict(key: &ObjectKey) -> Error {
    Error::new(ErrorKind::Conflict, key.as_str(), "an object of this name exists already")
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore").field("objects", &self.lock().objects.len()).finish_non_exhaustive()
    }
}

impl fmt::Display for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("memory")
    }
}

#[async_trait]
impl Sink for MemoryStore {
    fn limits(&self) -> Limits {
        Limits { object_len_max: u64::MAX, put_if_absent: true }
    }

    async fn begin(&self, key: &ObjectKey, _size_hint: Option<u64>) -> Result<Box<dyn Upload>> {
        let begun = self.clock.now();
        let mut inner = self.lock();
        if inner.objects.contains_key(key) {
            return Err(conflict(key));
        }
        let number = inner.take_number();
        inner.unfinished.insert(number, Unfinished { key: key.clone(), begun });
        Ok(Box::new(MemoryUpload { store: self.clone(), key: key.clone(), number, bytes: BytesMut::new() }))
    }

    async fn hold(&self, key: &ObjectKey, on: bool) -> Result<()> {
        self.lock().held.entry(key.clone()).or_default().legal_hold = on;
        Ok(())
    }
}

struct MemoryUpload {
    store: MemoryStore,
    key: ObjectKey,
    number: u64,
    bytes: BytesMut,
}

impl fmt::Debug for MemoryUpload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryUpload").field("key", &self.key).field("len", &self.bytes.len()).finish()
    }
}

#[async_trait]
impl Upload for MemoryUpload {
    async fn write(&mut self, chunk: Bytes) -> Result<()> {
        self.bytes.extend_from_slice(&chunk);
        Ok(())
    }

    async fn commit(self: Box<Self>, whole: Whole) -> Result<Receipt> {
        let Self { store, key, number, bytes } = *self;
        let bytes = bytes.freeze();
        let arrived = (bytes.len() as u64, Sha256Digest::of(&bytes));
        let modified = store.clock.now();
        let mut inner = store.lock();
        if inner.unfinished.remove(&number).is_none() {
            return Err(Error::new(ErrorKind::Unavailable, key.as_str(), "the unfinished upload was swept"));
        }
        if arrived != (whole.len(), whole.sha256()) {
            return Err(Error::new(
                ErrorKind::Integrity,
                key.as_str(),
                format!("{} bytes arrived that are not the {} bytes sent", arrived.0, whole.len()),
            ));
        }
        if inner.objects.contains_key(&key) {
            return Err(conflict(&key));
        }
        inner.objects.insert(key, Object { bytes, version: number, modified });
        Ok(Receipt { len: whole.len(), sha256: whole.sha256(), tag: Some(tag(number)) })
    }

    async fn abort(self: Box<Self>) -> Result<()> {
        self.store.lock().unfinished.remove(&self.number);
        Ok(())
    }
}

#[async_trait]
impl Source for MemoryStore {
    async fn stat(&self, key: &ObjectKey) -> Result<Option<ObjectInfo>> {
        Ok(self.lock().info(key))
    }

    async fn fetch(
        &self,
        key: &ObjectKey,
        range: Option<Range<u64>>,
        pin: Option<&EntityTag>,
    ) -> Result<ByteStream<Sealed>> {
        let inner = self.lock();
        let Some(object) = inner.objects.get(key) else {
            return Err(Error::new(ErrorKind::NotFound, key.as_str(), "no such object"));
        };
        if pin.is_some_and(|pin| *pin != tag(object.version)) {
            return Err(Error::new(ErrorKind::Integrity, key.as_str(), "is no longer the version looked at"));
        }
        let len = object.bytes.len() as u64;
        let range = range.unwrap_or(0..len);
        if range.start > range.end || range.end > len {
            return Err(Error::new(
                ErrorKind::Integrity,
                key.as_str(),
                format!("has {len} bytes and not the bytes {} to {}", range.start, range.end),
            ));
        }
        // Both ends are at most the length of a slice in memory.
        let mut left = object.bytes.slice(range.start as usize..range.end as usize);
        let chunks = std::iter::from_fn(move || {
            (!left.is_empty()).then(|| Ok(left.split_to(left.len().min(FETCH_CHUNK))))
        });
        Ok(ByteStream::declare_sealed(futures::stream::iter(chunks)))
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        let inner = self.lock();
        let found = inner.objects.iter().filter(|(key, _)| key.as_str().starts_with(prefix));
        Ok(found.map(|(key, object)| object.info(key)).collect())
    }

    async fn held(&self, key: &ObjectKey) -> Result<Option<Held>> {
        Ok(Some(self.lock().held.get(key).cloned().unwrap_or_default()))
    }
}

#[async_trait]
impl Remover for MemoryStore {
    async fn remove(&self, key: &ObjectKey) -> Result<()> {
        let now = self.clock.now();
        let mut inner = self.lock();
        if let Some(held) = inner.held.get(key).filter(|held| held.holds(now)) {
            return Err(Error::new(ErrorKind::Conflict, key.as_str(), format!("is {held}")));
        }
        inner.objects.remove(key);
        Ok(())
    }

    async fn sweep_unfinished(&self, older_than: Timestamp) -> Result<Swept> {
        let mut inner = self.lock();
        let before = inner.unfinished.len();
        inner.unfinished.retain(|_, upload| upload.begun >= older_than);
        Ok(Swept { uploads: (before - inner.unfinished.len()) as u64 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::store_suite::{self, Place};

    #[tokio::test]
    async fn it_keeps_the_promises_of_every_port() {
        let store = MemoryStore::new();
        let place = Place::of(store.clone()).with_many(1_500);
        store_suite::sink(&place).await;
        store_suite::source(&place).await;
        store_suite::remover(&place).await;
    }

    #[tokio::test]
    async fn a_dropped_upload_is_unfinished_until_it_is_swept() {
        let clock = crate::testing::ManualClock::default();
        let store = MemoryStore::with_clock(Arc::new(clock.clone()));
        let key: ObjectKey = "a/b".parse().unwrap();
        drop(store.begin(&key, None).await.unwrap());
        assert_eq!(store.unfinished_keys(), [key]);
        assert_eq!(store.sweep_unfinished(clock.now()).await.unwrap().uploads, 0);
        clock.advance(jiff::SignedDuration::from_secs(1));
        assert_eq!(store.sweep_unfinished(clock.now()).await.unwrap().uploads, 1);
        assert_eq!(store.unfinished(), 0);
    }
}
