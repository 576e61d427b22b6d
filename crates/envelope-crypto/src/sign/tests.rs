//! Signatures against the published vectors, the openssl program and forged statements.

use std::fs;

use backup_core::{ErrorKind, Recognized, Signer as _, StatementKind};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;

use super::*;
use crate::keys::openssl::run;
use crate::keys::{KeyError, Passphrase, Protection, RsaPublicKey, pem};

fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

/// A key from its 32-byte seed (RFC 8410, section 7).
fn from_seed(seed: &[u8]) -> SigningKey {
    let der = [hex("302e020100300506032b657004220420").as_slice(), seed].concat();
    SigningKey::from_pem(pem::write("PRIVATE KEY", &der).as_bytes(), None).unwrap()
}

fn signature(text: &str) -> [u8; 64] {
    hex(text).try_into().unwrap()
}

/// RFC 8032, section 7.1, tests 1 to 3: secret key, public key, message, signature.
const VECTORS: [[&str; 4]; 3] = [
    [
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ],
    [
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ],
    [
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ],
];

#[test]
fn the_vectors_of_rfc_8032_hold() {
    for [seed, public, message, expected] in VECTORS {
        let key = from_seed(&hex(seed));
        assert_eq!(key.verifying_key().as_bytes().as_slice(), hex(public));
        assert_eq!(key.sign_bytes(&hex(message)).unwrap(), signature(expected));
        assert!(key.verifying_key().verifies(&hex(message), &signature(expected)));
        assert!(!key.verifying_key().verifies(b"another message", &signature(expected)));
    }
}

#[test]
fn a_second_spelling_of_a_signature_is_refused() {
    let [seed, _, message, good] = VECTORS[1];
    let key = from_seed(&hex(seed));
    // The same S plus the order of the group.
    let order = hex("edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010");
    let mut longer = signature(good);
    let mut carry = 0;
    for (byte, add) in longer[32..].iter_mut().zip(order) {
        let sum = u16::from(*byte) + u16::from(add) + carry;
        *byte = sum.to_le_bytes()[0];
        carry = sum >> 8;
    }
    assert!(!key.verifying_key().verifies(&hex(message), &longer));
    assert!(key.verifying_key().verifies(&hex(message), &signature(good)));
}

#[test]
fn weak_public_keys_are_refused() {
    let p = "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f";
    for weak in [
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000080",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        p,
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    ] {
        let bytes: [u8; 32] = hex(weak).try_into().unwrap();
        assert_eq!(
            VerifyingKey::from_bytes(bytes),
            Err(KeyError::Malformed("not a sound Ed25519 public key")),
            "{weak}"
        );
        let text = format!("ed25519:{}", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes));
        assert!(text.parse::<VerifyingKey>().is_err());
    }
    // Without the check, the neutral element would "sign" everything: R = 1, S = 0.
    let mut zero = [0; 64];
    zero[0] = 1;
    assert!(!from_seed(&hex(VECTORS[0][0])).verifying_key().verifies(b"x", &zero));
}

#[test]
fn the_text_form_has_one_spelling() {
    let key = *from_seed(&hex(VECTORS[0][0])).verifying_key();
    assert_eq!(key.to_string(), "ed25519:11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo");
    assert_eq!(key.to_string().parse(), Ok(key));
    assert_eq!(serde_json::from_str::<VerifyingKey>(&serde_json::to_string(&key).unwrap()).unwrap(), key);
    let good = key.to_string();
    for bad in [
        good.to_uppercase(),
        good.replace("ed25519:", ""),
        good.replace('_', "/"),
        format!("{good}="),
        format!(" {good}"),
        good[..50].to_owned(),
        good.replace("HURo", "HURp"),
    ] {
        assert_eq!(bad.parse::<VerifyingKey>(), Err(KeyError::Fingerprint), "{bad}");
    }
}

