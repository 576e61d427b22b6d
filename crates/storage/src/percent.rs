//! Percent-encoding of paths (RFC 3986, section 2.1).

/// The bytes that `text` stands for; `None` where a `%` has no two hexadecimal digits after it.
pub(crate) fn decoded(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || char::from(rest.next()?).to_digit(16);
        let value = digit()? * 16 + digit()?;
        bytes.push(u8::try_from(value).ok()?);
    }
    Some(bytes)
}

/// Percent-encoded as RFC 3986 asks, slashes kept in paths.
pub(crate) fn encoded(text: &str, path: bool) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            b'/' if path => "/".to_owned(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_digits_are_a_byte() {
        assert_eq!(decoded("/a%20b%2Fc%c3%A4").unwrap(), "/a b/c\u{e4}".as_bytes());
        for bad in ["%", "%2", "%zz", "a%", "%-1"] {
            assert_eq!(decoded(bad), None, "{bad}");
        }
    }

    #[test]
    fn only_unreserved_characters_stand_for_themselves() {
        assert_eq!(encoded("a/b c~\u{e4}", false), "a%2Fb%20c~%C3%A4");
        assert_eq!(encoded("a/b+c", true), "a/b%2Bc");
    }
}
