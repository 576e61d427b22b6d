//! The configuration file: TOML, every key known, every value with its line.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::database::secret_of;

use super::problem::{Origin, Problem, nearest};
use super::table::{Field, Kind, NAMED_TABLES, SETTINGS, setting_of};

/// A value as it was written, not yet understood. Shown without the password of a URL.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Value {
    /// A text; also every value of a variable.
    Text(String),
    /// A switch.
    Switch(bool),
    /// A whole number.
    Number(i64),
    /// A list of texts.
    List(Vec<String>),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "{:?}", without_password(text)),
            Self::Switch(on) => write!(f, "{on}"),
            Self::Number(number) => write!(f, "{number}"),
            Self::List(list) => {
                f.debug_list().entries(list.iter().map(|text| without_password(text))).finish()
            }
        }
    }
}

impl Value {
    /// The same as a setting of this kind; a variable and a flag are texts.
    pub(crate) fn of(&self, kind: Kind) -> Self {
        match (self, kind) {
            (Self::Text(text), Kind::Number) => text.parse().map_or_else(|_| self.clone(), Self::Number),
            (Self::Text(text), Kind::Switch) => switch(text).map_or_else(|| self.clone(), Self::Switch),
            _ => self.clone(),
        }
    }

    /// The same for a program, without the password of a URL.
    pub(crate) fn for_a_program(&self) -> serde_json::Value {
        match self {
            Self::Text(text) => without_password(text).into(),
            Self::Switch(on) => (*on).into(),
            Self::Number(number) => (*number).into(),
            Self::List(list) => list.iter().map(|text| without_password(text)).collect(),
        }
    }

    fn holds_a_password(&self) -> bool {
        let holds = |text: &str| without_password(text) != text;
        match self {
            Self::Text(text) => holds(text),
            Self::List(list) => list.iter().any(|text| holds(text)),
            _ => false,
        }
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A switch as a variable or a flag says it.
pub(super) fn switch(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Some(true),
        "false" | "no" | "off" | "0" => Some(false),
        _ => None,
    }
}

/// A URL with `****` for its password; any other text as it is.
fn without_password(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let authority = match authority.rsplit_once('@') {
        Some((user, host)) => match user.split_once(':') {
            Some((user, _)) => format!("{user}:****@{host}"),
            None => authority.to_owned(),
        },
        // A password with a slash in it, left unescaped.
        None if rest.split('?').next().is_some_and(|all| all.contains('@')) => {
            return format!("{scheme}://****");
        }
        None => authority.to_owned(),
    };
    let (path, query) = path.split_once('?').map_or((path, ""), |(path, query)| (path, query));
    let query: Vec<String> = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| match pair.split_once('=') {
            Some((name, _)) if is_secret(name) => format!("{name}=****"),
            _ => pair.to_owned(),
        })
        .collect();
    let query = if query.is_empty() { String::new() } else { format!("?{}", query.join("&")) };
    format!("{scheme}://{authority}{path}{query}")
}

/// Whether a parameter of this name may hold a secret, be it one that is refused.
fn is_secret(name: &str) -> bool {
    let keys = ["sig", "account_key", "access_key", "api_key", "apikey"];
    secret_of(name).is_some() || keys.iter().any(|key| name.eq_ignore_ascii_case(key))
}

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    /// The value.
    pub(crate) value: Value,
    /// Where it was written.
    pub(crate) origin: Origin,
}

/// A `[sources.NAME]`, `[targets.NAME]` or `[destinations.NAME]` table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Table {
    /// The values by key.
    pub(crate) fields: BTreeMap<&'static str, Found>,
}

impl Table {
    /// The text of a key.
    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        match &self.fields.get(key)?.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The number of a key.
    pub(crate) fn number(&self, key: &str) -> Option<i64> {
        match self.fields.get(key)?.value {
            Value::Number(number) => Some(number),
            _ => None,
        }
    }

    /// The switch of a key.
    pub(crate) fn switch(&self, key: &str) -> Option<bool> {
        match self.fields.get(key)?.value {
            Value::Switch(on) => Some(on),
            _ => None,
        }
    }

    /// The list of a key; empty where there is none.
    pub(crate) fn list(&self, key: &str) -> &[String] {
        match self.fields.get(key).map(|found| &found.value) {
            Some(Value::List(list)) => list,
            _ => &[],
        }
    }
}

