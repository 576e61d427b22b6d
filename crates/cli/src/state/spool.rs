//! The spool: a folder of this machine in which sealed backups wait until they are where they belong.
//!
//! ```text
//! <folder>/<repository>/<source>/<backup id>/    what `backup_core::pipeline::Spool` keeps
//! <folder>/journals/<repository>/                how far the uploads of each came
//! <folder>/locks/                                one process at a time for each source
//! ```
//!
//! Folders have mode 0700 and files 0600.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use backup_core::pipeline::{Journals, Spool};
use backup_core::{BackupRef, Error, ErrorKind, Journal, RepositoryId, Result, Sha256Digest, SourceName};
use jiff::{SignedDuration, Timestamp};

use super::{Lock, durable};
use crate::failure::io_error;

/// The folders that hold no backups.
const LOCKS: &str = "locks";
const JOURNALS: &str = "journals";

/// The spool folder.
#[derive(Debug, Clone)]
pub(crate) struct SpoolFolder {
    folder: PathBuf,
}

/// A backup that lies in the spool.
#[derive(Debug, Clone)]
pub(crate) struct Waiting {
    pub(crate) repository: RepositoryId,
    pub(crate) at: BackupRef,
    /// When the youngest of its files was written.
    pub(crate) written: Timestamp,
    /// Bytes of its files.
    pub(crate) bytes: u64,
}

impl SpoolFolder {
    /// The folder, made when it is first needed.
    ///
    /// # Errors
    /// `Denied` when somebody else could write there; those of the file system.
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        let folder = std::path::absolute(folder).map_err(|e| io_error(folder, "look up", e))?;
        durable::create_folder(&folder)?;
        let meta = std::fs::metadata(&folder).map_err(|e| io_error(&folder, "look at", e))?;
        if meta.permissions().mode() & 0o022 != 0 {
            let what = "other users can write in the spool, so they could replace what is stored";
            return Err(Error::new(ErrorKind::Denied, folder.display().to_string(), what)
                .with_hint(format!("chmod 700 {}", folder.display())));
        }
        Ok(Self { folder })
    }

    /// The part of the spool for one repository.
    ///
    /// # Errors
    /// Those of the folder.
    pub(crate) fn ports(&self, repository: &RepositoryId) -> Result<Spool> {
        let config = storage::StorageConfig::local(self.folder.join(repository.to_string()));
        let storage::Opened { sink, source, remover } = storage::open(&config)?;
        let folder = self.folder.join(JOURNALS).join(repository.to_string());
        Ok(Spool { sink, source, remover, journals: Arc::new(FileJournals { folder }) })
    }

    /// The right to use what it holds of `source`, held by one process.
    ///
    /// # Errors
    /// `Conflict` while another process holds it.
    pub(crate) fn lock(&self, repository: &RepositoryId, source: &SourceName) -> Result<Lock> {
        let what = format!("a backup of {source} through the spool {}", self.folder.display());
        Lock::take(&self.folder.join(LOCKS), &format!("{repository}.{source}"), &what)
    }

    /// Every backup that lies here, whole or not.
    ///
    /// # Errors
    /// Those of the file system.
    pub(crate) fn waiting(&self) -> Result<Vec<Waiting>> {
        let mut waiting = Vec::new();
        for repository in names::<RepositoryId>(&self.folder)? {
            let sources = self.folder.join(repository.to_string());
            for source in names::<SourceName>(&sources)? {
                let backups = sources.join(source.as_str());
                for id in names(&backups)? {
                    let (written, bytes) = weight(&backups.join(id_name(&id)))?;
                    let at = BackupRef { source: source.clone(), id };
                    waiting.push(Waiting { repository, at, written, bytes });
                }
            }
        }
        Ok(waiting)
    }

    /// Room on its file system in bytes; `None` where that cannot be known.
    pub(crate) fn room(&self) -> Option<u64> {
        let disk = rustix::fs::statvfs(&self.folder).ok()?;
        Some(disk.f_bavail.saturating_mul(disk.f_frsize))
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.folder
    }
}

fn id_name(id: &backup_core::BackupId) -> String {
    id.to_string()
}

impl Waiting {
    /// How long it has lain there.
    pub(crate) fn age(&self, now: Timestamp) -> SignedDuration {
        now.duration_since(self.written)
    }
}

/// The entries of a folder whose names can be read as such; none where there is no folder.
fn names<T: std::str::FromStr>(folder: &Path) -> Result<Vec<T>> {
    let failed = |e| io_error(folder, "list", e);
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(entry.file_name().to_str().and_then(|name| name.parse().ok()));
        }
    }
    Ok(found)
}

