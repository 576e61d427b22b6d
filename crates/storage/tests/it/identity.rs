//! Credentials that a machine gives: IMDSv2, containers, temporary sessions, and none at all.

use std::process::Command;

use storage::{Credentials, StorageConfig};

use crate::peer::{Asked, Peer, Said};
use crate::servers::impatient;

const PEER: &str = "STRONGROOM_TEST_PEER";
const KEYS: &str = "{\"Code\":\"Success\",\"LastUpdated\":\"2026-01-01T00:00:00Z\",\"Type\":\"AWS-HMAC\",\
    \"AccessKeyId\":\"AKIDTEST\",\"SecretAccessKey\":\"secret\",\"Token\":\"session-token\",\
    \"Expiration\":\"2099-01-01T00:00:00Z\"}";
const EMPTY: &str =
    "<ListBucketResult><Name>bucket</Name><IsTruncated>false</IsTruncated></ListBucketResult>";

/// A machine's metadata, a container's, those of Google and Azure, and the stores themselves.
fn answer(asked: &Asked) -> Said {
    let ok = |body: &str| Some(("200 OK".to_owned(), body.as_bytes().to_vec()));
    let no = || Some(("401 Unauthorized".to_owned(), Vec::new()));
    let line = asked.line();
    let path = line.split(' ').nth(1).unwrap();
    match path.split('?').next().unwrap() {
        "/latest/api/token" if line.starts_with("PUT") => ok("imds-token"),
        // Version 2 alone: nothing without its token.
        path if path.starts_with("/latest/meta-data/") => match asked.header("x-aws-ec2-metadata-token") {
            Some("imds-token") if path.ends_with('/') => ok("role"),
            Some("imds-token") => ok(KEYS),
            _ => no(),
        },
        "/container" if asked.header("authorization") == Some("container-token") => ok(KEYS),
        "/computeMetadata/v1/instance/service-accounts/default/token"
            if asked.header("metadata-flavor") == Some("Google") =>
        {
            ok("{\"access_token\":\"session-token\",\"expires_in\":3599,\"token_type\":\"Bearer\"}")
        }
        "/metadata/identity/oauth2/token" if asked.header("metadata") == Some("true") => {
            ok("{\"access_token\":\"session-token\",\"expires_in\":\"3599\",\"token_type\":\"Bearer\"}")
        }
        "/token"
            if asked.body.starts_with(
                b"grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion=",
            ) =>
        {
            ok("{\"access_token\":\"session-token\",\"expires_in\":3599,\"token_type\":\"Bearer\"}")
        }
        "/storage/v1/b/bucket/o" => ok("{}"),
        "/account1/bucket" => ok("<EnumerationResults><Blobs/><NextMarker/></EnumerationResults>"),
        path if path.starts_with("/bucket") => ok(EMPTY),
        _ => no(),
    }
}

/// Run in other processes by the tests below.
#[tokio::test]
#[ignore = "run in an environment of its own by the other tests"]
async fn a_listing() {
    let url = std::env::var(PEER).unwrap();
    let config = StorageConfig::from_url(&url).unwrap().with_retrying(impatient());
    assert!(storage::open(&config).unwrap().source.list("").await.unwrap().is_empty());
}

/// Lists in a process whose environment has nothing but these variables; what the peer was asked.
async fn listed(
    url: impl Fn(&str) -> String,
    variables: impl Fn(&str) -> Vec<(&'static str, String)>,
) -> Vec<Asked> {
    let peer = Peer::start(answer).await;
    let home = tempfile::tempdir().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "identity::a_listing", "--ignored"]).env_clear().env("HOME", home.path());
    child.env(PEER, url(&peer.endpoint)).envs(variables(&peer.endpoint));
    let output = tokio::task::spawn_blocking(move || child.output().unwrap()).await.unwrap();
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && shown.contains("1 passed"), "{shown}\n{:#?}", peer.asked());
    peer.asked()
}

