//! A limit on how many bytes a second go to a place.

use std::fmt;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::error::Result;
use crate::id::ObjectKey;
use crate::store::{Journal, Limits, Receipt, Sink, Upload, Whole};

/// How far behind the allowance may lag before bytes are held back: what may go out at once.
const BURST: Duration = Duration::from_millis(250);

/// A [`Sink`] that takes at most so many bytes a second, over all of its uploads together.
///
/// Chunks are held back, not cut: over any span of time the rate is exceeded by at most a quarter of a
/// second's worth and one chunk.
#[derive(Debug, Clone)]
pub struct Throttled<S> {
    inner: S,
    allowance: Arc<Allowance>,
}

impl<S> Throttled<S> {
    /// Limits `inner` to `bytes_per_second`.
    pub fn new(inner: S, bytes_per_second: NonZeroU64) -> Self {
        Self { inner, allowance: Arc::new(Allowance { bytes_per_second, free_at: Mutex::new(None) }) }
    }
}

/// A bucket that says when the next byte may go (the generic cell rate algorithm, ITU-T I.371).
#[derive(Debug)]
struct Allowance {
    bytes_per_second: NonZeroU64,
    /// When everything sent so far will have been due.
    free_at: Mutex<Option<Instant>>,
}

impl Allowance {
    async fn wait(&self, bytes: usize) {
        let cost = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second.get() as f64);
        let due = {
            let mut free_at = self.free_at.lock().await;
            let due = free_at.map_or_else(Instant::now, |at| at.max(Instant::now()));
            *free_at = Some(due + cost);
            due
        };
        tokio::time::sleep_until(due.checked_sub(BURST).unwrap_or(due)).await;
    }
}

impl<S: fmt::Display> fmt::Display for Throttled<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl<S: Sink> Sink for Throttled<S> {
    fn limits(&self) -> Limits {
        self.inner.limits()
    }

    async fn begin(&self, key: &ObjectKey, size_hint: Option<u64>) -> Result<Box<dyn Upload>> {
        let inner = self.inner.begin(key, size_hint).await?;
        Ok(Box::new(ThrottledUpload { free: 0, inner, allowance: Arc::clone(&self.allowance) }))
    }

    async fn resume(&self, key: &ObjectKey, len: u64, journal: Arc<dyn Journal>) -> Result<Box<dyn Upload>> {
        let inner = self.inner.resume(key, len, journal).await?;
        Ok(Box::new(ThrottledUpload { free: inner.kept(), inner, allowance: Arc::clone(&self.allowance) }))
    }

    async fn hold(&self, key: &ObjectKey, on: bool) -> Result<()> {
        self.inner.hold(key, on).await
    }
}

#[async_trait]
impl Sink for Arc<dyn Sink> {
    fn limits(&self) -> Limits {
        self.as_ref().limits()
    }

    async fn begin(&self, key: &ObjectKey, size_hint: Option<u64>) -> Result<Box<dyn Upload>> {
        self.as_ref().begin(key, size_hint).await
    }

    async fn hold(&self, key: &ObjectKey, on: bool) -> Result<()> {
        self.as_ref().hold(key, on).await
    }

    async fn resume(&self, key: &ObjectKey, len: u64, journal: Arc<dyn Journal>) -> Result<Box<dyn Upload>> {
        self.as_ref().resume(key, len, journal).await
    }
}

#[derive(Debug)]
struct ThrottledUpload {
    /// Bytes that are not sent, and so not held back.
    free: u64,
    inner: Box<dyn Upload>,
    allowance: Arc<Allowance>,
}

#[async_trait]
impl Upload for ThrottledUpload {
    fn kept(&self) -> u64 {
        self.inner.kept()
    }

    async fn write(&mut self, chunk: Bytes) -> Result<()> {
        let free = usize::try_from(self.free).unwrap_or(usize::MAX).min(chunk.len());
        self.free -= free as u64;
        if chunk.len() > free {
            self.allowance.wait(chunk.len() - free).await;
        }
        self.inner.write(chunk).await
    }

    async fn commit(self: Box<Self>, whole: Whole) -> Result<Receipt> {
        self.inner.commit(whole).await
    }

    async fn abort(self: Box<Self>) -> Result<()> {
        self.inner.abort().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::store_suite::{self, Place};
    use crate::testing::{MemoryStore, put};

    fn throttled(bytes_per_second: u64) -> (MemoryStore, Throttled<MemoryStore>) {
        let store = MemoryStore::new();
        (store.clone(), Throttled::new(store, NonZeroU64::new(bytes_per_second).unwrap()))
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_wait_for_their_turn_over_all_uploads() {
        let (_, sink) = throttled(1000);
        let began = Instant::now();
        let keys: Vec<ObjectKey> = ["a", "b"].iter().map(|k| k.parse().unwrap()).collect();
        let chunks: Vec<&[u8]> = vec![&[0; 100]; 20];
        let (a, b) = tokio::join!(put(&sink, &keys[0], &chunks), put(&sink, &keys[1], &chunks));
        a.unwrap();
        b.unwrap();
        // 4,000 bytes at 1,000 a second, less the burst and the last chunk; the clock is the test's.
        let took = began.elapsed();
        assert!(took >= Duration::from_millis(3_600) && took <= Duration::from_millis(4_000), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_still_the_sink_it_wraps() {
        let (store, sink) = throttled(1 << 30);
        let place = Place { sink: Arc::new(sink), ..Place::of(store) };
        store_suite::sink(&place).await;
    }
}
