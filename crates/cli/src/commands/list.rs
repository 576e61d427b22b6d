//! `list`: the backups of a destination, and the runs of this machine that made none.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use backup_core::pipeline::{self, Attested, Listed};
use backup_core::{BackupRef, ErrorKind, Held, ObjectInfo, RunRecord, RunStatus, SourceName, Tag, TagError};
use clap::Args;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Value, json};

use super::Surroundings;
use crate::args::DestinationArgs;
use crate::failure::{Failure, Outcome};
use crate::reading::{self, Listing, OriginArgs, Reader};
use crate::settings::{Needs, Settings};
use crate::{notice, printer, retention};

/// Up to how many shown backups the store is asked for locks without being told to.
const LOCKS_MAX: usize = 100;
/// How many are asked for at a time.
const LOOKS_MAX: usize = 16;

/// List backups, oldest first, and failed runs of this machine.
#[derive(Debug, Args)]
pub(crate) struct List {
    /// Only this source
    source: Option<SourceName>,
    #[command(flatten)]
    filter: Filter,
    /// Ask the store until when it holds each backup; done by itself where the destination has lock_days and at most
    /// 100 backups are shown
    #[arg(long, conflicts_with = "cached")]
    locks: bool,
    /// What this machine saw when it last listed the destination, without asking it
    #[arg(long)]
    cached: bool,
    #[command(flatten)]
    destination: DestinationArgs,
    #[command(flatten)]
    origin: OriginArgs,
}

/// Which backups are shown.
#[derive(Debug, Default, Args)]
struct Filter {
    /// Only backups begun at this time or later: 2026-06-30, 2026-06-30T12:00:00Z, or an age such as 7d
    #[arg(long, value_name = "TIME|AGE")]
    since: Option<String>,
    /// Only backups begun before this time
    #[arg(long, value_name = "TIME|AGE")]
    until: Option<String>,
    /// Only backups in this state; reads what is said of each
    #[arg(long, value_enum)]
    state: Option<Standing>,
    /// Only backups with this tag; repeatable, and then with all of them
    #[arg(long = "tag", value_name = "NAME=VALUE")]
    tags: Vec<String>,
    /// Only the newest, as many
    #[arg(long, value_name = "N")]
    newest: Option<usize>,
}

/// What is said of a backup after it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Standing {
    /// Its newest verification was deep and succeeded
    Verified,
    /// No verification of it counts
    Unverified,
    /// A verification of it failed, and no deep one succeeded since
    Failed,
    /// Somebody pinned it
    Pinned,
    /// The rules of retention let it go, and it waits for its removal
    Leaving,
    /// Nobody who is trusted signed it
    NotBelieved,
}

impl Standing {
    fn fits(self, said: &Attested) -> bool {
        match self {
            Self::Verified => said.proven(),
            Self::Unverified => !said.proven() && !said.failed(),
            Self::Failed => said.failed(),
            Self::Pinned => said.pinned(),
            Self::Leaving => said.marked().is_some(),
            Self::NotBelieved => false,
        }
    }
}

impl Filter {
    /// Keeps what fits, in its order. What is not believed has no time that counts: it is shown unless a
    /// state was asked for that it is not in.
    async fn apply(
        &self,
        listed: Vec<Listed>,
        place: &Listing,
        objects: &[ObjectInfo],
        now: Timestamp,
    ) -> Outcome<Vec<Listed>> {
        let since = self.since.as_deref().map(|text| time("since", text, now)).transpose()?;
        let until = self.until.as_deref().map(|text| time("until", text, now)).transpose()?;
        let tags =
            self.tags.iter().map(|text| text.parse()).collect::<Result<Vec<Tag>, TagError>>().map_err(
                |error| Failure::usage("flag --tag", error.to_string(), "write a tag such as env=prod"),
            )?;
        let mut statements: BTreeMap<BackupRef, Vec<&ObjectInfo>> = BTreeMap::new();
        if self.state.is_some() {
            for object in objects {
                if let Some(at) = BackupRef::of_statement(&object.key) {
                    statements.entry(at).or_default().push(object);
                }
            }
        }
        let mut kept = Vec::new();
        for entry in listed {
            let fits = match &entry.manifest {
                Err(_) => tags.is_empty() && self.state.is_none_or(|state| state == Standing::NotBelieved),
                Ok(vouched) => {
                    let started = vouched.manifest().started;
                    let in_time = tags.iter().all(|tag| vouched.manifest().tags.has(tag))
                        && since.is_none_or(|since| started >= since)
                        && until.is_none_or(|until| started < until);
                    match self.state.filter(|_| in_time) {
                        None => in_time,
                        Some(state) => {
                            let of = statements.get(&entry.at).map_or(&[][..], Vec::as_slice);
                            state.fits(&place.said(vouched, of).await?)
                        }
                    }
                }
            };
            if fits {
                kept.push(entry);
            }
        }
        if let Some(newest) = self.newest {
            kept.sort_by_key(|entry| entry.manifest.as_ref().ok().map(|v| v.manifest().started));
            kept.drain(..kept.len().saturating_sub(newest));
        }
        Ok(kept)
    }
}

