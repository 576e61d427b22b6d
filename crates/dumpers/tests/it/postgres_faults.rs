//! A PostgreSQL server that is down, refuses, or dies; programs that are killed; secrets in sight.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use backup_core::testing::known;
use backup_core::{Context, Dump, DumpFormat, Dumper as _, ErrorKind, Restorer as _, Selection, Settled};
use dumpers::Secret;
use dumpers::postgres::{PG_CUSTOM, PostgresConfig, PostgresDumper, PostgresRestorer};

use crate::own_server::OwnServer;
use crate::postgres::{dump_of, request};
use crate::processes::{all_arguments, marked};
use crate::server::{Database, Server};

/// More than all pipes and buffers between `pg_dump` and a reader hold.
const BIG: &str =
    "CREATE TABLE t AS SELECT i, repeat(md5(i::text), 30) AS x FROM generate_series(1, 30000) i";

fn big(name: &str) -> Database {
    let database = Server::current().database(name);
    database.sql(BIG);
    database
}

#[tokio::test]
async fn incident_02_a_wrong_user_is_refused_before_anything_starts() {
    let server = Server::current();
    let source = server.database("refused");
    let wrong_password = PostgresConfig { password: Some(Secret::new("wr0ng")), ..source.config() };
    let wrong_user = PostgresConfig { user: Some("nobody here".to_owned()), ..source.config() };
    let cx = Context::new();
    for config in [wrong_password, wrong_user] {
        let dumper = PostgresDumper::new(&config).unwrap();
        let target = PostgresConfig { dbname: Some("never_made".to_owned()), ..config };
        let errors = [
            dumper.probe(&cx).await.unwrap_err(),
            dumper.dump(&cx, &Selection::default()).await.unwrap_err(),
            PostgresRestorer::new(&target).unwrap().plan(&cx, request(false)).await.unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
            assert!(!format!("{error} {error:?}").contains("wr0ng"));
        }
    }
}

