//! What can go wrong with a MySQL or MariaDB server, read from what its tools say.

use backup_core::{Error, ErrorKind};

use super::tools::Flavour;
use crate::tool::{ToolError, ToolVersion};

/// How a server or its tools failed us. Holds no secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MysqlError {
    /// The server refused the credentials.
    #[error("the server refused the credentials: {0}")]
    Credentials(String),
    /// The client program has no plugin for the way this user signs in.
    #[error("the client program cannot sign this user in: {0}")]
    Plugin(String),
    /// The user may not do what is needed.
    #[error("permission denied: {0}")]
    Permission(String),
    /// The server's certificate was refused, or the connection is not encrypted.
    #[error("the connection is not as safe as asked for: {0}")]
    Certificate(String),
    /// The server has no such database.
    #[error("there is no such database: {0}")]
    NoDatabase(String),
    /// Nobody answers, the server is starting or stopping, or the connection was lost.
    #[error("the server cannot be reached: {0}")]
    Unreachable(String),
    /// The server has no room.
    #[error("the server is out of space: {0}")]
    Full(String),
    /// A row or a statement is longer than the server takes.
    #[error("a row is longer than max_allowed_packet allows: {0}")]
    Packet(String),
    /// Tables changed while they were dumped.
    #[error("the schema changed during the dump: {0}")]
    Changed(String),
    /// Something that the dump holds means nothing to this server.
    #[error("the dump needs what this server does not know: {0}")]
    Unknown(String),
    /// The dump comes from the other family, and the server does not take all of it.
    #[error("the dump of {from} holds what {to} does not take: {said}")]
    NotPortable {
        /// The family of the dump.
        from: &'static str,
        /// That of the server.
        to: &'static str,
        /// What the client program said.
        said: String,
    },
    /// The server lacks the storage engine of a table.
    #[error("the server lacks a storage engine of the dump: {0}")]
    Engine(String),
    /// The connection was lost while rows were read.
    #[error("the connection was lost during the dump: {0}")]
    Lost(String),
    /// A view, or what it stands on, is broken.
    #[error("a view cannot be used: {0}")]
    View(String),
    /// Every `mysqldump` that was found is older than the server.
    #[error("server {server} is newer than every {tool} found ({found})")]
    ToolTooOld {
        /// The program.
        tool: String,
        /// The server's version.
        server: ToolVersion,
        /// What was found, and where.
        found: String,
    },
    /// The server answered something that is not understood.
    #[error("an answer of the server was not understood: {0}")]
    Answer(String),
    /// The last step of a restore was sent and its answer is lost.
    #[error("the tables may or may not be in place: {0}")]
    Unsettled(String),
    /// The target database holds something.
    #[error("database {0:?} already exists and is not empty")]
    Exists(String),
    /// Something of the dump has the name of something in the target.
    #[error("it already holds what the dump holds: {0}")]
    Clash(String),
    /// An account or grant of a dump was refused.
    #[error("an account or grant of the dump could not be made: {0}")]
    Account(String),
    /// A program failed in another way.
    #[error(transparent)]
    Tool(#[from] ToolError),
}

impl MysqlError {
    /// Finds the reason in what a client program said on standard error.
    pub(super) fn of_tool(error: ToolError) -> Self {
        let said = error.stderr();
        let Some((code, line)) = reason(said) else { return Self::Tool(error) };
        let has = |needle: &str| said.contains(needle);
        match code {
            // A connection that was cut in the middle: TLS says so in its own words.
            2026 if ["unexpected eof", "when dumping table", "reset by peer", "Broken pipe"]
                .into_iter()
                .any(has) =>
            {
                Self::Unreachable(line)
            }
            1045 | 1698 | 1862 | 1820 | 1821 | 3118 | 4151 => Self::Credentials(line),
            // Access to a database that is not there is refused, too, to those who may not look.
            1044 | 1142 | 1143 | 1227 | 1370 | 1410 | 1419 | 1449 | 3716 | 4092 => Self::Permission(line),
            1049 => Self::NoDatabase(line),
            1251 | 1524 | 2049 | 2054 | 2058 | 2059 | 2061 => Self::Plugin(line),
            2026 => Self::Certificate(line),
            1021 | 1114 | 1041 | 3019 | 3020 => Self::Full(line),
            _ if has("No space left on device")
                || has("Errcode: 28")
                || has("error: 28")
                || has("error 28")
                || has("errno: 28")
                || has("errno: 135") =>
            {
                Self::Full(line)
            }
            1153 | 2020 => Self::Packet(line),
            2002
            | 2003
            | 2005
            | 2006
            | 2012
            | 2013
            | 2055
            | 1040
            | 1053
            | 1077
            | 1129
            | 1152
            | 1158..=1161
            | 1184
            | 1203
            | 1226
            | 1290
            | 1317
            | 1927
            | 3032
            | 3159
            | 4031 => Self::Unreachable(line),
            1412 => Self::Changed(line),
            1356 => Self::View(line),
            1050 | 1304 | 1359 | 1537 => Self::Clash(line),
            1286 | 3161 => Self::Engine(line),
            1115 | 1273 | 1193 | 1231 | 1289 => Self::Unknown(line),
            _ => Self::Tool(error),
        }
    }

