//! Stored statements, as a stranger could leave them in a repository: whatever they say, nobody
//! believes them, for the stranger has no key.
#![no_main]

use backup_core::{BackupRef, ObjectKey, StatementKind};
use envelope_crypto::sign::{StoredStatement, VerifyingKey};
use envelope_crypto::trust::{OwnerPin, RepositoryTrust, UnsignedOrigin};
use libfuzzer_sys::fuzz_target;
use strongroom_fuzz::{MANIFEST_KEY, OWNER, REPOSITORY, REPOSITORY_JSON, TRUST_JSON};

fuzz_target!(|bytes: &[u8]| {
    let owner: VerifyingKey = OWNER.parse().expect("a valid key");
    let pin = OwnerPin { repository: REPOSITORY.parse().expect("a valid id"), owner };
    let key: ObjectKey = MANIFEST_KEY.parse().expect("a valid key");
    let at = BackupRef::of_manifest(&key).expect("the key of a manifest");

    // What the owner really signed is in the corpus; nobody can make the owner say anything else.
    let said =
        |kind, stored| StoredStatement::parse(kind, stored).map(StoredStatement::into_unbelieved_payload);
    let all_said = [said(StatementKind::Repository, REPOSITORY_JSON), said(StatementKind::Trust, TRUST_JSON)];
    for kind in [StatementKind::Manifest, StatementKind::Repository, StatementKind::Trust] {
        let Ok(statement) = StoredStatement::parse(kind, bytes) else { continue };
        if let Ok(verified) = statement.verify([&owner]) {
            assert!(all_said.contains(&Ok(verified.payload)), "a signature was made without the key");
        }
    }
    let trust = RepositoryTrust::load(&pin, REPOSITORY_JSON, [(1, TRUST_JSON)], None);
    let trust = trust.expect("the repository of the corpus");
    assert!(trust.examine(&at, bytes).is_err());
    let _ = RepositoryTrust::load(&pin, bytes, [(1, bytes)], None);
    let _ = RepositoryTrust::load(&pin, REPOSITORY_JSON, [(1, TRUST_JSON), (2, bytes)], None);
    let _ = backup_core::Trust::vouch(&UnsignedOrigin, &at, bytes);
});
