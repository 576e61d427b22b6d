//! Everything that must hold before the first byte: snapshot, locks, both halves of the schema.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use backup_core::{Context, Error, ErrorKind, Event, Result, Selection, Stage};
use bytes::Bytes;

use super::super::archive::ArchiveParser;
use super::super::config::Connection;
use super::super::dump::{Mark, PostgresDumper, Watch};
use super::super::error::PostgresError;
use super::super::names::literal;
use super::super::query::Psql;
use super::super::tools::Client;
use super::copy::{Copier, Place, Task};
use super::ranges::{Range, TableFacts, lock_statements, shares};
use super::snapshot::{Snapshot, lock_wait};
use super::toc::{DataSection, TableData};
use super::wire::Way;
use crate::bundle::HEAD_LEN_MAX;
use crate::tool::{Output, ToolCommand, ToolError, stream};

/// How often a start is tried that somebody's wait for a lock stood in the way of.
const TRIES: u32 = 3;
/// The wait before the next try after tables changed.
const PAUSE: Duration = Duration::from_secs(1);

/// A dump that can begin.
#[derive(Debug)]
pub(super) struct Start {
    pub(super) snapshot: Snapshot,
    pub(super) section: DataSection,
    /// Sessions at the snapshot, each with its locks and its share of the rows.
    pub(super) copiers: Vec<Copier>,
    pub(super) pre_data: Begun,
    pub(super) post_data: Begun,
    /// Over those who wait for any of its sessions.
    pub(super) watch: Option<Watch>,
    /// How its programs reach the server, under the name that the watch knows.
    pub(super) connection: Connection,
}

/// What a try has come to.
#[derive(Debug, Default)]
struct Trial {
    /// Whether `pg_dump` has its locks.
    listed: bool,
    watch: Option<Watch>,
}

/// A `pg_dump` that has read the catalog and taken its locks, with its first bytes.
#[derive(Debug)]
pub(super) struct Begun {
    pub(super) first: Bytes,
    pub(super) output: Output,
}

impl PostgresDumper {
    /// Takes the snapshot, asks `pg_dump` what belongs to the dump, locks it, and lets `pg_dump` read
    /// the schema. Tried again where somebody waits for a stronger lock meanwhile, and where a table was
    /// rewritten between the snapshot and its lock.
    pub(super) async fn start(
        &self,
        cx: &Context,
        what: &Selection,
        jobs: usize,
        psql: &Psql,
        pg_dump: &Client,
    ) -> Result<Start> {
        let subject = self.connection.describe();
        let mut tries = 1;
        loop {
            let mut trial = Trial::default();
            let started = self.try_start(cx, what, jobs, psql, pg_dump, &mut trial).await;
            let started = match (started, trial.watch.as_ref().and_then(Watch::gave_way)) {
                (Err(error), Some(who)) if !is_cancelled(&error) => Err(PostgresError::GaveWay(who)),
                (started, _) => started,
            };
            match started {
                Ok(start) => return Ok(Start { watch: trial.watch, ..start }),
                Err(PostgresError::LockTimeout(_)) if trial.listed && tries < TRIES => tries += 1,
                Err(error @ (PostgresError::Changed(_) | PostgresError::GaveWay(_))) if tries < TRIES => {
                    tries += 1;
                    cx.report(Event::Warning(&format!("{error}; it is tried again")));
                    let pause = match (&error, self.patience()) {
                        (PostgresError::GaveWay(_), Some(patience)) => patience.limit,
                        _ => PAUSE,
                    };
                    tokio::select! {
                        biased;
                        () = cx.cancel().cancelled() => return Err(Error::cancelled(&*subject).at(Stage::Dump)),
                        () = tokio::time::sleep(pause) => {}
                    }
                }
                Err(PostgresError::LockTimeout(error)) if trial.listed => {
                    let wait = self.lock_wait();
                    let what = format!("a lock was not given within {wait}, {TRIES} times: {error}");
                    return Err(Error::new(ErrorKind::Unavailable, subject, what)
                        .with_hint("let the session end that waits for a stronger lock on a table")
                        .at(Stage::Dump));
                }
                Err(error) => return Err(error.about(&subject).at(Stage::Dump)),
            }
        }
    }

    async fn try_start(
        &self,
        cx: &Context,
        what: &Selection,
        jobs: usize,
        psql: &Psql,
        pg_dump: &Client,
        trial: &mut Trial,
    ) -> Result<Start, PostgresError> {
        let mark = Mark::random()?;
        let mut snapshot = Snapshot::take(cx, psql.client(), &self.connection, self.waiting, &mark).await?;
        let connection = snapshot.connection.named(&mark.dump());
        let watched = psql.at(&snapshot.connection);
        trial.watch = self.patience().map(|patience| Watch::start(cx, watched, &mark, patience));
        let id = snapshot.id.clone();
        let run = |section: &str, more: &[&str]| {
            let command = ToolCommand::new(&pg_dump.path)
                .args(section_options(section, &id))
                .args(self.choosing(what))
                // The last of two that say the same is obeyed.
                .args(more);
            stream(cx, &connection.give(command), self.waiting, false).map_err(PostgresError::from)
        };
        // It holds its locks until this is over, so that nobody comes between it and the others.
        let mut listing = run("data", &["--encoding=UTF8"])?;
        let way = async {
            match self.config.native {
                Some(false) => Ok((Way::Psql, None)),
                _ => Way::choose(cx, &mut snapshot, &connection, self.waiting).await,
            }
        };
        let (entries, way) = tokio::join!(entries(&mut listing), way);
        let section = DataSection::of(entries?)?;
        trial.listed = true;
        let (way, mut ready) = way?;
        let lock_wait = self.lock_wait();
        let wait = format!("--lock-wait-timeout={lock_wait}");
        let outputs = [run("pre-data", &[&wait])?, run("post-data", &[&wait])?];
        let facts = snapshot.lock(&section.tables, &lock_wait).await?;
        let [pre_data, post_data] = outputs;
        let place = Arc::new(Place {
            cx: cx.clone(),
            psql: psql.client().clone(),
            connection: connection.clone(),
            waiting: self.waiting,
            way,
            snapshot: snapshot.id.clone(),
            started: snapshot.started.clone(),
            lock_wait,
            subject: self.connection.describe(),
        });
        let copiers = copiers(&place, &section.tables, &facts, jobs, &snapshot.encoding)?;
        let copiers = futures::future::try_join_all(copiers.into_iter().map(|mut copier| {
            let ready = ready.take();
            async move {
                copier.session = Some(copier.place.open(&copier.locks, ready).await?);
                Ok::<_, PostgresError>(copier)
            }
        }));
        let (pre_data, post_data, copiers) = tokio::try_join!(begun(pre_data), begun(post_data), copiers)?;
        drop(listing);
        Ok(Start { snapshot, section, copiers, pre_data, post_data, watch: None, connection })
    }

