//! One answer for every setting.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use backup_core::RepositoryId;
use envelope_crypto::sign::VerifyingKey;
use zeroize::Zeroizing;

use super::environment::Environment;
use super::file::{File, Found, Table, Value};
use super::problem::{Origin, Problem, nearest};
use super::table::{Kind, SETTINGS, Setting, setting_of};
use super::value::{Compression, Destination, Kdf, PassphraseFrom, Rate, SecretKeyFrom};

/// What the command line said, not yet understood.
#[derive(Debug, Clone, Default)]
pub(crate) struct RawArgs {
    /// `--config`.
    pub(crate) config: Option<PathBuf>,
    /// No file is read, not even one in the usual places.
    pub(crate) no_file: bool,
    /// `--passphrase-fd`.
    pub(crate) passphrase_fd: Option<i32>,
    /// Values by key of the setting.
    pub(crate) values: BTreeMap<&'static str, Value>,
}

/// What a command cannot do without.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Needs<'a> {
    /// The source whose table stands above the general settings of the file.
    pub(crate) source: Option<&'a str>,
    /// A destination.
    pub(crate) destination: bool,
    /// At least one recipient, or an explicit wish for none.
    pub(crate) recipients: bool,
    /// Something to open a backup with.
    pub(crate) identity: bool,
}

/// A recipient as it was named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum KeyName {
    /// A key file.
    File(PathBuf),
    /// The passphrase.
    Passphrase,
    /// The secret key.
    SecretKey,
    /// No key: for what is not encrypted.
    None,
}

/// Every setting, understood. Holds no secret that `Debug` would show.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// Where backups are kept.
    pub(crate) destination: Option<Destination>,
    /// How blocks are compressed.
    pub(crate) compression: Compression,
    /// How many threads compress and encrypt.
    pub(crate) workers: usize,
    /// The most bytes a second that are written.
    pub(crate) upload_limit: Option<Rate>,
    /// Whether a new backup is read back.
    pub(crate) verify: bool,
    /// This machine's memory.
    pub(crate) state_dir: PathBuf,
    /// Who can open new backups.
    pub(crate) recipients: Vec<KeyName>,
    /// What opens backups.
    pub(crate) identities: Vec<KeyName>,
    /// Where the passphrase is read.
    pub(crate) passphrase: PassphraseFrom,
    /// How a passphrase becomes a key, for new backups.
    pub(crate) kdf: Kdf,
    /// Where the secret key is read.
    pub(crate) secret_key: Option<SecretKeyFrom>,
    /// Whether recipients that this machine could open are allowed.
    pub(crate) allow_symmetric: bool,
    /// Whether backups are stored for everyone to read.
    pub(crate) no_encryption: bool,
    /// The owner's public key, when it is known from outside.
    pub(crate) owner: Option<VerifyingKey>,
    /// The repository's id, when it is known from outside.
    pub(crate) repository: Option<RepositoryId>,
    /// The file that gets a line for every run.
    pub(crate) notify_log: Option<PathBuf>,
    /// Results and errors as JSON.
    pub(crate) json: bool,
    /// Say little.
    pub(crate) quiet: bool,
    /// Say much.
    pub(crate) verbose: bool,
    /// The sources of the file.
    pub(crate) sources: BTreeMap<String, Table>,
    /// The file that was read.
    pub(crate) file: Option<PathBuf>,
    /// Every declared setting with its value, if any, and where it came from.
    pub(crate) shown: Vec<(&'static Setting, Option<String>, Origin)>,
    /// What should be said although nothing is wrong.
    pub(crate) warnings: Vec<String>,
}

impl Settings {
    /// Reads the file that the command line or the environment names, or the first of the usual
    /// places, and resolves everything.
    ///
    /// # Errors
    /// Every problem there is.
    pub(crate) fn load(args: &RawArgs, env: &Environment, needs: Needs<'_>) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        let file = read_file(args, env, &mut problems);
        Self::resolve(args, env, &file, needs, problems)
    }

