//! Percent encoding in the parts of a URL (RFC 3986, section 2.1).

/// Undoes the encoding.
///
/// # Errors
/// What is wrong with the text, to be said after the name of the setting.
pub(crate) fn decoded(text: &str) -> Result<String, &'static str> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
        match (digit(rest.next()), digit(rest.next())) {
            // Two digits of four bits make eight.
            (Some(high), Some(low)) => bytes.push((high << 4 | low) as u8),
            _ => return Err("has a % that is not followed by two hex digits"),
        }
    }
    String::from_utf8(bytes).map_err(|_| "is not UTF-8 after percent decoding")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_of_hex_digits_become_bytes() {
        assert_eq!(decoded("a%20%C3%B6%2f+").unwrap(), "a \u{f6}/+");
        for bad in ["%", "%4", "%4g", "%+4", "%ff"] {
            assert!(decoded(bad).is_err(), "{bad}");
        }
    }
}
