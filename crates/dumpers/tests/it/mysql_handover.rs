//! Somebody else at the target of a MySQL restore, answers that are lost, and engines that are missing.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use backup_core::testing::known;
use backup_core::{Context, Dump, Error, ErrorKind, Restorer as _, Settled};
use bytes::Bytes;
use dumpers::mysql::{MysqlConfig, MysqlRestorer};

use crate::mysql::{dump_of, request, restore};
use crate::mysql_server::{Database, Server, quoted};

/// What becomes of what a client sends.
enum Then {
    Pass,
    /// The connection is cut before the server sees it.
    Cut,
    /// The server gets it, and this is waited for; then the connection is cut.
    CutAfter(Box<dyn Fn() -> bool + Send>),
}

/// A way to the server on which everything a client sends is looked at, once it holds `word`.
fn proxy(server: &Server, word: &'static str, act: impl Fn() -> Then + Send + Sync + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let place = format!("{}:{}", server.host, server.port);
    let (act, done) = (Arc::new(act), Arc::new(AtomicBool::new(false)));
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let (mut client, mut server) = (client.unwrap(), TcpStream::connect(&place).unwrap());
            let (mut answers, mut back) = (server.try_clone().unwrap(), client.try_clone().unwrap());
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut answers, &mut back);
                let _ = back.shutdown(Shutdown::Both);
            });
            let (act, done) = (Arc::clone(&act), Arc::clone(&done));
            std::thread::spawn(move || {
                let mut buffer = vec![0; 64 * 1024];
                while let Ok(len @ 1..) = client.read(&mut buffer) {
                    let text = &buffer[..len];
                    let is_it = text.windows(word.len()).any(|part| part == word.as_bytes());
                    let then = if is_it && !done.swap(true, Ordering::SeqCst) { act() } else { Then::Pass };
                    if let Then::Cut = then {
                        break;
                    }
                    if let Then::CutAfter(_) = then {
                        // The answer must not get back.
                        let _ = client.shutdown(Shutdown::Write);
                    }
                    if server.write_all(text).is_err() {
                        break;
                    }
                    if let Then::CutAfter(is_done) = then {
                        let began = Instant::now();
                        while !is_done() && began.elapsed() < Duration::from_secs(20) {
                            std::thread::sleep(Duration::from_millis(20));
                        }
                        break;
                    }
                }
                let _ = (client.shutdown(Shutdown::Both), server.shutdown(Shutdown::Both));
            });
        }
    });
    port
}

fn through(target: &Database, port: u16) -> MysqlConfig {
    MysqlConfig {
        port: Some(port.to_string()),
        // A proxy cannot read what is encrypted.
        sslmode: Some("disable".to_owned()),
        ..target.config()
    }
}

fn source(server: &Server) -> Database {
    let source = server.database("handed");
    source.sql(
        "CREATE TABLE t (i int); INSERT INTO t VALUES (1); CREATE TABLE u (i int); CREATE VIEW v AS SELECT i FROM t;
         CREATE PROCEDURE p() SELECT 'dump'; CREATE EVENT e ON SCHEDULE EVERY 1 DAY DO SELECT 1;",
    );
    source
}

/// Restores, and does something when the stream has come to its end.
async fn while_somebody(
    target: &Database,
    whole: &(backup_core::DumpFormat, Bytes),
    does: impl Fn() + Send + 'static,
) -> Error {
    let restorer = MysqlRestorer::new(&target.config()).unwrap();
    let cx = Context::new();
    let plan = restorer.plan(&cx, request(&whole.0, false)).await.unwrap();
    let (known, len) = (known(&whole.0, &whole.1), whole.1.len());
    let mut seen = 0;
    let bytes = known.bytes.inspect(move |chunk| {
        seen += chunk.len();
        if seen == len {
            does();
        }
    });
    let dump = Dump { format: known.format, bytes, report: Settled::known(Default::default()) };
    restorer.restore(&cx, plan, dump).await.unwrap_err()
}

/// The databases that begin like the target: itself, and none of a temporary name.
fn nothing_is_left(target: &Database) {
    assert_eq!(target.server.databases(&target.name), std::slice::from_ref(&target.name));
}

