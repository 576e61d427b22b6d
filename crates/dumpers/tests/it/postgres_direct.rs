//! Rows that are read from the server itself, held against those that `psql` reads.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use backup_core::testing::collect;
use backup_core::{CancelToken, Context, Dumper as _, ErrorKind, Event, Progress, Selection};
use bytes::Bytes;
use dumpers::Secret;
use dumpers::bundle::{BundleReader, Turn};
use dumpers::postgres::{PostgresConfig, PostgresDumper};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::own_server::{OwnServer, folder};
use crate::postgres_parallel::{EVERYTHING, content, parallel, restored};
use crate::server::{Database, Server, variable};

/// What was told while a dump ran.
#[derive(Debug, Default)]
struct Heard(Mutex<Vec<String>>);

impl Progress for Heard {
    fn on(&self, event: Event<'_>) {
        if let Event::ToolLine(line) = event {
            self.0.lock().unwrap().push(line.to_owned());
        }
    }
}

/// A whole dump, and why its rows were not read directly, if they were not.
async fn dumped(config: &PostgresConfig) -> (Bytes, Option<String>) {
    let heard = Arc::new(Heard::default());
    let cx = Context::new().with_progress(heard.clone());
    let dump = PostgresDumper::new(config).unwrap().dump(&cx, &Selection::default()).await.unwrap();
    let whole = collect(dump.bytes).await.unwrap();
    let lines = heard.0.lock().unwrap();
    let why = lines.iter().find_map(|line| line.strip_prefix("rows are read through psql: "));
    (whole, why.map(str::to_owned))
}

fn turns(bundle: &Bytes) -> Vec<Turn> {
    let mut reader = BundleReader::new();
    reader.feed(bundle.clone());
    std::iter::from_fn(|| reader.turn().unwrap()).collect()
}

/// The bytes of every member with rows, by its name, head and all.
fn rows(bundle: &Bytes) -> BTreeMap<String, (String, Vec<u8>)> {
    let (mut open, mut whole) = (BTreeMap::new(), BTreeMap::new());
    for turn in turns(bundle) {
        match turn {
            Turn::Open(id, head) => drop(open.insert(id, (head, Vec::new()))),
            Turn::Data(id, chunk) => open.get_mut(&id).unwrap().1.extend_from_slice(&chunk),
            Turn::Close(id) => {
                let (head, bytes) = open.remove(&id).unwrap();
                if head.name.starts_with("data/") {
                    whole.insert(head.name.clone(), (format!("{head:?}"), bytes));
                }
            }
            Turn::Abandon(id) => drop(open.remove(&id)),
        }
    }
    whole
}

