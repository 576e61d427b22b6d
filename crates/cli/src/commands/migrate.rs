//! `migrate`: everything to another destination, verified there, then removed where it was.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use backup_core::pipeline::{self, ClockCheck, PruneParts};
use backup_core::{BackupRef, Error, ErrorKind, SourceName, VouchedManifest};
use clap::Args;
use envelope_crypto::trust::Role;
use serde_json::json;

use super::Surroundings;
use super::copy::{believed, copy_all, tell_of_receipts};
use crate::args::CopyArgs;
use crate::copying::Copying;
use crate::failure::Outcome;
use crate::settings::Needs;
use crate::{host, wiring};

/// Copy everything to another destination, verify it there, then remove it where it was.
#[derive(Debug, Args)]
pub(crate) struct Migrate {
    /// Only this source
    source: Option<SourceName>,
    /// Remove each backup where it was, once all of them were verified in the other place
    #[arg(long)]
    remove: bool,
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
        let mut removed = Vec::new();
        if let Some(signer) = &signer {
            let parts = PruneParts {
                source: from.ports.source.as_ref(),
                sink: from.ports.sink.as_ref(),
                remover: from.ports.remover.as_ref(),
                trust: copying.trust.as_ref(),
                signer,
                clock: ClockCheck::Compared,
            };
            let reason = format!("all of it is in {}", backup_core::printable(&to.name));
            for (at, manifest) in &verified {
                around.cx.check(&at.to_string())?;
                if pipeline::retire(&around.cx, parts, manifest, &reason).await? {
                    removed.push(at.id);
                }
            }
            let _ = writeln!(
                text,
                "removed {} backups from {}; its history says where they are",
                removed.len(),
                from.name
            );
        }
        let _ = write!(text, "to switch: set destination to {} where {} is named", self.places.to, from.name);
        let mut document = report.document(&settings, &copying);
        document["verified"] = json!(verified.keys().map(|at| at.id).collect::<Vec<_>>());
        document["history"] = json!(history);
        document["removed"] = json!(removed);
        around.printer.result(&document, &text)
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
