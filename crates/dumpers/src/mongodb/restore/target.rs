//! The collections that a restore makes.

use std::collections::{BTreeSet, HashMap};

use backup_core::Context;
use futures::{StreamExt as _, TryStreamExt as _};
use mongodb::bson::{Bson, Document, doc};

use crate::mongodb::archive::{BUCKETS, Metadata, Namespace, Prelude};
use crate::mongodb::catalog::{Collection, USERS};
use crate::mongodb::connect::Server;
use crate::mongodb::error::MongoError;
use crate::mongodb::pattern::Renames;

/// What the names of unfinished collections begin with.
pub(in crate::mongodb) const TEMPORARY: &str = "strongroom_restoring_";

/// Where documents are inserted.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// The collection that is filled.
    pub(super) namespace: Namespace,
    /// What it will be called; messages speak of this.
    pub(super) shown: Namespace,
    /// Whether it has a validator.
    pub(super) validated: bool,
    /// Whether it keeps documents in the order of insertion.
    pub(super) in_order: bool,
}

/// All that a restore makes.
#[derive(Debug, Default)]
pub(super) struct Targets {
    pub(super) warnings: Vec<String>,
    entries: Vec<Target>,
    by_source: HashMap<Namespace, usize>,
    /// What has which name already, with whether it is a view.
    existing: HashMap<Namespace, bool>,
    /// What of the target this restore replaced or dropped, or may have; it does not come back.
    replaced: Vec<Namespace>,
    /// Whether users and roles were added.
    merged: bool,
    run: String,
    /// Whether renaming a collection loses its options on this server.
    forgetful: bool,
}

#[derive(Debug, Clone)]
struct Target {
    kind: Kind,
    /// Its name when all is done.
    last: Namespace,
    /// Where its documents go.
    place: Namespace,
    metadata: Metadata,
    ended: bool,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Oplog,
    /// Users and roles; `true` where they are wanted.
    Users(bool),
    View,
    /// Filled under its own name: a time series, and where the server forgets options over a renaming
    /// whatever has some.
    Direct,
    Collection,
}

/// What of a target exists on the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing.
    Absent,
    /// Under its temporary name; for views and time series under its own.
    Made,
    /// Under its own name, where nothing was before.
    Named,
    /// Under its own name, in the place of something.
    Replaced,
}

impl Targets {
    /// What the archive's beginning asks for; nothing is made yet.
    pub(super) fn of(prelude: &Prelude, renames: &Renames, users: bool) -> Result<Self, MongoError> {
        let own = |namespace: &Namespace| namespace.db == "admin" && USERS.contains(&&*namespace.collection);
        let plain = prelude.entries.iter().map(|entry| &entry.namespace);
        renames.check(plain.filter(|ns| !ns.is_oplog() && !own(ns)).map(|ns| &*ns.db))?;
        let mut targets =
            Self { run: uuid::Uuid::new_v4().simple().to_string()[..8].to_owned(), ..Self::default() };
        let mut names = BTreeSet::new();
        for (index, entry) in prelude.entries.iter().enumerate() {
            let metadata = Metadata::from_text(&entry.metadata)?;
            let kind = match &*entry.kind {
                _ if entry.namespace.is_oplog() => Kind::Oplog,
                _ if own(&entry.namespace) => Kind::Users(users),
                "view" => Kind::View,
                "timeseries" => Kind::Direct,
                _ if metadata.options.contains_key("timeseries") => Kind::Direct,
                _ => Kind::Collection,
            };
            let last = match kind {
                Kind::Oplog | Kind::Users(_) => entry.namespace.clone(),
                _ => renames.of(&entry.namespace),
            };
            if !names.insert(last.clone()) {
                return Err(MongoError::Names(format!("two collections would become {last}")));
            }
            let place = match kind {
                Kind::Collection => targets.temporary(&last.db, index),
                Kind::Users(_) => Namespace::new("admin", format!("{TEMPORARY}{}_{}", targets.run, index)),
                _ => last.clone(),
            };
            targets.by_source.insert(entry.namespace.clone(), index);
            targets.entries.push(Target { kind, last, place, metadata, ended: false, state: State::Absent });
        }
        Ok(targets)
    }

    fn temporary(&self, db: &str, index: usize) -> Namespace {
        Namespace::new(db, format!("{TEMPORARY}{}_{index}", self.run))
    }

    /// The databases that get something.
    pub(super) fn databases(&self) -> BTreeSet<String> {
        let gets = |target: &&Target| !matches!(target.kind, Kind::Oplog | Kind::Users(_));
        self.entries.iter().filter(gets).map(|target| target.last.db.clone()).collect()
    }

