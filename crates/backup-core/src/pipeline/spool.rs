//! A folder of this machine in which sealed backups wait until they are where they belong.
//!
//! Nothing but sealed bytes and public facts gets there: it is written through a [`Sink`]. An entry is
//! what a backup is in a place (`data.strongroom`, `data.tree`) and a record that is written last: what
//! has none was cut off before its dump ended, and is no backup. The manifest joins them when it is signed.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::context::Context;
use crate::digest::Sha256Digest;
use crate::dump::DumpReport;
use crate::error::{Error, ErrorKind, Result, Retry, Stage};
use crate::id::{BackupId, ObjectKey, RepositoryId, SourceName};
use crate::manifest::BackupRef;
use crate::store::{Journal, Receipt, Remover, Sink, Source};
use crate::stream::{ByteStream, Sealed};
use crate::strict_json;

use super::backup::{Facts, quiet};
use super::{read, store, verify};

/// What this version writes; another is not understood, and left alone.
const VERSION: u32 = 1;
/// The name of the record, beside the objects of the backup.
const RECORD: &str = "spooled.json";
/// The longest record that is read, in bytes.
const RECORD_LEN_MAX: u64 = 1 << 20;

/// A place on this machine's own disk, and what is noted of uploads from it. One process at a time uses
/// what it holds of one source, which its owner ensures.
#[derive(Debug, Clone)]
pub struct Spool {
    /// Writes into it, durably.
    pub sink: Arc<dyn Sink>,
    /// Reads from it.
    pub source: Arc<dyn Source>,
    /// Removes from it.
    pub remover: Arc<dyn Remover>,
    /// What uploads from it note.
    pub journals: Arc<dyn Journals>,
}

/// Where the uploads of spooled backups note how far they came.
#[async_trait]
pub trait Journals: fmt::Debug + Send + Sync {
    /// The journal of the upload of one backup into one destination, by the destination's name.
    fn of(&self, at: &BackupRef, destination: &str) -> Arc<dyn Journal>;

    /// Forgets all journals of a backup.
    async fn forget(&self, at: &BackupRef) -> Result<()>;
}

/// A whole sealed backup in a spool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spooled {
    record: Record,
}

/// What is noted of an entry, so that nothing of it has to be asked again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    pub(super) version: u32,
    /// The key of the host that sealed it and may sign it.
    pub(super) signer: Sha256Digest,
    pub(super) repository: RepositoryId,
    pub(super) source: SourceName,
    pub(super) id: BackupId,
    /// The head of the source's history when it was dumped, and the one that was intended then: the
    /// manifest may follow these and no other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) after: Option<Sha256Digest>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) or_after: Option<Sha256Digest>,
    pub(super) facts: Facts,
    pub(super) tree_len: u64,
    pub(super) tree_sha256: Sha256Digest,
}

impl Spooled {
    /// What is noted at the clean end of the dump.
    pub(super) fn new(
        facts: Facts,
        (repository, source, id): (RepositoryId, SourceName, BackupId),
        signer: Sha256Digest,
        (after, or_after): (Option<Sha256Digest>, Option<Sha256Digest>),
        tree: &Bytes,
    ) -> Self {
        let (tree_len, tree_sha256) = (tree.len() as u64, Sha256Digest::of(tree));
        let version = VERSION;
        Self {
            record: Record {
                version,
                signer,
                repository,
                source,
                id,
                after,
                or_after,
                facts,
                tree_len,
                tree_sha256,
            },
        }
    }

    /// Which backup it will be.
    #[must_use]
    pub fn at(&self) -> BackupRef {
        BackupRef { source: self.record.source.clone(), id: self.record.id }
    }

    /// The repository it was made for.
    #[must_use]
    pub fn repository(&self) -> RepositoryId {
        self.record.repository
    }

    /// The key of the host that made it.
    #[must_use]
    pub fn signer(&self) -> Sha256Digest {
        self.record.signer
    }

    /// When its dump began.
    #[must_use]
    pub fn started(&self) -> Timestamp {
        self.record.facts.started
    }

