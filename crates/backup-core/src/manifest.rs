//! The manifest: what is said in the clear, and signed, of one backup.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::digest::Sha256Digest;
use crate::dump::DumpFormat;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{BackupId, ObjectKey, RepositoryId, SourceName};
use crate::strict_json;
use crate::tags::Tags;

/// One backup of one source: where its objects lie.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackupRef {
    /// The source.
    pub source: SourceName,
    /// The backup.
    pub id: BackupId,
}

impl BackupRef {
    fn key(&self, name: &str) -> ObjectKey {
        // Both names are valid segments by construction, so the key always parses.
        ObjectKey::from_str(&format!("{}/{}/{name}", self.source, self.id)).expect("segments of valid names")
    }

    /// The envelope.
    #[must_use]
    pub fn data(&self) -> ObjectKey {
        self.key("data.strongroom")
    }

    /// The hash tree's leaves.
    #[must_use]
    pub fn tree(&self) -> ObjectKey {
        self.key("data.tree")
    }

    /// The manifest.
    #[must_use]
    pub fn manifest(&self) -> ObjectKey {
        self.key("manifest.json")
    }

    /// What is said of it later, under this name.
    #[must_use]
    pub fn statement(&self, name: &str) -> ObjectKey {
        self.key(&format!("statements/{name}.json"))
    }

    /// Everything of it: what its keys begin with.
    #[must_use]
    pub fn prefix(&self) -> String {
        format!("{}/{}/", self.source, self.id)
    }

    /// What is left of it after it was removed.
    #[must_use]
    pub fn history(&self) -> ObjectKey {
        let key = format!("history/{}/{}.json", self.source, self.id);
        ObjectKey::from_str(&key).expect("segments of valid names")
    }

    /// The certificate that it was destroyed.
    #[must_use]
    pub fn shredded(&self) -> ObjectKey {
        let key = format!("history/{}/{}.shredded.json", self.source, self.id);
        ObjectKey::from_str(&key).expect("segments of valid names")
    }

    /// The backup that a statement with this key is about, or `None` for any other object.
    #[must_use]
    pub fn of_statement(key: &ObjectKey) -> Option<Self> {
        let segments: Vec<&str> = key.as_str().split('/').collect();
        let [source, id, "statements", name] = segments[..] else { return None };
        name.strip_suffix(".json")?;
        Some(Self { source: source.parse().ok()?, id: id.parse().ok()? })
    }

    /// The backup whose removal this key tells of, or `None` for any other object.
    #[must_use]
    pub fn of_history(key: &ObjectKey) -> Option<Self> {
        let segments: Vec<&str> = key.as_str().split('/').collect();
        let ["history", source, file] = segments[..] else { return None };
        Some(Self { source: source.parse().ok()?, id: file.strip_suffix(".json")?.parse().ok()? })
    }

    /// The backup that an object with this key belongs to, whatever its name; `None` for an object that
    /// belongs to none.
    #[must_use]
    pub fn of_object(key: &ObjectKey) -> Option<Self> {
        let mut segments = key.as_str().splitn(3, '/');
        let (source, id, _) = (segments.next()?, segments.next()?, segments.next()?);
        Some(Self { source: source.parse().ok()?, id: id.parse().ok()? })
    }

    /// The backup whose manifest this key is, or `None` for any other object.
    #[must_use]
    pub fn of_manifest(key: &ObjectKey) -> Option<Self> {
        let mut segments = key.as_str().split('/');
        let (source, id, name) = (segments.next()?, segments.next()?, segments.next()?);
        if name != "manifest.json" || segments.next().is_some() {
            return None;
        }
        Some(Self { source: source.parse().ok()?, id: id.parse().ok()? })
    }
}

impl fmt::Display for BackupRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.source, self.id)
    }
}

/// A recipient as the manifest names it: its type and, where there is a key, the key's id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecipientRef {
    /// The stanza's type, such as `rsa-oaep-sha256`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The id of the key that opens the stanza.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_id: Option<Sha256Digest>,
}

/// What is said of one backup; the body of a signed statement, strict JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The repository it belongs to.
    pub repository: RepositoryId,
    /// The source.
    pub source: SourceName,
    /// The backup; also in the envelope's header.
    pub id: BackupId,
    /// One more for each backup of this repository, source and signer; from 1.
    pub seq: u64,
    /// SHA-256 of the signer's previous manifest for this source (its pre-authentication encoding).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prev: Option<Sha256Digest>,
    /// When the dump was started, by the host's clock.
    pub started: Timestamp,
    /// When the data was stored, by the host's clock.
    pub finished: Timestamp,
    /// The dump's shape.
    pub format: DumpFormat,
    /// The engine.
    pub engine: String,
    /// Versions of server and tools.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub versions: BTreeMap<String, String>,
    /// Bytes of plaintext.
    pub source_len: u64,
    /// Bytes of the envelope.
    pub object_len: u64,
    /// SHA-256 of the envelope.
    pub sha256: Sha256Digest,
    /// SHA-256 of everything before the envelope's first block.
    pub head_sha256: Sha256Digest,
    /// Root of the hash tree over the envelope's frames.
    pub tree_root: Sha256Digest,
    /// Who can open it.
    pub recipients: Vec<RecipientRef>,
    /// What people wrote on it when it was made.
    #[serde(default, skip_serializing_if = "Tags::is_empty")]
    pub tags: Tags,
}

