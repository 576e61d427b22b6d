//! A session that rows are read from, by either way.

use bytes::Bytes;
use serde::de::DeserializeOwned;

use super::super::error::PostgresError;
use super::copy::Place;
use super::session::Session;
use super::wire::{Way, Wire};

/// An open session. Dropped, it is closed, and the server rolls back what it had begun.
#[derive(Debug)]
pub(super) enum Reader {
    /// Through `psql`.
    Psql(Box<Session>),
    /// From the server itself.
    Direct(Wire),
}

impl Reader {
    /// A session that begins with these statements, each on its own; `ready` if there is one.
    pub(super) async fn open(
        place: &Place,
        ready: Option<Wire>,
        begin: &[&str],
    ) -> Result<Self, PostgresError> {
        let (cx, waiting) = (&place.cx, place.waiting);
        match (&place.way, ready) {
            (Way::Psql, _) => Session::open(cx, &place.psql, &place.connection, waiting, &begin.join("\n"))
                .await
                .map(|session| Self::Psql(Box::new(session))),
            (Way::Direct(endpoint), ready) => {
                let mut wire = match ready {
                    Some(wire) => wire,
                    None => Wire::open(cx, endpoint, waiting).await?,
                };
                wire.run(begin).await?;
                Ok(Self::Direct(wire))
            }
        }
    }

    /// Runs statements, each on its own, whose answers are passed over.
    pub(super) async fn run(&mut self, statements: &[&str]) -> Result<(), PostgresError> {
        match self {
            Self::Psql(session) => session.run(&statements.join("\n")).await,
            Self::Direct(wire) => wire.run(statements).await,
        }
    }

    /// Runs a statement that gives one JSON value.
    pub(super) async fn ask<T: DeserializeOwned>(&mut self, sql: &str) -> Result<T, PostgresError> {
        match self {
            Self::Psql(session) => session.ask(sql).await,
            Self::Direct(wire) => wire.ask(sql).await,
        }
    }

    /// Sends a statement that copies rows out; [`Reader::next`] gives them.
    pub(super) async fn tell(&mut self, statement: &str) -> Result<(), PostgresError> {
        match self {
            Self::Psql(session) => session.tell(statement).await,
            Self::Direct(wire) => wire.tell(statement).await,
        }
    }

    /// The next rows, cut anywhere; `None` is their end.
    ///
    /// Not cancel safe.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, PostgresError> {
        match self {
            Self::Psql(session) => session.next().await,
            Self::Direct(wire) => wire.next().await,
        }
    }

    /// How many rows the server says there were, where that is known.
    pub(super) fn counted(&self) -> Option<u64> {
        match self {
            Self::Psql(_) => None,
            Self::Direct(wire) => Some(wire.rows()),
        }
    }
}
