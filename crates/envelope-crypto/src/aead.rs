//! AES-256-GCM (NIST SP 800-38D) with 12-byte nonces and 16-byte tags: one small surface, two
//! implementations that must give the same bytes.
//!
//! aws-lc-rs is the default. The feature `rustcrypto-backend` chooses the pure-Rust one, which is
//! always compiled in tests as the independent second.

use zeroize::Zeroizing;

/// Bytes in a tag.
pub(crate) const TAG_LEN: usize = 16;
/// Bytes in a nonce.
pub(crate) const NONCE_LEN: usize = 12;

/// The ciphertext, the nonce, the associated data or the key is not the one that was sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TagMismatch;

#[cfg(not(feature = "rustcrypto-backend"))]
pub(crate) use aws_lc::AeadKey;
#[cfg(feature = "rustcrypto-backend")]
pub(crate) use rust_crypto::AeadKey;

/// A secret of 32 bytes that is wiped when it goes.
pub(crate) type Secret32 = Zeroizing<[u8; 32]>;

#[cfg_attr(feature = "rustcrypto-backend", allow(dead_code))]
mod aws_lc {
    use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

    use super::{NONCE_LEN, Secret32, TAG_LEN, TagMismatch};
    use crate::error::SealError;

    /// A key for sealing and opening with nonces that the caller keeps unique.
    pub(crate) struct AeadKey(LessSafeKey);

    impl AeadKey {
        pub(crate) fn new(key: &Secret32) -> Self {
            // Only a wrong key length could fail, and the type has the right one.
            #[allow(clippy::expect_used)]
            let key = UnboundKey::new(&AES_256_GCM, key.as_slice()).expect("32 bytes");
            Self(LessSafeKey::new(key))
        }

        /// Encrypts `in_out` in place; the tag is the answer.
        pub(crate) fn seal(
            &self,
            nonce: [u8; NONCE_LEN],
            aad: &[u8],
            in_out: &mut [u8],
        ) -> Result<[u8; TAG_LEN], SealError> {
            let tag = self
                .0
                .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(aad), in_out)
                .map_err(|_| SealError::Internal("AES-GCM refused a message"))?;
            tag.as_ref().try_into().map_err(|_| SealError::Internal("AES-GCM gave a tag of another length"))
        }

        /// Decrypts `in_out` in place; on a mismatch its content is worthless.
        pub(crate) fn open(
            &self,
            nonce: [u8; NONCE_LEN],
            aad: &[u8],
            in_out: &mut [u8],
            tag: &[u8; TAG_LEN],
        ) -> Result<(), TagMismatch> {
            self.0
                .open_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(aad), tag, in_out)
                .map(drop)
                .map_err(|_| TagMismatch)
        }
    }
}

#[cfg(any(test, feature = "rustcrypto-backend"))]
#[cfg_attr(not(feature = "rustcrypto-backend"), allow(dead_code))]
mod rust_crypto {
    use aes_gcm::{AeadInOut, Aes256Gcm, KeyInit};

    use super::{NONCE_LEN, Secret32, TAG_LEN, TagMismatch};
    use crate::error::SealError;

    /// A key for sealing and opening with nonces that the caller keeps unique.
    pub(crate) struct AeadKey(Aes256Gcm);

    impl AeadKey {
        pub(crate) fn new(key: &Secret32) -> Self {
            let key: &[u8; 32] = key;
            Self(Aes256Gcm::new(key.into()))
        }

        /// Encrypts `in_out` in place; the tag is the answer.
        pub(crate) fn seal(
            &self,
            nonce: [u8; NONCE_LEN],
            aad: &[u8],
            in_out: &mut [u8],
        ) -> Result<[u8; TAG_LEN], SealError> {
            self.0
                .encrypt_inout_detached(&nonce.into(), aad, in_out.into())
                .map(Into::into)
                .map_err(|_| SealError::Internal("AES-GCM refused a message"))
        }

        /// Decrypts `in_out` in place; on a mismatch its content is worthless.
        pub(crate) fn open(
            &self,
            nonce: [u8; NONCE_LEN],
            aad: &[u8],
            in_out: &mut [u8],
            tag: &[u8; TAG_LEN],
        ) -> Result<(), TagMismatch> {
            self.0
                .decrypt_inout_detached(&nonce.into(), aad, in_out.into(), tag.into())
                .map_err(|_| TagMismatch)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn both_implementations_give_the_same_bytes(
            key in any::<[u8; 32]>(),
            nonce in any::<[u8; NONCE_LEN]>(),
            aad in proptest::collection::vec(any::<u8>(), 0..40),
            plain in proptest::collection::vec(any::<u8>(), 0..5000),
            flip in any::<usize>(),
        ) {
            let key = Zeroizing::new(key);
            let (one, other) = (aws_lc::AeadKey::new(&key), rust_crypto::AeadKey::new(&key));
            let (mut a, mut b) = (plain.clone(), plain.clone());
            let tag = one.seal(nonce, &aad, &mut a).unwrap();
            prop_assert_eq!(tag, other.seal(nonce, &aad, &mut b).unwrap());
            prop_assert_eq!(&a, &b);

            // Each opens what the other sealed, and refuses any flipped bit of it.
            let mut altered = a.clone();
            let mut altered_tag = tag;
            let at = flip % ((a.len() + TAG_LEN) * 8);
            match altered.get_mut(at / 8) {
                Some(byte) => *byte ^= 1 << (at % 8),
                None => altered_tag[at / 8 - a.len()] ^= 1 << (at % 8),
            }
            prop_assert_eq!(one.open(nonce, &aad, &mut altered.clone(), &altered_tag), Err(TagMismatch));
            prop_assert_eq!(other.open(nonce, &aad, &mut altered, &altered_tag), Err(TagMismatch));
            prop_assert_eq!(one.open(nonce, &aad, &mut b, &tag), Ok(()));
            prop_assert_eq!(other.open(nonce, &aad, &mut a, &tag), Ok(()));
            prop_assert_eq!(&a, &plain);
            prop_assert_eq!(&b, &plain);
        }
    }

    /// Test case 16 of the GCM specification by McGrew and Viega.
    #[test]
    fn the_published_vector_holds() {
        fn hex(text: &str) -> Vec<u8> {
            (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
        }
        let key: [u8; 32] =
            hex("feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308").try_into().unwrap();
        let nonce: [u8; 12] = hex("cafebabefacedbaddecaf888").try_into().unwrap();
        let aad = hex("feedfacedeadbeeffeedfacedeadbeefabaddad2");
        let mut text = hex(concat!(
            "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72",
            "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39"
        ));
        let tag = AeadKey::new(&Zeroizing::new(key)).seal(nonce, &aad, &mut text).unwrap();
        assert_eq!(tag.as_slice(), hex("76fc6ece0f4e1768cddf8853bb2d551b"));
        assert_eq!(text[..8], hex("522dc1f099567d07")[..]);
    }
}
