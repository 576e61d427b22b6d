//! Redis where something goes wrong: never a short dump that looks good, never half a restore.

use std::process::Command;
use std::time::Duration;

use backup_core::testing::{broken, collect, known};
use backup_core::{CancelToken, Context, Dumper as _, Error, ErrorKind, Restorer as _, Selection};
use bytes::Bytes;
use dumpers::Secret;
use dumpers::redis::{RedisConfig, RedisDumper, RedisRestorer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::processes::all_arguments;
use crate::redis::{dump, fill, format, request, restore};
use crate::redis_server::{Answer, RedisServer, Session};

async fn dumped(config: &RedisConfig) -> Result<Bytes, Error> {
    let dumper = RedisDumper::new(config)?;
    let dump = dumper.dump(&Context::new(), &Selection::default()).await?;
    let report = dump.report.clone();
    let whole = collect(dump.bytes).await;
    assert_eq!(whole.is_ok(), report.get().is_some(), "the report comes with the clean end alone");
    whole
}

/// What a proxy does once the server has sent so many bytes.
#[derive(Clone, Copy)]
enum Then {
    Closes,
    Waits,
}

/// A port behind which the server's answers end early.
async fn proxy(server: &RedisServer, bytes: usize, then: Then) -> RedisConfig {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let target = server.port;
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(("127.0.0.1", target)).await.unwrap();
            tokio::spawn(async move {
                let (mut from_client, mut to_client) = client.into_split();
                let (mut from_server, mut to_server) = server.into_split();
                let asks =
                    tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
                let (mut rest, mut buffer) = (bytes, vec![0; 65536]);
                while rest > 0 {
                    let want = rest.min(buffer.len());
                    let Ok(read @ 1..) = from_server.read(&mut buffer[..want]).await else { break };
                    rest -= read;
                    if to_client.write_all(&buffer[..read]).await.is_err() {
                        break;
                    }
                }
                if matches!(then, Then::Waits) {
                    tokio::time::sleep(Duration::from_secs(600)).await;
                }
                asks.abort();
            });
        }
    });
    RedisConfig { port: Some(port.to_string()), ..server.config() }
}

#[tokio::test]
async fn a_connection_that_is_cut_is_no_end() {
    for diskless in ["yes", "no"] {
        let server = RedisServer::redis(&["--repl-diskless-sync", diskless]);
        fill(&server);
        let len = dump(&server).await.0.len();
        // The head is less than 200 bytes, an end mark 40: cut around them. By way of a file each dump
        // waits for the server's next tick.
        let step = if diskless == "yes" { 5 } else { 30 };
        let cuts = [0, 30, 200, len / 2].into_iter().chain((len - 8..len + 60).step_by(step));
        for cut in cuts {
            let error = dumped(&proxy(&server, cut, Then::Closes).await).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unavailable, "cut after {cut}: {error}");
        }
        assert!(dumped(&proxy(&server, len + 400, Then::Waits).await).await.is_ok());
    }
}

#[tokio::test]
async fn incident_12_a_server_that_falls_silent_is_given_up() {
    let server = RedisServer::redis(&[]);
    fill(&server);
    for bytes in [60, 2000] {
        let config = RedisConfig { stall_seconds: Some(1), ..proxy(&server, bytes, Then::Waits).await };
        let error = dumped(&config).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    }
}

