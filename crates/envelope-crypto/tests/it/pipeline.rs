//! The whole backup and the whole restore, with one call failing at a time: for every call there is,
//! in every way it can fail, either a whole backup or none, and everything stored before is intact.

use std::collections::BTreeMap;
use std::sync::Arc;

use backup_core::pipeline::{self, BackedUp, BackupParts, BackupRequest, RestoreOptions, RestoreOutcome};
use backup_core::testing::{
    Fault, FaultPlan, Faulty, FaultyLedger, FaultyStore, MemoryCatalog, MemoryLedger, MemoryRestorer,
    MemoryStore, ScriptedDumper, collect,
};
use backup_core::{
    BackupId, BackupRef, ByteStream, CancelToken, Catalog as _, Context, Dumper, EntityTag, ErrorKind, Event,
    Ledger, ObjectInfo, ObjectKey, Origin, Progress, Remover as _, RepositoryId, Result, RunStatus, Sealed,
    Selection, Signer, Sink, Source, SourceName,
};
use bytes::Bytes;
use envelope_crypto::sign::SigningKey;
use envelope_crypto::trust::{KeyGrant, NewRepository, RepositoryTrust};
use envelope_crypto::{EnvelopeAuditor, EnvelopeDecryptor, EnvelopeEncryptor, OpenOptions};

use crate::fixture::{self, BLOCK};

const FAULTS: [Fault; 5] = [Fault::Before, Fault::After, Fault::CutShort, Fault::Broken, Fault::Gone];

/// One host, one repository, one store.
pub(crate) struct World {
    pub(crate) store: MemoryStore,
    ledger: MemoryLedger,
    catalog: MemoryCatalog,
    signer: Arc<SigningKey>,
    pub(crate) trust: RepositoryTrust,
    repository: RepositoryId,
}

impl World {
    pub(crate) fn new() -> Self {
        let (owner, host) = (SigningKey::generate().unwrap(), SigningKey::generate().unwrap());
        let grants = vec![KeyGrant::backup_of_all(*host.verifying_key())];
        let made = NewRepository::create(&owner, jiff::Timestamp::UNIX_EPOCH, grants).unwrap();
        let trust = RepositoryTrust::load(
            &made.pin,
            made.repository_json.stored(),
            [(1, made.trust_json.stored().clone())],
            None,
        )
        .unwrap();
        Self {
            store: MemoryStore::new(),
            ledger: MemoryLedger::default(),
            catalog: MemoryCatalog::default(),
            signer: Arc::new(host),
            repository: made.pin.repository,
            trust,
        }
    }

    /// The ports, whose calls fail: those of the store and of the host's memory by
    /// `places`, those of all others by `others`.
    fn parts(&self, dumper: Arc<dyn Dumper>, places: &FaultPlan, others: &FaultPlan) -> BackupParts {
        let store = Arc::new(FaultyStore::new(self.store.clone(), places.clone()));
        let recipients = vec![fixture::secret_key().recipient];
        let encryptor = EnvelopeEncryptor::new(recipients, fixture::options(1)).unwrap();
        let signer = Arc::clone(&self.signer) as Arc<dyn Signer>;
        BackupParts {
            dumper: Arc::new(Faulty::new(dumper, others.clone())),
            encryptor: Arc::new(Faulty::new(encryptor, others.clone())),
            sink: Arc::clone(&store) as Arc<dyn Sink>,
            reader: store,
            signer: Arc::new(Faulty::new(signer, others.clone())),
            ledger: Arc::new(FaultyLedger::new(self.ledger.clone(), places.clone())) as Arc<dyn Ledger>,
            catalog: Some(Arc::new(Faulty::new(self.catalog.clone(), others.clone()))),
        }
    }

    fn request(&self) -> BackupRequest {
        BackupRequest {
            repository: self.repository,
            source: source(),
            id: BackupId::random(),
            selection: Selection::default(),
            estimate: None,
            read_back: true,
            tags: backup_core::Tags::default(),
        }
    }

    pub(crate) async fn back_up(
        &self,
        cx: &Context,
        dumper: Arc<dyn Dumper>,
        plan: &FaultPlan,
    ) -> (BackupId, Result<BackedUp>) {
        let request = self.request();
        (request.id, pipeline::backup(cx, &self.parts(dumper, plan, plan), request).await)
    }

