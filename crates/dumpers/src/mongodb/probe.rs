//! A look at a server before a dump.

use std::collections::BTreeMap;

use backup_core::{Context, Obstacle, Probe, ProbeItem, Result, Selection};

use super::catalog;
use super::config::Consistency;
use super::connect::Address;
use super::error::MongoError;
use super::moment::{self, Moment};
use super::pattern::Patterns;

pub(super) async fn probe(cx: &Context, address: &Address, consistency: Consistency) -> Result<Probe> {
    let server = address.connect(cx).await.map_err(|error| error.about(address.describe()))?;
    let about = |error| match address.database() {
        Some(db) => server.about(error, address.describe(), "read", db),
        None => server.about(error, address.describe(), "backup", "admin"),
    };
    let patterns = Patterns::new(&Selection::default(), address.database().is_some());
    let (collections, _) = catalog::collections(cx, &server, &patterns, false).await.map_err(about)?;
    let sizes = catalog::sizes(cx, &server, &collections).await.map_err(about)?;
    let (mut obstacles, mut warnings) = (Vec::new(), Vec::new());
    let estimate: u64 = sizes.iter().filter_map(|size| size.bytes).sum();
    let first = collections.iter().find_map(|collection| collection.data.as_ref());
    match moment::choose(cx, &server, consistency, first, estimate).await {
        Ok(Moment::None) => warnings.push(
            "collections are read one after another: what is written meanwhile may be half in the dump"
                .to_owned(),
        ),
        Ok(_) => {}
        Err(error @ MongoError::Permission { .. }) => {
            obstacles.push(Obstacle::new(error.to_string(), server.grant("read", "local")));
        }
        Err(error @ MongoError::NoMoment(_)) => obstacles.push(Obstacle::new(
            error.to_string(),
            "make the server a replica set of one member, or set consistency = \"none\"",
        )),
        Err(error) => return Err(about(error)),
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
