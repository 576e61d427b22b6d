//! Ranges of an envelope in a store, also when the store changes it meanwhile.

use std::ops::Range;
use std::sync::Arc;

use backup_core::testing::{MemoryStore, collect};
use backup_core::{ErrorKind, Expected, ObjectKey};
use envelope_crypto::StoredEnvelope;

use crate::fixture::*;

fn key() -> ObjectKey {
    "s/x/data.strongroom".parse().unwrap()
}

struct Stored {
    store: MemoryStore,
    plain: Vec<u8>,
    pair: Pair,
    expected: Expected,
}

fn stored() -> Stored {
    let (store, pair, plain) = (MemoryStore::new(), secret_key(), noise(5 * BLOCK + 77));
    let (file, summary) = seal(&[&pair], &options(1), &plain);
    let expected = expected(&summary, &file);
    store.overwrite(&key(), file);
    Stored { store, plain, pair, expected }
}

impl Stored {
    async fn open(&self) -> backup_core::Result<StoredEnvelope> {
        let ids = self.pair.identities.clone();
        StoredEnvelope::open(Arc::new(self.store.clone()), key(), ids, self.expected.clone()).await
    }
}

async fn read(envelope: &StoredEnvelope, range: Range<u64>) -> backup_core::Result<Vec<u8>> {
    Ok(collect(envelope.read(range).await?).await?.to_vec())
}

#[tokio::test]
async fn any_range_comes_from_the_store() {
    let stored = stored();
    let envelope = stored.open().await.unwrap();
    assert_eq!(envelope.reader().facts().source_len, stored.plain.len() as u64);
    let block = BLOCK as u64;
    let len = stored.plain.len() as u64;
    for range in [
        0..0,
        0..1,
        0..len,
        0..u64::MAX,
        block - 1..block + 1,
        2 * block..3 * block,
        len - 1..len,
        len..len + 9,
    ] {
        let cut = |at: u64| at.min(len) as usize;
        let wanted = &stored.plain[cut(range.start)..cut(range.end)];
        assert_eq!(read(&envelope, range.clone()).await.unwrap(), wanted, "{range:?}");
    }
}

#[tokio::test]
async fn an_object_replaced_between_opening_and_reading_is_refused() {
    let stored = stored();
    let envelope = stored.open().await.unwrap();
    let (other, _) = seal(&[&stored.pair], &options(1), &stored.plain);
    stored.store.overwrite(&key(), other);
    let error = read(&envelope, 0..u64::MAX).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Integrity);
    // Opened anew it is not the one the manifest names.
    assert_eq!(stored.open().await.unwrap_err().kind(), ErrorKind::Integrity);
}

#[tokio::test]
async fn a_missing_object_is_not_found() {
    let stored = Stored { store: MemoryStore::new(), ..stored() };
    assert_eq!(stored.open().await.unwrap_err().kind(), ErrorKind::NotFound);
}