    /// Restores with one plan for the store, the trust, the cipher and the target.
    async fn bring_back(
        &self,
        cx: &Context,
        restorer: &MemoryRestorer,
        at: &BackupRef,
        verify_first: bool,
        plan: &FaultPlan,
    ) -> Result<RestoreOutcome> {
        let store = FaultyStore::new(self.store.clone(), plan.clone());
        let trust = Faulty::new(&self.trust, plan.clone());
        let decryptor = Faulty::new(decryptor(), plan.clone());
        let restorer = Faulty::new(restorer, plan.clone());
        let options = RestoreOptions { verify_first, ..Default::default() };
        pipeline::restore(cx, &store, &trust, &decryptor, &restorer, at, options).await
    }

    /// The bytes of every backup that a reader sees, each read in all three ways, by id.
    async fn visible(&self) -> BTreeMap<BackupId, Bytes> {
        let mut visible = BTreeMap::new();
        for listed in pipeline::list(&self.store, &self.trust, None).await.unwrap() {
            let manifest = listed.manifest.expect("what is listed is believed");
            assert_eq!(manifest.origin(), Origin::Trusted { signer: self.signer.key_id() });
            let cx = Context::new();
            let quick =
                pipeline::quick(&cx, &self.store, &self.trust, &EnvelopeAuditor, &listed.at).await.unwrap();
            assert_eq!(quick.bytes, manifest.manifest().object_len);
            pipeline::deep(&cx, &self.store, &self.trust, &decryptor(), &[], &listed.at).await.unwrap();
            let opened =
                pipeline::open(&cx, &self.store, &self.trust, &decryptor(), &listed.at).await.unwrap();
            visible.insert(listed.at.id, collect(opened.dump.bytes).await.unwrap());
        }
        visible
    }

    /// The sequence numbers count up by one and every manifest names the one before.
    async fn check_history(&self) {
        let listed = pipeline::list(&self.store, &self.trust, None).await.unwrap();
        let manifests: Vec<_> = listed.iter().map(|l| l.manifest.as_ref().unwrap()).collect();
        for (i, manifest) in manifests.iter().enumerate() {
            assert_eq!(manifest.manifest().seq, i as u64 + 1);
            let before = i.checked_sub(1).map(|i| manifests[i].pae_sha256());
            assert_eq!(manifest.manifest().prev, before);
        }
    }
}

fn source() -> SourceName {
    "orders".parse().unwrap()
}

fn decryptor() -> EnvelopeDecryptor {
    EnvelopeDecryptor::new(fixture::secret_key().identities, OpenOptions { workers: 1 })
}

/// A dump of a few blocks in a few chunks.
fn dump(seed: usize) -> Arc<ScriptedDumper> {
    let bytes = fixture::noise(2 * BLOCK + 1000 + seed);
    Arc::new(ScriptedDumper::new(bytes.chunks(50_000).map(Bytes::copy_from_slice).collect::<Vec<_>>()))
}

#[tokio::test]
async fn a_backup_failed_at_any_call_is_whole_or_absent() {
    let mut tried = 0;
    for fault in FAULTS {
        for n in 0.. {
            let world = World::new();
            let (cx, plan) = (Context::new(), FaultPlan::at(n, fault));
            let first = dump(0);
            let (earlier, made) = world.back_up(&cx, first.clone(), &FaultPlan::never()).await;
            made.unwrap();

            let second = dump(1);
            let (id, outcome) = world.back_up(&cx, second.clone(), &plan).await;
            let visible = world.visible().await;
            let what = format!("{fault:?} at call {n}: {:?}", plan.fired());
            assert_eq!(visible.get(&earlier), Some(&first.whole()), "{what}");
            match (&outcome, visible.get(&id)) {
                (Ok(done), Some(bytes)) => {
                    assert!(done.read_back);
                    assert_eq!(*bytes, second.whole(), "{what}");
                }
                (Err(error), None) => assert_ne!(error.kind(), ErrorKind::Bug, "{what}: {error}"),
                // Stored, but the answer was lost: said as such, and whole.
                (Err(error), Some(bytes)) => {
                    // A store that gives other bytes than it was given is named as such.
                    let expected =
                        if fault == Fault::CutShort { ErrorKind::Integrity } else { ErrorKind::Uncertain };
                    assert_eq!(error.kind(), expected, "{what}: {error}");
                    assert_eq!(*bytes, second.whole(), "{what}");
                }
                (Ok(_), None) => panic!("a green tick that lied: {what}"),
            }

            // The next run works and the history has no hole.
            let third = dump(2);
            let (later, made) = world.back_up(&cx, third.clone(), &FaultPlan::never()).await;
            made.unwrap_or_else(|error| panic!("{what}: the next run failed: {error}"));
            let visible = world.visible().await;
            assert_eq!(visible.get(&later), Some(&third.whole()), "{what}");
            assert_eq!(visible.get(&earlier), Some(&first.whole()), "{what}");
            world.check_history().await;

            if plan.fired().is_none() {
                break;
            }
            tried += 1;
        }
    }
    assert!(tried >= 5 * 15, "only {tried} calls were made to fail");
}

