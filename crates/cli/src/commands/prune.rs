//! `prune`: removing what the rules of retention let go.

use std::fmt::Write as _;

use backup_core::pipeline::{self, ClockCheck, PruneParts, PrunePlan, Standing};
use backup_core::retention::Verdict;
use backup_core::{BackupId, Claim, Error, ErrorKind, RunStatus, SourceName};
use clap::Args;
use envelope_crypto::sign::SigningKey;
use envelope_crypto::trust::Role;
use serde_json::{Value as Json, json};

use super::Surroundings;
use crate::args::DestinationArgs;
use crate::failure::{Failure, Outcome};
use crate::reading::{OriginArgs, Reader};
use crate::repository::Repository;
use crate::retention::KeepArgs;
use crate::settings::Needs;
use crate::wiring::Place;
use crate::{host, printer};

/// Remove the backups of a source that the rules of retention let go.
#[derive(Debug, Args)]
pub(crate) struct Prune {
    /// The source
    source: SourceName,
    /// Say what would go and why, and remove nothing
    #[arg(long)]
    dry_run: bool,
    /// Say, signed beside it, that the unusual size of this backup is right; repeatable. Needs the role
    /// of an operator
    #[arg(long, value_name = "ID")]
    accept: Vec<BackupId>,
    /// Prune although this machine's clock is far ahead of everything in the destination
    #[arg(long)]
    clock_is_right: bool,
    #[command(flatten)]
    keep: KeepArgs,
    #[command(flatten)]
    destination: DestinationArgs,
}

impl Prune {
    /// Runs the command.
    pub(crate) async fn run(self, mut around: Surroundings) -> Outcome {
        let needs = Needs { source: Some(self.source.as_str()), destination: true, ..Needs::default() };
        let settings = around.settings(&[&self.destination], needs)?;
        let policy = self.keep.policy(settings.sources.get(self.source.as_str()))?;
        if policy.keeps_everything() {
            return Err(Failure::usage(
                format!("rules of retention for {}", self.source),
                "there are none, so nothing would go",
                "pass --keep-last, --keep-daily, ... or set keep_last, keep_daily, ... in its [sources] table",
            ));
        }
        let mut reader = Reader::open(&around, &settings, &OriginArgs::default()).await?;
        let listed =
            pipeline::list(reader.place.ports.source.as_ref(), reader.trust.as_ref(), Some(&self.source))
                .await?;
        // A place that went back in time, or lost its newest backup, is nothing to remove from.
        let wrong = reader.compare_listing(&around, &settings, &listed, Some(&self.source))?;
        let frozen = match wrong.is_empty() {
            true => last_failed(&reader, &self.source)?,
            false => Some(wrong.join("; ")),
        };
        let signer = host::host_key(&reader.state, &around.printer)?;
        let ports = &reader.place.ports;
        let parts = PruneParts {
            source: ports.source.as_ref(),
            sink: ports.sink.as_ref(),
            remover: ports.remover.as_ref(),
            trust: reader.trust.as_ref(),
            signer: &signer,
            clock: if self.clock_is_right { ClockCheck::Trusted } else { ClockCheck::Compared },
        };
        if let Some(repository) = &reader.repository {
            repository.check_role(&signer, Role::Pruner, &self.source)?;
            check_clock(&around, repository)?;
        }
        let mut standing = pipeline::survey(&around.cx, parts, &self.source).await?;
        self.accept(&around, &reader, &signer, &mut standing).await?;
        let plan = pipeline::plan_prune(&around.cx, &self.source, standing, &policy, frozen.as_deref());
        let plan = heed_locks(&around, &reader.place, plan).await?;
        let mut text = said(&plan);
        if self.dry_run {
            let _ = writeln!(text, "dry run: nothing was removed");
            return around.printer.result(&json!({ "planned": document(&plan) }), &text);
        }
        if let Some(frozen) = &plan.frozen {
            around.printer.warn(&format!("nothing goes for now: {frozen}"));
        }
        let pruned = pipeline::prune(&around.cx, parts, &plan).await?;
        let _ = writeln!(
            text,
            "removed {}, finished {} that were half removed, spared {}, {} wait for their delay",
            pruned.removed.len(),
            pruned.finished.len(),
            pruned.spared.len(),
            pruned.waiting.len()
        );
        let ids =
            |list: &[backup_core::BackupRef]| list.iter().map(|at| at.id.to_string()).collect::<Vec<_>>();
        let document = json!({
            "planned": document(&plan), "removed": ids(&pruned.removed), "finished": ids(&pruned.finished),
            "spared": ids(&pruned.spared), "waiting": ids(&pruned.waiting), "frozen": plan.frozen,
        });
        around.printer.result(&document, &text)
    }

