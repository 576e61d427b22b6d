//! JSON text read in place, so that what a server wrote goes on exactly as it was.
//!
//! Numbers are never converted: a double that passes through here keeps every digit, and `-0.0` its
//! sign. RFC 8259, at most [`DEPTH_MAX`] deep; member names are unique where a caller asks for it.

use std::borrow::Cow;

/// The deepest nesting. Firestore allows maps and arrays 20 deep, which is about 60 levels of JSON.
pub(super) const DEPTH_MAX: usize = 200;

/// Why text is not the JSON that was expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum JsonError {
    /// Not JSON, or another shape than expected.
    #[error("byte {at}: {expected} expected")]
    Expected {
        /// Offset.
        at: usize,
        /// What should stand there.
        expected: &'static str,
    },
    /// Nested too deep.
    #[error("nested deeper than {DEPTH_MAX}")]
    Depth,
    /// A value that Firestore has no such kind of.
    #[error("{0}")]
    Value(String),
}

/// A place in JSON text.
#[derive(Debug, Clone)]
pub(super) struct Cursor<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

impl<'a> Cursor<'a> {
    /// The beginning of a text.
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, at: 0, depth: 0 }
    }

    /// Refuses what stands behind the value.
    pub(super) fn finish(mut self) -> Result<(), JsonError> {
        self.space();
        if self.at == self.text.len() { Ok(()) } else { Err(self.expected("the end")) }
    }

    pub(super) fn expected(&self, expected: &'static str) -> JsonError {
        JsonError::Expected { at: self.at, expected }
    }

    fn space(&mut self) {
        while matches!(self.byte(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn byte(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// The first byte of the next token.
    pub(super) fn peek(&mut self) -> Option<u8> {
        self.space();
        self.byte()
    }

    fn take(&mut self, byte: u8, expected: &'static str) -> Result<(), JsonError> {
        if self.peek() == Some(byte) {
            self.at += 1;
            Ok(())
        } else {
            Err(self.expected(expected))
        }
    }

    /// Reads an object; `member` is given each name and must read its value.
    pub(super) fn object(
        &mut self,
        mut member: impl FnMut(&str, &mut Self) -> Result<(), JsonError>,
    ) -> Result<(), JsonError> {
        self.take(b'{', "an object")?;
        self.deeper()?;
        if self.peek() != Some(b'}') {
            loop {
                let name = self.string()?;
                self.take(b':', "a colon")?;
                member(&name, self)?;
                if self.peek() != Some(b',') {
                    break;
                }
                self.at += 1;
            }
        }
        self.depth -= 1;
        self.take(b'}', "the end of an object")
    }

    /// Reads an array; `element` must read each element.
    pub(super) fn array(
        &mut self,
        mut element: impl FnMut(&mut Self) -> Result<(), JsonError>,
    ) -> Result<(), JsonError> {
        self.take(b'[', "an array")?;
        self.deeper()?;
        if self.peek() != Some(b']') {
            loop {
                element(self)?;
                if self.peek() != Some(b',') {
                    break;
                }
                self.at += 1;
            }
        }
        self.depth -= 1;
        self.take(b']', "the end of an array")
    }

    fn deeper(&mut self) -> Result<(), JsonError> {
        self.depth += 1;
        if self.depth > DEPTH_MAX { Err(JsonError::Depth) } else { Ok(()) }
    }

    /// Reads a string and decodes it.
    pub(super) fn string(&mut self) -> Result<Cow<'a, str>, JsonError> {
        self.take(b'"', "a string")?;
        let start = self.at;
        let mut decoded: Option<String> = None;
        loop {
            let run = self.at;
            while !matches!(self.byte(), None | Some(b'"' | b'\\' | 0..=0x1f)) {
                self.at += 1;
            }
            if let Some(decoded) = &mut decoded {
                decoded.push_str(&self.text[run..self.at]);
            }
            match self.byte() {
                Some(b'"') => {
                    let end = self.at;
                    self.at += 1;
                    return Ok(decoded.map_or(Cow::Borrowed(&self.text[start..end]), Cow::Owned));
                }
                Some(b'\\') => {
                    let decoded = decoded.get_or_insert_with(|| self.text[start..self.at].to_owned());
                    self.at += 1;
                    let plain = match self.byte() {
                        Some(b'"') => '"',
                        Some(b'\\') => '\\',
                        Some(b'/') => '/',
                        Some(b'b') => '\u{8}',
                        Some(b'f') => '\u{c}',
                        Some(b'n') => '\n',
                        Some(b'r') => '\r',
                        Some(b't') => '\t',
                        Some(b'u') => {
                            let letter = self.code_point()?;
                            decoded.push(letter);
                            continue;
                        }
                        _ => return Err(self.expected("an escape")),
                    };
                    decoded.push(plain);
                    self.at += 1;
                }
                _ => return Err(self.expected("the end of a string")),
            }
        }
    }

    /// At the `u` of an escape; a pair of surrogates is one letter, a lone one is refused.
    fn code_point(&mut self) -> Result<char, JsonError> {
        let high = self.code_unit()?;
        if !(0xd800..0xdc00).contains(&high) {
            return char::from_u32(high).ok_or_else(|| self.expected("a letter"));
        }
        if !self.text[self.at..].starts_with("\\u") {
            return Err(self.expected("the second half of a letter"));
        }
        self.at += 1;
        let low = self.code_unit()?;
        let both = 0x10000 + ((high - 0xd800) << 10) + low.wrapping_sub(0xdc00);
        if !(0xdc00..0xe000).contains(&low) {
            return Err(self.expected("the second half of a letter"));
        }
        char::from_u32(both).ok_or_else(|| self.expected("a letter"))
    }

    fn code_unit(&mut self) -> Result<u32, JsonError> {
        let digits = self.text.get(self.at + 1..self.at + 5).unwrap_or_default();
        if digits.len() != 4 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(self.expected("four hex digits"));
        }
        self.at += 5;
        u32::from_str_radix(digits, 16).map_err(|_| self.expected("four hex digits"))
    }

    /// Reads a number and gives its text.
    pub(super) fn number(&mut self) -> Result<&'a str, JsonError> {
        self.space();
        let start = self.at;
        let digits = |cursor: &mut Self| {
            let from = cursor.at;
            while matches!(cursor.byte(), Some(b'0'..=b'9')) {
                cursor.at += 1;
            }
            if cursor.at > from { Ok(cursor.at - from) } else { Err(cursor.expected("a number")) }
        };
        if self.byte() == Some(b'-') {
            self.at += 1;
        }
        let first = self.byte();
        if digits(self)? > 1 && first == Some(b'0') {
            return Err(self.expected("a number without leading zeros"));
        }
        if self.byte() == Some(b'.') {
            self.at += 1;
            digits(self)?;
        }
        if matches!(self.byte(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.byte(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            digits(self)?;
        }
        Ok(&self.text[start..self.at])
    }

    /// Reads `true`, `false` or `null`.
    pub(super) fn word(&mut self) -> Result<&'static str, JsonError> {
        self.space();
        let rest = &self.text[self.at..];
        let word = ["true", "false", "null"].into_iter().find(|word| rest.starts_with(word));
        let word = word.ok_or_else(|| self.expected("a value"))?;
        self.at += word.len();
        Ok(word)
    }

    /// Reads any value and gives its text.
    pub(super) fn any(&mut self) -> Result<&'a str, JsonError> {
        self.space();
        let start = self.at;
        match self.peek() {
            Some(b'{') => self.object(|_, inner| inner.any().map(drop))?,
            Some(b'[') => self.array(|inner| inner.any().map(drop))?,
            Some(b'"') => drop(self.string()?),
            Some(b'-' | b'0'..=b'9') => drop(self.number()?),
            _ => drop(self.word()?),
        }
        Ok(&self.text[start..self.at])
    }
}

