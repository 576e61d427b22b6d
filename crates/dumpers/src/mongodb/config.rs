//! How to reach a server: a connection string or its parts, and what to do there.

use std::path::PathBuf;

use backup_core::{Error, ErrorKind, Result};
use mongodb::options::ConnectionString;
use serde::Deserialize;

use crate::secret::Secret;

/// The variable that a password is taken from where no setting has one.
pub(super) const PASSWORD_VARIABLE: &str = "MONGODB_PASSWORD";

/// Settings of a MongoDB server, as a source or as a target.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MongoConfig {
    /// `mongodb://user@host:27017/database?authSource=admin&tls=true`, or `mongodb+srv://`; the parts
    /// below win over it.
    pub url: Option<Secret>,
    /// A host name or an address, or several separated by commas, each with `:port` where it has
    /// another port than the one below.
    pub host: Option<String>,
    /// The port; 27017 without it.
    pub port: Option<String>,
    /// The user.
    pub user: Option<String>,
    /// The password.
    pub password: Option<Secret>,
    /// A file whose first line is the password.
    pub password_file: Option<PathBuf>,
    /// The database to dump, or to restore into; without it every database.
    pub dbname: Option<String>,
    /// The database that knows the user (`authSource`, `authenticationDatabase`); without it the one
    /// of the URL, or `admin`.
    pub auth_database: Option<String>,
    /// `SCRAM-SHA-256`, `SCRAM-SHA-1`, `MONGODB-X509` or `PLAIN`; negotiated without it.
    pub auth_mechanism: Option<String>,
    /// Encrypt the connection.
    pub tls: Option<bool>,
    /// Certificates to trust, PEM.
    pub sslrootcert: Option<PathBuf>,
    /// The client's certificate and private key, PEM, in one file.
    pub sslcert: Option<PathBuf>,
    /// The name of the replica set.
    pub replica_set: Option<String>,
    /// How the dump becomes one moment; `auto` without it.
    pub consistency: Consistency,
    /// How many collections are read, or batches inserted, at a time; 4 without it.
    pub parallel: Option<u32>,
    /// Include users and roles, which belong to the whole server.
    pub users: bool,
    /// Restores: `from=to`, each a database or `database.collection`, where `*` stands for a part
    /// that stays the same.
    pub rename: Vec<String>,
    /// `false`: dump by `mongodump` and restore by `mongorestore`, which must be installed.
    pub native: Option<bool>,
    /// Folders to look for these programs in, before all others.
    pub tool_dirs: Vec<PathBuf>,
    /// Seconds without an answer after which the run fails; 900 without it, 0 for no limit.
    pub stall_seconds: Option<u64>,
}

/// How a dump becomes one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Consistency {
    /// A snapshot where the server keeps one and the dump will fit into its time, else the oplog; a
    /// server with neither is refused.
    #[default]
    Auto,
    /// Snapshot reads at one cluster time.
    Snapshot,
    /// Collections as they are read, and the oplog from before the first to after the last.
    Oplog,
    /// Each collection by itself: for a server without replica set that nobody writes to meanwhile.
    None,
}

impl MongoConfig {
    /// From a connection string alone.
    ///
    /// # Errors
    /// `Config`, without showing the string.
    pub fn from_url(url: &str) -> Result<Self> {
        let config = Self { url: Some(Secret::new(url)), ..Self::default() };
        config.connection_string()?;
        Ok(config)
    }

    /// A name for a source of this server: that of the database, or of the first host.
    #[must_use]
    pub fn default_name(&self) -> Option<String> {
        if let Some(name) = &self.dbname {
            return Some(name.clone());
        }
        let url = self.connection_string().ok()??;
        url.default_database
    }

    /// The database of the settings, or of the connection string.
    pub(super) fn database(&self) -> Result<Option<String>> {
        let database = match &self.dbname {
            Some(name) => Some(name.clone()),
            None => self.connection_string()?.and_then(|url| url.default_database),
        };
        match database {
            Some(name) if name.is_empty() || name.contains(['/', '\\', '.', ' ', '"', '$', '\0']) => {
                Err(wrong("dbname", format!("{name:?} cannot be a database's name")))
            }
            database => Ok(database),
        }
    }

    /// The connection string taken apart; nothing is looked up.
    pub(super) fn connection_string(&self) -> Result<Option<ConnectionString>> {
        let Some(url) = &self.url else { return Ok(None) };
        // The driver's own words may repeat parts of the string.
        ConnectionString::parse(url.expose())
            .map(Some)
            .map_err(|_| wrong("url", "is not a MongoDB connection string"))
    }

    /// The password of the settings, its file, or the environment.
    pub(super) fn secret(&self) -> Result<Option<Secret>> {
        if let Some(password) = &self.password {
            return Ok(Some(password.clone()));
        }
        if let Some(file) = &self.password_file {
            return Secret::of_file(file, |what| wrong("password_file", what)).map(Some);
        }
        let url = self.connection_string()?;
        let given = url.and_then(|url| url.credential).and_then(|credential| credential.password);
        Ok(given.or_else(|| std::env::var(PASSWORD_VARIABLE).ok()).map(Secret::new))
    }

    /// Whether the programs of MongoDB are to be used instead of the wire protocol.
    #[must_use]
    pub fn by_tools(&self) -> bool {
        self.native == Some(false)
    }

    /// How many at a time.
    pub(super) fn parallel(&self) -> usize {
        self.parallel.unwrap_or(4).clamp(1, 16) as usize
    }
}

pub(super) fn wrong(setting: &str, what: impl Into<String>) -> Error {
    Error::new(ErrorKind::Config, format!("MongoDB setting {setting}"), what).with_hint(
        "a connection string looks like mongodb://user@host:27017/database?authSource=admin&tls=true",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_and_never_shown() {
        for (url, database) in [
            ("mongodb://h", None),
            ("mongodb://h/shop", Some("shop")),
            ("mongodb://u:hunter2@h:1,i:2/shop?authSource=admin", Some("shop")),
            ("mongodb+srv://u@cluster.example.org/shop", Some("shop")),
        ] {
            let config = MongoConfig::from_url(url).unwrap();
            assert_eq!(config.database().unwrap().as_deref(), database, "{url}");
            assert!(!format!("{config:?}").contains("hunter2"));
        }
        for bad in
            ["mongodb://", "mongodb://u:hunter2@h:x/d", "mongodb://u:hunter2@h/a?authMechanism=hunter2"]
        {
            let error = MongoConfig::from_url(bad).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{bad}");
            assert!(!format!("{error} {error:?} {:?}", error.hint()).contains("hunter2"), "{bad}");
        }
    }

    #[test]
    fn names_that_no_database_has_are_refused() {
        for bad in ["", "a b", "a.b", "$x", "a/b"] {
            let config = MongoConfig { dbname: Some(bad.to_owned()), ..MongoConfig::default() };
            assert!(config.database().is_err(), "{bad:?}");
        }
    }
}
