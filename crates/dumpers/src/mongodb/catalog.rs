//! What is on a server: databases, collections, their options, indexes and sizes.

use std::collections::HashSet;

use backup_core::Context;
use futures::{StreamExt as _, TryStreamExt as _};
use mongodb::bson::{Bson, Document, doc};

use super::archive::{BUCKETS, Entry, Metadata, Namespace};
use super::connect::Server;
use super::error::MongoError;
use super::pattern::Patterns;

/// Questions about single collections that are asked at a time.
const AT_A_TIME: usize = 4;
/// The databases that belong to the server itself.
const OWN: [&str; 3] = ["admin", "config", "local"];
/// The collections that keep users and roles.
pub(super) const USERS: [&str; 3] = ["system.users", "system.roles", "system.version"];

/// A collection, view or time series.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Collection {
    pub(super) namespace: Namespace,
    /// Where its documents are read; a view has none.
    pub(super) data: Option<Namespace>,
    pub(super) metadata: Metadata,
}

/// How much a collection holds, about.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Size {
    pub(super) documents: Option<u64>,
    pub(super) bytes: Option<u64>,
}

impl Collection {
    /// As the beginning of an archive names it.
    pub(super) fn entry(&self) -> Entry {
        Entry {
            namespace: self.namespace.clone(),
            metadata: self.metadata.to_text(),
            kind: self.metadata.kind.clone(),
        }
    }

    /// What makes it another collection if it changes.
    pub(super) fn identity(&self) -> (Namespace, Option<String>, Document) {
        (self.namespace.clone(), self.metadata.uuid.clone(), self.metadata.options.clone())
    }
}

/// The databases that are dumped when none is named.
pub(super) async fn databases(cx: &Context, server: &Server) -> Result<Vec<String>, MongoError> {
    // Not only those that this user may see: what it may not see would be missing in silence.
    let command = doc! { "listDatabases": 1, "nameOnly": true, "authorizedDatabases": false };
    let answer = server.command(cx, "admin", "list the databases", command).await?;
    let listed = answer.get_array("databases").map_err(|_| MongoError::Answer("listDatabases".into()))?;
    let name = |entry: &Bson| Some(entry.as_document()?.get_str("name").ok()?.to_owned());
    let names = listed.iter().map(name).collect::<Option<Vec<_>>>();
    let mut names = names.ok_or_else(|| MongoError::Answer("listDatabases".into()))?;
    names.retain(|name| !OWN.contains(&&**name));
    names.sort();
    Ok(names)
}

/// The collections that are meant, without their indexes, by name; the selection's patterns are
/// given all of them.
pub(super) async fn collections(
    cx: &Context,
    server: &Server,
    patterns: &Patterns,
    users: bool,
) -> Result<(Vec<Collection>, Vec<Namespace>), MongoError> {
    let databases = match &server.database {
        Some(name) => vec![name.clone()],
        None => databases(cx, server).await?,
    };
    let mut all = Vec::new();
    for db in databases {
        all.extend(of_database(cx, server, &db).await?);
    }
    let names: Vec<Namespace> = all.iter().map(|collection| collection.namespace.clone()).collect();
    all.retain(|collection| patterns.take(&collection.namespace));
    if users {
        for listed in &of_database_raw(cx, server, "admin").await? {
            let collection = read_listed("admin", listed, &HashSet::new())?;
            all.extend(collection.filter(|found| USERS.contains(&&*found.namespace.collection)));
        }
        let kept = |found: &Collection| found.namespace == Namespace::new("admin", USERS[0]);
        if !all.iter().any(kept) && has_users(cx, server).await? {
            return Err(MongoError::Withheld("the server does not list the collection that keeps its users"));
        }
    }
    all.sort_by(|a, b| a.namespace.cmp(&b.namespace));
    Ok((all, names))
}

