//! Journals of uploads for tests, kept in memory and shared by clones.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;

use crate::error::Result;
use crate::manifest::BackupRef;
use crate::pipeline::Journals;
use crate::store::Journal;

type Lines = Arc<Mutex<BTreeMap<String, Vec<String>>>>;

/// [`Journals`] that survive their clones, not the process.
#[derive(Debug, Clone, Default)]
pub struct MemoryJournals(Lines);

#[derive(Debug)]
struct MemoryJournal {
    name: String,
    lines: Lines,
}

impl MemoryJournals {
    /// How many journals hold anything.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

#[async_trait]
impl Journals for MemoryJournals {
    fn of(&self, at: &BackupRef, destination: &str) -> Arc<dyn Journal> {
        Arc::new(MemoryJournal { name: format!("{at} {destination}"), lines: Arc::clone(&self.0) })
    }

    async fn forget(&self, at: &BackupRef) -> Result<()> {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.retain(|name, _| !name.starts_with(&at.to_string()));
        Ok(())
    }
}

#[async_trait]
impl Journal for MemoryJournal {
    async fn read(&self) -> Result<Vec<String>> {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(lines.get(&self.name).cloned().unwrap_or_default())
    }

    async fn add(&self, line: String) -> Result<()> {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.entry(self.name.clone()).or_default().push(line);
        Ok(())
    }

    async fn clear(&self) -> Result<()> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.name);
        Ok(())
    }
}
