//! JSON that cannot be read two ways.
//!
//! RFC 8259 restricted further: printable ASCII, no `\u` escapes, no duplicate member at any
//! depth, integers 0 to 2^53-1 in plain decimal only, no white space outside strings, at most 32 deep.
//! Unknown members are refused by the types ([`serde`]'s `deny_unknown_fields`).

use std::collections::HashSet;

use serde::de::DeserializeOwned;
use thiserror::Error;

/// The deepest nesting.
pub const DEPTH_MAX: usize = 32;
/// The largest integer: 2^53 - 1.
pub const INTEGER_MAX: u64 = (1 << 53) - 1;
/// The most characters that an error says of a text that a stranger may have written.
pub const QUOTE_MAX: usize = 200;

/// Why bytes are not strict JSON.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StrictJsonError {
    /// A byte outside printable ASCII.
    #[error("byte {at} is not printable ASCII")]
    NotPrintable {
        /// Offset.
        at: usize,
    },
    /// An escape other than the two-character ones.
    #[error("byte {at}: this escape is not allowed")]
    Escape {
        /// Offset.
        at: usize,
    },
    /// A member named twice.
    #[error("the member {name:?} stands twice")]
    Duplicate {
        /// The name, or its beginning: at most [`QUOTE_MAX`] characters.
        name: String,
    },
    /// A number that is not a plain integer in range.
    #[error("byte {at}: not a plain integer between 0 and 2^53-1")]
    Number {
        /// Offset.
        at: usize,
    },
    /// Nested too deep.
    #[error("nested deeper than {DEPTH_MAX}")]
    Depth,
    /// Not JSON, or white space where none is allowed.
    #[error("byte {at}: unexpected")]
    Syntax {
        /// Offset.
        at: usize,
    },
    /// Strict JSON, but not of the expected shape; at most [`QUOTE_MAX`] characters.
    #[error("{0}")]
    Shape(String),
}

/// Reads a value of type `T` from strict JSON.
pub fn from_slice<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, StrictJsonError> {
    check(bytes)?;
    serde_json::from_slice(bytes).map_err(|e| StrictJsonError::Shape(brief(&e.to_string())))
}

/// The beginning of a text, with a mark where it was cut.
fn brief(text: &str) -> String {
    if text.chars().count() <= QUOTE_MAX {
        return text.to_owned();
    }
    text.chars().take(QUOTE_MAX - 3).chain("...".chars()).collect()
}

/// Checks that `bytes` is one strict JSON value and nothing else, in time linear in its length.
pub fn check(bytes: &[u8]) -> Result<(), StrictJsonError> {
    let mut scanner = Scanner { bytes, at: 0 };
    scanner.value(0)?;
    if scanner.at == bytes.len() { Ok(()) } else { Err(scanner.syntax()) }
}

struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Scanner<'_> {
    fn syntax(&self) -> StrictJsonError {
        match self.peek() {
            Some(byte) if !(0x20..=0x7e).contains(&byte) => StrictJsonError::NotPrintable { at: self.at },
            _ => StrictJsonError::Syntax { at: self.at },
        }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn expect(&mut self, byte: u8) -> Result<(), StrictJsonError> {
        if self.peek() == Some(byte) {
            self.at += 1;
            Ok(())
        } else {
            Err(self.syntax())
        }
    }

    fn value(&mut self, depth: usize) -> Result<(), StrictJsonError> {
        match self.peek() {
            Some(b'{' | b'[') if depth >= DEPTH_MAX => Err(StrictJsonError::Depth),
            Some(b'{') => self.object(depth),
            Some(b'[') => self.array(depth),
            Some(b'"') => self.string().map(drop),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.word(b"true"),
            Some(b'f') => self.word(b"false"),
            Some(b'n') => self.word(b"null"),
            _ => Err(self.syntax()),
        }
    }

    fn word(&mut self, word: &[u8]) -> Result<(), StrictJsonError> {
        word.iter().try_for_each(|byte| self.expect(*byte))
    }

    fn object(&mut self, depth: usize) -> Result<(), StrictJsonError> {
        self.expect(b'{')?;
        let mut names = HashSet::new();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(());
        }
        loop {
            let name = self.string()?;
            if names.contains(&name) {
                return Err(StrictJsonError::Duplicate { name: brief(&name) });
            }
            names.insert(name);
            self.expect(b':')?;
            self.value(depth + 1)?;
            match self.peek() {
                Some(b',') => self.at += 1,
                _ => return self.expect(b'}'),
            }
        }
    }

    fn array(&mut self, depth: usize) -> Result<(), StrictJsonError> {
        self.expect(b'[')?;
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.value(depth + 1)?;
            match self.peek() {
                Some(b',') => self.at += 1,
                _ => return self.expect(b']'),
            }
        }
    }

    /// The decoded string; decoding matters because `"a\/b"` and `"a/b"` are one name.
    fn string(&mut self) -> Result<String, StrictJsonError> {
        self.expect(b'"')?;
        let mut text = String::new();
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(text);
                }
                Some(b'\\') => {
                    self.at += 1;
                    text.push(match self.peek() {
                        Some(b'"') => '"',
                        Some(b'\\') => '\\',
                        Some(b'/') => '/',
                        Some(b'b') => '\u{8}',
                        Some(b'f') => '\u{c}',
                        Some(b'n') => '\n',
                        Some(b'r') => '\r',
                        Some(b't') => '\t',
                        _ => return Err(StrictJsonError::Escape { at: self.at }),
                    });
                    self.at += 1;
                }
                Some(byte @ 0x20..=0x7e) => {
                    text.push(char::from(byte));
                    self.at += 1;
                }
                _ => return Err(self.syntax()),
            }
        }
    }

    fn number(&mut self) -> Result<(), StrictJsonError> {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E')) {
            self.at += 1;
        }
        let digits = &self.bytes[start..self.at];
        let plain =
            digits.iter().all(u8::is_ascii_digit) && (digits.len() == 1 || digits.first() != Some(&b'0'));
        let value = std::str::from_utf8(digits).ok().filter(|_| plain).and_then(|d| d.parse::<u64>().ok());
        match value {
            Some(value) if value <= INTEGER_MAX => Ok(()),
            _ => Err(StrictJsonError::Number { at: start }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_values_pass() {
        for good in
            [r#"{"a":[1,2,{"b":null}],"c":"x\"y\\"}"#, "[]", "{}", "0", "9007199254740991", "true", r#""""#]
        {
            assert_eq!(check(good.as_bytes()), Ok(()), "{good}");
        }
    }

    #[test]
    fn every_ambiguity_is_refused() {
        use StrictJsonError as E;
        let table: [(&str, E); 20] = [
            (r#"{"a":1,"a":2}"#, E::Duplicate { name: "a".into() }),
            (r#"[{"x":{"b":1,"b":1}}]"#, E::Duplicate { name: "b".into() }),
            (r#"{"a/":1,"a\/":2}"#, E::Duplicate { name: "a/".into() }),
            (r#"{"\u0061":1}"#, E::Escape { at: 3 }),
            ("\"\u{e9}\"", E::NotPrintable { at: 1 }),
            ("\"\n\"", E::NotPrintable { at: 1 }),
            ("{ }", E::Syntax { at: 1 }),
            ("1 ", E::Syntax { at: 1 }),
            ("\n1", E::NotPrintable { at: 0 }),
            ("01", E::Number { at: 0 }),
            ("-1", E::Number { at: 0 }),
            ("-0", E::Number { at: 0 }),
            ("1.0", E::Number { at: 0 }),
            ("1e3", E::Number { at: 0 }),
            ("9007199254740992", E::Number { at: 0 }),
            ("99999999999999999999999", E::Number { at: 0 }),
            ("", E::Syntax { at: 0 }),
            ("{\"a\":1,}", E::Syntax { at: 7 }),
            ("[1,]", E::Syntax { at: 3 }),
            ("{}{}", E::Syntax { at: 2 }),
        ];
        for (text, error) in table {
            assert_eq!(check(text.as_bytes()), Err(error), "{text}");
        }
    }

    #[test]
    fn depth_is_bounded() {
        let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert_eq!(check(nested(DEPTH_MAX).as_bytes()), Ok(()));
        assert_eq!(check(nested(DEPTH_MAX + 1).as_bytes()), Err(StrictJsonError::Depth));
        assert_eq!(check("[".repeat(1 << 20).as_bytes()), Err(StrictJsonError::Depth));
    }

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only its shape is read")]
    struct Shape {
        id: Option<crate::BackupId>,
        source: Option<crate::SourceName>,
        n: Option<u64>,
    }

    #[test]
    fn errors_quote_a_strangers_text_only_in_part() {
        let long = "x".repeat(1 << 20);
        let table = [
            format!(r#"{{"{long}":1,"{long}":2}}"#),
            format!(r#"{{"{long}":1}}"#),
            format!(r#"{{"id":"{long}"}}"#),
            format!(r#"{{"source":"{long}"}}"#),
            format!(r#"{{"n":"{long}"}}"#),
        ];
        for text in table {
            let message = from_slice::<Shape>(text.as_bytes()).unwrap_err().to_string();
            assert!(message.contains("xxx") && message.len() <= QUOTE_MAX + 40, "{} bytes", message.len());
        }
        assert_eq!(brief("short"), "short");
        assert_eq!(brief(&"y".repeat(QUOTE_MAX)).len(), QUOTE_MAX);
        assert!(brief(&"y".repeat(QUOTE_MAX + 1)).ends_with("y..."));
    }

    proptest::proptest! {
        #[test]
        fn what_passes_is_json_to_everybody(text in "[ -~]{0,40}") {
            if check(text.as_bytes()).is_ok() {
                proptest::prop_assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok());
            }
        }
    }
}
