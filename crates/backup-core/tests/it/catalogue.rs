//! How a listing asks the place.

#![allow(clippy::unwrap_used)]

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use backup_core::pipeline;
use backup_core::*;

use crate::prune::aged;
use crate::stamp::Stamp;

#[derive(Debug)]
struct Counted<S> {
    store: S,
    lists: AtomicUsize,
    stats: AtomicUsize,
    fetches: AtomicUsize,
}

impl<S> fmt::Display for Counted<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("counted")
    }
}

#[async_trait]
impl<S: Source> Source for Counted<S> {
    async fn stat(&self, key: &ObjectKey) -> Result<Option<ObjectInfo>> {
        self.stats.fetch_add(1, Ordering::Relaxed);
        self.store.stat(key).await
    }

    async fn fetch(
        &self,
        key: &ObjectKey,
        range: Option<Range<u64>>,
        pin: Option<&EntityTag>,
    ) -> Result<ByteStream<Sealed>> {
        self.fetches.fetch_add(1, Ordering::Relaxed);
        self.store.fetch(key, range, pin).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        self.lists.fetch_add(1, Ordering::Relaxed);
        self.store.list(prefix).await
    }
}

#[tokio::test]
async fn a_listing_is_one_pass_and_one_object_for_each_backup() {
    let hours: Vec<i64> = (0..50).collect();
    let (store, _) = aged(&hours).await;
    let [lists, stats, fetches] = [0; 3].map(AtomicUsize::new);
    let counted = Counted { store, lists, stats, fetches };
    let listed = pipeline::list(&counted, &Stamp, None).await.unwrap();
    assert!(listed.len() == 50 && listed.iter().all(|entry| entry.manifest.is_ok()));
    let asked = [&counted.lists, &counted.stats, &counted.fetches].map(|count| count.load(Ordering::Relaxed));
    assert_eq!(asked, [1, 0, 50]);
}