#[tokio::test]
async fn a_server_killed_in_the_middle_is_no_end() {
    for diskless in ["yes", "no"] {
        let mut server = RedisServer::redis(&["--repl-diskless-sync", diskless, "--rdbcompression", "no"]);
        server.run("DEBUG POPULATE 40000 ballast 1000");
        let mut dump = server.dumper().dump(&Context::new(), &Selection::default()).await.unwrap();
        dump.bytes.next().await.unwrap().unwrap();
        server.kill();
        let error = collect(dump.bytes).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(dump.report.get().is_none());
        let error = dumped(&server.config()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    }
}

#[tokio::test]
async fn a_dump_stops_when_asked() {
    let server = RedisServer::redis(&["--rdbcompression", "no"]);
    server.run("DEBUG POPULATE 40000 ballast 1000");
    let cancel = CancelToken::new();
    let cx = Context::new().with_cancel(cancel.clone());
    let mut dump = server.dumper().dump(&cx, &Selection::default()).await.unwrap();
    dump.bytes.next().await.unwrap().unwrap();
    cancel.cancel();
    assert_eq!(collect(dump.bytes).await.unwrap_err().kind(), ErrorKind::Cancelled);
}

#[tokio::test]
async fn incident_02_a_wrong_password_is_refused_and_not_shown() {
    let server = RedisServer::redis(&["--requirepass", "hunter2right"]);
    let with =
        |password: Option<&str>| RedisConfig { password: password.map(Secret::new), ..server.config() };
    for password in [None, Some("hunter2wrong")] {
        for error in [
            RedisDumper::new(&with(password)).unwrap().probe(&Context::new()).await.unwrap_err(),
            dumped(&with(password)).await.unwrap_err(),
            RedisRestorer::new(&with(password))
                .unwrap()
                .plan(&Context::new(), request(false))
                .await
                .unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
            assert!(!format!("{error} {error:?} {:?}", error.hint()).contains("hunter2"), "{error:?}");
        }
    }
    assert!(dumped(&with(Some("hunter2right"))).await.is_ok());
}

#[tokio::test]
async fn a_missing_right_is_named_with_the_statement_that_grants_it() {
    let server = RedisServer::redis(&[]);
    fill(&server);
    server.run("ACL SETUSER backup on >secret1 +ping");
    let config = RedisConfig {
        user: Some("backup".to_owned()),
        password: Some(Secret::new("secret1")),
        ..server.config()
    };
    let dumper = RedisDumper::new(&config).unwrap();
    let probe = dumper.probe(&Context::new()).await.unwrap();
    let [obstacle] = &probe.obstacles[..] else { panic!("{probe:?}") };
    assert_eq!(obstacle.remedy, "ACL SETUSER backup +replconf +psync");
    assert!(probe.warnings[0].ends_with("ACL SETUSER backup +info"), "{probe:?}");
    let error = dumped(&config).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert_eq!(error.hint(), Some("an administrator can run: ACL SETUSER backup +replconf"));
    server.run(&obstacle.remedy);
    assert!(dumped(&config).await.is_ok());
    server.run("ACL SETUSER backup +info");
    let before = server.run("INFO stats");
    let probe = dumper.probe(&Context::new()).await.unwrap();
    assert!(probe.obstacles.is_empty() && probe.warnings.is_empty(), "{probe:?}");
    let names: Vec<_> = probe.items.iter().map(|item| (&*item.name, item.estimated_rows)).collect();
    assert_eq!(names[1..], [("db3", Some(1)), ("db15", Some(1))]);
    assert!(probe.estimated_bytes.is_some_and(|bytes| bytes > 1000));
    assert_eq!(copies(&before), copies(&server.run("INFO stats")), "a probe starts no copy");
}

fn copies(info: &Answer) -> String {
    let Answer::Bytes(info) = info else { panic!("{info:?}") };
    let info = String::from_utf8_lossy(info).into_owned();
    info.lines().find(|line| line.starts_with("sync_full:")).unwrap().to_owned()
}

#[tokio::test]
async fn missing_rights_of_a_restore_are_named_together() {
    let (source, target) = (RedisServer::redis(&[]), RedisServer::redis(&[]));
    fill(&source);
    let whole = dump(&source).await.0;
    target.run("ACL SETUSER restorer on >secret1 +ping +info +select");
    let config = RedisConfig {
        user: Some("restorer".to_owned()),
        password: Some(Secret::new("secret1")),
        ..target.config()
    };
    let restorer = RedisRestorer::new(&config).unwrap();
    let error = restorer.plan(&Context::new(), request(false)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    let grant = error.hint().unwrap().split_once(": ").unwrap().1.to_owned();
    let expected = "ACL SETUSER restorer +restore +set +pexpireat +flushall +function|restore +function|flush \
                    +function|list";
    assert_eq!(grant, expected);
    target.run(&grant);
    let error = restorer.plan(&Context::new(), request(false)).await.unwrap_err();
    let grant = error.hint().unwrap().split_once(": ").unwrap().1.to_owned();
    assert_eq!(grant, "ACL SETUSER restorer ~*");
    target.run(&grant);
    restore(&restorer, &whole, false).await.unwrap();
    assert_eq!(target.digest(), source.digest());
}

#[tokio::test]
async fn incident_79_no_secret_in_the_process_list_of_redis() {
    let server = RedisServer::redis(&["--rdbcompression", "no"]);
    server.run("CONFIG SET requirepass not-in-the-list");
    let config = RedisConfig { password: Some(Secret::new("not-in-the-list")), ..server.config() };
    let dumper = RedisDumper::new(&config).unwrap();
    let mut dump = dumper.dump(&Context::new(), &Selection::default()).await.unwrap();
    while let Some(chunk) = dump.bytes.next().await {
        chunk.unwrap();
        assert!(!all_arguments().contains("not-in-the-list"));
    }
}

#[tokio::test]
async fn a_full_target_is_left_empty() {
    let source = RedisServer::redis(&[]);
    source.run("DEBUG POPULATE 20000 ballast 300");
    let whole = dump(&source).await.0;
    for (policy, word) in [("noeviction", "no room"), ("allkeys-lru", "evicted")] {
        let target = RedisServer::redis(&["--maxmemory", "4mb", "--maxmemory-policy", policy]);
        let error = restore(&target.restorer(), &whole, false).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(error.what().contains(word), "{error}");
        assert_eq!(target.keys(), 0, "{policy}");
    }
}

#[tokio::test]
async fn a_target_with_fewer_databases_is_left_empty() {
    let (source, target) = (RedisServer::redis(&[]), RedisServer::redis(&["--databases", "4"]));
    fill(&source);
    let error = restore(&target.restorer(), &dump(&source).await.0, false).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert!(error.what().contains("15") && error.hint().unwrap().contains("16"), "{error}");
    assert_eq!(target.keys(), 0);
}

#[tokio::test]
async fn keys_that_are_there_are_replaced_only_when_told() {
    let (source, target) = (RedisServer::redis(&[]), RedisServer::redis(&[]));
    source.run("SET shared new");
    let library = |answer: u32| {
        format!("#!lua name=lib\nredis.register_function('answer', function() return {answer} end)")
    };
    for (server, answer) in [(&source, 42), (&target, 7)] {
        let loaded = server.session().send(&[b"FUNCTION", b"LOAD", library(answer).as_bytes()]);
        assert_eq!(loaded, Answer::Bytes(b"lib".to_vec()));
    }
    let big = vec![b'x'; 5 << 20];
    source.session().send(&[b"SET", b"big", &big]);
    let whole = dump(&source).await.0;
    target.run("SET shared old");
    target.run("SET own kept");
    let error = restore(&target.restorer(), &whole, false).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.hint().unwrap().contains("allow restoring into what exists"));
    let error = restore(&target.restorer(), &whole, true).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    // Libraries come first in a dump.
    assert!(error.what().contains("function") && error.what().contains("stay"), "{error}");
    assert_eq!(target.run("FCALL answer 0"), Answer::Number(7));
    target.run("FUNCTION DELETE lib");
    // It was on its way already.
    target.run("DEL big");
    let error = restore(&target.restorer(), &whole, true).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.what().contains("\"shared\"") && error.what().contains("stay"), "{error}");
    assert_eq!(target.run("GET shared"), Answer::Bytes(b"old".to_vec()));
    assert_eq!(target.run("GET own"), Answer::Bytes(b"kept".to_vec()));
    let config = RedisConfig { replace: true, ..target.config() };
    target.run("FUNCTION FLUSH");
    target.session().send(&[b"FUNCTION", b"LOAD", library(7).as_bytes()]);
    restore(&RedisRestorer::new(&config).unwrap(), &whole, true).await.unwrap();
    assert_eq!(target.run("FCALL answer 0"), Answer::Number(42));
    assert_eq!(target.run("GET shared"), Answer::Bytes(b"new".to_vec()));
    assert_eq!(target.run("GET own"), Answer::Bytes(b"kept".to_vec()));
    assert_eq!(target.run("STRLEN big"), Answer::Number(5 << 20));
}

