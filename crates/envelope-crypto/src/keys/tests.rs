//! Keys against the openssl program, and against damaged and hostile files.

use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use ::rsa::pkcs1;
use pkcs8::der::asn1::UintRef;
use pkcs8::der::{Decode as _, Encode as _};
use proptest::prelude::*;

use super::openssl::{openssl, run};
use super::*;
use crate::sign::SigningKey;

static KEY: LazyLock<RsaPrivateKey> = LazyLock::new(|| RsaPrivateKey::generate(2048).unwrap());

fn passphrase(text: &str) -> Passphrase {
    Passphrase::new(text.as_bytes()).unwrap()
}

fn read(folder: &Path, name: &str) -> Vec<u8> {
    fs::read(folder.join(name)).unwrap()
}

fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let len = u32::try_from(content.len()).unwrap().to_be_bytes();
    let mut out = vec![tag];
    match content.len() {
        0..=0x7f => out.push(len[3]),
        _ => out.extend([0x84, len[0], len[1], len[2], len[3]]),
    }
    // DER wants the shortest length.
    if content.len() > 0x7f {
        let zeros = len.iter().take_while(|byte| **byte == 0).count();
        out.truncate(1);
        out.push(0x80 | u8::try_from(4 - zeros).unwrap());
        out.extend(&len[zeros..]);
    }
    out.extend(content);
    out
}

#[test]
fn openssl_reads_a_plain_key_made_here() {
    let dir = tempfile::tempdir().unwrap();
    let pem = KEY.to_pem(Protection::NoPassphrase).unwrap();
    write_key_pair(
        &dir.path().join("key.pem"),
        &pem,
        &dir.path().join("key.pub.pem"),
        &KEY.public_key().to_pem(),
    )
    .unwrap();
    let checked = run(dir.path(), "pkey -in key.pem -check -noout");
    assert!(String::from_utf8_lossy(&checked).contains("Key is valid"));
    assert_eq!(run(dir.path(), "pkey -in key.pem -pubout"), KEY.public_key().to_pem().as_bytes());
    let der = run(dir.path(), "pkey -pubin -in key.pub.pem -outform DER");
    assert_eq!(backup_core::Sha256Digest::of(&der), KEY.key_id());
    let text = String::from_utf8(run(dir.path(), "pkey -in key.pem -noout -text")).unwrap();
    assert!(text.contains("2048 bit, 2 primes") && text.contains("publicExponent: 65537"), "{text}");
}

#[test]
fn openssl_reads_an_encrypted_key_made_here() {
    let dir = tempfile::tempdir().unwrap();
    let secret = passphrase("grüße, correct horse");
    let pem = KEY.to_pem(Protection::Passphrase(&secret)).unwrap();
    fs::write(dir.path().join("key.pem"), pem.as_bytes()).unwrap();
    fs::write(dir.path().join("pass"), "grüße, correct horse\n").unwrap();
    fs::write(dir.path().join("other"), "wrong\n").unwrap();
    let public = run(dir.path(), "pkey -in key.pem -passin file:pass -pubout");
    assert_eq!(public, KEY.public_key().to_pem().as_bytes());
    assert!(openssl(dir.path(), &["pkey", "-in", "key.pem", "-passin", "file:other", "-noout"]).is_err());

    let dump = String::from_utf8(run(dir.path(), "asn1parse -in key.pem")).unwrap();
    for part in ["PBES2", "PBKDF2", ":0F4240", "hmacWithSHA256", "aes-256-cbc"] {
        assert!(dump.contains(part), "{part} in {dump}");
    }
    assert_eq!(RsaPrivateKey::from_pem(pem.as_bytes(), Some(&secret)).unwrap().key_id(), KEY.key_id());
    assert_eq!(needs_passphrase(pem.as_bytes()), Ok(true));
}

