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
    /// Heads that the owner withdrew since the file was read: they are taken out of it too.
    #[serde(skip)]
    forgotten: BTreeMap<String, SeenHead>,
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

/// How far the owner lets the backups of one signer and source count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// All of them.
    Everything,
    /// Those up to this one, the last good one of a revoked key.
    UpTo(SeenHead),
    /// None of them.
    Nothing,
}

/// What a listing is, held against what was seen before.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Compared {
    /// What is wrong with it: older than what was seen (STALE), or one number with two contents
    /// (FORK).
    pub(crate) wrong: Vec<String>,
    /// What was seen and counts no more because the owner says so. Told once: it is then forgotten.
    pub(crate) withdrawn: Vec<String>,
}

impl Pin {
    /// A repository seen for the first time.
    pub(crate) fn new(repository: RepositoryId, owner: VerifyingKey, destination: String) -> Self {
        Self {
            repository,
            owner,
            destinations: vec![destination],
            trust: None,
            heads: BTreeMap::new(),
            forgotten: BTreeMap::new(),
        }
    }

    /// Remembers a head of one signer and source, if it is newer than the one remembered.
    pub(crate) fn saw(&mut self, signer: Sha256Digest, source: &str, head: SeenHead) {
        newer(&mut self.heads, line(signer, source), head);
    }

    /// Compares a whole listing of `only` (of every source when `None`) with what was seen before, as
    /// far as `reach` lets it count, and remembers its newest heads.
    pub(crate) fn compare<'a>(
        &mut self,
        listed: impl Iterator<Item = &'a VouchedManifest>,
        only: Option<&str>,
        reach: impl Fn(Sha256Digest, &str) -> Reach,
    ) -> Compared {
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
        let withdrawn = self.withdraw(only, reach);
        for (line, seen) in self.heads.iter().filter(|(line, _)| is_of(line, only)) {
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
            newer(&mut self.heads, line, head);
        }
        Compared { wrong, withdrawn }
    }

    /// Goes back to the last good head where the owner took the later ones back. The trust file that
    /// says so is remembered itself, so nobody can undo it and have the later ones missed.
    fn withdraw(&mut self, only: Option<&str>, reach: impl Fn(Sha256Digest, &str) -> Reach) -> Vec<String> {
        let mut withdrawn = Vec::new();
        self.heads.retain(|line, seen| {
            let parts = line.split_once('/').and_then(|(s, name)| Some((Sha256Digest::from_hex(s)?, name)));
            let Some((signer, source)) = parts.filter(|_| is_of(line, only)) else { return true };
            let was = *seen;
            let (kept, why) = match reach(signer, source) {
                Reach::UpTo(last) if was.seq > last.seq || (was.seq == last.seq && was != last) => {
                    *seen = last;
                    (true, format!("number {} is the last good one of its revoked key", last.seq))
                }
                Reach::Nothing => (false, "its key is revoked or may not back up this source".to_owned()),
                Reach::Everything | Reach::UpTo(_) => return true,
            };
            withdrawn.push(format!("number {} of {line} was seen before and counts no more: {why}", was.seq));
            self.forgotten.insert(line.clone(), was);
            kept
        });
        withdrawn
    }
}

fn newer(heads: &mut BTreeMap<String, SeenHead>, line: String, head: SeenHead) {
    let seen = heads.entry(line).or_insert(head);
    if head.seq > seen.seq {
        *seen = head;
    }
}

fn line(signer: Sha256Digest, source: &str) -> String {
    format!("{signer}/{source}")
}

fn is_of(line: &str, only: Option<&str>) -> bool {
    only.is_none_or(|source| line.rsplit('/').next() == Some(source))
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
    stored.heads.retain(|line, head| pin.forgotten.get(line) != Some(head));
    for (line, head) in &pin.heads {
        newer(&mut stored.heads, line.clone(), *head);
    }
    stored
}

