//! `migrate`: everything to another destination, verified there, then removed where it was.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use backup_core::pipeline::{self, ClockCheck, Elsewhere, PruneParts};
use backup_core::{BackupId, BackupRef, Error, ErrorKind, SourceName, VouchedManifest};
use clap::Args;
use envelope_crypto::sign::SigningKey;
use envelope_crypto::trust::Role;
use serde_json::json;

use super::Surroundings;
use super::copy::{believed, copy_all, tell_of_receipts};
use super::prune;
use crate::args::CopyArgs;
use crate::copying::Copying;
use crate::failure::Outcome;
use crate::retention::KeepArgs;
use crate::settings::{Needs, Settings};
use crate::{host, wiring};

/// Copy everything to another destination, verify it there, then remove it where it was.
#[derive(Debug, Args)]
pub(crate) struct Migrate {
    /// Only this source
    source: Option<SourceName>,
    /// Remove each backup where it was, once all of them were verified in the other place
    #[arg(long)]
    remove: bool,
    /// Remove although this machine's clock is far ahead of everything in the place
    #[arg(long, requires = "remove")]
    clock_is_right: bool,
    #[command(flatten)]
    places: CopyArgs,
}

impl Migrate {
    /// Runs the command.
    pub(crate) async fn run(self, mut around: Surroundings) -> Outcome {
        let named = self.source.as_ref().map(ToString::to_string);
        let needs = Needs { source: named.as_deref(), destination: true, ..Needs::default() };
        let settings = around.settings(&[&self.places], needs)?;
        let copying = Copying::open(&around, &settings, &self.places).await?;
        let (from, to) = (&copying.from.place, &copying.to);
        let backups = believed(&around, &copying, self.source.as_ref()).await?;
        let sources: BTreeSet<&SourceName> = backups.iter().map(|at| &at.source).collect();
        let signer = self.pruner(&around, &copying, &sources)?;
        tell_of_receipts(&around, &copying, &backups);
        // No backup of this machine is made meanwhile, which would stay behind unseen.
        let mut locks = Vec::new();
        if let Some(repository) = &copying.from.repository {
            for source in &sources {
                locks.push(copying.from.state.lock_backup(&repository.id(), source)?);
            }
        }
        let report = copy_all(&around, &copying, &backups, false).await?;
        if report.failed() > 0 {
            around.printer.result(&report.document(&settings, &copying), &report.text)?;
            around.printer.warn("nothing was removed");
            return report.judge(&backups);
        }
        let mut text = report.text.clone();
        let verified = verify_all(&around, &copying, &backups).await?;
        let _ = writeln!(text, "verified {} backups in {}", verified.len(), to.name);
        let history = match sources.first() {
            Some(source) => pipeline::copy_history(&around.cx, &copying.parts(source, false)).await?,
            None => 0,
        };
        let mut gone = Gone::default();
        if let Some(signer) = &signer {
            for source in &sources {
                self.remove(&around, &settings, &copying, (source, signer), &verified, &mut gone).await?;
            }
            text.push_str(&gone.text);
            let _ = writeln!(
                text,
                "removed {} backups from {}; its history says where they are",
                gone.removed.len(),
                from.name
            );
        }
        let _ = write!(text, "to switch: set destination to {} where {} is named", self.places.to, from.name);
        let mut document = report.document(&settings, &copying);
        document["verified"] = json!(verified.keys().map(|at| at.id).collect::<Vec<_>>());
        document["history"] = json!(history);
        document["removed"] = json!(gone.removed);
        document["waiting"] = json!(gone.waiting);
        document["stay"] = json!(gone.stay);
        around.printer.result(&document, &text)
    }

