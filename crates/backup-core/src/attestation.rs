//! What is said of one backup after it was made: signed, beside it, create-only.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::digest::Sha256Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{BackupId, ObjectKey, RepositoryId, SourceName};
use crate::manifest::BackupRef;
use crate::strict_json;

/// The body of a statement in `<source>/<id>/statements/`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attestation {
    /// The repository.
    pub repository: RepositoryId,
    /// The source.
    pub source: SourceName,
    /// The backup.
    pub id: BackupId,
    /// SHA-256 of the pre-authentication encoding of its manifest: which one is meant.
    pub manifest: Sha256Digest,
    /// When it was said, by the signer's clock.
    pub made: Timestamp,
    /// What is said.
    pub claim: Claim,
}

/// What can be said of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Claim {
    /// A pruner sees it for the first time; its age counts from here.
    Seen {},
    /// A pruner is about to remove it, if nobody else removes what would stand for it.
    Leaving {},
    /// A verifier read it.
    Verified {
        /// How far.
        depth: Depth,
        /// Bytes of the envelope that were read.
        bytes: u64,
    },
    /// A verifier read it and found that it is not what was signed, or does not open or parse.
    Failed {
        /// How far it was to go.
        depth: Depth,
    },
    /// An operator says that its size is as it should be, though unlike those before it.
    Accepted {},
    /// A pruner marks it as let go by the rules, to be removed after a delay, or takes that back; the
    /// newest counts.
    Marked {
        /// Whether it is let go from now on.
        on: bool,
    },
    /// An operator exempts it from retention, or ends that; the newest counts.
    Pinned {
        /// Whether it is exempt from now on.
        on: bool,
    },
    /// It was stored in one more place, read back and found equal.
    Copied {
        /// The place that it was read from; nothing where the run that made the backup wrote to several.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        from: Option<String>,
        /// The place that it was stored in.
        to: String,
        /// Bytes of the envelope.
        object_len: u64,
        /// When a pruner first saw it where it was copied from, so that a copy is as old as what it was
        /// made from. Believed of a pruner only.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        first_seen: Option<Timestamp>,
    },
}

/// How far a verification went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Depth {
    /// Random ranges against the hash tree.
    Sample,
    /// All stored bytes against the signed digests.
    Quick,
    /// Decrypted and decompressed to its verified end, and parsed where the format has a parser.
    Deep,
}

impl Claim {
    /// When a pruner first saw the backup, by its own word or by that of whoever copied it.
    #[must_use]
    pub fn first_seen(&self, made: Timestamp) -> Option<Timestamp> {
        match self {
            Self::Seen {} => Some(made),
            Self::Copied { first_seen, .. } => *first_seen,
            _ => None,
        }
    }

    /// The word that the names of its objects begin with.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Seen {} => "seen",
            Self::Leaving {} => "leaving",
            Self::Verified { .. } => "verified",
            Self::Failed { .. } => "failed",
            Self::Accepted {} => "accepted",
            Self::Marked { .. } => "marked",
            Self::Pinned { .. } => "pinned",
            Self::Copied { .. } => "copied",
        }
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl Attestation {
    /// The bytes that are signed.
    ///
    /// # Errors
    /// `Bug` if it cannot be written.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        written(self)
    }

    /// Reads the signed bytes, strictly.
    ///
    /// # Errors
    /// `Integrity` for anything that is not exactly one statement about the backup at `at`.
    pub fn from_json(at: &BackupRef, body: &[u8]) -> Result<Self> {
        let read: Self = read(at, body)?;
        belongs(at, &read.source, read.id)?;
        Ok(read)
    }

    /// A new name for it beside its backup.
    #[must_use]
    pub fn new_key(&self) -> ObjectKey {
        let at = BackupRef { source: self.source.clone(), id: self.id };
        at.statement(&format!("{}-{}", self.claim.word(), BackupId::random()))
    }
}

/// The body of `history/<source>/<id>.json`: a backup that was removed, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Removal {
    /// The repository.
    pub repository: RepositoryId,
    /// The source.
    pub source: SourceName,
    /// The backup.
    pub id: BackupId,
    /// Its signed manifest as it was stored, so that the chain of manifests can still be followed.
    pub manifest: String,
    /// Why, for a person.
    pub reason: String,
    /// When it was decided, by the pruner's clock.
    pub made: Timestamp,
}

impl Removal {
    /// The bytes that are signed.
    ///
    /// # Errors
    /// `Bug` if it cannot be written.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        written(self)
    }

    /// Reads the signed bytes, strictly.
    ///
    /// # Errors
    /// `Integrity` for anything that is not exactly one removal of the backup at `at`.
    pub fn from_json(at: &BackupRef, body: &[u8]) -> Result<Self> {
        let read: Self = read(at, body)?;
        belongs(at, &read.source, read.id)?;
        Ok(read)
    }
}