    fn resolve(
        args: &RawArgs,
        env: &Environment,
        file: &File,
        needs: Needs<'_>,
        problems: Vec<Problem>,
    ) -> Result<Self, Vec<Problem>> {
        let source = needs.source.and_then(|name| file.sources.get(name));
        let mut layers = Layers { args, env, file, source, problems };
        let settings = Self {
            destination: layers.destination(needs.destination),
            compression: layers.parsed("compression").unwrap_or_default(),
            workers: layers.workers(),
            upload_limit: layers.parsed("upload_limit"),
            verify: layers.switch("verify", true),
            state_dir: layers.state_dir(),
            no_encryption: layers.switch("keys.no_encryption", false),
            recipients: layers.recipients(needs.recipients),
            identities: layers.identities(needs.identity),
            passphrase: layers.passphrase(),
            kdf: layers.parsed("keys.passphrase_kdf").unwrap_or_default(),
            secret_key: layers.secret_key(),
            allow_symmetric: layers.switch("keys.allow_symmetric", false),
            owner: layers.owner(),
            repository: layers.repository(),
            notify_log: layers.text("notify.log").map(PathBuf::from),
            json: layers.switch("output.json", false),
            quiet: layers.switch("output.quiet", false),
            verbose: layers.switch("output.verbose", false),
            sources: file.sources.clone(),
            file: file.path.clone(),
            shown: SETTINGS.iter().map(|setting| layers.shown(setting)).collect(),
            warnings: env.strangers(),
        };
        if layers.problems.is_empty() { Ok(settings) } else { Err(layers.problems) }
    }
}

/// Where files are looked for when none is named, the first that exists.
pub(crate) fn usual_places(env: &Environment) -> Vec<PathBuf> {
    let mut places = vec![PathBuf::from("strongroom.toml")];
    if let Some(folder) = env.path("XDG_CONFIG_HOME") {
        places.push(folder.join("strongroom/strongroom.toml"));
    } else if let Some(home) = env.path("HOME") {
        places.push(home.join(".config/strongroom/strongroom.toml"));
    }
    places.push(PathBuf::from("/etc/strongroom/strongroom.toml"));
    places
}

fn read_file(args: &RawArgs, env: &Environment, problems: &mut Vec<Problem>) -> File {
    if args.no_file {
        return File::default();
    }
    let named = args.config.clone().or_else(|| env.path("STRONGROOM_CONFIG"));
    let path = match &named {
        Some(path) => Some(path.clone()),
        None => usual_places(env).into_iter().find(|path| path.is_file()),
    };
    let Some(path) = path else { return File::default() };
    match std::fs::read_to_string(&path) {
        Ok(text) => File::parse(&path, &text, problems),
        Err(error) => {
            problems.push(
                Problem::at(
                    format!("{} (flag --config, variable STRONGROOM_CONFIG)", path.display()),
                    format!("the configuration file cannot be read: {error}"),
                )
                .with_hint("name a file that exists and that you may read"),
            );
            File::default()
        }
    }
}

struct Layers<'a> {
    args: &'a RawArgs,
    env: &'a Environment,
    file: &'a File,
    source: Option<&'a Table>,
    problems: Vec<Problem>,
}

