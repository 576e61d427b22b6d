//! Dates and holds that the store itself keeps, on a bucket made with object lock.

use std::sync::{Arc, Mutex};

use backup_core::testing::put;
use backup_core::{BackupId, BackupRef, ErrorKind, Held, ObjectKey};
use jiff::{SignedDuration, Timestamp};
use storage::{Credentials, LockOnWrite, Opened, StorageConfig};

use crate::peer::Peer;
use crate::servers::{Server, impatient, rgw, s3s};

/// A bucket of its own, made with object lock.
async fn lockable() -> Server {
    let server = Server { bucket: format!("locks-{}", BackupId::random()), ..rgw() };
    let enabled = [("x-amz-bucket-object-lock-enabled", "true")];
    assert_eq!(server.ask("PUT", &format!("/{}", server.bucket), &enabled, "").await, 200);
    server
}

fn open(server: &Server, lock: Option<LockOnWrite>, parameters: &str) -> Opened {
    let config = server.config_at("p", parameters);
    let config = match lock {
        Some(lock) => config.with_lock(lock),
        None => config,
    };
    storage::open(&config).unwrap()
}

fn days(days: u64, compliance: bool) -> LockOnWrite {
    LockOnWrite::new(days, compliance).unwrap()
}

fn backup() -> BackupRef {
    BackupRef { source: "orders".parse().unwrap(), id: BackupId::random() }
}

fn in_days(held: &Held) -> f64 {
    held.until.unwrap().duration_since(Timestamp::now()).as_secs_f64() / 86_400.0
}

