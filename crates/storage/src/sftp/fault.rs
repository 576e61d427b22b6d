//! Why a call to an SFTP server failed.

use std::sync::Arc;
use std::time::Duration;

use backup_core::{Error, ErrorKind, Retry};

use crate::sftp::wire::{Malformed, status};
use crate::trouble::Trouble;

/// Why a call failed.
#[derive(Debug, Clone)]
pub(super) enum Fault {
    /// The server answered, and said no.
    Refused { code: u32, said: String },
    /// What the file system has to say, found out by asking more.
    Known(Trouble),
    /// There is no connection, or there is none any more.
    Lost(Arc<Lost>),
    /// Nothing was heard for so long.
    Silent(Duration),
    /// The server sent something that is no answer to what was asked.
    Malformed,
}

/// How a connection ended.
#[derive(Debug, Clone)]
pub(super) struct Lost {
    pub(super) trouble: Trouble,
    /// What the SSH client said.
    pub(super) said: String,
    /// What to try, where it is not the usual.
    pub(super) hint: Option<String>,
}

impl From<Malformed> for Fault {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

impl Fault {
    pub(super) fn is_absent(&self) -> bool {
        matches!(self, Self::Refused { code: status::NO_SUCH_FILE, .. })
    }

    /// Whether the server said no without saying why.
    pub(super) fn is_unexplained(&self) -> bool {
        matches!(self, Self::Refused { code: status::FAILURE, .. })
    }

    /// Whether another connection may do better.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Lost(lost) => lost.trouble.kind().retry() == Retry::BackedOff,
            Self::Silent(_) => true,
            _ => false,
        }
    }

    /// Whether it is unknown what the server did with the request.
    pub(super) fn is_unsettled(&self) -> bool {
        matches!(self, Self::Lost(_) | Self::Silent(_) | Self::Malformed)
    }

    pub(super) fn trouble(&self) -> Trouble {
        match self {
            Self::Refused { code, .. } => match *code {
                status::NO_SUCH_FILE => Trouble::NoSuchObject,
                status::PERMISSION_DENIED => Trouble::NoPermission,
                status::OP_UNSUPPORTED => Trouble::NotSupported,
                _ => Trouble::Other,
            },
            Self::Known(trouble) => *trouble,
            Self::Lost(lost) => lost.trouble,
            Self::Silent(_) => Trouble::TimedOut,
            Self::Malformed => Trouble::NotSupported,
        }
    }

    /// The error at the port: it happened to `subject`, while we were `doing` something.
    pub(super) fn at(self, subject: impl Into<String>, doing: &str) -> Error {
        let trouble = self.trouble();
        let error = trouble.with(subject, doing);
        let error = match trouble {
            Trouble::BadCredentials => error.with_hint(
                "check the user, the key (key=FILE, or an agent's) or the password (password_file), and that the \
                 server accepts them",
            ),
            Trouble::NotSupported => error.with_hint("check that the server offers SFTP version 3 over SSH"),
            _ => error,
        };
        match self {
            Self::Refused { code, said } => {
                let said = if said.is_empty() { format!("status {code}") } else { said };
                error.with_source(format!("the server said: {said}"))
            }
            Self::Known(_) => error,
            Self::Lost(lost) => {
                let error = match &lost.hint {
                    Some(hint) => error.with_hint(hint.as_str()),
                    None => error,
                };
                if lost.said.is_empty() { error } else { error.with_source(lost.said.clone()) }
            }
            Self::Silent(limit) => error.with_source(format!("nothing for {} seconds", limit.as_secs())),
            Self::Malformed => error.with_source("the server sent something that is no answer"),
        }
    }
}

/// Nobody knows whether the object is there.
pub(super) fn uncertain(subject: &str, fault: Fault) -> Error {
    Error::new(ErrorKind::Uncertain, subject, "it is not known whether it was stored")
        .with_hint("look whether the object is there before anything else")
        .with_source(fault.at(subject, "committing"))
        .at(backup_core::Stage::Commit)
}
