//! How to reach a server: a URL or its parts, and the option file the client programs read.

use std::path::PathBuf;

use backup_core::{Error, ErrorKind, Result};
use serde::Deserialize;

use super::option_file::line;
use super::tools::Flavour;
use crate::percent;
use crate::secret::Secret;

/// Settings of a MySQL or MariaDB server, as a source or as a target. What is not set is left to
/// the client programs' own defaults; no option file but [`MysqlConfig::option_file`] is read.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MysqlConfig {
    /// `mysql://user@host:port/database?ssl-mode=...`; the parts below win over it.
    pub url: Option<Secret>,
    /// A host name or an address.
    pub host: Option<String>,
    /// The port.
    pub port: Option<String>,
    /// The server's socket file, instead of host and port.
    pub socket: Option<PathBuf>,
    /// The user.
    pub user: Option<String>,
    /// The password.
    pub password: Option<Secret>,
    /// A file whose first line is the password.
    pub password_file: Option<PathBuf>,
    /// An option file in the form of MySQL's own, read before all other settings.
    pub option_file: Option<PathBuf>,
    /// The database: to dump, or to create by a restore.
    pub dbname: Option<String>,
    /// Several databases to dump as one moment, by names or patterns, instead of `dbname`.
    pub databases: Vec<String>,
    /// Every database of the server but its own, as one moment.
    pub all_databases: bool,
    /// Of several databases, none with these names or patterns.
    pub exclude_databases: Vec<String>,
    /// `disable`, `prefer`, `require`, `verify-ca` or `verify-full`.
    pub sslmode: Option<String>,
    /// Certificates to trust, PEM.
    pub sslrootcert: Option<PathBuf>,
    /// The client's certificate, PEM.
    pub sslcert: Option<PathBuf>,
    /// The client's private key.
    pub sslkey: Option<PathBuf>,
    /// Accounts, roles and their grants, too: in a dump, and applied by a restore.
    pub accounts: bool,
    /// Note the position in the binary log, as a comment.
    pub binlog_position: bool,
    /// Lock every table of the server against writing while it is dumped, for engines without
    /// transactions.
    pub lock_all_tables: bool,
    /// Write binary columns as hexadecimal digits: twice as long, and readable anywhere.
    pub hex_blob: bool,
    /// What a restore does with the definers of views, triggers, routines and events; `auto`
    /// without it.
    pub definers: Definers,
    /// Folders to look for the client programs in, before all others.
    pub tool_dirs: Vec<PathBuf>,
    /// More arguments for the dump program or the client; recorded in the backup.
    pub extra_args: Vec<String>,
    /// Seconds without a byte after which a program is stopped; 900 without it, 0 for no limit.
    pub stall_seconds: Option<u64>,
}

/// What a restore does with the accounts that definitions run as.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Definers {
    /// Keep them if every one exists on the target's server and may be set, else the restoring user
    /// becomes the definer, and a warning says so.
    #[default]
    Auto,
    /// Keep them, whether they exist or not.
    Keep,
    /// The restoring user.
    Current,
}

/// How the connection is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encryption {
    Disable,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

impl Encryption {
    fn of(text: &str) -> Option<Self> {
        Some(match text.to_ascii_lowercase().replace('_', "-").as_str() {
            "disable" | "disabled" => Self::Disable,
            "prefer" | "preferred" => Self::Prefer,
            "require" | "required" => Self::Require,
            "verify-ca" => Self::VerifyCa,
            "verify-full" | "verify-identity" => Self::VerifyFull,
            _ => return None,
        })
    }
}

/// A server and perhaps a database, ready for the client programs.
#[derive(Debug, Clone, Default)]
pub(super) struct Connection {
    host: Option<String>,
    port: Option<u16>,
    socket: Option<PathBuf>,
    user: Option<String>,
    password: Option<Secret>,
    option_file: Option<PathBuf>,
    pub(super) database: Option<String>,
    pub(super) encryption: Option<Encryption>,
    authority: Option<PathBuf>,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
}

impl MysqlConfig {
    /// From a URL alone.
    ///
    /// # Errors
    /// `Config`, without showing the URL.
    pub fn from_url(url: &str) -> Result<Self> {
        let config = Self { url: Some(Secret::new(url)), ..Self::default() };
        config.connection()?;
        Ok(config)
    }

    /// A name for a source of this database: that of the database, or of the host.
    #[must_use]
    pub fn default_name(&self) -> Option<String> {
        let connection = self.connection().ok()?;
        connection.database.or_else(|| self.all_databases.then_some(connection.host).flatten())
    }

