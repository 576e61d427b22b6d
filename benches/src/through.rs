//! Rows through the whole way between a dump and a store, and back.

use std::sync::{Arc, LazyLock};

use backup_core::{
    BackupId, ByteStream, Context, Decryptor as _, Encryptor as _, Expected, Opening, Plain, Result, Sealed,
    Settled, pipeline,
};
use bytes::Bytes;
use envelope_crypto::{
    Compression, EnvelopeDecryptor, EnvelopeEncryptor, NoneRecipient, OpenOptions, SealOptions,
};
use futures::TryStreamExt as _;
use tokio::runtime::Runtime;

use crate::NullSink;

/// What a pipe gives at a time.
const CHUNK: usize = 64 << 10;

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
});

/// Seals `plain` with this many workers and stores it nowhere, as `pipeline::backup` does it.
///
/// # Panics
/// When anything fails.
pub fn seal(plain: &Bytes, compression: Compression, workers: usize) {
    let plain = plain.clone();
    RUNTIME.block_on(async {
        let stream = sealing(plain, compression, workers).await.expect("sealing");
        let key = "measured/data".parse().expect("a valid key");
        pipeline::store(&Context::new(), &NullSink, &key, stream, None).await.expect("storing");
    });
}

/// An envelope of `plain`.
///
/// # Panics
/// When anything fails.
#[must_use]
pub fn sealed(plain: &Bytes, compression: Compression) -> Bytes {
    let plain = plain.clone();
    RUNTIME.block_on(async {
        let stream = sealing(plain, compression, 2).await.expect("sealing");
        let chunks: Vec<Bytes> = stream.try_collect().await.expect("sealing");
        chunks.concat().into()
    })
}

/// Opens `file` with this many workers; how many bytes it holds.
///
/// # Panics
/// When anything fails.
#[must_use]
pub fn open(file: &Bytes, workers: usize) -> u64 {
    let chunks = pieces(file);
    RUNTIME.block_on(async move {
        let opening =
            Opening { sealed: ByteStream::<Sealed>::declare_sealed(chunks), expected: Expected::default() };
        let mut bytes = EnvelopeDecryptor::new(Vec::new(), OpenOptions { workers })
            .open(opening)
            .await
            .expect("opening")
            .bytes;
        let mut len = 0;
        while let Some(chunk) = bytes.next().await {
            len += chunk.expect("opening").len() as u64;
        }
        len
    })
}

async fn sealing(plain: Bytes, compression: Compression, workers: usize) -> Result<ByteStream<Sealed>> {
    // Recipients cost the same whatever the size; here they should cost nothing.
    let options = SealOptions { compression, workers, ..SealOptions::default() };
    let encryptor = EnvelopeEncryptor::new(vec![Arc::new(NoneRecipient)], options)?;
    let plain: ByteStream<Plain> = ByteStream::new(pieces(&plain));
    let report = Settled::known(backup_core::DumpReport::default());
    Ok(encryptor.seal(&BackupId::random(), plain, report).await?.bytes)
}

fn pieces(bytes: &Bytes) -> impl futures::Stream<Item = Result<Bytes>> + Send + 'static {
    let bytes = bytes.clone();
    let starts = (0..bytes.len()).step_by(CHUNK);
    futures::stream::iter(starts.map(move |at| Ok(bytes.slice(at..bytes.len().min(at + CHUNK)))))
}
