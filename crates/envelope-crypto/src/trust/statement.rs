//! What the owner says: the bodies of `repository.json` and of `trust/<n>.json`.

use std::collections::BTreeSet;

use backup_core::{ObjectKey, RepositoryId, Sha256Digest, SourceName};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::sign::VerifyingKey;

/// The most keys of one trust file.
pub const KEYS_MAX: usize = 1000;
/// The most trust files of one repository.
pub const TRUST_FILES_MAX: u64 = 10_000;

/// The body of `repository.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RepositoryStatement {
    /// The repository.
    pub repository: RepositoryId,
    /// When it was made, by the owner's clock.
    pub created: Timestamp,
    /// The owner, who signs this.
    pub owner: VerifyingKey,
}

/// The body of `trust/<n>.json`. Each replaces the one before as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustStatement {
    /// The repository.
    pub repository: RepositoryId,
    /// Its number, from 1.
    pub n: u64,
    /// SHA-256 of the pre-authentication encoding of number `n - 1`; absent in the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prev: Option<Sha256Digest>,
    /// Which keys may do what. Revoked keys stay here, so that their older manifests can be checked.
    pub keys: Vec<KeyGrant>,
    /// Which keys lost their rights.
    pub revoked: Vec<Revocation>,
}

/// What one key may do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyGrant {
    /// The key.
    pub public_key: VerifyingKey,
    /// Its roles.
    pub roles: BTreeSet<Role>,
    /// For which sources.
    pub sources: SourceScope,
}

impl KeyGrant {
    /// Lets `public_key` back up every source.
    #[must_use]
    pub fn backup_of_all(public_key: VerifyingKey) -> Self {
        Self { public_key, roles: BTreeSet::from([Role::Backup]), sources: SourceScope::All }
    }

    /// Whether the key has this role for this source.
    #[must_use]
    pub fn allows(&self, role: Role, source: &SourceName) -> bool {
        self.roles.contains(&role) && self.sources.contains(source)
    }
}

/// What a key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Signs manifests.
    Backup,
    /// Signs what verifications and rehearsals found.
    Verifier,
    /// Signs what was removed and why.
    Pruner,
    /// Signs added recipients and notes.
    Operator,
}

impl Role {
    /// The word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Backup => "backup",
            Self::Verifier => "verifier",
            Self::Pruner => "pruner",
            Self::Operator => "operator",
        }
    }
}

/// For which sources a grant holds: the word `all`, or a list of names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum SourceScope {
    /// Every source, also those to come.
    #[serde(with = "all")]
    All,
    /// Only these.
    Only(BTreeSet<SourceName>),
}

impl SourceScope {
    /// Whether it holds for `source`.
    #[must_use]
    pub fn contains(&self, source: &SourceName) -> bool {
        match self {
            Self::All => true,
            Self::Only(sources) => sources.contains(source),
        }
    }
}

mod all {
    use serde::de::{Deserialize as _, Deserializer, Error as _};
    use serde::ser::Serializer;

    pub(super) fn serialize<S: Serializer>(serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("all")
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<(), D::Error> {
        match String::deserialize(deserializer)?.as_str() {
            "all" => Ok(()),
            _ => Err(D::Error::custom("expected \"all\" or a list of sources")),
        }
    }
}

/// A key that lost its rights. What it signed for a source that is not named here is not believed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revocation {
    /// The key.
    pub key_id: Sha256Digest,
    /// The last manifest that stays good, for each source that has one.
    pub last_good: Vec<LastGood>,
}

/// The last good manifest of a revoked key for one source. Older ones stay good when the chain of
/// `prev` digests leads from this one to them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LastGood {
    /// The source.
    pub source: SourceName,
    /// The manifest's `seq`.
    pub seq: u64,
    /// SHA-256 of the manifest's pre-authentication encoding.
    pub pae_sha256: Sha256Digest,
}

/// Where the repository's identity lies: `repository.json`.
#[must_use]
pub fn repository_object() -> ObjectKey {
    "repository.json".parse().expect("a valid key")
}

/// Where trust file `n` lies: `trust/<n>.json`.
#[must_use]
pub fn trust_object(n: u64) -> ObjectKey {
    format!("trust/{n}.json").parse().expect("a valid key")
}

/// The number of the trust file with this key, or `None` for any other object.
#[must_use]
pub fn trust_number(key: &ObjectKey) -> Option<u64> {
    let n = key.as_str().strip_prefix("trust/")?.strip_suffix(".json")?.parse().ok()?;
    (trust_object(n) == *key).then_some(n)
}
