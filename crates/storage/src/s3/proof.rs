//! What a server's answer proves about the bytes it received. Pure.
//!
//! An answer of success does not say whether the server compared the checksums it was sent. From the
//! strongest evidence to the weakest:
//!
//! 1. **The CRC-32C repeated.** S3 repeats a checksum only after comparing it, so this decides both ways.
//! 2. **An ETag that is the MD5 of what we sent.** Only who hashed these bytes can say it.
//! 3. **An ETag that is another MD5.** Either the bytes changed on the way and the server compared
//!    nothing, or ETags are something else there: those of encrypted objects often have the shape of an
//!    MD5. Where the answer names encryption, the ETag says nothing. Where it does not, one request
//!    cannot tell, and two can: if any ETag of the same upload is the MD5 of its part, all are, and the
//!    one that is not is about other bytes. An upload always has two parts or more, and is not
//!    completed before all of them are judged. An object of one put is read back instead.
//!
//! If none of an upload's ETags is an MD5 of its part, they are taken for something else, because a
//! line that damages every single part without breaking TLS is not to be believed, and refusing would
//! shut out stores that did verify `Content-MD5` as they must. What is damaged beyond that is still
//! found by every verification and every restore.

use http::HeaderMap;
use http::HeaderValue;

/// The header with the checksum that we send, and that servers which check it repeat.
pub(super) const CHECKSUM: &str = "x-amz-checksum-crc32c";
/// What all headers about encryption at the server begin with.
const ENCRYPTION: &str = "x-amz-server-side-encryption";

/// What an answer of success proves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Proof {
    /// The server compared a checksum.
    SameBytes,
    /// The server has other bytes.
    OtherBytes,
    /// An ETag of the shape of an MD5.
    Etag([u8; 16]),
    /// Nothing; the server was told the checksums and said yes.
    Nothing,
}

impl Proof {
    /// Judges an answer to a request that carried this checksum.
    pub(super) fn of(answer: &HeaderMap, sent: Option<&HeaderValue>) -> Self {
        if let (Some(sent), Some(repeated)) = (sent, answer.get(CHECKSUM)) {
            return if sent == repeated { Self::SameBytes } else { Self::OtherBytes };
        }
        if answer.keys().any(|name| name.as_str().starts_with(ENCRYPTION)) {
            return Self::Nothing;
        }
        let etag = answer.get(http::header::ETAG).and_then(|etag| etag.to_str().ok());
        etag.and_then(|etag| md5(etag.trim_matches('"'))).map_or(Self::Nothing, Self::Etag)
    }
}

/// The 16 bytes that 32 hexadecimal digits stand for.
fn md5(text: &str) -> Option<[u8; 16]> {
    let digits = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    digits.then(|| u128::from_str_radix(text, 16).ok().map(u128::to_be_bytes)).flatten()
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    fn proof(headers: &[(&'static str, &'static str)]) -> Proof {
        let answer = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect();
        Proof::of(&answer, Some(&HeaderValue::from_static("yZRlqg==")))
    }

    #[test]
    fn the_strongest_evidence_decides() {
        const MD5: &str = "\"0123456789abcdefFEDCBA9876543210\"";
        let bytes = 0x0123_4567_89ab_cdef_fedc_ba98_7654_3210_u128.to_be_bytes();
        let table: [(&[(&str, &str)], Proof); 9] = [
            (&[("etag", MD5)], Proof::Etag(bytes)),
            (&[("etag", MD5), (CHECKSUM, "yZRlqg==")], Proof::SameBytes),
            (&[("etag", MD5), (CHECKSUM, "AAAAAA==")], Proof::OtherBytes),
            (&[("etag", MD5), ("x-amz-server-side-encryption", "aws:kms")], Proof::Nothing),
            (&[("etag", MD5), ("x-amz-server-side-encryption-customer-algorithm", "AES256")], Proof::Nothing),
            (&[("etag", "\"0123456789abcdefFEDCBA9876543210-2\"")], Proof::Nothing),
            (&[("etag", "\"+123456789abcdefFEDCBA9876543210\"")], Proof::Nothing),
            (&[("etag", "\"opaque\"")], Proof::Nothing),
            (&[], Proof::Nothing),
        ];
        for (headers, wanted) in table {
            assert_eq!(proof(headers), wanted, "{headers:?}");
        }
    }
}
