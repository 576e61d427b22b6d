//! The HTTP client of every place that speaks HTTP.

use std::path::Path;
use std::time::Duration;

use backup_core::{Error, ErrorKind, Result};

/// How long a connection may take to be made.
const CONNECTING: Duration = Duration::from_secs(15);
/// The slowest line that is still taken for a line: a body may take this long per byte.
const SLOWEST_BYTES_PER_SECOND: u64 = 32 * 1024;

/// How long a body of `len` bytes may take to be sent.
pub(crate) fn sending(len: usize) -> Duration {
    Duration::from_secs(len as u64 / SLOWEST_BYTES_PER_SECOND)
}

/// A client that trusts the system's authorities, or only those in `ca_file` (PEM).
pub(crate) fn client(patience: Duration, ca_file: Option<&Path>) -> Result<reqwest::Client> {
    client_with(patience, ca_file, |client| client)
}

/// The same, to which `more` adds.
pub(crate) fn client_with(
    patience: Duration,
    ca_file: Option<&Path>,
    more: impl FnOnce(reqwest::ClientBuilder) -> reqwest::ClientBuilder,
) -> Result<reqwest::Client> {
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
    more(client).build().map_err(|error| {
        Error::new(ErrorKind::Config, "HTTPS client", "cannot be set up")
            .with_hint("check ca_file and the system's certificates")
            .with_source(error)
    })
}