#[tokio::test]
async fn a_server_or_database_that_is_not_there_is_told_apart() {
    let server = Server::current();
    let cx = Context::new();
    // Nobody listens on port 1.
    let down = PostgresConfig { port: Some("1".to_owned()), ..server.config("postgres") };
    let unknown = PostgresConfig { host: Some("nowhere.invalid".to_owned()), ..server.config("postgres") };
    for config in [down, unknown] {
        let dumper = PostgresDumper::new(&config).unwrap();
        assert_eq!(dumper.probe(&cx).await.unwrap_err().kind(), ErrorKind::Unavailable);
        let error = dumper.dump(&cx, &Selection::default()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    }
    let absent = PostgresDumper::new(&server.config("no such database")).unwrap();
    assert_eq!(absent.probe(&cx).await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn incident_03_a_killed_pg_dump_is_no_clean_end() {
    let source = big("killed");
    let dumper = PostgresDumper::new(&source.config()).unwrap();
    let mut dump = dumper.dump(&Context::new(), &Selection::default()).await.unwrap();
    dump.bytes.next().await.unwrap().unwrap();
    let mark = format!("PGDATABASE={}", source.name);
    let programs = marked(&mark);
    let [program] = programs.as_slice() else { panic!("one pg_dump: {programs:?}") };
    let killed = Command::new("kill").args(["-KILL", &program.pid.to_string()]).status().unwrap();
    assert!(killed.success());
    let error = loop {
        match dump.bytes.next().await {
            Some(Ok(_)) => {}
            Some(Err(error)) => break error,
            None => panic!("a killed pg_dump ended cleanly"),
        }
    };
    assert_eq!(error.kind(), ErrorKind::Tool);
    assert!(error.what().contains("signal 9"), "{error}");
    assert!(dump.report.get().is_none());
}

#[tokio::test]
async fn incident_06_a_session_that_the_server_ends_is_no_clean_end() {
    let source = big("terminated");
    let dumper = PostgresDumper::new(&source.config()).unwrap();
    let mut dump = dumper.dump(&Context::new(), &Selection::default()).await.unwrap();
    dump.bytes.next().await.unwrap().unwrap();
    source.server.sql(
        "postgres",
        &format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{}'", source.name),
    );
    let error = loop {
        match dump.bytes.next().await {
            Some(Ok(_)) => {}
            Some(Err(error)) => break error,
            None => panic!("a dump whose session was ended ended cleanly"),
        }
    };
    assert!(matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Tool), "{error}");
    assert!(dump.report.get().is_none());
}

#[tokio::test]
async fn incident_06_a_server_that_dies_is_no_clean_end() {
    let own = OwnServer::start("");
    own.server.sql("postgres", "CREATE DATABASE dies");
    own.server.sql("dies", BIG);
    let dumper = PostgresDumper::new(&own.server.config("dies")).unwrap();
    let mut dump = dumper.dump(&Context::new(), &Selection::default()).await.unwrap();
    dump.bytes.next().await.unwrap().unwrap();
    own.crash();
    let error = loop {
        match dump.bytes.next().await {
            Some(Ok(_)) => {}
            Some(Err(error)) => break error,
            None => panic!("a dump of a server that died ended cleanly"),
        }
    };
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(dump.report.get().is_none());
}

#[tokio::test]
async fn incident_15_a_dump_that_waits_for_a_lock_is_stopped_and_named() {
    let source = Server::current().database("locked");
    source.sql("CREATE TABLE t AS SELECT 1 AS x");
    let _holder = source.server.session(&source.name, "BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE;\n");
    let held = "SELECT count(*) FROM pg_locks WHERE relation = 't'::regclass AND mode = 'AccessExclusiveLock' AND granted";
    while source.sql(held) == "0" {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let config = PostgresConfig { stall_seconds: Some(1), ..source.config() };
    let dumper = PostgresDumper::new(&config).unwrap();
    let mut dump = dumper.dump(&Context::new(), &Selection::default()).await.unwrap();
    let error = dump.bytes.next().await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert!(error.what().contains("pg_dump stalled") && error.hint().unwrap().contains("locks"), "{error}");
}

#[tokio::test]
async fn a_dropped_dump_leaves_no_program_and_no_session() {
    let source = big("dropped");
    let dumper = PostgresDumper::new(&source.config()).unwrap();
    let mut dump = dumper.dump(&Context::new(), &Selection::default()).await.unwrap();
    dump.bytes.next().await.unwrap().unwrap();
    drop(dump);
    let mark = format!("PGDATABASE={}", source.name);
    for _ in 0..1000 {
        if marked(&mark).is_empty() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("still there: {:?}", marked(&mark));
}

#[tokio::test]
async fn incident_79_no_secret_in_the_process_list() {
    let source = big("secrets");
    let server = &source.server;
    let uri = format!(
        "postgres://{}:{}@{}:{}/{}",
        server.user, server.password, server.host, server.port, source.name
    );
    let config = PostgresConfig::from_url(&uri).unwrap();
    let dumper = PostgresDumper::new(&config).unwrap();
    assert!(!format!("{config:?} {dumper:?}").contains(&server.password));
    let mut dump = dumper.dump(&Context::new(), &Selection::default()).await.unwrap();
    dump.bytes.next().await.unwrap().unwrap();
    let programs = marked(&format!("PGDATABASE={}", source.name));
    let [program] = programs.as_slice() else { panic!("one pg_dump: {programs:?}") };
    assert!(program.arguments.contains("--format=custom"), "{}", program.arguments);
    assert!(program.environment.contains(&format!("PGPASSWORD={}", server.password)));
    assert!(!all_arguments().contains(&server.password), "the password is in the process list");
    drop(dump);

    let whole = dump_of(&config).await;
    let target = server.free_name("secrets_back");
    let restorer = PostgresRestorer::new(&target.config()).unwrap();
    let cx = Context::new();
    let plan = restorer.plan(&cx, request(false)).await.unwrap();
    let looks = Arc::new(AtomicUsize::new(0));
    let known = known(&DumpFormat::new(PG_CUSTOM), &whole);
    let bytes = known.bytes.inspect({
        let (looks, password, user) =
            (Arc::clone(&looks), server.password.clone(), format!("PGUSER={}", server.user));
        let mut chunks = 0;
        move |_| {
            chunks += 1;
            // Every look reads the whole process list.
            if chunks % 50 != 0 {
                return;
            }
            let restoring = marked(&user).iter().any(|program| program.arguments.contains("pg_restore"));
            if restoring {
                looks.fetch_add(1, Ordering::Relaxed);
                assert!(!all_arguments().contains(&password), "the password is in the process list");
            }
        }
    });
    let dump = Dump { format: known.format, bytes, report: Settled::known(Default::default()) };
    restorer.restore(&cx, plan, dump).await.unwrap();
    assert!(looks.load(Ordering::Relaxed) > 0, "pg_restore was never seen");
}
