//! What is said of backups after they were made, and by whom it may be said.

use backup_core::{Attestation, BackupRef, Claim, Removal, RepositoryId, Shredding, StatementKind};

use super::error::TrustError;
use super::repository::RepositoryTrust;
use super::statement::Role;
use crate::sign::{StoredStatement, Verified, VerifyingKey, brief};

impl RepositoryTrust {
    /// What [`Trust::vouch_attestation`](backup_core::Trust::vouch_attestation) does, with the exact error.
    ///
    /// # Errors
    /// Every [`TrustError`] about a statement.
    pub fn examine_attestation(&self, at: &BackupRef, stored: &[u8]) -> Result<Attestation, TrustError> {
        let verified = self.signed(StatementKind::Attestation, stored)?;
        let said = Attestation::from_json(at, &verified.payload).map_err(content)?;
        self.check_place(said.repository)?;
        let role = match said.claim {
            // A receipt that makes a backup older could have it removed.
            Claim::Seen {}
            | Claim::Leaving {}
            | Claim::Marked { .. }
            | Claim::Copied { first_seen: Some(_), .. } => Role::Pruner,
            Claim::Verified { .. } | Claim::Failed { .. } => Role::Verifier,
            Claim::Copied { first_seen: None, .. } => self.copier(&verified.signer, at),
            // What a later version says needs the rights of a person.
            _ => Role::Operator,
        };
        self.check_role(&verified.signer, role, at)?;
        // Whoever can make backups could prove them too.
        if role == Role::Verifier && self.has_role(&verified.signer, Role::Backup) {
            return Err(TrustError::VerifiesItself { key_id: verified.signer.key_id() });
        }
        Ok(said)
    }

    /// What [`Trust::vouch_removal`](backup_core::Trust::vouch_removal) does, with the exact error.
    ///
    /// # Errors
    /// Every [`TrustError`] about a statement.
    pub fn examine_removal(&self, at: &BackupRef, stored: &[u8]) -> Result<Removal, TrustError> {
        let verified = self.signed(StatementKind::Removal, stored)?;
        let said = Removal::from_json(at, &verified.payload).map_err(content)?;
        self.check_place(said.repository)?;
        self.check_role(&verified.signer, Role::Pruner, at)?;
        Ok(said)
    }

    /// What [`Trust::vouch_shredding`](backup_core::Trust::vouch_shredding) does, with the exact error.
    ///
    /// # Errors
    /// Every [`TrustError`] about a statement.
    pub fn examine_shredding(&self, at: &BackupRef, stored: &[u8]) -> Result<Shredding, TrustError> {
        let verified = self.signed(StatementKind::Shredding, stored)?;
        let said = Shredding::from_json(at, &verified.payload).map_err(content)?;
        self.check_place(said.repository)?;
        self.check_role(&verified.signer, Role::Pruner, at)?;
        Ok(said)
    }

    fn signed(&self, kind: StatementKind, stored: &[u8]) -> Result<Verified, TrustError> {
        Ok(StoredStatement::parse(kind, stored)?.verify(self.grants().keys())?)
    }

    fn check_place(&self, found: RepositoryId) -> Result<(), TrustError> {
        let expected = self.pin().repository;
        if found == expected { Ok(()) } else { Err(TrustError::OtherRepository { found, expected }) }
    }

    /// A revoked key says nothing any more, not even what it said before: these statements bear no
    /// number by which older ones could be told from newer.
    fn check_role(&self, key: &VerifyingKey, role: Role, at: &BackupRef) -> Result<(), TrustError> {
        let key_id = key.key_id();
        if self.is_revoked(&key_id) {
            return Err(TrustError::Revoked { key_id });
        }
        if !self.grants().get(key).is_some_and(|grant| grant.allows(role, &at.source)) {
            let source_name = at.source.clone();
            return Err(TrustError::NotInRole { key_id, role: role.name(), source_name });
        }
        Ok(())
    }

    /// The role by which a key may say that it copied: whoever has any for this source.
    fn copier(&self, key: &VerifyingKey, at: &BackupRef) -> Role {
        let roles = [Role::Backup, Role::Pruner, Role::Verifier];
        let grant = self.grants().get(key);
        let held = roles.into_iter().find(|role| grant.is_some_and(|grant| grant.allows(*role, &at.source)));
        held.unwrap_or(Role::Operator)
    }

