//! The calls that no port has: what whoever stole our credentials would do.

use async_trait::async_trait;
use backup_core::{Error, ErrorKind, ObjectKey, Result};
use jiff::Timestamp;

/// One way to store an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Way {
    /// What it is called in sentences.
    pub(crate) name: &'static str,
    /// Whether uploads go this way, so that it must refuse a name that is taken.
    pub(crate) ours: bool,
}

/// What a server said of an object that it stored.
#[derive(Debug, Clone, Default)]
pub(crate) struct Written {
    /// The version, where the place keeps versions.
    pub(crate) version: Option<String>,
    /// The store's own time.
    pub(crate) date: Option<Timestamp>,
}

/// Whether a place keeps what is replaced or deleted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Versioning {
    /// Whether old versions are kept.
    pub(crate) on: bool,
    /// What locks every new version without being asked, in words.
    pub(crate) default_lock: Option<String>,
}

/// A kind of retention with an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lock {
    /// Nobody can end it early.
    Compliance,
    /// Those with a special right can.
    Governance,
}

impl Lock {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Compliance => "COMPLIANCE",
            Self::Governance => "GOVERNANCE",
        }
    }
}

/// A place without our own restraint. Errors have the kinds of the ports: `Conflict` for a name that is
/// taken, `Denied`, `Integrity` for bytes that are not those of the checksum, `Unsupported`.
#[async_trait]
pub(crate) trait Direct: Send + Sync {
    /// What holds the objects, in a word.
    fn container(&self) -> &'static str;

    /// Whether the container is there.
    async fn exists(&self) -> Result<bool>;

    /// Makes it.
    async fn create(&self) -> Result<()>;

    /// Whether large objects go in parts.
    fn has_parts(&self) -> bool;

    /// The ways to store an object, or to store one over another.
    fn ways(&self) -> &'static [Way];

    /// Stores `bytes`, of which `seed` is an object that holds the same bytes, for places that copy.
    async fn write(
        &self,
        way: Way,
        key: &ObjectKey,
        bytes: &[u8],
        seed: &ObjectKey,
        only_new: bool,
    ) -> Result<Written>;

    /// Begins an upload in parts, sends one, and aborts it: gone at the server is `true`.
    async fn abort(&self, key: &ObjectKey) -> Result<bool>;

    /// The checksums that can be sent.
    fn checksums(&self) -> &'static [&'static str];

    /// Stores `bytes` with a wrong checksum.
    async fn write_damaged(&self, checksum: &'static str, key: &ObjectKey, bytes: &[u8]) -> Result<()>;

    /// Whether old versions are kept and locked.
    async fn versioning(&self) -> Result<Versioning>;

    /// The bytes of one version.
    async fn read_version(&self, key: &ObjectKey, version: &str) -> Result<Vec<u8>>;

    /// Removes one version, with `force` also where a special right would be needed.
    async fn remove_version(&self, key: &ObjectKey, version: &str, force: bool) -> Result<()>;

    /// Every version and delete marker below `prefix`.
    async fn all_versions(&self, prefix: &str) -> Result<Vec<(ObjectKey, String)>>;

    /// Stores an object that must stay until `until`.
    async fn write_locked(
        &self,
        key: &ObjectKey,
        bytes: &[u8],
        lock: Lock,
        until: Timestamp,
    ) -> Result<Written>;

    /// What to set up for append-only credentials.
    fn advice(&self) -> String;
}

/// An error of a place that has no such thing.
pub(crate) fn none<T>(what: &str) -> Result<T> {
    Err(Error::new(ErrorKind::Unsupported, what, "there is no such thing here"))
}

/// Whether the refusal of a store over another object shows that it is not allowed, and not that
/// something else went wrong.
pub(crate) fn may_replace(error: &Error) -> Option<bool> {
    matches!(error.kind(), ErrorKind::Denied | ErrorKind::Conflict | ErrorKind::Unsupported).then_some(false)
}
