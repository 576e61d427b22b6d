//! Pruning where calls fail, processes die and machines do it at once.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, Ordering};

use backup_core::pipeline::{self, BackupParts, BackupRequest, ClockCheck, PruneParts, Pruned};
use backup_core::retention::{Period, Policy};
use backup_core::testing::{
    Fault, FaultPlan, FaultyStore, ManualClock, MemoryLedger, MemoryStore, ScriptedDumper,
};
use backup_core::*;
use jiff::SignedDuration;
use jiff::tz::{Offset, TimeZone};

use crate::stamp::Stamp;

fn source() -> SourceName {
    "orders".parse().expect("a test")
}

/// A store with a backup for each of these hours of age, all seen and deeply verified then.
pub(crate) async fn aged(hours: &[i64]) -> (MemoryStore, Vec<BackupRef>) {
    let store = MemoryStore::with_clock(Arc::new(ManualClock::at(now())));
    let (ledger, repository) = (MemoryLedger::default(), RepositoryId::random());
    let mut made = Vec::new();
    for &hours in hours {
        let clock = ManualClock::at(now() - SignedDuration::from_hours(hours));
        let cx = Context::new().with_clock(Arc::new(clock));
        let parts = BackupParts {
            dumper: Arc::new(ScriptedDumper::new(["ab", "cd"])),
            encryptor: Arc::new(Stamp),
            sink: Arc::new(store.clone()),
            reader: Arc::new(store.clone()),
            signer: Arc::new(Stamp),
            ledger: Arc::new(ledger.clone()),
            catalog: None,
        };
        let request = BackupRequest {
            repository,
            source: source(),
            id: BackupId::random(),
            selection: Selection::default(),
            estimate: None,
            read_back: false,
            tags: backup_core::Tags::default(),
        };
        let at = BackupRef { source: source(), id: request.id };
        pipeline::backup(&cx, &parts, request).await.unwrap();
        let listed = pipeline::list(&store, &Stamp, Some(&source())).await.unwrap();
        let found = listed.into_iter().find(|listed| listed.at == at).expect("just made");
        let manifest = found.manifest.unwrap();
        for claim in [Claim::Seen {}, Claim::Verified { depth: Depth::Deep, bytes: 4 }] {
            pipeline::attest(&cx, &store, &Stamp, &manifest, claim).await.unwrap();
        }
        made.push(at);
    }
    (store, made)
}

fn now() -> jiff::Timestamp {
    "2026-06-30T12:00:00Z".parse().unwrap()
}

pub(crate) fn cx() -> Context {
    Context::new().with_clock(Arc::new(ManualClock::at(now())))
}

fn last(count: u32) -> Policy {
    Policy { last: NonZeroU32::new(count), ..Policy::default() }
}

pub(crate) fn parts<S: Source + Sink + Remover>(store: &S) -> PruneParts<'_> {
    PruneParts {
        source: store,
        sink: store,
        remover: store,
        trust: &Stamp,
        signer: &Stamp,
        clock: ClockCheck::Compared,
    }
}

async fn pruned<S: Source + Sink + Remover>(store: &S, policy: &Policy) -> Result<Pruned> {
    let parts = parts(store);
    let standing = pipeline::survey(&cx(), parts, &source()).await?;
    let plan = pipeline::plan_prune(&cx(), &source(), standing, policy, None);
    pipeline::prune(&cx(), parts, &plan).await
}

/// The backups that have a manifest; each of them is whole.
fn whole(store: &MemoryStore) -> BTreeSet<BackupRef> {
    let keys = store.keys();
    let there: BTreeSet<BackupRef> = keys.iter().filter_map(BackupRef::of_manifest).collect();
    for at in &there {
        assert!(keys.contains(&at.data()) && keys.contains(&at.tree()), "{at} is not whole");
    }
    there
}

