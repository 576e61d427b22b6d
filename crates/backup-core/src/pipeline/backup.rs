//! One backup, from the dump to the signed manifest.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::join_all;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::catalog::{Catalog, Run, RunRecord};
use crate::context::Context;
use crate::digest::Sha256Digest;
use crate::dump::{Dump, DumpFormat, DumpReport, Dumper, Selection};
use crate::error::{Error, ErrorKind, Result, Retry, Stage};
use crate::id::{BackupId, RepositoryId, SourceName};
use crate::ledger::{Head, Ledger};
use crate::manifest::{BackupRef, Manifest, RecipientRef, printable};
use crate::progress::{Event, RunStatus};
use crate::seal::{Encryptor, SealSummary, Sealing};
use crate::settled::Settled;
use crate::statement::{Origin, SignedStatement, Signer, StatementKind, VouchedManifest};
use crate::store::{Receipt, Sink, Source};
use crate::stream::{ByteStream, Sealed};
use crate::tags::Tags;

use super::mirror::{Lane, Lanes, MirrorParts, mirror};
use super::spool::{Spool, Spooled};
use super::told::Told;
use super::{meter, read, resume};

/// The ports that a backup runs on.
#[derive(Debug, Clone)]
pub struct BackupParts {
    /// The database.
    pub dumper: Arc<dyn Dumper>,
    /// The cipher, with public keys only.
    pub encryptor: Arc<dyn Encryptor>,
    /// Where it goes.
    pub sink: Arc<dyn Sink>,
    /// The same place, for reading back.
    pub reader: Arc<dyn Source>,
    /// This host's signing key.
    pub signer: Arc<dyn Signer>,
    /// What this host signed last.
    pub ledger: Arc<dyn Ledger>,
    /// An index of runs, if one is kept.
    pub catalog: Option<Arc<dyn Catalog>>,
}

impl BackupParts {
    /// These ports, without an index of runs. `reader` reads what `sink` wrote.
    pub fn new(
        dumper: impl Dumper + 'static,
        encryptor: impl Encryptor + 'static,
        sink: impl Sink + 'static,
        reader: Arc<dyn Source>,
        signer: impl Signer + 'static,
        ledger: impl Ledger + 'static,
    ) -> Self {
        Self {
            dumper: Arc::new(dumper),
            encryptor: Arc::new(encryptor),
            sink: Arc::new(sink),
            reader,
            signer: Arc::new(signer),
            ledger: Arc::new(ledger),
            catalog: None,
        }
    }
}

/// What to back up, and how.
#[derive(Debug, Clone)]
pub struct BackupRequest {
    /// The repository that the destination holds.
    pub repository: RepositoryId,
    /// The name to store under.
    pub source: SourceName,
    /// The new backup's id.
    pub id: BackupId,
    /// Which tables.
    pub selection: Selection,
    /// About how many bytes the dump has, when known.
    pub estimate: Option<u64>,
    /// Read the stored bytes back and compare before the manifest is written.
    pub read_back: bool,
    /// What people write on it.
    pub tags: Tags,
}

impl BackupRequest {
    /// Everything of `source` under a fresh id, read back.
    #[must_use]
    pub fn new(repository: RepositoryId, source: SourceName) -> Self {
        let (id, selection) = (BackupId::random(), Selection::default());
        Self { repository, source, id, selection, estimate: None, read_back: true, tags: Tags::default() }
    }
}

/// A backup that exists.
#[derive(Debug, Clone)]
pub struct BackedUp {
    /// What was signed.
    pub manifest: Manifest,
    /// What the dump said of itself.
    pub report: DumpReport,
    /// Whether the stored bytes were read back and found equal.
    pub read_back: bool,
}

