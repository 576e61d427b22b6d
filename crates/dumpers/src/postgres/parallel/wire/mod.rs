//! A session that speaks to the server itself, for rows: `psql` takes four times as long to read them
//! from the server's socket and to write them into a pipe.
//!
//! It does what libpq does with the same settings, or is not used at all: [`Endpoint`] knows the settings
//! that only libpq obeys, and a first session is opened before anything depends on it. Everything else,
//! and the rows too then, goes through the client programs.

mod endpoint;
mod frames;
mod link;
mod login;
#[cfg(test)]
mod tests;
mod tls;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use backup_core::{Context, Event};
use bytes::{Bytes, BytesMut};
use futures::FutureExt as _;
use postgres_protocol::message::frontend;
use serde::de::DeserializeOwned;

use super::super::config::Connection;
use super::super::error::PostgresError;
use super::session::settings;
use super::snapshot::Snapshot;
use crate::tool::{ToolError, Waiting, deadline};
use frames::{Unframed, copied, first_column, unframe, wrong};
use link::{Link, NOTICE, READ};

pub(super) use endpoint::{Endpoint, Reached};

/// Rows are passed on at once where there are so many bytes of them.
const CHUNK_GOOD: usize = 128 * 1024;
/// Fewer are collected for at most so long: a server sends 8 KiB at a time, and waking up for each
/// costs both sides more than the bytes do.
const COLLECT_MAX: Duration = Duration::from_millis(4);
/// The shortest sleep a timer keeps.
const COLLECT_STEP: Duration = Duration::from_millis(1);
/// Pieces of rows whose memory is used again once nobody reads them any more.
const LENT_MAX: usize = 8;

/// How rows are read.
#[derive(Debug, Clone)]
pub(super) enum Way {
    /// Through `psql`.
    Psql,
    /// From the server itself.
    Direct(Arc<Endpoint>),
}

impl Way {
    /// From the server itself, with a first session, where `psql` says that it can be reached so.
    ///
    /// # Errors
    /// Of the session that is asked, and that the run was cancelled.
    pub(super) async fn choose(
        cx: &Context,
        snapshot: &mut Snapshot,
        connection: &Connection,
        waiting: Waiting,
    ) -> Result<(Self, Option<Wire>), PostgresError> {
        let reached = snapshot.reached().await?;
        let why = match Endpoint::of(connection, &reached) {
            Ok(endpoint) => match Wire::open(cx, &endpoint, waiting).await {
                Ok(wire) => return Ok((Self::Direct(Arc::new(endpoint)), Some(wire))),
                Err(error @ PostgresError::Tool(ToolError::Cancelled { .. })) => return Err(error),
                Err(error) => error.to_string(),
            },
            Err(why) => why,
        };
        cx.report(Event::ToolLine(&format!("rows are read through psql: {why}")));
        Ok((Self::Psql, None))
    }
}

/// An open session. Dropped, its connection is closed, and the server rolls back what it had begun.
#[derive(Debug)]
pub(super) struct Wire {
    cx: Context,
    stall: Duration,
    link: Link,
    /// Bytes that are still to come of a piece of rows.
    left: usize,
    /// What was handed out, the oldest first.
    lent: VecDeque<Bytes>,
    /// The rows of the last COPY, as the server counted them.
    rows: u64,
}

impl Wire {
    /// Connects, logs in and sets what every session needs.
    pub(super) async fn open(
        cx: &Context,
        endpoint: &Endpoint,
        waiting: Waiting,
    ) -> Result<Self, PostgresError> {
        let connecting = async {
            let mut link = Link::connect(endpoint).await?;
            login::log_in(&mut link, endpoint).await?;
            Ok(link)
        };
        let link = tokio::select! {
            biased;
            () = cx.cancel().cancelled() => return Err(cancelled()),
            link = connecting => link,
            () = tokio::time::sleep_until(deadline(endpoint.timeout)) => {
                let what = format!("{}: no answer in {} s", endpoint.shown(), endpoint.timeout.as_secs());
                Err(PostgresError::Unreachable(what))
            }
        }?;
        let mut wire = Self::of(cx, link, waiting.stall);
        wire.run(&[&settings(";")]).await?;
        Ok(wire)
    }

    fn of(cx: &Context, link: Link, stall: Duration) -> Self {
        Self { cx: cx.clone(), stall, link, left: 0, lent: VecDeque::new(), rows: 0 }
    }

    /// Runs statements, all sent at once, whose answers are passed over. Each is on its own for the
    /// server, which takes what stands in one of them for one transaction.
    pub(super) async fn run(&mut self, statements: &[&str]) -> Result<(), PostgresError> {
        self.answer(statements).await.map(drop)
    }

    /// Runs a statement that gives one JSON value.
    pub(super) async fn ask<T: DeserializeOwned>(&mut self, statement: &str) -> Result<T, PostgresError> {
        let row = self.answer(&[statement]).await?;
        serde_json::from_slice(first_column(&row)?).map_err(|error| wrong(error.to_string()))
    }

    /// The last row of the answers.
    async fn answer(&mut self, statements: &[&str]) -> Result<Bytes, PostgresError> {
        let mut out = BytesMut::new();
        for statement in statements {
            frontend::query(statement, &mut out).map_err(|error| wrong(error.to_string()))?;
        }
        let (work, last) = (&mut self.link, statements.len());
        let answered = async move {
            work.send(&out).await?;
            let (mut row, mut ready) = (Bytes::new(), 0);
            while ready < last {
                match work.message().await? {
                    // RowDescription, CommandComplete, EmptyQueryResponse
                    (b'T' | b'C' | b'I', _) => {}
                    (b'D', body) => row = body,
                    (b'Z', _) => ready += 1,
                    (other, _) => return Err(unexpected(other)),
                }
            }
            Ok(row)
        };
        waited(&self.cx, self.stall, answered).await
    }

