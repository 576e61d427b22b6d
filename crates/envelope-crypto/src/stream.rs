//! The ports to the cipher: streams sealed and opened by parallel workers in bounded memory.
//!
//! The async side gathers bytes and puts results in order; compressing, hashing and the cipher run
//! in threads of their own, which never wait for input or output.

mod audit;
#[cfg(test)]
mod bounds;
mod opening;
mod parts;
mod ranges;
mod sealing;
#[cfg(test)]
mod spans;

pub use audit::EnvelopeAuditor;
pub use opening::{EnvelopeDecryptor, OpenOptions, OpenedEnvelope};
pub use ranges::StoredEnvelope;
pub use sealing::EnvelopeEncryptor;