    /// Bytes of the sealed object.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.record.facts.object_len
    }

    /// Whether its manifest may follow `head`.
    pub(super) fn may_follow(&self, head: Option<Sha256Digest>) -> bool {
        let Record { after, or_after, .. } = &self.record;
        head == *after || (or_after.is_some() && head == *or_after)
    }

    pub(super) fn facts(&self) -> &Facts {
        &self.record.facts
    }

    /// What the dump said of itself, as far as that is not sealed.
    pub(super) fn report(&self) -> DumpReport {
        let Facts { engine, versions, .. } = self.facts().clone();
        DumpReport { engine, versions, ..DumpReport::default() }
    }

    pub(super) fn data(&self) -> Receipt {
        Receipt { len: self.record.facts.object_len, sha256: self.record.facts.sha256, tag: None }
    }

    pub(super) fn tree(&self) -> Receipt {
        Receipt { len: self.record.tree_len, sha256: self.record.tree_sha256, tag: None }
    }

    /// The digest of the record, then the record.
    fn to_bytes(&self) -> Result<Bytes> {
        let body = serde_json::to_vec(&self.record)
            .map_err(|e| Error::bug(format!("what the spool holds could not be noted: {e}")))?;
        strict_json::check(&body).map_err(|e| Error::bug(format!("a record of the spool: {e}")))?;
        Ok([Sha256Digest::of(&body).to_string().as_bytes(), b"\n", &body].concat().into())
    }

    fn from_bytes(at: &BackupRef, stored: &[u8]) -> Result<Self> {
        let damaged = |what: String| damaged(at, what);
        let (digest, body) =
            stored.split_at_checked(65).ok_or_else(|| damaged("its record is cut".into()))?;
        if digest != format!("{}\n", Sha256Digest::of(body)).as_bytes() {
            return Err(damaged("its record is not what was written".into()));
        }
        let record: Record =
            strict_json::from_slice(body).map_err(|e| damaged(format!("its record: {e}")))?;
        let spooled = Self { record };
        if spooled.record.version != VERSION || spooled.at() != *at {
            return Err(damaged("its record is of another version or backup".into()));
        }
        Ok(spooled)
    }
}

fn damaged(at: &BackupRef, what: impl Into<String>) -> Error {
    Error::new(ErrorKind::Integrity, format!("spool of {at}"), what)
        .with_hint("it is of no use any more: back up again, and check the disk")
        .with_retry(Retry::Never)
        .at(Stage::Upload)
}

fn record_key(at: &BackupRef) -> Result<ObjectKey> {
    format!("{}{RECORD}", at.prefix()).parse()
}

impl Spool {
    /// What it holds of `source`: whole entries, and those that are damaged, with why. Leftovers of dumps
    /// that were cut off are removed: they are no backups.
    ///
    /// # Errors
    /// Those of the folder.
    pub async fn entries(
        &self,
        cx: &Context,
        source: &SourceName,
    ) -> Result<Vec<(BackupRef, Result<Spooled>)>> {
        // What is being written is locked, and left alone.
        self.remover.sweep_unfinished(cx.now()).await?;
        let mut entries = Vec::new();
        let mut leftovers = Vec::new();
        let listed = self.source.list(&format!("{source}/")).await?;
        for object in &listed {
            let Some(at) = BackupRef::of_object(&object.key) else { continue };
            let key = record_key(&at)?;
            if object.key == key {
                let read = read::small(self.source.as_ref(), &key, RECORD_LEN_MAX).await;
                entries.push((at.clone(), read.and_then(|stored| Spooled::from_bytes(&at, &stored))));
            } else if !listed.iter().any(|other| other.key == key) {
                leftovers.push(at);
            }
        }
        leftovers.dedup();
        for at in leftovers {
            self.discard(&at).await?;
        }
        entries.sort_by_key(|(at, entry)| (entry.as_ref().ok().map(Spooled::started), at.clone()));
        Ok(entries)
    }