    /// Joins URL and parts, and reads the password file.
    pub(super) fn connection(&self) -> Result<Connection> {
        let mut connection = Connection::default();
        if let Some(url) = &self.url {
            connection.take_url(url.expose())?;
        }
        let text = |path: &Option<PathBuf>| path.as_deref().map(|path| path.display().to_string());
        for (name, value) in [
            ("host", self.host.clone()),
            ("port", self.port.clone()),
            ("socket", text(&self.socket)),
            ("user", self.user.clone()),
            ("dbname", self.dbname.clone()),
            ("option_file", text(&self.option_file)),
            ("sslmode", self.sslmode.clone()),
            ("sslrootcert", text(&self.sslrootcert)),
            ("sslcert", text(&self.sslcert)),
            ("sslkey", text(&self.sslkey)),
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
        if connection.socket.is_some() && (self.host.is_some() || self.port.is_some()) {
            return Err(wrong("socket", "is set beside host or port"));
        }
        Ok(connection)
    }
}

pub(super) fn wrong(setting: &str, what: impl Into<String>) -> Error {
    Error::new(ErrorKind::Config, format!("MySQL setting {setting}"), what)
        .with_hint("a URL looks like mysql://user@host:3306/database?ssl-mode=verify-full")
}

impl Connection {
    /// How messages speak of it: `database "x" at host`, without any secret.
    pub(super) fn describe(&self) -> String {
        let place = match (&self.socket, &self.host, self.port) {
            (Some(socket), _, _) => format!(" at {}", socket.display()),
            (None, Some(host), Some(port)) => format!(" at {host}:{port}"),
            (None, Some(host), None) => format!(" at {host}"),
            (None, None, Some(port)) => format!(" at port {port}"),
            (None, None, None) => String::new(),
        };
        match &self.database {
            Some(name) => format!("database {name:?}{place}"),
            None => format!("MySQL server{place}"),
        }
    }

    /// Whether the connection never leaves this machine's kernel.
    pub(super) fn is_local(&self) -> bool {
        self.socket.is_some()
    }

    /// The secrets that no message may repeat.
    pub(super) fn secrets(&self) -> Vec<Secret> {
        self.password().into_iter().collect()
    }

    /// The password, or the one that the client programs' own variable holds.
    fn password(&self) -> Option<Secret> {
        self.password.clone().or_else(|| std::env::var("MYSQL_PWD").ok().map(Secret::new))
    }

    /// The option file for a program of this kind: the connection and nothing else.
    pub(super) fn options(&self, flavour: Flavour) -> String {
        let mut text = String::new();
        if let Some(file) = &self.option_file {
            text.push_str(&format!("!include {}\n", file.display()));
        }
        text.push_str("[client]\n");
        if let Some(socket) = &self.socket {
            text.push_str(&line("socket", &socket.display().to_string()));
            text.push_str("protocol=socket\n");
        }
        if let Some(host) = &self.host {
            text.push_str(&line("host", host));
        }
        if let Some(port) = self.port {
            text.push_str(&format!("port={port}\n"));
            // The name localhost alone stands for the socket.
            text.push_str("protocol=tcp\n");
        }
        if let Some(user) = &self.user {
            text.push_str(&line("user", user));
        }
        if let Some(password) = self.password() {
            text.push_str(&line("password", password.expose()));
        }
        for (name, path) in
            [("ssl-ca", &self.authority), ("ssl-cert", &self.certificate), ("ssl-key", &self.key)]
        {
            if let Some(path) = path {
                text.push_str(&line(name, &path.display().to_string()));
            }
        }
        if let Some(encryption) = self.encryption {
            text.push_str(match (flavour, encryption) {
                (Flavour::MySql, Encryption::Disable) => "ssl-mode=DISABLED\n",
                (Flavour::MySql, Encryption::Prefer) => "ssl-mode=PREFERRED\n",
                (Flavour::MySql, Encryption::Require) => "ssl-mode=REQUIRED\n",
                (Flavour::MySql, Encryption::VerifyCa) => "ssl-mode=VERIFY_CA\n",
                (Flavour::MySql, Encryption::VerifyFull) => "ssl-mode=VERIFY_IDENTITY\n",
                (Flavour::MariaDb, Encryption::Disable) => "skip-ssl\n",
                (Flavour::MariaDb, Encryption::Prefer | Encryption::Require) => {
                    "ssl\nskip-ssl-verify-server-cert\n"
                }
                // It knows no check of the authority without one of the name.
                (Flavour::MariaDb, Encryption::VerifyCa | Encryption::VerifyFull) => {
                    "ssl\nssl-verify-server-cert\n"
                }
            });
        }
        text
    }

    fn set(&mut self, parameter: &str, value: &str) -> Result<()> {
        if value.contains(['\0', '\n', '\r']) {
            return Err(wrong(parameter, "holds a control character"));
        }
        let path = || {
            std::path::absolute(value)
                .map(Some)
                .map_err(|error| wrong(parameter, format!("is no path: {error}")))
        };
        match parameter {
            "host" => self.host = Some(value.to_owned()),
            "port" => {
                let port = value.parse().map_err(|_| wrong("port", "is not a number up to 65535"))?;
                self.port = Some(port);
            }
            "socket" => self.socket = path()?,
            "user" => self.user = Some(value.to_owned()),
            "dbname" => self.database = Some(value.to_owned()),
            "option_file" | "option-file" => self.option_file = path()?,
            "sslmode" | "ssl-mode" | "ssl_mode" => {
                let mode = Encryption::of(value).ok_or_else(|| {
                    wrong("sslmode", "is none of disable, prefer, require, verify-ca and verify-full")
                })?;
                self.encryption = Some(mode);
            }
            "sslrootcert" | "ssl-ca" | "ssl_ca" => self.authority = path()?,
            "sslcert" | "ssl-cert" | "ssl_cert" => self.certificate = path()?,
            "sslkey" | "ssl-key" | "ssl_key" => self.key = path()?,
            other => return Err(wrong(&format!("{other:?}"), "is not supported in a URL")),
        }
        Ok(())
    }

