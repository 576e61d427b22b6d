//! A folder as somebody would use it who keeps to none of our rules: for the probe alone.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use async_trait::async_trait;
use backup_core::{BackupId, ErrorKind, ObjectKey, Result};
use jiff::Timestamp;

use crate::local::{LocalPlace, blocking, publish, read};
use crate::probe::{Direct, Lock, Versioning, Way, Written, none};
use crate::trouble::{Trouble, from_io};

const RENAME: Way = Way { name: "a rename", ours: true };
const REWRITE: Way = Way { name: "writing into the file", ours: false };

fn write(path: &Path, how: &OpenOptions, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = how.open(path)?;
    file.write_all(bytes)
}

impl LocalPlace {
    /// Writes another file and gives it the name.
    fn renamed(&self, key: &ObjectKey, bytes: &[u8], only_new: bool) -> Result<()> {
        let failed = |error| from_io(self.subject(key), "storing an object", error);
        let path = self.path(key);
        for folder in [Some(self.unfinished().as_path()), path.parent()].into_iter().flatten() {
            publish::ensure_folder(folder).map_err(failed)?;
        }
        let other = self.unfinished().join(format!("{}.part", BackupId::random()));
        write(&other, OpenOptions::new().write(true).create_new(true).mode(0o600), bytes).map_err(failed)?;
        let done = if only_new { publish::rename_new(&other, &path) } else { fs::rename(&other, &path) };
        if done.is_err() {
            let _ = fs::remove_file(&other);
        }
        done.map_err(failed)
    }
}

#[async_trait]
impl Direct for LocalPlace {
    fn container(&self) -> &'static str {
        "folder"
    }

    async fn exists(&self) -> Result<bool> {
        match fs::metadata(&self.root) {
            Ok(found) if found.is_dir() => Ok(true),
            Ok(_) => Err(Trouble::NotAFolder.with(self.to_string(), "")),
            Err(error) if publish::is_absent(&error) => Ok(false),
            Err(error) => Err(from_io(self.to_string(), "looking for the folder", error)),
        }
    }

    async fn create(&self) -> Result<()> {
        publish::ensure_folder(&self.root)
            .map_err(|error| from_io(self.to_string(), "making the folder", error))
    }

    fn has_parts(&self) -> bool {
        false
    }

    fn ways(&self) -> &'static [Way] {
        &[RENAME, REWRITE]
    }

    async fn write(
        &self,
        way: Way,
        key: &ObjectKey,
        bytes: &[u8],
        _seed: &ObjectKey,
        only_new: bool,
    ) -> Result<Written> {
        let (place, key, bytes) = (self.clone(), key.clone(), bytes.to_vec());
        blocking(move || {
            if way == RENAME {
                place.renamed(&key, &bytes, only_new)?;
            } else {
                write(&place.path(&key), OpenOptions::new().write(true).truncate(true), &bytes)
                    .map_err(|error| from_io(place.subject(&key), "writing into it", error))?;
            }
            let date = fs::metadata(place.path(&key)).ok().and_then(|found| read::modified(&found));
            // Whole seconds, as servers tell them.
            let date = date.and_then(|date| Timestamp::from_second(date.as_second()).ok());
            Ok(Written { version: None, date })
        })
        .await
    }

    async fn abort(&self, _key: &ObjectKey) -> Result<bool> {
        none("unfinished uploads")
    }

    fn checksums(&self) -> &'static [&'static str] {
        &[]
    }

    async fn write_damaged(&self, _checksum: &'static str, _key: &ObjectKey, _bytes: &[u8]) -> Result<()> {
        none("checksums")
    }

    async fn versioning(&self) -> Result<Versioning> {
        Ok(Versioning::default())
    }

    async fn read_version(&self, _key: &ObjectKey, _version: &str) -> Result<Vec<u8>> {
        none("versions")
    }

    async fn remove_version(&self, _key: &ObjectKey, _version: &str, _force: bool) -> Result<()> {
        none("versions")
    }

    async fn all_versions(&self, _prefix: &str) -> Result<Vec<(ObjectKey, String)>> {
        Ok(Vec::new())
    }

    async fn write_locked(
        &self,
        key: &ObjectKey,
        _bytes: &[u8],
        _lock: Lock,
        _until: Timestamp,
    ) -> Result<Written> {
        Err(backup_core::Error::new(ErrorKind::Unsupported, key.as_str(), "a folder has no retention"))
    }

    fn advice(&self) -> String {
        "Whoever may write into a folder may also replace and delete what is there. For append-only credentials keep \
         backups on another machine: an S3 bucket with a policy or object lock, or a folder whose snapshots belong to \
         another user."
            .to_owned()
    }
}