/// When the youngest file of a folder was written, and the bytes of all. A file that goes meanwhile is none.
fn weight(folder: &Path) -> Result<(Timestamp, u64)> {
    let (mut written, mut bytes) = (Timestamp::UNIX_EPOCH, 0);
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok((written, bytes)),
        Err(error) => return Err(io_error(folder, "list", error)),
    };
    for meta in entries.filter_map(|entry| entry.ok()?.metadata().ok()) {
        let modified = meta.modified().ok().and_then(|at| Timestamp::try_from(at).ok());
        written = written.max(modified.unwrap_or(written));
        bytes += meta.len();
    }
    Ok((written, bytes))
}

/// A file for each upload: one line for each thing that the server acknowledged.
#[derive(Debug)]
struct FileJournals {
    folder: PathBuf,
}

impl FileJournals {
    fn prefix(at: &BackupRef) -> String {
        format!("{}.{}.", at.source, at.id)
    }
}

#[async_trait]
impl Journals for FileJournals {
    fn of(&self, at: &BackupRef, destination: &str) -> Arc<dyn Journal> {
        // A destination's name is a URL.
        let place = Sha256Digest::of(destination.as_bytes()).to_string();
        let name = format!("{}{}.jsonl", Self::prefix(at), &place[..16]);
        Arc::new(FileJournal { path: self.folder.join(name) })
    }

    async fn forget(&self, at: &BackupRef) -> Result<()> {
        let (folder, prefix) = (self.folder.clone(), Self::prefix(at));
        blocking(move || {
            let entries = match std::fs::read_dir(&folder) {
                Ok(entries) => entries,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
                Err(error) => return Err(io_error(&folder, "list", error)),
            };
            for entry in entries.filter_map(std::result::Result::ok) {
                if entry.file_name().to_string_lossy().starts_with(&prefix) {
                    remove(&entry.path())?;
                }
            }
            Ok(())
        })
        .await
    }
}

#[derive(Debug)]
struct FileJournal {
    path: PathBuf,
}

#[async_trait]
impl Journal for FileJournal {
    async fn read(&self) -> Result<Vec<String>> {
        let path = self.path.clone();
        // A line that a crash cut short may end anywhere.
        let read = blocking(move || match std::fs::read(&path) {
            Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
            Err(error) => Err(io_error(&path, "read", error)),
        });
        Ok(read.await?.lines().map(str::to_owned).collect())
    }

    async fn add(&self, line: String) -> Result<()> {
        let path = self.path.clone();
        blocking(move || {
            if let Some(folder) = path.parent() {
                durable::create_folder(folder)?;
            }
            durable::append_line(&path, &line, 0o600)
        })
        .await
    }

    async fn clear(&self) -> Result<()> {
        let path = self.path.clone();
        blocking(move || remove(&path)).await
    }
}

fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io_error(path, "remove", error)),
        _ => Ok(()),
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(Error::bug(format!("a thread of the spool ended badly: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use backup_core::BackupId;

    #[tokio::test]
    async fn journals_are_private_and_forgotten_by_backup() {
        let folder = tempfile::tempdir().unwrap();
        let spool = SpoolFolder::open(&folder.path().join("s")).unwrap();
        let ports = spool.ports(&RepositoryId::random()).unwrap();
        let at = |name: &str| BackupRef { source: name.parse().unwrap(), id: BackupId::random() };
        let (one, other) = (at("orders"), at("users"));
        for at in [&one, &other] {
            let journal = ports.journals.of(at, "s3://bucket/x?endpoint=http://h");
            journal.add("a".into()).await.unwrap();
            journal.add("b".into()).await.unwrap();
            assert_eq!(journal.read().await.unwrap(), ["a", "b"]);
        }
        assert!(ports.journals.of(&one, "elsewhere").read().await.unwrap().is_empty());
        let files: Vec<_> = walk(folder.path());
        assert_eq!(files.len(), 2);
        for file in files {
            assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        }
        ports.journals.forget(&one).await.unwrap();
        assert_eq!(walk(folder.path()).len(), 1);
        let journal = ports.journals.of(&other, "s3://bucket/x?endpoint=http://h");
        journal.clear().await.unwrap();
        assert!(journal.read().await.unwrap().is_empty() && walk(folder.path()).is_empty());
    }

    fn walk(folder: &Path) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { found.extend(walk(&path)) } else { found.push(path) }
        }
        found
    }

    #[test]
    fn a_folder_that_others_can_write_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(SpoolFolder::open(folder.path()).unwrap_err().kind(), ErrorKind::Denied);
    }
}
