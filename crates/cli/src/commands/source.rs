//! `source`: a look at a database without backing it up. Nothing is changed there.

use std::fmt::Write as _;

use backup_core::{Error, ErrorKind, Probe, ProbeItem, Stage};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::Surroundings;
use crate::failure::Outcome;
use crate::printer::{self, on_one_line};
use crate::settings::{Needs, Settings};
use crate::source::{Source, SourceArgs};
use crate::state::{Drift, Inventory, State};
use crate::wiring;

/// Look at a source: is it reachable, what may be read, what is there, what is new.
#[derive(Debug, Args)]
pub(crate) struct SourceCommand {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Connect, check privileges and the versions of the tools; 12 when a privilege is missing
    Test(Which),
    /// List tables or collections with about how many rows and bytes each has
    Tables(Which),
    /// Tell which tables came, went or lost their rows since this machine's last backup of the source
    Drift(Which),
}

#[derive(Debug, Clone, Args)]
struct Which {
    /// A name of the configuration or a URL
    source: String,
    /// The name it is stored under; by default the name of the configuration or of the database
    #[arg(long)]
    name: Option<String>,
    /// One more setting of the database, as docs/configuration.md lists them; repeatable
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl SourceCommand {
    /// Runs the command.
    pub(crate) async fn run(self, mut around: Surroundings) -> Outcome {
        let (What::Test(which) | What::Tables(which) | What::Drift(which)) = &self.what;
        let which = which.clone();
        let needs = Needs { source: Some(&which.source), ..Needs::default() };
        let (settings, mut checks) = around.checked(&[], needs)?;
        let label = settings.label(&which.source).map(str::to_owned);
        let source = SourceArgs::of(which.source, which.name, which.set).resolve(&settings, &mut checks);
        let source = checks.done(source)?;
        let dumper = wiring::dumper(&source.config)?;
        let probe = dumper.probe(&around.cx).await.map_err(|error| error.at(Stage::Probe))?;
        let seen = Seen { source, label, probe };
        match self.what {
            What::Test(_) => seen.test(&around),
            What::Tables(_) => seen.tables(&around, &settings),
            What::Drift(_) => seen.tell_drift(&around, &settings),
        }
    }
}

/// A source that was looked at.
struct Seen {
    source: Source,
    label: Option<String>,
    probe: Probe,
}

impl Seen {
    fn test(&self, around: &Surroundings) -> Outcome {
        let probe = &self.probe;
        for obstacle in &probe.obstacles {
            around.printer.warn(&on_one_line(&obstacle.what));
        }
        self.warn(around);
        let mut text = self.head();
        if probe.obstacles.is_empty() {
            text.push_str("privileges  enough to read everything\n");
        }
        let mut remedies: Vec<&str> = Vec::new();
        for obstacle in &probe.obstacles {
            if !remedies.contains(&obstacle.remedy.as_str()) {
                remedies.push(&obstacle.remedy);
            }
        }
        for remedy in &remedies {
            let _ = writeln!(text, "missing     {}", on_one_line(remedy));
        }
        around.printer.result(&self.document(json!({ "ready": probe.obstacles.is_empty() })), &text)?;
        match probe.obstacles.len() {
            0 => Ok(()),
            count => Err(Error::new(
                ErrorKind::Denied,
                self.source.name.to_string(),
                format!(
                    "{count} {} in the way of a whole dump",
                    if count == 1 { "obstacle is" } else { "obstacles are" }
                ),
            )
            .at(Stage::Probe)
            .with_hint("run what stands behind `missing` as an owner or administrator, then test again")
            .into()),
        }
    }

