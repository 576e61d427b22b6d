//! What S3 servers really do.

use std::sync::Arc;

use backup_core::testing::store_suite::{self, Place};
use backup_core::testing::{noise, put};
use backup_core::{ErrorKind, ObjectKey};
use futures::TryStreamExt as _;
use jiff::{SignedDuration, Timestamp};
use storage::{Credentials, Opened, StorageConfig};

use crate::proxy::{Plan, Proxy};
use crate::servers::{impatient, rgw, s3s};

/// Enough for three parts of 6 MiB, the last of them short.
const LARGE: usize = 13 << 20;
/// Short parts: of 6 MiB.
const SMALL_PARTS: &str = "&part_memory=20";

fn place(opened: &Opened) -> Place {
    Place::new(Arc::clone(&opened.sink), Arc::clone(&opened.source), Arc::clone(&opened.remover))
        .with_large(LARGE)
}

fn key(name: &str) -> ObjectKey {
    name.parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ceph_keeps_the_promises_of_a_sink() {
    store_suite::sink(&place(&rgw().open(SMALL_PARTS))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ceph_keeps_the_promises_of_a_source_and_a_remover() {
    let place = place(&rgw().open(SMALL_PARTS));
    store_suite::source(&place).await;
    store_suite::remover(&place).await;
}

/// A page has 1,000 names. They are put there by plain requests, one each.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ceph_lists_more_than_a_page() {
    let server = rgw();
    let prefix = format!("it-{}", backup_core::BackupId::random());
    let plain = opendal::services::S3::default()
        .bucket(&server.bucket)
        .root(&format!("/{prefix}"))
        .endpoint(&server.endpoint)
        .region("us-east-1")
        .access_key_id(&server.access_key)
        .secret_access_key(&server.secret_key);
    let transport = opendal_http_transport_reqwest::ReqwestTransport::new(reqwest::Client::new());
    let context =
        opendal::OperationContext::new().with_http_transport(opendal::HttpTransporter::new(transport));
    let plain = opendal::Operator::new(plain).unwrap().with_context(context);
    let names: Vec<String> = (0..1_010).map(|n| format!("many/{n:05}")).collect();
    futures::stream::iter(names.iter().map(Ok))
        .try_for_each_concurrent(16, async |name| plain.write(name, "x").await.map(drop))
        .await
        .unwrap();
    let source = storage::open(&server.config_at(&prefix, "")).unwrap().source;
    for prefix in ["", "many/"] {
        let listed = source.list(prefix).await.unwrap();
        assert!(listed.iter().map(|object| object.key.as_str()).eq(names.iter().map(String::as_str)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3s_keeps_the_promises_of_every_port() {
    // It has no ListMultipartUploads, and answers 500 to a HEAD of a folder's name.
    let place =
        place(&s3s().open(SMALL_PARTS)).with_large((6 << 20) + 1_000).without_folders().without_sweep();
    store_suite::sink(&place).await;
    store_suite::source(&place).await;
    store_suite::remover(&place).await;
}

#[tokio::test]
async fn wrong_credentials_are_denied() {
    for server in [rgw(), s3s()] {
        let config = server.config("").with_credentials(Credentials::new("nobody", "hunter2".to_owned()));
        let opened = storage::open(&config).unwrap();
        let errors = [
            put(opened.sink.as_ref(), &key("x"), &[b"x"]).await.unwrap_err(),
            opened.source.list("").await.unwrap_err(),
            opened.source.fetch(&key("x"), None, None).await.unwrap_err(),
            opened.remover.remove(&key("x")).await.unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.kind(), ErrorKind::Denied, "{error:?}");
            assert!(error.hint().is_some());
            assert!(!format!("{error} {error:?}").contains("hunter2"));
        }
    }
}

#[tokio::test]
async fn a_missing_bucket_is_named() {
    let mut server = rgw();
    server.bucket = "no-such-bucket".to_owned();
    let opened = server.open(SMALL_PARTS);
    let errors = [
        opened.source.list("").await.unwrap_err(),
        put(opened.sink.as_ref(), &key("x"), &[b"x"]).await.unwrap_err(),
        put(opened.sink.as_ref(), &key("x"), &[&noise(LARGE, 1)]).await.unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::Config, "{error:?}");
        assert!(error.hint().unwrap().contains("bucket") && error.subject().contains("no-such-bucket"));
    }
}

#[tokio::test]
async fn a_server_that_is_down_is_unavailable() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let opened = s3s().through(endpoint).open("");
    let error = opened.source.list("").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    assert!(error.what().contains("refused") && error.hint().is_some(), "{error}");
}

#[tokio::test]
async fn a_server_that_says_nothing_is_timed_out() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut retrying = impatient();
    retrying.patience = std::time::Duration::from_millis(100);
    let server = s3s().through(format!("http://{}", listener.local_addr().unwrap()));
    let opened = storage::open(&server.config("").with_retrying(retrying)).unwrap();
    let error = opened.source.list("").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error:?}");
}

/// Run in another process by the test below.
#[tokio::test]
#[ignore = "missing_credentials_are_named runs it in an environment without any"]
async fn without_credentials() {
    let config = StorageConfig::from_url(&format!("s3://bucket?endpoint={}", s3s().endpoint)).unwrap();
    let opened = storage::open(&config.with_retrying(impatient())).unwrap();
    let error = opened.source.list("").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error:?}");
    assert!(error.what().contains("no credentials") && error.hint().unwrap().contains("AWS_ACCESS_KEY_ID"));
}

