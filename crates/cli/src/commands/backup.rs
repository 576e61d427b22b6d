//! `backup`: one source into the destination.

use std::fmt::Write as _;
use std::sync::Arc;

use backup_core::pipeline::{self, BackedUp, BackupParts, BackupRequest};
use backup_core::{
    BackupId, Catalog as _, Context, ErrorKind, Notice, Result, RunRecord, RunStatus, Signer as _, SourceName,
};
use clap::Args;
use envelope_crypto::Recipient;
use envelope_crypto::sign::SigningKey;
use serde_json::json;

use super::Surroundings;
use crate::args::{DestinationArgs, ReadBackArgs, SealArgs, SecretArgs};
use crate::failure::{Failure, Outcome};
use crate::repository::{Reading, Repository};
use crate::settings::{KeyName, Needs, Settings};
use crate::source::{Source, SourceArgs};
use crate::state::{Both, Inventory, State};
use crate::{host, keys, printer, wiring};

/// Back up one source: a name of the configuration, a URL, `-` for stdin, or a command.
#[derive(Debug, Args)]
pub(crate) struct Backup {
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    destination: DestinationArgs,
    #[command(flatten)]
    seal: SealArgs,
    #[command(flatten)]
    secrets: SecretArgs,
    #[command(flatten)]
    read_back: ReadBackArgs,
}

impl Backup {
    /// Runs the command.
    pub(crate) async fn run(self, mut around: Surroundings) -> Outcome {
        let needs = Needs {
            source: self.source.configured_name(),
            destination: true,
            recipients: true,
            ..Needs::default()
        };
        let settings =
            around.settings(&[&self.destination, &self.seal, &self.secrets, &self.read_back], needs)?;
        let source = self.source.resolve(&settings)?;
        warn_of_private_keys(&around, &settings);
        let done = run(&around, &settings, &source).await?;
        let (document, text) = told(&around, &settings, &done);
        around.printer.result(&document, &text)
    }
}

/// A private key beside its public key is usually one that was forgotten on the wrong machine.
fn warn_of_private_keys(around: &Surroundings, settings: &Settings) {
    for recipient in &settings.recipients {
        let KeyName::File(public) = recipient else { continue };
        let name = public.file_name().unwrap_or_default().to_string_lossy();
        let Some(stem) = name.strip_suffix(".pub.pem") else { continue };
        let private = public.with_file_name(format!("{stem}.pem"));
        if private.exists() {
            around.printer.warn(&format!(
                "{} is on this machine; whoever takes it over can read the backups: keep it elsewhere",
                private.display()
            ));
        }
    }
}

/// Makes one backup and tells whoever wants to know.
///
/// # Errors
/// The first of any port.
pub(crate) async fn run(around: &Surroundings, settings: &Settings, source: &Source) -> Outcome<BackedUp> {
    let id = BackupId::random();
    let outcome = attempt(around, settings, source, id).await;
    if let Err(failure) = &outcome
        && let Err(error) = record_early_failure(around, settings, &source.name, id, failure).await
    {
        around.printer.warn(&format!("the failed run could not be noted: {error}"));
    }
    if let Some(notifier) = wiring::notifier(settings) {
        let notice = notice(around, &source.name, id, &outcome);
        if let Err(error) = notifier.notify(&notice).await {
            around.printer.warn(&format!("nobody was told of this run: {error}"));
        }
    }
    outcome
}

/// A run that failed before the pipeline began it, as when the database is down, leaves a trace too.
async fn record_early_failure(
    around: &Surroundings,
    settings: &Settings,
    source: &SourceName,
    id: BackupId,
    failure: &Failure,
) -> Result<()> {
    let Some(Ok(place)) = settings.destination.as_ref().map(|d| wiring::place(d, &around.env)) else {
        return Ok(());
    };
    let runs = State::open(&settings.state_dir)?.runs(&place.name);
    if runs.read()?.iter().any(|record| record.id == id.to_string()) {
        return Ok(());
    }
    let record = RunRecord {
        source: source.to_string(),
        id: id.to_string(),
        started: around.cx.now(),
        ended: None,
        status: RunStatus::Pending,
        error: None,
    };
    let run = runs.begin(record).await?;
    let told = failure.for_a_person().trim_end().trim_start_matches("error: ").to_owned();
    runs.end(run, around.cx.now(), Err((failure.kind(), told))).await
}

async fn attempt(
    around: &Surroundings,
    settings: &Settings,
    source: &Source,
    id: BackupId,
) -> Outcome<BackedUp> {
    let Some(destination) = &settings.destination else {
        return Err(backup_core::Error::bug("backup did not ask for a destination").into());
    };
    let recipients = keys::recipients(settings, &around.printer)?;
    let place = wiring::place(destination, &around.env)?;
    let state = State::open(&settings.state_dir)?;
    let host = host::host_key(&state, &around.printer)?;
    let (cx, bar) = around.watched();
    let log = match state.job_log(&source.name, id, cx.now()) {
        Ok(log) => Some(Arc::new(log)),
        Err(error) => {
            around.printer.warn(&format!("this run keeps no log: {error}"));
            None
        }
    };
    let cx = match &log {
        Some(log) => cx.with_progress(Arc::new(Both(bar.clone(), log.clone()))),
        None => cx,
    };
    let done =
        stored(around, settings, source, id, Stored { place, state: &state, host, recipients, cx: &cx })
            .await;
    bar.done();
    if let Some(log) = log {
        around.printer.detail(&format!("log of this run: {}", log.path().display()));
        log.ended(&match &done {
            Ok(done) => json!({ "status": "completed", "id": done.manifest.id }),
            Err(failure) => failure.for_a_program(),
        });
    }
    done
}

