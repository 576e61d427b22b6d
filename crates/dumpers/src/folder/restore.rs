//! Restoring an archive: unpacked beside the target, then renamed.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use backup_core::{
    Context, Dump, DumpFormat, Error, ErrorKind, RestorePlan, RestoreRequest, Restored, Restorer, Result,
    Stage,
};
use rustix::fs::{CWD, RenameFlags};
use tempfile::TempDir;

use super::unpack::Unpacker;
use super::{FILES_TAR, FolderConfig};
use crate::command::unaccepted;
use crate::publish::{blocking, check_new, file_error, folder_of};

/// Restores into a new folder, or in the place of one.
#[derive(Debug, Clone)]
pub struct FolderRestorer {
    path: PathBuf,
}

impl FolderRestorer {
    /// The folder that will exist.
    #[must_use]
    pub fn new(config: &FolderConfig) -> Self {
        Self { path: config.path.clone() }
    }

    fn hidden(&self) -> Result<TempDir> {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        let short: String = name.chars().take(100).collect();
        tempfile::Builder::new()
            .prefix(&format!(".{short}."))
            .suffix(".partial")
            .tempdir_in(folder_of(&self.path))
            .map_err(|error| file_error(&self.path, "cannot be begun", error))
    }

    /// Gives the folder its name; a folder that has it is kept under the hidden one.
    fn publish(&self, hidden: TempDir, into_existing: bool) -> Result<Option<PathBuf>> {
        let fail = |what: &str, errno: rustix::io::Errno| file_error(&self.path, what, errno.into());
        let renamed = rustix::fs::renameat_with(CWD, hidden.path(), CWD, &self.path, RenameFlags::NOREPLACE);
        let kept = match renamed {
            Ok(()) => {
                // Gone under this name: there is nothing to remove.
                let _ = hidden.keep();
                None
            }
            Err(rustix::io::Errno::EXIST) if into_existing => {
                rustix::fs::renameat_with(CWD, hidden.path(), CWD, &self.path, RenameFlags::EXCHANGE)
                    .map_err(|errno| fail("cannot be exchanged", errno))?;
                Some(hidden.keep())
            }
            Err(errno) => return Err(fail("cannot be given its name", errno)),
        };
        let folder = folder_of(&self.path);
        std::fs::File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(|error| file_error(folder, "cannot be synced", error))?;
        Ok(kept)
    }
}

/// An exchange is for folders.
fn check_folder(path: &Path) -> Result<()> {
    match path.symlink_metadata() {
        Ok(metadata) if !metadata.is_dir() => Err(Error::new(
            ErrorKind::Conflict,
            path.display().to_string(),
            "is no folder and stands in the way",
        )
        .at(Stage::Restore)
        .with_hint("choose a name that is free")),
        _ => Ok(()),
    }
}

#[async_trait]
impl Restorer for FolderRestorer {
    fn accepts(&self, format: &DumpFormat) -> bool {
        format.as_str() == FILES_TAR
    }

    async fn plan(&self, _cx: &Context, request: RestoreRequest) -> Result<RestorePlan> {
        let name = self.path.display().to_string();
        if !self.accepts(&request.format) {
            return Err(unaccepted(&name, &request.format));
        }
        let (path, len, may_exist) = (self.path.clone(), request.source_len, request.into_existing);
        let exists = blocking(move || {
            check_new(&path, len, may_exist)?;
            check_folder(&path)?;
            Ok(path.symlink_metadata().is_ok())
        })
        .await?;
        let owners = if rustix::process::geteuid().is_root() {
            "with their owners, modes and times"
        } else {
            "with their modes and times, as this user's own"
        };
        let last = if exists {
            format!("exchange it with {name}, whose present content is kept under the hidden name")
        } else {
            format!("give it the name {name}")
        };
        let steps = vec![format!("unpack the files into a hidden folder beside {name}, {owners}"), last];
        Ok(RestorePlan::looked_at(request, name, steps))
    }

    async fn restore(&self, cx: &Context, plan: RestorePlan, mut dump: Dump) -> Result<Restored> {
        let at = |error: Error| error.at(Stage::Restore);
        let this = self.clone();
        let (hidden, mut unpacker) = blocking(move || {
            let hidden = this.hidden()?;
            let unpacker = Unpacker::new(hidden.path(), rustix::process::geteuid().is_root())?;
            Ok((hidden, unpacker))
        })
        .await
        .map_err(at)?;
        let mut total = 0;
        loop {
            let chunk = tokio::select! {
                biased;
                () = cx.cancel().cancelled() => return Err(at(Error::cancelled(plan.target()))),
                chunk = dump.bytes.next() => chunk,
            };
            let Some(chunk) = chunk else { break };
            let chunk = chunk?;
            total += chunk.len() as u64;
            unpacker = blocking(move || unpacker.push(chunk).map(|()| unpacker)).await.map_err(at)?;
        }
        let (this, into_existing) = (self.clone(), plan.request().into_existing);
        let warnings = blocking(move || {
            let mut warnings = unpacker.finish()?;
            if into_existing {
                check_folder(&this.path)?;
            }
            if let Some(kept) = this.publish(hidden, into_existing)? {
                warnings.push(format!("what was there before is now in {}", kept.display()));
            }
            Ok(warnings)
        })
        .await
        .map_err(at)?;
        Ok(Restored { target: plan.target().to_owned(), bytes: total, warnings })
    }
}
