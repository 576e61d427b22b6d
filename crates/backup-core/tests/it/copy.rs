//! Copies of backups that exist, made where calls fail and bytes are damaged.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use backup_core::pipeline::{
    self, BackupParts, BackupRequest, ClockCheck, Copied, CopyParts, Elsewhere, PruneParts,
};
use backup_core::retention::Policy;
use backup_core::testing::{
    Fault, FaultPlan, FaultyStore, ManualClock, MemoryLedger, MemoryStore, ScriptedDumper,
};
use backup_core::*;

use crate::mirror::{holds, source};
use crate::stamp::Stamp;

const FAULTS: [Fault; 5] = [Fault::Before, Fault::After, Fault::CutShort, Fault::Broken, Fault::Gone];

fn clock(seconds: i64) -> Context {
    let at = jiff::Timestamp::from_second(seconds).unwrap();
    Context::new().with_clock(Arc::new(ManualClock::at(at)))
}

/// A store with one backup, which a pruner has seen and pinned long ago.
async fn original() -> (MemoryStore, BackupRef) {
    let store = MemoryStore::new();
    let parts = BackupParts {
        dumper: Arc::new(ScriptedDumper::new(["ab", "cd", "ef"])),
        encryptor: Arc::new(Stamp),
        sink: Arc::new(store.clone()),
        reader: Arc::new(store.clone()),
        signer: Arc::new(Stamp),
        ledger: Arc::new(MemoryLedger::default()),
        catalog: None,
    };
    let request = BackupRequest::new(RepositoryId::random(), source());
    let at = BackupRef { source: source(), id: request.id };
    pipeline::backup(&clock(1_000), &parts, request).await.unwrap();
    let manifest = pipeline::manifest(&store, &Stamp, &at).await.unwrap();
    let failed = Claim::Failed { depth: Depth::Quick };
    for claim in
        [Claim::Seen {}, Claim::Pinned { on: true }, Claim::Leaving {}, failed, Claim::Marked { on: true }]
    {
        pipeline::attest(&clock(2_000), &store, &Stamp, &manifest, claim).await.unwrap();
    }
    store.overwrite(&format!("{}keys/one.json", at.prefix()).parse().unwrap(), "a recipient");
    store.overwrite(&at.statement("forged"), "signed nothing of the kind");
    (store, at)
}

fn parts<'a, S: Source, D: Source + Sink>(from: &'a S, to: &'a D) -> CopyParts<'a> {
    CopyParts {
        from,
        from_name: "a",
        to,
        there: to,
        to_name: "b",
        repair: None,
        trust: &Stamp,
        auditor: Arc::new(Stamp),
        signer: Some(&Stamp),
        tells_age: true,
        thorough: true,
    }
}

async fn copied(from: &MemoryStore, to: &MemoryStore, at: &BackupRef) -> Result<Copied> {
    pipeline::copy(&clock(9_000), &parts(from, to), at).await
}

#[tokio::test]
async fn a_copy_is_whole_as_old_as_its_original_and_made_once() {
    let (from, at) = original().await;
    let to = MemoryStore::new();
    let Copied::Stored { bytes } = copied(&from, &to, &at).await.unwrap() else { panic!("stored") };
    assert_eq!(bytes, from.bytes(&at.data()).unwrap().len() as u64);
    assert!(holds(&to, &at).await);
    let manifest = pipeline::manifest(&to, &Stamp, &at).await.unwrap();
    let said = pipeline::attestations(&to, &Stamp, &manifest).await.unwrap();
    let words: Vec<_> = said.believed.iter().map(|said| said.claim.word()).collect();
    assert_eq!((words.as_slice(), said.refused), (["copied", "pinned", "seen"].as_slice(), 0));
    assert!(said.pinned());
    let Claim::Copied { from: Some(named), to: there, object_len, first_seen } = &said.believed[0].claim
    else {
        panic!("{said:?}")
    };
    assert_eq!((named.as_str(), there.as_str(), *object_len), ("a", "b", bytes));
    assert_eq!(first_seen.unwrap().as_second(), 2_000);
    let key: ObjectKey = format!("{}keys/one.json", at.prefix()).parse().unwrap();
    assert_eq!(to.bytes(&key), from.bytes(&key));

    let before = to.keys();
    assert_eq!(copied(&from, &to, &at).await.unwrap(), Copied::Already);
    assert_eq!(to.keys(), before, "doing it again changes nothing");
    // A pruner of the copy counts its age from the original's first look.
    let pruning = PruneParts {
        source: &to,
        sink: &to,
        remover: &to,
        trust: &Stamp,
        signer: &Stamp,
        clock: ClockCheck::Trusted,
    };
    let standing = pipeline::survey(&clock(9_999), pruning, &source()).await.unwrap();
    assert_eq!(standing[0].candidate.first_seen.as_second(), 2_000);
}