/// Every kind of error keeps its kind, wherever it comes from.
const KINDS: [ErrorKind; 6] = [
    ErrorKind::Denied,
    ErrorKind::Tool,
    ErrorKind::TimedOut,
    ErrorKind::Integrity,
    ErrorKind::Conflict,
    ErrorKind::Cancelled,
];

#[tokio::test]
async fn an_error_of_any_port_but_the_store_keeps_its_kind_and_leaves_no_backup() {
    let mut tried = 0;
    for kind in KINDS {
        for fault in [Fault::Before, Fault::After, Fault::Gone] {
            for n in 0.. {
                let world = World::new();
                let plan = FaultPlan::with_kind(n, fault, kind);
                let (request, dumper) = (world.request(), dump(0));
                let id = request.id;
                let parts = world.parts(dumper.clone(), &FaultPlan::never(), &plan);
                let outcome = pipeline::backup(&Context::new(), &parts, request).await;
                let visible = world.visible().await;
                let Some(call) = plan.fired() else {
                    outcome.unwrap();
                    break;
                };
                let what = format!("{kind} {fault:?} at call {n}: {call}");
                match (&outcome, visible.get(&id)) {
                    // A catalogue that cannot note a state, and a receipt that cannot be signed, are told.
                    (Ok(_), Some(bytes)) => {
                        let only_told = match call.split(' ').next() {
                            Some("advance") => kind != ErrorKind::Conflict,
                            Some("end") => true,
                            Some("sign") => call.contains("attestation"),
                            _ => false,
                        };
                        assert!(only_told, "{what}");
                        assert_eq!(*bytes, dumper.whole(), "{what}");
                    }
                    (Err(error), None) => {
                        assert_eq!(error.kind(), kind, "{what}: {error}");
                        let manifest = BackupRef { source: source(), id }.manifest();
                        assert!(!world.store.keys().contains(&manifest), "{what}");
                        assert_eq!(world.store.unfinished(), 0, "{what}");
                    }
                    (outcome, visible) => panic!("{what}: {outcome:?}, visible: {}", visible.is_some()),
                }
                if !call.contains("catalogue") && fault != Fault::Gone {
                    let expected = match &outcome {
                        Ok(_) => RunStatus::Completed,
                        Err(_) if kind == ErrorKind::Cancelled => RunStatus::Cancelled,
                        Err(_) => RunStatus::Failed,
                    };
                    let runs = world.catalog.list().await.unwrap();
                    assert_eq!(runs[0].status, expected, "{what}: the run is recorded");
                }
                let (later, made) = world.back_up(&Context::new(), dump(1), &FaultPlan::never()).await;
                made.unwrap_or_else(|error| panic!("{what}: the next run failed: {error}"));
                assert!(world.visible().await.contains_key(&later), "{what}");
                world.check_history().await;
                tried += 1;
            }
        }
    }
    assert!(tried >= 6 * 3 * 15, "only {tried} calls were made to fail");
}

