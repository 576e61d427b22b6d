//! Forged, moved, revoked and rolled back: what must not be believed.

use std::collections::BTreeSet;

use backup_core::{
    BackupId, BackupRef, DumpFormat, Error, ErrorKind, Manifest, Origin, RepositoryId, Sha256Digest,
    SignedStatement, Signer as _, SourceName, StatementKind, Trust,
};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::sign::{SigningKey, StatementError, StoredStatement};

/// A repository of one owner, with one key that may back up everything.
struct Fixture {
    owner: SigningKey,
    host: SigningKey,
    new: NewRepository,
}

fn fixture() -> Fixture {
    let (owner, host) = (SigningKey::generate().unwrap(), SigningKey::generate().unwrap());
    let grants = vec![KeyGrant::backup_of_all(*host.verifying_key())];
    let new = NewRepository::create(&owner, time("2026-01-02T03:04:05Z"), grants).unwrap();
    Fixture { owner, host, new }
}

impl Fixture {
    fn load(&self, files: &[SignedStatement]) -> Result<RepositoryTrust, Error> {
        self.load_after(files, None)
    }

    fn load_after(
        &self,
        files: &[SignedStatement],
        seen: Option<&TrustState>,
    ) -> Result<RepositoryTrust, Error> {
        let files = (1..).zip(files).map(|(n, file)| (n, file.stored().clone()));
        RepositoryTrust::load(&self.new.pin, self.new.repository_json.stored(), files, seen)
    }

    fn trust(&self) -> RepositoryTrust {
        self.load(std::slice::from_ref(&self.new.trust_json)).unwrap()
    }

    /// A repository whose second trust file grants and revokes this.
    fn with(&self, keys: Vec<KeyGrant>, revoked: Vec<Revocation>) -> RepositoryTrust {
        let (n, second) = self.trust().succeed(&self.owner, keys, revoked).unwrap();
        assert_eq!(n, 2);
        self.load(&[self.new.trust_json.clone(), second]).unwrap()
    }

    fn manifest(&self, source: &str, seq: u64) -> Manifest {
        Manifest {
            repository: self.new.pin.repository,
            source: name(source),
            id: BackupId::random(),
            seq,
            prev: None,
            started: time("2026-02-03T04:05:06Z"),
            finished: time("2026-02-03T04:05:07Z"),
            format: DumpFormat::new("sqlite-image"),
            engine: "sqlite".into(),
            versions: [("sqlite".to_owned(), "3.51.1".to_owned())].into(),
            source_len: 10,
            object_len: 500,
            sha256: Sha256Digest::of(b"object"),
            head_sha256: Sha256Digest::of(b"head"),
            tree_root: Sha256Digest::of(b"tree"),
            recipients: Vec::new(),
            tags: backup_core::Tags::default(),
        }
    }
}

fn time(text: &str) -> jiff::Timestamp {
    text.parse().unwrap()
}

fn name(text: &str) -> SourceName {
    text.parse().unwrap()
}

fn sign(key: &SigningKey, manifest: &Manifest) -> SignedStatement {
    key.sign(StatementKind::Manifest, &manifest.to_json().unwrap()).unwrap()
}

fn sign_json(key: &SigningKey, kind: StatementKind, body: &serde_json::Value) -> SignedStatement {
    key.sign(kind, body.to_string().as_bytes()).unwrap()
}

/// The error of a load, whose exact cause is the source of the port's error.
fn cause(result: Result<RepositoryTrust, Error>) -> (String, ErrorKind, Option<TrustError>) {
    let error = result.unwrap_err();
    let exact = std::error::Error::source(&error).and_then(|source| source.downcast_ref::<TrustError>());
    (error.subject().to_owned(), error.kind(), exact.cloned())
}

#[test]
fn a_manifest_of_an_allowed_key_is_believed() {
    let fixture = fixture();
    let trust = fixture.trust();
    let manifest = fixture.manifest("orders", 1);
    let stored = sign(&fixture.host, &manifest);
    let vouched = trust.vouch(&manifest.backup(), stored.stored()).unwrap();
    assert_eq!(vouched.manifest(), &manifest);
    assert_eq!(vouched.origin(), Origin::Trusted { signer: fixture.host.key_id() });
    assert_eq!(vouched.pae_sha256(), stored.pae_sha256());
    assert_eq!(trust.created(), time("2026-01-02T03:04:05Z"));
    assert!(trust.may_back_up(fixture.host.verifying_key(), &manifest.source));
    assert!(!trust.may_back_up(fixture.owner.verifying_key(), &manifest.source));
    assert!(!trust.needs_history());
}