#[tokio::test]
async fn a_receipt_alone_carries_the_age_as_well() {
    let (from, at) = original().await;
    let to = MemoryStore::new();
    copied(&from, &to, &at).await.unwrap();
    for key in to.keys().iter().filter(|key| key.file_name().starts_with("seen-")) {
        to.remove(key).await.unwrap();
    }
    let pruning = PruneParts {
        source: &to,
        sink: &to,
        remover: &to,
        trust: &Stamp,
        signer: &Stamp,
        clock: ClockCheck::Trusted,
    };
    let standing = pipeline::survey(&clock(9_999), pruning, &source()).await.unwrap();
    assert_eq!(standing[0].candidate.first_seen.as_second(), 2_000);
}

#[tokio::test]
async fn a_copy_failed_at_any_call_is_whole_or_absent_and_the_next_one_ends_it() {
    let mut tried = 0;
    for fault in FAULTS {
        for n in 0.. {
            let (from, at) = original().await;
            let before: Vec<_> = from.keys().iter().map(|key| from.bytes(key)).collect();
            let to = MemoryStore::new();
            let plan = FaultPlan::at(n, fault);
            let [source, target] = [&from, &to].map(|s| FaultyStore::new(s.clone(), plan.clone()));
            let outcome = pipeline::copy(&clock(9_000), &parts(&source, &target), &at).await;
            let what = format!("{fault:?} at call {n}: {:?}", plan.fired());
            let there = holds(&to, &at).await;
            match outcome {
                Ok(_) => assert!(there, "{what}"),
                Err(error) => {
                    assert_ne!(error.kind(), ErrorKind::Bug, "{what}: {error}");
                }
            }
            let after: Vec<_> = from.keys().iter().map(|key| from.bytes(key)).collect();
            assert_eq!(after, before, "{what}: the original was touched");
            copied(&from, &to, &at).await.unwrap_or_else(|error| panic!("{what}, then: {error}"));
            assert!(holds(&to, &at).await, "{what}");
            assert_eq!(copied(&from, &to, &at).await.unwrap(), Copied::Already, "{what}");
            if plan.fired().is_none() {
                break;
            }
            tried += 1;
        }
    }
    println!("calls of a copy that were made to fail: {tried}");
    assert!(tried >= 150, "only {tried} calls were made to fail");
}

#[tokio::test]
async fn a_damaged_original_is_not_copied() {
    for spoil in 0..2 {
        let (from, at) = original().await;
        let key = [at.data(), at.manifest()][spoil].clone();
        let mut bytes = from.bytes(&key).unwrap().to_vec();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        from.overwrite(&key, bytes);
        let to = MemoryStore::new();
        assert_eq!(copied(&from, &to, &at).await.unwrap_err().kind(), ErrorKind::Integrity, "{key}");
        assert_eq!(to.keys(), [], "{key}: nothing became visible");
    }
}

#[tokio::test]
async fn what_differs_is_named_and_removed_only_by_a_repair_with_a_good_original() {
    for spoiled in ["data.strongroom", "data.tree", "manifest.json"] {
        let (from, at) = original().await;
        let to = MemoryStore::new();
        copied(&from, &to, &at).await.unwrap();
        let key: ObjectKey = format!("{}{spoiled}", at.prefix()).parse().unwrap();
        let mut bytes = to.bytes(&key).unwrap().to_vec();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        to.overwrite(&key, bytes.clone());
        if spoiled == "data.tree" {
            // The stand-in for the auditor holds no frame against the tree; a missing one is found.
            to.remove(&key).await.unwrap();
            assert!(matches!(copied(&from, &to, &at).await.unwrap(), Copied::Repaired { .. }));
            assert!(holds(&to, &at).await);
            continue;
        }
        let before = to.keys();
        let error = copied(&from, &to, &at).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Integrity);
        assert!(error.what().contains(spoiled), "{error}");
        assert_eq!(
            (to.keys(), to.bytes(&key).unwrap()),
            (before, bytes.clone().into()),
            "nothing was changed"
        );

        // The original is damaged too: the copy stays as it is.
        let repair = CopyParts { repair: Some(&to), ..parts(&from, &to) };
        let good = from.bytes(&at.data()).unwrap();
        from.overwrite(&at.data(), vec![7; good.len()]);
        pipeline::copy(&clock(9_000), &repair, &at).await.unwrap_err();
        assert_eq!(to.bytes(&key).unwrap(), bytes, "nothing was removed without a good copy");
        from.overwrite(&at.data(), good);
        let repaired = pipeline::copy(&clock(9_000), &repair, &at).await.unwrap();
        let Copied::Repaired { was } = repaired else { panic!("{repaired:?}") };
        assert!(was[0].contains(spoiled), "{was:?}");
        assert!(holds(&to, &at).await);
        assert_eq!(to.bytes(&key), from.bytes(&key));
    }
}

