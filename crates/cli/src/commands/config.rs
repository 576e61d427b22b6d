//! `config show` and `config reference`.

use std::fmt::Write as _;

use clap::{Args, Subcommand};
use serde_json::{Map, Value as Json, json};

use super::Surroundings;
use crate::args::{DestinationsArgs, IdentityArgs, ReadBackArgs, SealArgs, SecretArgs, Sets};
use crate::checks::Checks;
use crate::database::{Named, described};
use crate::failure::{Failure, Outcome};
use crate::printer::write_stdout;
use crate::settings::{Found, Needs, Origin, Settings, Value, nearest, reference};
use crate::{keys, wiring};

/// Show the settings.
#[derive(Debug, Args)]
pub(crate) struct Config {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Check every setting, source, target, destination and key without connecting to anybody, and print them;
    /// no secret is shown
    Show(Box<Show>),
    /// Print the reference of all settings in Markdown
    Reference,
}

#[derive(Debug, Args)]
struct Show {
    /// As the settings of this source
    source: Option<String>,
    /// Say of each value where it came from: command line, environment, a line of the file, or default
    #[arg(long)]
    origin: bool,
    #[command(flatten)]
    destination: DestinationsArgs,
    #[command(flatten)]
    seal: SealArgs,
    #[command(flatten)]
    identity: IdentityArgs,
    #[command(flatten)]
    secrets: SecretArgs,
    #[command(flatten)]
    read_back: ReadBackArgs,
}

impl Config {
    /// Runs the command.
    pub(crate) fn run(self, mut around: Surroundings) -> Outcome {
        let show = match self.what {
            What::Reference => return write_stdout(reference::page().trim_end()),
            What::Show(show) => show,
        };
        let needs = Needs { source: show.source.as_deref(), ..Needs::default() };
        let flags: [&dyn Sets; 5] =
            [&show.destination, &show.seal, &show.identity, &show.secrets, &show.read_back];
        let (settings, mut checks) = around.checked(&flags, needs)?;
        check(&around, &settings, &mut checks);
        if let Some(name) = show.source.as_ref().filter(|name| !settings.sources.contains_key(*name)) {
            let hint = match nearest(name, settings.sources.keys().map(String::as_str)) {
                Some(near) => format!("did you mean {near:?}?"),
                None => "add it to the configuration".to_owned(),
            };
            let what = format!("no source is called {name:?}");
            checks.keep("", Err::<(), _>(Failure::usage("argument SOURCE", what, hint)));
        }
        let (document, text) = shown(&settings, show.origin);
        around.printer.result(&document, &text)?;
        checks.done(Some(()))
    }
}

/// Everything that the settings name and that can be known without connecting to anybody.
fn check(around: &Surroundings, settings: &Settings, checks: &mut Checks) {
    let of = |section, name, table| Named {
        text: name,
        table: Some(table),
        section,
        file: settings.file.as_deref(),
        argument: "",
        set: &[],
        args: &[],
    };
    for (name, table) in &settings.sources {
        let source = checks.keep("", described(of("sources", name, table)));
        let place = format!("sources.{name}");
        source.and_then(|source| checks.keep(&place, wiring::dumper(&source)));
    }
    for (name, table) in &settings.targets {
        let target = checks.keep("", described(of("targets", name, table)));
        let place = format!("targets.{name}");
        target.and_then(|target| checks.keep(&place, wiring::restorer(&target)));
    }
    let tables = settings.known.keys().filter_map(|name| settings.destination_named("", name).ok());
    let unnamed = settings.destinations.iter().filter(|destination| destination.name.is_none()).cloned();
    for destination in tables.chain(unnamed) {
        checks.keep(&settings.naming(&destination), wiring::check(&destination, &around.env));
    }
    for (name, table) in &settings.known {
        if table.text("url").is_none() {
            let problem = Failure::usage(format!("destinations.{name}.url"), "not set", "say where it is");
            checks.keep("", Err::<(), _>(problem));
        }
    }
    keys::check_recipients(settings, checks);
    keys::check_identities(settings, checks);
    for (name, found) in &settings.names {
        let Value::Text(path) = &found.value else { continue };
        let place = format!("recipients.{name} in {}", found.origin);
        checks.keep(&place, keys::check_public(path.as_ref()));
    }
}

/// Every setting, for a program and for a person.
fn shown(settings: &Settings, with_origin: bool) -> (Json, String) {
    let mut text = String::new();
    let mut document = Map::new();
    let told = |origin: &Origin| if with_origin { format!("    # {origin}") } else { String::new() };
    for (setting, value, origin) in &settings.shown {
        let from = told(origin);
        let value = value.as_ref().map(|value| value.of(setting.kind));
        let _ = match &value {
            Some(value) => writeln!(text, "{} = {value}{from}", setting.key),
            None => writeln!(text, "# {} = {}{from}", setting.key, setting.default),
        };
        document.insert(
            setting.key.to_owned(),
            json!({ "value": value.map(|v| v.for_a_program()), "origin": origin.to_string() }),
        );
    }
    let mut section = |title: &str, fields: &mut dyn Iterator<Item = (&str, &Found)>| -> Json {
        let _ = writeln!(text, "\n[{title}]");
        let mut table = Map::new();
        for (key, Found { value, origin }) in fields {
            let _ = writeln!(text, "{key} = {value}{}", told(origin));
            let entry = json!({ "value": value.for_a_program(), "origin": origin.to_string() });
            table.insert(key.to_owned(), entry);
        }
        table.into()
    };
    if !settings.names.is_empty() {
        let mut names = settings.names.iter().map(|(name, found)| (name.as_str(), found));
        document.insert("recipients".to_owned(), section("recipients", &mut names));
    }
    let groups =
        [("sources", &settings.sources), ("targets", &settings.targets), ("destinations", &settings.known)];
    for (group, tables) in groups {
        let entries = tables.iter().map(|(name, table)| {
            let mut fields = table.fields.iter().map(|(key, found)| (*key, found));
            (name.clone(), section(&format!("{group}.{name}"), &mut fields))
        });
        let entries: Map<String, Json> = entries.collect();
        document.insert(group.to_owned(), entries.into());
    }
    (document.into(), text)
}
