//! Documents on their way into collections, in batches of bounded size.

use std::collections::HashMap;

use backup_core::Context;
use bytes::Bytes;
use mongodb::bson::{Bson, Document, RawArrayBuf, RawDocument, RawDocumentBuf, doc, rawdoc};
use tokio::task::JoinSet;

use super::empty_time;
use super::target::Place;
use crate::mongodb::archive::Namespace;
use crate::mongodb::connect::Server;
use crate::mongodb::error::MongoError;

/// A batch is sent when it has about this many bytes.
const BATCH_BYTES: usize = 4 * 1024 * 1024;
/// The most documents of a batch; servers take 100,000.
const BATCH_DOCUMENTS: usize = 10_000;
/// Bytes that wait in all batches together.
const WAITING_MAX: usize = 16 * 1024 * 1024;

/// Batches that fill, and batches that are being inserted.
#[derive(Debug)]
pub(super) struct Inserts {
    cx: Context,
    server: Server,
    parallel: usize,
    filling: HashMap<usize, Batch>,
    waiting: usize,
    running: JoinSet<Result<(), MongoError>>,
}

#[derive(Debug)]
struct Batch {
    place: Place,
    documents: Vec<Bytes>,
    bytes: usize,
}

impl Inserts {
    pub(super) fn new(server: &Server, parallel: usize) -> Self {
        Self {
            // One that is sent is waited for, also by a run that was cancelled.
            cx: Context::new(),
            server: server.clone(),
            parallel,
            filling: HashMap::new(),
            waiting: 0,
            running: JoinSet::new(),
        }
    }

    /// Takes whole documents of a collection; waits while enough batches are on their way.
    pub(super) async fn add(
        &mut self,
        entry: usize,
        place: Place,
        documents: Bytes,
    ) -> Result<(), MongoError> {
        let batch =
            self.filling.entry(entry).or_insert_with(|| Batch { place, documents: Vec::new(), bytes: 0 });
        let mut rest = documents;
        let mut full = Vec::new();
        while let Some(len) = rest.first_chunk::<4>().map(|len| i32::from_le_bytes(*len) as usize) {
            // The parser gives whole documents.
            let document = rest.split_to(len.min(rest.len()));
            if !batch.documents.is_empty()
                && (batch.bytes + document.len() > BATCH_BYTES || batch.documents.len() >= BATCH_DOCUMENTS)
            {
                self.waiting -= batch.bytes;
                let place = batch.place.clone();
                full.push(Batch {
                    place,
                    documents: std::mem::take(&mut batch.documents),
                    bytes: batch.bytes,
                });
                batch.bytes = 0;
            }
            batch.bytes += document.len();
            self.waiting += document.len();
            batch.documents.push(document);
        }
        for batch in full {
            self.send(batch).await?;
        }
        if self.waiting > WAITING_MAX {
            for entry in self.filling.keys().copied().collect::<Vec<_>>() {
                self.flush(entry).await?;
            }
        }
        Ok(())
    }

    /// Sends what waits for a collection.
    pub(super) async fn flush(&mut self, entry: usize) -> Result<(), MongoError> {
        match self.filling.remove(&entry) {
            Some(batch) => {
                self.waiting -= batch.bytes;
                self.send(batch).await
            }
            None => Ok(()),
        }
    }

    /// Sends everything and waits for its end.
    pub(super) async fn drain(&mut self) -> Result<(), MongoError> {
        for entry in self.filling.keys().copied().collect::<Vec<_>>() {
            self.flush(entry).await?;
        }
        self.wait_below(1).await
    }

    /// Waits for what is on its way, whatever its outcome, and forgets the rest: an insert that came
    /// after its collection was dropped would make it again.
    pub(super) async fn stop(&mut self) {
        self.filling.clear();
        while self.running.join_next().await.is_some() {}
    }

    async fn wait_below(&mut self, limit: usize) -> Result<(), MongoError> {
        while self.running.len() >= limit {
            match self.running.join_next().await {
                Some(Ok(done)) => done?,
                Some(Err(_)) => return Err(MongoError::Answer("an insert: its task died".to_owned())),
                None => break,
            }
        }
        Ok(())
    }

