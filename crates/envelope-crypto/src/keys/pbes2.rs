//! Encrypted PKCS#8 (RFC 5958) under a passphrase: PBES2 (RFC 8018) with PBKDF2 or scrypt (RFC 7914).

use pkcs8::der::Decode as _;
use pkcs8::der::asn1::{AnyRef, OctetStringRef};
use pkcs8::pkcs5::{self, EncryptionScheme, pbes2};
use pkcs8::{EncryptedPrivateKeyInfoRef, PrivateKeyInfoRef, SubjectPublicKeyInfo};
use zeroize::Zeroizing;

use super::error::KeyError;
use super::passphrase::Passphrase;

/// The iterations of PBKDF2-HMAC-SHA256 that written keys are protected with.
pub const PBKDF2_ITERATIONS: u32 = 1_000_000;
/// The most iterations that are run for a key file.
pub const PBKDF2_ITERATIONS_MAX: u32 = 10_000_000;
/// The most memory that scrypt is given for a key file: 128 * r * (N + p) bytes.
pub const SCRYPT_MEMORY_MAX: u64 = 256 * 1024 * 1024;
/// The most work that scrypt is given: four times over all of that memory.
const SCRYPT_WORK_MAX: u64 = 4 * SCRYPT_MEMORY_MAX;

/// Encrypts PKCS#8 bytes: PBKDF2-HMAC-SHA256, AES-256-CBC, a fresh 16-byte salt.
pub(crate) fn encrypt(
    pkcs8_der: &[u8],
    passphrase: &Passphrase,
    iterations: u32,
) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let (mut salt, mut iv) = ([0; 16], [0; 16]);
    getrandom::fill(&mut salt).and_then(|()| getrandom::fill(&mut iv)).map_err(|_| KeyError::Random)?;
    let parameters = pbes2::Parameters::generate_pbkdf2_sha256_aes256cbc(iterations, &salt, iv)
        .map_err(|_| KeyError::DerivationTooCostly("PBKDF2 iterations"))?;
    let info = PrivateKeyInfoRef::from_der(pkcs8_der).map_err(|_| KeyError::Malformed("not PKCS#8"))?;
    let encrypted = info
        .encrypt_with_params(parameters, passphrase.as_bytes())
        .map_err(|_| KeyError::Malformed("not PKCS#8"))?;
    Ok(encrypted.to_bytes())
}

/// Decrypts `EncryptedPrivateKeyInfo` to the bytes of a `PrivateKeyInfo`.
///
/// Costs are checked before anything is derived: at most [`PBKDF2_ITERATIONS_MAX`] iterations, or
/// scrypt within [`SCRYPT_MEMORY_MAX`].
pub(crate) fn decrypt(
    encrypted: &[u8],
    passphrase: Option<&Passphrase>,
) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let info =
        EncryptedPrivateKeyInfoRef::from_der(encrypted).map_err(|error| unreadable(encrypted, &error))?;
    check(&info.encryption_algorithm)?;
    let passphrase = passphrase.ok_or(KeyError::PassphraseNeeded)?;
    let decrypted = info.decrypt(passphrase.as_bytes()).map_err(|error| match error {
        pkcs8::Error::EncryptedPrivateKey(pkcs5::Error::UnsupportedAlgorithm { oid }) => {
            KeyError::UnsupportedAlgorithm(format!("the algorithm {oid}"))
        }
        pkcs8::Error::EncryptedPrivateKey(pkcs5::Error::AlgorithmParametersInvalid { .. }) => {
            KeyError::Malformed("the parameters of its encryption are invalid")
        }
        _ => KeyError::WrongPassphrase,
    })?;
    // A wrong passphrase passes the padding once in 256 times; it does not give PKCS#8 as well.
    if PrivateKeyInfoRef::from_der(decrypted.as_bytes()).is_err() {
        return Err(KeyError::WrongPassphrase);
    }
    Ok(decrypted.to_bytes())
}

/// Why an encrypted key cannot be taken apart: most often an algorithm that is not supported.
fn unreadable(encrypted: &[u8], error: &pkcs8::der::Error) -> KeyError {
    if let pkcs8::der::ErrorKind::OidUnknown { oid } = error.kind() {
        return KeyError::UnsupportedAlgorithm(format!("the algorithm {oid}"));
    }
    // The two structures have one shape: an algorithm, then a string.
    match SubjectPublicKeyInfo::<AnyRef<'_>, &OctetStringRef>::from_der(encrypted) {
        Ok(info) if info.algorithm.oid != pbes2::PBES2_OID => KeyError::UnsupportedAlgorithm(format!(
            "the encryption {}, which is not PBES2",
            info.algorithm.oid
        )),
        _ => KeyError::Malformed("not an encrypted PKCS#8 key"),
    }
}

fn check(scheme: &EncryptionScheme) -> Result<(), KeyError> {
    let EncryptionScheme::Pbes2(parameters) = scheme else {
        return Err(KeyError::UnsupportedAlgorithm("the old PBES1 encryption".into()));
    };
    match &parameters.kdf {
        pbes2::Kdf::Pbkdf2(kdf) => {
            if kdf.iteration_count == 0 {
                return Err(KeyError::Malformed("PBKDF2 without iterations"));
            }
            if kdf.iteration_count > PBKDF2_ITERATIONS_MAX {
                return Err(KeyError::DerivationTooCostly("more than 10,000,000 PBKDF2 iterations"));
            }
            Ok(())
        }
        pbes2::Kdf::Scrypt(kdf) => {
            let (n, r, p) = (kdf.cost_parameter, u64::from(kdf.block_size), u64::from(kdf.parallelization));
            if n < 2 || !n.is_power_of_two() || r == 0 || p == 0 {
                return Err(KeyError::Malformed("impossible scrypt parameters"));
            }
            let block = 128 * r;
            let memory = n.checked_add(p).and_then(|sum| sum.checked_mul(block));
            let work = n.checked_mul(p).and_then(|product| product.checked_mul(block));
            match (memory, work) {
                (Some(memory), Some(work))
                    if memory <= SCRYPT_MEMORY_MAX + 2 * block && work <= SCRYPT_WORK_MAX =>
                {
                    Ok(())
                }
                _ => Err(KeyError::DerivationTooCostly("scrypt beyond 256 MiB")),
            }
        }
        _ => Err(KeyError::UnsupportedAlgorithm("an unknown key derivation".into())),
    }
}
