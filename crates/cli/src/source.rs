//! What is to be backed up, from a name, a URL, stdin or a command line.

use backup_core::{Selection, SourceName};
use clap::Args;

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
    #[arg(long, conflicts_with = "source", requires_all = ["argv", "name"])]
    command: bool,
    /// The program and its arguments
    #[arg(last = true, requires = "command", value_name = "PROGRAM ARGS")]
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
}

/// A source that is known well enough to be opened.
#[derive(Debug)]
pub(crate) struct Source {
    /// The name to store under.
    pub(crate) name: SourceName,
    /// How its bytes are had.
    pub(crate) from: From,
    /// Which tables.
    pub(crate) selection: Selection,
    /// More arguments for the dump program.
    pub(crate) dump_args: Vec<String>,
}

/// How the bytes of a source are had. `Debug` may be printed: URLs with passwords are hidden.
pub(crate) enum From {
    /// A database, by URL.
    Url(String),
    /// A program and its arguments.
    Command(Vec<String>),
    /// Stdin.
    Stdin,
}

impl std::fmt::Debug for From {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Url(_) => f.write_str("Url(****)"),
            Self::Command(argv) => f.debug_tuple("Command").field(&argv.first()).finish(),
            Self::Stdin => f.write_str("Stdin"),
        }
    }
}

impl SourceArgs {
    /// The text that may be a name of the configuration.
    pub(crate) fn configured_name(&self) -> Option<&str> {
        self.source.as_deref()
    }

    /// Finds out what is meant.
    ///
    /// # Errors
    /// `Config`, with a suggestion for a name that is nearly one of the configuration.
    pub(crate) fn resolve(self, settings: &Settings) -> Outcome<Source> {
        let selection = Selection { include: self.include, exclude: self.exclude };
        if self.command {
            let name = named(self.name.as_deref(), "")?;
            return Ok(Source { name, from: From::Command(self.argv), selection, dump_args: self.dump_arg });
        }
        let text = self.source.unwrap_or_default();
        if let Some(table) = settings.sources.get(&text) {
            return configured(&text, table, self.name, selection, self.dump_arg);
        }
        if text == "-" {
            let name = named(self.name.as_deref(), "")?;
            return Ok(Source { name, from: From::Stdin, selection, dump_args: self.dump_arg });
        }
        if !text.contains([':', '/', '.']) {
            let hint = match nearest(&text, settings.sources.keys().map(String::as_str)) {
                Some(near) => format!("did you mean {near:?}?"),
                None => "add it to the configuration, or write a URL such as postgres://user@host/db or sqlite:FILE".into(),
            };
            return Err(Failure::usage("argument SOURCE", format!("no source is called {text:?}"), hint));
        }
        let name = named(self.name.as_deref(), &name_of_url(&text))?;
        Ok(Source { name, from: From::Url(text), selection, dump_args: self.dump_arg })
    }
}

fn configured(
    name: &str,
    table: &Table,
    other_name: Option<String>,
    mut selection: Selection,
    mut dump_args: Vec<String>,
) -> Outcome<Source> {
    // What the command line says about tables replaces what the file says.
    if selection == Selection::default() {
        selection =
            Selection { include: table.list("include").to_vec(), exclude: table.list("exclude").to_vec() };
    }
    if dump_args.is_empty() {
        dump_args = table.list("dump_args").to_vec();
    }
    let from = match (table.text("url"), table.list("command")) {
        (Some(url), []) => From::Url(url.to_owned()),
        (None, [_, ..]) => From::Command(table.list("command").to_vec()),
        _ => {
            return Err(Failure::usage(
                format!("sources.{name}"),
                "needs either a url or a command",
                "set one of the two",
            ));
        }
    };
    Ok(Source { name: named(other_name.as_deref(), name)?, from, selection, dump_args })
}

fn named(given: Option<&str>, otherwise: &str) -> Outcome<SourceName> {
    given.unwrap_or(otherwise).parse().map_err(|_| {
        Failure::usage(
            "flag --name",
            format!("{:?} cannot be the name of a source", given.unwrap_or(otherwise)),
            "pass --name with 1 to 100 of A-Z a-z 0-9 . _ -, beginning with a letter or digit",
        )
    })
}

/// The database's name in a URL, or the file's without its ending; whatever cannot be in a name
/// becomes a hyphen.
fn name_of_url(url: &str) -> String {
    let path = url.split(['?', '#']).next().unwrap_or_default();
    let path = path.split_once("://").map_or(path, |(_, rest)| rest);
    // Without a path there is only a host, and a password may stand before it.
    let last = match path.rsplit_once('/') {
        Some((_, last)) => last,
        None => path.rsplit_once(':').map_or(path, |(_, last)| last),
    };
    let stem = [".sqlite3", ".sqlite", ".db"].iter().find_map(|end| last.strip_suffix(end)).unwrap_or(last);
    if stem.contains('@') {
        return String::new();
    }
    stem.chars().map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_has_the_name_of_its_database() {
        let table = [
            ("postgres://me:pw@host:5432/orders?sslmode=require", "orders"),
            ("postgresql://host/my%20db", "my-20db"),
            ("sqlite:/var/lib/app/app.db", "app"),
            ("sqlite:app.sqlite3", "app"),
            ("sqlite:///x/data.sqlite", "data"),
            ("./plain.db", "plain"),
            // Nothing of a URL without a database can be a name.
            ("postgres://me:pw@host", ""),
        ];
        for (url, name) in table {
            assert_eq!(name_of_url(url), name, "{url}");
        }
    }

    #[test]
    fn a_password_is_not_printed() {
        let from = From::Url("postgres://me:hunter2@host/db".into());
        assert!(!format!("{from:?}").contains("hunter2"));
        let from = From::Command(vec!["prog".into(), "hunter2".into()]);
        assert!(!format!("{from:?}").contains("hunter2"));
    }
}
