//! What can go wrong with a PostgreSQL server, read from what its tools say.

use backup_core::{Error, ErrorKind};

use crate::publish::TAKEN_HINT;
use crate::tool::{ToolError, ToolVersion};

/// What helps against a standby that cancels long queries.
pub(super) const ADVICE: &str =
    "set hot_standby_feedback = on at the standby, or raise its max_standby_streaming_delay";

/// How a server or its tools failed us. Holds no secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PostgresError {
    /// The server refused the credentials.
    #[error("the server refused the credentials: {0}")]
    Credentials(String),
    /// The user may not do what is needed.
    #[error("permission denied: {0}")]
    Permission(String),
    /// The server's certificate was refused.
    #[error("the server's certificate was refused: {0}")]
    Certificate(String),
    /// The server has no such database.
    #[error("there is no such database: {0}")]
    NoDatabase(String),
    /// Nobody answers, or the server is starting or stopping.
    #[error("the server cannot be reached: {0}")]
    Unreachable(String),
    /// The server has no room.
    #[error("the server is out of space: {0}")]
    Full(String),
    /// Every `pg_dump` that was found is older than the server.
    #[error("server {server} is newer than every {tool} found ({found})")]
    ToolTooOld {
        /// The program.
        tool: String,
        /// The server's version.
        server: ToolVersion,
        /// What was found, and where.
        found: String,
    },
    /// A newer `pg_restore` cannot work in one transaction with this server.
    #[error("pg_restore {tool} cannot restore into an existing database of the older server {server}")]
    ToolTooNew {
        /// The program's version.
        tool: ToolVersion,
        /// The server's version.
        server: ToolVersion,
    },
    /// The server answered something that is not understood.
    #[error("an answer of the server was not understood: {0}")]
    Answer(String),
    /// The last step of a restore was sent and its answer is lost.
    #[error("the database may or may not have its name: {0}")]
    Unsettled(String),
    /// Roles were to be made, and it is not known whether they were.
    #[error("these roles may or may not have been made: {0}")]
    RolesUnsettled(String),
    /// The dump is of a newer kind than the program for this server reads.
    #[error("the dump is newer than what fits this server: {0}")]
    DumpTooNew(String),
    /// The session that held the snapshot of a dump is gone.
    #[error("the snapshot was lost: {0}")]
    SnapshotLost(String),
    /// Something that a dump over several connections cannot hold.
    #[error("a dump over several connections cannot hold {0}")]
    NotParallel(String),
    /// A standby had to choose between the dump and what the primary changed.
    #[error("the standby ended the dump for the sake of the primary's changes: {0}")]
    RecoveryConflict(String),
    /// Another session holds a lock for too long.
    #[error("a table stayed locked by another session: {0}")]
    LockTimeout(String),
    /// Something was dropped after it was listed.
    #[error("the database changed while it was being dumped: {0}")]
    Changed(String),
    /// The dump stood in the way of another session and gave way.
    #[error("the dump gave way to {0}")]
    GaveWay(String),
    /// A name or pattern fits nothing.
    #[error("nothing fits what is to be dumped: {0}")]
    NoMatch(String),
    /// The target database exists.
    #[error("the database already exists")]
    Exists,
    /// The server refused something in another way.
    #[error("the server says: {said}")]
    Server {
        /// Its code (PostgreSQL manual, appendix A).
        code: String,
        /// Its words.
        said: String,
    },
    /// A program failed in another way.
    #[error(transparent)]
    Tool(#[from] ToolError),
}

impl PostgresError {
    /// Finds the reason in what a client program said on standard error.
    pub(super) fn of_tool(error: ToolError) -> Self {
        Self::told(error.stderr()).unwrap_or(Self::Tool(error))
    }

    /// Finds the reason in what the server itself said, or by its code: its words may be of any language.
    pub(super) fn of_server(code: &str, said: String) -> Self {
        if let Some(found) = Self::told(&said) {
            return found;
        }
        match code {
            "28000" | "28P01" => Self::Credentials(said),
            "3D000" => Self::NoDatabase(said),
            "42501" => Self::Permission(said),
            "53100" => Self::Full(said),
            "53300" | "57P01" | "57P02" | "57P03" => Self::Unreachable(said),
            "55P03" => Self::LockTimeout(said),
            _ => Self::Server { code: code.to_owned(), said },
        }
    }

