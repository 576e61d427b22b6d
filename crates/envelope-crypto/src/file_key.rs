//! The one secret of a file, and the two keys derived from it.

use std::fmt;

use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::aead::{AeadKey, Secret32};
use crate::error::{OpenError, SealError};

/// The 32 random bytes that a file is sealed with. Fresh for every file; never written anywhere but
/// wrapped for a recipient; wiped when dropped.
pub struct FileKey(Secret32);

impl FileKey {
    /// A fresh one from the system's generator.
    pub(crate) fn random() -> Result<Self, SealError> {
        random_bytes().map(|bytes| Self(Zeroizing::new(bytes)))
    }

    /// One that was unwrapped.
    #[must_use]
    pub fn from_bytes(bytes: Secret32) -> Self {
        Self(bytes)
    }

    /// The bytes, to be wrapped.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The key of the header's MAC.
    pub(crate) fn header_key(&self, salt: &[u8; 32]) -> HeaderKey {
        HeaderKey(hkdf(&*self.0, salt, b"strongroom/v1 header"))
    }

    /// The key of blocks and trailer.
    pub(crate) fn payload_key(&self, salt: &[u8; 32]) -> AeadKey {
        AeadKey::new(&hkdf(&*self.0, salt, b"strongroom/v1 payload"))
    }
}

impl fmt::Debug for FileKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FileKey(..)")
    }
}

/// Authenticates prefix and header, and commits the file to one key.
pub(crate) struct HeaderKey(Secret32);

impl HeaderKey {
    fn mac(&self, prefix_and_header: &[u8]) -> Hmac<Sha256> {
        // HMAC takes keys of any length.
        #[allow(clippy::expect_used)]
        let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(self.0.as_slice()).expect("any length");
        mac.update(prefix_and_header);
        mac
    }

    pub(crate) fn sign(&self, prefix_and_header: &[u8]) -> [u8; 32] {
        self.mac(prefix_and_header).finalize().into_bytes().into()
    }

    /// Compares in constant time.
    pub(crate) fn verify(&self, prefix_and_header: &[u8], mac: &[u8; 32]) -> Result<(), OpenError> {
        self.mac(prefix_and_header).verify_slice(mac).map_err(|_| OpenError::NotAuthentic)
    }
}

/// HKDF-SHA256 (RFC 5869), 32 bytes.
pub(crate) fn hkdf(ikm: &[u8], salt: &[u8; 32], info: &[u8]) -> Secret32 {
    let mut key = Zeroizing::new([0; 32]);
    // Only more than 8,160 bytes of output could fail.
    #[allow(clippy::expect_used)]
    Hkdf::<Sha256>::new(Some(salt), ikm).expand(info, key.as_mut_slice()).expect("32 bytes");
    key
}

/// Random bytes from the system.
pub(crate) fn random_bytes<const N: usize>() -> Result<[u8; N], SealError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|_| SealError::NoRandomness)?;
    Ok(bytes)
}
