//! `config show` and `config reference`.

use std::fmt::Write as _;

use clap::{Args, Subcommand};
use serde_json::{Map, json};

use super::Surroundings;
use crate::args::{DestinationArgs, IdentityArgs, SealArgs, SecretArgs};
use crate::failure::Outcome;
use crate::printer::write_stdout;
use crate::settings::{Needs, reference};

/// Show the settings.
#[derive(Debug, Args)]
pub(crate) struct Config {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Print every setting, its value and where it came from
    Show(Box<Show>),
    /// Print the reference of all settings in Markdown
    Reference,
}

#[derive(Debug, Args)]
struct Show {
    /// As the settings of this source
    source: Option<String>,
    #[command(flatten)]
    destination: DestinationArgs,
    #[command(flatten)]
    seal: SealArgs,
    #[command(flatten)]
    identity: IdentityArgs,
    #[command(flatten)]
    secrets: SecretArgs,
}

impl Config {
    /// Runs the command.
    pub(crate) fn run(self, mut around: Surroundings) -> Outcome {
        let show = match self.what {
            What::Reference => return write_stdout(reference::page().trim_end()),
            What::Show(show) => show,
        };
        let needs = Needs { source: show.source.as_deref(), ..Needs::default() };
        let settings =
            around.settings(&[&show.destination, &show.seal, &show.identity, &show.secrets], needs)?;
        let mut text = String::new();
        let mut document = Map::new();
        for (setting, value, origin) in &settings.shown {
            let shown = value.as_deref().unwrap_or(setting.default);
            let _ = writeln!(text, "{} = {shown}    # {origin}", setting.key);
            document.insert(setting.key.to_owned(), json!({ "value": value, "origin": origin.to_string() }));
        }
        for name in settings.sources.keys() {
            let _ = writeln!(text, "[sources.{name}]");
        }
        for name in settings.targets.keys() {
            let _ = writeln!(text, "[targets.{name}]");
        }
        around.printer.result(&document.into(), &text)
    }
}
