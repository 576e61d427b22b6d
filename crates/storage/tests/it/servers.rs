//! The servers that `scripts/test` starts.

use std::time::Duration;

use backup_core::BackupId;
use reqsign_aws_v4::{RequestSigner, StaticCredentialProvider};
use reqsign_core::{Context, Signer};
use storage::{Credentials, Opened, Retrying, StorageConfig};

/// One server and its bucket.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    pub(crate) endpoint: String,
    pub(crate) access_key: String,
    pub(crate) secret_key: String,
    pub(crate) bucket: String,
}

/// The value of a variable that `scripts/test` sets.
pub(crate) fn variable(name: &str) -> String {
    let name = format!("STRONGROOM_TEST_{name}");
    std::env::var(&name).unwrap_or_else(|_| panic!("{name} is not set: run scripts/test"))
}

/// Ceph's gateway. It refuses bodies whose MD5 is not what `Content-MD5` says, and knows no other checksum.
pub(crate) fn rgw() -> Server {
    Server::from_environment("RGW")
}

/// A small server over a folder, which compares no checksum of parts.
pub(crate) fn s3s() -> Server {
    Server::from_environment("S3S")
}

/// Pauses short enough for tests.
pub(crate) fn impatient() -> Retrying {
    Retrying {
        times: 2,
        min_delay: Duration::from_millis(10),
        max_delay: Duration::from_millis(50),
        patience: Duration::from_secs(20),
    }
}

impl Server {
    fn from_environment(name: &str) -> Self {
        let get = |what: &str| variable(&format!("{name}_{what}"));
        Self {
            endpoint: get("ENDPOINT"),
            access_key: get("ACCESS_KEY"),
            secret_key: get("SECRET_KEY"),
            bucket: get("BUCKET"),
        }
    }

    /// The same server, spoken to through another address.
    pub(crate) fn through(&self, endpoint: String) -> Self {
        Self { endpoint, ..self.clone() }
    }

    /// A prefix of its own in the bucket, with more parameters.
    pub(crate) fn config(&self, parameters: &str) -> StorageConfig {
        self.config_at(&format!("it-{}", BackupId::random()), parameters)
    }

    pub(crate) fn config_at(&self, prefix: &str, parameters: &str) -> StorageConfig {
        let url = format!("s3://{}/{prefix}?endpoint={}{parameters}", self.bucket, self.endpoint);
        StorageConfig::from_url(&url)
            .expect("a valid destination")
            .with_credentials(Credentials::new(self.access_key.clone(), self.secret_key.clone()))
            .with_retrying(impatient())
    }

    pub(crate) fn open(&self, parameters: &str) -> Opened {
        storage::open(&self.config(parameters)).expect("open")
    }

    /// One signed request of any kind; the status.
    pub(crate) async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> u16 {
        let provider = StaticCredentialProvider::new(&self.access_key, &self.secret_key);
        let signer = Signer::new(Context::new(), provider, RequestSigner::new("s3", "us-east-1"));
        let mut request = http::Request::builder().method(method).uri(format!("{}{path}", self.endpoint));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (mut parts, body) = request.body(body.to_owned()).unwrap().into_parts();
        signer.sign(&mut parts, None).await.unwrap();
        parts.headers.remove("host");
        let request = reqwest::Request::try_from(http::Request::from_parts(parts, body)).unwrap();
        reqwest::Client::new().execute(request).await.unwrap().status().as_u16()
    }
}
