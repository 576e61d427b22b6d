//! What this host signed last, one file for each repository and source.

use std::path::PathBuf;

use async_trait::async_trait;
use backup_core::{Error, ErrorKind, Head, Ledger, RepositoryId, Result, Sha256Digest, SourceName};
use serde::{Deserialize, Serialize};

use super::durable;

/// A [`Ledger`] in a folder.
#[derive(Debug, Clone)]
pub(crate) struct FileLedger {
    folder: PathBuf,
}

#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    settled: Option<Written>,
    intended: Option<Written>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    id: backup_core::BackupId,
    seq: u64,
    pae_sha256: Sha256Digest,
}

impl From<Head> for Written {
    fn from(head: Head) -> Self {
        Self { id: head.id, seq: head.seq, pae_sha256: head.pae_sha256 }
    }
}

impl From<Written> for Head {
    fn from(written: Written) -> Self {
        Self { id: written.id, seq: written.seq, pae_sha256: written.pae_sha256 }
    }
}

impl FileLedger {
    /// A ledger in `folder`.
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// The last stored head of every source of a repository.
    ///
    /// # Errors
    /// `Integrity` for a file that cannot be read.
    pub(crate) fn heads(&self, repository: &RepositoryId) -> Result<Vec<(SourceName, Head)>> {
        let Ok(entries) = std::fs::read_dir(self.folder.join(repository.to_string())) else {
            return Ok(Vec::new());
        };
        let mut heads = Vec::new();
        for entry in entries.flatten() {
            let name = entry.file_name();
            // What is not named after a source is no ledger: a temporary file of a write, for one.
            let source = name.to_str().and_then(|name| name.strip_suffix(".json")?.parse().ok());
            let Some(source) = source else { continue };
            if let Some(settled) = self.entry(repository, &source)?.settled {
                heads.push((source, settled.into()));
            }
        }
        Ok(heads)
    }

    fn path(&self, repository: &RepositoryId, source: &SourceName) -> PathBuf {
        self.folder.join(repository.to_string()).join(format!("{source}.json"))
    }

    fn entry(&self, repository: &RepositoryId, source: &SourceName) -> Result<Entry> {
        let path = self.path(repository, source);
        let Some(text) = durable::read(&path)? else { return Ok(Entry::default()) };
        serde_json::from_str(&text).map_err(|e| {
            Error::new(ErrorKind::Integrity, path.display().to_string(), format!("not a ledger of this program: {e}"))
                .with_hint("this host no longer knows what it signed last; restore the file from a copy; or remove the host's key too, so that a new one is made, and have the repository's owner add that with `strongroom trust add`")
        })
    }

    fn write(&self, repository: &RepositoryId, source: &SourceName, entry: Entry) -> Result<()> {
        let path = self.path(repository, source);
        durable::create_folder(path.parent().unwrap_or(&self.folder))?;
        let text = serde_json::to_vec(&entry)
            .map_err(|e| Error::bug(format!("a ledger could not be written: {e}")))?;
        durable::replace(&path, &text, 0o600)
    }
}

#[async_trait]
impl Ledger for FileLedger {
    async fn head(&self, repository: &RepositoryId, source: &SourceName) -> Result<Option<Head>> {
        Ok(self.entry(repository, source)?.settled.map(Head::from))
    }

    async fn intended(&self, repository: &RepositoryId, source: &SourceName) -> Result<Option<Head>> {
        Ok(self.entry(repository, source)?.intended.map(Head::from))
    }

    async fn intend(&self, repository: &RepositoryId, source: &SourceName, head: Head) -> Result<()> {
        let mut entry = self.entry(repository, source)?;
        entry.intended = Some(head.into());
        self.write(repository, source, entry)
    }

    async fn settle(&self, repository: &RepositoryId, source: &SourceName, stored: bool) -> Result<()> {
        let mut entry = self.entry(repository, source)?;
        let intended = entry.intended.take();
        if stored && intended.is_some() {
            entry.settled = intended;
        }
        self.write(repository, source, entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_ledger_obeys_the_suite() {
        let folder = tempfile::tempdir().unwrap();
        backup_core::testing::ledger_suite(|| FileLedger::new(folder.path().join("state/ledger"))).await;
    }

    #[tokio::test]
    async fn an_intended_head_survives_and_settles_either_way() {
        let folder = tempfile::tempdir().unwrap();
        let (repository, source) = (RepositoryId::random(), "orders".parse().unwrap());
        let head =
            |seq| Head { id: backup_core::BackupId::random(), seq, pae_sha256: Sha256Digest::of(b"x") };
        let ledger = || FileLedger::new(folder.path().to_owned());
        let (first, second) = (head(1), head(2));
        ledger().intend(&repository, &source, first).await.unwrap();
        assert_eq!(ledger().intended(&repository, &source).await.unwrap(), Some(first));
        assert_eq!(ledger().head(&repository, &source).await.unwrap(), None);
        ledger().settle(&repository, &source, true).await.unwrap();
        assert_eq!(ledger().head(&repository, &source).await.unwrap(), Some(first));
        ledger().intend(&repository, &source, second).await.unwrap();
        ledger().settle(&repository, &source, false).await.unwrap();
        assert_eq!(ledger().head(&repository, &source).await.unwrap(), Some(first));
        assert_eq!(ledger().intended(&repository, &source).await.unwrap(), None);
        assert_eq!(ledger().heads(&repository).unwrap(), [(source, first)]);
        assert_eq!(ledger().heads(&RepositoryId::random()).unwrap(), []);
    }

    #[tokio::test]
    async fn a_damaged_ledger_is_told_and_not_taken_for_an_empty_one() {
        let folder = tempfile::tempdir().unwrap();
        let (repository, source) = (RepositoryId::random(), "orders".parse::<SourceName>().unwrap());
        let at = folder.path().join(repository.to_string());
        std::fs::create_dir(&at).unwrap();
        std::fs::write(at.join("orders.json"), "{").unwrap();
        let error = FileLedger::new(folder.path().to_owned()).head(&repository, &source).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Integrity);
    }
}
