//! Where a command's bytes go: a file that appears only when it is whole, a device, or stdout.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal as _, Write};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use backup_core::{ByteStream, Context, Error, ErrorKind, Result, Sha256Digest};
use bytes::Bytes;
use rustix::fs::OFlags;
use sha2::{Digest as _, Sha256};

use crate::failure::{Failure, Outcome, io_error};
use crate::state::durable::sync_folder;

/// A file under a temporary name, a device, or stdout. Dropped without [`Output::finish`] it leaves no
/// file.
#[derive(Debug)]
pub(crate) struct Output {
    inner: Inner,
    /// The digest of what was written, where somebody wants to know.
    hash: Option<Sha256>,
}

#[derive(Debug)]
enum Inner {
    File {
        file: Arc<File>,
        temporary: PathBuf,
        path: PathBuf,
        force: bool,
    },
    /// What takes bytes as they come; `name` is for messages.
    Open {
        file: Arc<File>,
        name: PathBuf,
        terminal: bool,
        stdout: bool,
    },
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Written {
    /// How many bytes.
    pub(crate) bytes: u64,
    /// Their SHA-256, if it was asked for.
    pub(crate) sha256: Option<Sha256Digest>,
}

/// What a person at a terminal would be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    /// Never fit for a terminal.
    Sealed,
    /// Fit for a terminal if it is text.
    Plain,
}

impl Output {
    /// The file at `path` (`-`, `/dev/stdout` and `None` are stdout). `force` replaces a file that is there.
    ///
    /// # Errors
    /// `Conflict` when the file is there, `Config` when binary would go to a terminal or stdout is
    /// closed.
    pub(crate) fn open(path: Option<&Path>, force: bool, content: Content) -> Result<Self> {
        let is_stdout = |path: &&Path| [Path::new("-"), Path::new("/dev/stdout")].contains(path);
        let Some(path) = path.filter(|path| !is_stdout(path)) else {
            // The descriptor itself: the standard library's stdout looks for line ends in every chunk.
            let stdout = io::stdout().as_fd().try_clone_to_owned();
            let stdout = stdout.map_err(|e| io_error("standard output".as_ref(), "open", e))?;
            let stdout = File::from(stdout);
            if was_closed(&stdout) {
                return Err(closed("output", "-o /dev/null throws what is written away"));
            }
            return Self::of_open(stdout, "standard output".into(), true, content);
        };
        // Nothing of a device is replaced, so it takes bytes as stdout does.
        if path.metadata().is_ok_and(|meta| meta.file_type().is_char_device()) {
            let device = OpenOptions::new().write(true).open(path).map_err(|e| io_error(path, "open", e))?;
            return Self::of_open(device, path.to_owned(), false, content);
        }
        match path.symlink_metadata() {
            Ok(_) if !force => return Err(exists(path)),
            // Replacing a pipe or a link is never what --force means.
            Ok(meta) if !meta.is_file() => {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    path.display().to_string(),
                    "not a regular file",
                )
                .with_hint("leave out -o and redirect standard output instead"));
            }
            _ => {}
        }
        let name = path.file_name().ok_or_else(|| {
            Error::new(ErrorKind::Config, path.display().to_string(), "not the name of a file")
                .with_hint("name a file with -o")
        })?;
        let name = name.to_string_lossy();
        remove_leftovers(path, &name);
        let temporary = path.with_file_name(format!(".{name}.{}.part", std::process::id()));
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)
            .map_err(|e| io_error(path, "create", e))?;
        // Held while this process writes; without locks on this file system nothing is ever removed.
        let _ = file.try_lock();
        let file = Arc::new(file);
        Ok(Self { inner: Inner::File { file, temporary, path: path.to_owned(), force }, hash: None })
    }

    fn of_open(file: File, name: PathBuf, stdout: bool, content: Content) -> Result<Self> {
        let terminal = file.is_terminal();
        if terminal && content == Content::Sealed {
            return Err(binary());
        }
        Ok(Self { inner: Inner::Open { file: Arc::new(file), name, terminal, stdout }, hash: None })
    }

    /// The same, which also answers the digest of what was written.
    pub(crate) fn hashed(mut self, wanted: bool) -> Self {
        self.hash = wanted.then(Sha256::new);
        self
    }

    /// Whether a person sees the bytes, so that nothing else may be drawn between them.
    pub(crate) fn is_terminal(&self) -> bool {
        matches!(self.inner, Inner::Open { terminal: true, .. })
    }

    /// Whether the bytes go to stdout, where then nothing else belongs.
    pub(crate) fn is_stdout(&self) -> bool {
        matches!(self.inner, Inner::Open { stdout: true, .. })
    }

    /// Writes every chunk to the clean end and publishes. On any error no file appears, and what went
    /// to stdout or a device is not whole. Ends when the run is cancelled, also where nothing comes or
    /// nobody reads.
    pub(crate) async fn take<Kind>(mut self, cx: &Context, mut bytes: ByteStream<Kind>) -> Outcome<Written> {
        let mut total = 0;
        while let Some(chunk) = unless_cancelled(cx, bytes.next()).await? {
            let chunk = chunk?;
            total += chunk.len() as u64;
            self.write(cx, chunk).await?;
        }
        let sha256 = self.hash.take().map(|hash| Sha256Digest(hash.finalize().into()));
        self.finish()?;
        Ok(Written { bytes: total, sha256 })
    }

    async fn write(&mut self, cx: &Context, chunk: Bytes) -> Outcome {
        let (file, path) = match &mut self.inner {
            Inner::File { file, path, .. } => (Arc::clone(file), path.as_path()),
            Inner::Open { file, name, terminal, .. } => {
                // The beginning decides: a later chunk may begin within a character.
                if std::mem::take(terminal) && !is_text(&chunk) {
                    return Err(binary().into());
                }
                (Arc::clone(file), name.as_path())
            }
        };
        let hash = self.hash.take();
        // A thread that waits for somebody to read cannot be stopped; it is left to the end of the
        // process.
        let writing = tokio::task::spawn_blocking(move || {
            let hash = hash.map(|hash| hash.chain_update(&chunk));
            (&*file).write_all(&chunk).map(|()| hash)
        });
        match unless_cancelled(cx, writing).await? {
            Ok(Err(error)) if error.kind() == io::ErrorKind::BrokenPipe => Err(Failure::ClosedPipe),
            Ok(Err(error)) => Err(io_error(path, "write", error).into()),
            Ok(Ok(hash)) => {
                self.hash = hash;
                Ok(())
            }
            Err(_) => Err(Error::bug("the writing thread died").into()),
        }
    }

    fn finish(mut self) -> Outcome {
        let Inner::File { file, temporary, path, force } = &mut self.inner else {
            return Ok(());
        };
        let published = file.sync_all().and_then(|()| {
            if *force {
                std::fs::rename(&*temporary, &*path)?;
            } else {
                // Unlike a rename, a link never replaces what appeared meanwhile.
                std::fs::hard_link(&*temporary, &*path)?;
            }
            sync_folder(path)
        });
        published.map_err(|e| match e.kind() {
            io::ErrorKind::AlreadyExists => exists(path),
            _ => io_error(path, "write", e),
        })?;
        Ok(())
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if let Inner::File { temporary, .. } = &self.inner {
            // Gone already after a rename.
            let _ = std::fs::remove_file(temporary);
        }
    }
}

