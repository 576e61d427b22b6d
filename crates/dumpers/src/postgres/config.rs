//! How to reach a server: a URI or its parts, and the environment the client programs read.

use std::collections::BTreeMap;
use std::path::PathBuf;

use backup_core::{Error, ErrorKind, Result};
use serde::Deserialize;

use super::settings::OnBlocked;
use crate::percent;
use crate::secret::Secret;
use crate::tool::ToolCommand;

/// Settings of a PostgreSQL database, as a source or as a target. What is not set is left to libpq:
/// its service file, its password file, its defaults.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PostgresConfig {
    /// `postgresql://user:password@host:port/database?sslmode=...`; the parts below win over it.
    pub url: Option<Secret>,
    /// A host name, an address, a folder of sockets, or several separated by commas.
    pub host: Option<String>,
    /// The port, or several separated by commas.
    pub port: Option<String>,
    /// The user.
    pub user: Option<String>,
    /// The password.
    pub password: Option<Secret>,
    /// A file whose first line is the password.
    pub password_file: Option<PathBuf>,
    /// The database: to dump, or to create by a restore.
    pub dbname: Option<String>,
    /// `disable`, `allow`, `prefer`, `require`, `verify-ca` or `verify-full`.
    pub sslmode: Option<String>,
    /// Certificates to trust, PEM.
    pub sslrootcert: Option<PathBuf>,
    /// The client's certificate, PEM.
    pub sslcert: Option<PathBuf>,
    /// The client's private key.
    pub sslkey: Option<PathBuf>,
    /// A name in the service file.
    pub service: Option<String>,
    /// A password file in libpq's form.
    pub passfile: Option<PathBuf>,
    /// Folders to look for the client programs in, before all others.
    pub tool_dirs: Vec<PathBuf>,
    /// More arguments for `pg_dump` or `pg_restore`; recorded in the backup.
    pub extra_args: Vec<String>,
    /// Seconds without a byte after which a program is stopped; 900 without it, 0 for no limit.
    pub stall_seconds: Option<u64>,
    /// What a restore does with owners and privileges; `auto` without it.
    pub owners: Owners,
    /// Dump: every database with one of these names or patterns (`*` and `?`), as one backup of the
    /// server. Restore of such a backup: only these.
    pub databases: Vec<String>,
    /// Not the databases with these names or patterns.
    pub exclude_databases: Vec<String>,
    /// Dump: roles, tablespaces and what is granted to them too. Restore: apply them; `true` without it.
    pub globals: Option<bool>,
    /// Dump: with the hashes of the roles' passwords, which only few may read; `true` without it.
    pub role_passwords: Option<bool>,
    /// Dump: only schemas with these names or patterns. Restore: only the schemas with these names.
    pub schemas: Vec<String>,
    /// Dump: no schemas with these names or patterns.
    pub exclude_schemas: Vec<String>,
    /// Dump: seconds to wait for a lock on a table; 300 without it, 0 for no limit.
    pub lock_timeout_seconds: Option<u64>,
    /// Dump: seconds that another session may wait for it before `on_blocked` is done; 60 without it, 0
    /// to look after nobody.
    pub lock_wait_limit_seconds: Option<u64>,
    /// Dump: what to do about sessions that wait longer; `warn` without it.
    pub on_blocked: Option<OnBlocked>,
    /// Restore: only the tables with these names, without their indexes and constraints.
    pub tables: Vec<String>,
    /// Restore into an existing database: drop there first what the dump holds.
    pub clean: bool,
    /// Restore: all or nothing within the new database too; slower for the server, never needed for safety.
    pub single_transaction: bool,
    /// Restore: no grants, but owners as `owners` says.
    pub no_privileges: bool,
    /// Restore: become this role first, which then owns what is made.
    pub role: Option<String>,
    /// Dump: connections that rows are read over at the same time, 1 to 16; more than one gives a format
    /// of its own. Restore: only 1 works for a dump of `pg_dump`; one over several connections is restored
    /// over as many.
    pub jobs: Option<u32>,
    /// Dump over several connections: `false` reads rows through `psql` even where they can be read from
    /// the server itself.
    pub native: Option<bool>,
    /// Restore of a server: other names for databases, each as `old=new`.
    pub rename_databases: Vec<String>,
    /// Restore of a server: what every name of a database begins with.
    pub database_prefix: Option<String>,
    /// Restore: first drop databases that earlier restores left unfinished, where that is a day ago.
    pub drop_leftovers: bool,
}