    /// How long a lock is waited for that `pg_dump` already has.
    fn lock_wait(&self) -> String {
        lock_wait(self.config.lock_timeout_seconds.unwrap_or_default())
    }
}

/// Who copies what; nothing is opened yet.
fn copiers(
    place: &Arc<Place>,
    tables: &[TableData],
    facts: &[TableFacts],
    jobs: usize,
    encoding: &str,
) -> Result<Vec<Copier>, PostgresError> {
    let mut number = 0;
    let mut task = |range: &Range| {
        let (table, facts) = (&tables[range.table], &facts[range.table]);
        number += 1;
        let task = Task {
            number,
            member: range.member(),
            table: table.shown(),
            pages: range.shown(),
            statement: range.statement(table, facts, encoding),
            restore: format!(
                "COPY {}{} FROM STDIN (ENCODING {});",
                table.target,
                table.column_list(),
                literal(encoding)
            ),
        };
        if task.restore.len() + task.table.len() > HEAD_LEN_MAX / 2 {
            let what = format!("the names of the columns of {} are very long together", task.table);
            return Err(PostgresError::NotParallel(what));
        }
        Ok(task)
    };
    let shares = shares(facts, jobs);
    let common = shares.common.iter().map(&mut task).collect::<Result<VecDeque<_>, _>>()?;
    let common = Arc::new(Mutex::new(common));
    let mut copiers = Vec::new();
    for own in &shares.own {
        let mut locked: Vec<usize> = shares.common.iter().chain(own).map(|range| range.table).collect();
        locked.dedup();
        let locked: Vec<&TableData> =
            locked.into_iter().filter(|&at| facts[at].plain).map(|at| &tables[at]).collect();
        copiers.push(Copier {
            place: Arc::clone(place),
            session: None,
            locks: lock_statements(&locked).into(),
            common: Arc::clone(&common),
            own: own.iter().map(&mut task).collect::<Result<VecDeque<_>, _>>()?,
        });
    }
    Ok(copiers)
}

/// The large objects and nothing else.
pub(super) fn objects(
    cx: &Context,
    dumper: &PostgresDumper,
    pg_dump: &Client,
    snapshot: &str,
    connection: &Connection,
) -> Result<Output, ToolError> {
    // Options that leave something out of the archive, such as owners, hold here too; those that
    // choose tables do not.
    let more = dumper.config.extra_args.iter().filter(|arg| arg.starts_with("--no-"));
    let command = ToolCommand::new(&pg_dump.path)
        .args(section_options("data", snapshot))
        .args(["--exclude-schema=*", "--blobs"])
        .args(more);
    stream(cx, &connection.give(command), dumper.waiting, false)
}

/// Arguments for one section in the custom format, uncompressed, at a snapshot.
pub(super) fn section_options(section: &str, snapshot: &str) -> [String; 5] {
    [
        "--format=custom".to_owned(),
        "--compress=0".to_owned(),
        "--no-password".to_owned(),
        format!("--section={section}"),
        format!("--snapshot={snapshot}"),
    ]
}

/// The entries of an archive, read as far as its table of contents goes.
async fn entries(listing: &mut Output) -> Result<Vec<super::super::archive::DataEntry>, PostgresError> {
    let mut parser = ArchiveParser::keeping_entries();
    let wrong =
        |error: super::super::archive::ArchiveError| PostgresError::Answer(format!("pg_dump: {error}"));
    while parser.contents().is_none() {
        match listing.next().await {
            Some(chunk) => parser.push(&chunk.map_err(PostgresError::of_tool)?).map_err(wrong)?,
            // Nothing more comes: without data the table of contents is all there is.
            None => break,
        }
    }
    if parser.contents().is_none() {
        return Err(PostgresError::Answer("pg_dump: its table of contents is cut off".to_owned()));
    }
    Ok(parser.take_entries())
}

fn is_cancelled(error: &PostgresError) -> bool {
    matches!(error, PostgresError::Tool(ToolError::Cancelled { .. }))
}

async fn begun(mut output: Output) -> Result<Begun, PostgresError> {
    match output.next().await {
        Some(first) => Ok(Begun { first: first.map_err(PostgresError::of_tool)?, output }),
        None => Err(PostgresError::Answer("pg_dump gave no schema".to_owned())),
    }
}
