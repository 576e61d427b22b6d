//! One multipart upload: CreateMultipartUpload, UploadPart, UploadPartCopy, CompleteMultipartUpload and
//! AbortMultipartUpload of the S3 API.
//!
//! `opendal` can do the first two and the last two, and not the one in the middle, without which the
//! parts of a very long object must be held in memory whole.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use crc_fast::{CrcAlgorithm, Digest};
use http::Method;
use opendal::{Buffer, Error, ErrorKind};
use serde::{Deserialize, Serialize};

use crate::s3::lock::Lock;
use crate::s3::proof::CHECKSUM;
use crate::s3::requests::{Ask, Requests, encoded};
use crate::s3::upload::MARK;

/// An upload at the server; clones are about the same one.
#[derive(Clone)]
pub(super) struct Multipart {
    requests: Requests,
    /// With the prefix.
    key: Arc<str>,
    id: Arc<str>,
}

/// A part that the server has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Landed {
    etag: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    checksum: Option<String>,
}

/// An upload that became an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Completed {
    pub(super) etag: String,
    /// The version, in a bucket that keeps them.
    pub(super) version: Option<String>,
}

impl Landed {
    /// A part by its tag, with the checksum that the upload is completed with.
    pub(super) fn new(etag: String, checksum: Option<String>) -> Self {
        Self { etag, checksum }
    }

    /// The checksum that went with it.
    pub(super) fn checksum(&self) -> Option<&str> {
        self.checksum.as_deref()
    }

    /// The server's name for its content.
    pub(super) fn etag(&self) -> &str {
        &self.etag
    }
}

/// A part as the server lists it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct ListedPart {
    #[serde(rename = "PartNumber")]
    pub(super) number: u32,
    #[serde(rename = "Size")]
    pub(super) len: u64,
    #[serde(rename = "ETag")]
    pub(super) etag: String,
    #[serde(rename = "ChecksumCRC32C")]
    pub(super) checksum: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct PartsPage {
    is_truncated: bool,
    next_part_number_marker: Option<u32>,
    part: Vec<ListedPart>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Created {
    upload_id: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Made {
    #[serde(rename = "ETag")]
    etag: String,
    #[serde(rename = "ChecksumCRC32C")]
    checksum: Option<String>,
}

#[derive(Debug, Serialize)]
struct CompleteMultipartUpload<'a> {
    #[serde(rename = "Part")]
    parts: Vec<Listed<'a>>,
}

#[derive(Debug, Serialize)]
struct Listed<'a> {
    #[serde(rename = "PartNumber")]
    number: u32,
    #[serde(rename = "ETag")]
    etag: &'a str,
    #[serde(rename = "ChecksumCRC32C", skip_serializing_if = "Option::is_none")]
    checksum: Option<&'a str>,
}

impl Multipart {
    /// Begins an upload of `key`, which stands below the prefix. The object will bear the mark, and the lock if there
    /// is one.
    pub(super) async fn create(
        requests: &Requests,
        key: &str,
        mark: &str,
        lock: Option<Lock>,
    ) -> opendal::Result<Self> {
        let key: Arc<str> = format!("{}{key}", requests.prefix()).into();
        let mut ask = Ask::new("CreateMultipartUpload", Method::POST, &key, "uploads=".to_owned());
        ask.headers.push(("x-amz-checksum-algorithm", "CRC32C".to_owned()));
        ask.headers.push((mark_header(), mark.to_owned()));
        ask.headers.extend(lock.into_iter().flat_map(Lock::headers));
        let created: Created = understood(&requests.send(ask).await?.body)?;
        if created.upload_id.is_empty() {
            return Err(not_understood());
        }
        Ok(Self { requests: requests.clone(), key, id: created.upload_id.into() })
    }

    /// An upload of `key`, which stands below the prefix, that was begun before.
    pub(super) fn begun(requests: &Requests, key: &str, id: &str) -> Self {
        Self { requests: requests.clone(), key: format!("{}{key}", requests.prefix()).into(), id: id.into() }
    }