/// Waits until nobody of ours is at the server.
async fn left(database: &Database) {
    let sessions = "SELECT string_agg(query, '; ') FROM pg_stat_activity \
                    WHERE datname = current_database() AND application_name LIKE 'strongroom%'";
    for _ in 0..1000 {
        if database.sql(sessions).is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("still there: {}", database.sql(sessions));
}

#[tokio::test]
async fn both_ways_give_the_same_bytes() {
    for (server, encoding) in
        [(Server::current(), "UTF8"), (Server::version(14), "UTF8"), (Server::newer(), "LATIN1")]
    {
        let source = server.free_name("ways \"é\"");
        server.sql(
            "postgres",
            &format!(
                "CREATE DATABASE {} ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0",
                crate::server::quoted(&source.name)
            ),
        );
        if encoding == "UTF8" {
            source.sql(EVERYTHING);
        } else {
            source.sql("CREATE TABLE \"Größe\" AS SELECT 'Maß \\ ' || i || repeat('é', 90) AS \"Höhe\" FROM generate_series(1, 150000) i");
        }
        let config = parallel(&source, 3);
        let (direct, why) = dumped(&config).await;
        assert_eq!(why, None);
        let (by_psql, why) = dumped(&PostgresConfig { native: Some(false), ..config }).await;
        assert_eq!(why, None, "nobody asked for another way");
        let (direct, by_psql) = (rows(&direct), rows(&by_psql));
        assert!(direct.len() > 1);
        assert_eq!(direct.keys().collect::<Vec<_>>(), by_psql.keys().collect::<Vec<_>>());
        for (name, found) in &direct {
            assert!(*found == by_psql[name], "{name} differs");
        }
    }
}

#[tokio::test]
async fn every_way_to_a_server_that_psql_takes_is_taken() {
    let sockets = folder();
    std::fs::set_permissions(sockets.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let own = OwnServer::start(&format!("unix_socket_directories = '{}'", sockets.path().display()));
    let server = &own.server;
    server.sql(
        "postgres",
        "SET password_encryption = 'md5'; CREATE ROLE by_md5 LOGIN SUPERUSER PASSWORD 'gehéim \"1'; \
         SET password_encryption = 'scram-sha-256'; CREATE ROLE by_scram LOGIN SUPERUSER PASSWORD 'gehéim \"1'; \
         CREATE ROLE readable LOGIN SUPERUSER PASSWORD 'gehéim \"1'; CREATE ROLE trusted LOGIN SUPERUSER; \
         CREATE TEMPORARY TABLE lines (line text); INSERT INTO lines VALUES ('local all all trust'), \
         ('host all by_md5 127.0.0.1/32 md5'), ('host all readable 127.0.0.1/32 password'), \
         ('host all trusted 127.0.0.1/32 trust'), ('host all all 127.0.0.1/32 scram-sha-256'); \
         DO $$ BEGIN EXECUTE format('COPY lines TO %L', current_setting('hba_file')); END $$; SELECT pg_reload_conf();",
    );
    let source = server.database("reached");
    source.sql("CREATE TABLE t AS SELECT i FROM generate_series(1, 100) i");
    let password = Secret::new("gehéim \"1");
    let passfile = sockets.path().join("pgpass");
    std::fs::write(&passfile, "*:*:*:by_scram:gehéim \"1\n").unwrap();
    std::fs::set_permissions(&passfile, std::fs::Permissions::from_mode(0o600)).unwrap();
    let service = sockets.path().join("none");
    let as_user = |user: &str, password: Option<&Secret>| PostgresConfig {
        user: Some(user.to_owned()),
        password: password.cloned(),
        ..parallel(&source, 2)
    };
    for (config, why) in [
        (as_user("by_md5", Some(&password)), None),
        (as_user("by_scram", Some(&password)), None),
        (as_user("trusted", None), None),
        (
            PostgresConfig { host: Some(sockets.path().display().to_string()), ..as_user("by_md5", None) },
            None,
        ),
        (as_user("readable", Some(&password)), Some("the server asks for login 3")),
        (
            PostgresConfig { passfile: Some(passfile), ..as_user("by_scram", None) },
            Some("the password is known to libpq alone"),
        ),
        (
            PostgresConfig { sslmode: Some("allow".to_owned()), ..as_user("trusted", None) },
            Some("PGSSLMODE is \"allow\""),
        ),
        (PostgresConfig { sslcert: Some(service), ..as_user("trusted", None) }, Some("PGSSLCERT is set")),
        // The first does not answer; the session that did is held to.
        (
            PostgresConfig {
                host: Some("127.0.0.1,127.0.0.1".to_owned()),
                port: Some(format!("1,{}", server.port)),
                ..as_user("trusted", None)
            },
            None,
        ),
    ] {
        let (whole, found) = dumped(&config).await;
        assert_eq!(rows(&whole)["data/1"].1.iter().filter(|&&byte| byte == b'\n').count(), 100);
        match why {
            None => assert_eq!(found, None, "{config:?}"),
            Some(why) => assert!(found.as_ref().is_some_and(|found| found.contains(why)), "{why}: {found:?}"),
        }
    }
}

#[tokio::test]
async fn rows_come_by_tls_where_the_settings_ask_for_it() {
    let server = Server::current();
    let source = server.database("direct_tls");
    source.sql("CREATE TABLE t AS SELECT i, repeat(md5(i::text), 30) AS x FROM generate_series(1, 30000) i");
    let before = content(&source);
    let config = PostgresConfig {
        host: Some("localhost".to_owned()),
        sslmode: Some("verify-full".to_owned()),
        sslrootcert: Some(variable("STRONGROOM_TEST_PG_CA").into()),
        ..parallel(&source, 2)
    };
    let (whole, why) = dumped(&config).await;
    assert_eq!(why, None);
    let target = server.free_name("direct_tls_back");
    restored(&target.config(), &whole).await.unwrap();
    assert_eq!(content(&target), before);
}

/// What happens to a connection that has brought enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// The first of them is cut.
    Cut,
    /// Nothing more comes over any of them, and nobody says so.
    Frozen,
}

/// A way to a server with this fate behind so many bytes of one connection; counts those it befell.
async fn fateful(server: &Server, enough: usize, fate: Fate) -> (Server, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let upstream = format!("{}:{}", server.host, server.port);
    let befallen = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&befallen);
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (upstream, counter) = (upstream.clone(), Arc::clone(&counter));
            tokio::spawn(async move {
                let (mut from_server, mut to_server) =
                    TcpStream::connect(upstream).await.unwrap().into_split();
                let (mut from_client, mut to_client) = client.into_split();
                let there = async { drop(tokio::io::copy(&mut from_client, &mut to_server).await) };
                let back = async {
                    let (mut seen, mut bytes) = (0, vec![0; 65536]);
                    while let Ok(len @ 1..) = from_server.read(&mut bytes).await {
                        seen += len;
                        if seen > enough && (fate == Fate::Frozen || counter.load(Ordering::SeqCst) == 0) {
                            counter.fetch_add(1, Ordering::SeqCst);
                            if fate == Fate::Cut {
                                return;
                            }
                            std::future::pending::<()>().await;
                        }
                        if to_client.write_all(&bytes[..len]).await.is_err() {
                            return;
                        }
                    }
                };
                tokio::select! { () = there => {}, () = back => {} }
            });
        }
    });
    (Server { port, ..server.clone() }, befallen)
}

