//! A repository as its pinned owner describes it.

use std::collections::{BTreeMap, HashMap};

use backup_core::{
    Attestation, BackupRef, Manifest, Origin, Removal, RepositoryId, Result, Sha256Digest, Shredding,
    SignedStatement, Signer as _, StatementKind, Trust, VouchedManifest, strict_json,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::error::TrustError;
use super::revocation::{Link, Revocations};
use super::statement::{
    KEYS_MAX, KeyGrant, RepositoryStatement, Revocation, Role, TRUST_FILES_MAX, TrustStatement, trust_object,
};
use crate::sign::{SigningKey, StoredStatement, Verified, VerifyingKey, brief};

/// What a reader holds on to: which repository, and whose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnerPin {
    /// The repository.
    pub repository: RepositoryId,
    /// Its owner's public key.
    pub owner: VerifyingKey,
}

/// The newest trust file that a reader has seen, to be kept on the reader's own machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustState {
    /// The repository.
    pub repository: RepositoryId,
    /// The number.
    pub n: u64,
    /// SHA-256 of its pre-authentication encoding.
    pub pae_sha256: Sha256Digest,
}

/// A new repository's first two statements, to be stored before the first backup.
#[derive(Debug, Clone)]
pub struct NewRepository {
    /// What readers pin.
    pub pin: OwnerPin,
    /// The content of `repository.json`.
    pub repository_json: SignedStatement,
    /// The content of `trust/1.json`.
    pub trust_json: SignedStatement,
}

impl NewRepository {
    /// Names a new repository and signs who may do what in it.
    ///
    /// # Errors
    /// `Integrity` when a key stands twice.
    pub fn create(owner: &SigningKey, created: Timestamp, keys: Vec<KeyGrant>) -> Result<Self> {
        let pin = OwnerPin { repository: RepositoryId::random(), owner: *owner.verifying_key() };
        let identity = RepositoryStatement { repository: pin.repository, created, owner: pin.owner };
        let trust =
            TrustStatement { repository: pin.repository, n: 1, prev: None, keys, revoked: Vec::new() };
        Ok(Self {
            pin,
            repository_json: sign(owner, StatementKind::Repository, &identity)?,
            trust_json: sign_trust(owner, &trust)?,
        })
    }
}

fn sign(owner: &SigningKey, kind: StatementKind, body: &impl Serialize) -> Result<SignedStatement> {
    let body = serde_json::to_vec(body)
        .map_err(|error| backup_core::Error::bug(format!("a statement could not be written: {error}")))?;
    owner.sign(kind, &body)
}

fn sign_trust(owner: &SigningKey, statement: &TrustStatement) -> Result<SignedStatement> {
    check_keys(statement)
        .and_then(|()| Revocations::new(&statement.revoked))
        .map_err(|error| error.about(trust_object(statement.n).to_string()))?;
    sign(owner, StatementKind::Trust, statement)
}

fn check_keys(statement: &TrustStatement) -> Result<(), TrustError> {
    let mut keys: Vec<_> = statement.keys.iter().map(|grant| grant.public_key).collect();
    keys.sort_unstable();
    keys.dedup();
    if keys.len() != statement.keys.len() || keys.len() > KEYS_MAX {
        return Err(TrustError::Keys);
    }
    Ok(())
}

/// Vouches for the manifests of one repository, by the newest of its trust files.
#[derive(Debug, Clone)]
pub struct RepositoryTrust {
    pin: OwnerPin,
    created: Timestamp,
    newest: TrustStatement,
    newest_pae_sha256: Sha256Digest,
    grants: BTreeMap<VerifyingKey, KeyGrant>,
    revocations: Revocations,
}

impl RepositoryTrust {
    /// Reads `repository.json` and every `trust/<n>.json`, in any order.
    ///
    /// All of them must be signed by the pinned owner, be numbered from 1 without a gap and each name
    /// the one before; `remembered` must not be newer or different. Memory is that of one file and
    /// some bytes for each.
    ///
    /// # Errors
    /// A [`TrustError`], with the name of the object it is about, as `Integrity` or `Denied`.
    pub fn load<B: AsRef<[u8]>>(
        pin: &OwnerPin,
        repository_json: &[u8],
        trust_files: impl IntoIterator<Item = (u64, B)>,
        remembered: Option<&TrustState>,
    ) -> Result<Self> {
        let identity = read_identity(pin, repository_json)
            .map_err(|error| error.about(super::repository_object().to_string()))?;
        let mut links: BTreeMap<u64, (Sha256Digest, Option<Sha256Digest>)> = BTreeMap::new();
        let mut newest: Option<TrustStatement> = None;
        for (n, stored) in trust_files {
            let about = |error: TrustError| error.about(trust_object(n).to_string());
            let (statement, pae_sha256) = read_trust(pin, n, stored.as_ref()).map_err(about)?;
            let twice = links.insert(n, (pae_sha256, statement.prev)).is_some();
            if twice || links.len() as u64 > TRUST_FILES_MAX {
                return Err(about(TrustError::TooManyFiles));
            }
            if newest.as_ref().is_none_or(|newest| newest.n < n) {
                newest = Some(statement);
            }
        }
        let newest_pae_sha256 = check_chain(pin, &links, remembered)
            .map_err(|(n, error)| error.about(trust_object(n).to_string()))?;
        let Some(newest) = newest else {
            return Err(TrustError::Missing { n: 1 }.about(trust_object(1).to_string()));
        };
        let about = |error: TrustError| error.about(trust_object(newest.n).to_string());
        check_keys(&newest).map_err(about)?;
        let revocations = Revocations::new(&newest.revoked).map_err(about)?;
        let grants = newest.keys.iter().map(|grant| (grant.public_key, grant.clone())).collect();
        Ok(Self { pin: *pin, created: identity.created, newest, newest_pae_sha256, grants, revocations })
    }

