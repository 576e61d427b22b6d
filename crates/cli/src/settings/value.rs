//! Values that are understood.

use std::fmt;
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use backup_core::pipeline::Enough;
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

/// How a passphrase becomes a key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Kdf {
    /// Argon2id (RFC 9106).
    #[default]
    Argon2id,
    /// PBKDF2 with HMAC-SHA256 (RFC 8018), for those who must.
    Pbkdf2,
}

impl FromStr for Kdf {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "argon2id" => Ok(Self::Argon2id),
            "pbkdf2" => Ok(Self::Pbkdf2),
            _ => Err(format!("{text:?} is neither `argon2id` nor `pbkdf2`")),
        }
    }
}

/// A rate in bytes a second: a whole number, alone or with `KiB`, `MiB` or `GiB`; `/s` may follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rate(pub(crate) NonZeroU64);

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.strip_suffix("/s").unwrap_or(text);
        let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
        let shift = match unit.trim() {
            "" | "B" => 0,
            "KiB" => 10,
            "MiB" => 20,
            "GiB" => 30,
            _ => return Err(format!("{text:?} has no unit of KiB, MiB or GiB")),
        };
        let bytes =
            number.parse::<u64>().ok().and_then(|n| n.checked_mul(1 << shift)).and_then(NonZeroU64::new);
        bytes.map(Self).ok_or_else(|| format!("{text:?} is no number of bytes a second"))
    }
}

/// How many copies of a backup are enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Mirror(pub(crate) Enough);

impl FromStr for Mirror {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is neither `all` nor `at_least:N` with a number from 1");
        match text.split_once(':') {
            None if text == "all" => Ok(Self(Enough::All)),
            Some(("at_least", number)) => {
                number.parse::<NonZeroUsize>().map(|n| Self(Enough::AtLeast(n))).map_err(|_| wrong())
            }
            _ => Err(wrong()),
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

impl Destination {
    /// How long it may hold up other destinations.
    pub(crate) fn patience(&self) -> Option<Duration> {
        match self.table.number("stall_seconds") {
            None => Some(STALL),
            Some(seconds) => u64::try_from(seconds).ok().filter(|s| *s > 0).map(Duration::from_secs),
        }
    }
}

/// How long a destination may hold up others when nothing is set: longer than a request is repeated.
const STALL: Duration = Duration::from_secs(300);

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
    fn rates_have_binary_units() {
        let bytes = |text: &str| text.parse().map(|Rate(bytes)| bytes.get());
        assert_eq!(bytes("500"), Ok(500));
        assert_eq!(bytes("10MiB"), Ok(10 << 20));
        assert_eq!(bytes("10 MiB/s"), Ok(10 << 20));
        assert_eq!(bytes("1 GiB"), Ok(1 << 30));
        for bad in ["", "0", "MiB", "10MB", "-1", "1.5MiB", "99999999999GiB"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn copies_are_all_or_so_many() {
        assert_eq!("all".parse(), Ok(Mirror(Enough::All)));
        assert_eq!("at_least:2".parse(), Ok(Mirror(Enough::AtLeast(NonZeroUsize::new(2).unwrap()))));
        for bad in ["", "1", "any", "at_least", "at_least:", "at_least:0", "at_least:-1", "all:2"] {
            assert!(bad.parse::<Mirror>().is_err(), "{bad}");
        }
    }

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
