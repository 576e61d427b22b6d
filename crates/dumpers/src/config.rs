//! Settings of sources and targets, from URLs and from configuration files.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use backup_core::{Dumper, Error, ErrorKind, Inspector, Restorer, Result};
use serde::Deserialize;

use crate::command::{CommandConfig, CommandDumper, CommandRestorer};
use crate::files::FileRestorer;
use crate::firestore::{FirestoreConfig, FirestoreDumper, FirestoreInspector, FirestoreRestorer};
use crate::folder::{FolderConfig, FolderDumper, FolderRestorer, TarInspector};
use crate::mongodb::{
    MongoConfig, MongoDumper, MongoInspector, MongoRestorer, MongodumpDumper, MongorestoreRestorer,
};
use crate::mysql::{MysqlConfig, MysqlDumper, MysqlInspector, MysqlRestorer};
use crate::postgres::{
    ParallelInspector, PostgresClusterDumper, PostgresClusterInspector, PostgresConfig, PostgresDumper,
    PostgresInspector, PostgresRestorer,
};
use crate::redis::{RdbInspector, RedisConfig, RedisDumper, RedisRestorer};
use crate::sqlite::{
    SqliteBundleDumper, SqliteBundleInspector, SqliteConfig, SqliteDumper, SqliteInspector, SqliteRestorer,
};
use crate::stdin::{StdinConfig, StdinDumper};

/// What to back up.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
#[non_exhaustive]
#[allow(clippy::large_enum_variant, reason = "there is one of it per source or target")]
pub enum SourceConfig {
    /// A PostgreSQL database.
    Postgresql(PostgresConfig),
    /// Databases of a MySQL or MariaDB server.
    #[serde(alias = "mariadb")]
    Mysql(MysqlConfig),
    /// A SQLite database.
    Sqlite(SqliteConfig),
    /// A folder with all that is in it.
    Files(FolderConfig),
    /// A Redis or Valkey server, all of its databases.
    #[serde(alias = "valkey")]
    Redis(RedisConfig),
    /// A Firestore database.
    Firestore(FirestoreConfig),
    /// A MongoDB server, or one database of it.
    Mongodb(MongoConfig),
    /// Any program's output.
    Command(CommandConfig),
    /// Our own standard input.
    Stdin(StdinConfig),
}

/// Where to restore to.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
#[non_exhaustive]
#[allow(clippy::large_enum_variant, reason = "there is one of it per source or target")]
pub enum TargetConfig {
    /// A PostgreSQL database, created by the restore.
    Postgresql(PostgresConfig),
    /// A MySQL or MariaDB database, created by the restore, or each of a dump by its own name.
    #[serde(alias = "mariadb")]
    Mysql(MysqlConfig),
    /// A SQLite database file, created by the restore.
    Sqlite(SqliteConfig),
    /// A folder, created by the restore.
    Files(FolderConfig),
    /// A Redis or Valkey server, empty before the restore.
    #[serde(alias = "valkey")]
    Redis(RedisConfig),
    /// A Firestore database, or a document of one to restore below.
    Firestore(FirestoreConfig),
    /// A MongoDB server, or one database of it.
    Mongodb(MongoConfig),
    /// Any program's input.
    Command(CommandConfig),
    /// A file that gets the dump as it is.
    File(FileConfig),
}

/// Settings of a plain file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileConfig {
    /// The file that will exist.
    pub path: PathBuf,
}

impl SourceConfig {
    /// `postgresql://...`, `sqlite:path`, or `-` for standard input.
    ///
    /// # Errors
    /// `Config`, without showing what the URL holds.
    pub fn from_url(url: &str) -> Result<Self> {
        match Scheme::of(url) {
            Scheme::Postgres => PostgresConfig::from_url(url).map(Self::Postgresql),
            Scheme::Mysql => MysqlConfig::from_url(url).map(Self::Mysql),
            Scheme::Sqlite => path_of(url, "sqlite:").map(|path| Self::Sqlite(SqliteConfig::new(path))),
            Scheme::Files => path_of(url, "files:").map(|path| Self::Files(FolderConfig::new(path))),
            Scheme::Redis => RedisConfig::from_url(url).map(Self::Redis),
            Scheme::Firestore => FirestoreConfig::from_url(url).map(Self::Firestore),
            Scheme::Mongodb => MongoConfig::from_url(url).map(Self::Mongodb),
            Scheme::Stdin => Ok(Self::Stdin(StdinConfig::default())),
            Scheme::File | Scheme::Other => Err(unknown(
                "source",
                url,
                "postgresql://user@host/database, mysql://user@host/database, sqlite:path, files:folder, \
                 mongodb://user@host/database, redis://user@host, firestore://project/database or - for \
                 standard input",
            )),
        }
    }