    fn tables(&self, around: &Surroundings, settings: &Settings) -> Outcome {
        self.warn(around);
        for obstacle in &self.probe.obstacles {
            around.printer.warn(&on_one_line(&obstacle.to_string()));
        }
        let last = self.last(settings)?;
        let drift = last.as_ref().map(|last| last.drift(&self.probe.items));
        let mut text = self.head();
        let size =
            self.probe.estimated_bytes.map_or_else(String::new, |b| format!(", about {}", printer::bytes(b)));
        let _ = writeln!(text, "tables      {}{size}", self.probe.items.len());
        if !self.probe.items.is_empty() {
            let _ = writeln!(text, "\n{:>14}  {:>12}  table", "rows", "size");
        }
        for item in &self.probe.items {
            let mark = if drift.as_ref().is_some_and(|drift| drift.added.binary_search(&item.name).is_ok()) {
                "  new since the last backup"
            } else {
                ""
            };
            let _ = writeln!(
                text,
                "{:>14}  {:>12}  {}{mark}",
                item.estimated_rows.map_or_else(|| "?".to_owned(), |rows| rows.to_string()),
                item.estimated_bytes.map_or_else(|| "?".to_owned(), printer::bytes),
                on_one_line(&item.name),
            );
        }
        for name in drift.iter().flat_map(|drift| &drift.gone) {
            let _ =
                writeln!(text, "{:>14}  {:>12}  {}  gone since the last backup", "-", "-", on_one_line(name));
        }
        let more = json!({
            "tables": self.probe.items.iter().map(table).collect::<Vec<_>>(),
            "drift": drift,
            "last_backup": last.as_ref().map(backup),
        });
        around.printer.result(&self.document(more), &text)
    }

    fn tell_drift(&self, around: &Surroundings, settings: &Settings) -> Outcome {
        self.warn(around);
        let name = &self.source.name;
        let Some(last) = self.last(settings)? else {
            return Err(Error::new(ErrorKind::NotFound, name.to_string(), "this machine remembers no backup of it")
                .with_hint("drift is told on the machine that backs up, after its first backup; pass --name if it is stored under another name")
                .into());
        };
        if last.engine != self.probe.engine {
            let what = format!("the last backup was of {}, this is {}", last.engine, self.probe.engine);
            return Err(Error::new(ErrorKind::Conflict, name.to_string(), what)
                .with_hint("give each database a name of its own")
                .into());
        }
        let drift = last.drift(&self.probe.items);
        let mut text = self.head();
        let ago = printer::duration(around.cx.now().duration_since(last.started).as_secs());
        let _ = writeln!(text, "compared    with backup {}, started {ago} ago", last.backup);
        text.push_str(&lines(&drift));
        let more = json!({ "changed": !drift.is_none(), "drift": drift, "last_backup": backup(&last) });
        around.printer.result(&self.document(more), &text)
    }

    fn warn(&self, around: &Surroundings) {
        for warning in &self.probe.warnings {
            around.printer.warn(&on_one_line(warning));
        }
    }

    fn last(&self, settings: &Settings) -> Outcome<Option<Inventory>> {
        // A machine that never backed up has no state folder, and a look makes none.
        if !settings.state_dir.exists() {
            return Ok(None);
        }
        Ok(State::open(&settings.state_dir)?.inventory(&self.source.name).read()?)
    }

    fn head(&self) -> String {
        let mut text = String::new();
        let label = self.label.as_ref().map(|label| format!(" \"{label}\"")).unwrap_or_default();
        let _ = writeln!(text, "source      {}{label} ({})", self.source.name, self.probe.engine);
        for (what, version) in &self.probe.versions {
            let _ = writeln!(text, "version     {what} {}", on_one_line(version));
        }
        text
    }

    /// What every one of these commands tells a program, and `more`.
    fn document(&self, more: Value) -> Value {
        let mut document = json!({
            "source": self.source.name, "label": self.label, "engine": self.probe.engine,
            "versions": self.probe.versions, "estimated_bytes": self.probe.estimated_bytes,
            "obstacles": self.probe.obstacles, "warnings": self.probe.warnings,
        });
        if let (Value::Object(members), Value::Object(more)) = (&mut document, more) {
            members.extend(more);
        }
        document
    }
}

fn table(item: &ProbeItem) -> Value {
    json!({ "name": item.name, "estimated_rows": item.estimated_rows, "estimated_bytes": item.estimated_bytes })
}

fn backup(last: &Inventory) -> Value {
    json!({ "id": last.backup, "repository": last.repository, "started": last.started })
}

fn lines(drift: &Drift) -> String {
    if drift.is_none() {
        return "no change   the same tables as then\n".to_owned();
    }
    let mut text = String::new();
    let lists = [("new", &drift.added), ("gone", &drift.gone), ("emptied", &drift.emptied)];
    for (word, names) in lists {
        for name in names {
            let _ = writeln!(text, "{word:12}{}", on_one_line(name));
        }
    }
    text
}
