//! The envelope, one thread: the bare cipher, frames, whole envelopes by block size, keys, parsing.
//!
//! `cargo bench -p benches --bench envelope`; the bounds that the project holds itself to are
//! measured side by side in `bounds`.
#![allow(missing_docs)]

use std::sync::{Arc, LazyLock};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use backup_core::{BackupId, DumpReport, Expected};
use bytes::Bytes;
use divan::counter::BytesCount;
use divan::{Bencher, black_box};
use envelope_crypto::block::{BODY_AT, FRAME_OVERHEAD, FrameSealer};
use envelope_crypto::{
    BlockLen, Compression, Identity, Opener, Recipient, SealOptions, Sealer, SecretKeyIdentity,
    SecretKeyRecipient,
};
use zeroize::Zeroizing;

/// Bytes of plaintext of one measurement.
const LEN: usize = 32 << 20;
const BLOCK_LENS: [usize; 5] = [64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20];

static ROWS: LazyLock<Bytes> = LazyLock::new(|| benches::rows(LEN));

fn main() {
    divan::main();
}

fn symmetric() -> (Arc<dyn Recipient>, Arc<dyn Identity>) {
    let key = || Zeroizing::new([7; 32]);
    (Arc::new(SecretKeyRecipient::from_bytes(key())), Arc::new(SecretKeyIdentity::from_bytes(key())))
}

fn options(block_len: usize, compression: Compression) -> SealOptions {
    let block_len = BlockLen::new(block_len as u64).expect("a valid block length");
    SealOptions { compression, block_len, workers: 1, allow_symmetric: true }
}

fn sealed(options: &SealOptions) -> Vec<u8> {
    let (mut sealer, mut out) =
        Sealer::new(BackupId::random(), &[symmetric().0], options).expect("valid options");
    out.reserve(LEN + LEN / 64);
    for chunk in ROWS.chunks(1 << 20) {
        sealer.push(chunk, &mut out).expect("sealing");
    }
    sealer.finish(DumpReport::default(), &mut out).expect("sealing");
    out
}

fn opened(file: &[u8]) -> u64 {
    let mut opener = Opener::new(vec![symmetric().1], Expected::default()).expect("nothing is expected");
    let mut len = 0;
    for chunk in file.chunks(1 << 20) {
        opener.push(chunk, &mut |plain| len += plain.len() as u64).expect("opening");
    }
    opener.finish().expect("opening");
    len
}

#[divan::bench_group(sample_count = 20, sample_size = 1)]
mod cipher {
    use super::*;

    /// AES-256-GCM of the backend in place, nothing else.
    #[divan::bench(args = BLOCK_LENS)]
    fn bare(bencher: Bencher<'_, '_>, block_len: usize) {
        let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[7; 32]).expect("32 bytes"));
        let mut buffer = ROWS[..block_len].to_vec();
        bencher.counter(BytesCount::new(LEN)).bench_local(|| {
            for i in 0..(LEN / block_len) as u32 {
                let mut nonce = [0; 12];
                nonce[..4].copy_from_slice(&i.to_be_bytes());
                let nonce = Nonce::assume_unique_for_key(nonce);
                let tag = key.seal_in_place_separate_tag(nonce, Aad::empty(), black_box(&mut buffer));
                black_box(tag.expect("sealing").as_ref()[0]);
            }
        });
    }

    /// The same through the envelope's frames: length, codec byte, counter nonce, tag.
    #[divan::bench(args = BLOCK_LENS)]
    fn frames(bencher: Bencher<'_, '_>, block_len: usize) {
        let sealer = FrameSealer::new(&Zeroizing::new([7; 32]));
        let mut frame = vec![0; block_len + FRAME_OVERHEAD];
        frame[BODY_AT..BODY_AT + block_len].copy_from_slice(&ROWS[..block_len]);
        bencher.counter(BytesCount::new(LEN)).bench_local(|| {
            for i in 0..(LEN / block_len) as u64 {
                sealer.seal_stored(i, black_box(&mut frame)).expect("sealing");
            }
        });
    }
}

#[divan::bench_group(sample_count = 5, sample_size = 1)]
mod whole {
    use super::*;

    /// Everything a sealer does: copy into blocks, SHA-256 of the source, cipher, hash tree.
    #[divan::bench(args = BLOCK_LENS)]
    fn seal_stored(bencher: Bencher<'_, '_>, block_len: usize) {
        LazyLock::force(&ROWS);
        bencher.counter(BytesCount::new(LEN)).bench_local(|| sealed(&options(block_len, Compression::None)));
    }

    #[divan::bench(args = BLOCK_LENS)]
    fn seal_zstd_1(bencher: Bencher<'_, '_>, block_len: usize) {
        LazyLock::force(&ROWS);
        bencher
            .counter(BytesCount::new(LEN))
            .bench_local(|| sealed(&options(block_len, Compression::Zstd(1))));
    }

    #[divan::bench(args = BLOCK_LENS)]
    fn seal_zstd_3(bencher: Bencher<'_, '_>, block_len: usize) {
        LazyLock::force(&ROWS);
        bencher
            .counter(BytesCount::new(LEN))
            .bench_local(|| sealed(&options(block_len, Compression::Zstd(3))));
    }

