//! A passphrase, for a person without a key file.

use std::fmt;

use argon2::{Algorithm, Argon2, Params, Version};
use backup_core::RecipientRef;
use sha2::Sha256;
use unicode_normalization::UnicodeNormalization as _;
use zeroize::Zeroizing;

use super::{Binding, FileKey, Identity, Recipient, RecipientClass, symmetric};
use crate::aead::Secret32;
use crate::error::{KeyProblem, OpenError, SealError};
use crate::file_key::random_bytes;
use crate::format::Stanza;
use crate::format::stanza::{self, PassphraseKdf};

/// A passphrase as it is fed to the derivation: NFC (Unicode Standard Annex 15), without one final
/// newline, never empty.
#[derive(Clone)]
struct Passphrase(Zeroizing<String>);

impl Passphrase {
    fn new(text: &str) -> Result<Self, KeyProblem> {
        let text = text.strip_suffix('\n').map_or(text, |line| line.strip_suffix('\r').unwrap_or(line));
        let mut normal = Zeroizing::new(String::with_capacity(text.len() * 3));
        text.nfc().for_each(|c| normal.push(c));
        if normal.is_empty() { Err(KeyProblem::EmptyPassphrase) } else { Ok(Self(normal)) }
    }

    /// The work was checked against the bounds; `None` when there is no memory for it.
    fn derive(&self, kdf: PassphraseKdf, salt: &[u8; 32]) -> Option<Secret32> {
        let mut key = Zeroizing::new([0; 32]);
        match kdf {
            PassphraseKdf::Argon2id { m_kib, t, p } => {
                let params = Params::new(m_kib, t, p, Some(32)).ok()?;
                Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
                    .hash_password_into(self.0.as_bytes(), salt, key.as_mut_slice())
                    .ok()?;
            }
            PassphraseKdf::Pbkdf2 { iterations } => {
                pbkdf2::pbkdf2_hmac::<Sha256>(self.0.as_bytes(), salt, iterations, key.as_mut_slice());
            }
        }
        Some(key)
    }
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
    /// [`KeyProblem::EmptyPassphrase`].
    pub fn new(passphrase: &str) -> Result<Self, KeyProblem> {
        Self::with_kdf(passphrase, PassphraseKdf::DEFAULT)
    }

    /// Seals with another derivation.
    ///
    /// # Errors
    /// [`KeyProblem::EmptyPassphrase`], [`KeyProblem::PassphraseWork`].
    pub fn with_kdf(passphrase: &str, kdf: PassphraseKdf) -> Result<Self, KeyProblem> {
        if !kdf.is_allowed() {
            return Err(KeyProblem::PassphraseWork);
        }
        Ok(Self { passphrase: Passphrase::new(passphrase)?, kdf })
    }
}

/// Opens with a passphrase.
#[derive(Clone)]
pub struct PassphraseIdentity(Passphrase);

impl PassphraseIdentity {
    /// Opens with this passphrase.
    ///
    /// # Errors
    /// [`KeyProblem::EmptyPassphrase`].
    pub fn new(passphrase: &str) -> Result<Self, KeyProblem> {
        Passphrase::new(passphrase).map(Self)
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
        let key = self.passphrase.derive(self.kdf, &salt).ok_or(SealError::OutOfMemory)?;
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
                let key = self.0.derive(*kdf, &wrapped.salt).ok_or(OpenError::OutOfMemory)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn text(passphrase: &str) -> Result<String, KeyProblem> {
        Passphrase::new(passphrase).map(|p| p.0.to_string())
    }

    #[test]
    fn a_passphrase_has_one_form() {
        assert_eq!(text("caf\u{65}\u{301}"), text("caf\u{e9}\n"));
        assert_eq!(text("a b ").unwrap(), "a b ", "spaces belong to it");
        assert_eq!(text("x\r\n"), text("x"));
        assert_eq!(text("x\n\n").unwrap(), "x\n", "one newline only");
        for empty in ["", "\n", "\r\n"] {
            assert_eq!(text(empty), Err(KeyProblem::EmptyPassphrase));
        }
    }

    #[test]
    fn nothing_secret_is_printed() {
        let recipient = PassphraseRecipient::new("hunter2").unwrap();
        let identity = PassphraseIdentity::new("hunter2").unwrap();
        assert!(!format!("{recipient:?} {identity:?}").contains("hunter2"));
    }
}