#[test]
fn an_unknown_signer_is_denied() {
    let fixture = fixture();
    let (trust, stranger) = (fixture.trust(), SigningKey::generate().unwrap());
    let manifest = fixture.manifest("orders", 1);
    for signer in [&stranger, &fixture.owner] {
        let stored = sign(signer, &manifest);
        let unknown = StatementError::SignerUnknown { claimed: Some(signer.key_id()) };
        assert_eq!(
            trust.examine(&manifest.backup(), stored.stored()).unwrap_err(),
            TrustError::Statement(unknown)
        );
        let error = trust.vouch(&manifest.backup(), stored.stored()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied);
        assert_eq!(error.subject(), manifest.backup().manifest().as_str());
    }
}

#[test]
fn a_forged_manifest_is_an_integrity_error() {
    let fixture = fixture();
    let trust = fixture.trust();
    let manifest = fixture.manifest("orders", 1);
    let stored = sign(&fixture.host, &manifest);
    let mut envelope: serde_json::Value = serde_json::from_slice(stored.stored()).unwrap();
    // The same signature over another manifest.
    let other = Manifest { sha256: Sha256Digest::of(b"another object"), ..manifest.clone() };
    let theirs: serde_json::Value =
        serde_json::from_slice(sign(&SigningKey::generate().unwrap(), &other).stored()).unwrap();
    envelope["payload"] = theirs["payload"].clone();
    let error = trust.vouch(&manifest.backup(), envelope.to_string().as_bytes()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Integrity);
    assert_eq!(
        trust.examine(&manifest.backup(), envelope.to_string().as_bytes()).unwrap_err(),
        TrustError::Statement(StatementError::Altered { key_id: fixture.host.key_id() })
    );
}

#[test]
fn a_manifest_counts_only_at_its_own_place() {
    let fixture = fixture();
    let trust = fixture.trust();
    let manifest = fixture.manifest("orders", 1);
    let stored = sign(&fixture.host, &manifest);
    for at in [
        BackupRef { source: name("customers"), id: manifest.id },
        BackupRef { source: manifest.source.clone(), id: BackupId::random() },
    ] {
        let error = trust.examine(&at, stored.stored()).unwrap_err();
        let what = format!("says that it belongs to {}", manifest.backup());
        assert_eq!(error, TrustError::Content { what });
        assert_eq!(trust.vouch(&at, stored.stored()).unwrap_err().kind(), ErrorKind::Integrity);
        assert_eq!(UnsignedOrigin.vouch(&at, stored.stored()).unwrap_err().kind(), ErrorKind::Integrity);
    }
}

#[test]
fn a_manifest_of_another_repository_is_refused() {
    let fixture = fixture();
    let found = RepositoryId::random();
    let manifest = Manifest { repository: found, ..fixture.manifest("orders", 1) };
    let stored = sign(&fixture.host, &manifest);
    let error = fixture.trust().examine(&manifest.backup(), stored.stored()).unwrap_err();
    assert_eq!(error, TrustError::OtherRepository { found, expected: fixture.new.pin.repository });
}

