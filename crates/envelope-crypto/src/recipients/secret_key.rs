//! A 256-bit key that the user brings.

use std::fmt;

use backup_core::{RecipientRef, Sha256Digest};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::{Binding, FileKey, Identity, Recipient, RecipientClass, symmetric};
use crate::aead::Secret32;
use crate::error::{OpenError, SealError};
use crate::file_key::random_bytes;
use crate::format::{Stanza, stanza};

/// The id of a secret key: SHA-256 over a label and the key. It tells nothing of a random key.
fn key_id(key: &[u8; 32]) -> Sha256Digest {
    let mut hash = Sha256::new_with_prefix(b"strongroom/v1 secret-key");
    hash.update(key);
    Sha256Digest(hash.finalize().into())
}

/// Seals with a secret key.
#[derive(Clone)]
pub struct SecretKeyRecipient {
    key: Secret32,
    id: Sha256Digest,
}

/// Opens with a secret key.
#[derive(Clone)]
pub struct SecretKeyIdentity {
    key: Secret32,
    id: Sha256Digest,
}

impl SecretKeyRecipient {
    /// Seals with these 32 bytes; [`SecretKey`](crate::keys::SecretKey) reads them from text.
    #[must_use]
    pub fn from_bytes(key: Zeroizing<[u8; 32]>) -> Self {
        Self { id: key_id(&key), key }
    }
}

impl SecretKeyIdentity {
    /// Opens with these 32 bytes; [`SecretKey`](crate::keys::SecretKey) reads them from text.
    #[must_use]
    pub fn from_bytes(key: Zeroizing<[u8; 32]>) -> Self {
        Self { id: key_id(&key), key }
    }
}

impl Recipient for SecretKeyRecipient {
    fn describe(&self) -> RecipientRef {
        RecipientRef { kind: stanza::SECRET_KEY.to_owned(), key_id: Some(self.id) }
    }

    fn class(&self) -> RecipientClass {
        RecipientClass::Symmetric
    }

    fn wrap(&self, file_key: &FileKey, binding: Binding<'_>) -> Result<Stanza, SealError> {
        let wrapped = symmetric::wrap(stanza::SECRET_KEY, &self.key, random_bytes()?, file_key, binding)?;
        Ok(Stanza::SecretKey { key_id: self.id, wrapped })
    }
}

impl Identity for SecretKeyIdentity {
    fn fits(&self, stanza: &Stanza) -> bool {
        matches!(stanza, Stanza::SecretKey { key_id, .. } if *key_id == self.id)
    }

    fn unwrap(&self, stanza: &Stanza, binding: Binding<'_>) -> Result<FileKey, OpenError> {
        match stanza {
            Stanza::SecretKey { wrapped, .. } => {
                symmetric::unwrap(stanza::SECRET_KEY, &self.key, wrapped, binding)
            }
            _ => Err(OpenError::NotAuthentic),
        }
    }
}

impl fmt::Debug for SecretKeyRecipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SecretKeyRecipient").field(&self.id).finish()
    }
}

impl fmt::Debug for SecretKeyIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SecretKeyIdentity").field(&self.id).finish()
    }
}
