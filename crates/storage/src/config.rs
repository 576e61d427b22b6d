//! Where backups are kept, as a person writes it down.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use backup_core::{Error, ErrorKind, ObjectKey, Result};
use url::Url;
use zeroize::Zeroizing;

use crate::azure::AzurePlace;
use crate::gcs::GcsPlace;
use crate::parts::{PARTS_MAX, PARTS_MIN};
use crate::sftp::place::SftpPlace;
use crate::webdav::place::WebDavPlace;

/// The longest prefix inside a bucket, in bytes: S3 allows keys of 1,024, of which object keys take
/// up to 900.
const PREFIX_LEN_MAX: usize = 120;

/// A place and how to talk to it. `Debug` and `Display` show no secret.
#[derive(Debug, Clone)]
pub struct StorageConfig {
    pub(crate) place: Place,
    pub(crate) credentials: Option<Credentials>,
    pub(crate) login: Login,
    pub(crate) retry: Retrying,
    pub(crate) lock: Option<LockOnWrite>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    Local(PathBuf),
    S3(S3Place),
    Gcs(GcsPlace),
    Azure(AzurePlace),
    Sftp(SftpPlace),
    WebDav(WebDavPlace),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct S3Place {
    pub(crate) bucket: String,
    /// Without slashes at its ends; may be empty.
    pub(crate) prefix: String,
    pub(crate) endpoint: Option<String>,
    pub(crate) region: Option<String>,
    pub(crate) path_style: bool,
    pub(crate) ca_file: Option<PathBuf>,
    pub(crate) allow_http: bool,
    pub(crate) max_parts: u32,
    pub(crate) equal_parts: bool,
    pub(crate) part_memory: usize,
    pub(crate) compose: bool,
    pub(crate) segment: u64,
    pub(crate) put_if_absent: Option<bool>,
    /// Requests carry no signature.
    pub(crate) anonymous: bool,
}

/// How often one request is tried again, and how long it may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retrying {
    /// Tries after the first.
    pub times: usize,
    /// The pause before the second try; it doubles, with jitter, up to `max_delay`.
    pub min_delay: Duration,
    /// The longest pause.
    pub max_delay: Duration,
    /// How long a place may stay silent; sending a body has its own time on top.
    pub patience: Duration,
}

impl Default for Retrying {
    fn default() -> Self {
        Self {
            times: 4,
            min_delay: Duration::from_millis(500),
            max_delay: Duration::from_secs(20),
            patience: Duration::from_secs(60),
        }
    }
}

/// The lock that every object of a backup is written with (S3 object lock). The date counts from the store's own time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LockOnWrite {
    /// For how many days.
    pub(crate) days: u32,
    /// Nobody can end it early, whatever rights they have; without, those with a special right can.
    pub(crate) compliance: bool,
}

impl LockOnWrite {
    /// The most days: a lock cannot be taken back, and nobody means a century.
    pub const DAYS_MAX: u32 = 3_660;

    /// A lock for so many days, from 1 to [`LockOnWrite::DAYS_MAX`].
    ///
    /// # Errors
    /// `Config` for any other number.
    pub fn new(days: u64, compliance: bool) -> Result<Self> {
        match u32::try_from(days) {
            Ok(days) if (1..=Self::DAYS_MAX).contains(&days) => Ok(Self { days, compliance }),
            _ => Err(Error::new(ErrorKind::Config, "lock_days", format!("{days} days cannot be meant"))
                .with_hint(format!("write a whole number from 1 to {}", Self::DAYS_MAX))),
        }
    }
}

/// An access key. Wiped from memory when dropped; the S3 client keeps a copy of its own for as long
/// as the place is open.
#[derive(Clone)]
pub struct Credentials {
    pub(crate) access_key: String,
    pub(crate) secret_key: Zeroizing<String>,
    pub(crate) session_token: Option<Zeroizing<String>>,
}

impl Credentials {
    /// An access key's id and secret.
    pub fn new(access_key: impl Into<String>, secret_key: impl Into<Zeroizing<String>>) -> Self {
        Self { access_key: access_key.into(), secret_key: secret_key.into(), session_token: None }
    }

