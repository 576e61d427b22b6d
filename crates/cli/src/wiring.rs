//! The one place that chooses implementations.

use std::path::Path;
use std::sync::Arc;

use backup_core::wrap::Throttled;
use backup_core::{
    Auditor, ByteStream, Context, Decryptor, Dumper, Encryptor, Error, Event, Inspector, Notifier, Plain,
    Restorer, RunStatus, Sink,
};
use dumpers::{SourceConfig, TargetConfig};
use envelope_crypto::{
    BlockLen, EnvelopeAuditor, EnvelopeDecryptor, EnvelopeEncryptor, Identity, OpenOptions, Recipient,
    SealOptions,
};
use notifiers::JsonLines;
use storage::{Credentials, LockOnWrite, Login, StorageConfig};

use crate::failure::{Failure, Outcome};
use crate::secrets;
use crate::settings::{Compression, Destination, Environment, Found, Rate, Settings, Value};

/// A destination that was opened.
#[derive(Debug)]
pub(crate) struct Place {
    /// The ports.
    pub(crate) ports: storage::Opened,
    /// What it is called in this machine's memory.
    pub(crate) name: String,
    /// Whether backups are written there with a lock.
    pub(crate) locks: bool,
    /// Whether a pin is a legal hold there too.
    pub(crate) legal_hold: bool,
    /// The rate of its own table.
    limit: Option<Rate>,
}

/// Opens a destination.
///
/// # Errors
/// `Config`, and those of the credentials.
pub(crate) fn place(destination: &Destination, env: &Environment) -> Outcome<Place> {
    let config = storage_config(destination, env)?;
    let name = match config.folder() {
        Some(folder) => {
            let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
            folder.display().to_string()
        }
        // The whole URL, endpoint and all; it can hold no secret.
        None => destination.url.clone(),
    };
    let limit = limit(destination)?;
    let legal_hold = destination.table.switch("legal_hold").unwrap_or(false);
    let locks = destination.table.number("lock_days").is_some();
    Ok(Place { ports: storage::open(&config)?, name, locks, legal_hold, limit })
}

/// Says what is wrong with a destination, as far as that can be known without opening it.
///
/// # Errors
/// As [`place`], but for what only opening finds.
pub(crate) fn check(destination: &Destination, env: &Environment) -> Outcome {
    // A pipe gives its bytes once; it is left to the one who needs them.
    let is_pipe = |found: &Found| match &found.value {
        Value::Text(path) => Path::new(path).metadata().is_ok_and(|meta| !meta.is_file()),
        _ => false,
    };
    let mut files = destination.table.fields.iter().filter(|(key, _)| key.ends_with("_file"));
    if files.any(|(_, found)| is_pipe(found)) {
        StorageConfig::from_url(&destination.url)?;
    } else {
        storage_config(destination, env)?;
    }
    limit(destination).map(drop)
}

/// The rate of a destination's own table.
fn limit(destination: &Destination) -> Outcome<Option<Rate>> {
    destination.table.text("upload_limit").map(str::parse).transpose().map_err(|what: String| {
        Failure::usage(
            format!("destinations.{}.upload_limit", destination.name.as_deref().unwrap_or_default()),
            what,
            "write a number with KiB, MiB or GiB, such as 10MiB",
        )
    })
}

/// A secret of a destination's table: the content of the file, or of the variable, that is named there.
fn secret(
    destination: &Destination,
    env: &Environment,
    file: &str,
    variable: &str,
) -> Outcome<Option<zeroize::Zeroizing<String>>> {
    let table = &destination.table;
    if let Some(path) = table.text(file) {
        return Ok(Some(secrets::read_file(path.as_ref())?));
    }
    let Some(variable) = table.text(variable) else { return Ok(None) };
    match env.get(variable) {
        Some(value) => Ok(Some(zeroize::Zeroizing::new(value.to_owned()))),
        None => Err(Failure::usage(
            format!("variable {variable}"),
            "the destination reads a secret from this variable, and it is not set",
            "set it, or name a file instead",
        )),
    }
}

fn login(destination: &Destination, env: &Environment) -> Outcome<Login> {
    let mut login = Login::default();
    if let Some(password) = secret(destination, env, "password_file", "password_variable")? {
        login = login.with_password(password);
    }
    if let Some(passphrase) = secret(destination, env, "key_passphrase_file", "")? {
        login = login.with_key_passphrase(passphrase);
    }
    Ok(login)
}

/// What a destination says, with its credentials. Nothing is opened.
///
/// # Errors
/// `Config`, and those of the credentials.
pub(crate) fn storage_config(destination: &Destination, env: &Environment) -> Outcome<StorageConfig> {
    let config = StorageConfig::from_url(&destination.url)?.with_login(login(destination, env)?);
    let config = match lock(destination)? {
        Some(lock) => config.with_lock(lock),
        None => config,
    };
    Ok(match credentials(destination, env)? {
        Some(credentials) => config.with_credentials(credentials),
        None => config,
    })
}