    /// Removes the backups of one source where they were, after all that a prune asks.
    async fn remove(
        &self,
        around: &Surroundings,
        settings: &Settings,
        copying: &Copying,
        (source, signer): (&SourceName, &SigningKey),
        verified: &BTreeMap<BackupRef, VouchedManifest>,
        gone: &mut Gone,
    ) -> Outcome {
        let (from, to) = (&copying.from.place, &copying.to);
        if let Some(repository) = &copying.from.repository {
            prune::check_clock(around, repository)?;
        }
        let policy = KeepArgs::default().policy(settings.sources.get(source.as_str()))?;
        let clock = if self.clock_is_right { ClockCheck::Trusted } else { ClockCheck::Compared };
        let parts = PruneParts {
            source: from.ports.source.as_ref(),
            sink: from.ports.sink.as_ref(),
            remover: from.ports.remover.as_ref(),
            trust: copying.trust.as_ref(),
            signer,
            clock,
        };
        let there: BTreeMap<_, _> = verified.iter().filter(|(at, _)| at.source == *source).collect();
        let mut proven = 0;
        for manifest in there.values() {
            let said =
                pipeline::attestations(to.ports.source.as_ref(), copying.trust.as_ref(), manifest).await?;
            proven += usize::from(said.proven() && !said.failed());
        }
        let verified: BTreeSet<BackupId> = there.keys().map(|at| at.id).collect();
        let other = Elsewhere { name: &to.name, verified: &verified, proven };
        let frozen = prune::last_failed(&copying.from, source)?;
        let standing = pipeline::survey(&around.cx, parts, source).await?;
        let plan = pipeline::plan_retire(&around.cx, source, standing, &policy, other, frozen.as_deref());
        let plan = prune::heed_locks(around, from, plan).await?;
        gone.text.push_str(&prune::said(&plan));
        let pruned = pipeline::prune(&around.cx, parts, &plan).await?;
        gone.removed.extend(pruned.removed.iter().map(|at| at.id));
        gone.waiting.extend(pruned.waiting.iter().map(|at| at.id));
        for (standing, decision) in &plan.decisions {
            let id = standing.candidate.id;
            if decision.keeps() || pruned.spared.iter().any(|at| at.id == id) {
                gone.stay.push(id);
            }
        }
        if !gone.stay.is_empty() || !gone.waiting.is_empty() {
            around.printer.warn(&format!(
                "of {source}, {} backups stay in {} and {} wait for their delay; the reasons stand beside them",
                gone.stay.len(),
                from.name,
                gone.waiting.len()
            ));
        }
        Ok(())
    }

    /// The key that removes, looked at before anything is copied.
    fn pruner(
        &self,
        around: &Surroundings,
        copying: &Copying,
        sources: &BTreeSet<&SourceName>,
    ) -> Outcome<Option<envelope_crypto::sign::SigningKey>> {
        let Some(repository) = copying.from.repository.as_ref().filter(|_| self.remove) else {
            return Ok(None);
        };
        let signer = host::host_key(&copying.from.state, &around.printer)?;
        for source in sources {
            repository.check_role(&signer, Role::Pruner, source)?;
        }
        Ok(Some(signer))
    }
}

/// What became of what was to be removed where it was.
#[derive(Debug, Default)]
struct Gone {
    removed: Vec<BackupId>,
    /// Marked, and removed by a later call when their delay is over.
    waiting: Vec<BackupId>,
    stay: Vec<BackupId>,
    text: String,
}

/// Reads every copy in the other place to its end. What a pruner removed there is no copy.
async fn verify_all(
    around: &Surroundings,
    copying: &Copying,
    backups: &[BackupRef],
) -> Outcome<BTreeMap<BackupRef, VouchedManifest>> {
    let (source, auditor) = (copying.to.ports.source.as_ref(), wiring::auditor());
    let mut verified = BTreeMap::new();
    for at in backups {
        let (cx, bar) = around.watched();
        let done = pipeline::quick(&cx, source, copying.trust.as_ref(), auditor.as_ref(), at).await;
        bar.done();
        match done {
            Ok(done) => {
                verified.insert(at.clone(), done.manifest);
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                around.printer.warn(&format!(
                    "{at} was removed from {} by a pruner; it stays where it is",
                    copying.to.name
                ));
            }
            Err(error) => {
                let what = format!("is not whole in {}, so nothing was removed: {error}", copying.to.name);
                return Err(Error::new(error.kind(), at.to_string(), what)
                    .with_hint("`strongroom migrate --repair` makes it whole from the good copy")
                    .into());
            }
        }
    }
    Ok(verified)
}