/// The answer of `work`, unless the run is cancelled first.
///
/// # Errors
/// `Cancelled`.
pub(crate) async fn unless_cancelled<T>(cx: &Context, work: impl Future<Output = T>) -> Result<T> {
    tokio::select! {
        biased;
        () = cx.cancel().cancelled() => Err(Error::cancelled("writing the output")),
        done = work => Ok(done),
    }
}

/// Whether a standard stream was closed when the program began. The standard library then opens
/// `/dev/null` for reading and writing in its place, which shells, systemd and others do not do when
/// they are told to use it. Some do (daemon(3), Python's `DEVNULL`); they cannot be told apart.
pub(crate) fn was_closed(stream: &File) -> bool {
    let null = || Some(stream.metadata().ok()?.rdev() == Path::new("/dev/null").metadata().ok()?.rdev());
    let is_device = stream.metadata().is_ok_and(|meta| meta.file_type().is_char_device());
    let both = rustix::fs::fcntl_getfl(stream).is_ok_and(|flags| flags & OFlags::RWMODE == OFlags::RDWR);
    is_device && both && null() == Some(true)
}

/// What is said of a standard stream that was closed.
pub(crate) fn closed(stream: &str, otherwise: &str) -> Error {
    Error::new(
        ErrorKind::Config,
        format!("standard {stream}"),
        "closed, or /dev/null opened for reading and writing, which looks the same",
    )
    .with_hint(format!("redirect it or name a file; {otherwise}"))
}

