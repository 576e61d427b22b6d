//! What the parallel streams promise beside the bytes: memory, stopping, and whose error it is.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use backup_core::{
    BackupId, ByteStream, DumpReport, Encryptor as _, Error, ErrorKind, Expected, Plain, Settled,
};
use bytes::Bytes;
use futures::StreamExt as _;

use super::opening::{OpenStream, read_head};
use super::sealing::SealStream;
use super::{EnvelopeEncryptor, OpenOptions};
use crate::format::BlockLen;
use crate::open::{Checks, unlock};
use crate::recipients::NoneRecipient;
use crate::seal::{Compression, SealOptions, start};
use crate::workers::BUDGET;

fn options(compression: Compression, block_len: BlockLen) -> SealOptions {
    SealOptions { compression, block_len, workers: 2, allow_symmetric: false }
}

fn seal_stream(plain: ByteStream<Plain>, options: SealOptions) -> SealStream {
    let started = start(BackupId::random(), &[Arc::new(NoneRecipient)], options.block_len).unwrap();
    let (settler, _) = Settled::pending();
    SealStream::new(started, options, plain, Settled::known(DumpReport::default()), settler).unwrap()
}

/// Chunks of a size that fits no block, `len` bytes of them in all, of one piece of memory.
fn endless(len: u64) -> ByteStream<Plain> {
    let chunk = Bytes::from(vec![0; 300_000]);
    let whole = len / 300_000;
    ByteStream::new(futures::stream::iter((0..whole).map(move |_| Ok(chunk.clone()))))
}

/// Seals and opens 20 times the budget in one go and counts the blocks that were out at once.
async fn stream_twenty_budgets(compression: Compression, block_len: BlockLen) {
    let sealing = seal_stream(endless(20 * BUDGET), options(compression, block_len));
    let (seal_plan, seal_pool) = (sealing.plan, Arc::clone(&sealing.pool));
    let mut sealed = ByteStream::declare_sealed(sealing);

    let (head, chunk) = read_head(&mut sealed).await.unwrap();
    let checks = Checks::new(Expected::default()).unwrap();
    let key = unlock(&head, &checks, &[]).unwrap();
    let (settler, report) = Settled::pending();
    let opening =
        OpenStream::new(head, checks, key, OpenOptions { workers: 2 }, sealed, chunk, settler).unwrap();
    let (open_plan, open_pool) = (opening.plan, Arc::clone(opening.frames.pool()));
    let mut plain = ByteStream::new(opening);
    let mut len = 0;
    while let Some(chunk) = plain.next().await {
        len += chunk.unwrap().len() as u64;
    }
    assert_eq!(len, 20 * BUDGET / 300_000 * 300_000);
    assert!(report.get().is_some());

    // Beside the plan, the one whose bytes the next stage has in its hands.
    assert!(seal_pool.most_out() <= seal_plan.blocks + 1, "{} {seal_plan:?}", seal_pool.most_out());
    let bound = open_plan.blocks + open_plan.workers + 1;
    assert!(open_pool.most_out() <= bound, "{} {open_plan:?}", open_pool.most_out());
}

#[tokio::test]
async fn incident_64_memory_does_not_grow_with_the_stream() {
    stream_twenty_budgets(Compression::None, BlockLen::DEFAULT).await;
}

#[tokio::test]
async fn memory_does_not_grow_with_small_blocks_or_compression() {
    stream_twenty_budgets(Compression::Zstd(1), BlockLen::new(4 << 20).unwrap()).await;
}

