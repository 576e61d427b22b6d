//! MongoDB where it goes wrong: refused, down, killed, cut, dropped, damaged.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use backup_core::testing::{broken, known};
use backup_core::{Context, Dumper as _, ErrorKind, Restorer as _, Selection};
use bytes::Bytes;
use dumpers::Secret;
use dumpers::mongodb::{MongoConfig, MongoDumper, MongoRestorer};
use mongodb::bson::{Document, doc};
use mongodb::{Client, Database};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::mongodb::{config, database, dump, format, request, restore, url};
use crate::processes::all_arguments;
use crate::server::variable;

/// User, password and place of the test server.
pub(crate) fn parts() -> (String, String, String) {
    let url = url();
    let rest = url.strip_prefix("mongodb://").unwrap();
    let (user, place) = rest.rsplit_once('@').unwrap();
    let (user, password) = user.split_once(':').unwrap();
    (user.to_owned(), password.to_owned(), place.split('/').next().unwrap().to_owned())
}

/// More than all buffers between the server and a reader hold.
async fn big(name: &str) -> Database {
    let source = database(name).await;
    fill(&source).await;
    source
}

async fn fill(source: &Database) {
    let pad = "y".repeat(400_000);
    for name in ["a", "b"] {
        for batch in 0..4 {
            let documents = (0..10).map(|i| doc! { "_id": batch * 10 + i, "pad": &pad });
            source.collection(name).insert_many(documents).await.unwrap();
        }
    }
}

#[tokio::test]
async fn incident_02_a_wrong_password_or_user_is_refused_before_anything_starts() {
    let (user, _, place) = parts();
    let cx = Context::new();
    let url = format!("mongodb://{place}/nothing?authSource=admin&serverSelectionTimeoutMS=5000");
    let wrong = |user: &str| MongoConfig {
        user: Some(user.to_owned()),
        password: Some(Secret::new("wr0ng-Secret")),
        ..MongoConfig::from_url(&url).unwrap()
    };
    let elsewhere = MongoConfig { auth_database: Some("elsewhere".to_owned()), ..config("nothing") };
    let nobody = MongoConfig::from_url(&url).unwrap();
    for settings in [wrong(&user), wrong("nobody here"), elsewhere, nobody] {
        assert!(!format!("{settings:?}").contains("wr0ng"));
        let dumper = MongoDumper::new(&settings).unwrap();
        let errors = [
            dumper.probe(&cx).await.unwrap_err(),
            dumper.dump(&cx, &Selection::default()).await.unwrap_err(),
            MongoRestorer::new(&settings).unwrap().plan(&cx, request(false)).await.unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
            assert!(!format!("{error} {error:?} {:?}", error.hint()).contains("wr0ng"));
        }
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unavailable() {
    let cx = Context::new();
    for place in ["127.0.0.1:1", "nowhere.invalid"] {
        let settings =
            MongoConfig::from_url(&format!("mongodb://{place}/d?serverSelectionTimeoutMS=700")).unwrap();
        let error = MongoDumper::new(&settings).unwrap().probe(&cx).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    }
}

/// What a proxy does at its limit.
#[derive(Clone, Copy, PartialEq)]
enum Then {
    Cut,
    FallSilent,
}

/// Passes bytes on until there were so many of them, then cuts every connection or passes nothing.
struct Proxy {
    address: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl Proxy {
    async fn before(server: String, limit: usize, from_server: bool, then: Then) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let passed = Arc::new(AtomicUsize::new(0));
        let task = tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                if passed.load(Ordering::Relaxed) >= limit && then == Then::Cut {
                    continue;
                }
                let server = TcpStream::connect(&server).await.unwrap();
                let (client_read, client_write) = client.into_split();
                let (server_read, server_write) = server.into_split();
                let counts = |counted: bool| (Arc::clone(&passed), counted, limit, then);
                tokio::spawn(pass(client_read, server_write, counts(!from_server)));
                tokio::spawn(pass(server_read, client_write, counts(from_server)));
            }
        });
        Self { address, task }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    (passed, counted, limit, then): (Arc<AtomicUsize>, bool, usize, Then),
) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(len) = from.read(&mut buffer).await {
        if len == 0 {
            return;
        }
        if passed.load(Ordering::Relaxed) >= limit {
            if then == Then::Cut {
                return;
            }
            // Read and passed on to nobody: a server that waits to send might hold up others.
            continue;
        }
        if to.write_all(&buffer[..len]).await.is_err() {
            return;
        }
        if counted {
            passed.fetch_add(len, Ordering::Relaxed);
        }
    }
}

