//! Requests of the S3 API that `opendal` has no call for, signed by the same signer, each tried again
//! while its failure may pass.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Method, Request, StatusCode};
use opendal::raw::ServiceOperation;
use opendal::{Buffer, Error, ErrorKind, HttpTransporter};
use reqsign_aws_v4::{Credential, DefaultCredentialProvider, RequestSigner, StaticCredentialProvider};
use reqsign_core::{Context, OsEnv, Signer};
use serde::Deserialize;

use crate::again::jitter;
use crate::config::{Credentials, Retrying, S3Place};
pub(super) use crate::percent::encoded;
use crate::s3::open::is_amazon;
use crate::s3::transport::Transport;

/// Sends requests to one bucket.
#[derive(Clone)]
pub(super) struct Requests {
    /// The bucket's URL without a slash at its end.
    bucket: Arc<str>,
    /// The bucket's name.
    name: Arc<str>,
    /// With a slash at its end, or empty.
    prefix: Arc<str>,
    region: Arc<str>,
    amazon: bool,
    /// `None` for requests without a signature.
    signer: Option<Arc<Signer<Credential>>>,
    transport: HttpTransporter,
    retry: Retrying,
}

/// What is asked of the server.
pub(super) struct Ask<'a> {
    /// As the S3 API calls it.
    pub(super) operation: &'static str,
    pub(super) method: Method,
    /// The object's key with the prefix; empty for the bucket itself.
    pub(super) key: &'a str,
    /// The query, encoded.
    pub(super) query: String,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Buffer,
}

/// An answer of success.
pub(super) struct Answer {
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
}

impl<'a> Ask<'a> {
    /// A request without a body.
    pub(super) fn new(operation: &'static str, method: Method, key: &'a str, query: String) -> Self {
        Self { operation, method, key, query, headers: Vec::new(), body: Buffer::new() }
    }
}

impl Requests {
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
        Self {
            bucket: bucket.into(),
            name: place.bucket.as_str().into(),
            prefix: prefix.into(),
            region: region.into(),
            amazon: is_amazon(endpoint),
            signer: (!place.anonymous).then(|| Arc::new(signer)),
            transport,
            retry,
        }
    }

    /// The same, through a transport of its own.
    pub(super) fn through(&self, transport: Transport) -> Self {
        Self { transport: HttpTransporter::new(transport), ..self.clone() }
    }

    /// The bucket's name.
    pub(super) fn bucket_name(&self) -> &str {
        &self.name
    }

    /// The region that requests are signed for.
    pub(super) fn region(&self) -> &str {
        &self.region
    }

    /// Whether it is Amazon that is spoken to.
    pub(super) fn is_amazon(&self) -> bool {
        self.amazon
    }

    /// What stands before our keys, with a slash at its end, or nothing.
    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The value of `x-amz-copy-source` for a key with the prefix.
    pub(super) fn copy_source(&self, key: &str) -> String {
        encoded(&format!("/{}/{key}", self.name), true)
    }

    /// One request, tried again while the failure may pass.
    pub(super) async fn send(&self, ask: Ask<'_>) -> opendal::Result<Answer> {
        let mut pause = self.retry.min_delay;
        let mut tries = 0;
        loop {
            tries += 1;
            match self.send_once(&ask).await {
                Err(error) if error.is_temporary() && tries <= self.retry.times => {
                    tokio::time::sleep(pause + jitter(pause)).await;
                    pause = (pause * 2).min(self.retry.max_delay).max(Duration::from_millis(1));
                }
                answer => return answer,
            }
        }
    }

    async fn send_once(&self, ask: &Ask<'_>) -> opendal::Result<Answer> {
        let slash = if ask.key.is_empty() { "" } else { "/" };
        let url = format!("{}{slash}{}?{}", self.bucket, encoded(ask.key, true), ask.query);
        let mut request = Request::builder()
            .method(ask.method.clone())
            .uri(url)
            .header(http::header::CONTENT_LENGTH, ask.body.len())
            .extension(ServiceOperation(ask.operation));
        for (name, value) in &ask.headers {
            request = request.header(*name, value);
        }
        let unusable = |what: &str, error: &dyn std::fmt::Display| {
            Error::new(ErrorKind::Unexpected, format!("{what}: {error}"))
        };
        let request =
            request.body(ask.body.clone()).map_err(|error| unusable("a request cannot be made", &error))?;
        let (mut parts, body) = request.into_parts();
        if let Some(signer) = &self.signer {
            signer.sign(&mut parts, None).await.map_err(|error| {
                Error::new(ErrorKind::PermissionDenied, "failed to load signing credential").set_source(error)
            })?;
        }
        parts.headers.remove(http::header::HOST);
        let (parts, body) = self.transport.send(Request::from_parts(parts, body)).await?.into_parts();
        let body = body.to_vec();
        // Long requests are answered with 200 before it is known whether they succeed.
        let refused = !parts.status.is_success() || document(&body).is_some();
        if refused { Err(refusal(parts.status, &body)) } else { Ok(Answer { headers: parts.headers, body }) }
    }
}

