//! How a stream of bytes fails to be an RDB dump.

/// What is wrong with a dump.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RdbError {
    /// It begins like something else.
    #[error("it does not begin like an RDB dump")]
    Magic,
    /// A version outside of what is known.
    #[error("its RDB version {0} is not known")]
    Version(u32),
    /// A value of a type that is not known: its end cannot be found.
    #[error("RDB type {kind} in a dump of version {version} is not known")]
    Type {
        /// The type's byte.
        kind: u8,
        /// The dump's version.
        version: u32,
    },
    /// A value of a module that cannot be passed over.
    #[error("it holds a value of a module in the old form, whose end only that module knows")]
    OldModule,
    /// A length or a number that cannot be.
    #[error("damaged at byte {at}: {what}")]
    Damaged {
        /// Where, in bytes from the start.
        at: u64,
        /// What cannot be.
        what: &'static str,
    },
    /// The checksum is another.
    #[error("its checksum is wrong")]
    Checksum,
    /// It ends too early.
    #[error("it ends after {0} bytes, before its end mark")]
    Truncated(u64),
    /// It goes on after its end.
    #[error("it goes on after its end mark")]
    Trailing,
    /// A value, or a part of one, that cannot be divided and is larger than what may be in memory.
    #[error("key {key} needs {len} bytes or more in one piece, and {limit} are allowed")]
    TooLarge {
        /// The key.
        key: String,
        /// At least so many bytes.
        len: u64,
        /// The limit.
        limit: u64,
    },
}

impl RdbError {
    /// With the name of the key, where it is about one.
    pub(super) fn of_key(self, name: &[u8]) -> Self {
        match self {
            Self::TooLarge { len, limit, .. } => Self::TooLarge { key: shown(name), len, limit },
            other => other,
        }
    }

    /// Whether the dump may be good, and this program too old for it.
    #[must_use]
    pub fn is_unsupported(&self) -> bool {
        matches!(self, Self::Version(_) | Self::Type { .. } | Self::OldModule | Self::TooLarge { .. })
    }
}

/// A key as a person may read it.
pub(in crate::redis) fn shown(key: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(&key[..key.len().min(300)]).chars().take(100).collect();
    format!("{text:?}")
}