impl Layers<'_> {
    fn found(&self, setting: &'static Setting) -> Option<Found> {
        if let Some(value) = self.args.values.get(setting.key) {
            return Some(Found { value: value.clone(), origin: Origin::Flag });
        }
        if let Some(text) = self.env.get(setting.variable) {
            return Some(Found { value: Value::Text(text.to_owned()), origin: Origin::Variable });
        }
        let last = setting.key.rsplit('.').next().unwrap_or(setting.key);
        let of_source = self.source.and_then(|table| table.fields.get(last));
        of_source.or_else(|| self.file.settings.get(setting.key)).cloned()
    }

    fn shown(&self, setting: &'static Setting) -> (&'static Setting, Option<String>, Origin) {
        match self.found(setting) {
            Some(Found { value, origin }) => (setting, Some(value.to_string()), origin),
            None => (setting, None, Origin::Default),
        }
    }

    fn wrong(&mut self, key: &'static str, origin: &Origin, what: impl Into<String>) {
        if let Some(setting) = setting_of(key) {
            self.problems.push(Problem::of(setting, origin, what));
        }
    }

    fn missing(&mut self, key: &'static str, what: &str, hint: &str) {
        if let Some(setting) = setting_of(key) {
            self.problems.push(Problem::of(setting, &Origin::Default, what).with_hint(hint));
        }
    }

    fn get(&self, key: &'static str) -> Option<Found> {
        setting_of(key).and_then(|setting| self.found(setting))
    }

    fn text(&mut self, key: &'static str) -> Option<String> {
        match self.get(key)?.value {
            Value::Text(text) => Some(text),
            // The file's reader already refused every other shape.
            _ => None,
        }
    }

    fn parsed<T: std::str::FromStr<Err = String>>(&mut self, key: &'static str) -> Option<T> {
        let Found { value, origin } = self.get(key)?;
        let Value::Text(text) = value else { return None };
        text.parse().map_err(|what: String| self.wrong(key, &origin, what)).ok()
    }

    fn switch(&mut self, key: &'static str, default: bool) -> bool {
        let Some(Found { value, origin }) = self.get(key) else { return default };
        match value {
            Value::Switch(on) => on,
            Value::Text(text) => match text.to_ascii_lowercase().as_str() {
                "true" | "yes" | "on" | "1" => true,
                "false" | "no" | "off" | "0" => false,
                _ => {
                    self.wrong(key, &origin, format!("{text:?} is neither true nor false"));
                    default
                }
            },
            _ => default,
        }
    }

    fn list(&self, key: &'static str) -> Option<(Vec<String>, Origin)> {
        let Found { value, origin } = self.get(key)?;
        let list = match value {
            Value::List(list) => list,
            Value::Text(text) => text.split(':').filter(|s| !s.is_empty()).map(str::to_owned).collect(),
            _ => return None,
        };
        Some((list, origin))
    }

    fn workers(&mut self) -> usize {
        let default = || std::thread::available_parallelism().map_or(1, |n| n.get().min(64));
        let Some(Found { value, origin }) = self.get("workers") else { return default() };
        let number = match &value {
            Value::Number(number) => usize::try_from(*number).ok(),
            Value::Text(text) => text.parse().ok(),
            _ => None,
        };
        match number {
            Some(number @ 1..=64) => number,
            _ => {
                self.wrong("workers", &origin, format!("{value} is no number from 1 to 64"));
                default()
            }
        }
    }

    fn owner(&mut self) -> Option<VerifyingKey> {
        let Found { value: Value::Text(text), origin } = self.get("trust.owner")? else { return None };
        let owner = text.parse().ok();
        if owner.is_none() {
            self.wrong("trust.owner", &origin, format!("{text:?} is no public key of an owner"));
            self.hint("copy it from the recovery sheet; it is ed25519: and 43 more characters");
        }
        owner
    }

    fn repository(&mut self) -> Option<RepositoryId> {
        let Found { value: Value::Text(text), origin } = self.get("trust.repository")? else { return None };
        text.parse()
            .map_err(|e: backup_core::Error| self.wrong("trust.repository", &origin, e.to_string()))
            .ok()
    }

    /// Adds what to try to the problem found last.
    fn hint(&mut self, hint: impl Into<String>) {
        if let Some(problem) = self.problems.pop() {
            self.problems.push(problem.with_hint(hint));
        }
    }

    fn state_dir(&mut self) -> PathBuf {
        if let Some(text) = self.text("state_dir") {
            return PathBuf::from(text);
        }
        if let Some(folder) = self.env.path("XDG_STATE_HOME") {
            return folder.join("strongroom");
        }
        match self.env.path("HOME") {
            Some(home) if home != Path::new("/root") => home.join(".local/state/strongroom"),
            _ => PathBuf::from("/var/lib/strongroom"),
        }
    }

    fn destination(&mut self, needed: bool) -> Option<Destination> {
        let Some(Found { value: Value::Text(text), origin }) = self.get("destination") else {
            if needed {
                self.missing(
                    "destination",
                    "not set",
                    "say where backups are kept, such as -d /backups or -d s3://bucket/prefix",
                );
            }
            return None;
        };
        if let Some(table) = self.file.destinations.get(&text) {
            let Some(url) = table.text("url") else {
                self.problems.push(Problem::at(format!("destinations.{text}.url"), "not set"));
                return None;
            };
            return Some(Destination { name: Some(text.clone()), url: url.to_owned(), table: table.clone() });
        }
        // A bare word is a name, so that a misspelt name never becomes a folder.
        if !text.contains(['/', ':', '.']) {
            let near = nearest(&text, self.file.destinations.keys().map(String::as_str)).map(str::to_owned);
            self.wrong("destination", &origin, format!("no destination is called {text:?}"));
            let hint = match near {
                Some(near) => format!("did you mean {near:?}?"),
                None => format!(
                    "add [destinations.{text}], or write a folder as ./{text} and a bucket as s3://{text}"
                ),
            };
            self.hint(hint);
            return None;
        }
        let url = match &origin {
            Origin::File { path, .. } => beside(path, &text),
            _ => text,
        };
        Some(Destination { name: None, url, table: Table::default() })
    }

    fn keys(&mut self, key: &'static str) -> Vec<KeyName> {
        let Some((names, origin)) = self.list(key) else { return Vec::new() };
        names
            .into_iter()
            .map(|name| match (name.as_str(), self.file.recipients.get(&name)) {
                ("passphrase", _) => KeyName::Passphrase,
                ("secret-key", _) => KeyName::SecretKey,
                ("none", _) if key == "keys.identities" => KeyName::None,
                (_, Some(path)) if key == "keys.recipients" => KeyName::File(PathBuf::from(path)),
                _ => match &origin {
                    Origin::File { path, .. } => KeyName::File(PathBuf::from(beside(path, &name))),
                    _ => KeyName::File(PathBuf::from(name)),
                },
            })
            .collect()
    }

    fn recipients(&mut self, needed: bool) -> Vec<KeyName> {
        let keys = self.keys("keys.recipients");
        let none = self.switch("keys.no_encryption", false);
        let from_flag = |key: &str| self.args.values.contains_key(key);
        if none && from_flag("keys.recipients") && from_flag("keys.no_encryption") {
            self.wrong("keys.no_encryption", &Origin::Flag, "contradicts --recipient");
        }
        if none {
            return Vec::new();
        }
        if needed && keys.is_empty() {
            self.missing(
                "keys.recipients",
                "nobody is named who could open the backup",
                "make a key with `strongroom keygen -o key.pem` and pass -r key.pub.pem; to store without encryption, say --no-encryption",
            );
        }
        let symmetric = keys.iter().any(|k| matches!(k, KeyName::Passphrase | KeyName::SecretKey));
        if needed && symmetric && !self.switch("keys.allow_symmetric", false) {
            self.missing(
                "keys.allow_symmetric",
                "a passphrase or secret key lets this machine read its own backups",
                "pass --allow-symmetric if that is meant, or use a public key",
            );
        }
        keys
    }

    fn identities(&mut self, needed: bool) -> Vec<KeyName> {
        let mut keys = self.keys("keys.identities");
        if keys.is_empty() {
            // A passphrase or secret key that is at hand is meant to be used.
            if !matches!(self.passphrase(), PassphraseFrom::Prompt) {
                keys.push(KeyName::Passphrase);
            }
            if self.secret_key().is_some() {
                keys.push(KeyName::SecretKey);
            }
        }
        if needed && keys.is_empty() {
            self.missing(
                "keys.identities",
                "no key to open the backup with",
                "pass -i key.pem, -i passphrase or -i secret-key; -i none for a backup without encryption",
            );
        }
        keys
    }

    fn passphrase(&mut self) -> PassphraseFrom {
        if let Some(number) = self.args.passphrase_fd {
            return PassphraseFrom::Descriptor(number);
        }
        let file = self.get("keys.passphrase_file");
        let variable = self.env.get("STRONGROOM_PASSPHRASE");
        match (file, variable) {
            (Some(Found { value: Value::Text(path), origin: Origin::Flag | Origin::Variable }), _) => {
                PassphraseFrom::File(PathBuf::from(path))
            }
            (_, Some(text)) => PassphraseFrom::Variable(Zeroizing::new(text.to_owned())),
            (Some(Found { value: Value::Text(path), .. }), None) => PassphraseFrom::File(PathBuf::from(path)),
            _ => PassphraseFrom::Prompt,
        }
    }

    fn secret_key(&mut self) -> Option<SecretKeyFrom> {
        let file = self.get("keys.secret_key_file");
        let variable = self.env.get("STRONGROOM_ENCRYPTION_KEY").or_else(|| self.env.get("ENCRYPTION_KEY"));
        match (file, variable) {
            (Some(Found { value: Value::Text(path), origin: Origin::Flag | Origin::Variable }), _) => {
                Some(SecretKeyFrom::File(PathBuf::from(path)))
            }
            (_, Some(text)) => Some(SecretKeyFrom::Variable(Zeroizing::new(text.to_owned()))),
            (Some(Found { value: Value::Text(path), .. }), None) => {
                Some(SecretKeyFrom::File(PathBuf::from(path)))
            }
            _ => None,
        }
    }
}

/// A relative path of a file, or anything with a scheme as it is.
fn beside(file: &Path, text: &str) -> String {
    match file.parent() {
        Some(folder)
            if !text.contains("://") && Path::new(text).is_relative() && !folder.as_os_str().is_empty() =>
        {
            folder.join(text).to_string_lossy().into_owned()
        }
        _ => text.to_owned(),
    }
}

impl Kind {
    /// Whether a value of the command line of this shape exists; used by a test of the flags.
    #[cfg(test)]
    pub(crate) fn takes(self, value: &Value) -> bool {
        match self {
            Self::Switch => matches!(value, Value::Switch(_) | Value::Text(_)),
            Self::List => matches!(value, Value::List(_)),
            _ => matches!(value, Value::Text(_) | Value::Number(_)),
        }
    }
}

#[cfg(test)]
#[path = "resolve_tests.rs"]
mod tests;
