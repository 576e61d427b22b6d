//! A 256-bit key that the user brings.

use std::fmt;

use backup_core::{RecipientRef, Sha256Digest};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::{Binding, FileKey, Identity, Recipient, RecipientClass, symmetric};
use crate::aead::Secret32;
use crate::error::{KeyProblem, OpenError, SealError};
use crate::file_key::random_bytes;
use crate::format::{Stanza, base64, stanza};

/// Both ends of a secret key: whoever seals with it can open.
#[derive(Clone)]
struct SecretKey {
    key: Secret32,
    id: Sha256Digest,
}

impl SecretKey {
    fn new(key: Secret32) -> Self {
        let mut hash = Sha256::new_with_prefix(b"strongroom/v1 secret-key");
        hash.update(key.as_slice());
        Self { id: Sha256Digest(hash.finalize().into()), key }
    }

    fn from_base64(text: &str) -> Result<Self, KeyProblem> {
        let text = text.strip_suffix('\n').unwrap_or(text);
        let text = text.strip_suffix('\r').unwrap_or(text);
        base64::decode(text)
            .map(Zeroizing::new)
            .and_then(|bytes| Some(Zeroizing::new(<[u8; 32]>::try_from(bytes.as_slice()).ok()?)))
            .map(Self::new)
            .ok_or(KeyProblem::SecretKey)
    }
}

/// Seals with a secret key.
#[derive(Clone)]
pub struct SecretKeyRecipient(SecretKey);

/// Opens with a secret key.
#[derive(Clone)]
pub struct SecretKeyIdentity(SecretKey);

impl SecretKeyRecipient {
    /// From 32 bytes.
    #[must_use]
    pub fn from_bytes(key: Zeroizing<[u8; 32]>) -> Self {
        Self(SecretKey::new(key))
    }

    /// From the output of `openssl rand -base64 32`.
    ///
    /// # Errors
    /// [`KeyProblem::SecretKey`].
    pub fn from_base64(text: &str) -> Result<Self, KeyProblem> {
        SecretKey::from_base64(text).map(Self)
    }
}

impl SecretKeyIdentity {
    /// From 32 bytes.
    #[must_use]
    pub fn from_bytes(key: Zeroizing<[u8; 32]>) -> Self {
        Self(SecretKey::new(key))
    }

    /// From the output of `openssl rand -base64 32`.
    ///
    /// # Errors
    /// [`KeyProblem::SecretKey`].
    pub fn from_base64(text: &str) -> Result<Self, KeyProblem> {
        SecretKey::from_base64(text).map(Self)
    }
}

impl Recipient for SecretKeyRecipient {
    fn describe(&self) -> RecipientRef {
        RecipientRef { kind: stanza::SECRET_KEY.to_owned(), key_id: Some(self.0.id) }
    }

    fn class(&self) -> RecipientClass {
        RecipientClass::Symmetric
    }

    fn wrap(&self, file_key: &FileKey, binding: Binding<'_>) -> Result<Stanza, SealError> {
        let wrapped = symmetric::wrap(stanza::SECRET_KEY, &self.0.key, random_bytes()?, file_key, binding)?;
        Ok(Stanza::SecretKey { key_id: self.0.id, wrapped })
    }
}

impl Identity for SecretKeyIdentity {
    fn fits(&self, stanza: &Stanza) -> bool {
        matches!(stanza, Stanza::SecretKey { key_id, .. } if *key_id == self.0.id)
    }

    fn unwrap(&self, stanza: &Stanza, binding: Binding<'_>) -> Result<FileKey, OpenError> {
        match stanza {
            Stanza::SecretKey { wrapped, .. } => {
                symmetric::unwrap(stanza::SECRET_KEY, &self.0.key, wrapped, binding)
            }
            _ => Err(OpenError::NotAuthentic),
        }
    }
}

impl fmt::Debug for SecretKeyRecipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SecretKeyRecipient").field(&self.0.id).finish()
    }
}

impl fmt::Debug for SecretKeyIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SecretKeyIdentity").field(&self.0.id).finish()
    }
}