/// The body of `history/<source>/<id>.shredded.json`: that every stored byte of a backup was destroyed,
/// as far as its place could be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shredding {
    /// The repository.
    pub repository: RepositoryId,
    /// The source.
    pub source: SourceName,
    /// The backup.
    pub id: BackupId,
    /// SHA-256 of the pre-authentication encoding of its manifest.
    pub manifest: Sha256Digest,
    /// SHA-256 of the envelope that was destroyed.
    pub data: Sha256Digest,
    /// Why, for a person.
    pub reason: String,
    /// When all was looked for and not found, by the signer's clock.
    pub made: Timestamp,
    /// What was destroyed.
    pub objects: Vec<ShreddedObject>,
    /// What was looked at afterwards, for a person.
    pub verified: Vec<String>,
    /// What nobody can promise, for a person.
    pub not_promised: Vec<String>,
}

/// One object that was destroyed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShreddedObject {
    /// Its key.
    pub key: String,
    /// Its length in bytes.
    pub len: u64,
    /// How many versions of it were removed; `None` where the place cannot tell of versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub versions: Option<u64>,
}

impl Shredding {
    /// The bytes that are signed.
    ///
    /// # Errors
    /// `Bug` if it cannot be written.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        written(self)
    }

    /// Reads the signed bytes, strictly.
    ///
    /// # Errors
    /// `Integrity` for anything that is not exactly one certificate about the backup at `at`.
    pub fn from_json(at: &BackupRef, body: &[u8]) -> Result<Self> {
        let read: Self = read(at, body)?;
        belongs(at, &read.source, read.id)?;
        Ok(read)
    }
}

fn written(body: &impl Serialize) -> Result<Vec<u8>> {
    let body = serde_json::to_vec(body)
        .map_err(|error| Error::bug(format!("a statement could not be written: {error}")))?;
    strict_json::check(&body)
        .map_err(|error| Error::bug(format!("a statement is not strict JSON: {error}")))?;
    Ok(body)
}

fn read<T: serde::de::DeserializeOwned>(at: &BackupRef, body: &[u8]) -> Result<T> {
    strict_json::from_slice(body).map_err(|error| {
        Error::new(ErrorKind::Integrity, at.to_string(), format!("not a valid statement: {error}"))
    })
}

fn belongs(at: &BackupRef, source: &SourceName, id: BackupId) -> Result<()> {
    if at.source == *source && at.id == id {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Integrity, at.to_string(), format!("a statement here is about {source}/{id}"))
        .with_hint("it was moved or copied from another place"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attestation(claim: Claim) -> Attestation {
        Attestation {
            repository: RepositoryId::random(),
            source: "orders".parse().unwrap(),
            id: BackupId::random(),
            manifest: Sha256Digest::of(b"m"),
            made: Timestamp::UNIX_EPOCH,
            claim,
        }
    }

    #[test]
    fn every_claim_is_read_as_it_was_written_and_only_at_its_place() {
        let to = || "s3://bucket/prefix".to_owned();
        let copied = |from, first_seen| Claim::Copied { from, to: to(), object_len: 7, first_seen };
        for claim in [
            Claim::Seen {},
            Claim::Verified { depth: Depth::Deep, bytes: 7 },
            Claim::Failed { depth: Depth::Sample },
            Claim::Accepted {},
            Claim::Marked { on: false },
            Claim::Pinned { on: true },
            copied(None, None),
            copied(Some("/srv/backups".into()), Some(Timestamp::UNIX_EPOCH)),
        ] {
            let said = attestation(claim);
            let at = BackupRef { source: said.source.clone(), id: said.id };
            let body = said.to_json().unwrap();
            assert_eq!(Attestation::from_json(&at, &body).unwrap(), said);
            let elsewhere = BackupRef { id: BackupId::random(), ..at.clone() };
            assert_eq!(Attestation::from_json(&elsewhere, &body).unwrap_err().kind(), ErrorKind::Integrity);
            let key = said.new_key();
            assert_eq!(BackupRef::of_statement(&key), Some(at));
            assert!(key.file_name().starts_with(said.claim.word()));
        }
    }

    #[test]
    fn a_removal_keeps_the_manifest_as_it_was_stored() {
        let said = Removal {
            repository: RepositoryId::random(),
            source: "orders".parse().unwrap(),
            id: BackupId::random(),
            manifest: "{\"payload\":\"e30=\"}".into(),
            reason: "it is past every rule".into(),
            made: Timestamp::UNIX_EPOCH,
        };
        let at = BackupRef { source: said.source.clone(), id: said.id };
        assert_eq!(Removal::from_json(&at, &said.to_json().unwrap()).unwrap(), said);
        assert_eq!(BackupRef::of_history(&at.history()), Some(at));
    }
}
