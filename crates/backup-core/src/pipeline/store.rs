//! One stream into one object, in one place or in several: the only code that commits or aborts.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use sha2::{Digest as _, Sha256};

use crate::context::Context;
use crate::digest::Sha256Digest;
use crate::error::{Error, ErrorKind, Result, Stage};
use crate::id::ObjectKey;
use crate::progress::Event;
use crate::store::{Journal, Receipt, Sink, Upload, Whole};
use crate::stream::{ByteStream, Sealed};

/// How long an abort may take; leftovers are swept later.
const ABORT_DEADLINE: Duration = Duration::from_secs(10);
/// How many times as long as another call a commit may take where others wait for it: it sends what is
/// still on its way, and a server may have to put the parts of a large object together.
const COMMIT_PATIENCE: u32 = 4;
/// Chunks below this are hashed where they are; a trip to a blocking thread costs more.
const HASH_INLINE_MAX: usize = 64 << 10;

/// Writes `sealed` to its clean end, then commits it as `key`. `size_hint` is the expected length in
/// bytes, from which part sizes are planned.
///
/// On an error of the stream or the place, and when the context is cancelled, the upload is aborted
/// and nothing becomes visible. A cancel that comes during the commit waits for its answer.
///
/// Not cancel safe: stop it through the context's token, not by dropping it. A future that is dropped
/// before the commit publishes nothing, but may leave an unfinished upload for the sweeper; dropped
/// during the commit, it leaves the whole object or none, and nobody knows which.
///
/// # Errors
/// The stream's own error, or the place's; `Uncertain` when the answer to the commit was lost and
/// could not be settled by looking.
pub async fn store(
    cx: &Context,
    sink: &dyn Sink,
    key: &ObjectKey,
    sealed: ByteStream<Sealed>,
    size_hint: Option<u64>,
) -> Result<Receipt> {
    let mut branches = [Branch::new(sink, None)];
    tee(cx, key, sealed, size_hint, &mut branches, 1).await?;
    let [branch] = branches;
    branch.ended.unwrap_or_else(|| Err(Error::bug(format!("nobody told how storing {key} ended"))))
}

/// One of the places that a stream goes to.
#[derive(Debug)]
pub(super) struct Branch<'a> {
    sink: &'a dyn Sink,
    /// How long one call may hold up the other branches.
    patience: Option<Duration>,
    /// By which an upload that was cut off is continued.
    journal: Option<Arc<dyn Journal>>,
    upload: Option<Box<dyn Upload>>,
    /// What became of it; `None` for a good one that was stopped because of the others.
    pub(super) ended: Option<Result<Receipt>>,
}

impl<'a> Branch<'a> {
    /// A branch into `sink` that is given up when one call takes longer than `patience`.
    pub(super) fn new(sink: &'a dyn Sink, patience: Option<Duration>) -> Self {
        Self { sink, patience, journal: None, upload: None, ended: None }
    }

    /// The same, which goes on where an earlier process was cut off. The length must be known then.
    pub(super) fn with_journal(self, journal: Option<Arc<dyn Journal>>) -> Self {
        Self { journal, ..self }
    }

    async fn begin(&mut self, key: &ObjectKey, size_hint: Option<u64>) {
        let begun = match (&self.journal, size_hint) {
            (Some(journal), Some(len)) => self.sink.resume(key, len, Arc::clone(journal)),
            _ => self.sink.begin(key, size_hint),
        };
        match patiently(self.patience, key, begun).await {
            Ok(upload) => self.upload = Some(upload),
            Err(error) => self.ended = Some(Err(error.at(Stage::Upload))),
        }
    }

    async fn write(&mut self, key: &ObjectKey, chunk: Bytes) {
        let Some(upload) = &mut self.upload else { return };
        let Err(error) = patiently(self.patience, key, upload.write(chunk)).await else { return };
        self.ended = Some(Err(error.at(Stage::Upload)));
        self.abort().await;
    }

    async fn commit(&mut self, key: &ObjectKey, whole: Whole) {
        let Some(upload) = self.upload.take() else { return };
        let committing = upload.commit(whole);
        let committed = match self.patience.map(|patience| patience.saturating_mul(COMMIT_PATIENCE)) {
            None => committing.await,
            Some(limit) => tokio::time::timeout(limit, committing).await.unwrap_or_else(|_| {
                let what = format!("no answer came to the commit for {} s", limit.as_secs());
                Err(Error::new(ErrorKind::Uncertain, key.as_str(), what)
                    .with_hint("look whether the object is there before anything else"))
            }),
        };
        self.ended = Some(committed.map_err(|error| error.at(Stage::Commit)));
    }