/// What a restore does with the owners and privileges that a dump names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Owners {
    /// Keep them if every role that the dump names exists on the target's server, else drop them and
    /// say so.
    #[default]
    Auto,
    /// Keep them; a missing role fails the restore.
    Keep,
    /// Everything belongs to the restoring user.
    Drop,
}

/// A server and a database, ready for the client programs.
#[derive(Debug, Clone)]
pub(crate) struct Connection {
    /// libpq's variables other than the password.
    env: BTreeMap<&'static str, String>,
    password: Option<Secret>,
}

/// libpq's parameters and the variables that carry them. What is missing here has no variable, or
/// would hide a secret or break the contract.
const PARAMETERS: [(&str, &str); 21] = [
    ("host", "PGHOST"),
    ("hostaddr", "PGHOSTADDR"),
    ("port", "PGPORT"),
    ("user", "PGUSER"),
    ("dbname", "PGDATABASE"),
    ("sslmode", "PGSSLMODE"),
    ("sslrootcert", "PGSSLROOTCERT"),
    ("sslcert", "PGSSLCERT"),
    ("sslkey", "PGSSLKEY"),
    ("sslcrl", "PGSSLCRL"),
    ("sslcrldir", "PGSSLCRLDIR"),
    ("sslsni", "PGSSLSNI"),
    ("ssl_min_protocol_version", "PGSSLMINPROTOCOLVERSION"),
    ("service", "PGSERVICE"),
    ("passfile", "PGPASSFILE"),
    ("connect_timeout", "PGCONNECT_TIMEOUT"),
    ("options", "PGOPTIONS"),
    ("target_session_attrs", "PGTARGETSESSIONATTRS"),
    ("channel_binding", "PGCHANNELBINDING"),
    ("gssencmode", "PGGSSENCMODE"),
    ("krbsrvname", "PGKRBSRVNAME"),
];

impl PostgresConfig {
    /// From a URI alone.
    ///
    /// # Errors
    /// `Config`, without showing the URI.
    pub fn from_url(url: &str) -> Result<Self> {
        let config = Self { url: Some(Secret::new(url)), ..Self::default() };
        config.connection()?;
        Ok(config)
    }

    /// A name for a source: that of the database, or of the host for a whole server.
    #[must_use]
    pub fn default_name(&self) -> Option<String> {
        let connection = self.connection().ok()?;
        if self.is_whole_server() {
            return connection.get("PGHOST").or_else(|| connection.get("PGSERVICE")).map(str::to_owned);
        }
        connection.get("PGDATABASE").or_else(|| connection.get("PGSERVICE")).map(str::to_owned)
    }

    /// Joins URI and parts, and reads the password file.
    pub(crate) fn connection(&self) -> Result<Connection> {
        let mut connection = Connection { env: BTreeMap::new(), password: None };
        if let Some(url) = &self.url {
            connection.take_url(url.expose())?;
        }
        let text = |path: &Option<PathBuf>| path.as_deref().map(|path| path.display().to_string());
        for (name, value) in [
            ("host", self.host.clone()),
            ("port", self.port.clone()),
            ("user", self.user.clone()),
            ("dbname", self.dbname.clone()),
            ("sslmode", self.sslmode.clone()),
            ("sslrootcert", text(&self.sslrootcert)),
            ("sslcert", text(&self.sslcert)),
            ("sslkey", text(&self.sslkey)),
            ("service", self.service.clone()),
            ("passfile", text(&self.passfile)),
        ] {
            if let Some(value) = value {
                connection.set(name, &value)?;
            }
        }
        if let Some(password) = &self.password {
            connection.password = Some(password.clone());
        } else if let Some(file) = &self.password_file {
            connection.password = Some(Secret::of_file(file, |what| wrong("password_file", what))?);
        }
        if connection.password.as_ref().is_some_and(|password| password.expose().contains('\0')) {
            return Err(wrong("password", "holds a NUL character"));
        }
        Ok(connection)
    }
}

fn wrong(setting: &str, what: impl Into<String>) -> Error {
    Error::new(ErrorKind::Config, format!("PostgreSQL setting {setting}"), what)
        .with_hint("a URI looks like postgresql://user@host:5432/database?sslmode=verify-full")
}

impl Connection {
    pub(crate) fn get(&self, variable: &str) -> Option<&str> {
        self.env.get(variable).map(String::as_str)
    }

    /// The password, of the settings or of libpq's variable; one that stands elsewhere is libpq's alone.
    pub(super) fn password(&self) -> Option<Secret> {
        let password = self.password.clone().or_else(|| std::env::var("PGPASSWORD").ok().map(Secret::new));
        password.filter(|password| !password.expose().is_empty())
    }