#[test]
fn keys_made_by_openssl_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    fs::write(dir.join("pass"), "opensesame\n").unwrap();
    run(dir, "genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out plain.pem");
    run(dir, "rsa -in plain.pem -traditional -out pkcs1.pem");
    run(dir, "pkey -in plain.pem -pubout -out spki.pem");
    run(dir, "rsa -in plain.pem -RSAPublicKey_out -out pkcs1.pub.pem");
    run(dir, "pkcs8 -topk8 -in plain.pem -passout file:pass -scrypt -out scrypt.pem");
    run(dir, "pkcs8 -topk8 -in plain.pem -passout file:pass -v2 aes-256-cbc -out pbkdf2.pem");
    run(
        dir,
        "pkcs8 -topk8 -in plain.pem -passout file:pass -v2 aes-128-cbc -v2prf hmacWithSHA512 -out sha512.pem",
    );
    let public = RsaPublicKey::from_pem(&read(dir, "spki.pem")).unwrap();
    assert_eq!(RsaPublicKey::from_pem(&read(dir, "pkcs1.pub.pem")).unwrap(), public);
    assert_eq!(public.to_pem().as_bytes(), read(dir, "spki.pem"));
    assert_eq!(public.bits(), 2048);

    let secret = passphrase("opensesame");
    for name in ["plain.pem", "pkcs1.pem"] {
        assert_eq!(needs_passphrase(&read(dir, name)), Ok(false));
        let key = RsaPrivateKey::from_pem(&read(dir, name), None).unwrap();
        assert_eq!(key.public_key(), &public, "{name}");
        // A passphrase that is not needed does no harm.
        assert!(RsaPrivateKey::from_pem(&read(dir, name), Some(&secret)).is_ok());
        let crlf = String::from_utf8(read(dir, name)).unwrap().replace('\n', "\r\n");
        assert_eq!(RsaPrivateKey::from_pem(crlf.as_bytes(), None).unwrap().key_id(), public.key_id());
    }
    for name in ["scrypt.pem", "pbkdf2.pem", "sha512.pem"] {
        let pem = read(dir, name);
        let key = RsaPrivateKey::from_pem(&pem, Some(&secret)).unwrap();
        assert_eq!(key.public_key(), &public, "{name}");
        assert_eq!(RsaPrivateKey::from_pem(&pem, None).err(), Some(KeyError::PassphraseNeeded), "{name}");
        let wrong = passphrase("opensesamE");
        assert_eq!(RsaPrivateKey::from_pem(&pem, Some(&wrong)).err(), Some(KeyError::WrongPassphrase));
    }
}

#[test]
fn what_is_not_read_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    fs::write(dir.join("pass"), "opensesame\n").unwrap();
    fs::write(dir.join("plain.pem"), KEY.to_pem(Protection::NoPassphrase).unwrap().as_bytes()).unwrap();
    run(dir, "rsa -in plain.pem -traditional -aes256 -passout file:pass -out old.pem");
    run(dir, "pkcs8 -topk8 -in plain.pem -passout file:pass -v1 PBE-SHA1-3DES -out pbes1.pem");
    run(
        dir,
        "pkcs8 -topk8 -in plain.pem -passout file:pass -v2 aes-256-cbc -v2prf hmacWithSHA1 -out sha1.pem",
    );
    run(dir, "pkcs8 -topk8 -in plain.pem -passout file:pass -v2 des3 -out des3.pem");
    run(dir, "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out ec.pem");
    run(dir, "pkey -in ec.pem -pubout -out ec.pub.pem");
    run(dir, "genpkey -algorithm RSA-PSS -pkeyopt rsa_keygen_bits:2048 -out pss.pem");
    run(dir, "genpkey -algorithm ED25519 -out ed25519.pem");
    let secret = passphrase("opensesame");
    for name in ["old.pem", "pbes1.pem", "sha1.pem", "des3.pem", "ec.pem", "pss.pem", "ed25519.pem"] {
        let error = RsaPrivateKey::from_pem(&read(dir, name), Some(&secret)).unwrap_err();
        assert!(matches!(error, KeyError::UnsupportedAlgorithm(_)), "{name}: {error:?}");
    }
    let error = RsaPublicKey::from_pem(&read(dir, "ec.pub.pem")).unwrap_err();
    assert_eq!(error, KeyError::UnsupportedAlgorithm("an elliptic curve key".into()));
}

