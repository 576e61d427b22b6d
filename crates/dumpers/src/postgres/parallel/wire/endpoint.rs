//! Whether a server can be reached as libpq reaches it, and how.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use tokio_rustls::rustls::ClientConfig;

use super::super::super::config::Connection;
use super::tls::{Check, config};
use crate::secret::Secret;

/// How `psql` reached the server, in its own words and in the server's.
#[derive(Debug, Clone, Deserialize)]
pub(in crate::postgres) struct Reached {
    pub(super) host: String,
    pub(super) port: String,
    pub(super) user: String,
    pub(super) dbname: String,
    /// Whether by TLS.
    pub(super) ssl: bool,
    /// Whether encrypted by Kerberos.
    pub(super) gss: bool,
}

/// Where the server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// The file of a socket.
    Unix(PathBuf),
    Tcp {
        /// What its certificate is for.
        host: String,
        /// Where to connect to; the host, unless an address was given.
        to: String,
        port: u16,
    },
}

/// Whether TLS is spoken.
#[derive(Debug, Clone)]
pub(super) enum Tls {
    Never,
    /// Where the server can.
    Prefer(Arc<ClientConfig>),
    Always(Arc<ClientConfig>),
}

/// Whether a login is bound to the certificate of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Binding {
    Never,
    Prefer,
    Always,
}

/// A server with a user and a database, ready to be connected to.
#[derive(Debug, Clone)]
pub(in crate::postgres) struct Endpoint {
    pub(super) place: Place,
    pub(super) tls: Tls,
    pub(super) check: Check,
    /// Whether `psql` has TLS: then a connection without it would be the weaker one.
    pub(super) encrypted: bool,
    pub(super) binding: Binding,
    pub(super) user: String,
    pub(super) password: Option<Secret>,
    /// What the server is told first.
    pub(super) parameters: Vec<(&'static str, String)>,
    /// For everything until the login; zero is no limit.
    pub(super) timeout: Duration,
}

impl Endpoint {
    /// The server that `psql` reached with these settings.
    ///
    /// # Errors
    /// The setting that only libpq obeys.
    pub(super) fn of(connection: &Connection, reached: &Reached) -> Result<Self, String> {
        let home = std::env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
        Self::with_home(connection, reached, home.as_deref())
    }

    fn with_home(connection: &Connection, reached: &Reached, home: Option<&Path>) -> Result<Self, String> {
        for variable in ["PGSERVICE", "PGSSLCERT", "PGSSLKEY", "PGSSLCRL", "PGSSLCRLDIR"] {
            if connection.get(variable).is_some() {
                return Err(format!("{variable} is set"));
            }
        }
        let among = |variable: &str, known: &[&str]| match connection.get(variable) {
            Some(value) if !known.contains(&value) => Err(format!("{variable} is {value:?}")),
            _ => Ok(()),
        };
        among("PGGSSENCMODE", &["disable", "prefer"])?;
        among("PGSSLSNI", &["1"])?;
        among("PGSSLMINPROTOCOLVERSION", &["TLSv1", "TLSv1.1", "TLSv1.2"])?;
        if reached.gss {
            return Err("Kerberos encrypts the connection".to_owned());
        }
        let binding = match connection.get("PGCHANNELBINDING") {
            None | Some("prefer") => Binding::Prefer,
            Some("disable") => Binding::Never,
            Some("require") => Binding::Always,
            Some(other) => return Err(format!("PGCHANNELBINDING is {other:?}")),
        };
        let place = place(connection, reached)?;
        let (tls, check) = match place {
            // libpq asks for none there, whatever the setting.
            Place::Unix(_) => (Tls::Never, Check::Nothing),
            Place::Tcp { .. } => tls(connection, home)?,
        };
        let timeout = match connection.get("PGCONNECT_TIMEOUT") {
            None => Duration::from_secs(15),
            Some(text) => match text.trim().parse::<i64>() {
                Ok(seconds) => Duration::from_secs(u64::try_from(seconds).unwrap_or(0)),
                Err(_) => return Err(format!("PGCONNECT_TIMEOUT is {text:?}")),
            },
        };
        let mut parameters = vec![
            ("user", reached.user.clone()),
            ("database", reached.dbname.clone()),
            ("client_encoding", "UTF8".to_owned()),
        ];
        let more = [("application_name", "PGAPPNAME"), ("options", "PGOPTIONS")];
        parameters.extend(
            more.iter().filter_map(|(name, variable)| Some((*name, connection.get(variable)?.to_owned()))),
        );
        Ok(Self {
            place,
            tls,
            check,
            encrypted: reached.ssl,
            binding,
            user: reached.user.clone(),
            password: connection.password(),
            parameters,
            timeout,
        })
    }