    /// The database's name.
    pub(crate) fn database(&self) -> Option<&str> {
        self.get("PGDATABASE")
    }

    /// The same server, another database.
    pub(crate) fn with_database(&self, name: &str) -> Self {
        let mut other = self.clone();
        other.env.insert("PGDATABASE", name.to_owned());
        other
    }

    /// The same, under this name among the server's sessions.
    pub(crate) fn named(&self, application: &str) -> Self {
        let mut other = self.clone();
        other.env.insert("PGAPPNAME", application.to_owned());
        other
    }

    /// The same, held to the one server that answered where several are named.
    pub(crate) fn pinned(&self, host: &str, port: &str) -> Self {
        let mut other = self.clone();
        if self.get("PGHOST").is_some_and(|hosts| hosts.contains(',')) && self.get("PGHOSTADDR").is_none() {
            other.env.insert("PGHOST", host.to_owned());
            other.env.insert("PGPORT", port.to_owned());
        }
        other
    }

    /// How messages speak of it: `database "x" at host`, without any secret.
    pub(crate) fn describe(&self) -> String {
        match self.database() {
            Some(name) => format!("database {name:?}{}", self.place()),
            None => self.describe_server(),
        }
    }

    /// How messages speak of the server.
    pub(crate) fn describe_server(&self) -> String {
        format!("PostgreSQL{}", self.place())
    }

    fn place(&self) -> String {
        match (self.get("PGHOST"), self.get("PGPORT"), self.get("PGSERVICE")) {
            (Some(host), Some(port), _) => format!(" at {host}:{port}"),
            (Some(host), None, _) => format!(" at {host}"),
            (None, _, Some(service)) => format!(" of service {service}"),
            (None, Some(port), None) => format!(" at port {port}"),
            (None, None, None) => String::new(),
        }
    }

    /// Gives a client program the connection: all of it by environment, nothing by argument.
    pub(crate) fn give(&self, mut command: ToolCommand) -> ToolCommand {
        command = command.env("PGAPPNAME", "strongroom");
        for (name, value) in &self.env {
            command = command.env(name, value);
        }
        for (name, value) in [("PGCONNECT_TIMEOUT", "15")] {
            if self.get(name).is_none() {
                command = command.env(name, value);
            }
        }
        for name in ["PGSYSCONFDIR", "PGSERVICEFILE"] {
            command = command.pass_env(name);
        }
        match &self.password {
            Some(password) => command.secret_env("PGPASSWORD", password),
            // libpq's own way, when somebody already keeps it in our environment. It is no less of a
            // secret there.
            None => match std::env::var("PGPASSWORD") {
                Ok(password) => command.secret_env("PGPASSWORD", &Secret::new(password)),
                Err(_) => command.pass_env("PGPASSWORD").pass_env("PGPASSFILE"),
            },
        }
    }

    fn set(&mut self, parameter: &str, value: &str) -> Result<()> {
        if value.contains('\0') {
            return Err(wrong(parameter, "holds a NUL character"));
        }
        match PARAMETERS.iter().find(|(name, _)| *name == parameter) {
            Some((_, variable)) => {
                self.env.insert(variable, value.to_owned());
                Ok(())
            }
            None if parameter == "application_name" => Ok(()),
            None => Err(wrong(&format!("{parameter:?}"), "is not supported in a URI")),
        }
    }

    /// Takes a URI of libpq's form (PostgreSQL manual, 34.1.1.2) apart.
    fn take_url(&mut self, url: &str) -> Result<()> {
        let rest = url
            .strip_prefix("postgresql://")
            .or_else(|| url.strip_prefix("postgres://"))
            .ok_or_else(|| wrong("url", "does not begin with postgresql://"))?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, hosts) = match authority.rsplit_once('@') {
            Some((user, hosts)) => (user, hosts),
            None => ("", authority),
        };
        let (user, password) = match user.split_once(':') {
            Some((user, password)) => (user, Some(password)),
            None => (user, None),
        };
        if !user.is_empty() {
            self.set("user", &decode(user)?)?;
        }
        if let Some(password) = password.filter(|password| !password.is_empty()) {
            self.password = Some(Secret::new(decode(password)?));
        }
        self.take_hosts(hosts)?;
        if !path.is_empty() {
            self.set("dbname", &decode(path)?)?;
        }
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) =
                pair.split_once('=').ok_or_else(|| wrong("url", "has a parameter without ="))?;
            let (name, value) = (decode(name)?, decode(value)?);
            match name.as_str() {
                "password" => self.password = Some(Secret::new(value)),
                // JDBC's spelling, which libpq accepts too.
                "ssl" if value == "true" => self.set("sslmode", "require")?,
                name => self.set(name, &value)?,
            }
        }
        Ok(())
    }

    fn take_hosts(&mut self, hosts: &str) -> Result<()> {
        let (mut names, mut ports) = (Vec::new(), Vec::new());
        for host in hosts.split(',').filter(|_| !hosts.is_empty()) {
            let (name, port) = match host.strip_prefix('[') {
                Some(rest) => {
                    let (name, after) = rest
                        .split_once(']')
                        .ok_or_else(|| wrong("url", "has an address whose bracket is not closed"))?;
                    (name, after.strip_prefix(':').unwrap_or(after))
                }
                None => host.split_once(':').unwrap_or((host, "")),
            };
            if !port.is_empty() && port.parse::<u16>().is_err() {
                return Err(wrong("url", "has a port that is not a number up to 65535"));
            }
            names.push(decode(name)?);
            ports.push(port.to_owned());
        }
        if names.iter().any(|name| !name.is_empty()) {
            self.set("host", &names.join(","))?;
        }
        if ports.iter().any(|port| !port.is_empty()) {
            self.set("port", &ports.join(","))?;
        }
        Ok(())
    }
}

