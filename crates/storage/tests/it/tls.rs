//! Whom we trust over TLS.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use backup_core::ErrorKind;
use backup_core::testing::{noise, put};
use storage::Opened;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::servers::s3s;

fn openssl(folder: &Path, arguments: &str) {
    let output = Command::new("openssl").args(arguments.split(' ')).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Two authorities, and a certificate for 127.0.0.1 from the first.
pub(crate) fn certificates(folder: &Path) {
    for name in ["ca", "other"] {
        openssl(
            folder,
            &format!(
                "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN={name} \
                 -keyout {name}.key -out {name}.pem"
            ),
        );
    }
    std::fs::write(folder.join("names"), "subjectAltName=IP:127.0.0.1\n").unwrap();
    openssl(
        folder,
        "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=s3 -keyout s3.key -out s3.csr",
    );
    openssl(
        folder,
        "x509 -req -in s3.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out s3.pem",
    );
}

/// Puts TLS in front of a server and returns its address.
pub(crate) async fn with_tls(folder: &Path, endpoint: &str) -> String {
    let chain = vec![CertificateDer::from_pem_file(folder.join("s3.pem")).unwrap()];
    let key = PrivateKeyDer::from_pem_file(folder.join("s3.key")).unwrap();
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let upstream = endpoint.trim_start_matches("http://").to_owned();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (acceptor, upstream) = (acceptor.clone(), upstream.clone());
            tokio::spawn(async move {
                // A handshake that the client breaks off is what one of the tests is for.
                let Ok(mut client) = acceptor.accept(client).await else { return };
                let mut server = TcpStream::connect(&upstream).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    format!("https://{address}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_named_authority_is_trusted() {
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path());
    let server = s3s().through(with_tls(folder.path(), &s3s().endpoint).await);
    let open = |ca: &str| -> Opened {
        let file = folder.path().join(ca).display().to_string();
        server.open(&if ca.is_empty() { String::new() } else { format!("&ca_file={file}") })
    };
    let trusted = open("ca.pem");
    let key = "db/object".parse().unwrap();
    put(trusted.sink.as_ref(), &key, &[&noise(100_000, 1)]).await.unwrap();
    assert_eq!(trusted.source.list("").await.unwrap().len(), 1);
    // The system's authorities do not know ours, and another one of our own is not ours either.
    for ca in ["", "other.pem"] {
        let error = open(ca).source.list("").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{error:?}");
        assert!(error.what().contains("certificate") && error.hint().unwrap().contains("ca_file"), "{error}");
    }
}

#[tokio::test]
async fn a_server_without_tls_is_not_spoken_to() {
    let plain = s3s().endpoint.replace("http://", "https://");
    let error = s3s().through(plain).open("").source.list("").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
}