    /// What was pinned.
    #[must_use]
    pub fn pin(&self) -> &OwnerPin {
        &self.pin
    }

    /// When the repository was made.
    #[must_use]
    pub fn created(&self) -> Timestamp {
        self.created
    }

    /// The newest trust file.
    #[must_use]
    pub fn statement(&self) -> &TrustStatement {
        &self.newest
    }

    /// What the reader should remember from now on.
    #[must_use]
    pub fn state(&self) -> TrustState {
        TrustState { repository: self.pin.repository, n: self.newest.n, pae_sha256: self.newest_pae_sha256 }
    }

    pub(super) fn grants(&self) -> &BTreeMap<VerifyingKey, KeyGrant> {
        &self.grants
    }

    pub(super) fn is_revoked(&self, key_id: &Sha256Digest) -> bool {
        self.revocations.contains(key_id)
    }

    /// Whether `key` has this role for `source` now.
    #[must_use]
    pub fn allows(&self, key: &VerifyingKey, role: Role, source: &backup_core::SourceName) -> bool {
        !self.revocations.contains(&key.key_id())
            && self.grants.get(key).is_some_and(|grant| grant.allows(role, source))
    }

    /// Whether `key` may sign manifests of `source` now.
    #[must_use]
    pub fn may_back_up(&self, key: &VerifyingKey, source: &backup_core::SourceName) -> bool {
        self.allows(key, Role::Backup, source)
    }

    /// Signs the trust file that follows: its number and its content.
    ///
    /// # Errors
    /// `Denied` when `owner` is not the owner, `Integrity` when a key stands twice.
    pub fn succeed(
        &self,
        owner: &SigningKey,
        keys: Vec<KeyGrant>,
        revoked: Vec<Revocation>,
    ) -> Result<(u64, SignedStatement)> {
        let n = self.newest.n + 1;
        if *owner.verifying_key() != self.pin.owner {
            let claimed = Some(owner.key_id());
            let error = crate::sign::StatementError::SignerUnknown { claimed };
            return Err(error.about(trust_object(n).to_string()));
        }
        let statement = TrustStatement {
            repository: self.pin.repository,
            n,
            prev: Some(self.newest_pae_sha256),
            keys,
            revoked,
        };
        Ok((n, sign_trust(owner, &statement)?))
    }

    /// Whether revoked keys have older manifests that count only after
    /// [`RepositoryTrust::prove_history`].
    #[must_use]
    pub fn needs_history(&self) -> bool {
        self.revocations.need_history()
    }

    /// Establishes which older manifests of revoked keys stay good: those to which the `prev` digests
    /// lead from the last good one. Takes every stored manifest, in any order; what is not a valid
    /// manifest of a revoked key is passed over.
    pub fn prove_history<B: AsRef<[u8]>>(&mut self, manifests: impl IntoIterator<Item = (BackupRef, B)>) {
        let mut links = HashMap::new();
        for (at, stored) in manifests {
            let Ok((manifest, verified)) = self.read_manifest(&at, stored.as_ref()) else { continue };
            let key_id = verified.signer.key_id();
            if self.revocations.contains(&key_id) {
                let link = Link { source: manifest.source, prev: manifest.prev };
                links.insert((key_id, verified.pae_sha256), link);
            }
        }
        self.revocations.follow(&links);
    }

    /// What [`Trust::vouch`] does, with the exact error.
    ///
    /// # Errors
    /// Every [`TrustError`] about a manifest.
    pub fn examine(&self, at: &BackupRef, stored: &[u8]) -> Result<VouchedManifest, TrustError> {
        let (manifest, verified) = self.read_manifest(at, stored)?;
        let key_id = verified.signer.key_id();
        self.revocations.check(key_id, &manifest, &verified.pae_sha256)?;
        Ok(VouchedManifest::vouched(manifest, Origin::Trusted { signer: key_id }, verified.pae_sha256))
    }