#[test]
fn missing_credentials_are_named() {
    let home = tempfile::tempdir().unwrap();
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "s3::without_credentials", "--ignored"]).env("HOME", home.path());
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("AWS_")) {
        child.env_remove(name);
    }
    // Machines in a data centre would be asked for a role, and answer or not.
    let output = child.env("AWS_EC2_METADATA_DISABLED", "true").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
}

/// What another program left behind is found by its age and removed; nothing else is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn incident_67_leftovers_of_an_interrupted_upload_are_swept() {
    let opened = rgw().open(SMALL_PARTS);
    let (sink, remover) = (&opened.sink, &opened.remover);
    let interrupted = key(&format!("db/{}/data.strongroom", backup_core::BackupId::random()));
    let mut upload = sink.begin(&interrupted, None).await.unwrap();
    // Another program's, as long forgotten.
    let mut others = sink.begin(&key("videos/raw.mp4"), None).await.unwrap();
    for chunk in noise(LARGE, 4).chunks(1 << 20) {
        others.write(bytes::Bytes::copy_from_slice(chunk)).await.unwrap();
    }
    for chunk in noise(LARGE, 3).chunks(1 << 20) {
        upload.write(bytes::Bytes::copy_from_slice(chunk)).await.unwrap();
    }
    // A process that is killed runs no destructor.
    std::mem::forget(upload);
    std::mem::forget(others);
    put(sink.as_ref(), &key("db/good"), &[b"good"]).await.unwrap();
    let now = Timestamp::now();
    let spared = remover.sweep_unfinished(now - SignedDuration::from_hours(1)).await.unwrap();
    assert_eq!(spared.uploads, 0);
    let swept = remover.sweep_unfinished(now + SignedDuration::from_hours(1)).await.unwrap();
    assert_eq!(swept.uploads, 1);
    let again = remover.sweep_unfinished(now + SignedDuration::from_hours(1)).await.unwrap();
    assert_eq!(again.uploads, 0);
    // And the run after it works.
    put(sink.as_ref(), &interrupted, &[b"next"]).await.unwrap();
    assert_eq!(opened.source.list("").await.unwrap().len(), 2);
}

/// A segment that a killed run left is no backup; it is removed by its age, and nothing else is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn incident_67_leftover_segments_are_swept() {
    let opened = rgw().open(SMALL_PARTS);
    let id = backup_core::BackupId::random();
    let data = format!("db/{id}/data.strongroom");
    let others = "hls/video.segment-00001.ts";
    for name in [data.as_str(), others, &format!("{data}.segment-{id}-41")] {
        put(opened.sink.as_ref(), &key(name), &[b"x"]).await.unwrap();
    }
    let now = Timestamp::now();
    let hour = SignedDuration::from_hours(1);
    assert_eq!(opened.remover.sweep_unfinished(now - hour).await.unwrap().uploads, 0);
    assert_eq!(opened.remover.sweep_unfinished(now + hour).await.unwrap().uploads, 1);
    let left: Vec<String> =
        opened.source.list("").await.unwrap().iter().map(|found| found.key.to_string()).collect();
    assert_eq!(left, [data.as_str(), others]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropped_and_aborted_uploads_are_gone_at_the_server_too() {
    for dropped in [true, false] {
        let server = rgw();
        let proxy = Proxy::start(&server.endpoint, Plan::HARMLESS).await;
        let opened = server.through(proxy.endpoint.clone()).open(SMALL_PARTS);
        let object = key(&format!("db/{}/data.strongroom", backup_core::BackupId::random()));
        let mut upload = opened.sink.begin(&object, None).await.unwrap();
        for chunk in noise(LARGE, 3).chunks(1 << 20) {
            upload.write(bytes::Bytes::copy_from_slice(chunk)).await.unwrap();
        }
        if dropped {
            drop(upload);
        } else {
            upload.abort().await.unwrap();
        }
        // A dropped upload is aborted behind our back.
        proxy.answered("DELETE", 1).await;
        let tomorrow = Timestamp::now() + SignedDuration::from_hours(24);
        assert_eq!(opened.remover.sweep_unfinished(tomorrow).await.unwrap().uploads, 0);
    }
}

#[tokio::test]
async fn a_place_shows_no_secret() {
    let server = rgw();
    let config = server.config("");
    let opened = storage::open(&config).unwrap();
    let shown = format!("{config} {config:?} {opened:?} {} {}", opened.sink, opened.source);
    assert!(!shown.contains(&server.secret_key), "{shown}");
    assert!(opened.sink.to_string().starts_with("s3://"));
    let _: StorageConfig = config;
}
