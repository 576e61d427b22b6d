//! A backup through a spool, where anything fails, and what the next run makes of it.

#![allow(clippy::unwrap_used)]

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use backup_core::pipeline::{self, BackupRequest, Destination, Enough, MirrorParts, Resumed, Spool, Spooled};
use backup_core::testing::{
    Fault, FaultPlan, FaultyLedger, FaultyStore, MemoryJournals, MemoryLedger, MemoryStore, ScriptedDumper,
};
use backup_core::*;

use crate::mirror::{holds, source};
use crate::stamp::Stamp;

const FAULTS: [Fault; 5] = [Fault::Before, Fault::After, Fault::CutShort, Fault::Broken, Fault::Gone];

/// Counts the dumps that are asked for.
#[derive(Debug, Clone)]
struct Counted(Arc<AtomicUsize>);

#[async_trait]
impl Dumper for Counted {
    async fn probe(&self, cx: &Context) -> Result<Probe> {
        ScriptedDumper::new(["ab"]).probe(cx).await
    }

    async fn dump(&self, cx: &Context, what: &Selection) -> Result<Dump> {
        self.0.fetch_add(1, Ordering::SeqCst);
        ScriptedDumper::new(["ab", "cd", "ef"]).dump(cx, what).await
    }
}

/// One host, one repository, two destinations, a spool.
struct World {
    stores: [MemoryStore; 2],
    spool: MemoryStore,
    journals: MemoryJournals,
    ledger: MemoryLedger,
    repository: RepositoryId,
    dumps: Counted,
}

/// What fails, by which of the ports.
struct Plans {
    first: FaultPlan,
    second: FaultPlan,
    spool: FaultPlan,
    ledger: FaultPlan,
}

impl Plans {
    fn never() -> Self {
        let never = FaultPlan::never;
        Self { first: never(), second: never(), spool: never(), ledger: never() }
    }
}

impl World {
    fn new() -> Self {
        Self {
            stores: [MemoryStore::new(), MemoryStore::new()],
            spool: MemoryStore::new(),
            journals: MemoryJournals::default(),
            ledger: MemoryLedger::default(),
            repository: RepositoryId::random(),
            dumps: Counted(Arc::default()),
        }
    }

    fn parts(&self, plans: &Plans, enough: Enough) -> MirrorParts {
        let place = |name: &str, store: &MemoryStore, plan: &FaultPlan| {
            let store = Arc::new(FaultyStore::new(store.clone(), plan.clone()));
            let sink = Arc::clone(&store) as Arc<dyn Sink>;
            Destination { name: name.to_owned(), sink, reader: store, patience: None }
        };
        MirrorParts {
            dumper: Arc::new(self.dumps.clone()),
            encryptor: Arc::new(Stamp),
            destinations: vec![
                place("a", &self.stores[0], &plans.first),
                place("b", &self.stores[1], &plans.second),
            ],
            unusable: Vec::new(),
            enough,
            signer: Arc::new(Stamp),
            ledger: Arc::new(FaultyLedger::new(self.ledger.clone(), plans.ledger.clone())),
            catalog: None,
        }
    }

    fn spool(&self, plan: &FaultPlan) -> Spool {
        let store = Arc::new(FaultyStore::new(self.spool.clone(), plan.clone()));
        Spool {
            sink: Arc::clone(&store) as Arc<dyn Sink>,
            source: Arc::clone(&store) as Arc<dyn Source>,
            remover: store,
            journals: Arc::new(self.journals.clone()),
        }
    }

    async fn back_up(&self, plans: &Plans, enough: Enough) -> (BackupRef, Resumed) {
        let request = BackupRequest::new(self.repository, source());
        let at = BackupRef { source: source(), id: request.id };
        let (parts, spool) = (self.parts(plans, enough), self.spool(&plans.spool));
        (at, pipeline::mirror_through(&Context::new(), &parts, &spool, request).await)
    }

    async fn resume(&self, plans: &Plans, enough: Enough, spooled: &Spooled) -> Resumed {
        let (parts, spool) = (self.parts(plans, enough), self.spool(&plans.spool));
        pipeline::resume(&Context::new(), &parts, &spool, spooled, true).await
    }