#[test]
fn keys_travel_between_openssl_and_here() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let secret = Passphrase::new(b"opensesame").unwrap();
    fs::write(dir.join("pass"), "opensesame\n").unwrap();
    let ours = SigningKey::generate().unwrap();
    fs::write(dir.join("plain.pem"), ours.to_pem(Protection::NoPassphrase).unwrap().as_bytes()).unwrap();
    fs::write(dir.join("enc.pem"), ours.to_pem(Protection::Passphrase(&secret)).unwrap().as_bytes()).unwrap();
    let public = ours.verifying_key().to_pem();
    assert_eq!(run(dir, "pkey -in plain.pem -pubout"), public.as_bytes());
    assert_eq!(run(dir, "pkey -in enc.pem -passin file:pass -pubout"), public.as_bytes());
    let encrypted = fs::read(dir.join("enc.pem")).unwrap();
    let read = SigningKey::from_pem(&encrypted, Some(&secret)).unwrap();
    assert_eq!(read.verifying_key(), ours.verifying_key());
    assert_eq!(SigningKey::from_pem(&encrypted, None).err(), Some(KeyError::PassphraseNeeded));

    run(dir, "genpkey -algorithm ED25519 -out theirs.pem");
    run(dir, "pkey -in theirs.pem -pubout -out theirs.pub.pem");
    let theirs = SigningKey::from_pem(&fs::read(dir.join("theirs.pem")).unwrap(), None).unwrap();
    let public = fs::read(dir.join("theirs.pub.pem")).unwrap();
    assert_eq!(VerifyingKey::from_pem(&public).unwrap(), *theirs.verifying_key());
    assert_eq!(theirs.verifying_key().to_pem().as_bytes(), public);
    let der = run(dir, "pkey -pubin -in theirs.pub.pem -outform DER");
    assert_eq!(theirs.key_id(), backup_core::Sha256Digest::of(&der));

    run(dir, "genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out rsa.pem");
    run(dir, "pkey -in rsa.pem -pubout -out rsa.pub.pem");
    run(dir, "rsa -in rsa.pem -traditional -out pkcs1.pem");
    run(dir, "genpkey -algorithm X25519 -out x25519.pem");
    for name in ["rsa.pem", "pkcs1.pem", "x25519.pem"] {
        let error = SigningKey::from_pem(&fs::read(dir.join(name)).unwrap(), None).unwrap_err();
        assert!(matches!(error, KeyError::UnsupportedAlgorithm(_)), "{name}: {error:?}");
    }
    let rsa = fs::read(dir.join("rsa.pub.pem")).unwrap();
    assert!(matches!(VerifyingKey::from_pem(&rsa), Err(KeyError::UnsupportedAlgorithm(_))));
    assert!(matches!(RsaPublicKey::from_pem(&public), Err(KeyError::UnsupportedAlgorithm(_))));
    let private = fs::read(dir.join("plain.pem")).unwrap();
    assert!(matches!(VerifyingKey::from_pem(&private), Err(KeyError::WrongType { .. })));
    assert!(matches!(SigningKey::from_pem(&public, None), Err(KeyError::WrongType { .. })));
}

#[test]
fn openssl_verifies_what_is_signed_here() {
    let dir = tempfile::tempdir().unwrap();
    let key = SigningKey::generate().unwrap();
    let body = br#"{"a":1}"#;
    let stored = key.sign(StatementKind::Manifest, body).unwrap();
    let envelope: serde_json::Value = serde_json::from_slice(stored.stored()).unwrap();
    assert_eq!(envelope["payload"], STANDARD.encode(body));
    assert_eq!(envelope["signatures"][0]["keyid"], key.key_id().to_string());
    let sig = STANDARD.decode(envelope["signatures"][0]["sig"].as_str().unwrap()).unwrap();
    let pae = b"DSSEv1 43 application/vnd.strongroom.manifest.v1+json 7 {\"a\":1}";
    assert_eq!(stored.pae_sha256(), backup_core::Sha256Digest::of(pae));
    fs::write(dir.path().join("pae"), pae).unwrap();
    fs::write(dir.path().join("sig"), sig).unwrap();
    fs::write(dir.path().join("pub.pem"), key.verifying_key().to_pem()).unwrap();
    let said = run(dir.path(), "pkeyutl -verify -rawin -pubin -inkey pub.pem -in pae -sigfile sig");
    assert!(String::from_utf8_lossy(&said).contains("Signature Verified Successfully"));
}

#[test]
fn the_encoding_is_that_of_the_dsse_specification() {
    assert_eq!(
        pae("http://example.com/HelloWorld", b"hello world"),
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    );
    assert_eq!(pae("", b""), b"DSSEv1 0  0 ");
}

fn signed(key: &SigningKey, body: &[u8]) -> String {
    let stored = key.sign(StatementKind::Trust, body).unwrap().stored().to_vec();
    String::from_utf8(stored).unwrap()
}

fn verify(keys: &[&SigningKey], stored: &str) -> Result<Verified, StatementError> {
    StoredStatement::parse(StatementKind::Trust, stored.as_bytes())?
        .verify(keys.iter().map(|key| key.verifying_key()))
}

