//! The parts that a bundle is made of, and their limits.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::BundleError;

/// The first bytes of a bundle; the last of them is the version.
pub const MAGIC: [u8; 8] = *b"SRBNDL\0\x01";
/// The most bytes of one data record.
pub const DATA_LEN_MAX: usize = 1 << 20;
/// The most bytes of a member's head.
pub const HEAD_LEN_MAX: usize = 64 << 10;
/// The most members that may be open at the same time.
pub const MEMBERS_OPEN_MAX: usize = 1024;
/// The most members of a bundle, abandoned ones among them.
pub const MEMBERS_MAX: u32 = 1 << 20;
/// The most bytes of a member's name: a path of any system is no longer.
pub const NAME_LEN_MAX: usize = 4096;
/// The most bytes of all names of a bundle together, which both sides hold to find a name twice.
pub const NAMES_LEN_MAX: usize = 64 << 20;
/// Kind, member and length.
pub(super) const RECORD_HEAD_LEN: usize = 9;

/// What a member is: the JSON of its first record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemberHead {
    /// Its name, one of its own among the whole members of a bundle.
    pub name: String,
    /// The shape of its bytes, as the format of a dump.
    pub format: String,
    /// What else its reader has to know; no secret.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub meta: BTreeMap<String, String>,
}

impl MemberHead {
    /// A head without more than a name and a format.
    pub fn new(name: impl Into<String>, format: impl Into<String>) -> Self {
        Self { name: name.into(), format: format.into(), meta: BTreeMap::new() }
    }

    /// The same with one more thing to know.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<String>) -> Self {
        self.meta.insert(key.to_owned(), value.into());
        self
    }
}

/// The number of a member in its bundle, counted from 1 in the order of the heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MemberId(pub(super) u32);

/// What a record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A member begins; the payload is its head.
    Open,
    /// Bytes of a member.
    Data,
    /// A member ends; the payload is its length, u64 little-endian.
    Close,
    /// A member is not to be used; no payload.
    Abandon,
    /// The bundle ends; the payload is the number of closed members, u64 little-endian.
    End,
}

impl Kind {
    pub(super) const fn byte(self) -> u8 {
        match self {
            Self::Open => 1,
            Self::Data => 2,
            Self::Close => 3,
            Self::Abandon => 4,
            Self::End => 5,
        }
    }

    /// The kind of this byte, if a payload of this length fits it.
    pub(super) fn of(byte: u8, len: usize) -> Result<Self, BundleError> {
        let (kind, fits) = match byte {
            1 => (Self::Open, (1..=HEAD_LEN_MAX).contains(&len)),
            2 => (Self::Data, (1..=DATA_LEN_MAX).contains(&len)),
            3 => (Self::Close, len == 8),
            4 => (Self::Abandon, len == 0),
            5 => (Self::End, len == 8),
            _ => return Err(BundleError::Kind(byte)),
        };
        if fits { Ok(kind) } else { Err(BundleError::RecordLength { kind: byte, len }) }
    }
}
