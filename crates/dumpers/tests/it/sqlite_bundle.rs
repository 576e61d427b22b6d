//! Several SQLite files in one backup, and what an image keeps of a database.

use std::path::Path;
use std::time::Duration;

use backup_core::testing::{collect, dumper_suite, inspector_suite, restorer_suite};
use backup_core::{
    Context, Dump, DumpFormat, DumpReport, Dumper as _, ErrorKind, RestoreRequest, Restorer as _, Selection,
    Settled,
};
use bytes::Bytes;
use dumpers::sqlite::{
    SQLITE_BUNDLE, SQLITE_IMAGE, SqliteBundleDumper, SqliteBundleInspector, SqliteConfig, SqliteDumper,
    SqliteRestorer,
};
use rusqlite::Connection;

fn make(path: &Path, statements: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    Connection::open(path).unwrap().execute_batch(statements).unwrap();
}

fn bundle(root: &Path, patterns: &[&str]) -> SqliteBundleDumper {
    let paths = patterns.iter().map(|pattern| root.join(pattern).display().to_string()).collect();
    SqliteBundleDumper::new(&SqliteConfig { paths, ..SqliteConfig::new("") })
}

fn three(root: &Path) {
    make(&root.join("one.db"), "CREATE TABLE a (x); INSERT INTO a VALUES (1)");
    make(
        &root.join("sub/two \u{e4}.db"),
        "PRAGMA journal_mode=WAL; CREATE TABLE b (x); INSERT INTO b VALUES (2)",
    );
    make(&root.join("sub/three.db"), "PRAGMA page_size=1024; CREATE TABLE c (x); INSERT INTO c VALUES (3)");
}

async fn restore(
    path: &Path,
    format: &str,
    whole: Bytes,
    report: DumpReport,
) -> Result<(), backup_core::Error> {
    let restorer = SqliteRestorer::new(&SqliteConfig::new(path));
    let format = DumpFormat::new(format);
    let request = RestoreRequest { format: format.clone(), source_len: None, into_existing: false };
    let plan = restorer.plan(&Context::new(), request).await?;
    let bytes = backup_core::ByteStream::once(whole);
    restorer
        .restore(&Context::new(), plan, Dump { format, bytes, report: Settled::known(report) })
        .await
        .map(drop)
}

fn text(path: &Path, sql: &str) -> String {
    Connection::open(path)
        .unwrap()
        .query_row(sql, [], |row| row.get::<_, rusqlite::types::Value>(0))
        .map_or_else(
            |error| panic!("{sql}: {error}"),
            |value| match value {
                rusqlite::types::Value::Text(text) => text,
                other => format!("{other:?}"),
            },
        )
}

#[tokio::test]
async fn several_files_come_back_as_a_folder() {
    let around = tempfile::tempdir().unwrap();
    let (source, target) = (around.path().join("source"), around.path().join("target"));
    three(&source);
    let dumper = bundle(&source, &["*.db", "sub/*.db"]);
    let probe = dumper.probe(&Context::new()).await.unwrap();
    let names: Vec<_> = probe.items.iter().map(|item| &*item.name).collect();
    assert_eq!(names, ["one.db/a", "sub/three.db/c", "sub/two \u{e4}.db/b"]);
    assert!(probe.warnings[0].contains("the moments differ"), "{probe:?}");
    let dump = dumper.dump(&Context::new(), &Selection::default()).await.unwrap();
    let report = dump.report.clone();
    let whole = collect(dump.bytes).await.unwrap();
    let report = report.get().unwrap().clone();
    assert_eq!(report.tables, ["one.db/a", "sub/three.db/c", "sub/two \u{e4}.db/b"]);
    restore(&target, SQLITE_BUNDLE, whole, report).await.unwrap();
    for (file, table, value) in [("one.db", "a", 1), ("sub/two \u{e4}.db", "b", 2), ("sub/three.db", "c", 3)]
    {
        assert_eq!(text(&target.join(file), &format!("SELECT x FROM {table}")), format!("Integer({value})"));
    }
    assert_eq!(text(&target.join("sub/two \u{e4}.db"), "PRAGMA journal_mode"), "wal");
    assert_eq!(text(&target.join("one.db"), "PRAGMA journal_mode"), "delete");
    assert_eq!(text(&target.join("sub/three.db"), "PRAGMA page_size"), "Integer(1024)");
    assert_eq!(std::fs::read_dir(around.path()).unwrap().count(), 2, "nothing hidden is left");
}

#[tokio::test]
async fn bundles_obey_the_suites() {
    let around = tempfile::tempdir().unwrap();
    let (source, target) = (around.path().join("source"), around.path().join("target"));
    three(&source);
    let dumper = bundle(&source, &["one.db", "sub/three.db"]);
    dumper_suite(&dumper).await;
    let dump = dumper.dump(&Context::new(), &Selection::default()).await.unwrap();
    let whole = collect(dump.bytes).await.unwrap();
    let format = DumpFormat::new(SQLITE_BUNDLE);
    inspector_suite(&SqliteBundleInspector::default(), &format, &whole).await;
    let restorer = SqliteRestorer::new(&SqliteConfig::new(&target));
    restorer_suite(&restorer, &format, &whole, async || target.exists()).await;
}

