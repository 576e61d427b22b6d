//! Files by somebody who has the key and means harm: authentic, and wrong.

use std::sync::Arc;

use backup_core::Expected;
use envelope_crypto::keys::RsaPrivateKey;
use envelope_crypto::{
    Header, HeaderProblem, Identity, OpenError, PassphraseIdentity, RsaIdentity, SecretKeyIdentity,
    StanzaProblem,
};

use crate::fixture::*;
use crate::forge::{Forge, base64, header, none_stanza, stored, zstd};

fn both(file: &[u8]) -> [Outcome; 2] {
    [open_sync(&[], Expected::default(), file), open_as_range(&[], Expected::default(), file)]
}

#[test]
fn a_forged_good_file_is_opened() {
    for len in [0, 1, BLOCK, BLOCK + 1, 3 * BLOCK] {
        let plain = text(len);
        for outcome in both(&Forge::good(&plain).write()) {
            assert_eq!(outcome, (plain.clone(), Ok(())), "{len}");
        }
    }
}

#[test]
fn a_block_that_does_not_decode_to_its_size_is_refused() {
    let compress = |plain: &[u8]| zstd::bulk::compress(plain, 3).unwrap();
    let body = text(1000);
    let frame = compress(&body);
    // 64 MiB of zeros in a few KiB; and a shorter one that declares less than it has.
    let bomb = compress(&vec![0; 1 << 26]);
    let mut lying = compress(&vec![0; 1 << 16]);
    assert_eq!(&lying[4..7], &[0x60, 0x00, 0xFF][..], "single segment, 2-byte size");
    lying[5..7].copy_from_slice(&(1000_u16 - 256).to_le_bytes());
    let undeclared = {
        let mut encoder = zstd::stream::Encoder::new(Vec::new(), 3).unwrap();
        std::io::Write::write_all(&mut encoder, &body).unwrap();
        encoder.finish().unwrap()
    };
    let dictionary = zstd::bulk::Compressor::with_dictionary(3, &body).unwrap().compress(&body).unwrap();
    let skippable = [&[0x50, 0x2A, 0x4D, 0x18, 4, 0, 0, 0, 1, 2, 3, 4], &frame[..]].concat();
    let table: [(&str, Vec<u8>); 14] = [
        ("a bomb", zstd(&bomb)),
        ("a bomb that lies", zstd(&lying)),
        ("no content size", zstd(&undeclared)),
        ("a dictionary", zstd(&dictionary)),
        ("two frames", zstd(&[&frame[..], &frame].concat())),
        ("a byte after the frame", zstd(&[&frame[..], &[0]].concat())),
        ("a skippable frame before", zstd(&skippable)),
        ("a skippable frame after", zstd(&[&frame[..], &skippable[..12]].concat())),
        ("half a frame", zstd(&frame[..frame.len() / 2])),
        ("no zstd", zstd(&body)),
        ("an empty frame", zstd(&compress(b""))),
        ("an unknown codec", [&[2], &body[..]].concat()),
        ("gzip's codec", [&[255], &body[..]].concat()),
        ("nothing but a codec", vec![0]),
    ];
    for (what, plain) in table {
        // A block without a body is refused by the index already, where that is read first.
        let by_range = if plain.len() == 1 { OpenError::Trailer } else { OpenError::Block(0) };
        let refused = [(vec![], Err(OpenError::Block(0))), (vec![], Err(by_range))];
        assert_eq!(both(&Forge::block(plain, &body).write()), refused, "{what}");
    }
    let good = Forge::block(zstd(&frame), &body).write();
    assert_eq!(both(&good), [(body.clone(), Ok(())), (body, Ok(()))]);
}

#[test]
fn only_the_last_block_may_be_short() {
    let source = text(BLOCK + 1);
    let (short, rest) = source.split_at(1);
    let bad = Forge { blocks: vec![stored(short), stored(rest)], ..Forge::good(&source) };
    for (released, result) in both(&bad.write()) {
        assert_eq!((released.len(), result), (0, Err(OpenError::Block(0))));
    }
    // Longer than a block is refused by its length already.
    let long = Forge::block(stored(&source), &source);
    assert_eq!(open_sync(&[], Expected::default(), &long.write()), (vec![], Err(OpenError::Block(0))));
}