    /// Everything but revocation.
    fn read_manifest(&self, at: &BackupRef, stored: &[u8]) -> Result<(Manifest, Verified), TrustError> {
        let verified = StoredStatement::parse(StatementKind::Manifest, stored)?.verify(self.grants.keys())?;
        let allowed =
            self.grants.get(&verified.signer).is_some_and(|grant| grant.allows(Role::Backup, &at.source));
        if !allowed {
            let key_id = verified.signer.key_id();
            return Err(TrustError::NotAllowed { key_id, source_name: at.source.clone() });
        }
        let manifest = Manifest::from_json(at, &verified.payload)
            .map_err(|error| TrustError::Content { what: brief(&error.what()) })?;
        if manifest.repository != self.pin.repository {
            return Err(TrustError::OtherRepository {
                found: manifest.repository,
                expected: self.pin.repository,
            });
        }
        if manifest.seq == 0 {
            return Err(TrustError::Content { what: "has the sequence number 0; they begin with 1".into() });
        }
        Ok((manifest, verified))
    }
}

impl Trust for RepositoryTrust {
    fn vouch(&self, at: &BackupRef, stored: &[u8]) -> Result<VouchedManifest> {
        self.examine(at, stored).map_err(|error| error.about(at.manifest().to_string()))
    }

    fn vouch_attestation(&self, at: &BackupRef, stored: &[u8]) -> Result<Attestation> {
        self.examine_attestation(at, stored).map_err(|error| error.about(format!("statement about {at}")))
    }

    fn vouch_removal(&self, at: &BackupRef, stored: &[u8]) -> Result<Removal> {
        self.examine_removal(at, stored).map_err(|error| error.about(at.history().to_string()))
    }

    fn vouch_shredding(&self, at: &BackupRef, stored: &[u8]) -> Result<Shredding> {
        self.examine_shredding(at, stored).map_err(|error| error.about(at.shredded().to_string()))
    }
}

fn read_owned<T: serde::de::DeserializeOwned>(
    pin: &OwnerPin,
    kind: StatementKind,
    stored: &[u8],
) -> Result<(T, Sha256Digest), TrustError> {
    let verified = StoredStatement::parse(kind, stored)?.verify([&pin.owner])?;
    let body = strict_json::from_slice(&verified.payload)
        .map_err(|error| TrustError::Content { what: format!("cannot be read: {}", brief(&error)) })?;
    Ok((body, verified.pae_sha256))
}

fn check_repository(pin: &OwnerPin, found: RepositoryId) -> Result<(), TrustError> {
    if found == pin.repository {
        return Ok(());
    }
    Err(TrustError::OtherRepository { found, expected: pin.repository })
}

fn read_identity(pin: &OwnerPin, stored: &[u8]) -> Result<RepositoryStatement, TrustError> {
    let (identity, _): (RepositoryStatement, _) = read_owned(pin, StatementKind::Repository, stored)?;
    check_repository(pin, identity.repository)?;
    if identity.owner != pin.owner {
        return Err(TrustError::OtherOwner);
    }
    Ok(identity)
}

fn read_trust(pin: &OwnerPin, n: u64, stored: &[u8]) -> Result<(TrustStatement, Sha256Digest), TrustError> {
    let (statement, pae_sha256): (TrustStatement, _) = read_owned(pin, StatementKind::Trust, stored)?;
    check_repository(pin, statement.repository)?;
    if statement.n != n || n == 0 {
        return Err(TrustError::OtherNumber { says: statement.n });
    }
    Ok((statement, pae_sha256))
}

/// From 1 without a gap, each naming the one before, and nothing forgotten since the last look. The
/// digest of the newest, or the number of the file at fault.
fn check_chain(
    pin: &OwnerPin,
    links: &BTreeMap<u64, (Sha256Digest, Option<Sha256Digest>)>,
    remembered: Option<&TrustState>,
) -> Result<Sha256Digest, (u64, TrustError)> {
    let mut before = None;
    for (expected, (n, (pae_sha256, prev))) in (1..).zip(links) {
        if *n != expected {
            return Err((expected, TrustError::Missing { n: expected }));
        }
        if *prev != before {
            return Err((*n, TrustError::BrokenChain { n: *n }));
        }
        before = Some(*pae_sha256);
    }
    let found = links.len() as u64;
    // What is remembered of another repository says nothing about this one.
    if let Some(state) = remembered.filter(|state| state.repository == pin.repository) {
        if found < state.n {
            return Err((state.n, TrustError::RolledBack { found, remembered: state.n }));
        }
        if links.get(&state.n).is_none_or(|(pae_sha256, _)| *pae_sha256 != state.pae_sha256) {
            return Err((state.n, TrustError::Replaced { n: state.n }));
        }
    }
    before.ok_or((1, TrustError::Missing { n: 1 }))
}
