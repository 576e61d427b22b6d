//! The one moment that a dump shows.

use std::time::Duration;

use backup_core::Context;
use mongodb::bson::{Bson, Document, Timestamp, doc};

use super::archive::Namespace;
use super::config::Consistency;
use super::connect::{Role, Server};
use super::error::MongoError;
use super::oplog::is_partial;

/// Bytes that a dump reads in a second, even over a slow line or into a slow destination.
const SLOW_PACE: u64 = 10 * 1024 * 1024;
/// How long a server keeps snapshots unless told otherwise, in seconds.
const WINDOW: u64 = 300;
/// What servers say where there is no time.
const EMPTY: Timestamp = Timestamp { time: 0, increment: 0 };
/// How often, and how long after another, it is looked whether a transaction is whole.
const WHOLE_TRIES: u64 = 100;
const WHOLE_PAUSE: Duration = Duration::from_millis(100);

/// How a dump becomes one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moment {
    /// Every collection is read at this cluster time.
    Snapshot(Timestamp),
    /// The oplog is added from this time on.
    Oplog(Timestamp),
    /// Each collection by itself.
    None,
}

impl Moment {
    /// As the report of a dump says it.
    pub(super) fn option(self) -> &'static str {
        match self {
            Self::Snapshot(_) => "consistency=snapshot",
            Self::Oplog(_) => "consistency=oplog",
            Self::None => "consistency=none",
        }
    }
}

/// Chooses the moment; `first` is any collection that may be read.
pub(super) async fn choose(
    cx: &Context,
    server: &Server,
    wanted: Consistency,
    first: Option<&Namespace>,
    estimate: u64,
) -> Result<Moment, MongoError> {
    match wanted {
        Consistency::None => Ok(Moment::None),
        Consistency::Oplog => oplog(cx, server).await,
        Consistency::Snapshot => match first {
            Some(first) if keeps_snapshots(cx, server, first).await? => snapshot(cx, server, first).await,
            None => oplog(cx, server).await,
            Some(_) => Err(MongoError::NoMoment("the server does not keep snapshots".to_owned())),
        },
        Consistency::Auto => automatic(cx, server, first, estimate).await,
    }
}

async fn automatic(
    cx: &Context,
    server: &Server,
    first: Option<&Namespace>,
    estimate: u64,
) -> Result<Moment, MongoError> {
    if server.role == Role::Standalone {
        let what = "the server is no replica set: it has neither snapshots nor an oplog";
        return Err(MongoError::NoMoment(what.to_owned()));
    }
    let snapshots = match first {
        Some(first) if keeps_snapshots(cx, server, first).await? => Some(first),
        _ => None,
    };
    match (snapshots, server.role) {
        (Some(first), Role::Router) => snapshot(cx, server, first).await,
        (Some(first), _) if estimate / SLOW_PACE < window(cx, server).await? / 2 => {
            snapshot(cx, server, first).await
        }
        (Some(first), _) => match oplog(cx, server).await {
            // Then the snapshot has to last.
            Err(MongoError::Permission { .. }) => snapshot(cx, server, first).await,
            other => other,
        },
        (None, Role::Router) => {
            let what = "a router has no oplog, and this one does not keep snapshots";
            Err(MongoError::NoMoment(what.to_owned()))
        }
        (None, _) => oplog(cx, server).await,
    }
}

