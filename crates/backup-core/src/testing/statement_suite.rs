//! What every signer, and whoever believes it, must do together.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::seal_suite::samples;
use crate::digest::Sha256Digest;
use crate::dump::DumpFormat;
use crate::error::ErrorKind;
use crate::id::{BackupId, RepositoryId};
use crate::manifest::{BackupRef, Manifest, RecipientRef};
use crate::statement::{Origin, SignedStatement, Signer, StatementKind, Trust};

/// A signer and those who judge what it signed.
#[derive(Debug, Clone, Copy)]
pub struct Signing<'a> {
    /// May sign manifests of every source of `repository`.
    pub signer: &'a dyn Signer,
    /// May sign nothing there.
    pub stranger: &'a dyn Signer,
    /// Vouches for the manifests of `repository`.
    pub trust: &'a dyn Trust,
    /// The repository.
    pub repository: RepositoryId,
}

/// Checks what every [`Signer`] and [`Trust`] must do: what was signed is believed at its own place
/// and nowhere else, exactly as it was signed, for its own kind only; a signer knows its own
/// statements again and no others.
///
/// # Panics
/// Where one of them breaks the contract.
pub fn statement_suite(signing: Signing<'_>) {
    assert_ne!(signing.signer.key_id(), signing.stranger.key_id(), "two signers with two keys");
    what_was_signed_is_believed_at_its_place(signing);
    other_kinds_and_contents_are_refused(signing);
    what_was_changed_is_refused(signing);
    any_bytes_are_signed_as_they_are(signing);
}

const KINDS: [StatementKind; 5] = [
    StatementKind::Manifest,
    StatementKind::Repository,
    StatementKind::Trust,
    StatementKind::Attestation,
    StatementKind::Removal,
];

impl Signing<'_> {
    fn manifest(&self, seq: u64) -> Manifest {
        let digest = |what: &str| Sha256Digest::of(what.as_bytes());
        Manifest {
            repository: self.repository,
            source: "orders".parse().expect("a source name"),
            id: BackupId::random(),
            seq,
            prev: (seq > 1).then(|| digest("prev")),
            started: Timestamp::UNIX_EPOCH,
            finished: Timestamp::UNIX_EPOCH,
            format: DumpFormat::new("raw"),
            engine: "scripted".to_owned(),
            versions: BTreeMap::from([("server".to_owned(), "1".to_owned())]),
            source_len: 10,
            object_len: 500,
            sha256: digest("object"),
            head_sha256: digest("head"),
            tree_root: digest("tree"),
            recipients: vec![RecipientRef { kind: "scripted".to_owned(), key_id: Some(digest("key")) }],
            tags: crate::Tags::default(),
        }
    }

    fn sign(&self, signer: &dyn Signer, kind: StatementKind, manifest: &Manifest) -> SignedStatement {
        signer.sign(kind, &manifest.to_json().expect("a manifest is JSON")).expect("signs")
    }

    fn refused(&self, at: &BackupRef, stored: &[u8], kinds: &[ErrorKind], what: &str) {
        let error = self.trust.vouch(at, stored).expect_err(what);
        assert!(kinds.contains(&error.kind()), "{what}: {:?}: {error}", error.kind());
    }
}

fn what_was_signed_is_believed_at_its_place(signing: Signing<'_>) {
    for seq in [1, 2, 1 << 40] {
        let manifest = signing.manifest(seq);
        let at = manifest.backup();
        let signed = signing.sign(signing.signer, StatementKind::Manifest, &manifest);
        let vouched = signing.trust.vouch(&at, signed.stored()).expect("a good manifest is believed");
        assert_eq!(vouched.manifest(), &manifest);
        assert_eq!(vouched.origin(), Origin::Trusted { signer: signing.signer.key_id() });
        assert_eq!(vouched.pae_sha256(), signed.pae_sha256(), "both name it the same");

        let other_id = BackupRef { id: BackupId::random(), ..at.clone() };
        let other_source = BackupRef { source: "invoices".parse().expect("a name"), ..at.clone() };
        for other in [other_id, other_source] {
            signing.refused(&other, signed.stored(), &[ErrorKind::Integrity], "moved to another place");
        }
        let stranger = signing.sign(signing.stranger, StatementKind::Manifest, &manifest);
        signing.refused(&at, stranger.stored(), &[ErrorKind::Denied], "signed by a stranger");
    }
}

