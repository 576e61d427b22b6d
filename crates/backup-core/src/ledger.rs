//! The signer's own memory of what it signed last, kept on its machine and not in the store.

use std::fmt;

use async_trait::async_trait;

use crate::digest::Sha256Digest;
use crate::error::Result;
use crate::id::{BackupId, RepositoryId, SourceName};

/// The last manifest that a signer made for one source of one repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Its backup.
    pub id: BackupId,
    /// Its sequence number.
    pub seq: u64,
    /// SHA-256 of its pre-authentication encoding.
    pub pae_sha256: Sha256Digest,
}

/// Remembers heads durably, outside the store, so that a store cannot rewrite history.
///
/// The order is: [`Ledger::intend`] (durable), the manifest is stored, [`Ledger::settle`]. Whoever
/// finds an intended head after a crash looks whether its manifest exists. An entry is for one writer
/// at a time, which the implementation's owner ensures.
#[async_trait]
pub trait Ledger: fmt::Debug + Send + Sync {
    /// The last settled head.
    async fn head(&self, repository: &RepositoryId, source: &SourceName) -> Result<Option<Head>>;

    /// The head that was intended and neither settled nor dropped.
    async fn intended(&self, repository: &RepositoryId, source: &SourceName) -> Result<Option<Head>>;

    /// Records durably that `head` is about to be stored.
    async fn intend(&self, repository: &RepositoryId, source: &SourceName, head: Head) -> Result<()>;

    /// Records durably that the intended head is stored (`true`) or is not and never will be.
    async fn settle(&self, repository: &RepositoryId, source: &SourceName, stored: bool) -> Result<()>;
}