fn through(proxy: &Proxy, database: &str) -> MongoConfig {
    let (user, password, _) = parts();
    let url = format!(
        "mongodb://{user}:{password}@{}/{database}?authSource=admin&directConnection=true&serverSelectionTimeoutMS=1500",
        proxy.address
    );
    MongoConfig::from_url(&url).unwrap()
}

#[tokio::test]
async fn incident_06_a_connection_that_is_cut_is_no_clean_end() {
    let source = big("cut").await;
    // Within the first collection, and near the end of the last.
    for limit in [2_000_000, 28_000_000] {
        let proxy = Proxy::before(parts().2, limit, true, Then::Cut).await;
        let error = dump(&through(&proxy, source.name()), &Selection::default()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "cut after {limit}: {error}");
    }
    source.drop().await.unwrap();
}

#[tokio::test]
async fn incident_12_a_server_that_falls_silent_is_named_after_the_limit() {
    let source = big("silent").await;
    let proxy = Proxy::before(parts().2, 5_000_000, true, Then::FallSilent).await;
    let settings = MongoConfig { stall_seconds: Some(5), ..through(&proxy, source.name()) };
    let error = dump(&settings, &Selection::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    assert!(error.what().contains("within 5 s"), "{error}");
    source.drop().await.unwrap();
}

#[tokio::test]
async fn a_restore_that_is_cut_shows_nothing_under_its_names() {
    let source = big("cut_source").await;
    let (archive, _) = dump(&config(source.name()), &Selection::default()).await.unwrap();
    let target = database("cut_target").await;
    let proxy = Proxy::before(parts().2, 10_000_000, false, Then::Cut).await;
    let error = restore(&through(&proxy, target.name()), &archive, false).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.hint().unwrap().contains("strongroom_restoring_"), "{:?}", error.hint());
    let names = target.list_collection_names().await.unwrap();
    assert!(names.iter().all(|name| name.starts_with("strongroom_restoring_")), "{names:?}");
    // What was left does not stand in the way, and is named.
    let cx = Context::new();
    let restorer = MongoRestorer::new(&config(target.name())).unwrap();
    let plan = restorer.plan(&cx, request(false)).await.unwrap();
    assert!(plan.steps()[0].contains("interrupted restore"), "{:?}", plan.steps());
    restorer.restore(&cx, plan, known(&format(), &archive)).await.unwrap();
    assert_eq!(target.collection::<Document>("a").count_documents(doc! {}).await.unwrap(), 40);
    source.drop().await.unwrap();
    target.drop().await.unwrap();
}

/// A server of one test.
pub(crate) struct Own {
    process: Child,
    pub(crate) url: String,
    port: u16,
    folder: tempfile::TempDir,
}

impl Own {
    pub(crate) async fn start() -> Self {
        let own = Self::with(&[]);
        own.answers().await;
        own
    }

    /// With these arguments; it may not answer yet.
    pub(crate) fn with(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let process = Self::process(port, folder.path(), arguments);
        let url = format!("mongodb://127.0.0.1:{port}/?directConnection=true&serverSelectionTimeoutMS=1500");
        Self { process, url, port, folder }
    }

    fn process(port: u16, folder: &std::path::Path, arguments: &[&str]) -> Child {
        Command::new(variable("STRONGROOM_TEST_MONGODB_SERVER"))
            .args([
                "--host",
                "127.0.0.1",
                "--port",
                &port.to_string(),
                "--log-level",
                "ERROR",
                "--storage-path",
            ])
            .arg(folder)
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }

    async fn answers(&self) {
        let client = Client::with_uri_str(self.url.replace("=1500", "=30000")).await.unwrap();
        client.database("admin").run_command(doc! { "ping": 1 }).await.unwrap();
    }

    /// Kills it when called.
    pub(crate) fn killer(&self) -> impl FnMut() + Send + 'static {
        let pid = rustix::process::Pid::from_child(&self.process);
        let mut alive = true;
        move || {
            if std::mem::take(&mut alive) {
                rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
            }
        }
    }

    /// Starts it again, with what it had.
    pub(crate) async fn again(&mut self) {
        self.process.wait().unwrap();
        self.process = Self::process(self.port, self.folder.path(), &[]);
        self.answers().await;
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test]
async fn incident_03_a_server_that_is_killed_is_no_clean_end() {
    let mut own = Own::start().await;
    let source = Client::with_uri_str(&own.url).await.unwrap().database("killed");
    fill(&source).await;
    let settings =
        MongoConfig { dbname: Some("killed".to_owned()), ..MongoConfig::from_url(&own.url).unwrap() };
    let dumper = MongoDumper::new(&settings).unwrap();
    let mut dump = dumper.dump(&Context::new(), &Selection::default()).await.unwrap();
    let mut read = 0;
    while read < 1024 * 1024 {
        read += dump.bytes.next().await.unwrap().unwrap().len();
    }
    own.process.kill().unwrap();
    let error = loop {
        match dump.bytes.next().await {
            Some(Ok(_)) => {}
            Some(Err(error)) => break error,
            None => panic!("a dump of a killed server ended cleanly"),
        }
    };
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(dump.report.get().is_none());
}

#[tokio::test]
async fn incident_79_no_secret_in_the_process_list() {
    let source = big("secrets").await;
    let (_, password, _) = parts();
    let settings = config(source.name());
    let dumper = MongoDumper::new(&settings).unwrap();
    assert!(!format!("{settings:?} {dumper:?}").contains(&password));
    let mut dump = dumper.dump(&Context::new(), &Selection::default()).await.unwrap();
    dump.bytes.next().await.unwrap().unwrap();
    assert!(!all_arguments().contains(&password), "the password is in the process list");
    drop(dump);
    source.drop().await.unwrap();
}

#[tokio::test]
async fn a_damaged_or_broken_archive_leaves_nothing() {
    let source = database("damaged").await;
    source.collection("a").insert_many((0..100).map(|i| doc! { "_id": i })).await.unwrap();
    let (archive, _) = dump(&config(source.name()), &Selection::default()).await.unwrap();
    let target = database("damaged_target").await;
    let restorer = MongoRestorer::new(&config(target.name())).unwrap();
    let cx = Context::new();
    let mut damaged = archive.to_vec();
    let at = damaged.windows(5).position(|part| part == b"\x10_id\0").unwrap() + 5;
    damaged[at] ^= 1;
    for dump in [
        known(&format(), &Bytes::from(damaged)),
        known(&format(), &archive.slice(..archive.len() - 1)),
        broken(&format(), &archive, ErrorKind::Integrity),
    ] {
        let plan = restorer.plan(&cx, request(false)).await.unwrap();
        let error = restorer.restore(&cx, plan, dump).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Integrity, "{error}");
        assert!(target.list_collection_names().await.unwrap().is_empty());
    }
    source.drop().await.unwrap();
}

#[tokio::test]
async fn a_dropped_dump_leaves_no_reader() {
    let source = big("dropped").await;
    let dumper = MongoDumper::new(&config(source.name())).unwrap();
    for _ in 0..3 {
        let mut dump = dumper.dump(&Context::new(), &Selection::default()).await.unwrap();
        dump.bytes.next().await.unwrap().unwrap();
        drop(dump);
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(dumper.probe(&Context::new()).await.is_ok());
    source.drop().await.unwrap();
}