fn decode(text: &str) -> Result<String> {
    percent::decoded(text).map_err(|what| wrong("url", what))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(url: &str) -> Connection {
        PostgresConfig::from_url(url).unwrap().connection().unwrap()
    }

    #[test]
    fn a_uri_becomes_variables_and_a_hidden_password() {
        let url =
            "postgres://us%65r:p%40ss%3Aw%2Frd@db.example:6432/my%20db?sslmode=verify-full&sslrootcert=%2Fca";
        let found = connection(url);
        let expected = [
            ("PGDATABASE", "my db"),
            ("PGHOST", "db.example"),
            ("PGPORT", "6432"),
            ("PGSSLMODE", "verify-full"),
            ("PGSSLROOTCERT", "/ca"),
            ("PGUSER", "user"),
        ];
        assert_eq!(found.env, expected.map(|(name, value)| (name, value.to_owned())).into());
        assert_eq!(found.password.as_ref().unwrap().expose(), "p@ss:w/rd");
        assert!(!format!("{found:?} {}", found.describe()).contains("p@ss"));
        assert_eq!(found.describe(), "database \"my db\" at db.example:6432");
    }

    #[test]
    fn hosts_may_be_several_addresses_or_absent() {
        let found = connection("postgresql://h1:1,[::1]:2,h3/db");
        assert_eq!((found.get("PGHOST"), found.get("PGPORT")), (Some("h1,::1,h3"), Some("1,2,")));
        let found = connection("postgresql:///db?host=/var/run/postgresql");
        assert_eq!((found.get("PGHOST"), found.database()), (Some("/var/run/postgresql"), Some("db")));
        assert!(connection("postgresql://").env.is_empty());
    }

    #[test]
    fn wrong_uris_are_refused_without_showing_them() {
        for bad in [
            "mysql://hunter2@h/db",
            "postgres://u:hunter2%4@h/db",
            "postgres://u:hunter2%zz@h/db",
            "postgres://u:hunter2@h:port/db",
            "postgres://u:hunter2@[::1/db",
            "postgres://u:hunter2@h/db?nonsense=1",
            "postgres://u:hunter2@h/db?sslmode",
            "postgres://u:hunter2@h/d%00b",
            "postgres://u:hunter2%00@h/db",
            "postgres://u:hunter2@h/d%ffb",
        ] {
            let error = PostgresConfig::from_url(bad).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{bad}");
            assert!(!format!("{error} {error:?} {:?}", error.hint()).contains("hunter2"), "{bad}");
        }
    }

    #[test]
    fn parts_win_over_the_uri() {
        let mut config = PostgresConfig::from_url("postgres://a:b@c/d").unwrap();
        config.dbname = Some("x".to_owned());
        config.password = Some(Secret::new("y"));
        let found = config.connection().unwrap();
        assert_eq!(found.database(), Some("x"));
        assert_eq!(found.password.unwrap().expose(), "y");
        assert_eq!(config.default_name().as_deref(), Some("x"));
    }

    #[test]
    fn a_password_file_gives_its_first_line() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pw");
        std::fs::write(&file, "geheim wort\nrest").unwrap();
        let config = PostgresConfig { password_file: Some(file.clone()), ..PostgresConfig::default() };
        assert_eq!(config.connection().unwrap().password.unwrap().expose(), "geheim wort");
        std::fs::write(&file, "\n").unwrap();
        assert_eq!(config.connection().unwrap_err().kind(), ErrorKind::Config);
    }
}
