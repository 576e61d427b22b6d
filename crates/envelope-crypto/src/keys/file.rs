//! Key files: created once, private, durable; read with a limit.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::error::KeyError;
use super::pem::KEY_FILE_MAX;

/// What was read from a key file. Never printed.
pub struct KeyFile {
    /// The bytes, wiped when dropped.
    pub contents: Zeroizing<Vec<u8>>,
    /// What a person should hear about a file that holds a secret.
    pub warning: Option<KeyFileWarning>,
}

impl std::fmt::Debug for KeyFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyFile").field("warning", &self.warning).finish_non_exhaustive()
    }
}

/// A private key file that others may read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyFileWarning {
    /// The file.
    pub path: PathBuf,
    /// Its permission bits.
    pub mode: u32,
}

impl std::fmt::Display for KeyFileWarning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let path = self.path.display();
        write!(
            f,
            "{path}: others may read or change this file (mode {:04o}); run: chmod 600 {path}",
            self.mode
        )
    }
}

/// Reads a file that holds a key, a passphrase or a secret key, at most [`KEY_FILE_MAX`] bytes. The
/// warning is for files with a secret; ignore it for public keys.
///
/// Pipes are read as well. Blocks.
///
/// # Errors
/// [`KeyError::TooBig`], [`KeyError::Io`].
pub fn read_key_file(path: &Path) -> Result<KeyFile, KeyError> {
    let io = |error: io::Error| KeyError::Io { what: "cannot be read", kind: error.kind() };
    let file = File::open(path).map_err(io)?;
    let warning = mode_warning(path, &file.metadata().map_err(io)?);
    // All the room at once: a growing buffer would leave copies of a secret behind.
    let mut contents = Zeroizing::new(Vec::with_capacity(KEY_FILE_MAX + 1));
    file.take(KEY_FILE_MAX as u64 + 1).read_to_end(&mut contents).map_err(io)?;
    if contents.len() > KEY_FILE_MAX {
        return Err(KeyError::TooBig { limit: KEY_FILE_MAX });
    }
    Ok(KeyFile { contents, warning })
}

#[cfg(unix)]
fn mode_warning(path: &Path, metadata: &std::fs::Metadata) -> Option<KeyFileWarning> {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = metadata.permissions().mode() & 0o7777;
    (metadata.is_file() && mode & 0o066 != 0).then(|| KeyFileWarning { path: path.to_owned(), mode })
}

#[cfg(not(unix))]
fn mode_warning(_: &Path, _: &std::fs::Metadata) -> Option<KeyFileWarning> {
    None
}

/// Creates a private key's file: mode 0600, durable when this returns, never over another file.
///
/// # Errors
/// [`KeyError::Io`]; with `AlreadyExists` nothing was touched, with any other kind no file is left.
pub fn write_private_key(path: &Path, pem: &str) -> Result<(), KeyError> {
    create(path, pem.as_bytes(), 0o600)
}

/// Creates a public key's file: mode 0644, otherwise as [`write_private_key`].
///
/// # Errors
/// As [`write_private_key`].
pub fn write_public_key(path: &Path, pem: &str) -> Result<(), KeyError> {
    create(path, pem.as_bytes(), 0o644)
}

/// Creates both files of a key, or neither.
///
/// # Errors
/// As [`write_private_key`].
pub fn write_key_pair(
    private_path: &Path,
    private_pem: &str,
    public_path: &Path,
    public_pem: &str,
) -> Result<(), KeyError> {
    // The public file goes first: if the second step fails, what is taken back was no secret.
    write_public_key(public_path, public_pem)?;
    write_private_key(private_path, private_pem).inspect_err(|_| drop(std::fs::remove_file(public_path)))
}

fn create(path: &Path, contents: &[u8], mode: u32) -> Result<(), KeyError> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
    #[cfg(not(unix))]
    let _ = mode;
    let mut file =
        options.open(path).map_err(|error| KeyError::Io { what: "cannot be created", kind: error.kind() })?;
    let written = file.write_all(contents).and_then(|()| file.sync_all()).and_then(|()| sync_folder(path));
    written.map_err(|error| {
        drop(std::fs::remove_file(path));
        KeyError::Io { what: "cannot be written", kind: error.kind() }
    })
}

/// Makes the new name durable too.
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_private_key_is_the_owners_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (private, public) = (dir.path().join("key.pem"), dir.path().join("key.pub.pem"));
        write_key_pair(&private, "secret", &public, "public").unwrap();
        assert_eq!(mode(&private), 0o600);
        assert_eq!(mode(&public) & 0o700, 0o600);
        let read = read_key_file(&private).unwrap();
        assert_eq!((read.contents.as_slice(), read.warning), (&b"secret"[..], None));
    }

    #[test]
    fn no_key_is_ever_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let (private, public) = (dir.path().join("key.pem"), dir.path().join("key.pub.pem"));
        let exists = KeyError::Io { what: "cannot be created", kind: io::ErrorKind::AlreadyExists };
        fs::write(&private, "old").unwrap();
        assert_eq!(write_private_key(&private, "new"), Err(exists.clone()));
        assert_eq!(write_key_pair(&private, "new", &public, "new"), Err(exists.clone()));
        assert!(!public.exists(), "neither file of a pair is left");
        fs::write(&public, "old").unwrap();
        fs::remove_file(&private).unwrap();
        assert_eq!(write_key_pair(&private, "new", &public, "new"), Err(exists.clone()));
        assert!(!private.exists(), "neither file of a pair is left");
        // A dangling link is a file that somebody wants elsewhere.
        let link = dir.path().join("link.pem");
        std::os::unix::fs::symlink(dir.path().join("elsewhere"), &link).unwrap();
        assert_eq!(write_private_key(&link, "new"), Err(exists));
        assert!(!dir.path().join("elsewhere").exists());
        assert_eq!(fs::read(&public).unwrap(), b"old");
    }

    #[test]
    fn a_file_that_others_may_read_is_warned_of() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key.pem");
        fs::write(&path, "secret").unwrap();
        for (mode, warned) in [(0o600, false), (0o400, false), (0o640, true), (0o604, true), (0o620, true)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let warning = read_key_file(&path).unwrap().warning;
            assert_eq!(warning.is_some(), warned, "{mode:o}");
            if let Some(warning) = warning {
                assert!(warning.to_string().contains("chmod 600"), "{warning}");
            }
        }
    }

    #[test]
    fn debug_hides_what_was_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key.pem");
        write_private_key(&path, "hunter2").unwrap();
        let shown = format!("{:?} {:#?}", read_key_file(&path).unwrap(), read_key_file(&path).unwrap());
        // Neither as text nor as the numbers of its bytes.
        assert!(!shown.contains("hunter2") && !shown.contains("104"), "{shown}");
    }

    #[test]
    fn a_huge_missing_or_strange_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key.pem");
        let missing = KeyError::Io { what: "cannot be read", kind: io::ErrorKind::NotFound };
        assert_eq!(read_key_file(&path).err(), Some(missing));
        fs::write(&path, vec![b'x'; KEY_FILE_MAX]).unwrap();
        assert!(read_key_file(&path).is_ok());
        fs::write(&path, vec![b'x'; KEY_FILE_MAX + 1]).unwrap();
        assert_eq!(read_key_file(&path).err(), Some(KeyError::TooBig { limit: KEY_FILE_MAX }));
        assert!(matches!(read_key_file(dir.path()), Err(KeyError::Io { .. })));
        assert_eq!(
            read_key_file(Path::new("/dev/zero")).err(),
            Some(KeyError::TooBig { limit: KEY_FILE_MAX })
        );
    }
}