/// The document of an error.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Document {
    code: String,
    message: String,
}

fn document(body: &[u8]) -> Option<Document> {
    let found: Document = quick_xml::de::from_reader(body).ok()?;
    (!found.code.is_empty()).then_some(found)
}

/// An error as `opendal` itself would make it of this answer.
fn refusal(status: StatusCode, body: &[u8]) -> Error {
    let found = document(body).unwrap_or_default();
    let (kind, passing) = match (found.code.as_str(), status.as_u16()) {
        ("NoSuchBucket", _) => (ErrorKind::ConfigInvalid, false),
        ("RequestTimeout" | "InternalError" | "ServiceUnavailable", _) => (ErrorKind::Unexpected, true),
        ("SlowDown" | "TooManyRequests", _) | (_, 429) => (ErrorKind::RateLimited, true),
        ("OperationAborted", _) => (ErrorKind::Conflict, true),
        ("ConditionalRequestConflict", _) => (ErrorKind::Conflict, false),
        (_, 403) => (ErrorKind::PermissionDenied, false),
        (_, 404) => (ErrorKind::NotFound, false),
        (_, 412) => (ErrorKind::ConditionNotMatch, false),
        ("NotImplemented", _) | (_, 405 | 501) => (ErrorKind::Unsupported, false),
        (_, 499 | 500 | 502 | 503 | 504) => (ErrorKind::Unexpected, true),
        _ => (ErrorKind::Unexpected, false),
    };
    let Document { code, message } = found;
    let error = Error::new(kind, format!("status {status}, code: {code:?}, message: {message:?}"));
    if passing { error.set_temporary() } else { error }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trouble::Trouble;

    #[test]
    fn only_what_may_pass_is_tried_again_and_not_all_at_once() {
        for (status, passes) in
            [(429, true), (500, true), (503, true), (501, false), (400, false), (403, false), (404, false)]
        {
            let error = refusal(StatusCode::from_u16(status).unwrap(), b"");
            assert_eq!(error.is_temporary(), passes, "{status}");
        }
        let pause = Duration::from_secs(8);
        let jitters: Vec<Duration> = (0..50).map(|_| jitter(pause)).collect();
        assert!(jitters.iter().all(|jitter| *jitter < pause));
        assert!(jitters.iter().any(|jitter| *jitter != jitters[0]));
    }

    #[test]
    fn the_code_decides_what_a_refusal_means_also_in_an_answer_of_success() {
        let body = |code: &str| {
            format!("<?xml version=\"1.0\"?>\n<Error><Code>{code}</Code><Message>m</Message></Error>")
                .into_bytes()
        };
        let table = [
            (StatusCode::FORBIDDEN, "SignatureDoesNotMatch", Trouble::BadCredentials),
            (StatusCode::NOT_FOUND, "NoSuchUpload", Trouble::UploadGone),
            (StatusCode::BAD_REQUEST, "BadDigest", Trouble::Corrupted),
            (StatusCode::OK, "NoSuchBucket", Trouble::NoSuchBucket),
            (StatusCode::NOT_IMPLEMENTED, "NotImplemented", Trouble::NotSupported),
            (StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", Trouble::NotSupported),
        ];
        for (status, code, trouble) in table {
            assert_eq!(Trouble::of_opendal(&refusal(status, &body(code))), trouble, "{code}");
        }
        assert!(document(&body("InternalError")).is_some());
        assert!(refusal(StatusCode::OK, &body("InternalError")).is_temporary());
        let good = "<CompleteMultipartUploadResult><ETag>\"x\"</ETag></CompleteMultipartUploadResult>";
        assert!(document(good.as_bytes()).is_none() && document(b"").is_none());
    }
}
