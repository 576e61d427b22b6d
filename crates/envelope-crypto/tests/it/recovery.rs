//! The independent reader and the recovery by hand of docs/, on files this crate wrote.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use envelope_crypto::keys::{Passphrase, Protection, RsaPrivateKey};
use envelope_crypto::{Compression, RsaRecipient, SealOptions};
use tempfile::TempDir;

use crate::fixture::*;

fn docs(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(name)
}

/// A folder with a sealed file, the keys that open it, and somewhere to put what comes out.
struct Place {
    folder: TempDir,
}

impl Place {
    fn with(file: &[u8]) -> Self {
        let place = Self { folder: tempfile::tempdir().unwrap() };
        place.put("sealed", file);
        place.put("key.pem", RSA.to_pem(Protection::NoPassphrase).unwrap().as_bytes());
        let passphrase = Passphrase::new(PASSPHRASE.as_bytes()).unwrap();
        place.put("locked.pem", RSA.to_pem(Protection::Passphrase(&passphrase)).unwrap().as_bytes());
        place.put("passphrase", format!("{PASSPHRASE}\n").as_bytes());
        place.put("secret", format!("{SECRET}\n").as_bytes());
        place
    }

    fn put(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.folder.path().join(name), bytes).unwrap();
    }

    fn run(&self, command: &mut Command) -> Output {
        let _ = std::fs::remove_file(self.folder.path().join("out"));
        let _ = std::fs::remove_file(self.folder.path().join("out.part"));
        command.current_dir(self.folder.path()).output().unwrap()
    }

    fn python(&self, options: &[&str]) -> Output {
        let python = std::env::var("STRONGROOM_TEST_PYTHON")
            .expect("STRONGROOM_TEST_PYTHON is not set: run scripts/test");
        self.run(Command::new(python).arg(docs("recover.py")).args(["sealed", "out"]).args(options))
    }

    fn by_hand(&self) -> Output {
        self.run(Command::new("bash").arg(docs("recover-by-hand.sh")).args(["sealed", "key.pem", "out"]))
    }

    fn result(&self, output: &Output) -> Vec<u8> {
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        std::fs::read(self.folder.path().join("out")).unwrap()
    }

    fn refused(&self, output: &Output, word: &str) {
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(word), "{said:?} does not say {word:?}");
        assert!(!self.folder.path().join("out").exists(), "something was left behind");
    }
}

#[test]
fn incident_56_a_backup_opens_without_this_program() {
    let plain = text(2 * BLOCK + 99);
    let table: [(Pair, &[&str]); 6] = [
        (rsa(), &["-i", "key.pem"]),
        (rsa(), &["-i", "locked.pem", "--passphrase-file", "passphrase"]),
        (passphrase(ARGON2ID), &["--passphrase-file", "passphrase"]),
        (passphrase(PBKDF2), &["--passphrase-file", "passphrase"]),
        (secret_key(), &["--secret-key-file", "secret"]),
        (none(), &[]),
    ];
    for (pair, arguments) in table {
        let place = Place::with(&seal(&[&pair], &options(1), &plain).0);
        assert_eq!(place.result(&place.python(arguments)), plain, "{:?}", pair.recipient);
    }
}

#[test]
fn the_python_reader_opens_every_length_and_codec() {
    for len in [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 4 * BLOCK] {
        for compression in [Compression::None, Compression::Zstd(1)] {
            let options = SealOptions { compression, ..options(1) };
            let plain = text(len);
            let place = Place::with(&seal(&[&secret_key()], &options, &plain).0);
            assert_eq!(place.result(&place.python(&["--secret-key-file", "secret"])), plain, "{len}");
        }
    }
}

#[test]
fn the_python_reader_refuses_damage() {
    let (file, _) = seal(&[&secret_key()], &options(1), &text(2 * BLOCK + 99));
    let flipped = |at: usize| {
        let mut bad = file.clone();
        bad[at] ^= 1;
        bad
    };
    let head = 14 + u32::from_be_bytes(file[10..14].try_into().unwrap()) as usize + 32;
    let table: [(&str, Vec<u8>, &str); 8] = [
        ("magic", flipped(0), "not a Strongroom envelope"),
        ("MAC", flipped(head - 1), "header was altered"),
        ("block", flipped(head + 100), "block 0 is not authentic"),
        ("trailer", flipped(file.len() - 30), "trailer is not authentic"),
        ("footer", flipped(file.len() - 1), "footer"),
        ("cut off", file[..file.len() - 1].to_vec(), "too early"),
        ("cut in a block", file[..head + 100].to_vec(), "truncated"),
        ("appended", [&file[..], b"x"].concat(), "behind"),
    ];
    for (what, bad, word) in table {
        let place = Place::with(&bad);
        println!("{what}");
        place.refused(&place.python(&["--secret-key-file", "secret"]), word);
    }
    let place = Place::with(&file);
    place.refused(&place.python(&["--passphrase-file", "passphrase"]), "no key fits");
}

#[test]
fn the_commands_of_the_documentation_recover_by_hand() {
    for (len, compression) in [
        (0, Compression::None),
        (5, Compression::Zstd(3)),
        (2 * BLOCK + 99, Compression::Zstd(3)),
        (BLOCK, Compression::None),
    ] {
        let options = SealOptions { compression, ..options(1) };
        let plain = text(len);
        let place = Place::with(&seal(&[&rsa()], &options, &plain).0);
        assert_eq!(place.result(&place.by_hand()), plain, "{len}");
    }
}

#[test]
fn the_commands_of_the_documentation_notice_damage() {
    let (file, _) = seal(&[&rsa()], &SealOptions { compression: Compression::None, ..options(1) }, &text(99));
    let head = 14 + u32::from_be_bytes(file[10..14].try_into().unwrap()) as usize + 32;
    let mut bad = file.clone();
    bad[head + 20] ^= 1;
    let place = Place::with(&bad);
    place.refused(&place.by_hand(), "damaged");
    let key = RsaPrivateKey::generate(2048).unwrap().public_key().as_rsa().clone();
    let other = Pair { recipient: Arc::new(RsaRecipient::from_public(key).unwrap()), identities: vec![] };
    let place = Place::with(&seal(&[&other], &options(1), &text(99)).0);
    assert!(!place.by_hand().status.success(), "another key");
}

#[test]
fn the_python_reader_stays_short() {
    let lines = std::fs::read_to_string(docs("recover.py")).unwrap().lines().count();
    assert!(lines <= 120, "{lines} lines");
}
