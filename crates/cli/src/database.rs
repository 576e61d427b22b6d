//! A database, a program or files: named by a URL or by a table of the configuration, adjusted by
//! `--set`. Sources and targets alike.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value as Json, json};

use crate::failure::{Failure, Outcome};
use crate::settings::{DATABASE_FIELDS, Found, Kind, Origin, Table, Value, nearest};

/// How one is named, and from where.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Named<'a> {
    /// The name of a table or a URL.
    pub(crate) text: &'a str,
    /// The table, if it is a name.
    pub(crate) table: Option<&'a Table>,
    /// `sources` or `targets`.
    pub(crate) section: &'static str,
    /// The file of the table.
    pub(crate) file: Option<&'a Path>,
    /// The argument that names it.
    pub(crate) argument: &'static str,
    /// `KEY=VALUE`, each winning over the table.
    pub(crate) set: &'a [String],
    /// More arguments for the program; they replace those of the table.
    pub(crate) args: &'a [String],
}

/// The settings as `dumpers` understands them.
///
/// # Errors
/// `Config`, naming the table's key or the flag and never a value.
pub(crate) fn described<T: DeserializeOwned>(named: Named<'_>) -> Outcome<T> {
    let mut table = named.table.cloned().unwrap_or_default();
    let mut problems = Vec::new();
    for pair in named.set {
        if let Err(Failure::Settings(wrong)) = set(&mut table, pair) {
            problems.extend(wrong);
        }
    }
    if !problems.is_empty() {
        return Err(Failure::Settings(problems));
    }
    let mut keys = Map::new();
    let ours = |key: &str| key == "url" || !DATABASE_FIELDS.iter().any(|field| field.key == key);
    // A path in a file is relative to the file.
    let folder = named.file.and_then(Path::parent).filter(|_| named.table.is_some());
    let beside = |path: &str| match folder {
        Some(folder) => folder.join(path).to_string_lossy().into_owned(),
        None => path.to_owned(),
    };
    for (key, found) in table.fields.iter().filter(|(key, _)| !ours(key)) {
        let value = match &found.value {
            Value::List(paths) if *key == "paths" && found.origin != Origin::Flag => {
                json!(paths.iter().map(|path| beside(path)).collect::<Vec<_>>())
            }
            value => plain(value),
        };
        keys.insert((*key).to_owned(), value);
    }
    if let Some(argv) = keys.remove("command") {
        keys.insert("type".to_owned(), json!("command"));
        keys.insert("argv".to_owned(), argv);
    }
    let url = if named.table.is_some() { table.text("url") } else { Some(named.text) };
    if let Some(url) = url {
        let keys_of_url = dumpers::keys_of_url(url).map_err(|error| {
            Failure::usage(named.subject(".url"), error.what(), error.hint().unwrap_or_default())
        })?;
        for (key, value) in keys_of_url {
            let value = if key == "path" { beside(&value) } else { value };
            keys.insert(key.to_owned(), json!(value));
        }
    }
    let in_table = table.list(if named.section == "sources" { "dump_args" } else { "restore_args" });
    let args = if named.args.is_empty() { in_table } else { named.args };
    if !args.is_empty() {
        keys.insert("extra_args".to_owned(), json!(args));
    }
    if !keys.contains_key("type") {
        return Err(named.wrong("needs a url, a command or a type".to_owned()));
    }
    // The message of an unknown or missing key names the key and no value.
    serde_json::from_value(Json::Object(keys)).map_err(|error| {
        let what = error.to_string();
        if what.contains("unknown field `extra_args`") {
            return named
                .wrong("takes no more arguments: there is no program that would get them".to_owned());
        }
        named.wrong(what)
    })
}

impl Named<'_> {
    /// The argument, or the table with this key.
    fn subject(&self, key: &str) -> String {
        match self.table {
            Some(_) => {
                let file = self.file.unwrap_or(Path::new("the configuration"));
                format!("{}.{}{key} in {}", self.section, self.text, file.display())
            }
            None => self.argument.to_owned(),
        }
    }

    fn wrong(&self, what: String) -> Failure {
        Failure::usage(
            self.subject(""),
            what,
            "docs/configuration.md lists the keys of each kind of database",
        )
    }
}