/// Removes what killed processes left under temporary names for this file: it may be plaintext.
fn remove_leftovers(path: &Path, name: &str) {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let found = entry.file_name();
        let number = found.to_str().and_then(|found| {
            found.strip_prefix('.')?.strip_prefix(name)?.strip_prefix('.')?.strip_suffix(".part")
        });
        let writer =
            number.and_then(|number| number.parse::<i32>().ok()).and_then(rustix::process::Pid::from_raw);
        let ours = entry
            .metadata()
            .is_ok_and(|meta| meta.is_file() && meta.uid() == rustix::process::geteuid().as_raw());
        // Between its creation and its lock a file is told by its process alone.
        let alive = writer.is_none_or(|pid| rustix::process::test_kill_process(pid).is_ok());
        if ours && !alive && File::open(entry.path()).is_ok_and(|file| file.try_lock().is_ok()) {
            // One that stays is seen by its owner; nothing depends on it.
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

fn binary() -> Error {
    Error::new(ErrorKind::Config, "standard output", "binary data would go to the terminal")
        .with_hint("redirect it, pipe it on, or name a file with -o")
}

/// UTF-8, perhaps cut within its last character, without control characters but white space.
fn is_text(chunk: &[u8]) -> bool {
    let valid = match std::str::from_utf8(chunk) {
        Ok(text) => text,
        Err(error) if error.error_len().is_none() => {
            std::str::from_utf8(&chunk[..error.valid_up_to()]).unwrap_or_default()
        }
        Err(_) => return false,
    };
    !valid.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t'))
}

fn exists(path: &Path) -> Error {
    Error::new(ErrorKind::Conflict, path.display().to_string(), "is there already and is not replaced")
        .with_hint("choose another name, or pass --force to replace it")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_may_be_shown_and_nothing_else() {
        for text in ["", "a\n\tb\r\n", "ünïcödé 漢字"] {
            assert!(is_text(text.as_bytes()), "{text}");
        }
        assert!(is_text(&"漢".as_bytes()[..2]), "cut within a character");
        for binary in [&b"a\0b"[..], b"\x1b[31m", b"\xff\xfe", b"\x80"] {
            assert!(!is_text(binary), "{binary:?}");
        }
    }

    fn names(folder: &Path) -> Vec<String> {
        std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[tokio::test]
    async fn a_stream_that_fails_leaves_no_file_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        let items = vec![Ok(Bytes::from_static(b"a")), Err(Error::new(ErrorKind::Integrity, "x", "bad"))];
        let output = Output::open(Some(&path), false, Content::Plain).unwrap();
        let failure = output.take(&Context::new(), ByteStream::new(futures::stream::iter(items))).await;
        assert_eq!(failure.unwrap_err().kind(), ErrorKind::Integrity);
        assert_eq!(names(folder.path()), Vec::<String>::new());
    }

    #[test]
    fn what_killed_processes_left_is_removed_and_nothing_of_the_living() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        let mut ended = std::process::Command::new("true").spawn().unwrap();
        ended.wait().unwrap();
        let (dead, alive) = (ended.id(), std::os::unix::process::parent_id());
        let locked = File::create(folder.path().join(format!(".out.0{dead}.part"))).unwrap();
        locked.lock().unwrap();
        for name in [format!(".out.{dead}.part"), format!(".out.{alive}.part"), format!(".other.{dead}.part")]
        {
            std::fs::write(folder.path().join(name), "plaintext").unwrap();
        }
        drop(Output::open(Some(&path), false, Content::Plain).unwrap());
        let mut left = names(folder.path());
        left.sort();
        let mut expected =
            [format!(".other.{dead}.part"), format!(".out.0{dead}.part"), format!(".out.{alive}.part")];
        expected.sort();
        assert_eq!(left, expected);
    }

    #[tokio::test]
    async fn a_file_is_replaced_only_by_force() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        let cx = Context::new();
        let first = Output::open(Some(&path), false, Content::Plain).unwrap();
        let racing = Output::open(Some(&folder.path().join("other")), false, Content::Plain).unwrap();
        assert_eq!(first.take(&cx, ByteStream::once("one")).await.unwrap().bytes, 3);
        assert_eq!(racing.take(&cx, ByteStream::once("two")).await.unwrap().bytes, 3);
        assert_eq!(Output::open(Some(&path), false, Content::Plain).unwrap_err().kind(), ErrorKind::Conflict);
        let forced = Output::open(Some(&path), true, Content::Plain).unwrap();
        forced.take(&cx, ByteStream::once("three")).await.unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"three");
        assert_eq!(names(folder.path()).len(), 2);
    }
}