#[test]
fn a_key_without_the_role_or_the_source_is_denied() {
    let fixture = fixture();
    let manifest = fixture.manifest("orders", 1);
    let stored = sign(&fixture.host, &manifest);
    let refused = TrustError::NotAllowed { key_id: fixture.host.key_id(), source_name: name("orders") };
    let grant = KeyGrant::backup_of_all(*fixture.host.verifying_key());
    let other_roles = BTreeSet::from([Role::Verifier, Role::Pruner, Role::Operator]);
    let others = SourceScope::Only(BTreeSet::from([name("customers"), name("Orders")]));
    let own = SourceScope::Only(BTreeSet::from([name("orders")]));
    for (grant, error) in [
        (KeyGrant { roles: other_roles, ..grant.clone() }, Some(refused.clone())),
        (KeyGrant { roles: BTreeSet::new(), ..grant.clone() }, Some(refused.clone())),
        (KeyGrant { sources: others, ..grant.clone() }, Some(refused.clone())),
        (KeyGrant { sources: SourceScope::Only(BTreeSet::new()), ..grant.clone() }, Some(refused.clone())),
        (KeyGrant { sources: own, ..grant.clone() }, None),
    ] {
        let trust = fixture.with(vec![grant], Vec::new());
        assert_eq!(trust.examine(&manifest.backup(), stored.stored()).err(), error);
        assert_eq!(trust.may_back_up(fixture.host.verifying_key(), &manifest.source), error.is_none());
    }
    assert_eq!(refused.about("x").kind(), ErrorKind::Denied);
}

#[test]
fn a_statement_of_another_kind_is_no_manifest() {
    let fixture = fixture();
    let manifest = fixture.manifest("orders", 1);
    let body = manifest.to_json().unwrap();
    for kind in [StatementKind::Trust, StatementKind::Repository] {
        let stored = fixture.host.sign(kind, &body).unwrap();
        let error = fixture.trust().examine(&manifest.backup(), stored.stored()).unwrap_err();
        assert!(matches!(error, TrustError::Statement(StatementError::PayloadType { .. })), "{error:?}");
        let error = UnsignedOrigin.vouch(&manifest.backup(), stored.stored()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Integrity);
    }
}

#[test]
fn a_body_with_two_meanings_is_refused_even_when_signed() {
    let fixture = fixture();
    let manifest = fixture.manifest("orders", 1);
    let body = String::from_utf8(manifest.to_json().unwrap()).unwrap();
    for bad in [
        body.replace("\"seq\":1", "\"seq\":1,\"seq\":2"),
        body.replace("\"seq\":1", "\"seq\":1,\"extra\":2"),
        body.replace("\"seq\":1", "\"seq\":1.0"),
        body.replace("\"seq\":1", "\"seq\":-1"),
        body.replace("\"seq\":1", "\"seq\":0"),
        body.replace("\"seq\":1,", ""),
        body.replace("sqlite-image", "sqlite\\u002dimage"),
        format!(" {body}"),
        body[..body.len() - 1].to_owned(),
    ] {
        assert_ne!(bad, body);
        let stored = fixture.host.sign(StatementKind::Manifest, bad.as_bytes()).unwrap();
        let error = fixture.trust().examine(&manifest.backup(), stored.stored()).unwrap_err();
        assert!(matches!(error, TrustError::Content { .. }), "{bad}: {error:?}");
    }
}

/// The host's manifests of one source, oldest first, each naming the one before.
fn chain(fixture: &Fixture, source: &str, len: u64) -> Vec<(Manifest, SignedStatement)> {
    let mut chain: Vec<(Manifest, SignedStatement)> = Vec::new();
    for seq in 1..=len {
        let prev = chain.last().map(|(_, stored)| stored.pae_sha256());
        let manifest = Manifest { prev, ..fixture.manifest(source, seq) };
        let stored = sign(&fixture.host, &manifest);
        chain.push((manifest, stored));
    }
    chain
}

fn revoke(fixture: &Fixture, good: &[&(Manifest, SignedStatement)]) -> RepositoryTrust {
    let last_good = good
        .iter()
        .map(|(manifest, stored)| LastGood {
            source: manifest.source.clone(),
            seq: manifest.seq,
            pae_sha256: stored.pae_sha256(),
        })
        .collect();
    let revocation = Revocation { key_id: fixture.host.key_id(), last_good };
    fixture.with(vec![KeyGrant::backup_of_all(*fixture.host.verifying_key())], vec![revocation])
}