#[test]
fn what_is_signed_is_read_and_by_whom() {
    let (key, other) = (SigningKey::generate().unwrap(), SigningKey::generate().unwrap());
    let body = b"any bytes, not parsed: \xff\x00";
    let stored = signed(&key, body);
    let verified = verify(&[&other, &key], &stored).unwrap();
    assert_eq!((verified.payload.as_slice(), verified.signer), (&body[..], *key.verifying_key()));
    assert_eq!(verified.pae_sha256, key.sign(StatementKind::Trust, body).unwrap().pae_sha256());
    assert_eq!(
        verify(&[&other], &stored),
        Err(StatementError::SignerUnknown { claimed: Some(key.key_id()) })
    );
    assert_eq!(verify(&[], &stored), Err(StatementError::SignerUnknown { claimed: Some(key.key_id()) }));
}

#[test]
fn the_key_id_is_only_a_hint() {
    let (key, other) = (SigningKey::generate().unwrap(), SigningKey::generate().unwrap());
    let stored = signed(&key, b"body");
    let (own, others) = (key.key_id().to_string(), other.key_id().to_string());
    for changed in [
        stored.replace(&own, &others),
        stored.replace(&own, ""),
        stored.replace(&own, "no key id at all"),
        stored.replace(&format!("\"keyid\":\"{own}\","), ""),
    ] {
        assert_ne!(changed, stored);
        assert_eq!(verify(&[&other, &key], &changed).unwrap().signer, *key.verifying_key());
    }
    // A name that is known does not make a signature.
    assert_eq!(
        verify(&[&other], &stored.replace(&own, &others)),
        Err(StatementError::Altered { key_id: other.key_id() })
    );
}

#[test]
fn every_other_form_is_refused() {
    let key = SigningKey::generate().unwrap();
    let good = signed(&key, b"body");
    let sig = good.split("\"sig\":\"").nth(1).unwrap().split('"').next().unwrap();
    let one = good.split("\"signatures\":[").nth(1).unwrap().strip_suffix("]}").unwrap();
    let malformed = |stored: &str| match verify(&[&key], stored) {
        Err(StatementError::Malformed(_)) => {}
        other => panic!("{stored}: {other:?}"),
    };
    assert!(verify(&[&key], &good).is_ok());
    malformed("");
    malformed("{}");
    malformed("null");
    malformed(&good.replace(":[", ": ["));
    malformed(&format!("{good}\n"));
    malformed(&good.replace("{\"payload\"", "{\"payload\":\"\",\"payload\""));
    malformed(&good.replace("\"sig\"", "\"sig\":\"\",\"sig\""));
    malformed(&good.replace("{\"payload\"", "{\"extra\":1,\"payload\""));
    malformed(&good.replace("\"sig\"", "\"extra\":1,\"sig\""));
    malformed(&good.replace("\"payload\":\"Ym9keQ==\"", "\"payload\":\"Ym9keQ\""));
    malformed(&good.replace("\"payload\":\"Ym9keQ==\"", "\"payload\":\"Ym9keR==\""));
    malformed(&good.replace("\"payload\":\"Ym9keQ==\"", "\"payload\":7"));
    malformed(&good.replace(sig, &STANDARD.encode([1; 63])));
    malformed(&good.replace(sig, &STANDARD.encode([1; 65])));
    assert_eq!(verify(&[&key], &good.replace(one, "")), Err(StatementError::SignatureCount(0)));
    let twice = good.replace(one, &format!("{one},{one}"));
    assert_eq!(verify(&[&key], &twice), Err(StatementError::SignatureCount(2)));
    assert_eq!(
        verify(&[&key], &good.replace("Ym9keQ==", "Ym9kZQ==")),
        Err(StatementError::Altered { key_id: key.key_id() })
    );
    let manifest = StoredStatement::parse(StatementKind::Manifest, good.as_bytes()).unwrap_err();
    assert_eq!(
        manifest,
        StatementError::PayloadType {
            found: StatementKind::Trust.payload_type().to_owned(),
            expected: StatementKind::Manifest.payload_type(),
        }
    );
    // The payload type is signed too.
    let relabelled =
        good.replace(StatementKind::Trust.payload_type(), StatementKind::Manifest.payload_type());
    let relabelled = StoredStatement::parse(StatementKind::Manifest, relabelled.as_bytes()).unwrap();
    assert_eq!(
        relabelled.verify([key.verifying_key()]),
        Err(StatementError::Altered { key_id: key.key_id() })
    );
    assert_eq!(manifest.about("x").kind(), ErrorKind::Integrity);
    assert_eq!(StatementError::SignerUnknown { claimed: None }.about("x").kind(), ErrorKind::Denied);
}

