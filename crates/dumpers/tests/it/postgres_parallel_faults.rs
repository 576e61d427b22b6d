//! Dumps over several connections while others write, change tables, or end sessions.

use std::time::Duration;

use backup_core::testing::collect;
use backup_core::{Context, Dump, Dumper as _, ErrorKind, Restorer as _, Selection};
use bytes::Bytes;
use dumpers::Secret;
use dumpers::bundle::{BundleReader, BundleWriter, Turn};
use dumpers::postgres::{PostgresConfig, PostgresDumper, PostgresRestorer};

use crate::own_server::OwnServer;
use crate::postgres_parallel::{begin, content, format, parallel, request, restored, whole};
use crate::processes::{all_arguments, marked};
use crate::server::{Database, Server, quoted, unique};

/// More than all pipes and buffers between the sessions and a reader hold, in several ranges.
const BIG: &str = "CREATE TABLE big AS SELECT i AS id, repeat(md5(i::text), 32) AS x FROM generate_series(1, 70000) i; \
                   CREATE TABLE small AS SELECT 1 AS x; CREATE INDEX ON big (id);";

fn big(name: &str) -> Database {
    let database = Server::current().database(name);
    database.sql(BIG);
    database
}

/// Waits until a question has an answer other than nothing.
async fn until(database: &Database, sql: &str) -> String {
    for _ in 0..3000 {
        let found = database.sql(sql);
        if !found.is_empty() && found != "0" {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {sql}");
}

async fn terminate(database: &Database, which: &str) -> String {
    until(
        database,
        &format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() \
             AND pid <> pg_backend_pid() AND {which} LIMIT 1"
        ),
    )
    .await
}

/// Reads on; the rest of the bytes, or the error that stands where the end would.
async fn rest(mut dump: Dump, mut bytes: Vec<u8>) -> backup_core::Result<Bytes> {
    while let Some(chunk) = dump.bytes.next().await.transpose()? {
        bytes.extend_from_slice(&chunk);
    }
    assert!(dump.report.get().is_some());
    Ok(bytes.into())
}

fn turns(bundle: &Bytes) -> Vec<Turn> {
    let mut reader = BundleReader::new();
    reader.feed(bundle.clone());
    std::iter::from_fn(|| reader.turn().unwrap()).collect()
}

#[tokio::test]
async fn a_range_whose_session_is_ended_begins_again_at_the_same_snapshot() {
    let source = big("range_lost");
    let mut dump = begin(&parallel(&source, 2)).await.unwrap();
    // Rows are under way: the sessions wait for their reader.
    let mut bytes = Vec::new();
    while bytes.len() < 3_000_000 {
        bytes.extend_from_slice(&dump.bytes.next().await.unwrap().unwrap());
    }
    let (before, lost) = (content(&source), "query LIKE 'COPY (SELECT%'");
    terminate(&source, lost).await;
    // What is written now is no part of the snapshot.
    source.sql(
        "INSERT INTO big VALUES (0, 'later'); DELETE FROM big WHERE id % 2 = 0; INSERT INTO small VALUES (2)",
    );
    let whole = rest(dump, bytes).await.unwrap();
    let abandoned = turns(&whole).into_iter().filter(|turn| matches!(turn, Turn::Abandon(_))).count();
    assert_eq!(abandoned, 1);
    let target = source.server.free_name("range_lost_back");
    restored(&target.config(), &whole).await.unwrap();
    assert_eq!(content(&target), before);
}

#[tokio::test]
async fn without_the_snapshots_session_the_dump_fails() {
    let source = big("snapshot_lost");
    let mut dump = begin(&parallel(&source, 2)).await.unwrap();
    dump.bytes.next().await.unwrap().unwrap();
    terminate(&source, "application_name LIKE 'strongroom snapshot %'").await;
    let error = rest(dump, Vec::new()).await.map(|bytes| bytes.len()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.what().contains("the snapshot was lost"), "{error}");
}

#[tokio::test]
async fn a_server_that_dies_gives_no_dump() {
    let own = OwnServer::start("");
    let source = own.server.database("dies");
    source.sql(BIG);
    let mut dump = begin(&parallel(&source, 3)).await.unwrap();
    dump.bytes.next().await.unwrap().unwrap();
    own.crash();
    let error = rest(dump, Vec::new()).await.map(|bytes| bytes.len()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
}

#[tokio::test]
async fn writers_do_not_disturb_the_one_moment_of_a_dump() {
    let server = Server::current();
    let source = server.database("bank");
    source.sql(
        "CREATE TABLE accounts (id int PRIMARY KEY, balance bigint NOT NULL, filler text); \
         CREATE TABLE transfers (id bigserial PRIMARY KEY, a int REFERENCES accounts, b int REFERENCES accounts, amount int); \
         INSERT INTO accounts SELECT i, 1000, repeat(md5(i::text), 32) FROM generate_series(1, 30000) i;",
    );
    let transfer = "INSERT INTO accounts VALUES (DEFAULT_ID, 0, 'new'); \
         WITH t AS (INSERT INTO transfers (a, b, amount) SELECT 1 + (random() * 29999)::int, DEFAULT_ID, 7 RETURNING a, b, amount) \
         UPDATE accounts SET balance = balance + CASE accounts.id WHEN t.b THEN t.amount ELSE -t.amount END \
         FROM t WHERE accounts.id IN (t.a, t.b);";
    let script: String = (0..20_000)
        .map(|i| format!("BEGIN; {} COMMIT;\n", transfer.replace("DEFAULT_ID", &(100_000 + i).to_string())))
        .collect();
    let writer = {
        let (server, name) = (server.clone(), source.name.clone());
        std::thread::spawn(move || server.session(&name, &script))
    };
    until(&source, "SELECT count(*) FROM transfers").await;
    let whole = whole(&parallel(&source, 3)).await;
    drop(writer);
    let target = server.free_name("bank_back");
    restored(&target.config(), &whole).await.unwrap();
    let sum = "SELECT sum(balance) FROM accounts";
    assert_eq!(target.sql(sum), "30000000");
    let moment = "SELECT count(*) = (SELECT count(*) FROM accounts WHERE id >= 100000) \
                  AND count(*) * 7 = (SELECT sum(balance) FROM accounts WHERE id >= 100000) FROM transfers";
    assert_eq!(target.sql(moment), "t");
}

#[tokio::test]
async fn changes_of_tables_wait_until_the_dump_has_read_them() {
    let source = big("ddl");
    let before = content(&source);
    let mut dump = begin(&parallel(&source, 2)).await.unwrap();
    let mut bytes = dump.bytes.next().await.unwrap().unwrap().to_vec();
    let _changes =
        source.server.session(&source.name, "DROP TABLE small; ALTER TABLE big ADD COLUMN more int;\n");
    until(&source, "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'").await;
    bytes.extend_from_slice(&dump.bytes.next().await.unwrap().unwrap());
    let whole = rest(dump, bytes).await.unwrap();
    let target = source.server.free_name("ddl_back");
    restored(&target.config(), &whole).await.unwrap();
    assert_eq!(content(&target), before);
    until(&source, "SELECT count(*) FROM pg_attribute WHERE attrelid = 'big'::regclass AND attname = 'more'")
        .await;
}

#[tokio::test]
async fn a_lock_that_is_not_given_is_named() {
    let source = Server::current().database("locked");
    source.sql("CREATE TABLE t AS SELECT 1 AS x");
    let _holder = source.server.session(&source.name, "BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE;\n");
    until(&source, "SELECT count(*) FROM pg_locks WHERE relation = 't'::regclass AND mode = 'AccessExclusiveLock' AND granted").await;
    let config = PostgresConfig { stall_seconds: Some(1), ..parallel(&source, 2) };
    let error = begin(&config).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_somebody_stands_in_the_way_of_is_made_again() {
    let source = Server::current().database("in_the_way");
    source.sql(
        "CREATE TABLE a AS SELECT repeat(md5(i::text), 30) AS x FROM generate_series(1, 10000) i; \
         CREATE TABLE u AS SELECT 1 AS x; CREATE TABLE z AS SELECT 1 AS x",
    );
    let holder = source.server.session(&source.name, "BEGIN; LOCK TABLE z IN ACCESS EXCLUSIVE MODE;\n");
    let waits = |count: u32| {
        format!(
            "SELECT count(DISTINCT pid) = {count} FROM pg_locks WHERE NOT granted AND database = \
             (SELECT oid FROM pg_database WHERE datname = current_database())"
        )
    };
    until(&source, "SELECT count(*) FROM pg_locks WHERE relation = 'z'::regclass AND mode = 'AccessExclusiveLock' AND granted").await;
    let config = PostgresConfig { lock_timeout_seconds: Some(8), ..parallel(&source, 2) };
    let began = std::time::Instant::now();
    let dumping = tokio::spawn(async move { whole(&config).await });
    while source.sql(&waits(1)) != "t" {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // pg_dump has u and waits for z, and will not be over soon. Whoever wants u next stands behind this one, who stands behind pg_dump.
    let _alter = source.server.session(&source.name, "ALTER TABLE u ADD COLUMN y int DEFAULT 7;\n");
    while source.sql(&waits(2)) != "t" {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    drop(holder);
    let bytes = dumping.await.unwrap();
    assert!(began.elapsed() >= Duration::from_secs(8), "nobody stood in the way");
    let target = source.server.free_name("in_the_way_back");
    restored(&target.config(), &bytes).await.unwrap();
    // The new column is there or not: either is one moment.
    assert_eq!(target.sql("SELECT x FROM u; SELECT * FROM z"), "1\n1");
}

#[tokio::test]
async fn a_table_dropped_between_its_listing_and_its_lock_is_listed_again() {
    let source = Server::current().database("dropped_several_tables");
    source.sql("CREATE TABLE a AS SELECT 1 AS x; CREATE TABLE b AS SELECT 1 AS x");
    let holder = source.server.session(&source.name, "BEGIN; DROP TABLE b;\n");
    until(
        &source,
        "SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND granted AND relation > 16383",
    )
    .await;
    let config = parallel(&source, 2);
    let dumping = tokio::spawn(async move {
        let dump = begin(&config).await?;
        let report = dump.report.clone();
        let bytes = collect(dump.bytes).await?;
        Ok::<_, backup_core::Error>((bytes, report.get().unwrap().tables.clone()))
    });
    until(&source, "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation > 16383").await;
    holder.send("COMMIT;\n");
    let (bytes, tables) = dumping.await.unwrap().unwrap();
    assert_eq!(tables, ["public.a"]);
    let target = source.server.free_name("dropped_several_tables_back");
    restored(&target.config(), &bytes).await.unwrap();
    assert_eq!(content(&target), content(&source));
}

#[tokio::test]
async fn a_table_that_may_not_be_read_is_named_before_anything_starts() {
    let source = Server::current().database("forbidden");
    let role = unique("reader");
    source.sql(&format!(
        "CREATE ROLE {role} LOGIN PASSWORD 'reader'; CREATE TABLE open_one (x int); CREATE TABLE closed (x int); \
         GRANT SELECT ON open_one TO {role};"
    ));
    let config = PostgresConfig {
        user: Some(role.clone()),
        password: Some(Secret::new("reader")),
        ..parallel(&source, 2)
    };
    let error = begin(&config).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    assert!(error.hint().unwrap().contains("GRANT SELECT ON TABLE public.closed"), "{:?}", error.hint());
    // The same where only that table is asked for, by the server's own words.
    let only = Selection { include: vec!["closed".to_owned()], exclude: Vec::new() };
    let error = PostgresDumper::new(&config).unwrap().dump(&Context::new(), &only).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    let wrong = PostgresConfig { password: Some(Secret::new("wr0ng")), ..config };
    assert_eq!(begin(&wrong).await.unwrap_err().kind(), ErrorKind::Denied);
    source.sql(&format!("REVOKE ALL ON open_one FROM {role}; DROP ROLE {role}"));
}

#[tokio::test]
async fn a_selection_is_part_of_the_dump_over_several_connections() {
    let source = Server::current().database("chosen");
    source.sql("CREATE TABLE a AS SELECT 1 x; CREATE TABLE b AS SELECT 1 x; CREATE TABLE ab AS SELECT 1 x; SELECT lo_from_bytea(11, 'x')");
    let what = Selection { include: vec!["a*".to_owned()], exclude: vec!["ab".to_owned()] };
    let dumper = PostgresDumper::new(&parallel(&source, 2)).unwrap();
    let dump = dumper.dump(&Context::new(), &what).await.unwrap();
    let report = dump.report.clone();
    let whole = collect(dump.bytes).await.unwrap();
    assert_eq!(report.get().unwrap().tables, ["public.a"]);
    let target = source.server.free_name("chosen_back");
    restored(&target.config(), &whole).await.unwrap();
    assert_eq!(target.sql("SELECT string_agg(relname, ',') FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"), "a");
    assert_eq!(target.sql("SELECT count(*) FROM pg_largeobject_metadata"), "0");
}

#[tokio::test]
async fn a_dropped_dump_over_several_connections_leaves_nothing() {
    let source = big("dropped_several");
    let mut dump = begin(&parallel(&source, 3)).await.unwrap();
    dump.bytes.next().await.unwrap().unwrap();
    let mark = format!("PGDATABASE={}", source.name);
    assert!(!marked(&mark).is_empty());
    drop(dump);
    for _ in 0..1000 {
        if marked(&mark).is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("still there: {:?}", marked(&mark));
}

#[tokio::test]
async fn incident_79_no_secret_in_the_process_list_over_several_connections() {
    let source = big("secrets_several");
    let password = source.server.password.clone();
    // As many programs as can be.
    let config = PostgresConfig { native: Some(false), ..parallel(&source, 2) };
    let mut dump = begin(&config).await.unwrap();
    let mut bytes = Vec::new();
    while bytes.len() < 2_000_000 {
        bytes.extend_from_slice(&dump.bytes.next().await.unwrap().unwrap());
    }
    assert!(marked(&format!("PGDATABASE={}", source.name)).len() >= 3);
    assert!(!all_arguments().contains(&password), "the password is in the process list");
    let whole = rest(dump, bytes).await.unwrap();

    let target = source.server.free_name("secrets_several_back");
    let restorer = PostgresRestorer::new(&target.config()).unwrap();
    let cx = Context::new();
    let plan = restorer.plan(&cx, request(false)).await.unwrap();
    let known = backup_core::testing::known(&format(), &whole);
    let mut chunks = 0;
    let bytes = known.bytes.inspect(move |_| {
        chunks += 1;
        // Every look reads the whole process list.
        if chunks % 100 == 0 {
            assert!(!all_arguments().contains(&password), "the password is in the process list");
        }
    });
    restorer.restore(&cx, plan, Dump { bytes, ..known }).await.unwrap();
}

#[tokio::test]
async fn rows_that_the_server_refuses_leave_no_database() {
    let source = Server::current().database("refused_rows");
    source.sql("CREATE TABLE t AS SELECT i FROM generate_series(1, 10) i; CREATE TABLE u AS SELECT 'x' AS x");
    let good = whole(&parallel(&source, 2)).await;
    // The rows of one table exchanged for others, or one row less, with the same contents list.
    for rows in [&b"1\nnumber\n"[..], b"1\n", b"1\n2"] {
        let mut writer = BundleWriter::new();
        let (mut out, mut changed) = (Vec::new(), None);
        let mut ids = std::collections::HashMap::new();
        for turn in turns(&good) {
            match turn {
                Turn::Open(id, head) => {
                    let own = writer.open(&head, &mut out).unwrap();
                    if head.meta.get("table").is_some_and(|table| table == "public.t") {
                        changed = Some(id);
                        writer.data(own, Bytes::from_static(rows), &mut out).unwrap();
                    }
                    ids.insert(id, own);
                }
                Turn::Data(id, _) if Some(id) == changed => {}
                Turn::Data(id, chunk) => writer.data(ids[&id], chunk, &mut out).unwrap(),
                Turn::Close(id) => writer.close(ids[&id], &mut out).unwrap(),
                Turn::Abandon(id) => writer.abandon(ids[&id], &mut out).unwrap(),
            }
        }
        writer.end(&mut out).unwrap();
        let target = source.server.free_name("refused_rows_back");
        let error = restored(&target.config(), &out.concat().into()).await.unwrap_err();
        assert!(
            matches!(error.kind(), ErrorKind::Tool | ErrorKind::Integrity | ErrorKind::Unsupported),
            "{error}"
        );
        assert!(source.server.databases(&target.name).is_empty(), "left behind");
    }
}

#[tokio::test]
async fn other_encodings_come_back_as_they_were() {
    let server = Server::current();
    for encoding in ["LATIN1", "SQL_ASCII"] {
        let source = server.free_name("Ändere 'Kodierung'");
        server.sql(
            "postgres",
            &format!(
                "CREATE DATABASE {} ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0",
                quoted(&source.name)
            ),
        );
        source.sql(
            "CREATE TABLE \"Größe\" (\"Höhe\" text); INSERT INTO \"Größe\" SELECT 'Maß ' || i || ' é' FROM generate_series(1, 500) i; \
             CREATE SEQUENCE \"Zähler\"; COMMENT ON TABLE \"Größe\" IS 'schön';",
        );
        let target = server.free_name("encoded_back");
        let bytes = whole(&parallel(&source, 2)).await;
        restored(&target.config(), &bytes).await.unwrap();
        assert_eq!(content(&target), content(&source), "{encoding}");
        let bytes = "SELECT md5(string_agg(\"Höhe\"::bytea, '' ORDER BY \"Höhe\")) FROM \"Größe\"";
        let bytes = bytes.replace("\"Höhe\"::bytea", "convert_to(\"Höhe\", pg_client_encoding())");
        assert_eq!(target.sql(&bytes), source.sql(&bytes), "{encoding}");
    }
}

#[tokio::test]
async fn an_empty_database_is_a_whole_dump() {
    let source = Server::current().database("empty_several");
    let bytes = whole(&parallel(&source, 4)).await;
    let target = source.server.free_name("empty_several_back");
    restored(&target.config(), &bytes).await.unwrap();
    assert!(target.exists());
}