    /// The reason, where the words are known.
    fn told(said: &str) -> Option<Self> {
        let has = |needles: &[&str]| needles.iter().any(|needle| said.contains(needle));
        let line = || reason(said);
        if has(&[
            "password authentication failed",
            "no password supplied",
            "authentication failed",
            "no pg_hba.conf entry",
            "is not permitted to log in",
            "pg_hba.conf rejects",
        ]) || role_is_unknown(said)
        {
            return Some(Self::Credentials(line()));
        }
        if has(&["certificate verify failed", "does not match host name", "root certificate file"]) {
            return Some(Self::Certificate(line()));
        }
        if said.contains("due to conflict with recovery") {
            return Some(Self::RecoveryConflict(line()));
        }
        let locking = said.contains("Query was: LOCK TABLE");
        if said.contains("due to lock timeout") || (locking && said.contains("due to statement timeout")) {
            return Some(Self::LockTimeout(line()));
        }
        if (locking && said.contains("does not exist"))
            || has(&["could not open relation with OID", "cache lookup failed for"])
        {
            return Some(Self::Changed(line()));
        }
        if has(&["no matching tables were found", "no matching schemas were found"]) {
            return Some(Self::NoMatch(line()));
        }
        if said.contains("FATAL:  database \"") && has(&["\" does not exist"]) {
            return Some(Self::NoDatabase(line()));
        }
        if said.contains("unsupported version (") {
            return Some(Self::DumpTooNew(line()));
        }
        if has(&["No space left on device", "could not extend file"]) {
            return Some(Self::Full(line()));
        }
        if has(&["permission denied", "must be owner", "must be superuser"]) {
            return Some(Self::Permission(line()));
        }
        if has(&[
            "could not connect",
            "Connection refused",
            "could not translate host name",
            "timeout expired",
            "the database system is",
            "server closed the connection",
            "connection has been closed unexpectedly",
            "connection to server was lost",
            "terminating connection",
            "too many clients",
            "remaining connection slots",
            "could not receive data from server",
            "connection to server at",
            "connection to server on socket",
        ]) {
            return Some(Self::Unreachable(line()));
        }
        None
    }

    /// The port's error, about this database or server.
    #[must_use]
    pub fn about(self, subject: &str) -> Error {
        let (kind, hint) = match &self {
            Self::Credentials(_) => (ErrorKind::Denied, "check user and password".to_owned()),
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
            Self::ToolTooOld { server, .. } => {
                (ErrorKind::Unsupported, format!("install postgresql-client-{}", server.major()))
            }
            Self::ToolTooNew { server, .. } => (
                ErrorKind::Unsupported,
                format!("install postgresql-client-{}, or restore to a new database", server.major()),
            ),
            Self::Answer(_) => (ErrorKind::Unsupported, "check that it is a PostgreSQL server".to_owned()),
            Self::Unsettled(_) => {
                (ErrorKind::Uncertain, "look whether the database exists before trying again".to_owned())
            }
            Self::RolesUnsettled(_) => (
                ErrorKind::Uncertain,
                "look at the server's roles, and drop these if they are new, before trying again".to_owned(),
            ),
            Self::DumpTooNew(_) => {
                (ErrorKind::Unsupported, "restore to a server as new as the one that was dumped".to_owned())
            }
            Self::SnapshotLost(_) => (
                ErrorKind::Unavailable,
                "let nothing end the session whose application_name begins with 'strongroom snapshot', and try again"
                    .to_owned(),
            ),
            Self::NotParallel(_) => (ErrorKind::Unsupported, "leave jobs out for this source".to_owned()),
            Self::RecoveryConflict(_) => (ErrorKind::Unavailable, ADVICE.to_owned()),
            Self::LockTimeout(_) => (
                ErrorKind::Unavailable,
                "look for long transactions that change tables, or raise lock_timeout_seconds".to_owned(),
            ),
            Self::Changed(_) => (ErrorKind::Unavailable, "run it again".to_owned()),
            Self::GaveWay(_) => (
                ErrorKind::Unavailable,
                "run it again, at a time when no tables are altered; on_blocked = \"warn\" lets others wait"
                    .to_owned(),
            ),
            Self::NoMatch(_) => (
                ErrorKind::NotFound,
                "correct the names of tables and schemas; quote those with capitals".to_owned(),
            ),
            Self::Exists => (ErrorKind::Conflict, TAKEN_HINT.to_owned()),
            Self::Tool(error @ ToolError::Missing { .. }) => {
                return Error::from(error.clone())
                    .with_hint("install the PostgreSQL client programs, or name their folder in tool_dirs");
            }
            Self::Server { .. } => (ErrorKind::Tool, "look into the server's log".to_owned()),
            Self::Tool(error) => return Error::from(error.clone()),
        };
        Error::new(kind, subject, self.to_string()).with_hint(hint).with_source(self)
    }
}