    /// With the token of a temporary session.
    #[must_use]
    pub fn with_session_token(mut self, token: impl Into<Zeroizing<String>>) -> Self {
        self.session_token = Some(token.into());
        self
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(hidden)")
    }
}

/// What a person knows or has for a server that asks who comes (SFTP, WebDAV). Wiped from memory when dropped.
#[derive(Clone, Default)]
pub struct Login {
    pub(crate) password: Option<Zeroizing<String>>,
    pub(crate) key_passphrase: Option<Zeroizing<String>>,
}

impl Login {
    /// With the user's password at the server.
    #[must_use]
    pub fn with_password(mut self, password: impl Into<Zeroizing<String>>) -> Self {
        self.password = Some(password.into());
        self
    }

    /// With the passphrase of the private key's file (SFTP).
    #[must_use]
    pub fn with_key_passphrase(mut self, passphrase: impl Into<Zeroizing<String>>) -> Self {
        self.key_passphrase = Some(passphrase.into());
        self
    }

    /// The answer to the one question that an SSH client may ask.
    pub(crate) fn answer(&self) -> Option<&Zeroizing<String>> {
        self.password.as_ref().or(self.key_passphrase.as_ref())
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login(hidden)")
    }
}

impl StorageConfig {
    fn of(place: Place) -> Self {
        Self { place, credentials: None, login: Login::default(), retry: Retrying::default(), lock: None }
    }

    /// A local folder.
    pub fn local(folder: impl Into<PathBuf>) -> Self {
        Self::of(Place::Local(folder.into()))
    }

    /// Reads a path (`/path`, `./path`, `path`), `file:///path`, or the URL of a server.
    ///
    /// `sftp://user@host:port/path` has the parameters `key` (a private key's file; else the agent's keys or the
    /// SSH client's usual files) and `known_hosts` (a file of host keys; else the client's usual files). A path that
    /// begins with `/~/` is relative to the user's folder.
    ///
    /// `webdavs://user@host:port/path`, or `https`, has the parameters `ca_file` and `allow_http` as below.
    /// `webdav` and `http` are not encrypted.
    ///
    /// `s3://bucket/prefix?name=value&...` has these parameters:
    ///
    /// | name | meaning | default |
    /// |---|---|---|
    /// | `endpoint` | `https://host[:port]` of the S3 server | `AWS_ENDPOINT_URL`, else Amazon's |
    /// | `region` | signing region | `AWS_REGION`, else `us-east-1` with an endpoint |
    /// | `path_style` | bucket in the path (`true`) or in the host name | `true` |
    /// | `ca_file` | PEM file of the authority to trust instead of the system's | |
    /// | `allow_http` | unencrypted HTTP to a host that is not this machine | `false` |
    /// | `max_parts` | most parts of one upload that the server takes | `10000` |
    /// | `equal_parts` | all parts but the last of one length | `false` |
    /// | `part_memory` | MiB that parts on their way may take | `48` |
    /// | `compose` | the server can copy parts, which very long objects need | `true` |
    /// | `segment` | MiB of one such copy, at least | `1024` |
    /// | `anonymous` | requests carry no signature, for buckets that anybody may use | `false` |
    /// | `put_if_absent` | the server is known to obey `If-None-Match: *` also in a race | Amazon: `true` |
    ///
    /// Without [`StorageConfig::with_credentials`] they come from `AWS_ACCESS_KEY_ID`,
    /// `AWS_SECRET_ACCESS_KEY` and `AWS_SESSION_TOKEN`, from the AWS profile, or from the machine's
    /// role.
    ///
    /// # Errors
    /// `Config`, naming every bad parameter at once and repeating no value that could be a secret.
    pub fn from_url(text: &str) -> Result<Self> {
        if let Some(rest) = text.strip_prefix("s3://") {
            let place =
                S3Place::parse(text, rest).map_err(|problems| refused("s3 destination", &problems))?;
            return Ok(Self::of(Place::S3(place)));
        }
        if text.starts_with("sftp://") {
            let place = SftpPlace::parse(text).map_err(|problems| {
                refused("sftp destination", &problems).with_hint(
                    "write sftp://user@host/path?key=FILE&known_hosts=FILE; a password comes from password_file in the \
                     destination's table",
                )
            })?;
            return Ok(Self::of(Place::Sftp(place)));
        }
        if WebDavPlace::is_meant(text) {
            let place = WebDavPlace::parse(text).map_err(|problems| {
                refused("webdav destination", &problems).with_hint(
                    "write webdavs://user@host/path; a password comes from password_file in the destination's table, and \
                     ca_file= names an authority",
                )
            })?;
            return Ok(Self::of(Place::WebDav(place)));
        }
        if let Some(rest) = text.strip_prefix("gs://") {
            let place =
                GcsPlace::parse(text, rest).map_err(|problems| refused("gs destination", &problems))?;
            return Ok(Self::of(Place::Gcs(place)));
        }
        if let Some(rest) = text.strip_prefix("azblob://") {
            let place =
                AzurePlace::parse(text, rest).map_err(|problems| refused("azblob destination", &problems))?;
            return Ok(Self::of(Place::Azure(place)));
        }
        let folder = folder(text).map_err(|problem| refused("destination", &[problem]))?;
        Ok(Self::local(folder))
    }