    /// Remembers what is there already.
    pub(super) fn know(&mut self, existing: Vec<Collection>) {
        self.existing
            .extend(existing.into_iter().map(|collection| (collection.namespace, collection.data.is_none())));
    }

    pub(super) fn is_oplog(&self, entry: usize) -> bool {
        self.entries[entry].kind == Kind::Oplog
    }

    /// Whether everything but the oplog has ended.
    pub(super) fn all_ended(&self) -> bool {
        self.entries.iter().all(|target| target.ended || target.kind == Kind::Oplog)
    }

    pub(super) fn ended(&mut self, entry: usize) {
        self.entries[entry].ended = true;
    }

    /// Where documents of a block of this name go.
    pub(super) fn place_of(&self, entry: usize, block: &Namespace) -> Option<Place> {
        let target = &self.entries[entry];
        if target.kind == Kind::Users(false) {
            return None;
        }
        let mut namespace = target.place.clone();
        if target.kind == Kind::Direct && block.collection.starts_with(BUCKETS) {
            namespace.collection = format!("{BUCKETS}{}", namespace.collection);
        }
        Some(Place {
            namespace,
            shown: target.last.clone(),
            validated: target.metadata.options.contains_key("validator"),
            in_order: target.metadata.options.contains_key("capped"),
        })
    }

    /// Finds out whether the server keeps a collection's options when it renames it, where there are
    /// any: MongoDB does, and other servers of its protocol do not.
    async fn try_renaming(&mut self, cx: &Context, server: &Server) -> Result<(), MongoError> {
        let has_options =
            |target: &&Target| target.kind == Kind::Collection && !target.metadata.options.is_empty();
        let Some(db) = self.entries.iter().find(has_options).map(|target| target.last.db.clone()) else {
            return Ok(());
        };
        let name = |end: &str| Namespace::new(&*db, format!("{TEMPORARY}{}_{end}", self.run));
        let (before, after) = (name("before"), name("after"));
        let tried = async {
            let create = doc! { "create": &before.collection, "capped": true, "size": 4096 };
            server.command(cx, &db, "create a collection", create).await?;
            let rename = doc! { "renameCollection": before.to_string(), "to": after.to_string() };
            server.command(cx, "admin", "rename a collection", rename).await?;
            let list = doc! { "listCollections": 1, "filter": { "name": &after.collection } };
            server.list(cx, &db, "list the collections", list).await
        };
        let listed = tried.await;
        // Also of a run that was cancelled.
        for name in [&before, &after] {
            drop_one(&Context::new(), server, name).await?;
        }
        let options = |found: &Document| found.get_document("options").ok().cloned();
        let found = listed?.iter().find_map(options).unwrap_or_default();
        self.forgetful = !found.contains_key("capped");
        if self.forgetful {
            for target in &mut self.entries {
                if target.kind == Kind::Collection && !target.metadata.options.is_empty() {
                    target.kind = Kind::Direct;
                    target.place = target.last.clone();
                }
            }
        }
        Ok(())
    }

    /// Makes the collections; views come last.
    pub(super) async fn create(&mut self, cx: &Context, server: &Server) -> Result<(), MongoError> {
        self.try_renaming(cx, server).await?;
        for index in 0..self.entries.len() {
            match self.entries[index].kind {
                Kind::Collection => self.make(cx, server, index).await?,
                Kind::Direct => {
                    let last = &self.entries[index].last;
                    if self.existing.contains_key(last) {
                        let what = format!("{last} exists, and cannot be replaced at once: drop it first");
                        return Err(MongoError::Exists(what));
                    }
                    self.make(cx, server, index).await?;
                }
                Kind::Users(_) | Kind::Oplog | Kind::View => {}
            }
        }
        Ok(())
    }

    async fn make(&mut self, cx: &Context, server: &Server, index: usize) -> Result<(), MongoError> {
        let target = &mut self.entries[index];
        let mut command = doc! { "create": &target.place.collection };
        command.extend(target.metadata.options.clone());
        // Made by the server with the collection; servers of today refuse to be told.
        for key in ["autoIndexId", "idIndex"] {
            command.remove(key);
        }
        // Before the answer: one that is lost may have been obeyed.
        target.state = State::Made;
        let what = format!("create {}", target.last);
        let made = server.command(cx, &target.place.db, &what, command).await;
        if made.as_ref().is_err_and(MongoError::is_refusal) {
            // What has that name is somebody else's, and must not be dropped as ours.
            target.state = State::Absent;
        }
        made.map(drop)
    }

