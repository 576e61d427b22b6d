//! Destroying one backup.

#![allow(clippy::unwrap_used)]

use backup_core::pipeline;
use backup_core::testing::{Fault, FaultPlan, FaultyStore};
use backup_core::*;

use crate::prune::{aged, cx, parts};
use crate::stamp::Stamp;

#[tokio::test]
async fn what_is_shredded_is_gone_and_the_certificate_says_what_was_looked_at() {
    let (store, made) = aged(&[50, 3]).await;
    let manifest = pipeline::shreddable(parts(&store), &made[0]).await.unwrap();
    let done = pipeline::shred(&cx(), parts(&store), &manifest, "asked for by the person").await.unwrap();
    assert!(!store.keys().iter().any(|key| key.as_str().starts_with(&made[0].prefix())));
    assert!(store.bytes(&made[1].manifest()).is_some());
    let removal = Stamp.vouch_removal(&made[0], &store.bytes(&made[0].history()).unwrap()).unwrap();
    assert_eq!(removal.reason, "shredded: asked for by the person");
    let stored = store.bytes(&made[0].shredded()).unwrap();
    assert_eq!(Stamp.vouch_shredding(&made[0], &stored).unwrap(), done);
    assert_eq!((done.data, done.reason.as_str()), (manifest.manifest().sha256, "asked for by the person"));
    assert_eq!(done.objects[0].key, made[0].manifest().to_string(), "the manifest went first");
    assert!(done.objects.iter().any(|object| object.key == made[0].data().to_string() && object.len == 21));
    assert!(done.objects.iter().all(|object| object.versions.is_none()));
    assert!(done.verified.iter().any(|line| line.contains("cannot tell of versions")), "{done:?}");
    assert!(done.not_promised.iter().any(|line| line.contains("copies in other places")));
    // Asked again, it says what it said.
    assert_eq!(pipeline::shred(&cx(), parts(&store), &manifest, "again").await.unwrap(), done);
    assert!(Stamp.vouch_shredding(&made[1], &stored).is_err(), "of another backup");
}

#[tokio::test]
async fn the_last_good_backup_is_known() {
    let (store, made) = aged(&[50, 3]).await;
    let standing = pipeline::survey(&cx(), parts(&store), &made[0].source).await.unwrap();
    assert!(!pipeline::is_last_good(&standing, made[0].id));
    let mut damaged = standing.clone();
    damaged
        .iter_mut()
        .filter(|one| one.candidate.id == made[1].id)
        .for_each(|one| one.candidate.proven = false);
    assert!(pipeline::is_last_good(&damaged, made[0].id));
}

#[tokio::test]
async fn killed_at_any_call_no_certificate_is_there_before_all_is_gone_and_the_next_run_ends_it() {
    for fault in [Fault::Before, Fault::After, Fault::Gone] {
        let mut tried = 0;
        loop {
            let (store, made) = aged(&[50, 3]).await;
            let plan = FaultPlan::at(tried, fault);
            let faulty = FaultyStore::new(store.clone(), plan.clone());
            let run = async || {
                let manifest = pipeline::shreddable(parts(&faulty), &made[0]).await?;
                pipeline::shred(&cx(), parts(&faulty), &manifest, "why").await
            };
            let done = run().await;
            let Some(call) = plan.fired() else {
                done.unwrap();
                break;
            };
            let left =
                || store.keys().into_iter().filter(|key| key.as_str().starts_with(&made[0].prefix())).count();
            let what = format!("{fault:?} of {call}");
            assert!(store.bytes(&made[0].shredded()).is_none() || left() == 0, "{what}");
            assert!(
                store.bytes(&made[0].manifest()).is_some() || store.bytes(&made[0].history()).is_some(),
                "{what}"
            );
            let manifest = pipeline::shreddable(parts(&store), &made[0]).await.unwrap();
            pipeline::shred(&cx(), parts(&store), &manifest, "why").await.unwrap();
            assert_eq!(left(), 0, "{what}");
            assert!(store.bytes(&made[1].data()).is_some(), "{what}");
            tried += 1;
        }
        assert!(tried > 15, "{fault:?}: only {tried} calls");
    }
}
