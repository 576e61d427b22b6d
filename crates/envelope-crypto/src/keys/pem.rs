//! PEM text (RFC 7468), read strictly where it matters and leniently where tools differ.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::error::KeyError;

/// The most bytes of a key file: several times an RSA key of 8192 bits.
pub const KEY_FILE_MAX: usize = 64 * 1024;

/// One PEM block.
pub(crate) struct Pem {
    /// What stands after `BEGIN`.
    pub(crate) label: String,
    /// The decoded bytes.
    pub(crate) der: Zeroizing<Vec<u8>>,
}

impl Pem {
    /// Reads the only block of a text. Lines end in LF or CRLF; text before and after the block is
    /// allowed, a second block is not.
    pub(crate) fn read(text: &[u8]) -> Result<Self, KeyError> {
        if text.len() > KEY_FILE_MAX {
            return Err(KeyError::TooBig { limit: KEY_FILE_MAX });
        }
        let mut lines = text.split(|b| *b == b'\n').map(|line| line.trim_ascii_end());
        let label = lines
            .find_map(|line| boundary(line, b"-----BEGIN "))
            .ok_or(KeyError::NotPem("no line begins with -----BEGIN"))?;
        let mut body = Zeroizing::new(Vec::with_capacity(text.len()));
        let end = loop {
            let line = lines.next().ok_or(KeyError::NotPem("no line begins with -----END"))?;
            if let Some(end) = boundary(line, b"-----END ") {
                break end;
            }
            if line.starts_with(b"Proc-Type:") || line.starts_with(b"DEK-Info:") {
                return Err(KeyError::UnsupportedAlgorithm(
                    "the old encryption of OpenSSL's PEM files".into(),
                ));
            }
            body.extend_from_slice(line);
        };
        if label != end {
            return Err(KeyError::NotPem("the BEGIN and END lines differ"));
        }
        if lines.any(|line| boundary(line, b"-----BEGIN ").is_some()) {
            return Err(KeyError::NotPem("it holds more than one block"));
        }
        let mut der = Zeroizing::new(vec![0; body.len() / 4 * 3 + 3]);
        let len = STANDARD
            .decode_slice(body.as_slice(), der.as_mut_slice())
            .map_err(|_| KeyError::NotPem("its base64 is damaged"))?;
        der.truncate(len);
        let label = std::str::from_utf8(label).map_err(|_| KeyError::NotPem("its label is no text"))?;
        Ok(Self { label: label.to_owned(), der })
    }

    /// What the label stands for, in words.
    pub(crate) fn kind(&self) -> String {
        match self.label.as_str() {
            "PUBLIC KEY" | "RSA PUBLIC KEY" => "a public key".to_owned(),
            "PRIVATE KEY" | "RSA PRIVATE KEY" | "ENCRYPTED PRIVATE KEY" => "a private key".to_owned(),
            other => {
                let shown: String =
                    other.chars().filter(|c| c.is_ascii_graphic() || *c == ' ').take(40).collect();
                format!("a PEM block called {shown:?}")
            }
        }
    }
}

fn boundary<'a>(line: &'a [u8], start: &[u8]) -> Option<&'a [u8]> {
    line.strip_prefix(start)?.strip_suffix(b"-----")
}

/// Writes one block, 64 characters a line, lines ending in LF.
pub(crate) fn write(label: &str, der: &[u8]) -> Zeroizing<String> {
    let body = Zeroizing::new(STANDARD.encode(der));
    let mut text = Zeroizing::new(String::with_capacity(body.len() + body.len() / 64 + 2 * label.len() + 64));
    text.push_str("-----BEGIN ");
    text.push_str(label);
    text.push_str("-----\n");
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        text.push_str(line);
        text.push('\n');
        rest = after;
    }
    text.push_str("-----END ");
    text.push_str(label);
    text.push_str("-----\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for len in [0, 1, 47, 48, 49, 1000] {
            let der = vec![0xa5; len];
            let text = write("PUBLIC KEY", &der);
            assert!(text.lines().all(|line| line.len() <= 64));
            for text in [text.to_string(), text.replace('\n', "\r\n"), format!("note\n{}\n\n", text.as_str())]
            {
                let pem = Pem::read(text.as_bytes()).unwrap();
                assert_eq!((pem.label.as_str(), pem.der.as_slice()), ("PUBLIC KEY", der.as_slice()));
            }
        }
    }

    #[test]
    fn what_is_no_single_block_is_refused() {
        let good = write("PUBLIC KEY", &[1; 60]);
        let table = [
            (String::new(), "no line begins with -----BEGIN"),
            (good.replace("-----END PUBLIC KEY-----\n", ""), "no line begins with -----END"),
            (good.replace("END PUBLIC", "END PRIVATE"), "the BEGIN and END lines differ"),
            (format!("{}{}", good.as_str(), good.as_str()), "it holds more than one block"),
            (good.replace("AQEB", "A*EB"), "its base64 is damaged"),
        ];
        for (text, why) in table {
            assert_eq!(Pem::read(text.as_bytes()).err(), Some(KeyError::NotPem(why)), "{text}");
        }
        assert_eq!(
            Pem::read(&vec![b'-'; KEY_FILE_MAX + 1]).err(),
            Some(KeyError::TooBig { limit: KEY_FILE_MAX })
        );
    }
}
