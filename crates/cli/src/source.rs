//! What is to be backed up, from a name, a URL, stdin or a command line.

use std::path::Path;

use backup_core::{Selection, SourceName};
use clap::Args;
use dumpers::SourceConfig;
use dumpers::command::CommandConfig;
use serde_json::{Map, Value as Json, json};

use crate::failure::{Failure, Outcome};
use crate::settings::{Settings, Table, Value, nearest};

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
}

/// Keys of a source's table that are not for the dumper.
const OURS: [&str; 8] =
    ["url", "include", "exclude", "dump_args", "destination", "recipients", "compression", "verify"];

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
        let text = self.source.clone().unwrap_or_default();
        let table = settings.sources.get(&text);
        let mut config = match table {
            _ if self.command => SourceConfig::Command(CommandConfig::new(self.argv.clone())),
            Some(table) => configured(&text, table, settings.file.as_deref())?,
            None => from_argument(&text, settings)?,
        };
        if !self.dump_arg.is_empty() {
            match &mut config {
                SourceConfig::Postgresql(postgres) => postgres.extra_args.clone_from(&self.dump_arg),
                _ => {
                    return Err(Failure::usage(
                        "flag --dump-arg",
                        "this source is dumped without a program that takes arguments",
                        "leave --dump-arg out",
                    ));
                }
            }
        }
        // What the command line says about tables replaces what the file says.
        let mut selection = Selection { include: self.include, exclude: self.exclude };
        if let Some(table) = table.filter(|_| selection == Selection::default()) {
            selection.include = table.list("include").to_vec();
            selection.exclude = table.list("exclude").to_vec();
        }
        let default = table.map(|_| text).or_else(|| config.default_name());
        Ok(Source { name: named(self.name.or(default))?, config, selection })
    }
}

fn from_argument(text: &str, settings: &Settings) -> Outcome<SourceConfig> {
    refuse_password(text, "argument SOURCE")?;
    if text != "-" && !text.contains([':', '/', '.']) {
        let hint = match nearest(text, settings.sources.keys().map(String::as_str)) {
            Some(near) => format!("did you mean {near:?}?"),
            None => {
                "add it to the configuration, or write a URL such as postgres://user@host/db or sqlite:FILE"
                    .into()
            }
        };
        return Err(Failure::usage("argument SOURCE", format!("no source is called {text:?}"), hint));
    }
    Ok(SourceConfig::from_url(text)?)
}

/// Everyone on this machine can read the arguments of a process.
pub(crate) fn refuse_password(url: &str, argument: &str) -> Outcome {
    // A password may hold unescaped slashes and at signs, so the last at sign ends it.
    let user = match url.split_once("://") {
        Some(("postgres" | "postgresql", rest)) => {
            let before_query = rest.split('?').next().unwrap_or_default();
            before_query.rsplit_once('@').map_or("", |(user, _)| user)
        }
        _ => "",
    };
    let query = url.split_once('?').map_or("", |(_, query)| query);
    let in_query =
        query.split('&').any(|pair| pair.starts_with("password=") || pair.starts_with("sslpassword="));
    if user.contains(':') || in_query {
        return Err(Failure::usage(
            argument,
            "holds a password, which every user of this machine could read in the process list",
            "leave it out of the URL and set PGPASSWORD, use ~/.pgpass, or write a [sources.NAME] table with password_file",
        ));
    }
    Ok(())
}

fn configured(name: &str, table: &Table, file: Option<&Path>) -> Outcome<SourceConfig> {
    let wrong = |what: String| {
        Failure::usage(
            format!("sources.{name} in {}", file.unwrap_or(Path::new("the configuration")).display()),
            what,
            "docs/configuration.md lists the keys of a source",
        )
    };
    let mut settings = Map::new();
    for (key, found) in table.fields.iter().filter(|(key, _)| !OURS.contains(key)) {
        settings.insert((*key).to_owned(), plain(&found.value));
    }
    if let Some(argv) = settings.remove("command") {
        settings.insert("type".to_owned(), json!("command"));
        settings.insert("argv".to_owned(), argv);
    }
    if let Some(url) = table.text("url") {
        match SourceConfig::from_url(url)? {
            SourceConfig::Postgresql(_) => {
                settings.insert("type".to_owned(), json!("postgresql"));
                settings.insert("url".to_owned(), json!(url));
            }
            SourceConfig::Sqlite(sqlite) => {
                let folder = file.and_then(Path::parent).unwrap_or(Path::new(""));
                settings.insert("type".to_owned(), json!("sqlite"));
                settings.insert("path".to_owned(), json!(folder.join(sqlite.path)));
            }
            _ => return Err(wrong("its url is not that of a database".to_owned())),
        }
    }
    let dump_args = table.list("dump_args");
    if !dump_args.is_empty() {
        settings.insert("extra_args".to_owned(), json!(dump_args));
    }
    if !settings.contains_key("type") {
        return Err(wrong("needs a url, a command or a type".to_owned()));
    }
    // The message of an unknown or missing key names the key and no value.
    serde_json::from_value(Json::Object(settings)).map_err(|error| wrong(error.to_string()))
}