/// Makes one backup: dump, seal, store, read back, tree, manifest, in that order. The backup exists
/// from the moment its manifest is stored, and not before.
///
/// Not cancel safe: stop it through the context's token. Killed at any moment it leaves either a
/// whole backup or none; data without a manifest is swept by age.
///
/// The caller sees to it that one run at a time uses a ledger's entry for this repository and source
/// (a lock beside the ledger): two at once could give out one sequence number twice.
///
/// # Errors
/// The first error of any port, with its stage. `Uncertain` when the manifest's fate could not be
/// settled; the next run looks. `Conflict` when the ledger remembers nothing and the place holds
/// backups of this source that this host signed.
pub async fn backup(cx: &Context, parts: &BackupParts, request: BackupRequest) -> Result<BackedUp> {
    mirror(cx, &MirrorParts::from(parts), request).await.outcome
}

/// The same into the places of `lanes`, and what the catalogue is told of it.
pub(super) async fn backup_into(
    cx: &Context,
    parts: &MirrorParts,
    lanes: &mut Lanes<'_>,
    request: BackupRequest,
    work: Work<'_>,
) -> Result<BackedUp> {
    let at = BackupRef { source: request.source.clone(), id: request.id };
    let started = cx.now();
    cx.report(Event::Status(RunStatus::Pending));
    let run = match &parts.catalog {
        Some(catalog) => Some((catalog, catalog.begin(record(&at, started)).await?)),
        None => None,
    };
    let stages = Stages { cx, run: run.as_ref().map(|(catalog, run)| (*catalog, run)) };
    let outcome = run_backup(cx, parts, lanes, &request, work, started, &stages).await;
    cx.report(Event::Status(match &outcome {
        Ok(_) => RunStatus::Completed,
        Err(error) if error.kind() == ErrorKind::Cancelled => RunStatus::Cancelled,
        Err(_) => RunStatus::Failed,
    }));
    if let Some((catalog, run)) = run {
        let told = match &outcome {
            Ok(_) => Ok(()),
            Err(error) => Err((error.kind(), error.to_string())),
        };
        if let Err(error) = catalog.end(run, cx.now(), told).await {
            // The destination is the truth; a catalogue that lags is told, not obeyed.
            cx.report(Event::Warning(&format!("the catalogue could not record the end of the run: {error}")));
        }
    }
    outcome
}

/// A catalogue stops a run only by saying that another has taken its place; what else it cannot note
/// is a warning.
fn told(cx: &Context, noted: Result<()>) -> Result<()> {
    match noted {
        Err(error) if error.kind() != ErrorKind::Conflict => {
            cx.report(Event::Warning(&format!("the catalogue could not note the run's state: {error}")));
            Ok(())
        }
        noted => noted,
    }
}

fn record(at: &BackupRef, started: Timestamp) -> RunRecord {
    RunRecord {
        source: at.source.to_string(),
        id: at.id.to_string(),
        started,
        ended: None,
        status: RunStatus::Pending,
        error: None,
    }
}

/// How a backup gets to its places.
#[derive(Debug, Clone, Copy)]
pub(super) enum Work<'a> {
    /// As it is dumped.
    Stream,
    /// Through a spool.
    Through(&'a Spool),
    /// From a spool, where an earlier run left it.
    From(&'a Spool, &'a Spooled),
}

/// Notes what a run comes to.
#[derive(Debug)]
pub(super) struct Stages<'a> {
    cx: &'a Context,
    run: Option<(&'a Arc<dyn Catalog>, &'a Run)>,
}

impl Stages<'_> {
    /// Tells the catalogue.
    pub(super) async fn advance(&self, status: RunStatus) -> Result<()> {
        match self.run {
            Some((catalog, run)) => told(self.cx, catalog.advance(run, status).await),
            None => Ok(()),
        }
    }
}

async fn run_backup(
    cx: &Context,
    parts: &MirrorParts,
    lanes: &mut Lanes<'_>,
    request: &BackupRequest,
    work: Work<'_>,
    started: Timestamp,
    stages: &Stages<'_>,
) -> Result<BackedUp> {
    lanes.enough(cx)?;
    // A ledger or a place that cannot be read is told before the work, not after it.
    let remembered = parts.ledger.head(&request.repository, &request.source).await?;
    if interrupted(cx, parts, lanes, request).await?.is_none() && remembered.is_none() {
        check_memory(cx, parts, lanes, request).await?;
    }
    if let Some(head) = remembered {
        tell_if_gone(cx, lanes, request, head).await;
    }
    match work {
        Work::Stream => stream(cx, parts, lanes, request, started, stages).await,
        Work::Through(spool) => {
            let (spooled, report) = resume::fill(cx, parts, request, spool, started, stages).await?;
            resume::deliver(cx, parts, lanes, request, spool, &spooled, report, stages).await
        }
        Work::From(spool, spooled) => {
            let report = spooled.report();
            resume::deliver(cx, parts, lanes, request, spool, spooled, report, stages).await
        }
    }
}