#[test]
fn a_key_of_the_other_kind_is_refused_by_name() {
    let private = KEY.to_pem(Protection::NoPassphrase).unwrap();
    let public = KEY.public_key().to_pem();
    let found = |name: &str, needed| KeyError::WrongType { found: name.to_owned(), needed };
    assert_eq!(
        RsaPrivateKey::from_pem(public.as_bytes(), None).err(),
        Some(found("a public key", "a private key"))
    );
    assert_eq!(needs_passphrase(public.as_bytes()), Err(found("a public key", "a private key")));
    assert_eq!(
        RsaPublicKey::from_pem(private.as_bytes()).err(),
        Some(found("a private key", "a public key"))
    );
    let certificate = pem::write("CERTIFICATE", b"x");
    assert_eq!(
        RsaPublicKey::from_pem(certificate.as_bytes()).err(),
        Some(found("a PEM block called \"CERTIFICATE\"", "a public key"))
    );
    assert_eq!(
        RsaPublicKey::from_pem(b"ssh-rsa AAAA").err(),
        Some(KeyError::NotPem("no line begins with -----BEGIN"))
    );
}

fn public_pkcs1(modulus: &[u8], exponent: &[u8]) -> Vec<u8> {
    let key = pkcs1::RsaPublicKeyRef {
        modulus: UintRef::new(modulus).unwrap(),
        public_exponent: UintRef::new(exponent).unwrap(),
    };
    key.to_der().unwrap()
}

#[test]
fn a_modulus_out_of_bounds_is_refused_before_arithmetic() {
    let dir = tempfile::tempdir().unwrap();
    run(dir.path(), "genrsa -out small.pem 512");
    run(dir.path(), "rsa -in small.pem -pubout -out small.pub.pem");
    let small = KeyError::ModulusSize { bits: 512 };
    assert_eq!(RsaPrivateKey::from_pem(&read(dir.path(), "small.pem"), None).err(), Some(small.clone()));
    assert_eq!(RsaPublicKey::from_pem(&read(dir.path(), "small.pub.pem")).err(), Some(small));
    for (bytes, error) in [
        (vec![0xff; 4096], Some(KeyError::ModulusSize { bits: 32_768 })),
        (vec![0xff; 255], Some(KeyError::ModulusSize { bits: 2040 })),
        ([vec![0x7f], vec![0xff; 255]].concat(), Some(KeyError::ModulusSize { bits: 2047 })),
        ([vec![0x01], vec![0xff; 1024]].concat(), Some(KeyError::ModulusSize { bits: 8193 })),
        (vec![0xff; 1024], None),
        (vec![0xff; 256], None),
        ([vec![0xff; 255], vec![0xfe]].concat(), Some(KeyError::Inconsistent("the modulus is even"))),
    ] {
        let pem = pem::write("RSA PUBLIC KEY", &public_pkcs1(&bytes, &[1, 0, 1]));
        assert_eq!(RsaPublicKey::from_pem(pem.as_bytes()).err(), error);
    }
}

#[test]
fn a_public_exponent_is_odd_and_small() {
    let even = KeyError::Inconsistent("the public exponent is even or 1");
    for (exponent, error) in [
        (&[3_u8][..], None),
        (&[1][..], Some(even.clone())),
        (&[2][..], Some(even.clone())),
        (&[0][..], Some(even)),
        (&[0xff, 0xff, 0xff, 0xff][..], None),
        (
            &[1, 0, 0, 0, 1][..],
            Some(KeyError::UnsupportedAlgorithm("a public exponent of more than 32 bits".into())),
        ),
    ] {
        let pem = pem::write("RSA PUBLIC KEY", &public_pkcs1(&[0xff; 256], exponent));
        assert_eq!(RsaPublicKey::from_pem(pem.as_bytes()).err(), error, "{exponent:?}");
    }
}

