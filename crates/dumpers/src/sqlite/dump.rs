//! Reading a database as an image, page by page, inside one read transaction.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use backup_core::{
    Context, Dump, DumpFormat, DumpReport, Dumper, Probe, ProbeItem, Result, Selection, Stage,
};
use bytes::{Bytes, BytesMut};
use rusqlite::backup::Backup;
use rusqlite::{Connection, OpenFlags};

use super::error::{SqliteError, companions, plain};
use super::image::ImageHeader;
use super::{SQLITE_IMAGE, SqliteConfig};
use crate::command::refuse_selection;
use crate::produce::{Outlet, produce};
use crate::publish::blocking;

/// Bytes of a chunk.
const CHUNK: usize = 1024 * 1024;
/// Databases up to this size are copied into memory when a reader would block writers.
const MEMORY_LIMIT: u64 = 16 * 1024 * 1024;
/// How long a writer's lock is waited for.
const LOCK_SECONDS: u64 = 30;

/// Dumps one database file.
#[derive(Debug, Clone)]
pub struct SqliteDumper {
    path: PathBuf,
    memory_limit: u64,
    lock_wait: Duration,
}

impl SqliteDumper {
    /// The database of these settings; it is opened when it is needed, read-only, never created.
    #[must_use]
    pub fn new(config: &SqliteConfig) -> Self {
        Self {
            path: config.path.clone(),
            memory_limit: config.memory_limit.unwrap_or(MEMORY_LIMIT),
            lock_wait: Duration::from_secs(config.lock_seconds.unwrap_or(LOCK_SECONDS)),
        }
    }

    fn open(&self) -> Result<Snapshot, SqliteError> {
        match self.path.metadata() {
            Ok(metadata) if metadata.is_dir() => return Err(SqliteError::NotADatabase),
            Ok(metadata) if metadata.len() == 0 => return Err(SqliteError::Empty),
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(SqliteError::Absent),
            Err(error) => return Err(SqliteError::Refused(error.to_string())),
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let path = plain(&self.path);
        let tidy = Tidy::before(&path);
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(self.lock_wait)?;
        match Snapshot::begin(connection) {
            Ok(snapshot) => Ok(Snapshot { _tidy: tidy, ..snapshot }),
            // The file itself is open by now, so it is the log that is not.
            Err(SqliteError::Refused(why)) => Err(SqliteError::NoSharedMemory(why)),
            Err(error) => Err(error),
        }
    }

    fn read(&self, outlet: &Outlet) -> Result<DumpReport> {
        let fail = |error: SqliteError| error.at(&self.path).at(Stage::Dump);
        let mut snapshot = self.open().map_err(fail)?;
        let report = snapshot.report().map_err(fail)?;
        if !snapshot.wal && snapshot.len() <= self.memory_limit {
            snapshot = snapshot.into_memory().map_err(fail)?;
        }
        snapshot.stream(&self.path, outlet)?;
        Ok(report)
    }
}

#[async_trait]
impl Dumper for SqliteDumper {
    async fn probe(&self, _cx: &Context) -> Result<Probe> {
        let dumper = self.clone();
        blocking(move || dumper.look().map_err(|error| error.at(&dumper.path).at(Stage::Probe))).await
    }

    async fn dump(&self, cx: &Context, what: &Selection) -> Result<Dump> {
        let subject = self.path.display().to_string();
        cx.check(&subject)?;
        refuse_selection(&subject, what)?;
        let dumper = self.clone();
        let (bytes, report) = produce(cx, &subject, move |outlet| dumper.read(outlet))?;
        Ok(Dump { format: DumpFormat::new(SQLITE_IMAGE), bytes, report })
    }
}

impl SqliteDumper {
    fn look(&self) -> Result<Probe, SqliteError> {
        let snapshot = self.open()?;
        let mut warnings = Vec::new();
        if !snapshot.wal && snapshot.len() > self.memory_limit {
            warnings.push(
                "the database keeps a rollback journal, so its writers wait while it is dumped; \
                 PRAGMA journal_mode=WAL lets them go on"
                    .to_owned(),
            );
        }
        let rows = snapshot.estimated_rows();
        let items = snapshot
            .tables()?
            .into_iter()
            .map(|name| ProbeItem { estimated_rows: rows.get(&name).copied(), estimated_bytes: None, name })
            .collect();
        Ok(Probe {
            engine: "sqlite".to_owned(),
            versions: versions(),
            estimated_bytes: Some(snapshot.len()),
            items,
            obstacles: Vec::new(),
            warnings,
        })
    }
}

fn versions() -> BTreeMap<String, String> {
    BTreeMap::from([("sqlite".to_owned(), rusqlite::version().to_owned())])
}

/// A connection inside a read transaction.
struct Snapshot {
    connection: Connection,
    page_size: u32,
    page_count: u32,
    wal: bool,
    /// Held to be dropped after the connection.
    _tidy: Option<Tidy>,
}

/// Takes the empty log away that a reader makes for a database in WAL mode which nobody has open,
/// and which a reader may not remove. Its owner is this program's user, so left behind it could keep
/// the database's own programs out.
struct Tidy(PathBuf);

impl Tidy {
    /// `None` where a log exists already: that is not ours.
    fn before(path: &Path) -> Option<Self> {
        let [log, ..] = companions(path);
        log.symlink_metadata().is_err().then(|| Self(path.to_owned()))
    }
}

impl Drop for Tidy {
    fn drop(&mut self) {
        let [log, ..] = companions(&self.0);
        // A log with content is somebody's who came meanwhile.
        if log.metadata().is_ok_and(|log| log.len() == 0) {
            let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            // SQLite removes it with the last connection that may write. Nothing depends on it.
            if let Ok(last) = Connection::open_with_flags(&self.0, flags) {
                let _ = last.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()));
            }
        }
    }
}

