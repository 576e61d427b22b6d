//! One backup into several places, where places fail.

#![allow(clippy::unwrap_used)]

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use backup_core::pipeline::{self, BackupRequest, CopyState, Destination, Enough, MirrorParts, Mirrored};
use backup_core::testing::{
    Fault, FaultPlan, FaultyLedger, FaultyStore, MemoryLedger, MemoryStore, ScriptedDumper,
};
use backup_core::*;
use bytes::Bytes;

use crate::stamp::Stamp;

const FAULTS: [Fault; 5] = [Fault::Before, Fault::After, Fault::CutShort, Fault::Broken, Fault::Gone];
const NAMES: [&str; 4] = ["a", "b", "c", "d"];

pub(crate) fn source() -> SourceName {
    "orders".parse().unwrap()
}

/// One host, one repository, a store for each destination.
struct World {
    stores: Vec<MemoryStore>,
    ledger: MemoryLedger,
    repository: RepositoryId,
}

impl World {
    fn new(places: usize) -> Self {
        Self {
            stores: (0..places).map(|_| MemoryStore::new()).collect(),
            ledger: MemoryLedger::default(),
            repository: RepositoryId::random(),
        }
    }

    fn parts(&self, plans: &[FaultPlan], ledger: &FaultPlan, enough: Enough) -> MirrorParts {
        let place = |(i, plan): (usize, &FaultPlan)| {
            let store = Arc::new(FaultyStore::new(self.stores[i].clone(), plan.clone()));
            Destination {
                name: NAMES[i].to_owned(),
                sink: Arc::clone(&store) as Arc<dyn Sink>,
                reader: store,
                patience: Some(Duration::from_secs(300)),
            }
        };
        MirrorParts {
            dumper: Arc::new(ScriptedDumper::new(["ab", "cd", "ef"])),
            encryptor: Arc::new(Stamp),
            destinations: plans.iter().enumerate().map(place).collect(),
            unusable: Vec::new(),
            enough,
            signer: Arc::new(Stamp),
            ledger: Arc::new(FaultyLedger::new(self.ledger.clone(), ledger.clone())),
            catalog: None,
        }
    }

    async fn back_up(
        &self,
        plans: &[FaultPlan],
        ledger: &FaultPlan,
        enough: Enough,
    ) -> (BackupRef, Mirrored) {
        let request = BackupRequest::new(self.repository, source());
        let at = BackupRef { source: source(), id: request.id };
        (at, pipeline::mirror(&Context::new(), &self.parts(plans, ledger, enough), request).await)
    }

    async fn good(&self) -> BackupRef {
        let plans: Vec<_> = self.stores.iter().map(|_| FaultPlan::never()).collect();
        let (at, made) = self.back_up(&plans, &FaultPlan::never(), Enough::All).await;
        made.outcome.unwrap();
        at
    }

    /// Whether this place holds the backup; what it holds is whole.
    async fn holds(&self, place: usize, at: &BackupRef) -> bool {
        holds(&self.stores[place], at).await
    }
}

/// Whether a store holds the backup; what it holds is whole and everything of it can be read.
pub(crate) async fn holds(store: &MemoryStore, at: &BackupRef) -> bool {
    let listed = pipeline::list(store, &Stamp, None).await.unwrap();
    for entry in &listed {
        assert!(entry.manifest.is_ok(), "{} is not believed", entry.at);
        let quick = pipeline::quick(&Context::new(), store, &Stamp, &Stamp, &entry.at).await;
        quick.unwrap_or_else(|error| panic!("{} is visible and not whole: {error}", entry.at));
    }
    listed.iter().any(|entry| entry.at == *at)
}

/// Which calls are made to fail.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Where {
    First,
    Second,
    Everywhere,
}

/// For every call of a backup into two places, in every way it can fail, in one place or counted over
/// both and the ledger: each place holds a whole backup or none, what is said is true, every earlier
/// backup stands, and the next run works.
#[tokio::test]
async fn a_mirrored_backup_failed_at_any_call_is_whole_or_absent_in_each_place() {
    let one = Enough::AtLeast(NonZeroUsize::MIN);
    let mut tried = 0;
    for enough in [Enough::All, one] {
        for fails in [Where::First, Where::Second, Where::Everywhere] {
            for fault in FAULTS {
                for n in 0.. {
                    let world = World::new(2);
                    let earlier = world.good().await;
                    let (plan, never) = (FaultPlan::at(n, fault), FaultPlan::never());
                    let plans = match fails {
                        Where::First => [plan.clone(), never.clone()],
                        Where::Second => [never.clone(), plan.clone()],
                        Where::Everywhere => [plan.clone(), plan.clone()],
                    };
                    let ledger = if fails == Where::Everywhere { &plan } else { &never };
                    let (at, made) = world.back_up(&plans, ledger, enough).await;
                    let what = format!("{enough:?}, {fails:?}, {fault:?} at call {n}: {:?}", plan.fired());
                    judge(&world, &at, &made, enough, fault, &what).await;
                    if fails != Where::Everywhere && enough == one {
                        made.outcome
                            .as_ref()
                            .unwrap_or_else(|error| panic!("{what}: one place was good and enough: {error}"));
                    }
                    for place in 0..2 {
                        assert!(world.holds(place, &earlier).await, "{what}: the earlier backup in {place}");
                    }
                    // The next run works, with a number that was given to nobody else.
                    let later = world.good().await;
                    let mut numbers = std::collections::BTreeMap::new();
                    for place in 0..2 {
                        assert!(world.holds(place, &later).await, "{what}");
                        for entry in pipeline::list(&world.stores[place], &Stamp, None).await.unwrap() {
                            let manifest = entry.manifest.unwrap();
                            let known = numbers.insert(manifest.manifest().seq, manifest.pae_sha256());
                            assert!(known.is_none_or(|known| known == manifest.pae_sha256()), "{what}");
                        }
                    }
                    if plan.fired().is_none() {
                        break;
                    }
                    tried += 1;
                }
            }
        }
    }
    println!("calls of a backup into two destinations that were made to fail: {tried}");
    assert!(tried >= 700, "only {tried} calls were made to fail");
}