    /// Builds what the archive and the oplog say.
    pub(super) async fn build_indexes(
        &self,
        cx: &Context,
        server: &Server,
        parallel: usize,
    ) -> Result<(), MongoError> {
        let made = |target: &&Target| {
            target.state == State::Made && matches!(target.kind, Kind::Collection | Kind::Direct)
        };
        let builds: Vec<_> = self
            .entries
            .iter()
            .filter(made)
            .map(|target| (target.place.clone(), target.last.clone(), target.indexes()))
            .filter(|(_, _, indexes)| !indexes.is_empty())
            .map(|(place, last, indexes)| build(cx, server, place, last, indexes))
            .collect();
        futures::stream::iter(builds).buffer_unordered(parallel).try_collect::<Vec<()>>().await?;
        Ok(())
    }

    /// Gives everything its name, and makes the views. What fails on the way is undone where nothing
    /// was replaced yet.
    pub(super) async fn hand_over(&mut self, server: &Server, into_existing: bool) -> Result<(), MongoError> {
        // Stopping between two names would leave half of them.
        let cx = &Context::new();
        // First, as the server may refuse them: so far nothing was replaced.
        self.merge_users(cx, server).await?;
        for index in 0..self.entries.len() {
            let target = &self.entries[index];
            let existing = self.existing.get(&target.last).copied();
            match target.kind {
                Kind::Collection if target.state == State::Made => {
                    if existing.is_some() {
                        self.replaced.push(target.last.clone());
                    }
                    if existing == Some(true) {
                        drop_one(cx, server, &target.last).await?;
                    }
                    let command = doc! {
                        "renameCollection": target.place.to_string(),
                        "to": target.last.to_string(),
                        // Never one that appeared since the beginning.
                        "dropTarget": into_existing && existing == Some(false),
                        "writeConcern": { "w": "majority" },
                    };
                    let what = format!("name {}", target.last);
                    self.entries[index].state =
                        if existing.is_some() { State::Replaced } else { State::Named };
                    let named = server.command(cx, "admin", &what, command).await;
                    if named.as_ref().is_err_and(MongoError::is_refusal) {
                        // What has that name is not ours.
                        self.entries[index].state = State::Made;
                        if existing == Some(false) {
                            self.replaced.pop();
                        }
                    }
                    named?;
                }
                Kind::Direct if target.state == State::Made => self.entries[index].state = State::Named,
                _ => {}
            }
        }
        for index in 0..self.entries.len() {
            if self.entries[index].kind == Kind::View {
                let existing = self.existing.contains_key(&self.entries[index].last);
                if existing {
                    self.replaced.push(self.entries[index].last.clone());
                    drop_one(cx, server, &self.entries[index].last).await?;
                }
                self.make(cx, server, index).await?;
                self.entries[index].state = if existing { State::Replaced } else { State::Named };
            }
        }
        // Nothing is to be dropped any more.
        for target in &mut self.entries {
            target.state = State::Absent;
        }
        Ok(())
    }

    /// Lets the server add users and roles from the collections they were inserted into, as
    /// `mongorestore` does.
    async fn merge_users(&mut self, cx: &Context, server: &Server) -> Result<(), MongoError> {
        let wanted = |name: &str| {
            let namespace = Namespace::new("admin", name);
            let target = self.by_source.get(&namespace).map(|index| &self.entries[*index]);
            target.filter(|target| target.kind == Kind::Users(true)).map(|target| target.place.clone())
        };
        let (users, roles) = (wanted("system.users"), wanted("system.roles"));
        let version = wanted("system.version");
        if users.is_some() || roles.is_some() {
            let mut command = doc! { "_mergeAuthzCollections": 1, "db": "", "drop": false };
            if let Some(users) = &users {
                command.insert("tempUsersCollection", users.to_string());
            }
            if let Some(roles) = &roles {
                command.insert("tempRolesCollection", roles.to_string());
            }
            server.command(cx, "admin", "add users and roles", command).await?;
            self.merged = true;
        }
        for place in [users, roles, version].into_iter().flatten() {
            drop_one(cx, server, &place).await?;
        }
        Ok(())
    }

    /// Drops what this restore made and did not put in the place of something.
    pub(super) async fn drop_all(&mut self, cx: &Context, server: &Server) -> Result<(), MongoError> {
        let mut last = Ok(());
        for target in &mut self.entries {
            let names: &[&Namespace] = match target.state {
                State::Made => &[&target.place],
                // The answer to the renaming may have been lost.
                State::Named => &[&target.place, &target.last],
                State::Replaced => &[&target.place],
                State::Absent if matches!(target.kind, Kind::Users(true)) => &[&target.place],
                State::Absent => continue,
            };
            for name in names {
                if let Err(error) = drop_one(cx, server, name).await {
                    last = Err(error);
                }
            }
        }
        last
    }