    fn has_role(&self, key: &VerifyingKey, role: Role) -> bool {
        self.grants().get(key).is_some_and(|grant| grant.roles.contains(&role))
    }
}

#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
fn content(error: backup_core::Error) -> TrustError {
    TrustError::Content { what: brief(&error.what()) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use backup_core::{BackupId, Depth, Sha256Digest, Signer as _};
    use jiff::Timestamp;

    use super::super::{KeyGrant, NewRepository, Revocation, SourceScope};
    use super::*;
    use crate::sign::SigningKey;

    struct Cast {
        owner: SigningKey,
        host: SigningKey,
        verifier: SigningKey,
        pruner: SigningKey,
        both: SigningKey,
    }

    fn grant(key: &SigningKey, roles: &[Role]) -> KeyGrant {
        KeyGrant {
            public_key: *key.verifying_key(),
            roles: BTreeSet::from_iter(roles.iter().copied()),
            sources: SourceScope::All,
        }
    }

    fn repository() -> (Cast, RepositoryTrust) {
        let key = || SigningKey::generate().unwrap();
        let cast = Cast { owner: key(), host: key(), verifier: key(), pruner: key(), both: key() };
        let grants = vec![
            grant(&cast.host, &[Role::Backup]),
            grant(&cast.verifier, &[Role::Verifier]),
            grant(&cast.pruner, &[Role::Pruner, Role::Operator]),
            grant(&cast.both, &[Role::Backup, Role::Verifier]),
        ];
        let new = NewRepository::create(&cast.owner, Timestamp::UNIX_EPOCH, grants).unwrap();
        let trust = RepositoryTrust::load(
            &new.pin,
            new.repository_json.stored(),
            [(1, new.trust_json.stored())],
            None,
        )
        .unwrap();
        (cast, trust)
    }

    fn at() -> BackupRef {
        BackupRef { source: "orders".parse().unwrap(), id: BackupId::random() }
    }

    fn said(trust: &RepositoryTrust, at: &BackupRef, claim: Claim) -> Vec<u8> {
        let said = Attestation {
            repository: trust.pin().repository,
            source: at.source.clone(),
            id: at.id,
            manifest: Sha256Digest::of(b"m"),
            made: Timestamp::UNIX_EPOCH,
            claim,
        };
        said.to_json().unwrap()
    }

    fn examined(
        trust: &RepositoryTrust,
        at: &BackupRef,
        by: &SigningKey,
        claim: Claim,
    ) -> Result<Attestation, TrustError> {
        let signed = by.sign(StatementKind::Attestation, &said(trust, at, claim)).unwrap();
        trust.examine_attestation(at, signed.stored())
    }

    #[test]
    fn each_claim_needs_its_role_and_nobody_verifies_its_own_backups() {
        let (cast, trust) = repository();
        let at = at();
        let seen = Claim::Seen {};
        let deep = Claim::Verified { depth: Depth::Deep, bytes: 1 };
        let pinned = Claim::Pinned { on: true };
        let (failed, marked) = (Claim::Failed { depth: Depth::Deep }, Claim::Marked { on: true });
        assert!(examined(&trust, &at, &cast.verifier, failed.clone()).is_ok());
        assert!(examined(&trust, &at, &cast.pruner, marked.clone()).is_ok());
        assert!(examined(&trust, &at, &cast.pruner, Claim::Accepted {}).is_ok(), "as an operator");
        assert!(examined(&trust, &at, &cast.pruner, seen.clone()).is_ok());
        assert!(examined(&trust, &at, &cast.verifier, deep.clone()).is_ok());
        assert!(examined(&trust, &at, &cast.pruner, pinned.clone()).is_ok());
        for (by, claim) in [
            (&cast.host, seen.clone()),
            (&cast.verifier, seen),
            (&cast.pruner, deep.clone()),
            (&cast.host, pinned.clone()),
            (&cast.verifier, pinned),
            (&cast.pruner, failed),
            (&cast.verifier, marked),
            (&cast.host, Claim::Accepted {}),
        ] {
            assert!(matches!(examined(&trust, &at, by, claim), Err(TrustError::NotInRole { .. })));
        }
        assert!(matches!(
            examined(&trust, &at, &cast.both, deep.clone()),
            Err(TrustError::VerifiesItself { .. })
        ));
        let stranger = SigningKey::generate().unwrap();
        assert!(matches!(examined(&trust, &at, &stranger, deep), Err(TrustError::Statement(_))));
    }

    /// Whoever can make backups could otherwise make them old enough to be removed.
    #[test]
    fn everybody_with_a_role_tells_of_copies_and_only_a_pruner_how_old_they_are() {
        let (cast, trust) = repository();
        let at = at();
        let copied = |first_seen| Claim::Copied {
            from: Some("/a".into()),
            to: "/b".into(),
            object_len: 1,
            first_seen,
        };
        for key in [&cast.host, &cast.verifier, &cast.pruner, &cast.both] {
            assert!(examined(&trust, &at, key, copied(None)).is_ok());
            let aged = examined(&trust, &at, key, copied(Some(Timestamp::UNIX_EPOCH)));
            assert_eq!(aged.is_ok(), key.key_id() == cast.pruner.key_id(), "{aged:?}");
        }
        let stranger = SigningKey::generate().unwrap();
        assert!(examined(&trust, &at, &stranger, copied(None)).is_err());
    }

    #[test]
    fn a_statement_counts_at_its_place_for_its_kind_and_until_its_signer_is_revoked() {
        let (cast, trust) = repository();
        let at = at();
        let signed =
            cast.pruner.sign(StatementKind::Attestation, &said(&trust, &at, Claim::Seen {})).unwrap();
        let elsewhere = BackupRef { id: BackupId::random(), ..at.clone() };
        assert!(matches!(
            trust.examine_attestation(&elsewhere, signed.stored()),
            Err(TrustError::Content { .. })
        ));
        assert!(trust.examine_removal(&at, signed.stored()).is_err(), "another kind");
        let (_, other) = repository();
        assert!(other.examine_attestation(&at, signed.stored()).is_err(), "another repository");

        let revoked = vec![Revocation { key_id: cast.pruner.key_id(), last_good: Vec::new() }];
        let first = NewRepository::create(&cast.owner, Timestamp::UNIX_EPOCH, Vec::new()).unwrap();
        let empty = RepositoryTrust::load(
            &first.pin,
            first.repository_json.stored(),
            [(1, first.trust_json.stored())],
            None,
        )
        .unwrap();
        let keys = vec![grant(&cast.pruner, &[Role::Pruner])];
        let (_, second) = empty.succeed(&cast.owner, keys, revoked).unwrap();
        let files = [(1, first.trust_json.stored()), (2, second.stored())];
        let now = RepositoryTrust::load(&first.pin, first.repository_json.stored(), files, None).unwrap();
        assert!(matches!(examined(&now, &at, &cast.pruner, Claim::Seen {}), Err(TrustError::Revoked { .. })));
    }

    #[test]
    fn only_a_pruner_tells_of_removals() {
        let (cast, trust) = repository();
        let at = at();
        let removal = Removal {
            repository: trust.pin().repository,
            source: at.source.clone(),
            id: at.id,
            manifest: "{}".into(),
            reason: "it is past every rule".into(),
            made: Timestamp::UNIX_EPOCH,
        };
        let body = removal.to_json().unwrap();
        let by = |key: &SigningKey| {
            let signed = key.sign(StatementKind::Removal, &body).unwrap();
            trust.examine_removal(&at, signed.stored())
        };
        assert_eq!(by(&cast.pruner).unwrap(), removal);
        for key in [&cast.host, &cast.verifier, &cast.both] {
            assert!(matches!(by(key), Err(TrustError::NotInRole { .. })));
        }
        // Nor is a removal a certificate, whoever signed it.
        let signed = cast.pruner.sign(StatementKind::Removal, &body).unwrap();
        assert!(trust.examine_shredding(&at, signed.stored()).is_err());
    }
}