#[test]
fn a_key_whose_parts_do_not_fit_is_refused() {
    let plain = KEY.to_pem(Protection::NoPassphrase).unwrap();
    let der = pem::Pem::read(plain.as_bytes()).unwrap().der;
    let info = pkcs8::PrivateKeyInfoRef::from_der(&der).unwrap();
    let whole = pkcs1::RsaPrivateKeyRef::from_der(info.private_key.as_bytes()).unwrap();
    let other = RsaPrivateKey::generate(2048).unwrap().to_pem(Protection::NoPassphrase).unwrap();
    let other_der = pem::Pem::read(other.as_bytes()).unwrap().der;
    let other_info = pkcs8::PrivateKeyInfoRef::from_der(&other_der).unwrap();
    let strange = pkcs1::RsaPrivateKeyRef::from_der(other_info.private_key.as_bytes()).unwrap();

    type Change<'a> = fn(&mut pkcs1::RsaPrivateKeyRef<'a>, &pkcs1::RsaPrivateKeyRef<'a>);
    let changes: [(&str, Change<'_>); 7] = [
        ("n", |key, other| key.modulus = other.modulus),
        ("d", |key, other| key.private_exponent = other.private_exponent),
        ("p", |key, other| key.prime1 = other.prime1),
        ("q", |key, other| key.prime2 = other.prime2),
        ("dp", |key, other| key.exponent1 = other.exponent1),
        ("dq", |key, other| key.exponent2 = other.exponent2),
        ("qinv", |key, other| key.coefficient = other.coefficient),
    ];
    for (name, change) in changes {
        let mut key = whole.clone();
        change(&mut key, &strange);
        let pem = pem::write("RSA PRIVATE KEY", &key.to_der().unwrap());
        let error = RsaPrivateKey::from_pem(pem.as_bytes(), None).unwrap_err();
        assert!(matches!(error, KeyError::Inconsistent(_)), "{name}: {error:?}");
    }
    let sound = pem::write("RSA PRIVATE KEY", &whole.to_der().unwrap());
    assert!(RsaPrivateKey::from_pem(sound.as_bytes(), None).is_ok());
}

/// An encrypted key whose derivation has these parameters; what it holds is never reached.
fn encrypted_with(kdf_oid: &[u8], parameters: &[Vec<u8>]) -> String {
    let kdf = tlv(0x30, &[tlv(6, kdf_oid), tlv(0x30, &parameters.concat())].concat());
    let aes256_cbc = [0x60, 0x86, 0x48, 1, 0x65, 3, 4, 1, 0x2a];
    let cipher = tlv(0x30, &[tlv(6, &aes256_cbc), tlv(4, &[0; 16])].concat());
    let pbes2 = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 5, 0x0d];
    let algorithm = tlv(0x30, &[tlv(6, &pbes2), tlv(0x30, &[kdf, cipher].concat())].concat());
    let der = tlv(0x30, &[algorithm, tlv(4, &[0; 64])].concat());
    pem::write("ENCRYPTED PRIVATE KEY", &der).to_string()
}

const PBKDF2: [u8; 9] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 5, 0x0c];
const SCRYPT: [u8; 9] = [0x2b, 6, 1, 4, 1, 0xda, 0x47, 4, 0x0b];

fn integer(value: u64) -> Vec<u8> {
    let bytes = value.to_be_bytes();
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count().min(7);
    let mut content = bytes[zeros..].to_vec();
    if content[0] & 0x80 != 0 {
        content.insert(0, 0);
    }
    tlv(2, &content)
}

#[test]
fn the_cost_of_a_derivation_is_bounded_before_it_begins() {
    let secret = passphrase("x");
    let prf = tlv(0x30, &[tlv(6, &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 2, 9]), vec![5, 0]].concat());
    let pbkdf2 = |iterations| encrypted_with(&PBKDF2, &[tlv(4, &[1; 16]), integer(iterations), prf.clone()]);
    let read = |pem: &str| RsaPrivateKey::from_pem(pem.as_bytes(), Some(&secret)).unwrap_err();
    assert_eq!(read(&pbkdf2(1)), KeyError::WrongPassphrase);
    assert_eq!(read(&pbkdf2(0)), KeyError::Malformed("PBKDF2 without iterations"));
    let costly = KeyError::DerivationTooCostly("more than 10,000,000 PBKDF2 iterations");
    assert_eq!(read(&pbkdf2(u64::from(PBKDF2_ITERATIONS_MAX) + 1)), costly);
    assert_eq!(read(&pbkdf2(u64::from(u32::MAX))), costly);
    assert_eq!(read(&pbkdf2(1 << 40)), KeyError::Malformed("not an encrypted PKCS#8 key"));

    let scrypt = |n, r, p| encrypted_with(&SCRYPT, &[tlv(4, &[1; 16]), integer(n), integer(r), integer(p)]);
    let costly = KeyError::DerivationTooCostly("scrypt beyond 256 MiB");
    let impossible = KeyError::Malformed("impossible scrypt parameters");
    let table = [
        (2, 1, 1, KeyError::WrongPassphrase),
        (1 << 19, 8, 1, costly.clone()),
        (1 << 18, 8, 5, costly.clone()),
        (2, 65_535, 65_535, costly.clone()),
        (1 << 63, 65_535, 65_535, costly),
        (0, 8, 1, impossible.clone()),
        (1, 8, 1, impossible.clone()),
        (1000, 8, 1, impossible.clone()),
        (16, 0, 1, impossible.clone()),
        (16, 8, 0, impossible),
    ];
    for (n, r, p, error) in table {
        assert_eq!(read(&scrypt(n, r, p)), error, "{n} {r} {p}");
    }
    // Costs are looked at even when there is no passphrase yet: nobody is asked for one in vain.
    let unread = RsaPrivateKey::from_pem(scrypt(1 << 19, 8, 1).as_bytes(), None).unwrap_err();
    assert!(matches!(unread, KeyError::DerivationTooCostly(_)));
}