/// A file that was read; an empty one where there is no file.
#[derive(Debug, Clone)]
pub(crate) struct File {
    /// Where it lies.
    pub(crate) path: Option<PathBuf>,
    /// Whether it was there, if it was named, and was TOML.
    pub(crate) understood: bool,
    /// What should be said of it although nothing is wrong.
    pub(crate) warning: Option<String>,
    /// General settings by key.
    pub(crate) settings: BTreeMap<&'static str, Found>,
    /// `[recipients]`: public key files by name.
    pub(crate) recipients: BTreeMap<String, Found>,
    /// `[sources.NAME]`.
    pub(crate) sources: BTreeMap<String, Table>,
    /// `[targets.NAME]`.
    pub(crate) targets: BTreeMap<String, Table>,
    /// `[destinations.NAME]`.
    pub(crate) destinations: BTreeMap<String, Table>,
}

impl Default for File {
    fn default() -> Self {
        Self {
            path: None,
            understood: true,
            warning: None,
            settings: BTreeMap::new(),
            recipients: BTreeMap::new(),
            sources: BTreeMap::new(),
            targets: BTreeMap::new(),
            destinations: BTreeMap::new(),
        }
    }
}

impl File {
    /// Whether a URL in it holds a password or another secret.
    pub(crate) fn holds_a_password(&self) -> bool {
        let tables =
            [&self.sources, &self.targets, &self.destinations].into_iter().flat_map(BTreeMap::values);
        let fields = tables.flat_map(|table| table.fields.values());
        self.settings.values().chain(fields).any(|found| found.value.holds_a_password())
    }

    /// Reads the text of a file that lies at `path`; everything wrong is added to `problems`.
    pub(crate) fn parse(path: &Path, text: &str, problems: &mut Vec<Problem>) -> Self {
        let mut file = Self { path: Some(path.to_owned()), ..Self::default() };
        let mut reader = Reader { path, text, problems };
        let (document, errors) = DeTable::parse_recoverable(text);
        for error in &errors {
            let line = error.span().map_or(1, |span| reader.line(span.start));
            reader.problems.push(Problem::at(
                format!("{}:{line}", path.display()),
                format!("not TOML: {}", error.message()),
            ));
        }
        file.understood = errors.is_empty();
        if file.understood {
            reader.document(document.get_ref(), &mut file);
        }
        file
    }
}

struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
    problems: &'a mut Vec<Problem>,
}

