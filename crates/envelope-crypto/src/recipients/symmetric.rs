//! The wrapping that passphrases and secret keys share: a key-encryption key from HKDF-SHA256, then
//! AES-256-GCM with the header's salt as associated data.

use zeroize::Zeroizing;

use super::Binding;
use crate::aead::AeadKey;
use crate::error::{OpenError, SealError};
use crate::file_key::{FileKey, hkdf, random_bytes};
use crate::format::stanza::SymmetricWrapped;

fn wrapping_key(key: &[u8; 32], salt: &[u8; 32], kind: &str) -> AeadKey {
    let info = [b"strongroom/v1 wrap ", kind.as_bytes()].concat();
    AeadKey::new(&hkdf(key, salt, &info))
}

/// Wraps under `key`, which is derived from or given beside `salt`.
pub(super) fn wrap(
    kind: &str,
    key: &[u8; 32],
    salt: [u8; 32],
    file_key: &FileKey,
    binding: Binding<'_>,
) -> Result<SymmetricWrapped, SealError> {
    let nonce = random_bytes()?;
    let mut wrapped_key = [0; 48];
    let (text, tag_place) = wrapped_key.split_at_mut(32);
    text.copy_from_slice(file_key.as_bytes());
    let tag = wrapping_key(key, &salt, kind).seal(nonce, binding.salt, text)?;
    tag_place.copy_from_slice(&tag);
    Ok(SymmetricWrapped { salt, nonce, wrapped_key })
}

/// The reverse of [`wrap`].
pub(super) fn unwrap(
    kind: &str,
    key: &[u8; 32],
    wrapped: &SymmetricWrapped,
    binding: Binding<'_>,
) -> Result<FileKey, OpenError> {
    let (text, tag) = wrapped.wrapped_key.split_last_chunk::<16>().ok_or(OpenError::NotAuthentic)?;
    let mut file_key = Zeroizing::new([0; 32]);
    file_key.copy_from_slice(text);
    wrapping_key(key, &wrapped.salt, kind)
        .open(wrapped.nonce, binding.salt, file_key.as_mut_slice(), tag)
        .map_err(|_| OpenError::NotAuthentic)?;
    Ok(FileKey::from_bytes(file_key))
}