    /// With these credentials instead of the environment's.
    #[must_use]
    pub fn with_credentials(mut self, credentials: Credentials) -> Self {
        self.credentials = Some(credentials);
        self
    }

    /// With a password or a passphrase, for a place that takes one.
    #[must_use]
    pub fn with_login(mut self, login: Login) -> Self {
        self.login = login;
        self
    }

    /// With a lock on every object of a backup that is written there.
    #[must_use]
    pub fn with_lock(mut self, lock: LockOnWrite) -> Self {
        self.lock = Some(lock);
        self
    }

    /// With other pauses and limits for requests.
    #[must_use]
    pub fn with_retrying(mut self, retry: Retrying) -> Self {
        self.retry = retry;
        self
    }

    /// The folder, where the place is one.
    #[must_use]
    pub fn folder(&self) -> Option<&Path> {
        match &self.place {
            Place::Local(folder) => Some(folder),
            Place::S3(_) | Place::Gcs(_) | Place::Azure(_) | Place::Sftp(_) | Place::WebDav(_) => None,
        }
    }
}

impl fmt::Display for StorageConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Local(folder) => folder.display().fmt(f),
            Place::S3(place) => place.fmt(f),
            Place::Gcs(place) => place.fmt(f),
            Place::Azure(place) => place.fmt(f),
            Place::Sftp(place) => place.fmt(f),
            Place::WebDav(place) => place.fmt(f),
        }
    }
}

impl fmt::Display for S3Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}", self.bucket)?;
        if self.prefix.is_empty() { Ok(()) } else { write!(f, "/{}", self.prefix) }
    }
}

/// What is wrong with a destination.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Problem {
    #[error("it is empty")]
    Empty,
    #[error("`{0}` is not a kind of destination this version knows")]
    Scheme(String),
    #[error("it is not a valid URL")]
    NotAUrl,
    #[error("it holds credentials")]
    CredentialsInside,
    #[error("a file URL needs an absolute path on this machine and no parameters")]
    FileUrl,
    #[error("the bucket name {0:?} is not one")]
    Bucket(String),
    #[error("the prefix {0:?} is not made of plain segments, or is longer than {PREFIX_LEN_MAX} bytes")]
    Prefix(String),
    #[error("the folder {0:?} is not made of plain segments")]
    Folder(String),
    #[error("parameter `{0}` is not known")]
    UnknownParameter(String),
    #[error("parameter `{0}` is given twice")]
    Twice(String),
    #[error("parameter `{0}` must be {1}")]
    Parameter(&'static str, &'static str),
}

fn refused(subject: &str, problems: &[Problem]) -> Error {
    let what: Vec<String> = problems.iter().map(Problem::to_string).collect();
    let hint = if problems.contains(&Problem::CredentialsInside) {
        "URLs end up in logs and shell histories: give keys through the environment (AWS_ACCESS_KEY_ID and \
         AWS_SECRET_ACCESS_KEY, AZURE_STORAGE_CONNECTION_STRING) or files that the configuration names"
    } else {
        "write a path, file:///path, s3://bucket/prefix?endpoint=https://host&region=name, gs://bucket/prefix or \
         azblob://container/prefix?account=name"
    };
    Error::new(ErrorKind::Config, subject, what.join("; ")).with_hint(hint)
}

