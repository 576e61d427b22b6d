//! Secrets from where people keep them: a descriptor, a file, a variable, the terminal. Never argv.

use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use backup_core::{Error, ErrorKind, Result};
use zeroize::Zeroizing;

use crate::failure::io_error;
use crate::settings::{PassphraseFrom, SecretKeyFrom};
use crate::terminal;

/// No secret that a person types or a program makes is longer, in bytes.
const SECRET_LEN_MAX: u64 = 64 * 1024;

/// Reads the passphrase; `what` completes "passphrase for ..." in a question.
///
/// # Errors
/// `Config` when it is empty or cannot be had, those of the file.
pub(crate) fn passphrase(from: &PassphraseFrom, what: &str) -> Result<Zeroizing<String>> {
    let (place, text) = match from {
        PassphraseFrom::Descriptor(number) => {
            (format!("--passphrase-fd {number}"), read_descriptor(*number)?)
        }
        PassphraseFrom::File(path) => (path.display().to_string(), read_file(path)?),
        PassphraseFrom::Variable(text) => ("STRONGROOM_PASSPHRASE".to_owned(), text.clone()),
        PassphraseFrom::Prompt => {
            ("the terminal".to_owned(), terminal::ask_secret(&format!("Passphrase for {what}"))?)
        }
    };
    not_empty(&place, text)
}

/// Reads a new passphrase; on a terminal it is asked for twice.
///
/// # Errors
/// As [`passphrase`]; `Config` when the two answers differ.
pub(crate) fn new_passphrase(from: &PassphraseFrom, what: &str) -> Result<Zeroizing<String>> {
    let first = passphrase(from, what)?;
    if matches!(from, PassphraseFrom::Prompt) && terminal::ask_secret("The same once more")? != first {
        return Err(Error::new(ErrorKind::Config, "passphrase", "the two answers differ")
            .with_hint("run the command again"));
    }
    Ok(first)
}

/// Reads the secret key's text.
///
/// # Errors
/// `Config` when it is empty, those of the file.
pub(crate) fn secret_key(from: &SecretKeyFrom) -> Result<Zeroizing<String>> {
    match from {
        SecretKeyFrom::File(path) => not_empty(&path.display().to_string(), read_file(path)?),
        SecretKeyFrom::Variable(text) => not_empty("the variable of the secret key", text.clone()),
    }
}

/// Reads what an open descriptor refers to.
fn read_descriptor(number: i32) -> Result<Zeroizing<String>> {
    read_text(open_descriptor(number)?, format!("/dev/fd/{number}").as_ref())
}

/// Says whether a descriptor is open.
///
/// # Errors
/// `Config` when it is not.
pub(crate) fn check_descriptor(number: i32) -> Result<()> {
    // This takes nothing out of a pipe.
    open_descriptor(number).map(drop)
}

/// Opens the descriptor's own name: that needs no raw descriptor, and fails for one that is not open.
fn open_descriptor(number: i32) -> Result<File> {
    File::open(format!("/dev/fd/{number}")).map_err(|_| {
        let what = "no descriptor of this number is open for reading";
        Error::new(ErrorKind::Config, format!("flag --passphrase-fd {number}"), what)
            .with_hint(format!("let the shell open it, as in: strongroom ... {number}<FILE"))
    })
}

/// Reads a file of text that is secret, without one final newline; warns where others can read it.
pub(crate) fn read_file(path: &Path) -> Result<Zeroizing<String>> {
    let file = File::open(path).map_err(|e| io_error(path, "read", e))?;
    if let Some(warning) = file.metadata().ok().and_then(|meta| mode_warning(path, &meta)) {
        tracing::warn!("{warning}");
    }
    read_text(file, path)
}

/// What is said of a file with a secret that others can read or change.
pub(crate) fn mode_warning(path: &Path, meta: &Metadata) -> Option<String> {
    let (mode, path) = (meta.mode() & 0o7777, path.display());
    (meta.is_file() && mode & 0o066 != 0).then(|| {
        format!("{path}: others may read or change this file (mode {mode:04o}); run: chmod 600 {path}")
    })
}

fn read_text(file: File, path: &Path) -> Result<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::with_capacity(4096));
    file.take(SECRET_LEN_MAX + 1).read_to_string(&mut text).map_err(|e| match e.kind() {
        std::io::ErrorKind::InvalidData => {
            Error::new(ErrorKind::Config, path.display().to_string(), "not UTF-8 text")
        }
        _ => io_error(path, "read", e),
    })?;
    if text.len() as u64 > SECRET_LEN_MAX {
        return Err(Error::new(ErrorKind::Config, path.display().to_string(), "too long to be a secret")
            .with_hint("check that this is the right file"));
    }
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(text)
}

fn not_empty(place: &str, text: Zeroizing<String>) -> Result<Zeroizing<String>> {
    if text.is_empty() {
        return Err(Error::new(ErrorKind::Config, place, "holds an empty secret")
            .with_hint("an empty passphrase or key protects nothing"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_final_newline_is_not_part_of_a_secret() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p");
        for (stored, read) in [("a", "a"), ("a\n", "a"), ("a\r\n", "a"), ("a\n\n", "a\n"), (" a ", " a ")] {
            std::fs::write(&path, stored).unwrap();
            assert_eq!(*passphrase(&PassphraseFrom::File(path.clone()), "x").unwrap(), read);
        }
    }

    #[test]
    fn empty_and_endless_secrets_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p");
        std::fs::write(&path, "\n").unwrap();
        let empty = passphrase(&PassphraseFrom::File(path), "x").unwrap_err();
        assert_eq!(empty.kind(), ErrorKind::Config);
        let endless = read_file("/dev/zero".as_ref()).unwrap_err();
        assert_eq!(endless.what(), "too long to be a secret");
    }
}
