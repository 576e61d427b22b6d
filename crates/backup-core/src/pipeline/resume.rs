//! A backup through a spool: dumped to this machine's disk first, sealed, and then brought to its
//! places, by this run or by a later one.
//!
//! The manifest is signed when the data is in its places, against the history as it then is, and kept
//! in the spool from then on: there is never a second one for the same backup.

use jiff::Timestamp;

use crate::context::Context;
use crate::dump::DumpReport;
use crate::error::{Error, ErrorKind, Result, Retry, Stage};
use crate::manifest::{BackupRef, Manifest};
use crate::progress::{Event, RunStatus};
use crate::statement::{SignedStatement, StatementKind};

use super::backup::{
    BackedUp, BackupRequest, Facts, Stages, Work, backup_into, check_lengths, dump, intend, publish, quiet,
    settled_head,
};
use super::mirror::{Lanes, MirrorParts, Mirrored};
use super::spool::{Spool, Spooled};
use super::store;

/// What bringing a spooled backup to its places came to.
#[derive(Debug)]
pub struct Resumed {
    /// As of any other backup.
    pub mirrored: Mirrored,
    /// Whether it is in every place that was asked for, and so no longer in the spool.
    pub delivered: bool,
    /// Whether what the spool holds can never become a backup: it is damaged, something else stands in
    /// its place, or a newer backup was signed meanwhile. Discarding it loses nothing.
    pub hopeless: bool,
}

/// Makes one backup in one or several places through a spool: dump and seal into the spool, then store
/// from there. The database is free as soon as the spool holds the whole.
///
/// Killed at any moment after that, [`resume`] goes on without a new dump. Before it, nothing is left but
/// leftovers that [`Spool::entries`] removes.
///
/// Not cancel safe: stop it through the context's token.
pub async fn mirror_through(
    cx: &Context,
    parts: &MirrorParts,
    spool: &Spool,
    request: BackupRequest,
) -> Resumed {
    run(cx, parts, request, Work::Through(spool)).await
}

/// Brings what an earlier run left in the spool to the places that do not have it yet. The database is
/// not asked. `read_back` as in [`BackupRequest`].
///
/// Killed at any moment, another call goes on again. Not cancel safe: stop it through the context's token.
pub async fn resume(
    cx: &Context,
    parts: &MirrorParts,
    spool: &Spool,
    spooled: &Spooled,
    read_back: bool,
) -> Resumed {
    let BackupRef { source, id } = spooled.at();
    let request = BackupRequest { id, read_back, ..BackupRequest::new(spooled.repository(), source) };
    run(cx, parts, request, Work::From(spool, spooled)).await
}

async fn run(cx: &Context, parts: &MirrorParts, request: BackupRequest, work: Work<'_>) -> Resumed {
    let mut lanes = Lanes::new(parts);
    let outcome = match lanes.check_request() {
        Ok(()) => backup_into(cx, parts, &mut lanes, request, work).await,
        Err(error) => Err(error),
    };
    let (delivered, hopeless) = (lanes.all_stored(), lanes.hopeless);
    Resumed { mirrored: Mirrored { outcome, copies: lanes.into_copies() }, delivered, hopeless }
}

/// Dumps and seals into the spool.
pub(super) async fn fill(
    cx: &Context,
    parts: &MirrorParts,
    request: &BackupRequest,
    spool: &Spool,
    started: Timestamp,
    stages: &Stages<'_>,
) -> Result<(Spooled, DumpReport)> {
    let at = BackupRef { source: request.source.clone(), id: request.id };
    let (repository, source) = (&request.repository, &request.source);
    let after = parts.ledger.head(repository, source).await?;
    let or_after = parts.ledger.intended(repository, source).await?;
    let (bytes, dumped) = dump(cx, parts, request, stages).await?;
    // Sealed bytes are counted when they go to their places.
    let receipt = store(&quiet(cx), spool.sink.as_ref(), &at.data(), bytes, request.estimate).await;
    let receipt = receipt.map_err(|error| {
        let of_the_disk = matches!(error.stage(), Some(Stage::Upload | Stage::Commit));
        match error.hint() {
            Some(hint) if of_the_disk => {
                let hint =
                    format!("this is the spool, which needs as much room as the sealed backup: {hint}");
                error.with_hint(hint)
            }
            _ => error,
        }
    })?;
    let (report, summary) = dumped.known()?;
    check_lengths(&receipt, summary)?;
    spool.put(cx, &at.tree(), summary.tree.clone()).await?;
    let facts = Facts::new(parts, started, &dumped.format, report, summary, &receipt, &request.tags);
    let names = (request.repository, request.source.clone(), request.id);
    let heads = (after.map(|head| head.pae_sha256), or_after.map(|head| head.pae_sha256));
    let spooled = Spooled::new(facts, names, parts.signer.key_id(), heads, &summary.tree);
    spool.note(cx, &spooled).await?;
    Ok((spooled, report.clone()))
}

