//! `backup`: one source into the destination.

use std::fmt::Write as _;
use std::sync::Arc;

use backup_core::pipeline::{
    self, BackedUp, BackupRequest, CopyOutcome, CopyState, Destination, MirrorParts, Mirrored,
};
use backup_core::{
    BackupId, Catalog as _, Context, ErrorKind, Notice, Result, RunRecord, RunStatus, Signer as _, SourceName,
};
use clap::Args;
use dumpers::SourceConfig;
use envelope_crypto::Recipient;
use envelope_crypto::sign::SigningKey;
use serde_json::json;

use super::Surroundings;
use crate::args::{DestinationsArgs, ReadBackArgs, SealArgs, SecretArgs, Sets};
use crate::carry::{self, Several};
use crate::failure::{Failure, Outcome};
use crate::settings::{KeyName, Needs, Settings};
use crate::source::{Source, SourceArgs, tags};
use crate::state::{Both, Inventory, RunLogs, State};
use crate::{host, keys, printer, wiring};

/// A backup that exists, and where.
#[derive(Debug)]
pub(crate) struct Done {
    /// What was made.
    pub(crate) made: BackedUp,
    /// What each of several destinations holds, in the order of the settings.
    copies: Vec<CopyOutcome>,
}

/// Back up one source: a name of the configuration, a URL, `-` for stdin, or a command.
#[derive(Debug, Args)]
pub(crate) struct Backup {
    #[command(flatten)]
    source: SourceArgs,
    /// Mark the backup with this, signed in its manifest; repeatable, over the tags of the source
    #[arg(long = "tag", value_name = "NAME=VALUE")]
    tags: Vec<String>,
    #[command(flatten)]
    destination: DestinationsArgs,
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
        let flags: [&dyn Sets; 4] = [&self.destination, &self.seal, &self.secrets, &self.read_back];
        let (settings, mut checks) = around.checked(&flags, needs)?;
        let mut source = self.source.resolve(&settings, &mut checks);
        if let Some(source) = &mut source {
            let mine = tags("flag --tag", &self.tags, &source.tags);
            source.tags = checks.keep("", mine).unwrap_or_default();
            checks.keep("", wiring::dumper(&source.config));
        }
        let is_data = source.as_ref().is_some_and(|one| matches!(one.config, SourceConfig::Stdin(_)));
        keys::check_stdin(&settings, is_data, &mut checks);
        let source = checks.done(source)?;
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
pub(crate) async fn run(around: &Surroundings, settings: &Settings, source: &Source) -> Outcome<Done> {
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
    let state = State::open(&settings.state_dir)?;
    for place in settings.destinations.iter().filter_map(|d| wiring::place(d, &around.env).ok()) {
        let runs = state.runs(&place.name);
        if runs.read()?.iter().any(|record| record.id == id.to_string()) {
            continue;
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
        runs.end(run, around.cx.now(), Err((failure.kind(), told))).await?;
    }
    Ok(())
}

async fn attempt(around: &Surroundings, settings: &Settings, source: &Source, id: BackupId) -> Outcome<Done> {
    if settings.destinations.is_empty() {
        return Err(backup_core::Error::bug("backup did not ask for a destination").into());
    }
    let recipients = keys::recipients(settings, &around.printer)?;
    let places =
        settings.destinations.iter().map(|d| wiring::place(d, &around.env)).collect::<Outcome<_>>()?;
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
        stored(around, settings, source, id, Stored { places, state: &state, host, recipients, cx: &cx })
            .await;
    bar.done();
    if let Some(log) = log {
        around.printer.detail(&format!("log of this run: {}", log.path().display()));
        log.ended(&match &done {
            Ok(done) => {
                json!({ "status": "completed", "id": done.made.manifest.id, "copies": copies(&done.copies) })
            }
            Err(failure) => failure.for_a_program(),
        });
    }
    done
}

/// What a run has opened before it looks at the database.
struct Stored<'a> {
    places: Vec<wiring::Place>,
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
) -> Outcome<Done> {
    let Stored { places, state, host, recipients, cx } = with;
    let dumper = wiring::dumper(&source.config)?;

    // A database that is down is told before anything is made in the destination.
    let probe = dumper.probe(cx).await.map_err(|e| e.at(backup_core::Stage::Probe))?;
    for warning in &probe.warnings {
        around.printer.warn(warning);
    }
    for obstacle in &probe.obstacles {
        around.printer.warn(&obstacle.to_string());
    }

    let opened = Several::open(cx, around, settings, state, &places, &host).await?;
    let Several { repository, chosen, unusable } = opened;
    repository.check_host(&host, &source.name, &carry::reading(around, settings, state, &places[chosen]))?;
    let _lock = state.lock_backup(&repository.id(), &source.name)?;

    let usable = |i: usize| !unusable.iter().any(|(other, _)| *other == i);
    let destinations = settings.destinations.iter().zip(&places).enumerate().filter(|(i, _)| usable(*i));
    let destinations = destinations.map(|(_, (destination, place))| Destination {
        name: place.name.clone(),
        sink: wiring::limited(settings, place),
        reader: place.ports.source.clone(),
        patience: destination.patience().filter(|_| places.len() > 1),
    });
    for (i, error) in &unusable {
        around.printer.warn(&format!("destination {} cannot be used: {error}", places[*i].name));
    }
    let logs = RunLogs(places.iter().map(|place| state.runs(&place.name)).collect());
    let parts = MirrorParts {
        dumper,
        encryptor: wiring::encryptor(settings, recipients, probe.estimated_bytes)?,
        destinations: destinations.collect(),
        unusable: unusable.into_iter().map(|(i, error)| (places[i].name.clone(), Arc::new(error))).collect(),
        enough: settings.mirror.0,
        ledger: Arc::new(state.ledger(&host.key_id())),
        signer: Arc::new(host),
        catalog: Some(Arc::new(logs.clone())),
    };
    let request = BackupRequest {
        repository: repository.id(),
        source: source.name.clone(),
        id,
        selection: source.selection.clone(),
        estimate: probe.estimated_bytes,
        read_back: settings.verify,
        tags: source.tags.clone(),
    };
    let Mirrored { outcome, mut copies } = pipeline::mirror(cx, &parts, request).await;
    copies.sort_by_key(|copy| places.iter().position(|place| place.name == copy.name));
    if places.len() == 1 {
        copies.clear();
    }
    for (log, copy) in logs.0.iter().zip(&copies) {
        // A log of its own for each place: `list` and `prune` there ask what the run left there.
        let corrected = match (&outcome, &copy.state) {
            (Err(_), CopyState::Stored) => log.correct(id, cx.now(), None),
            (Ok(_), state) => match state.error() {
                Some(error) => log.correct(id, cx.now(), Some(error.to_string())),
                None => Ok(()),
            },
            _ => Ok(()),
        };
        if let Err(error) = corrected {
            around.printer.warn(&format!("what became of {} could not be noted: {error}", copy.name));
        }
    }
    let made = match outcome {
        Ok(made) => made,
        Err(error) if copies.is_empty() => return Err(error.into()),
        Err(error) => return Err(Failure::Copies(error, self::copies(&copies))),
    };
    let inventory = Inventory::new(repository.id(), made.manifest.id, made.manifest.started, &probe);
    // Nothing but `source drift` needs it.
    if let Err(error) = state.inventory(&source.name).write(&inventory) {
        around.printer.warn(&format!("what the source held could not be noted: {error}"));
    }
    Ok(Done { made, copies })
}

/// What each destination holds, for a program.
fn copies(copies: &[CopyOutcome]) -> Vec<serde_json::Value> {
    let of = |copy: &CopyOutcome| {
        json!({
            "destination": copy.name, "state": copy.state.word(),
            "error": copy.state.error().map(|error| json!({ "kind": error.kind().to_string(), "what": error.to_string() })),
        })
    };
    copies.iter().map(of).collect()
}

/// How many of several destinations hold it, and who does not, where that is not all.
fn missing(copies: &[CopyOutcome]) -> Option<String> {
    let lost: Vec<_> = copies.iter().filter_map(|copy| Some((copy, copy.state.error()?))).collect();
    let why: Vec<_> = lost.iter().map(|(copy, error)| format!("{}: {error}", copy.name)).collect();
    let stored = copies.len() - lost.len();
    (!lost.is_empty()).then(|| format!("in {stored} of {} destinations: {}", copies.len(), why.join("; ")))
}

fn notice(around: &Surroundings, source: &SourceName, id: BackupId, outcome: &Outcome<Done>) -> Notice {
    let (status, message) = match outcome {
        Ok(done) => (
            RunStatus::Completed,
            format!(
                "{} stored as {}{}",
                printer::bytes(done.made.manifest.source_len),
                printer::bytes(done.made.manifest.object_len),
                missing(&done.copies).map(|missing| format!(", {missing}")).unwrap_or_default()
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

fn told(around: &Surroundings, settings: &Settings, done: &Done) -> (serde_json::Value, String) {
    let Done { made: done, copies } = done;
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
    for copy in copies {
        let why = copy.state.error().map(|error| format!(": {error}")).unwrap_or_default();
        let _ = writeln!(text, "copy        {} in {}{why}", copy.state.word(), copy.name);
    }
    if let Some(missing) = missing(copies) {
        around.printer.warn(&format!(
            "the backup is {missing}; `strongroom copy {} --to NAME` adds what is missing",
            m.id
        ));
    }
    for recipient in &m.recipients {
        let key = recipient.key_id.map(|id| format!(" {id}")).unwrap_or_default();
        let _ = writeln!(text, "recipient   {}{key}", recipient.kind);
    }
    let document = json!({
        "completed": m.id, "read_back": done.read_back, "destination": place, "seconds": took.as_secs_f64(),
        "backup": m, "report": done.report, "copies": self::copies(copies),
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
