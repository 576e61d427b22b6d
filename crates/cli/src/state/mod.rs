//! This machine's memory: its key, the repositories it knows, what it signed last, its runs.
//!
//! Nothing here is needed to restore. Everything is written to a temporary file, synced and
//! renamed, so that a crash leaves the old or the new, never a mixture.

mod catalog;
mod catalogue;
pub(crate) mod durable;
mod inventory;
mod job_log;
mod ledger;
mod lock;
mod orphans;
mod pins;
mod spool;

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use backup_core::{BackupId, Error, ErrorKind, RepositoryId, Result, Sha256Digest, SourceName};
use jiff::Timestamp;

use crate::failure::io_error;

pub(crate) use catalog::{RunLog, RunLogs};
pub(crate) use catalogue::{CachedSource, Catalogue, RememberedSource};
pub(crate) use inventory::{Drift, Inventory, InventoryFile};
pub(crate) use job_log::{Both, JobLog};
pub(crate) use ledger::FileLedger;
pub(crate) use lock::Lock;
pub(crate) use orphans::OrphanMemory;
pub(crate) use pins::{Compared, Pin, Reach, SeenHead};
pub(crate) use spool::SpoolFolder;

/// The state folder.
#[derive(Debug, Clone)]
pub(crate) struct State {
    folder: PathBuf,
}

impl State {
    /// The folder, made when it is first needed; nobody but its owner may look inside.
    ///
    /// # Errors
    /// `Denied` when somebody else could write there, those of the file system.
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        durable::create_folder(folder)?;
        let meta = std::fs::metadata(folder).map_err(|e| io_error(folder, "look at", e))?;
        if meta.permissions().mode() & 0o022 != 0 {
            return Err(Error::new(
                ErrorKind::Denied,
                folder.display().to_string(),
                "other users can write in the state folder, so they could replace what is trusted",
            )
            .with_hint(format!("chmod 700 {}", folder.display())));
        }
        let me = rustix::process::geteuid().as_raw();
        if meta.uid() != me && me != 0 {
            return Err(Error::new(
                ErrorKind::Denied,
                folder.display().to_string(),
                "the state folder belongs to another user",
            )
            .with_hint("run as that user, or choose another folder with --state-dir"));
        }
        Ok(Self { folder: folder.to_owned() })
    }

    /// Where this host's signing key lies.
    pub(crate) fn host_key(&self) -> PathBuf {
        self.folder.join("host.key.pem")
    }

    /// Where its public half lies, to be given to a repository's owner.
    pub(crate) fn host_public_key(&self) -> PathBuf {
        self.folder.join("host.pub.pem")
    }

    /// Where the owner's public key lies.
    pub(crate) fn owner_public_key(&self) -> PathBuf {
        self.folder.join("owner.pub.pem")
    }

    /// Where the owner's key lies until it is moved offline.
    pub(crate) fn owner_key(&self) -> PathBuf {
        self.folder.join("owner.key.pem")
    }

    /// Where the recovery sheet of a repository is written.
    pub(crate) fn recovery_sheet(&self, repository: &RepositoryId) -> PathBuf {
        self.folder.join(format!("recovery-sheet-{repository}.txt"))
    }

    /// What is remembered of repositories.
    pub(crate) fn pins(&self) -> pins::Pins {
        pins::Pins::new(&self.folder)
    }

    /// What this host signed last with this key. A new key begins a line of its own.
    pub(crate) fn ledger(&self, signer: &Sha256Digest) -> FileLedger {
        FileLedger::new(self.folder.join("ledger").join(&signer.to_string()[..16]))
    }

    /// The log of one run.
    ///
    /// # Errors
    /// Those of the file system.
    pub(crate) fn job_log(&self, source: &SourceName, id: BackupId, now: Timestamp) -> Result<JobLog> {
        JobLog::begin(&self.folder.join("logs"), source, id, now)
    }

    /// The log of runs into a place.
    pub(crate) fn runs(&self, place: &str) -> RunLog {
        // A place is a URL or path of any length; its digest is a fit name for a file.
        let name = Sha256Digest::of(place.as_bytes()).to_string();
        RunLog::new(self.folder.join("runs").join(format!("{}.jsonl", &name[..16])))
    }

    /// The cache of listings of a place.
    ///
    /// # Errors
    /// Those of the file system.
    pub(crate) fn catalogue(&self, place: &str) -> Result<Catalogue> {
        let name = Sha256Digest::of(place.as_bytes()).to_string();
        Catalogue::open(self.folder.join("catalogue").join(format!("{}.sqlite", &name[..16])))
    }

    /// When this machine first saw what has no manifest in a place.
    pub(crate) fn orphans(&self, place: &str) -> OrphanMemory {
        let name = Sha256Digest::of(place.as_bytes()).to_string();
        OrphanMemory::new(self.folder.join("orphans").join(format!("{}.json", &name[..16])))
    }

    /// What `source` held when it was last backed up from here.
    pub(crate) fn inventory(&self, source: &SourceName) -> InventoryFile {
        InventoryFile::new(inventory::path(&self.folder, source))
    }

    /// The right to back up `source` into `repository`, held by one process of this host.
    ///
    /// # Errors
    /// `Conflict` while another process holds it.
    pub(crate) fn lock_backup(&self, repository: &RepositoryId, source: &SourceName) -> Result<Lock> {
        Lock::take(
            &self.folder.join("locks"),
            &format!("{repository}.{source}"),
            &format!("a backup of {source}"),
        )
    }

    /// The right to make or complete a repository.
    ///
    /// # Errors
    /// `Conflict` while another process holds it.
    pub(crate) fn lock_setup(&self) -> Result<Lock> {
        Lock::wait(&self.folder.join("locks"), "setup")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_is_private_and_one_that_others_can_write_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("a/b");
        State::open(&folder).unwrap();
        let mode = || std::fs::metadata(&folder).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(), 0o700);
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(State::open(&folder).unwrap_err().kind(), ErrorKind::Denied);
    }
}