    async fn entries(&self) -> Vec<(BackupRef, Result<Spooled>)> {
        self.spool(&FaultPlan::never()).entries(&Context::new(), &source()).await.unwrap()
    }

    /// The one entry that the spool holds.
    async fn entry(&self) -> Spooled {
        let mut entries = self.entries().await;
        assert_eq!(entries.len(), 1);
        entries.remove(0).1.unwrap()
    }

    async fn holds(&self, at: &BackupRef) -> [bool; 2] {
        [holds(&self.stores[0], at).await, holds(&self.stores[1], at).await]
    }

    fn dumps(&self) -> usize {
        self.dumps.0.load(Ordering::SeqCst)
    }

    /// Every number stands for one manifest, wherever it is, and none is below one that came before it.
    async fn check_history(&self, what: &str) {
        let mut numbers = std::collections::BTreeMap::new();
        for store in &self.stores {
            for entry in pipeline::list(store, &Stamp, None).await.unwrap() {
                let manifest = entry.manifest.unwrap();
                let (seq, pae) = (manifest.manifest().seq, manifest.pae_sha256());
                let known = numbers.insert(seq, (pae, manifest.manifest().started));
                assert!(
                    known.is_none_or(|(known, _)| known == pae),
                    "{what}: number {seq} was given out twice"
                );
            }
        }
        let started: Vec<_> = numbers.values().map(|(_, started)| *started).collect();
        assert!(started.is_sorted(), "{what}: an older state was signed after a newer one");
    }

    /// What the next run of the source does: finish or discard what is there, then back up anew.
    async fn next_run(&self, what: &str) -> Vec<(BackupRef, Resumed)> {
        let never = Plans::never();
        let mut resumed = Vec::new();
        for (at, entry) in self.entries().await {
            let done = match entry {
                Ok(spooled) => self.resume(&never, Enough::All, &spooled).await,
                Err(error) => panic!("{what}: an entry is damaged: {error}"),
            };
            assert!(done.delivered || done.hopeless, "{what}: {:?}", done.mirrored);
            if done.hopeless {
                self.spool(&FaultPlan::never()).discard(&at).await.unwrap();
            }
            resumed.push((at, done));
        }
        let (later, made) = self.back_up(&never, Enough::All).await;
        made.mirrored.outcome.unwrap_or_else(|error| panic!("{what}: the next run failed: {error}"));
        assert!(made.delivered);
        assert_eq!(self.holds(&later).await, [true, true], "{what}");
        assert!(self.spool.keys().is_empty(), "{what}: the spool keeps {:?}", self.spool.keys());
        assert_eq!(self.journals.count(), 0, "{what}");
        resumed
    }
}

#[tokio::test]
async fn a_backup_through_a_spool_leaves_nothing_there_and_is_in_every_place() {
    let world = World::new();
    let (at, made) = world.back_up(&Plans::never(), Enough::All).await;
    let done = made.mirrored.outcome.unwrap();
    assert!(made.delivered && !made.hopeless && done.read_back);
    assert_eq!(world.holds(&at).await, [true, true]);
    assert!(world.spool.keys().is_empty());
}

