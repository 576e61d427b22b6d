//! Whose statements are believed: a repository's identity, its keys and their roles, revocations.
//!
//! A reader pins a repository's id and its owner's public key ([`OwnerPin`]). The owner signs
//! `repository.json` and the files `trust/<n>.json`, numbered from 1 without a gap, each naming the
//! digest of the one before; the highest number counts. A file that is not the owner's, a gap, or a
//! number below one seen before stops the reader. Manifests count when a key signed them that the
//! owner allows to back up that source.

mod attested;
mod error;
mod repository;
mod revocation;
mod statement;
mod unsigned;

pub use error::TrustError;
pub use repository::{NewRepository, OwnerPin, RepositoryTrust, TrustState};
pub use statement::{
    KEYS_MAX, KeyGrant, LastGood, RepositoryStatement, Revocation, Role, SourceScope, TRUST_FILES_MAX,
    TrustStatement, repository_object, trust_number, trust_object,
};
pub use unsigned::UnsignedOrigin;

#[cfg(test)]
mod tests;