#[test]
fn a_revoked_key_with_nothing_good_signs_nothing() {
    let fixture = fixture();
    let all = chain(&fixture, "orders", 2);
    let mut trust = revoke(&fixture, &[]);
    assert!(!trust.needs_history());
    trust.prove_history(all.iter().map(|(manifest, stored)| (manifest.backup(), stored.stored().clone())));
    for (manifest, stored) in &all {
        let error = trust.examine(&manifest.backup(), stored.stored()).unwrap_err();
        assert_eq!(error, TrustError::Revoked { key_id: fixture.host.key_id() });
        assert_eq!(error.about("x").kind(), ErrorKind::Denied);
    }
    assert!(!trust.may_back_up(fixture.host.verifying_key(), &name("orders")));
}

#[test]
fn what_a_revoked_key_signed_before_stays_good_when_the_chain_leads_to_it() {
    let fixture = fixture();
    let orders = chain(&fixture, "orders", 5);
    let customers = chain(&fixture, "customers", 2);
    let mut trust = revoke(&fixture, &[&orders[3]]);
    let key_id = fixture.host.key_id();
    let examine = |trust: &RepositoryTrust, (manifest, stored): &(Manifest, SignedStatement)| {
        trust.examine(&manifest.backup(), stored.stored()).err()
    };
    // The pinned one needs no proof, what came after it and other sources have none.
    assert_eq!(examine(&trust, &orders[3]), None);
    assert_eq!(examine(&trust, &orders[4]), Some(TrustError::Revoked { key_id }));
    assert_eq!(examine(&trust, &customers[0]), Some(TrustError::Revoked { key_id }));
    assert_eq!(examine(&trust, &orders[0]), Some(TrustError::RevokedUnproven { key_id }));

    // The thief signs an old number, and names the true predecessor.
    let forged = Manifest { prev: orders[1].0.prev, ..fixture.manifest("orders", 2) };
    let forged = (forged.clone(), sign(&fixture.host, &forged));
    let twin = Manifest { prev: orders[3].0.prev, ..fixture.manifest("orders", 4) };
    let twin = (twin.clone(), sign(&fixture.host, &twin));
    let junk = (fixture.manifest("orders", 1).backup(), b"junk".to_vec().into());
    assert!(trust.needs_history());
    let stored = orders.iter().chain([&forged, &twin]).chain(&customers);
    trust.prove_history(
        stored.map(|(manifest, stored)| (manifest.backup(), stored.stored().clone())).chain([junk]),
    );
    assert!(!trust.needs_history());
    for good in &orders[..4] {
        assert_eq!(examine(&trust, good), None, "{}", good.0.seq);
    }
    assert_eq!(examine(&trust, &orders[4]), Some(TrustError::Revoked { key_id }));
    assert_eq!(examine(&trust, &customers[0]), Some(TrustError::Revoked { key_id }));
    assert_eq!(examine(&trust, &forged), Some(TrustError::RevokedUnproven { key_id }));
    assert_eq!(examine(&trust, &twin), Some(TrustError::Revoked { key_id }));
}

#[test]
fn a_missing_link_ends_the_proof() {
    let fixture = fixture();
    let orders = chain(&fixture, "orders", 4);
    let mut trust = revoke(&fixture, &[&orders[3]]);
    let held = [&orders[3], &orders[1], &orders[0]];
    trust.prove_history(held.map(|(manifest, stored)| (manifest.backup(), stored.stored().clone())));
    // Number 3 itself is named by number 4; what number 3 names is not known without it.
    let (manifest, stored) = &orders[2];
    assert!(trust.examine(&manifest.backup(), stored.stored()).is_ok());
    let (manifest, stored) = &orders[1];
    let error = trust.examine(&manifest.backup(), stored.stored()).unwrap_err();
    assert_eq!(error, TrustError::RevokedUnproven { key_id: fixture.host.key_id() });
    assert!(trust.needs_history());
}