#[tokio::test]
async fn a_restore_that_breaks_off_leaves_the_target_empty() {
    let (source, target) = (RedisServer::redis(&[]), RedisServer::redis(&[]));
    fill(&source);
    let noise: Vec<u8> = (0..6_u32 << 20).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    source.session().send(&[b"SET", b"noise", &noise]);
    source.run("PEXPIRE noise 100000000");
    let whole = dump(&source).await.0;
    for cut in [whole.len() / 3, whole.len() / 2, whole.len() - 1, whole.len()] {
        let cx = Context::new();
        let restorer = target.restorer();
        let plan = restorer.plan(&cx, request(false)).await.unwrap();
        let cut_off = broken(&format(), &whole.slice(..cut), ErrorKind::Unavailable);
        assert_eq!(restorer.restore(&cx, plan, cut_off).await.unwrap_err().kind(), ErrorKind::Unavailable);
        assert_eq!(target.keys(), 0, "cut at {cut}");
        // A stream that ends there as if that were all.
        if cut < whole.len() {
            let plan = restorer.plan(&cx, request(false)).await.unwrap();
            let error = restorer.restore(&cx, plan, known(&format(), &whole.slice(..cut))).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Integrity, "{error}");
            assert_eq!(target.keys(), 0, "cut at {cut}");
        }
    }
    let mut flipped = whole.to_vec();
    let middle = flipped.len() - 100_000;
    flipped[middle] ^= 1;
    let error = restore(&target.restorer(), &flipped.into(), false).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Integrity, "{error}");
    assert_eq!(target.keys(), 0);
    restore(&target.restorer(), &whole, false).await.unwrap();
    assert_eq!(target.digest(), source.digest());
    assert_ne!(target.run("PTTL noise"), Answer::Number(-1));
}