    /// Signs beside the named backups that their sizes are as they should be.
    async fn accept(
        &self,
        around: &Surroundings,
        reader: &Reader,
        signer: &SigningKey,
        standing: &mut [Standing],
    ) -> Outcome {
        for id in &self.accept {
            let Some(one) = standing.iter_mut().find(|one| one.candidate.id == *id) else {
                return Err(Error::new(
                    ErrorKind::NotFound,
                    id.to_string(),
                    format!("no backup of {}", self.source),
                )
                .with_hint("`strongroom list` shows what is there")
                .into());
            };
            if one.candidate.accepted {
                continue;
            }
            if let Some(repository) = &reader.repository {
                repository.check_role(signer, Role::Operator, &self.source)?;
            }
            if self.dry_run {
                around.printer.say(&format!("dry run: {id} is looked at as if it were accepted"));
            } else {
                let sink = reader.place.ports.sink.as_ref();
                pipeline::attest(&around.cx, sink, signer, &one.manifest, Claim::Accepted {}).await?;
            }
            one.candidate.accepted = true;
        }
        Ok(())
    }
}

/// Refuses a clock that stands before the making of the repository: what is noted now counts for as long as the
/// backup stands.
pub(crate) fn check_clock(around: &Surroundings, repository: &Repository) -> Outcome {
    let (now, created) = (around.cx.now(), repository.trust.created());
    if now >= created {
        return Ok(());
    }
    let what = format!("says {now}, and the repository was made at {created}");
    Err(Error::new(ErrorKind::Unavailable, "this machine's clock", what)
        .with_hint("set the clock, then prune")
        .into())
}

/// Why nothing may go while the newest run of the source on this machine has failed.
pub(crate) fn last_failed(reader: &Reader, source: &SourceName) -> Outcome<Option<String>> {
    let runs = reader.state.runs(&reader.place.name).read()?;
    let last = runs.iter().rev().find(|run| run.source == source.as_str());
    Ok(last
        .filter(|run| run.status != RunStatus::Completed)
        .map(|run| format!("the newest run of {source} on this machine, {}, was not completed", run.id)))
}

/// Keeps what the place holds by a lock. Where backups are written with locks, a key that may not ask for them prunes
/// nothing; elsewhere it is told.
pub(crate) async fn heed_locks(around: &Surroundings, place: &Place, plan: PrunePlan) -> Outcome<PrunePlan> {
    let source = place.ports.source.as_ref();
    // Most plans let nothing go, and then nothing is asked.
    let Some((first, _)) = plan.removals().next() else { return Ok(plan) };
    match pipeline::held(source, &first.manifest.manifest().backup()).await {
        Err(error) if error.kind() == ErrorKind::Denied && !place.locks => {
            around.printer.warn(&format!("whether the store holds backups by a lock is not known: {error}"));
            Ok(plan)
        }
        Err(error) => Err(error.into()),
        Ok(None) => Ok(plan),
        Ok(Some(_)) => Ok(pipeline::heed_locks(&around.cx, source, plan).await?),
    }
}

pub(crate) fn said(plan: &PrunePlan) -> String {
    let mut text = String::new();
    for (standing, decision) in &plan.decisions {
        let (word, why) = match &decision.verdict {
            Verdict::Keep(reasons) => {
                ("keep  ", reasons.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
            }
            Verdict::Remove(reason) => ("remove", reason.to_string()),
        };
        let candidate = &standing.candidate;
        let _ = writeln!(
            text,
            "{word}  {}  {}  {}  {why}",
            candidate.id,
            standing.manifest.manifest().started,
            printer::bytes(candidate.bytes)
        );
    }
    text
}

fn document(plan: &PrunePlan) -> Vec<Json> {
    plan.decisions
        .iter()
        .map(|(standing, decision)| {
            json!({
                "id": decision.id, "keep": decision.keeps(), "verdict": decision.verdict,
                "first_seen": standing.candidate.first_seen, "bytes": standing.candidate.bytes,
                "proven": standing.candidate.proven, "pinned": standing.candidate.pinned,
                "failed": standing.candidate.failed, "accepted": standing.candidate.accepted,
                "marked": standing.marked, "locked_until": standing.candidate.locked_until,
            })
        })
        .collect()
}
