//! Envelopes with several frames under one leaf of their tree. That takes 2^19 blocks, and in unit tests 16.

use std::sync::Arc;

use backup_core::testing::MemoryStore;
use backup_core::{
    Auditor as _, BackupId, ByteStream, Decryptor as _, DumpReport, Expected, ObjectKey, Opening, SealSummary,
};
use bytes::Bytes;

use super::{EnvelopeAuditor, EnvelopeDecryptor, OpenOptions, StoredEnvelope};
use crate::error::{Mismatch, OpenError};
use crate::file_key::FileKey;
use crate::format::{BlockLen, HeadReader};
use crate::open::Opener;
use crate::recipients::NoneRecipient;
use crate::seal::{Compression, SealOptions, Sealer, start_with};
use crate::tree::Tree;

const BLOCK: usize = 64 << 10;

/// Seals envelopes that have one head and one key, so that only the tree can tell their blocks apart.
struct Twins {
    key: FileKey,
    id: BackupId,
}

impl Twins {
    fn new() -> Self {
        Self { key: FileKey::random().unwrap(), id: BackupId::random() }
    }

    fn seal(&self, plain: &[u8]) -> (Vec<u8>, SealSummary) {
        let options = SealOptions {
            compression: Compression::None,
            block_len: BlockLen::MIN,
            workers: 1,
            allow_symmetric: false,
        };
        let recipients: [Arc<dyn crate::Recipient>; 1] = [Arc::new(NoneRecipient)];
        let started = start_with(&self.key, [5; 32], self.id, &recipients, options.block_len).unwrap();
        let (mut sealer, mut file) = Sealer::from_started(started, &options).unwrap();
        sealer.push(plain, &mut file).unwrap();
        let summary = sealer.finish(DumpReport::default(), &mut file).unwrap();
        (file, summary)
    }
}

fn expected(file: &[u8], summary: &SealSummary) -> Expected {
    Expected {
        id: None,
        head_sha256: Some(summary.head_sha256),
        object_len: Some(file.len() as u64),
        tree_root: Some(summary.tree_root),
        tree: Some(Arc::from(&summary.tree[..])),
    }
}

fn plain(blocks: usize, fill: u8) -> Vec<u8> {
    (0..blocks * BLOCK - 5).map(|at| (at / 1000) as u8 ^ fill).collect()
}

/// In one thread, in chunks that fit no frame.
fn opened(file: &[u8], expected: Expected) -> (Vec<u8>, Result<(), OpenError>) {
    let mut opener = Opener::new(vec![], expected).unwrap();
    let mut released = Vec::new();
    for chunk in file.chunks(100_000) {
        if let Err(error) = opener.push(chunk, &mut |plain| released.extend_from_slice(plain)) {
            return (released, Err(error));
        }
    }
    (released, opener.finish().map(drop))
}

fn opening(file: &[u8], expected: Expected) -> Opening {
    let chunks: Vec<_> = file.chunks(100_000).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
    Opening { sealed: ByteStream::declare_sealed(futures::stream::iter(chunks)), expected }
}

/// In parallel.
async fn streamed(file: &[u8], expected: Expected) -> (Vec<u8>, backup_core::Result<()>) {
    let decryptor = EnvelopeDecryptor::new(vec![], OpenOptions { workers: 2 });
    let mut opened = decryptor.open(opening(file, expected)).await.unwrap();
    let mut released = Vec::new();
    while let Some(chunk) = opened.bytes.next().await {
        match chunk {
            Ok(chunk) => released.extend_from_slice(&chunk),
            Err(error) => return (released, Err(error)),
        }
        assert!(opened.report.get().is_none(), "the end is verified before the report is there");
    }
    assert!(opened.report.get().is_some());
    (released, Ok(()))
}

async fn stored(file: &[u8], expected: Expected) -> backup_core::Result<StoredEnvelope> {
    let (store, key) = (MemoryStore::new(), "orders/x".parse::<ObjectKey>().unwrap());
    store.overwrite(&key, file.to_vec());
    StoredEnvelope::open(Arc::new(store), key, vec![], expected).await
}

async fn read(envelope: &StoredEnvelope, range: std::ops::Range<usize>) -> backup_core::Result<Vec<u8>> {
    let mut stream = envelope.read(range.start as u64..range.end as u64).await?;
    let mut plain = Vec::new();
    while let Some(chunk) = stream.next().await {
        plain.extend_from_slice(&chunk?);
    }
    Ok(plain)
}

/// Where the blocks' frames stand; the trailer's follows.
fn places(file: &[u8]) -> Vec<std::ops::Range<usize>> {
    let mut rest = file;
    let head = HeadReader::default().feed(&mut rest).unwrap().unwrap();
    let mut at = head.bytes().len();
    let mut places = Vec::new();
    loop {
        let field = u32::from_be_bytes(file[at..at + 4].try_into().unwrap());
        let end = at + 4 + (field & !(1 << 31)) as usize;
        places.push(at..end);
        if field >= 1 << 31 {
            return places;
        }
        at = end;
    }
}

