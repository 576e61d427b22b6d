//! `copy`: one more copy of backups that exist, without a private key.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use backup_core::pipeline::{self, Copied};
use backup_core::{BackupRef, Error, ErrorKind, SourceName};
use clap::Args;
use serde_json::{Value as Json, json};

use super::Surroundings;
use crate::args::CopyArgs;
use crate::copying::Copying;
use crate::failure::{Failure, Outcome};
use crate::settings::{Needs, Settings};
use crate::{printer, reading};

/// Copy backups to another destination, or repair copies there.
#[derive(Debug, Args)]
pub(crate) struct Copy {
    /// The backup: SOURCE@latest, SOURCE@ID or ID; with --all, a source
    #[arg(required_unless_present = "all")]
    backup: Option<String>,
    /// Every backup of the source, or of all sources
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    places: CopyArgs,
}

impl Copy {
    /// Runs the command.
    pub(crate) async fn run(self, mut around: Surroundings) -> Outcome {
        let text = self.backup.as_deref();
        let only = match text.filter(|_| self.all) {
            Some(name) => Some(source_name(name)?),
            None => None,
        };
        let selector = match text.filter(|_| !self.all) {
            Some(text) => Some(reading::selector(text)?),
            None => None,
        };
        let named = only.as_ref().or_else(|| selector.as_ref()?.source()).map(ToString::to_string);
        let needs = Needs { source: named.as_deref(), destination: true, ..Needs::default() };
        let settings = around.settings(&[&self.places], needs)?;
        let mut copying = Copying::open(&around, &settings, &self.places).await?;
        let backups = match &selector {
            Some(selector) => vec![copying.from.select(&around, &settings, selector).await?],
            None => believed(&around, &copying, only.as_ref()).await?,
        };
        tell_of_receipts(&around, &copying, &backups);
        let report = copy_all(&around, &copying, &backups, false).await?;
        around.printer.result(&report.document(&settings, &copying), &report.text)?;
        report.judge(&backups)
    }
}

/// The name of a source from the command line.
pub(crate) fn source_name(name: &str) -> Outcome<SourceName> {
    name.parse().map_err(|error: Error| {
        Failure::usage("argument SOURCE", error.to_string(), error.hint().unwrap_or_default())
    })
}

/// Every backup of the first place that is believed, the oldest first.
///
/// # Errors
/// Those of the place.
pub(crate) async fn believed(
    around: &Surroundings,
    copying: &Copying,
    only: Option<&SourceName>,
) -> Outcome<Vec<BackupRef>> {
    let source = copying.from.place.ports.source.as_ref();
    let listed = pipeline::list(source, copying.trust.as_ref(), only).await?;
    for entry in &listed {
        if let Err(error) = &entry.manifest {
            around.printer.warn(&format!(
                "{} is not believed and stays where it is: {}",
                entry.at,
                error.what()
            ));
        }
    }
    Ok(listed.into_iter().filter(|entry| entry.manifest.is_ok()).map(|entry| entry.at).collect())
}

/// Says where nobody would believe what this machine says of its copies.
pub(crate) fn tell_of_receipts(around: &Surroundings, copying: &Copying, backups: &[BackupRef]) {
    let sources: BTreeSet<&SourceName> = backups.iter().map(|at| &at.source).collect();
    for source in sources.into_iter().filter(|source| !copying.signs(source)) {
        around.printer.warn(&format!(
            "copies of {source} get no receipt: this machine has no key that the repository trusts for it"
        ));
    }
}

/// What became of each backup.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// For a person.
    pub(crate) text: String,
    rows: Vec<Json>,
    failed: Vec<(BackupRef, Error)>,
    removed: usize,
}

/// Copies one after the other. One that cannot be copied hides no other; a place that does not answer
/// ends it.
///
/// # Errors
/// Those of the places.
pub(crate) async fn copy_all(
    around: &Surroundings,
    copying: &Copying,
    backups: &[BackupRef],
    thorough: bool,
) -> Outcome<Report> {
    let mut report = Report::default();
    for at in backups {
        let (cx, bar) = around.watched();
        let copied = pipeline::copy(&cx, &copying.parts(&at.source, thorough), at).await;
        bar.done();
        let (word, more) = match copied {
            Ok(Copied::Stored { bytes }) => ("stored", printer::bytes(bytes)),
            Ok(Copied::Already) => ("already there", String::new()),
            Ok(Copied::Repaired { was }) => ("repaired", was.join("; ")),
            Ok(Copied::Removed) => {
                report.removed += 1;
                ("removed there", "by a pruner; not brought back".to_owned())
            }
            Err(error) if backups.len() > 1 && is_of_one(&error) => {
                let told = error.to_string();
                report.failed.push((at.clone(), error));
                ("FAILED", told)
            }
            Err(error) => return Err(error.into()),
        };
        let _ = writeln!(report.text, "{word:14} {at}  {more}");
        report
            .rows
            .push(json!({ "source": at.source, "id": at.id, "state": word.to_lowercase(), "told": more }));
    }
    Ok(report)
}

/// Whether an error says something of one backup alone.
fn is_of_one(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Integrity | ErrorKind::NotFound | ErrorKind::Conflict | ErrorKind::Uncertain
    )
}

impl Report {
    /// For a program.
    pub(crate) fn document(&self, settings: &Settings, copying: &Copying) -> Json {
        let from = settings.destination.as_ref().and_then(|from| from.name.clone());
        json!({
            "from": from.unwrap_or_else(|| copying.from.place.name.clone()),
            "to": copying.to.name, "backups": self.rows,
        })
    }

    /// How many were not copied.
    pub(crate) fn failed(&self) -> usize {
        self.failed.len()
    }

    /// The failures as one.
    ///
    /// # Errors
    /// The first, with how many there are; `Conflict` when the one backup that was asked for was
    /// removed there.
    pub(crate) fn judge(self, backups: &[BackupRef]) -> Outcome {
        if let ([at], 1) = (backups, self.removed) {
            return Err(Error::new(ErrorKind::Conflict, at.to_string(), "was removed there by a pruner")
                .with_hint("its entry in the history there says why; copies are not brought back against it")
                .into());
        }
        let count = self.failed.len();
        let Some((at, first)) = self.failed.into_iter().next() else { return Ok(()) };
        let what = format!("{count} of {} could not be copied; {at}: {first}", backups.len());
        let error = Error::new(first.kind(), "copies", what);
        let error = match first.hint() {
            Some(hint) => error.with_hint(hint),
            None => error,
        };
        Err(error.into())
    }
}
