//! New files that appear whole or not at all.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use backup_core::{Context, Dump, Error, ErrorKind, Result, Stage};
use tempfile::NamedTempFile;

use crate::leftovers::{self, Leftover};

/// A file under another name beside its target, readable by its owner only; removed when dropped.
#[derive(Debug)]
pub(crate) struct Draft {
    file: NamedTempFile,
    target: PathBuf,
}

/// What to try where a target's name is taken.
pub(crate) const TAKEN_HINT: &str =
    "choose a new name, or allow restoring into what exists (flag --into-existing)";

/// What to try where a dump has no byte.
pub(crate) const EMPTY_HINT: &str = "look at what should have written it; if an empty dump is right, set allow_empty = true in the source's table \
     of the configuration file";

/// An error about a file, with the kind that the system's answer deserves.
pub(crate) fn file_error(path: &Path, what: &str, error: std::io::Error) -> Error {
    use std::io::ErrorKind as Io;
    let (kind, hint) = match error.kind() {
        Io::NotFound => (ErrorKind::NotFound, "check the path"),
        Io::AlreadyExists => (ErrorKind::Conflict, "choose a name that is free"),
        Io::PermissionDenied | Io::ReadOnlyFilesystem => {
            (ErrorKind::Denied, "check the owner and the mode of the folder")
        }
        Io::StorageFull | Io::QuotaExceeded => (ErrorKind::Unavailable, "free some space"),
        _ => (ErrorKind::Unavailable, "check the disk"),
    };
    Error::new(kind, path.display().to_string(), format!("{what}: {error}"))
        .with_hint(hint)
        .with_source(error)
}

/// The folder a path lies in.
pub(crate) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Refuses a target that cannot become a new file: it exists, its folder does not, or the disk has
/// no room for `len` bytes.
pub(crate) fn check_new(target: &Path, len: Option<u64>, may_exist: bool) -> Result<()> {
    let at = |error: Error| error.at(Stage::Restore);
    if target.file_name().is_none() {
        return Err(at(Error::new(ErrorKind::Config, target.display().to_string(), "is no file name")));
    }
    let folder = folder_of(target);
    let metadata =
        std::fs::metadata(folder).map_err(|error| at(file_error(folder, "folder of the target", error)))?;
    if !metadata.is_dir() {
        return Err(at(Error::new(ErrorKind::Config, folder.display().to_string(), "is not a folder")));
    }
    if target.symlink_metadata().is_ok() && !may_exist {
        return Err(at(Error::new(ErrorKind::Conflict, target.display().to_string(), "already exists")
            .with_hint(TAKEN_HINT)));
    }
    if let (Some(len), Ok(disk)) = (len, rustix::fs::statvfs(folder)) {
        // A leftover is taken away before the first byte is written.
        let leftovers: u64 = leftovers::find(target).iter().map(Leftover::len).sum();
        let free = disk.f_bavail.saturating_mul(disk.f_frsize).saturating_add(leftovers);
        if len > free {
            let what = format!("has {free} bytes free, {len} are needed");
            return Err(at(Error::new(ErrorKind::Unavailable, folder.display().to_string(), what)
                .with_hint("free some space or restore to another disk")));
        }
    }
    Ok(())
}

/// What a plan says of the hidden files that killed restores to `target` left behind.
pub(crate) fn tidying(target: &Path) -> Vec<String> {
    let say = |leftover: &Leftover| {
        format!("remove {}, which a restore left that was killed", leftover.path().display())
    };
    leftovers::find(target).iter().map(say).collect()
}

impl Draft {
    /// Writes the whole dump into a new hidden file beside `target` and syncs it. What killed
    /// restores to the same name left behind goes first.
    ///
    /// Dropping the future removes the file.
    pub(crate) async fn write(cx: &Context, target: &Path, mut dump: Dump) -> Result<(Self, u64)> {
        let subject = target.display().to_string();
        let mut draft = Self::begin(target)?;
        let mut total = 0;
        loop {
            let chunk = tokio::select! {
                biased;
                () = cx.cancel().cancelled() => return Err(Error::cancelled(&*subject).at(Stage::Restore)),
                chunk = dump.bytes.next() => chunk,
            };
            let Some(chunk) = chunk else { break };
            let chunk = chunk?;
            total += chunk.len() as u64;
            draft = blocking(move || {
                let path = draft.target.clone();
                draft
                    .file
                    .write_all(&chunk)
                    .map_err(|error| file_error(&path, "cannot be written", error))?;
                Ok(draft)
            })
            .await?;
        }
        draft = blocking(move || draft.sync().map(|()| draft)).await?;
        Ok((draft, total))
    }

    fn begin(target: &Path) -> Result<Self> {
        for leftover in leftovers::find(target) {
            let path = leftover.path().to_owned();
            leftover
                .remove()
                .map_err(|error| file_error(&path, "is left over and cannot be removed", error))?;
        }
        let file = leftovers::begin(target).map_err(|error| file_error(target, "cannot be begun", error))?;
        Ok(Self { file, target: target.to_owned() })
    }

    pub(crate) fn path(&self) -> &Path {
        self.file.path()
    }

    pub(crate) fn sync(&self) -> Result<()> {
        self.file.as_file().sync_all().map_err(|error| file_error(&self.target, "cannot be synced", error))
    }

    /// Gives the file its name, which must be free, and syncs the folder.
    pub(crate) fn publish(self) -> Result<()> {
        let Self { file, target } = self;
        file.persist_noclobber(&target)
            .map_err(|error| file_error(&target, "cannot be given its name", error.error))?;
        sync_folder(&target)
    }

    /// Gives the file its name, taking it from whatever has it, and syncs the folder.
    pub(crate) fn replace(self) -> Result<()> {
        let Self { file, target } = self;
        file.persist(&target).map_err(|error| file_error(&target, "cannot be replaced", error.error))?;
        sync_folder(&target)
    }
}

fn sync_folder(target: &Path) -> Result<()> {
    let folder = folder_of(target);
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|error| file_error(folder, "cannot be synced", error))
}

/// Runs blocking work off the async threads.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(Error::bug(format!("a blocking task died: {error}"))),
    }
}
