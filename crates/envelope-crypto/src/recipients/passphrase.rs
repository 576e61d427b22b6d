//! A passphrase, for a person without a key file.

use std::fmt;

use argon2::{Algorithm, Argon2, Params, Version};
use backup_core::RecipientRef;
use sha2::Sha256;
use zeroize::Zeroizing;

use super::{Binding, FileKey, Identity, Recipient, RecipientClass, symmetric};
use crate::aead::Secret32;
use crate::error::{KeyProblem, OpenError, SealError};
use crate::file_key::random_bytes;
use crate::format::Stanza;
use crate::format::stanza::{self, PassphraseKdf};
use crate::keys::{KeyError, Passphrase};

/// The key of a passphrase. The work was checked against the bounds; `None` when there is no memory
/// for it.
fn derive(passphrase: &Passphrase, kdf: PassphraseKdf, salt: &[u8; 32]) -> Option<Secret32> {
    let mut key = Zeroizing::new([0; 32]);
    match kdf {
        PassphraseKdf::Argon2id { m_kib, t, p } => {
            let params = Params::new(m_kib, t, p, Some(32)).ok()?;
            Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
                .hash_password_into(passphrase.as_bytes(), salt, key.as_mut_slice())
                .ok()?;
        }
        PassphraseKdf::Pbkdf2 { iterations } => {
            pbkdf2::pbkdf2_hmac::<Sha256>(passphrase.as_bytes(), salt, iterations, key.as_mut_slice());
        }
    }
    Some(key)
}

/// Seals with a passphrase.
#[derive(Clone)]
pub struct PassphraseRecipient {
    passphrase: Passphrase,
    kdf: PassphraseKdf,
}

impl PassphraseRecipient {
    /// Seals with Argon2id at [`PassphraseKdf::DEFAULT`].
    ///
    /// # Errors
    /// [`KeyError::Passphrase`] when it is empty or too long.
    pub fn new(passphrase: &str) -> Result<Self, KeyError> {
        let passphrase = Passphrase::new(passphrase.as_bytes())?;
        Ok(Self { passphrase, kdf: PassphraseKdf::DEFAULT })
    }

    /// Seals with another derivation.
    ///
    /// # Errors
    /// [`KeyProblem::PassphraseWork`].
    pub fn with_kdf(passphrase: Passphrase, kdf: PassphraseKdf) -> Result<Self, KeyProblem> {
        if kdf.is_allowed() { Ok(Self { passphrase, kdf }) } else { Err(KeyProblem::PassphraseWork) }
    }
}

/// Opens with a passphrase.
#[derive(Clone)]
pub struct PassphraseIdentity(Passphrase);

impl PassphraseIdentity {
    /// Opens with this passphrase.
    ///
    /// # Errors
    /// [`KeyError::Passphrase`] when it is empty or too long.
    pub fn new(passphrase: &str) -> Result<Self, KeyError> {
        Passphrase::new(passphrase.as_bytes()).map(Self)
    }
}

impl Recipient for PassphraseRecipient {
    fn describe(&self) -> RecipientRef {
        RecipientRef { kind: stanza::PASSPHRASE.to_owned(), key_id: None }
    }

    fn class(&self) -> RecipientClass {
        RecipientClass::Symmetric
    }

    fn wrap(&self, file_key: &FileKey, binding: Binding<'_>) -> Result<Stanza, SealError> {
        let salt = random_bytes()?;
        let key = derive(&self.passphrase, self.kdf, &salt).ok_or(SealError::OutOfMemory)?;
        let wrapped = symmetric::wrap(stanza::PASSPHRASE, &key, salt, file_key, binding)?;
        Ok(Stanza::Passphrase { kdf: self.kdf, wrapped })
    }
}

impl Identity for PassphraseIdentity {
    fn fits(&self, stanza: &Stanza) -> bool {
        matches!(stanza, Stanza::Passphrase { .. })
    }

    fn unwrap(&self, stanza: &Stanza, binding: Binding<'_>) -> Result<FileKey, OpenError> {
        match stanza {
            // Looked at again right before the work is done, whatever made the stanza.
            Stanza::Passphrase { kdf, wrapped } if kdf.is_allowed() => {
                let key = derive(&self.0, *kdf, &wrapped.salt).ok_or(OpenError::OutOfMemory)?;
                symmetric::unwrap(stanza::PASSPHRASE, &key, wrapped, binding)
            }
            _ => Err(OpenError::NotAuthentic),
        }
    }
}

impl fmt::Debug for PassphraseRecipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PassphraseRecipient").field("kdf", &self.kdf).finish_non_exhaustive()
    }
}

impl fmt::Debug for PassphraseIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PassphraseIdentity(..)")
    }
}