    async fn send(&mut self, batch: Batch) -> Result<(), MongoError> {
        if batch.documents.is_empty() {
            return Ok(());
        }
        // What is kept in the order of insertion is inserted by one at a time.
        let limit = if batch.place.in_order { 1 } else { self.parallel };
        self.wait_below(limit).await?;
        let (cx, server) = (self.cx.clone(), self.server.clone());
        self.running.spawn(async move { insert(&cx, &server, &batch.place, &batch.documents).await });
        Ok(())
    }
}

/// Inserts documents as they are and makes sure that the server took all of them.
pub(super) async fn insert(
    cx: &Context,
    server: &Server,
    place: &Place,
    documents: &[Bytes],
) -> Result<(), MongoError> {
    let name = &place.shown;
    let mut array = RawArrayBuf::new();
    let mut then = Vec::new();
    for document in documents {
        let document = RawDocument::from_bytes(document)
            .map_err(|_| MongoError::Answer(format!("a document of {name}")))?;
        match empty_time::apart(document).map_err(|what| unrestorable(place, what))? {
            Some((first, after)) => {
                array.push(first);
                then.push(Bson::Document(after));
            }
            None => array.push(document),
        }
    }
    let mut command = rawdoc! {
        "insert": place.namespace.collection.as_str(),
        "ordered": true,
        "documents": array,
    };
    if place.validated {
        // It was accepted once; today's rules may be stricter than those of its time.
        command.append(mongodb::bson::cstr!("bypassDocumentValidation"), true);
    }
    let answer = raw(cx, server, &place.namespace, name, command).await?;
    check_writes(name, &answer, Some(documents.len()))?;
    if then.is_empty() { Ok(()) } else { send_updates(cx, server, place, then).await }
}

/// Sends updates, one after another, and makes sure that the server took all of them.
pub(super) async fn send_updates(
    cx: &Context,
    server: &Server,
    place: &Place,
    updates: Vec<Bson>,
) -> Result<(), MongoError> {
    let mut command = doc! { "update": &place.namespace.collection, "ordered": true, "updates": updates };
    if place.validated {
        command.insert("bypassDocumentValidation", true);
    }
    let what = format!("write to {}", place.shown);
    let answer = server.command(cx, &place.namespace.db, &what, command).await?;
    check_writes(&place.shown, &answer, None)
}

/// A document that no server takes as it is.
pub(super) fn unrestorable(place: &Place, what: String) -> MongoError {
    MongoError::Refused(place.shown.to_string(), what)
}

async fn raw(
    cx: &Context,
    server: &Server,
    namespace: &Namespace,
    shown: &Namespace,
    command: RawDocumentBuf,
) -> Result<Document, MongoError> {
    let database = server.database(&namespace.db);
    let what = format!("write to {shown}");
    server.wait(cx, &what, async { database.run_raw_command(command).await }).await
}

/// The server answers `ok` also where it refused documents.
pub(super) fn check_writes(
    name: &Namespace,
    answer: &Document,
    expected: Option<usize>,
) -> Result<(), MongoError> {
    let first =
        |key: &str| answer.get_array(key).ok().and_then(|errors| errors.first()?.as_document().cloned());
    let refused = first("writeErrors").or_else(|| answer.get_document("writeConcernError").ok().cloned());
    if let Some(error) = refused {
        let said: String = error.get_str("errmsg").unwrap_or("no reason given").chars().take(400).collect();
        return match error.get("code") {
            Some(Bson::Int32(14031)) => Err(MongoError::Full(said)),
            _ => Err(MongoError::Refused(name.to_string(), said)),
        };
    }
    let count = match answer.get("n") {
        Some(Bson::Int32(n)) => usize::try_from(*n).ok(),
        Some(Bson::Int64(n)) => usize::try_from(*n).ok(),
        _ => None,
    };
    match (expected, count) {
        (Some(expected), Some(count)) if expected != count => {
            Err(MongoError::Refused(name.to_string(), format!("it took {count} of {expected}")))
        }
        (_, None) => Err(MongoError::Answer(format!("a write to {name}"))),
        _ => Ok(()),
    }
}