    #[divan::bench(args = BLOCK_LENS)]
    fn open_stored(bencher: Bencher<'_, '_>, block_len: usize) {
        let file = sealed(&options(block_len, Compression::None));
        bencher.counter(BytesCount::new(LEN)).bench_local(|| opened(black_box(&file)));
    }

    #[divan::bench(args = BLOCK_LENS)]
    fn open_zstd_3(bencher: Bencher<'_, '_>, block_len: usize) {
        let file = sealed(&options(block_len, Compression::Zstd(3)));
        bencher.counter(BytesCount::new(LEN)).bench_local(|| opened(black_box(&file)));
    }
}

#[divan::bench_group(sample_count = 20, sample_size = 1)]
mod keys {
    use envelope_crypto::keys::RsaPrivateKey;
    use envelope_crypto::{RsaIdentity, RsaRecipient};

    use super::*;

    /// Generated once: a key of 4096 bits takes up to seconds.
    static KEY: LazyLock<RsaPrivateKey> = LazyLock::new(|| RsaPrivateKey::generate(4096).expect("a key"));

    fn head() -> Vec<u8> {
        let recipient = RsaRecipient::from_public(KEY.as_rsa().to_public_key()).expect("a good key");
        let options = options(1 << 20, Compression::None);
        Sealer::new(BackupId::random(), &[Arc::new(recipient)], &options).expect("valid options").1
    }

    /// A new envelope's head: fresh file key, RSA-OAEP, MAC.
    #[divan::bench]
    fn rsa_4096_seal_head(bencher: Bencher<'_, '_>) {
        LazyLock::force(&KEY);
        bencher.bench_local(head);
    }

    /// The head read, unwrapped and proven.
    #[divan::bench]
    fn rsa_4096_open_head(bencher: Bencher<'_, '_>) {
        let head = head();
        let identity = Arc::new(RsaIdentity::from_private(KEY.as_rsa().clone()).expect("a good key"));
        bencher.bench_local(|| {
            let mut opener =
                Opener::new(vec![identity.clone()], Expected::default()).expect("nothing is expected");
            opener.push(black_box(&head), &mut |_| ()).expect("its own head");
        });
    }
}

#[divan::bench_group(sample_count = 50)]
mod parse {
    use backup_core::{
        BackupRef, DumpFormat, Manifest, RepositoryId, Sha256Digest, Signer as _, StatementKind, Trust as _,
        strict_json,
    };
    use envelope_crypto::format::Head;
    use envelope_crypto::sign::SigningKey;
    use envelope_crypto::trust::{KeyGrant, NewRepository, RepositoryTrust};

    use super::*;

    #[divan::bench]
    fn head(bencher: Bencher<'_, '_>) {
        let (_, head) =
            Sealer::new(BackupId::random(), &[symmetric().0], &options(1 << 20, Compression::None))
                .expect("valid options");
        bencher
            .counter(BytesCount::new(head.len()))
            .bench_local(|| Head::parse(black_box(&head)).expect("a head"));
    }

    /// DSSE, Ed25519, the signer's rights, strict JSON, the manifest's own rules.
    #[divan::bench]
    fn manifest_vouch(bencher: Bencher<'_, '_>) {
        let host = SigningKey::generate().expect("a key");
        let owner = SigningKey::generate().expect("a key");
        let now = "2026-01-01T00:00:00Z".parse().expect("a time");
        let grants = vec![KeyGrant::backup_of_all(*host.verifying_key())];
        let new = NewRepository::create(&owner, now, grants).expect("a repository");
        let trust_files = [(1, new.trust_json.stored())];
        let trust = RepositoryTrust::load(&new.pin, new.repository_json.stored(), trust_files, None);
        let trust = trust.expect("its own repository");
        let manifest = manifest(new.pin.repository, now);
        let at = manifest.backup();
        let body = manifest.to_json().expect("a manifest");
        let stored = host.sign(StatementKind::Manifest, &body).expect("signing");
        bencher.bench_local(|| trust.vouch(&at, black_box(stored.stored())).expect("a good manifest"));
    }

    /// A megabyte of objects: the strict reader is linear.
    #[divan::bench(args = [1_000, 16_000])]
    fn strict_json_members(bencher: Bencher<'_, '_>, members: usize) {
        let members: Vec<String> =
            (0..members).map(|i| format!("\"member-{i}\":[{i},\"{i}\",{{}}]")).collect();
        let text = format!("{{{}}}", members.join(","));
        bencher
            .counter(BytesCount::new(text.len()))
            .bench_local(|| strict_json::check(black_box(text.as_bytes())).expect("strict JSON"));
    }

    fn manifest(repository: RepositoryId, now: jiff::Timestamp) -> Manifest {
        let at = BackupRef { source: "orders".parse().expect("a name"), id: BackupId::random() };
        Manifest {
            repository,
            source: at.source,
            id: at.id,
            seq: 1,
            prev: None,
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
}