/// What is known of a dump that is being sealed.
pub(super) struct Dumped {
    pub(super) format: DumpFormat,
    pub(super) report: Settled<DumpReport>,
    pub(super) summary: Settled<SealSummary>,
}

impl Dumped {
    /// What is known once the sealed stream has ended cleanly.
    pub(super) fn known(&self) -> Result<(&DumpReport, &SealSummary)> {
        let report = self.report.get();
        let report = report.ok_or_else(|| Error::bug("a dump ended cleanly without a report"))?;
        let summary = self.summary.get();
        let summary = summary.ok_or_else(|| Error::bug("an envelope ended cleanly without a summary"))?;
        Ok((report, summary))
    }
}

/// Starts the dump and seals what comes.
pub(super) async fn dump(
    cx: &Context,
    parts: &MirrorParts,
    request: &BackupRequest,
    stages: &Stages<'_>,
) -> Result<(ByteStream<Sealed>, Dumped)> {
    stages.advance(RunStatus::Running).await?;
    cx.report(Event::Status(RunStatus::Running));
    if let Some(bytes) = request.estimate {
        cx.report(Event::Estimate { bytes });
    }
    let (told, listening) = Told::listening(cx);
    let dump = parts.dumper.dump(&listening, &request.selection).await.map_err(|e| e.at(Stage::Dump))?;
    let Dump { format, bytes, report } = told.kept_with(dump);
    let Sealing { bytes, summary } = parts
        .encryptor
        .seal(&request.id, meter::plain(cx, bytes), report.clone())
        .await
        .map_err(|e| e.at(Stage::Seal))?;
    Ok((meter::sealing(cx, bytes), Dumped { format, report, summary }))
}

async fn stream(
    cx: &Context,
    parts: &MirrorParts,
    lanes: &mut Lanes<'_>,
    request: &BackupRequest,
    started: Timestamp,
    stages: &Stages<'_>,
) -> Result<BackedUp> {
    let at = BackupRef { source: request.source.clone(), id: request.id };
    let (bytes, dumped) = dump(cx, parts, request, stages).await?;
    stages.advance(RunStatus::Uploading).await?;
    let receipt = lanes.store(cx, &at.data(), bytes, request.estimate).await?;
    let (report, summary) = dumped.known()?;

    let tree = ByteStream::declare_sealed(futures::stream::iter([Ok(summary.tree.clone())]));
    lanes.store(&quiet(cx), &at.tree(), tree, Some(summary.tree.len() as u64)).await?;

    if request.read_back {
        stages.advance(RunStatus::Verifying).await?;
        cx.report(Event::Status(RunStatus::Verifying));
        lanes.read_back(&quiet(cx), &at.data(), &receipt).await?;
    }
    cx.check(&at.to_string())?;

    let previous = settled_head(cx, parts, lanes, request).await?;
    let facts = Facts::new(parts, started, &dumped.format, report, summary, &receipt, &request.tags);
    check_lengths(&receipt, summary)?;
    let manifest = facts.manifest(request, previous, cx.now());
    let signed = parts.signer.sign(StatementKind::Manifest, &manifest.to_json()?)?;
    intend(parts, request, &manifest, &signed).await?;
    publish(cx, parts, lanes, request, &manifest, &signed).await?;
    Ok(BackedUp { manifest, report: report.clone(), read_back: request.read_back })
}

