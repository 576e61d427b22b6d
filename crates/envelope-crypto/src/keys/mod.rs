//! Keys: made, written, read and checked.
//!
//! RSA keys (RFC 8017) for sealing and opening, passphrases and 256-bit keys. Private keys are
//! PKCS#8 (RFC 5958) in PEM (RFC 7468), encrypted with a passphrase unless the caller asks for
//! plain files by name; files are created with mode 0600 and never overwritten. What OpenSSL writes
//! is read, and OpenSSL reads what is written here.

mod error;
mod file;
mod passphrase;
mod pbes2;
pub(crate) mod pem;
mod rsa;
mod secret_key;

pub use error::KeyError;
pub use file::{KeyFile, KeyFileWarning, read_key_file, write_key_pair, write_private_key, write_public_key};
pub use passphrase::Passphrase;
pub use pbes2::{PBKDF2_ITERATIONS, PBKDF2_ITERATIONS_MAX, SCRYPT_MEMORY_MAX};
pub use pem::KEY_FILE_MAX;
pub use rsa::{RSA_BITS_DEFAULT, RSA_BITS_MAX, RSA_BITS_MIN, RsaPrivateKey, RsaPublicKey};
pub use secret_key::SecretKey;

use pkcs8::der::Decode as _;
use zeroize::Zeroizing;

/// How a private key is protected in its file.
#[derive(Debug, Clone, Copy)]
pub enum Protection<'a> {
    /// Encrypted with a passphrase: PBES2, PBKDF2-HMAC-SHA256 at [`PBKDF2_ITERATIONS`], AES-256-CBC.
    Passphrase(&'a Passphrase),
    /// Not encrypted; whoever reads the file has the key.
    NoPassphrase,
}

/// Writes PKCS#8 bytes as PEM.
pub(crate) fn private_pem(
    pkcs8_der: &[u8],
    protection: Protection<'_>,
) -> Result<Zeroizing<String>, KeyError> {
    match protection {
        Protection::Passphrase(passphrase) => {
            let encrypted = pbes2::encrypt(pkcs8_der, passphrase, PBKDF2_ITERATIONS)?;
            Ok(pem::write("ENCRYPTED PRIVATE KEY", &encrypted))
        }
        Protection::NoPassphrase => Ok(pem::write("PRIVATE KEY", pkcs8_der)),
    }
}

/// What a PEM file of a private key holds after decryption.
pub(crate) enum PrivateDer {
    /// PKCS#8, any algorithm.
    Pkcs8(Zeroizing<Vec<u8>>),
    /// PKCS#1, RSA.
    Pkcs1(Zeroizing<Vec<u8>>),
}

/// Reads a private key's PEM, decrypting it if need be. A passphrase that is not needed is not used.
pub(crate) fn private_der(text: &[u8], passphrase: Option<&Passphrase>) -> Result<PrivateDer, KeyError> {
    let pem = pem::Pem::read(text)?;
    match pem.label.as_str() {
        "PRIVATE KEY" => {
            pkcs8::PrivateKeyInfoRef::from_der(&pem.der).map_err(|_| KeyError::Malformed("not PKCS#8"))?;
            Ok(PrivateDer::Pkcs8(pem.der))
        }
        "ENCRYPTED PRIVATE KEY" => pbes2::decrypt(&pem.der, passphrase).map(PrivateDer::Pkcs8),
        "RSA PRIVATE KEY" => Ok(PrivateDer::Pkcs1(pem.der)),
        _ => Err(KeyError::WrongType { found: pem.kind(), needed: "a private key" }),
    }
}

/// Whether reading this private key's PEM needs a passphrase.
///
/// # Errors
/// [`KeyError::NotPem`] or [`KeyError::WrongType`] when it holds no private key.
pub fn needs_passphrase(text: &[u8]) -> Result<bool, KeyError> {
    let pem = pem::Pem::read(text)?;
    match pem.label.as_str() {
        "ENCRYPTED PRIVATE KEY" => Ok(true),
        "PRIVATE KEY" | "RSA PRIVATE KEY" => Ok(false),
        _ => Err(KeyError::WrongType { found: pem.kind(), needed: "a private key" }),
    }
}

#[cfg(test)]
pub(crate) mod openssl;
#[cfg(test)]
mod tests;