/// Takes `KEY=VALUE` into a table; a list gets one text more.
fn set(table: &mut Table, pair: &str) -> Outcome {
    let (key, text) = pair.split_once('=').unwrap_or((pair, ""));
    let subject = format!("flag --set {key}");
    let known = || DATABASE_FIELDS.iter().map(|field| field.key).filter(|key| !["url", "type"].contains(key));
    let Some(field) = DATABASE_FIELDS.iter().find(|field| field.key == key && known().any(|k| k == key))
    else {
        let hint = match nearest(key, known()) {
            Some(near) => format!("did you mean {near:?}?"),
            None => "docs/configuration.md lists the keys of a database".to_owned(),
        };
        return Err(Failure::usage(subject, "there is no such key", hint));
    };
    let wrong = || {
        Failure::usage(
            subject.clone(),
            format!("expected {}", field.kind.name()),
            format!("write --set {key}=..."),
        )
    };
    let value = match field.kind {
        _ if !pair.contains('=') => return Err(wrong()),
        Kind::Text | Kind::Texts | Kind::Path => Value::Text(text.to_owned()),
        Kind::Switch => Value::Switch(text.parse().map_err(|_| wrong())?),
        Kind::Number => Value::Number(text.parse().map_err(|_| wrong())?),
        Kind::List => {
            // The first text of the command line replaces the list of the file.
            let mut list = match table.fields.remove(field.key) {
                Some(Found { value: Value::List(list), origin: Origin::Flag }) => list,
                _ => Vec::new(),
            };
            list.push(text.to_owned());
            Value::List(list)
        }
    };
    table.fields.insert(field.key, Found { value, origin: Origin::Flag });
    Ok(())
}

fn plain(value: &Value) -> Json {
    match value {
        Value::Text(text) => json!(text),
        Value::Switch(on) => json!(on),
        Value::Number(number) => json!(number),
        Value::List(list) => json!(list),
    }
}

/// Whether this can only be a name of the configuration, as no URL looks like it.
pub(crate) fn is_name(text: &str) -> bool {
    text != "-" && !text.contains([':', '/', '.'])
}

/// Everyone on this machine can read the arguments of a process.
pub(crate) fn refuse_password(url: &str, argument: &str) -> Outcome {
    // A password may hold unescaped slashes and at signs, so the last at sign ends it.
    let user = match url.split_once("://") {
        Some((scheme, rest)) if !["file", "files", "sqlite"].contains(&scheme) => {
            let before_query = rest.split('?').next().unwrap_or_default();
            before_query.rsplit_once('@').map_or("", |(user, _)| user)
        }
        _ => "",
    };
    if user.contains(':') {
        return Err(refused(argument, "a password", PASSWORD_HINT));
    }
    let query = url.split_once('?').map_or("", |(_, query)| query);
    for pair in query.split(['&', ';']) {
        let key = pair.split('=').next().unwrap_or_default();
        match secret_of(key) {
            Some(what @ "a password") => return Err(refused(argument, what, PASSWORD_HINT)),
            Some(what) => return Err(refused(argument, what, SECRET_HINT)),
            None => {}
        }
    }
    Ok(())
}

const PASSWORD_HINT: &str = "leave it out of the URL and pass --set password_file=FILE or the variable that the database's own programs \
     read (PGPASSWORD, MYSQL_PWD, REDISCLI_AUTH; for MongoDB MONGODB_PASSWORD), or write a table with password_file into the configuration";
const SECRET_HINT: &str = "leave it out of the URL; write the url with it into a table of the configuration file, which only this user can \
     read (mode 0600), and name the table";

fn refused(argument: &str, what: &str, hint: &str) -> Failure {
    let what = format!("holds {what}, which every user of this machine could read in the process list");
    Failure::usage(argument, what, hint)
}

