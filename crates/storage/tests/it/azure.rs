//! Azure Blob Storage, as Azurite speaks it.

use std::path::Path;
use std::sync::Arc;

use backup_core::testing::store_suite::{self, Place};
use backup_core::testing::{noise, put};
use backup_core::{BackupId, Context, ErrorKind, ObjectKey};
use storage::{AppendOnly, Credentials, Opened, Outcome, StorageConfig, probe};

use crate::proxy::{Harm, Plan, Proxy};
use crate::servers::{impatient, variable};

/// Enough for three blocks of 6 MiB, the last of them short.
const LARGE: usize = 13 << 20;
const ACCOUNT: &str = "devstoreaccount1";

fn key(name: &str) -> ObjectKey {
    name.parse().unwrap()
}

fn endpoint() -> String {
    variable("AZURITE_ENDPOINT")
}

/// A container of its own.
fn config(parameters: &str) -> StorageConfig {
    config_at(&format!("it-{}", BackupId::random()), &endpoint(), parameters)
}

fn config_at(container: &str, endpoint: &str, parameters: &str) -> StorageConfig {
    let url = format!("azblob://{container}/pre/fix?endpoint={endpoint}&part_memory=20{parameters}");
    StorageConfig::from_url(&url)
        .unwrap()
        .with_credentials(Credentials::new(ACCOUNT, variable("AZURITE_KEY")))
        .with_retrying(impatient())
}

/// Made, and tried on the way.
async fn made(config: &StorageConfig) -> Opened {
    let report = probe(&Context::new(), config, true).await.unwrap();
    assert!(report.created && report.problem.is_none(), "{report:#?}");
    storage::open(config).unwrap()
}

fn place(opened: &Opened) -> Place {
    Place::new(Arc::clone(&opened.sink), Arc::clone(&opened.source), Arc::clone(&opened.remover))
        .with_large(LARGE)
}

/// It obeys `If-None-Match: *` in a race too, as Azure does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn azure_keeps_the_promises_of_a_sink() {
    store_suite::sink(&place(&made(&config("&put_if_absent=true")).await)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn azure_keeps_the_promises_of_a_source_and_a_remover() {
    let place = place(&made(&config("")).await);
    store_suite::source(&place).await;
    store_suite::remover(&place).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn azure_probe_tells_what_the_server_does() {
    let config = config("");
    assert_eq!(probe(&Context::new(), &config, false).await.unwrap_err().kind(), ErrorKind::NotFound);
    let opened = storage::open(&config).unwrap();
    for error in [
        put(opened.sink.as_ref(), &key("x"), &[b"x"]).await.unwrap_err(),
        put(opened.sink.as_ref(), &key("x"), &[&noise(LARGE, 1)]).await.unwrap_err(),
        opened.source.list("").await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Config, "{error:?}");
    }
    let report = probe(&Context::new(), &config, true).await.unwrap();
    assert!(report.problem.is_none(), "{report:#?}");
    for check in [
        "put",
        "get",
        "range",
        "list",
        "missing",
        "multipart",
        "refuse-overwrite",
        "checksum",
        "overwrite",
        "delete",
        "clock",
    ] {
        assert_eq!(report.outcome(check), Some(Outcome::Yes), "{check}: {report:#?}");
    }
    assert_ne!(report.outcome("lock"), Some(Outcome::Yes), "{report:#?}");
    assert_eq!(report.append_only, AppendOnly::No);
    assert!(report.advice.as_ref().unwrap().contains("immutability policy"));
    assert!(report.left.is_empty() && opened.source.list("").await.unwrap().is_empty(), "{report:#?}");
}

#[tokio::test]
async fn azure_wrong_keys_are_denied_and_not_repeated() {
    let config = config("").with_credentials(Credentials::new(ACCOUNT, "aHVudGVyMg==".to_owned()));
    let error = probe(&Context::new(), &config, true).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error:?}");
    assert!(!format!("{error} {error:?}").contains("aHVudGVyMg"));
}