#[test]
fn trust_files_follow_one_another() {
    let fixture = fixture();
    let keys = || vec![KeyGrant::backup_of_all(*fixture.host.verifying_key())];
    let first = fixture.new.trust_json.clone();
    let (_, second) = fixture.trust().succeed(&fixture.owner, keys(), Vec::new()).unwrap();
    let two = fixture.load(&[first.clone(), second.clone()]).unwrap();
    let (n, third) = two.succeed(&fixture.owner, keys(), Vec::new()).unwrap();
    let three = fixture.load(&[first.clone(), second.clone(), third.clone()]).unwrap();
    assert_eq!((n, three.state().n, three.statement().n), (3, 3, 3));
    assert_eq!(three.state().pae_sha256, third.pae_sha256());

    // In any order, and never without one of them.
    let numbered = |list: &[(u64, &SignedStatement)]| {
        let files: Vec<_> = list.iter().map(|(n, file)| (*n, file.stored().clone())).collect();
        RepositoryTrust::load(&fixture.new.pin, fixture.new.repository_json.stored(), files, None)
    };
    assert_eq!(numbered(&[(3, &third), (1, &first), (2, &second)]).unwrap().state(), three.state());
    let missing = |n| (format!("trust/{n}.json"), ErrorKind::Integrity, Some(TrustError::Missing { n }));
    assert_eq!(cause(numbered(&[(3, &third), (1, &first)])), missing(2));
    assert_eq!(cause(numbered(&[(3, &third), (2, &second)])), missing(1));
    assert_eq!(cause(numbered(&[])), missing(1));
    let renamed = cause(numbered(&[(1, &first), (2, &third)]));
    assert_eq!(renamed.2, Some(TrustError::OtherNumber { says: 3 }));
    assert_eq!(cause(numbered(&[(1, &first), (1, &first)])).2, Some(TrustError::TooManyFiles));

    // Another number 2, made by the owner from an older state, does not fit under number 3.
    let (_, twin) = fixture.trust().succeed(&fixture.owner, Vec::new(), Vec::new()).unwrap();
    let broken = cause(numbered(&[(1, &first), (2, &twin), (3, &third)]));
    assert_eq!(broken, ("trust/3.json".into(), ErrorKind::Integrity, Some(TrustError::BrokenChain { n: 3 })));
}

#[test]
fn going_back_is_refused() {
    let fixture = fixture();
    let first = fixture.new.trust_json.clone();
    let (_, second) = fixture.trust().succeed(&fixture.owner, Vec::new(), Vec::new()).unwrap();
    let both = [first.clone(), second];
    let seen = fixture.load(&both).unwrap().state();
    assert_eq!(fixture.load_after(&both, Some(&seen)).unwrap().state(), seen);
    let back = cause(fixture.load_after(&both[..1], Some(&seen)));
    assert_eq!(back.2, Some(TrustError::RolledBack { found: 1, remembered: 2 }));

    let twin = vec![KeyGrant::backup_of_all(*fixture.host.verifying_key())];
    let (_, twin) = fixture.trust().succeed(&fixture.owner, twin, Vec::new()).unwrap();
    let replaced = cause(fixture.load_after(&[first.clone(), twin], Some(&seen)));
    assert_eq!(replaced.2, Some(TrustError::Replaced { n: 2 }));

    // Older memories are no obstacle, nor are those of another repository.
    let older = fixture.trust().state();
    assert!(fixture.load_after(&both, Some(&older)).is_ok());
    let other = TrustState { repository: RepositoryId::random(), ..seen };
    assert!(fixture.load_after(&both[..1], Some(&other)).is_ok());
    let text = serde_json::to_string(&seen).unwrap();
    assert_eq!(serde_json::from_str::<TrustState>(&text).unwrap(), seen);
}

#[test]
fn a_trust_file_of_anybody_else_is_refused() {
    let fixture = fixture();
    let first = fixture.new.trust_json.clone();
    let trust = fixture.trust();
    let mut body = serde_json::to_value(trust.statement()).unwrap();
    body["n"] = json!(2);
    body["prev"] = json!(first.pae_sha256());
    for forger in [&fixture.host, &SigningKey::generate().unwrap()] {
        let forged = sign_json(forger, StatementKind::Trust, &body);
        let refused = cause(fixture.load(&[first.clone(), forged]));
        assert_eq!((refused.0.as_str(), refused.1), ("trust/2.json", ErrorKind::Denied));
        let error = trust.succeed(forger, Vec::new(), Vec::new()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied);
    }
    let own = sign_json(&fixture.owner, StatementKind::Trust, &body);
    assert!(fixture.load(&[first.clone(), own]).is_ok());
    body["repository"] = json!(RepositoryId::random());
    let foreign = sign_json(&fixture.owner, StatementKind::Trust, &body);
    let refused = cause(fixture.load(&[first, foreign]));
    assert!(matches!(refused.2, Some(TrustError::OtherRepository { .. })));
}

