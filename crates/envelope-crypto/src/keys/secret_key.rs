//! 256-bit keys that a person brings along.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::error::KeyError;

/// A 256-bit symmetric key. Wiped when dropped and never printed.
#[derive(Clone)]
pub struct SecretKey(Zeroizing<[u8; 32]>);

impl SecretKey {
    /// A fresh random key.
    ///
    /// # Errors
    /// [`KeyError::Random`] when the system gives no randomness.
    pub fn random() -> Result<Self, KeyError> {
        let mut key = Zeroizing::new([0; 32]);
        getrandom::fill(key.as_mut_slice()).map_err(|_| KeyError::Random)?;
        Ok(Self(key))
    }

    /// Reads what `openssl rand -base64 32` prints: 44 characters of base64 (RFC 4648, section 4)
    /// and at most one newline.
    ///
    /// # Errors
    /// [`KeyError::SecretKey`] for anything else.
    pub fn from_base64(text: &[u8]) -> Result<Self, KeyError> {
        let text = text.strip_suffix(b"\n").map_or(text, |line| line.strip_suffix(b"\r").unwrap_or(line));
        if text.len() != 44 {
            return Err(KeyError::SecretKey);
        }
        // The decoder may use room for a whole last quantum before it sees the padding.
        let mut decoded = Zeroizing::new([0; 33]);
        match STANDARD.decode_slice(text, decoded.as_mut_slice()) {
            Ok(32) => {}
            _ => return Err(KeyError::SecretKey),
        }
        let mut key = Zeroizing::new([0; 32]);
        key.copy_from_slice(&decoded[..32]);
        Ok(Self(key))
    }

    /// Writes the 44 characters that [`SecretKey::from_base64`] reads.
    #[must_use]
    pub fn to_base64(&self) -> Zeroizing<String> {
        Zeroizing::new(STANDARD.encode(self.0.as_slice()))
    }

    /// The key itself.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let key = SecretKey::random().unwrap();
        let text = key.to_base64();
        for ending in ["", "\n", "\r\n"] {
            let read = SecretKey::from_base64(format!("{}{ending}", text.as_str()).as_bytes()).unwrap();
            assert_eq!(read.as_bytes(), key.as_bytes());
        }
        assert_ne!(SecretKey::random().unwrap().as_bytes(), key.as_bytes());
    }

    #[test]
    fn anything_but_32_bytes_of_base64_is_refused() {
        let encoded = STANDARD.encode([7; 32]);
        let trailing_bits = encoded.replace("Bw=", "Bx=").replace("Bwc=", "Bwd=");
        assert_ne!(trailing_bits, encoded);
        for bad in [
            String::new(),
            STANDARD.encode([7; 31]),
            STANDARD.encode([7; 33]),
            encoded.trim_end_matches('=').to_owned(),
            format!("{encoded}\n\n"),
            format!(" {encoded}"),
            encoded.replace('B', "*"),
            trailing_bits,
        ] {
            assert!(matches!(SecretKey::from_base64(bad.as_bytes()), Err(KeyError::SecretKey)), "{bad:?}");
        }
    }

    #[test]
    fn debug_hides_it() {
        assert_eq!(format!("{:?}", SecretKey::random().unwrap()), "SecretKey(..)");
    }
}
