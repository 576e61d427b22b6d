//! Ed25519 keys (RFC 8032; PKCS#8 and SubjectPublicKeyInfo after RFC 8410).

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use backup_core::{Error, Recognized, Result, Sha256Digest, SignedStatement, Signer, StatementKind};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use pkcs8::der::Decode as _;
use pkcs8::{ObjectIdentifier, PrivateKeyInfoRef, SubjectPublicKeyInfoRef};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::dsse;
use crate::keys::{KeyError, Passphrase, PrivateDer, Protection, pem, private_der, private_pem};

const ED25519_OID: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");
/// Everything of an Ed25519 SubjectPublicKeyInfo before the 32 bytes of the key (RFC 8410).
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
/// What the text form begins with.
const TEXT_PREFIX: &str = "ed25519:";

/// A public key that checks signatures.
///
/// Its text form, for pinning and for paper, is `ed25519:` and the 32 bytes of the key in base64url
/// without padding (RFC 4648, section 5): 51 characters, one spelling per key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VerifyingKey([u8; 32]);

impl VerifyingKey {
    /// Takes the 32 bytes of a key.
    ///
    /// # Errors
    /// [`KeyError::Malformed`] for the encodings that no honest key has: points of small order, under
    /// which one signature can fit many messages, and second spellings of a point.
    pub fn from_bytes(bytes: [u8; 32]) -> Result<Self, KeyError> {
        if is_weak(&bytes) {
            return Err(KeyError::Malformed("not a sound Ed25519 public key"));
        }
        Ok(Self(bytes))
    }

    /// Reads SubjectPublicKeyInfo PEM (`PUBLIC KEY`).
    ///
    /// # Errors
    /// [`KeyError::WrongType`] for a private key, [`KeyError::UnsupportedAlgorithm`] for another
    /// algorithm.
    pub fn from_pem(text: &[u8]) -> Result<Self, KeyError> {
        let pem = pem::Pem::read(text)?;
        if pem.label != "PUBLIC KEY" {
            return Err(KeyError::WrongType { found: pem.kind(), needed: "an Ed25519 public key" });
        }
        let info = SubjectPublicKeyInfoRef::from_der(&pem.der)
            .map_err(|_| KeyError::Malformed("not a SubjectPublicKeyInfo"))?;
        check_algorithm(&info.algorithm)?;
        let bytes = info.subject_public_key.as_bytes().and_then(|key| <[u8; 32]>::try_from(key).ok());
        Self::from_bytes(bytes.ok_or(KeyError::Malformed("not an Ed25519 public key"))?)
    }

    /// Writes SubjectPublicKeyInfo PEM.
    #[must_use]
    pub fn to_pem(&self) -> String {
        pem::write("PUBLIC KEY", &self.spki_der()).to_string()
    }

    fn spki_der(&self) -> Vec<u8> {
        [SPKI_PREFIX.as_slice(), self.0.as_slice()].concat()
    }

    /// The SHA-256 of the SubjectPublicKeyInfo's DER.
    #[must_use]
    pub fn key_id(&self) -> Sha256Digest {
        Sha256Digest::of(&self.spki_der())
    }

    /// The 32 bytes of the key.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Whether `signature` is this key's over exactly `message`.
    #[must_use]
    pub fn verifies(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        // The library refuses S not below the group order and compares the encoding of R, so one
        // message has no second signature without the private key. R of small order is refused here.
        let mut r = [0; 32];
        r.copy_from_slice(&signature[..32]);
        !is_weak(&r) && UnparsedPublicKey::new(&ED25519, &self.0).verify(message, signature).is_ok()
    }
}

/// The encodings of the points of order 1, 2, 4 and 8, and those with a coordinate not below the
/// prime; the sign bit is left out.
fn is_weak(point: &[u8; 32]) -> bool {
    const ORDER_8: [[u8; 32]; 2] = [
        [
            0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0,
            0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
        ],
        [
            0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f,
            0x2a, 0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
        ],
    ];
    let mut y = *point;
    y[31] &= 0x7f;
    let tiny = y[0] <= 1 && y[1..].iter().all(|byte| *byte == 0);
    // From p - 1, of order 2, to 2^255 - 1.
    let high = y[0] >= 0xec && y[1..31].iter().all(|byte| *byte == 0xff) && y[31] == 0x7f;
    tiny || high || ORDER_8.contains(&y)
}

impl fmt::Display for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{TEXT_PREFIX}{}", URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for VerifyingKey {
    type Err = KeyError;

    /// Reads the one text form.
    fn from_str(text: &str) -> Result<Self, KeyError> {
        let encoded = text.strip_prefix(TEXT_PREFIX).ok_or(KeyError::Fingerprint)?;
        if encoded.len() != 43 {
            return Err(KeyError::Fingerprint);
        }
        let bytes = URL_SAFE_NO_PAD.decode(encoded).map_err(|_| KeyError::Fingerprint)?;
        Self::from_bytes(bytes.try_into().map_err(|_| KeyError::Fingerprint)?)
    }
}

