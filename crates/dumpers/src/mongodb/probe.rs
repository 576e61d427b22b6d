//! A look at a server before a dump.

use std::collections::BTreeMap;

use backup_core::{Context, Obstacle, Probe, ProbeItem, Result, Selection};
use futures::{StreamExt as _, TryStreamExt as _};
use mongodb::bson::doc;

use super::archive::Namespace;
use super::catalog::{self, Collection};
use super::config::Consistency;
use super::connect::{Address, Server};
use super::error::MongoError;
use super::moment::{self, Moment};
use super::pattern::Patterns;

/// Collections that are tried at a time.
const AT_A_TIME: usize = 4;
/// Collections that an obstacle names.
const NAMED_MAX: usize = 5;

/// Lists what there is and tries whether all of it can be read. Without `consistency` somebody else
/// finds the moment of the dump.
pub(super) async fn probe(
    cx: &Context,
    address: &Address,
    consistency: Option<Consistency>,
    users: bool,
) -> Result<Probe> {
    let server = address.connect(cx).await.map_err(|error| error.about(address.describe()))?;
    let about = |error| match address.database() {
        Some(db) => server.about(error, address.describe(), "read", db),
        None => server.about(error, address.describe(), "backup", "admin"),
    };
    let patterns = Patterns::new(&Selection::default(), address.database().is_some());
    let (collections, _) = catalog::collections(cx, &server, &patterns, users).await.map_err(about)?;
    let sizes = catalog::sizes(cx, &server, &collections).await.map_err(about)?;
    let mut obstacles = unreadable(cx, &server, &collections).await.map_err(about)?;
    let mut warnings = Vec::new();
    let estimate: u64 = sizes.iter().filter_map(|size| size.bytes).sum();
    // What cannot be read is an obstacle already.
    let denied = !obstacles.is_empty();
    let first = collections.iter().find_map(|collection| collection.data.as_ref()).filter(|_| !denied);
    let moment = match consistency {
        Some(consistency) => Some(moment::choose(cx, &server, consistency, first, estimate).await),
        None => None,
    };
    match moment {
        Some(Ok(Moment::None)) => warnings.push(
            "collections are read one after another: what is written meanwhile may be half in the dump"
                .to_owned(),
        ),
        Some(Ok(_)) | None => {}
        Some(Err(error @ MongoError::Permission { .. })) => {
            obstacles.push(Obstacle::new(error.to_string(), server.grant("read", "local")));
        }
        Some(Err(error @ MongoError::NoMoment(_))) => obstacles.push(Obstacle::new(
            error.to_string(),
            "make the server a replica set of one member, or set consistency = \"none\"",
        )),
        Some(Err(error)) => return Err(about(error)),
    }
    let items = collections
        .iter()
        .zip(&sizes)
        .map(|(collection, size)| ProbeItem {
            name: collection.namespace.to_string(),
            estimated_rows: size.documents,
            estimated_bytes: size.bytes,
        })
        .collect();
    Ok(Probe {
        engine: "mongodb".to_owned(),
        versions: BTreeMap::from([("server".to_owned(), server.version.clone())]),
        estimated_bytes: Some(estimate),
        items,
        obstacles,
        warnings,
    })
}

/// Reads one document and the indexes of every collection: who may list a collection may not always
/// read it. One obstacle for each database.
async fn unreadable(
    cx: &Context,
    server: &Server,
    collections: &[Collection],
) -> Result<Vec<Obstacle>, MongoError> {
    let tries: Vec<_> = collections
        .iter()
        .filter_map(|collection| Some((collection.namespace.clone(), collection.data.clone()?)))
        .map(|(shown, data)| denied(cx, server, shown, data))
        .collect();
    let denied: Vec<Option<Namespace>> =
        futures::stream::iter(tries).buffered(AT_A_TIME).try_collect().await?;
    let mut databases = BTreeMap::<String, Vec<String>>::new();
    for namespace in denied.into_iter().flatten() {
        databases.entry(namespace.db.clone()).or_default().push(namespace.to_string());
    }
    let obstacle = |(db, names): (String, Vec<String>)| {
        let shown = names[..names.len().min(NAMED_MAX)].join(", ");
        let more = names.len().saturating_sub(NAMED_MAX);
        let more = if more > 0 { format!(" and {more} more collections") } else { String::new() };
        // Those that keep users are read by no lesser role.
        let role = if db == "admin" { "backup" } else { "read" };
        Obstacle::new(format!("the user may not read {shown}{more}"), server.grant(role, &db))
    };
    Ok(databases.into_iter().map(obstacle).collect())
}

/// The collection, if it may not be read.
async fn denied(
    cx: &Context,
    server: &Server,
    shown: Namespace,
    data: Namespace,
) -> Result<Option<Namespace>, MongoError> {
    let what = format!("reading {shown}");
    let one = doc! {
        "find": &data.collection, "limit": 1, "singleBatch": true, "projection": { "_id": 1 },
    };
    let read = server.command(cx, &data.db, &what, one).await.map(drop);
    let read = match read {
        Ok(()) => {
            let indexes = doc! { "listIndexes": &shown.collection };
            server.list(cx, &shown.db, &what, indexes).await.map(drop)
        }
        refused => refused,
    };
    match read {
        Ok(()) => Ok(None),
        Err(MongoError::Permission { .. }) => Ok(Some(shown)),
        // Dropped since it was listed.
        Err(MongoError::Changed(_)) => Ok(None),
        Err(error) => Err(error),
    }
}
