//! Taking back what a failed restore wrote.

use std::collections::HashSet;

use backup_core::Context;
use jiff::Timestamp;

use crate::firestore::api::{Database, Found, Query};
use crate::firestore::config::FirestoreConfig;
use crate::firestore::error::FirestoreError;

/// How far taking back came.
#[derive(Debug, Default)]
pub(super) struct Removed {
    /// Documents that are gone.
    pub(super) removed: u64,
    /// Documents of the target that are not ours, or not as we wrote them.
    pub(super) left: u64,
}

/// Removes the documents below the target that were created and never changed since, at one of
/// `times` or, for those in `doubt`, after `start`. Anything else is left alone: each removal is
/// refused by the server where the document changed meanwhile.
pub(super) async fn remove(
    cx: &Context,
    database: &Database,
    config: &FirestoreConfig,
    start: Timestamp,
    times: &HashSet<Timestamp>,
    doubt: &HashSet<String>,
) -> Result<Removed, FirestoreError> {
    let mut removed = Removed::default();
    let mut after: Option<String> = None;
    loop {
        let query = Query {
            below: config.root.as_deref(),
            after: after.as_deref(),
            limit: 500,
            names_only: true,
            ..Query::default()
        };
        let (found, _) = database.few(cx, &query).await?;
        let Some(last) = found.last() else { return Ok(removed) };
        let last = last.path.clone();
        let is_ours = |document: &&Found| {
            let time = document.created.parse().ok().filter(|_| document.created == document.updated);
            time.is_some_and(|time: Timestamp| {
                times.contains(&time) || doubt.contains(&document.path) && time >= start
            })
        };
        let ours: Vec<&Found> = found.iter().filter(is_ours).collect();
        removed.left += (found.len() - ours.len()) as u64;
        if !ours.is_empty() {
            let gone = delete(cx, database, &ours).await?;
            removed.removed += gone;
            removed.left += ours.len() as u64 - gone;
        }
        after = Some(last);
    }
}

/// How many of these are gone.
async fn delete(cx: &Context, database: &Database, documents: &[&Found]) -> Result<u64, FirestoreError> {
    let write = |document: &&Found| {
        let name = format!("{}/{}", database.documents(), document.path);
        serde_json::json!({ "delete": name, "currentDocument": { "updateTime": document.updated } })
            .to_string()
    };
    let mut pauses = database.pauses();
    let texts: Vec<String> = documents.iter().map(write).collect();
    loop {
        match database.write(&texts.join(","), texts.len()).await {
            // A second try finds nothing there: NOT_FOUND or FAILED_PRECONDITION then mean gone or changed.
            Ok(results) => {
                return Ok(results.iter().filter(|result| matches!(result.code, 0 | 5)).count() as u64);
            }
            Err(error) => pauses.wait(cx, error).await?,
        }
    }
}
