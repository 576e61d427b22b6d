//! The ports to a place: reading, writing and removing are three, so that nobody holds more than
//! they are trusted with.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;

use crate::digest::Sha256Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::id::ObjectKey;
use crate::stream::{ByteStream, Sealed};

/// Writes objects, each once. `Display` names the place without a secret.
#[async_trait]
pub trait Sink: fmt::Debug + fmt::Display + Send + Sync {
    /// What the place can hold. By default it names no bound and promises nothing.
    fn limits(&self) -> Limits {
        Limits { object_len_max: u64::MAX, put_if_absent: false }
    }

    /// Starts an object. Create-only: an object that exists is never replaced. Nothing is visible
    /// until [`Upload::commit`]. `size_hint` is the expected length in bytes, a guess that part
    /// sizes are planned from.
    ///
    /// # Errors
    /// `Conflict` when the key is already taken and the place can tell early.
    async fn begin(&self, key: &ObjectKey, size_hint: Option<u64>) -> Result<Box<dyn Upload>>;

    /// Holds an object without a date, or ends that, and looks that it is so.
    ///
    /// # Errors
    /// `Unsupported` where the place has no such thing, or says yes and does nothing; `Denied`.
    async fn hold(&self, key: &ObjectKey, on: bool) -> Result<()> {
        let _ = on;
        Err(Error::new(ErrorKind::Unsupported, key.as_str(), "this kind of place has no legal hold"))
    }

    /// Starts an object of `len` bytes, or goes on where an earlier process was cut off with the same
    /// bytes, as far as `journal` tells and the place still has them. All bytes are written again by the
    /// caller; what the place has and what is equal is not sent. Aborting such an upload keeps what was
    /// sent, for the next process.
    ///
    /// A place that cannot go on starts anew: that is what this does where nothing else is said.
    ///
    /// # Errors
    /// As [`Sink::begin`].
    async fn resume(&self, key: &ObjectKey, len: u64, journal: Arc<dyn Journal>) -> Result<Box<dyn Upload>> {
        let _ = journal;
        self.begin(key, Some(len)).await
    }
}

/// What one upload notes on this machine, so that a later process can go on with it. Lines without a
/// line break; the upload alone knows what they mean. They hold no secret and are believed in nothing
/// that the place and the bytes themselves do not confirm.
#[async_trait]
pub trait Journal: fmt::Debug + Send + Sync {
    /// Every line since the last [`Journal::clear`], oldest first. One that a crash cut short may be
    /// among them; whoever reads passes over what it does not understand.
    async fn read(&self) -> Result<Vec<String>>;

    /// Adds a line, so that it survives a crash.
    async fn add(&self, line: String) -> Result<()>;

    /// Forgets all lines.
    async fn clear(&self) -> Result<()>;
}

/// What a place can hold, in bytes and counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The largest object in bytes.
    pub object_len_max: u64,
    /// Whether the place refuses a second object of the same key by itself, also in a race.
    pub put_if_absent: bool,
}

/// One object on its way. Dropping it publishes nothing.
#[async_trait]
pub trait Upload: fmt::Debug + Send {
    /// Bytes from the object's beginning that need not be sent, because the place has them from an
    /// earlier process.
    fn kept(&self) -> u64 {
        0
    }

    /// Takes the next chunk; returning is the backpressure. Not cancel safe: a dropped future leaves
    /// the upload fit for nothing but being dropped.
    async fn write(&mut self, chunk: Bytes) -> Result<()>;

    /// Makes the object visible, whole, or not at all. The answer `Uncertain` means nobody knows.
    ///
    /// # Errors
    /// `Conflict` when the key is taken; `Integrity` when what arrived is not `whole`.
    async fn commit(self: Box<Self>, whole: Whole) -> Result<Receipt>;

    /// Frees what the upload holds. Hygiene, never needed for safety.
    async fn abort(self: Box<Self>) -> Result<()>;
}

/// Proof that a stream ended cleanly: its length and digest. Made only in
/// [`pipeline::store`](crate::pipeline::store).
///
/// ```compile_fail,E0451
/// let whole = backup_core::Whole { len: 0, sha256: backup_core::Sha256Digest([0; 32]) };
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Whole {
    len: u64,
    sha256: Sha256Digest,
}

