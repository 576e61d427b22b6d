//! A dump among other sessions: whom it holds up, whom it waits for, what changes under it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use backup_core::testing::{collect, known};
use backup_core::{
    Context, Dumper as _, ErrorKind, Event, Progress, RestoreRequest, Restorer as _, Selection,
};
use dumpers::postgres::{OnBlocked, PostgresConfig, PostgresDumper, PostgresRestorer};

use crate::postgres::{dump_of, restore};
use crate::server::{Database, Server, Session};

/// Keeps what a run warned of.
#[derive(Debug, Default)]
pub(crate) struct Warnings(Mutex<Vec<String>>);

impl Progress for Warnings {
    fn on(&self, event: Event<'_>) {
        if let Event::Warning(text) = event {
            self.0.lock().unwrap().push(text.to_owned());
        }
    }
}

impl Warnings {
    pub(crate) fn all(&self) -> String {
        self.0.lock().unwrap().join("\n")
    }
}

/// More than all pipes and buffers between `pg_dump` and a reader hold.
pub(crate) fn big(name: &str) -> Database {
    let database = Server::current().database(name);
    database.sql(
        "CREATE TABLE t AS SELECT i, repeat(md5(i::text), 30) AS x FROM generate_series(1, 30000) i; \
         CREATE TABLE u AS SELECT 1 AS x",
    );
    database
}

