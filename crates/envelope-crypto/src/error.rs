//! What can go wrong: exact, comparable, and without a secret in it.

use backup_core::strict_json::StrictJsonError;
use backup_core::{Error, ErrorKind, Stage};
use thiserror::Error;

/// Why an envelope was not opened. Unattended runs publish only [`OpenError::class`].
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The bytes do not begin as an envelope does.
    #[error("not a Strongroom envelope")]
    NotEnvelope,
    /// An envelope of another version of the format.
    #[error("an envelope of format version {0}, which this program does not read")]
    UnsupportedVersion(u16),
    /// The header breaks a rule of the format.
    #[error("the header is malformed: {0}")]
    HeaderMalformed(HeaderProblem),
    /// No identity fits any recipient in the header.
    #[error("sealed for other recipients than the keys at hand")]
    NoRecipient,
    /// A key was not unwrapped, or the header is not the one that was sealed. Deliberately one error.
    #[error("wrong key, or the header was altered")]
    NotAuthentic,
    /// A block is not the one that was sealed in this place.
    #[error("block {0} is not what was sealed")]
    Block(u64),
    /// The file ends before its end mark.
    #[error("the envelope is cut off before its end")]
    Truncated,
    /// The trailer or the footer is not what was sealed, or contradicts the blocks.
    #[error("the trailer is not what was sealed")]
    Trailer,
    /// Something stands after the end mark.
    #[error("there are bytes after the end of the envelope")]
    TrailingBytes,
    /// A whole envelope perhaps, but not the one that is expected.
    #[error("not the object that the manifest names: {0}")]
    NotTheExpectedObject(Mismatch),
    /// Deriving a key from a passphrase needs more memory than there is.
    #[error("not enough memory to derive the key from the passphrase")]
    OutOfMemory,
}

/// What differs from what a trusted manifest says.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Mismatch {
    /// The id in the header.
    #[error("its header has another id")]
    Id,
    /// The digest of everything before the first block.
    #[error("its head has another digest")]
    Head,
    /// The length of the object.
    #[error("its length differs")]
    Length,
    /// The hash tree's file is malformed, or its root is not the expected one.
    #[error("its hash tree is not the expected one")]
    Tree,
    /// A range cannot be checked without the hash tree's file.
    #[error("its hash tree is needed to read a range and was not given")]
    TreeMissing,
    /// A frame is not the one whose hash stands in the tree. Counts the trailer as the last frame.
    #[error("frame {0} is not the one in its hash tree")]
    Frame(u64),
    /// The root of the tree over the frames that were read.
    #[error("the root over its frames differs")]
    TreeRoot,
}

/// Which rule of the header was broken.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum HeaderProblem {
    /// Longer than 1 MiB.
    #[error("longer than the limit of 1 MiB")]
    TooLong,
    /// Not strict JSON of the expected shape.
    #[error("{0}")]
    Json(StrictJsonError),
    /// Another cipher suite.
    #[error("unknown suite")]
    Suite,
    /// Not a lower-case UUID.
    #[error("the id is not a lower-case UUID")]
    Id,
    /// Not a power of two from 64 KiB to 16 MiB.
    #[error("block_len is not a power of two from 65536 to 16777216")]
    BlockLen,
    /// Not 32 bytes in canonical base64.
    #[error("the salt is not 32 bytes in canonical base64")]
    Salt,
    /// No recipient, or more than 64.
    #[error("{0} recipients, allowed are 1 to 64")]
    RecipientCount(usize),
    /// More than two passphrases.
    #[error("{0} passphrases, allowed are 2")]
    PassphraseCount(usize),
    /// Two stanzas of one type and key id.
    #[error("recipient {0} stands twice")]
    DuplicateRecipient(usize),
    /// A stanza of type `none` beside another.
    #[error("a file that is not encrypted has other recipients")]
    NoneNotAlone,
    /// A member of a stanza breaks a rule.
    #[error("recipient {index}: {problem}")]
    Stanza {
        /// Counted from 0.
        index: usize,
        /// Which rule.
        problem: StanzaProblem,
    },
}