/// What a run has opened before it looks at the database.
struct Stored<'a> {
    place: wiring::Place,
    state: &'a State,
    host: SigningKey,
    recipients: Vec<Arc<dyn Recipient>>,
    cx: &'a Context,
}

async fn stored(
    around: &Surroundings,
    settings: &Settings,
    source: &Source,
    id: BackupId,
    with: Stored<'_>,
) -> Outcome<BackedUp> {
    let Stored { place, state, host, recipients, cx } = with;
    let dumper = wiring::dumper(&source.config)?;

    // A database that is down is told before anything is made in the destination.
    let probe = dumper.probe(cx).await.map_err(|e| e.at(backup_core::Stage::Probe))?;
    for warning in &probe.warnings {
        around.printer.warn(warning);
    }
    for obstacle in &probe.obstacles {
        around.printer.warn(&obstacle.to_string());
    }

    let reading = Reading {
        source: place.ports.source.as_ref(),
        place: &place.name,
        state,
        settings,
        printer: &around.printer,
    };
    let repository = Repository::read_or_make(cx, reading, place.ports.sink.as_ref(), &host).await?;
    repository.check_host(&host, &source.name, &reading)?;
    let _lock = state.lock_backup(&repository.id(), &source.name)?;

    let parts = BackupParts {
        dumper,
        encryptor: wiring::encryptor(settings, recipients, probe.estimated_bytes)?,
        sink: wiring::limited(settings, place.ports.sink.clone()),
        reader: place.ports.source.clone(),
        ledger: Arc::new(state.ledger(&host.key_id())),
        signer: Arc::new(host),
        catalog: Some(Arc::new(state.runs(&place.name))),
    };
    let request = BackupRequest {
        repository: repository.id(),
        source: source.name.clone(),
        id,
        selection: source.selection.clone(),
        estimate: probe.estimated_bytes,
        read_back: settings.verify,
    };
    let done = pipeline::backup(cx, &parts, request).await?;
    let inventory = Inventory::new(repository.id(), done.manifest.id, done.manifest.started, &probe);
    // Nothing but `source drift` needs it.
    if let Err(error) = state.inventory(&source.name).write(&inventory) {
        around.printer.warn(&format!("what the source held could not be noted: {error}"));
    }
    Ok(done)
}

fn notice(around: &Surroundings, source: &SourceName, id: BackupId, outcome: &Outcome<BackedUp>) -> Notice {
    let (status, message) = match outcome {
        Ok(done) => (
            RunStatus::Completed,
            format!(
                "{} stored as {}",
                printer::bytes(done.manifest.source_len),
                printer::bytes(done.manifest.object_len)
            ),
        ),
        Err(failure) => {
            let status = match failure.kind() {
                ErrorKind::Cancelled => RunStatus::Cancelled,
                _ => RunStatus::Failed,
            };
            (status, failure.for_a_person().trim_end().to_owned())
        }
    };
    Notice { at: around.cx.now(), source: source.to_string(), id: id.to_string(), status, message }
}

fn told(around: &Surroundings, settings: &Settings, done: &BackedUp) -> (serde_json::Value, String) {
    let m = &done.manifest;
    let took = m.finished.duration_since(m.started);
    let age = around.cx.now().duration_since(m.started).as_secs();
    if !done.read_back {
        around
            .printer
            .warn("the backup was not read back (--no-verify): whether the store kept it well is unknown");
    }
    let place = settings.destination.as_ref().map(|d| d.url.as_str()).unwrap_or_default();
    let mut text = format!("completed {}\n", m.id);
    let ratio = m.source_len as f64 / m.object_len.max(1) as f64;
    let _ = writeln!(text, "source      {} (number {}) to {place}", m.source, m.seq);
    let _ = writeln!(
        text,
        "size        {} stored as {} ({ratio:.2} to 1)",
        printer::bytes(m.source_len),
        printer::bytes(m.object_len)
    );
    let _ = writeln!(text, "took        {:.1} s, started {age} s ago", took.as_secs_f64());
    let _ = writeln!(text, "verified    {}", if done.read_back { "read back, equal" } else { "no" });
    for recipient in &m.recipients {
        let key = recipient.key_id.map(|id| format!(" {id}")).unwrap_or_default();
        let _ = writeln!(text, "recipient   {}{key}", recipient.kind);
    }
    let document = json!({
        "completed": m.id, "read_back": done.read_back, "destination": place, "seconds": took.as_secs_f64(),
        "backup": m, "report": done.report,
    });
    (document, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_of_every_kind_have_a_status() -> Result<()> {
        let around = Surroundings {
            cx: backup_core::Context::new(),
            raw: crate::settings::RawArgs::default(),
            env: crate::settings::Environment::default(),
            printer: printer::Printer::new(false, true, false),
        };
        let name: SourceName = "orders".parse()?;
        let cancelled = Err(Failure::from(backup_core::Error::cancelled("x")));
        assert_eq!(notice(&around, &name, BackupId::random(), &cancelled).status, RunStatus::Cancelled);
        let failed = Err(Failure::from(backup_core::Error::new(ErrorKind::Tool, "pg_dump", "exit 3")));
        let notice = notice(&around, &name, BackupId::random(), &failed);
        assert_eq!((notice.status, notice.message.as_str()), (RunStatus::Failed, "error: pg_dump: exit 3"));
        Ok(())
    }
}
