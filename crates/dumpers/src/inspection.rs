//! What every inspector does alike: a dump read to its end, until the run is cancelled.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use backup_core::{ByteStream, Context, Error, Plain, Result, Stage};
use bytes::Bytes;

/// Hands every chunk of a dump to `take`, and gives the number of its bytes.
///
/// # Errors
/// The first of `take` and of the stream; `Cancelled` about `format`, also where the input stalls.
pub(crate) async fn read_to_end(
    cx: &Context,
    format: &str,
    bytes: &mut ByteStream<Plain>,
    mut take: impl FnMut(Bytes) -> Result<()>,
) -> Result<u64> {
    let mut total = 0;
    while let Some(chunk) = stoppable(cx, format, async { bytes.next().await.transpose() }).await? {
        total += chunk.len() as u64;
        take(chunk)?;
    }
    Ok(total)
}

/// Does `work`, unless the run is cancelled first.
///
/// # Errors
/// Those of `work`; `Cancelled` about `format`.
pub(crate) async fn stoppable<T>(
    cx: &Context,
    format: &str,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    tokio::select! {
        biased;
        () = cx.cancel().cancelled() => Err(Error::cancelled(format).at(Stage::Verify)),
        done = work => done,
    }
}

/// The bytes that went through a stream so far.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counted(Arc<AtomicU64>);

impl Counted {
    /// The same bytes, counted here.
    pub(crate) fn through(&self, bytes: ByteStream<Plain>) -> ByteStream<Plain> {
        let counter = Arc::clone(&self.0);
        bytes.inspect(move |chunk| {
            counter.fetch_add(chunk.len() as u64, Ordering::Relaxed);
        })
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
