//! How to reach a server: a URL or its parts.

use std::path::PathBuf;
use std::time::Duration;

use backup_core::{Error, ErrorKind, Result};
use serde::Deserialize;

use crate::percent;
use crate::secret::Secret;

/// The port without a setting.
const PORT: u16 = 6379;
/// Variables in which the client programs look for a password, ours to read too.
const PASSWORD_VARIABLES: [&str; 2] = ["REDISCLI_AUTH", "VALKEYCLI_AUTH"];
/// Seconds without a byte that are too many.
const STALL_SECONDS: u64 = 900;
/// Bytes of a value that a restore keeps in memory.
const MEMORY_LIMIT: u64 = 64 * 1024 * 1024;

/// Settings of a Redis or Valkey server, as a source or as a target.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RedisConfig {
    /// `redis://user@host:port`, `rediss://...` for TLS, `redis+unix:///path` for a socket; also
    /// `valkey`, `valkeys` and `valkey+unix`. The parts below win over it.
    pub url: Option<Secret>,
    /// A host name, an address, or the path of a socket.
    pub host: Option<String>,
    /// The port; 6379 without it.
    pub port: Option<String>,
    /// The ACL user; the default user without it.
    pub user: Option<String>,
    /// The password.
    pub password: Option<Secret>,
    /// A file whose first line is the password.
    pub password_file: Option<PathBuf>,
    /// Certificates to trust instead of the system's, PEM. Turns TLS on.
    pub sslrootcert: Option<PathBuf>,
    /// The client's certificate, PEM.
    pub sslcert: Option<PathBuf>,
    /// The client's private key, PEM.
    pub sslkey: Option<PathBuf>,
    /// Seconds without a byte after which a dump is given up; 900 without it, 0 for no limit.
    pub stall_seconds: Option<u64>,
    /// A restore into a server that holds keys may replace those of the same name.
    pub replace: bool,
    /// A restore may have so many bytes of a value that cannot be divided in memory; 64 MiB without
    /// it, and never more than a command can carry.
    pub memory_limit: Option<u64>,
}

/// A server that can be connected to.
#[derive(Debug, Clone)]
pub(super) struct Endpoint {
    pub(super) place: Place,
    pub(super) user: Option<String>,
    pub(super) password: Option<Secret>,
    pub(super) stall: Option<Duration>,
    pub(super) replace: bool,
    pub(super) memory_limit: u64,
}

/// Where it listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    Tcp { host: String, port: u16, tls: Option<TlsFiles> },
    Unix(PathBuf),
}

/// What TLS is set up with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct TlsFiles {
    pub(super) roots: Option<PathBuf>,
    pub(super) certificate: Option<PathBuf>,
    pub(super) key: Option<PathBuf>,
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.place {
            Place::Tcp { host, port, .. } if host.contains(':') => write!(f, "server [{host}]:{port}"),
            Place::Tcp { host, port, .. } => write!(f, "server {host}:{port}"),
            Place::Unix(path) => write!(f, "server {}", path.display()),
        }
    }
}

impl RedisConfig {
    /// Whether a URL is of this engine.
    #[must_use]
    pub fn is_url(url: &str) -> bool {
        let scheme = url.split_once(':').map(|(scheme, _)| scheme);
        matches!(scheme, Some("redis" | "rediss" | "valkey" | "valkeys" | "redis+unix" | "valkey+unix"))
    }

    /// From a URL alone.
    ///
    /// # Errors
    /// `Config`, without showing the URL.
    pub fn from_url(url: &str) -> Result<Self> {
        let config = Self { url: Some(Secret::new(url)), ..Self::default() };
        config.parts()?;
        Ok(config)
    }

    /// A name for a source of this server: its host, or its socket's stem.
    #[must_use]
    pub fn default_name(&self) -> Option<String> {
        match self.parts().ok()?.place {
            Place::Tcp { host, .. } => Some(format!("redis-{host}")),
            Place::Unix(path) => Some(path.file_stem()?.to_string_lossy().into_owned()),
        }
    }

