//! The way back, under the same promise as the way in.

use crate::context::Context;
use crate::error::{Error, Result, Stage};
use crate::manifest::BackupRef;
use crate::progress::{Event, RunStatus};
use crate::restore::{RestorePlan, RestoreRequest, Restored, Restorer};
use crate::seal::Decryptor;
use crate::statement::{Trust, VouchedManifest};
use crate::store::Source;

use super::{OpenedBackup, meter, read};

/// How to restore.
#[derive(Debug, Clone, Copy, Default)]
pub struct RestoreOptions {
    /// Read and verify everything first; nothing is applied before the end was seen.
    pub verify_first: bool,
    /// Stop after the plan.
    pub dry_run: bool,
    /// Allow a target that already holds something.
    pub into_existing: bool,
}

/// What came of it.
#[derive(Debug)]
pub enum RestoreOutcome {
    /// A dry run: what would be done.
    Planned(VouchedManifest, RestorePlan),
    /// The target is there.
    Restored(VouchedManifest, Restored),
}

/// Restores a backup into a target. The target is handed over only after the envelope's end was
/// verified and the restore tool succeeded.
///
/// Without `verify_first` the restorer works on authenticated blocks while later ones are still
/// unread, into a place that is not handed over yet. With it, a first pass reads to the end and a
/// second applies; a data object that was exchanged between the passes is refused frame by frame.
///
/// Not cancel safe: stop it through the context's token.
///
/// # Errors
/// Those of reading ([`open`](super::open)) and of the [`Restorer`].
pub async fn restore(
    cx: &Context,
    source: &dyn Source,
    trust: &dyn Trust,
    decryptor: &dyn Decryptor,
    restorer: &dyn Restorer,
    at: &BackupRef,
    options: RestoreOptions,
) -> Result<RestoreOutcome> {
    cx.report(Event::Status(RunStatus::Pending));
    let manifest = read::manifest(source, trust, at).await?;
    let request = RestoreRequest {
        format: manifest.manifest().format.clone(),
        source_len: Some(manifest.manifest().source_len),
        into_existing: options.into_existing,
    };
    let plan = restorer.plan(cx, request).await.map_err(|e| e.at(Stage::Restore))?;
    if options.dry_run {
        return Ok(RestoreOutcome::Planned(manifest, plan));
    }
    cx.report(Event::Estimate { bytes: manifest.manifest().source_len });
    let tree = if options.verify_first {
        cx.report(Event::Status(RunStatus::Verifying));
        let first = read::open_data(cx, source, decryptor, manifest.clone(), None).await?;
        drain(cx, first).await?;
        Some(read::tree(source, manifest.manifest()).await?)
    } else {
        None
    };
    cx.report(Event::Status(RunStatus::Running));
    let OpenedBackup { manifest, mut dump } = read::open_data(cx, source, decryptor, manifest, tree).await?;
    dump.bytes = meter::restored(cx, dump.bytes);
    let ended = dump.report.clone();
    let restored = restorer.restore(cx, plan, dump).await.map_err(|e| e.at(Stage::Restore));
    // A restorer that stopped early has not seen the verified end, and may not say that all is well.
    let restored = restored.and_then(|restored| match ended.get() {
        Some(_) => Ok(restored),
        None => Err(Error::bug(format!(
            "the restore of {at} into {} ended before the envelope's end was verified: do not use that target",
            restored.target
        ))
        .at(Stage::Restore)),
    });
    cx.report(Event::Status(if restored.is_ok() { RunStatus::Completed } else { RunStatus::Failed }));
    Ok(RestoreOutcome::Restored(manifest, restored?))
}

/// Reads an opened backup to its verified end and keeps nothing.
async fn drain(cx: &Context, mut opened: OpenedBackup) -> Result<()> {
    loop {
        let next = tokio::select! {
            biased;
            () = cx.cancel().cancelled() => return Err(Error::cancelled("verification before the restore")),
            next = opened.dump.bytes.next() => next,
        };
        match next {
            Some(chunk) => drop(chunk.map_err(|e| e.at(Stage::Verify))?),
            None => return Ok(()),
        }
    }
}
