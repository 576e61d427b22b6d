//! Why something is not believed.

use backup_core::{Error, ErrorKind, RepositoryId, Sha256Digest, SourceName};
use thiserror::Error as ThisError;

use crate::sign::StatementError;

/// Why a repository, a trust file or a manifest is not believed.
#[derive(Debug, Clone, PartialEq, Eq, ThisError)]
#[non_exhaustive]
pub enum TrustError {
    /// Not a statement, altered, or signed by somebody else.
    #[error("{0}")]
    Statement(#[from] StatementError),
    /// Signed, and not what belongs at this place.
    #[error("{what}")]
    Content {
        /// What is wrong.
        what: String,
    },
    /// It belongs to another repository.
    #[error("belongs to repository {found}, not to {expected}")]
    OtherRepository {
        /// What it says.
        found: RepositoryId,
        /// What is pinned.
        expected: RepositoryId,
    },
    /// It names another owner than the pinned one.
    #[error("names another owner than the pinned one")]
    OtherOwner,
    /// A trust file says that it has another number than its name.
    #[error("says that it is number {says}")]
    OtherNumber {
        /// What it says.
        says: u64,
    },
    /// There is no trust file, or one is missing before the last.
    #[error("trust/{n}.json is missing")]
    Missing {
        /// Its number.
        n: u64,
    },
    /// A trust file does not follow the one before.
    #[error("does not follow trust file {}", n - 1)]
    BrokenChain {
        /// Its number.
        n: u64,
    },
    /// A trust file stands twice, or there are more than anyone makes.
    #[error("more trust files than can be")]
    TooManyFiles,
    /// One key is granted twice, or there are more than are accepted.
    #[error("lists a key twice, or more than 1000 keys")]
    Keys,
    /// The newest trust file is older than one seen before.
    #[error("the newest trust file is number {found}, and number {remembered} was seen before")]
    RolledBack {
        /// The newest number.
        found: u64,
        /// The newest number seen before.
        remembered: u64,
    },
    /// A trust file is not the one seen before under its number.
    #[error("trust file {n} is not the one that was seen before")]
    Replaced {
        /// Its number.
        n: u64,
    },
    /// The signer is known and not allowed to back up this source.
    #[error("is signed by {key_id}, which may not back up {source_name}")]
    NotAllowed {
        /// The signer.
        key_id: Sha256Digest,
        /// The source.
        source_name: SourceName,
    },
    /// The signer is known and has not the role that this needs.
    #[error("is signed by {key_id}, which is not allowed as {role} of {source_name}")]
    NotInRole {
        /// The signer.
        key_id: Sha256Digest,
        /// The role.
        role: &'static str,
        /// The source.
        source_name: SourceName,
    },
    /// A verification by a key that can also make backups.
    #[error("is signed by {key_id}, which may back up and so may not say what a verification found")]
    VerifiesItself {
        /// The signer.
        key_id: Sha256Digest,
    },
    /// The signer is revoked, and this manifest is not one that stays good.
    #[error("is signed by {key_id}, which is revoked")]
    Revoked {
        /// The signer.
        key_id: Sha256Digest,
    },
    /// The signer is revoked; whether this older manifest stays good was not established.
    #[error(
        "is signed by {key_id}, which is revoked, and the manifests up to its last good one do not lead to it"
    )]
    RevokedUnproven {
        /// The signer.
        key_id: Sha256Digest,
    },
}

impl TrustError {
    /// The error of a port, about `subject`.
    #[must_use]
    pub fn about(self, subject: impl Into<String>) -> Error {
        let kind = match &self {
            Self::Statement(error) => return error.clone().about(subject),
            Self::NotAllowed { .. }
            | Self::NotInRole { .. }
            | Self::VerifiesItself { .. }
            | Self::Revoked { .. }
            | Self::RevokedUnproven { .. } => ErrorKind::Denied,
            _ => ErrorKind::Integrity,
        };
        let error = Error::new(kind, subject, self.to_string());
        let error = match self.hint() {
            Some(hint) => error.with_hint(hint),
            None => error,
        };
        error.with_source(self)
    }

    fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::OtherRepository { .. } | Self::OtherOwner => {
                "compare the pinned repository id and owner key with the recovery sheet"
            }
            Self::RolledBack { .. } | Self::Replaced { .. } | Self::Missing { .. } => {
                "somebody removed or replaced trust files in the destination; restore them from a copy"
            }
            Self::VerifiesItself { .. } => {
                "verify with a key of its own: `strongroom trust add --role verifier`"
            }
            Self::NotAllowed { .. } | Self::NotInRole { .. } => {
                "the owner can add the key with a new trust file"
            }
            Self::Revoked { .. } | Self::RevokedUnproven { .. } => {
                "use a backup made before the key was lost, or --unsigned-origin if you know where this one comes from"
            }
            _ => return None,
        })
    }
}