    /// What of a restore that failed is there for good, in words.
    pub(super) fn kept(&self) -> Option<String> {
        let mut kept = Vec::new();
        if !self.replaced.is_empty() {
            let names: Vec<String> = self.replaced.iter().take(10).map(ToString::to_string).collect();
            let more = self.replaced.len() - names.len();
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            kept.push(format!("of the target were replaced or dropped already: {}{more}", names.join(", ")));
        }
        if self.merged {
            kept.push("users and roles were added already".to_owned());
        }
        (!kept.is_empty()).then(|| kept.join("; "))
    }

    // --- what the oplog changes -------------------------------------------------------------

    /// Where changes of this collection go, if it exists.
    pub(super) fn place_for(&self, source: &Namespace) -> Option<Place> {
        let index = *self.by_source.get(source)?;
        (self.entries[index].state == State::Made).then(|| self.place_of(index, source)).flatten()
    }

    /// Makes a collection anew, empty.
    pub(super) async fn recreate(
        &mut self,
        cx: &Context,
        server: &Server,
        renames: &Renames,
        source: &Namespace,
        options: Document,
    ) -> Result<(), MongoError> {
        self.remove(cx, server, source).await?;
        let index = match self.by_source.get(source) {
            Some(index) => *index,
            None => {
                let (index, last) = (self.entries.len(), renames.of(source));
                let direct = self.forgetful && !options.is_empty();
                let (kind, place) = if direct {
                    (Kind::Direct, last.clone())
                } else {
                    (Kind::Collection, self.temporary(&last.db, index))
                };
                let metadata = Metadata { kind: "collection".to_owned(), ..Metadata::default() };
                let state = State::Absent;
                self.entries.push(Target { kind, last, place, metadata, ended: true, state });
                self.by_source.insert(source.clone(), index);
                index
            }
        };
        let target = &self.entries[index];
        if target.kind == Kind::Direct && self.existing.contains_key(&target.last) {
            let what = format!("{} exists, and cannot be replaced at once: drop it first", target.last);
            return Err(MongoError::Exists(what));
        }
        self.entries[index].metadata.options = options;
        self.entries[index].metadata.indexes.clear();
        self.make(cx, server, index).await
    }

    /// Drops a collection.
    pub(super) async fn remove(
        &mut self,
        cx: &Context,
        server: &Server,
        source: &Namespace,
    ) -> Result<(), MongoError> {
        if let Some(index) = self.by_source.get(source)
            && self.entries[*index].state == State::Made
        {
            drop_one(cx, server, &self.entries[*index].place).await?;
            self.entries[*index].state = State::Absent;
        }
        Ok(())
    }

    /// The indexes that will be built.
    pub(super) fn indexes_mut(&mut self, source: &Namespace) -> Option<&mut Vec<Document>> {
        let index = *self.by_source.get(source)?;
        Some(&mut self.entries[index].metadata.indexes)
    }
}

impl Target {
    /// What is to be built: not the index that every collection has.
    fn indexes(&self) -> Vec<Document> {
        let own = |index: &Document| {
            index.get_bool("clustered").is_ok_and(|clustered| clustered)
                || index
                    .get_document("key")
                    .is_ok_and(|key| key.len() == 1 && key.contains_key("_id") && !hashed(key))
        };
        self.metadata.indexes.iter().filter(|index| !own(index)).cloned().collect()
    }
}

fn hashed(key: &Document) -> bool {
    matches!(key.get("_id"), Some(Bson::String(_)))
}

async fn build(
    cx: &Context,
    server: &Server,
    place: Namespace,
    last: Namespace,
    indexes: Vec<Document>,
) -> Result<(), MongoError> {
    let indexes: Vec<Bson> = indexes.into_iter().map(Bson::Document).collect();
    let command = doc! { "createIndexes": place.collection, "indexes": indexes };
    server.command(cx, &place.db, &format!("build the indexes of {last}"), command).await?;
    Ok(())
}

/// Drops a collection or view; one that is not there is no error.
pub(in crate::mongodb) async fn drop_one(
    cx: &Context,
    server: &Server,
    name: &Namespace,
) -> Result<(), MongoError> {
    match server.command(cx, &name.db, &format!("drop {name}"), doc! { "drop": &name.collection }).await {
        // NamespaceNotFound
        Ok(_) | Err(MongoError::Changed(_)) => Ok(()),
        Err(error) => Err(error),
    }
}