/// For every call of a backup through a spool into two destinations, in every way it can fail, in one place,
/// in the spool or the ledger, or counted over all of them: each place holds a whole backup or none, and
/// the next run finishes what the spool holds without a new dump and with a number that nobody else has.
#[tokio::test]
async fn incident_67_a_spooled_backup_failed_at_any_call_is_finished_by_the_next_run() {
    let mut tried = 0;
    for enough in [Enough::All, Enough::AtLeast(NonZeroUsize::MIN)] {
        for fails in ["first", "second", "spool", "ledger", "all"] {
            // Where one copy is enough, it matters that one place alone fails.
            if enough != Enough::All && fails != "second" {
                continue;
            }
            for fault in FAULTS {
                for n in 0.. {
                    let world = World::new();
                    let (earlier, good) = world.back_up(&Plans::never(), enough).await;
                    good.mirrored.outcome.unwrap();
                    let plan = FaultPlan::at(n, fault);
                    let plans = plans(fails, &plan);
                    let (at, made) = world.back_up(&plans, enough).await;
                    let what = format!("{enough:?}, {fails}, {fault:?} at call {n}: {:?}", plan.fired());
                    if let Err(error) = &made.mirrored.outcome {
                        assert_ne!(error.kind(), ErrorKind::Bug, "{what}: {error}");
                    }
                    let there = world.holds(&at).await;
                    if made.delivered {
                        assert_eq!(there, [true, true], "{what}");
                    }
                    let dumps = world.dumps();
                    let spooled = world.entries().await.len();
                    let resumed = world.next_run(&what).await;
                    assert_eq!(world.dumps(), dumps + 1, "{what}: the database was dumped again");
                    assert_eq!(resumed.len(), spooled, "{what}");
                    for (resumed, done) in &resumed {
                        // Every place answers now, so that what was whole is delivered.
                        assert!(done.delivered, "{what}: {:?}", done.mirrored.outcome);
                        assert_eq!(world.holds(resumed).await, [true, true], "{what}");
                    }
                    // What was seen to be there stays there.
                    let now = world.holds(&at).await;
                    assert!(now[0] >= there[0] && now[1] >= there[1], "{what}");
                    assert_eq!(world.holds(&earlier).await, [true, true], "{what}: the earlier backup");
                    world.check_history(&what).await;
                    if plan.fired().is_none() {
                        break;
                    }
                    tried += 1;
                }
            }
        }
    }
    println!("calls of a spooled backup into two destinations that were made to fail: {tried}");
    assert!(tried >= 500, "only {tried} calls were made to fail");
}

fn plans(fails: &str, plan: &FaultPlan) -> Plans {
    let of = |name: &str| if fails == name || fails == "all" { plan.clone() } else { FaultPlan::never() };
    Plans { first: of("first"), second: of("second"), spool: of("spool"), ledger: of("ledger") }
}

/// The same for the run that resumes: killed at any call, the next one goes on again.
#[tokio::test]
async fn a_resumed_run_failed_at_any_call_is_finished_by_the_next() {
    let mut tried = 0;
    // Calls over both places after which the first run ended: before anything was stored, and between the
    // manifest in one place and in the other.
    for cut in [3, 25] {
        for fails in ["first", "second", "spool", "ledger", "all"] {
            if cut == 3 && fails != "all" {
                continue;
            }
            for fault in FAULTS {
                for n in 0.. {
                    let world = World::new();
                    let (_, good) = world.back_up(&Plans::never(), Enough::All).await;
                    good.mirrored.outcome.unwrap();
                    let gone = FaultPlan::at(cut, Fault::Gone);
                    let cut_off = Plans { first: gone.clone(), second: gone, ..Plans::never() };
                    let (at, made) = world.back_up(&cut_off, Enough::All).await;
                    assert!(made.mirrored.outcome.is_err() && !made.delivered, "cut at {cut}");
                    let spooled = world.entry().await;
                    assert_eq!(spooled.at(), at);
                    let dumps = world.dumps();

                    let plan = FaultPlan::at(n, fault);
                    let resumed = world.resume(&plans(fails, &plan), Enough::All, &spooled).await;
                    let what = format!("cut at {cut}, {fails}, {fault:?} at call {n}: {:?}", plan.fired());
                    if let Err(error) = &resumed.mirrored.outcome {
                        assert_ne!(error.kind(), ErrorKind::Bug, "{what}: {error}");
                    }
                    // Only a place or a disk that gives other bytes makes an entry useless.
                    assert!(!resumed.hopeless || fault == Fault::CutShort, "{what}: {:?}", resumed.mirrored);
                    let there = world.holds(&at).await;
                    assert!(!resumed.delivered || there == [true, true], "{what}");
                    world.next_run(&what).await;
                    assert_eq!(world.holds(&at).await, [true, true], "{what}");
                    assert_eq!(world.dumps(), dumps + 1, "{what}: the database was dumped again");
                    world.check_history(&what).await;
                    if plan.fired().is_none() {
                        break;
                    }
                    tried += 1;
                }
            }
        }
    }
    println!("calls of a resumed run that were made to fail: {tried}");
    assert!(tried >= 300, "only {tried} calls were made to fail");
}