    /// Joins the URL, the parts, the password file and the variables of the client programs.
    pub(super) fn endpoint(&self) -> Result<Endpoint> {
        let mut endpoint = self.parts()?;
        if endpoint.password.is_none()
            && let Some(file) = &self.password_file
        {
            endpoint.password = Some(Secret::of_file(file, |what| wrong("password_file", what))?);
        }
        if endpoint.password.is_none() {
            let found = PASSWORD_VARIABLES.iter().find_map(|name| std::env::var(name).ok());
            endpoint.password = found.filter(|password| !password.is_empty()).map(Secret::new);
        }
        if endpoint.user.is_some() && endpoint.password.is_none() {
            return Err(wrong("password", "is missing for the user")
                .with_hint("set password_file, or REDISCLI_AUTH in the environment"));
        }
        Ok(endpoint)
    }

    fn parts(&self) -> Result<Endpoint> {
        let mut found = match &self.url {
            Some(url) => Url::read(url.expose())?,
            None => Url::default(),
        };
        if let Some(host) = &self.host {
            if host.starts_with('/') {
                found.socket = Some(host.into());
            } else {
                found.socket = None;
                found.host = Some(host.clone());
            }
        }
        if let Some(port) = &self.port {
            found.port = Some(read_port(port)?);
        }
        found.user = self.user.clone().or(found.user);
        found.password = self.password.clone().or(found.password);
        let files = TlsFiles {
            roots: self.sslrootcert.clone(),
            certificate: self.sslcert.clone(),
            key: self.sslkey.clone(),
        };
        let tls = found.tls || files != TlsFiles::default();
        if files.certificate.is_some() != files.key.is_some() {
            return Err(wrong("sslcert", "needs sslkey, and sslkey needs sslcert"));
        }
        let place = match found.socket {
            Some(_) if tls => return Err(wrong("url", "asks for TLS on a socket of this machine")),
            Some(path) => Place::Unix(path),
            None => Place::Tcp {
                host: found.host.unwrap_or_else(|| "127.0.0.1".to_owned()),
                port: found.port.unwrap_or(PORT),
                tls: tls.then_some(files),
            },
        };
        let stall = match self.stall_seconds.unwrap_or(STALL_SECONDS) {
            0 => None,
            seconds => Some(Duration::from_secs(seconds)),
        };
        Ok(Endpoint {
            place,
            user: found.user,
            password: found.password,
            stall,
            replace: self.replace,
            memory_limit: self.memory_limit.unwrap_or(MEMORY_LIMIT),
        })
    }
}

#[derive(Default)]
struct Url {
    tls: bool,
    socket: Option<PathBuf>,
    host: Option<String>,
    port: Option<u16>,
    user: Option<String>,
    password: Option<Secret>,
}

impl Url {
    fn read(url: &str) -> Result<Self> {
        let (scheme, rest) = url.split_once("://").ok_or_else(|| wrong("url", "has no ://"))?;
        let mut found = Self { tls: matches!(scheme, "rediss" | "valkeys"), ..Self::default() };
        if rest.contains('?') {
            return Err(wrong("url", "has parameters, and none is known"));
        }
        // A password may hold unescaped at signs and slashes: the last at sign ends it.
        let (user, place) = rest.rsplit_once('@').unwrap_or(("", rest));
        let (user, password) = match user.split_once(':') {
            Some((user, password)) => (user, Some(password)),
            None => (user, None),
        };
        if !user.is_empty() {
            found.user = Some(decode(user)?);
        }
        if let Some(password) = password.filter(|password| !password.is_empty()) {
            found.password = Some(Secret::new(decode(password)?));
        }
        if scheme.ends_with("+unix") {
            if !place.starts_with('/') {
                return Err(wrong("url", "needs an absolute path, as in redis+unix:///run/redis.sock"));
            }
            found.socket = Some(decode(place)?.into());
        } else {
            found.take_place(place)?;
        }
        Ok(found)
    }

