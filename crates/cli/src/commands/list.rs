//! `list`: the backups of a destination, and the runs of this machine that made none.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use backup_core::pipeline::{self, Listed};
use backup_core::{ErrorKind, RunRecord, RunStatus, SourceName};
use clap::Args;
use serde_json::{Value, json};

use super::Surroundings;
use crate::args::DestinationArgs;
use crate::failure::Outcome;
use crate::reading::{self, OriginArgs, Reader};
use crate::settings::{Needs, Settings};
use crate::{notice, printer};

/// List backups, oldest first, and failed runs of this machine.
#[derive(Debug, Args)]
pub(crate) struct List {
    /// Only this source
    source: Option<SourceName>,
    #[command(flatten)]
    destination: DestinationArgs,
    #[command(flatten)]
    origin: OriginArgs,
}

impl List {
    /// Runs the command.
    pub(crate) async fn run(self, mut around: Surroundings) -> Outcome {
        let needs = Needs {
            source: self.source.as_ref().map(SourceName::as_str),
            destination: true,
            ..Needs::default()
        };
        let settings = around.settings(&[&self.destination], needs)?;
        let mut reader = Reader::open(&around, &settings, &self.origin).await?;
        let source = reader.place.ports.source.clone();
        let listed = pipeline::list(source.as_ref(), reader.trust.as_ref(), self.source.as_ref()).await?;
        let wrong = reader.compare_listing(&around, &settings, &listed, self.source.as_ref())?;
        for text in &wrong {
            around.printer.warn(text);
        }
        for vouched in listed.iter().filter_map(|entry| entry.manifest.as_ref().ok()) {
            notice::warn_unless_encrypted(&around.printer, vouched.manifest());
        }
        let runs = unfinished(&reader, &listed, self.source.as_ref())?;
        let now = around.cx.now();
        let mut text = String::new();
        let newest = newest(&listed);
        for entry in &listed {
            line(&mut text, entry, &newest, now, settings.label(entry.at.source.as_str()));
        }
        if listed.is_empty() {
            around.printer.say("no backups");
        }
        for (record, state) in &runs {
            let why = record.error.as_deref().unwrap_or("");
            let _ = writeln!(
                text,
                "{}  {:20}  {}  {state}  {why}",
                record.started.strftime("%F %T"),
                record.source,
                record.id
            );
        }
        let document = json!({
            "backups": listed.iter().map(|one| entry(one, &settings)).collect::<Vec<_>>(),
            "runs": runs.iter().map(|(record, state)| json!({
                "source": record.source, "id": record.id, "started": record.started, "ended": record.ended,
                "status": state, "error": record.error,
            })).collect::<Vec<_>>(),
            "warnings": wrong,
        });
        around.printer.result(&document, &text)
    }
}

/// Runs of this machine that made no backup, and how each stands.
fn unfinished(
    reader: &Reader,
    listed: &[Listed],
    only: Option<&SourceName>,
) -> Outcome<Vec<(RunRecord, &'static str)>> {
    let Some(repository) = &reader.repository else { return Ok(Vec::new()) };
    let mut runs = Vec::new();
    for record in reader.state.runs(&reader.place.name).read()? {
        if only.is_some_and(|name| name.as_str() != record.source) || record.status == RunStatus::Completed {
            continue;
        }
        // A crash between the manifest and the last line of the log: the backup is there, all is well.
        if listed.iter().any(|l| l.at.id.to_string() == record.id) {
            continue;
        }
        let state = match (record.ended, record.source.parse()) {
            (Some(_), _) if record.status == RunStatus::Cancelled => "cancelled",
            (Some(_), _) => "failed",
            (None, Ok(name)) => match reader.state.lock_backup(&repository.id(), &name) {
                Err(error) if error.kind() == ErrorKind::Conflict => "running",
                _ => "interrupted",
            },
            (None, Err(_)) => "interrupted",
        };
        runs.push((record, state));
    }
    Ok(runs)
}

fn newest(listed: &[Listed]) -> BTreeMap<String, backup_core::BackupId> {
    let mut newest = BTreeMap::new();
    for entry in listed {
        if let Some(latest) = pipeline::latest(listed, &entry.at.source) {
            newest.insert(entry.at.source.to_string(), latest.manifest().id);
        }
    }
    newest
}

fn line(
    text: &mut String,
    entry: &Listed,
    newest: &BTreeMap<String, backup_core::BackupId>,
    now: jiff::Timestamp,
    label: Option<&str>,
) {
    let label = label.map(|label| format!("  \"{label}\"")).unwrap_or_default();
    let (source, id) = (&entry.at.source, entry.at.id);
    let _ = match &entry.manifest {
        Ok(vouched) => {
            let m = vouched.manifest();
            let latest = if newest.get(source.as_str()) == Some(&id) { "  latest" } else { "" };
            writeln!(
                text,
                "{}  {:20}  {id}  {:>10} of {:>10}  {} old{latest}{label}",
                m.started.strftime("%F %T"),
                source.as_str(),
                printer::bytes(m.object_len),
                printer::bytes(m.source_len),
                reading::age(m, now),
            )
        }
        Err(error) => {
            writeln!(text, "{:19}  {:20}  {id}  NOT BELIEVED: {}", "?", source.as_str(), error.what())
        }
    };
}

fn entry(entry: &Listed, settings: &Settings) -> Value {
    let mut document = match &entry.manifest {
        Ok(vouched) => super::show::document(vouched),
        Err(error) => json!({
            "source": entry.at.source, "id": entry.at.id,
            "error": { "kind": error.kind().to_string(), "subject": error.subject(), "what": error.what() },
        }),
    };
    super::show::add_label(&mut document, settings, &entry.at.source);
    document
}