    /// A name for the source, where it suggests one: the database's name or the file's stem. It is
    /// reduced to the letters a source name may have.
    #[must_use]
    pub fn default_name(&self) -> Option<String> {
        let name = match self {
            Self::Postgresql(config) => config.default_name()?,
            Self::Mysql(config) => config.default_name()?,
            Self::Sqlite(config) => config.path.file_stem()?.to_string_lossy().into_owned(),
            Self::Files(config) => config.path.file_name()?.to_string_lossy().into_owned(),
            Self::Redis(config) => config.default_name()?,
            Self::Mongodb(config) => config.default_name()?,
            Self::Command(config) => {
                let program = PathBuf::from(config.argv.first()?);
                program.file_stem()?.to_string_lossy().into_owned()
            }
            Self::Firestore(config) => config.default_name()?,
            Self::Stdin(_) => "stdin".to_owned(),
        };
        let fit = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
        let name: String = name.chars().map(fit).take(100).collect();
        let name = name.trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
        (!name.is_empty()).then(|| name.to_owned())
    }
}

impl TargetConfig {
    /// `postgresql://.../new_database`, `sqlite:path` or `file:path`.
    ///
    /// # Errors
    /// `Config`, without showing what the URL holds.
    pub fn from_url(url: &str) -> Result<Self> {
        match Scheme::of(url) {
            Scheme::Postgres => PostgresConfig::from_url(url).map(Self::Postgresql),
            Scheme::Mysql => MysqlConfig::from_url(url).map(Self::Mysql),
            Scheme::Sqlite => path_of(url, "sqlite:").map(|path| Self::Sqlite(SqliteConfig::new(path))),
            Scheme::Files => path_of(url, "files:").map(|path| Self::Files(FolderConfig::new(path))),
            Scheme::Redis => RedisConfig::from_url(url).map(Self::Redis),
            Scheme::Firestore => FirestoreConfig::from_url(url).map(Self::Firestore),
            Scheme::Mongodb => MongoConfig::from_url(url).map(Self::Mongodb),
            Scheme::File => path_of(url, "file:").map(|path| Self::File(FileConfig { path })),
            Scheme::Stdin | Scheme::Other => {
                let usable = "postgresql://user@host/new_database, mysql://user@host/new_database, sqlite:path, \
                    files:folder, mongodb://user@host/new_database, redis://user@host, \
                    firestore://project/database or file:path";
                Err(unknown("target", url, usable))
            }
        }
    }
}

/// A URL as the keys of a configuration: `type` and what takes the rest of the URL.
///
/// # Errors
/// `Config`, without showing what the URL holds.
pub fn keys_of_url(url: &str) -> Result<Vec<(&'static str, String)>> {
    let path = |scheme| path_of(url, scheme).map(|path| path.to_string_lossy().into_owned());
    Ok(match Scheme::of(url) {
        Scheme::Postgres => vec![("type", "postgresql".to_owned()), ("url", url.to_owned())],
        Scheme::Mysql => vec![("type", "mysql".to_owned()), ("url", url.to_owned())],
        Scheme::Sqlite => vec![("type", "sqlite".to_owned()), ("path", path("sqlite:")?)],
        Scheme::Files => vec![("type", "files".to_owned()), ("path", path("files:")?)],
        Scheme::Redis => vec![("type", "redis".to_owned()), ("url", url.to_owned())],
        Scheme::Firestore => vec![("type", "firestore".to_owned()), ("url", url.to_owned())],
        Scheme::Mongodb => vec![("type", "mongodb".to_owned()), ("url", url.to_owned())],
        Scheme::File => vec![("type", "file".to_owned()), ("path", path("file:")?)],
        Scheme::Stdin => vec![("type", "stdin".to_owned())],
        Scheme::Other => return Err(unknown("url", url, "that of a database")),
    })
}

/// A dumper for a source. Nothing is connected yet.
///
/// # Errors
/// `Config` for settings that cannot work.
pub fn open_source(config: &SourceConfig) -> Result<Arc<dyn Dumper>> {
    Ok(match config {
        SourceConfig::Postgresql(config) if config.is_whole_server() => {
            Arc::new(PostgresClusterDumper::new(config)?)
        }
        SourceConfig::Postgresql(config) => Arc::new(PostgresDumper::new(config)?),
        SourceConfig::Mysql(config) => Arc::new(MysqlDumper::new(config)?),
        SourceConfig::Sqlite(config) if config.paths.is_empty() => Arc::new(SqliteDumper::new(config)),
        SourceConfig::Sqlite(config) => Arc::new(SqliteBundleDumper::new(config)),
        SourceConfig::Files(config) => Arc::new(FolderDumper::new(config)),
        SourceConfig::Redis(config) => Arc::new(RedisDumper::new(config)?),
        SourceConfig::Firestore(config) => Arc::new(FirestoreDumper::new(config)?),
        SourceConfig::Mongodb(config) if config.by_tools() => Arc::new(MongodumpDumper::new(config)?),
        SourceConfig::Mongodb(config) => Arc::new(MongoDumper::new(config)?),
        SourceConfig::Command(config) => Arc::new(CommandDumper::new(config.clone())),
        SourceConfig::Stdin(config) => Arc::new(StdinDumper::new(config.clone())),
    })
}

