//! What is to be backed up, from a name, a URL, stdin or a command line.

use backup_core::{Selection, SourceName, Tag, TagError, Tags};
use clap::Args;
use dumpers::SourceConfig;
use dumpers::command::CommandConfig;

use crate::checks::Checks;
use crate::database::{Named, described, is_name, refuse_password};
use crate::failure::{Failure, Outcome};
use crate::settings::{Settings, Table, nearest};

/// How the command line names a source.
#[derive(Debug, Args)]
pub(crate) struct SourceArgs {
    /// A name of the configuration, a URL, or `-` for stdin
    #[arg(required_unless_present = "command")]
    source: Option<String>,
    /// The name to store under; by default the name of the configuration or of the database
    #[arg(long)]
    name: Option<String>,
    /// Back up what the program after `--` writes to its stdout
    #[arg(long, conflicts_with = "source", requires = "argv")]
    command: bool,
    /// The program and its arguments
    #[arg(last = true, requires = "command", value_name = "PROGRAM")]
    argv: Vec<String>,
    /// Only these tables; repeatable
    #[arg(long, value_name = "TABLE")]
    include: Vec<String>,
    /// All tables but these; repeatable
    #[arg(long, value_name = "TABLE")]
    exclude: Vec<String>,
    /// One more argument for the dump program; repeatable
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    dump_arg: Vec<String>,
    /// One more setting of the database, as docs/configuration.md lists them; repeatable
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

/// A source that is known well enough to be opened.
#[derive(Debug)]
pub(crate) struct Source {
    /// The name to store under.
    pub(crate) name: SourceName,
    /// How its bytes are had; `Debug` shows no secret.
    pub(crate) config: SourceConfig,
    /// Which tables.
    pub(crate) selection: Selection,
    /// What its backups are marked with.
    pub(crate) tags: Tags,
}

impl SourceArgs {
    /// A source by name or URL, with settings of its database.
    pub(crate) fn of(source: String, name: Option<String>, set: Vec<String>) -> Self {
        Self {
            source: Some(source),
            name,
            command: false,
            argv: Vec::new(),
            include: Vec::new(),
            exclude: Vec::new(),
            dump_arg: Vec::new(),
            set,
        }
    }

    /// The text that may be a name of the configuration.
    pub(crate) fn configured_name(&self) -> Option<&str> {
        self.source.as_deref()
    }

    /// Finds out what is meant; with what is wrong, such as a name that is nearly one of the
    /// configuration, in `checks`.
    pub(crate) fn resolve(self, settings: &Settings, checks: &mut Checks) -> Option<Source> {
        let text = self.source.clone().unwrap_or_default();
        let table = settings.sources.get(&text);
        let config = checks.keep("argument SOURCE", self.config(&text, table, settings));
        // What the command line says about tables replaces what the file says.
        let mut selection = Selection { include: self.include, exclude: self.exclude };
        if let Some(table) = table.filter(|_| selection == Selection::default()) {
            selection.include = table.list("include").to_vec();
            selection.exclude = table.list("exclude").to_vec();
        }
        let default = table.map(|_| text).or_else(|| config.as_ref().and_then(SourceConfig::default_name));
        // Without a source there is nothing to take a name from.
        if self.name.is_none() && config.is_none() {
            return None;
        }
        let name = checks.keep("flag --name", named(self.name.or(default)));
        let of = format!("key sources.{}.tags", self.source.as_deref().unwrap_or_default());
        let listed = table.map_or(&[][..], |table| table.list("tags"));
        let tags = checks.keep("", tags(&of, listed, &Tags::default()));
        Some(Source { name: name?, config: config?, selection, tags: tags? })
    }

    fn config(&self, text: &str, table: Option<&Table>, settings: &Settings) -> Outcome<SourceConfig> {
        match self.command {
            true if self.dump_arg.is_empty() && self.set.is_empty() => {
                Ok(SourceConfig::Command(CommandConfig::new(self.argv.clone())))
            }
            true => Err(Failure::usage(
                "flag --command",
                "the program's arguments stand after `--`; it takes neither --dump-arg nor --set",
                "write a [sources.NAME] table with a command to set more",
            )),
            false => {
                if table.is_none() {
                    check_argument(text, settings)?;
                }
                described(Named {
                    text,
                    table,
                    section: "sources",
                    file: settings.file.as_deref(),
                    argument: "argument SOURCE",
                    set: &self.set,
                    args: &self.dump_arg,
                })
            }
        }
    }
}

/// Tags as a person writes them, over others that they replace by name.
///
/// # Errors
/// `Config`, naming where they stand.
pub(crate) fn tags(from: &str, texts: &[String], below: &Tags) -> Outcome<Tags> {
    let wrong = |error: TagError| Failure::usage(from, error.to_string(), "write tags such as env=prod");
    let mine = texts.iter().map(|text| text.parse()).collect::<Result<Vec<Tag>, _>>().map_err(wrong)?;
    let kept = below.iter().filter(|(name, _)| mine.iter().all(|tag| tag.name != *name));
    let kept = kept.map(|(name, value)| Tag { name: name.to_owned(), value: value.to_owned() });
    Tags::of(kept.chain(mine.iter().cloned())).map_err(wrong)
}

/// Refuses what is no URL, or one that would show a secret.
fn check_argument(text: &str, settings: &Settings) -> Outcome {
    refuse_password(text, "argument SOURCE")?;
    if is_name(text) {
        let hint = match nearest(text, settings.sources.keys().map(String::as_str)) {
            Some(near) => format!("did you mean {near:?}?"),
            None => {
                "add it to the configuration, or write a URL such as postgres://user@host/db or sqlite:FILE"
                    .into()
            }
        };
        return Err(Failure::usage("argument SOURCE", format!("no source is called {text:?}"), hint));
    }
    SourceConfig::from_url(text)?;
    Ok(())
}

fn named(name: Option<String>) -> Outcome<SourceName> {
    let name = name.unwrap_or_default();
    name.parse().map_err(|_| {
        Failure::usage(
            "flag --name",
            format!("{name:?} cannot be the name of a source"),
            "pass --name with 1 to 100 of A-Z a-z 0-9 . _ -, beginning with a letter or digit",
        )
    })
}
