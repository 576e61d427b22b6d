//! Writes the seeds and the part of the corpus that our own code makes, below the current folder:
//! `cd fuzz && cargo run --release --example seeds`. Keys are fresh in every run.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use backup_core::{
    BackupId, BackupRef, DumpFormat, Manifest, ObjectKey, RepositoryId, Sha256Digest, Signer as _,
    StatementKind,
};
use envelope_crypto::keys::{Passphrase, Protection, RsaPrivateKey};
use envelope_crypto::sign::SigningKey;
use envelope_crypto::trust::{KeyGrant, NewRepository};
use envelope_crypto::{
    Compression, PassphraseRecipient, Recipient, RsaRecipient, SealOptions, Sealer, SecretKeyRecipient,
};
use strongroom_fuzz::{Author, BLOCK_LEN, MANIFEST_KEY};

fn main() {
    let rsa = RsaPrivateKey::generate(2048).expect("a key");
    let (owner, host) = (SigningKey::generate().expect("a key"), SigningKey::generate().expect("a key"));
    heads(&rsa);
    files();
    statements(&owner, &host);
    keys(&rsa, &owner);
}

fn write(path: &str, bytes: impl AsRef<[u8]>) {
    let path = Path::new(path);
    fs::create_dir_all(path.parent().expect("a folder")).expect("creating a folder");
    fs::write(path, bytes).expect("writing a seed");
}

fn heads(rsa: &RsaPrivateKey) {
    let recipients: Vec<Arc<dyn Recipient>> = vec![
        Arc::new(RsaRecipient::from_public(rsa.as_rsa().to_public_key()).expect("a good key")),
        Arc::new(PassphraseRecipient::new("correct horse").expect("a passphrase")),
        Arc::new(SecretKeyRecipient::from_bytes([5; 32].into())),
    ];
    let options =
        SealOptions { compression: Compression::None, allow_symmetric: true, ..SealOptions::default() };
    let (_, head) = Sealer::new(BackupId::random(), &recipients, &options).expect("valid options");
    write("corpus/header/every-recipient", &head);
    write("corpus/header/json", &head[14..head.len() - 32]);
    write("corpus/strict_json/header", &head[14..head.len() - 32]);
    write("corpus/header/none", Author::new().into_unfinished());
    write(
        "corpus/strict_json/values",
        br#"{"a":[0,1,9007199254740991,true,false,null,"x\"\\\/\n"],"b":{},"c":[]}"#,
    );
}

fn files() {
    let head = Author::new().into_unfinished().len();
    let empty = Author::new().finish(b"");
    let mut author = Author::new();
    author.stored(b"one short block");
    let short = author.finish(b"one short block");
    let mut author = Author::new();
    let mut source = vec![b'a'; BLOCK_LEN];
    author.compressed(&source);
    source.extend_from_slice(b"and a little more");
    author.stored(b"and a little more");
    let long = author.finish(&source);
    for (name, file) in [("empty", &empty), ("short", &short), ("long", &long)] {
        write(&format!("corpus/open/{name}"), file);
        write(&format!("corpus/open/{name}-behind-its-head"), &file[head..]);
    }

    let text = b"a body of a block, a body of a block, a body of a block";
    let frame = zstd::bulk::compress(text, 3).expect("zstd compresses");
    write("corpus/hostile/stored", [&[0, 0], text.as_slice()].concat());
    write("corpus/hostile/zstd", [&[0, 1], frame.as_slice()].concat());
    let full = zstd::bulk::compress(&vec![b'x'; BLOCK_LEN], 3).expect("zstd compresses");
    write("corpus/hostile/zstd-full-after-one", [&[2, 1], full.as_slice()].concat());
    for blocks in 0..3_u8 {
        let mut author = Author::new();
        let source = vec![b'x'; BLOCK_LEN * usize::from(blocks)];
        (0..blocks).for_each(|_| author.compressed(&source[..BLOCK_LEN]));
        write(
            &format!("corpus/hostile/trailer-{blocks}"),
            [&[1 | blocks << 1], author.trailer(&source).as_slice()].concat(),
        );
    }
    for (name, bytes) in [
        ("nothing", [0_u8; 24]),
        ("ones", [1; 24]),
        ("mixed", *b"\x01\x01\0\xff\x10\0\x40\x01\x20\x03\x01\0\x02\x80\x01\0\x05\x10\0\x20\0\x30\0\x01"),
    ] {
        write(&format!("corpus/range/{name}"), bytes);
    }
}

fn statements(owner: &SigningKey, host: &SigningKey) {
    let now = "2026-01-01T00:00:00Z".parse().expect("a time");
    let grants = vec![KeyGrant::backup_of_all(*host.verifying_key())];
    let new = NewRepository::create(owner, now, grants).expect("a repository");
    write("seeds/owner.txt", new.pin.owner.to_string());
    write("seeds/repository.txt", new.pin.repository.to_string());
    write("seeds/repository.json", new.repository_json.stored());
    write("seeds/trust-1.json", new.trust_json.stored());
    write("corpus/statement/repository", new.repository_json.stored());
    write("corpus/statement/trust", new.trust_json.stored());

    // Signed, but for another place than the target looks at: never vouched for.
    let elsewhere = BackupRef { source: "orders".parse().expect("a name"), id: BackupId::random() };
    let body = manifest(elsewhere, new.pin.repository).to_json().expect("a manifest");
    let signed = host.sign(StatementKind::Manifest, &body).expect("signing");
    write("corpus/statement/manifest", signed.stored());

    let key: ObjectKey = MANIFEST_KEY.parse().expect("a valid key");
    let at = BackupRef::of_manifest(&key).expect("the key of a manifest");
    let body = manifest(at, new.pin.repository).to_json().expect("a manifest");
    write("corpus/manifest/whole", &body);
    write("corpus/manifest/key", MANIFEST_KEY);
    write("corpus/strict_json/manifest", &body);
}

fn manifest(at: BackupRef, repository: RepositoryId) -> Manifest {
    let now = "2026-01-01T00:00:00.5Z".parse().expect("a time");
    Manifest {
        repository,
        source: at.source,
        id: at.id,
        seq: 2,
        prev: Some(Sha256Digest([9; 32])),
        started: now,
        finished: now,
        format: DumpFormat::new("postgresql-custom"),
        engine: "postgresql".to_owned(),
        versions: [("pg_dump".to_owned(), "15.8".to_owned())].into(),
        source_len: 1 << 30,
        object_len: 1 << 28,
        sha256: Sha256Digest([1; 32]),
        head_sha256: Sha256Digest([2; 32]),
        tree_root: Sha256Digest([3; 32]),
        recipients: Vec::new(),
        tags: backup_core::Tags::default(),
    }
}

fn keys(rsa: &RsaPrivateKey, signing: &SigningKey) {
    let plain = Protection::NoPassphrase;
    let passphrase = Passphrase::new(b"correct horse").expect("a passphrase");
    write("corpus/key_pem/rsa-public.pem", rsa.public_key().to_pem());
    write("corpus/key_pem/rsa-private.pem", rsa.to_pem(plain).expect("a key").as_bytes());
    let encrypted = rsa.to_pem(Protection::Passphrase(&passphrase)).expect("a key");
    write("corpus/key_pem/rsa-encrypted.pem", encrypted.as_bytes());
    write("corpus/key_pem/ed25519-public.pem", signing.verifying_key().to_pem());
    write("corpus/key_pem/ed25519-private.pem", signing.to_pem(plain).expect("a key").as_bytes());
    write("corpus/key_pem/secret-key", "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=");
}