    /// The server's name for the upload.
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Every part that the server has (ListParts).
    pub(super) async fn parts(&self) -> opendal::Result<Vec<ListedPart>> {
        let (mut found, mut after) = (Vec::new(), 0);
        loop {
            let query = format!("{}&part-number-marker={after}", self.this());
            let ask = Ask::new("ListParts", Method::GET, &self.key, query);
            let page: PartsPage = understood(&self.requests.send(ask).await?.body)?;
            found.extend(page.part);
            match page.next_part_number_marker {
                Some(next) if page.is_truncated && next > after => after = next,
                _ => return Ok(found),
            }
        }
    }

    /// Sends a part, counted from 1. Its checksum goes with it.
    pub(super) async fn put(&self, number: u32, part: Buffer) -> opendal::Result<Landed> {
        let checksum = crc32c(part.clone()).await?;
        let mut ask = Ask::new("UploadPart", Method::PUT, &self.key, self.part(number));
        ask.headers.push((CHECKSUM, checksum.clone()));
        ask.body = part;
        let answer = self.requests.send(ask).await?;
        let etag = answer.headers.get(http::header::ETAG).and_then(|etag| etag.to_str().ok());
        let etag = etag.filter(|etag| !etag.is_empty()).ok_or_else(not_understood)?.to_owned();
        Ok(Landed { etag, checksum: Some(checksum) })
    }

    /// Sends a part with another header than its true checksum, and nothing else: for the probe.
    pub(super) async fn put_with(
        &self,
        number: u32,
        part: Buffer,
        header: (&'static str, String),
    ) -> opendal::Result<()> {
        // Not called UploadPart, so that the transport adds no checksum of its own.
        let mut ask = Ask::new("ProbePart", Method::PUT, &self.key, self.part(number));
        ask.headers.push(header);
        ask.body = part;
        self.requests.send(ask).await.map(drop)
    }

    /// Lets the server copy the object under `source`, which stands below the prefix, as a part.
    pub(super) async fn copy(&self, number: u32, source: &str) -> opendal::Result<Landed> {
        let mut ask = Ask::new("UploadPartCopy", Method::PUT, &self.key, self.part(number));
        let source = self.requests.copy_source(&format!("{}{source}", self.requests.prefix()));
        ask.headers.push(("x-amz-copy-source", source));
        let made: Made = understood(&self.requests.send(ask).await?.body)?;
        if made.etag.is_empty() {
            return Err(not_understood());
        }
        Ok(Landed { etag: made.etag, checksum: made.checksum })
    }

    /// Makes the object of its parts, unless there is one of this name where the server obeys
    /// `If-None-Match: *`. Gives the object's ETag.
    pub(super) async fn complete(&self, parts: &BTreeMap<u32, Landed>) -> opendal::Result<String> {
        self.complete_if(parts, true).await.map(|made| made.etag)
    }

    /// The same; without `only_new` also over an object of this name.
    pub(super) async fn complete_if(
        &self,
        parts: &BTreeMap<u32, Landed>,
        only_new: bool,
    ) -> opendal::Result<Completed> {
        let parts = parts
            .iter()
            .map(|(&number, landed)| Listed {
                number,
                etag: &landed.etag,
                checksum: landed.checksum.as_deref(),
            })
            .collect();
        let body = quick_xml::se::to_string(&CompleteMultipartUpload { parts })
            .map_err(|error| Error::new(ErrorKind::Unexpected, "the list of parts").set_source(error))?;
        let mut ask = Ask::new("CompleteMultipartUpload", Method::POST, &self.key, self.this());
        ask.headers.push(("content-type", "application/xml".to_owned()));
        if only_new {
            ask.headers.push(("if-none-match", "*".to_owned()));
        }
        ask.body = Buffer::from(body);
        let answer = self.requests.send(ask).await?;
        let made: Made = understood(&answer.body)?;
        let version = answer.headers.get("x-amz-version-id").and_then(|version| version.to_str().ok());
        let version = version.filter(|version| !version.is_empty() && *version != "null").map(str::to_owned);
        Ok(Completed { etag: made.etag, version })
    }

    /// Removes the upload and its parts; `NotFound` when there is no such upload any more.
    pub(super) async fn abort(&self) -> opendal::Result<()> {
        let ask = Ask::new("AbortMultipartUpload", Method::DELETE, &self.key, self.this());
        self.requests.send(ask).await.map(drop)
    }

    fn this(&self) -> String {
        format!("uploadId={}", encoded(&self.id, false))
    }

    fn part(&self, number: u32) -> String {
        format!("partNumber={number}&{}", self.this())
    }
}

/// Stores an object of one part in one request, with its lock; only if there is none of this name where the server
/// obeys that. Gives its ETag.
pub(super) async fn put_locked(
    requests: &Requests,
    key: &str,
    bytes: Buffer,
    mark: &str,
    lock: Lock,
) -> opendal::Result<Option<String>> {
    let key = format!("{}{key}", requests.prefix());
    let checksum = crc32c(bytes.clone()).await?;
    let mut ask = Ask::new("PutObject", Method::PUT, &key, String::new());
    // A lock is taken only with a checksum; the transport adds Content-MD5 for servers that know no other.
    ask.headers.push((CHECKSUM, checksum));
    ask.headers.push(("if-none-match", "*".to_owned()));
    ask.headers.push((mark_header(), mark.to_owned()));
    ask.headers.extend(lock.headers());
    ask.body = bytes;
    let answer = requests.send(ask).await?;
    let etag = answer.headers.get(http::header::ETAG).and_then(|etag| etag.to_str().ok());
    Ok(etag.map(str::to_owned))
}

fn mark_header() -> &'static str {
    const { assert!(MARK.len() == "strongroom-upload".len()) };
    "x-amz-meta-strongroom-upload"
}