/// More than a `pg_dump` whose rows nobody reads brings.
const ENOUGH: usize = 12_000_000;

const BIG: &str =
    "CREATE TABLE big AS SELECT i AS id, repeat(md5(i::text), 32) AS x FROM generate_series(1, 70000) i";

#[tokio::test]
async fn a_range_whose_connection_is_cut_begins_again() {
    let source = Server::current().database("direct_cut");
    source.sql(BIG);
    // Within a row, since rows are longer than a thousand bytes.
    let (relayed, cut) = fateful(&source.server, ENOUGH, Fate::Cut).await;
    let (whole, why) =
        dumped(&PostgresConfig { port: Some(relayed.port.clone()), ..parallel(&source, 2) }).await;
    assert_eq!((why, cut.load(Ordering::SeqCst)), (None, 1));
    let abandoned = turns(&whole).into_iter().filter(|turn| matches!(turn, Turn::Abandon(_))).count();
    assert_eq!(abandoned, 1);
    let (other, _) = dumped(&parallel(&source, 2)).await;
    assert!(rows(&whole) == rows(&other));
}

#[tokio::test]
async fn a_connection_over_which_nothing_comes_is_given_up() {
    let source = Server::current().database("direct_frozen");
    source.sql(BIG);
    let (relayed, frozen) = fateful(&source.server, ENOUGH, Fate::Frozen).await;
    let config =
        PostgresConfig { port: Some(relayed.port.clone()), stall_seconds: Some(5), ..parallel(&source, 2) };
    let dump =
        PostgresDumper::new(&config).unwrap().dump(&Context::new(), &Selection::default()).await.unwrap();
    let error = collect(dump.bytes).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    assert!(error.what().contains("gave no output for 5 s"), "{error}");
    assert!(frozen.load(Ordering::SeqCst) > 0);
    left(&source).await;
}

#[tokio::test]
async fn a_dump_that_is_cancelled_or_dropped_leaves_no_session() {
    let source = Server::current().database("direct_cancelled");
    source.sql(BIG);
    for cancelled in [true, false] {
        let cancel = CancelToken::new();
        let cx = Context::new().with_cancel(cancel.clone());
        let dumper = PostgresDumper::new(&parallel(&source, 3)).unwrap();
        let mut dump = dumper.dump(&cx, &Selection::default()).await.unwrap();
        let mut seen = 0;
        while seen < 1_000_000 {
            seen += dump.bytes.next().await.unwrap().unwrap().len();
        }
        if cancelled {
            cancel.cancel();
            let error = collect(dump.bytes).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}");
        } else {
            drop(dump);
        }
        left(&source).await;
    }
}
