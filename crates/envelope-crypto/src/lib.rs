//! The Strongroom envelope, and the signed statements around it.
//!
//! An envelope is one file that is sealed for recipients in one pass and opened in one pass, in
//! bounded memory; `docs/format.md` specifies every byte. [`EnvelopeEncryptor`] and
//! [`EnvelopeDecryptor`] are the ports; [`Sealer`], [`Opener`] and [`range`] are the same without
//! input and output. [`recipients`] is the one joint where kinds of keys are added. Who made a file
//! and whether it is the right one is the matter of [`sign`] and [`trust`].

mod aead;
pub mod block;
mod error;
mod file_key;
pub mod format;
pub mod keys;
mod open;
mod pool;
pub mod range;
pub mod recipients;
mod seal;
pub mod sign;
mod stream;
pub mod tree;
pub mod trust;
mod workers;

pub use error::{HeaderProblem, KeyProblem, Mismatch, OpenError, SealError, StanzaProblem};
pub use format::stanza::PassphraseKdf;
pub use format::{BlockLen, Head, Header};
pub use open::Opener;
pub use recipients::{
    Identity, NoneRecipient, PassphraseIdentity, PassphraseRecipient, Recipient, RsaIdentity, RsaRecipient,
    SecretKeyIdentity, SecretKeyRecipient,
};
pub use seal::{Compression, SealOptions, Sealer};
pub use stream::{
    EnvelopeAuditor, EnvelopeDecryptor, EnvelopeEncryptor, OpenOptions, OpenedEnvelope, StoredEnvelope,
};
