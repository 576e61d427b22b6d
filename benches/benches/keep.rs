//! Deciding over 100,000 backups, and listing 10,000: from manifests in memory, and by the built command,
//! from a folder and from its cache.
//!
//! `cargo build --release -p cli && cargo bench -p benches --bench keep`
#![allow(missing_docs)]

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use backup_core::retention::{Candidate, Policy, decide};
use backup_core::testing::MemoryStore;
use backup_core::{
    BackupId, BackupRef, DumpFormat, Manifest, RecipientRef, RepositoryId, Sha256Digest, Signer as _,
    StatementKind, pipeline,
};
use divan::{Bencher, black_box};
use envelope_crypto::sign::SigningKey;
use envelope_crypto::trust::{KeyGrant, NewRepository, RepositoryTrust};
use jiff::{SignedDuration, Timestamp};

const LISTED: u64 = 10_000;

fn main() {
    divan::main();
}

fn now() -> Timestamp {
    "2026-06-30T12:00:00Z".parse().expect("a time")
}

/// One backup an hour, each of another size, one in ten not verified.
fn candidates(count: i64) -> Vec<Candidate> {
    (0..count)
        .map(|hour| Candidate {
            id: BackupId::random(),
            first_seen: now() - SignedDuration::from_hours(hour),
            bytes: 1_000_000_000 + hour.unsigned_abs() * 7_919 % 100_000_000,
            proven: hour % 10 != 3,
            failed: false,
            accepted: false,
            pinned: hour % 1_000 == 0,
            locked_until: None,
            needs: Vec::new(),
        })
        .collect()
}

fn policy(zone: &str) -> Policy {
    Policy {
        last: NonZeroU32::new(10),
        within: Some(SignedDuration::from_hours(24 * 30)),
        max_bytes: Some(1 << 40),
        hourly: NonZeroU32::new(48),
        daily: NonZeroU32::new(60),
        weekly: NonZeroU32::new(52),
        monthly: NonZeroU32::new(36),
        yearly: NonZeroU32::new(10),
        time_zone: jiff::tz::TimeZone::get(zone).expect("a time zone"),
        ..Policy::default()
    }
}

#[divan::bench(args = ["UTC", "Europe/Berlin"], sample_count = 5, sample_size = 1)]
fn retention_100_000(bencher: Bencher<'_, '_>, zone: &str) {
    let (all, policy) = (candidates(100_000), policy(zone));
    bencher.bench_local(|| decide(black_box(&all), &policy, now(), None));
}

/// A repository of 10,000 signed manifests, without data.
struct Repository {
    objects: Vec<(String, Vec<u8>)>,
    trust: RepositoryTrust,
    owner: String,
}

static REPOSITORY: LazyLock<Repository> = LazyLock::new(|| {
    let (host, owner) = (SigningKey::generate().expect("a key"), SigningKey::generate().expect("a key"));
    let grants = vec![KeyGrant::backup_of_all(*host.verifying_key())];
    let new = NewRepository::create(&owner, Timestamp::UNIX_EPOCH, grants).expect("a repository");
    let files = [(1, new.trust_json.stored())];
    let trust = RepositoryTrust::load(&new.pin, new.repository_json.stored(), files, None);
    let mut objects = vec![
        ("repository.json".to_owned(), new.repository_json.stored().to_vec()),
        ("trust/1.json".to_owned(), new.trust_json.stored().to_vec()),
    ];
    let mut prev = None;
    for seq in 1..=LISTED {
        let manifest = manifest(new.pin.repository, seq, prev);
        let at = manifest.backup();
        let signed = host.sign(StatementKind::Manifest, &manifest.to_json().expect("JSON"));
        let signed = signed.expect("a signature");
        prev = Some(signed.pae_sha256());
        objects.push((at.manifest().to_string(), signed.stored().to_vec()));
        objects.push((at.data().to_string(), b"not looked at".to_vec()));
        objects.push((at.tree().to_string(), b"not looked at".to_vec()));
    }
    let owner = owner.verifying_key().to_string();
    Repository { objects, trust: trust.expect("its own repository"), owner }
});

fn manifest(repository: RepositoryId, seq: u64, prev: Option<Sha256Digest>) -> Manifest {
    let at = BackupRef { source: "orders".parse().expect("a name"), id: BackupId::random() };
    let started = now() - SignedDuration::from_hours((LISTED - seq) as i64);
    Manifest {
        repository,
        source: at.source,
        id: at.id,
        seq,
        prev,
        started,
        finished: started,
        format: DumpFormat::new("postgresql-custom"),
        engine: "postgresql".to_owned(),
        versions: [("pg_dump".to_owned(), "15.8".to_owned())].into(),
        source_len: 1 << 30,
        object_len: 1 << 28,
        sha256: Sha256Digest([1; 32]),
        head_sha256: Sha256Digest([2; 32]),
        tree_root: Sha256Digest([3; 32]),
        recipients: vec![RecipientRef {
            kind: "rsa-oaep-sha256".to_owned(),
            key_id: Some(Sha256Digest([4; 32])),
        }],
        tags: backup_core::Tags::default(),
    }
}

#[divan::bench(sample_count = 5, sample_size = 1)]
fn list_10_000_in_memory(bencher: Bencher<'_, '_>) {
    let store = MemoryStore::new();
    for (key, bytes) in &REPOSITORY.objects {
        store.overwrite(&key.parse().expect("a key"), bytes.clone());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    bencher.bench_local(|| {
        let listed = runtime.block_on(pipeline::list(&store, &REPOSITORY.trust, None)).expect("a listing");
        assert_eq!(listed.iter().filter(|entry| entry.manifest.is_ok()).count() as u64, LISTED);
    });
}

/// How the command lists.
#[derive(Debug, Clone, Copy)]
enum How {
    /// Every manifest is read from the folder.
    NoCache,
    /// The folder is listed, and the manifests come from the cache.
    Cache,
    /// The folder is not asked.
    CacheAlone,
}

#[divan::bench(args = [How::NoCache, How::Cache, How::CacheAlone], sample_count = 5, sample_size = 1)]
fn list_10_000_by_the_command(bencher: Bencher<'_, '_>, how: How) {
    let lab = tempfile::tempdir().expect("a folder");
    for (key, bytes) in &REPOSITORY.objects {
        let path = lab.path().join("b").join(key);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(path, bytes).expect("a file");
    }
    let state = lab.path().join("state");
    let run = |more: &[&str]| {
        let ran = Command::new(strongroom())
            .args(["list", "--json", "-d"])
            .arg(lab.path().join("b"))
            .args(["--owner", &REPOSITORY.owner, "--state-dir"])
            .arg(&state)
            .args(more)
            .stderr(Stdio::inherit())
            .output()
            .expect("a command that runs");
        assert!(ran.status.success());
        ran.stdout.len()
    };
    run(&[]);
    bencher
        .with_inputs(|| {
            if matches!(how, How::NoCache) {
                let _ = std::fs::remove_dir_all(state.join("catalogue"));
            }
        })
        .bench_local_values(|()| match how {
            How::NoCache | How::Cache => run(&[]),
            How::CacheAlone => run(&["--cached"]),
        });
}

/// The release build, wherever the benches are run from.
fn strongroom() -> PathBuf {
    let named = std::env::var_os("STRONGROOM").map(PathBuf::from);
    named.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release/strongroom"))
}