/// A restorer for a target. Nothing is connected yet.
///
/// # Errors
/// `Config` for settings that cannot work.
pub fn open_target(config: &TargetConfig) -> Result<Arc<dyn Restorer>> {
    Ok(match config {
        TargetConfig::Postgresql(config) => Arc::new(PostgresRestorer::new(config)?),
        TargetConfig::Mysql(config) => Arc::new(MysqlRestorer::new(config)?),
        TargetConfig::Sqlite(config) => Arc::new(SqliteRestorer::new(config)),
        TargetConfig::Files(config) => Arc::new(FolderRestorer::new(config)),
        TargetConfig::Redis(config) => Arc::new(RedisRestorer::new(config)?),
        TargetConfig::Firestore(config) => Arc::new(FirestoreRestorer::new(config)?),
        TargetConfig::Mongodb(config) if config.by_tools() => Arc::new(MongorestoreRestorer::new(config)?),
        TargetConfig::Mongodb(config) => Arc::new(MongoRestorer::new(config)?),
        TargetConfig::Command(config) => Arc::new(CommandRestorer::new(config.clone())),
        TargetConfig::File(config) => Arc::new(FileRestorer::new(&config.path)),
    })
}

/// The readers of every format that is understood here. What can be checked only as a whole and is too
/// large for memory is written to `scratch`, if there is one, as [`SqliteInspector`] says.
#[must_use]
pub fn inspectors(scratch: Option<&Path>) -> Vec<Arc<dyn Inspector>> {
    vec![
        Arc::new(PostgresInspector),
        Arc::new(PostgresClusterInspector),
        Arc::new(MysqlInspector),
        Arc::new(ParallelInspector),
        Arc::new(SqliteInspector::with_scratch(scratch)),
        Arc::new(SqliteBundleInspector::with_scratch(scratch)),
        Arc::new(RdbInspector),
        Arc::new(FirestoreInspector),
        Arc::new(TarInspector),
        Arc::new(MongoInspector),
    ]
}

enum Scheme {
    Postgres,
    Mysql,
    Sqlite,
    Files,
    Redis,
    Firestore,
    Mongodb,
    File,
    Stdin,
    Other,
}

impl Scheme {
    fn of(url: &str) -> Self {
        match url.split_once(':').map(|(scheme, _)| scheme) {
            Some("postgres" | "postgresql") => Self::Postgres,
            Some("mysql" | "mariadb") => Self::Mysql,
            Some("sqlite") => Self::Sqlite,
            Some("firestore") => Self::Firestore,
            Some("mongodb" | "mongodb+srv") => Self::Mongodb,
            Some("file") => Self::File,
            Some("files") => Self::Files,
            Some(_) if RedisConfig::is_url(url) => Self::Redis,
            None if url == "-" => Self::Stdin,
            _ => Self::Other,
        }
    }
}

/// The path behind `scheme:`, as it stands: `sqlite:a b.db` is relative, `sqlite:/a` and
/// `sqlite:///a` are absolute. Nothing is percent-decoded: a path is no URL.
fn path_of(url: &str, scheme: &str) -> Result<PathBuf> {
    let rest = url.strip_prefix(scheme).unwrap_or(url);
    let path = match rest.strip_prefix("//") {
        Some(path) if path.starts_with('/') => path,
        Some(_) => {
            return Err(unknown(
                "path",
                scheme,
                "sqlite:relative.db, sqlite:/absolute.db or sqlite:///absolute.db",
            ));
        }
        None => rest,
    };
    if path.is_empty() || path.contains('\0') {
        return Err(unknown("path", scheme, "a path after the colon"));
    }
    Ok(PathBuf::from(path))
}

