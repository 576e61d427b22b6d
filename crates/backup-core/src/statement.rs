//! Signed statements, and who is believed. The ports to signatures.

use std::fmt;

use bytes::Bytes;

use crate::attestation::{Attestation, Removal, Shredding};
use crate::digest::Sha256Digest;
use crate::error::Result;
use crate::manifest::{BackupRef, Manifest};

/// What a statement is about; each kind has one exact payload type, checked before parsing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StatementKind {
    /// A backup's manifest.
    Manifest,
    /// A repository's identity, by its owner.
    Repository,
    /// Which keys may do what, by the repository's owner.
    Trust,
    /// What is said of a backup later.
    Attestation,
    /// That a backup was removed, and why.
    Removal,
    /// That a backup was destroyed, and what was looked at afterwards.
    Shredding,
}

impl StatementKind {
    /// The DSSE payload type.
    #[must_use]
    pub const fn payload_type(self) -> &'static str {
        match self {
            Self::Manifest => "application/vnd.strongroom.manifest.v1+json",
            Self::Repository => "application/vnd.strongroom.repository.v1+json",
            Self::Trust => "application/vnd.strongroom.trust.v1+json",
            Self::Attestation => "application/vnd.strongroom.attestation.v1+json",
            Self::Removal => "application/vnd.strongroom.removal.v1+json",
            Self::Shredding => "application/vnd.strongroom.shredding.v1+json",
        }
    }
}

/// Signs statements with this host's own key.
pub trait Signer: fmt::Debug + Send + Sync {
    /// The signing key's id: lower-case hex of the SHA-256 of its SubjectPublicKeyInfo.
    fn key_id(&self) -> Sha256Digest;

    /// Signs `body`, exactly these bytes.
    fn sign(&self, kind: StatementKind, body: &[u8]) -> Result<SignedStatement>;

    /// Reads `stored` when it is a statement of `kind` that this key signed; `None` for any other
    /// bytes.
    fn recognize(&self, kind: StatementKind, stored: &[u8]) -> Option<Recognized>;
}

/// A stored statement of the signer's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recognized {
    /// Exactly the bytes that were signed.
    pub body: Vec<u8>,
    /// What [`SignedStatement::pae_sha256`] was.
    pub pae_sha256: Sha256Digest,
}

/// A signed statement as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedStatement {
    stored: Bytes,
    pae_sha256: Sha256Digest,
}

impl SignedStatement {
    /// Made by a [`Signer`]: the bytes to store and the digest of what was signed.
    #[must_use]
    pub fn signed(stored: Bytes, pae_sha256: Sha256Digest) -> Self {
        Self { stored, pae_sha256 }
    }

    /// The bytes to store.
    #[must_use]
    pub fn stored(&self) -> &Bytes {
        &self.stored
    }

    /// SHA-256 of the pre-authentication encoding: what the next manifest names as `prev`.
    #[must_use]
    pub fn pae_sha256(&self) -> Sha256Digest {
        self.pae_sha256
    }
}

/// Says whether a stored manifest is believed. Holds public keys only.
pub trait Trust: fmt::Debug + Send + Sync {
    /// Checks payload type, signature, the signer's right to back up this source of this
    /// repository, revocations, and that the manifest is the one of `at`; only then parses it.
    ///
    /// # Errors
    /// `Integrity` for bytes that are no such statement or do not belong at that place; `Denied`
    /// for a signer that is unknown or revoked.
    fn vouch(&self, at: &BackupRef, stored: &[u8]) -> Result<VouchedManifest>;

    /// The same for what is said of the backup at `at`: the signer must have the role that the claim
    /// needs. A verification counts only from a key that may not back up.
    ///
    /// # Errors
    /// As [`Trust::vouch`].
    fn vouch_attestation(&self, at: &BackupRef, stored: &[u8]) -> Result<Attestation>;

    /// The same for the removal of the backup at `at`, by a pruner.
    ///
    /// # Errors
    /// As [`Trust::vouch`].
    fn vouch_removal(&self, at: &BackupRef, stored: &[u8]) -> Result<Removal>;

    /// The same for the certificate that the backup at `at` was destroyed, by a pruner.
    ///
    /// # Errors
    /// As [`Trust::vouch`].
    fn vouch_shredding(&self, at: &BackupRef, stored: &[u8]) -> Result<Shredding>;
}

/// Who made a backup, as far as is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Origin {
    /// Signed by this trusted key.
    Trusted {
        /// The key's id.
        signer: Sha256Digest,
    },
    /// Intact, origin unknown.
    Unknown,
}

/// A manifest that a [`Trust`] vouched for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VouchedManifest {
    manifest: Manifest,
    origin: Origin,
    pae_sha256: Sha256Digest,
}

impl VouchedManifest {
    /// Made by a [`Trust`] after every check.
    #[must_use]
    pub fn vouched(manifest: Manifest, origin: Origin, pae_sha256: Sha256Digest) -> Self {
        Self { manifest, origin, pae_sha256 }
    }

    /// The manifest.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Who signed it.
    #[must_use]
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// What a following manifest names as `prev`.
    #[must_use]
    pub fn pae_sha256(&self) -> Sha256Digest {
        self.pae_sha256
    }
}
