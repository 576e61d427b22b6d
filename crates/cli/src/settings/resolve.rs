//! One answer for every setting.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use backup_core::RepositoryId;
use envelope_crypto::sign::VerifyingKey;

use crate::secrets::mode_warning;

use super::environment::Environment;
use super::file::{File, Found, Table, Value};
use super::layers::{Layers, beside};
use super::problem::{Origin, Problem, nearest};
use super::table::{Kind, SETTINGS, Setting};
use super::value::{Compression, Destination, Kdf, Mirror, PassphraseFrom, Rate, SecretKeyFrom};

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
    /// Where backups are kept; the first of several.
    pub(crate) destination: Option<Destination>,
    /// Where new backups go.
    pub(crate) destinations: Vec<Destination>,
    /// How many copies of a new backup are enough.
    pub(crate) mirror: Mirror,
    /// The `[destinations]` of the file.
    pub(crate) known: BTreeMap<String, Table>,
    /// How blocks are compressed.
    pub(crate) compression: Compression,
    /// How many threads compress and encrypt.
    pub(crate) workers: usize,
    /// The most bytes a second that are written.
    pub(crate) upload_limit: Option<Rate>,
    /// Whether a new backup is read back.
    pub(crate) verify: bool,
    /// Where new backups are sealed before they are uploaded.
    pub(crate) spool: Option<PathBuf>,
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
    /// The targets of the file.
    pub(crate) targets: BTreeMap<String, Table>,
    /// The file that was read.
    pub(crate) file: Option<PathBuf>,
    /// `[recipients]`: public key files by name.
    pub(crate) names: BTreeMap<String, Found>,
    /// Every declared setting with its value, if any, and where it came from.
    pub(crate) shown: Vec<(&'static Setting, Option<Value>, Origin)>,
    /// What should be said although nothing is wrong.
    pub(crate) warnings: Vec<String>,
}

impl Settings {
    /// Reads the file that the command line or the environment names, or the first of the usual
    /// places, and resolves everything as far as it is understood; answers every problem beside it.
    ///
    /// # Errors
    /// Every problem there is, when the file itself cannot be read: what it names is not known then.
    pub(crate) fn load(
        args: &RawArgs,
        env: &Environment,
        needs: Needs<'_>,
    ) -> Result<(Self, Vec<Problem>), Vec<Problem>> {
        let mut problems = Vec::new();
        let file = read_file(args, env, &mut problems);
        let (settings, problems) = Self::understood(args, env, &file, needs, problems);
        if file.understood { Ok((settings, problems)) } else { Err(problems) }
    }

    /// A setting with every way to set it, and its place in the file if it is set there.
    pub(crate) fn named(&self, key: &str) -> String {
        let shown = self.shown.iter().find(|(setting, _, _)| setting.key == key);
        shown.map_or_else(|| key.to_owned(), |(setting, _, origin)| setting.named(origin))
    }

    /// What names a destination: its table's key, or the setting.
    pub(crate) fn naming(&self, destination: &Destination) -> String {
        match (&destination.name, destination.table.fields.get("url")) {
            (Some(name), Some(url)) => format!("destinations.{name}.url in {}", url.origin),
            _ => self.named("destination"),
        }
    }

    /// The destination that an argument names.
    ///
    /// # Errors
    /// `Config` about `argument` for a name that the file does not have.
    pub(crate) fn destination_named(&self, argument: &str, text: &str) -> Result<Destination, Vec<Problem>> {
        named(text, &self.known, &Origin::Flag).map_err(|Unnamed { place, what, hint }| {
            vec![Problem::at(place.unwrap_or_else(|| argument.to_owned()), what).with_hint(hint)]
        })
    }

    /// The same settings for reading from one destination.
    pub(crate) fn at(&self, destination: Destination) -> Self {
        Self { destination: Some(destination.clone()), destinations: vec![destination], ..self.clone() }
    }

    /// What people call a source of the file, if it says so.
    pub(crate) fn label(&self, source: &str) -> Option<&str> {
        self.sources.get(source)?.text("label")
    }

