//! The ports to the cipher.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::digest::Sha256Digest;
use crate::dump::DumpReport;
use crate::error::{Error, ErrorKind, Result};
use crate::id::BackupId;
use crate::manifest::RecipientRef;
use crate::settled::Settled;
use crate::stream::{ByteStream, Plain, Sealed};

/// Seals streams with public material only.
#[async_trait]
pub trait Encryptor: fmt::Debug + Send + Sync {
    /// Who will be able to open what this seals.
    fn recipients(&self) -> Vec<RecipientRef>;

    /// Starts sealing `plain` as backup `id`. The sealed stream ends cleanly, trailer and all, only
    /// after `plain` ended cleanly; `report` is read at that moment and kept inside the trailer. A
    /// source that ends without a settled report is an error.
    ///
    /// Dropping the returned stream stops the work and drops `plain`.
    async fn seal(
        &self,
        id: &BackupId,
        plain: ByteStream<Plain>,
        report: Settled<DumpReport>,
    ) -> Result<Sealing>;
}

/// Sealing under way.
#[derive(Debug)]
pub struct Sealing {
    /// The sealed bytes.
    pub bytes: ByteStream<Sealed>,
    /// What the manifest needs to know, settled before `bytes` ends.
    pub summary: Settled<SealSummary>,
}

/// What a finished envelope says of itself to the manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealSummary {
    /// SHA-256 over everything before the first block.
    pub head_sha256: Sha256Digest,
    /// The root of the hash tree over the frames (RFC 6962, section 2.1).
    pub tree_root: Sha256Digest,
    /// The content of `data.tree`: the leaves of that tree and where they lie, for checking any range
    /// without a key.
    pub tree: Bytes,
    /// Bytes of plaintext.
    pub source_len: u64,
}

/// Opens sealed streams; holds the private key.
#[async_trait]
pub trait Decryptor: fmt::Debug + Send + Sync {
    /// Starts opening an envelope. What `expected` pins is checked before a private key is used; the
    /// plain stream ends cleanly only after the trailer and the end of the file were verified.
    ///
    /// # Errors
    /// `Denied` when no identity fits, `Integrity` when the bytes are not what was sealed or not
    /// what is expected.
    async fn open(&self, opening: Opening) -> Result<Opened>;
}

/// A sealed stream with what is known of it beforehand.
#[derive(Debug)]
pub struct Opening {
    /// The whole envelope, from its first byte.
    pub sealed: ByteStream<Sealed>,
    /// What a trusted manifest says; nothing for a bare file.
    pub expected: Expected,
}

/// What is known of an envelope before it is opened. Each `Some` is a check.
#[derive(Debug, Clone, Default)]
pub struct Expected {
    /// The id in the header.
    pub id: Option<BackupId>,
    /// The digest of the head, checked before any private key is used.
    pub head_sha256: Option<Sha256Digest>,
    /// The length of the whole object.
    pub object_len: Option<u64>,
    /// The root of the frame tree.
    pub tree_root: Option<Sha256Digest>,
    /// The content of `data.tree`. When present, it must have the root `tree_root`, and every frame
    /// is checked against the leaf over it before anything under that leaf is released.
    pub tree: Option<Arc<[u8]>>,
}

/// Opening under way.
#[derive(Debug)]
pub struct Opened {
    /// The plaintext.
    pub bytes: ByteStream<Plain>,
    /// The report from the sealed trailer, settled before `bytes` ends.
    pub report: Settled<DumpReport>,
}

/// Walks an envelope without a key: framing, lengths and the hash tree.
#[async_trait]
pub trait Auditor: fmt::Debug + Send + Sync {
    /// Reads the envelope to its end and holds every frame against the leaves in `expected.tree`,
    /// and these against `expected.tree_root`. The answer is the number of frames.
    ///
    /// # Errors
    /// `Integrity` when anything differs, when the envelope is cut, or when there is no
    /// `expected.tree_root` to hold it against.
    async fn audit(&self, opening: Opening) -> Result<u64>;

    /// Where each frame of an envelope lies and what it must hash to, from `expected.tree` once it was
    /// held against `expected.tree_root`, and `expected.object_len`.
    ///
    /// # Errors
    /// `Integrity` when the tree is not that of the root or does not explain the object's length;
    /// `Unsupported` when it does not tell the frames' lengths.
    async fn frames(&self, expected: Expected) -> Result<Arc<dyn Frames>> {
        let _ = expected;
        Err(Error::new(ErrorKind::Unsupported, "reading parts of an envelope", "this auditor cannot"))
    }
}

/// The parts of one envelope: head, frames, end. Each can be checked alone, without a key. Of very long
/// envelopes several frames stand under one leaf; those count as one here.
pub trait Frames: fmt::Debug + Send + Sync {
    /// How many frames.
    fn count(&self) -> u64;

    /// Where the head lies.
    fn head(&self) -> Range<u64>;

    /// Where a frame lies; `None` beyond the last.
    fn place(&self, index: u64) -> Option<Range<u64>>;

    /// Where the end mark lies.
    fn end(&self) -> Range<u64>;

    /// Checks the bytes of the head against the signed digest.
    ///
    /// # Errors
    /// `Integrity`.
    fn check_head(&self, bytes: &[u8]) -> Result<()>;

    /// Checks the bytes of a frame against the signed tree.
    ///
    /// # Errors
    /// `Integrity`.
    fn check(&self, index: u64, bytes: &[u8]) -> Result<()>;

    /// Checks the bytes of the end mark.
    ///
    /// # Errors
    /// `Integrity`.
    fn check_end(&self, bytes: &[u8]) -> Result<()>;
}
