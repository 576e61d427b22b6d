//! RSA keys (RFC 8017) of 2048 to 8192 bits.

use std::fmt;

use ::rsa::pkcs1::{self, EncodeRsaPrivateKey as _};
use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};
use aws_lc_rs::rsa::{KeyPair, KeySize};
use backup_core::Sha256Digest;
use pkcs8::der::Decode as _;
use pkcs8::der::asn1::UintRef;
use pkcs8::{EncodePrivateKey as _, EncodePublicKey as _, PrivateKeyInfoRef, SubjectPublicKeyInfoRef};
use rsa::traits::PublicKeyParts as _;
use zeroize::Zeroizing;

use super::error::KeyError;
use super::passphrase::Passphrase;
use super::pem::{self, Pem};
use super::{PrivateDer, Protection, private_der, private_pem};

/// The shortest modulus accepted.
pub const RSA_BITS_MIN: usize = 2048;
/// The longest modulus accepted.
pub const RSA_BITS_MAX: usize = 8192;
/// The modulus of new keys unless another is asked for.
pub const RSA_BITS_DEFAULT: usize = 4096;

/// A public key that passed every check; seals.
#[derive(Clone, PartialEq, Eq)]
pub struct RsaPublicKey {
    key: rsa::RsaPublicKey,
    der: Vec<u8>,
    key_id: Sha256Digest,
}

impl RsaPublicKey {
    /// Reads SubjectPublicKeyInfo (`PUBLIC KEY`) or PKCS#1 (`RSA PUBLIC KEY`) PEM.
    ///
    /// # Errors
    /// [`KeyError::WrongType`] for a private key, [`KeyError::ModulusSize`] before any arithmetic
    /// with a modulus of a wrong length.
    pub fn from_pem(text: &[u8]) -> Result<Self, KeyError> {
        let pem = Pem::read(text)?;
        match pem.label.as_str() {
            "PUBLIC KEY" => Self::from_spki_der(&pem.der),
            "RSA PUBLIC KEY" => Self::from_pkcs1_der(&pem.der),
            _ => Err(KeyError::WrongType { found: pem.kind(), needed: "a public key" }),
        }
    }

    /// Reads the DER of a SubjectPublicKeyInfo (RFC 5280) with the algorithm rsaEncryption.
    ///
    /// # Errors
    /// As [`RsaPublicKey::from_pem`].
    pub fn from_spki_der(der: &[u8]) -> Result<Self, KeyError> {
        let info = SubjectPublicKeyInfoRef::from_der(der)
            .map_err(|_| KeyError::Malformed("not a SubjectPublicKeyInfo"))?;
        check_algorithm(&info.algorithm)?;
        let key = info.subject_public_key.as_bytes().ok_or(KeyError::Malformed("not an RSA public key"))?;
        Self::from_pkcs1_der(key)
    }

    fn from_pkcs1_der(der: &[u8]) -> Result<Self, KeyError> {
        let parts = pkcs1::RsaPublicKeyRef::from_der(der)
            .map_err(|_| KeyError::Malformed("not an RSA public key"))?;
        check_public(&parts.modulus, &parts.public_exponent)?;
        let key =
            rsa::RsaPublicKey::try_from(parts).map_err(|_| KeyError::Malformed("not an RSA public key"))?;
        Self::checked(key)
    }

    fn checked(key: rsa::RsaPublicKey) -> Result<Self, KeyError> {
        // The id is that of the re-encoded key: two encodings of one key have one id.
        let der = key
            .to_public_key_der()
            .map_err(|_| KeyError::Malformed("the public key cannot be encoded"))?
            .into_vec();
        let key_id = Sha256Digest::of(&der);
        Ok(Self { key, der, key_id })
    }

    /// Writes SubjectPublicKeyInfo PEM.
    #[must_use]
    pub fn to_pem(&self) -> String {
        pem::write("PUBLIC KEY", &self.der).to_string()
    }

    /// The SHA-256 of the SubjectPublicKeyInfo's DER.
    #[must_use]
    pub fn key_id(&self) -> Sha256Digest {
        self.key_id
    }

    /// The length of the modulus.
    #[must_use]
    pub fn bits(&self) -> usize {
        // At most 8192.
        self.key.n().bits_vartime() as usize
    }

    /// The key, for the arithmetic.
    #[must_use]
    pub fn as_rsa(&self) -> &rsa::RsaPublicKey {
        &self.key
    }
}

impl fmt::Debug for RsaPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RsaPublicKey").field("bits", &self.bits()).field("key_id", &self.key_id).finish()
    }
}

/// A private key that passed every check; opens. Wiped when dropped and never printed.
#[derive(Clone)]
pub struct RsaPrivateKey {
    key: rsa::RsaPrivateKey,
    public: RsaPublicKey,
}

impl RsaPrivateKey {
    /// Makes a key of 2048, 3072, 4096 or 8192 bits with the public exponent 65537 (FIPS 186-5, by
    /// AWS-LC), and reads it back through the same checks as a file.
    ///
    /// Blocks for a fraction of a second at 4096 bits and for many seconds at 8192.
    ///
    /// # Errors
    /// [`KeyError::GenerateBits`] for another size.
    pub fn generate(bits: usize) -> Result<Self, KeyError> {
        let size = match bits {
            2048 => KeySize::Rsa2048,
            3072 => KeySize::Rsa3072,
            4096 => KeySize::Rsa4096,
            8192 => KeySize::Rsa8192,
            _ => return Err(KeyError::GenerateBits { bits }),
        };
        let pair = KeyPair::generate(size).map_err(|_| KeyError::Random)?;
        let der: Pkcs8V1Der<'_> = pair.as_der().map_err(|_| KeyError::Random)?;
        Self::from_pkcs8_der(der.as_ref())
    }