impl Snapshot {
    fn begin(connection: Connection) -> Result<Self, SqliteError> {
        // A deferred transaction takes its snapshot with the first read.
        connection.execute_batch("BEGIN; SELECT count(*) FROM sqlite_schema")?;
        let mode: String = connection.pragma_query_value(None, "journal_mode", |row| row.get(0))?;
        let page_size = connection.pragma_query_value(None, "page_size", |row| row.get(0))?;
        let page_count = connection.pragma_query_value(None, "page_count", |row| row.get(0))?;
        if page_count == 0 {
            return Err(SqliteError::Empty);
        }
        Ok(Self { connection, page_size, page_count, wal: mode == "wal", _tidy: None })
    }

    fn len(&self) -> u64 {
        u64::from(self.page_size) * u64::from(self.page_count)
    }

    /// A copy in memory; the file's lock is released with the return.
    fn into_memory(self) -> Result<Self, SqliteError> {
        let mut memory = Connection::open_in_memory()?;
        {
            let backup = Backup::new(&self.connection, &mut memory)?;
            // All pages in one step: the read transaction already holds the lock.
            match backup.step(-1)? {
                rusqlite::backup::StepResult::Done => {}
                _ => return Err(SqliteError::Locked),
            }
        }
        drop(self.connection);
        Self::begin(memory).map(|copy| Self { wal: self.wal, ..copy })
    }

    fn report(&self) -> Result<DumpReport, SqliteError> {
        let journal = if self.wal { "wal" } else { "rollback" };
        Ok(DumpReport {
            engine: "sqlite".to_owned(),
            versions: versions(),
            options: vec![format!("page_size={}", self.page_size), format!("journal={journal}")],
            tables: self.tables()?,
            ..DumpReport::default()
        })
    }

    fn tables(&self) -> Result<Vec<String>, SqliteError> {
        let sql = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' \
                   ORDER BY name";
        let mut statement = self.connection.prepare(sql)?;
        // SQLite does not insist that text is UTF-8.
        let names = statement.query_map([], |row| {
            row.get_ref(0)
                .map(|name| String::from_utf8_lossy(name.as_bytes().unwrap_or_default()).into_owned())
        })?;
        Ok(names.collect::<Result<_, _>>()?)
    }

    /// Row counts from the last `ANALYZE`, where there was one.
    fn estimated_rows(&self) -> BTreeMap<String, u64> {
        let read = || -> rusqlite::Result<BTreeMap<String, u64>> {
            let mut statement = self.connection.prepare("SELECT tbl, stat FROM sqlite_stat1")?;
            let rows = statement.query_map([], |row| {
                let stat: Option<String> = row.get(1)?;
                let count = stat.as_deref().and_then(|stat| stat.split(' ').next()?.parse().ok());
                Ok((row.get(0)?, count.unwrap_or(0)))
            })?;
            rows.collect()
        };
        // No such table before the first ANALYZE: then nothing is known.
        read().unwrap_or_default()
    }

    /// Puts every page, in order, into the outlet.
    fn stream(&self, path: &Path, outlet: &Outlet) -> Result<()> {
        let fail = |error: SqliteError| error.at(path).at(Stage::Dump);
        let from = |error: rusqlite::Error| fail(error.into());
        let page_len = self.page_size as usize;
        let mut statement =
            self.connection.prepare("SELECT pgno, data FROM sqlite_dbpage('main')").map_err(from)?;
        let mut rows = statement.query([]).map_err(from)?;
        let mut chunk = BytesMut::with_capacity(CHUNK);
        let mut pages = 0_u32;
        while let Some(row) = rows.next().map_err(from)? {
            let number: u32 = row.get(0).map_err(from)?;
            let page = row.get_ref(1).map_err(from)?;
            let page = page.as_blob().map_err(|_| fail(SqliteError::Damaged(format!("page {number}"))))?;
            pages += 1;
            if number != pages || page.len() != page_len {
                let what = format!("page {pages} came as page {number} of {} bytes", page.len());
                return Err(fail(SqliteError::Damaged(what)));
            }
            let at = chunk.len();
            chunk.extend_from_slice(page);
            if number == 1 {
                ImageHeader::complete(&mut chunk[at..], self.page_count);
            }
            if chunk.len() + page_len > CHUNK {
                let full = std::mem::replace(&mut chunk, BytesMut::with_capacity(CHUNK));
                outlet.put(full.freeze())?;
            }
        }
        if pages != self.page_count {
            let what = format!("{pages} pages of {} could be read", self.page_count);
            return Err(fail(SqliteError::Damaged(what)));
        }
        if !chunk.is_empty() {
            outlet.put(Bytes::from(chunk))?;
        }
        Ok(())
    }
}