#[test]
fn only_four_sizes_are_made() {
    for bits in [0, 512, 1024, 2047, 2056, 16_384, 32_768] {
        assert_eq!(RsaPrivateKey::generate(bits).err(), Some(KeyError::GenerateBits { bits }));
    }
    assert_eq!(KEY.public_key().bits(), 2048);
}

#[test]
fn the_default_size_is_4096_bits() {
    let key = RsaPrivateKey::generate(RSA_BITS_DEFAULT).unwrap();
    assert_eq!(key.public_key().bits(), 4096);
    assert_ne!(key.key_id(), KEY.key_id());
}

#[test]
fn debug_hides_the_private_key() {
    let shown = format!("{:?}", *KEY);
    assert_eq!(
        shown,
        format!("RsaPrivateKey {{ public: RsaPublicKey {{ bits: 2048, key_id: {} }}, .. }}", KEY.key_id())
    );
}

#[test]
fn errors_at_the_port_have_the_right_class() {
    use backup_core::ErrorKind as Kind;
    for (error, kind) in [
        (KeyError::PassphraseNeeded, Kind::Config),
        (KeyError::WrongPassphrase, Kind::Denied),
        (KeyError::ModulusSize { bits: 512 }, Kind::Denied),
        (KeyError::Inconsistent("x"), Kind::Integrity),
        (KeyError::UnsupportedAlgorithm("x".into()), Kind::Unsupported),
        (KeyError::Io { what: "x", kind: std::io::ErrorKind::NotFound }, Kind::NotFound),
        (KeyError::Io { what: "x", kind: std::io::ErrorKind::AlreadyExists }, Kind::Conflict),
    ] {
        assert_eq!(error.clone().about("key.pem").kind(), kind, "{error:?}");
    }
}

/// What a backup host holds: a public key to seal, its own signing key, and nothing that opens.
#[test]
fn incident_18_the_key_on_the_backup_host_seals_and_does_not_open() {
    let public = KEY.public_key().to_pem();
    assert!(matches!(
        RsaPrivateKey::from_pem(public.as_bytes(), None),
        Err(KeyError::WrongType { needed: "a private key", .. })
    ));
    let private = KEY.to_pem(Protection::NoPassphrase).unwrap();
    let private = pem::Pem::read(private.as_bytes()).unwrap().der;
    let info = pkcs8::PrivateKeyInfoRef::from_der(&private).unwrap();
    let parts = pkcs1::RsaPrivateKeyRef::from_der(info.private_key.as_bytes()).unwrap();
    let public = pem::Pem::read(public.as_bytes()).unwrap().der;
    for secret in [parts.private_exponent, parts.prime1, parts.prime2] {
        let secret = secret.as_bytes();
        assert!(!public.windows(secret.len()).any(|window| window == secret));
    }
}

#[test]
fn incident_19_the_signing_key_of_a_compromised_host_opens_nothing() {
    let host = SigningKey::generate().unwrap().to_pem(Protection::NoPassphrase).unwrap();
    let error = RsaPrivateKey::from_pem(host.as_bytes(), None).unwrap_err();
    assert_eq!(error, KeyError::UnsupportedAlgorithm("an Ed25519 key, which only signs".into()));
}

