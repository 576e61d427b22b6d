//! Restoring an archive: unpacked beside the target, then renamed.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use backup_core::{
    Context, Dump, DumpFormat, Error, ErrorKind, RestorePlan, RestoreRequest, Restored, Restorer, Result,
    Stage,
};
use rustix::fs::{CWD, RenameFlags};

use super::hidden::{Hidden, left_over};
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

    /// Gives the folder its name; a folder that has it is kept under the hidden one.
    fn publish(&self, hidden: Hidden, into_existing: bool) -> Result<Option<PathBuf>> {
        let fail = |what: &str, errno: rustix::io::Errno| file_error(&self.path, what, errno.into());
        let renamed = rustix::fs::renameat_with(CWD, hidden.path(), CWD, &self.path, RenameFlags::NOREPLACE);
        let kept = match renamed {
            Ok(()) => {
                // Gone under this name: there is nothing to remove.
                hidden.keep();
                None
            }
            Err(rustix::io::Errno::EXIST) if into_existing => {
                let exchanged =
                    rustix::fs::renameat_with(CWD, hidden.path(), CWD, &self.path, RenameFlags::EXCHANGE);
                if let Err(errno) = exchanged {
                    return Err(hidden.give_up(fail("cannot be exchanged", errno)));
                }
                Some(hidden.keep())
            }
            Err(errno) => return Err(hidden.give_up(fail("cannot be given its name", errno))),
        };
        let folder = folder_of(&self.path);
        let synced = std::fs::File::open(folder).and_then(|folder| folder.sync_all());
        synced.map_err(|error| unsynced(folder, kept.as_deref(), error))?;
        Ok(kept)
    }

    /// Writes the whole dump below the hidden folder; gives its bytes and what a person should know.
    async fn unpack(
        &self,
        cx: &Context,
        target: &str,
        mut dump: Dump,
        mut unpacker: Unpacker,
    ) -> Result<(u64, Vec<String>)> {
        let mut total = 0;
        loop {
            let chunk = tokio::select! {
                biased;
                () = cx.cancel().cancelled() => return Err(Error::cancelled(target).at(Stage::Restore)),
                chunk = dump.bytes.next() => chunk,
            };
            let Some(chunk) = chunk else { break };
            let chunk = chunk?;
            total += chunk.len() as u64;
            let pushed = blocking(move || unpacker.push(chunk).map(|()| unpacker)).await;
            unpacker = pushed.map_err(|error| error.at(Stage::Restore))?;
        }
        let finished = blocking(move || unpacker.finish()).await;
        Ok((total, finished.map_err(|error| error.at(Stage::Restore))?))
    }
}

/// The names are right, but a power cut may bring the former ones back.
fn unsynced(folder: &Path, kept: Option<&Path>, error: std::io::Error) -> Error {
    let what = match kept {
        Some(kept) => format!(
            "cannot be synced; what was restored has its name, and what had it before is now in {}",
            kept.display()
        ),
        None => "cannot be synced; what was restored has its name".to_owned(),
    };
    file_error(folder, &what, error)
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
        let mut steps = vec![format!("unpack the files into a hidden folder beside {name}, {owners}"), last];
        let path = self.path.clone();
        for left in blocking(move || Ok(left_over(&path))).await? {
            steps.push(format!(
                "leave {}, which an earlier restore left (killed, or what an exchange kept): look into it and remove it",
                left.display()
            ));
        }
        Ok(RestorePlan::looked_at(request, name, steps))
    }

    async fn restore(&self, cx: &Context, plan: RestorePlan, dump: Dump) -> Result<Restored> {
        let at = |error: Error| error.at(Stage::Restore);
        let this = self.clone();
        let (hidden, unpacker) = blocking(move || {
            let hidden = Hidden::beside(&this.path)?;
            match Unpacker::new(hidden.path(), rustix::process::geteuid().is_root()) {
                Ok(unpacker) => Ok((hidden, unpacker)),
                Err(error) => Err(hidden.give_up(error)),
            }
        })
        .await
        .map_err(at)?;
        let (total, mut warnings) = match self.unpack(cx, plan.target(), dump, unpacker).await {
            Ok(unpacked) => unpacked,
            Err(error) => return blocking(move || Err(hidden.give_up(error))).await,
        };
        let (this, into_existing) = (self.clone(), plan.request().into_existing);
        let warnings = blocking(move || {
            if into_existing && let Err(error) = check_folder(&this.path) {
                return Err(hidden.give_up(error));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_sync_tells_where_the_former_content_is() {
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        let error = unsynced(Path::new("/srv"), Some(Path::new("/srv/.app.abc123.partial")), full);
        assert!(error.what().contains("before is now in /srv/.app.abc123.partial"), "{error}");
    }
}