/// What is said is what is there.
async fn judge(world: &World, at: &BackupRef, made: &Mirrored, enough: Enough, fault: Fault, what: &str) {
    let mut there = 0;
    for (place, copy) in made.copies.iter().enumerate() {
        assert_eq!(copy.name, NAMES[place]);
        let holds = world.holds(place, at).await;
        there += usize::from(holds);
        match &copy.state {
            CopyState::Stored => assert!(holds, "{what}: a green tick that lied about {}", copy.name),
            CopyState::Failed(error) | CopyState::Uncertain(error) => {
                assert_ne!(error.kind(), ErrorKind::Bug, "{what}: {error}");
            }
            CopyState::Stopped => {}
        }
        if let CopyState::Failed(_) | CopyState::Stopped = &copy.state {
            assert!(!holds, "{what}: {} holds a backup and is said to hold none", copy.name);
        }
    }
    let stored = made.copies.iter().filter(|copy| matches!(copy.state, CopyState::Stored)).count();
    match &made.outcome {
        Ok(done) => {
            assert!(done.read_back && stored >= enough.of(2), "{what}");
            assert_eq!(done.manifest.backup(), *at);
        }
        Err(error) if error.kind() == ErrorKind::Incomplete => {
            assert!(stored >= 1 && stored < enough.of(2), "{what}: {error}");
        }
        Err(error) => {
            assert_ne!(error.kind(), ErrorKind::Bug, "{what}: {error}");
            assert_eq!(stored, 0, "{what}: {error}");
            // Whole although it failed: only where the answer was lost, or the store gives other bytes.
            let doubt = if fault == Fault::CutShort { ErrorKind::Integrity } else { ErrorKind::Uncertain };
            assert!(there == 0 || error.kind() == doubt, "{what}: {error}");
        }
    }
}

#[tokio::test]
async fn all_copies_are_the_same_bytes_with_a_receipt_beside_each() {
    let world = World::new(3);
    let at = world.good().await;
    for key in [at.data(), at.tree(), at.manifest()] {
        let first = world.stores[0].bytes(&key).unwrap();
        assert!(world.stores.iter().all(|store| store.bytes(&key).as_ref() == Some(&first)), "{key}");
    }
    for (store, name) in world.stores.iter().zip(NAMES) {
        let manifest = pipeline::manifest(store, &Stamp, &at).await.unwrap();
        let said = pipeline::attestations(store, &Stamp, &manifest).await.unwrap();
        let [said] = &said.believed[..] else { panic!("{said:?}") };
        let object_len = manifest.manifest().object_len;
        let receipt = Claim::Copied { from: None, to: name.to_owned(), object_len, first_seen: None };
        assert_eq!((&said.claim, said.manifest), (&receipt, manifest.pae_sha256()));
    }
}

#[tokio::test]
async fn a_destination_that_is_gone_is_told_and_the_policy_decides() {
    for (at_least, places_left, good) in [(1, 1, true), (2, 1, false), (2, 2, true), (3, 2, false)] {
        let total = places_left + 1;
        let world = World::new(total);
        world.good().await;
        let mut plans = vec![FaultPlan::never(); places_left];
        plans.push(FaultPlan::at(0, Fault::Gone));
        let enough = Enough::AtLeast(NonZeroUsize::new(at_least).unwrap());
        let (at, made) = world.back_up(&plans, &FaultPlan::never(), enough).await;
        assert_eq!(made.outcome.is_ok(), good, "{at_least} of {places_left}");
        for place in 0..total {
            assert_eq!(
                world.holds(place, &at).await,
                good && place < places_left,
                "{at_least} of {places_left}"
            );
        }
        assert!(matches!(made.copies[places_left].state, CopyState::Failed(_)));
        if let Err(error) = made.outcome {
            assert_eq!(error.kind(), ErrorKind::Unavailable);
            assert!(error.what().contains("c: ") || error.what().contains("b: "), "{error}");
        }
    }
    let world = World::new(1);
    let two = Enough::AtLeast(NonZeroUsize::new(2).unwrap());
    let (_, made) = world.back_up(&[FaultPlan::never()], &FaultPlan::never(), two).await;
    assert_eq!(made.outcome.unwrap_err().kind(), ErrorKind::Config);
}

