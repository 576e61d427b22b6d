//! Why bytes are not an archive.

/// Why bytes are not a whole archive.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// It does not begin like an archive.
    #[error("it does not begin like a mongodump archive")]
    NotAnArchive,
    /// A version that is not known here.
    #[error("archive version {0:?} is not known")]
    Version(String),
    /// A field is missing, of another type or impossible.
    #[error("its {0} is missing or impossible")]
    Field(&'static str),
    /// A bound was exceeded.
    #[error("its {0} is larger than any real one")]
    Limit(&'static str),
    /// Something that should be a document has an impossible length or end.
    #[error("it holds what is not a document, in {0}")]
    Document(String),
    /// A collection stands in the prelude twice, or ends twice.
    #[error("{0} comes twice")]
    Twice(String),
    /// A block belongs to no collection of the prelude.
    #[error("a block belongs to {0}, which the beginning does not name")]
    Unlisted(String),
    /// Documents follow the end of their collection.
    #[error("documents of {0} follow its end")]
    AfterEnd(String),
    /// The checksum is another.
    #[error("the checksum of {0} is not that of its documents")]
    Checksum(String),
    /// Its oplog stops between the entries of one transaction.
    #[error("its oplog ends in the midst of a transaction")]
    Transaction,
    /// Bytes follow the end.
    #[error("bytes follow its end")]
    Trailing,
    /// It ends early.
    #[error("it is truncated: {0}")]
    Truncated(String),
}