/// The text with `?` for every character that a manifest cannot hold: a server's name for its own
/// version must not fail a backup at its last step.
#[must_use]
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if matches!(c, ' '..='~') { c } else { '?' }).collect()
}

/// Whether a text can be shown on a terminal as it is.
fn is_printable(text: &str) -> bool {
    text.bytes().all(|byte| (0x20..=0x7e).contains(&byte))
}

impl Manifest {
    /// Where this backup's objects lie.
    #[must_use]
    pub fn backup(&self) -> BackupRef {
        BackupRef { source: self.source.clone(), id: self.id }
    }

    /// The members that a dumper or a server chose the words of.
    fn texts(&self) -> impl Iterator<Item = &str> {
        let versions = self.versions.iter().flat_map(|(name, version)| [name.as_str(), version.as_str()]);
        let kinds = self.recipients.iter().map(|recipient| recipient.kind.as_str());
        [self.format.as_str(), self.engine.as_str()].into_iter().chain(versions).chain(kinds)
    }

    /// The bytes that are signed.
    ///
    /// # Errors
    /// `Unsupported` where a member cannot be said in strict JSON; see [`printable`].
    pub fn to_json(&self) -> Result<Vec<u8>> {
        let body = serde_json::to_vec(self)
            .map_err(|e| Error::bug(format!("a manifest could not be written: {e}")))?;
        strict_json::check(&body).map_err(|e| {
            Error::new(
                ErrorKind::Unsupported,
                format!("manifest of {}", self.backup()),
                format!("cannot be written as strict JSON: {e}"),
            )
        })?;
        Ok(body)
    }

    /// Reads the signed bytes, strictly.
    ///
    /// # Errors
    /// `Integrity` for anything that is not exactly one manifest.
    pub fn from_json(at: &BackupRef, body: &[u8]) -> Result<Self> {
        let manifest: Self = strict_json::from_slice(body).map_err(|e| {
            Error::new(ErrorKind::Integrity, at.manifest().to_string(), format!("not a valid manifest: {e}"))
        })?;
        if !manifest.texts().all(is_printable) {
            return Err(Error::new(
                ErrorKind::Integrity,
                at.manifest().to_string(),
                "holds text that is not printable ASCII",
            ));
        }
        if manifest.backup() != *at {
            return Err(Error::new(
                ErrorKind::Integrity,
                at.manifest().to_string(),
                format!("says that it belongs to {}", manifest.backup()),
            )
            .with_hint(
                "the manifest was moved or copied from another place; use the one that belongs here",
            ));
        }
        Ok(manifest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        let digest = Sha256Digest::of(b"");
        Manifest {
            repository: RepositoryId::random(),
            source: "orders".parse().unwrap(),
            id: BackupId::random(),
            seq: 1,
            prev: None,
            started: Timestamp::UNIX_EPOCH,
            finished: Timestamp::UNIX_EPOCH,
            format: DumpFormat::new("raw"),
            engine: "test".into(),
            versions: BTreeMap::new(),
            source_len: 0,
            object_len: 1,
            sha256: digest,
            head_sha256: digest,
            tree_root: digest,
            recipients: Vec::new(),
            tags: Tags::default(),
        }
    }

    #[test]
    fn a_manifest_is_read_as_it_was_written() {
        let manifest = manifest();
        let body = manifest.to_json().unwrap();
        assert_eq!(Manifest::from_json(&manifest.backup(), &body).unwrap(), manifest);
    }

    #[test]
    fn tags_are_signed_with_it_and_take_no_room_where_there_are_none() {
        let plain = manifest();
        assert!(!String::from_utf8(plain.to_json().unwrap()).unwrap().contains("tags"));
        let tagged = Manifest { tags: Tags::of(["env=prod".parse().unwrap()]).unwrap(), ..plain };
        let body = tagged.to_json().unwrap();
        assert_eq!(Manifest::from_json(&tagged.backup(), &body).unwrap(), tagged);
        let hostile = String::from_utf8(body).unwrap().replace("prod", "\\u001b[2J");
        let error = Manifest::from_json(&tagged.backup(), hostile.as_bytes()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Integrity);
    }

    #[test]
    fn a_manifest_of_another_place_is_refused() {
        let manifest = manifest();
        let elsewhere = BackupRef { id: BackupId::random(), ..manifest.backup() };
        let error = Manifest::from_json(&elsewhere, &manifest.to_json().unwrap()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Integrity);
    }

    #[test]
    fn text_that_a_terminal_would_obey_is_neither_written_nor_read() {
        for bad in ["a\nb", "a\tb", "\u{1b}[2J", "größe"] {
            let written = Manifest { engine: printable(bad), ..manifest() };
            let body = written.to_json().unwrap();
            assert!(Manifest::from_json(&written.backup(), &body).is_ok(), "{bad:?}");
        }
        // Strict JSON can say a line break, so the manifest has to refuse it.
        let hostile = Manifest { engine: "a\nb".into(), ..manifest() };
        let body = serde_json::to_vec(&hostile).unwrap();
        assert!(crate::strict_json::check(&body).is_ok());
        let error = Manifest::from_json(&hostile.backup(), &body).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Integrity);
    }
}
