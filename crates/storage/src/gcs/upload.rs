//! One object on its way to Google Cloud Storage.

use std::sync::Arc;

use ::http::Method;
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use reqwest::Url;
use serde_json::json;
use tokio::task::JoinHandle;

use crate::gcs::{Gcs, OBJECT_LEN_MAX, crc32c_text};
use crate::rest::MARK;
use crate::rest::http::{Ask, Fault};
use crate::rest::upload::Pieces;
use crate::trouble::Trouble;

/// The length of a piece, of which one is gathered while another is on its way; a multiple of 256 KiB.
const PIECE: u64 = 16 << 20;
/// What an unfinished upload answers.
const UNFINISHED: u16 = 308;
/// What a cancelled upload answers.
const CANCELLED: u16 = 499;

pub(super) struct GcsPieces {
    api: Arc<Gcs>,
    key: String,
    mark: String,
    /// The upload at the service, begun with the first piece.
    session: Option<Url>,
    flying: Option<JoinHandle<Result<(), Fault>>>,
    /// Bytes of the pieces that were sent or are on their way.
    sent: u64,
    last: Bytes,
    crc32c: u32,
}

impl GcsPieces {
    pub(super) fn new(api: Arc<Gcs>, key: &str, mark: &str) -> Self {
        Self {
            api,
            key: key.to_owned(),
            mark: mark.to_owned(),
            session: None,
            flying: None,
            sent: 0,
            last: Bytes::new(),
            crc32c: 0,
        }
    }

    /// Waits for the piece on its way.
    async fn land(&mut self) -> Result<(), Fault> {
        match self.flying.take() {
            None => Ok(()),
            Some(flying) => flying.await.unwrap_or_else(|error| {
                Err(Fault::new(Trouble::Other, format!("a piece was lost: {error}")))
            }),
        }
    }

    async fn session(&mut self) -> Result<Url, Fault> {
        if let Some(session) = &self.session {
            return Ok(session.clone());
        }
        let session = self.api.begin(&self.key, &self.mark, true).await?;
        self.session = Some(session.clone());
        Ok(session)
    }
}

#[async_trait]
impl Pieces for GcsPieces {
    fn next_len(&self) -> Option<u64> {
        (self.sent < OBJECT_LEN_MAX).then_some(PIECE)
    }

    async fn send(&mut self, piece: Bytes) -> Result<(), Fault> {
        let session = self.session().await?;
        self.land().await?;
        let (api, from) = (Arc::clone(&self.api), self.sent);
        self.sent += piece.len() as u64;
        self.flying = Some(tokio::spawn(async move { api.put_piece(&session, from, piece, None).await }));
        Ok(())
    }

    async fn last(&mut self, piece: Bytes, crc32c: u32) -> Result<(), Fault> {
        (self.last, self.crc32c) = (piece, crc32c);
        self.land().await
    }

    async fn publish(&mut self) -> Result<(), Fault> {
        let last = std::mem::take(&mut self.last);
        match self.session.clone() {
            None => {
                let metadata = json!({
                    "name": self.key,
                    "contentType": "application/octet-stream",
                    "crc32c": crc32c_text(self.crc32c),
                    "metadata": { MARK: self.mark },
                });
                self.api.insert(&metadata, &last, true).await.map(drop)
            }
            Some(session) => self.api.put_piece(&session, self.sent, last, Some(self.crc32c)).await,
        }
    }

    async fn abort(&mut self) -> bool {
        if let Some(flying) = self.flying.take() {
            flying.abort();
            let _ = flying.await;
        }
        self.last = Bytes::new();
        match self.session.take() {
            None => false,
            Some(session) => self.api.cancel(&session).await,
        }
    }
}

impl Gcs {
    /// Begins an upload in pieces.
    pub(super) async fn begin(&self, key: &str, mark: &str, only_new: bool) -> Result<Url, Fault> {
        let metadata =
            json!({ "name": key, "contentType": "application/octet-stream", "metadata": { MARK: mark } });
        let mut query = vec![("uploadType", "resumable"), ("name", key)];
        if only_new {
            query.push(("ifGenerationMatch", "0"));
        }
        let ask = Ask::new(Method::POST, self.upload_url(&query))
            .header("content-type", "application/json; charset=UTF-8")
            .header("x-upload-content-type", "application/octet-stream")
            .body(metadata.to_string())
            .missing(Trouble::NoSuchBucket);
        let answer = self.client.send(&ask).await?;
        let session = answer.text("location").and_then(|location| location.parse::<Url>().ok());
        // The token goes with every piece, and to nobody else.
        session
            .filter(|session| session.origin() == self.endpoint.origin())
            .ok_or_else(|| Fault::new(Trouble::Other, "the server names no place of its own for the upload"))
    }