impl Reader<'_> {
    fn line(&self, offset: usize) -> usize {
        let before = self.text.as_bytes().get(..offset).unwrap_or_default();
        1 + before.iter().filter(|byte| **byte == b'\n').count()
    }

    fn document(&mut self, document: &DeTable<'_>, file: &mut File) {
        for (key, value) in document {
            let name = key.get_ref().as_ref();
            match name {
                "sources" => file.sources = self.named(name, value),
                "targets" => file.targets = self.named(name, value),
                "destinations" => file.destinations = self.named(name, value),
                "recipients" => file.recipients = self.recipients(value),
                _ => self.general(name, key.span().start, value, file),
            }
        }
    }

    fn general(&mut self, path: &str, at: usize, value: &Spanned<DeValue<'_>>, file: &mut File) {
        if let Some(setting) = setting_of(path) {
            if let Some(found) = self.value(path, setting.kind, value) {
                file.settings.insert(setting.key, found);
            }
            return;
        }
        let prefix = format!("{path}.");
        match value.get_ref() {
            DeValue::Table(table) if SETTINGS.iter().any(|s| s.key.starts_with(&prefix)) => {
                for (key, value) in table {
                    self.general(&format!("{prefix}{}", key.get_ref()), key.span().start, value, file);
                }
            }
            _ => {
                let known = SETTINGS.iter().map(|s| s.key).chain([
                    "sources",
                    "targets",
                    "destinations",
                    "recipients",
                ]);
                let sections = ["keys", "trust", "notify", "output"];
                self.unknown(path, at, known.chain(sections));
            }
        }
    }

    fn named(&mut self, section: &str, value: &Spanned<DeValue<'_>>) -> BTreeMap<String, Table> {
        let groups = NAMED_TABLES.iter().find(|(name, _)| *name == section).map_or(&[][..], |(_, f)| f);
        let fields: Vec<Field> = groups.iter().copied().flatten().copied().collect();
        let mut tables = BTreeMap::new();
        let Some(entries) = value.get_ref().as_table() else {
            self.wrong(section, value, &format!("tables, as in [{section}.NAME]"));
            return tables;
        };
        for (name, value) in entries {
            let path = format!("{section}.{}", name.get_ref());
            let Some(entries) = value.get_ref().as_table() else {
                self.wrong(&path, value, &format!("a table, as in [{path}]"));
                continue;
            };
            tables.insert(name.get_ref().to_string(), self.table(&path, &fields, entries));
        }
        tables
    }

    fn table(&mut self, section: &str, fields: &[Field], entries: &DeTable<'_>) -> Table {
        let mut table = Table::default();
        for (key, value) in entries {
            let path = format!("{section}.{}", key.get_ref());
            match fields.iter().find(|field| field.key == key.get_ref().as_ref()) {
                Some(field) => {
                    if let Some(found) = self.value(&path, field.kind, value) {
                        table.fields.insert(field.key, found);
                    }
                }
                None => self.unknown(&path, key.span().start, fields.iter().map(|field| field.key)),
            }
        }
        table
    }

    fn recipients(&mut self, value: &Spanned<DeValue<'_>>) -> BTreeMap<String, Found> {
        let mut recipients = BTreeMap::new();
        let Some(entries) = value.get_ref().as_table() else {
            self.wrong("recipients", value, "a table of names and public key files");
            return recipients;
        };
        for (name, value) in entries {
            let path = format!("recipients.{}", name.get_ref());
            if let Some(found) = self.value(&path, Kind::Path, value) {
                recipients.insert(name.get_ref().to_string(), found);
            }
        }
        recipients
    }

    fn value(&mut self, path: &str, kind: Kind, value: &Spanned<DeValue<'_>>) -> Option<Found> {
        let read = match (kind, value.get_ref()) {
            (Kind::Text | Kind::Texts, DeValue::String(text)) => Some(Value::Text(text.to_string())),
            (Kind::Path, DeValue::String(text)) => Some(Value::Text(self.beside(text))),
            (Kind::Switch, DeValue::Boolean(on)) => Some(Value::Switch(*on)),
            (Kind::Number, DeValue::Integer(number)) => {
                i64::from_str_radix(number.as_str(), number.radix()).ok().map(Value::Number)
            }
            (Kind::List | Kind::Texts, DeValue::Array(items)) => items
                .iter()
                .map(|item| item.get_ref().as_str().map(str::to_owned))
                .collect::<Option<_>>()
                .map(Value::List),
            (Kind::List, DeValue::String(text)) => Some(Value::List(vec![text.to_string()])),
            _ => None,
        };
        let origin = Origin::File { path: self.path.to_owned(), line: self.line(value.span().start) };
        if read.is_none() {
            self.wrong(path, value, kind.name());
        }
        read.map(|value| Found { value, origin })
    }

    /// A relative path in a file is relative to the file, wherever the program is started.
    fn beside(&self, text: &str) -> String {
        match self.path.parent() {
            Some(folder) if Path::new(text).is_relative() && !folder.as_os_str().is_empty() => {
                folder.join(text).to_string_lossy().into_owned()
            }
            _ => text.to_owned(),
        }
    }

    fn wrong(&mut self, path: &str, value: &Spanned<DeValue<'_>>, expected: &str) {
        let line = self.line(value.span().start);
        let what = format!("expected {expected}, found {}", value.get_ref().type_str());
        self.problems.push(match setting_of(path) {
            Some(setting) => Problem::of(setting, &Origin::File { path: self.path.to_owned(), line }, what),
            None => Problem::at(format!("{path} in {}:{line}", self.path.display()), what),
        });
    }

    fn unknown<'k>(&mut self, path: &str, at: usize, known: impl Iterator<Item = &'k str>) {
        let place = format!("{path} in {}:{}", self.path.display(), self.line(at));
        let last = path.rsplit('.').next().unwrap_or(path);
        let known: Vec<&str> = known.collect();
        // A whole path is compared with whole keys, a last word with last words.
        let near = nearest(path, known.iter().copied()).or_else(|| {
            known.iter().copied().find(|key| nearest(last, [key.rsplit('.').next().unwrap_or(key)]).is_some())
        });
        let problem = Problem::at(place, "no such setting");
        self.problems.push(match near {
            Some(near) => problem.with_hint(format!("did you mean `{near}`?")),
            None => problem,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> (File, Vec<String>) {
        let mut problems = Vec::new();
        let file = File::parse(Path::new("/etc/s.toml"), text, &mut problems);
        let said = problems.iter().map(|p| format!("{p} ({})", p.hint.as_deref().unwrap_or(""))).collect();
        (file, said)
    }

    #[test]
    fn every_part_of_a_file_is_read_with_its_line() {
        let (file, problems) = parse(
            "destination = \"vault\"\nworkers = 2\n[keys]\nrecipients = [\"alice\"]\nallow_symmetric = false\n\
             [recipients]\nalice = \"alice.pub.pem\"\n[sources.orders]\nurl = \"sqlite:o.db\"\nexclude = [\"log\"]\n\
             [destinations.vault]\nurl = \"file:///vault\"\n",
        );
        assert_eq!(problems, Vec::<String>::new());
        assert_eq!(file.settings["workers"].value, Value::Number(2));
        assert_eq!(file.settings["keys.allow_symmetric"].value, Value::Switch(false));
        assert_eq!(
            file.settings["keys.recipients"].origin,
            Origin::File { path: "/etc/s.toml".into(), line: 4 }
        );
        assert_eq!(file.recipients["alice"].value, Value::Text("/etc/alice.pub.pem".into()));
        assert_eq!(file.sources["orders"].list("exclude"), ["log"]);
        assert_eq!(file.destinations["vault"].text("url"), Some("file:///vault"));
    }

    #[test]
    fn unknown_keys_are_refused_with_a_suggestion() {
        let (_, problems) =
            parse("destinaton = \"x\"\n[keys]\nrecipents = []\n[sources.a]\nexlude = []\n[bananas]\nx = 1\n");
        assert_eq!(
            problems,
            [
                "setting: bananas in /etc/s.toml:6: no such setting ()",
                "setting: destinaton in /etc/s.toml:1: no such setting (did you mean `destination`?)",
                "setting: keys.recipents in /etc/s.toml:3: no such setting (did you mean `keys.recipients`?)",
                "setting: sources.a.exlude in /etc/s.toml:5: no such setting (did you mean `exclude`?)",
            ]
        );
    }

    #[test]
    fn values_of_the_wrong_shape_are_all_named() {
        let (_, problems) = parse(
            "workers = \"two\"\nverify = 1\nsources = 3\n[destinations]\nv = \"x\"\n[recipients]\na = 1\n",
        );
        assert_eq!(problems.len(), 5, "{problems:?}");
        assert!(problems.iter().any(|p| p.contains(
            "workers (flag --workers, variable STRONGROOM_WORKERS, key workers in /etc/s.toml:1): \
                 expected number, found string"
        )));
        assert!(problems.iter().any(|p| p.contains("verify in /etc/s.toml:2): expected true or false")));
    }

    #[test]
    fn a_password_in_a_url_is_not_shown() {
        let table = [
            ("postgres://u:hunter2@h/d?sslmode=require", "postgres://u:****@h/d?sslmode=require"),
            ("postgres://h/d?user=u&password=hunter2", "postgres://h/d?user=u&password=****"),
            ("postgres://u@h/d", "postgres://u@h/d"),
            ("postgres://u:hun/ter2@h/d", "postgres://****"),
            ("s3://b/p?endpoint=https://x", "s3://b/p?endpoint=https://x"),
            ("sftp://u@h/p?key=/k&known_hosts=/h", "sftp://u@h/p?key=/k&known_hosts=/h"),
            ("mysql://h/d?ssl-Pass%57ord=hunter2", "mysql://h/d?ssl-Pass%57ord=****"),
            ("/a/b", "/a/b"),
        ];
        for (text, shown) in table {
            assert_eq!(without_password(text), shown);
        }
        let (file, _) = parse("[sources.a]\nurl = \"postgres://u:hunter2@h/d\"\n");
        assert!(!format!("{file:?}").contains("hunter2"));
    }

    #[test]
    fn what_is_not_toml_names_the_line() {
        let (_, problems) = parse("a = 1\nb = [\n");
        assert!(problems[0].starts_with("setting: /etc/s.toml:"), "{problems:?}");
        assert!(problems[0].contains("not TOML"), "{problems:?}");
    }
}
