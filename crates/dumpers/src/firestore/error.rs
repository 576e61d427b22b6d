//! What can go wrong between us and Firestore.

use std::time::Duration;

use backup_core::{Error, ErrorKind};

/// How a request failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FirestoreError {
    /// Nobody answered, or the connection broke.
    #[error("cannot be reached: {0}")]
    Unreachable(String),
    /// No answer in time.
    #[error("did not answer in time")]
    TimedOut,
    /// The server said no, with its HTTP status, its own word for it and its message.
    #[error("{word} ({http}): {message}")]
    Refused {
        /// The HTTP status.
        http: u16,
        /// `PERMISSION_DENIED`, `RESOURCE_EXHAUSTED` and so on; see google.rpc.Code.
        word: String,
        /// What the server said.
        message: String,
        /// How long the server asks to wait.
        retry_after: Option<Duration>,
    },
    /// The answer makes no sense.
    #[error("gave an answer that was not understood: {0}")]
    Answer(String),
    /// A document holds what this version cannot keep.
    #[error("{path}: {what}")]
    Document {
        /// Its path.
        path: String,
        /// What it holds.
        what: String,
    },
    /// A pattern of what is wanted fits no document.
    #[error("has no collection that fits {0:?}")]
    NothingFits(String),
    /// Somebody asked to stop.
    #[error("stopped")]
    Cancelled,
}

impl FirestoreError {
    /// Whether the same request may succeed later.
    #[must_use]
    pub fn passes(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::TimedOut => true,
            Self::Refused { http, word, .. } => {
                matches!(http, 408 | 429 | 500 | 502 | 503 | 504)
                    || matches!(
                        word.as_str(),
                        "ABORTED" | "UNAVAILABLE" | "RESOURCE_EXHAUSTED" | "DEADLINE_EXCEEDED" | "INTERNAL"
                    )
            }
            _ => false,
        }
    }

    /// Whether a request that writes may have been carried out although it failed.
    #[must_use]
    pub fn leaves_doubt(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::TimedOut | Self::Answer(_) => true,
            Self::Refused { http, .. } => *http == 408 || *http >= 500,
            _ => false,
        }
    }

    /// Whether the moment that was asked for is too long ago to be read.
    #[must_use]
    pub fn is_too_old(&self) -> bool {
        let Self::Refused { word, message, .. } = self else { return false };
        let message = message.to_ascii_lowercase();
        matches!(word.as_str(), "FAILED_PRECONDITION" | "INVALID_ARGUMENT" | "OUT_OF_RANGE")
            && (message.contains("too old")
                || message.contains("read_time") && !message.contains("future")
                || message.contains("read time") && !message.contains("future"))
    }

    /// The port's error about `subject`, which names no secret.
    #[must_use]
    pub fn about(self, subject: &str) -> Error {
        let (kind, hint) = match &self {
            Self::Cancelled => return Error::cancelled(subject),
            _ if self.is_too_old() => (
                ErrorKind::Unavailable,
                "Firestore keeps past moments for one hour: switch on point-in-time recovery, which keeps \
                 them for 7 days, or back up fewer collections at a time",
            ),
            Self::Unreachable(_) => {
                (ErrorKind::Unavailable, "check the network, and whether the service is up")
            }
            Self::TimedOut => (ErrorKind::TimedOut, "try again later"),
            Self::Answer(_) => {
                (ErrorKind::Integrity, "check that the endpoint is Firestore's, and try again")
            }
            Self::NothingFits(_) => {
                (ErrorKind::NotFound, "check the selection: a collection exists only while it has documents")
            }
            Self::Document { .. } => (ErrorKind::Unsupported, "a later version may know that kind of value"),
            Self::Refused { http, word, message, .. } => refused(*http, word, message),
        };
        Error::new(kind, subject, self.to_string()).with_hint(hint).with_source(self)
    }
}

fn refused(http: u16, word: &str, message: &str) -> (ErrorKind, &'static str) {
    match (http, word) {
        (401, _) | (_, "UNAUTHENTICATED") => {
            (ErrorKind::Denied, "check the service account's key, and that it was not revoked")
        }
        (400, _) if message.contains("jwt") => (ErrorKind::Denied, "the emulator wants the token `owner`"),
        (403, _) | (_, "PERMISSION_DENIED")
            if message.contains("identitytoolkit") || message.contains("firebaseauth") =>
        {
            (
                ErrorKind::Denied,
                "grant the service account access to the users: gcloud projects add-iam-policy-binding PROJECT \
             --member serviceAccount:ACCOUNT --role roles/firebaseauth.admin",
            )
        }
        (403, _) | (_, "PERMISSION_DENIED") => (
            ErrorKind::Denied,
            "grant the service account access: gcloud projects add-iam-policy-binding PROJECT --member \
             serviceAccount:ACCOUNT --role roles/datastore.viewer (roles/datastore.user to restore)",
        ),
        (404, _) | (_, "NOT_FOUND") => (ErrorKind::NotFound, "check the project and the id of the database"),
        (409, "ALREADY_EXISTS") | (_, "ALREADY_EXISTS") => (
            ErrorKind::Conflict,
            "choose conflicts=skip, conflicts=overwrite or conflicts=merge, or another root",
        ),
        (429, _) | (_, "RESOURCE_EXHAUSTED") => (
            ErrorKind::Unavailable,
            "the quota of the project or of the day is used up: try again later, or raise retry_seconds",
        ),
        (504 | 408, _) | (_, "DEADLINE_EXCEEDED") => (ErrorKind::TimedOut, "try again later"),
        (500.., _) | (_, "UNAVAILABLE" | "INTERNAL" | "ABORTED") => {
            (ErrorKind::Unavailable, "try again later")
        }
        _ => (ErrorKind::Unsupported, "see the message of the server"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(http: u16, word: &str, message: &str) -> FirestoreError {
        FirestoreError::Refused { http, word: word.into(), message: message.into(), retry_after: None }
    }

    #[test]
    fn every_refusal_has_its_kind() {
        for (http, word, message, kind, passes) in [
            (401, "UNAUTHENTICATED", "", ErrorKind::Denied, false),
            (403, "PERMISSION_DENIED", "Missing or insufficient permissions.", ErrorKind::Denied, false),
            (404, "NOT_FOUND", "", ErrorKind::NotFound, false),
            (409, "ALREADY_EXISTS", "", ErrorKind::Conflict, false),
            (409, "ABORTED", "", ErrorKind::Unavailable, true),
            (429, "RESOURCE_EXHAUSTED", "Quota exceeded.", ErrorKind::Unavailable, true),
            (503, "UNAVAILABLE", "", ErrorKind::Unavailable, true),
            (504, "DEADLINE_EXCEEDED", "", ErrorKind::TimedOut, true),
            (400, "INVALID_ARGUMENT", "too deep", ErrorKind::Unsupported, false),
            (
                400,
                "FAILED_PRECONDITION",
                "The requested snapshot version is too old.",
                ErrorKind::Unavailable,
                false,
            ),
        ] {
            let error = said(http, word, message);
            assert_eq!(error.passes(), passes, "{error}");
            assert_eq!(error.about("x").kind(), kind);
        }
        assert!(
            !said(400, "INVALID_ARGUMENT", "The requested 'read_time' cannot be in the future.").is_too_old()
        );
    }
}
