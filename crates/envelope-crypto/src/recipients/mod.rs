//! Recipients wrap a file's key; identities unwrap it. The one joint where kinds of keys are added.

mod none;
mod passphrase;
mod rsa;
mod secret_key;
mod symmetric;

use std::fmt;

use backup_core::{BackupId, RecipientRef};

use crate::error::{OpenError, SealError};
pub use crate::file_key::FileKey;
use crate::format::{Head, Stanza};

pub use none::NoneRecipient;
pub use passphrase::{PassphraseIdentity, PassphraseRecipient};
pub use rsa::{RsaIdentity, RsaRecipient, rsa_key_id};
pub use secret_key::{SecretKeyIdentity, SecretKeyRecipient};

/// What a wrapping is bound to.
#[derive(Debug, Clone, Copy)]
pub struct Binding<'a> {
    /// The file's id.
    pub id: BackupId,
    /// The header's salt.
    pub salt: &'a [u8; 32],
}

/// How far sealing for a recipient keeps the sealing machine from reading what it sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecipientClass {
    /// Only the holder of a private key can open.
    Public,
    /// Whoever can seal can open; must be allowed by name.
    Symmetric,
    /// Anybody can open.
    Unencrypted,
}

/// Somebody who will be able to open a file. `Debug` shows no secret.
pub trait Recipient: fmt::Debug + Send + Sync {
    /// As the manifest names it.
    fn describe(&self) -> RecipientRef;

    /// Who can open what is sealed for it.
    fn class(&self) -> RecipientClass;

    /// Wraps the file key. May take a second of CPU.
    ///
    /// # Errors
    /// When the system gives no random bytes or no memory.
    fn wrap(&self, file_key: &FileKey, binding: Binding<'_>) -> Result<Stanza, SealError>;
}

/// Somebody who can open files. `Debug` shows no secret.
pub trait Identity: fmt::Debug + Send + Sync {
    /// Whether a stanza is, by its public members, one for this identity.
    fn fits(&self, stanza: &Stanza) -> bool;

    /// Unwraps the file key. May take a second of CPU.
    ///
    /// # Errors
    /// [`OpenError::NotAuthentic`], with no detail on purpose.
    fn unwrap(&self, stanza: &Stanza, binding: Binding<'_>) -> Result<FileKey, OpenError>;
}

/// The file key of a head, found by trying every identity on every stanza that fits it, and proven
/// by the header MAC.
pub(crate) fn unwrap_head(
    head: &Head,
    identities: &[impl AsRef<dyn Identity>],
) -> Result<FileKey, OpenError> {
    let header = head.header();
    let (covered, mac) = head.authenticated().ok_or(OpenError::Truncated)?;
    let binding = Binding { id: header.id, salt: &header.salt };
    let proven = |file_key: FileKey| -> Result<FileKey, OpenError> {
        file_key.header_key(binding.salt).verify(covered, mac)?;
        Ok(file_key)
    };
    let mut result = Err(OpenError::NoRecipient);
    for stanza in &header.stanzas {
        if let Stanza::None { file_key } = stanza {
            return proven(FileKey::from_bytes(zeroize::Zeroizing::new(*file_key)));
        }
        for identity in identities.iter().map(AsRef::as_ref).filter(|identity| identity.fits(stanza)) {
            result = identity.unwrap(stanza, binding).and_then(proven);
            if matches!(result, Ok(_) | Err(OpenError::OutOfMemory)) {
                return result;
            }
        }
    }
    result
}