#[tokio::test]
async fn what_somebody_else_wrote_meanwhile_is_not_flushed() {
    let source = RedisServer::redis(&[]);
    source.run("DEBUG POPULATE 20000 ballast 300");
    let mut session = source.session();
    session.run("SELECT 9");
    session.run("SET shared new");
    let whole = dump(&source).await.0;
    let late = whole.len() as u64 - 100_000;
    // Before the first write, among what was written, and unseen until the stream fails.
    for (when, command, word) in [
        (0, "SET shared own", "not any more"),
        (
            0,
            "FUNCTION LOAD #!lua\tname=lib\nredis.register_function('f',function()return\t1\tend)",
            "not any more",
        ),
        (late, "SET shared own", "stay"),
    ] {
        let target = RedisServer::redis(&[]);
        let restorer = target.restorer();
        let plan = restorer.plan(&Context::new(), request(false)).await.unwrap();
        let mut bytes = known(&format(), &whole);
        let (socket, mut seen, mut done) = (target.socket(), 0, false);
        bytes.bytes = bytes.bytes.inspect(move |chunk| {
            seen += chunk.len() as u64;
            if !done && seen > when {
                done = true;
                let mut session = Session::open(&socket);
                session.run("SELECT 9");
                session.run(command);
            }
        });
        let error = restorer.restore(&Context::new(), plan, bytes).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
        assert!(error.what().contains(word), "{error}");
        let mut session = target.session();
        session.run("SELECT 9");
        if command.starts_with("SET") {
            assert_eq!(session.run("GET shared"), Answer::Bytes(b"own".to_vec()), "{error}");
        } else {
            assert!(matches!(session.run("FUNCTION LIST"), Answer::List(all) if all.len() == 1));
        }
        assert_eq!(target.keys() > 0, when > 0 || command.starts_with("SET"));
    }
}

#[tokio::test]
async fn a_backup_of_a_key_that_has_expired_does_not_remove_a_living_one() {
    let (source, target) = (RedisServer::redis(&[]), RedisServer::redis(&[]));
    source.run("SET short old PX 1000");
    let big = vec![b'x'; 5 << 20];
    source.session().send(&[b"SET", b"long", &big, b"PX", b"1000"]);
    source.run("SET lasting new");
    let whole = dump(&source).await.0;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    for key in ["short", "long", "lasting"] {
        target.run(&format!("SET {key} living"));
    }
    let config = RedisConfig { replace: true, ..target.config() };
    let restored = restore(&RedisRestorer::new(&config).unwrap(), &whole, true).await.unwrap();
    assert!(restored.warnings.iter().any(|told| told.starts_with("2 keys had expired")), "{restored:?}");
    for (key, value) in [("short", "living"), ("long", "living"), ("lasting", "new")] {
        assert_eq!(target.run(&format!("GET {key}")), Answer::Bytes(value.into()), "{key}");
    }
}