#[tokio::test]
async fn the_copy_that_failed_is_finished_and_the_good_one_is_not_written_again() {
    let world = World::new();
    world.back_up(&Plans::never(), Enough::All).await.1.mirrored.outcome.unwrap();
    let one = Enough::AtLeast(NonZeroUsize::MIN);
    let second = FaultPlan::at(0, Fault::Gone);
    let (at, made) = world.back_up(&Plans { second, ..Plans::never() }, one).await;
    let manifest = made.mirrored.outcome.unwrap().manifest;
    assert!(!made.delivered);
    assert_eq!(world.holds(&at).await, [true, false]);
    let spooled = world.entry().await;
    // Counted over the good place: it is looked at and nothing more.
    let first = FaultPlan::never();
    let written = world.stores[0].keys().len();
    let resumed = world.resume(&Plans { first: first.clone(), ..Plans::never() }, one, &spooled).await;
    assert!(resumed.delivered);
    assert_eq!(resumed.mirrored.outcome.unwrap().manifest, manifest);
    assert_eq!(world.holds(&at).await, [true, true]);
    assert_eq!(world.stores[0].bytes(&at.manifest()), world.stores[1].bytes(&at.manifest()));
    // One receipt that it is one of several.
    assert!(world.stores[0].keys().len() <= written + 1, "{:?}", world.stores[0].keys());
    assert_eq!(world.dumps(), 2);
}

#[tokio::test]
async fn a_spool_with_one_bent_byte_makes_no_backup() {
    for name in ["data.strongroom", "data.tree", "spooled.json", "manifest.json"] {
        let world = World::new();
        // Cut off so late that the manifest is signed.
        let gone = FaultPlan::at(22, Fault::Gone);
        let (at, made) =
            world.back_up(&Plans { first: gone.clone(), second: gone, ..Plans::never() }, Enough::All).await;
        assert!(made.mirrored.outcome.is_err());
        for store in &world.stores {
            for key in store.keys() {
                store.remove(&key).await.unwrap();
            }
        }
        let key: ObjectKey = format!("{}{name}", at.prefix()).parse().unwrap();
        let Some(bytes) = world.spool.bytes(&key) else { panic!("the spool has no {name}") };
        let mut bytes = bytes.to_vec();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        world.spool.overwrite(&key, bytes);
        let (_, entry) = world.entries().await.remove(0);
        match entry {
            Err(error) => assert_eq!((name, error.kind()), ("spooled.json", ErrorKind::Integrity)),
            Ok(spooled) => {
                let resumed = world.resume(&Plans::never(), Enough::All, &spooled).await;
                let error = resumed.mirrored.outcome.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Integrity, "{name}: {error}");
                assert!(resumed.hopeless && !resumed.delivered, "{name}");
            }
        }
        assert_eq!(world.holds(&at).await, [false, false], "{name}");
    }
}

/// A backup that was made without the spool meanwhile is newer: what the spool holds must not become the
/// latest after it.
#[tokio::test]
async fn what_was_overtaken_is_not_signed() {
    for cut in [3, 22] {
        let world = World::new();
        let gone = FaultPlan::at(cut, Fault::Gone);
        let (at, made) =
            world.back_up(&Plans { first: gone.clone(), second: gone, ..Plans::never() }, Enough::All).await;
        assert!(made.mirrored.outcome.is_err());
        let request = BackupRequest::new(world.repository, source());
        let parts = world.parts(&Plans::never(), Enough::All);
        pipeline::mirror(&Context::new(), &parts, request).await.outcome.unwrap();
        let spooled = world.entry().await;
        let resumed = world.resume(&Plans::never(), Enough::All, &spooled).await;
        assert_eq!(resumed.mirrored.outcome.unwrap_err().kind(), ErrorKind::Conflict);
        assert!(resumed.hopeless);
        assert_eq!(world.holds(&at).await, [false, false]);
        world.check_history("overtaken").await;
    }
}

#[tokio::test]
async fn a_dump_that_was_cut_off_leaves_no_entry() {
    let world = World::new();
    let (_, made) =
        world.back_up(&Plans { spool: FaultPlan::at(2, Fault::Gone), ..Plans::never() }, Enough::All).await;
    assert!(made.mirrored.outcome.is_err());
    // The data as a whole, too, and no record of it: killed between the two.
    let at = BackupRef { source: source(), id: BackupId::random() };
    world.spool.overwrite(&at.data(), vec![1; 100]);
    assert!(world.entries().await.is_empty());
    assert!(world.spool.keys().is_empty() && world.spool.unfinished() == 0);
}