impl Whole {
    /// Only the pipeline may say so, after it saw the clean end.
    pub(crate) fn after_clean_end(len: u64, sha256: Sha256Digest) -> Self {
        Self { len, sha256 }
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether the object has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Digest of all bytes.
    #[must_use]
    pub fn sha256(&self) -> Sha256Digest {
        self.sha256
    }
}

/// What the place answered to a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// Length in bytes.
    pub len: u64,
    /// Digest of the bytes that were sent.
    pub sha256: Sha256Digest,
    /// The place's own name for this very version of the object.
    pub tag: Option<EntityTag>,
}

/// A place's own name for one version of an object (an S3 ETag or version id, a file's identity).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EntityTag(pub String);

/// What a place knows of an object without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Its key.
    pub key: ObjectKey,
    /// Length in bytes.
    pub len: u64,
    /// The version.
    pub tag: Option<EntityTag>,
    /// When the place says it was written. Never used for ordering or age.
    pub modified: Option<Timestamp>,
}

/// What a place keeps an object by, against everybody who would remove it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Held {
    /// Until when, by the place's clock.
    pub until: Option<Timestamp>,
    /// The place's word for how strictly the date is kept, such as `COMPLIANCE` or `GOVERNANCE`.
    pub mode: Option<String>,
    /// Whether it is held without a date, until somebody ends that.
    pub legal_hold: bool,
}

impl Held {
    /// Whether it cannot be removed at this time.
    #[must_use]
    pub fn holds(&self, now: Timestamp) -> bool {
        self.legal_hold || self.until.is_some_and(|until| until > now)
    }

    /// Both together: the later date, and any hold.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let legal_hold = self.legal_hold || other.legal_hold;
        let later = if other.until > self.until { other } else { self };
        Self { legal_hold, ..later }
    }
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hold = if self.legal_hold { "under a legal hold" } else { "" };
        match &self.until {
            None if self.legal_hold => f.write_str(hold),
            None => f.write_str("not locked"),
            Some(until) => {
                write!(f, "locked until {until}")?;
                if let Some(mode) = &self.mode {
                    write!(f, " ({})", mode.to_lowercase())?;
                }
                if self.legal_hold { write!(f, " and {hold}") } else { Ok(()) }
            }
        }
    }
}

/// Reads objects. `Display` names the place without a secret.
#[async_trait]
pub trait Source: fmt::Debug + fmt::Display + Send + Sync {
    /// What is known of an object, or `None` when there is none.
    async fn stat(&self, key: &ObjectKey) -> Result<Option<ObjectInfo>>;

    /// The object's bytes, or those of `range`, all of one version: `pin` if it is given. The stream
    /// ends cleanly only after exactly as many bytes as the object or range has.
    ///
    /// # Errors
    /// `NotFound`; `Integrity` when the object is no longer the pinned version, or has not all the
    /// bytes of `range`.
    async fn fetch(
        &self,
        key: &ObjectKey,
        range: Option<Range<u64>>,
        pin: Option<&EntityTag>,
    ) -> Result<ByteStream<Sealed>>;

    /// Every committed object whose key begins with `prefix` (empty, or whole segments ending in
    /// `/`), in the order of keys, however many there are.
    async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>>;

    /// What the place keeps an object by; `None` where it has no locks, or cannot tell of them.
    ///
    /// # Errors
    /// `Denied` where the credentials may not ask.
    async fn held(&self, key: &ObjectKey) -> Result<Option<Held>> {
        let _ = key;
        Ok(None)
    }
}

/// Removes objects. A machine that only backs up holds none.
#[async_trait]
pub trait Remover: fmt::Debug + fmt::Display + Send + Sync {
    /// Removes an object; one that is not there is no error.
    async fn remove(&self, key: &ObjectKey) -> Result<()>;

    /// Removes an object with every version of it that the place still has, and looks that they are gone.
    /// Where the place cannot tell of versions this is [`Remover::remove`].
    ///
    /// # Errors
    /// `Conflict` when a version is held by a lock and stays.
    async fn erase(&self, key: &ObjectKey) -> Result<Erased> {
        self.remove(key).await?;
        Ok(Erased { versions: None })
    }

    /// What the place itself keeps of objects after they were erased, as far as it says so: a sentence for a
    /// person for each. Nothing where it keeps nothing, or has no such thing.
    async fn kept_after_erasing(&self) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    /// Removes what uploads left behind that were begun before `older_than` and never committed.
    async fn sweep_unfinished(&self, older_than: Timestamp) -> Result<Swept>;
}

/// What became of an object that was to be destroyed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Erased {
    /// How many versions were removed, marks of deletion among them; `None` where the place cannot tell
    /// of versions.
    pub versions: Option<u64>,
}

/// What a sweep removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// How many unfinished uploads.
    pub uploads: u64,
}
