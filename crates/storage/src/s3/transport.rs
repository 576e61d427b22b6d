//! The HTTP client below `opendal`: one time limit for each request.

use std::io;
use std::path::Path;
use std::time::Duration;

use backup_core::{Error, ErrorKind, Result};
use futures::StreamExt as _;
use http::{Request, Response};
use opendal::raw::ServiceOperation;
use opendal::{Buffer, HttpBody, HttpTransport};
use opendal_http_transport_reqwest::ReqwestTransport;

/// The slowest line that is still taken for a line: a body may take this long per byte.
const SLOWEST_BYTES_PER_SECOND: u64 = 32 * 1024;
/// How long a server may put the parts of a large object together without a word.
const COMPLETION: Duration = Duration::from_secs(15 * 60);

/// Sends requests, each within its time.
#[derive(Debug, Clone)]
pub(crate) struct Transport {
    inner: ReqwestTransport,
    patience: Duration,
}

impl Transport {
    /// A client that trusts the system's authorities, or only those in `ca_file` (PEM).
    pub(crate) fn new(patience: Duration, ca_file: Option<&Path>) -> Result<Self> {
        let mut client = reqwest::Client::builder()
            .connect_timeout(patience)
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
        Ok(Self { inner: ReqwestTransport::new(client), patience })
    }

    fn limit(&self, request: &Request<Buffer>) -> Duration {
        let sending = Duration::from_secs(request.body().len() as u64 / SLOWEST_BYTES_PER_SECOND);
        let operation = request.extensions().get::<ServiceOperation>();
        let answering = if operation.is_some_and(|operation| operation.0 == "CompleteMultipartUpload") {
            self.patience.max(COMPLETION)
        } else {
            self.patience
        };
        answering + sending
    }
}

impl HttpTransport for Transport {
    async fn fetch(&self, request: Request<Buffer>) -> opendal::Result<Response<HttpBody>> {
        let limit = self.limit(&request);
        let response = match tokio::time::timeout(limit, self.inner.fetch(request)).await {
            Ok(response) => response?,
            Err(_) => return Err(silent("send http request", limit)),
        };
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

fn silent(doing: &str, limit: Duration) -> opendal::Error {
    let cause = io::Error::new(io::ErrorKind::TimedOut, format!("nothing for {} seconds", limit.as_secs()));
    opendal::Error::new(opendal::ErrorKind::Unexpected, doing).set_temporary().set_source(cause)
}