/// What is known of a sealed backup before it has a number in the history. All of it will stand in the
/// manifest, in the clear.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Facts {
    pub(super) started: Timestamp,
    pub(super) format: DumpFormat,
    pub(super) engine: String,
    pub(super) versions: BTreeMap<String, String>,
    pub(super) source_len: u64,
    pub(super) object_len: u64,
    pub(super) sha256: Sha256Digest,
    pub(super) head_sha256: Sha256Digest,
    pub(super) tree_root: Sha256Digest,
    pub(super) recipients: Vec<RecipientRef>,
    #[serde(default, skip_serializing_if = "Tags::is_empty")]
    pub(super) tags: Tags,
}

impl Facts {
    /// Gathers them at the clean end of the sealed stream.
    pub(super) fn new(
        parts: &MirrorParts,
        started: Timestamp,
        format: &DumpFormat,
        report: &DumpReport,
        summary: &SealSummary,
        receipt: &Receipt,
        tags: &Tags,
    ) -> Self {
        Self {
            started,
            format: DumpFormat::new(printable(format.as_str())),
            engine: printable(&report.engine),
            versions: report.versions.iter().map(|(k, v)| (printable(k), printable(v))).collect(),
            source_len: summary.source_len,
            object_len: receipt.len,
            sha256: receipt.sha256,
            head_sha256: summary.head_sha256,
            tree_root: summary.tree_root,
            recipients: parts.encryptor.recipients(),
            tags: tags.clone(),
        }
    }

    /// The manifest that follows `previous` in the history.
    pub(super) fn manifest(
        &self,
        request: &BackupRequest,
        previous: Option<Head>,
        finished: Timestamp,
    ) -> Manifest {
        let Self { started, format, engine, versions, source_len, .. } = self.clone();
        Manifest {
            repository: request.repository,
            source: request.source.clone(),
            id: request.id,
            seq: previous.map_or(1, |head| head.seq + 1),
            prev: previous.map(|head| head.pae_sha256),
            started,
            finished,
            format,
            engine,
            versions,
            source_len,
            object_len: self.object_len,
            sha256: self.sha256,
            head_sha256: self.head_sha256,
            tree_root: self.tree_root,
            recipients: self.recipients.clone(),
            tags: self.tags.clone(),
        }
    }
}

/// A whole object is longer than its head, so an empty one is a broken promise somewhere above.
pub(super) fn check_lengths(receipt: &Receipt, summary: &SealSummary) -> Result<()> {
    if receipt.len == 0 || summary.tree.is_empty() {
        return Err(Error::bug("an envelope without bytes was stored"));
    }
    Ok(())
}

/// Records in the signer's own memory what is about to exist.
pub(super) async fn intend(
    parts: &MirrorParts,
    request: &BackupRequest,
    manifest: &Manifest,
    signed: &SignedStatement,
) -> Result<()> {
    let head = Head { id: request.id, seq: manifest.seq, pae_sha256: signed.pae_sha256() };
    let intended = parts.ledger.intend(&request.repository, &request.source, head).await;
    intended.map_err(|e| e.at(Stage::Manifest))
}

/// The step that makes the backup exist, which was intended, and is noted afterwards.
pub(super) async fn publish(
    cx: &Context,
    parts: &MirrorParts,
    lanes: &mut Lanes<'_>,
    request: &BackupRequest,
    manifest: &Manifest,
    signed: &SignedStatement,
) -> Result<()> {
    let published = lanes.publish(&quiet(cx), &manifest.backup(), signed, request.read_back).await;
    // Unless every place said no for certain, the manifest may be there: the next run looks.
    if published.stands {
        // The backup exists. A ledger that cannot say so now finds out at the next run by looking.
        if let Err(error) = settle(parts, request, signed).await {
            cx.report(Event::Warning(&format!(
                "the backup is stored, but this host could not note it: {error}"
            )));
        }
        let origin = Origin::Trusted { signer: parts.signer.key_id() };
        let about = VouchedManifest::vouched(manifest.clone(), origin, signed.pae_sha256());
        lanes.receipts(cx, parts.signer.as_ref(), &about).await;
    }
    published.enough
}