#[tokio::test]
async fn incident_43_what_the_policy_lets_go_is_gone_with_everything_of_it_and_stands_in_the_history() {
    let (store, made) = aged(&[100, 50, 3]).await;
    let done = pruned(&store, &last(1)).await.unwrap();
    assert_eq!(done.removed, made[..2]);
    assert_eq!(whole(&store), BTreeSet::from([made[2].clone()]));
    for gone in &made[..2] {
        assert!(!store.keys().iter().any(|key| key.as_str().starts_with(&gone.prefix())));
        let stored = store.bytes(&gone.history()).unwrap();
        let removal = Stamp.vouch_removal(gone, &stored).unwrap();
        assert_eq!(removal.reason, "it is past every rule");
        let manifest = Stamp.vouch(gone, removal.manifest.as_bytes()).unwrap();
        assert_eq!(manifest.manifest().backup(), *gone);
    }
    assert_eq!(pruned(&store, &last(1)).await.unwrap(), Pruned::default(), "nothing is left to do");
}

#[tokio::test]
async fn a_backup_is_young_from_its_first_look_on_and_a_pin_holds() {
    let (store, made) = aged(&[100, 50]).await;
    let listed = pipeline::list(&store, &Stamp, Some(&source())).await.unwrap();
    let oldest = listed.iter().find(|listed| listed.at == made[0]).unwrap().manifest.as_ref().unwrap();
    pipeline::attest(&cx(), &store, &Stamp, oldest, Claim::Pinned { on: true }).await.unwrap();
    assert_eq!(pruned(&store, &last(1)).await.unwrap().removed, []);
    // A backup without a note gets one now.
    for key in store.keys() {
        if key.file_name().starts_with("seen-") && key.as_str().starts_with(&made[1].prefix()) {
            store.remove(&key).await.unwrap();
        }
    }
    let within = Policy { within: Some(SignedDuration::from_hours(1)), ..Policy::default() };
    assert_eq!(pruned(&store, &within).await.unwrap().removed, []);
    assert_eq!(whole(&store).len(), 2);
}

#[tokio::test]
async fn killed_at_any_call_every_backup_is_whole_or_gone_and_the_next_run_ends_it() {
    for fault in [Fault::Before, Fault::After, Fault::Gone] {
        let mut tried = 0;
        loop {
            let (store, made) = aged(&[100, 50, 3]).await;
            let plan = FaultPlan::at(tried, fault);
            let faulty = FaultyStore::new(store.clone(), plan.clone());
            let done = pruned(&faulty, &last(1)).await;
            let Some(call) = plan.fired() else {
                done.unwrap();
                break;
            };
            let what = format!("{fault:?} of {call}");
            let there = whole(&store);
            assert!(there.contains(&made[2]), "{what}: the one that is kept");
            for gone in made.iter().filter(|at| !there.contains(at)) {
                assert!(store.bytes(&gone.history()).is_some(), "{what}: {gone} is gone without a word");
            }
            pruned(&store, &last(1)).await.unwrap();
            assert_eq!(whole(&store), BTreeSet::from([made[2].clone()]), "{what}");
            for gone in &made[..2] {
                let left = store.keys().into_iter().find(|key| key.as_str().starts_with(&gone.prefix()));
                assert_eq!(left, None, "{what}");
            }
            tried += 1;
        }
        assert!(tried > 30, "{fault:?}: only {tried} calls");
    }
}

/// Of one day the first backup stays and the second goes, unless another machine lets the first go.
#[tokio::test]
async fn two_machines_that_prune_at_once_do_not_remove_what_the_other_relies_on() {
    let daily = Policy { daily: NonZeroU32::new(10), ..Policy::default() };
    let first = 1;
    for (hours_ago, spared) in [(0, true), (23, true), (25, false)] {
        let (store, made) = aged(&[40, 30, 20, 1]).await;
        let parts = parts(&store);
        let standing = pipeline::survey(&cx(), parts, &source()).await.unwrap();
        let relied_on = standing.iter().find(|one| one.candidate.id == made[first].id).unwrap();
        let earlier = ManualClock::at(now() - SignedDuration::from_hours(hours_ago));
        let other = Context::new().with_clock(Arc::new(earlier));
        pipeline::attest(&other, &store, &Stamp, &relied_on.manifest, Claim::Leaving {}).await.unwrap();
        let plan = pipeline::plan_prune(&cx(), &source(), standing, &daily, None);
        let done = pipeline::prune(&cx(), parts, &plan).await.unwrap();
        let (went, stayed) =
            if spared { (vec![], vec![made[2].clone()]) } else { (vec![made[2].clone()], vec![]) };
        assert_eq!((done.removed, done.spared), (went, stayed), "said {hours_ago} hours ago");
    }
    // The other machine was quicker: what it removed stands for nothing any more.
    let (store, made) = aged(&[40, 30, 20, 1]).await;
    let parts = parts(&store);
    let standing = pipeline::survey(&cx(), parts, &source()).await.unwrap();
    let plan = pipeline::plan_prune(&cx(), &source(), standing, &daily, None);
    // Noon to noon, the first of that day has another before it.
    let shifted = Policy { time_zone: TimeZone::fixed(Offset::from_seconds(43_200).unwrap()), ..daily };
    assert_eq!(pruned(&store, &shifted).await.unwrap().removed, [made[first].clone()]);
    let done = pipeline::prune(&cx(), parts, &plan).await.unwrap();
    assert_eq!((done.removed, done.spared), (vec![], vec![made[2].clone()]));
    assert_eq!(whole(&store).len(), 3);
}

