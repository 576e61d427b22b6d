//! What can be wrong with a key.

use std::io;

use backup_core::{Error, ErrorKind};
use thiserror::Error as ThisError;

/// Why a key, a key file or a passphrase cannot be used. Holds no secret.
#[derive(Debug, Clone, PartialEq, Eq, ThisError)]
#[non_exhaustive]
pub enum KeyError {
    /// No PEM block was found, or its base64 is damaged.
    #[error("not a PEM file: {0}")]
    NotPem(&'static str),
    /// A key of another kind: a public key where a private one is needed, or the reverse.
    #[error("holds {found}; {needed} is needed")]
    WrongType {
        /// What the file holds.
        found: String,
        /// What is needed.
        needed: &'static str,
    },
    /// The private key is encrypted and no passphrase was given.
    #[error("is encrypted, and no passphrase was given")]
    PassphraseNeeded,
    /// The passphrase does not decrypt the key; a damaged file looks the same.
    #[error("the passphrase is wrong, or the file is damaged")]
    WrongPassphrase,
    /// The modulus is shorter or longer than is accepted.
    #[error("has a modulus of {bits} bits; 2048 to 8192 are accepted")]
    ModulusSize {
        /// Its length.
        bits: usize,
    },
    /// The bytes are not a key of the kind they claim to be.
    #[error("is damaged: {0}")]
    Malformed(&'static str),
    /// The parts of the key do not belong together.
    #[error("is inconsistent: {0}")]
    Inconsistent(&'static str),
    /// An algorithm that is not read.
    #[error("uses {0}, which is not supported")]
    UnsupportedAlgorithm(String),
    /// The key derivation asks for more time or memory than is given to a key file.
    #[error("asks for too costly a key derivation: {0}")]
    DerivationTooCostly(&'static str),
    /// The file is bigger than any key.
    #[error("is bigger than {limit} bytes, the most a key file may have")]
    TooBig {
        /// The limit.
        limit: usize,
    },
    /// This size of RSA key is not made.
    #[error("RSA keys of {bits} bits are not made")]
    GenerateBits {
        /// The size asked for.
        bits: usize,
    },
    /// The passphrase itself cannot be used.
    #[error("the passphrase is {0}")]
    Passphrase(&'static str),
    /// Not a secret key.
    #[error("not a 256-bit key in base64")]
    SecretKey,
    /// Not a public key fingerprint.
    #[error("not an Ed25519 public key of the form ed25519:<43 characters>")]
    Fingerprint,
    /// The system gave no randomness, or key generation failed.
    #[error("the system gave no randomness")]
    Random,
    /// The file system refused.
    #[error("{what}: {kind}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// How it failed.
        kind: io::ErrorKind,
    },
}

impl KeyError {
    /// The error of a port, about `subject`: a path, or the role of a key.
    #[must_use]
    pub fn about(self, subject: impl Into<String>) -> Error {
        let kind = match &self {
            Self::NotPem(_)
            | Self::WrongType { .. }
            | Self::PassphraseNeeded
            | Self::Malformed(_)
            | Self::TooBig { .. }
            | Self::GenerateBits { .. }
            | Self::Passphrase(_)
            | Self::SecretKey
            | Self::Fingerprint => ErrorKind::Config,
            Self::WrongPassphrase | Self::ModulusSize { .. } | Self::DerivationTooCostly(_) => {
                ErrorKind::Denied
            }
            Self::Inconsistent(_) => ErrorKind::Integrity,
            Self::UnsupportedAlgorithm(_) => ErrorKind::Unsupported,
            Self::Random => ErrorKind::Unavailable,
            Self::Io { kind, .. } => match kind {
                io::ErrorKind::NotFound => ErrorKind::NotFound,
                io::ErrorKind::PermissionDenied => ErrorKind::Denied,
                io::ErrorKind::AlreadyExists => ErrorKind::Conflict,
                _ => ErrorKind::Unavailable,
            },
        };
        let hint = self.hint();
        let error = Error::new(kind, subject, self.to_string());
        match hint {
            Some(hint) => error.with_hint(hint).with_source(self),
            None => error.with_source(self),
        }
    }

    fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::NotPem(_) => "a key file is text and begins with -----BEGIN",
            Self::WrongType { .. } => "the public key seals and verifies; the private key opens and signs",
            Self::PassphraseNeeded => "give the passphrase with --passphrase-file",
            Self::WrongPassphrase => "try the passphrase again, or another copy of the key file",
            Self::ModulusSize { .. } => "make a new key with: strongroom keygen -o key.pem",
            Self::UnsupportedAlgorithm(_) | Self::DerivationTooCostly(_) => {
                "convert it with: openssl pkcs8 -topk8 -v2 aes-256-cbc -v2prf hmacWithSHA256 -in OLD -out NEW"
            }
            Self::GenerateBits { .. } => "choose 2048, 3072, 4096 or 8192",
            Self::SecretKey => "make one with: openssl rand -base64 32",
            Self::Malformed(_) | Self::Inconsistent(_) => "use another copy of the key file",
            Self::Io { kind: io::ErrorKind::AlreadyExists, .. } => {
                "key files are never overwritten; choose another name or move the old file away"
            }
            _ => return None,
        })
    }
}
