//! TLS as libpq's settings ask for it.

use std::path::Path;
use std::sync::Arc;

use sha2::{Digest as _, Sha256, Sha384, Sha512};
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use tokio_rustls::rustls::crypto::{self, WebPkiSupportedAlgorithms};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::ParsedCertificate;
use tokio_rustls::rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

/// What is asked of a server's certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Check {
    /// Nothing: whoever answers is believed.
    Nothing,
    /// That a trusted authority signed it.
    Chain,
    /// That, and that it is for this host.
    Name,
}

/// How TLS is spoken. Certificates come from this file, PEM; there is one for every check.
///
/// # Errors
/// What is wrong with the file, for people.
pub(super) fn config(check: Check, roots: Option<&Path>) -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(crypto::aws_lc_rs::default_provider());
    let verifier = Verifier {
        check,
        roots: roots.map_or_else(|| Ok(RootCertStore::empty()), read)?,
        algorithms: provider.signature_verification_algorithms,
    };
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok(Arc::new(config))
}

fn read(path: &Path) -> Result<RootCertStore, String> {
    let fail = |error: &dyn std::fmt::Display| format!("{} cannot be read: {error}", path.display());
    let found = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let mut roots = RootCertStore::empty();
    for certificate in found.map_err(|error| fail(&error))? {
        roots.add(certificate).map_err(|error| fail(&error))?;
    }
    if roots.is_empty() { Err(fail(&"it holds no certificate")) } else { Ok(roots) }
}

/// Verifies as much as the settings ask for. Signatures of the handshake are verified always.
#[derive(Debug)]
struct Verifier {
    check: Check,
    roots: RootCertStore,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.check != Check::Nothing {
            let certificate = ParsedCertificate::try_from(end_entity)?;
            let algorithms = self.algorithms.all;
            verify_server_cert_signed_by_trust_anchor(
                &certificate,
                &self.roots,
                intermediates,
                now,
                algorithms,
            )?;
            if self.check == Check::Name {
                verify_server_name(&certificate, server_name)?;
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        crypto::verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        crypto::verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// What binds a login to this certificate: `tls-server-end-point` (RFC 5929, section 4.1), the hash of
/// the certificate by the algorithm that it was signed with, at least SHA-256. `None` where that is none
/// of the usual ones.
pub(super) fn binding(certificate: &[u8]) -> Option<Vec<u8>> {
    const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01];
    const ECDSA: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03];
    // Certificate ::= SEQUENCE { tbsCertificate, signatureAlgorithm SEQUENCE { OBJECT IDENTIFIER, ... }, ... }
    let (fields, _) = der(0x30, certificate)?;
    let (_, fields) = der(0x30, fields)?;
    let (algorithm, _) = der(0x30, fields)?;
    let (name, _) = der(0x06, algorithm)?;
    let (last, family) = name.split_last()?;
    match (family, last) {
        // MD5 and SHA-1 count as SHA-256.
        (RSA, 0x04 | 0x05 | 0x0b) | (ECDSA, 0x02) => Some(Sha256::digest(certificate).to_vec()),
        (RSA, 0x0c) | (ECDSA, 0x03) => Some(Sha384::digest(certificate).to_vec()),
        (RSA, 0x0d) | (ECDSA, 0x04) => Some(Sha512::digest(certificate).to_vec()),
        _ => None,
    }
}

/// The content of a DER value with this tag, and what follows it.
fn der(tag: u8, bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (found, rest) = bytes.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (len, rest) = match *first {
        short @ 0..=0x7f => (usize::from(short), rest),
        long @ 0x81..=0x84 => {
            let (len, rest) = rest.split_at_checked(usize::from(long & 0x0f))?;
            (len.iter().fold(0, |len, &byte| len << 8 | usize::from(byte)), rest)
        }
        _ => return None,
    };
    (*found == tag).then(|| rest.split_at_checked(len)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(algorithm: &[u8]) -> Vec<u8> {
        let value = |tag: u8, content: &[u8]| {
            let len = content.len() as u8;
            let head = if len < 0x80 { vec![tag, len] } else { vec![tag, 0x81, len] };
            [&head, content].concat()
        };
        let algorithm = value(0x30, &[value(6, algorithm), vec![5, 0]].concat());
        value(0x30, &[value(0x30, &[7; 150]), algorithm, value(3, &[0; 8])].concat())
    }

    #[test]
    fn the_hash_is_that_of_the_signature() {
        for (algorithm, len) in [
            (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x05][..], Some(32)),
            (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0b], Some(32)),
            (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0d], Some(64)),
            (&[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02], Some(32)),
            (&[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03], Some(48)),
            // Ed25519
            (&[0x2b, 0x65, 0x70], None),
        ] {
            let certificate = certificate(algorithm);
            assert_eq!(binding(&certificate).map(|hash| hash.len()), len, "{algorithm:x?}");
            for len in 0..certificate.len() {
                assert_eq!(binding(&certificate[..len]), None);
            }
        }
    }
}
