//! Multipart uploads that were begun and never finished.
//!
//! `opendal` has no call for them, so these requests are made here, signed by the same signer:
//! ListMultipartUploads and AbortMultipartUpload of the S3 API.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::Arc;
use std::time::Duration;

use backup_core::{Error, ErrorKind, ObjectKey, Result, Swept};
use http::{Method, Request, StatusCode};
use jiff::Timestamp;
use opendal::{Buffer, HttpTransporter};
use reqsign_aws_v4::{Credential, DefaultCredentialProvider, RequestSigner, StaticCredentialProvider};
use reqsign_core::{Context, OsEnv, Signer};
use serde::Deserialize;

use crate::config::{Credentials, Retrying, S3Place};
use crate::s3::transport::Transport;
use crate::trouble::{Trouble, from_opendal};

/// Finds and aborts them.
pub(super) struct Unfinished {
    /// The bucket's URL without a slash at its end.
    bucket: String,
    /// With a slash at its end, or empty.
    prefix: String,
    signer: Arc<Signer<Credential>>,
    transport: HttpTransporter,
    retry: Retrying,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Page {
    is_truncated: bool,
    next_key_marker: String,
    next_upload_id_marker: String,
    upload: Vec<Begun>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Begun {
    key: String,
    upload_id: String,
    initiated: String,
}

impl Unfinished {
    pub(super) fn new(
        place: &S3Place,
        endpoint: Option<&str>,
        region: &str,
        credentials: Option<&Credentials>,
        transport: Transport,
        retry: Retrying,
    ) -> Self {
        let transport = HttpTransporter::new(transport);
        let amazon = format!("https://s3.{region}.amazonaws.com");
        let endpoint = endpoint.unwrap_or(&amazon);
        let bucket = if place.path_style {
            format!("{endpoint}/{}", place.bucket)
        } else {
            endpoint.replacen("://", &format!("://{}.", place.bucket), 1)
        };
        let context = Context::new()
            .with_file_read(reqsign_file_read_tokio::TokioFileRead)
            .with_http_send(transport.clone())
            .with_env(OsEnv);
        let request_signer = RequestSigner::new("s3", region);
        let signer = match credentials {
            Some(credentials) => {
                let mut provider =
                    StaticCredentialProvider::new(&credentials.access_key, &credentials.secret_key);
                if let Some(token) = &credentials.session_token {
                    provider = provider.with_session_token(token);
                }
                Signer::new(context, provider, request_signer)
            }
            None => Signer::new(context, DefaultCredentialProvider::builder().build(), request_signer),
        };
        let prefix = if place.prefix.is_empty() { String::new() } else { format!("{}/", place.prefix) };
        Self { bucket, prefix, signer: Arc::new(signer), transport, retry }
    }

    /// Aborts every upload below the prefix that was begun before `older_than`. Keys that are not
    /// ours are left alone.
    pub(super) async fn sweep(&self, name: &str, older_than: Timestamp) -> Result<Swept> {
        let mut swept = Swept::default();
        // All pages first: aborting while listing would move the pages.
        for begun in self.list(name).await? {
            let ours =
                begun.key.strip_prefix(&self.prefix).is_some_and(|key| key.parse::<ObjectKey>().is_ok());
            let old = begun.initiated.parse::<Timestamp>().is_ok_and(|initiated| initiated < older_than);
            if ours && old && self.abort(name, &begun).await? {
                swept.uploads += 1;
            }
        }
        Ok(swept)
    }

    async fn list(&self, name: &str) -> Result<Vec<Begun>> {
        let mut found = Vec::new();
        let mut after: Option<(String, String)> = None;
        loop {
            let mut query = format!("uploads=&prefix={}", encoded(&self.prefix, false));
            if let Some((key, upload)) = &after {
                query += &format!(
                    "&key-marker={}&upload-id-marker={}",
                    encoded(key, false),
                    encoded(upload, false)
                );
            }
            let (status, body) = self.send(name, Method::GET, &format!("{}?{query}", self.bucket)).await?;
            if status != StatusCode::OK {
                return Err(refused(name, "listing unfinished uploads", status, &body));
            }
            let page: Page = quick_xml::de::from_reader(body.as_slice()).map_err(|error| {
                Error::new(
                    ErrorKind::Unsupported,
                    name,
                    "listing unfinished uploads: the answer is not understood",
                )
                .with_source(error)
            })?;
            found.extend(page.upload);
            let next = (page.next_key_marker, page.next_upload_id_marker);
            if !page.is_truncated || next.0.is_empty() || after.as_ref() == Some(&next) {
                return Ok(found);
            }
            after = Some(next);
        }
    }

    /// Whether it was there to be aborted.
    async fn abort(&self, name: &str, begun: &Begun) -> Result<bool> {
        let url = format!(
            "{}/{}?uploadId={}",
            self.bucket,
            encoded(&begun.key, true),
            encoded(&begun.upload_id, false)
        );
        match self.send(name, Method::DELETE, &url).await? {
            (StatusCode::NO_CONTENT | StatusCode::OK, _) => Ok(true),
            (StatusCode::NOT_FOUND, _) => Ok(false),
            (status, body) => Err(refused(name, "aborting an unfinished upload", status, &body)),
        }
    }

    /// One request, tried again while the failure may pass.
    async fn send(&self, name: &str, method: Method, url: &str) -> Result<(StatusCode, Vec<u8>)> {
        let mut pause = self.retry.min_delay;
        let mut tries = 0;
        loop {
            tries += 1;
            let answer = self.send_once(name, method.clone(), url).await?;
            let passing = match &answer {
                Ok((status, _)) => may_pass(*status),
                Err(error) => error.is_temporary(),
            };
            if !passing || tries > self.retry.times {
                return answer.map_err(|error| from_opendal(name, "looking for unfinished uploads", &error));
            }
            tokio::time::sleep(pause + jitter(pause)).await;
            pause = (pause * 2).min(self.retry.max_delay).max(Duration::from_millis(1));
        }
    }

    async fn send_once(
        &self,
        name: &str,
        method: Method,
        url: &str,
    ) -> Result<opendal::Result<(StatusCode, Vec<u8>)>> {
        let bad =
            |error: String| Error::bug(format!("a request for unfinished uploads cannot be made: {error}"));
        let request =
            Request::builder().method(method).uri(url).body(Buffer::new()).map_err(|e| bad(e.to_string()))?;
        let (mut parts, body) = request.into_parts();
        self.signer
            .sign(&mut parts, None)
            .await
            .map_err(|error| Trouble::BadCredentials.with(name, "signing").with_source(error.to_string()))?;
        parts.headers.remove(http::header::HOST);
        let answer = self.transport.send(Request::from_parts(parts, body)).await;
        Ok(answer.map(|answer| {
            let (parts, body) = answer.into_parts();
            (parts.status, body.to_vec())
        }))
    }
}

/// Whether the same request may be answered otherwise later.
fn may_pass(status: StatusCode) -> bool {
    status == StatusCode::TOO_MANY_REQUESTS
        || status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED
}

/// Up to as long again, so that many who were sent away together do not come back together.
fn jitter(pause: Duration) -> Duration {
    // A hasher's keys are random; nothing here needs better.
    let random = RandomState::new().build_hasher().finish();
    pause.mul_f64((random >> 11) as f64 / (1u64 << 53) as f64)
}

/// An answer that is not the one hoped for.
fn refused(name: &str, doing: &str, status: StatusCode, body: &[u8]) -> Error {
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "PascalCase", default)]
    struct Answer {
        code: String,
    }
    let answer: Answer = quick_xml::de::from_reader(body).unwrap_or_default();
    let trouble = Trouble::of_s3_code(&answer.code).unwrap_or(match status.as_u16() {
        403 => Trouble::AccessDenied,
        501 | 405 => Trouble::NotSupported,
        _ => Trouble::Other,
    });
    let error = trouble.with(name, doing).with_source(format!("HTTP status {status} {}", answer.code));
    if trouble == Trouble::NotSupported {
        return error
            .with_hint("add a lifecycle rule to the bucket that aborts incomplete multipart uploads");
    }
    error
}

