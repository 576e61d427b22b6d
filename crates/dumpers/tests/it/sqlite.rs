//! SQLite databases that are written to while they are dumped.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use backup_core::testing::{collect, dumper_suite, known, restorer_suite};
use backup_core::{
    ByteStream, Context, Dump, DumpFormat, DumpReport, Dumper as _, Error, ErrorKind, Inspector as _,
    RestoreRequest, Restored, Restorer as _, Selection, Settled,
};
use bytes::Bytes;
use dumpers::sqlite::{SQLITE_IMAGE, SqliteConfig, SqliteDumper, SqliteInspector, SqliteRestorer};
use rusqlite::Connection;

const ACCOUNTS: u64 = 200;
const TOTAL: i64 = ACCOUNTS as i64 * 1000;

fn open(path: &Path) -> Connection {
    let connection = Connection::open(path).unwrap();
    connection.busy_timeout(Duration::from_secs(30)).unwrap();
    connection
}

/// Accounts whose sum never changes, a journal of transfers that says the same, and ballast.
fn bank(path: &Path, journal: &str, ballast: u32) {
    let connection = open(path);
    connection.pragma_update(None, "journal_mode", journal).unwrap();
    connection
        .execute_batch(&format!(
            "CREATE TABLE account (id INTEGER PRIMARY KEY, balance INTEGER NOT NULL);
             CREATE TABLE transfer (id INTEGER PRIMARY KEY, source INTEGER REFERENCES account, \
                                    target INTEGER REFERENCES account, amount INTEGER);
             CREATE TABLE ballast (id INTEGER PRIMARY KEY, x BLOB);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {ACCOUNTS}) \
               INSERT INTO account SELECT i, 1000 FROM n;
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {ballast}) \
               INSERT INTO ballast SELECT i, randomblob(1000) FROM n;"
        ))
        .unwrap();
}

fn check(path: &Path) {
    let connection = open(path);
    let one = |sql: &str| -> i64 { connection.query_row(sql, [], |row| row.get(0)).unwrap() };
    let verdict: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(verdict, "ok");
    assert_eq!(one("SELECT sum(balance) FROM account"), TOTAL);
    let dangling: Option<String> =
        connection.query_row("PRAGMA foreign_key_check", [], |row| row.get(0)).ok();
    assert_eq!(dangling, None);
    // The two tables were changed together, so they must tell the same story.
    let odd = "SELECT count(*) FROM account a WHERE balance <> 1000 \
               - (SELECT coalesce(sum(amount), 0) FROM transfer WHERE source = a.id) \
               + (SELECT coalesce(sum(amount), 0) FROM transfer WHERE target = a.id)";
    assert_eq!(one(odd), 0);
}

