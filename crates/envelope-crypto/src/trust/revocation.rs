//! Which manifests of revoked keys stay good.
//!
//! A stolen key can sign manifests with any sequence number, old ones included. So the owner pins the
//! last good manifest by its digest, and an older one counts only when the `prev` digests lead from
//! the pinned one to it.

use std::collections::{HashMap, HashSet};

use backup_core::{Manifest, Sha256Digest, SourceName};

use super::error::TrustError;
use super::statement::Revocation;

/// The revocations of one trust file.
#[derive(Debug, Clone, Default)]
pub(super) struct Revocations(HashMap<Sha256Digest, HashMap<SourceName, Chain>>);

#[derive(Debug, Clone)]
struct Chain {
    /// The last good sequence number.
    seq: u64,
    /// The manifests known to stay good: the pinned one, and those proved since.
    good: HashSet<Sha256Digest>,
    /// The oldest of them.
    oldest: Sha256Digest,
}

impl Revocations {
    /// # Errors
    /// `Keys` when a key or one of its sources stands twice.
    pub(super) fn new(revoked: &[Revocation]) -> Result<Self, TrustError> {
        let mut all = HashMap::new();
        for revocation in revoked {
            let mut chains = HashMap::new();
            for last in &revocation.last_good {
                let good = HashSet::from([last.pae_sha256]);
                let chain = Chain { seq: last.seq, good, oldest: last.pae_sha256 };
                if chains.insert(last.source.clone(), chain).is_some() {
                    return Err(TrustError::Keys);
                }
            }
            if all.insert(revocation.key_id, chains).is_some() {
                return Err(TrustError::Keys);
            }
        }
        Ok(Self(all))
    }

    /// Whether some older manifest waits for the proof that it stays good.
    pub(super) fn need_history(&self) -> bool {
        self.0.values().flat_map(HashMap::values).any(|chain| chain.seq > chain.good.len() as u64)
    }

    pub(super) fn contains(&self, key_id: &Sha256Digest) -> bool {
        self.0.contains_key(key_id)
    }

    /// Whether a manifest with this signer stays good.
    pub(super) fn check(
        &self,
        key_id: Sha256Digest,
        manifest: &Manifest,
        pae_sha256: &Sha256Digest,
    ) -> Result<(), TrustError> {
        let Some(chains) = self.0.get(&key_id) else { return Ok(()) };
        match chains.get(&manifest.source) {
            Some(chain) if manifest.seq > chain.seq => Err(TrustError::Revoked { key_id }),
            Some(chain) if chain.good.contains(pae_sha256) => Ok(()),
            Some(chain) if manifest.seq == chain.seq => Err(TrustError::Revoked { key_id }),
            Some(_) => Err(TrustError::RevokedUnproven { key_id }),
            None => Err(TrustError::Revoked { key_id }),
        }
    }

    /// Follows the `prev` digests from the pinned manifests through `links`: by signer and by the
    /// digest of a manifest, what it says of its predecessor.
    pub(super) fn follow(&mut self, links: &HashMap<(Sha256Digest, Sha256Digest), Link>) {
        for (key_id, chains) in &mut self.0 {
            for (source, chain) in chains {
                while let Some(link) = links.get(&(*key_id, chain.oldest)) {
                    // The pinned digest alone says which source it belongs to; a chain stays in it.
                    match link.prev {
                        Some(prev) if link.source == *source && chain.good.insert(prev) => {
                            chain.oldest = prev;
                        }
                        _ => break,
                    }
                }
            }
        }
    }
}

/// What a manifest says of the one before it.
#[derive(Debug, Clone)]
pub(super) struct Link {
    pub(super) source: SourceName,
    pub(super) prev: Option<Sha256Digest>,
}