/// Waits until so many sessions wait for a lock in the database.
async fn waiting(database: &Database, count: u32) {
    let question = format!(
        "SELECT count(DISTINCT l.pid) >= {count} FROM pg_locks l JOIN pg_stat_activity USING (pid) \
         WHERE NOT granted AND datname = current_database()"
    );
    for _ in 0..500 {
        if database.sql(&question) == "t" {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("nobody waits");
}

/// A session that alters a table which a dump holds, and one that queues up behind it.
async fn held_up(database: &Database) -> (Session, Session) {
    let alter = database.server.session(
        &database.name,
        "SET application_name = 'migration'; ALTER\n\tTABLE\nu\nADD\nCOLUMN\ny\ntext\nDEFAULT\n'geheim'; SELECT 1;\n",
    );
    waiting(database, 1).await;
    let reader = database.server.session(&database.name, "SELECT count(*) FROM u;\n");
    waiting(database, 2).await;
    (alter, reader)
}

#[tokio::test]
async fn incident_73_74_who_is_held_up_by_a_dump_is_told() {
    held_up_is_told("holds_up", 1).await;
}

#[tokio::test]
async fn incident_73_74_who_is_held_up_by_a_dump_over_several_connections_is_told() {
    held_up_is_told("holds_up_several", 2).await;
}

async fn held_up_is_told(name: &str, jobs: u32) {
    let source = big(name);
    let config = PostgresConfig { lock_wait_limit_seconds: Some(1), jobs: Some(jobs), ..source.config() };
    let warnings = Arc::new(Warnings::default());
    let cx = Context::new().with_progress(warnings.clone());
    let mut dump = PostgresDumper::new(&config).unwrap().dump(&cx, &Selection::default()).await.unwrap();
    dump.bytes.next().await.unwrap().unwrap();
    let _sessions = held_up(&source).await;
    // Nobody reads the dump meanwhile, as where an upload is slow.
    for _ in 0..1000 {
        if !warnings.all().is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let said = warnings.all();
    assert!(said.contains("the dump holds up session") && said.contains("(migration)"), "{said}");
    assert!(said.contains("(ALTER TABLE)") && said.contains("and 1 behind it"), "{said}");
    assert!(!said.contains("geheim") && !said.contains("COLUMN"), "{said}");
    // It is whole all the same.
    collect(dump.bytes).await.unwrap();
    assert!(dump.report.get().is_some());
    assert_eq!(warnings.all().lines().count(), 1, "{said}");
}

#[tokio::test]
async fn incident_75_a_dump_gives_way_when_told() {
    gives_way("gives_way", 1).await;
}

#[tokio::test]
async fn incident_75_a_dump_over_several_connections_gives_way_when_told() {
    gives_way("gives_way_several", 3).await;
}

async fn gives_way(name: &str, jobs: u32) {
    let source = big(name);
    let config = PostgresConfig {
        lock_wait_limit_seconds: Some(1),
        on_blocked: Some(OnBlocked::GiveWay),
        jobs: Some(jobs),
        ..source.config()
    };
    let mut dump =
        PostgresDumper::new(&config).unwrap().dump(&Context::new(), &Selection::default()).await.unwrap();
    dump.bytes.next().await.unwrap().unwrap();
    let _sessions = held_up(&source).await;
    // The others go on although nobody reads the dump.
    for _ in 0..1000 {
        if source.sql("SELECT count(*) FROM pg_attribute WHERE attrelid = 'u'::regclass AND attname = 'y'")
            == "1"
        {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let error = collect(dump.bytes).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert_eq!(error.retry(), backup_core::Retry::BackedOff);
    assert!(error.what().contains("gave way to session") && error.what().contains("(migration)"), "{error}");
    assert!(dump.report.get().is_none());
}

#[tokio::test]
async fn a_dump_that_gave_way_before_its_first_byte_is_made_again() {
    made_again("again", 1).await;
}

#[tokio::test]
async fn a_dump_over_several_connections_that_gave_way_at_its_start_is_made_again() {
    made_again("again_several", 2).await;
}

async fn made_again(name: &str, jobs: u32) {
    let source = Server::current().database(name);
    source.sql(
        "CREATE TABLE a AS SELECT 1 AS x; CREATE TABLE u AS SELECT 1 AS x; CREATE TABLE z AS SELECT 1 AS x",
    );
    // Between its first lock and its first byte pg_dump waits for z, and somebody waits for u.
    let holder = source.server.session(&source.name, "BEGIN; LOCK TABLE z IN ACCESS EXCLUSIVE MODE;\n");
    let held = "SELECT count(*) FROM pg_locks WHERE relation = 'z'::regclass AND mode = 'AccessExclusiveLock' AND granted";
    while source.sql(held) == "0" {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // A server of the older kind locks tables one by one, the newer ones all at once: both wait for z.
    let config = PostgresConfig {
        lock_wait_limit_seconds: Some(1),
        on_blocked: Some(OnBlocked::GiveWay),
        jobs: Some(jobs),
        ..source.config()
    };
    let warnings = Arc::new(Warnings::default());
    let cx = Context::new().with_progress(warnings.clone());
    let reading = tokio::spawn(async move {
        let dump = PostgresDumper::new(&config).unwrap().dump(&cx, &Selection::default()).await?;
        Ok::<_, backup_core::Error>((dump.format.clone(), collect(dump.bytes).await?))
    });
    waiting(&source, 1).await;
    let alter = source.server.session(&source.name, "ALTER TABLE u ADD COLUMN y int;\n");
    for _ in 0..1000 {
        if warnings.all().contains("it is tried again") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(warnings.all().contains("it is tried again"), "{}", warnings.all());
    drop((holder, alter));
    let (format, whole) = reading.await.unwrap().unwrap();
    let target = source.server.free_name("again_back");
    let restorer = PostgresRestorer::new(&target.config()).unwrap();
    let request = RestoreRequest { format: format.clone(), source_len: None, into_existing: false };
    let plan = restorer.plan(&Context::new(), request).await.unwrap();
    restorer.restore(&Context::new(), plan, known(&format, &whole)).await.unwrap();
    assert_eq!(target.sql("SELECT x FROM u"), "1");
}

#[tokio::test]
async fn a_dump_does_not_queue_for_ever() {
    let source = Server::current().database("queue");
    source.sql("CREATE TABLE t AS SELECT 1 AS x");
    let _holder = source.server.session(&source.name, "BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE;\n");
    while source.sql("SELECT count(*) FROM pg_locks WHERE relation = 't'::regclass AND granted") == "0" {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let config = PostgresConfig { lock_timeout_seconds: Some(1), ..source.config() };
    let dump =
        PostgresDumper::new(&config).unwrap().dump(&Context::new(), &Selection::default()).await.unwrap();
    let error = collect(dump.bytes).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.hint().unwrap().contains("lock_timeout_seconds"), "{error}");
}

#[tokio::test]
async fn tables_altered_made_and_dropped_during_a_dump_do_not_change_it() {
    let source = big("ddl");
    source.sql("CREATE TABLE gone AS SELECT 7 AS x");
    let dumper = PostgresDumper::new(&source.config()).unwrap();
    let mut dump = dumper.dump(&Context::new(), &Selection::default()).await.unwrap();
    let first = dump.bytes.next().await.unwrap().unwrap();
    // The dump holds its tables: these wait until it is over. New tables come at once.
    let _alter = source.server.session(&source.name, "ALTER TABLE u ADD COLUMN y int; DROP TABLE t;\n");
    let _drop = source.server.session(&source.name, "DROP TABLE gone;\n");
    waiting(&source, 2).await;
    source.sql("CREATE TABLE later AS SELECT 1 AS x");
    let mut whole = first.to_vec();
    whole.extend_from_slice(&collect(dump.bytes).await.unwrap());
    let target = source.server.free_name("ddl_back");
    restore(&target.config(), &whole.into(), false).await.unwrap();
    let names = "SELECT string_agg(relname, ' ' ORDER BY relname) FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace";
    assert_eq!(target.sql(names), "gone t u");
    assert_eq!(target.sql("SELECT count(*) FROM t; SELECT x FROM gone; SELECT * FROM u"), "30000\n7\n1");
}

#[tokio::test]
async fn a_table_dropped_between_its_listing_and_its_lock_is_no_short_dump() {
    let source = Server::current().database("dropped_table");
    source.sql("CREATE TABLE a AS SELECT 1 AS x; CREATE TABLE b AS SELECT 1 AS x");
    // pg_dump has listed both when it waits for b, which is then gone.
    let holder = source.server.session(&source.name, "BEGIN; DROP TABLE b;\n");
    while source.sql(
        "SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND granted AND relation > 16383",
    ) == "0"
    {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let dumper = PostgresDumper::new(&source.config()).unwrap();
    let dump = dumper.dump(&Context::new(), &Selection::default()).await.unwrap();
    let reading = tokio::spawn(collect(dump.bytes));
    waiting(&source, 1).await;
    holder.send("COMMIT;\n");
    let error = reading.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.what().contains("changed while"), "{error}");
    assert!(dump.report.get().is_none());
    assert!(!dump_of(&source.config()).await.is_empty(), "the next run is good");
}

/// A snapshot from before a table was emptied, rewritten or put in another's place sees nothing in it,
/// and `pg_dump` says nothing of that.
async fn rewritten_before_its_lock(name: &str, jobs: u32) {
    let source = Server::current().database(name);
    for (change, expected) in [
        ("TRUNCATE t; INSERT INTO t SELECT 5", "5"),
        ("ALTER TABLE t ALTER COLUMN x TYPE bigint USING x + 1", "2"),
        ("CREATE TABLE new AS SELECT 9 AS x; DROP TABLE t; ALTER TABLE new RENAME TO t", "9"),
        ("CREATE TABLE new AS SELECT 8 AS x; ALTER TABLE t RENAME TO old; ALTER TABLE new RENAME TO t", "8"),
    ] {
        source.sql("DROP TABLE IF EXISTS t, old; CREATE TABLE t AS SELECT 1 AS x");
        let migration = source.server.session(&source.name, &format!("BEGIN; {change};\n"));
        let done = "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE granted \
                    AND datname = current_database() AND relation = 't'::regclass AND mode = 'AccessExclusiveLock' \
                    AND state = 'idle in transaction'";
        while source.sql(done) == "0" {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let config = PostgresConfig { jobs: Some(jobs), ..source.config() };
        let warnings = Arc::new(Warnings::default());
        let cx = Context::new().with_progress(warnings.clone());
        let run = async move {
            let dump = PostgresDumper::new(&config).unwrap().dump(&cx, &Selection::default()).await?;
            let format = dump.format.clone();
            Ok::<_, backup_core::Error>((format, collect(dump.bytes).await?))
        };
        let running = tokio::spawn(run);
        waiting(&source, 1).await;
        migration.send("COMMIT;\n");
        match running.await.unwrap() {
            Ok((format, whole)) => {
                assert!(warnings.all().contains("it is tried again"), "{change}: {}", warnings.all());
                let target = source.server.free_name("rewritten_back");
                let restorer = PostgresRestorer::new(&target.config()).unwrap();
                let request =
                    RestoreRequest { format: format.clone(), source_len: None, into_existing: false };
                let plan = restorer.plan(&Context::new(), request).await.unwrap();
                restorer.restore(&Context::new(), plan, known(&format, &whole)).await.unwrap();
                assert_eq!(target.sql("SELECT x FROM t"), expected, "{change}");
            }
            // pg_dump itself misses what it has listed.
            Err(error) => assert!(error.what().contains("changed while"), "{change}: {error}"),
        }
    }
}

#[tokio::test]
async fn a_table_rewritten_between_the_snapshot_and_its_lock_is_not_dumped_as_empty() {
    rewritten_before_its_lock("rewritten", 1).await;
}

#[tokio::test]
async fn a_table_rewritten_meanwhile_is_not_empty_over_several_connections_either() {
    rewritten_before_its_lock("rewritten_jobs", 2).await;
}

#[tokio::test]
async fn a_table_dropped_after_a_look_is_no_longer_wanted() {
    let source = Server::current().database("unknown_names");
    source.sql("CREATE TABLE a AS SELECT 1 AS x; CREATE SCHEMA \"S\"; CREATE TABLE \"S\".b AS SELECT 1 AS x");
    let dump = async |config: PostgresConfig, include: &[&str], exclude: &[&str]| {
        let owned = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
        let what = Selection { include: owned(include), exclude: owned(exclude) };
        let dump = PostgresDumper::new(&config).unwrap().dump(&Context::new(), &what).await?;
        collect(dump.bytes).await?;
        Ok::<_, backup_core::Error>(dump.report.get().unwrap().tables.clone())
    };
    let with = |schemas: &[&str], exclude_schemas: &[&str]| PostgresConfig {
        schemas: schemas.iter().map(|text| (*text).to_owned()).collect(),
        exclude_schemas: exclude_schemas.iter().map(|text| (*text).to_owned()).collect(),
        ..source.config()
    };
    assert_eq!(dump(with(&["\"S\""], &[]), &[], &[]).await.unwrap(), ["\"S\".b"]);
    assert_eq!(dump(with(&[], &["\"S\""]), &[], &[]).await.unwrap(), ["public.a"]);
    assert_eq!(dump(with(&[], &[]), &["\"S\".*"], &[]).await.unwrap(), ["\"S\".b"]);
    assert_eq!(dump(with(&[], &[]), &[], &["\"S\".b"]).await.unwrap(), ["public.a"]);
    for (config, include, exclude) in [
        (with(&[], &[]), ["a", "nowhere"].as_slice(), [].as_slice()),
        (with(&[], &[]), &[], &["nowhere"]),
        (with(&[], &[]), &[], &["s.b"]),
        (with(&["nowhere"], &[]), &[], &[]),
        (with(&["\"S\"", "no*"], &[]), &[], &[]),
        (with(&[], &["s"]), &[], &[]),
    ] {
        let error = dump(config, include, exclude).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    }
    let error = dump(with(&["\"S\""], &[]), &["a"], &[]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
}