fn folder(text: &str) -> Result<PathBuf, Problem> {
    if text.is_empty() {
        return Err(Problem::Empty);
    }
    if text.starts_with("file:") {
        let url = Url::parse(text).map_err(|_| Problem::NotAUrl)?;
        if url.query().is_some() || url.fragment().is_some() || !url.username().is_empty() {
            return Err(Problem::FileUrl);
        }
        return url.to_file_path().map_err(|()| Problem::FileUrl);
    }
    let head = text.split('/').next().unwrap_or_default();
    match head.split_once(':') {
        // The scheme alone: what follows may hold a secret.
        Some((scheme, _)) => Err(Problem::Scheme(scheme.to_owned())),
        None => Ok(PathBuf::from(text)),
    }
}

impl S3Place {
    fn parse(text: &str, rest: &str) -> Result<Self, Vec<Problem>> {
        let mut place = Self {
            bucket: String::new(),
            prefix: String::new(),
            endpoint: None,
            region: None,
            path_style: true,
            ca_file: None,
            allow_http: false,
            max_parts: PARTS_MAX,
            equal_parts: false,
            part_memory: crate::parts::MEMORY,
            compose: true,
            segment: crate::parts::SEGMENT_LEN,
            put_if_absent: None,
            anonymous: false,
        };
        let (bucket, prefix, mut problems) = bucket_url(text, rest, |name, value| place.set(name, value))?;
        (place.bucket, place.prefix) = (bucket, prefix);
        if let Some(endpoint) = &place.endpoint
            && let Err(problem) = check_endpoint(endpoint, place.allow_http)
        {
            problems.push(problem);
        }
        if problems.is_empty() { Ok(place) } else { Err(problems) }
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), Problem> {
        let flag = |name| flag(name, value);
        match name {
            "endpoint" => self.endpoint = Some(value.trim_end_matches('/').to_owned()),
            "region"
                if value.is_empty() || !value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') =>
            {
                return Err(Problem::Parameter("region", "a region's name, such as eu-central-1"));
            }
            "region" => self.region = Some(value.to_owned()),
            "path_style" => self.path_style = flag("path_style")?,
            "ca_file" if value.is_empty() => {
                return Err(Problem::Parameter("ca_file", "the path of a PEM file"));
            }
            "ca_file" => self.ca_file = Some(PathBuf::from(value)),
            "allow_http" => self.allow_http = flag("allow_http")?,
            "compose" => self.compose = flag("compose")?,
            "segment" => {
                let mib: u64 = value
                    .parse()
                    .ok()
                    .filter(|mib| (16..=5_120).contains(mib))
                    .ok_or(Problem::Parameter("segment", "a whole number of MiB from 16 to 5120"))?;
                self.segment = mib << 20;
            }
            "anonymous" => self.anonymous = flag("anonymous")?,
            "equal_parts" => self.equal_parts = flag("equal_parts")?,
            "put_if_absent" => self.put_if_absent = Some(flag("put_if_absent")?),
            "max_parts" => {
                self.max_parts =
                    value
                        .parse()
                        .ok()
                        .filter(|parts| (PARTS_MIN..=PARTS_MAX).contains(parts))
                        .ok_or(Problem::Parameter("max_parts", "a whole number from 100 to 10000"))?;
            }
            "part_memory" => {
                let mib: usize = value
                    .parse()
                    .ok()
                    .filter(|mib| (20..=65_536).contains(mib))
                    .ok_or(Problem::Parameter("part_memory", "a whole number of MiB from 20 to 65536"))?;
                self.part_memory = mib << 20;
            }
            _ => return Err(unknown(name)),
        }
        Ok(())
    }
}

