//! A wrapper that makes one chosen call of a store fail, so that a test can walk through all of them.

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use jiff::Timestamp;

use crate::error::{Error, ErrorKind, Result, Stage};
use crate::id::ObjectKey;
use crate::store::{
    EntityTag, Held, Journal, Limits, ObjectInfo, Receipt, Remover, Sink, Source, Swept, Upload, Whole,
};
use crate::stream::{ByteStream, Sealed};

/// In which way the chosen call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// An error, and nothing was done.
    Before,
    /// It is done, and the answer is lost: `Uncertain` for a commit, the plan's kind for all others.
    After,
    /// A fetched stream ends cleanly with half of its bytes missing, which a source must never do;
    /// as [`Fault::Before`] for all other calls.
    CutShort,
    /// A fetched stream breaks with an error after its first chunk; as [`Fault::Before`] for all
    /// other calls.
    Broken,
    /// This call and every later one fail with nothing done: the process or the network is gone.
    Gone,
}

/// Which call fails and how; clones share one count over all ports.
#[derive(Debug, Clone)]
pub struct FaultPlan(Arc<Plan>);

#[derive(Debug)]
struct Plan {
    calls: AtomicUsize,
    at: usize,
    fault: Fault,
    kind: ErrorKind,
    fired: Mutex<Option<String>>,
}

impl FaultPlan {
    /// The `n`-th call fails, counted from 0 over begin, write, commit, abort, stat, fetch, list,
    /// remove and sweep of stores, and over the calls and chunks of every other port that shares the plan.
    #[must_use]
    pub fn at(n: usize, fault: Fault) -> Self {
        Self::with_kind(n, fault, ErrorKind::Unavailable)
    }

    /// The same, with an error of this kind instead of `Unavailable`.
    #[must_use]
    pub fn with_kind(n: usize, fault: Fault, kind: ErrorKind) -> Self {
        Self(Arc::new(Plan { calls: AtomicUsize::new(0), at: n, fault, kind, fired: Mutex::default() }))
    }

    /// No call fails; for counting.
    #[must_use]
    pub fn never() -> Self {
        Self::at(usize::MAX, Fault::Before)
    }

    /// How many calls there were.
    #[must_use]
    pub fn calls(&self) -> usize {
        self.0.calls.load(Ordering::SeqCst)
    }

    /// The call that failed, such as `commit db/1/manifest.json`; `None` if the run ended before it
    /// came to it, which is how a test knows that it has walked through all calls.
    #[must_use]
    pub fn fired(&self) -> Option<String> {
        self.0.fired.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn strike(&self, call: &str, subject: &str) -> Option<Fault> {
        let n = self.0.calls.fetch_add(1, Ordering::SeqCst);
        let struck = n == self.0.at || (self.0.fault == Fault::Gone && n > self.0.at);
        if n == self.0.at {
            *self.0.fired.lock().unwrap_or_else(PoisonError::into_inner) = Some(format!("{call} {subject}"));
        }
        struck.then_some(self.0.fault)
    }

    /// Of which kind the errors are.
    pub(super) fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    pub(super) fn failed(&self, call: &str, subject: &str) -> Error {
        Error::new(self.0.kind, subject, format!("{call} was made to fail"))
    }

    pub(super) fn lost(&self, call: &str, subject: &str, kind: ErrorKind) -> Error {
        Error::new(kind, subject, format!("the answer to {call} was made to get lost"))
    }
}

/// A store whose calls fail as its [`FaultPlan`] says.
#[derive(Debug, Clone)]
pub struct FaultyStore<S> {
    inner: S,
    plan: FaultPlan,
}

impl<S> FaultyStore<S> {
    /// Wraps `inner`.
    pub fn new(inner: S, plan: FaultPlan) -> Self {
        Self { inner, plan }
    }

    /// Runs one call that returns no stream.
    async fn call<T>(
        &self,
        call: &'static str,
        subject: &str,
        inner: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        run(&self.plan, call, subject, self.plan.kind(), inner).await
    }
}

pub(super) async fn run<T>(
    plan: &FaultPlan,
    call: &'static str,
    subject: &str,
    lost: ErrorKind,
    inner: impl Future<Output = Result<T>> + Send,
) -> Result<T> {
    match plan.strike(call, subject) {
        None => inner.await,
        Some(Fault::After) => {
            inner.await?;
            Err(plan.lost(call, subject, lost))
        }
        Some(_) => Err(plan.failed(call, subject)),
    }
}

impl<S: fmt::Display> fmt::Display for FaultyStore<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "faulty {}", self.inner)
    }
}

#[async_trait]
impl<S: Sink> Sink for FaultyStore<S> {
    fn limits(&self) -> Limits {
        self.inner.limits()
    }

    async fn begin(&self, key: &ObjectKey, size_hint: Option<u64>) -> Result<Box<dyn Upload>> {
        let inner = self.call("begin", key.as_str(), self.inner.begin(key, size_hint)).await?;
        Ok(Box::new(FaultyUpload { inner, key: key.clone(), plan: self.plan.clone() }))
    }

    async fn resume(&self, key: &ObjectKey, len: u64, journal: Arc<dyn Journal>) -> Result<Box<dyn Upload>> {
        let inner = self.call("begin", key.as_str(), self.inner.resume(key, len, journal)).await?;
        Ok(Box::new(FaultyUpload { inner, key: key.clone(), plan: self.plan.clone() }))
    }
}