/// Stores what the spool holds in every place that lacks it, signs where nobody has, and publishes.
#[expect(clippy::too_many_arguments, reason = "the ports of a run, and what it is about")]
pub(super) async fn deliver(
    cx: &Context,
    parts: &MirrorParts,
    lanes: &mut Lanes<'_>,
    request: &BackupRequest,
    spool: &Spool,
    spooled: &Spooled,
    report: DumpReport,
    stages: &Stages<'_>,
) -> Result<BackedUp> {
    let at = spooled.at();
    if spooled.signer() != parts.signer.key_id() || spooled.repository() != request.repository {
        let what = "was sealed for another repository or by a host with another key";
        return Err(Error::new(ErrorKind::Conflict, at.to_string(), what));
    }
    let signed = match spool.manifest(&at).await? {
        Some(stored) => Some(signed_before(cx, parts, lanes, request, spooled, stored).await?),
        None => {
            check_history(cx, parts, lanes, request, spooled).await?;
            None
        }
    };

    stages.advance(RunStatus::Uploading).await?;
    cx.report(Event::Status(RunStatus::Uploading));
    lanes.store_from(cx, spool, &at, &at.data(), &spooled.data(), true).await?;
    if request.read_back {
        stages.advance(RunStatus::Verifying).await?;
        cx.report(Event::Status(RunStatus::Verifying));
        lanes.read_back(&quiet(cx), &at.data(), &spooled.data()).await?;
    }
    lanes.store_from(&quiet(cx), spool, &at, &at.tree(), &spooled.tree(), false).await?;
    cx.check(&at.to_string())?;

    let (manifest, signed) = match signed {
        Some(signed) => signed,
        None => {
            let previous = check_history(cx, parts, lanes, request, spooled).await?;
            let manifest = spooled.facts().manifest(request, previous, cx.now());
            let signed = parts.signer.sign(StatementKind::Manifest, &manifest.to_json()?)?;
            intend(parts, request, &manifest, &signed).await?;
            // Kept before anybody else can see it, so that whoever goes on stores the same.
            spool.put(cx, &at.manifest(), signed.stored().clone()).await?;
            (manifest, signed)
        }
    };
    publish(cx, parts, lanes, request, &manifest, &signed).await?;
    if lanes.all_stored() {
        // What stays is found by the next run of this source, which sees that it is everywhere.
        if let Err(error) = spool.discard(&at).await {
            cx.report(Event::Warning(&format!("the backup is stored, but stays in the spool: {error}")));
        }
    }
    Ok(BackedUp { manifest, report, read_back: request.read_back })
}

/// The head that the manifest follows: the one that was there when the database was dumped. An older
/// state must not be signed after a newer one, or readers would take it for the latest.
async fn check_history(
    cx: &Context,
    parts: &MirrorParts,
    lanes: &mut Lanes<'_>,
    request: &BackupRequest,
    spooled: &Spooled,
) -> Result<Option<crate::ledger::Head>> {
    let head = settled_head(cx, parts, lanes, request).await?;
    if spooled.may_follow(head.map(|head| head.pae_sha256)) {
        return Ok(head);
    }
    lanes.hopeless = true;
    let what = "was left in the spool, and another backup of this source was signed since";
    Err(Error::new(ErrorKind::Conflict, spooled.at().to_string(), what)
        .with_hint("the newer backup stands; back up again for one that is newer still")
        .with_retry(Retry::Never)
        .at(Stage::Manifest))
}

/// The manifest that an earlier run signed, if it may still be stored: its number is reserved for it, or
/// some place holds it already.
async fn signed_before(
    cx: &Context,
    parts: &MirrorParts,
    lanes: &mut Lanes<'_>,
    request: &BackupRequest,
    spooled: &Spooled,
    stored: bytes::Bytes,
) -> Result<(Manifest, SignedStatement)> {
    let at = spooled.at();
    let own = parts.signer.recognize(StatementKind::Manifest, &stored);
    let read = own.map(|own| Ok((Manifest::from_json(&at, &own.body)?, own.pae_sha256)));
    let Some(Ok((manifest, pae_sha256))) = read.map(|read: Result<_>| read) else {
        lanes.hopeless = true;
        let what = "its manifest in the spool is not what was signed";
        return Err(Error::new(ErrorKind::Integrity, format!("spool of {at}"), what)
            .with_retry(Retry::Never)
            .at(Stage::Manifest));
    };
    let facts = spooled.facts();
    let signed = SignedStatement::signed(stored, pae_sha256);
    let about_this = manifest.sha256 == facts.sha256 && manifest.repository == request.repository;
    let intended = parts.ledger.intended(&request.repository, &request.source).await?;
    let reserved = intended.is_some_and(|head| head.pae_sha256 == pae_sha256);
    let found = lanes.find_manifest(cx, &at, &signed).await?;
    if about_this && (reserved || found > 0) {
        return Ok((manifest, signed));
    }
    lanes.hopeless = true;
    let what = "was left in the spool, signed and never stored, and its number was given up since";
    Err(Error::new(ErrorKind::Conflict, at.to_string(), what)
        .with_hint("back up again")
        .with_retry(Retry::Never)
        .at(Stage::Manifest))
}