#[test]
fn a_repository_of_anybody_else_is_refused() {
    let (own, theirs) = (fixture(), fixture());
    let files = |fixture: &Fixture| [(1, fixture.new.trust_json.stored().clone())];
    let load = |pin: &OwnerPin, identity: &SignedStatement, trust: &Fixture| {
        cause(RepositoryTrust::load(pin, identity.stored(), files(trust), None))
    };
    let (subject, kind, _) = load(&own.new.pin, &theirs.new.repository_json, &own);
    assert_eq!((subject.as_str(), kind), ("repository.json", ErrorKind::Denied));
    let (subject, kind, _) = load(&own.new.pin, &own.new.repository_json, &theirs);
    assert_eq!((subject.as_str(), kind), ("trust/1.json", ErrorKind::Denied));
    // The owner's other repository is not this one.
    let other = NewRepository::create(&own.owner, time("2026-01-02T03:04:05Z"), Vec::new()).unwrap();
    let (_, kind, error) = load(&own.new.pin, &other.repository_json, &own);
    assert_eq!(kind, ErrorKind::Integrity);
    assert!(matches!(error, Some(TrustError::OtherRepository { .. })));
    // The right key says that the owner is somebody else.
    let body = json!({
        "repository": own.new.pin.repository,
        "created": "2026-01-02T03:04:05Z",
        "owner": theirs.new.pin.owner,
    });
    let strange = sign_json(&own.owner, StatementKind::Repository, &body);
    assert_eq!(load(&own.new.pin, &strange, &own).2, Some(TrustError::OtherOwner));
}

#[test]
fn trust_files_have_one_meaning() {
    let fixture = fixture();
    let trust = fixture.trust();
    let good = serde_json::to_value(trust.statement()).unwrap();
    let load =
        |body: &serde_json::Value| fixture.load(&[sign_json(&fixture.owner, StatementKind::Trust, body)]);
    assert!(load(&good).is_ok());
    let grant = good["keys"][0].clone();
    let host = fixture.host.key_id();
    let last = json!({"source": "orders", "seq": 1, "pae_sha256": Sha256Digest::of(b"x")});
    let good_from = |source: &str| json!({"key_id": host, "last_good": [{"source": source, "seq": 1, "pae_sha256": Sha256Digest::of(b"x")}]});
    let mut table: Vec<(&str, serde_json::Value, serde_json::Value)> = vec![
        ("/keys", json!([grant, grant]), json!(TrustError::Keys.to_string())),
        ("/revoked", json!([good_from("a"), good_from("b")]), json!(TrustError::Keys.to_string())),
        (
            "/revoked",
            json!([{"key_id": host, "last_good": [last, last]}]),
            json!(TrustError::Keys.to_string()),
        ),
        ("/n", json!(0), json!("says that it is number 0")),
        ("/prev", json!(Sha256Digest::of(b"x")), json!("does not follow trust file 0")),
    ];
    for (at, bad) in [
        ("/keys/0/roles/0", json!("admin")),
        ("/keys/0/roles", json!("backup")),
        ("/keys/0/sources", json!("ALL")),
        ("/keys/0/sources", json!("")),
        ("/keys/0/sources", json!(null)),
        ("/keys/0/sources", json!(["../orders"])),
        ("/keys/0/public_key", json!("ed25519:AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")),
        ("/keys/0", json!({})),
        ("/revoked", json!([{"key_id": host}])),
        ("/revoked", json!([{"key_id": "A0", "last_good": []}])),
    ] {
        table.push((at, bad, json!(null)));
    }
    for (at, bad, why) in table {
        let mut body = good.clone();
        match body.pointer_mut(at) {
            Some(place) => *place = bad.clone(),
            None => body[at.trim_start_matches('/')] = bad.clone(),
        }
        let error = load(&body).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Integrity, "{at} {bad}");
        if let Some(why) = why.as_str() {
            assert_eq!(error.what(), why, "{at} {bad}");
        } else {
            assert!(error.what().starts_with("cannot be read"), "{at} {bad}: {error}");
        }
    }
    let many = (0..=KEYS_MAX)
        .map(|_| KeyGrant::backup_of_all(*SigningKey::generate().unwrap().verifying_key()))
        .collect::<Vec<_>>();
    assert!(trust.succeed(&fixture.owner, many[1..].to_vec(), Vec::new()).is_ok());
    assert_eq!(trust.succeed(&fixture.owner, many, Vec::new()).unwrap_err().kind(), ErrorKind::Integrity);
}