#[tokio::test]
async fn a_restore_failed_at_any_call_hands_over_nothing() {
    let world = World::new();
    let whole = dump(0);
    let (id, made) = world.back_up(&Context::new(), whole.clone(), &FaultPlan::never()).await;
    made.unwrap();
    let at = BackupRef { source: source(), id };
    let mut tried = 0;
    for verify_first in [false, true] {
        for fault in FAULTS {
            for n in 0.. {
                let plan = FaultPlan::at(n, fault);
                let restorer = MemoryRestorer::new();
                let outcome = world.bring_back(&Context::new(), &restorer, &at, verify_first, &plan).await;
                let what = format!("{fault:?} at call {n}: {:?}", plan.fired());
                let target = plan.fired().is_some_and(|call| call.starts_with("restore "));
                match outcome {
                    Ok(_) => assert_eq!(restorer.applied(), Some(whole.whole()), "{what}"),
                    // Done, and only the answer is lost.
                    Err(error) if target && fault == Fault::After => {
                        assert_eq!(error.kind(), ErrorKind::Unavailable, "{what}: {error}");
                        assert_eq!(restorer.applied(), Some(whole.whole()), "{what}");
                    }
                    Err(error) => {
                        // A tool that says "done" without having read to the end is not believed.
                        let lied = target && fault == Fault::CutShort;
                        assert_eq!(error.kind() == ErrorKind::Bug, lied, "{what}: {error}");
                        assert_eq!(restorer.applied(), None, "{what}");
                    }
                }
                if plan.fired().is_none() {
                    break;
                }
                tried += 1;
            }
        }
    }
    assert!(tried >= 5 * 2 * 12, "only {tried} calls were made to fail");
}

#[tokio::test]
async fn an_error_of_any_port_of_a_restore_keeps_its_kind() {
    let world = World::new();
    let (id, made) = world.back_up(&Context::new(), dump(0), &FaultPlan::never()).await;
    made.unwrap();
    let at = BackupRef { source: source(), id };
    for kind in KINDS {
        for verify_first in [false, true] {
            for n in 0.. {
                let plan = FaultPlan::with_kind(n, Fault::Before, kind);
                let restorer = MemoryRestorer::new();
                let outcome = world.bring_back(&Context::new(), &restorer, &at, verify_first, &plan).await;
                let Some(call) = plan.fired() else {
                    outcome.unwrap();
                    break;
                };
                assert_eq!(outcome.unwrap_err().kind(), kind, "call {n}: {call}");
                assert_eq!(restorer.applied(), None, "call {n}: {call}");
            }
        }
    }
}

#[tokio::test]
async fn a_restore_cancelled_at_any_event_hands_over_all_or_nothing() {
    let world = World::new();
    let whole = dump(0);
    let (id, made) = world.back_up(&Context::new(), whole.clone(), &FaultPlan::never()).await;
    made.unwrap();
    let at = BackupRef { source: source(), id };
    for verify_first in [false, true] {
        let mut cancelled = 0;
        for n in 0.. {
            let cancel = CancelToken::new();
            let watcher = Arc::new(CancelAt { left: n.into(), cancel: cancel.clone() });
            let cx = Context::new().with_cancel(cancel.clone()).with_progress(watcher);
            let restorer = MemoryRestorer::new();
            let never = FaultPlan::never();
            match world.bring_back(&cx, &restorer, &at, verify_first, &never).await {
                Ok(_) => assert_eq!(restorer.applied(), Some(whole.whole()), "event {n}"),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Cancelled, "event {n}: {error}");
                    assert_eq!(restorer.applied(), None, "event {n}");
                    cancelled += 1;
                }
            }
            if !cancel.is_cancelled() {
                break;
            }
        }
        assert!(cancelled >= 5, "only {cancelled} events stopped it");
    }
}

