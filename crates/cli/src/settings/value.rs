//! Values that are understood.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use zeroize::Zeroizing;

use super::file::Table;

/// How blocks are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    /// Stored as they are.
    None,
    /// Zstandard (RFC 8878) at this level.
    Zstd(i32),
}

impl Default for Compression {
    fn default() -> Self {
        Self::Zstd(3)
    }
}

impl FromStr for Compression {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "none" => Ok(Self::None),
            None if text == "zstd" => Ok(Self::default()),
            Some(("zstd", level)) => match level.parse() {
                Ok(level @ 1..=22) => Ok(Self::Zstd(level)),
                _ => Err(format!("{level:?} is no level from 1 to 22")),
            },
            _ => Err(format!("{text:?} is not `none`, `zstd` or `zstd:LEVEL`")),
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Zstd(level) => write!(f, "zstd:{level}"),
        }
    }
}

/// A place for backups: a URL or path, and what its table adds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Destination {
    /// Its name in the file, if it has one.
    pub(crate) name: Option<String>,
    /// The URL or path.
    pub(crate) url: String,
    /// The rest of its table.
    pub(crate) table: Table,
}

/// Where the passphrase is read, when one is needed.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum PassphraseFrom {
    /// An open file descriptor.
    Descriptor(i32),
    /// A file.
    File(PathBuf),
    /// The value of STRONGROOM_PASSPHRASE.
    Variable(Zeroizing<String>),
    /// The terminal.
    Prompt,
}

impl fmt::Debug for PassphraseFrom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Descriptor(number) => write!(f, "Descriptor({number})"),
            Self::File(path) => write!(f, "File({path:?})"),
            Self::Variable(_) => f.write_str("Variable(****)"),
            Self::Prompt => f.write_str("Prompt"),
        }
    }
}

/// Where the secret key is read.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum SecretKeyFrom {
    /// A file.
    File(PathBuf),
    /// The value of a variable, in base64.
    Variable(Zeroizing<String>),
}

impl fmt::Debug for SecretKeyFrom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "File({path:?})"),
            Self::Variable(_) => f.write_str("Variable(****)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compressions_have_one_spelling_each() {
        assert_eq!("none".parse(), Ok(Compression::None));
        assert_eq!("zstd".parse(), Ok(Compression::Zstd(3)));
        assert_eq!("zstd:22".parse(), Ok(Compression::Zstd(22)));
        for bad in ["", "gzip", "zstd:", "zstd:0", "zstd:23", "zstd:-1", "none:1"] {
            assert!(bad.parse::<Compression>().is_err(), "{bad}");
        }
    }
}
