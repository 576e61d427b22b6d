//! `backup`: one source into the destination.

use std::fmt::Write as _;
use std::sync::Arc;

use backup_core::pipeline::{
    self, BackedUp, BackupRequest, CopyOutcome, CopyState, Destination, MirrorParts, Mirrored,
};
use backup_core::{
    BackupId, Catalog as _, Context, Dumper, ErrorKind, Notice, RepositoryId, Result, RunRecord, RunStatus,
    Signer as _, SourceName,
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
use crate::state::{Both, Inventory, Lock, RunLogs, SpoolFolder, State};
use crate::{host, keys, printer, spooling, wiring};

/// A backup that exists, and where.
#[derive(Debug)]
pub(crate) struct Done {
    /// What was made.
    pub(crate) made: BackedUp,
    /// What each of several destinations holds, in the order of the settings.
    copies: Vec<CopyOutcome>,
    /// Backups that were finished from the spool; the last of them is this one when no new one was made.
    resumed: Vec<BackupId>,
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
    /// Finish what an earlier run left in the spool, and make a new backup only if there is nothing
    #[arg(long)]
    resume: bool,
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
        if self.resume && settings.spool.is_none() {
            return Err(Failure::usage(
                "flag --resume",
                "there is no spool to go on from",
                "say with --spool or `spool` of the settings which folder it was",
            ));
        }
        warn_of_private_keys(&around, &settings);
        let done = run_or_resume(&around, &settings, &source, self.resume).await?;
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
    run_or_resume(around, settings, source, false).await
}

/// The same; with `resume`, no new backup is made where the spool holds one that can be finished.
async fn run_or_resume(
    around: &Surroundings,
    settings: &Settings,
    source: &Source,
    resume: bool,
) -> Outcome<Done> {
    let id = BackupId::random();
    let outcome = attempt(around, settings, source, id, resume).await;
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

async fn attempt(
    around: &Surroundings,
    settings: &Settings,
    source: &Source,
    id: BackupId,
    resume: bool,
) -> Outcome<Done> {
    if settings.destinations.is_empty() {
        return Err(backup_core::Error::bug("backup did not ask for a destination").into());
    }
    let recipients = keys::recipients(settings, &around.printer)?;
    let places =
        settings.destinations.iter().map(|d| wiring::place(d, &around.env)).collect::<Outcome<_>>()?;
    let state = State::open(&settings.state_dir)?;
    let host = Arc::new(host::host_key(&state, &around.printer)?);
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
    let done = stored(
        around,
        settings,
        source,
        (id, resume),
        Stored { places, state: &state, host, recipients, cx: &cx },
    )
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
    host: Arc<SigningKey>,
    recipients: Vec<Arc<dyn Recipient>>,
    cx: &'a Context,
}

/// The destinations of a run, opened, and the right to write this source into them.
struct Opened {
    repository: RepositoryId,
    destinations: Vec<Destination>,
    unusable: Vec<(String, Arc<backup_core::Error>)>,
    spool: Option<Spooling>,
    _lock: Lock,
}

/// The spool of a run.
struct Spooling {
    folder: SpoolFolder,
    ports: pipeline::Spool,
    _lock: Lock,
}

impl Stored<'_> {
    async fn open(&self, around: &Surroundings, settings: &Settings, source: &SourceName) -> Outcome<Opened> {
        let Self { places, state, host, cx, .. } = self;
        let opened = Several::open(cx, around, settings, state, places, host).await?;
        let Several { repository, chosen, unusable } = opened;
        repository.check_host(host, source, &carry::reading(around, settings, state, &places[chosen]))?;
        let id = repository.id();
        let lock = state.lock_backup(&id, source)?;
        let spool = match &settings.spool {
            None => None,
            Some(folder) => {
                let folder = SpoolFolder::open(folder)?;
                Some(Spooling { ports: folder.ports(&id)?, _lock: folder.lock(&id, source)?, folder })
            }
        };
        let usable = |i: usize| !unusable.iter().any(|(other, _)| *other == i);
        let destinations = settings.destinations.iter().zip(places).enumerate().filter(|(i, _)| usable(*i));
        let destinations = destinations.map(|(_, (destination, place))| Destination {
            name: place.name.clone(),
            sink: wiring::limited(settings, place),
            reader: place.ports.source.clone(),
            patience: destination.patience().filter(|_| places.len() > 1),
        });
        let destinations = destinations.collect();
        for (i, error) in &unusable {
            around.printer.warn(&format!("destination {} cannot be used: {error}", places[*i].name));
        }
        let name = |(i, error): (usize, backup_core::Error)| (places[i].name.clone(), Arc::new(error));
        let unusable = unusable.into_iter().map(name).collect();
        Ok(Opened { repository: id, destinations, unusable, spool, _lock: lock })
    }

    fn parts(
        &self,
        settings: &Settings,
        opened: &Opened,
        dumper: Arc<dyn Dumper>,
        estimate: Option<u64>,
    ) -> Outcome<MirrorParts> {
        Ok(MirrorParts {
            dumper,
            encryptor: wiring::encryptor(settings, self.recipients.clone(), estimate)?,
            destinations: opened.destinations.clone(),
            unusable: opened.unusable.clone(),
            enough: settings.mirror.0,
            ledger: Arc::new(self.state.ledger(&self.host.key_id())),
            signer: self.host.clone(),
            catalog: Some(Arc::new(self.logs())),
        })
    }

    fn logs(&self) -> RunLogs {
        RunLogs(self.places.iter().map(|place| self.state.runs(&place.name)).collect())
    }

    /// What became of a run in each of several destinations, noted in the log of each.
    fn copies(&self, around: &Surroundings, id: BackupId, mirrored: &mut Mirrored) -> Vec<CopyOutcome> {
        let mut copies = std::mem::take(&mut mirrored.copies);
        copies.sort_by_key(|copy| self.places.iter().position(|place| place.name == copy.name));
        if self.places.len() == 1 {
            copies.clear();
        }
        for (log, copy) in self.logs().0.iter().zip(&copies) {
            // A log of its own for each place: `list` and `prune` there ask what the run left there.
            let corrected = match (&mirrored.outcome, &copy.state) {
                (Err(_), CopyState::Stored) => log.correct(id, self.cx.now(), None),
                (Ok(_), state) => match state.error() {
                    Some(error) => log.correct(id, self.cx.now(), Some(error.to_string())),
                    None => Ok(()),
                },
                _ => Ok(()),
            };
            if let Err(error) = corrected {
                around.printer.warn(&format!("what became of {} could not be noted: {error}", copy.name));
            }
        }
        copies
    }

    /// Finishes what the spool holds.
    async fn finish(
        &self,
        around: &Surroundings,
        settings: &Settings,
        source: &Source,
        opened: &Opened,
        alone: bool,
    ) -> Outcome<Vec<Done>> {
        let Some(spool) = &opened.spool else { return Ok(Vec::new()) };
        let parts = self.parts(settings, opened, wiring::dumper(&source.config)?, None)?;
        let name = &source.name;
        let all = spooling::finish(around, settings, self.cx, &spool.ports, &parts, name, alone).await?;
        let mut done = Vec::new();
        for mut one in all {
            let Ok(made) = &one.mirrored.outcome else { continue };
            let made = made.clone();
            let id = made.manifest.id;
            let copies = self.copies(around, id, &mut one.mirrored);
            done.push(Done { made, copies, resumed: vec![id] });
        }
        Ok(done)
    }
}

async fn stored(
    around: &Surroundings,
    settings: &Settings,
    source: &Source,
    (id, resume): (BackupId, bool),
    with: Stored<'_>,
) -> Outcome<Done> {
    let cx = with.cx;
    let dumper = wiring::dumper(&source.config)?;

    // What is in the spool needs no database.
    let waits = |folder: &std::path::PathBuf| SpoolFolder::open(folder).and_then(|spool| spool.waiting());
    let waiting = settings.spool.as_ref().map(waits).transpose()?.unwrap_or_default();
    let mut resumed = Vec::new();
    let mut opened = None;
    if waiting.iter().any(|one| one.at.source == source.name) {
        let places = with.open(around, settings, &source.name).await?;
        let mut finished = with.finish(around, settings, source, &places, resume).await?;
        resumed = finished.iter().map(|done| done.made.manifest.id).collect();
        if let Some(last) = finished.pop().filter(|_| resume) {
            return Ok(Done { resumed, ..last });
        }
        opened = Some(places);
    }

    // A database that is down is told before anything is made in the destination.
    let probe = dumper.probe(cx).await.map_err(|e| e.at(backup_core::Stage::Probe))?;
    for warning in &probe.warnings {
        around.printer.warn(warning);
    }
    for obstacle in &probe.obstacles {
        around.printer.warn(&obstacle.to_string());
    }

    let opened = match opened {
        Some(opened) => opened,
        None => with.open(around, settings, &source.name).await?,
    };
    let parts = with.parts(settings, &opened, dumper, probe.estimated_bytes)?;
    let request = BackupRequest {
        repository: opened.repository,
        source: source.name.clone(),
        id,
        selection: source.selection.clone(),
        estimate: probe.estimated_bytes,
        read_back: settings.verify,
        tags: source.tags.clone(),
    };
    let mut mirrored = match &opened.spool {
        None => pipeline::mirror(cx, &parts, request).await,
        Some(spool) => {
            spooling::tell_of_forgotten(around, &spool.folder, &opened.repository, &source.name);
            spooling::check_room(around, settings, &spool.folder, probe.estimated_bytes)?;
            let through = pipeline::mirror_through(cx, &parts, &spool.ports, request).await;
            if !through.delivered && spool.folder.waiting()?.iter().any(|one| one.at.id == id) {
                around.printer.warn(&format!(
                    "the sealed backup stays in the spool: the next run of {} goes on from there, and `--resume` \
                     goes on without a new backup",
                    source.name
                ));
            }
            through.mirrored
        }
    };
    let copies = with.copies(around, id, &mut mirrored);
    let made = match mirrored.outcome {
        Ok(made) => made,
        Err(error) if copies.is_empty() => return Err(error.into()),
        Err(error) => return Err(Failure::Copies(error, self::copies(&copies))),
    };
    let inventory = Inventory::new(opened.repository, made.manifest.id, made.manifest.started, &probe);
    // Nothing but `source drift` needs it.
    if let Err(error) = with.state.inventory(&source.name).write(&inventory) {
        around.printer.warn(&format!("what the source held could not be noted: {error}"));
    }
    Ok(Done { made, copies, resumed })
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
    let Done { made: done, copies, resumed } = done;
    let m = &done.manifest;
    let took = m.finished.duration_since(m.started);
    let age = around.cx.now().duration_since(m.started).as_secs();
    if !done.read_back {
        around
            .printer
            .warn("the backup was not read back (--no-verify): whether the store kept it well is unknown");
    }
    let place = settings.destination.as_ref().map(|d| d.url.as_str()).unwrap_or_default();
    let mut text = String::new();
    for id in resumed.iter().filter(|id| **id != m.id) {
        let _ = writeln!(text, "finished  {id} from the spool");
    }
    let _ = writeln!(text, "completed {}", m.id);
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
        "resumed": resumed,
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