/// A refusal that repeats the scheme and nothing behind it.
fn unknown(what: &str, url: &str, usable: &str) -> Error {
    let shown = match url.split_once(':') {
        Some((scheme, _)) if scheme.len() <= 20 && scheme.chars().all(|c| c.is_ascii_alphanumeric()) => {
            format!("{scheme}:")
        }
        _ => "this".to_owned(),
    };
    Error::new(ErrorKind::Config, what.to_owned(), format!("{shown} is not usable here"))
        .with_hint(format!("use {usable}"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn urls_name_sources() {
        for (url, expected) in [
            ("sqlite:/a/b.db", "/a/b.db"),
            ("sqlite:///a/b.db", "/a/b.db"),
            ("sqlite:rel/a b%20.db", "rel/a b%20.db"),
        ] {
            match SourceConfig::from_url(url) {
                Ok(SourceConfig::Sqlite(config)) => assert_eq!(config.path, Path::new(expected)),
                other => panic!("{url}: {other:?}"),
            }
        }
        assert!(matches!(SourceConfig::from_url("-"), Ok(SourceConfig::Stdin(_))));
        assert!(matches!(SourceConfig::from_url("postgres://h/d"), Ok(SourceConfig::Postgresql(_))));
        for url in ["redis://u@h:1", "rediss://h", "valkey://h/", "redis+unix:///s"] {
            assert!(matches!(SourceConfig::from_url(url), Ok(SourceConfig::Redis(_))), "{url}");
            assert!(matches!(TargetConfig::from_url(url), Ok(TargetConfig::Redis(_))), "{url}");
        }
        for url in ["mysql://h/d", "mariadb://h/d"] {
            assert!(matches!(SourceConfig::from_url(url), Ok(SourceConfig::Mysql(_))));
            assert!(matches!(TargetConfig::from_url(url), Ok(TargetConfig::Mysql(_))));
        }
        assert!(matches!(SourceConfig::from_url("files:/x"), Ok(SourceConfig::Files(_))));
        assert!(matches!(TargetConfig::from_url("files:/x"), Ok(TargetConfig::Files(_))));
        assert!(matches!(TargetConfig::from_url("file:/x"), Ok(TargetConfig::File(_))));
        for bad in ["", "x", "oracle://u:hunter2@h/d", "sqlite:", "sqlite://host/x", "hunter2:y@h"] {
            let error = SourceConfig::from_url(bad).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{bad}");
        }
        let error = SourceConfig::from_url("oracle://u:hunter2@h/d").unwrap_err();
        assert!(!format!("{error:?} {:?}", error.hint()).contains("hunter2"));
    }

    #[test]
    fn urls_and_keys_mean_the_same() {
        for url in ["postgres://u@h:5/d?sslmode=require", "sqlite:/a b.db", "-"] {
            let keys = keys_of_url(url).unwrap();
            let keys = serde_json::json!(std::collections::BTreeMap::from_iter(keys));
            let source: SourceConfig = serde_json::from_value(keys).unwrap();
            assert_eq!(format!("{source:?}"), format!("{:?}", SourceConfig::from_url(url).unwrap()));
        }
        let error = keys_of_url("nosql://u:hunter2@h").unwrap_err();
        assert!(!format!("{error:?}").contains("hunter2"));
    }

    #[test]
    fn names_are_suggested_and_usable() {
        for (url, expected) in [
            ("sqlite:/a/shop.db", Some("shop")),
            ("sqlite:/a/my shop.sqlite", Some("my_shop")),
            ("postgres://h/orders", Some("orders")),
            ("postgres://h/%20odd", Some("odd")),
            ("mysql://h/shop", Some("shop")),
            ("postgres://h", None),
            ("-", Some("stdin")),
        ] {
            let name = SourceConfig::from_url(url).unwrap().default_name();
            assert_eq!(name.as_deref(), expected, "{url}");
            assert!(name.is_none_or(|name| name.parse::<backup_core::SourceName>().is_ok()));
        }
    }

    #[test]
    fn settings_are_read_strictly() {
        let read = |json: &str| serde_json::from_str::<SourceConfig>(json);
        assert!(
            read(r#"{"type":"postgresql","url":"postgres://h/d","extra_args":["--no-comments"]}"#).is_ok()
        );
        assert!(read(r#"{"type":"sqlite","path":"a.db"}"#).is_ok());
        assert!(read(r#"{"type":"sqlite","paths":["a.db","b/*.db"],"lock_seconds":3}"#).is_ok());
        assert!(read(r#"{"type":"sqlite","path":"a.db","paths":["b.db"]}"#).is_err());
        assert!(read(r#"{"type":"valkey","host":"h","replace":true}"#).is_ok());
        assert!(read(r#"{"type":"command","argv":["true"],"env":{"A":"b"}}"#).is_ok());
        assert!(read(r#"{"type":"stdin","allow_empty":true}"#).is_ok());
        for bad in [
            r#"{"type":"sqlite","path":"a.db","pth":1}"#,
            r#"{"type":"sqlite"}"#,
            r#"{"type":"postgresql","pasword":"x"}"#,
            r#"{"type":"nosql"}"#,
            r#"{"path":"a.db"}"#,
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
        let config = read(r#"{"type":"postgresql","url":"postgres://u:hunter2@h/d","password":"hunter3"}"#);
        let shown = format!("{:?}", config.unwrap());
        assert!(!shown.contains("hunter"), "{shown}");
    }
}