#[tokio::test]
async fn incident_01_a_failed_dump_is_no_backup() {
    for kind in [
        ErrorKind::Tool,
        ErrorKind::Denied,
        ErrorKind::Unavailable,
        ErrorKind::TimedOut,
        ErrorKind::Cancelled,
    ] {
        for chunks in 0..5 {
            let world = World::new();
            let bytes = fixture::noise(chunks * BLOCK);
            let dumper =
                ScriptedDumper::new(bytes.chunks(BLOCK).map(Bytes::copy_from_slice).collect::<Vec<_>>());
            let (_, outcome) =
                world.back_up(&Context::new(), Arc::new(dumper.then_fails(kind)), &FaultPlan::never()).await;
            assert_eq!(outcome.unwrap_err().kind(), kind);
            assert_eq!(world.store.keys(), [], "nothing became visible after {chunks} chunks");
            assert_eq!(world.store.unfinished(), 0, "and nothing is left half done");
            let runs = world.catalog.list().await.unwrap();
            let expected =
                if kind == ErrorKind::Cancelled { RunStatus::Cancelled } else { RunStatus::Failed };
            assert_eq!(runs[0].status, expected, "the run is recorded");
        }
    }
}

/// Cancels at the n-th event.
#[derive(Debug)]
struct CancelAt {
    left: std::sync::atomic::AtomicIsize,
    cancel: CancelToken,
}

impl Progress for CancelAt {
    fn on(&self, _: Event<'_>) {
        if self.left.fetch_sub(1, std::sync::atomic::Ordering::SeqCst) == 0 {
            self.cancel.cancel();
        }
    }
}

#[tokio::test]
async fn a_backup_cancelled_at_any_event_is_whole_or_absent() {
    for n in 0.. {
        let world = World::new();
        let cancel = CancelToken::new();
        let watcher = Arc::new(CancelAt { left: n.into(), cancel: cancel.clone() });
        let cx = Context::new().with_cancel(cancel.clone()).with_progress(watcher);
        let dumper = dump(0);
        let (id, outcome) = world.back_up(&cx, dumper.clone(), &FaultPlan::never()).await;
        let visible = world.visible().await;
        match outcome {
            Ok(_) => assert_eq!(visible.get(&id), Some(&dumper.whole())),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Cancelled, "event {n}: {error}");
                assert!(visible.is_empty());
                assert_eq!(world.store.unfinished(), 0, "event {n} left an upload behind");
            }
        }
        if !cancel.is_cancelled() {
            break;
        }
    }
}

#[tokio::test]
async fn a_data_object_replaced_by_another_good_one_is_refused() {
    let world = World::new();
    let (first, second) = (dump(0), dump(0));
    let (id, made) = world.back_up(&Context::new(), first, &FaultPlan::never()).await;
    made.unwrap();
    let (other, made) = world.back_up(&Context::new(), second, &FaultPlan::never()).await;
    made.unwrap();
    let [at, other] = [id, other].map(|id| BackupRef { source: source(), id });

    // Another good envelope of the same length, in the same place.
    world.store.overwrite(&at.data(), world.store.bytes(&other.data()).unwrap());
    let restorer = MemoryRestorer::new();
    let outcome = pipeline::restore(
        &Context::new(),
        &world.store,
        &world.trust,
        &decryptor(),
        &restorer,
        &at,
        RestoreOptions::default(),
    )
    .await;
    assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Integrity);
    assert_eq!(restorer.applied(), None);
    let quick = pipeline::quick(&Context::new(), &world.store, &world.trust, &EnvelopeAuditor, &at).await;
    assert_eq!(quick.unwrap_err().kind(), ErrorKind::Integrity);
}

/// A store that exchanges an object for another after it was fetched so often.
#[derive(Debug)]
struct Exchanging {
    store: MemoryStore,
    fetches_left: std::sync::atomic::AtomicIsize,
    victim: ObjectKey,
    other: Bytes,
}

impl std::fmt::Display for Exchanging {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("exchanging store")
    }
}

#[async_trait::async_trait]
impl Source for Exchanging {
    async fn stat(&self, key: &ObjectKey) -> Result<Option<ObjectInfo>> {
        // No name for the version, as of a store that has none: only the hashes are left.
        Ok(self.store.stat(key).await?.map(|info| ObjectInfo { tag: None, ..info }))
    }

    async fn fetch(
        &self,
        key: &ObjectKey,
        range: Option<std::ops::Range<u64>>,
        _: Option<&EntityTag>,
    ) -> Result<ByteStream<Sealed>> {
        let stream = self.store.fetch(key, range, None).await;
        if *key == self.victim && self.fetches_left.fetch_sub(1, std::sync::atomic::Ordering::SeqCst) == 1 {
            self.store.overwrite(key, self.other.clone());
        }
        stream
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        self.store.list(prefix).await
    }
}