#[test]
fn a_scope_is_written_as_a_word_or_a_list() {
    let list = SourceScope::Only(BTreeSet::from([name("all"), name("orders")]));
    assert_eq!(serde_json::to_value(&list).unwrap(), json!(["all", "orders"]));
    assert_eq!(serde_json::to_value(&SourceScope::All).unwrap(), json!("all"));
    for scope in [list, SourceScope::All, SourceScope::Only(BTreeSet::new())] {
        let text = serde_json::to_string(&scope).unwrap();
        assert_eq!(serde_json::from_str::<SourceScope>(&text).unwrap(), scope);
    }
}

#[test]
fn trust_files_are_found_by_name() {
    assert_eq!(trust_object(12).as_str(), "trust/12.json");
    assert_eq!(repository_object().as_str(), "repository.json");
    let number = |text: &str| trust_number(&text.parse().unwrap());
    assert_eq!(number("trust/12.json"), Some(12));
    for other in
        ["trust/012.json", "trust/+1.json", "trust/1.json.tmp", "trust/x.json", "a/trust/1.json", "1.json"]
    {
        assert_eq!(number(other), None, "{other}");
    }
}

#[test]
fn an_unsigned_origin_is_asked_for_and_named() {
    let fixture = fixture();
    let manifest = fixture.manifest("orders", 1);
    let stranger = sign(&SigningKey::generate().unwrap(), &manifest);
    let vouched = UnsignedOrigin.vouch(&manifest.backup(), stranger.stored()).unwrap();
    assert_eq!(vouched.origin(), Origin::Unknown);
    assert_eq!(vouched.manifest(), &manifest);
    for junk in [&b""[..], b"{}", b"junk"] {
        let error = UnsignedOrigin.vouch(&manifest.backup(), junk).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Integrity);
    }
}

/// The host that makes backups holds no key whose signature changes who is trusted.
#[test]
fn incident_19_a_backup_host_cannot_extend_its_own_rights() {
    let fixture = fixture();
    let trust = fixture.trust();
    assert_eq!(trust.succeed(&fixture.host, Vec::new(), Vec::new()).unwrap_err().kind(), ErrorKind::Denied);
    let revoked = revoke(&fixture, &[]);
    let manifest = fixture.manifest("orders", 1);
    let stored = sign(&fixture.host, &manifest);
    assert_eq!(revoked.vouch(&manifest.backup(), stored.stored()).unwrap_err().kind(), ErrorKind::Denied);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_flipped_bit_is_refused_or_changes_nothing(at in any::<prop::sample::Index>(), bit in 0..8_u8) {
        let fixture = fixture();
        let manifest = fixture.manifest("orders", 1);
        let mut stored = sign(&fixture.host, &manifest).stored().to_vec();
        let key_id = fixture.host.key_id().to_string();
        let hint = stored.windows(64).position(|window| window == key_id.as_bytes()).unwrap();
        let at = at.index(stored.len());
        stored[at] ^= 1 << bit;
        if let Ok(vouched) = fixture.trust().vouch(&manifest.backup(), &stored) {
            prop_assert!((hint..hint + 64).contains(&at));
            prop_assert_eq!(vouched.manifest(), &manifest);
        }
    }

    #[test]
    fn a_truncated_manifest_is_refused(at in any::<prop::sample::Index>()) {
        let fixture = fixture();
        let manifest = fixture.manifest("orders", 1);
        let stored = sign(&fixture.host, &manifest);
        let cut = &stored.stored()[..at.index(stored.stored().len())];
        prop_assert!(fixture.trust().vouch(&manifest.backup(), cut).is_err());
        prop_assert!(StoredStatement::parse(StatementKind::Manifest, cut).is_err());
    }
}
