//! What this machine remembers of repositories, and refuses to go back behind.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use backup_core::{Error, ErrorKind, Manifest, Origin, RepositoryId, Result, Sha256Digest, VouchedManifest};
use envelope_crypto::sign::VerifyingKey;
use envelope_crypto::trust::TrustState;
use serde::{Deserialize, Serialize};

use super::durable;
use super::lock::Lock;

/// What is remembered of one repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Pin {
    /// Its id.
    pub(crate) repository: RepositoryId,
    /// Its owner's public key, `ed25519:...`.
    pub(crate) owner: VerifyingKey,
    /// Where it was seen.
    #[serde(default)]
    pub(crate) destinations: Vec<String>,
    /// The newest trust file that was seen.
    #[serde(default)]
    pub(crate) trust: Option<TrustState>,
    /// The newest head that was seen, by `signer/source`.
    #[serde(default)]
    pub(crate) heads: BTreeMap<String, SeenHead>,
}

/// The newest manifest that was seen of one signer and source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SeenHead {
    /// Its sequence number.
    pub(crate) seq: u64,
    /// SHA-256 of its pre-authentication encoding.
    pub(crate) pae_sha256: Sha256Digest,
}

impl Pin {
    /// A repository seen for the first time.
    pub(crate) fn new(repository: RepositoryId, owner: VerifyingKey, destination: String) -> Self {
        Self { repository, owner, destinations: vec![destination], trust: None, heads: BTreeMap::new() }
    }

    /// Remembers the newest heads of a whole listing of `sources` (all of them when `None`), and
    /// answers what is wrong with it: older than what was seen (STALE), or one number with two
    /// contents (FORK).
    pub(crate) fn compare<'a>(
        &mut self,
        listed: impl Iterator<Item = &'a VouchedManifest>,
        only: Option<&str>,
    ) -> Vec<String> {
        let mut newest: BTreeMap<String, SeenHead> = BTreeMap::new();
        let mut wrong = Vec::new();
        for vouched in listed {
            let Some(line) = line_of(vouched) else { continue };
            let head = SeenHead { seq: vouched.manifest().seq, pae_sha256: vouched.pae_sha256() };
            match newest.get(&line) {
                Some(other) if other.seq == head.seq && other.pae_sha256 != head.pae_sha256 => {
                    wrong.push(format!("FORK: {line} has two backups with number {}", head.seq));
                }
                Some(other) if other.seq >= head.seq => {}
                _ => {
                    newest.insert(line, head);
                }
            }
        }
        for (line, seen) in &self.heads {
            if only.is_some_and(|source| line.rsplit('/').next() != Some(source)) {
                continue;
            }
            match newest.get(line) {
                Some(head) if head.seq > seen.seq => {}
                Some(head) if head.seq == seen.seq && head.pae_sha256 == seen.pae_sha256 => {}
                Some(head) if head.seq == seen.seq => {
                    wrong.push(format!(
                        "FORK: number {} of {line} is not the backup that was seen before",
                        seen.seq
                    ));
                }
                Some(head) => wrong.push(format!(
                    "STALE: the newest backup of {line} has number {}, number {} was seen before",
                    head.seq, seen.seq
                )),
                None => wrong
                    .push(format!("STALE: no backup of {line} is left, number {} was seen before", seen.seq)),
            }
        }
        for (line, head) in newest {
            let seen = self.heads.entry(line).or_insert(head);
            if head.seq > seen.seq {
                *seen = head;
            }
        }
        wrong
    }
}

/// The newer of both in everything.
fn merged(mut stored: Pin, pin: &Pin) -> Pin {
    for place in &pin.destinations {
        if !stored.destinations.contains(place) {
            stored.destinations.push(place.clone());
        }
    }
    if pin.trust.map(|t| t.n) > stored.trust.map(|t| t.n) {
        stored.trust = pin.trust;
    }
    for (line, head) in &pin.heads {
        let seen = stored.heads.entry(line.clone()).or_insert(*head);
        if head.seq > seen.seq {
            *seen = *head;
        }
    }
    stored
}

fn line_of(vouched: &VouchedManifest) -> Option<String> {
    let Manifest { source, .. } = vouched.manifest();
    match vouched.origin() {
        Origin::Trusted { signer } => Some(format!("{signer}/{source}")),
        Origin::Unknown => None,
    }
}

/// All pins of this machine.
#[derive(Debug, Clone)]
pub(crate) struct Pins {
    folder: PathBuf,
}

impl Pins {
    pub(super) fn new(state: &Path) -> Self {
        Self { folder: state.join("repositories") }
    }

    /// The pin of a repository.
    ///
    /// # Errors
    /// `Integrity` for a file that cannot be read; a damaged pin is never taken for none.
    pub(crate) fn of(&self, repository: &RepositoryId) -> Result<Option<Pin>> {
        self.read(&self.path(repository))
    }

