//! `storage`: a look at a destination, apart from any backup.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use backup_core::{Error, ObjectInfo};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use storage::{AppendOnly, ProbeReport};

use super::Surroundings;
use super::sweep::{Sweep, SweepAge};
use crate::args::DestinationArgs;
use crate::failure::Outcome;
use crate::printer::{self, on_one_line};
use crate::settings::{Destination, Needs};
use crate::wiring;

/// Look at a destination: what it and its credentials can really do, and what is there.
#[derive(Debug, Args)]
pub(crate) struct StorageCommand {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Try everything that backups need, and what whoever stole the credentials could do; objects below
    /// `.probe/` are made and removed
    Test(Test),
    /// List what a destination holds: folders with their sizes, and objects
    List(List),
    /// List what lies there under a backup's id without a manifest; removes nothing
    Orphans {
        /// A name of the configuration or a URL
        destination: String,
    },
    /// Remove unfinished uploads, and objects without a manifest, once they are old; never a backup
    Sweep {
        /// A name of the configuration or a URL
        destination: String,
        #[command(flatten)]
        age: SweepAge,
    },
}

#[derive(Debug, Args)]
struct Test {
    /// A name of the configuration or a URL
    destination: String,
    /// Make the folder or bucket if it is not there
    #[arg(long)]
    create: bool,
}

#[derive(Debug, Args)]
struct List {
    /// A name of the configuration or a URL
    destination: String,
    /// Only what is below this folder
    prefix: Option<String>,
    /// Every object, and not one level
    #[arg(long)]
    all: bool,
}

impl StorageCommand {
    /// Runs the command.
    pub(crate) async fn run(self, mut around: Surroundings) -> Outcome {
        match self.what {
            What::Test(test) => {
                let destination = resolve(&mut around, test.destination)?;
                let config = wiring::storage_config(&destination, &around.env)?;
                let report = storage::probe(&around.cx, &config, test.create).await?;
                tell(&around, report)
            }
            What::Orphans { destination } => {
                super::sweep::orphans(around, &DestinationArgs::at(destination)).await
            }
            What::Sweep { destination, age } => Sweep::at(destination, age).run(around).await,
            What::List(list) => {
                let cx = around.cx.clone();
                tokio::select! {
                    biased;
                    () = cx.cancel().cancelled() => Err(Error::cancelled("the command").into()),
                    done = list.run(around) => done,
                }
            }
        }
    }
}

fn resolve(around: &mut Surroundings, destination: String) -> Outcome<Destination> {
    let flags = DestinationArgs::at(destination);
    let settings = around.settings(&[&flags], Needs { destination: true, ..Needs::default() })?;
    settings.destination.ok_or_else(|| Error::bug("a destination was given and is not there").into())
}

fn tell(around: &Surroundings, report: ProbeReport) -> Outcome {
    for what in &report.not_obeyed {
        around.printer.warn(&format!("the store does not keep its word: {}", on_one_line(what)));
    }
    if !report.left.is_empty() {
        around.printer.warn(&format!("{} objects of the probe could not be removed", report.left.len()));
    }
    around.printer.result(&document(&report), &text(&report))?;
    match report.problem {
        None => Ok(()),
        Some(problem) => Err(problem.into()),
    }
}

fn word(append_only: AppendOnly) -> &'static str {
    match append_only {
        AppendOnly::Refused => "yes",
        AppendOnly::Versions => "yes, by locked versions",
        AppendOnly::No => "no",
        AppendOnly::Unknown => "not known",
    }
}

fn text(report: &ProbeReport) -> String {
    let mut text = format!("destination       {}\n", report.destination);
    if report.created {
        text.push_str("created           yes\n");
    }
    for check in &report.checks {
        let _ = writeln!(
            text,
            "{:16}  {:11}  {}",
            check.check,
            check.outcome.as_str(),
            on_one_line(&check.detail)
        );
    }
    let _ = writeln!(text, "append-only       {}", word(report.append_only));
    for because in &report.because {
        let _ = writeln!(text, "{:16}  - {}", "", on_one_line(because));
    }
    for left in &report.left {
        let _ = writeln!(text, "left behind       {}", on_one_line(left));
    }
    if let (None, Some(advice)) = (&report.problem, &report.advice) {
        let _ = write!(text, "\n{advice}\n");
    }
    text
}