    async fn abort(&mut self) {
        if let Some(upload) = self.upload.take() {
            // The abort is hygiene: what it cannot do the sweeper does, and the first error is the one to tell.
            let _ = tokio::time::timeout(ABORT_DEADLINE, upload.abort()).await;
        }
    }
}

/// Waits for one answer of a place, but not longer than it may hold up the others.
pub(super) async fn patiently<T>(
    limit: Option<Duration>,
    key: &ObjectKey,
    answer: impl Future<Output = Result<T>>,
) -> Result<T> {
    let Some(limit) = limit else { return answer.await };
    tokio::time::timeout(limit, answer).await.unwrap_or_else(|_| {
        let what = format!("the place did not answer for {} s and held up the others", limit.as_secs());
        Err(Error::new(ErrorKind::TimedOut, key.as_str(), what).with_hint(
            "look what is wrong there; stall_seconds of a destination sets how long the others wait",
        ))
    })
}

/// Writes one stream to several places in step, so that what is in memory does not grow with their
/// number: a chunk is asked for when every place has taken the one before. A place that fails is given
/// up and the others go on, as long as `need` are left; otherwise all that is left is aborted, and
/// [`Branch::ended`] tells who failed.
///
/// Not cancel safe, as [`store`].
///
/// # Errors
/// The stream's own, and `Cancelled`; nothing is visible anywhere then. What places say is in their
/// branches.
pub(super) async fn tee(
    cx: &Context,
    key: &ObjectKey,
    sealed: ByteStream<Sealed>,
    size_hint: Option<u64>,
    branches: &mut [Branch<'_>],
    need: usize,
) -> Result<()> {
    cx.check(key.as_str())?;
    join_all(branches.iter_mut().map(|branch| branch.begin(key, size_hint))).await;
    match write_all(cx, key, sealed, branches, need).await {
        Ok(Some(whole)) => {
            join_all(branches.iter_mut().map(|branch| branch.commit(key, whole))).await;
            Ok(())
        }
        stopped => {
            join_all(branches.iter_mut().map(Branch::abort)).await;
            stopped.map(drop)
        }
    }
}

/// The clean end of the stream, or `None` when fewer than `need` places are left to take it.
async fn write_all(
    cx: &Context,
    key: &ObjectKey,
    mut sealed: ByteStream<Sealed>,
    branches: &mut [Branch<'_>],
    need: usize,
) -> Result<Option<Whole>> {
    let mut hasher = Hasher::default();
    let too_few =
        |branches: &[Branch<'_>]| branches.iter().filter(|branch| branch.upload.is_some()).count() < need;
    loop {
        if too_few(branches) {
            return Ok(None);
        }
        let next = tokio::select! {
            biased;
            () = cx.cancel().cancelled() => return Err(Error::cancelled(key.as_str()).at(Stage::Upload)),
            next = sealed.next() => next,
        };
        let Some(chunk) = next else { break };
        let chunk = chunk?;
        let bytes = chunk.len() as u64;
        let writes = join_all(branches.iter_mut().map(|branch| branch.write(key, chunk.clone())));
        let (hashed, _) = tokio::join!(hasher.update(chunk.clone()), writes);
        hashed?;
        cx.report(Event::Sealed { bytes });
    }
    cx.check(key.as_str())?;
    let (len, sha256) = hasher.finish();
    Ok(Some(Whole::after_clean_end(len, sha256)))
}

/// Length and digest of a stream, computed off the async threads.
#[derive(Debug, Default)]
pub(super) struct Hasher {
    len: u64,
    sha256: Sha256,
}

impl Hasher {
    /// Takes the next chunk. Not cancel safe.
    pub(super) async fn update(&mut self, chunk: Bytes) -> Result<()> {
        self.len += chunk.len() as u64;
        if chunk.len() <= HASH_INLINE_MAX {
            self.sha256.update(&chunk);
            return Ok(());
        }
        let mut sha256 = std::mem::take(&mut self.sha256);
        self.sha256 = tokio::task::spawn_blocking(move || {
            sha256.update(&chunk);
            sha256
        })
        .await
        .map_err(|e| Error::bug(format!("the hashing thread died: {e}")))?;
        Ok(())
    }

    /// Length in bytes and digest.
    pub(super) fn finish(self) -> (u64, Sha256Digest) {
        (self.len, Sha256Digest(self.sha256.finalize().into()))
    }
}
