//! The HTTP client below `opendal`: a time limit for each request, and a look at what the server says
//! it received.
//!
//! Every part and every object of one part is sent with its CRC-32C. Servers that check it repeat it
//! in their answer. Where a server does not, the ETag it answers with is compared with the MD5 of
//! what was sent, so that a part that changed on the way is noticed before the upload is completed.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use backup_core::{Error, ErrorKind, Result};
use futures::StreamExt as _;
use http::{HeaderMap, Request, Response};
use md5::{Digest as _, Md5};
use opendal::raw::ServiceOperation;
use opendal::{Buffer, HttpBody, HttpTransport};
use opendal_http_transport_reqwest::ReqwestTransport;

/// The slowest line that is still taken for a line: a body may take this long per byte.
const SLOWEST_BYTES_PER_SECOND: u64 = 32 * 1024;
/// How long a connection may take to be made.
const CONNECTING: Duration = Duration::from_secs(15);
/// How long a server may put the parts of a large object together without a word.
const COMPLETION: Duration = Duration::from_secs(15 * 60);

/// How often it is looked whether requests have ended.
const LOOK: Duration = Duration::from_millis(20);
/// The header with the checksum that we send, and that servers which check it repeat.
const CHECKSUM: &str = "x-amz-checksum-crc32c";
/// What is said of an answer that does not fit; `Trouble` knows it by its code.
const OTHER_BYTES: &str = "code: \"BadDigest\", the server's ETag is not that of the bytes sent";

/// Sends requests, each within its time.
#[derive(Debug, Clone)]
pub(crate) struct Transport {
    inner: ReqwestTransport,
    patience: Duration,
    seen: Arc<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    publications: AtomicUsize,
    under_way: AtomicUsize,
}

/// What requests one upload has sent.
#[derive(Debug, Clone)]
pub(crate) struct Witness(Arc<Seen>);

impl Witness {
    /// How many requests were sent that can make the object visible, with or without an answer.
    pub(crate) fn publications(&self) -> usize {
        self.0.publications.load(Ordering::SeqCst)
    }

    /// Waits until no request is under way, but not longer than `limit`.
    pub(crate) async fn quiet(&self, limit: Duration) {
        let until = tokio::time::Instant::now() + limit;
        while self.0.under_way.load(Ordering::SeqCst) > 0 && tokio::time::Instant::now() < until {
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// Counts a request for as long as it is alive.
struct UnderWay(Arc<Seen>);

impl UnderWay {
    fn new(seen: &Arc<Seen>) -> Self {
        seen.under_way.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(seen))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Transport {
    /// A client that trusts the system's authorities, or only those in `ca_file` (PEM).
    pub(crate) fn new(patience: Duration, ca_file: Option<&Path>) -> Result<Self> {
        let mut client = reqwest::Client::builder()
            .connect_timeout(patience.min(CONNECTING))
            // A redirect would take the signed request to another host.
            .redirect(reqwest::redirect::Policy::none());
        if let Some(path) = ca_file {
            let bad = |what: String| {
                Error::new(ErrorKind::Config, format!("ca_file {}", path.display()), what)
                    .with_hint("give a file with one or more certificates in PEM")
            };
            let pem = std::fs::read(path).map_err(|error| bad(error.to_string()))?;
            let authorities =
                reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| bad(error.to_string()))?;
            if authorities.is_empty() {
                return Err(bad("holds no certificate".to_owned()));
            }
            client = client.tls_certs_only(authorities);
        }
        let client = client.build().map_err(|error| {
            Error::new(ErrorKind::Config, "HTTPS client", "cannot be set up")
                .with_hint("check ca_file and the system's certificates")
                .with_source(error)
        })?;
        Ok(Self { inner: ReqwestTransport::new(client), patience, seen: Arc::default() })
    }

    /// The same connections, with a witness of their own for one upload.
    pub(crate) fn witnessed(&self) -> (Self, Witness) {
        let seen = Arc::default();
        let transport = Self { seen: Arc::clone(&seen), ..self.clone() };
        (transport, Witness(seen))
    }

    fn limit(&self, request: &Request<Buffer>) -> Duration {
        let sending = Duration::from_secs(request.body().len() as u64 / SLOWEST_BYTES_PER_SECOND);
        let answering = if operation(request) == "CompleteMultipartUpload" {
            self.patience.max(COMPLETION)
        } else {
            self.patience
        };
        answering + sending
    }
}

/// The S3 operation that `opendal` makes this request for.
fn operation(request: &Request<Buffer>) -> &'static str {
    request.extensions().get::<ServiceOperation>().map_or("", |operation| operation.0)
}

impl HttpTransport for Transport {
    async fn fetch(&self, request: Request<Buffer>) -> opendal::Result<Response<HttpBody>> {
        let limit = self.limit(&request);
        let operation = operation(&request);
        if matches!(operation, "PutObject" | "CompleteMultipartUpload") {
            self.seen.publications.fetch_add(1, Ordering::SeqCst);
        }
        let _under_way = UnderWay::new(&self.seen);
        let sent = matches!(operation, "PutObject" | "UploadPart")
            .then(|| (request.headers().get(CHECKSUM).cloned(), request.body().clone()));
        let response = match tokio::time::timeout(limit, self.inner.fetch(request)).await {
            Ok(response) => response?,
            Err(_) => return Err(silent("send http request", limit)),
        };
        if let Some((checksum, body)) = sent
            && response.status().is_success()
            && (checksum.is_none() || response.headers().get(CHECKSUM) != checksum.as_ref())
        {
            compare(response.headers(), body).await?;
        }
        let patience = self.patience;
        Ok(response.map(|body| {
            body.map_inner(|stream| {
                let chunks = futures::stream::unfold(Some(stream), move |stream| async move {
                    let mut stream = stream?;
                    match tokio::time::timeout(patience, stream.next()).await {
                        Ok(Some(chunk)) => Some((chunk, Some(stream))),
                        Ok(None) => None,
                        Err(_) => Some((Err(silent("read http response", patience)), None)),
                    }
                });
                Box::new(Box::pin(chunks))
            })
        }))
    }
}

/// Compares an ETag that looks like an MD5 with what was sent. Amazon's ETags of encrypted objects look
/// like one and are none, but Amazon repeats the checksum, and so never gets here.
async fn compare(headers: &HeaderMap, body: Buffer) -> opendal::Result<()> {
    let Some(etag) = headers.get(http::header::ETAG).and_then(|etag| etag.to_str().ok()) else {
        return Ok(());
    };
    let etag = etag.trim_matches('"').to_ascii_lowercase();
    if etag.len() != 32 || !etag.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(());
    }
    let digest = tokio::task::spawn_blocking(move || {
        let mut digest = Md5::new();
        for piece in body {
            digest.update(&piece);
        }
        digest.finalize()
    });
    let digest = digest.await.map_err(|error| {
        opendal::Error::new(opendal::ErrorKind::Unexpected, "the digest of a part was not finished")
            .set_source(error)
    })?;
    let wanted: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    if wanted == etag {
        return Ok(());
    }
    Err(opendal::Error::new(opendal::ErrorKind::Unexpected, OTHER_BYTES))
}

fn silent(doing: &str, limit: Duration) -> opendal::Error {
    let cause = io::Error::new(io::ErrorKind::TimedOut, format!("nothing for {} seconds", limit.as_secs()));
    opendal::Error::new(opendal::ErrorKind::Unexpected, doing).set_temporary().set_source(cause)
}