fn version_of(server: &Server, key: &ObjectKey) -> String {
    let page = crate::versions::request(server, "GET", &format!("/{}?versions=", server.bucket), "");
    let at = page.find(&format!("<Key>p/{key}</Key>")).unwrap();
    let rest = &page[at..];
    let from = rest.find("<VersionId>").unwrap() + "<VersionId>".len();
    rest[from..from + rest[from..].find('<').unwrap()].to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_object_of_a_backup_is_locked_and_the_store_keeps_it() {
    let server = lockable().await;
    for compliance in [true, false] {
        let place = open(&server, Some(days(30, compliance)), "&part_memory=20");
        let (sink, source, at) = (place.sink.as_ref(), place.source.as_ref(), backup());
        // Data in parts, and objects of one part.
        let long = vec![7; 20 << 20];
        put(sink, &at.data(), &long.chunks(1 << 20).collect::<Vec<_>>()).await.unwrap();
        put(sink, &at.tree(), &[b"tree"]).await.unwrap();
        put(sink, &at.manifest(), &[b"manifest"]).await.unwrap();
        put(sink, &at.statement("copied-x"), &[b"receipt"]).await.unwrap();
        put(sink, &at.statement("seen-x"), &[b"seen"]).await.unwrap();
        put(sink, &at.history(), &[b"history"]).await.unwrap();
        for key in [at.data(), at.tree(), at.manifest(), at.statement("copied-x")] {
            let held = source.held(&key).await.unwrap().unwrap();
            assert_eq!(
                held.mode.as_deref(),
                Some(if compliance { "COMPLIANCE" } else { "GOVERNANCE" }),
                "{key}"
            );
            assert!((29.9..30.01).contains(&in_days(&held)), "{key}: {held}");
            assert!(
                held.to_string().starts_with("locked until 20") && held.holds(Timestamp::now()),
                "{held}"
            );
            let path = format!("/{}/p/{key}?versionId={}", server.bucket, version_of(&server, &key));
            assert_eq!(server.ask("DELETE", &path, &[], "").await, 403, "{key}");
        }
        for key in [at.statement("seen-x"), at.history()] {
            assert_eq!(source.held(&key).await.unwrap(), Some(Held::default()), "{key}");
        }
        let held = backup_core::pipeline::held(source, &at).await.unwrap().unwrap();
        assert!((29.9..30.01).contains(&in_days(&held)));
        // Erasing says that a lock is in the way.
        let error = place.remover.erase(&at.tree()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}");
        assert!(error.what().contains("locked until"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_legal_hold_is_set_and_ended_and_looked_at() {
    let server = lockable().await;
    let place = open(&server, None, "");
    let at = backup();
    put(place.sink.as_ref(), &at.data(), &[b"data"]).await.unwrap();
    assert_eq!(place.source.held(&at.data()).await.unwrap(), Some(Held::default()));
    place.sink.hold(&at.data(), true).await.unwrap();
    let held = place.source.held(&at.data()).await.unwrap().unwrap();
    assert_eq!((held.legal_hold, held.until), (true, None));
    let path = format!("/{}/p/{}?versionId={}", server.bucket, at.data(), version_of(&server, &at.data()));
    assert_eq!(server.ask("DELETE", &path, &[], "").await, 403);
    place.sink.hold(&at.data(), false).await.unwrap();
    assert_eq!(place.source.held(&at.data()).await.unwrap(), Some(Held::default()));
    assert_eq!(place.remover.erase(&at.data()).await.unwrap().versions, Some(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_or_server_without_locks_is_told_before_a_byte_is_sent() {
    for server in [rgw(), s3s()] {
        let config = server.config("").with_lock(days(1, false));
        let (place, at) = (storage::open(&config).unwrap(), backup());
        let error = place.sink.begin(&at.data(), None).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
        assert!(error.what().contains("no object lock"), "{error}");
        // What is no part of a backup is stored as ever.
        put(place.sink.as_ref(), &at.history(), &[b"x"]).await.unwrap();
        assert_eq!(place.source.held(&at.history()).await.unwrap(), None);
        let error = place.sink.hold(&at.history(), true).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    }
    let folder = tempfile::tempdir().unwrap();
    let error = storage::open(&StorageConfig::local(folder.path()).with_lock(days(1, false))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    for bad in [0, 3_661] {
        assert_eq!(LockOnWrite::new(bad, true).unwrap_err().kind(), ErrorKind::Config);
    }
}

/// What a store that ignores locks has: the mark of the object.
type Stored = Arc<Mutex<Option<(String, usize)>>>;

fn answer(asked: &crate::peer::Asked, stored: &Stored, clock: &str, kept: &str) -> (String, Vec<u8>) {
    let xml = |status: &str, body: &str| {
        (format!("{status}\r\nDate: {clock}\r\nContent-Type: application/xml"), body.as_bytes().to_vec())
    };
    let line = asked.line();
    let mut object = stored.lock().unwrap();
    if line.contains("object-lock=") {
        return xml(
            "200 OK",
            "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled></ObjectLockConfiguration>",
        );
    }
    if line.contains("retention=") {
        return match object.is_some() {
            true if !kept.is_empty() => xml("200 OK", kept),
            _ => xml("404 Not Found", "<Error><Code>NoSuchObjectLockConfiguration</Code></Error>"),
        };
    }
    if line.contains("list-type=2") {
        return xml("200 OK", "<ListBucketResult><Name>b</Name></ListBucketResult>");
    }
    match line.split(' ').next().unwrap() {
        "PUT" => {
            assert!(asked.header("x-amz-object-lock-mode").is_some(), "{}", asked.head);
            assert!(asked.header("content-md5").is_some() && asked.header("x-amz-checksum-crc32c").is_some());
            *object =
                Some((asked.header("x-amz-meta-strongroom-upload").unwrap().to_owned(), asked.body.len()));
            xml("200 OK", "")
        }
        "DELETE" => {
            *object = None;
            xml("204 No Content", "")
        }
        // The length of an answer to HEAD would be that of the object; none is better than a wrong one.
        _ => match object.as_ref() {
            Some((mark, len)) => {
                (format!("200 OK\r\nx-amz-meta-strongroom-upload: {mark}\r\nETag: \"x\""), vec![0; *len])
            }
            None => xml("404 Not Found", ""),
        },
    }
}

async fn peer(clock: &'static str, kept: &'static str) -> (Peer, Stored, Opened) {
    let stored = Stored::default();
    let seen = Arc::clone(&stored);
    let peer = Peer::start(move |asked| Some(answer(asked, &seen, clock, kept))).await;
    let url = format!("s3://bucket/p?endpoint={}", peer.endpoint);
    let config = StorageConfig::from_url(&url).unwrap().with_retrying(impatient());
    let config =
        config.with_credentials(Credentials::new("id", "secret".to_owned())).with_lock(days(10, true));
    let place = storage::open(&config).unwrap();
    (peer, stored, place)
}

/// The Date header of now.
fn now() -> &'static str {
    Timestamp::now().strftime("%a, %d %b %Y %H:%M:%S GMT").to_string().leak()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn incident_39_a_store_that_takes_a_lock_and_keeps_none_is_named_and_the_object_taken_back() {
    let weaker = format!(
        "<Retention><Mode>GOVERNANCE</Mode><RetainUntilDate>{}</RetainUntilDate></Retention>",
        Timestamp::now() + SignedDuration::from_hours(24 * 20)
    );
    let shorter = format!(
        "<Retention><Mode>COMPLIANCE</Mode><RetainUntilDate>{}</RetainUntilDate></Retention>",
        Timestamp::now() + SignedDuration::from_hours(24 * 9)
    );
    for (kept, said) in
        [("", "keeps no lock"), (weaker.leak(), "governance"), (shorter.leak(), "keeps it locked until")]
    {
        let (_peer, stored, place) = peer(now(), kept).await;
        let error = put(place.sink.as_ref(), &backup().tree(), &[b"tree"]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
        assert!(error.what().contains(said) && error.hint().unwrap().contains("does not obey"), "{error}");
        assert_eq!(*stored.lock().unwrap(), None);
    }
    let enough = format!(
        "<Retention><Mode>COMPLIANCE</Mode><RetainUntilDate>{}</RetainUntilDate></Retention>",
        Timestamp::now() + SignedDuration::from_hours(24 * 10)
    );
    let (_peer, stored, place) = peer(now(), enough.leak()).await;
    put(place.sink.as_ref(), &backup().tree(), &[b"tree"]).await.unwrap();
    assert!(stored.lock().unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_is_wrong_locks_nothing_for_years() {
    let (_peer, stored, place) = peer("Sun, 06 Nov 2044 08:49:37 GMT", "").await;
    let error = place.sink.begin(&backup().data(), None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    assert!(error.what().contains("2044"), "{error}");
    assert_eq!(*stored.lock().unwrap(), None);
}