impl TryFrom<String> for VerifyingKey {
    type Error = KeyError;
    fn try_from(text: String) -> Result<Self, KeyError> {
        text.parse()
    }
}

impl From<VerifyingKey> for String {
    fn from(key: VerifyingKey) -> Self {
        key.to_string()
    }
}

/// A private key that signs. Never printed; its memory is the library's, which wipes it.
#[derive(Clone)]
pub struct SigningKey {
    pair: Ed25519KeyPair,
    public: VerifyingKey,
}

impl SigningKey {
    /// Makes a key.
    ///
    /// # Errors
    /// [`KeyError::Random`] when the system gives no randomness.
    pub fn generate() -> Result<Self, KeyError> {
        Self::checked(Ed25519KeyPair::generate().map_err(|_| KeyError::Random)?)
    }

    /// Reads PKCS#8 PEM (`PRIVATE KEY` or `ENCRYPTED PRIVATE KEY`).
    ///
    /// Blocks for as long as the key derivation takes.
    ///
    /// # Errors
    /// [`KeyError::PassphraseNeeded`], [`KeyError::WrongPassphrase`], [`KeyError::WrongType`],
    /// [`KeyError::UnsupportedAlgorithm`] for another algorithm, [`KeyError::Inconsistent`] when a
    /// public key beside the private one is another's.
    pub fn from_pem(text: &[u8], passphrase: Option<&Passphrase>) -> Result<Self, KeyError> {
        let der = match private_der(text, passphrase)? {
            PrivateDer::Pkcs8(der) => der,
            PrivateDer::Pkcs1(_) => {
                return Err(KeyError::UnsupportedAlgorithm("an RSA key where Ed25519 is needed".into()));
            }
        };
        let info = PrivateKeyInfoRef::from_der(&der).map_err(|_| KeyError::Malformed("not PKCS#8"))?;
        check_algorithm(&info.algorithm)?;
        let pair = Ed25519KeyPair::from_pkcs8(&der).map_err(|_| {
            KeyError::Inconsistent("not an Ed25519 private key, or its public key is another's")
        })?;
        Self::checked(pair)
    }

    fn checked(pair: Ed25519KeyPair) -> Result<Self, KeyError> {
        let bytes = pair.public_key().as_ref().try_into();
        let public = VerifyingKey::from_bytes(bytes.map_err(|_| KeyError::Malformed("not an Ed25519 key"))?)?;
        Ok(Self { pair, public })
    }

    /// Writes PKCS#8 version 1 PEM, which OpenSSL reads. Encrypting blocks for about a second.
    ///
    /// # Errors
    /// [`KeyError::Random`] when the system gives no randomness.
    pub fn to_pem(&self, protection: Protection<'_>) -> Result<Zeroizing<String>, KeyError> {
        let der: Pkcs8V1Der<'_> =
            self.pair.as_der().map_err(|_| KeyError::Malformed("the private key cannot be encoded"))?;
        private_pem(der.as_ref(), protection)
    }

    /// The public key.
    #[must_use]
    pub fn verifying_key(&self) -> &VerifyingKey {
        &self.public
    }

    /// Signs `message`, exactly these bytes.
    pub(super) fn sign_bytes(&self, message: &[u8]) -> Result<[u8; 64]> {
        let signature = self.pair.try_sign(message).map_err(|_| Error::bug("Ed25519 signing failed"))?;
        signature.as_ref().try_into().map_err(|_| Error::bug("an Ed25519 signature is not 64 bytes long"))
    }
}

impl Signer for SigningKey {
    fn key_id(&self) -> Sha256Digest {
        self.public.key_id()
    }

    fn sign(&self, kind: StatementKind, body: &[u8]) -> Result<SignedStatement> {
        dsse::sign(self, kind, body)
    }

    fn recognize(&self, kind: StatementKind, stored: &[u8]) -> Option<Recognized> {
        let statement = dsse::StoredStatement::parse(kind, stored).ok()?;
        let verified = statement.verify([&self.public]).ok()?;
        Some(Recognized { body: verified.payload, pae_sha256: verified.pae_sha256 })
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("public", &self.public).finish_non_exhaustive()
    }
}

fn check_algorithm(algorithm: &pkcs8::AlgorithmIdentifierRef<'_>) -> Result<(), KeyError> {
    if algorithm.oid != ED25519_OID {
        let name = match algorithm.oid.to_string().as_str() {
            "1.2.840.113549.1.1.1" => "an RSA key where Ed25519 is needed".to_owned(),
            oid => format!("the algorithm {oid} where Ed25519 is needed"),
        };
        return Err(KeyError::UnsupportedAlgorithm(name));
    }
    // RFC 8410, section 3: the parameters are absent.
    if algorithm.parameters.is_some() {
        return Err(KeyError::Malformed("Ed25519 with parameters"));
    }
    Ok(())
}