    /// Sends a statement that copies rows out; [`Wire::next`] gives them.
    pub(super) async fn tell(&mut self, statement: &str) -> Result<(), PostgresError> {
        let mut out = BytesMut::new();
        frontend::query(statement, &mut out).map_err(|error| wrong(error.to_string()))?;
        let link = &mut self.link;
        let begun = async move {
            link.send(&out).await?;
            match link.message().await? {
                // CopyOutResponse in text
                (b'H', body) if body.first() == Some(&0) => Ok(()),
                (other, _) => Err(unexpected(other)),
            }
        };
        self.left = 0;
        waited(&self.cx, self.stall, begun).await
    }

    /// The next rows, cut anywhere; `None` once the server has said that these are all, how many they
    /// are, and that it is ready for more.
    ///
    /// Not cancel safe.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, PostgresError> {
        loop {
            let Unframed { rows, rest } = unframe(&mut self.link.read, &mut self.left)?;
            if rows > 0 {
                let fresh = self.fresh();
                let mut whole = std::mem::replace(&mut self.link.read, fresh);
                self.link.read.extend_from_slice(&whole[rest..]);
                whole.truncate(rows);
                return Ok(Some(self.lend(whole)));
            }
            // Messages without a row in them.
            drop(self.link.read.split_to(rest));
            let message = if self.left == 0 { self.link.held()? } else { None };
            match message {
                None => self.collect().await?,
                Some((NOTICE, _)) => {}
                Some((b'c', _)) => {
                    self.rows = waited(&self.cx, self.stall, ended(&mut self.link)).await?;
                    return Ok(None);
                }
                Some((other, _)) => return Err(unexpected(other)),
            }
        }
    }

    /// The rows of the last COPY, as the server counted them.
    pub(super) fn rows(&self) -> u64 {
        self.rows
    }

    /// Reads until there is a good piece, the server has nothing more, or some time has gone by.
    async fn collect(&mut self) -> Result<(), PostgresError> {
        if self.link.read.capacity() - self.link.read.len() < READ / 2 {
            let fresh = self.fresh();
            let before = std::mem::replace(&mut self.link.read, fresh);
            self.link.read.extend_from_slice(&before);
        }
        waited(&self.cx, self.stall, self.link.fill()).await?;
        let since = Instant::now();
        loop {
            while self.link.read.len() < self.link.read.capacity() {
                match self.link.fill().now_or_never() {
                    Some(Ok(())) => {}
                    // What came before the end may say why; the next read ends in the same way.
                    Some(Err(_)) => return Ok(()),
                    None => break,
                }
            }
            let enough = self.link.read.len() >= CHUNK_GOOD;
            if enough || self.link.read.ends_with(READY) || since.elapsed() >= COLLECT_MAX {
                return Ok(());
            }
            tokio::time::sleep(COLLECT_STEP).await;
        }
    }

    /// Room for bytes: of a piece that nobody reads any more, if there is one.
    fn fresh(&mut self) -> BytesMut {
        let used = self.lent.front().is_some_and(Bytes::is_unique);
        let oldest = if used || self.lent.len() >= LENT_MAX { self.lent.pop_front() } else { None };
        match oldest.map(Bytes::try_into_mut) {
            Some(Ok(mut room)) if room.capacity() >= READ => {
                room.clear();
                room
            }
            _ => BytesMut::with_capacity(READ),
        }
    }

    fn lend(&mut self, whole: BytesMut) -> Bytes {
        let whole = whole.freeze();
        self.lent.push_back(whole.clone());
        whole
    }
}

/// ReadyForQuery within a transaction, with which an answer ends. Rows that end like it are only passed
/// on a little sooner.
const READY: &[u8] = b"Z\0\0\0\x05T";

/// What must follow the last row: how many there were, and that the transaction goes on.
async fn ended(link: &mut Link) -> Result<u64, PostgresError> {
    let rows = match link.message().await? {
        (b'C', body) => copied(&body)?,
        (other, _) => return Err(unexpected(other)),
    };
    match link.message().await? {
        (b'Z', body) if *body == *b"T" => Ok(rows),
        (b'Z', _) => Err(wrong("the transaction is over".to_owned())),
        (other, _) => Err(unexpected(other)),
    }
}

fn unexpected(kind: u8) -> PostgresError {
    wrong(format!("a message {:?} out of turn", char::from(kind)))
}

fn cancelled() -> PostgresError {
    ToolError::Cancelled { tool: TOOL.to_owned() }.into()
}

/// How errors speak of the other side.
const TOOL: &str = "PostgreSQL";

async fn waited<T>(
    cx: &Context,
    stall: Duration,
    work: impl Future<Output = Result<T, PostgresError>>,
) -> Result<T, PostgresError> {
    tokio::select! {
        biased;
        () = cx.cancel().cancelled() => Err(cancelled()),
        done = work => done,
        () = tokio::time::sleep_until(deadline(stall)) => {
            let (tool, doing, stderr) = (TOOL.to_owned(), "gave no output", String::new());
            Err(ToolError::Stalled { tool, doing, limit: stall, stderr }.into())
        }
    }
}