#[test]
fn a_trailer_that_contradicts_the_blocks_is_refused() {
    let source = text(2 * BLOCK);
    let good = Forge::good(&source);
    let lens = [BLOCK as u32 + 17; 2];
    let json = |text: &str| Some(text.to_owned());
    let digest = backup_core::Sha256Digest::of(&source);
    let facts = format!(r#""source_len":{},"source_sha256":"{digest}""#, source.len());
    let table: [(&str, Forge); 13] = [
        ("shorter", Forge { source_len: Some(source.len() as u64 - 1), ..good.clone() }),
        ("one block less", Forge { source_len: Some(BLOCK as u64), ..good.clone() }),
        ("longer", Forge { source_len: Some(source.len() as u64 + 1), ..good.clone() }),
        ("another digest", Forge { source: noise(2 * BLOCK), ..good.clone() }),
        ("no index", Forge { index: Some(vec![]), ..good.clone() }),
        ("index too long", Forge { index: Some([&lens[..], &lens[..1]].concat()), ..good.clone() }),
        ("index of other lengths", Forge { index: Some(vec![lens[0] - 1, lens[1] + 1]), ..good.clone() }),
        ("index of impossible lengths", Forge { index: Some(vec![17, u32::MAX]), ..good.clone() }),
        ("another counter", Forge { trailer_counter: Some(3), ..good.clone() }),
        ("no JSON", Forge { json: json(""), ..good.clone() }),
        ("no report", Forge { json: json(&format!("{{{facts}}}")), ..good.clone() }),
        (
            "unknown member",
            Forge { json: json(&format!(r#"{{{facts},"report":{{"engine":"x"}},"x":1}}"#)), ..good.clone() },
        ),
        (
            "twice the same",
            Forge { json: json(&format!(r#"{{{facts},{facts},"report":{{"engine":"x"}}}}"#)), ..good },
        ),
    ];
    for (what, forge) in table {
        let file = forge.write();
        assert_eq!(open_sync(&[], Expected::default(), &file).1, Err(OpenError::Trailer), "{what}");
        let (released, result) = open_as_range(&[], Expected::default(), &file);
        match what {
            // Only a reader of the whole can compare the digest.
            "another digest" => assert_eq!(result, Ok(())),
            "shorter" => assert_eq!((released.len(), result), (BLOCK, Err(OpenError::Block(1)))),
            _ => assert_eq!((released.len(), result), (0, Err(OpenError::Trailer)), "{what}"),
        }
    }
}

/// A key that must not be touched.
#[derive(Debug)]
struct Untouched;

impl Identity for Untouched {
    fn fits(&self, _: &envelope_crypto::format::Stanza) -> bool {
        true
    }
    fn unwrap(
        &self,
        _: &envelope_crypto::format::Stanza,
        _: envelope_crypto::recipients::Binding<'_>,
    ) -> Result<envelope_crypto::recipients::FileKey, OpenError> {
        panic!("a private key was used on a malformed header");
    }
}

fn refused(json: &str) -> HeaderProblem {
    let file = Forge { header: json.to_owned(), ..Forge::good(b"x") }.write();
    let identities: [Arc<dyn Identity>; 1] = [Arc::new(Untouched)];
    let outcomes = [
        open_sync(&identities, Expected::default(), &file),
        open_as_range(&identities, Expected::default(), &file),
    ];
    let problem = Header::parse(json.as_bytes()).expect_err(json);
    for outcome in outcomes {
        assert_eq!(outcome, (vec![], Err(OpenError::HeaderMalformed(problem.clone()))), "{json}");
    }
    problem
}

fn stanza_problem(recipients: &str) -> StanzaProblem {
    match refused(&header(recipients)) {
        HeaderProblem::Stanza { problem, .. } => problem,
        other => panic!("{recipients}: {other:?}"),
    }
}

fn rsa_stanza(bytes: usize) -> String {
    let id = "5".repeat(64);
    format!(r#"{{"type":"rsa-oaep-sha256","key_id":"{id}","wrapped_key":"{}"}}"#, base64(&vec![1; bytes]))
}

fn passphrase_stanza(kdf: &str) -> String {
    let (salt, nonce, key) = (base64(&[1; 32]), base64(&[2; 12]), base64(&[3; 48]));
    format!(r#"{{"type":"passphrase",{kdf},"salt":"{salt}","nonce":"{nonce}","wrapped_key":"{key}"}}"#)
}

#[test]
fn recipients_that_would_cost_too_much_are_refused_before_any_work() {
    // Moduli of 512 and of 32,768 bits, and just outside the bounds.
    for bytes in [64, 255, 1025, 4096] {
        assert_eq!(stanza_problem(&rsa_stanza(bytes)), StanzaProblem::WrappedKey, "{bytes}");
    }
    let argon = |m: u64, t: u64, p: u64| format!(r#""kdf":"argon2id","m_kib":{m},"t":{t},"p":{p}"#);
    let pbkdf2 = |n: u64| format!(r#""kdf":"pbkdf2-hmac-sha256","iterations":{n}"#);
    for kdf in [
        pbkdf2(1 << 40),
        pbkdf2(1 << 32),
        pbkdf2(10_000_001),
        pbkdf2(599_999),
        pbkdf2(0),
        argon(65_535, 1, 1),
        argon(1 << 20, 5, 1),
        argon((1 << 20) + 1, 1, 1),
        argon(1 << 32, 1, 1),
        argon(65_536, 11, 1),
        argon(65_536, 0, 1),
        argon(65_536, 1, 5),
        argon(65_536, 1, 0),
    ] {
        assert_eq!(stanza_problem(&passphrase_stanza(&kdf)), StanzaProblem::Work, "{kdf}");
    }
    let one = passphrase_stanza(&pbkdf2(600_000));
    assert_eq!(refused(&header(&[&one[..]; 3].join(","))), HeaderProblem::PassphraseCount(3));
    assert!(Header::parse(header(&[&one[..]; 2].join(",")).as_bytes()).is_ok());
}

#[test]
fn a_header_has_one_meaning() {
    use HeaderProblem::*;
    let none = none_stanza();
    let good = header(&none);
    assert!(Header::parse(good.as_bytes()).is_ok());
    let json = [
        good.replace(r#""suite""#, r#" "suite""#),
        good.replace(r#""suite""#, "\n\"suite\""),
        good.replace(r#""suite""#, r#""\u0073uite""#),
        good.replace(r#""suite":"#, r#""x":1,"suite":"#),
        good.replace(r#""block_len":65536"#, r#""block_len":65536,"block_len":65536"#),
        good.replace(r#""type":"none""#, r#""type":"none","type":"none""#),
        good.replace("65536", "65536.0"),
        good.replace("65536", "6.5536e4"),
        good.replace("65536", "065536"),
        good.replace("65536", "+65536"),
        good.replace("65536", "9007199254740992"),
        good.replace("65536", "\"65536\""),
        good.replace("65536", "true"),
        good.replace(r#","salt""#, r#","s\u00e4lt":1,"salt""#),
        good.replace("none", "n\u{f6}ne"),
        good.replace(r#"{"suite""#, r#"{"suite":null,"suite""#),
        format!("{good} "),
        format!("{good}{good}"),
        format!("\u{feff}{good}"),
        format!("[{good}]"),
        good[..good.len() - 1].to_owned(),
        String::new(),
        good.replace(r#""id":"7f0a1c52-6f0b-4a53-9b5e-0d6f6c1d2e3f","#, ""),
    ];
    for json in json {
        assert!(matches!(refused(&json), Json(_)), "{json}");
    }
    let salt = base64(&[9; 32]);
    let stanzas = |n: usize| {
        let some = |i: usize| format!(r#"{{"type":"new-kind","key_id":"{i:064x}"}}"#);
        header(&(0..n).map(some).collect::<Vec<_>>().join(","))
    };
    let table: [(String, HeaderProblem); 17] = [
        (good.replace("A256GCM", "A128GCM"), Suite),
        (good.replace("7f0a", "7F0A"), Id),
        (good.replace("7f0a1c52-", "7f0a1c52"), Id),
        (good.replace("65536", "65537"), BlockLen),
        (good.replace("65536", "32768"), BlockLen),
        (good.replace("65536", "33554432"), BlockLen),
        (good.replace("65536", "4294967296"), BlockLen),
        (good.replace(&salt, &base64(&[9; 31])), Salt),
        (good.replace(&salt, &base64(&[9; 33])), Salt),
        (good.replace(&salt, salt.trim_end_matches('=')), Salt),
        (good.replace(&salt, &salt.replace("k=", "l=")), Salt),
        (header(""), RecipientCount(0)),
        (stanzas(65), RecipientCount(65)),
        (header(&format!("{none},{none}")), NoneNotAlone),
        (header(&format!("{none},{}", rsa_stanza(256))), NoneNotAlone),
        (header(&format!("{0},{0}", rsa_stanza(256))), DuplicateRecipient(1)),
        (header(&format!("{},{}", rsa_stanza(256), rsa_stanza(512))), DuplicateRecipient(1)),
    ];
    for (json, problem) in table {
        assert_eq!(refused(&json), problem, "{json}");
    }
    assert!(Header::parse(stanzas(64).as_bytes()).is_ok());
}

#[test]
fn a_stanza_has_the_members_of_its_type_and_no_other() {
    use StanzaProblem::*;
    let rsa = rsa_stanza(256);
    let pass = passphrase_stanza(r#""kdf":"pbkdf2-hmac-sha256","iterations":600000"#);
    let key_id = "5".repeat(64);
    let table: [(String, StanzaProblem); 18] = [
        ("1".into(), Type),
        ("[]".into(), Type),
        ("{}".into(), Type),
        (r#"{"type":1}"#.into(), Type),
        (r#"{"type":""}"#.into(), Type),
        (r#"{"type":"RSA"}"#.into(), Type),
        (format!(r#"{{"type":"{}"}}"#, "x".repeat(65)), Type),
        (rsa.replace("key_id", "keyid"), Shape),
        (rsa.replace(r#""key_id""#, r#""x":1,"key_id""#), Shape),
        (rsa.replace(&key_id, &"A".repeat(64)), KeyId),
        (rsa.replace(&key_id, &"5".repeat(63)), KeyId),
        (pass.replace(r#""kdf":"pbkdf2-hmac-sha256","#, ""), Shape),
        (pass.replace("pbkdf2-hmac-sha256", "scrypt"), Shape),
        (pass.replace("pbkdf2-hmac-sha256", "argon2id"), Shape),
        (pass.replace(&base64(&[1; 32]), &base64(&[1; 16])), Salt),
        (pass.replace(&base64(&[2; 12]), &base64(&[2; 16])), Nonce),
        (pass.replace(&base64(&[3; 48]), &base64(&[3; 49])), WrappedKey),
        (none_stanza().replace(&base64(&[7; 32]), &base64(&[7; 16])), WrappedKey),
    ];
    for (stanza, problem) in table {
        assert_eq!(stanza_problem(&stanza), problem, "{stanza}");
    }
}

#[test]
fn an_unknown_kind_of_recipient_is_passed_over() {
    let known = secret_key();
    let (file, _) = seal(&[&known], &options(1), b"x");
    assert!(open_sync(&known.identities, Expected::default(), &file).1.is_ok());
    let json = header(r#"{"type":"x-wing","key_id":"ab","enc":{"deep":[1,2]}}"#);
    let file = Forge { header: json, ..Forge::good(b"x") }.write();
    for outcome in both(&file) {
        assert_eq!(outcome, (vec![], Err(OpenError::NoRecipient)));
    }
}

#[test]
fn wrong_and_missing_keys_are_told_apart_only_by_what_is_public() {
    let other_rsa = RsaPrivateKey::generate(2048).unwrap().as_rsa().clone();
    let other: Vec<Arc<dyn Identity>> = vec![
        Arc::new(RsaIdentity::from_private(other_rsa).unwrap()),
        Arc::new(SecretKeyIdentity::from_bytes(zeroize::Zeroizing::new([1; 32]))),
    ];
    let wrong_passphrase: Vec<Arc<dyn Identity>> = vec![Arc::new(PassphraseIdentity::new("wrong").unwrap())];
    for pair in [rsa(), secret_key(), passphrase(ARGON2ID)] {
        let (file, _) = seal(&[&pair], &options(1), b"secret");
        let open = |ids: &[Arc<dyn Identity>]| open_sync(ids, Expected::default(), &file);
        assert_eq!(open(&[]), (vec![], Err(OpenError::NoRecipient)));
        assert_eq!(open(&other), (vec![], Err(OpenError::NoRecipient)));
    }
    let (file, _) = seal(&[&passphrase(ARGON2ID)], &options(1), b"secret");
    let outcome = open_sync(&wrong_passphrase, Expected::default(), &file);
    assert_eq!(outcome, (vec![], Err(OpenError::NotAuthentic)));
}

#[test]
fn an_rsa_stanza_that_was_altered_is_one_error_without_detail() {
    let pair = rsa();
    let (file, _) = seal(&[&pair], &options(1), b"secret");
    let header_len = u32::from_be_bytes(file[10..14].try_into().unwrap()) as usize;
    let json = std::str::from_utf8(&file[14..14 + header_len]).unwrap();
    let (before, wrapped) = json.split_once(r#""wrapped_key":""#).unwrap();
    let (wrapped, after) = wrapped.split_once('"').unwrap();
    let with = |wrapped: &str| {
        let json = format!(r#"{before}"wrapped_key":"{wrapped}"{after}"#);
        let len = (json.len() as u32).to_be_bytes();
        [&file[..10], &len, json.as_bytes(), &file[14 + header_len..]].concat()
    };
    assert_eq!(with(wrapped), file);
    let other = seal(&[&pair], &options(1), b"secret").0;
    let table = [
        ("zero", base64(&[0; 256])),
        ("one", base64(&[[0; 255].as_slice(), &[1]].concat())),
        ("larger than the modulus", base64(&[255; 256])),
        ("of a longer modulus", base64(&[1; 384])),
        ("of another file", {
            let len = u32::from_be_bytes(other[10..14].try_into().unwrap()) as usize;
            let json = std::str::from_utf8(&other[14..14 + len]).unwrap();
            json.split_once(r#""wrapped_key":""#).unwrap().1.split_once('"').unwrap().0.to_owned()
        }),
    ];
    for (what, wrapped) in table {
        let outcome = open_sync(&pair.identities, Expected::default(), &with(&wrapped));
        assert_eq!(outcome, (vec![], Err(OpenError::NotAuthentic)), "{what}");
    }
}
