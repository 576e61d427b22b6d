//! What can be wrong with a bundle.

use backup_core::{Error, ErrorKind};
use thiserror::Error as ThisError;

/// Why bytes are no whole bundle, or why one cannot be written like this.
#[derive(Debug, Clone, PartialEq, Eq, ThisError)]
#[non_exhaustive]
pub enum BundleError {
    /// The first bytes are not those of a bundle.
    #[error("it does not begin as a bundle does")]
    Magic,
    /// The version is not known.
    #[error("its version {0} is not known")]
    Version(u8),
    /// A record of an unknown kind.
    #[error("a record has the unknown kind {0}")]
    Kind(u8),
    /// A record whose length its kind does not allow.
    #[error("a record of kind {kind} is {len} bytes long")]
    RecordLength {
        /// The kind's byte.
        kind: u8,
        /// The length it claims.
        len: usize,
    },
    /// A head that is no JSON of a head.
    #[error("the head of member {0} is not understood")]
    Head(u32),
    /// A head longer than allowed.
    #[error("the head of member {name:?} is too long")]
    HeadLength {
        /// The member's name, cut.
        name: String,
    },
    /// A record of a member that is not open.
    #[error("a record belongs to member {0}, which is not open")]
    NotOpen(u32),
    /// A member whose number does not follow.
    #[error("member {found} begins where {expected} should")]
    Number {
        /// The number that should come.
        expected: u32,
        /// The number that came.
        found: u32,
    },
    /// Two whole members with one name.
    #[error("two members are called {0:?}")]
    Twice(String),
    /// A name longer than allowed.
    #[error("a member has a name longer than allowed: {name:?}...")]
    NameLength {
        /// The member's name, cut.
        name: String,
    },
    /// More members, or more names, than allowed.
    #[error("it has more members than allowed")]
    TooMany,
    /// More members at a time than allowed.
    #[error("more members are open at a time than allowed")]
    TooManyOpen,
    /// A member with another length than its end says.
    #[error("member {name:?} has {found} bytes, and its end says {stated}")]
    MemberLength {
        /// The member's name.
        name: String,
        /// Its length.
        found: u64,
        /// The length its end states.
        stated: u64,
    },
    /// Another number of members than the end says.
    #[error("{found} members are whole, and the end says {stated}")]
    MemberCount {
        /// How many there are.
        found: u64,
        /// How many the end states.
        stated: u64,
    },
    /// The end came while members were open.
    #[error("it ends while member {0:?} is open")]
    EndsOpen(String),
    /// The bytes end before the end record.
    #[error("it is cut off")]
    Truncated,
    /// Bytes after the end record.
    #[error("there are bytes after its end")]
    Trailing,
    /// Records of several members alternate where they must follow one another.
    #[error("its members alternate, and here they must follow one another")]
    Interleaved,
}

impl BundleError {
    /// The port's error for the format of this name.
    pub(crate) fn about(self, format: &str) -> Error {
        let kind = match self {
            Self::Version(_) | Self::Interleaved => ErrorKind::Unsupported,
            _ => ErrorKind::Integrity,
        };
        Error::new(kind, format.to_owned(), format!("not a whole bundle: {self}"))
            .with_hint("use another backup")
            .with_source(self)
    }
}
