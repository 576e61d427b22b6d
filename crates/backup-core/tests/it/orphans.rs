//! What has no manifest, and what becomes of it.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use backup_core::pipeline;
use backup_core::testing::{Fault, FaultPlan, FaultyStore, ManualClock, MemoryStore};
use backup_core::*;
use jiff::SignedDuration;

fn at() -> BackupRef {
    BackupRef { source: "orders".parse().unwrap(), id: BackupId::random() }
}

#[tokio::test]
async fn only_what_has_no_manifest_is_an_orphan_and_the_younger_witness_counts() {
    let clock = ManualClock::default();
    let store = MemoryStore::with_clock(Arc::new(clock.clone()));
    let (whole, killed) = (at(), at());
    for key in [whole.data(), whole.tree(), whole.manifest(), killed.data()] {
        store.overwrite(&key, "bytes");
    }
    for foreign in ["repository.json", "trust/1.json", "history/orders/x.json", "notes/mine/a.txt", "a/b"] {
        store.overwrite(&foreign.parse().unwrap(), "not ours, or not a backup's");
    }
    let written = clock.now();
    let found = pipeline::orphans(&store).await.unwrap();
    assert!(found.len() == 1 && found[0].at == killed, "{found:?}");
    let orphan = &found[0];
    assert_eq!((orphan.bytes(), orphan.written()), (5, Some(written)));
    let hour = SignedDuration::from_hours(1);
    assert_eq!(orphan.since(Some(written + hour)), Some(written + hour));
    assert_eq!(orphan.since(Some(written - hour)), Some(written));
    assert_eq!(orphan.since(None), None);
    // One more object makes it another.
    clock.advance(hour);
    store.overwrite(&killed.tree(), "leaves");
    let later = pipeline::orphans(&store).await.unwrap();
    assert_eq!(later[0].written(), Some(written + hour));
    assert_ne!(later[0].state(), orphan.state());
}

#[tokio::test]
async fn a_backup_that_ends_meanwhile_is_left_alone() {
    let store = MemoryStore::new();
    let killed = at();
    store.overwrite(&killed.data(), "bytes");
    let found = pipeline::orphans(&store).await.unwrap();
    store.overwrite(&killed.tree(), "leaves");
    let cx = Context::new();
    assert!(!pipeline::remove_orphan(&cx, &store, &store, &found[0]).await.unwrap(), "it grew");
    let found = pipeline::orphans(&store).await.unwrap();
    store.overwrite(&killed.manifest(), "signed");
    assert!(!pipeline::remove_orphan(&cx, &store, &store, &found[0]).await.unwrap(), "it is whole now");
    assert_eq!(store.keys().len(), 3);
    store.remove(&killed.manifest()).await.unwrap();
    assert!(pipeline::remove_orphan(&cx, &store, &store, &found[0]).await.unwrap());
    assert_eq!(store.keys(), []);
}

#[tokio::test]
async fn a_sweep_that_dies_goes_on_and_never_touches_a_backup() {
    for fault in [Fault::Before, Fault::After, Fault::Gone] {
        let mut tried = 0;
        loop {
            let store = MemoryStore::new();
            let (whole, killed) = (at(), at());
            for key in [whole.data(), whole.tree(), whole.manifest(), killed.data(), killed.tree()] {
                store.overwrite(&key, "bytes");
            }
            let plan = FaultPlan::at(tried, fault);
            let faulty = FaultyStore::new(store.clone(), plan.clone());
            let cx = Context::new();
            let sweep = async || {
                for orphan in pipeline::orphans(&faulty).await? {
                    pipeline::remove_orphan(&cx, &faulty, &faulty, &orphan).await?;
                }
                Ok::<(), Error>(())
            };
            let done = sweep().await;
            if plan.fired().is_none() {
                done.unwrap();
                break;
            }
            for orphan in pipeline::orphans(&store).await.unwrap() {
                assert!(pipeline::remove_orphan(&cx, &store, &store, &orphan).await.unwrap());
            }
            assert_eq!(
                store.keys(),
                [whole.data(), whole.tree(), whole.manifest()]
                    .into_iter()
                    .collect::<std::collections::BTreeSet<_>>()
                    .into_iter()
                    .collect::<Vec<_>>()
            );
            tried += 1;
        }
        assert!(tried >= 5, "{fault:?}: {tried}");
    }
}
