//! What WebDAV servers really do: nginx, and rclone's.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use backup_core::testing::store_suite::{self, Place};
use backup_core::testing::{noise, put};
use backup_core::{BackupId, ErrorKind, ObjectKey};
use futures::FutureExt as _;
use jiff::{SignedDuration, Timestamp};
use storage::{Login, Opened, Retrying, StorageConfig};

use crate::cutter::{Cutter, Way};
use crate::folder::Mount;
use crate::memory::{CHUNK, SLACK, peak};
use crate::proxy::{Harm, Plan, Proxy};
use crate::servers::{impatient, variable};
use crate::tls::{certificates, with_tls};

const LARGE: usize = (6 << 20) + 17;

fn key(name: &str) -> ObjectKey {
    name.parse().unwrap()
}

/// A folder of its own on one of the servers, which is also on this machine.
#[derive(Debug, Clone)]
struct Server {
    /// `http://127.0.0.1:port`.
    origin: String,
    name: String,
    folder: PathBuf,
    login: Login,
}

impl Server {
    fn of(which: &str) -> Self {
        let name = format!("it-{}", BackupId::random());
        Self {
            origin: variable(&format!("WEBDAV_{which}_URL")),
            folder: Path::new(&variable(&format!("WEBDAV_{which}_ROOT"))).join(&name),
            name,
            login: Login::default().with_password(variable("WEBDAV_PASSWORD")),
        }
    }

    fn url(&self) -> String {
        let (scheme, host) = self.origin.split_once("://").unwrap();
        format!("{scheme}://{}@{host}/{}", variable("WEBDAV_USER"), self.name)
    }

    fn open_with(&self, parameters: &str) -> Opened {
        let config =
            StorageConfig::from_url(&format!("{}?{parameters}", self.url())).expect("a valid destination");
        // Servers that are as busy as the machine may be, and drop a connection now and then.
        let retrying = Retrying { times: 4, ..impatient() };
        storage::open(&config.with_login(self.login.clone()).with_retrying(retrying)).expect("open")
    }

    fn open(&self) -> Opened {
        self.open_with("")
    }
}