/// Which rule of a stanza was broken.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum StanzaProblem {
    /// Not an object with the members of its type and no other.
    #[error("its members are not those of its type")]
    Shape,
    /// No type, or not 1 to 64 of `a-z 0-9 -`.
    #[error("its type is not a name")]
    Type,
    /// Not 64 lower-case hex digits.
    #[error("key_id is not a lower-case SHA-256")]
    KeyId,
    /// Not canonical base64 of the length that the type has.
    #[error("wrapped_key has a wrong length or is not canonical base64")]
    WrappedKey,
    /// Not 32 bytes in canonical base64.
    #[error("salt is not 32 bytes in canonical base64")]
    Salt,
    /// Not 12 bytes in canonical base64.
    #[error("nonce is not 12 bytes in canonical base64")]
    Nonce,
    /// Work outside the bounds of the format.
    #[error("the work to derive its key is outside the bounds of the format")]
    Work,
}

impl OpenError {
    /// The class alone, fit to be published by an unattended run.
    #[must_use]
    pub fn class(&self) -> &'static str {
        match self {
            Self::NotEnvelope => "NotEnvelope",
            Self::UnsupportedVersion(_) => "UnsupportedVersion",
            Self::HeaderMalformed(_) => "HeaderMalformed",
            Self::NoRecipient => "NoRecipient",
            Self::NotAuthentic => "NotAuthentic",
            Self::Block(_) => "Block",
            Self::Truncated => "Truncated",
            Self::Trailer => "Trailer",
            Self::TrailingBytes => "TrailingBytes",
            Self::NotTheExpectedObject(_) => "NotTheExpectedObject",
            Self::OutOfMemory => "OutOfMemory",
        }
    }

    fn kind(&self) -> ErrorKind {
        match self {
            Self::NoRecipient => ErrorKind::Denied,
            Self::UnsupportedVersion(_) => ErrorKind::Unsupported,
            Self::OutOfMemory => ErrorKind::Unavailable,
            _ => ErrorKind::Integrity,
        }
    }

    fn hint(&self) -> &'static str {
        match self {
            Self::NotEnvelope => {
                "check that this is the file meant, whole and not compressed or wrapped again"
            }
            Self::UnsupportedVersion(_) => "use a version of Strongroom that reads this format",
            Self::NoRecipient => "give the private key, passphrase or secret key of one of its recipients",
            Self::NotAuthentic => {
                "check the key or passphrase; if it is right, the file was altered: use another copy"
            }
            Self::NotTheExpectedObject(_) => {
                "the object was replaced or moved; use another copy of this backup"
            }
            Self::OutOfMemory => "free memory, or open the file on a larger machine",
            _ => "the file is damaged or was altered: use another copy",
        }
    }
}

impl From<OpenError> for Error {
    fn from(error: OpenError) -> Self {
        let hint = error.hint();
        Error::new(error.kind(), "envelope", error.to_string())
            .with_hint(hint)
            .with_source(error)
            .at(Stage::Open)
    }
}

/// Why nothing was sealed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SealError {
    /// Nobody could open the file.
    #[error("no recipient was given")]
    NoRecipients,
    /// More than 64 recipients.
    #[error("{0} recipients, at most 64 are allowed")]
    TooManyRecipients(usize),
    /// More than two passphrases.
    #[error("{0} passphrases, at most 2 are allowed")]
    TooManyPassphrases(usize),
    /// The same recipient twice.
    #[error("recipient {0} was given twice")]
    DuplicateRecipient(String),
    /// A recipient that can also open, without leave.
    #[error("a {0} recipient lets this machine read its own backups, and allow_symmetric is not set")]
    SymmetricNotAllowed(String),
    /// `none` beside a real recipient.
    #[error("a file cannot be sealed for recipients and left unencrypted at once")]
    NoneNotAlone,
    /// A key that is not fit to seal with.
    #[error("{0}")]
    Key(KeyProblem),
    /// A compression level outside 1 to 22.
    #[error("zstd level {0} is outside 1 to 22")]
    Level(i32),
    /// A header of more than 1 MiB.
    #[error("the recipients do not fit into a header")]
    HeaderTooLong,
    /// More blocks than the format counts.
    #[error("the data is longer than {limit} blocks of {block_len} bytes")]
    TooLong {
        /// Blocks.
        limit: u64,
        /// Bytes in a block.
        block_len: u32,
    },
    /// The dump's report does not fit into a trailer.
    #[error("the dump's report is too long to be stored")]
    ReportTooLong,
    /// The system gives no random bytes.
    #[error("the system gave no random bytes")]
    NoRandomness,
    /// Deriving a key from a passphrase needs more memory than there is.
    #[error("not enough memory to derive the key from the passphrase")]
    OutOfMemory,
    /// A library broke its promise.
    #[error("{0}")]
    Internal(&'static str),
}