/// One look at the place serves a batch, so that the calls grow with the removals and not with their square.
#[tokio::test]
async fn calls_grow_with_the_removals_and_not_with_their_square() {
    let mut calls = Vec::new();
    for count in [20, 40] {
        let hours: Vec<i64> = (1..=count).rev().map(|n| n * 30).collect();
        let (store, made) = aged(&hours).await;
        let standing = pipeline::survey(&cx(), parts(&store), &source()).await.unwrap();
        let plan = pipeline::plan_prune(&cx(), &source(), standing, &last(1), None);
        let counted = FaultPlan::never();
        let faulty = FaultyStore::new(store.clone(), counted.clone());
        let done = pipeline::prune(&cx(), parts(&faulty), &plan).await.unwrap();
        assert_eq!(done.removed, made[..made.len() - 1]);
        calls.push(counted.calls() / (made.len() - 1));
    }
    assert!(calls[1] <= calls[0] + 1, "{calls:?} calls for each");
}

/// Another machine prunes from its beginning to its end before the n-th call of this one.
#[derive(Debug)]
struct Meanwhile {
    store: MemoryStore,
    other: Policy,
    left: AtomicIsize,
}

impl Meanwhile {
    fn call(&self) {
        if self.left.fetch_sub(1, Ordering::SeqCst) == 0 {
            let (store, other) = (self.store.clone(), self.other.clone());
            let machine = std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(pruned(&store, &other)).unwrap();
            });
            machine.join().unwrap();
        }
    }
}

impl std::fmt::Display for Meanwhile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.store.fmt(f)
    }
}

#[async_trait::async_trait]
impl Source for Meanwhile {
    async fn stat(&self, key: &ObjectKey) -> Result<Option<ObjectInfo>> {
        self.call();
        self.store.stat(key).await
    }

    async fn fetch(
        &self,
        key: &ObjectKey,
        range: Option<std::ops::Range<u64>>,
        pin: Option<&EntityTag>,
    ) -> Result<ByteStream<Sealed>> {
        self.call();
        self.store.fetch(key, range, pin).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        self.call();
        self.store.list(prefix).await
    }
}

#[async_trait::async_trait]
impl Sink for Meanwhile {
    fn limits(&self) -> Limits {
        self.store.limits()
    }

    async fn begin(&self, key: &ObjectKey, size_hint: Option<u64>) -> Result<Box<dyn Upload>> {
        self.call();
        self.store.begin(key, size_hint).await
    }
}

#[async_trait::async_trait]
impl Remover for Meanwhile {
    async fn remove(&self, key: &ObjectKey) -> Result<()> {
        self.call();
        self.store.remove(key).await
    }

    async fn sweep_unfinished(&self, older_than: jiff::Timestamp) -> Result<Swept> {
        self.store.sweep_unfinished(older_than).await
    }
}