/// Tells when the input is dropped.
struct Dropped(Arc<AtomicU64>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.store(u64::MAX, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn dropping_the_sealed_stream_stops_the_workers_and_drops_the_source() {
    let polled = Arc::new(AtomicU64::new(0));
    let guard = Dropped(Arc::clone(&polled));
    let source = futures::stream::repeat_with(move || {
        guard.0.fetch_add(1, Ordering::SeqCst);
        Ok(Bytes::from(vec![1; 100_000]))
    });
    let mut stream = seal_stream(ByteStream::new(source), options(Compression::Zstd(1), BlockLen::MIN));
    let shared = Arc::downgrade(&stream.shared);
    for _ in 0..5 {
        stream.next().await.unwrap().unwrap();
    }
    // Nothing is read ahead of the plan, however long the source is.
    let read = polled.load(Ordering::SeqCst);
    assert!(read * 100_000 <= ((stream.plan.blocks + 6) << 16) as u64 + 100_000, "{read}");
    drop(stream);
    assert_eq!(polled.load(Ordering::SeqCst), u64::MAX, "the source is gone");
    threads_end(&shared).await;
}

/// Waits until no worker holds the shared state any more.
async fn threads_end<T>(shared: &Weak<T>) {
    for _ in 0..10_000 {
        if shared.strong_count() == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("workers still run");
}

#[tokio::test]
async fn incident_04_a_failed_source_comes_through_as_it_is_and_makes_no_trailer() {
    for good in [0, 1, 5, 40] {
        let chunks = (0..good).map(|_| Ok(Bytes::from(vec![2; 50_000])));
        let failed = Err(Error::new(ErrorKind::Tool, "pg_dump", "exited with status 3"));
        let plain = ByteStream::new(futures::stream::iter(chunks.chain([failed])));
        let encryptor =
            EnvelopeEncryptor::new(vec![Arc::new(NoneRecipient)], options(Compression::None, BlockLen::MIN))
                .unwrap();
        let report = Settled::known(DumpReport::default());
        let mut sealing = encryptor.seal(&BackupId::random(), plain, report).await.unwrap();
        let mut file = Vec::new();
        let error = loop {
            match sealing.bytes.next().await.unwrap() {
                Ok(chunk) => file.extend_from_slice(&chunk),
                Err(error) => break error,
            }
        };
        assert_eq!((error.kind(), error.subject()), (ErrorKind::Tool, "pg_dump"));
        assert!(sealing.summary.get().is_none());
        assert!(!file.ends_with(b"SRND"));
        assert!(sealing.bytes.next().await.unwrap().is_err(), "and it never ends cleanly");
    }
}

#[tokio::test]
async fn a_clean_end_without_a_report_is_a_bug_and_makes_no_trailer() {
    let (settler, report) = Settled::pending();
    let encryptor =
        EnvelopeEncryptor::new(vec![Arc::new(NoneRecipient)], options(Compression::None, BlockLen::MIN))
            .unwrap();
    let mut sealing = encryptor.seal(&BackupId::random(), ByteStream::once("abc"), report).await.unwrap();
    let mut kinds = Vec::new();
    for _ in 0..3 {
        kinds.push(sealing.bytes.next().await.unwrap().map(drop).map_err(|e| e.kind()));
    }
    assert_eq!(kinds, [Ok(()), Ok(()), Err(ErrorKind::Bug)], "head, block, and no end");
    assert!(sealing.summary.get().is_none());
    drop::<backup_core::Settler<DumpReport>>(settler);
}

#[tokio::test]
async fn an_error_of_the_store_comes_through_after_the_good_blocks() {
    let mut sealing = seal_stream(endless(900_000), options(Compression::None, BlockLen::MIN));
    let mut chunks = Vec::new();
    while let Some(chunk) = sealing.next().await {
        chunks.push(Ok(chunk.unwrap()));
    }
    let kept = chunks.len() - 3;
    chunks.truncate(kept);
    chunks.push(Err(Error::new(ErrorKind::Unavailable, "s3://b/k", "connection reset")));
    let decryptor = super::EnvelopeDecryptor::new(vec![], OpenOptions { workers: 2 });
    let sealed = ByteStream::declare_sealed(futures::stream::iter(chunks));
    let opening = backup_core::Opening { sealed, expected: Expected::default() };
    let mut opened = decryptor.open_envelope(opening).await.unwrap();
    assert!(!opened.head.header().is_encrypted());
    let mut blocks = 0;
    let error = loop {
        match opened.opened.bytes.next().await.unwrap() {
            Ok(_) => blocks += 1,
            Err(error) => break error,
        }
    };
    assert_eq!((error.kind(), error.subject()), (ErrorKind::Unavailable, "s3://b/k"));
    // All but the head, and the one that may be the last or not.
    assert_eq!(blocks, kept - 2);
    assert!(opened.opened.report.get().is_none());
}