fn line_of(vouched: &VouchedManifest) -> Option<String> {
    let Manifest { source, .. } = vouched.manifest();
    match vouched.origin() {
        Origin::Trusted { signer } => Some(line(signer, source.as_str())),
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
            tags: backup_core::Tags::default(),
        };
        let origin = Origin::Trusted { signer: Sha256Digest([7; 32]) };
        VouchedManifest::vouched(manifest, origin, Sha256Digest::of(content.as_bytes()))
    }

    fn compare<'a>(
        pin: &mut Pin,
        listed: impl IntoIterator<Item = &'a VouchedManifest>,
        only: Option<&str>,
    ) -> Vec<String> {
        let Compared { wrong, withdrawn } = pin.compare(listed.into_iter(), only, |_, _| Reach::Everything);
        assert_eq!(withdrawn, Vec::<String>::new());
        wrong
    }

    #[test]
    fn a_reader_never_goes_back_behind_what_it_saw() {
        let mut pin = Pin::new(RepositoryId::random(), owner(), "/b".into());
        let [one, two, three] = [vouched(1, "1"), vouched(2, "2"), vouched(3, "3")];
        assert_eq!(compare(&mut pin, [&one, &two, &three], None), Vec::<String>::new());
        assert_eq!(compare(&mut pin, [&one, &two, &three], Some("orders")), Vec::<String>::new());
        let stale = compare(&mut pin, [&one, &two], None);
        assert!(stale[0].starts_with("STALE") && stale[0].contains("number 2"), "{stale:?}");
        assert!(compare(&mut pin, [], None)[0].starts_with("STALE"));
        // Another source was listed: nothing is said of this one.
        assert_eq!(compare(&mut pin, [], Some("other")), Vec::<String>::new());
    }

    #[test]
    fn what_the_owner_withdrew_is_told_once_and_missed_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let pins = Pins::new(folder.path());
        let mut pin = Pin::new(RepositoryId::random(), owner(), "/b".into());
        let [one, two, three] = [vouched(1, "1"), vouched(2, "2"), vouched(3, "3")];
        compare(&mut pin, [&one, &two, &three], None);
        pins.keep(&pin).unwrap();
        let good = SeenHead { seq: 2, pae_sha256: two.pae_sha256() };
        let up_to_two = |_, _: &str| Reach::UpTo(good);

        // Another source was listed: nothing is forgotten of this one.
        assert_eq!(pin.compare(std::iter::empty(), Some("other"), up_to_two), Compared::default());
        let compared = pin.compare([&one, &two].into_iter(), None, up_to_two);
        assert_eq!(compared.wrong, Vec::<String>::new());
        assert!(compared.withdrawn[0].contains("number 3"), "{compared:?}");
        pins.keep(&pin).unwrap();
        let mut pin = pins.of(&pin.repository).unwrap().unwrap();
        assert_eq!(pin.compare([&one, &two].into_iter(), None, up_to_two), Compared::default());
        // The last good one and those before it are still missed.
        let compared = pin.compare([&one].into_iter(), None, up_to_two);
        assert!(compared.wrong[0].starts_with("STALE") && compared.wrong[0].contains("number 2"));

        let compared = pin.compare(std::iter::empty(), None, |_, _| Reach::Nothing);
        assert_eq!((compared.wrong.len(), compared.withdrawn.len()), (0, 1), "{compared:?}");
        pins.keep(&pin).unwrap();
        assert!(pins.of(&pin.repository).unwrap().unwrap().heads.is_empty());
    }

    #[test]
    fn a_forged_last_good_number_is_withdrawn_for_the_true_one() {
        let mut pin = Pin::new(RepositoryId::random(), owner(), "/b".into());
        let (forged, good) = (vouched(2, "forged"), vouched(2, "2"));
        compare(&mut pin, [&forged], None);
        let last = SeenHead { seq: 2, pae_sha256: good.pae_sha256() };
        let compared = pin.compare([&good].into_iter(), None, |_, _| Reach::UpTo(last));
        assert_eq!((compared.wrong.len(), compared.withdrawn.len()), (0, 1), "{compared:?}");
    }

    #[test]
    fn one_number_with_two_contents_is_a_fork() {
        let mut pin = Pin::new(RepositoryId::random(), owner(), "/b".into());
        let (a, b) = (vouched(1, "a"), vouched(1, "b"));
        assert!(compare(&mut pin, [&a, &b], None)[0].starts_with("FORK"));
        assert!(compare(&mut pin, [&b], None)[0].starts_with("FORK"));
    }

    #[test]
    fn a_slower_process_forgets_nothing_that_a_faster_one_saw() {
        let folder = tempfile::tempdir().unwrap();
        let pins = Pins::new(folder.path());
        let mut slow = Pin::new(RepositoryId::random(), owner(), "/b".into());
        let mut fast = slow.clone();
        let (one, two) = (vouched(1, "1"), vouched(2, "2"));
        compare(&mut slow, [&one], None);
        compare(&mut fast, [&one, &two], None);
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
