//! What the oplog of an archive changes, applied after everything else was inserted.
//!
//! Entries are applied one after another and in their order. They overlap what was read: a document
//! that is there already is put over itself, one that is gone stays gone.

use std::collections::BTreeSet;

use backup_core::Context;
use bytes::Bytes;
use mongodb::bson::{Bson, Document, doc};

use super::empty_time;
use super::insert::{check_writes, insert, send_updates, unrestorable};
use super::target::{Place, Targets};
use crate::mongodb::archive::{ArchiveError, Namespace};
use crate::mongodb::connect::Server;
use crate::mongodb::error::MongoError;
use crate::mongodb::oplog::{Change, Transactions, Update, apply_diff, changes};
use crate::mongodb::pattern::Renames;

/// Writes to one collection that are sent together at most.
const TOGETHER: usize = 500;
/// Bytes of them.
const TOGETHER_BYTES: usize = 4 * 1024 * 1024;

/// Writes that wait to be sent together.
#[derive(Debug)]
pub(super) struct Replay {
    renames: Renames,
    transactions: Transactions,
    place: Option<Place>,
    updates: Vec<Bson>,
    bytes: usize,
    /// What was changed and is not there: well only where it is dropped later, as what was dropped
    /// before the dump listed the collections is.
    unknown: BTreeSet<Namespace>,
}

impl Replay {
    /// Collections that the oplog makes are renamed like the others.
    pub(super) fn new(renames: &Renames) -> Self {
        Self {
            renames: renames.clone(),
            transactions: Transactions::default(),
            place: None,
            updates: Vec::new(),
            bytes: 0,
            unknown: BTreeSet::new(),
        }
    }

    /// Applies whole entries.
    pub(super) async fn apply(
        &mut self,
        cx: &Context,
        server: &Server,
        targets: &mut Targets,
        entries: &Bytes,
    ) -> Result<(), MongoError> {
        let mut rest = &entries[..];
        while !rest.is_empty() {
            if cx.cancel().is_cancelled() {
                return Err(MongoError::Cancelled);
            }
            let not_understood = || MongoError::Answer("the backup's oplog".to_owned());
            let before = rest.len();
            let entry = Document::from_reader(&mut rest).map_err(|_| not_understood())?;
            for entry in self.transactions.next(entry, before - rest.len()) {
                for change in changes(&entry).map_err(MongoError::Unrepeatable)? {
                    // A write that is sent is waited for: one that came after its collection was
                    // dropped would make it again.
                    self.change(&Context::new(), server, targets, change).await?;
                }
            }
        }
        Ok(())
    }

    /// Sends what waits.
    ///
    /// # Errors
    /// Also where something was changed that the backup does not hold, and where the oplog stops in
    /// the midst of a transaction that was too large to wait for its end.
    pub(super) async fn finish(&mut self, server: &Server) -> Result<(), MongoError> {
        self.flush(&Context::new(), server).await?;
        if self.transactions.is_torn() {
            return Err(ArchiveError::Transaction.into());
        }
        self.check_known()
    }

    fn check_known(&self) -> Result<(), MongoError> {
        match self.unknown.first() {
            Some(namespace) => Err(MongoError::Unknown(namespace.to_string())),
            None => Ok(()),
        }
    }

    /// Notes that a change has nowhere to go. The server's own databases are in the oplogs of
    /// `mongodump`, and never in a backup.
    fn miss(&mut self, namespace: Namespace) {
        if !matches!(&*namespace.db, "admin" | "config" | "local") {
            self.unknown.insert(namespace);
        }
    }

    async fn change(
        &mut self,
        cx: &Context,
        server: &Server,
        targets: &mut Targets,
        change: Change,
    ) -> Result<(), MongoError> {
        match change {
            Change::Put(namespace, document) => {
                if targets.place_for(&namespace).is_none() {
                    // Servers may leave out that a first insert also makes the collection.
                    targets.recreate(cx, server, &self.renames, &namespace, Document::new()).await?;
                }
                let Some(place) = targets.place_for(&namespace) else {
                    self.miss(namespace);
                    return Ok(());
                };
                let Some(id) = document.get("_id").cloned() else { return Ok(()) };
                self.replace(cx, server, place, &id, document, true).await
            }
            Change::Delete(namespace, id) => {
                let Some(place) = targets.place_for(&namespace) else {
                    self.miss(namespace);
                    return Ok(());
                };
                self.flush(cx, server).await?;
                delete(cx, server, &place, &id).await
            }
            Change::Update(namespace, id, update) => {
                let Some(place) = targets.place_for(&namespace) else {
                    self.miss(namespace);
                    return Ok(());
                };
                self.update(cx, server, place, &id, update).await
            }
            Change::Create(namespace, options) => {
                self.flush(cx, server).await?;
                self.unknown.remove(&namespace);
                targets.recreate(cx, server, &self.renames, &namespace, options).await
            }
            Change::Drop(namespace) => {
                self.flush(cx, server).await?;
                self.unknown.remove(&namespace);
                targets.remove(cx, server, &namespace).await
            }
            Change::CreateIndex(namespace, spec) => {
                if let Some(indexes) = targets.indexes_mut(&namespace) {
                    indexes.retain(|index| index.get("name") != spec.get("name"));
                    indexes.push(spec);
                } else {
                    self.miss(namespace);
                }
                Ok(())
            }
            Change::DropIndex(namespace, name) => {
                if let Some(indexes) = targets.indexes_mut(&namespace) {
                    indexes.retain(|index| name != "*" && !index.get_str("name").is_ok_and(|of| of == name));
                } else {
                    self.miss(namespace);
                }
                Ok(())
            }
            Change::Modify(namespace, command) => self.modify(cx, server, targets, &namespace, command).await,
        }
    }