/// Notes that what was intended is stored, unless that was noted before.
async fn settle(parts: &MirrorParts, request: &BackupRequest, signed: &SignedStatement) -> Result<()> {
    let (repository, source) = (&request.repository, &request.source);
    let intended = parts.ledger.intended(repository, source).await?;
    if intended.is_some_and(|head| head.pae_sha256 == signed.pae_sha256()) {
        parts.ledger.settle(repository, source, true).await?;
    }
    Ok(())
}

/// The manifest was stored, but nobody saw it: neither a backup nor none.
pub(super) fn unread(at: &BackupRef, error: Error) -> Error {
    if error.kind() == ErrorKind::Integrity {
        return error.at(Stage::Manifest);
    }
    Error::new(ErrorKind::Uncertain, at.manifest().to_string(), "was stored, but could not be read back")
        .with_hint(format!("look again: strongroom verify {}", at.id))
        .with_source(error)
        .at(Stage::Manifest)
}

/// The last backup of this host should still be there; nobody else remembers it as well.
async fn tell_if_gone(cx: &Context, lanes: &mut Lanes<'_>, request: &BackupRequest, head: Head) {
    let at = BackupRef { source: request.source.clone(), id: head.id };
    let several = lanes.are_several();
    let looks = lanes.alive().map(async |lane| {
        let found = lane.ask(&at.manifest(), lane.place().reader.stat(&at.manifest())).await;
        // A place that does not answer is told by the call that needs the answer.
        matches!(found, Ok(None)).then(|| lane.place().name.clone())
    });
    for name in join_all(looks).await.into_iter().flatten() {
        let place = if several { format!("destination {name}") } else { "the destination".to_owned() };
        cx.report(Event::Warning(&format!(
            "the previous backup, {at} (number {}), is gone from {place}: if nobody removed it on purpose, find out who did",
            head.seq
        )));
    }
}

/// A ledger that remembers nothing of a source must be new: one that was lost would give out numbers
/// again that stand in a place, below the highest, and readers would take an old backup for the
/// latest. So every place that was asked for must be there to be looked at, also where fewer are enough.
async fn check_memory(
    cx: &Context,
    parts: &MirrorParts,
    lanes: &mut Lanes<'_>,
    request: &BackupRequest,
) -> Result<()> {
    if let Some((name, error)) = lanes.first_lost() {
        let what = format!("destination {name} cannot be looked at: {error}");
        let subject = format!("first backup of {} by this host", request.source);
        return Err(Error::new(error.kind(), subject, what)
            .with_hint("the first backup needs every destination, so that no number is given out twice"));
    }
    let looks = lanes.alive().map(|lane| check_place(cx, parts, lane, request));
    join_all(looks).await.into_iter().collect()
}

async fn check_place(
    cx: &Context,
    parts: &MirrorParts,
    lane: &Lane<'_>,
    request: &BackupRequest,
) -> Result<()> {
    let reader = lane.place().reader.as_ref();
    let prefix = format!("{}/", request.source);
    let about = BackupRef { source: request.source.clone(), id: request.id }.manifest();
    let objects = match lane.ask(&about, reader.list(&prefix)).await {
        Err(error) if error.kind() == ErrorKind::Denied => {
            let what = "whether this host has backed up here before is unknown: it may not list the place";
            cx.report(Event::Warning(&format!("{what}: {error}")));
            return Ok(());
        }
        listed => listed.map_err(|e| e.at(Stage::Manifest))?,
    };
    for at in objects.iter().filter_map(|object| BackupRef::of_manifest(&object.key)) {
        let stored = lane.ask(&about, read::small(reader, &at.manifest(), read::STATEMENT_LEN_MAX)).await;
        let stored = match stored {
            // Removed since the listing, or nothing that this host made.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Integrity) => continue,
            stored => stored.map_err(|e| e.at(Stage::Manifest))?,
        };
        let Some(own) = parts.signer.recognize(StatementKind::Manifest, &stored) else { continue };
        // A copy of what belongs elsewhere is no backup of this source.
        if !Manifest::from_json(&at, &own.body).is_ok_and(|own| own.repository == request.repository) {
            continue;
        }
        return Err(Error::new(
            ErrorKind::Conflict,
            at.to_string(),
            "is signed by this host, whose own record of what it signed is lost",
        )
        .with_hint("put this host's state back from a copy, or give the host a new signing key and let the owner add it")
        .with_retry(Retry::Never)
        .at(Stage::Manifest));
    }
    Ok(())
}

