//! The client programs of MySQL and MariaDB: told apart, versioned, and asked what they can do.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use backup_core::Context;

use super::error::MysqlError;
use super::option_file::OptionFile;
use crate::secret::Secret;
use crate::tool::{Places, ToolCommand, ToolError, ToolVersion, Waiting, capture};

/// Which of the two families a program or a server belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Flavour {
    MariaDb,
    MySql,
}

impl Flavour {
    /// From a server's version or a program's banner.
    pub(super) fn of(text: &str) -> Self {
        if text.to_ascii_lowercase().contains("mariadb") { Self::MariaDb } else { Self::MySql }
    }

    /// As an engine is called.
    pub(super) const fn engine(self) -> &'static str {
        match self {
            Self::MariaDb => "mariadb",
            Self::MySql => "mysql",
        }
    }

    /// As people write it.
    pub(super) const fn shown(self) -> &'static str {
        match self {
            Self::MariaDb => "MariaDB",
            Self::MySql => "MySQL",
        }
    }
}

/// A client program with what is known of it.
#[derive(Debug, Clone)]
pub(super) struct Client {
    pub(super) path: PathBuf,
    pub(super) flavour: Flavour,
    pub(super) version: ToolVersion,
    options: BTreeSet<String>,
}

/// Short calls answer within this or are stopped.
pub(super) const SHORT: Waiting = Waiting {
    stall: Duration::from_secs(120),
    grace: Duration::from_secs(5),
    kill_after: Duration::from_secs(2),
};

/// What makes dumps, by both of its names.
pub(super) const DUMP: [&str; 2] = ["mariadb-dump", "mysqldump"];
/// What runs statements, by both of its names.
pub(super) const CLIENT: [&str; 2] = ["mariadb", "mysql"];

impl Client {
    /// Whether `--help` names this long option.
    pub(super) fn knows(&self, option: &str) -> bool {
        self.options.contains(option)
    }

    /// The name of the program itself, whatever it was called by.
    pub(super) fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// The program with this option file. The file must outlive the program's start.
    pub(super) fn command(&self, file: &OptionFile, secrets: &[Secret]) -> ToolCommand {
        let command = ToolCommand::new(&self.path).arg(file.argument());
        secrets.iter().fold(command, ToolCommand::masking)
    }
}

/// All installed programs of these names, of each the newest first. An alias of a program that was
/// found already is passed over.
///
/// # Errors
/// `Missing`, or what the only program said.
pub(super) async fn installed(
    cx: &Context,
    places: &Places,
    names: [&str; 2],
) -> Result<Vec<Client>, MysqlError> {
    let mut paths: Vec<PathBuf> = Vec::new();
    let mut missing = None;
    for name in names {
        match places.all(name) {
            Ok(found) => paths.extend(found),
            Err(error) => missing = missing.or(Some(error)),
        }
    }
    let (mut seen, mut clients, mut failure) = (BTreeSet::new(), Vec::<Client>::new(), None);
    for path in paths {
        if !path.canonicalize().is_ok_and(|real| seen.insert(real)) {
            continue;
        }
        match client(cx, path).await {
            Ok(client) => clients.push(client),
            Err(error @ MysqlError::Tool(ToolError::Cancelled { .. })) => return Err(error),
            // One broken installation must not hide a good one.
            Err(error) => failure = Some(error),
        }
    }
    clients.sort_by(|a, b| b.version.cmp(&a.version));
    match (failure, missing) {
        (Some(error), _) if clients.is_empty() => Err(error),
        (_, Some(error)) if clients.is_empty() => Err(error.into()),
        _ => Ok(clients),
    }
}