/// Transfers money until told to stop.
struct Writer {
    stop: Arc<AtomicBool>,
    commits: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    fn start(path: &Path) -> Self {
        let (stop, commits) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (path, stopped, count) = (path.to_owned(), Arc::clone(&stop), Arc::clone(&commits));
        let thread = thread::spawn(move || {
            let mut connection = open(&path);
            connection.pragma_update(None, "synchronous", "OFF").unwrap();
            let mut number = 1_u64;
            let signed = |number: u64| i64::try_from(number).unwrap();
            while !stopped.load(Ordering::Relaxed) {
                number =
                    number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let (source, target) =
                    (signed(1 + (number >> 33) % ACCOUNTS), signed(1 + (number >> 17) % ACCOUNTS));
                let transaction = connection.transaction().unwrap();
                let amount = signed((number >> 50) % 90);
                transaction
                    .execute("UPDATE account SET balance = balance - ?1 WHERE id = ?2", [amount, source])
                    .unwrap();
                transaction
                    .execute("UPDATE account SET balance = balance + ?1 WHERE id = ?2", [amount, target])
                    .unwrap();
                transaction
                    .execute(
                        "INSERT INTO transfer (source, target, amount) VALUES (?1, ?2, ?3)",
                        [source, target, amount],
                    )
                    .unwrap();
                transaction.commit().unwrap();
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        Self { stop, commits, thread: Some(thread) }
    }

    fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    /// Waits for a number of further commits.
    async fn further(&self, count: u64) {
        let until = self.commits() + count;
        for _ in 0..3000 {
            if self.commits() >= until {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the writer does not go on");
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

fn dumper(path: &Path, memory_limit: u64) -> SqliteDumper {
    SqliteDumper::new(&SqliteConfig { memory_limit: Some(memory_limit), ..SqliteConfig::new(path) })
}

fn request(into_existing: bool) -> RestoreRequest {
    RestoreRequest { format: DumpFormat::new(SQLITE_IMAGE), source_len: None, into_existing }
}

async fn restore(
    path: &Path,
    whole: &Bytes,
    report: DumpReport,
    into_existing: bool,
) -> backup_core::Result<Restored> {
    let restorer = SqliteRestorer::new(&SqliteConfig::new(path));
    let plan = restorer.plan(&Context::new(), request(into_existing)).await?;
    let known = known(&DumpFormat::new(SQLITE_IMAGE), whole);
    let dump = Dump { report: Settled::known(report), ..known };
    restorer.restore(&Context::new(), plan, dump).await
}

/// Dumps while a writer commits, holding the stream until `during` is done after its first chunk.
async fn dump_while_written(
    path: &Path,
    memory_limit: u64,
    during: impl AsyncFnOnce(&Writer),
) -> (Bytes, DumpReport) {
    let writer = Writer::start(path);
    writer.further(20).await;
    let mut dump = dumper(path, memory_limit).dump(&Context::new(), &Selection::default()).await.unwrap();
    let mut whole = dump.bytes.next().await.unwrap().unwrap().to_vec();
    during(&writer).await;
    while let Some(chunk) = dump.bytes.next().await {
        whole.extend_from_slice(&chunk.unwrap());
    }
    writer.further(20).await;
    (Bytes::from(whole), dump.report.get().unwrap().clone())
}

async fn inspected(whole: &Bytes) {
    let bytes = ByteStream::once(whole.clone());
    let seen = SqliteInspector::default()
        .inspect(&Context::new(), &DumpFormat::new(SQLITE_IMAGE), bytes)
        .await
        .unwrap();
    assert!(seen.parsed && seen.bytes == whole.len() as u64);
}

#[tokio::test]
async fn in_wal_mode_writers_go_on_and_the_image_is_one_moment() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bank.db");
    bank(&path, "wal", 8000);
    let (whole, report) = dump_while_written(&path, 0, async |writer| writer.further(200).await).await;
    assert!(whole.len() > 8_000_000);
    assert_eq!(report.tables, ["account", "ballast", "transfer"]);
    inspected(&whole).await;
    // The bare bytes are a database without a log beside them.
    let bare = folder.path().join("bare.db");
    std::fs::write(&bare, &whole).unwrap();
    check(&bare);
    let back = folder.path().join("back.db");
    restore(&back, &whole, report, false).await.unwrap();
    check(&back);
    let mode: String = open(&back).pragma_query_value(None, "journal_mode", |row| row.get(0)).unwrap();
    assert_eq!(mode, "wal", "the journal mode comes back");
}

#[tokio::test]
async fn with_a_rollback_journal_a_small_database_is_released_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bank.db");
    bank(&path, "delete", 6000);
    // Longer than what is read ahead, so the dump is under way while the writer goes on.
    let (whole, report) = dump_while_written(&path, u64::MAX, async |writer| writer.further(50).await).await;
    assert!(whole.len() > 6_000_000);
    inspected(&whole).await;
    let back = folder.path().join("back.db");
    restore(&back, &whole, report, false).await.unwrap();
    check(&back);
    let mode: String = open(&back).pragma_query_value(None, "journal_mode", |row| row.get(0)).unwrap();
    assert_eq!(mode, "delete");
}

#[tokio::test]
async fn with_a_rollback_journal_a_large_database_is_streamed_and_its_writers_wait() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bank.db");
    bank(&path, "delete", 8000);
    let (whole, report) = dump_while_written(&path, 0, async |writer| {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let before = writer.commits();
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(writer.commits(), before, "a reader and a writer exclude each other in this mode");
    })
    .await;
    let back = folder.path().join("back.db");
    restore(&back, &whole, report, false).await.unwrap();
    check(&back);
    let warnings = dumper(&path, 0).probe(&Context::new()).await.unwrap().warnings;
    assert!(warnings.iter().any(|text| text.contains("journal_mode=WAL")), "{warnings:?}");
    assert!(dumper(&path, u64::MAX).probe(&Context::new()).await.unwrap().warnings.is_empty());
}

fn small(folder: &Path) -> PathBuf {
    let path = folder.join("small.db");
    bank(&path, "delete", 10);
    path
}

async fn image(path: &Path) -> Bytes {
    let dump = dumper(path, u64::MAX).dump(&Context::new(), &Selection::default()).await.unwrap();
    collect(dump.bytes).await.unwrap()
}

#[tokio::test]
async fn dumper_and_restorer_obey_the_suites() {
    let folder = tempfile::tempdir().unwrap();
    let path = small(folder.path());
    for limit in [0, u64::MAX] {
        dumper_suite(&dumper(&path, limit)).await;
    }
    let whole = image(&path).await;
    let back = folder.path().join("back.db");
    let restorer = SqliteRestorer::new(&SqliteConfig::new(&back));
    restorer_suite(&restorer, &DumpFormat::new(SQLITE_IMAGE), &whole, async || {
        let names: Vec<String> = std::fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.contains("back"))
            .collect();
        assert!(names.iter().all(|name| name == "back.db"), "left behind: {names:?}");
        !names.is_empty()
    })
    .await;
    check(&back);
}

#[tokio::test]
async fn the_image_of_an_idle_database_is_its_file() {
    let folder = tempfile::tempdir().unwrap();
    for page_size in [512, 1024, 4096, 65536] {
        let path = folder.path().join(format!("{page_size}.db"));
        let connection = open(&path);
        connection.pragma_update(None, "page_size", page_size).unwrap();
        connection.execute_batch("CREATE TABLE t (x); INSERT INTO t VALUES (randomblob(200000))").unwrap();
        drop(connection);
        let file = std::fs::read(&path).unwrap();
        for limit in [0, u64::MAX] {
            let dump = dumper(&path, limit).dump(&Context::new(), &Selection::default()).await.unwrap();
            let image = collect(dump.bytes).await.unwrap();
            // A copy counts its own changes: bytes 24 to 27 and 92 to 95 of the header.
            let without = |bytes: &[u8]| [&bytes[..24], &bytes[28..92], &bytes[96..]].concat();
            assert!(without(&image) == without(&file), "page size {page_size}, limit {limit}");
        }
    }
}

#[tokio::test]
async fn what_is_no_database_is_refused_and_nothing_is_created() {
    let folder = tempfile::tempdir().unwrap();
    let cx = Context::new();
    std::fs::create_dir(folder.path().join("folder.db")).unwrap();
    let cases = [
        ("folder.db", None, ErrorKind::Unsupported),
        ("absent.db", None, ErrorKind::NotFound),
        ("empty.db", Some(Vec::new()), ErrorKind::NotFound),
        (
            "text.db",
            Some(b"This is no database, whatever its name says. ".repeat(50)),
            ErrorKind::Unsupported,
        ),
    ];
    for (name, content, kind) in cases {
        let path = folder.path().join(name);
        let existed = content.is_some() || path.exists();
        if let Some(content) = content {
            std::fs::write(&path, content).unwrap();
        }
        let dumper = dumper(&path, 0);
        assert_eq!(dumper.probe(&cx).await.unwrap_err().kind(), kind, "{name}");
        let dump = dumper.dump(&cx, &Selection::default()).await.unwrap();
        assert_eq!(collect(dump.bytes).await.unwrap_err().kind(), kind, "{name}");
        assert_eq!(path.exists(), existed);
    }
}

#[tokio::test]
async fn incident_15_a_writer_that_never_lets_go_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = small(folder.path());
    let holder = open(&path);
    holder.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let config = SqliteConfig { lock_seconds: Some(0), ..SqliteConfig::new(&path) };
    let error = SqliteDumper::new(&config).probe(&Context::new()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.what().contains("lock"), "{error}");
}

#[tokio::test]
async fn estimates_come_from_the_last_analysis() {
    let folder = tempfile::tempdir().unwrap();
    let path = small(folder.path());
    let rows = async || {
        let probe = dumper(&path, 0).probe(&Context::new()).await.unwrap();
        probe.items.iter().find(|item| item.name == "account").unwrap().estimated_rows
    };
    assert_eq!(rows().await, None);
    open(&path).execute_batch("ANALYZE").unwrap();
    assert_eq!(rows().await, Some(ACCOUNTS));
}

#[tokio::test]
async fn a_damaged_image_becomes_no_target() {
    let folder = tempfile::tempdir().unwrap();
    let whole = image(&small(folder.path())).await;
    let back = folder.path().join("back.db");
    let mut damaged = whole.to_vec();
    damaged[4096 + 3..4096 + 8].fill(0xff);
    for bad in [
        Bytes::from(damaged),
        whole.slice(..whole.len() - 4096),
        Bytes::from_static(b"nothing"),
        Bytes::new(),
    ] {
        let error = restore(&back, &bad, DumpReport::default(), false).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Integrity, "{error}");
        assert!(!back.exists());
    }
}

#[tokio::test]
async fn a_stale_companion_stands_in_the_way() {
    let folder = tempfile::tempdir().unwrap();
    let whole = image(&small(folder.path())).await;
    let back = folder.path().join("back.db");
    for suffix in ["-wal", "-journal", "-shm"] {
        let stale = folder.path().join(format!("back.db{suffix}"));
        std::fs::write(&stale, "old").unwrap();
        let error = restore(&back, &whole, DumpReport::default(), false).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
        std::fs::remove_file(stale).unwrap();
    }
    restore(&back, &whole, DumpReport::default(), false).await.unwrap();
}

#[tokio::test]
async fn an_existing_database_is_replaced_in_one_transaction() {
    let folder = tempfile::tempdir().unwrap();
    let whole = image(&small(folder.path())).await;
    let target = folder.path().join("target.db");
    let reader = open(&target);
    reader
        .execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE mine (x); INSERT INTO mine VALUES (1)")
        .unwrap();
    let bad = whole.slice(..whole.len() - 1);
    assert!(restore(&target, &bad, DumpReport::default(), true).await.is_err());
    let mine = || reader.query_row("SELECT x FROM mine", [], |row| row.get::<_, i64>(0));
    assert_eq!(mine().unwrap(), 1);
    restore(&target, &whole, DumpReport::default(), true).await.unwrap();
    assert!(mine().is_err(), "an open connection sees the new content");
    drop(reader);
    check(&target);
}

#[tokio::test]
async fn a_stream_that_fails_late_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let whole = image(&small(folder.path())).await;
    let back = folder.path().join("back.db");
    let restorer = SqliteRestorer::new(&SqliteConfig::new(&back));
    let plan = restorer.plan(&Context::new(), request(false)).await.unwrap();
    let items = vec![Ok(whole), Err(Error::new(ErrorKind::Integrity, "trailer", "missing"))];
    let (_, report) = Settled::pending();
    let bytes = ByteStream::new(futures::stream::iter(items));
    let dump = Dump { format: DumpFormat::new(SQLITE_IMAGE), bytes, report };
    assert!(restorer.restore(&Context::new(), plan, dump).await.is_err());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "only the source is there");
}

