//! Base64 with one spelling for each value: RFC 4648 section 4, with padding and zero trailing bits.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

pub(crate) fn encode(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// The bytes, when `text` is their one spelling.
pub(crate) fn decode(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}

/// Exactly `N` bytes.
pub(crate) fn decode_array<const N: usize>(text: &str) -> Option<[u8; N]> {
    decode(text)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_spelling_only() {
        assert_eq!(decode("AAECAw==").as_deref(), Some(&[0, 1, 2, 3][..]));
        for bad in
            ["AAECAw=", "AAECAw", "AAECAw===", "AAECAx==", "AAEC Aw==", "AAEC\nAw==", "AAEC-w==", "A==="]
        {
            assert_eq!(decode(bad), None, "{bad}");
        }
        assert_eq!(decode_array::<4>("AAECAw=="), Some([0, 1, 2, 3]));
        assert_eq!(decode_array::<3>("AAECAw=="), None);
    }
}