/// Percent-encoded as RFC 3986 asks, slashes kept in paths.
fn encoded(text: &str, path: bool) -> String {
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
    fn only_unreserved_characters_stand_for_themselves() {
        assert_eq!(encoded("a/b c~\u{e4}", false), "a%2Fb%20c~%C3%A4");
        assert_eq!(encoded("a/b+c", true), "a/b%2Bc");
    }

    #[test]
    fn only_what_may_pass_is_tried_again_and_not_all_at_once() {
        for (status, passes) in
            [(429, true), (500, true), (503, true), (501, false), (400, false), (403, false), (404, false)]
        {
            assert_eq!(may_pass(StatusCode::from_u16(status).unwrap()), passes, "{status}");
        }
        let pause = Duration::from_secs(8);
        let jitters: Vec<Duration> = (0..50).map(|_| jitter(pause)).collect();
        assert!(jitters.iter().all(|jitter| *jitter < pause));
        assert!(jitters.iter().any(|jitter| *jitter != jitters[0]));
    }

    #[test]
    fn a_page_is_read_and_an_empty_one_too() {
        let page = "<ListMultipartUploadsResult><Bucket>b</Bucket><KeyMarker/><NextKeyMarker>k</NextKeyMarker>\
            <NextUploadIdMarker>u</NextUploadIdMarker><IsTruncated>true</IsTruncated>\
            <Upload><Key>a/b</Key><UploadId>1</UploadId><Initiated>2026-01-02T03:04:05.000Z</Initiated>\
            <Owner><ID>x</ID></Owner></Upload><Upload><Key>c</Key><UploadId>2</UploadId></Upload>\
            </ListMultipartUploadsResult>";
        let page: Page = quick_xml::de::from_str(page).unwrap();
        assert!(page.is_truncated && page.next_key_marker == "k" && page.next_upload_id_marker == "u");
        assert_eq!(page.upload.len(), 2);
        assert_eq!(page.upload[0].key, "a/b");
        page.upload[0].initiated.parse::<Timestamp>().unwrap();
        let empty: Page = quick_xml::de::from_str("<ListMultipartUploadsResult/>").unwrap();
        assert!(empty.upload.is_empty() && !empty.is_truncated);
    }
}