/// Whether the server knows any user.
async fn has_users(cx: &Context, server: &Server) -> Result<bool, MongoError> {
    // The second is of one database; a server may know no other question.
    for whose in [Bson::Document(doc! { "forAllDBs": true }), Bson::Int32(1)] {
        let command = doc! { "usersInfo": whose };
        let answer = server.command(cx, "admin", "list the users (usersInfo)", command).await?;
        let users = answer.get_array("users").map_err(|_| MongoError::Answer("usersInfo".to_owned()))?;
        if !users.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

async fn of_database_raw(cx: &Context, server: &Server, db: &str) -> Result<Vec<Document>, MongoError> {
    let what = format!("list the collections of {db}");
    server.list(cx, db, &what, doc! { "listCollections": 1, "authorizedCollections": false }).await
}

/// Everything of a database that a dump keeps, and whether that is nothing.
pub(super) async fn of_database(
    cx: &Context,
    server: &Server,
    db: &str,
) -> Result<Vec<Collection>, MongoError> {
    let listed = of_database_raw(cx, server, db).await?;
    let names: HashSet<&str> = listed.iter().filter_map(|entry| entry.get_str("name").ok()).collect();
    let mut collections = Vec::new();
    for entry in &listed {
        let collection = read_listed(db, entry, &names)?;
        collections.extend(collection.filter(|collection| {
            let name = &collection.namespace.collection;
            // Stored functions are the one kind of system collection that belongs to its users.
            !name.starts_with("system.") || name == "system.js"
        }));
    }
    Ok(collections)
}

fn read_listed(db: &str, listed: &Document, names: &HashSet<&str>) -> Result<Option<Collection>, MongoError> {
    let not_understood = || MongoError::Answer("listCollections".to_owned());
    let name = listed.get_str("name").map_err(|_| not_understood())?;
    let kind = listed.get_str("type").unwrap_or("collection");
    let options = match listed.get("options") {
        Some(Bson::Document(options)) => options.clone(),
        None => Document::new(),
        Some(_) => return Err(not_understood()),
    };
    let uuid = listed.get_document("info").ok().and_then(|info| match info.get("uuid") {
        Some(Bson::Binary(binary)) => Some(hex(&binary.bytes)),
        _ => None,
    });
    let namespace = Namespace::new(db, name);
    let buckets = format!("{BUCKETS}{name}");
    let data = match kind {
        "view" => None,
        "timeseries" if names.contains(&*buckets) => Some(Namespace::new(db, buckets)),
        _ => Some(namespace.clone()),
    };
    let metadata =
        Metadata { options, indexes: Vec::new(), uuid, collection: name.to_owned(), kind: kind.to_owned() };
    Ok(Some(Collection { namespace, data, metadata }))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Asks for the indexes of each collection and keeps them in its metadata: `_id_` first, the others
/// by name.
pub(super) async fn read_indexes(
    cx: &Context,
    server: &Server,
    collections: &mut [Collection],
) -> Result<(), MongoError> {
    let with_data: Vec<usize> = (0..collections.len()).filter(|at| collections[*at].data.is_some()).collect();
    let questions: Vec<_> =
        with_data.iter().map(|at| indexes_of(cx, server, collections[*at].namespace.clone())).collect();
    let answers: Vec<Vec<Document>> =
        futures::stream::iter(questions).buffered(AT_A_TIME).try_collect().await?;
    for (at, indexes) in with_data.into_iter().zip(answers) {
        collections[at].metadata.indexes = indexes;
    }
    Ok(())
}

async fn indexes_of(
    cx: &Context,
    server: &Server,
    namespace: Namespace,
) -> Result<Vec<Document>, MongoError> {
    let what = format!("reading {namespace}");
    let command = doc! { "listIndexes": namespace.collection };
    let mut indexes = server.list(cx, &namespace.db, &what, command).await?;
    for index in &mut indexes {
        // Older servers repeat the collection's name, which a restore may change.
        index.remove("ns");
    }
    let name = |index: &Document| index.get_str("name").unwrap_or_default().to_owned();
    indexes.sort_by_key(|index| (name(index) != "_id_", name(index)));
    Ok(indexes)
}

/// About how much each collection holds. What cannot be told is left open.
pub(super) async fn sizes(
    cx: &Context,
    server: &Server,
    collections: &[Collection],
) -> Result<Vec<Size>, MongoError> {
    let questions: Vec<_> =
        collections.iter().map(|collection| size_of(cx, server, collection.data.clone())).collect();
    futures::stream::iter(questions).buffered(AT_A_TIME).try_collect().await
}

async fn size_of(cx: &Context, server: &Server, data: Option<Namespace>) -> Result<Size, MongoError> {
    let Some(data) = data else { return Ok(Size::default()) };
    match server.command(cx, &data.db, "collStats", doc! { "collStats": data.collection }).await {
        Ok(answer) => {
            let number = |key| match answer.get(key) {
                Some(Bson::Int32(n)) => u64::try_from(*n).ok(),
                Some(Bson::Int64(n)) => u64::try_from(*n).ok(),
                Some(Bson::Double(n)) if *n >= 0.0 => Some(*n as u64),
                _ => None,
            };
            Ok(Size { documents: number("count"), bytes: number("size") })
        }
        Err(MongoError::Cancelled) => Err(MongoError::Cancelled),
        Err(_) => Ok(Size::default()),
    }
}