/// A place that takes so long for each chunk, or for ever.
#[derive(Debug, Clone)]
struct Slow(MemoryStore, Option<Duration>);

impl std::fmt::Display for Slow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("slow")
    }
}

#[async_trait]
impl Sink for Slow {
    fn limits(&self) -> Limits {
        self.0.limits()
    }

    async fn begin(&self, key: &ObjectKey, size_hint: Option<u64>) -> Result<Box<dyn Upload>> {
        Ok(Box::new(SlowUpload(self.0.begin(key, size_hint).await?, self.1)))
    }
}

#[derive(Debug)]
struct SlowUpload(Box<dyn Upload>, Option<Duration>);

#[async_trait]
impl Upload for SlowUpload {
    async fn write(&mut self, chunk: Bytes) -> Result<()> {
        match self.1 {
            Some(delay) => tokio::time::sleep(delay).await,
            None => std::future::pending().await,
        }
        self.0.write(chunk).await
    }

    async fn commit(self: Box<Self>, whole: Whole) -> Result<Receipt> {
        self.0.commit(whole).await
    }

    async fn abort(self: Box<Self>) -> Result<()> {
        self.0.abort().await
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_place_slows_the_others_and_a_stalled_one_is_given_up() {
    let one = Enough::AtLeast(NonZeroUsize::MIN);
    for (delay, stored) in [(Some(Duration::from_secs(299)), true), (None, false)] {
        let world = World::new(2);
        world.good().await;
        let never = FaultPlan::never();
        let mut parts = world.parts(&[never.clone(), never.clone()], &never, one);
        parts.destinations[1].sink = Arc::new(Slow(world.stores[1].clone(), delay));
        let request = BackupRequest::new(world.repository, source());
        let at = BackupRef { source: source(), id: request.id };
        let began = tokio::time::Instant::now();
        let made = pipeline::mirror(&Context::new(), &parts, request).await;
        let took = began.elapsed();
        made.outcome.unwrap();
        assert!(world.holds(0, &at).await);
        assert_eq!(world.holds(1, &at).await, stored);
        match &made.copies[1].state {
            CopyState::Failed(error) => {
                assert_eq!(error.kind(), ErrorKind::TimedOut);
                assert!((300..320).contains(&took.as_secs()), "{took:?}");
            }
            // Three chunks, the seal, the tree, the manifest and the receipt, one after the other.
            state => {
                assert!(matches!(state, CopyState::Stored));
                assert!(took >= Duration::from_secs(299 * 7), "{took:?}");
            }
        }
    }
}

/// A number is never given out twice, also where the place that holds its manifest is away.
#[tokio::test]
async fn a_number_that_may_stand_in_an_absent_place_is_not_given_out_again() {
    let world = World::new(2);
    let first = world.good().await;
    let lost = Head { id: BackupId::random(), seq: 2, pae_sha256: Sha256Digest::of(b"nobody knows") };
    world.ledger.intend(&world.repository, &source(), lost).await.unwrap();
    let gone = [FaultPlan::never(), FaultPlan::at(0, Fault::Gone)];
    let one = Enough::AtLeast(NonZeroUsize::MIN);
    let (_, made) = world.back_up(&gone, &FaultPlan::never(), one).await;
    let manifest = made.outcome.unwrap().manifest;
    assert_eq!((manifest.seq, manifest.prev), (3, Some(lost.pae_sha256)));
    // Where every place can be looked at, it is known that nobody has it.
    let world = World::new(2);
    let _ = (first, world.good().await);
    world.ledger.intend(&world.repository, &source(), lost).await.unwrap();
    let next = world.good().await;
    let manifest = pipeline::manifest(&world.stores[1], &Stamp, &next).await.unwrap();
    assert_eq!(manifest.manifest().seq, 2);
}

/// A host without memory must see all places, or it would give out numbers that stand in one.
#[tokio::test]
async fn a_host_without_memory_backs_up_nothing_while_a_place_is_away() {
    let world = World::new(2);
    let one = Enough::AtLeast(NonZeroUsize::MIN);
    let gone = [FaultPlan::never(), FaultPlan::at(0, Fault::Gone)];
    let (at, made) = world.back_up(&gone, &FaultPlan::never(), one).await;
    assert_eq!(made.outcome.unwrap_err().kind(), ErrorKind::Unavailable);
    assert!(!world.holds(0, &at).await);
    // Nor where one of them holds what it signed and forgot.
    world.good().await;
    let forgetful = World { ledger: MemoryLedger::default(), ..world };
    forgetful.stores[0].keys().iter().for_each(|key| forgetful.stores[0].overwrite(key, "gone"));
    let never = [FaultPlan::never(), FaultPlan::never()];
    let (_, made) = forgetful.back_up(&never, &FaultPlan::never(), one).await;
    assert_eq!(made.outcome.unwrap_err().kind(), ErrorKind::Conflict);
}
