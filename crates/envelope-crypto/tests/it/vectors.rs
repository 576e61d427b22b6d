//! The files of `vectors/`, through every reader. A vector that was published is never edited: the
//! generator at the end writes only those that are missing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use backup_core::{Expected, Sha256Digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use envelope_crypto::keys::{RsaPrivateKey, SecretKey};
use envelope_crypto::{
    Compression, Identity, OpenError, PassphraseIdentity, RsaIdentity, RsaRecipient, SealOptions,
    SecretKeyIdentity,
};
use zeroize::Zeroizing;

use crate::fixture::*;
use crate::forge::{Forge, base64, header, none_stanza, stored, zstd};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors")
}

/// One file: members as `name: value` lines, an empty line, then the envelope in base64.
struct Vector {
    name: String,
    members: BTreeMap<String, String>,
    file: Vec<u8>,
}

impl Vector {
    fn read(path: &Path) -> Self {
        let text = std::fs::read_to_string(path).unwrap();
        let (head, body) = text.split_once("\n\n").unwrap();
        let members = head.lines().map(|line| line.split_once(": ").unwrap());
        Self {
            name: path.file_stem().unwrap().to_str().unwrap().to_owned(),
            members: members.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            file: STANDARD.decode(body.lines().collect::<String>()).unwrap(),
        }
    }

    fn all() -> Vec<Self> {
        let mut paths: Vec<_> =
            std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.retain(|path| path.extension().is_some_and(|ext| ext == "vec"));
        paths.sort();
        paths.iter().map(|path| Self::read(path)).collect()
    }

    fn member(&self, name: &str) -> Option<&str> {
        self.members.get(name).map(String::as_str)
    }

    fn identities(&self) -> Vec<Arc<dyn Identity>> {
        let name = self.member("identity").unwrap();
        if name == "none" {
            return vec![];
        }
        let text = std::fs::read(folder().join(name)).unwrap();
        vec![match name {
            "rsa.pem" => {
                let key = RsaPrivateKey::from_pem(&text, None).unwrap();
                Arc::new(RsaIdentity::from_private(key.as_rsa().clone()).unwrap())
            }
            "secret.key" => {
                let key = SecretKey::from_base64(&text).unwrap();
                Arc::new(SecretKeyIdentity::from_bytes(Zeroizing::new(*key.as_bytes())))
            }
            _ => Arc::new(PassphraseIdentity::new(std::str::from_utf8(&text).unwrap()).unwrap()),
        }]
    }

    fn expected(&self) -> Expected {
        let digest = |name| self.member(name).map(|hex| Sha256Digest::from_hex(hex).unwrap());
        Expected { head_sha256: digest("head-sha256"), tree_root: digest("tree-root"), ..Expected::default() }
    }
}

/// `ok`, or the class of the error with the block's number where there is one.
fn said(result: &Result<(), OpenError>) -> String {
    match result {
        Ok(()) => "ok".to_owned(),
        Err(OpenError::Block(index)) => format!("Block {index}"),
        Err(error) => error.class().to_owned(),
    }
}

#[tokio::test]
async fn every_vector_means_the_same_to_every_reader() {
    let vectors = Vector::all();
    let mut seen = BTreeSet::new();
    for vector in &vectors {
        let (ids, known) = (vector.identities(), vector.expected());
        let whole = vector.member("expect").unwrap();
        // A reader of ranges looks at the end first, and may see another fault before.
        let range = vector.member("expect-range").unwrap_or(whole);
        let outcomes = [
            (whole, open_sync(&ids, known.clone(), &vector.file)),
            (whole, open_stream(&ids, 2, known.clone(), &vector.file).await),
            (range, open_as_range(&ids, known, &vector.file)),
        ];
        for (expected, (plain, result)) in outcomes {
            assert_eq!(said(&result), expected, "{}", vector.name);
            if result.is_ok() {
                let digest = Sha256Digest::of(&plain).to_string();
                assert_eq!(Some(digest.as_str()), vector.member("plaintext-sha256"), "{}", vector.name);
            }
        }
        seen.insert(whole.split(' ').next().unwrap());
        seen.insert(vector.member("identity").unwrap());
    }
    let wanted = [
        "Block",
        "HeaderMalformed",
        "NoRecipient",
        "NotAuthentic",
        "NotEnvelope",
        "NotTheExpectedObject",
        "Trailer",
        "TrailingBytes",
        "Truncated",
        "UnsupportedVersion",
        "ok",
        "none",
        "passphrase.txt",
        "rsa.pem",
        "secret.key",
    ];
    // OutOfMemory has no vector: it is the machine's fault, not the file's.
    assert_eq!(seen, wanted.into_iter().collect());
}

