//! How a stream of bytes fails to be a tar archive of ours.

use backup_core::{Error, ErrorKind};

use super::FILES_TAR;

/// What is wrong with an archive.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TarError {
    /// A header whose sum or numbers are wrong.
    #[error("a header is damaged at byte {0}")]
    Header(u64),
    /// An extended header that does not follow its rules.
    #[error("an extended header is damaged at byte {0}")]
    Extended(u64),
    /// An entry of a kind that is never written here.
    #[error("an entry of the unknown kind {0:?}")]
    Kind(char),
    /// A name that leads elsewhere.
    #[error("the name {0:?} leads out of the folder")]
    Escapes(String),
    /// Bytes that have to be zero.
    #[error("bytes that have to be zero are not, at byte {0}")]
    Padding(u64),
    /// It ends too early.
    #[error("it ends after {0} bytes, before its end mark")]
    Truncated(u64),
    /// It goes on after its end.
    #[error("it goes on after its end mark")]
    Trailing,
}

impl TarError {
    /// The port's error.
    #[must_use]
    pub fn at_port(self) -> Error {
        Error::new(ErrorKind::Integrity, FILES_TAR, format!("not a whole archive: {self}"))
            .with_hint("use another backup")
            .with_source(self)
    }
}