    /// The same kind of error with its code alone, where the text could repeat a secret.
    pub(super) fn without_statement(self) -> Self {
        let code = |said: &str| match reason(said) {
            Some((code, _)) => format!("error {code}"),
            None => "an error without a code".to_owned(),
        };
        match self {
            Self::Permission(said) => Self::Permission(code(&said)),
            Self::Unreachable(said) => Self::Unreachable(code(&said)),
            Self::Plugin(said) => Self::Plugin(code(&said)),
            Self::Full(said) => Self::Full(code(&said)),
            Self::Tool(error @ ToolError::Missing { .. }) => Self::Tool(error),
            Self::Tool(error) => Self::Account(code(error.stderr())),
            other => Self::Account(code(&other.to_string())),
        }
    }

    /// The same, of a program that dumps: what is gone was dropped while it was at work.
    pub(super) fn of_dump(error: ToolError) -> Self {
        match reason(error.stderr()) {
            Some((1146 | 1051 | 1054 | 1305 | 1347, line)) => Self::Changed(line),
            _ => match Self::of_tool(error) {
                // 2013 and its like: it had begun.
                Self::Unreachable(line) if line.contains("dumping table") => Self::Lost(line),
                other => other,
            },
        }
    }

    /// The same, of a dump of `from` in a server of `to`: what is refused there is not portable.
    pub(super) fn of_other_family(self, from: Flavour, to: Flavour) -> Self {
        if from == to {
            return self;
        }
        let said = match self {
            Self::Unknown(said) | Self::Engine(said) | Self::View(said) => said,
            Self::Tool(error) => match reason(error.stderr()) {
                Some((_, line)) => line,
                None => return Self::Tool(error),
            },
            other => return other,
        };
        Self::NotPortable { from: from.shown(), to: to.shown(), said }
    }

    /// The port's error, about this database or server.
    #[must_use]
    pub fn about(self, subject: &str) -> Error {
        let (kind, hint) = match &self {
            Self::Credentials(_) => (ErrorKind::Denied, "check user and password".to_owned()),
            Self::Plugin(_) => (
                ErrorKind::Unsupported,
                "install the client programs of the server's own family, or name their folder in tool_dirs"
                    .to_owned(),
            ),
            Self::Permission(_) => {
                (ErrorKind::Denied, "grant what is missing, or use another user".to_owned())
            }
            Self::Certificate(_) => {
                (ErrorKind::Denied, "check sslmode, sslrootcert and the host's name".to_owned())
            }
            Self::NoDatabase(_) => (ErrorKind::NotFound, "check the name of the database".to_owned()),
            Self::Unreachable(_) => {
                (ErrorKind::Unavailable, "check host, port and that the server runs".to_owned())
            }
            Self::Full(_) => (ErrorKind::Unavailable, "free some space on the server".to_owned()),
            Self::Packet(_) => (
                ErrorKind::Unsupported,
                "run on the server: SET GLOBAL max_allowed_packet = 1073741824; (and set it in its configuration)"
                    .to_owned(),
            ),
            Self::Changed(_) => (
                ErrorKind::Tool,
                "try again when no ALTER, DROP, RENAME or TRUNCATE TABLE runs; a table that is often remade can be \
                 excluded"
                    .to_owned(),
            ),
            Self::Unknown(_) => (
                ErrorKind::Unsupported,
                "restore to a server of the same family, as new as the one that was dumped".to_owned(),
            ),
            Self::NotPortable { from, .. } => (
                ErrorKind::Unsupported,
                format!("restore to a server of {from}, or change what is named in the source, or in the text by hand \
                         (restore to file:PATH)"),
            ),
            Self::Engine(_) => (
                ErrorKind::Unsupported,
                "install or enable the storage engine there, or restore to file:PATH and change ENGINE= by hand".to_owned(),
            ),
            Self::Lost(_) => (
                ErrorKind::Unavailable,
                "see the server's log; where a slow destination held the dump up for a minute, run on the server: SET \
                 GLOBAL net_write_timeout = 3600;"
                    .to_owned(),
            ),
            Self::View(_) => {
                (ErrorKind::Tool, "repair or drop the view, or exclude it by its name".to_owned())
            }
            Self::ToolTooOld { server, .. } => (
                ErrorKind::Unsupported,
                format!(
                    "install the client programs of MySQL {} (Debian: mysql-client-core), or name their folder in \
                     tool_dirs",
                    server.major()
                ),
            ),
            Self::Answer(_) => (ErrorKind::Unsupported, "check that it is a MySQL or MariaDB server".to_owned()),
            Self::Unsettled(_) => {
                (ErrorKind::Uncertain, "look what the target database holds before trying again".to_owned())
            }
            Self::Exists(_) => {
                (ErrorKind::Conflict, "choose a new name, or allow restoring into what exists".to_owned())
            }
            Self::Clash(_) => (
                ErrorKind::Conflict,
                "restore to a new name, or remove from the target what is to be replaced".to_owned(),
            ),
            Self::Account(_) => (
                ErrorKind::Tool,
                "restore without accounts, and make them by hand: they stand at the beginning of the dump"
                    .to_owned(),
            ),
            Self::Tool(error @ ToolError::Missing { .. }) => {
                return Error::from(error.clone()).with_hint(
                    "install the client programs (Debian: mariadb-client, or mysql-client-core for MySQL), or name \
                     their folder in tool_dirs",
                );
            }
            Self::Tool(error) => return Error::from(error.clone()),
        };
        Error::new(kind, subject, self.to_string()).with_hint(hint).with_source(self)
    }
}

