//! One file on its way.
//!
//! A blocking thread owns the file and is fed through a bounded channel. It publishes only when told
//! to commit; when the channel closes for any other reason, it removes the file.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use backup_core::{BackupId, EntityTag, Error, ErrorKind, ObjectKey, Receipt, Result, Swept, Upload, Whole};
use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::local::{LocalPlace, publish, read};
use crate::trouble::{Trouble, from_io};

/// Chunks that may wait for the disk.
const WAITING: usize = 4;
/// Small chunks are gathered to this before they are written.
const GATHERED: usize = 1 << 20;
/// Folders may vanish between making and using them when others remove objects.
const PUBLISH_TRIES: usize = 5;

enum Step {
    Chunk(Bytes),
    Commit(Whole),
}

/// A file on its way.
#[derive(Debug)]
pub(super) struct LocalUpload {
    key: ObjectKey,
    steps: mpsc::Sender<Step>,
    /// `None` once its outcome was told.
    worker: Option<JoinHandle<Result<Option<Receipt>>>>,
}

impl LocalUpload {
    /// Makes the temporary file. Blocks.
    pub(super) fn begin(place: &LocalPlace, key: ObjectKey) -> Result<Self> {
        place.check_root()?;
        let path = place.path(&key);
        match fs::symlink_metadata(&path) {
            Ok(_) => return Err(Trouble::Taken.with(place.subject(&key), "")),
            Err(error) if publish::is_absent(&error) => {}
            Err(error) => return Err(from_io(place.subject(&key), "looking for it", error)),
        }
        let unfinished = Unfinished::create(&place.unfinished(), path)?;
        let (steps, queue) = mpsc::channel(WAITING);
        let worker = tokio::task::spawn_blocking(move || unfinished.run(queue));
        Ok(Self { key, steps, worker: Some(worker) })
    }

    /// What the worker has to say for ending before it was told to.
    async fn ended(&mut self) -> Error {
        let Some(worker) = self.worker.take() else {
            return Error::bug(format!("the upload of {} was used after it had failed", self.key));
        };
        match worker.await {
            Ok(Err(error)) => error,
            Ok(Ok(_)) => Error::bug(format!("the upload of {} ended by itself", self.key)),
            Err(error) => Error::bug(format!("the upload of {} ended badly: {error}", self.key)),
        }
    }
}

#[async_trait]
impl Upload for LocalUpload {
    async fn write(&mut self, chunk: Bytes) -> Result<()> {
        match self.steps.send(Step::Chunk(chunk)).await {
            Ok(()) => Ok(()),
            Err(_) => Err(self.ended().await),
        }
    }

    async fn commit(mut self: Box<Self>, whole: Whole) -> Result<Receipt> {
        if self.steps.send(Step::Commit(whole)).await.is_err() {
            return Err(self.ended().await);
        }
        let Some(worker) = self.worker.take() else { return Err(self.ended().await) };
        match worker.await {
            Ok(Ok(Some(receipt))) => Ok(receipt),
            Ok(Err(error)) => Err(error),
            Ok(Ok(None)) => Err(Error::bug(format!("the commit of {} was not heard", self.key))),
            // It may have got as far as the rename.
            Err(error) => Err(Error::new(ErrorKind::Uncertain, self.key.as_str(), "the commit was cut off")
                .with_hint("look whether the object is there before anything else")
                .with_source(error)),
        }
    }

    async fn abort(self: Box<Self>) -> Result<()> {
        let Self { steps, worker, .. } = *self;
        drop(steps);
        if let Some(worker) = worker {
            // An error of an earlier write was for that write; the file is gone either way.
            let _ = worker.await;
        }
        Ok(())
    }
}

/// The temporary file; dropping it removes it.
struct Unfinished {
    temporary: PathBuf,
    target: PathBuf,
    file: File,
    published: bool,
}