#[tokio::test]
async fn a_target_that_dies_is_told() {
    let (source, mut target) = (RedisServer::redis(&[]), RedisServer::redis(&[]));
    source.run("DEBUG POPULATE 20000 ballast 300");
    let whole = dump(&source).await.0;
    let restorer = target.restorer();
    let plan = restorer.plan(&Context::new(), request(false)).await.unwrap();
    target.kill();
    let error = restorer.restore(&Context::new(), plan, known(&format(), &whole)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
}

#[tokio::test]
async fn what_expired_meanwhile_is_told_and_does_not_come_back() {
    let (source, target) = (RedisServer::redis(&[]), RedisServer::redis(&[]));
    source.run("SET lasting v");
    source.run("SET passing v PX 300");
    let whole = dump(&source).await.0;
    tokio::time::sleep(Duration::from_millis(400)).await;
    let restored = restore(&target.restorer(), &whole, false).await.unwrap();
    assert!(restored.warnings[0].starts_with("1 keys had expired"), "{restored:?}");
    assert_eq!(target.keys(), 1);
}

#[tokio::test]
async fn what_is_no_place_for_a_restore_is_refused() {
    let primary = RedisServer::redis(&[]);
    let replica = RedisServer::redis(&["--replicaof", &format!("127.0.0.1 {}", primary.port)]);
    let node = RedisServer::redis(&["--cluster-enabled", "yes"]);
    for target in [&replica, &node] {
        let error = target.restorer().plan(&Context::new(), request(false)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    }
    // A replica is a good source.
    fill(&primary);
    for _ in 0..100 {
        if replica.digest() == primary.digest() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let target = RedisServer::redis(&[]);
    restore(&target.restorer(), &dump(&replica).await.0, false).await.unwrap();
    assert_eq!(target.digest(), primary.digest());
}

#[tokio::test]
async fn a_server_without_checksums_is_dumped_with_a_warning() {
    let (source, target) = (RedisServer::redis(&["--rdbchecksum", "no"]), RedisServer::redis(&[]));
    fill(&source);
    let restored = restore(&target.restorer(), &dump(&source).await.0, false).await.unwrap();
    assert!(restored.warnings[0].contains("rdbchecksum"), "{restored:?}");
    assert_eq!(target.digest(), source.digest());
}

#[tokio::test]
async fn tls_and_sockets_lead_to_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    let openssl = |arguments: &str| {
        let words = arguments.split(' ').map(|word| word.replace("DIR", folder.path().to_str().unwrap()));
        let made = Command::new("openssl").args(words).output().unwrap();
        assert!(made.status.success(), "{arguments}: {made:?}");
    };
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    std::fs::write(file("names"), "subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n").unwrap();
    for name in ["right", "other"] {
        openssl(&format!(
            "req -x509 {key} -days 2 -subj /CN=ca -keyout DIR/{name}-ca.key -out DIR/{name}-ca.pem"
        ));
        openssl(&format!("req {key} -subj /CN=test -keyout DIR/{name}.key -out DIR/{name}.csr"));
        openssl(&format!(
            "x509 -req -in DIR/{name}.csr -days 2 -CA DIR/{name}-ca.pem -CAkey DIR/{name}-ca.key -CAcreateserial \
             -extfile DIR/names -out DIR/{name}.pem"
        ));
    }
    let path = |name: &str| file(name).to_str().unwrap().to_owned();
    let tls_port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port().to_string();
    let server = RedisServer::redis(&[
        "--tls-port",
        &tls_port,
        "--tls-cert-file",
        &path("right.pem"),
        "--tls-key-file",
        &path("right.key"),
        "--tls-ca-cert-file",
        &path("right-ca.pem"),
    ]);
    fill(&server);
    let with = |roots: &str, client: Option<&str>| RedisConfig {
        port: Some(tls_port.clone()),
        sslrootcert: Some(file(roots)),
        sslcert: client.map(|name| file(&format!("{name}.pem"))),
        sslkey: client.map(|name| file(&format!("{name}.key"))),
        ..server.config()
    };
    dumped(&with("right-ca.pem", Some("right"))).await.unwrap();
    for bad in
        [with("other-ca.pem", Some("right")), with("right-ca.pem", None), with("right-ca.pem", Some("other"))]
    {
        let error = dumped(&bad).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    }
    // The system's certificates do not vouch for it.
    let url = format!("rediss://127.0.0.1:{tls_port}");
    assert!(dumped(&RedisConfig::from_url(&url).unwrap()).await.is_err());
    let url = format!("redis+unix://{}", server.socket().display());
    let over_socket = dumped(&RedisConfig::from_url(&url).unwrap()).await.unwrap();
    assert!(over_socket.starts_with(b"REDIS00"));
}

/// Also a server that waits for the rest of a line, as a plain one often does with the first of TLS.
#[tokio::test]
async fn tls_to_a_server_without_it_fails_soon_and_says_so() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent_port = silent.local_addr().unwrap().port();
    let held = tokio::spawn(async move {
        let mut connections = Vec::new();
        while let Ok((connection, _)) = silent.accept().await {
            connections.push(connection);
        }
    });
    let server = RedisServer::redis(&[]);
    let began = std::time::Instant::now();
    for port in [server.port, server.port, silent_port] {
        let url = format!("rediss://127.0.0.1:{port}");
        let error = dumped(&RedisConfig::from_url(&url).unwrap()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(error.what().contains("TLS") && error.hint().unwrap().contains("redis://"), "{error}");
    }
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    held.abort();
}
