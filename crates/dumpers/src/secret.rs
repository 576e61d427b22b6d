//! A value that no message, log or debug print may show.

use std::fmt;
use std::path::Path;

use backup_core::{Error, Result};
use serde::Deserialize;
use zeroize::Zeroizing;

/// A password or another secret text: hidden in `Debug`, overwritten in memory when dropped.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes the text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// Reads the first line of a password file; warns where others can read it.
    ///
    /// # Errors
    /// `wrong` of what is said about the file: it cannot be read, or its first line is empty.
    pub(crate) fn of_file(file: &Path, wrong: impl FnOnce(String) -> Error) -> Result<Self> {
        let content = match std::fs::read_to_string(file) {
            Ok(content) => Zeroizing::new(content),
            Err(error) => {
                let what = format!("{} cannot be read: {error}", file.display());
                return Err(wrong(what).with_source(error));
            }
        };
        if let Some(warning) = mode_warning(file) {
            tracing::warn!("{warning}");
        }
        match content.lines().next().unwrap_or_default() {
            "" => Err(wrong(format!("{} begins with an empty line", file.display()))),
            line => Ok(Self::new(line)),
        }
    }

    /// The text itself; to be handed to a tool's environment and to nothing else.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self::new(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(hidden)")
    }
}

/// What is said of a secret's file that others can read or change.
#[must_use]
pub(crate) fn mode_warning(file: &Path) -> Option<String> {
    use std::os::unix::fs::PermissionsExt as _;
    let metadata = std::fs::metadata(file).ok()?;
    let mode = metadata.permissions().mode() & 0o7777;
    let path = file.display();
    (metadata.is_file() && mode & 0o066 != 0).then(|| {
        format!("{path}: others may read or change this file (mode {mode:04o}); run: chmod 600 {path}")
    })
}

/// How a message names a program's argument: the option without its value, which may be a secret.
#[must_use]
pub(crate) fn without_value(argument: &str) -> String {
    match argument.split_once('=') {
        Some((option, _)) if option.starts_with("--") => format!("{option}=..."),
        None if argument.starts_with("--") => argument.to_owned(),
        // The value of a short option may follow it at once.
        _ => argument
            .chars()
            .take(if argument.starts_with('-') { 2 } else { 0 })
            .chain("...".chars())
            .collect(),
    }
}

/// Replaces every occurrence of every secret in `text` by `***`.
#[must_use]
pub(crate) fn masked(text: &str, secrets: &[Secret]) -> String {
    let mut text = text.to_owned();
    for secret in secrets {
        if !secret.expose().is_empty() {
            text = text.replace(secret.expose(), "***");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_argument_is_named_without_its_value() {
        for (argument, named) in [
            ("--dbname=postgres://u:hunter2@h/x", "--dbname=..."),
            ("--password", "--password"),
            ("-phunter2", "-p..."),
            ("hunter2", "..."),
            ("", "..."),
        ] {
            assert_eq!(without_value(argument), named);
        }
    }

    #[test]
    fn a_secret_is_not_printed() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret:?}"), "Secret(hidden)");
        assert_eq!(masked("pw hunter2, again hunter2", &[secret]), "pw ***, again ***");
        assert_eq!(masked("nothing", &[Secret::default()]), "nothing");
    }
}