/// The lock that objects of backups get there.
fn lock(destination: &Destination) -> Outcome<Option<LockOnWrite>> {
    let key = |key: &str| format!("destinations.{}.{key}", destination.name.as_deref().unwrap_or_default());
    let compliance = match destination.table.text("lock_mode") {
        None | Some("governance") => false,
        Some("compliance") => true,
        Some(other) => {
            return Err(Failure::usage(
                key("lock_mode"),
                format!("{other:?} is no kind of lock"),
                "write governance or compliance",
            ));
        }
    };
    match (destination.table.number("lock_days"), destination.table.text("lock_mode")) {
        (None, None) => Ok(None),
        (None, Some(_)) => Err(Failure::usage(
            key("lock_mode"),
            "says how strict a lock is, and there is none",
            "set lock_days too",
        )),
        (Some(days), _) => {
            let lock = LockOnWrite::new(days.try_into().unwrap_or_default(), compliance);
            lock.map(Some).map_err(|error| {
                Failure::usage(key("lock_days"), error.what(), error.hint().unwrap_or_default())
            })
        }
    }
}

fn credentials(destination: &Destination, env: &Environment) -> Outcome<Option<Credentials>> {
    let read = |file: &str, variable: &str| secret(destination, env, file, variable);
    let access = read("access_key_file", "access_key_variable")?;
    let secret = read("secret_key_file", "secret_key_variable")?;
    let token = read("session_token_file", "")?;
    match (access, secret) {
        (Some(access), Some(secret)) => {
            let credentials = Credentials::new(access.as_str(), secret);
            Ok(Some(match token {
                Some(token) => credentials.with_session_token(token),
                None => credentials,
            }))
        }
        (None, None) => Ok(None),
        _ => Err(Failure::usage(
            format!("destinations.{}", destination.name.as_deref().unwrap_or_default()),
            "an access key needs both its id and its secret",
            "set access_key_file and secret_key_file, or neither",
        )),
    }
}

/// The cipher's public side; `estimate` is about how many bytes will be sealed.
///
/// # Errors
/// `Config` for recipients that cannot be combined or were not allowed.
pub(crate) fn encryptor(
    settings: &Settings,
    recipients: Vec<Arc<dyn Recipient>>,
    estimate: Option<u64>,
) -> Outcome<Arc<dyn Encryptor>> {
    let options = SealOptions {
        compression: match settings.compression {
            Compression::None => envelope_crypto::Compression::None,
            Compression::Zstd(level) => envelope_crypto::Compression::Zstd(level),
        },
        block_len: BlockLen::for_estimate(estimate),
        workers: settings.workers,
        allow_symmetric: settings.allow_symmetric,
    };
    Ok(Arc::new(EnvelopeEncryptor::new(recipients, options).map_err(Error::from)?))
}

/// The cipher's private side.
pub(crate) fn decryptor(settings: &Settings, identities: Vec<Arc<dyn Identity>>) -> Arc<dyn Decryptor> {
    Arc::new(envelope_decryptor(settings, identities))
}

/// The same, which also tells whether an envelope is encrypted.
pub(crate) fn envelope_decryptor(
    settings: &Settings,
    identities: Vec<Arc<dyn Identity>>,
) -> EnvelopeDecryptor {
    EnvelopeDecryptor::new(identities, OpenOptions { workers: settings.workers })
}

/// Walks envelopes without a key.
pub(crate) fn auditor() -> Arc<dyn Auditor> {
    Arc::new(EnvelopeAuditor)
}

/// The writing side of a place, held back to the rate of the settings and of its own table, whichever is lower.
pub(crate) fn limited(settings: &Settings, place: &Place) -> Arc<dyn Sink> {
    let sink = Arc::clone(&place.ports.sink);
    match settings.upload_limit.into_iter().chain(place.limit).min() {
        Some(Rate(bytes)) => Arc::new(Throttled::new(sink, bytes)),
        None => sink,
    }
}

/// Whoever is told of the end of a run.
pub(crate) fn notifier(settings: &Settings) -> Option<Arc<dyn Notifier>> {
    settings.notify_log.as_ref().map(|path| Arc::new(JsonLines::new(path)) as Arc<dyn Notifier>)
}

/// Reports bytes as they pass, for streams that go through no pipeline.
pub(crate) fn counted(cx: &Context, estimate: Option<u64>, bytes: ByteStream<Plain>) -> ByteStream<Plain> {
    let cx = cx.clone();
    if let Some(bytes) = estimate {
        cx.report(Event::Estimate { bytes });
    }
    cx.report(Event::Status(RunStatus::Running));
    bytes.inspect(move |chunk| cx.report(Event::Plain { bytes: chunk.len() as u64 }))
}

/// The reading side of a source. Nothing is connected yet.
///
/// # Errors
/// `Config` for settings that cannot work.
pub(crate) fn dumper(source: &SourceConfig) -> Outcome<Arc<dyn Dumper>> {
    dumpers::open_source(source)
        .map_err(|e| arguments(e, "dump_args (flag --dump-arg, key sources.NAME.dump_args)"))
}

/// A refusal of extra arguments for a program, under the name by which they were given.
fn arguments(error: Error, setting: &str) -> Failure {
    match error.subject() {
        "extra_args" => Failure::usage(setting, error.what(), error.hint().unwrap_or_default()),
        _ => error.into(),
    }
}

/// The writing side of a target. Nothing is connected yet.
///
/// # Errors
/// `Config` for settings that cannot work.
pub(crate) fn restorer(target: &TargetConfig) -> Outcome<Arc<dyn Restorer>> {
    dumpers::open_target(target).map_err(|e| arguments(e, "flag --restore-arg"))
}

/// Parsers of every format that has one.
pub(crate) fn inspectors(scratch: Option<&Path>) -> Vec<Arc<dyn Inspector>> {
    dumpers::inspectors(scratch)
}
