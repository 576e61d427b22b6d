//! Sessions that write the rows of ranges, all at one snapshot.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use backup_core::{Context, Error, Event};
use bytes::Bytes;
use memchr::memmem;
use tokio::sync::mpsc;

use super::super::config::Connection;
use super::super::error::PostgresError;
use super::super::names::literal;
use super::super::tools::Client;
use super::reader::Reader;
use super::wire::{Way, Wire};
use super::{DATA_FORMAT, META_PAGES, META_RESTORE, META_TABLE};
use crate::bundle::MemberHead;
use crate::tool::{ToolError, Waiting};

/// How often a range is begun again after its session was lost.
const TRIES: u32 = 5;
/// The wait before the second try; doubled for each further one.
const PAUSE: Duration = Duration::from_millis(200);

/// What every copying session needs to know.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) cx: Context,
    pub(super) psql: Client,
    pub(super) connection: Connection,
    pub(super) waiting: Waiting,
    pub(super) way: Way,
    /// The snapshot's name.
    pub(super) snapshot: String,
    /// When the server was started.
    pub(super) started: String,
    /// How long a lock is waited for.
    pub(super) lock_wait: String,
    /// How errors speak of the database.
    pub(super) subject: String,
}

/// One range to copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Task {
    /// Its number, which ties its pieces together.
    pub(super) number: usize,
    /// The name of its member.
    pub(super) member: String,
    /// The table, for people.
    pub(super) table: String,
    /// The pages, for people; `None` is all.
    pub(super) pages: Option<String>,
    /// Writes the rows.
    pub(super) statement: String,
    /// Reads them back.
    pub(super) restore: String,
}

impl Task {
    pub(super) fn head(&self) -> MemberHead {
        let head = MemberHead::new(&*self.member, DATA_FORMAT)
            .with(META_TABLE, &*self.table)
            .with(META_RESTORE, &*self.restore);
        match &self.pages {
            Some(pages) => head.with(META_PAGES, &**pages),
            None => head,
        }
    }
}

/// What a copying session has done.
#[derive(Debug)]
pub(super) enum Piece {
    /// A range begins.
    Begun(Task),
    /// Rows of it.
    Rows(usize, Bytes),
    /// It is whole, with so many rows.
    Whole(usize, u64),
    /// Its session was lost; it begins again.
    Lost(usize),
}

/// One copying session with its share of the work.
#[derive(Debug)]
pub(super) struct Copier {
    pub(super) place: Arc<Place>,
    /// Open, at the snapshot, with its locks; `None` after it was lost.
    pub(super) session: Option<Reader>,
    /// Statements that take its locks.
    pub(super) locks: Arc<[String]>,
    /// Ranges for whoever is free.
    pub(super) common: Arc<Mutex<VecDeque<Task>>>,
    /// Ranges that are its alone.
    pub(super) own: VecDeque<Task>,
}

impl Copier {
    /// Copies ranges until none is left.
    pub(super) async fn run(mut self, pieces: mpsc::Sender<Piece>) -> Result<(), Error> {
        loop {
            let task = self.common.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let Some(task) = task.or_else(|| self.own.pop_front()) else { return Ok(()) };
            self.place.cx.report(Event::Table(&task.table));
            let mut tries = 1;
            loop {
                match self.copy(&task, &pieces).await {
                    Ok(()) => break,
                    Err(error) if tries < TRIES && may_pass(&error) => {
                        self.session = None;
                        let what = format!("{}: {error}: begun again", task.member);
                        self.place.cx.report(Event::ToolLine(&what));
                        tokio::time::sleep(PAUSE * 2u32.pow(tries - 1)).await;
                        tries += 1;
                    }
                    Err(error) => return Err(error.about(&self.place.subject)),
                }
            }
        }
    }
}

/// Whether another session at the same snapshot may succeed.
fn may_pass(error: &PostgresError) -> bool {
    match error {
        PostgresError::Unreachable(_) => true,
        // Ended by somebody.
        PostgresError::Server { code, .. } => code == "57014",
        PostgresError::Tool(ToolError::Signalled { .. }) => true,
        PostgresError::Tool(error) => {
            let said = error.stderr();
            said.contains("canceling statement due to user request") || said.contains("could not send data")
        }
        _ => false,
    }
}

impl Place {
    /// A session at the snapshot that holds these locks. They are all taken before the first row is
    /// read: later, somebody may wait for a stronger lock, and whoever asks then stands behind him,
    /// who waits for the end of the dump.
    ///
    /// `ready` is a session that is open already.
    pub(super) async fn open(&self, locks: &[String], ready: Option<Wire>) -> Result<Reader, PostgresError> {
        // Only what the condition asks for is to be read, whatever the statistics make the planner
        // think; and a range is too short to compile or to share.
        let begin = [
            "SET synchronize_seqscans = off;\nSET jit = off;\nSET max_parallel_workers_per_gather = 0;\n\
             SET enable_seqscan = off;\nSET enable_indexscan = off;\nSET enable_indexonlyscan = off;\n\
             SET enable_bitmapscan = off;",
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;",
            &format!("SET TRANSACTION SNAPSHOT {};", literal(&self.snapshot)),
        ];
        const UNKNOWN: &str = "invalid snapshot identifier";
        let mut session = match Reader::open(self, ready, &begin).await {
            Err(PostgresError::Tool(error)) if error.stderr().contains(UNKNOWN) => {
                return Err(PostgresError::SnapshotLost(error.stderr().to_owned()));
            }
            Err(PostgresError::Server { said, .. }) if said.contains(UNKNOWN) => {
                return Err(PostgresError::SnapshotLost(said));
            }
            opened => opened?,
        };
        let started: String =
            session.ask("SELECT pg_catalog.to_json(pg_catalog.pg_postmaster_start_time());").await?;
        if started != self.started {
            let what = "another server answers than the one that holds the snapshot".to_owned();
            return Err(PostgresError::SnapshotLost(what));
        }
        let wait = format!("SET LOCAL lock_timeout = '{}';", self.lock_wait);
        let mut statements = vec![&*wait];
        statements.extend(locks.iter().map(String::as_str));
        statements.push("SET LOCAL lock_timeout = 0;");
        session.run(&statements).await?;
        Ok(session)
    }
}