fn document(report: &ProbeReport) -> Value {
    json!({
        "destination": report.destination,
        "created": report.created,
        "ready": report.problem.is_none(),
        "checks": report.checks,
        "append_only": report.append_only,
        "because": report.because,
        "not_obeyed": report.not_obeyed,
        "clock_ahead_seconds": report.clock_ahead_seconds,
        "left": report.left,
        "advice": report.advice,
    })
}

impl List {
    async fn run(self, mut around: Surroundings) -> Outcome {
        let destination = resolve(&mut around, self.destination)?;
        let place = wiring::place(&destination, &around.env)?;
        let mut prefix = self.prefix.unwrap_or_default().trim_matches('/').to_owned();
        if !prefix.is_empty() {
            prefix.push('/');
        }
        let objects = place.ports.source.list(&prefix).await?;
        let level = Level::of(&objects, &prefix, self.all);
        around.printer.result(&level.document(), &level.text())
    }
}

/// What is in a folder.
#[derive(Debug, Default)]
struct Level<'a> {
    prefix: &'a str,
    /// How many objects each folder below holds, and their bytes.
    folders: BTreeMap<&'a str, (u64, u64)>,
    objects: Vec<&'a ObjectInfo>,
    count: u64,
    bytes: u64,
}

impl<'a> Level<'a> {
    fn of(found: &'a [ObjectInfo], prefix: &'a str, all: bool) -> Self {
        let mut level = Self { prefix, ..Self::default() };
        for object in found {
            level.count += 1;
            level.bytes += object.len;
            let rest = object.key.as_str().strip_prefix(prefix).unwrap_or_default();
            match rest.split_once('/') {
                Some((folder, _)) if !all => {
                    let (count, bytes) = level.folders.entry(folder).or_default();
                    *count += 1;
                    *bytes += object.len;
                }
                _ => level.objects.push(object),
            }
        }
        level
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for (folder, (count, bytes)) in &self.folders {
            let _ = writeln!(
                text,
                "{:>10}  {:19}  {}{folder}/  ({count} objects)",
                printer::bytes(*bytes),
                "",
                self.prefix
            );
        }
        for object in &self.objects {
            let modified = object.modified.map(|time| time.strftime("%F %T").to_string()).unwrap_or_default();
            let _ = writeln!(text, "{:>10}  {modified:19}  {}", printer::bytes(object.len), object.key);
        }
        let _ = writeln!(text, "{:>10}  in {} objects", printer::bytes(self.bytes), self.count);
        text
    }

    fn document(&self) -> Value {
        json!({
            "folders": self.folders.iter().map(|(folder, (count, bytes))| json!({
                "folder": format!("{}{folder}/", self.prefix), "objects": count, "bytes": bytes,
            })).collect::<Vec<_>>(),
            "objects": self.objects.iter().map(|object| json!({
                "key": object.key.as_str(), "bytes": object.len, "modified": object.modified,
                "tag": object.tag.as_ref().map(|tag| &tag.0),
            })).collect::<Vec<_>>(),
            "total_objects": self.count,
            "total_bytes": self.bytes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_level_or_all_of_it() {
        let object =
            |key: &str, len| ObjectInfo { key: key.parse().unwrap(), len, tag: None, modified: None };
        let found = [object("a/b/c", 1), object("a/b/d", 2), object("a/e", 4), object("a/f/g", 8)];
        let level = Level::of(&found, "a/", false);
        assert_eq!(level.folders, BTreeMap::from([("b", (2, 3)), ("f", (1, 8))]));
        assert_eq!((level.objects.len(), level.count, level.bytes), (1, 4, 15));
        assert!(level.text().contains("a/b/  (2 objects)"));
        assert_eq!(Level::of(&found, "a/", true).objects.len(), 4);
    }
}
