//! Signed statements: Ed25519 (RFC 8032) over DSSE (secure-systems-lab/dsse, version 1).

mod dsse;
mod key;

pub(crate) use dsse::brief;
pub use dsse::{STATEMENT_LEN_MAX, StatementError, StoredStatement, Verified, pae};
pub use key::{SigningKey, VerifyingKey};

#[cfg(test)]
mod tests;
