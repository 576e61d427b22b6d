//! The order of a run and what it says of itself, with stand-ins for the cipher and the keys.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use backup_core::pipeline::{self, BackedUp, BackupParts, BackupRequest, RestoreOptions};
use backup_core::testing::{MemoryCatalog, MemoryLedger, MemoryStore, ScriptedDumper};
use backup_core::*;
use bytes::Bytes;

use crate::stamp::Stamp;

#[derive(Debug, Default)]
struct World {
    store: MemoryStore,
    ledger: MemoryLedger,
    repository: Option<RepositoryId>,
}

impl World {
    fn new() -> Self {
        Self { repository: Some(RepositoryId::random()), ..Self::default() }
    }

    fn repository(&self) -> RepositoryId {
        self.repository.expect("a test")
    }

    async fn back_up(&self, cx: &Context, catalog: Option<Arc<dyn Catalog>>) -> Result<BackedUp> {
        let parts = BackupParts {
            dumper: Arc::new(ScriptedDumper::new(["ab", "cd"])),
            encryptor: Arc::new(Stamp),
            sink: Arc::new(self.store.clone()),
            reader: Arc::new(self.store.clone()),
            signer: Arc::new(Stamp),
            ledger: Arc::new(self.ledger.clone()),
            catalog,
        };
        let request = BackupRequest {
            repository: self.repository(),
            source: source(),
            id: BackupId::random(),
            selection: Selection::default(),
            estimate: None,
            read_back: true,
            tags: backup_core::Tags::default(),
        };
        pipeline::backup(cx, &parts, request).await
    }

    /// Forgets that the newest manifest was stored, as a process killed just before noting it would.
    async fn forget(&self, backup: &BackedUp) -> (BackupRef, Bytes, Head) {
        let at = backup.manifest.backup();
        let stored = self.store.bytes(&at.manifest()).expect("a test");
        let head = Head { id: at.id, seq: backup.manifest.seq, pae_sha256: Sha256Digest::of(&stored) };
        self.ledger.intend(&self.repository(), &source(), head).await.expect("a test");
        (at, stored, head)
    }
}

fn source() -> SourceName {
    "orders".parse().expect("a test")
}

/// Does something once, at the first plaintext.
struct AtFirstBytes<F>(Mutex<Option<F>>);

impl<F> std::fmt::Debug for AtFirstBytes<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AtFirstBytes")
    }
}

impl<F: FnOnce() + Send> Progress for AtFirstBytes<F> {
    fn on(&self, event: Event<'_>) {
        let Event::Plain { .. } = event else { return };
        if let Some(act) = self.0.lock().expect("a test").take() {
            act();
        }
    }
}

fn at_first_bytes(act: impl FnOnce() + Send + 'static) -> Context {
    Context::new().with_progress(Arc::new(AtFirstBytes(Mutex::new(Some(act)))))
}

#[tokio::test]
async fn a_manifest_that_arrives_after_its_process_died_keeps_its_number() {
    let world = World { ledger: MemoryLedger::default(), ..World::new() };
    let first = world.back_up(&Context::new(), None).await.unwrap();
    let (at, stored, head) = world.forget(&first).await;
    let world = World { ledger: MemoryLedger::default(), ..world };
    world.ledger.intend(&world.repository(), &source(), head).await.unwrap();
    // Still on its way when the next run begins.
    Remover::remove(&world.store, &at.manifest()).await.unwrap();
    let store = world.store.clone();
    let cx = at_first_bytes(move || store.overwrite(&at.manifest(), stored));
    let second = world.back_up(&cx, None).await.unwrap();
    assert_eq!((second.manifest.seq, second.manifest.prev), (2, Some(head.pae_sha256)));
}

#[tokio::test]
async fn something_else_in_the_place_of_a_manifest_takes_no_number() {
    for other in [b"{}".to_vec(), b"signed by this key, but another".to_vec(), vec![b'x'; 5 << 20], vec![]] {
        let world = World::new();
        let first = world.back_up(&Context::new(), None).await.unwrap();
        let lost = Head { id: BackupId::random(), seq: 2, pae_sha256: Sha256Digest::of(b"never stored") };
        world.ledger.intend(&world.repository(), &source(), lost).await.unwrap();
        let at = BackupRef { source: source(), id: lost.id };
        world.store.overwrite(&at.manifest(), other);
        let second = world.back_up(&Context::new(), None).await.unwrap();
        let before = world.store.bytes(&first.manifest.backup().manifest()).unwrap();
        assert_eq!((second.manifest.seq, second.manifest.prev), (2, Some(Sha256Digest::of(&before))));
        assert_eq!(world.ledger.intended(&world.repository(), &source()).await.unwrap(), None);
    }
}

#[tokio::test]
async fn a_host_that_forgot_what_it_signed_gives_out_no_number_twice() {
    let world = World::new();
    // What strangers left there is no reason to stop, nor is a copy of what belongs elsewhere.
    let strange = || BackupRef { source: source(), id: BackupId::random() }.manifest();
    world.store.overwrite(&strange(), "{}");
    let elsewhere = World::new();
    let other = elsewhere.back_up(&Context::new(), None).await.unwrap().manifest.backup();
    world.store.overwrite(&strange(), elsewhere.store.bytes(&other.manifest()).unwrap());
    world.store.overwrite(&other.manifest(), elsewhere.store.bytes(&other.manifest()).unwrap());
    let first = world.back_up(&Context::new(), None).await.unwrap();
    let world = World { ledger: MemoryLedger::default(), ..world };
    let error = world.back_up(&Context::new(), None).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Conflict, Retry::Never));
    assert_eq!(error.subject(), first.manifest.backup().to_string());
    assert_eq!(world.store.keys().len(), 3 + 3, "nothing was written");
}

