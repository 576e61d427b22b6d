//! TLS with verified certificates.

use std::path::Path;
use std::sync::Arc;

use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};

use super::config::TlsFiles;
use super::error::RedisError;

/// A connector that trusts the certificates of `sslrootcert`, or the system's without it.
pub(super) fn connector(files: &TlsFiles) -> Result<TlsConnector, RedisError> {
    let fail = |what: &str, path: &Path, error: &dyn std::fmt::Display| {
        RedisError::Tls(format!("{what} {} cannot be read: {error}", path.display()))
    };
    let certificates = |path: &Path| -> Result<Vec<CertificateDer<'static>>, RedisError> {
        let found = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
        let found: Vec<_> = found.map_err(|error| fail("certificate", path, &error))?;
        if found.is_empty() { Err(fail("certificate", path, &"it holds none")) } else { Ok(found) }
    };
    let mut roots = RootCertStore::empty();
    match &files.roots {
        Some(path) => {
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|error| fail("certificate", path, &error))?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                return Err(RedisError::Tls(
                    "this machine has no trusted certificates; set sslrootcert".to_owned(),
                ));
            }
        }
    }
    let provider = Arc::new(crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| RedisError::Tls(error.to_string()))?
        .with_root_certificates(roots);
    let config = match (&files.certificate, &files.key) {
        (Some(certificate), Some(key)) => {
            let chain = certificates(certificate)?;
            let key = PrivateKeyDer::from_pem_file(key).map_err(|error| fail("key", key, &error))?;
            builder.with_client_auth_cert(chain, key).map_err(|error| RedisError::Tls(error.to_string()))?
        }
        _ => builder.with_no_client_auth(),
    };
    Ok(TlsConnector::from(Arc::new(config)))
}