/// Splits `bucket/prefix?name=value&...` and hands every parameter to `set`; the problems are those found so
/// far.
///
/// # Errors
/// The problems after which nothing more can be said.
pub(crate) fn bucket_url(
    text: &str,
    rest: &str,
    mut set: impl FnMut(&str, &str) -> Result<(), Problem>,
) -> Result<(String, String, Vec<Problem>), Vec<Problem>> {
    let path = rest.split(['?', '#']).next().unwrap_or_default();
    if path.contains('@') {
        return Err(vec![Problem::CredentialsInside]);
    }
    if rest.contains('#') {
        return Err(vec![Problem::NotAUrl]);
    }
    let (bucket, prefix) = path.split_once('/').unwrap_or((path, ""));
    let prefix = prefix.trim_end_matches('/');
    // `s3://id:secret/bucket`: what is no bucket's name is not repeated.
    if bucket.contains(':') {
        return Err(vec![Problem::CredentialsInside]);
    }
    let mut problems = Vec::new();
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if bucket.is_empty() || bucket.len() > 63 || !bucket.chars().all(plain) {
        problems.push(Problem::Bucket(bucket.to_owned()));
    }
    let segments = prefix.is_empty() || prefix.parse::<ObjectKey>().is_ok();
    if !segments || prefix.len() > PREFIX_LEN_MAX {
        problems.push(Problem::Prefix(prefix.to_owned()));
    }
    let Ok(url) = Url::parse(text) else {
        if problems.is_empty() {
            problems.push(Problem::NotAUrl);
        }
        return Err(problems);
    };
    let mut seen = Vec::new();
    for (name, value) in url.query_pairs() {
        if seen.contains(&name) {
            problems.push(Problem::Twice(name.into_owned()));
            continue;
        }
        if let Err(problem) = set(&name, &value) {
            problems.push(problem);
        }
        seen.push(name);
    }
    Ok((bucket.to_owned(), prefix.to_owned(), problems))
}

/// What a parameter means that no kind of place knows.
pub(crate) fn unknown(name: &str) -> Problem {
    if looks_secret(name) { Problem::CredentialsInside } else { Problem::UnknownParameter(name.to_owned()) }
}

/// `true` or `false`.
pub(crate) fn flag(name: &'static str, value: &str) -> Result<bool, Problem> {
    match value {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(Problem::Parameter(name, "`true` or `false`")),
    }
}

/// The path of a file.
pub(crate) fn file(name: &'static str, value: &str) -> Result<PathBuf, Problem> {
    if value.is_empty() {
        Err(Problem::Parameter(name, "the path of a file"))
    } else {
        Ok(PathBuf::from(value))
    }
}

pub(crate) fn looks_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["key", "secret", "token", "pass", "credential"].iter().any(|word| name.contains(word))
}