#[tokio::test]
async fn an_envelope_of_many_blocks_is_read_whole_in_every_way() {
    for blocks in [1, 15, 16, 17, 31, 32, 40, 64, 65] {
        let plain = plain(blocks, 0);
        let (file, summary) = Twins::new().seal(&plain);
        let expected = expected(&file, &summary);
        let tree = Tree::parse(&summary.tree).unwrap();
        assert_eq!((tree.len(), tree.span() > 1), (blocks as u64 + 1, blocks > 15), "{blocks}");

        assert!(opened(&file, expected.clone()) == (plain.clone(), Ok(())), "{blocks}");
        let (released, outcome) = streamed(&file, expected.clone()).await;
        assert!(released == plain && outcome.is_ok(), "{blocks}: {outcome:?}");
        let frames = EnvelopeAuditor.audit(opening(&file, expected.clone())).await.unwrap();
        assert_eq!(frames, tree.len());

        let envelope = stored(&file, expected.clone()).await.unwrap();
        assert!(read(&envelope, 0..usize::MAX).await.unwrap() == plain, "{blocks}");
        for range in [0..1, plain.len() - 1..plain.len(), plain.len() / 3..plain.len() / 2] {
            assert_eq!(read(&envelope, range.clone()).await.unwrap(), plain[range], "{blocks}");
        }

        let parts = EnvelopeAuditor.frames(expected).await.unwrap();
        let bytes = |range: std::ops::Range<u64>| &file[range.start as usize..range.end as usize];
        parts.check_head(bytes(parts.head())).unwrap();
        parts.check_end(bytes(parts.end())).unwrap();
        let mut at = parts.head().end;
        for index in 0..parts.count() {
            let place = parts.place(index).unwrap();
            assert_eq!(place.start, at);
            at = place.end;
            parts.check(index, bytes(place)).unwrap();
        }
        assert_eq!(at, parts.end().start, "the parts are the whole file");
        let mut footer = bytes(parts.end()).to_vec();
        for byte in 0..footer.len() {
            footer[byte] ^= 0x80;
            assert!(parts.check_end(&footer).is_err(), "{blocks}: byte {byte}");
            footer[byte] ^= 0x80;
        }
    }
}

#[tokio::test]
async fn nothing_under_a_leaf_is_released_before_all_of_it_was_seen() {
    const BLOCKS: usize = 42;
    let (twins, plain) = (Twins::new(), plain(BLOCKS, 0));
    let (file, summary) = twins.seal(&plain);
    let (other, _) = twins.seal(&self::plain(BLOCKS, 0xff));
    let (expected, places) = (expected(&file, &summary), places(&file));
    assert_eq!(places.len(), BLOCKS + 1);
    let span = Tree::parse(&summary.tree).unwrap().span() as usize;
    assert_eq!(span, 4);
    for block in [0, 1, 3, 4, 17, 38, 39, 41] {
        let mut mixed = file.clone();
        mixed[places[block].clone()].copy_from_slice(&other[places[block].clone()]);
        let first = block / span * span;
        let refused = OpenError::NotTheExpectedObject(Mismatch::Frame(first as u64));

        let (released, outcome) = opened(&mixed, expected.clone());
        assert_eq!(outcome, Err(refused.clone()), "{block}");
        assert!(released == plain[..first * BLOCK], "{block}: {}", released.len());
        let (released, outcome) = streamed(&mixed, expected.clone()).await;
        let message = outcome.unwrap_err().to_string();
        assert!(message.contains(&backup_core::Error::from(refused).to_string()), "{message}");
        assert!(released == plain[..first * BLOCK], "{block}: {}", released.len());
        assert!(EnvelopeAuditor.audit(opening(&mixed, expected.clone())).await.is_err());

        // The trailer stands under the last leaf, which an opening for ranges looks at.
        match stored(&mixed, expected.clone()).await {
            Err(_) => assert!(first + span > BLOCKS, "{block}"),
            Ok(envelope) => {
                for under in first..first + span {
                    assert!(read(&envelope, under * BLOCK..under * BLOCK + 1).await.is_err(), "{block}");
                }
                let elsewhere = (first + span) % 36 * BLOCK;
                assert_eq!(read(&envelope, elsewhere..elsewhere + 9).await.unwrap(), plain[elsewhere..][..9]);
            }
        }
        let parts = EnvelopeAuditor.frames(expected.clone()).await.unwrap();
        for index in 0..parts.count() {
            let place = parts.place(index).unwrap();
            let found = parts.check(index, &mixed[place.start as usize..place.end as usize]);
            assert_eq!(found.is_err(), index as usize == block / span, "{block} {index}");
        }
    }
}