fn s3(endpoint: &str) -> String {
    format!("s3://bucket?endpoint={endpoint}&region=eu-1")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_role_of_a_machine_comes_through_imds_version_2() {
    let asked = listed(s3, |peer| vec![("AWS_EC2_METADATA_SERVICE_ENDPOINT", peer.to_owned())]).await;
    assert!(asked[0].line().starts_with("PUT /latest/api/token"), "{asked:#?}");
    let last = asked.last().unwrap();
    assert_eq!(last.header("x-amz-security-token"), Some("session-token"), "{last:?}");
    assert!(last.header("authorization").unwrap().contains("Credential=AKIDTEST/"), "{last:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_role_of_a_container_comes_from_its_address() {
    let asked = listed(s3, |peer| {
        vec![
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI", format!("{peer}/container")),
            ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "container-token".to_owned()),
            ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
        ]
    })
    .await;
    let last = asked.last().unwrap();
    assert_eq!(last.header("x-amz-security-token"), Some("session-token"), "{last:?}");
}

#[tokio::test]
async fn a_session_s_token_goes_with_every_request() {
    let peer = Peer::start(answer).await;
    let credentials =
        Credentials::new("AKIDTEST", "secret".to_owned()).with_session_token("session-token".to_owned());
    let config = StorageConfig::from_url(&s3(&peer.endpoint)).unwrap();
    let opened = storage::open(&config.with_credentials(credentials).with_retrying(impatient())).unwrap();
    opened.source.list("").await.unwrap();
    opened.remover.sweep_unfinished(jiff::Timestamp::now()).await.unwrap();
    let asked = peer.asked();
    assert!(asked.len() >= 2);
    for asked in asked {
        assert_eq!(asked.header("x-amz-security-token"), Some("session-token"), "{asked:?}");
        assert!(asked.header("authorization").unwrap().contains("/eu-1/s3/"), "{asked:?}");
    }
}

#[tokio::test]
async fn anonymous_requests_carry_no_signature() {
    let peer = Peer::start(answer).await;
    for url in [
        format!("s3://bucket?endpoint={}&anonymous=true", peer.endpoint),
        format!("gs://bucket?endpoint={}&anonymous=true", peer.endpoint),
        format!("azblob://bucket?endpoint={}/account1&anonymous=true", peer.endpoint),
    ] {
        let config = StorageConfig::from_url(&url).unwrap().with_retrying(impatient());
        storage::open(&config).unwrap().source.list("").await.unwrap();
    }
    let asked = peer.asked();
    assert_eq!(asked.len(), 3, "{asked:#?}");
    assert!(asked.iter().all(|asked| asked.header("authorization").is_none()), "{asked:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_identity_of_a_machine_of_azure_s() {
    let url = |peer: &str| format!("azblob://bucket?endpoint={peer}/account1");
    let asked = listed(url, |peer| vec![("AZURE_POD_IDENTITY_AUTHORITY_HOST", peer.to_owned())]).await;
    assert!(asked[0].line().contains("resource=https%3A%2F%2Fstorage.azure.com%2F"), "{asked:#?}");
    assert_eq!(asked.last().unwrap().header("authorization"), Some("Bearer session-token"), "{asked:#?}");
}

fn gs(endpoint: &str) -> String {
    format!("gs://bucket?endpoint={endpoint}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_account_of_a_machine_of_google_s() {
    let host = |peer: &str| vec![("GCE_METADATA_HOST", peer.trim_start_matches("http://").to_owned())];
    let asked = listed(gs, host).await;
    assert_eq!(asked.last().unwrap().header("authorization"), Some("Bearer session-token"), "{asked:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_account_s_key_is_exchanged_for_a_token() {
    let folder = tempfile::tempdir().unwrap();
    let line = "genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out key.pem";
    let made = Command::new("openssl").args(line.split(' ')).current_dir(folder.path()).output().unwrap();
    assert!(made.status.success());
    let key = std::fs::read_to_string(folder.path().join("key.pem")).unwrap();
    let file = folder.path().join("account.json");
    let asked = listed(gs, |peer| {
        let account = serde_json::json!({
            "type": "service_account", "client_email": "me@project.iam", "private_key": key,
            "private_key_id": "k", "token_uri": format!("{peer}/token"),
        });
        std::fs::write(&file, account.to_string()).unwrap();
        vec![("GOOGLE_APPLICATION_CREDENTIALS", file.display().to_string())]
    })
    .await;
    assert_eq!(asked.len(), 2, "{asked:#?}");
    assert_eq!(asked[1].header("authorization"), Some("Bearer session-token"), "{asked:#?}");
}