    /// Removes everything of a backup from the spool: its record first, so that what is left of a removal
    /// that was cut off is a leftover.
    ///
    /// # Errors
    /// Those of the folder.
    pub async fn discard(&self, at: &BackupRef) -> Result<()> {
        for key in [record_key(at)?, at.manifest(), at.tree(), at.data()] {
            self.remover.remove(&key).await?;
        }
        self.journals.forget(at).await
    }

    /// Notes that an entry is whole.
    pub(super) async fn note(&self, cx: &Context, spooled: &Spooled) -> Result<()> {
        let bytes = spooled.to_bytes()?;
        self.put(cx, &record_key(&spooled.at())?, bytes).await
    }

    /// Stores a small object.
    pub(super) async fn put(&self, cx: &Context, key: &ObjectKey, bytes: Bytes) -> Result<()> {
        let len = bytes.len() as u64;
        // Public facts, or signed, or hashes of sealed bytes.
        let stream = ByteStream::declare_sealed(futures::stream::iter([Ok(bytes)]));
        store(&quiet(cx), self.sink.as_ref(), key, stream, Some(len)).await.map(drop)
    }

    /// An object whose stream ends cleanly only if it is `whole`.
    pub(super) async fn read(
        &self,
        cx: &Context,
        key: &ObjectKey,
        whole: &Receipt,
    ) -> Result<ByteStream<Sealed>> {
        use futures::StreamExt as _;
        let at = BackupRef::of_object(key);
        let told = move |error: Error| match (&at, error.kind()) {
            (Some(at), ErrorKind::Integrity | ErrorKind::NotFound) => {
                damaged(at, "its bytes are not those that were sealed").with_source(error)
            }
            _ => error,
        };
        let checked = verify::checked(cx, self.source.as_ref(), key, whole).await.map_err(&told)?;
        Ok(ByteStream::declare_sealed(checked.map(move |chunk| chunk.map_err(&told))))
    }

    /// The manifest of an entry, as it was signed, if it was.
    pub(super) async fn manifest(&self, at: &BackupRef) -> Result<Option<Bytes>> {
        match read::small(self.source.as_ref(), &at.manifest(), read::STATEMENT_LEN_MAX).await {
            Ok(stored) => Ok(Some(stored)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dump::DumpFormat;

    fn spooled() -> Spooled {
        let digest = Sha256Digest::of(b"");
        let facts = Facts {
            started: Timestamp::UNIX_EPOCH,
            format: DumpFormat::new("raw"),
            engine: "test".into(),
            versions: [("server".to_owned(), "1".to_owned())].into(),
            source_len: 1,
            object_len: 2,
            sha256: digest,
            head_sha256: digest,
            tree_root: digest,
            recipients: Vec::new(),
            tags: crate::tags::Tags::default(),
        };
        let names = (RepositoryId::random(), "orders".parse().unwrap(), BackupId::random());
        Spooled::new(facts, names, digest, (None, Some(digest)), &Bytes::from_static(b"tree"))
    }

    #[test]
    fn a_record_is_read_as_it_was_written_and_not_when_one_bit_differs() {
        let spooled = spooled();
        let stored = spooled.to_bytes().unwrap();
        assert_eq!(Spooled::from_bytes(&spooled.at(), &stored).unwrap(), spooled);
        for i in 0..stored.len() {
            let mut bent = stored.to_vec();
            bent[i] ^= 1;
            let error = Spooled::from_bytes(&spooled.at(), &bent).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Integrity, "byte {i}");
        }
        let other = BackupRef { id: BackupId::random(), ..spooled.at() };
        assert!(Spooled::from_bytes(&other, &stored).is_err());
    }

    #[test]
    fn only_the_history_it_was_dumped_in_is_followed() {
        let spooled = spooled();
        assert!(spooled.may_follow(None) && spooled.may_follow(Some(Sha256Digest::of(b""))));
        assert!(!spooled.may_follow(Some(Sha256Digest::of(b"newer"))));
    }
}