    fn understood(
        args: &RawArgs,
        env: &Environment,
        file: &File,
        needs: Needs<'_>,
        problems: Vec<Problem>,
    ) -> (Self, Vec<Problem>) {
        let source = needs.source.and_then(|name| file.sources.get(name));
        let mut layers = Layers { args, env, file, source, problems };
        let no_encryption = layers.no_encryption();
        let destinations = layers.destinations(needs.destination);
        let settings = Self {
            destination: destinations.first().cloned(),
            mirror: layers.mirror(&destinations),
            destinations,
            known: file.destinations.clone(),
            compression: layers.parsed("compression").unwrap_or_default(),
            workers: layers.workers(),
            upload_limit: layers.parsed("upload_limit"),
            verify: layers.switch("verify", true),
            spool: layers.text("spool").map(PathBuf::from),
            state_dir: layers.state_dir(),
            no_encryption,
            recipients: layers.recipients(needs.recipients, no_encryption),
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
            targets: file.targets.clone(),
            file: file.path.clone(),
            names: file.recipients.clone(),
            shown: SETTINGS.iter().map(|setting| layers.shown(setting)).collect(),
            warnings: env.strangers().into_iter().chain(file.warning.clone()).collect(),
        };
        (settings, layers.problems)
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
        Ok(text) => {
            let mut file = File::parse(&path, &text, problems);
            let meta = path.metadata().ok().filter(|_| file.holds_a_password());
            file.warning = meta.and_then(|meta| mode_warning(&path, &meta));
            file
        }
        Err(error) => {
            problems.push(
                Problem::at(
                    format!("{} (flag --config, variable STRONGROOM_CONFIG)", path.display()),
                    format!("the configuration file cannot be read: {error}"),
                )
                .with_hint("name a file that exists and that you may read"),
            );
            File { understood: false, ..File::default() }
        }
    }
}

impl Layers<'_> {
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

    fn destinations(&mut self, needed: bool) -> Vec<Destination> {
        let found = self.get("destination");
        if let Some(table) = self.source
            && let (Some(_), Some(both)) = (table.fields.get("destination"), table.fields.get("destinations"))
        {
            let origin = both.origin.clone();
            self.wrong("destination", &origin, "stands beside `destinations`");
            self.hint("name all of them in one list");
        }
        let (texts, origin) = match found {
            Some(Found { value: Value::Text(text), origin }) => (vec![text], origin),
            Some(Found { value: Value::List(texts), origin }) => (texts, origin),
            _ => (Vec::new(), Origin::Default),
        };
        if texts.is_empty() && needed {
            self.missing(
                "destination",
                "not set",
                "say where backups are kept, such as -d /backups or -d s3://bucket/prefix",
            );
        }
        let mut destinations: Vec<Destination> = Vec::new();
        for text in texts {
            match named(&text, &self.file.destinations, &origin) {
                Ok(one) if destinations.iter().any(|other| other.url == one.url) => {
                    self.wrong("destination", &origin, format!("{text:?} is named twice"));
                    self.hint("a second copy in the same place is none: name another, or leave it out");
                }
                Ok(one) => destinations.push(one),
                Err(Unnamed { place: Some(place), what, .. }) => self.problems.push(Problem::at(place, what)),
                Err(Unnamed { what, hint, .. }) => {
                    self.wrong("destination", &origin, what);
                    self.hint(hint);
                }
            }
        }
        destinations
    }

    fn mirror(&mut self, destinations: &[Destination]) -> Mirror {
        let mirror: Mirror = self.parsed("mirror").unwrap_or_default();
        let (asked, there) = (mirror.0.of(destinations.len()), destinations.len());
        if there > 0
            && asked > there
            && let Some(Found { origin, .. }) = self.get("mirror")
        {
            self.wrong(
                "mirror",
                &origin,
                format!("asks for {asked} copies, and there are {there} destinations"),
            );
            self.hint("name more destinations, or ask for fewer copies");
        }
        mirror
    }
}

/// Why a text names no destination.
pub(crate) struct Unnamed {
    /// The key that is wrong, where it is not the text.
    pub(crate) place: Option<String>,
    /// What is wrong.
    pub(crate) what: String,
    /// What to try.
    pub(crate) hint: String,
}

/// The destination that a text names: one of the file, or a URL or path.
pub(crate) fn named(
    text: &str,
    known: &BTreeMap<String, Table>,
    origin: &Origin,
) -> Result<Destination, Unnamed> {
    if let Some(table) = known.get(text) {
        let Some(url) = table.text("url") else {
            let place = Some(format!("destinations.{text}.url"));
            return Err(Unnamed { place, what: "not set".into(), hint: "say where it is".into() });
        };
        return Ok(Destination { name: Some(text.to_owned()), url: url.to_owned(), table: table.clone() });
    }
    // A bare word is a name, so that a misspelt name never becomes a folder.
    if !text.contains(['/', ':', '.']) {
        let hint = match nearest(text, known.keys().map(String::as_str)) {
            Some(near) => format!("did you mean {near:?}?"),
            None => format!(
                "add [destinations.{text}], or write a folder as ./{text} and a bucket as s3://{text}"
            ),
        };
        return Err(Unnamed { place: None, what: format!("no destination is called {text:?}"), hint });
    }
    let url = match origin {
        Origin::File { path, .. } => beside(path, text),
        _ => text.to_owned(),
    };
    Ok(Destination { name: None, url, table: Table::default() })
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