/// Whether reads at a cluster time are what they say. A server that keeps snapshots refuses to read
/// at a time long past; one that only accepts the words does not.
async fn keeps_snapshots(cx: &Context, server: &Server, first: &Namespace) -> Result<bool, MongoError> {
    let long_past = Timestamp { time: 1, increment: 1 };
    let command = doc! {
        "find": &first.collection,
        "limit": 1,
        "singleBatch": true,
        "readConcern": { "level": "snapshot", "atClusterTime": long_past },
    };
    match server.command(cx, &first.db, &format!("reading {first}"), command).await {
        Err(MongoError::SnapshotGone(_)) => Ok(true),
        // It answered, or does not know the question.
        Ok(_) | Err(MongoError::Server { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Lets the server choose the newest time that it can keep.
async fn snapshot(cx: &Context, server: &Server, first: &Namespace) -> Result<Moment, MongoError> {
    let command = doc! {
        "find": &first.collection,
        "limit": 1,
        "singleBatch": true,
        "readConcern": { "level": "snapshot" },
    };
    let answer = server.command(cx, &first.db, "reading a snapshot", command).await?;
    let cursor = answer.get_document("cursor").ok();
    let time = cursor.and_then(|cursor| cursor.get_timestamp("atClusterTime").ok());
    time.map(Moment::Snapshot).ok_or_else(|| MongoError::Answer("a snapshot read".to_owned()))
}

async fn window(cx: &Context, server: &Server) -> Result<u64, MongoError> {
    const NAME: &str = "minSnapshotHistoryWindowInSeconds";
    match server.command(cx, "admin", "getParameter", doc! { "getParameter": 1, NAME: 1 }).await {
        Ok(answer) => Ok(number(&answer, NAME).unwrap_or(WINDOW)),
        Err(MongoError::Permission { .. } | MongoError::Server { .. }) => Ok(WINDOW),
        Err(error) => Err(error),
    }
}

fn number(answer: &Document, key: &str) -> Option<u64> {
    match answer.get(key)? {
        Bson::Int32(n) => u64::try_from(*n).ok(),
        Bson::Int64(n) => u64::try_from(*n).ok(),
        Bson::Double(n) if *n >= 0.0 => Some(*n as u64),
        _ => None,
    }
}

/// The time from which the oplog is to be kept: that of the last write, or of the oldest transaction
/// that is still open.
async fn oplog(cx: &Context, server: &Server) -> Result<Moment, MongoError> {
    if server.role != Role::ReplicaSet {
        return Err(MongoError::NoMoment(
            "the server is no member of a replica set: it has no oplog".to_owned(),
        ));
    }
    let (mut start, _) = last_whole_write(cx, server).await?;
    let open = doc! {
        "find": "transactions",
        "filter": { "state": { "$in": ["prepared", "inProgress"] } },
        "sort": { "startOpTime": 1 },
        "limit": 1,
        "singleBatch": true,
    };
    match server.command(cx, "config", "reading config.transactions", open).await {
        Ok(answer) => {
            if let Some(oldest) = first_of(&answer).and_then(|found| found.get_document("startOpTime").ok())
                && let Ok(time) = oldest.get_timestamp("ts")
                && time != EMPTY
            {
                start = start.min(time);
            }
        }
        // Only transactions of several shards can be open with something in the oplog.
        Err(MongoError::Permission { .. }) => {}
        Err(error) => return Err(error),
    }
    reaches_back(cx, server, start).await?;
    Ok(Moment::Oplog(start))
}

/// The time of the last write that no failover takes back, once all of its transaction is before it,
/// and that of the newest entry of the oplog up to then.
///
/// A large transaction fills several entries, and a majority of the set may have some of them.
pub(super) async fn last_whole_write(
    cx: &Context,
    server: &Server,
) -> Result<(Timestamp, Option<Timestamp>), MongoError> {
    for _ in 0..WHOLE_TRIES {
        let end = last_write(cx, server).await?;
        match newest_entry(cx, server, end).await? {
            Some((_, true)) => {}
            newest => return Ok((end, newest.map(|(time, _)| time))),
        }
        tokio::select! {
            biased;
            () = cx.cancel().cancelled() => return Err(MongoError::Cancelled),
            () = tokio::time::sleep(WHOLE_PAUSE) => {}
        }
    }
    let limit = WHOLE_PAUSE.as_millis() as u64 * WHOLE_TRIES / 1000;
    Err(MongoError::Unrepeatable(format!("a transaction that was not whole within {limit} s")))
}

/// The time of the last write that no failover takes back.
async fn last_write(cx: &Context, server: &Server) -> Result<Timestamp, MongoError> {
    let hello = server.command(cx, "admin", "hello", doc! { "hello": 1 }).await?;
    let last = hello.get_document("lastWrite").ok();
    let time = |key| last?.get_document(key).ok()?.get_timestamp("ts").ok();
    match time("majorityOpTime").or_else(|| time("opTime")) {
        Some(EMPTY) => {
            Err(MongoError::Lost("no majority of the replica set has acknowledged a write yet".to_owned()))
        }
        Some(time) => Ok(time),
        None => Err(MongoError::Answer("hello".to_owned())),
    }
}

/// The time of the newest entry of the oplog up to `end`, and whether it is in the midst of a
/// transaction.
async fn newest_entry(
    cx: &Context,
    server: &Server,
    end: Timestamp,
) -> Result<Option<(Timestamp, bool)>, MongoError> {
    let command = doc! {
        "find": "oplog.rs",
        "filter": { "ts": { "$lte": end } },
        "sort": { "$natural": -1 },
        "projection": { "ts": 1, "o.partialTxn": 1 },
        "limit": 1,
        "singleBatch": true,
        "readConcern": { "level": "majority" },
    };
    let answer = server.command(cx, "local", "read the oplog (local.oplog.rs)", command).await?;
    match first_of(&answer).map(|entry| (entry.get_timestamp("ts"), is_partial(entry))) {
        Some((Ok(newest), partial)) => Ok(Some((newest, partial))),
        None => Ok(None),
        Some((Err(_), _)) => Err(MongoError::Answer("the oplog".to_owned())),
    }
}

/// Whether an answer from `start` on whose last entry is of the time `last` reaches the oplog's newest
/// entry: one that stops short of it would lack changes and look whole.
pub(super) fn is_whole(last: Option<Timestamp>, start: Timestamp, newest: Option<Timestamp>) -> bool {
    last == newest.filter(|newest| *newest >= start)
}

/// Makes sure that the oplog still begins at or before this time.
pub(super) async fn reaches_back(cx: &Context, server: &Server, start: Timestamp) -> Result<(), MongoError> {
    let command = doc! {
        "find": "oplog.rs",
        "sort": { "$natural": 1 },
        "projection": { "ts": 1 },
        "limit": 1,
        "singleBatch": true,
    };
    let answer = server.command(cx, "local", "read the oplog (local.oplog.rs)", command).await?;
    match first_of(&answer).map(|entry| entry.get_timestamp("ts")) {
        Some(Ok(first)) if first <= start => Ok(()),
        // Nothing was ever written.
        None => Ok(()),
        Some(Ok(_)) => Err(MongoError::OplogOverrun),
        Some(Err(_)) => Err(MongoError::Answer("the oplog".to_owned())),
    }
}

fn first_of(answer: &Document) -> Option<&Document> {
    answer.get_document("cursor").ok()?.get_array("firstBatch").ok()?.first()?.as_document()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_oplog_that_stops_short_is_not_whole() {
        let at = |time| Timestamp { time, increment: 1 };
        assert!(is_whole(Some(at(9)), at(3), Some(at(9))));
        assert!(!is_whole(Some(at(8)), at(3), Some(at(9))));
        assert!(!is_whole(None, at(3), Some(at(9))));
        // Nothing was written since the start.
        assert!(is_whole(None, at(3), Some(at(2))));
        assert!(is_whole(None, at(3), None));
    }
}