/// A run that nobody watches needs a public key file and nothing else; to open is another machine's.
#[test]
fn incident_20_an_unattended_run_holds_nothing_that_opens_what_it_sealed() {
    use crate::{Identity, OpenError, Opener, RsaIdentity, RsaRecipient, SealOptions, Sealer};
    use backup_core::{BackupId, DumpReport, Expected};
    use std::sync::Arc;

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key.pub.pem");
    write_public_key(&path, &KEY.public_key().to_pem()).unwrap();
    let held = read_key_file(&path).unwrap().contents;
    let public = RsaPublicKey::from_pem(&held).unwrap();
    let recipient = RsaRecipient::from_public(public.as_rsa().clone()).unwrap();
    assert_eq!(recipient.key_id(), public.key_id());
    let mut sealed = Vec::new();
    let (mut sealer, head) =
        Sealer::new(BackupId::random(), &[Arc::new(recipient)], &SealOptions::default()).unwrap();
    sealed.extend(head);
    sealer.push(b"the rows", &mut sealed).unwrap();
    sealer.finish(DumpReport::default(), &mut sealed).unwrap();

    assert!(RsaPrivateKey::from_pem(&held, None).is_err());
    let open = |identities: Vec<Arc<dyn Identity>>| {
        let mut plain = Vec::new();
        let mut opener = Opener::new(identities, Expected::default())?;
        opener.push(&sealed, &mut |bytes: &[u8]| plain.extend_from_slice(bytes))?;
        opener.finish()?;
        Ok::<_, OpenError>(plain)
    };
    let identity = |key: &RsaPrivateKey| -> Vec<Arc<dyn Identity>> {
        vec![Arc::new(RsaIdentity::from_private(key.as_rsa().clone()).unwrap())]
    };
    let stranger = RsaPrivateKey::generate(2048).unwrap();
    assert!(open(Vec::new()).is_err());
    assert!(open(identity(&stranger)).is_err());
    assert_eq!(open(identity(&KEY)).unwrap(), b"the rows");
}

#[test]
fn incident_29_a_key_file_said_to_be_encrypted_is() {
    let secret = passphrase("opensesame");
    let encrypted = KEY.to_pem(Protection::Passphrase(&secret)).unwrap();
    assert!(encrypted.starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----\n"));
    let der = pem::Pem::read(encrypted.as_bytes()).unwrap().der;
    let plain = KEY.to_pem(Protection::NoPassphrase).unwrap();
    let plain = pem::Pem::read(plain.as_bytes()).unwrap().der;
    // No 16 bytes in a row of the plain key stand in the encrypted one.
    for piece in plain.windows(16) {
        assert!(!der.windows(16).any(|window| window == piece));
    }
    assert_eq!(RsaPrivateKey::from_pem(encrypted.as_bytes(), None).err(), Some(KeyError::PassphraseNeeded));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_damaged_private_key_is_the_same_key_or_none(at in 0..1600_usize, bit in 0..8_u8) {
        let mut text = KEY.to_pem(Protection::NoPassphrase).unwrap().as_bytes().to_vec();
        let at = at % text.len();
        text[at] ^= 1 << bit;
        if let Ok(key) = RsaPrivateKey::from_pem(&text, None) {
            prop_assert_eq!(key.key_id(), KEY.key_id());
        }
    }

    #[test]
    fn a_truncated_key_is_no_key(len in 0..1600_usize) {
        let text = KEY.to_pem(Protection::NoPassphrase).unwrap();
        let cut = &text.as_bytes()[..len % (text.len() - 1)];
        prop_assert!(RsaPrivateKey::from_pem(cut, None).is_err());
    }

    #[test]
    fn no_bytes_make_the_reader_panic(label in 0..5_usize, der in prop::collection::vec(any::<u8>(), 0..200)) {
        let labels =
            ["PUBLIC KEY", "RSA PUBLIC KEY", "PRIVATE KEY", "RSA PRIVATE KEY", "ENCRYPTED PRIVATE KEY"];
        let text = pem::write(labels[label], &der);
        let secret = passphrase("x");
        prop_assert!(RsaPublicKey::from_pem(text.as_bytes()).is_err());
        prop_assert!(RsaPrivateKey::from_pem(text.as_bytes(), Some(&secret)).is_err());
        prop_assert!(RsaPrivateKey::from_pem(&der, Some(&secret)).is_err());
    }
}