#[tokio::test]
async fn a_repair_failed_at_any_call_leaves_a_whole_copy_or_none_and_the_original() {
    let mut tried = 0;
    for fault in [Fault::Before, Fault::After, Fault::Gone] {
        for n in 0.. {
            let (from, at) = original().await;
            let to = MemoryStore::new();
            copied(&from, &to, &at).await.unwrap();
            let len = to.bytes(&at.data()).unwrap().len();
            to.overwrite(&at.data(), vec![7; len]);
            let plan = FaultPlan::at(n, fault);
            let [source, target] = [&from, &to].map(|s| FaultyStore::new(s.clone(), plan.clone()));
            let repair = CopyParts { repair: Some(&target), ..parts(&source, &target) };
            let outcome = pipeline::copy(&clock(9_000), &repair, &at).await;
            let what = format!("{fault:?} at call {n}: {:?}", plan.fired());
            assert!(holds(&from, &at).await, "{what}");
            if to.bytes(&at.manifest()).is_some() && to.bytes(&at.data()) == from.bytes(&at.data()) {
                assert!(holds(&to, &at).await, "{what}");
            } else {
                assert!(outcome.is_err(), "{what}");
            }
            let again = CopyParts { repair: Some(&to), ..parts(&from, &to) };
            pipeline::copy(&clock(9_000), &again, &at).await.unwrap();
            assert!(holds(&to, &at).await, "{what}");
            if plan.fired().is_none() {
                break;
            }
            tried += 1;
        }
    }
    println!("calls of a repair that were made to fail: {tried}");
    assert!(tried >= 60, "only {tried} calls were made to fail");
}

#[tokio::test]
async fn what_a_pruner_removed_there_is_not_brought_back_and_history_comes_along() {
    let (from, at) = original().await;
    let to = MemoryStore::new();
    copied(&from, &to, &at).await.unwrap();
    let manifest = pipeline::manifest(&to, &Stamp, &at).await.unwrap();
    let pruning = PruneParts {
        source: &to,
        sink: &to,
        remover: &to,
        trust: &Stamp,
        signer: &Stamp,
        clock: ClockCheck::Trusted,
    };
    // All of it is in another place now, so it leaves this one.
    for claim in [Claim::Verified { depth: Depth::Deep, bytes: 4 }, Claim::Pinned { on: false }] {
        pipeline::attest(&clock(9_400), &to, &Stamp, &manifest, claim).await.unwrap();
    }
    let standing = pipeline::survey(&clock(9_500), pruning, &at.source).await.unwrap();
    let verified = [at.id].into();
    let other = Elsewhere { name: "c", verified: &verified, proven: 1 };
    let plan = pipeline::plan_retire(&clock(9_500), &at.source, standing, &Policy::default(), other, None);
    let pruned = pipeline::prune(&clock(9_500), pruning, &plan).await.unwrap();
    assert_eq!(pruned.removed, std::slice::from_ref(&at));
    assert_eq!(to.keys(), [at.history()]);
    assert_eq!(copied(&from, &to, &at).await.unwrap(), Copied::Removed);
    assert_eq!(to.keys(), [at.history()]);
    let removal = Stamp.vouch_removal(&at, &to.bytes(&at.history()).unwrap()).unwrap();
    assert_eq!(removal.reason, "all of it is in c");

    // History goes along, but not of what stands in the other place.
    let third = MemoryStore::new();
    let copying = parts(&to, &third);
    assert_eq!(pipeline::copy_history(&clock(9_600), &copying).await.unwrap(), 1);
    assert_eq!(third.keys(), [at.history()]);
    let copying = parts(&to, &from);
    assert_eq!(pipeline::copy_history(&clock(9_600), &copying).await.unwrap(), 0);
}

#[tokio::test]
async fn what_was_said_of_another_manifest_is_not_copied() {
    let (from, at) = original().await;
    let (other, elsewhere) = original().await;
    let foreign = other.keys().into_iter().find(|key| key.file_name().starts_with("pinned-")).unwrap();
    let body = String::from_utf8(other.bytes(&foreign).unwrap().to_vec()).unwrap();
    let moved = body.replace(&elsewhere.id.to_string(), &at.id.to_string());
    from.overwrite(&at.statement("pinned-moved"), moved);
    let to = MemoryStore::new();
    copied(&from, &to, &at).await.unwrap();
    assert!(to.bytes(&at.statement("pinned-moved")).is_none());
}
