//! A folder as a place.
//!
//! Objects are files of mode 0600 in folders of mode 0700. An upload writes a file below
//! `.strongroom-tmp/` of the same folder, holds a lock on it, and publishes it by a rename that
//! fails if the name is taken. Everything that waits for the disk runs on blocking threads.

mod direct;
mod publish;
mod read;
mod upload;

use std::fmt;
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use backup_core::{
    ByteStream, EntityTag, Error, Limits, ObjectInfo, ObjectKey, Remover, Result, Sealed, Sink, Source,
    Swept, Upload,
};
use jiff::Timestamp;

pub(crate) use crate::local::read::too_short;
use crate::local::upload::LocalUpload;
use crate::trouble::{Trouble, from_io};

/// The folder of unfinished uploads, below the destination.
pub(crate) const UNFINISHED: &str = ".strongroom-tmp";

/// A folder and the ports to it; clones share nothing but the path.
#[derive(Debug, Clone)]
pub(crate) struct LocalPlace {
    root: Arc<Path>,
}

impl LocalPlace {
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        // Absolute, so that a change of the working directory does not move the destination.
        let root = std::path::absolute(folder)
            .map_err(|error| from_io(folder.display().to_string(), "looking up the folder", error))?;
        match fs::metadata(&root) {
            Ok(found) if !found.is_dir() => Err(Trouble::NotAFolder.with(root.display().to_string(), "")),
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                Err(from_io(root.display().to_string(), "", error))
            }
            _ => Ok(Self { root: root.into() }),
        }
    }

    fn path(&self, key: &ObjectKey) -> PathBuf {
        // A key has no empty, `.` or `..` segment, so this stays below the root.
        self.root.join(key.as_str())
    }

    fn subject(&self, key: &ObjectKey) -> String {
        self.path(key).display().to_string()
    }

    fn unfinished(&self) -> PathBuf {
        self.root.join(UNFINISHED)
    }

    /// The root does not exist yet, or is a folder.
    fn check_root(&self) -> Result<()> {
        match fs::metadata(&self.root) {
            Ok(found) if !found.is_dir() => Err(Trouble::NotAFolder.with(self.to_string(), "")),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for LocalPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.root.display().fmt(f)
    }
}

/// Runs what waits for the disk on a thread that may wait.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(Error::bug(format!("a storage thread ended badly: {error}"))),
    }
}

/// No file system has our keys below the folder of unfinished uploads.
pub(crate) fn check_key(key: &ObjectKey) -> Result<()> {
    if key.as_str().split('/').next() == Some(UNFINISHED) {
        return Err(Error::new(
            backup_core::ErrorKind::Config,
            key.as_str(),
            "the folder of unfinished uploads holds no objects",
        )
        .with_hint("choose another name"));
    }
    Ok(())
}

#[async_trait]
impl Sink for LocalPlace {
    fn limits(&self) -> Limits {
        Limits { object_len_max: i64::MAX as u64, put_if_absent: true }
    }

    async fn begin(&self, key: &ObjectKey, _size_hint: Option<u64>) -> Result<Box<dyn Upload>> {
        check_key(key)?;
        let (place, key) = (self.clone(), key.clone());
        let upload = blocking(move || LocalUpload::begin(&place, key)).await?;
        Ok(Box::new(upload))
    }
}

#[async_trait]
impl Source for LocalPlace {
    async fn stat(&self, key: &ObjectKey) -> Result<Option<ObjectInfo>> {
        let (place, key) = (self.clone(), key.clone());
        blocking(move || {
            place.check_root()?;
            read::stat(&place.path(&key), &key)
        })
        .await
    }

    async fn fetch(
        &self,
        key: &ObjectKey,
        range: Option<Range<u64>>,
        pin: Option<&EntityTag>,
    ) -> Result<ByteStream<Sealed>> {
        let (place, key, pin) = (self.clone(), key.clone(), pin.cloned());
        blocking(move || {
            place.check_root()?;
            read::fetch(&place.path(&key), range, pin.as_ref())
        })
        .await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        let (place, prefix) = (self.clone(), prefix.to_owned());
        blocking(move || {
            place.check_root()?;
            read::list(&place.root, &prefix)
        })
        .await
    }
}

#[async_trait]
impl Remover for LocalPlace {
    async fn remove(&self, key: &ObjectKey) -> Result<()> {
        let (place, key) = (self.clone(), key.clone());
        blocking(move || {
            let path = place.path(&key);
            let failed = |error| from_io(place.subject(&key), "removing", error);
            match fs::symlink_metadata(&path) {
                // A folder is no object.
                Ok(found) if found.is_dir() => return Ok(()),
                Ok(_) => {}
                Err(error) if publish::is_absent(&error) => return Ok(()),
                Err(error) => return Err(failed(error)),
            }
            match fs::remove_file(&path) {
                Ok(()) => {}
                Err(error) if publish::is_absent(&error) => return Ok(()),
                Err(error) => return Err(failed(error)),
            }
            let mut folder = path.parent();
            if let Some(folder) = folder {
                publish::sync_folder(folder).map_err(failed)?;
            }
            // Empty folders are no objects either; the first that is not empty ends this.
            while let Some(empty) = folder.filter(|folder| **folder != *place.root) {
                if fs::remove_dir(empty).is_err() {
                    break;
                }
                folder = empty.parent();
            }
            Ok(())
        })
        .await
    }

    async fn sweep_unfinished(&self, older_than: Timestamp) -> Result<Swept> {
        let place = self.clone();
        blocking(move || upload::sweep(&place.unfinished(), older_than)).await
    }
}