fn understood<T: for<'de> Deserialize<'de>>(body: &[u8]) -> opendal::Result<T> {
    quick_xml::de::from_reader(body).map_err(|error| not_understood().set_source(error))
}

fn not_understood() -> Error {
    Error::new(ErrorKind::Unexpected, "the server's answer is not understood")
}

/// A CRC-32C that grows.
pub(super) struct Crc32c(Digest);

impl Default for Crc32c {
    fn default() -> Self {
        Self(Digest::new(CrcAlgorithm::Crc32Iscsi))
    }
}

impl Crc32c {
    /// Takes the next bytes.
    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// As S3 writes it.
    pub(super) fn finish(self) -> String {
        BASE64_STANDARD.encode((self.0.finalize() as u32).to_be_bytes())
    }
}

/// The CRC-32C (RFC 3720 appendix B.4) as S3 wants it: base64 of four bytes, the first the highest.
pub(super) async fn crc32c(part: Buffer) -> opendal::Result<String> {
    let hash = move || {
        let mut digest = Crc32c::default();
        for piece in part {
            digest.update(&piece);
        }
        digest.finish()
    };
    tokio::task::spawn_blocking(hash).await.map_err(|error| {
        Error::new(ErrorKind::Unexpected, "the checksum of a part was not finished").set_source(error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_checksum_is_that_of_the_standard() {
        // RFC 3720 B.4: 32 bytes of zeros give aa 36 91 8a, least significant byte first.
        let zeros =
            Buffer::from(vec![bytes::Bytes::from_static(&[0; 20]), bytes::Bytes::from_static(&[0; 12])]);
        assert_eq!(crc32c(zeros).await.unwrap(), BASE64_STANDARD.encode([0x8a, 0x91, 0x36, 0xaa]));
    }

    #[test]
    fn parts_are_listed_in_the_order_of_their_numbers() {
        let landed = |etag: &str| Landed { etag: etag.to_owned(), checksum: None };
        let parts =
            BTreeMap::from([(10, landed("b")), (2, Landed { checksum: Some("c==".into()), ..landed("a") })]);
        let parts = parts
            .iter()
            .map(|(&number, l)| Listed { number, etag: &l.etag, checksum: l.checksum.as_deref() })
            .collect();
        assert_eq!(
            quick_xml::se::to_string(&CompleteMultipartUpload { parts }).unwrap(),
            "<CompleteMultipartUpload><Part><PartNumber>2</PartNumber><ETag>a</ETag><ChecksumCRC32C>c==</ChecksumCRC32C>\
             </Part><Part><PartNumber>10</PartNumber><ETag>b</ETag></Part></CompleteMultipartUpload>"
        );
    }
}