/// A table whose rows or functions are not what its schema says.
fn rewritten(folder: &Path, schema: &str) -> PathBuf {
    let path = folder.join("odd.db");
    let connection = open(&path);
    connection
        .execute_batch("CREATE TABLE t (a, b); INSERT INTO t VALUES (1, NULL); PRAGMA writable_schema=ON")
        .unwrap();
    connection.execute("UPDATE sqlite_schema SET sql = ?1", [schema]).unwrap();
    path
}

#[tokio::test]
async fn odd_content_is_told_and_comes_back_as_it_was() {
    let cases = [
        ("CREATE TABLE t (a, b NOT NULL)", "NULL value in t.b"),
        ("CREATE TABLE t (a, b, c AS (of_another_program(a)) NOT NULL)", "of_another_program"),
        ("CREATE TABLE t (a CHECK (of_another_program(a)), b)", ""),
    ];
    for (schema, told) in cases {
        let folder = tempfile::tempdir().unwrap();
        let whole = image(&rewritten(folder.path(), schema)).await;
        let back = folder.path().join("back.db");
        let restored = restore(&back, &whole, DumpReport::default(), false).await.unwrap();
        assert_eq!(std::fs::read(&back).unwrap(), whole);
        let warnings = restored.warnings.join("; ");
        assert!(warnings.contains(told) && warnings.is_empty() == told.is_empty(), "{schema}: {warnings}");
    }
}