/// An endpoint is a scheme, a host and perhaps a port; without encryption only on this machine or
/// where that is asked for.
pub(crate) fn check_endpoint(endpoint: &str, allow_http: bool) -> Result<(), Problem> {
    let shape = Problem::Parameter("endpoint", "https://host or https://host:port");
    let Ok(url) = Url::parse(endpoint) else { return Err(shape) };
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Problem::CredentialsInside);
    }
    let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
    let Some(host) = url.host().filter(|_| bare) else { return Err(shape) };
    let loopback = match host {
        url::Host::Ipv4(ip) => ip.is_loopback(),
        url::Host::Ipv6(ip) => ip.is_loopback(),
        url::Host::Domain(name) => name == "localhost",
    };
    match url.scheme() {
        "https" => Ok(()),
        "http" if loopback || allow_http => Ok(()),
        "http" => Err(Problem::Parameter(
            "endpoint",
            "https, unless allow_http=true accepts that anyone on the way can read and change requests",
        )),
        _ => Err(shape),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s3(text: &str) -> S3Place {
        match StorageConfig::from_url(text).unwrap().place {
            Place::S3(place) => place,
            other => panic!("{text} is {other:?}"),
        }
    }

    fn problems(text: &str) -> Vec<Problem> {
        S3Place::parse(text, text.strip_prefix("s3://").unwrap()).unwrap_err()
    }

    #[test]
    fn paths_and_file_urls_are_folders() {
        for (text, path) in [
            ("/srv/backups", "/srv/backups"),
            ("./here", "./here"),
            ("../up", "../up"),
            ("here", "here"),
            ("file:///srv/my%20backups", "/srv/my backups"),
        ] {
            let config = StorageConfig::from_url(text).unwrap();
            assert_eq!(config.folder(), Some(Path::new(path)), "{text}");
        }
        for text in ["", "file://host/path", "file:///p?x=1", "ftp://host/p", "s3:/bucket", "sftp:x"] {
            assert_eq!(StorageConfig::from_url(text).unwrap_err().kind(), ErrorKind::Config, "{text}");
        }
    }

    #[test]
    fn an_s3_url_has_a_bucket_a_prefix_and_parameters() {
        let place = s3("s3://my-bucket/a/b/?endpoint=https://s3.example:9000/&region=eu-1&path_style=false\
                        &max_parts=1000&equal_parts=true&ca_file=/etc/ca.pem&part_memory=32&put_if_absent=true");
        assert_eq!((place.bucket.as_str(), place.prefix.as_str()), ("my-bucket", "a/b"));
        assert_eq!(place.endpoint.as_deref(), Some("https://s3.example:9000"));
        assert_eq!(place.region.as_deref(), Some("eu-1"));
        assert!(!place.path_style && place.equal_parts);
        assert_eq!((place.max_parts, place.part_memory), (1_000, 32 << 20));
        assert_eq!(place.ca_file.as_deref(), Some(Path::new("/etc/ca.pem")));
        assert_eq!(place.put_if_absent, Some(true));
        assert_eq!(place.to_string(), "s3://my-bucket/a/b");
        assert_eq!(s3("s3://bucket").to_string(), "s3://bucket");
    }

    #[test]
    fn every_bad_parameter_is_named_at_once() {
        let found =
            problems("s3://b/../x?path_style=yes&max_parts=7&colour=red&region=a&region=b&part_memory=1");
        assert_eq!(
            found,
            [
                Problem::Prefix("../x".to_owned()),
                Problem::Parameter("path_style", "`true` or `false`"),
                Problem::Parameter("max_parts", "a whole number from 100 to 10000"),
                Problem::UnknownParameter("colour".to_owned()),
                Problem::Twice("region".to_owned()),
                Problem::Parameter("part_memory", "a whole number of MiB from 20 to 65536"),
            ]
        );
        assert_eq!(problems("s3:///x"), [Problem::Bucket(String::new())]);
        assert_eq!(problems("s3://b/a//c"), [Problem::Prefix("a//c".to_owned())]);
    }

    #[test]
    fn unencrypted_endpoints_are_for_this_machine_or_asked_for() {
        for good in ["http://127.0.0.1:9000", "http://localhost:1", "http://[::1]:2", "https://s3.example"] {
            assert_eq!(check_endpoint(good, false), Ok(()), "{good}");
        }
        for bad in
            ["http://10.0.0.1", "http://s3.example", "http://localhost.example", "ftp://x", "s3.example", ""]
        {
            assert!(check_endpoint(bad, false).is_err(), "{bad}");
        }
        assert_eq!(check_endpoint("http://10.0.0.1", true), Ok(()));
        assert!(check_endpoint("https://s3.example/path", true).is_err());
    }

    #[test]
    fn a_secret_in_a_url_is_refused_and_not_repeated() {
        for text in [
            "s3://AKIA123:hunter2@bucket/prefix",
            "s3://AKIA123:hunter2/bucket",
            "s3://bucket/prefix?secret_access_key=hunter2",
            "s3://bucket/prefix?access_key_id=hunter2",
            "s3://bucket/prefix?session_token=hunter2",
            "s3://bucket/prefix?endpoint=https://me:hunter2@s3.example",
            "s3://bucket/prefix?path_style=hunter2",
            "s3://bucket/prefix?nonsense=hunter2",
            "ftp://me:hunter2@host/",
            "file://me:hunter2@host/",
        ] {
            let error = StorageConfig::from_url(text).unwrap_err();
            let shown = format!("{error} {error:?} {:?}", error.hint());
            assert_eq!(error.kind(), ErrorKind::Config, "{text}");
            assert!(!shown.contains("hunter2"), "{shown}");
        }
        let config = StorageConfig::from_url("s3://b").unwrap().with_credentials(
            Credentials::new("AKIA123", "hunter2".to_owned()).with_session_token("hunter2".to_owned()),
        );
        let shown = format!("{config} {config:?}");
        assert!(!shown.contains("hunter2") && !shown.contains("AKIA"), "{shown}");
    }
}