    fn take_place(&mut self, place: &str) -> Result<()> {
        let (authority, path) = place.split_once('/').unwrap_or((place, ""));
        if !path.is_empty() {
            return Err(wrong("url", "names one database").with_hint(
                "all databases of a server are backed up and restored together: leave the number out",
            ));
        }
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => {
                let (host, after) =
                    rest.split_once(']').ok_or_else(|| wrong("url", "has a bracket that is not closed"))?;
                (host, after.strip_prefix(':').unwrap_or(after))
            }
            None => authority.split_once(':').unwrap_or((authority, "")),
        };
        if !host.is_empty() {
            self.host = Some(decode(host)?);
        }
        if !port.is_empty() {
            self.port = Some(read_port(port)?);
        }
        Ok(())
    }
}

fn read_port(text: &str) -> Result<u16> {
    text.parse()
        .ok()
        .filter(|port| *port != 0)
        .ok_or_else(|| wrong("port", "is not a number from 1 to 65535"))
}

fn decode(text: &str) -> Result<String> {
    percent::decoded(text).map_err(|what| wrong("url", what))
}

pub(super) fn wrong(setting: &str, what: impl Into<String>) -> Error {
    Error::new(ErrorKind::Config, format!("Redis setting {setting}"), what)
        .with_hint("a URL looks like redis://user@host:6379, rediss://host or redis+unix:///run/redis.sock")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(url: &str) -> Endpoint {
        RedisConfig::from_url(url).unwrap().parts().unwrap()
    }

    #[test]
    fn a_url_becomes_a_place_and_a_hidden_password() {
        let found = endpoint("redis://me:p%40s/s@w@db.example:6380/");
        assert_eq!(found.place, Place::Tcp { host: "db.example".to_owned(), port: 6380, tls: None });
        assert_eq!(found.user.as_deref(), Some("me"));
        assert_eq!(found.password.as_ref().unwrap().expose(), "p@s/s@w");
        assert!(!format!("{found:?} {found}").contains("p@s"));
        assert_eq!(found.to_string(), "server db.example:6380");
        for (url, tls) in
            [("redis://h", false), ("rediss://h", true), ("valkey://h", false), ("valkeys://h", true)]
        {
            let Place::Tcp { port: 6379, tls: found, .. } = endpoint(url).place else { panic!("{url}") };
            assert_eq!(found.is_some(), tls, "{url}");
        }
        assert_eq!(endpoint("redis+unix:///run/a b.sock").place, Place::Unix("/run/a b.sock".into()));
        let Place::Tcp { host, port: 1, .. } = endpoint("redis://[::1]:1").place else {
            panic!("no address")
        };
        assert_eq!(host, "::1");
    }

    #[test]
    fn wrong_urls_are_refused_without_showing_them() {
        for bad in [
            "redis:hunter2",
            "redis://u:hunter2@h:port",
            "redis://u:hunter2%zz@h",
            "redis://u:hunter2@h/3",
            "redis://u:hunter2@h?db=3",
            "redis://u:hunter2@[::1",
            "redis+unix://hunter2",
        ] {
            let error = RedisConfig::from_url(bad).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{bad}");
            assert!(!format!("{error} {error:?} {:?}", error.hint()).contains("hunter2"), "{bad}");
        }
    }

    #[test]
    fn parts_win_over_the_url() {
        let config = RedisConfig {
            host: Some("/run/r.sock".to_owned()),
            user: Some("b".to_owned()),
            password: Some(Secret::new("c")),
            ..RedisConfig::from_url("redis://a:x@h").unwrap()
        };
        let found = config.endpoint().unwrap();
        assert_eq!(found.place, Place::Unix("/run/r.sock".into()));
        assert_eq!((found.user.as_deref(), found.password.unwrap().expose()), (Some("b"), "c"));
        let half = RedisConfig { sslcert: Some("c".into()), ..RedisConfig::default() };
        assert_eq!(half.endpoint().unwrap_err().kind(), ErrorKind::Config);
    }

    #[test]
    fn a_password_file_gives_its_first_line() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pw");
        std::fs::write(&file, "geheim wort\nrest").unwrap();
        let config = RedisConfig { password_file: Some(file.clone()), ..RedisConfig::default() };
        assert_eq!(config.endpoint().unwrap().password.unwrap().expose(), "geheim wort");
        std::fs::write(&file, "\n").unwrap();
        assert_eq!(config.endpoint().unwrap_err().kind(), ErrorKind::Config);
    }
}