/// What kind of secret a parameter of this name holds, whatever the case and the encoding of its
/// letters.
pub(crate) fn secret_of(key: &str) -> Option<&'static str> {
    // Other spellings of one name: `ssl_password`, `ssl-password`, `%70assword`.
    let letters = |byte: &u8| byte.is_ascii_alphanumeric();
    let name: Vec<u8> = unescaped(key.as_bytes()).into_iter().filter(letters).collect();
    let name = String::from_utf8_lossy(&name).to_ascii_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| name.contains(word));
    // A file's name is no secret.
    if name.ends_with("file") {
        None
    } else if has(&["password", "passwd", "pwd"]) {
        Some("a password")
    } else if has(&["passphrase", "token", "secret", "authmechanismproperties"]) {
        Some("a secret")
    } else {
        None
    }
}

/// Percent encoding undone as far as it is any.
fn unescaped(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, after)) = rest.split_first() {
        let digit = |at: usize| after.get(at).and_then(|byte| char::from(*byte).to_digit(16));
        match (first, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push((high << 4 | low) as u8);
                rest = &after[2..];
            }
            _ => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use dumpers::{SourceConfig, TargetConfig};

    use super::*;
    use crate::settings::File;

    fn with<T: DeserializeOwned>(
        section: &'static str,
        toml: &str,
        set: &[&str],
        args: &[&str],
    ) -> Outcome<T> {
        let mut problems = Vec::new();
        let path = Path::new("/etc/s.toml");
        let file = File::parse(path, &format!("[{section}.a]\n{toml}"), &mut problems);
        assert_eq!(problems, []);
        let tables = if section == "sources" { &file.sources } else { &file.targets };
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        described(Named {
            text: "a",
            table: Some(&tables["a"]),
            section,
            file: Some(path),
            argument: "argument SOURCE",
            set: &owned(set),
            args: &owned(args),
        })
    }

    fn source(toml: &str) -> Outcome<SourceConfig> {
        with("sources", toml, &[], &[])
    }

    fn url(text: &str, set: &[&str]) -> Outcome<SourceConfig> {
        let set: Vec<String> = set.iter().map(|pair| (*pair).to_owned()).collect();
        let argument = "argument SOURCE";
        described(Named { text, table: None, section: "sources", file: None, argument, set: &set, args: &[] })
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
        let Ok(SourceConfig::Sqlite(config)) = source("type = \"sqlite\"\npaths = [\"a.db\", \"/b/*.db\"]\n")
        else {
            panic!("not understood")
        };
        assert_eq!(config.paths, ["/etc/a.db", "/b/*.db"]);
        let command =
            "command = [\"prog\", \"-x\"]\npass_env = [\"A\"]\nformat = \"f\"\nallow_empty = true\n";
        let Ok(SourceConfig::Command(config)) = source(command) else { panic!("not understood") };
        assert_eq!(config.argv, ["prog", "-x"]);
        assert!(matches!(source("type = \"stdin\"\n"), Ok(SourceConfig::Stdin(_))));
    }

    #[test]
    fn a_target_is_a_table_too() {
        let toml = "url = \"postgres://u@h/new\"\npassword_file = \"p\"\nrestore_args = [\"--no-owner\"]\n";
        let Ok(TargetConfig::Postgresql(config)) = with("targets", toml, &[], &["--no-acl"]) else {
            panic!("not understood")
        };
        assert_eq!(config.password_file.as_deref(), Some(Path::new("/etc/p")));
        assert_eq!(config.extra_args, ["--no-acl"], "those of the command line replace the table's");
    }

    #[test]
    fn what_is_set_on_the_command_line_wins_over_the_table() {
        let toml = "url = \"postgres://h/d\"\nsslmode = \"prefer\"\ntool_dirs = [\"/file\"]\n";
        let set = ["sslmode=require", "tool_dirs=/one", "tool_dirs=/two", "stall_seconds=7"];
        let Ok(SourceConfig::Postgresql(config)) = with("sources", toml, &set, &[]) else {
            panic!("not understood")
        };
        assert_eq!(config.sslmode.as_deref(), Some("require"));
        assert_eq!(config.tool_dirs, [Path::new("/one"), Path::new("/two")]);
        assert_eq!(config.stall_seconds, Some(7));
        let Ok(SourceConfig::Sqlite(config)) = url("sqlite:a.db", &["lock_seconds=3"]) else {
            panic!("not understood")
        };
        assert_eq!((config.path.as_path(), config.lock_seconds), (Path::new("a.db"), Some(3)));
        for bad in ["lock_second=3", "lock_seconds", "lock_seconds=x", "url=x", "type=x", "host=h"] {
            assert_eq!(url("sqlite:a.db", &[bad]).unwrap_err().exit_code(), 2, "{bad}");
        }
        let near = url("sqlite:a.db", &["lock_second=hunter2"]).unwrap_err().for_a_person();
        assert!(near.contains("lock_seconds") && !near.contains("hunter2"), "{near}");
    }

    #[test]
    fn keys_of_another_kind_are_refused_and_a_password_is_not_repeated() {
        for bad in ["url = \"sqlite:a\"\nhost = \"h\"\n", "host = \"h\"\n", "type = \"nosql\"\n"] {
            assert_eq!(source(bad).unwrap_err().exit_code(), 2, "{bad}");
        }
        let failure = source("url = \"postgres://u:hunter2@h/d\"\nallow_empty = true\n").unwrap_err();
        assert!(!format!("{failure:?} {}", failure.for_a_person()).contains("hunter2"));
        let failure = with::<SourceConfig>("sources", "url = \"sqlite:a\"\n", &[], &["-x"]).unwrap_err();
        assert!(failure.for_a_person().contains("no program"), "{}", failure.for_a_person());
    }

    /// Everyone can read a process's arguments, so no password is taken from them.
    #[test]
    fn incident_79_no_password_is_taken_from_the_command_line() {
        for bad in [
            "postgres://u:hunter2@h/d",
            "postgres://u:hunter2@h",
            "postgres://h/d?user=u&password=hunter2",
            "postgres://u:p@ss/word@h/d",
            "mysql://u:hunter2@h/d",
            "mongodb+srv://u:hunter2@h/d",
            "rediss://:hunter2@h",
            "mysql://h/d?PWD=hunter2",
            "mysql://h/d?ssl_Passwd=hunter2",
            "postgres://h/d?sslmode=require&%70assw%6Frd=hunter2",
        ] {
            let failure = refuse_password(bad, "argument SOURCE").unwrap_err().for_a_person();
            assert!(!failure.contains("hunter2") && failure.contains("password_file"), "{bad}: {failure}");
        }
        for bad in [
            "mongodb://h/d?tls=true&authMechanismProperties=AWS_SESSION_TOKEN:hunter2",
            "mongodb://h/d?auth-mechanism-properties=hunter2",
            "firestore://p/d?access_token=hunter2",
            "firestore://p/d?Client-Secret=hunter2",
            "postgres://h/d?oauth_client_secret=hunter2",
            "postgres://h/d?sslPassPhrase=hunter2",
            "mysql://h/d?x=1;token=hunter2",
        ] {
            let failure = refuse_password(bad, "argument SOURCE").unwrap_err().for_a_person();
            assert!(
                !failure.contains("hunter2") && failure.contains("configuration file"),
                "{bad}: {failure}"
            );
        }
        for good in [
            "postgres://u@h:5432/d",
            "postgres://h/d?sslmode=require",
            "postgres://h/d?passfile=%2Fp",
            "mongodb://h/d?tlsCertificateKeyFile=%2Fp&authMechanism=MONGODB-X509",
            "postgres://h/d?application_name=token",
            "sqlite:/a:b@c",
            "-",
        ] {
            assert!(refuse_password(good, "argument SOURCE").is_ok(), "{good}");
        }
    }
}
