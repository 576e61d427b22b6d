//! Passphrases, in the one form in which they are used.

use std::fmt;

use unicode_normalization::UnicodeNormalization;
use zeroize::Zeroizing;

use super::error::KeyError;

/// A passphrase: UTF-8 in normalization form C, without the newline that ended its file; not empty.
///
/// Normalizing (Unicode Standard Annex 15) makes one passphrase of the several byte sequences that
/// keyboards and systems give for the same characters. The bytes are wiped when dropped and never
/// printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Passphrase(Zeroizing<String>);

impl Passphrase {
    /// The longest passphrase, in bytes as given.
    pub const LEN_MAX: usize = 4096;

    /// Takes a passphrase as typed or as read from a file: one final newline (`\n` or `\r\n`) is
    /// stripped, the rest is brought to normalization form C.
    ///
    /// # Errors
    /// [`KeyError::Passphrase`] when it is empty, too long or not UTF-8.
    pub fn new(given: &[u8]) -> Result<Self, KeyError> {
        if given.len() > Self::LEN_MAX {
            return Err(KeyError::Passphrase("longer than 4096 bytes"));
        }
        let text = std::str::from_utf8(given).map_err(|_| KeyError::Passphrase("not valid UTF-8"))?;
        let text = text.strip_suffix('\n').map_or(text, |line| line.strip_suffix('\r').unwrap_or(line));
        if text.is_empty() {
            return Err(KeyError::Passphrase("empty"));
        }
        // Normalization form C makes a text at most three times as long (UAX 15, section 12): with
        // that room no copy is left behind by a growing buffer.
        let mut normal = Zeroizing::new(String::with_capacity(3 * text.len()));
        normal.extend(text.nfc());
        Ok(Self(normal))
    }

    /// The bytes a key is derived from.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_final_newline_is_stripped() {
        for (given, bytes) in [
            ("abc", "abc"),
            ("abc\n", "abc"),
            ("abc\r\n", "abc"),
            ("abc\n\n", "abc\n"),
            (" a b ", " a b "),
            ("abc\r", "abc\r"),
        ] {
            assert_eq!(Passphrase::new(given.as_bytes()).unwrap().as_bytes(), bytes.as_bytes());
        }
    }

    #[test]
    fn both_spellings_of_a_letter_are_one_passphrase() {
        let composed = Passphrase::new("Zürich".as_bytes()).unwrap();
        let decomposed = Passphrase::new("Zu\u{308}rich".as_bytes()).unwrap();
        assert_eq!(composed, decomposed);
        assert_eq!(composed.as_bytes(), "Zürich".as_bytes());
    }

    #[test]
    fn nothing_and_no_text_are_refused() {
        assert_eq!(Passphrase::new(b""), Err(KeyError::Passphrase("empty")));
        assert_eq!(Passphrase::new(b"\n"), Err(KeyError::Passphrase("empty")));
        assert_eq!(Passphrase::new(b"\r\n"), Err(KeyError::Passphrase("empty")));
        assert_eq!(Passphrase::new(b"\xff"), Err(KeyError::Passphrase("not valid UTF-8")));
        assert!(Passphrase::new(&[b'a'; Passphrase::LEN_MAX]).is_ok());
        assert_eq!(
            Passphrase::new(&[b'a'; Passphrase::LEN_MAX + 1]),
            Err(KeyError::Passphrase("longer than 4096 bytes"))
        );
    }

    #[test]
    fn debug_hides_it() {
        assert_eq!(format!("{:?}", Passphrase::new(b"hunter2").unwrap()), "Passphrase(..)");
    }
}