    /// Reads PKCS#8 (`PRIVATE KEY`, `ENCRYPTED PRIVATE KEY`) or PKCS#1 (`RSA PRIVATE KEY`) PEM, and
    /// checks that the parts of the key belong together.
    ///
    /// Blocks for as long as the key derivation takes.
    ///
    /// # Errors
    /// [`KeyError::PassphraseNeeded`] when the key is encrypted and `passphrase` is `None`;
    /// [`KeyError::WrongPassphrase`]; [`KeyError::ModulusSize`] before any arithmetic.
    pub fn from_pem(text: &[u8], passphrase: Option<&Passphrase>) -> Result<Self, KeyError> {
        match private_der(text, passphrase)? {
            PrivateDer::Pkcs8(der) => Self::from_pkcs8_der(&der),
            PrivateDer::Pkcs1(der) => Self::from_pkcs1_der(&der),
        }
    }

    fn from_pkcs8_der(der: &[u8]) -> Result<Self, KeyError> {
        let info = PrivateKeyInfoRef::from_der(der).map_err(|_| KeyError::Malformed("not PKCS#8"))?;
        check_algorithm(&info.algorithm)?;
        Self::from_pkcs1_der(info.private_key.as_bytes())
    }

    fn from_pkcs1_der(der: &[u8]) -> Result<Self, KeyError> {
        let malformed = KeyError::Malformed("not an RSA private key");
        let parts = pkcs1::RsaPrivateKeyRef::from_der(der).map_err(|_| malformed.clone())?;
        check_public(&parts.modulus, &parts.public_exponent)?;
        if parts.other_prime_infos.is_some() {
            return Err(KeyError::UnsupportedAlgorithm("RSA with more than two primes".into()));
        }
        let key = rsa::RsaPrivateKey::try_from(parts.clone())
            .map_err(|_| KeyError::Inconsistent("the primes, the modulus and the exponents do not fit"))?;
        // The library computes these three anew; in a sound file they are the same.
        let again = key.to_pkcs1_der().map_err(|_| malformed.clone())?;
        let again = pkcs1::RsaPrivateKeyRef::from_der(again.as_bytes()).map_err(|_| malformed)?;
        if parts.exponent1 != again.exponent1
            || parts.exponent2 != again.exponent2
            || parts.coefficient != again.coefficient
        {
            return Err(KeyError::Inconsistent("the exponents of the primes or the coefficient do not fit"));
        }
        let public = RsaPublicKey::checked(key.to_public_key())?;
        Ok(Self { key, public })
    }

    /// Writes PKCS#8 PEM. Encrypting blocks for about a second.
    ///
    /// # Errors
    /// [`KeyError::Random`] when the system gives no randomness.
    pub fn to_pem(&self, protection: Protection<'_>) -> Result<Zeroizing<String>, KeyError> {
        let der =
            self.key.to_pkcs8_der().map_err(|_| KeyError::Malformed("the private key cannot be encoded"))?;
        private_pem(der.as_bytes(), protection)
    }

    /// The public key.
    #[must_use]
    pub fn public_key(&self) -> &RsaPublicKey {
        &self.public
    }

    /// The id of the public key.
    #[must_use]
    pub fn key_id(&self) -> Sha256Digest {
        self.public.key_id
    }

    /// The key, for the arithmetic.
    #[must_use]
    pub fn as_rsa(&self) -> &rsa::RsaPrivateKey {
        &self.key
    }
}

impl fmt::Debug for RsaPrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RsaPrivateKey").field("public", &self.public).finish_non_exhaustive()
    }
}

fn check_algorithm(algorithm: &pkcs8::AlgorithmIdentifierRef<'_>) -> Result<(), KeyError> {
    if algorithm.oid == pkcs1::ALGORITHM_OID {
        // RFC 8017, appendix A.1: the parameters are NULL.
        return match algorithm.parameters_any() {
            Ok(parameters) if parameters.is_null() => Ok(()),
            _ => Err(KeyError::Malformed("rsaEncryption with parameters")),
        };
    }
    let name = match algorithm.oid.to_string().as_str() {
        "1.2.840.113549.1.1.10" => "an RSA-PSS key, which only signs".to_owned(),
        "1.3.101.112" => "an Ed25519 key, which only signs".to_owned(),
        "1.2.840.10045.2.1" => "an elliptic curve key".to_owned(),
        oid => format!("the algorithm {oid}"),
    };
    Err(KeyError::UnsupportedAlgorithm(name))
}

/// Sizes and parity, on the encoded bytes: nothing is computed with a key that fails here.
fn check_public(modulus: &UintRef<'_>, exponent: &UintRef<'_>) -> Result<(), KeyError> {
    let n = modulus.as_bytes();
    let bits = match n.iter().position(|byte| *byte != 0) {
        Some(zeros) => (n.len() - zeros) * 8 - n[zeros].leading_zeros() as usize,
        None => 0,
    };
    if !(RSA_BITS_MIN..=RSA_BITS_MAX).contains(&bits) {
        return Err(KeyError::ModulusSize { bits });
    }
    if n.last().is_none_or(|byte| byte % 2 == 0) {
        return Err(KeyError::Inconsistent("the modulus is even"));
    }
    let e = exponent.as_bytes();
    if e.last().is_none_or(|byte| byte % 2 == 0) || e == [1] {
        return Err(KeyError::Inconsistent("the public exponent is even or 1"));
    }
    // The library's own bound is 2^33 - 1; bigger ones exist only to waste time.
    if e.len() > 4 {
        return Err(KeyError::UnsupportedAlgorithm("a public exponent of more than 32 bits".into()));
    }
    Ok(())
}