#[test]
fn a_huge_statement_is_neither_parsed_nor_made() {
    let huge = vec![b'['; STATEMENT_LEN_MAX + 1];
    let error = StoredStatement::parse(StatementKind::Trust, &huge).unwrap_err();
    assert_eq!(error, StatementError::TooLong);
    let deep = StoredStatement::parse(StatementKind::Trust, &huge[1..]).unwrap_err();
    assert!(matches!(deep, StatementError::Malformed(_)));
    let key = SigningKey::generate().unwrap();
    let error = key.sign(StatementKind::Trust, &vec![b'x'; STATEMENT_LEN_MAX]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

#[test]
fn errors_do_not_repeat_a_long_text() {
    let long = "x".repeat(100_000);
    for stored in [
        format!("{{\"{long}\":1}}"),
        format!("{{\"{long}\":1,\"{long}\":1}}"),
        format!("{{\"payload\":\"\",\"payloadType\":\"{long}\",\"signatures\":[]}}"),
    ] {
        let error = StoredStatement::parse(StatementKind::Trust, stored.as_bytes()).unwrap_err();
        assert!(error.to_string().len() < 500, "{}", error.to_string().len());
    }
}

#[test]
fn every_flipped_bit_is_refused_or_changes_nothing() {
    let (key, other) = (SigningKey::generate().unwrap(), SigningKey::generate().unwrap());
    let good = signed(&key, b"{\"body\":1}").into_bytes();
    let hint = String::from_utf8(good.clone()).unwrap().find(&key.key_id().to_string()).unwrap();
    let mut ignored = 0;
    for at in 0..good.len() {
        for bit in 0..8 {
            let mut flipped = good.clone();
            flipped[at] ^= 1 << bit;
            let Ok(statement) = StoredStatement::parse(StatementKind::Trust, &flipped) else { continue };
            if let Ok(verified) = statement.verify([other.verifying_key(), key.verifying_key()]) {
                assert!((hint..hint + 64).contains(&at), "byte {at}, bit {bit}");
                assert_eq!(verified.payload, b"{\"body\":1}");
                assert_eq!(verified.signer, *key.verifying_key());
                ignored += 1;
            }
        }
    }
    assert!(ignored > 0, "the key id is a hint");
}

#[test]
fn every_prefix_is_refused() {
    let key = SigningKey::generate().unwrap();
    let good = signed(&key, b"{\"body\":1}");
    for len in 0..good.len() {
        assert!(verify(&[&key], &good[..len]).is_err(), "{len}");
    }
}

#[test]
fn debug_hides_the_private_key() {
    let key = from_seed(&hex(VECTORS[0][0]));
    let shown = "SigningKey { public: ed25519:11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo, .. }";
    assert_eq!(format!("{key:?}"), shown);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_body_comes_back_whole(body in prop::collection::vec(any::<u8>(), 0..300)) {
        let key = from_seed(&[7; 32]);
        prop_assert_eq!(verify(&[&key], &signed(&key, &body)).unwrap().payload, body);
    }

    #[test]
    fn no_bytes_make_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(StoredStatement::parse(StatementKind::Trust, &bytes).is_err());
    }
}

#[test]
fn a_key_recognizes_what_it_signed_and_nothing_else() {
    let (key, other) = (SigningKey::generate().unwrap(), SigningKey::generate().unwrap());
    let signed = key.sign(StatementKind::Manifest, b"{}").unwrap();
    let recognized = key.recognize(StatementKind::Manifest, signed.stored());
    let expected = Recognized { body: b"{}".to_vec(), pae_sha256: signed.pae_sha256() };
    assert_eq!(recognized, Some(expected));
    assert_eq!(key.recognize(StatementKind::Trust, signed.stored()), None);
    assert_eq!(other.recognize(StatementKind::Manifest, signed.stored()), None);
    assert_eq!(key.recognize(StatementKind::Manifest, b"{}"), None);
    let altered = String::from_utf8(signed.stored().to_vec()).unwrap().replace("e30=", "W10=");
    assert_ne!(altered.as_bytes(), signed.stored());
    assert_eq!(key.recognize(StatementKind::Manifest, altered.as_bytes()), None);
}