#[tokio::test]
async fn names_that_are_no_utf_8_do_not_stand_in_the_way() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("odd.db");
    open(&path).execute_batch("CREATE TABLE abcd (x)").unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    while let Some(at) = bytes.windows(4).position(|window| window == b"abcd") {
        bytes[at..at + 4].copy_from_slice(b"ab\xff\xfe");
    }
    std::fs::write(&path, &bytes).unwrap();
    assert_eq!(image(&path).await, bytes);
    let probe = dumper(&path, 0).probe(&Context::new()).await.unwrap();
    assert!(probe.items[0].name.starts_with("ab"), "{:?}", probe.items);
}

#[tokio::test]
async fn nothing_is_left_beside_a_database_that_nobody_has_open() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("wal.db");
    bank(&path, "wal", 50);
    let names = || std::fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(names(), 1, "closed by its last writer");
    let before = std::fs::read(&path).unwrap();
    dumper(&path, 0).probe(&Context::new()).await.unwrap();
    assert_eq!(names(), 1);
    image(&path).await;
    assert_eq!(names(), 1);
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[tokio::test]
async fn another_page_size_is_refused_by_a_log_and_taken_without_one() {
    let folder = tempfile::tempdir().unwrap();
    let whole = image(&small(folder.path())).await;
    let target = folder.path().join("target.db");
    let owner = open(&target);
    owner
        .execute_batch(
            "PRAGMA page_size=1024; PRAGMA journal_mode=WAL; CREATE TABLE mine (x); INSERT INTO mine VALUES (1)",
        )
        .unwrap();
    let error = restore(&target, &whole, DumpReport::default(), true).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    let mine: i64 = owner.query_row("SELECT x FROM mine", [], |row| row.get(0)).unwrap();
    assert_eq!(mine, 1);
    owner.execute_batch("PRAGMA journal_mode=DELETE").unwrap();
    drop(owner);
    restore(&target, &whole, DumpReport::default(), true).await.unwrap();
    check(&target);
}