    fn take_url(&mut self, url: &str) -> Result<()> {
        let rest = url
            .strip_prefix("mysql://")
            .or_else(|| url.strip_prefix("mariadb://"))
            .ok_or_else(|| wrong("url", "begins neither with mysql:// nor with mariadb://"))?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = match rest.rsplit_once('@') {
            // A password may hold slashes.
            Some((user, place)) => {
                self.take_user(user)?;
                place.split_once('/').unwrap_or((place, ""))
            }
            None => rest.split_once('/').unwrap_or((rest, "")),
        };
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => {
                let (host, after) = rest
                    .split_once(']')
                    .ok_or_else(|| wrong("url", "has an address whose bracket is not closed"))?;
                (host, after.strip_prefix(':').unwrap_or(after))
            }
            None => authority.split_once(':').unwrap_or((authority, "")),
        };
        if !host.is_empty() {
            self.set("host", &decode(host)?)?;
        }
        if !port.is_empty() {
            self.set("port", port)?;
        }
        if !path.is_empty() {
            self.set("dbname", &decode(path)?)?;
        }
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) =
                pair.split_once('=').ok_or_else(|| wrong("url", "has a parameter without ="))?;
            let (name, value) = (decode(name)?, decode(value)?);
            match name.as_str() {
                "password" => self.password = Some(Secret::new(value)),
                name => self.set(name, &value)?,
            }
        }
        Ok(())
    }

    fn take_user(&mut self, text: &str) -> Result<()> {
        let (user, password) = match text.split_once(':') {
            Some((user, password)) => (user, Some(password)),
            None => (text, None),
        };
        if !user.is_empty() {
            self.set("user", &decode(user)?)?;
        }
        if let Some(password) = password.filter(|password| !password.is_empty()) {
            self.password = Some(Secret::new(decode(password)?));
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

    #[test]
    fn a_url_becomes_an_option_file_and_a_hidden_password() {
        let url =
            "mysql://us%65r:p%40ss%3Aw%2Frd@db.example:3307/my%20db?ssl-mode=VERIFY_IDENTITY&ssl-ca=%2Fca";
        let found = MysqlConfig::from_url(url).unwrap().connection().unwrap();
        let expected = "[client]\nhost=\"db.example\"\nport=3307\nprotocol=tcp\nuser=\"user\"\npassword=\"p@ss:w/rd\"\n\
                        ssl-ca=\"/ca\"\n";
        assert_eq!(found.options(Flavour::MySql), format!("{expected}ssl-mode=VERIFY_IDENTITY\n"));
        assert_eq!(found.options(Flavour::MariaDb), format!("{expected}ssl\nssl-verify-server-cert\n"));
        assert_eq!(found.database.as_deref(), Some("my db"));
        assert!(!format!("{found:?} {}", found.describe()).contains("p@ss"));
        assert_eq!(found.describe(), "database \"my db\" at db.example:3307");
    }

    #[test]
    fn wrong_urls_are_refused_without_showing_them() {
        for bad in [
            "postgres://hunter2@h/db",
            "mysql://u:hunter2%4@h/db",
            "mysql://u:hunter2@h:port/db",
            "mysql://u:hunter2@[::1/db",
            "mysql://u:hunter2@h/db?nonsense=1",
            "mysql://u:hunter2@h/db?ssl-mode",
            "mysql://u:hunter2@h/db?ssl-mode=maybe",
            "mysql://u:hunter2@h/d%00b",
            "mysql://u:hunter2%00@h/db",
            "mysql://u:hunter2@h/d%ffb",
            "mysql://u:hunter2@h/d%0ab",
        ] {
            let error = MysqlConfig::from_url(bad).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{bad}");
            assert!(!format!("{error} {error:?} {:?}", error.hint()).contains("hunter2"), "{bad}");
        }
    }

    #[test]
    fn parts_win_over_the_url() {
        let mut config = MysqlConfig::from_url("mariadb://a:b@c/d").unwrap();
        config.dbname = Some("x".to_owned());
        config.password = Some(Secret::new("y"));
        let found = config.connection().unwrap();
        assert_eq!(found.database.as_deref(), Some("x"));
        assert_eq!(found.password.unwrap().expose(), "y");
        assert_eq!(config.default_name().as_deref(), Some("x"));
    }

    #[test]
    fn a_password_file_gives_its_first_line() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pw");
        std::fs::write(&file, "geheim wort\nrest").unwrap();
        let config = MysqlConfig { password_file: Some(file.clone()), ..MysqlConfig::default() };
        assert_eq!(config.connection().unwrap().password.unwrap().expose(), "geheim wort");
        std::fs::write(&file, "\n").unwrap();
        assert_eq!(config.connection().unwrap_err().kind(), ErrorKind::Config);
    }
}
