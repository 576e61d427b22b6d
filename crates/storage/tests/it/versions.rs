//! Every version of an object, on a bucket that keeps them.

use std::path::Path;
use std::process::Command;

use backup_core::testing::put;
use backup_core::{Erased, ErrorKind, ObjectKey};

use crate::servers::{Server, rgw};

/// One request of the S3 API that the program itself never makes.
pub(crate) fn request(server: &Server, method: &str, path: &str, body: &str) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/s3-request");
    let ran = Command::new(script)
        .args([server.endpoint.as_str(), method, path, body])
        .env("S3_ACCESS_KEY", &server.access_key)
        .env("S3_SECRET_KEY", &server.secret_key)
        .output()
        .unwrap();
    assert!(ran.status.success(), "{method} {path}: {}", String::from_utf8_lossy(&ran.stderr));
    String::from_utf8(ran.stdout).unwrap()
}

/// A bucket of its own that keeps every version.
fn versioned() -> Server {
    let server = Server { bucket: format!("versions-{}", backup_core::BackupId::random()), ..rgw() };
    request(&server, "PUT", &format!("/{}", server.bucket), "");
    request(
        &server,
        "PUT",
        &format!("/{}?versioning=", server.bucket),
        "<VersioningConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Status>Enabled</Status></VersioningConfiguration>",
    );
    server
}

fn versions(server: &Server) -> usize {
    let page = request(server, "GET", &format!("/{}?versions=", server.bucket), "");
    page.matches("<Version>").count() + page.matches("<DeleteMarker>").count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_erased_has_no_version_left_also_when_it_was_removed_before() {
    let server = versioned();
    let place = storage::open(&server.config_at("p", "")).unwrap();
    let [one, two, longer]: [ObjectKey; 3] =
        ["a/one", "a/two", "a/one.json"].map(|name| name.parse().unwrap());
    for key in [&one, &longer] {
        put(place.sink.as_ref(), key, &[b"first"]).await.unwrap();
    }
    // Removed and made again, twice: three versions and two marks of deletion.
    for _ in 0..2 {
        place.remover.remove(&one).await.unwrap();
        put(place.sink.as_ref(), &one, &[b"again"]).await.unwrap();
    }
    // Removed before: nothing is listed, and a version is still there.
    put(place.sink.as_ref(), &two, &[b"gone"]).await.unwrap();
    place.remover.remove(&two).await.unwrap();
    assert_eq!(versions(&server), 5 + 2 + 1);
    assert_eq!(place.remover.erase(&one).await.unwrap(), Erased { versions: Some(5) });
    assert_eq!(place.remover.erase(&two).await.unwrap(), Erased { versions: Some(2) });
    assert_eq!(place.remover.erase(&two).await.unwrap(), Erased { versions: Some(0) });
    assert_eq!(versions(&server), 1, "the object whose name begins alike");
    assert!(place.source.stat(&longer).await.unwrap().is_some());
    place.remover.erase(&longer).await.unwrap();
    request(&server, "DELETE", &format!("/{}", server.bucket), "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_versions_the_one_object_is_erased() {
    let place = rgw().open("");
    let key: ObjectKey = "a/one".parse().unwrap();
    put(place.sink.as_ref(), &key, &[b"bytes"]).await.unwrap();
    assert_eq!(place.remover.erase(&key).await.unwrap(), Erased { versions: Some(1) });
    assert_eq!(place.source.stat(&key).await.unwrap(), None);
    assert_eq!(place.source.fetch(&key, None, None).await.unwrap_err().kind(), ErrorKind::NotFound);
}