#[tokio::test]
async fn a_data_object_exchanged_between_the_first_and_the_second_pass_is_refused() {
    let world = World::new();
    let whole = dump(0);
    let (id, made) = world.back_up(&Context::new(), whole.clone(), &FaultPlan::never()).await;
    made.unwrap();
    let at = BackupRef { source: source(), id };
    let good = world.store.bytes(&at.data()).unwrap();
    for byte in (0..good.len()).step_by(good.len() / 11) {
        let mut bad = good.to_vec();
        bad[byte] ^= 1;
        for (fetches, spoiled) in [(1, true), (2, false)] {
            world.store.overwrite(&at.data(), good.clone());
            let store = Exchanging {
                store: world.store.clone(),
                fetches_left: fetches.into(),
                victim: at.data(),
                other: bad.clone().into(),
            };
            let restorer = MemoryRestorer::new();
            let options = RestoreOptions { verify_first: true, ..Default::default() };
            let outcome = pipeline::restore(
                &Context::new(),
                &store,
                &world.trust,
                &decryptor(),
                &restorer,
                &at,
                options,
            )
            .await;
            if spoiled {
                assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Integrity, "byte {byte}");
                assert_eq!(restorer.applied(), None);
            } else {
                outcome.unwrap();
                assert_eq!(restorer.applied(), Some(whole.whole()));
            }
        }
    }
}

#[tokio::test]
async fn an_object_with_one_flipped_bit_is_refused_by_every_reader() {
    let world = World::new();
    let (id, made) = world.back_up(&Context::new(), dump(0), &FaultPlan::never()).await;
    made.unwrap();
    let at = BackupRef { source: source(), id };
    let believed = pipeline::quick(&Context::new(), &world.store, &world.trust, &EnvelopeAuditor, &at)
        .await
        .unwrap()
        .manifest;
    for key in [at.data(), at.tree(), at.manifest()] {
        let good = world.store.bytes(&key).unwrap();
        for byte in (0..good.len()).step_by(good.len() / 23 + 1) {
            let mut bad = good.to_vec();
            bad[byte] ^= 1;
            world.store.overwrite(&key, bad);
            let cx = Context::new();
            let quick = pipeline::quick(&cx, &world.store, &world.trust, &EnvelopeAuditor, &at).await;
            let error = match quick {
                // The name of the key is a hint outside the signature; it changes nothing.
                Ok(quick) if key == at.manifest() => {
                    assert_eq!(quick.manifest, believed, "byte {byte}");
                    continue;
                }
                Ok(_) => panic!("{key}: damage at byte {byte} was not found without a key"),
                Err(error) => error,
            };
            assert!(
                matches!(error.kind(), ErrorKind::Integrity | ErrorKind::Denied | ErrorKind::Unsupported),
                "{key} {byte}: {error}"
            );
            for verify_first in [false, true] {
                let restorer = MemoryRestorer::new();
                let options = RestoreOptions { verify_first, ..Default::default() };
                let outcome =
                    pipeline::restore(&cx, &world.store, &world.trust, &decryptor(), &restorer, &at, options)
                        .await;
                let deep = pipeline::deep(&cx, &world.store, &world.trust, &decryptor(), &[], &at).await;
                assert_eq!(deep.expect_err("found with a key too").kind(), error.kind(), "{key} {byte}");
                // Only verify-first reads the tree.
                if key != at.tree() || verify_first {
                    assert!(outcome.is_err(), "{key} {byte}");
                    assert_eq!(restorer.applied(), None);
                }
            }
        }
        world.store.overwrite(&key, good);
    }
}