/// A moment as a person writes it.
fn time(flag: &str, text: &str, now: Timestamp) -> Outcome<Timestamp> {
    let day = || Some(text.parse::<jiff::civil::Date>().ok()?.to_zoned(TimeZone::UTC).ok()?.timestamp());
    let age = || now.checked_sub(retention::age(text)?).ok();
    text.parse().ok().or_else(day).or_else(age).ok_or_else(|| {
        Failure::usage(
            format!("flag --{flag}"),
            format!("{text:?} is not understood"),
            "write a day such as 2026-06-30 (in UTC), a time such as 2026-06-30T12:00:00Z, or an age such as 36h, 7d or 8w",
        )
    })
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
        let mut place = Reader::open_to_list(&around, &settings, &self.origin, self.cached).await?;
        let source = place.reader.place.ports.source.clone();
        let prefix = self.source.as_ref().map_or_else(String::new, |name| format!("{name}/"));
        let objects = source.list(&prefix).await?;
        let listed = place.of(&objects).await?;
        let wrong = place.reader.compare_listing(&around, &settings, &listed, self.source.as_ref())?;
        for text in &wrong {
            around.printer.warn(text);
        }
        if let Some(when) = place.as_of {
            around.printer.say(&format!("as it was on {when}; the destination was not asked"));
        }
        let runs = unfinished(&place.reader, &listed, self.source.as_ref())?;
        let now = around.cx.now();
        let newest = newest(&listed);
        let listed = self.filter.apply(listed, &place, &objects, now).await?;
        for vouched in listed.iter().filter_map(|entry| entry.manifest.as_ref().ok()) {
            notice::warn_unless_encrypted(&around.printer, vouched.manifest());
        }
        let locks = self.locks(&around, &place.reader, &listed).await?;
        let mut text = String::new();
        for entry in &listed {
            let notes = notes(entry, settings.label(entry.at.source.as_str()), locks.get(&entry.at));
            line(&mut text, entry, &newest, now, &notes);
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
            "backups": listed.iter().map(|one| entry(one, &settings, locks.get(&one.at))).collect::<Vec<_>>(),
            "runs": runs.iter().map(|(record, state)| json!({
                "source": record.source, "id": record.id, "started": record.started, "ended": record.ended,
                "status": state, "error": record.error,
            })).collect::<Vec<_>>(),
            "warnings": wrong, "as_of": place.as_of,
        });
        around.printer.result(&document, &text)
    }
}

impl List {
    /// What the store holds the shown backups by, where it is to be asked.
    async fn locks(
        &self,
        around: &Surroundings,
        reader: &Reader,
        listed: &[Listed],
    ) -> Outcome<BTreeMap<BackupRef, Held>> {
        let few = listed.len() <= LOCKS_MAX;
        if self.cached || !(self.locks || reader.place.locks && few) {
            if reader.place.locks && !self.cached {
                around.printer.say("until when these are locked is asked with --locks");
            }
            return Ok(BTreeMap::new());
        }
        let source = reader.place.ports.source.as_ref();
        let backups: Vec<BackupRef> = listed.iter().map(|entry| entry.at.clone()).collect();
        match pipeline::held_among(source, backups, LOOKS_MAX).await {
            Ok(told) => Ok(told.into_iter().collect()),
            Err(error) if !self.locks => {
                around.printer.warn(&format!("until when these are locked is not known: {error}"));
                Ok(BTreeMap::new())
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// Runs of this machine that made no backup, and how each stands.
fn unfinished(
    reader: &Reader,
    listed: &[Listed],
    only: Option<&SourceName>,
) -> Outcome<Vec<(RunRecord, &'static str)>> {
    let Some(repository) = &reader.repository else { return Ok(Vec::new()) };
    let there: BTreeSet<String> = listed.iter().map(|entry| entry.at.id.to_string()).collect();
    let mut runs = Vec::new();
    for record in reader.state.runs(&reader.place.name).read()? {
        if only.is_some_and(|name| name.as_str() != record.source) || record.status == RunStatus::Completed {
            continue;
        }
        // A crash between the manifest and the last line of the log: the backup is there, all is well.
        if there.contains(&record.id) {
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

/// What stands behind a line: what people call the source, the tags, and what the store holds it by.
fn notes(entry: &Listed, label: Option<&str>, held: Option<&Held>) -> String {
    let mut text = label.map(|label| format!("  \"{label}\"")).unwrap_or_default();
    if let Ok(vouched) = &entry.manifest {
        for (name, value) in vouched.manifest().tags.iter() {
            let _ = write!(text, "  {name}={value}");
        }
    }
    if let Some(held) = held.filter(|held| held.until.is_some() || held.legal_hold) {
        let _ = write!(text, "  {held}");
    }
    text
}

fn newest(listed: &[Listed]) -> BTreeMap<String, backup_core::BackupId> {
    let sources: BTreeSet<&SourceName> = listed.iter().map(|entry| &entry.at.source).collect();
    let latest = sources
        .into_iter()
        .filter_map(|source| Some((source.to_string(), pipeline::latest(listed, source)?.manifest().id)));
    latest.collect()
}

fn line(
    text: &mut String,
    entry: &Listed,
    newest: &BTreeMap<String, backup_core::BackupId>,
    now: jiff::Timestamp,
    notes: &str,
) {
    let (source, id) = (&entry.at.source, entry.at.id);
    let _ = match &entry.manifest {
        Ok(vouched) => {
            let m = vouched.manifest();
            let latest = if newest.get(source.as_str()) == Some(&id) { "  latest" } else { "" };
            writeln!(
                text,
                "{}  {:20}  {id}  {:>10} of {:>10}  {} old{latest}{notes}",
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

fn entry(entry: &Listed, settings: &Settings, held: Option<&Held>) -> Value {
    let mut document = match &entry.manifest {
        Ok(vouched) => super::show::document(vouched),
        Err(error) => json!({
            "source": entry.at.source, "id": entry.at.id,
            "error": { "kind": error.kind().to_string(), "subject": error.subject(), "what": error.what() },
        }),
    };
    super::show::add_label(&mut document, settings, &entry.at.source);
    super::show::add_lock(&mut document, held);
    document
}