#[derive(Debug)]
struct FaultyUpload {
    inner: Box<dyn Upload>,
    key: ObjectKey,
    plan: FaultPlan,
}

#[async_trait]
impl Upload for FaultyUpload {
    fn kept(&self) -> u64 {
        self.inner.kept()
    }

    async fn write(&mut self, chunk: Bytes) -> Result<()> {
        let Self { inner, key, plan } = self;
        run(plan, "write", key.as_str(), plan.kind(), inner.write(chunk)).await
    }

    async fn commit(self: Box<Self>, whole: Whole) -> Result<Receipt> {
        let Self { inner, key, plan } = *self;
        run(&plan, "commit", key.as_str(), ErrorKind::Uncertain, inner.commit(whole))
            .await
            .map_err(|error| error.at(Stage::Commit))
    }

    async fn abort(self: Box<Self>) -> Result<()> {
        let Self { inner, key, plan } = *self;
        run(&plan, "abort", key.as_str(), plan.kind(), inner.abort()).await
    }
}

#[async_trait]
impl<S: Source> Source for FaultyStore<S> {
    async fn stat(&self, key: &ObjectKey) -> Result<Option<ObjectInfo>> {
        self.call("stat", key.as_str(), self.inner.stat(key)).await
    }

    async fn fetch(
        &self,
        key: &ObjectKey,
        range: Option<Range<u64>>,
        pin: Option<&EntityTag>,
    ) -> Result<ByteStream<Sealed>> {
        let subject = key.as_str();
        match self.plan.strike("fetch", subject) {
            None => self.inner.fetch(key, range, pin).await,
            Some(Fault::CutShort) => cut_short(self.inner.fetch(key, range, pin).await?).await,
            Some(Fault::Broken) => {
                let first = self.inner.fetch(key, range, pin).await?.take(1);
                let broken = self.plan.failed("fetch", subject);
                Ok(ByteStream::declare_sealed(first.chain(futures::stream::iter([Err(broken)]))))
            }
            Some(_) => Err(self.plan.failed("fetch", subject)),
        }
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        self.call("list", prefix, self.inner.list(prefix)).await
    }

    async fn held(&self, key: &ObjectKey) -> Result<Option<Held>> {
        self.call("held", key.as_str(), self.inner.held(key)).await
    }
}

/// The first half of a stream, and a clean end.
async fn cut_short(mut whole: ByteStream<Sealed>) -> Result<ByteStream<Sealed>> {
    let mut bytes = Vec::new();
    while let Some(chunk) = whole.next().await {
        bytes.extend_from_slice(&chunk?);
    }
    bytes.truncate(bytes.len() / 2);
    Ok(ByteStream::declare_sealed(futures::stream::iter([Ok(Bytes::from(bytes))])))
}

#[async_trait]
impl<S: Remover> Remover for FaultyStore<S> {
    async fn remove(&self, key: &ObjectKey) -> Result<()> {
        self.call("remove", key.as_str(), self.inner.remove(key)).await
    }

    async fn sweep_unfinished(&self, older_than: Timestamp) -> Result<Swept> {
        self.call("sweep", "unfinished uploads", self.inner.sweep_unfinished(older_than)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::store_suite::{self, Place};
    use crate::testing::{MemoryStore, put};

    fn key() -> ObjectKey {
        "db/one".parse().unwrap()
    }

    #[tokio::test]
    async fn without_a_fault_it_is_the_store_it_wraps() {
        let store = FaultyStore::new(MemoryStore::new(), FaultPlan::never());
        let place = Place::of(store);
        store_suite::sink(&place).await;
        store_suite::source(&place).await;
        store_suite::remover(&place).await;
    }

    #[tokio::test]
    async fn enumeration_ends_where_the_run_ends() {
        let mut struck = Vec::new();
        for n in 0.. {
            let plan = FaultPlan::at(n, Fault::Before);
            let store = FaultyStore::new(MemoryStore::new(), plan.clone());
            let done = put(&store, &key(), &[b"abc"]).await;
            let Some(call) = plan.fired() else {
                assert!(done.is_ok());
                break;
            };
            assert!(done.is_err());
            struck.push(call);
        }
        assert_eq!(struck, ["begin db/one", "write db/one", "commit db/one"]);
    }

    #[tokio::test]
    async fn a_lost_answer_to_a_commit_leaves_the_object_there() {
        let memory = MemoryStore::new();
        let store = FaultyStore::new(memory.clone(), FaultPlan::at(2, Fault::After));
        let error = put(&store, &key(), &[b"abc"]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Uncertain);
        assert_eq!(memory.keys(), [key()]);
    }

    #[tokio::test]
    async fn streams_are_cut_or_broken() {
        let memory = MemoryStore::new();
        memory.overwrite(&key(), vec![7; 100_000]);
        let store = FaultyStore::new(memory.clone(), FaultPlan::at(0, Fault::CutShort));
        let got = store_suite::read(&store, &key(), None, None).await.unwrap();
        assert_eq!(got.len(), 50_000);
        let store = FaultyStore::new(memory, FaultPlan::at(0, Fault::Broken));
        assert!(store_suite::read(&store, &key(), None, None).await.is_err());
    }

    #[tokio::test]
    async fn gone_means_gone_for_good() {
        let store = FaultyStore::new(MemoryStore::new(), FaultPlan::at(1, Fault::Gone));
        assert!(put(&store, &key(), &[b"abc"]).await.is_err());
        assert!(store.stat(&key()).await.is_err());
        assert!(store.remove(&key()).await.is_err());
    }
}