/// What became of a manifest that an interrupted run was about to store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fate {
    /// Nothing is there.
    Absent,
    /// Something else stands in its place.
    Displaced,
    /// No place that can be looked at has it, and not every place can be.
    Unknown,
    /// It is there.
    Stored,
}

/// The backup that an interrupted run was about to finish, and its manifest's fate by a look at every
/// place. Places that cannot be looked at are given up.
pub(super) async fn interrupted(
    cx: &Context,
    parts: &MirrorParts,
    lanes: &mut Lanes<'_>,
    request: &BackupRequest,
) -> Result<Option<(BackupRef, Fate)>> {
    let Some(intended) = parts.ledger.intended(&request.repository, &request.source).await? else {
        return Ok(None);
    };
    let at = BackupRef { source: request.source.clone(), id: intended.id };
    let looks = lanes.alive().map(async |lane| {
        let reader = lane.place().reader.as_ref();
        match lane.ask(&at.manifest(), fate(reader, parts.signer.as_ref(), &at, intended)).await {
            Ok(fate) => Some(fate),
            Err(error) => {
                lane.lose(error.at(Stage::Manifest));
                None
            }
        }
    });
    let fates = join_all(looks).await;
    lanes.enough(cx)?;
    let found = fates.into_iter().flatten().max().unwrap_or(Fate::Unknown);
    let fate = if lanes.is_complete() { found } else { found.max(Fate::Unknown) };
    Ok(Some((at, fate)))
}

/// What became of the manifest in one place.
async fn fate(reader: &dyn Source, signer: &dyn Signer, at: &BackupRef, intended: Head) -> Result<Fate> {
    let Some(info) = reader.stat(&at.manifest()).await? else { return Ok(Fate::Absent) };
    if info.len > read::STATEMENT_LEN_MAX {
        return Ok(Fate::Displaced);
    }
    match read::small(reader, &at.manifest(), read::STATEMENT_LEN_MAX).await {
        Ok(stored) => {
            let found = signer.recognize(StatementKind::Manifest, &stored);
            Ok(if found.is_some_and(|found| found.pae_sha256 == intended.pae_sha256) {
                Fate::Stored
            } else {
                Fate::Displaced
            })
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Fate::Absent),
        // It is there and the place damages it: a number that was given out is not given out twice.
        Err(error) if error.kind() == ErrorKind::Integrity => Ok(Fate::Stored),
        Err(error) => Err(error),
    }
}

/// The head to build on, after settling by a look what an interrupted run intended.
///
/// The look is the last thing before a new manifest is made: a request that a killed process left on
/// its way to the place has had the time of a whole dump to arrive.
pub(super) async fn settled_head(
    cx: &Context,
    parts: &MirrorParts,
    lanes: &mut Lanes<'_>,
    request: &BackupRequest,
) -> Result<Option<Head>> {
    let (repository, source) = (&request.repository, &request.source);
    if let Some((at, fate)) = interrupted(cx, parts, lanes, request).await? {
        // A number that may stand somewhere is not given out twice.
        parts.ledger.settle(repository, source, fate >= Fate::Unknown).await?;
        let fate = match fate {
            Fate::Stored => "is whole",
            Fate::Unknown => "is in no place that can be looked at; its number is not given out again",
            Fate::Absent => "was never finished",
            Fate::Displaced => "was never finished, and something else stands in its manifest's place",
        };
        if at.id != request.id {
            cx.report(Event::Warning(&format!("an earlier run was interrupted; its backup {at} {fate}")));
        }
    }
    parts.ledger.head(repository, source).await
}

/// The same run, without byte counts: trees and manifests are not progress.
pub(super) fn quiet(cx: &Context) -> Context {
    read::without_progress(cx)
}
