//! Names: of backups, repositories, sources and objects. Parsed once, valid from then on.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind};

macro_rules! uuid_name {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(uuid::Uuid);

        impl $name {
            /// A fresh random name (UUID version 4, RFC 9562).
            #[must_use]
            pub fn random() -> Self {
                Self(uuid::Uuid::new_v4())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.hyphenated().fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = Error;
            /// Reads the one spelling: 36 characters, lower case, hyphenated.
            fn from_str(text: &str) -> Result<Self, Error> {
                match uuid::Uuid::try_parse(text) {
                    Ok(id) if id.hyphenated().to_string() == text => Ok(Self(id)),
                    _ => Err(Error::new(ErrorKind::Config, format!(concat!($what, " {:?}"), text), "not a lower-case UUID")
                        .with_hint("an id looks like 7f0a1c52-6f0b-4a53-9b5e-0d6f6c1d2e3f")),
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = Error;
            fn try_from(text: String) -> Result<Self, Error> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.to_string()
            }
        }
    };
}

uuid_name!(
    /// The name of one backup: random, never reused, never used for ordering.
    BackupId,
    "backup id"
);
uuid_name!(
    /// The name of one repository: one prefix in one destination.
    RepositoryId,
    "repository id"
);

/// The name of a source, as it stands in object keys: 1 to 100 of `A-Z a-z 0-9 . _ -`, the first a
/// letter or digit, and none of the names a repository keeps for itself.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SourceName(String);

impl SourceName {
    /// The longest name, in characters.
    pub const LEN_MAX: usize = 100;

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Names at the top of a repository that are no source.
const RESERVED: [&str; 3] = ["trust", "history", "repository.json"];

impl FromStr for SourceName {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        let good = !text.is_empty()
            && text.len() <= Self::LEN_MAX
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        if !good {
            return Err(Error::new(
                ErrorKind::Config,
                format!("source name {text:?}"),
                "not usable in an object key",
            )
            .with_hint("use 1 to 100 of A-Z a-z 0-9 . _ - and begin with a letter or a digit"));
        }
        if RESERVED.contains(&text) {
            return Err(Error::new(
                ErrorKind::Config,
                format!("source name {text:?}"),
                "a repository keeps this name for itself",
            )
            .with_hint("choose another name"));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for SourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for SourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl TryFrom<String> for SourceName {
    type Error = Error;
    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<SourceName> for String {
    fn from(name: SourceName) -> Self {
        name.0
    }
}

/// The place of one object below a destination's prefix: segments joined by `/`, no empty, `.` or
/// `..` segment, printable ASCII, at most 900 bytes (S3 allows 1,024 with the prefix).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey(String);

impl ObjectKey {
    /// The longest key, in bytes.
    pub const LEN_MAX: usize = 900;

    /// The key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last segment.
    #[must_use]
    pub fn file_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }
}

impl FromStr for ObjectKey {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        let bytes_good = text.len() <= Self::LEN_MAX
            && text.bytes().all(|b| b.is_ascii_graphic() && !b"\\?#%*:|\"<>".contains(&b));
        let segments_good = text.split('/').all(|s| !s.is_empty() && s != "." && s != "..");
        if bytes_good && segments_good {
            Ok(Self(text.to_owned()))
        } else {
            Err(Error::new(ErrorKind::Config, format!("object key {text:?}"), "not a safe object key")
                .with_hint(
                    "use segments of printable ASCII joined by single slashes, with no . or .. segment",
                ))
        }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_one_spelling() {
        let id = BackupId::random();
        assert_eq!(id.to_string().parse::<BackupId>().unwrap(), id);
        for bad in [
            id.to_string().to_uppercase(),
            id.to_string().replace('-', ""),
            format!("{{{id}}}"),
            String::new(),
        ] {
            assert!(bad.parse::<BackupId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn source_names_cannot_leave_their_folder_or_shadow_the_repository() {
        for good in ["orders", "Orders-2.eu_west", "0"] {
            assert!(good.parse::<SourceName>().is_ok(), "{good}");
        }
        let long = "x".repeat(101);
        for bad in
            ["", ".", "..", "a/b", "a b", "-a", "ü", "trust", "history", "repository.json", long.as_str()]
        {
            assert!(bad.parse::<SourceName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn object_keys_stay_below_their_prefix() {
        assert!("a/b/data.strongroom".parse::<ObjectKey>().is_ok());
        for bad in ["", "/a", "a/", "a//b", "a/../b", "./a", "a\\b", "a\nb", "a b"] {
            assert!(bad.parse::<ObjectKey>().is_err(), "{bad}");
        }
    }
}