/// Notes begin and end, and refuses to note anything between.
#[derive(Debug)]
struct Stuck(MemoryCatalog, ErrorKind);

#[async_trait]
impl Catalog for Stuck {
    async fn begin(&self, record: RunRecord) -> Result<Run> {
        self.0.begin(record).await
    }

    async fn advance(&self, run: &Run, _: RunStatus) -> Result<()> {
        Err(Error::new(self.1, run.backup.to_string(), "not noted"))
    }

    async fn end(
        &self,
        run: Run,
        at: jiff::Timestamp,
        outcome: Result<(), (ErrorKind, String)>,
    ) -> Result<()> {
        self.0.end(run, at, outcome).await
    }

    async fn list(&self) -> Result<Vec<RunRecord>> {
        self.0.list().await
    }
}

#[tokio::test]
async fn a_catalogue_stops_a_run_only_by_naming_another() {
    for (kind, goes_on) in [(ErrorKind::Unavailable, true), (ErrorKind::Conflict, false)] {
        let (world, catalog) = (World::new(), MemoryCatalog::default());
        let outcome = world.back_up(&Context::new(), Some(Arc::new(Stuck(catalog.clone(), kind)))).await;
        assert_eq!(outcome.is_ok(), goes_on, "{kind}");
        let expected = if goes_on { RunStatus::Completed } else { RunStatus::Failed };
        assert_eq!(catalog.list().await.unwrap()[0].status, expected);
    }
}

#[tokio::test]
async fn a_quick_verification_stops_when_asked() {
    let world = World::new();
    let at = world.back_up(&Context::new(), None).await.unwrap().manifest.backup();
    let (cx, store) = (Context::new(), &world.store);
    pipeline::quick(&cx, store, &Stamp, &Stamp, &at).await.unwrap();
    cx.cancel().cancel();
    let error = pipeline::quick(&cx, store, &Stamp, &Stamp, &at).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
}

#[tokio::test]
async fn a_tree_that_cannot_be_this_objects_is_not_read() {
    let world = World::new();
    let at = world.back_up(&Context::new(), None).await.unwrap().manifest.backup();
    world.store.overwrite(&at.tree(), vec![0; 1 << 20]);
    let error = pipeline::quick(&Context::new(), &world.store, &Stamp, &Stamp, &at).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Integrity);
    assert!(error.what().starts_with("longer than"), "{error}");
}

/// Says that all is well after the first bytes.
#[derive(Debug)]
struct Hasty;

#[async_trait]
impl Restorer for Hasty {
    fn accepts(&self, _: &DumpFormat) -> bool {
        true
    }

    async fn plan(&self, _: &Context, request: RestoreRequest) -> Result<RestorePlan> {
        Ok(RestorePlan::looked_at(request, "target", Vec::new()))
    }

    async fn restore(&self, _: &Context, plan: RestorePlan, mut dump: Dump) -> Result<Restored> {
        let bytes = dump.bytes.next().await.expect("a test")?.len() as u64;
        Ok(Restored { target: plan.target().to_owned(), bytes, warnings: Vec::new() })
    }
}

#[tokio::test]
async fn a_restore_that_never_saw_the_end_is_no_success() {
    let world = World::new();
    let at = world.back_up(&Context::new(), None).await.unwrap().manifest.backup();
    let options = RestoreOptions::default();
    let cx = Context::new();
    let error = pipeline::restore(&cx, &world.store, &Stamp, &Stamp, &Hasty, &at, options).await.unwrap_err();
    assert_eq!((error.kind(), error.stage()), (ErrorKind::Bug, Some(Stage::Restore)));
}

/// Warns before the first byte and at the last one.
#[derive(Debug)]
struct Warning(ScriptedDumper);

#[async_trait]
impl Dumper for Warning {
    async fn probe(&self, cx: &Context) -> Result<Probe> {
        self.0.probe(cx).await
    }

    async fn dump(&self, cx: &Context, what: &Selection) -> Result<Dump> {
        cx.report(Event::Warning("before"));
        cx.report(Event::ToolLine("no warning"));
        let Dump { format, bytes, report } = self.0.dump(cx, what).await?;
        let cx = cx.clone();
        let bytes = bytes.inspect(move |chunk| {
            if chunk == "cd" {
                cx.report(Event::Warning("late"));
                cx.report(Event::Warning("before"));
            }
        });
        Ok(Dump { format, bytes, report })
    }
}

/// Whoever restores a dump should know what was told when it was made.
#[tokio::test]
async fn what_is_told_during_a_dump_is_kept_with_its_report() {
    let world = World::new();
    let parts = BackupParts {
        dumper: Arc::new(Warning(ScriptedDumper::new(["ab", "cd"]))),
        encryptor: Arc::new(Stamp),
        sink: Arc::new(world.store.clone()),
        reader: Arc::new(world.store.clone()),
        signer: Arc::new(Stamp),
        ledger: Arc::new(world.ledger.clone()),
        catalog: None,
    };
    let told = Arc::new(Mutex::new(Vec::new()));
    #[derive(Debug)]
    struct Listener(Arc<Mutex<Vec<String>>>);
    impl Progress for Listener {
        fn on(&self, event: Event<'_>) {
            if let Event::Warning(text) = event {
                self.0.lock().expect("a test").push(text.to_owned());
            }
        }
    }
    let cx = Context::new().with_progress(Arc::new(Listener(Arc::clone(&told))));
    let done = pipeline::backup(&cx, &parts, BackupRequest::new(world.repository(), source())).await;
    let report = done.expect("a backup").report;
    assert_eq!(report.warnings, ["before", "late"]);
    assert_eq!(report.engine, "scripted", "what the dump said itself stays");
    assert_eq!(*told.lock().expect("a test"), ["before", "late", "before"], "and is told at once");
}