impl Unfinished {
    fn create(folder: &Path, target: PathBuf) -> Result<Self> {
        let failed = |error| from_io(folder.display().to_string(), "making a temporary file", error);
        publish::ensure_folder(folder).map_err(failed)?;
        let temporary = folder.join(format!("{}.part", BackupId::random()));
        let file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary).map_err(failed)?;
        // The lock tells a sweeper that somebody still writes; where there are no locks, age alone does.
        let _ = file.try_lock();
        Ok(Self { temporary, target, file, published: false })
    }

    /// Writes until told to commit or left alone. Blocks.
    fn run(mut self, mut queue: mpsc::Receiver<Step>) -> Result<Option<Receipt>> {
        let mut len = 0;
        let mut whole = None;
        {
            let mut writer = BufWriter::with_capacity(GATHERED, &self.file);
            let subject = || self.target.display().to_string();
            while let Some(step) = queue.blocking_recv() {
                match step {
                    Step::Chunk(chunk) => {
                        writer.write_all(&chunk).map_err(|error| from_io(subject(), "writing", error))?;
                        len += chunk.len() as u64;
                    }
                    Step::Commit(is_whole) => {
                        whole = Some(is_whole);
                        break;
                    }
                }
            }
            if whole.is_some() {
                writer.flush().map_err(|error| from_io(subject(), "writing", error))?;
            } else {
                // What was gathered is not worth the disk's time.
                let _ = writer.into_parts();
            }
        }
        let Some(whole) = whole else { return Ok(None) };
        if len != whole.len() {
            return Err(Error::new(
                ErrorKind::Integrity,
                self.target.display().to_string(),
                format!("{len} bytes arrived of {}", whole.len()),
            ));
        }
        let tag = self.publish()?;
        Ok(Some(Receipt { len, sha256: whole.sha256(), tag: Some(tag) }))
    }

    fn publish(&mut self) -> Result<EntityTag> {
        let subject = self.target.display().to_string();
        self.file.sync_all().map_err(|error| from_io(&subject, "syncing", error))?;
        let folder = self.target.parent().unwrap_or(&self.target);
        let mut tries = 0;
        loop {
            tries += 1;
            publish::ensure_folder(folder).map_err(|error| from_io(&subject, "making its folder", error))?;
            match publish::rename_new(&self.temporary, &self.target) {
                Ok(()) => break,
                Err(error) if error.kind() == io::ErrorKind::NotFound && tries < PUBLISH_TRIES => {}
                Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                    return Err(Trouble::NoSafeRename.with(subject, "publishing"));
                }
                Err(error) => return Err(from_io(subject, "publishing", error)),
            }
        }
        self.published = true;
        let settled = publish::sync_folder(folder).and_then(|()| self.file.metadata());
        settled.map(|found| read::tag(&found)).map_err(|error| {
            Error::new(ErrorKind::Uncertain, subject, "published, but its folder could not be synced")
                .with_hint("check the disk, then look whether the object is there")
                .with_source(error)
        })
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.published {
            // Hygiene: the sweeper removes what this cannot.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// Removes temporary files that were last written before `older_than` and that nobody holds a lock
/// on. Blocks.
pub(super) fn sweep(folder: &Path, older_than: Timestamp) -> Result<Swept> {
    let failed = |error| from_io(folder.display().to_string(), "sweeping", error);
    let mut swept = Swept::default();
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if publish::is_absent(&error) => return Ok(swept),
        Err(error) => return Err(failed(error)),
    };
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_none_or(|extension| extension != "part") {
            continue;
        }
        let outcome = OpenOptions::new().write(true).open(&path).and_then(|file| {
            let old = read::modified(&file.metadata()?).is_none_or(|modified| modified < older_than);
            if !old || matches!(file.try_lock(), Err(fs::TryLockError::WouldBlock)) {
                return Ok(false);
            }
            fs::remove_file(&path).map(|()| true)
        });
        match outcome {
            Ok(removed) => swept.uploads += u64::from(removed),
            // Somebody finished or removed it meanwhile.
            Err(error) if publish::is_absent(&error) => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(swept)
}