/// A key, a connection string and a signature for others, each from a file of its own.
#[tokio::test]
async fn azure_credentials_come_from_files() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        std::fs::write(folder.path().join(name), format!("{text}\n")).unwrap();
        folder.path().join(name).display().to_string()
    };
    let (endpoint, account_key) = (endpoint(), variable("AZURITE_KEY"));
    let container = format!("it-{}", BackupId::random());
    let open = |parameters: &str| {
        let url = format!("azblob://{container}?{parameters}");
        StorageConfig::from_url(&url).unwrap().with_retrying(impatient())
    };
    let by_key =
        open(&format!("account={ACCOUNT}&endpoint={endpoint}&key_file={}", file("key", &account_key)));
    let opened = made(&by_key).await;
    put(opened.sink.as_ref(), &key("a"), &[b"a"]).await.unwrap();

    let string = format!("AccountName={ACCOUNT};AccountKey={account_key};BlobEndpoint={endpoint}");
    let by_string = open(&format!("connection_string_file={}", file("string", &string)));
    assert_eq!(storage::open(&by_string).unwrap().source.list("").await.unwrap().len(), 1);

    // Read, create, write and list, but not delete: what a host needs.
    let by_signature = |permissions: &str| {
        let signature = signature(&container, permissions, &account_key, folder.path());
        open(&format!("endpoint={endpoint}&sas_file={}", file(&format!("sas-{permissions}"), &signature)))
    };
    let report = probe(&Context::new(), &by_signature("rcwl"), false).await.unwrap();
    let shown = format!("{report:#?}");
    assert!(report.problem.is_none(), "{shown}");
    assert_eq!(report.outcome("delete"), Some(Outcome::Denied), "{shown}");
    assert_eq!(report.outcome("overwrite"), Some(Outcome::Yes), "{shown}");
    assert_eq!(report.append_only, AppendOnly::No, "{shown}");
    assert!(!report.left.is_empty() && !shown.contains("sig="), "{shown}");
    // Without w nothing can be replaced, and nothing large can be stored.
    let report = probe(&Context::new(), &by_signature("rcl"), false).await.unwrap();
    assert_eq!(report.outcome("put"), Some(Outcome::Yes), "{report:#?}");
    assert_eq!(report.outcome("multipart"), Some(Outcome::Denied), "{report:#?}");
    assert_eq!(report.problem.map(|error| error.kind()), Some(ErrorKind::Denied));
}

/// A signature for one container, made by openssl.
fn signature(container: &str, permissions: &str, account_key: &str, folder: &Path) -> String {
    let version = "2021-12-02";
    let expiry = "2099-01-01T00:00:00Z";
    let resource = format!("/blob/{ACCOUNT}/{container}");
    // Permissions, start, expiry, resource, identifier, IP, protocol, version, kind, snapshot, encryption scope, and
    // five headers of answers.
    let text = format!("{permissions}\n\n{expiry}\n{resource}\n\n\n\n{version}\nc\n\n\n\n\n\n\n");
    std::fs::write(folder.join("text"), text).unwrap();
    let script = format!(
        "openssl dgst -sha256 -mac HMAC -macopt hexkey:$(echo {account_key} | base64 -d | od -An -tx1 | tr -d ' \\n') \
         -binary text | base64"
    );
    let done = std::process::Command::new("sh").args(["-c", &script]).current_dir(folder).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let made = String::from_utf8(done.stdout).unwrap();
    let query = [("sv", version), ("sr", "c"), ("sp", permissions), ("se", expiry), ("sig", made.trim())];
    url::form_urlencoded::Serializer::new(String::new()).extend_pairs(query).finish()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn azure_uploads_survive_a_broken_connection() {
    let bytes = noise(LARGE, 6);
    let chunks: Vec<&[u8]> = bytes.chunks(1 << 20).collect();
    let container = format!("it-{}", BackupId::random());
    made(&config_at(&container, &endpoint(), "")).await;
    for (n, harm) in [Harm::Refuse, Harm::CutRequest, Harm::LoseAnswer, Harm::Busy].into_iter().enumerate() {
        for (what, at) in [("comp=block&", 0), ("comp=block&", 2), ("comp=blocklist", 0)] {
            let plan = Plan { what, at, times: 1, harm };
            let proxy = Proxy::start(&endpoint(), plan).await;
            let proxied = format!("{}/{ACCOUNT}", proxy.endpoint);
            let opened = storage::open(&config_at(&container, &proxied, "")).unwrap();
            let object = key(&format!("db/{n}/{what}/{at}").replace('&', ""));
            put(opened.sink.as_ref(), &object, &chunks)
                .await
                .unwrap_or_else(|e| panic!("{harm:?} {what} {at}: {e:?}"));
            let got = store_suite::read(opened.source.as_ref(), &object, None, None).await.unwrap();
            assert!(got == bytes, "{harm:?} at {what} {at}");
            assert_eq!(proxy.harmed().len(), 1, "{harm:?} at {what} {at}");
        }
    }
}