/// Of the four, one machine lets the third go because the second stands for its day, and the other the second
/// because two younger ones stand; they may meet at any call.
#[tokio::test]
async fn two_machines_with_other_rules_never_both_remove_what_the_other_keeps_for() {
    let daily = Policy { daily: NonZeroU32::new(10), ..Policy::default() };
    for (mine, other) in [(&daily, &last(2)), (&last(2), &daily)] {
        let mut outcomes = BTreeSet::new();
        for n in 0.. {
            let (store, made) = aged(&[40, 30, 20, 1]).await;
            let here = Meanwhile { store: store.clone(), other: other.clone(), left: n.into() };
            let standing = pipeline::survey(&cx(), parts(&store), &source()).await.unwrap();
            let plan = pipeline::plan_prune(&cx(), &source(), standing, mine, None);
            // What the other removed meanwhile may be gone under our hands; then the next run goes on.
            let done = pipeline::prune(&cx(), parts(&here), &plan).await;
            let there = whole(&store);
            assert!(there.contains(&made[3]), "call {n}");
            assert!(there.contains(&made[1]) || there.contains(&made[2]), "call {n}: {done:?}");
            outcomes.insert((there.contains(&made[1]), there.contains(&made[2])));
            if here.left.load(Ordering::SeqCst) >= 0 {
                break;
            }
        }
        assert!(outcomes.len() > 1, "they never met: {outcomes:?}");
    }
}

#[tokio::test]
async fn a_forged_history_removes_no_backup_that_is_being_made() {
    let (store, made) = aged(&[3]).await;
    store.remove(&made[0].manifest()).await.unwrap();
    store.overwrite(&made[0].history(), "signed nothing of the kind");
    let done = pruned(&store, &last(1)).await.unwrap();
    assert_eq!(done, Pruned::default());
    assert!(store.bytes(&made[0].data()).is_some());
    let other = Policy { slot: Period::Day, ..last(1) };
    assert_eq!(pruned(&store, &other).await.unwrap(), Pruned::default());
}

/// What is said of a backup at a moment.
async fn say(store: &MemoryStore, at: &BackupRef, hours_ago: i64, claim: Claim) {
    let clock = ManualClock::at(now() - SignedDuration::from_hours(hours_ago));
    let cx = Context::new().with_clock(Arc::new(clock));
    let manifest = pipeline::manifest(store, &Stamp, at).await.unwrap();
    pipeline::attest(&cx, store, &Stamp, &manifest, claim).await.unwrap();
}

#[tokio::test]
async fn a_failed_verification_counts_until_a_deep_one_succeeds() {
    let (store, made) = aged(&[100, 50, 3]).await;
    say(&store, &made[2], 2, Claim::Failed { depth: Depth::Sample }).await;
    let standing = pipeline::survey(&cx(), parts(&store), &source()).await.unwrap();
    let newest = standing.iter().find(|one| one.candidate.id == made[2].id).unwrap();
    assert!(newest.candidate.failed && !newest.candidate.proven);
    // It is the newest, so nothing goes; and were another newer, it would stand for nothing.
    assert_eq!(pruned(&store, &last(1)).await.unwrap().removed, []);
    for (depth, answered) in [(Depth::Sample, false), (Depth::Quick, false), (Depth::Deep, true)] {
        say(&store, &made[2], 1, Claim::Verified { depth, bytes: 4 }).await;
        let standing = pipeline::survey(&cx(), parts(&store), &source()).await.unwrap();
        let newest = standing.iter().find(|one| one.candidate.id == made[2].id).unwrap();
        assert_eq!((newest.candidate.failed, newest.candidate.proven), (!answered, answered), "{depth:?}");
    }
    assert_eq!(pruned(&store, &last(1)).await.unwrap().removed, made[..2]);
}