fn other_kinds_and_contents_are_refused(signing: Signing<'_>) {
    let manifest = signing.manifest(1);
    let at = manifest.backup();
    for kind in [StatementKind::Repository, StatementKind::Trust] {
        let signed = signing.sign(signing.signer, kind, &manifest);
        signing.refused(&at, signed.stored(), &[ErrorKind::Integrity], "signed as another kind");
    }
    let elsewhere = Manifest { repository: RepositoryId::random(), ..manifest.clone() };
    let signed = signing.sign(signing.signer, StatementKind::Manifest, &elsewhere);
    signing.refused(&at, signed.stored(), &[ErrorKind::Integrity], "of another repository");

    let body = manifest.to_json().expect("a manifest is JSON");
    let with_unknown = [br#"{"extra":1,"#, &body[1..]].concat();
    for wrong in [&b""[..], b"{}", b"null", &body[..body.len() - 1], &with_unknown] {
        let signed = signing.signer.sign(StatementKind::Manifest, wrong).expect("signs");
        let what = format!("no manifest inside: {:?}", String::from_utf8_lossy(wrong));
        signing.refused(&at, signed.stored(), &[ErrorKind::Integrity], &what);
    }
    // Nobody signed these.
    for bytes in [&b""[..], b"{}", b"\0", &body] {
        signing.refused(&at, bytes, &[ErrorKind::Integrity], "no statement at all");
        for kind in KINDS {
            assert_eq!(signing.signer.recognize(kind, bytes), None);
        }
    }
}

fn what_was_changed_is_refused(signing: Signing<'_>) {
    let manifest = signing.manifest(1);
    let at = manifest.backup();
    let signed = signing.sign(signing.signer, StatementKind::Manifest, &manifest);
    let stored = signed.stored();
    let kinds = [ErrorKind::Integrity, ErrorKind::Denied];
    for len in samples(stored.len(), 48) {
        signing.refused(&at, &stored[..len], &kinds, &format!("cut at {len}"));
        assert_eq!(signing.signer.recognize(StatementKind::Manifest, &stored[..len]), None);
    }
    let mut longer = stored.to_vec();
    longer.extend_from_slice(stored);
    signing.refused(&at, &longer, &kinds, "two in one");

    // A name of the key that nobody relies on may change, what is believed may not.
    let mut refused = 0;
    for place in 0..stored.len() {
        let mut changed = stored.to_vec();
        changed[place] ^= 1 << (place % 8);
        match signing.trust.vouch(&at, &changed) {
            Ok(vouched) => {
                assert_eq!(vouched.manifest(), &manifest, "byte {place} changed what is believed");
                assert_eq!(vouched.pae_sha256(), signed.pae_sha256(), "byte {place}");
            }
            Err(error) => {
                assert!(kinds.contains(&error.kind()), "byte {place}: {:?}: {error}", error.kind());
                refused += 1;
            }
        }
        if let Some(known) = signing.signer.recognize(StatementKind::Manifest, &changed) {
            assert_eq!(known.pae_sha256, signed.pae_sha256(), "byte {place} is not what was signed");
        }
    }
    // The body and the signature are at least this much.
    let least = manifest.to_json().expect("a manifest is JSON").len();
    assert!(refused >= least, "only {refused} of {} changed bytes were noticed", stored.len());
}

fn any_bytes_are_signed_as_they_are(signing: Signing<'_>) {
    let all: Vec<u8> = (0..=u8::MAX).cycle().take(70_000).collect();
    let mut named = Vec::new();
    for body in [&b""[..], b"{}", b"{} ", b"\r\n\0\xff", &all] {
        for kind in KINDS {
            let signed = signing.signer.sign(kind, body).expect("signs");
            for other in KINDS {
                let known = signing.signer.recognize(other, signed.stored());
                assert_eq!(known.is_some(), kind == other, "a {kind:?} looked at as a {other:?}");
                let Some(known) = known else { continue };
                assert_eq!(known.body, body, "exactly the bytes that were signed");
                assert_eq!(known.pae_sha256, signed.pae_sha256());
            }
            assert_eq!(signing.stranger.recognize(kind, signed.stored()), None, "not the stranger's");
            let again = signing.signer.sign(kind, body).expect("signs");
            assert_eq!(again.pae_sha256(), signed.pae_sha256(), "the same is named the same");
            named.push(signed.pae_sha256());
        }
    }
    let all = named.len();
    named.sort_unstable();
    named.dedup();
    assert_eq!(named.len(), all, "other bytes or another kind have another name");
}
