//! Small files that are whole or not there, before and after a power cut.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use backup_core::Result;

use crate::failure::io_error;

/// Makes a folder and its parents, mode 0700; one that exists is left as it is.
pub(crate) fn create_folder(folder: &Path) -> Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|e| io_error(folder, "create", e))
}

/// Puts `bytes` at `path`, replacing what was there, durably.
pub(crate) fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let temporary = write_temporary(path, bytes, mode)?;
    std::fs::rename(&temporary, path).and_then(|()| sync_folder(path)).map_err(|e| {
        let _ = std::fs::remove_file(&temporary);
        io_error(path, "write", e)
    })
}

/// Puts `bytes` at `path`, durably, if nothing is there.
///
/// # Errors
/// `Conflict` when something is there, also in a race.
pub(crate) fn create(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let temporary = write_temporary(path, bytes, mode)?;
    // A link fails where the name is taken; a rename would replace.
    let linked = std::fs::hard_link(&temporary, path);
    let _ = std::fs::remove_file(&temporary);
    linked.and_then(|()| sync_folder(path)).map_err(|e| io_error(path, "create", e))
}

/// Adds one line to a file, durably. A line that a crash cut short stays alone on its line.
pub(crate) fn append_line(path: &Path, line: &str, mode: u32) -> Result<()> {
    use std::io::{Read as _, Seek as _, SeekFrom};
    let append = || -> io::Result<()> {
        let mut file = OpenOptions::new().read(true).append(true).create(true).mode(mode).open(path)?;
        let len = file.seek(SeekFrom::End(0))?;
        let mut last = [b'\n'];
        if len > 0 {
            file.seek(SeekFrom::Start(len - 1))?;
            file.read_exact(&mut last)?;
        }
        let torn = if last == [b'\n'] { "" } else { "\n" };
        file.write_all(format!("{torn}{line}\n").as_bytes())?;
        file.sync_data()
    };
    append().map_err(|e| io_error(path, "append to", e))
}

/// The file's text, or `None` where there is no file.
pub(crate) fn read(path: &Path) -> Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_error(path, "read", error)),
    }
}

fn write_temporary(path: &Path, bytes: &[u8], mode: u32) -> Result<PathBuf> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.{}.tmp", std::process::id()));
    let write = || -> io::Result<()> {
        // One that a killed process of the same number left behind is of no use to anybody.
        let _ = std::fs::remove_file(&temporary);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(|e| {
        let _ = std::fs::remove_file(&temporary);
        io_error(path, "write", e)
    })?;
    Ok(temporary)
}

/// Makes a new name in a file's folder survive a power cut.
pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_created_file_is_never_replaced_and_leaves_nothing_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        create(&path, b"1", 0o600).unwrap();
        assert_eq!(create(&path, b"2", 0o600).unwrap_err().kind(), backup_core::ErrorKind::Conflict);
        assert_eq!(std::fs::read(&path).unwrap(), b"1");
        replace(&path, b"3", 0o600).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"3");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_torn_line_does_not_swallow_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        append_line(&path, "one", 0o600).unwrap();
        std::fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"tw").unwrap();
        append_line(&path, "three", 0o600).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\ntw\nthree\n");
    }
}