    /// The pin of the repository that was seen at a destination.
    pub(crate) fn at(&self, destination: &str) -> Result<Option<Pin>> {
        let Ok(entries) = std::fs::read_dir(&self.folder) else { return Ok(None) };
        for entry in entries.flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|e| e == "json") {
                match self.read(&path)? {
                    Some(pin) if pin.destinations.iter().any(|d| d == destination) => return Ok(Some(pin)),
                    _ => {}
                }
            }
        }
        Ok(None)
    }

    /// Remembers, durably.
    pub(crate) fn keep(&self, pin: &Pin) -> Result<()> {
        // Another process may have seen something newer since this one read the file.
        let _lock = Lock::wait(&self.folder, "pins")?;
        let merged = match self.of(&pin.repository)? {
            Some(stored) => merged(stored, pin),
            None => pin.clone(),
        };
        let text = serde_json::to_vec_pretty(&merged)
            .map_err(|e| Error::bug(format!("a pin could not be written: {e}")))?;
        durable::replace(&self.path(&pin.repository), &text, 0o600)
    }

    fn path(&self, repository: &RepositoryId) -> PathBuf {
        self.folder.join(format!("{repository}.json"))
    }

    fn read(&self, path: &Path) -> Result<Option<Pin>> {
        let Some(text) = durable::read(path)? else { return Ok(None) };
        serde_json::from_str(&text).map(Some).map_err(|e| {
            Error::new(
                ErrorKind::Integrity,
                path.display().to_string(),
                format!("not a pin of this program: {e}"),
            )
            .with_hint(
                "compare the owner's key with the recovery sheet, remove the file, and pass --owner once",
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use backup_core::{DumpFormat, SourceName};

    fn owner() -> VerifyingKey {
        *envelope_crypto::sign::SigningKey::generate().unwrap().verifying_key()
    }

    fn vouched(seq: u64, content: &str) -> VouchedManifest {
        let manifest = Manifest {
            repository: RepositoryId::random(),
            source: "orders".parse::<SourceName>().unwrap(),
            id: backup_core::BackupId::random(),
            seq,
            prev: None,
            started: jiff::Timestamp::UNIX_EPOCH,
            finished: jiff::Timestamp::UNIX_EPOCH,
            format: DumpFormat::new("x"),
            engine: "x".into(),
            versions: BTreeMap::new(),
            source_len: 0,
            object_len: 0,
            sha256: Sha256Digest([0; 32]),
            head_sha256: Sha256Digest([0; 32]),
            tree_root: Sha256Digest([0; 32]),
            recipients: vec![],
        };
        let origin = Origin::Trusted { signer: Sha256Digest([7; 32]) };
        VouchedManifest::vouched(manifest, origin, Sha256Digest::of(content.as_bytes()))
    }

    #[test]
    fn a_reader_never_goes_back_behind_what_it_saw() {
        let mut pin = Pin::new(RepositoryId::random(), owner(), "/b".into());
        let [one, two, three] = [vouched(1, "1"), vouched(2, "2"), vouched(3, "3")];
        assert_eq!(pin.compare([&one, &two, &three].into_iter(), None), Vec::<String>::new());
        assert_eq!(pin.compare([&one, &two, &three].into_iter(), Some("orders")), Vec::<String>::new());
        let stale = pin.compare([&one, &two].into_iter(), None);
        assert!(stale[0].starts_with("STALE") && stale[0].contains("number 2"), "{stale:?}");
        assert!(pin.compare(std::iter::empty(), None)[0].starts_with("STALE"));
        // Another source was listed: nothing is said of this one.
        assert_eq!(pin.compare(std::iter::empty(), Some("other")), Vec::<String>::new());
    }

    #[test]
    fn one_number_with_two_contents_is_a_fork() {
        let mut pin = Pin::new(RepositoryId::random(), owner(), "/b".into());
        let (a, b) = (vouched(1, "a"), vouched(1, "b"));
        assert!(pin.compare([&a, &b].into_iter(), None)[0].starts_with("FORK"));
        assert!(pin.compare([&b].into_iter(), None)[0].starts_with("FORK"));
    }

    #[test]
    fn a_slower_process_forgets_nothing_that_a_faster_one_saw() {
        let folder = tempfile::tempdir().unwrap();
        let pins = Pins::new(folder.path());
        let mut slow = Pin::new(RepositoryId::random(), owner(), "/b".into());
        let mut fast = slow.clone();
        let (one, two) = (vouched(1, "1"), vouched(2, "2"));
        slow.compare([&one].into_iter(), None);
        fast.compare([&one, &two].into_iter(), None);
        pins.keep(&fast).unwrap();
        pins.keep(&slow).unwrap();
        assert_eq!(pins.of(&slow.repository).unwrap(), Some(fast));
    }

    #[test]
    fn pins_are_found_by_repository_and_by_place_and_damage_is_no_absence() {
        let folder = tempfile::tempdir().unwrap();
        let pins = Pins::new(folder.path());
        let pin = Pin::new(RepositoryId::random(), owner(), "/b".into());
        assert_eq!(pins.at("/b").unwrap(), None);
        pins.keep(&pin).unwrap();
        assert_eq!(pins.of(&pin.repository).unwrap(), Some(pin.clone()));
        assert_eq!(pins.at("/b").unwrap(), Some(pin.clone()));
        assert_eq!(pins.at("/c").unwrap(), None);
        std::fs::write(folder.path().join(format!("repositories/{}.json", pin.repository)), "{}").unwrap();
        assert_eq!(pins.of(&pin.repository).unwrap_err().kind(), ErrorKind::Integrity);
    }
}
