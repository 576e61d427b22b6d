//! RSA-OAEP with SHA-256 (RFC 8017): a public key on the server, the private key in a safe.

use std::fmt;

use backup_core::{RecipientRef, Sha256Digest};
use getrandom::SysRng;
use rsa::pkcs8::EncodePublicKey as _;
use rsa::rand_core::UnwrapErr;
use rsa::traits::PublicKeyParts as _;
use rsa::{BoxedUint, Oaep, RsaPrivateKey, RsaPublicKey};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::{Binding, FileKey, Identity, Recipient, RecipientClass};
use crate::error::{KeyProblem, OpenError, SealError};
use crate::format::{Stanza, stanza};

/// The id of a public key: SHA-256 of its SPKI DER (RFC 5280), encoded anew.
///
/// # Errors
/// [`KeyProblem::RsaEncoding`].
pub fn rsa_key_id(key: &RsaPublicKey) -> Result<Sha256Digest, KeyProblem> {
    let der = key.to_public_key_der().map_err(|_| KeyProblem::RsaEncoding)?;
    Ok(Sha256Digest::of(der.as_bytes()))
}

/// Refuses keys that are weak, or so large that using them is an attack.
fn check(key: &RsaPublicKey) -> Result<(), KeyProblem> {
    let bits = key.n().bits();
    if !(2048..=8192).contains(&bits) {
        return Err(KeyProblem::RsaBits(bits));
    }
    let odd = key.e_bytes().last().is_some_and(|byte| byte & 1 == 1);
    if !odd || *key.e() < BoxedUint::from(3_u64) {
        return Err(KeyProblem::RsaExponent);
    }
    Ok(())
}

/// Seals with an RSA public key.
#[derive(Clone)]
pub struct RsaRecipient {
    key: RsaPublicKey,
    id: Sha256Digest,
}

impl RsaRecipient {
    /// Seals for the holder of this key's private half.
    ///
    /// # Errors
    /// [`KeyProblem::RsaBits`], [`KeyProblem::RsaExponent`].
    pub fn from_public(key: RsaPublicKey) -> Result<Self, KeyProblem> {
        check(&key)?;
        Ok(Self { id: rsa_key_id(&key)?, key })
    }

    /// The id of the key.
    #[must_use]
    pub fn key_id(&self) -> Sha256Digest {
        self.id
    }
}

/// Opens with an RSA private key.
#[derive(Clone)]
pub struct RsaIdentity {
    key: RsaPrivateKey,
    id: Sha256Digest,
}

impl RsaIdentity {
    /// Opens with this key. Its consistency is checked where it is read.
    ///
    /// # Errors
    /// [`KeyProblem::RsaBits`], [`KeyProblem::RsaExponent`].
    pub fn from_private(key: RsaPrivateKey) -> Result<Self, KeyProblem> {
        check(key.as_public_key())?;
        Ok(Self { id: rsa_key_id(key.as_public_key())?, key })
    }

    /// The id of the key.
    #[must_use]
    pub fn key_id(&self) -> Sha256Digest {
        self.id
    }
}

impl Recipient for RsaRecipient {
    fn describe(&self) -> RecipientRef {
        RecipientRef { kind: stanza::RSA.to_owned(), key_id: Some(self.id) }
    }

    fn class(&self) -> RecipientClass {
        RecipientClass::Public
    }

    fn wrap(&self, file_key: &FileKey, _: Binding<'_>) -> Result<Stanza, SealError> {
        let wrapped_key = self
            .key
            .encrypt(&mut UnwrapErr(SysRng), Oaep::<Sha256>::new(), file_key.as_bytes())
            .map_err(|_| SealError::Internal("RSA-OAEP refused a key of allowed size"))?;
        Ok(Stanza::Rsa { key_id: self.id, wrapped_key })
    }
}

impl Identity for RsaIdentity {
    fn fits(&self, stanza: &Stanza) -> bool {
        matches!(stanza, Stanza::Rsa { key_id, .. } if *key_id == self.id)
    }

    fn unwrap(&self, stanza: &Stanza, _: Binding<'_>) -> Result<FileKey, OpenError> {
        let Stanza::Rsa { wrapped_key, .. } = stanza else { return Err(OpenError::NotAuthentic) };
        if wrapped_key.len() != self.key.size() {
            return Err(OpenError::NotAuthentic);
        }
        // Blinded against timing.
        let bytes = self
            .key
            .decrypt_blinded(&mut UnwrapErr(SysRng), Oaep::<Sha256>::new(), wrapped_key)
            .map(Zeroizing::new)
            .map_err(|_| OpenError::NotAuthentic)?;
        let file_key = bytes.as_slice().try_into().map_err(|_| OpenError::NotAuthentic)?;
        Ok(FileKey::from_bytes(Zeroizing::new(file_key)))
    }
}

impl fmt::Debug for RsaRecipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RsaRecipient").field(&self.id).finish()
    }
}

impl fmt::Debug for RsaIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RsaIdentity").field(&self.id).finish()
    }
}