    /// How messages speak of it.
    pub(super) fn shown(&self) -> String {
        match &self.place {
            Place::Unix(path) => path.display().to_string(),
            Place::Tcp { to, port, .. } => format!("{to}:{port}"),
        }
    }
}

fn place(connection: &Connection, reached: &Reached) -> Result<Place, String> {
    let address = connection.get("PGHOSTADDR");
    if reached.host.is_empty() || [Some(&*reached.host), address].iter().flatten().any(|it| it.contains(','))
    {
        return Err("several servers are named".to_owned());
    }
    let port =
        reached.port.parse().map_err(|_| format!("{:?} is the port of several servers", reached.port))?;
    match (reached.host.as_bytes()[0], address) {
        (b'/', None) => Ok(Place::Unix(Path::new(&reached.host).join(format!(".s.PGSQL.{port}")))),
        (b'/' | b'@', _) => Err("the socket is not a file".to_owned()),
        _ => Ok(Place::Tcp {
            host: reached.host.clone(),
            to: address.unwrap_or(&reached.host).to_owned(),
            port,
        }),
    }
}

/// As libpq reads these settings (PostgreSQL manual, 34.19): a file of authorities that is there is used
/// in every mode, and `~/.postgresql` holds what is used without being asked for.
fn tls(connection: &Connection, home: Option<&Path>) -> Result<(Tls, Check), String> {
    let mode = connection.get("PGSSLMODE").unwrap_or("prefer");
    if mode == "disable" {
        return Ok((Tls::Never, Check::Nothing));
    }
    let Some(home) = home else { return Err("HOME is not set".to_owned()) };
    let home = home.join(".postgresql");
    for name in ["postgresql.crt", "root.crl"] {
        if home.join(name).exists() {
            return Err(format!("{} is there", home.join(name).display()));
        }
    }
    let roots = match connection.get("PGSSLROOTCERT") {
        Some(given) if Path::new(given).is_file() => Some(PathBuf::from(given)),
        Some(other) => return Err(format!("PGSSLROOTCERT is {other:?}, which is not a file")),
        None => Some(home.join("root.crt")).filter(|file| file.exists()),
    };
    let check = match (mode, &roots) {
        ("verify-full", Some(_)) => Check::Name,
        ("verify-ca" | "require" | "prefer", Some(_)) => Check::Chain,
        ("require" | "prefer", None) => Check::Nothing,
        _ => return Err(format!("PGSSLMODE is {mode:?}")),
    };
    let config = config(check, roots.as_deref())?;
    Ok((if mode == "prefer" { Tls::Prefer(config) } else { Tls::Always(config) }, check))
}

#[cfg(test)]
mod tests {
    use super::super::super::super::config::PostgresConfig;
    use super::*;

    fn of(url: &str, host: &str) -> Result<Endpoint, String> {
        let connection = PostgresConfig::from_url(url).unwrap().connection().unwrap();
        let reached = Reached {
            host: host.to_owned(),
            port: "5433".to_owned(),
            user: "u".to_owned(),
            dbname: "d".to_owned(),
            ssl: false,
            gss: false,
        };
        let home = tempfile::tempdir().unwrap();
        Endpoint::with_home(&connection, &reached, Some(home.path()))
    }

    #[test]
    fn what_only_libpq_obeys_is_left_to_it() {
        for (query, host, direct) in [
            ("", "db.example.org", true),
            ("", "/var/run/postgresql", true),
            ("sslmode=require", "/var/run/postgresql", true),
            ("", "@abstract", false),
            ("", "h1,h2", false),
            ("hostaddr=127.0.0.1", "db.example.org", true),
            ("hostaddr=127.0.0.1,::1", "db.example.org", false),
            ("sslmode=disable", "h", true),
            ("sslmode=allow", "h", false),
            ("sslmode=prefer", "h", true),
            ("sslmode=require", "h", true),
            ("sslmode=verify-ca", "h", false),
            ("sslmode=verify-full", "h", false),
            ("sslmode=verify-full&sslrootcert=/absent", "h", false),
            ("sslmode=require&sslrootcert=/absent", "h", false),
            ("sslmode=verify-full&sslrootcert=system", "h", false),
            ("sslmode=nonsense", "h", false),
            ("sslcert=/x", "h", false),
            ("sslkey=/x", "h", false),
            ("sslcrl=/x", "h", false),
            ("sslsni=0", "h", false),
            ("ssl_min_protocol_version=TLSv1.3", "h", false),
            ("ssl_min_protocol_version=TLSv1.2", "h", true),
            ("service=x", "h", false),
            ("gssencmode=require", "h", false),
            ("gssencmode=prefer", "h", true),
            ("channel_binding=require", "h", true),
            ("channel_binding=nonsense", "h", false),
            ("target_session_attrs=read-write", "h", true),
            ("connect_timeout=x", "h", false),
            ("options=-c%20geqo=off", "h", true),
        ] {
            let found = of(&format!("postgres://u:hunter2@h/d?{query}"), host);
            assert_eq!(found.is_ok(), direct, "{query} {host}: {found:?}");
            assert!(!format!("{found:?}").contains("hunter2"));
        }
    }

    #[test]
    fn certificates_at_home_are_used_without_being_asked_for() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join(".postgresql");
        std::fs::create_dir(&folder).unwrap();
        let tls = |mode: &str| {
            let url = format!("postgres://h/d?sslmode={mode}");
            let connection = PostgresConfig::from_url(&url).unwrap().connection().unwrap();
            super::tls(&connection, Some(home.path())).map(|(_, check)| check)
        };
        assert_eq!(tls("require"), Ok(Check::Nothing));
        // One that cannot be used must not be passed over.
        std::fs::write(folder.join("root.crt"), "").unwrap();
        assert!(tls("require").is_err() && tls("prefer").is_err());
        assert_eq!(tls("disable"), Ok(Check::Nothing));
        std::fs::remove_file(folder.join("root.crt")).unwrap();
        std::fs::write(folder.join("postgresql.crt"), "").unwrap();
        assert!(tls("require").is_err());
    }
}