/// The code of the first error that a program told, and its line. The forms are
/// `ERROR 1045 (28000): ...`, `Got error: 1045: ...`, `Error 2013: ...`, `... (1146)`.
fn reason(said: &str) -> Option<(u32, String)> {
    said.lines().map(str::trim).find_map(|line| {
        let number = |text: &str| {
            let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
            text[..digits].parse::<u32>().ok().filter(|code| (1000..10_000).contains(code))
        };
        let lower = line.to_ascii_lowercase();
        let told = ["error ", "error: "].iter().find_map(|word| {
            lower.match_indices(word).find_map(|(at, word)| number(&lower[at + word.len()..]))
        });
        let told = told.or_else(|| {
            let last = lower.strip_suffix(')')?.rsplit_once('(')?.1;
            number(last).filter(|_| lower.contains("couldn't execute"))
        });
        told.map(|code| (code, line.to_owned()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exited(stderr: &str) -> ToolError {
        ToolError::Exited { tool: "mariadb".to_owned(), status: 2, stderr: stderr.to_owned() }
    }

    #[test]
    fn what_tools_say_is_told_apart() {
        let table = [
            ("ERROR 1045 (28000): Access denied for user 'u'@'h' (using password: YES)", ErrorKind::Denied),
            (
                "mysqldump: Got error: 1045: \"Access denied for user\" when trying to connect",
                ErrorKind::Denied,
            ),
            ("ERROR 1049 (42000): Unknown database 'x'", ErrorKind::NotFound),
            (
                "mariadb-dump: Got error: 1049: \"Unknown database 'x'\" when selecting the database",
                ErrorKind::NotFound,
            ),
            ("ERROR 2002 (HY000): Can't connect to server on 'h' (115)", ErrorKind::Unavailable),
            (
                "mysqldump: Error 2013: Lost connection to server during query when dumping table `t` at row: 3",
                ErrorKind::Unavailable,
            ),
            (
                "mysqldump: Error 1412: Table definition has changed, please retry transaction when dumping table `t` at row: 0",
                ErrorKind::Tool,
            ),
            ("ERROR 1114 (HY000) at line 3: The table 't' is full", ErrorKind::Unavailable),
            (
                "ERROR 1153 (08S01) at line 30: Got a packet bigger than 'max_allowed_packet' bytes",
                ErrorKind::Unsupported,
            ),
            (
                "ERROR 1273 (HY000) at line 25: Unknown collation: 'utf8mb4_0900_ai_ci'",
                ErrorKind::Unsupported,
            ),
            (
                "ERROR 2026 (HY000): TLS/SSL error: self-signed certificate in certificate chain",
                ErrorKind::Denied,
            ),
            (
                "mariadb-dump: Error 2026: TLS/SSL error: unexpected eof while reading when dumping table `t` at row: 1811",
                ErrorKind::Unavailable,
            ),
            ("ERROR 1142 (42000): SELECT command denied", ErrorKind::Denied),
            (
                "mariadb-dump: Couldn't execute 'SHOW EVENTS': Access denied for user (1044)",
                ErrorKind::Denied,
            ),
            ("boom", ErrorKind::Tool),
        ];
        for (said, kind) in table {
            assert_eq!(MysqlError::of_tool(exited(said)).about("db").kind(), kind, "{said}");
        }
        let gone = "mysqldump: Couldn't execute 'show create table `t`': Table 'd.t' doesn't exist (1146)";
        assert!(matches!(MysqlError::of_dump(exited(gone)), MysqlError::Changed(_)));
        assert!(matches!(MysqlError::of_tool(exited(gone)), MysqlError::Tool(_)));
    }
}