fn place(opened: &Opened) -> Place {
    Place::new(Arc::clone(&opened.sink), Arc::clone(&opened.source), Arc::clone(&opened.remover))
        .with_large(LARGE)
        .with_clock_step(Duration::from_millis(1_100))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nginx_keeps_the_promises_of_every_port() {
    let place = place(&Server::of("NGINX").open());
    store_suite::sink(&place).await;
    store_suite::source(&place).await;
    store_suite::remover(&place).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rclone_keeps_the_promises_of_every_port() {
    let place = place(&Server::of("RCLONE").open());
    store_suite::sink(&place).await;
    store_suite::source(&place).await;
    store_suite::remover(&place).await;
}

fn leftovers(server: &Server) -> usize {
    std::fs::read_dir(server.folder.join(".strongroom-tmp")).map_or(0, Iterator::count)
}

#[tokio::test]
async fn who_is_not_let_in_is_told_and_no_secret_is_shown() {
    for which in ["NGINX", "RCLONE"] {
        let mut server = Server::of(which);
        server.login = Login::default().with_password("hunter2".to_owned());
        let opened = server.open();
        let errors = [
            opened.source.list("").await.unwrap_err(),
            opened.source.fetch(&key("x"), None, None).await.unwrap_err(),
            opened.remover.remove(&key("x")).await.unwrap_err(),
            put(opened.sink.as_ref(), &key("x"), &[b"x"]).await.unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.kind(), ErrorKind::Denied, "{error:?}");
            assert!(
                error.hint().unwrap().contains("password_file") && !format!("{error:?}").contains("hunter2")
            );
        }
        // A user without a password, and the other way round.
        let config = StorageConfig::from_url(&server.url()).unwrap();
        assert_eq!(storage::open(&config).unwrap_err().kind(), ErrorKind::Config);
        let config = StorageConfig::from_url(&server.origin).unwrap().with_login(server.login.clone());
        assert_eq!(storage::open(&config).unwrap_err().kind(), ErrorKind::Config);
    }
}

#[tokio::test]
async fn what_is_not_ours_is_neither_listed_nor_removed() {
    for which in ["NGINX", "RCLONE"] {
        let server = Server::of(which);
        let opened = server.open();
        put(opened.sink.as_ref(), &key("db/ours"), &[b"x"]).await.unwrap();
        for foreign in ["with space", "db/with#hash", "db/50%25", "db/\u{e4}", "db/<&>\""] {
            std::fs::write(server.folder.join(foreign), "x").unwrap();
        }
        std::fs::create_dir(server.folder.join("db/folder")).unwrap();
        std::fs::write(server.folder.join("db/folder/below#"), "x").unwrap();
        for prefix in ["", "db/"] {
            let listed = opened.source.list(prefix).await.unwrap();
            assert_eq!(
                listed.iter().map(|object| object.key.as_str()).collect::<Vec<_>>(),
                ["db/ours"],
                "{which}"
            );
        }
        assert_eq!(opened.source.list("../").await.unwrap(), []);
        opened.remover.remove(&key("db/folder")).await.unwrap();
        opened.remover.remove(&key("db/ours")).await.unwrap();
        assert!(server.folder.join("db/folder/below#").exists(), "{which}: a folder is no object");
        let error = opened.sink.begin(&key(".strongroom-tmp/x"), None).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
    }
}

/// nginx says that its server failed, rclone that it does not do such things; nobody says that the disk is full.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_keeps_what_was_there_and_nothing_else() {
    for which in ["NGINX", "RCLONE"] {
        let mut server = Server::of(which);
        let root = server.folder.parent().unwrap().to_owned();
        let mount = Mount::on(tempfile::tempdir_in(root).unwrap(), "size=4m,mode=777");
        server.folder = mount.0.path().to_owned();
        server.name = mount.0.path().file_name().unwrap().to_str().unwrap().to_owned();
        let opened = server.open();
        put(opened.sink.as_ref(), &key("db/before"), &[&noise(1 << 20, 1)]).await.unwrap();
        let bytes = noise(12 << 20, 2);
        let chunks: Vec<&[u8]> = bytes.chunks(1 << 20).collect();
        let error = put(opened.sink.as_ref(), &key("db/large"), &chunks).await.unwrap_err();
        assert!(
            matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Unsupported),
            "{which}: {error:?}"
        );
        assert!(error.hint().is_some(), "{error:?}");
        assert_eq!(opened.source.list("").await.unwrap().len(), 1, "{which}");
        // nginx leaves a file of its own behind.
        opened.remover.sweep_unfinished(Timestamp::now() + SignedDuration::from_hours(24)).await.unwrap();
        put(opened.sink.as_ref(), &key("db/after"), &[&noise(1 << 20, 1)]).await.unwrap();
        mount.read_only();
        let error = put(opened.sink.as_ref(), &key("db/x"), &[b"x"]).await.unwrap_err();
        assert!(
            matches!(error.kind(), ErrorKind::Denied | ErrorKind::Unavailable | ErrorKind::Unsupported),
            "{which}: {error:?}"
        );
        assert_eq!(opened.source.list("").await.unwrap().len(), 2, "{which}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn incident_67_an_upload_that_is_cut_leaves_nothing_visible_and_the_next_one_works() {
    for which in ["NGINX", "RCLONE"] {
        let server = Server::of(which);
        let cutter = Cutter::start(&server.origin, Way::Up, 3 << 20, 0).await;
        let opened = Server { origin: format!("http://{}", cutter.address), ..server.clone() }.open();
        let bytes = noise(LARGE, 3);
        let chunks: Vec<&[u8]> = bytes.chunks(1 << 18).collect();
        let error = put(opened.sink.as_ref(), &key("db/data"), &chunks).await.unwrap_err();
        assert_eq!((error.kind(), cutter.cuts()), (ErrorKind::Unavailable, 1), "{which}: {error:?}");
        assert_eq!(opened.source.stat(&key("db/data")).await.unwrap(), None);
        assert_eq!(opened.source.list("").await.unwrap(), []);
        put(opened.sink.as_ref(), &key("db/data"), &chunks).await.unwrap();
        assert!(
            store_suite::read(opened.source.as_ref(), &key("db/data"), None, None).await.unwrap() == bytes
        );
        // What the server wrote of it after we had gone is swept by its age.
        let hours = SignedDuration::from_hours(24);
        assert_eq!(opened.remover.sweep_unfinished(Timestamp::now() - hours).await.unwrap().uploads, 0);
        opened.remover.sweep_unfinished(Timestamp::now() + hours).await.unwrap();
        assert_eq!((leftovers(&server), opened.source.list("").await.unwrap().len()), (0, 1), "{which}");
    }
}

/// Every request of an upload, harmed once and for good: the object is there, whole, or it is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_request_that_is_harmed_leaves_all_or_nothing() {
    let bytes = noise(10_000, 4);
    let (mut tried, mut stored) = (0, 0);
    for which in ["NGINX", "RCLONE"] {
        for what in ["PROPFIND", "MKCOL", "PUT", "MOVE"] {
            for harm in
                [Harm::Refuse, Harm::CutRequest, Harm::LoseAnswer, Harm::CutAnswer, Harm::Busy, Harm::Deny]
            {
                for (at, times) in [(0, 1), (1, 1), (3, 1), (0, usize::MAX)] {
                    let server = Server::of(which);
                    let proxy = Proxy::start(&server.origin, Plan { what, at, times, harm }).await;
                    let opened = Server { origin: proxy.endpoint.clone(), ..server.clone() }.open();
                    let done = put(opened.sink.as_ref(), &key("db/data"), &[&bytes]).await;
                    if proxy.harmed().is_empty() {
                        done.unwrap();
                        continue;
                    }
                    tried += 1;
                    let direct = server.open();
                    let there = direct.source.stat(&key("db/data")).await.unwrap().is_some();
                    match done {
                        Ok(_) => {
                            stored += 1;
                            let got =
                                store_suite::read(direct.source.as_ref(), &key("db/data"), None, None).await;
                            assert!(got.unwrap() == bytes, "{which} {what} {harm:?} {at} {times}");
                        }
                        Err(error) if error.kind() == ErrorKind::Uncertain => {}
                        Err(error) => assert!(!there, "{which} {what} {harm:?} {at} {times}: {error:?}"),
                    }
                }
            }
        }
    }
    assert!(tried > 100 && stored > 40, "{tried} were tried, {stored} stored");
}