#[test]
fn the_python_reader_agrees_on_the_good_vectors() {
    let python =
        std::env::var("STRONGROOM_TEST_PYTHON").expect("STRONGROOM_TEST_PYTHON is not set: run scripts/test");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/recover.py");
    for vector in Vector::all().iter().filter(|v| v.member("expect") == Some("ok")) {
        let place = tempfile::tempdir().unwrap();
        let [sealed, out] = ["sealed", "out"].map(|name| place.path().join(name));
        std::fs::write(&sealed, &vector.file).unwrap();
        let mut command = std::process::Command::new(&python);
        command.arg(&script).args([&sealed, &out]);
        let name = vector.member("identity").unwrap();
        match name {
            "rsa.pem" => command.arg("-i").arg(folder().join(name)),
            "secret.key" => command.arg("--secret-key-file").arg(folder().join(name)),
            "passphrase.txt" => command.arg("--passphrase-file").arg(folder().join(name)),
            _ => &mut command,
        };
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}: {}", vector.name, String::from_utf8_lossy(&output.stderr));
        let digest = Sha256Digest::of(&std::fs::read(&out).unwrap()).to_string();
        assert_eq!(Some(digest.as_str()), vector.member("plaintext-sha256"), "{}", vector.name);
    }
}

/// Writes what is missing:
/// `cargo test -p envelope-crypto --test it -- --ignored write_missing_vectors`.
#[test]
#[ignore = "writes into vectors/"]
fn write_missing_vectors() {
    let put = |name: &str, bytes: &[u8]| {
        let path = folder().join(name);
        if !path.exists() {
            std::fs::write(path, bytes).unwrap();
        }
    };
    let pem = RSA.to_pem(envelope_crypto::keys::Protection::NoPassphrase).unwrap();
    put("rsa.pem", pem.as_bytes());
    put("secret.key", format!("{SECRET}\n").as_bytes());
    put("passphrase.txt", format!("{PASSPHRASE}\n").as_bytes());
    let key = RsaPrivateKey::from_pem(&std::fs::read(folder().join("rsa.pem")).unwrap(), None).unwrap();
    let rsa = Pair {
        recipient: Arc::new(RsaRecipient::from_public(key.public_key().as_rsa().clone()).unwrap()),
        identities: vec![],
    };
    let write =
        |name: &str, comment: &str, identity: &str, expect: &[(&str, &str)], file: &[u8], plain: &[u8]| {
            let mut text = format!("comment: {comment}\nidentity: {identity}\n");
            expect.iter().for_each(|(name, value)| text += &format!("{name}: {value}\n"));
            if expect.first() == Some(&("expect", "ok")) {
                text += &format!("plaintext-sha256: {}\n", Sha256Digest::of(plain));
            }
            text.push('\n');
            for line in STANDARD.encode(file).as_bytes().chunks(100) {
                text += std::str::from_utf8(line).unwrap();
                text.push('\n');
            }
            put(&format!("{name}.vec"), text.as_bytes());
        };
    let ok = [("expect", "ok")];
    let small = text(500);
    let sealed = |pairs: &[&Pair]| seal(pairs, &options(1), &small).0;
    let stored_options = SealOptions { compression: Compression::None, ..options(1) };

    write("rsa", "one RSA recipient", "rsa.pem", &ok, &sealed(&[&rsa]), &small);
    write(
        "argon2id",
        "a passphrase by Argon2id",
        "passphrase.txt",
        &ok,
        &sealed(&[&passphrase(ARGON2ID)]),
        &small,
    );
    write("pbkdf2", "a passphrase by PBKDF2", "passphrase.txt", &ok, &sealed(&[&passphrase(PBKDF2)]), &small);
    write("secret-key", "one secret key", "secret.key", &ok, &sealed(&[&secret_key()]), &small);
    write("none", "not encrypted", "none", &ok, &sealed(&[&none()]), &small);
    let many = sealed(&[&rsa, &passphrase(ARGON2ID), &secret_key()]);
    write("many-rsa", "three recipients, by the first", "rsa.pem", &ok, &many, &small);
    write("many-secret-key", "three recipients, by the last", "secret.key", &ok, &many, &small);
    let (stored_file, _) = seal(&[&secret_key()], &stored_options, &small);
    write("stored", "a stored block", "secret.key", &ok, &stored_file, &small);
    let (empty, _) = seal(&[&secret_key()], &options(1), b"");
    write("empty", "an empty source has no block", "secret.key", &ok, &empty, b"");
    let zeros = vec![0; 2 * BLOCK];
    let (even, _) = seal(&[&secret_key()], &options(1), &zeros);
    write("full-blocks", "two full blocks and nothing after them", "secret.key", &ok, &even, &zeros);
    let more = vec![b'x'; 2 * BLOCK + 1];
    let (odd, summary) = seal(&[&secret_key()], &options(1), &more);
    write("short-last-block", "the last block has one byte", "secret.key", &ok, &odd, &more);

    let refuse = |name: &str, comment: &str, expect: &[(&str, &str)], file: &[u8]| {
        write(name, comment, "secret.key", expect, file, b"");
    };
    let changed = |at: usize, value: u8| {
        let mut file = odd.clone();
        file[at] = value;
        file
    };
    let flipped = |at: usize| changed(at, odd[at] ^ 1);
    let head = 14 + u32::from_be_bytes(odd[10..14].try_into().unwrap()) as usize + 32;
    let frame = |at: usize| 4 + u32::from_be_bytes(odd[at..at + 4].try_into().unwrap()) as usize;
    let (second, third) = (head + frame(head), head + frame(head) + frame(head + frame(head)));
    refuse("not-envelope", "another magic", &[("expect", "NotEnvelope")], &changed(0, b's'));
    refuse("version-2", "version 2", &[("expect", "UnsupportedVersion")], &changed(9, 2));
    refuse(
        "header-over-limit",
        "header_len is 2^20 + 256",
        &[("expect", "HeaderMalformed")],
        &changed(11, 0x10),
    );
    refuse(
        "header-mac",
        "a flipped bit in the header MAC",
        &[("expect", "NotAuthentic")],
        &flipped(head - 1),
    );
    write("wrong-key", "sealed to another key", "rsa.pem", &[("expect", "NoRecipient")], &odd, b"");
    let wrong = Pair {
        recipient: Arc::new(
            envelope_crypto::PassphraseRecipient::with_kdf(
                envelope_crypto::keys::Passphrase::new(b"another passphrase").unwrap(),
                ARGON2ID,
            )
            .unwrap(),
        ),
        identities: vec![],
    };
    let file = sealed(&[&wrong]);
    write(
        "wrong-passphrase",
        "sealed with another passphrase",
        "passphrase.txt",
        &[("expect", "NotAuthentic")],
        &file,
        b"",
    );
    refuse("block-flipped", "a flipped bit in block 1", &[("expect", "Block 1")], &flipped(second + 10));
    let swapped = [&odd[..head], &odd[second..third], &odd[head..second], &odd[third..]].concat();
    refuse("blocks-swapped", "blocks 0 and 1 change places", &[("expect", "Block 0")], &swapped);
    refuse("cut-in-block", "cut off inside block 1", &[("expect", "Truncated")], &odd[..second + 10]);
    refuse("cut-before-trailer", "cut off before the trailer", &[("expect", "Truncated")], &odd[..third]);
    refuse("cut-last-byte", "the last byte is missing", &[("expect", "Truncated")], &odd[..odd.len() - 1]);
    refuse(
        "trailer-flipped",
        "a flipped bit in the trailer's tag",
        &[("expect", "Trailer")],
        &flipped(odd.len() - 21),
    );
    refuse(
        "footer-count",
        "the footer counts one block too many",
        &[("expect", "Trailer")],
        &flipped(odd.len() - 5),
    );
    let appended = [&odd[..], b"\n"].concat();
    refuse(
        "appended",
        "a newline after the end",
        &[("expect", "TrailingBytes"), ("expect-range", "Truncated")],
        &appended,
    );
    let other = Sha256Digest::of(b"another head").to_string();
    refuse(
        "another-head",
        "the manifest names another head",
        &[("expect", "NotTheExpectedObject"), ("head-sha256", &other)],
        &odd,
    );
    let root = summary.tree_root.to_string();
    write(
        "root-without-leaves",
        "the manifest's root is right; a range needs the leaves too",
        "secret.key",
        &[("expect", "ok"), ("expect-range", "NotTheExpectedObject"), ("tree-root", &root)],
        &odd,
        &more,
    );

    let forged = |name: &str, comment: &str, expect: &[(&str, &str)], forge: &Forge| {
        write(name, comment, "none", expect, &forge.write(), &forge.source);
    };
    let good = Forge::good(&small);
    let with = |json: String| Forge { header: json, ..good.clone() };
    let malformed = [("expect", "HeaderMalformed")];
    let json = header(&none_stanza());
    forged("forged-good", "written from docs/format.md alone", &ok, &good);
    forged(
        "json-duplicate",
        "block_len stands twice",
        &malformed,
        &with(json.replace(r#""block_len":65536"#, r#""block_len":65536,"block_len":65536"#)),
    );
    forged(
        "json-space",
        "a space after a colon",
        &malformed,
        &with(json.replace(r#""suite":"#, r#""suite": "#)),
    );
    forged("json-escape", "a \\u escape", &malformed, &with(json.replace("suite", "\\u0073uite")));
    forged(
        "json-unknown",
        "an unknown member",
        &malformed,
        &with(json.replace(r#"{"suite""#, r#"{"x":1,"suite""#)),
    );
    forged("json-float", "block_len is 65536.0", &malformed, &with(json.replace("65536", "65536.0")));
    forged(
        "salt-bits",
        "trailing bits in the salt's base64",
        &malformed,
        &with(json.replace("Ck=", "Cl=").replace("k=\"", "l=\"")),
    );
    forged("uuid-upper-case", "an upper-case UUID", &malformed, &with(json.replace("7f0a", "7F0A")));
    forged(
        "none-not-alone",
        "none stands twice",
        &malformed,
        &with(header(&format!("{0},{0}", none_stanza()))),
    );
    let rsa_stanza = |bytes: usize| {
        let (id, wrapped) = ("5".repeat(64), base64(&vec![1; bytes]));
        header(&format!(r#"{{"type":"rsa-oaep-sha256","key_id":"{id}","wrapped_key":"{wrapped}"}}"#))
    };
    forged("rsa-512", "a recipient with a modulus of 512 bits", &malformed, &with(rsa_stanza(64)));
    forged("rsa-32768", "a recipient with a modulus of 32,768 bits", &malformed, &with(rsa_stanza(4096)));
    let (salt, nonce, wrapped) = (base64(&[1; 32]), base64(&[2; 12]), base64(&[3; 48]));
    let costly = header(&format!(
        r#"{{"type":"passphrase","kdf":"pbkdf2-hmac-sha256","iterations":1099511627776,"salt":"{salt}","nonce":"{nonce}","wrapped_key":"{wrapped}"}}"#
    ));
    forged("pbkdf2-2-to-the-40", "a passphrase with 2^40 iterations", &malformed, &with(costly));
    let unknown = header(r#"{"type":"x-wing","key_id":"ab"}"#);
    forged(
        "unknown-recipient",
        "only a recipient of an unknown type",
        &[("expect", "NoRecipient")],
        &with(unknown),
    );
    let bomb = zstd::bulk::compress(&vec![0; 16 << 20], 19).unwrap();
    let block_0 = [("expect", "Block 0")];
    forged("zstd-bomb", "a block that decompresses to 16 MiB", &block_0, &Forge::block(zstd(&bomb), &small));
    let frame = zstd::bulk::compress(&small, 3).unwrap();
    let two = zstd(&[&frame[..], &frame[..]].concat());
    forged("zstd-two-frames", "two frames in a block", &block_0, &Forge::block(two, &small));
    forged("codec-2", "an unknown codec", &block_0, &Forge::block([&[2], &small[..]].concat(), &small));
    let early =
        Forge { blocks: vec![stored(b"a"), stored(&small)], ..Forge::good(&[b"a", &small[..]].concat()) };
    forged(
        "short-first-block",
        "a short block that is not the last",
        &[("expect", "Block 0"), ("expect-range", "Trailer")],
        &early,
    );
    forged(
        "trailer-index",
        "the index has another length",
        &[("expect", "Trailer")],
        &Forge { index: Some(vec![100]), ..good.clone() },
    );
    let other = Forge { source: noise(500), ..good };
    write(
        "trailer-digest",
        "another digest of the source; only a reader of the whole can see it",
        "none",
        &[
            ("expect", "Trailer"),
            ("expect-range", "ok"),
            ("plaintext-sha256", &Sha256Digest::of(&small).to_string()),
        ],
        &other.write(),
        b"",
    );
}