#[tokio::test]
async fn a_hash_tree_that_is_gone_fails_every_verification_but_not_a_restore() {
    let world = World::new();
    let whole = dump(0);
    let (id, made) = world.back_up(&Context::new(), whole.clone(), &FaultPlan::never()).await;
    made.unwrap();
    let at = BackupRef { source: source(), id };
    world.store.remove(&at.tree()).await.unwrap();
    let (cx, store) = (Context::new(), &world.store);
    let quick = pipeline::quick(&cx, store, &world.trust, &EnvelopeAuditor, &at).await;
    assert_eq!(quick.unwrap_err().kind(), ErrorKind::Integrity);
    let deep = pipeline::deep(&cx, store, &world.trust, &decryptor(), &[], &at).await;
    assert_eq!(deep.unwrap_err().kind(), ErrorKind::Integrity);
    let restorer = MemoryRestorer::new();
    let options = RestoreOptions::default();
    pipeline::restore(&cx, store, &world.trust, &decryptor(), &restorer, &at, options).await.unwrap();
    assert_eq!(restorer.applied(), Some(whole.whole()));
}

/// Keeps the warnings.
#[derive(Debug, Default)]
struct Warnings(std::sync::Mutex<Vec<String>>);

impl Progress for Warnings {
    fn on(&self, event: Event<'_>) {
        if let Event::Warning(text) = event {
            self.0.lock().unwrap().push(text.to_owned());
        }
    }
}

#[tokio::test]
async fn a_previous_backup_that_is_gone_is_told_at_the_next_one() {
    let world = World::new();
    let (id, made) = world.back_up(&Context::new(), dump(0), &FaultPlan::never()).await;
    made.unwrap();
    world.store.remove(&BackupRef { source: source(), id }.manifest()).await.unwrap();
    let warnings = Arc::new(Warnings::default());
    let cx = Context::new().with_progress(warnings.clone());
    let (_, made) = world.back_up(&cx, dump(1), &FaultPlan::never()).await;
    assert_eq!(made.unwrap().manifest.seq, 2, "the number of the lost one is not given out again");
    let told = warnings.0.lock().unwrap();
    assert!(told.iter().any(|text| text.contains(&id.to_string()) && text.contains("gone")), "{told:?}");
}

#[tokio::test]
async fn a_dry_run_reads_the_manifest_and_changes_nothing() {
    let world = World::new();
    let (id, made) = world.back_up(&Context::new(), dump(0), &FaultPlan::never()).await;
    made.unwrap();
    let restorer = MemoryRestorer::new();
    let outcome = pipeline::restore(
        &Context::new(),
        &world.store,
        &world.trust,
        &decryptor(),
        &restorer,
        &BackupRef { source: source(), id },
        RestoreOptions { dry_run: true, ..Default::default() },
    )
    .await
    .unwrap();
    assert!(matches!(outcome, RestoreOutcome::Planned(..)));
    assert_eq!(restorer.applied(), None);
}

#[tokio::test]
async fn latest_is_the_highest_sequence_number_whatever_the_clock_says() {
    let world = World::new();
    let clock =
        Arc::new(backup_core::testing::ManualClock::at(jiff::Timestamp::from_second(2_000_000_000).unwrap()));
    let mut ids = Vec::new();
    for second in [2_000_000_000, 1_000_000_000, 1_500_000_000] {
        clock.set(jiff::Timestamp::from_second(second).unwrap());
        let cx = Context::new().with_clock(clock.clone());
        let (id, made) = world.back_up(&cx, dump(0), &FaultPlan::never()).await;
        made.unwrap();
        ids.push(id);
    }
    let listed = pipeline::list(&world.store, &world.trust, Some(&source())).await.unwrap();
    assert_eq!(pipeline::latest(&listed, &source()).unwrap().manifest().id, ids[2]);
    assert_eq!(pipeline::find(&world.store, ids[0]).await.unwrap().id, ids[0]);
    let unknown = pipeline::find(&world.store, BackupId::random()).await;
    assert_eq!(unknown.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn an_audit_without_a_root_to_hold_against_is_refused() {
    use backup_core::{Auditor as _, Expected, Opening};
    let (file, summary) =
        fixture::seal(&[&fixture::secret_key()], &fixture::options(1), &fixture::noise(BLOCK + 1));
    let opening = |expected| Opening {
        sealed: ByteStream::declare_sealed(futures::stream::iter(fixture::chunks(&file))),
        expected,
    };
    let expected = fixture::expected(&summary, &file);
    assert_eq!(EnvelopeAuditor.audit(opening(expected)).await.unwrap(), 3);
    let error = EnvelopeAuditor.audit(opening(Expected::default())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Integrity);
}