/// An answer to the commit that is lost is settled by asking again and looking.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_to_the_commit_is_settled_by_looking() {
    let bytes = noise(10_000, 5);
    for which in ["NGINX", "RCLONE"] {
        for times in [1, usize::MAX] {
            let server = Server::of(which);
            let plan = Plan { what: "MOVE", at: 0, times, harm: Harm::LoseAnswer };
            let proxy = Proxy::start(&server.origin, plan).await;
            let opened = Server { origin: proxy.endpoint.clone(), ..server.clone() }.open();
            put(opened.sink.as_ref(), &key("db/data"), &[&bytes]).await.unwrap();
            assert!(!proxy.harmed().is_empty());
            let got = store_suite::read(server.open().source.as_ref(), &key("db/data"), None, None).await;
            assert!(got.unwrap() == bytes, "{which}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_goes_on_after_a_broken_connection_and_never_ends_early() {
    for which in ["NGINX", "RCLONE"] {
        let server = Server::of(which);
        let bytes = noise(LARGE, 7);
        put(server.open().sink.as_ref(), &key("db/data"), &[&bytes]).await.unwrap();
        let cutter = Cutter::start(&server.origin, Way::Down, 2 << 20, 2 << 20).await;
        let opened = Server { origin: format!("http://{}", cutter.address), ..server.clone() }.open();
        for range in [None, Some(1_000..LARGE as u64 - 5)] {
            let wanted = range.clone().map_or(0..LARGE, |range| range.start as usize..range.end as usize);
            let got = store_suite::read(opened.source.as_ref(), &key("db/data"), range, None).await.unwrap();
            assert!(got == bytes[wanted]);
        }
        assert!(cutter.cuts() >= 4, "{}", cutter.cuts());
        // Another version is not read on.
        let mut stream = opened.source.fetch(&key("db/data"), None, None).await.unwrap();
        stream.next().await.unwrap().unwrap();
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        let direct = server.open();
        direct.remover.remove(&key("db/data")).await.unwrap();
        put(direct.sink.as_ref(), &key("db/data"), &[&noise(LARGE, 8)]).await.unwrap();
        let error = loop {
            match stream.next().await.expect("no clean end") {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), ErrorKind::Integrity, "{which}: {error:?}");
    }
}

/// Answers that are no listing are errors, and never an empty folder.
#[tokio::test]
async fn a_strange_listing_is_an_error() {
    let entry = |href: &str| {
        format!(
            "<D:response><D:href>{href}</D:href><D:propstat><D:prop><D:resourcetype/><D:getcontentlength>1</D:getcontentlength>\
             </D:prop><D:status>HTTP/1.1 200 OK</D:status></D:propstat></D:response>"
        )
    };
    let itself = "<D:response><D:href>/dav/</D:href><D:propstat><D:prop><D:resourcetype><D:collection/></D:resourcetype>\
                  </D:prop><D:status>HTTP/1.1 200 OK</D:status></D:propstat></D:response>";
    let all = |inner: &str| format!("<D:multistatus xmlns:D=\"DAV:\">{inner}</D:multistatus>");
    let table = [
        (all(&format!("{itself}{}", entry("/dav/good"))), Some(1)),
        (all(&format!("{itself}{}", entry("http://other.example/dav/good"))), Some(1)),
        (all(&format!("{itself}{}{}", entry("/dav/%ff%fe"), entry("/dav/a%2Fb%23"))), None),
        (all(itself), Some(0)),
        (all(""), None),
        (all(&format!("{itself}{}", entry("/etc/passwd"))), None),
        (all(&format!("{itself}{}", entry("/dav/../x"))), None),
        (all(&format!("{itself}{}", entry("/dav/a/b"))), None),
        (all(&entry("/dav/")), None),
        (all(itself).replace("</D:multistatus>", ""), None),
        ("<html>Welcome</html>".to_owned(), None),
        (String::new(), None),
    ];
    for (document, found) in table {
        let answer = format!(
            "HTTP/1.1 207 Multi-Status\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{document}",
            document.len()
        );
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("webdav://{}/dav", listener.local_addr().unwrap());
        let server = tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let mut request = [0; 4_096];
                let _ = tokio::io::AsyncReadExt::read(&mut client, &mut request).await;
                tokio::time::sleep(Duration::from_millis(20)).await;
                let _ = tokio::io::AsyncReadExt::read(&mut client, &mut request).now_or_never();
                let _ = tokio::io::AsyncWriteExt::write_all(&mut client, answer.as_bytes()).await;
            }
        });
        let config = StorageConfig::from_url(&url).unwrap().with_retrying(impatient());
        let listed = storage::open(&config).unwrap().source.list("").await;
        match found {
            Some(count) => assert_eq!(listed.unwrap().len(), count, "{document}"),
            None => assert!(listed.is_err(), "{document}: {listed:?}"),
        }
        server.abort();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_named_authority_is_trusted() {
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path());
    let server = Server::of("NGINX");
    let secure = Server { origin: with_tls(folder.path(), &server.origin).await, ..server };
    let file = |name: &str| format!("ca_file={}", folder.path().join(name).display());
    let trusted = secure.open_with(&file("ca.pem"));
    put(trusted.sink.as_ref(), &key("db/object"), &[&noise(100_000, 1)]).await.unwrap();
    assert_eq!(trusted.source.list("").await.unwrap().len(), 1);
    for parameters in [String::new(), file("other.pem")] {
        let error = secure.open_with(&parameters).source.list("").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{error:?}");
        assert!(error.what().contains("certificate") && error.hint().unwrap().contains("ca_file"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_down_or_silent_is_given_up() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("webdav://{}/dav", listener.local_addr().unwrap());
    let retry = Retrying { times: 0, patience: Duration::from_secs(1), ..impatient() };
    let opened = storage::open(&StorageConfig::from_url(&url).unwrap().with_retrying(retry)).unwrap();
    assert_eq!(opened.source.list("").await.unwrap_err().kind(), ErrorKind::TimedOut);
    drop(listener);
    let error = opened.source.list("").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn incident_64_an_upload_of_any_length_keeps_a_handful_of_chunks() {
    let peak = peak(Server::of("NGINX").open().sink.as_ref(), 100).await;
    assert!(peak <= 4 * CHUNK + SLACK, "{peak} bytes at once");
}