/// Writes a string with its quotes.
pub(super) fn push_string(out: &mut String, text: &str) {
    out.push('"');
    let mut run = 0;
    for (at, byte) in text.bytes().enumerate() {
        if !matches!(byte, b'"' | b'\\' | 0..=0x1f) {
            continue;
        }
        out.push_str(&text[run..at]);
        run = at + 1;
        match byte {
            b'"' => out.push_str("\\\""),
            b'\\' => out.push_str("\\\\"),
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            _ => {
                use std::fmt::Write as _;
                // Writing into a String cannot fail.
                let _ = write!(out, "\\u{byte:04x}");
            }
        }
    }
    out.push_str(&text[run..]);
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_json_to_everybody_is_json_here_and_the_other_way_round() {
        let texts = [
            "{}",
            "[]",
            " { \"a\" : [ 1 , -0.0e+10 , true ] } ",
            "\"\\u00e9\\ud83d\\ude00\\n\"",
            "\"\\ud83d\"",
            "\"\\ud83dx\"",
            "\"\\udc00\"",
            "01",
            "-",
            "1.",
            "1e",
            ".5",
            "nul",
            "[1,]",
            "{\"a\":}",
            "{,}",
            "\"\n\"",
            "{\"a\":1}x",
            "",
            "\"\\u12\"",
            "\"\\u12é\"",
            "-0",
            "0.10E-3",
            "\"\\x\"",
            "[[[[]]]]",
            "\"\\",
            "{\"a\"",
            "+1",
        ];
        for text in texts {
            let mut cursor = Cursor::new(text);
            let ours = cursor.any().map(drop).and_then(|()| cursor.finish()).is_ok();
            let theirs = serde_json::from_str::<serde_json::Value>(text).is_ok();
            assert_eq!(ours, theirs, "{text:?}");
        }
    }

    #[test]
    fn strings_come_back_as_they_were() {
        for text in ["", "plain", "q\"b\\s/\n\r\t\u{0}\u{1f}é😀\u{7f}\u{2028}"] {
            let mut out = String::new();
            push_string(&mut out, text);
            assert_eq!(Cursor::new(&out).string().unwrap(), text);
            assert_eq!(serde_json::from_str::<String>(&out).unwrap(), text);
        }
    }

    #[test]
    fn depth_is_bounded() {
        let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(Cursor::new(&nested(DEPTH_MAX)).any().is_ok());
        assert_eq!(Cursor::new(&nested(DEPTH_MAX + 1)).any(), Err(JsonError::Depth));
        assert_eq!(Cursor::new(&"[".repeat(1 << 20)).any(), Err(JsonError::Depth));
    }

    proptest::proptest! {
        #[test]
        fn every_string_is_read_as_serde_json_reads_it(text in "\\PC{0,40}") {
            let mut out = String::new();
            push_string(&mut out, &text);
            proptest::prop_assert_eq!(Cursor::new(&out).string().unwrap().into_owned(), text);
        }

        #[test]
        fn nothing_that_serde_json_refuses_passes(text in "[\\[\\]{}\",:0-9eE.\\\\u+-ntf a]{0,24}") {
            let mut cursor = Cursor::new(&text);
            let ours = cursor.any().map(drop).and_then(|()| cursor.finish()).is_ok();
            let theirs = serde_json::from_str::<serde_json::Value>(&text).is_ok();
            // Numbers that overflow a double are refused there and kept here.
            proptest::prop_assert!(ours == theirs || (ours && text.contains(['e', 'E'])), "{}", text);
        }
    }
}
