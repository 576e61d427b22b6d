//! `restore`: a backup into a new database.

use std::fmt::Write as _;

use backup_core::pipeline::{self, RestoreOptions, RestoreOutcome};
use clap::Args;
use dumpers::TargetConfig;
use dumpers::command::CommandConfig;
use serde_json::json;

use super::Surroundings;
use crate::args::{DestinationArgs, IdentityArgs, SecretArgs, Sets};
use crate::database::{Named, described, is_name, refuse_password};
use crate::failure::{Failure, Outcome};
use crate::reading::{self, OriginArgs, Reader};
use crate::settings::{Needs, Settings, nearest};
use crate::{notice, printer, wiring};

/// Restore a backup into a new database.
#[derive(Debug, Args)]
pub(crate) struct Restore {
    /// The backup: SOURCE@latest, SOURCE@ID or ID
    backup: String,
    /// The target, which does not exist yet: postgres://user@host/new_database, sqlite:FILE, file:FILE, or the name of
    /// a [targets] table
    #[arg(long, value_name = "URL|NAME", required_unless_present = "command")]
    to: Option<String>,
    /// Feed the dump to the program after `--`
    #[arg(long, conflicts_with = "to", requires = "argv")]
    command: bool,
    /// The program and its arguments
    #[arg(last = true, requires = "command", value_name = "PROGRAM")]
    argv: Vec<String>,
    /// One more argument for the restore program; repeatable
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    restore_arg: Vec<String>,
    /// One more setting of the target, as docs/configuration.md lists them; repeatable
    #[arg(long, value_name = "KEY=VALUE", conflicts_with = "command")]
    set: Vec<String>,
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

/// What a restore does that does not verify everything first.
fn streaming(into_a_program: bool) -> &'static str {
    if into_a_program {
        "restoring while reading: the program gets each block once it was verified, and only exit code 0 says that \
         the end was too; --verify-first reads everything twice, and starts the program after the first time"
    } else {
        "restoring while reading: blocks are verified one by one, and the target is handed over only after the end \
         was verified; --verify-first reads everything twice, and applies nothing before the first time was good"
    }
}

/// Refuses what is no URL, or one that would show a secret.
fn check_target(text: &str, settings: &Settings) -> Outcome {
    refuse_password(text, "flag --to")?;
    if is_name(text)
        && let Some(near) = nearest(text, settings.targets.keys().map(String::as_str))
    {
        return Err(Failure::usage(
            "flag --to",
            format!("no target is called {text:?}"),
            format!("did you mean {near:?}?"),
        ));
    }
    TargetConfig::from_url(text)
        .map_err(|e| Failure::usage("flag --to", e.what(), e.hint().unwrap_or_default()))?;
    Ok(())
}

impl Restore {
    fn target(&self, settings: &Settings) -> Outcome<TargetConfig> {
        if self.command {
            if !self.restore_arg.is_empty() {
                return Err(Failure::usage(
                    "flag --restore-arg",
                    "the program's arguments stand after `--`",
                    "leave --restore-arg out",
                ));
            }
            return Ok(TargetConfig::Command(CommandConfig::new(self.argv.clone())));
        }
        let text = self.to.as_deref().unwrap_or_default();
        let table = settings.targets.get(text);
        if table.is_none() {
            check_target(text, settings)?;
        }
        described(Named {
            text,
            table,
            section: "targets",
            file: settings.file.as_deref(),
            argument: "flag --to",
            set: &self.set,
            args: &self.restore_arg,
        })
    }

    /// Runs the command.
    pub(crate) async fn run(self, mut around: Surroundings) -> Outcome {
        let selector = reading::selector(&self.backup);
        let needs = Needs {
            source: reading::named_source(&selector),
            destination: true,
            identity: true,
            ..Needs::default()
        };
        let flags: [&dyn Sets; 3] = [&self.destination, &self.identity, &self.secrets];
        let (settings, mut checks) = around.checked(&flags, needs)?;
        let selector = checks.keep("", selector);
        let target = checks.keep("flag --to", self.target(&settings));
        let restorer = target.and_then(|target| checks.keep("", wiring::restorer(&target)));
        let (selector, restorer) = checks.done(selector.zip(restorer))?;
        let mut reader = Reader::open(&around, &settings, &self.origin).await?;
        let at = reader.select(&around, &settings, &selector).await?;
        let decryptor = reading::decryptor(&around, &settings)?;
        let options = RestoreOptions {
            verify_first: self.verify_first,
            dry_run: self.dry_run,
            into_existing: self.into_existing,
        };
        if !self.verify_first && !self.dry_run {
            around.printer.say(streaming(self.command));
        }
        let (cx, bar) = around.watched();
        let source = reader.place.ports.source.as_ref();
        let trust = reader.trust.as_ref();
        let outcome =
            pipeline::restore(&cx, source, trust, decryptor.as_ref(), restorer.as_ref(), &at, options).await;
        bar.done();
        let (document, text) = match outcome? {
            RestoreOutcome::Planned(manifest, plan) => {
                notice::warn_unless_encrypted(&around.printer, manifest.manifest());
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
                notice::warn_unless_encrypted(&around.printer, manifest.manifest());
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