async fn client(cx: &Context, path: PathBuf) -> Result<Client, MysqlError> {
    let ask = async |option: &str| {
        let command = ToolCommand::new(&path).args(["--no-defaults", option]);
        let said = capture(cx, &command, SHORT, None, 1024 * 1024).await?;
        Ok::<_, MysqlError>(String::from_utf8_lossy(&said).into_owned())
    };
    let banner = ask("--version").await?;
    let version =
        banner_version(&banner).ok_or_else(|| MysqlError::Answer(format!("{} --version", path.display())))?;
    let options = named_options(&ask("--help").await?);
    Ok(Client { flavour: Flavour::of(&banner), version, options, path })
}

/// The version of the distribution, which is not always the first number of the banner.
fn banner_version(banner: &str) -> Option<ToolVersion> {
    let after = ["Distrib ", " from ", "Ver "].iter().find_map(|word| banner.split_once(word));
    let rest = after.map_or(banner, |(_, after)| after);
    // What follows a hyphen is the packager's.
    ToolVersion::find(rest.split([',', ' ', '-']).next()?)
}

/// The long options that a `--help` names at the beginning of its lines.
fn named_options(help: &str) -> BTreeSet<String> {
    let mut options = BTreeSet::new();
    for line in help.lines() {
        let line = line.trim_start();
        let line = if line.starts_with('-') && line.as_bytes().get(2) == Some(&b',') {
            line[3..].trim_start()
        } else {
            line
        };
        if let Some(option) = line.strip_prefix("--") {
            let end = option.find(|c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '_'));
            options.insert(option[..end.unwrap_or(option.len())].replace('_', "-"));
        }
    }
    options
}

/// The dump program for a server: of the server's own family, the newest; of the other only where
/// there is none.
///
/// # Errors
/// `ToolTooOld` for a `mysqldump` of an older major version than a MySQL server.
pub(super) fn fitting(
    clients: Vec<Client>,
    server: Flavour,
    version: &ToolVersion,
) -> Result<Client, MysqlError> {
    let at = clients.iter().position(|client| client.flavour == server).unwrap_or(0);
    let found = clients.into_iter().nth(at).ok_or_else(|| MysqlError::Answer("no program".to_owned()))?;
    let own_mysql = server == Flavour::MySql && found.flavour == Flavour::MySql;
    if own_mysql && found.version.major() < version.major() {
        return Err(MysqlError::ToolTooOld {
            tool: found.name(),
            server: version.clone(),
            found: format!("{} at {}", found.version, found.path.display()),
        });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn banners_are_told_apart() {
        let table = [
            (
                "mysqldump  Ver 10.19 Distrib 10.11.19-MariaDB, for debian-linux-gnu (x86_64)",
                Flavour::MariaDb,
                "10.11.19",
            ),
            (
                "/usr/bin/mariadb-dump from 11.8.6-MariaDB, client 10.19 for debian-linux-gnu (x86_64)",
                Flavour::MariaDb,
                "11.8.6",
            ),
            ("mysqldump  Ver 9.7.4-2 for Linux on x86_64 ((Debian))", Flavour::MySql, "9.7.4"),
            (
                "mysqldump  Ver 8.0.36 for Linux on x86_64 (MySQL Community Server - GPL)",
                Flavour::MySql,
                "8.0.36",
            ),
            ("mysqldump  Ver 10.13 Distrib 5.7.44, for Linux (x86_64)", Flavour::MySql, "5.7.44"),
        ];
        for (banner, flavour, version) in table {
            assert_eq!(Flavour::of(banner), flavour, "{banner}");
            let found = banner_version(banner).unwrap();
            assert_eq!(found.to_string(), version, "{banner}");
        }
    }

    #[test]
    fn options_are_read_from_the_help() {
        let help = "Usage: x\n  -Q, --quote-names   Quote --names.\n  --column-statistics Add an ANALYZE\n      \
                    --indented=#\n  --set-gtid-purged[=name] \n  --source-data[=#]   This\nsandbox FALSE\n";
        let options = named_options(help);
        let expected = ["column-statistics", "indented", "quote-names", "set-gtid-purged", "source-data"];
        assert_eq!(options.into_iter().collect::<Vec<_>>(), expected);
    }
}