impl Copier {
    async fn copy(&mut self, task: &Task, pieces: &mpsc::Sender<Piece>) -> Result<(), PostgresError> {
        if self.session.is_none() {
            self.session = Some(self.place.open(&self.locks, None).await?);
        }
        let Some(session) = self.session.as_mut() else { return Ok(()) };
        let gone = |_| PostgresError::Tool(ToolError::Cancelled { tool: "psql".to_owned() });
        pieces.send(Piece::Begun(task.clone())).await.map_err(gone)?;
        let copied = async {
            let mut rows = Rows::new();
            session.tell(&task.statement).await?;
            while let Some(chunk) = session.next().await? {
                if !rows.push(&chunk) {
                    let what = format!("a row of {} is none of COPY's text format", task.table);
                    return Err(PostgresError::Answer(what));
                }
                pieces.send(Piece::Rows(task.number, chunk)).await.map_err(gone)?;
            }
            if !rows.whole() {
                return Err(PostgresError::Answer(format!("the rows of {} end within a row", task.table)));
            }
            match session.counted() {
                Some(counted) if counted != rows.count => Err(PostgresError::Answer(format!(
                    "{} rows of {} came, and the server says that it sent {counted}",
                    rows.count, task.table
                ))),
                _ => Ok(rows.count),
            }
        };
        match copied.await {
            Ok(rows) => pieces.send(Piece::Whole(task.number, rows)).await.map_err(gone),
            Err(error) => {
                pieces.send(Piece::Lost(task.number)).await.map_err(gone)?;
                Err(error)
            }
        }
    }
}

/// Rows in COPY's text format, checked on their way.
///
/// A backslash in a row is doubled or followed by a letter or digits, so no row begins with a backslash
/// and a dot (PostgreSQL manual, COPY, text format). `psql` takes such a line for the end of the rows
/// and what follows for statements and commands of its own, which run programs here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rows {
    /// Rows that have ended.
    pub(super) count: u64,
    /// The last two bytes; a row begins after the last end of a line.
    before: [u8; 2],
}

impl Rows {
    pub(super) const fn new() -> Self {
        Self { count: 0, before: [b'\n'; 2] }
    }

    /// Takes more bytes; `false` where a row begins with a backslash and a dot.
    #[must_use]
    pub(super) fn push(&mut self, chunk: &[u8]) -> bool {
        let [second, last] = self.before;
        let starts = |before: u8| before == b'\n' || before == b'\r';
        let over_the_edge = match *chunk {
            [] => return true,
            [b'.', ..] if last == b'\\' && starts(second) => true,
            [b'\\', b'.', ..] => starts(last),
            _ => false,
        };
        let within = memmem::find_iter(chunk, b"\\.").any(|at| at > 0 && starts(chunk[at - 1]));
        self.count += lines(chunk);
        self.before = match *chunk {
            [.., second, last] => [second, last],
            [only] => [last, only],
            [] => self.before,
        };
        !over_the_edge && !within
    }

    /// Whether the last row has its end.
    pub(super) fn whole(&self) -> bool {
        self.before[1] == b'\n'
    }
}

/// Ends of lines. In COPY's text format each row is one line, and a line break within a value is
/// written as two letters.
pub(super) fn lines(chunk: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', chunk).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_that_psql_would_take_for_the_end_is_found_however_it_is_cut() {
        let table: [(&str, bool); 9] = [
            ("1\t2\n\\.\n\\! touch x\n", false),
            ("\\.\n", false),
            ("\\.x\n", false),
            ("a\r\\.\n", false),
            ("\\N\t\\.\n", true),
            ("x\\.\n", true),
            ("\\\\.\n", true),
            (".\n\\N\n", true),
            ("", true),
        ];
        for (text, good) in table {
            for size in 1..=text.len().max(1) {
                let mut rows = Rows::new();
                let passed = text.as_bytes().chunks(size).filter(|chunk| !rows.push(chunk)).count() == 0;
                assert_eq!(passed, good, "{text:?} in pieces of {size}");
                assert_eq!(rows.count, lines(text.as_bytes()));
                assert!(rows.whole());
            }
        }
    }

    #[test]
    fn lines_of_any_number_are_counted() {
        assert_eq!(lines(b""), 0);
        assert_eq!(lines(b"a\nb"), 1);
        for len in [1, 254, 255, 256, 1000] {
            assert_eq!(lines(&vec![b'\n'; len]), len as u64);
        }
    }
}