    async fn update(
        &mut self,
        cx: &Context,
        server: &Server,
        place: Place,
        id: &Bson,
        update: Update,
    ) -> Result<(), MongoError> {
        match update {
            Update::Replace(document) => self.replace(cx, server, place, id, document, false).await,
            Update::Operators(operators) => {
                self.flush(cx, server).await?;
                let updates = vec![Bson::Document(doc! { "q": { "_id": { "$eq": id } }, "u": operators })];
                send_updates(cx, server, &place, updates).await
            }
            Update::Diff(diff) => {
                self.flush(cx, server).await?;
                let command = doc! {
                    "find": &place.namespace.collection,
                    "filter": { "_id": { "$eq": id } },
                    "limit": 1,
                    "singleBatch": true,
                };
                let what = format!("read {}", place.shown);
                let found = server.list(cx, &place.namespace.db, &what, command).await?;
                // One that is not there was deleted later.
                let Some(mut document) = found.into_iter().next() else { return Ok(()) };
                apply_diff(&mut document, &diff);
                self.replace(cx, server, place, id, document, false).await
            }
        }
    }

    /// Lets the document be this one; sent together with others.
    async fn replace(
        &mut self,
        cx: &Context,
        server: &Server,
        place: Place,
        id: &Bson,
        mut document: Document,
        upsert: bool,
    ) -> Result<(), MongoError> {
        // A replacement of such a field would be taken for an operator.
        if document.keys().any(|key| key.starts_with('$')) {
            self.flush(cx, server).await?;
            delete(cx, server, &place, id).await?;
            let encoded =
                document.to_vec().map_err(|_| MongoError::Answer("the backup's oplog".to_owned()))?;
            return insert(cx, server, &place, &[encoded.into()]).await;
        }
        let same = self.place.as_ref().is_some_and(|other| other.namespace == place.namespace);
        if !same || self.updates.len() >= TOGETHER || self.bytes >= TOGETHER_BYTES {
            self.flush(cx, server).await?;
        }
        let then = empty_time::take(id, &mut document).map_err(|what| unrestorable(&place, what))?;
        self.bytes += document.to_vec().map_or(0, |encoded| encoded.len());
        self.place = Some(place);
        self.updates
            .push(Bson::Document(doc! { "q": { "_id": { "$eq": id } }, "u": document, "upsert": upsert }));
        self.updates.extend(then.map(Bson::Document));
        Ok(())
    }

    async fn flush(&mut self, cx: &Context, server: &Server) -> Result<(), MongoError> {
        let updates = std::mem::take(&mut self.updates);
        self.bytes = 0;
        match self.place.take() {
            Some(place) if !updates.is_empty() => send_updates(cx, server, &place, updates).await,
            _ => Ok(()),
        }
    }

    /// `collMod`: of an index in what will be built, of the collection at once.
    async fn modify(
        &mut self,
        cx: &Context,
        server: &Server,
        targets: &mut Targets,
        namespace: &Namespace,
        mut command: Document,
    ) -> Result<(), MongoError> {
        self.flush(cx, server).await?;
        if let Some(Bson::Document(change)) = command.remove("index")
            && let Some(indexes) = targets.indexes_mut(namespace)
        {
            let is = |index: &&mut Document| {
                let by_name = change.get("name").is_some_and(|name| index.get("name") == Some(name));
                by_name || change.get("keyPattern").is_some_and(|key| index.get("key") == Some(key))
            };
            if let Some(index) = indexes.iter_mut().find(is) {
                for key in ["expireAfterSeconds", "hidden", "unique"] {
                    if let Some(value) = change.get(key) {
                        index.insert(key, value.clone());
                    }
                }
            }
        }
        let Some(place) = targets.place_for(namespace) else {
            self.miss(namespace.clone());
            return Ok(());
        };
        command.insert("collMod", &place.namespace.collection);
        if command.len() > 1 {
            let what = format!("change the options of {}", place.shown);
            server.command(cx, &place.namespace.db, &what, command).await?;
        }
        Ok(())
    }
}

async fn delete(cx: &Context, server: &Server, place: &Place, id: &Bson) -> Result<(), MongoError> {
    let command = doc! {
        "delete": &place.namespace.collection,
        "deletes": [{ "q": { "_id": { "$eq": id } }, "limit": 1 }],
    };
    let what = format!("write to {}", place.shown);
    let answer = server.command(cx, &place.namespace.db, &what, command).await?;
    check_writes(&place.shown, &answer, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_that_has_nowhere_to_go_is_an_error() {
        let mut replay = Replay::new(&Renames::default());
        replay.miss(Namespace::new("config", "transactions"));
        assert_eq!(replay.check_known(), Ok(()));
        let gone = Namespace::new("shop", "gone");
        replay.miss(gone.clone());
        assert_eq!(replay.check_known(), Err(MongoError::Unknown("shop.gone".to_owned())));
        // As a later drop does.
        replay.unknown.remove(&gone);
        assert_eq!(replay.check_known(), Ok(()));
    }
}