#[tokio::test]
async fn a_file_that_is_no_database_ends_the_whole_bundle() {
    let source = tempfile::tempdir().unwrap();
    three(source.path());
    std::fs::write(
        source.path().join("sub/zzz.db"),
        "not a database, but long enough to be taken for one".repeat(40),
    )
    .unwrap();
    for (patterns, kind) in [
        (&["one.db", "sub/*.db"][..], ErrorKind::Unsupported),
        (&["one.db", "gone.db"], ErrorKind::NotFound),
        (&["one.db", "gone/*.db"], ErrorKind::NotFound),
    ] {
        let error = match bundle(source.path(), patterns).dump(&Context::new(), &Selection::default()).await {
            Ok(dump) => collect(dump.bytes).await.unwrap_err(),
            Err(error) => error,
        };
        assert_eq!(error.kind(), kind, "{error}");
    }
}

#[tokio::test]
async fn page_size_and_encoding_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    for size in [512, 1024, 2048, 4096, 8192, 16_384, 32_768, 65_536] {
        for encoding in ["UTF-8", "UTF-16le", "UTF-16be"] {
            for journal in ["delete", "wal"] {
                let (from, to) = (folder.path().join("from.db"), folder.path().join("to.db"));
                make(
                    &from,
                    &format!(
                        "PRAGMA page_size={size}; PRAGMA encoding='{encoding}'; PRAGMA journal_mode={journal}; \
                         CREATE TABLE t (x); INSERT INTO t VALUES ('gr\u{fc}n \u{1f980}'), (randomblob(100000)); \
                         PRAGMA user_version=7; PRAGMA application_id=9"
                    ),
                );
                let dumper = SqliteDumper::new(&SqliteConfig::new(&from));
                let dump = dumper.dump(&Context::new(), &Selection::default()).await.unwrap();
                let report = dump.report.clone();
                let whole = collect(dump.bytes).await.unwrap();
                restore(&to, SQLITE_IMAGE, whole, report.get().unwrap().clone()).await.unwrap();
                for sql in [
                    "PRAGMA page_size",
                    "PRAGMA encoding",
                    "PRAGMA journal_mode",
                    "PRAGMA user_version",
                    "PRAGMA application_id",
                    "PRAGMA integrity_check",
                    "SELECT x FROM t WHERE typeof(x) = 'text'",
                    "SELECT hex(x) FROM t WHERE typeof(x) = 'blob'",
                ] {
                    assert_eq!(text(&to, sql), text(&from, sql), "{size} {encoding} {journal}: {sql}");
                }
                assert_eq!(text(&to, "PRAGMA page_size"), format!("Integer({size})"));
                assert_eq!(text(&to, "PRAGMA encoding"), encoding);
                for name in ["from.db", "to.db"] {
                    let _ = std::fs::remove_file(folder.path().join(name));
                    let _ = std::fs::remove_file(folder.path().join(format!("{name}-wal")));
                    let _ = std::fs::remove_file(folder.path().join(format!("{name}-shm")));
                }
            }
        }
    }
}

/// Attached files change in one transaction: each file of a bundle is whole by itself.
#[tokio::test]
async fn files_that_are_attached_to_each_other_are_each_of_one_moment() {
    let around = tempfile::tempdir().unwrap();
    let (source, target) = (around.path().join("source"), around.path().join("target"));
    for name in ["left.db", "right.db"] {
        make(
            &source.join(name),
            "PRAGMA journal_mode=WAL; CREATE TABLE n (x INTEGER, y INTEGER); INSERT INTO n VALUES (0, 0)",
        );
    }
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (stopped, folder) = (stop.clone(), source.clone());
    let writer = std::thread::spawn(move || {
        let db = Connection::open(folder.join("left.db")).unwrap();
        db.busy_timeout(Duration::from_secs(30)).unwrap();
        db.execute("ATTACH ?1 AS r", [folder.join("right.db").display().to_string()]).unwrap();
        db.execute_batch("PRAGMA synchronous=OFF; PRAGMA r.synchronous=OFF").unwrap();
        while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
            db.execute_batch(
                "BEGIN IMMEDIATE; UPDATE main.n SET x = x + 1; UPDATE r.n SET x = x + 1; \
                 UPDATE main.n SET y = y - 1; UPDATE r.n SET y = y - 1; COMMIT",
            )
            .unwrap();
        }
    });
    for _ in 0..5 {
        let dump = bundle(&source, &["*.db"]).dump(&Context::new(), &Selection::default()).await.unwrap();
        let report = dump.report.clone();
        let whole = collect(dump.bytes).await.unwrap();
        restore(&target, SQLITE_BUNDLE, whole, report.get().unwrap().clone()).await.unwrap();
        for name in ["left.db", "right.db"] {
            assert_eq!(text(&target.join(name), "SELECT x + y FROM n"), "Integer(0)");
            assert_eq!(text(&target.join(name), "PRAGMA integrity_check"), "ok");
        }
        std::fs::remove_dir_all(&target).unwrap();
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    writer.join().unwrap();
}
