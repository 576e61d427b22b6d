//! The HTTP client below `opendal`: a time limit for each request, a checksum that the server itself
//! verifies, and a look at what the server says it received.
//!
//! Every part and every object of one part is sent with its CRC-32C (`x-amz-checksum-crc32c`). Amazon
//! verifies it and repeats it in its answer. Other servers often know nothing of it, so to them the
//! same bytes are sent with their MD5 too (`Content-MD5`, RFC 1864), which is as old as S3. A server
//! that received other bytes refuses them with `BadDigest`, and nothing was stored. That is not tried
//! again: behind TLS it is memory that changed, of ours or of the server's, and not the line.
//!
//! A server that ignores both answers all the same, which [`proof`] is for.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use backup_core::Result;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use futures::StreamExt as _;
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use md5::{Digest as _, Md5};
use opendal::raw::ServiceOperation;
use opendal::{Buffer, HttpBody, HttpTransport};
use opendal_http_transport_reqwest::ReqwestTransport;

use crate::s3::proof::{CHECKSUM, Proof};

/// How long a server may put the parts of a large object together, or copy a part, without a word.
const COMPLETION: Duration = Duration::from_secs(15 * 60);

/// How often it is looked whether requests have ended.
const LOOK: Duration = Duration::from_millis(20);
/// The header with the MD5 of a body, in base64.
const CONTENT_MD5: &str = "content-md5";
/// Up to this length a digest is made at once and not on a thread of its own.
const SHORT: usize = 16 * 1024;
/// What is said of an answer that does not fit; `Trouble` knows it by its code.
const OTHER_BYTES: &str = "code: \"BadDigest\", the server answered for other bytes than were sent";

/// The header that names the region of a bucket to whom asks in another.
const REGION: &str = "x-amz-bucket-region";

/// Sends requests, each within its time.
#[derive(Debug, Clone)]
pub(crate) struct Transport {
    inner: ReqwestTransport,
    patience: Duration,
    /// Whether the server is sent the MD5 of bodies.
    content_md5: bool,
    seen: Arc<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    publications: AtomicUsize,
    under_way: AtomicUsize,
    /// Bodies whose MD5 the server gave as their ETag.
    confirmed: AtomicUsize,
    /// Bodies for which it gave something that looks like an MD5 and is not theirs.
    doubted: AtomicUsize,
}

/// What requests one upload has sent.
#[derive(Debug, Clone)]
pub(crate) struct Witness(Arc<Seen>);

impl Witness {
    /// How many requests were sent that can make the object visible, with or without an answer.
    pub(crate) fn publications(&self) -> usize {
        self.0.publications.load(Ordering::SeqCst)
    }

    /// Whether the server answered with an ETag that is either no MD5 or that of other bytes.
    pub(crate) fn in_doubt(&self) -> bool {
        self.0.doubted.load(Ordering::SeqCst) > 0
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
    /// A client that trusts the system's authorities, or only those in `ca_file` (PEM). `content_md5`
    /// says whether the server is sent that header: needless where it is known to verify the CRC-32C.
    pub(crate) fn new(patience: Duration, ca_file: Option<&Path>, content_md5: bool) -> Result<Self> {
        let client = crate::client::client(patience, ca_file)?;
        Ok(Self { inner: ReqwestTransport::new(client), patience, content_md5, seen: Arc::default() })
    }

    /// The same connections, with a witness of their own for one upload.
    pub(crate) fn witnessed(&self) -> (Self, Witness) {
        let seen = Arc::default();
        let transport = Self { seen: Arc::clone(&seen), ..self.clone() };
        (transport, Witness(seen))
    }

    fn limit(&self, request: &Request<Buffer>) -> Duration {
        let sending = crate::client::sending(request.body().len());
        let answering = if matches!(operation(request), "CompleteMultipartUpload" | "UploadPartCopy") {
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
    async fn fetch(&self, mut request: Request<Buffer>) -> opendal::Result<Response<HttpBody>> {
        let limit = self.limit(&request);
        let operation = operation(&request);
        let _under_way = UnderWay::new(&self.seen);
        let carries = matches!(operation, "PutObject" | "UploadPart");
        let bodiless = request.method() == Method::HEAD;
        let body = carries.then(|| request.body().clone());
        let checksum = request.headers().get(CHECKSUM).cloned();
        let mut digest = None;
        if let (Some(body), true) = (&body, self.content_md5) {
            let md5 = md5_of(body.clone()).await?;
            // Added after signing: the signature need not cover it, and a server that verifies it
            // compares it with the body.
            if let Ok(value) = HeaderValue::from_str(&BASE64_STANDARD.encode(md5)) {
                request.headers_mut().insert(CONTENT_MD5, value);
            }
            digest = Some(md5);
        }
        if matches!(operation, "PutObject" | "CompleteMultipartUpload") {
            self.seen.publications.fetch_add(1, Ordering::SeqCst);
        }
        let response = match tokio::time::timeout(limit, self.inner.fetch(request)).await {
            Ok(response) => response?,
            Err(_) => return Err(silent("send http request", limit)),
        };
        // An answer to HEAD has no document that would say what is wrong.
        if bodiless
            && matches!(response.status().as_u16(), 301 | 307 | 400)
            && let Some(region) = response.headers().get(REGION).and_then(|region| region.to_str().ok())
        {
            let what = format!("code: \"PermanentRedirect\", the bucket is in the region {region}");
            return Err(opendal::Error::new(opendal::ErrorKind::Unexpected, what));
        }
        if let Some(body) = body
            && response.status().is_success()
        {
            self.judge(response.headers(), checksum.as_ref(), digest, body).await?;
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

impl Transport {
    /// Refuses an answer that is about other bytes than `body`.
    async fn judge(
        &self,
        answer: &HeaderMap,
        checksum: Option<&HeaderValue>,
        digest: Option<[u8; 16]>,
        body: Buffer,
    ) -> opendal::Result<()> {
        let etag = match Proof::of(answer, checksum) {
            Proof::SameBytes | Proof::Nothing => return Ok(()),
            Proof::OtherBytes => return Err(other_bytes()),
            Proof::Etag(etag) => etag,
        };
        let digest = match digest {
            Some(digest) => digest,
            None => md5_of(body).await?,
        };
        let (count, contrary) = if digest == etag {
            (&self.seen.confirmed, &self.seen.doubted)
        } else {
            (&self.seen.doubted, &self.seen.confirmed)
        };
        count.fetch_add(1, Ordering::SeqCst);
        // One that is the MD5 shows that all are, so that the one that is not tells of other bytes.
        if contrary.load(Ordering::SeqCst) > 0 { Err(other_bytes()) } else { Ok(()) }
    }
}

async fn md5_of(body: Buffer) -> opendal::Result<[u8; 16]> {
    let short = body.len() <= SHORT;
    let hash = move || {
        let mut digest = Md5::new();
        for piece in body {
            digest.update(&piece);
        }
        digest.finalize().into()
    };
    if short {
        return Ok(hash());
    }
    tokio::task::spawn_blocking(hash).await.map_err(|error| {
        opendal::Error::new(opendal::ErrorKind::Unexpected, "the digest of a part was not finished")
            .set_source(error)
    })
}

fn other_bytes() -> opendal::Error {
    opendal::Error::new(opendal::ErrorKind::Unexpected, OTHER_BYTES)
}

fn silent(doing: &str, limit: Duration) -> opendal::Error {
    let cause = io::Error::new(io::ErrorKind::TimedOut, format!("nothing for {} seconds", limit.as_secs()));
    opendal::Error::new(opendal::ErrorKind::Unexpected, doing).set_temporary().set_source(cause)
}