async fn what_somebody_else_makes_meanwhile_stays(server: Server) {
    let source = source(&server);
    let whole = dump_of(&source.config()).await;

    // It was not there when it was looked at.
    let target = server.free_name("handed_new");
    let (other, name) = (server.clone(), quoted(&target.name));
    let error = while_somebody(&target, &whole, move || {
        other.sql("mysql", &format!("CREATE DATABASE {name}; CREATE TABLE {name}.mine (i int)"));
    })
    .await;
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert_eq!(target.sql("SHOW TABLES"), "mine");
    nothing_is_left(&target);

    // It was empty when it was looked at.
    for (does, still) in [
        (
            "CREATE TABLE t (mine int)",
            "SELECT COLUMN_NAME FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = database()",
        ),
        (
            "CREATE PROCEDURE p() SELECT 'mine'",
            "SELECT ROUTINE_NAME FROM information_schema.ROUTINES WHERE ROUTINE_SCHEMA = database()",
        ),
    ] {
        let target = server.database("handed_empty");
        let (other, name) = (server.clone(), target.name.clone());
        let error = while_somebody(&target, &whole, move || {
            other.sql(&name, does);
        })
        .await;
        assert_eq!(error.kind(), ErrorKind::Conflict, "{does}: {error}");
        assert_eq!(target.sql("SHOW TABLES"), if does.contains("TABLE") { "t" } else { "" });
        assert!(["mine", "p"].contains(&&*target.sql(still)), "{does}");
        nothing_is_left(&target);
    }

    // In the last moment: after the last look, before the tables are moved.
    let target = server.free_name("handed_moment");
    let (other, name) = (server.clone(), quoted(&target.name));
    let port = proxy(&server, "RENAME TABLE", move || {
        other.sql("mysql", &format!("CREATE TABLE {name}.t (mine int)"));
        Then::Pass
    });
    let error = restore(&through(&target, port), &whole, false).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert!(error.hint().unwrap().contains("somebody else"), "{error} {:?}", error.hint());
    assert_eq!(target.sql("SHOW TABLES; SHOW COLUMNS FROM t").lines().next(), Some("t"));
    assert!(target.sql("SHOW COLUMNS FROM t").starts_with("mine"));
    nothing_is_left(&target);

    // The same with something that is made after the tables were moved.
    for (made, still) in [
        ("CREATE PROCEDURE {}.p() SELECT 'mine'", "CALL p()"),
        (
            "CREATE EVENT {}.e ON SCHEDULE EVERY 2 DAY DO SELECT 'mine'",
            "SELECT EVENT_DEFINITION FROM information_schema.EVENTS WHERE EVENT_SCHEMA = database()",
        ),
        ("CREATE VIEW {}.v AS SELECT 'mine' AS x", "SELECT * FROM v"),
    ] {
        let target = server.free_name("handed_routine");
        let (other, statement) = (server.clone(), made.replace("{}", &quoted(&target.name)));
        let port = proxy(&server, "RENAME TABLE", move || {
            other.sql("mysql", &statement);
            Then::Pass
        });
        let error = restore(&through(&target, port), &whole, false).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "{made}: {error}");
        assert!(error.what().contains("are in place"), "{made}: {error}");
        assert!(target.sql(still).contains("mine"), "{made}");
        assert_eq!(target.sql("SELECT i FROM t"), "1", "what was moved stays, and is told");
    }
}

#[tokio::test]
async fn what_somebody_else_makes_in_the_target_meanwhile_stays() {
    what_somebody_else_makes_meanwhile_stays(Server::mariadb()).await;
}

#[tokio::test]
async fn mysql9_what_somebody_else_makes_in_the_target_meanwhile_stays() {
    what_somebody_else_makes_meanwhile_stays(Server::mysql9()).await;
}

#[tokio::test]
async fn a_lost_answer_to_the_move_is_settled_by_looking_or_told() {
    let server = Server::mariadb();
    let source = source(&server);
    let whole = dump_of(&source.config()).await;

    // The server did it.
    let target = server.free_name("lost_done");
    let (other, name) = (server.clone(), target.name.clone());
    let port = proxy(&server, "RENAME TABLE", move || {
        let (other, name) = (other.clone(), name.clone());
        let list = format!("SELECT count(*) FROM TABLES WHERE TABLE_SCHEMA = '{name}'");
        Then::CutAfter(Box::new(move || other.sql("information_schema", &list) == "2"))
    });
    restore(&through(&target, port), &whole, false).await.unwrap();
    assert_eq!(target.sql("SELECT i FROM v; CALL p()"), "1\ndump");
    nothing_is_left(&target);

    // The server never heard of it, which nobody can tell from here.
    let target = server.free_name("lost_undone");
    let port = proxy(&server, "RENAME TABLE", || Then::Cut);
    let error = restore(&through(&target, port), &whole, false).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Uncertain, "{error}");
    let draft = server.databases(&format!("{}_strongroom_", target.name));
    let [draft] = draft.as_slice() else { panic!("{draft:?}") };
    assert!(error.what().contains(&**draft), "{error}");
    assert_eq!(server.sql(draft, "SELECT i FROM t"), "1", "no row is dropped");
    server.sql("mysql", &format!("DROP DATABASE {}", quoted(draft)));

    // The target itself may have been made.
    let target = server.free_name("lost_made");
    let (other, name) = (server.clone(), target.name.clone());
    let statement: &'static str = format!("CREATE DATABASE {} ", quoted(&name)).leak();
    let port = proxy(&server, statement, move || {
        let (other, name) = (other.clone(), name.clone());
        Then::CutAfter(Box::new(move || !other.databases(&name).is_empty()))
    });
    let error = restore(&through(&target, port), &whole, false).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.hint().unwrap().contains("may have been made"), "{error} {:?}", error.hint());
    nothing_is_left(&target);
}

/// Without a word in the session a server takes its default engine instead.
async fn a_missing_engine_is_told(server: Server) {
    let source = server.database("engine");
    source.sql("CREATE TABLE t (i int) ENGINE=InnoDB; INSERT INTO t VALUES (1)");
    let (format, whole) = dump_of(&source.config()).await;
    let text = String::from_utf8(whole.to_vec()).unwrap().replace("ENGINE=InnoDB", "ENGINE=NoSuchOne");
    let target = server.free_name("engine_back");
    let error = restore(&target.config(), &(format, text.into()), false).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.what().contains("NoSuchOne") && error.hint().unwrap().contains("engine"), "{error}");
    assert!(server.databases(&target.name).is_empty());
}

#[tokio::test]
async fn a_storage_engine_that_is_missing_is_not_replaced_by_another() {
    a_missing_engine_is_told(Server::mariadb()).await;
}

#[tokio::test]
async fn mysql9_a_storage_engine_that_is_missing_is_not_replaced_by_another() {
    a_missing_engine_is_told(Server::mysql9()).await;
}