/// `role "x" does not exist` while connecting; a restore says the same of owners, without `FATAL`.
fn role_is_unknown(said: &str) -> bool {
    said.lines()
        .any(|line| line.contains("FATAL:") && line.contains("role \"") && line.contains("does not exist"))
}

/// The line that says why: the last with an error, or the last at all.
fn reason(said: &str) -> String {
    let lines: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let marked = lines.iter().rev().find(|line| line.contains("FATAL:") || line.contains("error:"));
    marked.or(lines.last()).map_or_else(String::new, |line| (*line).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exited(stderr: &str) -> ToolError {
        ToolError::Exited { tool: "psql".to_owned(), status: 2, stderr: stderr.to_owned() }
    }

    #[test]
    fn what_tools_say_is_told_apart() {
        let at = "psql: error: connection to server at \"127.0.0.1\", port 1 failed: ";
        let table = [
            ("FATAL:  password authentication failed for user \"u\"", ErrorKind::Denied),
            ("fe_sendauth: no password supplied", ErrorKind::Denied),
            ("FATAL:  role \"nobody\" does not exist", ErrorKind::Denied),
            ("FATAL:  no pg_hba.conf entry for host", ErrorKind::Denied),
            ("SSL error: certificate verify failed", ErrorKind::Denied),
            ("root certificate file \"/x\" does not exist", ErrorKind::Denied),
            ("FATAL:  database \"x\" does not exist", ErrorKind::NotFound),
            ("Connection refused", ErrorKind::Unavailable),
            ("FATAL:  the database system is starting up", ErrorKind::Unavailable),
            ("FATAL:  sorry, too many clients already", ErrorKind::Unavailable),
        ];
        for (said, kind) in table {
            let error = PostgresError::of_tool(exited(&format!("{at}{said}"))).about("db");
            assert_eq!(error.kind(), kind, "{said}");
        }
        for (said, kind) in [
            ("canceling statement due to conflict with recovery", ErrorKind::Unavailable),
            ("terminating connection due to conflict with recovery", ErrorKind::Unavailable),
            ("no matching tables were found for pattern \"x\"", ErrorKind::NotFound),
            ("cache lookup failed for index 4711", ErrorKind::Unavailable),
        ] {
            let error = PostgresError::of_tool(exited(&format!("pg_dump: error: {said}"))).about("db");
            assert_eq!(error.kind(), kind, "{said}");
        }
        let lost =
            "pg_restore: error: error returned by PQputCopyData: SSL connection has been closed unexpectedly";
        assert_eq!(PostgresError::of_tool(exited(lost)).about("db").kind(), ErrorKind::Unavailable);
        let error = PostgresError::of_tool(exited("pg_restore: error: role \"owner\" does not exist"));
        assert!(matches!(error, PostgresError::Tool(_)), "{error}");
        let error = PostgresError::of_tool(exited("pg_dump: error: permission denied for table t"));
        assert_eq!(error.about("db").kind(), ErrorKind::Denied);
        assert_eq!(PostgresError::of_tool(exited("boom")).about("db").kind(), ErrorKind::Tool);
    }
}