    /// One object in one request.
    pub(super) async fn insert(
        &self,
        metadata: &serde_json::Value,
        bytes: &[u8],
        only_new: bool,
    ) -> Result<crate::rest::http::Answer, Fault> {
        let boundary = format!("strongroom-{}", backup_core::BackupId::random());
        let head = format!(
            "--{boundary}\r\ncontent-type: application/json; charset=UTF-8\r\n\r\n{metadata}\r\n\
             --{boundary}\r\ncontent-type: application/octet-stream\r\n\r\n"
        );
        let tail = format!("\r\n--{boundary}--\r\n");
        let mut body = BytesMut::with_capacity(head.len() + bytes.len() + tail.len());
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(bytes);
        body.extend_from_slice(tail.as_bytes());
        let mut query = vec![("uploadType", "multipart")];
        if only_new {
            query.push(("ifGenerationMatch", "0"));
        }
        let ask = Ask::new(Method::POST, self.upload_url(&query))
            .header("content-type", format!("multipart/related; boundary={boundary}"))
            .body(body.freeze())
            .missing(Trouble::NoSuchBucket);
        self.client.send(&ask).await
    }

    /// Sends a piece that begins at `from`, the last one with the CRC-32C of the whole object. After a
    /// failure that may pass, the service is asked how far it got.
    pub(super) async fn put_piece(
        &self,
        session: &Url,
        mut from: u64,
        mut piece: Bytes,
        crc32c: Option<u32>,
    ) -> Result<(), Fault> {
        let end = from + piece.len() as u64;
        let mut tries = 0;
        loop {
            let total = if crc32c.is_some() { end.to_string() } else { "*".to_owned() };
            let range = if piece.is_empty() {
                format!("bytes */{total}")
            } else {
                format!("bytes {from}-{}/{total}", end - 1)
            };
            let mut ask = Ask::new(Method::PUT, session.clone())
                .header("content-range", range)
                .body(piece.clone())
                .missing(Trouble::UploadGone)
                .also(&[UNFINISHED]);
            if let Some(crc) = crc32c {
                ask = ask.header("x-goog-hash", format!("crc32c={}", crc32c_text(crc)));
            }
            let answer = match self.client.send_once(&ask).await {
                Err(fault) if fault.is_passing() && tries < self.client.retries() => {
                    tokio::time::sleep(self.client.pause(tries)).await;
                    tries += 1;
                    let ask = Ask::new(Method::PUT, session.clone())
                        .header("content-range", "bytes */*")
                        .missing(Trouble::UploadGone)
                        .also(&[UNFINISHED]);
                    self.client.send(&ask).await?
                }
                answer => answer?,
            };
            if answer.status() != UNFINISHED {
                return if crc32c.is_some() {
                    // Closed by the last piece; length and CRC-32C are compared afterwards.
                    Ok(())
                } else {
                    Err(Fault::new(Trouble::UploadGone, "the server ended an upload that was not at its end"))
                };
            }
            let have = kept(answer.text("range"));
            if have >= end && crc32c.is_none() {
                return Ok(());
            }
            if have < from || have > end {
                let what = format!("the server keeps {have} bytes of an upload, and had {from} before");
                return Err(Fault::new(Trouble::Other, what));
            }
            if have == from {
                tries += 1;
                if tries > self.client.retries() {
                    return Err(Fault::new(Trouble::Other, "the server keeps nothing of a piece"));
                }
            }
            // What it does not have goes again.
            let skip = usize::try_from(have - from).unwrap_or(usize::MAX).min(piece.len());
            piece = piece.slice(skip..);
            from = have;
        }
    }

    /// Ends an upload; whether the service confirmed that it is gone.
    pub(super) async fn cancel(&self, session: &Url) -> bool {
        let ask = Ask::new(Method::DELETE, session.clone()).missing(Trouble::UploadGone).also(&[CANCELLED]);
        match self.client.send(&ask).await {
            Ok(_) => true,
            Err(fault) => {
                if fault.trouble != Trouble::UploadGone {
                    tracing::warn!(error = fault.said(), "an unfinished upload could not be cancelled");
                }
                false
            }
        }
    }
}

/// How many bytes of an upload the service has, by its header `Range`.
fn kept(range: Option<&str>) -> u64 {
    range
        .and_then(|range| range.rsplit_once('-'))
        .and_then(|(_, last)| last.trim().parse::<u64>().ok())
        .map_or(0, |last| last + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_far_an_upload_got() {
        assert_eq!(kept(None), 0);
        assert_eq!(kept(Some("bytes=0-0")), 1);
        assert_eq!(kept(Some("bytes=0-1048575")), 1 << 20);
        assert_eq!(kept(Some("nonsense")), 0);
        assert_eq!(PIECE % (256 << 10), 0);
    }
}