/// Why a key is not fit for use.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum KeyProblem {
    /// An RSA modulus outside 2048 to 8192 bits.
    #[error("an RSA key of {0} bits; 2048 to 8192 are allowed")]
    RsaBits(u32),
    /// An even or too small RSA exponent.
    #[error("the RSA public exponent is even or less than 3")]
    RsaExponent,
    /// The key has no DER encoding.
    #[error("the RSA key cannot be encoded")]
    RsaEncoding,
    /// Work outside the bounds of the format.
    #[error("the work to derive a key from a passphrase is outside the bounds of the format")]
    PassphraseWork,
}

impl From<KeyProblem> for SealError {
    fn from(problem: KeyProblem) -> Self {
        Self::Key(problem)
    }
}

impl From<KeyProblem> for Error {
    fn from(problem: KeyProblem) -> Self {
        Error::new(ErrorKind::Config, "key", problem.to_string())
            .with_hint("give another key or passphrase")
            .with_source(problem)
            .at(Stage::Settings)
    }
}

impl From<SealError> for Error {
    fn from(error: SealError) -> Self {
        let (kind, hint) = match &error {
            SealError::Internal(what) => return Error::bug(*what).with_source(error).at(Stage::Seal),
            SealError::SymmetricNotAllowed(_) => (
                ErrorKind::Config,
                "prefer a public key; or set allow_symmetric = true and accept that this machine can read its backups",
            ),
            SealError::TooLong { .. } => {
                (ErrorKind::Unsupported, "choose a larger block_len, at most 16777216")
            }
            SealError::ReportTooLong => (ErrorKind::Unsupported, "select fewer tables for one backup"),
            SealError::NoRandomness | SealError::OutOfMemory => {
                (ErrorKind::Unavailable, "look at the state of this machine and run again")
            }
            _ => (ErrorKind::Config, "change the recipients or the settings of sealing"),
        };
        Error::new(kind, "sealing", error.to_string()).with_hint(hint).with_source(error).at(Stage::Seal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_has_its_kind_and_something_to_try() {
        let table = [
            (OpenError::NotEnvelope, ErrorKind::Integrity),
            (OpenError::UnsupportedVersion(2), ErrorKind::Unsupported),
            (OpenError::HeaderMalformed(HeaderProblem::Suite), ErrorKind::Integrity),
            (OpenError::NoRecipient, ErrorKind::Denied),
            (OpenError::NotAuthentic, ErrorKind::Integrity),
            (OpenError::Block(3), ErrorKind::Integrity),
            (OpenError::Truncated, ErrorKind::Integrity),
            (OpenError::Trailer, ErrorKind::Integrity),
            (OpenError::TrailingBytes, ErrorKind::Integrity),
            (OpenError::NotTheExpectedObject(Mismatch::Head), ErrorKind::Integrity),
            (OpenError::OutOfMemory, ErrorKind::Unavailable),
        ];
        for (error, kind) in table {
            let crossed = Error::from(error.clone());
            assert_eq!((crossed.kind(), crossed.stage()), (kind, Some(Stage::Open)), "{error}");
            assert!(crossed.hint().is_some_and(|hint| !hint.is_empty()));
            assert!(format!("{error:?}").starts_with(error.class()));
        }
        let refused = Error::from(SealError::SymmetricNotAllowed("passphrase".into()));
        assert_eq!(refused.kind(), ErrorKind::Config);
        assert!(refused.to_string().contains("allow_symmetric"));
        assert_eq!(Error::from(SealError::Internal("x")).kind(), ErrorKind::Bug);
    }
}
