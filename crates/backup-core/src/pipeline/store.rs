//! One stream into one object: the only place that commits or aborts.

use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use crate::context::Context;
use crate::digest::Sha256Digest;
use crate::error::{Error, Result, Stage};
use crate::id::ObjectKey;
use crate::progress::Event;
use crate::store::{Receipt, Sink, Upload, Whole};
use crate::stream::{ByteStream, Sealed};

/// How long an abort may take; leftovers are swept later.
const ABORT_DEADLINE: Duration = Duration::from_secs(10);
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
    cx.check(key.as_str())?;
    let mut upload = sink.begin(key, size_hint).await.map_err(|e| e.at(Stage::Upload))?;
    match write_all(cx, upload.as_mut(), key, sealed).await {
        Ok(whole) => upload.commit(whole).await.map_err(|e| e.at(Stage::Commit)),
        Err(error) => {
            // The abort is hygiene: what it cannot do the sweeper does, and the first error is the one to tell.
            let _ = tokio::time::timeout(ABORT_DEADLINE, upload.abort()).await;
            Err(error)
        }
    }
}

async fn write_all(
    cx: &Context,
    upload: &mut dyn Upload,
    key: &ObjectKey,
    mut sealed: ByteStream<Sealed>,
) -> Result<Whole> {
    let mut hasher = Hasher::default();
    loop {
        let next = tokio::select! {
            biased;
            () = cx.cancel().cancelled() => return Err(Error::cancelled(key.as_str()).at(Stage::Upload)),
            next = sealed.next() => next,
        };
        let Some(chunk) = next else { break };
        let chunk = chunk?;
        let bytes = chunk.len() as u64;
        let (hashed, written) = tokio::join!(hasher.update(chunk.clone()), upload.write(chunk));
        written.map_err(|e| e.at(Stage::Upload))?;
        hashed?;
        cx.report(Event::Sealed { bytes });
    }
    cx.check(key.as_str())?;
    let (len, sha256) = hasher.finish();
    Ok(Whole::after_clean_end(len, sha256))
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