fn plain(value: &Value) -> Json {
    match value {
        Value::Text(text) => json!(text),
        Value::Switch(on) => json!(on),
        Value::Number(number) => json!(number),
        Value::List(list) => json!(list),
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::File;

    fn source(toml: &str) -> Outcome<SourceConfig> {
        let mut problems = Vec::new();
        let path = Path::new("/etc/s.toml");
        let file = File::parse(path, &format!("[sources.a]\n{toml}"), &mut problems);
        assert_eq!(problems, []);
        configured("a", &file.sources["a"], Some(path))
    }

    #[test]
    fn every_kind_of_source_is_understood_with_all_its_keys() {
        let postgres = "type = \"postgresql\"\nhost = \"h\"\nport = \"1\"\nuser = \"u\"\ndbname = \"d\"\npassword_file = \"p\"\n\
            passfile = \"f\"\nservice = \"s\"\nsslmode = \"require\"\nsslrootcert = \"r\"\nsslcert = \"c\"\nsslkey = \"k\"\n\
            tool_dirs = [\"/t\"]\ndump_args = [\"--no-comments\"]\nstall_seconds = 5\n";
        let Ok(SourceConfig::Postgresql(config)) = source(postgres) else { panic!("not understood") };
        assert_eq!(config.extra_args, ["--no-comments"]);
        assert_eq!(config.password_file.as_deref(), Some(Path::new("/etc/p")));
        let Ok(SourceConfig::Sqlite(config)) =
            source("url = \"sqlite:app.db\"\nmemory_limit = 1\nlock_seconds = 2\n")
        else {
            panic!("not understood")
        };
        assert_eq!(config.path, Path::new("/etc/app.db"));
        let command =
            "command = [\"prog\", \"-x\"]\npass_env = [\"A\"]\nformat = \"f\"\nallow_empty = true\n";
        let Ok(SourceConfig::Command(config)) = source(command) else { panic!("not understood") };
        assert_eq!(config.argv, ["prog", "-x"]);
        assert!(matches!(source("type = \"stdin\"\n"), Ok(SourceConfig::Stdin(_))));
    }

    #[test]
    fn keys_of_another_kind_are_refused_and_a_password_is_not_repeated() {
        for bad in ["url = \"sqlite:a\"\nhost = \"h\"\n", "host = \"h\"\n", "type = \"nosql\"\n"] {
            assert_eq!(source(bad).unwrap_err().exit_code(), 2, "{bad}");
        }
        let failure = source("url = \"postgres://u:hunter2@h/d\"\nallow_empty = true\n").unwrap_err();
        assert!(!format!("{failure:?} {}", failure.for_a_person()).contains("hunter2"));
    }

    /// Everyone can read a process's arguments, so no password is taken from them.
    #[test]
    fn incident_79_no_password_is_taken_from_the_command_line() {
        for bad in [
            "postgres://u:hunter2@h/d",
            "postgres://u:hunter2@h",
            "postgres://h/d?user=u&password=hunter2",
            "postgres://u:p@ss/word@h/d",
        ] {
            let failure = refuse_password(bad, "argument SOURCE").unwrap_err();
            assert!(!failure.for_a_person().contains("hunter2"), "{bad}");
        }
        for good in ["postgres://u@h:5432/d", "postgres://h/d?sslmode=require", "sqlite:/a:b@c", "-"] {
            assert!(refuse_password(good, "argument SOURCE").is_ok(), "{good}");
        }
    }
}
