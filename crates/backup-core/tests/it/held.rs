//! What the place itself keeps a backup by.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use backup_core::pipeline::{self, Elsewhere};
use backup_core::retention::{Policy, Reason, Verdict};
use backup_core::testing::MemoryStore;
use backup_core::*;
use jiff::{SignedDuration, Timestamp};

use crate::prune::{aged, cx, parts};
use crate::stamp::Stamp;

fn until(hours: i64) -> Timestamp {
    cx().now() + SignedDuration::from_hours(hours)
}

fn lock(store: &MemoryStore, key: &ObjectKey, until: Timestamp) {
    store.lock_object(key, Held { until: Some(until), mode: Some("COMPLIANCE".into()), legal_hold: false });
}

#[tokio::test]
async fn what_a_lock_holds_waits_with_its_date_and_goes_when_it_has_ended() {
    let (store, made) = aged(&[100, 50, 3]).await;
    lock(&store, &made[0].data(), until(5));
    lock(&store, &made[0].manifest(), until(6));
    // A lock that has ended holds nothing.
    lock(&store, &made[1].data(), until(-1));
    let policy = Policy { last: std::num::NonZeroU32::new(1), ..Policy::default() };
    let standing = pipeline::survey(&cx(), parts(&store), &made[0].source).await.unwrap();
    let plan = pipeline::plan_prune(&cx(), &made[0].source, standing, &policy, None);
    assert_eq!(plan.removals().count(), 2);
    let plan = pipeline::heed_locks(&cx(), &store, plan).await.unwrap();
    let locked = plan.decisions.iter().find(|(one, _)| one.candidate.id == made[0].id).unwrap();
    assert_eq!(locked.1.verdict, Verdict::Keep(vec![Reason::Locked(until(6))]));
    assert_eq!(
        locked.1.verdict,
        Verdict::Keep(vec![Reason::Locked(locked.0.candidate.locked_until.unwrap())])
    );
    let pruned = pipeline::prune(&cx(), parts(&store), &plan).await.unwrap();
    assert_eq!(pruned.removed, [made[1].clone()]);
    assert!(store.bytes(&made[0].history()).is_none(), "nothing was begun");
}

#[tokio::test]
async fn a_legal_hold_is_on_every_object_and_ends_on_every_object() {
    let (store, made) = aged(&[50, 3]).await;
    assert_eq!(pipeline::held(&store, &made[0]).await.unwrap(), Some(Held::default()));
    pipeline::hold(&cx(), &store, &store, &made[0], true).await.unwrap();
    for key in [made[0].data(), made[0].tree(), made[0].manifest()] {
        assert!(store.held(&key).await.unwrap().unwrap().legal_hold, "{key}");
    }
    assert!(pipeline::held(&store, &made[0]).await.unwrap().unwrap().legal_hold);
    let manifest = pipeline::shreddable(parts(&store), &made[0]).await.unwrap();
    let error = pipeline::shred(&cx(), parts(&store), &manifest, "why").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.what().contains("legal hold"), "{error}");
    assert!(store.bytes(&made[0].manifest()).is_some() && store.bytes(&made[0].history()).is_none());
    pipeline::hold(&cx(), &store, &store, &made[0], false).await.unwrap();
    pipeline::shred(&cx(), parts(&store), &manifest, "why").await.unwrap();
}

#[tokio::test]
async fn what_moves_is_held_to_the_checks_of_a_prune() {
    let (store, made) = aged(&[100, 50, 3]).await;
    let pinned = pipeline::manifest(&store, &Stamp, &made[1]).await.unwrap();
    pipeline::attest(&cx(), &store, &Stamp, &pinned, Claim::Pinned { on: true }).await.unwrap();
    let all: BTreeSet<BackupId> = made.iter().map(|at| at.id).collect();
    let some: BTreeSet<BackupId> = [made[0].id, made[1].id].into();
    let standing = pipeline::survey(&cx(), parts(&store), &made[0].source).await.unwrap();
    let plan = |verified, proven, frozen| {
        let other = Elsewhere { name: "cloud", verified, proven };
        pipeline::plan_retire(&cx(), &made[0].source, standing.clone(), &Policy::default(), other, frozen)
    };
    let of = |plan: &pipeline::PrunePlan, n: usize| {
        plan.decisions.iter().find(|(one, _)| one.candidate.id == made[n].id).unwrap().1.verdict.clone()
    };
    let good = plan(&all, 2, None);
    assert_eq!(of(&good, 0), Verdict::Remove(Reason::Elsewhere("cloud".into())));
    assert_eq!(of(&good, 1), Verdict::Keep(vec![Reason::Pinned]));
    assert_eq!(of(&good, 2), Verdict::Remove(Reason::Elsewhere("cloud".into())));
    assert_eq!(of(&plan(&some, 1, None), 2), Verdict::Keep(vec![Reason::OnlyHere]));
    assert_eq!(of(&plan(&all, 0, None), 0), Verdict::Keep(vec![Reason::NothingProven]));
    assert_eq!(of(&plan(&all, 1, Some("why")), 0), Verdict::Keep(vec![Reason::Frozen("why".into())]));
    let floor = Policy { at_least: std::num::NonZeroU32::new(3), ..Policy::default() };
    let other = Elsewhere { name: "cloud", verified: &all, proven: 2 };
    let few = pipeline::plan_retire(&cx(), &made[0].source, standing.clone(), &floor, other, None);
    assert_eq!(of(&few, 0), Verdict::Keep(vec![Reason::AtLeast]));

    let pruned = pipeline::prune(&cx(), parts(&store), &good).await.unwrap();
    assert_eq!(pruned.removed, [made[0].clone(), made[2].clone()]);
    assert!(store.bytes(&made[1].manifest()).is_some());
    let removal = Stamp.vouch_removal(&made[0], &store.bytes(&made[0].history()).unwrap()).unwrap();
    assert_eq!(removal.reason, "all of it is in cloud");
}
