//! Everything that must hold before the first byte: snapshot, locks, both halves of the schema.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use backup_core::{Context, Error, ErrorKind, Event, Result, Selection, Stage};
use bytes::Bytes;

use super::super::archive::ArchiveParser;
use super::super::config::Connection;
use super::super::dump::PostgresDumper;
use super::super::error::PostgresError;
use super::super::names::literal;
use super::super::tools::Client;
use super::copy::{Copier, Place, Task};
use super::ranges::{Range, TableFacts, lock_statements, shares};
use super::snapshot::{LOCK_WAIT, Snapshot};
use super::toc::{DataSection, TableData};
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
        psql: &Client,
        pg_dump: &Client,
    ) -> Result<Start> {
        let subject = self.connection.describe();
        let mut tries = 1;
        loop {
            let mut listed = false;
            match self.try_start(cx, what, jobs, psql, pg_dump, &mut listed).await {
                Err(PostgresError::LockTimeout(_)) if listed && tries < TRIES => tries += 1,
                Err(error @ PostgresError::Changed(_)) if tries < TRIES => {
                    tries += 1;
                    cx.report(Event::Warning(&format!("{error}; it is tried again")));
                    tokio::select! {
                        biased;
                        () = cx.cancel().cancelled() => return Err(Error::cancelled(&*subject).at(Stage::Dump)),
                        () = tokio::time::sleep(PAUSE) => {}
                    }
                }
                Err(PostgresError::LockTimeout(error)) if listed => {
                    let what = format!("a lock was not given within {LOCK_WAIT}, {TRIES} times: {error}");
                    return Err(Error::new(ErrorKind::Unavailable, subject, what)
                        .with_hint("let the session end that waits for a stronger lock on a table")
                        .at(Stage::Dump));
                }
                started => return started.map_err(|error| error.about(&subject).at(Stage::Dump)),
            }
        }
    }

    async fn try_start(
        &self,
        cx: &Context,
        what: &Selection,
        jobs: usize,
        psql: &Client,
        pg_dump: &Client,
        listed: &mut bool,
    ) -> Result<Start, PostgresError> {
        let mut snapshot = Snapshot::take(cx, psql, &self.connection, self.waiting).await?;
        let run = |section: &str, more: &[&str]| {
            let command = ToolCommand::new(&pg_dump.path)
                .args(section_options(section, &snapshot.id))
                .args(self.choosing(what))
                // The last of two that say the same is obeyed.
                .args(more);
            stream(cx, &snapshot.connection.give(command), self.waiting, false).map_err(PostgresError::from)
        };
        // It holds its locks until this is over, so that nobody comes between it and the others.
        let mut listing = run("data", &["--encoding=UTF8"])?;
        let section = DataSection::of(entries(&mut listing).await?)?;
        *listed = true;
        let wait = format!("--lock-wait-timeout={LOCK_WAIT}");
        let outputs = [run("pre-data", &[&wait])?, run("post-data", &[&wait])?];
        let facts = snapshot.lock(&section.tables).await?;
        let [pre_data, post_data] = outputs;
        let (pre_data, post_data) = tokio::try_join!(begun(pre_data), begun(post_data))?;
        let place = Arc::new(Place {
            cx: cx.clone(),
            psql: psql.clone(),
            connection: snapshot.connection.clone(),
            waiting: self.waiting,
            snapshot: snapshot.id.clone(),
            started: snapshot.started.clone(),
            subject: self.connection.describe(),
        });
        let copiers = copiers(&place, &section.tables, &facts, jobs, &snapshot.encoding)?;
        let copiers = futures::future::try_join_all(copiers.into_iter().map(async |mut copier| {
            copier.session = Some(copier.place.open(&copier.locks).await?);
            Ok::<_, PostgresError>(copier)
        }));
        let copiers = copiers.await?;
        drop(listing);
        Ok(Start { snapshot, section, copiers, pre_data, post_data })
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

async fn begun(mut output: Output) -> Result<Begun, PostgresError> {
    match output.next().await {
        Some(first) => Ok(Begun { first: first.map_err(PostgresError::of_tool)?, output }),
        None => Err(PostgresError::Answer("pg_dump gave no schema".to_owned())),
    }
}
