//! `restore`: a backup into a new database.

use std::fmt::Write as _;

use backup_core::pipeline::{self, RestoreOptions, RestoreOutcome};
use clap::Args;
use serde_json::json;

use super::Surroundings;
use crate::args::{DestinationArgs, IdentityArgs, SecretArgs};
use crate::failure::Outcome;
use crate::reading::{self, OriginArgs, Reader};
use crate::settings::Needs;
use crate::{printer, wiring};

/// Restore a backup into a new database.
#[derive(Debug, Args)]
pub(crate) struct Restore {
    /// The backup: SOURCE@latest, SOURCE@ID or ID
    backup: String,
    /// The target: a database or file that does not exist yet
    #[arg(long, value_name = "URL")]
    to: String,
    /// Read and verify everything first; nothing is applied before the end was seen
    #[arg(long)]
    verify_first: bool,
    /// Say what would be done, and stop
    #[arg(long)]
    dry_run: bool,
    /// Restore into a target that already holds something
    #[arg(long)]
    into_existing: bool,
    #[command(flatten)]
    destination: DestinationArgs,
    #[command(flatten)]
    identity: IdentityArgs,
    #[command(flatten)]
    secrets: SecretArgs,
    #[command(flatten)]
    origin: OriginArgs,
}

impl Restore {
    /// Runs the command.
    pub(crate) async fn run(self, mut around: Surroundings) -> Outcome {
        let selector = reading::selector(&self.backup)?;
        let needs = Needs {
            source: selector.source().map(backup_core::SourceName::as_str),
            destination: true,
            identity: true,
            ..Needs::default()
        };
        let settings = around.settings(&[&self.destination, &self.identity, &self.secrets], needs)?;
        let restorer = wiring::target(&self.to)?;
        let mut reader = Reader::open(&around, &settings, &self.origin).await?;
        let at = reader.select(&around, &settings, &selector).await?;
        let decryptor = reading::decryptor(&around, &settings)?;
        let options = RestoreOptions {
            verify_first: self.verify_first,
            dry_run: self.dry_run,
            into_existing: self.into_existing,
        };
        let (cx, bar) = around.watched();
        let source = reader.place.ports.source.as_ref();
        let trust = reader.trust.as_ref();
        let outcome =
            pipeline::restore(&cx, source, trust, decryptor.as_ref(), restorer.as_ref(), &at, options).await;
        bar.done();
        let (document, text) = match outcome? {
            RestoreOutcome::Planned(manifest, plan) => {
                let mut text = format!("dry run: {at} into {}\n", plan.target());
                for step in plan.steps() {
                    let _ = writeln!(text, "  {step}");
                }
                let document = json!({
                    "planned": plan.target(), "steps": plan.steps(),
                    "backup": super::show::document(&manifest),
                });
                (document, text)
            }
            RestoreOutcome::Restored(manifest, restored) => {
                for warning in &restored.warnings {
                    around.printer.warn(warning);
                }
                let text = format!(
                    "restored {at}, {} old, into {} ({})",
                    reading::age(manifest.manifest(), around.cx.now()),
                    restored.target,
                    printer::bytes(restored.bytes),
                );
                let document = json!({
                    "restored": restored.target, "bytes": restored.bytes, "warnings": restored.warnings,
                    "backup": super::show::document(&manifest),
                });
                (document, text)
            }
        };
        around.printer.result(&document, &text)
    }
}