#[tokio::test]
async fn a_clock_far_ahead_notes_nothing_and_removes_nothing_unless_it_is_right() {
    let (store, made) = aged(&[30, 20, 1]).await;
    // That of the newest: one that is seen again becomes the youngest.
    let is_newest = |key: &ObjectKey| key.as_str().starts_with(&made[2].prefix());
    let seen: Vec<ObjectKey> = store
        .keys()
        .into_iter()
        .filter(|key| key.file_name().starts_with("seen-") && is_newest(key))
        .collect();
    store.remove(&seen[0]).await.unwrap();
    let before = store.keys();
    let year =
        Context::new().with_clock(Arc::new(ManualClock::at(now() + SignedDuration::from_hours(24 * 365))));
    let within = Policy { within: Some(SignedDuration::from_hours(72)), ..Policy::default() };
    let error = pipeline::survey(&year, parts(&store), &source()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.hint().unwrap().contains("--clock-is-right"), "{error}");
    assert_eq!(store.keys(), before);
    // It jumped after the look: the place's own time of what is written now tells.
    let standing = pipeline::survey(&cx(), parts(&store), &source()).await.unwrap();
    let plan = pipeline::plan_prune(&year, &source(), standing, &within, None);
    let error = pipeline::prune(&year, parts(&store), &plan).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(whole(&store).len(), 3);
    let told = PruneParts { clock: ClockCheck::Trusted, ..parts(&store) };
    let standing = pipeline::survey(&year, told, &source()).await.unwrap();
    let plan = pipeline::plan_prune(&year, &source(), standing, &within, None);
    let done = pipeline::prune(&year, told, &plan).await.unwrap();
    assert_eq!(done.removed, made[..2], "the newest proven one stays");
}

#[tokio::test]
async fn with_a_delay_a_backup_is_marked_first_and_goes_when_the_delay_is_over() {
    let (store, made) = aged(&[100, 50, 3]).await;
    let policy = Policy { delay: Some(SignedDuration::from_hours(48)), ..last(1) };
    let at_hour = |hours| {
        Context::new().with_clock(Arc::new(ManualClock::at(now() + SignedDuration::from_hours(hours))))
    };
    let run = async |hours, policy: &Policy| {
        let (cx, parts) = (at_hour(hours), parts(&store));
        let standing = pipeline::survey(&cx, parts, &source()).await.unwrap();
        let plan = pipeline::plan_prune(&cx, &source(), standing, policy, None);
        let parts = PruneParts { clock: ClockCheck::Trusted, ..parts };
        pipeline::prune(&cx, parts, &plan).await.unwrap()
    };
    for hours in [0, 24, 47] {
        let done = run(hours, &policy).await;
        assert_eq!((done.waiting, done.removed), (made[..2].to_vec(), vec![]), "{hours}");
    }
    // Kept after all, and let go again: the delay begins anew.
    let done = run(47, &Policy { daily: NonZeroU32::new(30), ..policy.clone() }).await;
    assert_eq!(done, Pruned::default());
    assert_eq!(run(49, &policy).await.waiting, made[..2]);
    assert_eq!(run(96, &policy).await.waiting, made[..2]);
    assert_eq!(run(97, &policy).await.removed, made[..2]);
}

#[tokio::test]
async fn an_emptied_source_stops_pruning_until_a_person_accepts_its_size() {
    let (store, made) = aged(&[240, 216, 192, 168, 2]).await;
    let grown = |at: &BackupRef| {
        let stored = store.bytes(&at.manifest()).unwrap();
        let text = String::from_utf8(stored.to_vec()).unwrap();
        // As if each had been a megabyte: the statements about it are made anew.
        text.replace("\"object_len\":21", "\"object_len\":1000000")
    };
    for at in &made[..4] {
        let text = grown(at);
        store.overwrite(&at.manifest(), text.clone());
        let hours = [240, 216, 192, 168][made.iter().position(|one| one == at).unwrap()];
        for key in store.keys().iter().filter(|key| key.as_str().starts_with(&at.prefix())) {
            if key.as_str().contains("/statements/") {
                store.remove(key).await.unwrap();
            }
        }
        say(&store, at, hours, Claim::Seen {}).await;
        say(&store, at, hours, Claim::Verified { depth: Depth::Deep, bytes: 4 }).await;
    }
    let standing = pipeline::survey(&cx(), parts(&store), &source()).await.unwrap();
    let plan = pipeline::plan_prune(&cx(), &source(), standing, &last(1), None);
    assert!(
        plan.frozen.as_ref().is_some_and(|why| why.contains(&made[4].id.to_string())),
        "{:?}",
        plan.frozen
    );
    assert_eq!(pipeline::prune(&cx(), parts(&store), &plan).await.unwrap(), Pruned::default());
    say(&store, &made[4], 1, Claim::Accepted {}).await;
    assert_eq!(pruned(&store, &last(1)).await.unwrap().removed, made[..4]);
}
