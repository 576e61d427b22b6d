//! When this machine first saw what has no manifest in a place.

use std::collections::BTreeMap;
use std::path::PathBuf;

use backup_core::pipeline::Orphan;
use backup_core::{Error, Result};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::durable;

/// The memory of one place.
#[derive(Debug, Clone)]
pub(crate) struct OrphanMemory {
    path: PathBuf,
}

/// One orphan as it was first seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Seen {
    /// What it consisted of; another state is another sight.
    state: String,
    first: Timestamp,
}

impl OrphanMemory {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Since when each of these was seen as it is, by this machine; what is new is seen now. What is not
    /// among them any more is forgotten.
    ///
    /// # Errors
    /// Those of the file system. A damaged memory is an empty one: everything is new.
    pub(crate) fn see(&self, found: &[Orphan], now: Timestamp) -> Result<Vec<Timestamp>> {
        let known: BTreeMap<String, Seen> =
            durable::read(&self.path)?.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
        let mut seen = BTreeMap::new();
        let mut firsts = Vec::with_capacity(found.len());
        for orphan in found {
            let (name, state) = (orphan.at.to_string(), orphan.state());
            let known = known.get(&name).filter(|known| known.state == state);
            // A first sight in the future is none.
            let first = known.map_or(now, |known| known.first.min(now));
            firsts.push(first);
            seen.insert(name, Seen { state, first });
        }
        if let Some(folder) = self.path.parent() {
            durable::create_folder(folder)?;
        }
        let text = serde_json::to_vec(&seen)
            .map_err(|e| Error::bug(format!("the memory of orphans could not be written: {e}")))?;
        durable::replace(&self.path, &text, 0o600)?;
        Ok(firsts)
    }
}
