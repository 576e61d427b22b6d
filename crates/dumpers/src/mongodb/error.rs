//! What a server answers, told apart.

use backup_core::{Error, ErrorKind, Retry};
use mongodb::error::{Error as DriverError, ErrorKind as DriverKind};

use super::archive::ArchiveError;
use crate::secret::{Secret, masked};
use crate::tool::ToolError;

/// The most of a server's own words that a message repeats.
const SAID_MAX: usize = 400;

/// Where `mongodump` and `mongorestore` come from.
const PACKAGE: &str = "install mongodb-database-tools from MongoDB's own repository (it is in no Debian release), name \
                       their folder in tool_dirs, or leave native = false out: they are not needed";

/// What can go wrong between us and a server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MongoError {
    /// User or password were refused.
    #[error("the server refuses the user or the password: {0}")]
    Credentials(String),
    /// The user may not do what is needed.
    #[error("the user may not {what}: {said}")]
    Permission {
        /// What was tried.
        what: String,
        /// The server's words.
        said: String,
    },
    /// A certificate was refused, or could not be read.
    #[error("no encrypted connection: {0}")]
    Certificate(String),
    /// Nobody answers.
    #[error("the server cannot be reached: {0}")]
    Unreachable(String),
    /// The connection was lost in the middle.
    #[error("the connection was lost: {0}")]
    Lost(String),
    /// No answer within the limit.
    #[error("the server did not answer within {0} s")]
    Stalled(u64),
    /// The server does not keep the snapshot that long.
    #[error("the server no longer keeps the moment of the dump: {0}")]
    SnapshotGone(String),
    /// A collection was dropped, renamed or replaced under the dump.
    #[error("{0} was dropped, renamed or replaced during the dump")]
    Changed(String),
    /// The oplog no longer reaches back to the beginning of the dump.
    #[error("the oplog was overwritten before the dump ended")]
    OplogOverrun,
    /// Something in the oplog that a restore could not apply.
    #[error("{0} happened during the dump, which a restore could not repeat")]
    Unrepeatable(String),
    /// A restore met changes of a collection that it does not have.
    #[error("the backup's oplog changes {0}, which the backup does not hold")]
    Unknown(String),
    /// Users without what they need to sign in again.
    #[error("{0}: they cannot be backed up")]
    Withheld(&'static str),
    /// No way to read everything at one moment.
    #[error("{0}")]
    NoMoment(String),
    /// No space left.
    #[error("the server has no space left: {0}")]
    Full(String),
    /// Not an archive.
    #[error("not a whole mongodump archive: {0}")]
    Archive(#[from] ArchiveError),
    /// Something already exists.
    #[error("{0}")]
    Exists(String),
    /// The names after a restore do not fit.
    #[error("{0}")]
    Names(String),
    /// Documents that the target refused.
    #[error("the target refused documents of {0}: {1}")]
    Refused(String, String),
    /// The server says that it cannot.
    #[error("{what} failed: {said} (code {code})")]
    Server {
        /// What was tried.
        what: String,
        /// The server's number for it.
        code: i32,
        /// The server's words.
        said: String,
    },
    /// An answer that makes no sense.
    #[error("the server's answer to {0} is not understood")]
    Answer(String),
    /// What `mongodump` or `mongorestore` cannot do, and what helps.
    #[error("{0}")]
    NotByTool(String, &'static str),
    /// Every program of that name is older than what is needed of it.
    #[error("{tool} {oldest} or newer is needed, and only {found} was found")]
    ToolTooOld {
        /// The program.
        tool: String,
        /// The oldest that serves.
        oldest: &'static str,
        /// The newest that was found, and where.
        found: String,
    },
    /// A program failed.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// Somebody asked to stop.
    #[error("cancelled on request")]
    Cancelled,
}

impl MongoError {
    /// What the driver reports about `what`, with every secret hidden.
    pub(super) fn of(what: &str, error: &DriverError, secrets: &[Secret]) -> Self {
        let said = |text: &str| {
            let text = masked(text, secrets);
            text.chars().take(SAID_MAX).collect::<String>()
        };
        match error.kind.as_ref() {
            DriverKind::Authentication { message, .. } => Self::Credentials(said(message)),
            DriverKind::Command(command) => Self::of_code(what, command.code, said(&command.message)),
            DriverKind::InvalidTlsConfig { message, .. } => Self::Certificate(said(message)),
            DriverKind::ServerSelection { message, .. } => {
                // The driver lists what each server said; a handshake that failed is among it.
                let lower = message.to_lowercase();
                if ["certificate", "tls", "handshake"].iter().any(|word| lower.contains(word)) {
                    Self::Certificate(said(message))
                } else {
                    Self::Unreachable(said(message))
                }
            }
            DriverKind::DnsResolve { message, .. } => Self::Unreachable(said(message)),
            DriverKind::Io(io) => {
                let text = io.to_string();
                if text.to_lowercase().contains("certificate") {
                    Self::Certificate(said(&text))
                } else {
                    Self::Lost(said(&text))
                }
            }
            DriverKind::ConnectionPoolCleared { message, .. } => {
                if message.to_lowercase().contains("authentication") {
                    Self::Credentials(said(message))
                } else {
                    Self::Lost(said(message))
                }
            }
            _ => Self::Server { what: what.to_owned(), code: 0, said: said(&error.to_string()) },
        }
    }

    /// By the server's number (`src/mongo/base/error_codes.yml` of its source).
    pub(super) fn of_code(what: &str, code: i32, said: String) -> Self {
        let changed = || what.strip_prefix("reading ").unwrap_or(what).to_owned();
        match code {
            11 | 18 => Self::Credentials(said),
            13 => Self::Permission { what: what.to_owned(), said },
            // SnapshotTooOld, SnapshotUnavailable
            239 | 246 => Self::SnapshotGone(said),
            // NamespaceNotFound, CursorNotFound, QueryPlanKilled, CollectionUUIDMismatch
            26 | 43 | 175 | 361 => Self::Changed(changed()),
            // CappedPositionLost
            136 => Self::OplogOverrun,
            // OutOfDiskSpace
            14031 => Self::Full(said),
            // Interrupted at shutdown, primary stepped down, not primary, host unreachable
            6 | 7 | 89 | 91 | 189 | 10107 | 11600 | 11602 | 13435 | 13436 => Self::Lost(said),
            _ => Self::Server { what: what.to_owned(), code, said },
        }
    }

    /// Whether the server said no, so that what was asked for was surely not done. A lost connection,
    /// a time limit or a write concern that was not met leave it open.
    pub(super) fn is_refusal(&self) -> bool {
        match self {
            // MaxTimeMSExpired, WriteConcernFailed, UnsatisfiableWriteConcern, ExceededTimeLimit; 0 is the driver's own
            Self::Server { code, .. } => !matches!(code, 0 | 50 | 64 | 100 | 262),
            Self::Permission { .. } | Self::Full(_) | Self::Exists(_) => true,
            _ => false,
        }
    }

    /// The port's error, about this server or database.
    #[must_use]
    pub fn about(self, subject: &str) -> Error {
        let (kind, hint) = match &self {
            Self::Cancelled => return Error::cancelled(subject),
            Self::Credentials(_) => (
                ErrorKind::Denied,
                "check user, password and the database that knows the user (auth_database)",
            ),
            Self::Permission { .. } => (
                ErrorKind::Denied,
                "grant the role `backup` on admin, or `read` on the database, to the user",
            ),
            Self::Certificate(_) => (ErrorKind::Denied, "check tls, sslrootcert and the host's name"),
            Self::Unreachable(_) => (ErrorKind::Unavailable, "check host, port and that the server runs"),
            Self::Lost(_) => (ErrorKind::Unavailable, "run it again when the server answers"),
            Self::Stalled(_) => {
                (ErrorKind::TimedOut, "look what the server is busy with, or raise stall_seconds")
            }
            Self::SnapshotGone(_) => (
                ErrorKind::Unavailable,
                "set consistency = \"oplog\", or raise the server's minSnapshotHistoryWindowInSeconds",
            ),
            Self::Changed(_) => {
                (ErrorKind::Unavailable, "run it again; exclude collections that come and go all the time")
            }
            Self::OplogOverrun => (
                ErrorKind::Unavailable,
                "enlarge the oplog (replSetResizeOplog), or run when less is written",
            ),
            Self::Unrepeatable(_) => (
                ErrorKind::Unavailable,
                "run it again when no such change is made, exclude the collection, or set consistency = \"snapshot\"",
            ),
            Self::Unknown(_) => (ErrorKind::Integrity, "use another backup"),
            Self::Withheld(_) => (
                ErrorKind::Unsupported,
                "leave users out, and keep a script that makes them; MongoDB's own server shows them to the role \
                 `backup` on admin",
            ),
            Self::NoMoment(_) => (
                ErrorKind::Unsupported,
                "make the server a replica set of one, or set consistency = \"none\" if nobody writes meanwhile",
            ),
            Self::Full(_) => (ErrorKind::Unavailable, "free some space on the server"),
            Self::Archive(ArchiveError::Version(_)) => {
                (ErrorKind::Unsupported, "use a newer version of this program")
            }
            Self::Archive(_) => (ErrorKind::Integrity, "use another backup"),
            Self::Exists(_) => (
                ErrorKind::Conflict,
                "choose a database that does not exist, or allow restoring into what exists",
            ),
            Self::Names(_) => (ErrorKind::Config, "choose other rules in rename, or another target"),
            Self::Refused(..) => (ErrorKind::Tool, "see what the server says"),
            Self::Server { .. } => (ErrorKind::Tool, "see what the server says, and its log"),
            Self::Answer(_) => (ErrorKind::Unsupported, "check that it is a MongoDB server"),
            Self::NotByTool(_, hint) => (ErrorKind::Unsupported, *hint),
            Self::ToolTooOld { .. } => (ErrorKind::Unsupported, PACKAGE),
            Self::Tool(error @ ToolError::Missing { .. }) => {
                return Error::from(error.clone()).with_hint(PACKAGE);
            }
            Self::Tool(error) => return Error::from(error.clone()),
        };
        let retry = match &self {
            Self::Changed(_) | Self::OplogOverrun | Self::Unrepeatable(_) => Some(Retry::WholeRun),
            Self::SnapshotGone(_) => Some(Retry::WholeRun),
            _ => None,
        };
        let error = Error::new(kind, subject, self.to_string()).with_hint(hint).with_source(self);
        match retry {
            Some(retry) => error.with_retry(retry),
            None => error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_server_surely_did_not_do_is_a_refusal() {
        // NamespaceExists, Unauthorized, OutOfDiskSpace
        for code in [48, 13, 14031] {
            assert!(MongoError::of_code("x", code, String::new()).is_refusal(), "{code}");
        }
        // The driver's own, MaxTimeMSExpired, WriteConcernFailed, no longer primary
        for code in [0, 50, 64, 189, 10107] {
            assert!(!MongoError::of_code("x", code, String::new()).is_refusal(), "{code}");
        }
        assert!(!MongoError::Lost(String::new()).is_refusal());
        assert!(!MongoError::Stalled(1).is_refusal());
    }
}
