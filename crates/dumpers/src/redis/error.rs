//! What can go wrong with a server.

use std::io;

use backup_core::{Error, ErrorKind};

use super::rdb::RdbError;

/// How a server or a stream failed us.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RedisError {
    /// Nobody answers there.
    #[error("cannot be reached: {0}")]
    Unreachable(#[source] io::Error),
    /// TLS could not be agreed upon.
    #[error("TLS failed: {0}")]
    Tls(String),
    /// The server does not seem to speak TLS.
    #[error("does not seem to speak TLS: {0}")]
    NoTls(String),
    /// The user or the password is wrong, or one is needed.
    #[error("refused the credentials: {0}")]
    Login(String),
    /// The user may not run commands.
    #[error("does not let user {user:?} run {}", .commands.join(", "))]
    NotPermitted {
        /// Who was refused.
        user: String,
        /// The commands in the form of ACL rules, without the plus sign; `~*` stands for all keys.
        commands: Vec<String>,
    },
    /// It is a replica, a node of a cluster or something else that takes no restore.
    #[error("{0}")]
    Unfit(&'static str),
    /// It has fewer databases than the source.
    #[error("has no database {0}, which is in the backup")]
    FewerDatabases(u64),
    /// It is still reading its own data.
    #[error("is still loading its data")]
    Loading,
    /// A command was refused for another reason.
    #[error("answered {command} with: {answer}")]
    Refused {
        /// The command.
        command: String,
        /// The server's words.
        answer: String,
    },
    /// A key of that name is already there.
    #[error("already holds a key that is in the backup: {0}")]
    KeyExists(String),
    /// A function or a library of that name is already there.
    #[error("already holds a function that is in the backup: {0}")]
    FunctionExists(String),
    /// It was empty when it was looked at first.
    #[error("was empty and is not any more: somebody else writes to it")]
    Filled,
    /// A value's encoding is newer than the server, or of a module that it lacks.
    #[error("cannot take a value of this backup: {0}")]
    TooOld(String),
    /// It has no memory or disk left, or says so.
    #[error("has no room: {0}")]
    Full(String),
    /// The connection was lost.
    #[error("the connection was lost {0}")]
    Cut(String),
    /// What came is not the protocol.
    #[error("does not speak the protocol: {0}")]
    Protocol(&'static str),
    /// Nothing came for too long.
    #[error("sent nothing for {0} seconds")]
    Stalled(u64),
    /// The stream is not a whole RDB.
    #[error("the dump is not whole: {0}")]
    Dump(#[from] RdbError),
    /// Keys were lost on the way.
    #[error("does not hold what was written: {0}")]
    Lost(String),
}

impl RedisError {
    /// A refusal by its first word, about `command` as `user`.
    pub(super) fn answered(user: Option<&str>, command: &str, answer: &str) -> Self {
        let answer = answer.to_owned();
        match answer.split(' ').next().unwrap_or_default() {
            "NOAUTH" | "WRONGPASS" => Self::Login(answer),
            "NOPERM" => {
                let right = if answer.contains(" key") { "~*".to_owned() } else { command.to_lowercase() };
                Self::NotPermitted { user: user.unwrap_or("default").to_owned(), commands: vec![right] }
            }
            "LOADING" => Self::Loading,
            "OOM" | "MISCONF" | "NOREPLICAS" => Self::Full(answer),
            "BUSYKEY" => Self::KeyExists(answer),
            _ if answer.contains("DUMP payload version or checksum")
                || answer.contains("Bad data format") =>
            {
                Self::TooOld(answer)
            }
            _ if answer.starts_with("ERR invalid password") || answer.starts_with("ERR AUTH") => {
                Self::Login(answer)
            }
            _ => Self::Refused { command: command.to_owned(), answer },
        }
    }

    /// The port's error, about this server.
    #[must_use]
    pub fn at(self, subject: &str) -> Error {
        let (kind, hint) = match &self {
            Self::Unreachable(_) => (ErrorKind::Unavailable, "check host, port and firewall, and that it runs".to_owned()),
            Self::Tls(_) => (
                ErrorKind::Unavailable,
                "check the certificate, its names, and sslrootcert; use redis:// for a server without TLS".to_owned(),
            ),
            Self::NoTls(_) => (
                ErrorKind::Unavailable,
                "use redis:// (or valkey://) and no ssl settings for a server without TLS, or name its TLS port"
                    .to_owned(),
            ),
            Self::Login(_) => (
                ErrorKind::Denied,
                "check user and password_file, or REDISCLI_AUTH in the environment".to_owned(),
            ),
            Self::NotPermitted { user, commands } => {
                (ErrorKind::Denied, format!("an administrator can run: {}", grant(user, commands)))
            }
            Self::Unfit(_) => (
                ErrorKind::Unsupported,
                "restore to a primary outside of any cluster, or to file:PATH".to_owned(),
            ),
            Self::FewerDatabases(number) => (
                ErrorKind::Conflict,
                format!("start it with a setting databases of at least {}", number + 1),
            ),
            Self::Loading => (ErrorKind::Unavailable, "try again when it has finished".to_owned()),
            Self::Refused { .. } => (ErrorKind::Unavailable, "see the server's own words and its log".to_owned()),
            Self::KeyExists(_) | Self::FunctionExists(_) => (
                ErrorKind::Conflict,
                "restore to an empty server, or pass --set replace=true to replace what has such a name".to_owned(),
            ),
            Self::Filled => (
                ErrorKind::Conflict,
                "keep its other clients away until the end, or restore to another server".to_owned(),
            ),
            Self::TooOld(_) => (
                ErrorKind::Unsupported,
                "restore to a server that is at least as new as the source, of the same kind, and with the same modules".to_owned(),
            ),
            Self::Full(_) => (ErrorKind::Unavailable, "give it memory (maxmemory) or disk space".to_owned()),
            Self::Cut(_) => (ErrorKind::Unavailable, "see the log of the server".to_owned()),
            Self::Protocol(_) => (
                ErrorKind::Unsupported,
                "check that a Redis or Valkey server listens there; use rediss:// for one with TLS".to_owned(),
            ),
            Self::Stalled(_) => (ErrorKind::TimedOut, "see the log of the server, or raise stall_seconds".to_owned()),
            Self::Dump(error) => return broken_dump(error.clone(), subject),
            Self::Lost(_) => (
                ErrorKind::Unavailable,
                "see that no other client writes to it, and that its maxmemory-policy evicts nothing".to_owned(),
            ),
        };
        Error::new(kind, subject, self.to_string()).with_hint(hint).with_source(self)
    }
}

/// The statement that grants these rights.
pub(super) fn grant(user: &str, commands: &[String]) -> String {
    let mut statement = format!("ACL SETUSER {user}");
    for command in commands {
        statement.push(' ');
        if !command.starts_with('~') {
            statement.push('+');
        }
        statement.push_str(command);
    }
    statement
}

fn broken_dump(error: RdbError, subject: &str) -> Error {
    let (kind, hint) = if error.is_unsupported() {
        (ErrorKind::Unsupported, "this version cannot read such a server's dump")
    } else {
        (ErrorKind::Integrity, "try again; if it happens again, see the log of the server")
    };
    Error::new(kind, subject, format!("the dump is not whole: {error}")).with_hint(hint).with_source(error)
}
