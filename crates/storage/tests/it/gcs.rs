//! Google Cloud Storage, as fake-gcs-server speaks it.

use std::sync::Arc;

use backup_core::testing::store_suite::{self, Place};
use backup_core::testing::{noise, put};
use backup_core::{BackupId, Context, ErrorKind, ObjectKey};
use storage::{AppendOnly, Opened, Outcome, StorageConfig, probe};

use crate::proxy::{Harm, Plan, Proxy};
use crate::servers::{impatient, variable};

/// Enough for three pieces of 16 MiB, the last of them short.
const LARGE: usize = (33 << 20) + 17;

fn config_at(endpoint: &str) -> StorageConfig {
    let (bucket, id) = (variable("GCS_BUCKET"), BackupId::random());
    let url = format!("gs://{bucket}/it-{id}?endpoint={endpoint}");
    StorageConfig::from_url(&url).unwrap().with_retrying(impatient())
}

fn config() -> StorageConfig {
    config_at(&variable("GCS_ENDPOINT"))
}

fn place(opened: &Opened) -> Place {
    Place::new(Arc::clone(&opened.sink), Arc::clone(&opened.source), Arc::clone(&opened.remover))
        .with_large(LARGE)
}

fn key(name: &str) -> ObjectKey {
    name.parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gcs_keeps_the_promises_of_a_sink() {
    store_suite::sink(&place(&storage::open(&config()).unwrap())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gcs_keeps_the_promises_of_a_source_and_a_remover() {
    // More than a page of names.
    let place = place(&storage::open(&config()).unwrap()).with_many(1_010);
    store_suite::source(&place).await;
    store_suite::remover(&place).await;
}

#[tokio::test]
async fn gcs_probe_tells_what_the_server_does() {
    let config = config();
    let report = probe(&Context::new(), &config, false).await.unwrap();
    assert!(report.problem.is_none(), "{report:#?}");
    for check in ["put", "get", "range", "list", "missing", "multipart", "overwrite", "delete", "clock"] {
        assert_eq!(report.outcome(check), Some(Outcome::Yes), "{check}: {report:#?}");
    }
    // It takes a wrong MD5 and a retention without a word, and forgets the condition of a resumable upload.
    assert!(report.not_obeyed.iter().any(|what| what.contains("MD5")), "{report:#?}");
    assert!(report.not_obeyed.iter().any(|what| what.contains("retention")), "{report:#?}");
    assert_eq!(report.append_only, AppendOnly::No);
    assert!(report.advice.as_ref().unwrap().contains("roles/storage.objectCreator"));
    assert!(report.left.is_empty(), "{report:#?}");
    assert!(storage::open(&config).unwrap().source.list(".probe/").await.unwrap().is_empty());
}

#[tokio::test]
async fn gcs_bucket_is_made_on_request() {
    let endpoint = variable("GCS_ENDPOINT");
    let bucket = format!("made-{}", BackupId::random());
    let at = |project: &str| {
        let url = format!("gs://{bucket}?endpoint={endpoint}{project}");
        StorageConfig::from_url(&url).unwrap().with_retrying(impatient())
    };
    let cx = Context::new();
    assert_eq!(probe(&cx, &at(""), false).await.unwrap_err().kind(), ErrorKind::NotFound);
    let error = probe(&cx, &at(""), true).await.unwrap_err();
    assert!(error.hint().unwrap().contains("project="), "{error:?}");
    let opened = storage::open(&at("")).unwrap();
    for error in [
        put(opened.sink.as_ref(), &key("x"), &[b"x"]).await.unwrap_err(),
        opened.source.list("").await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Config, "{error:?}");
    }
    assert!(probe(&cx, &at("&project=test"), true).await.unwrap().created);
}

/// Each of the ways in which a connection breaks, at the requests that begin an upload. What pieces go through is in
/// `resumable`: this server takes the question how far an upload got for its end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gcs_uploads_survive_a_broken_connection() {
    for len in [100_000, LARGE] {
        let bytes = noise(len, 6);
        let chunks: Vec<&[u8]> = bytes.chunks(1 << 20).collect();
        for harm in [Harm::Refuse, Harm::CutRequest, Harm::LoseAnswer, Harm::Busy] {
            let plan = Plan { what: "POST", at: 0, times: 1, harm };
            let proxy = Proxy::start(&variable("GCS_ENDPOINT"), plan).await;
            let opened = storage::open(&config_at(&proxy.endpoint)).unwrap();
            let object = key("db/data");
            put(opened.sink.as_ref(), &object, &chunks)
                .await
                .unwrap_or_else(|e| panic!("{harm:?} {len}: {e:?}"));
            let got = store_suite::read(opened.source.as_ref(), &object, None, None).await.unwrap();
            assert!(got == bytes, "{harm:?} {len}");
            assert_eq!(proxy.harmed().len(), 1, "{harm:?} {len}");
        }
    }
}

/// What is damaged on the way is refused or removed, and the commit says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gcs_damage_on_the_way_is_noticed() {
    for (what, len) in [("POST", 100_000), ("PUT", LARGE)] {
        let plan = Plan { what, at: 0, times: 1, harm: Harm::FlipBit };
        let proxy = Proxy::start(&variable("GCS_ENDPOINT"), plan).await;
        let opened = storage::open(&config_at(&proxy.endpoint)).unwrap();
        let bytes = noise(len, 8);
        let chunks: Vec<&[u8]> = bytes.chunks(1 << 20).collect();
        let error = put(opened.sink.as_ref(), &key("db/data"), &chunks).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Integrity, "{what}: {error:?}");
        assert!(opened.source.list("").await.unwrap().is_empty());
        assert_eq!(proxy.harmed().len(), 1);
    }
}

#[tokio::test]
async fn gcs_reading_goes_on_after_a_cut() {
    let plan = Plan { what: "alt=media", at: 0, times: 2, harm: Harm::CutAnswer };
    let proxy = Proxy::start(&variable("GCS_ENDPOINT"), plan).await;
    let opened = storage::open(&config_at(&proxy.endpoint)).unwrap();
    let bytes = noise(3 << 20, 8);
    put(opened.sink.as_ref(), &key("db/data"), &[&bytes]).await.unwrap();
    let got = store_suite::read(opened.source.as_ref(), &key("db/data"), None, None).await.unwrap();
    assert!(got == bytes);
    assert_eq!(proxy.harmed().len(), 2);
}
