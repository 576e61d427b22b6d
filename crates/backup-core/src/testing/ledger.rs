//! A signer's memory and a catalogue for tests, kept in memory and shared by clones.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use jiff::Timestamp;

use crate::catalog::{Catalog, Run, RunRecord};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{RepositoryId, SourceName};
use crate::ledger::{Head, Ledger};
use crate::manifest::BackupRef;
use crate::progress::RunStatus;

use super::faulty_store::{FaultPlan, run};

/// A [`Ledger`] that survives its clones, not the process.
#[derive(Debug, Clone, Default)]
pub struct MemoryLedger(Arc<Mutex<BTreeMap<(RepositoryId, SourceName), Heads>>>);

#[derive(Debug, Clone, Copy, Default)]
struct Heads {
    settled: Option<Head>,
    intended: Option<Head>,
}

impl MemoryLedger {
    fn heads(&self) -> MutexGuard<'_, BTreeMap<(RepositoryId, SourceName), Heads>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Ledger for MemoryLedger {
    async fn head(&self, repository: &RepositoryId, source: &SourceName) -> Result<Option<Head>> {
        Ok(self.heads().get(&(*repository, source.clone())).and_then(|heads| heads.settled))
    }

    async fn intended(&self, repository: &RepositoryId, source: &SourceName) -> Result<Option<Head>> {
        Ok(self.heads().get(&(*repository, source.clone())).and_then(|heads| heads.intended))
    }

    async fn intend(&self, repository: &RepositoryId, source: &SourceName, head: Head) -> Result<()> {
        self.heads().entry((*repository, source.clone())).or_default().intended = Some(head);
        Ok(())
    }

    async fn settle(&self, repository: &RepositoryId, source: &SourceName, stored: bool) -> Result<()> {
        let mut all = self.heads();
        let heads = all.entry((*repository, source.clone())).or_default();
        if let (Some(head), true) = (heads.intended.take(), stored) {
            heads.settled = Some(head);
        }
        Ok(())
    }
}

/// A ledger whose calls fail as its [`FaultPlan`] says; they are counted with the plan's other calls.
#[derive(Debug, Clone)]
pub struct FaultyLedger<L> {
    inner: L,
    plan: FaultPlan,
}

impl<L> FaultyLedger<L> {
    /// Wraps `inner`.
    pub fn new(inner: L, plan: FaultPlan) -> Self {
        Self { inner, plan }
    }

    async fn call<T>(&self, call: &'static str, inner: impl Future<Output = Result<T>> + Send) -> Result<T> {
        run(&self.plan, call, "ledger", self.plan.kind(), inner).await
    }
}

#[async_trait]
impl<L: Ledger> Ledger for FaultyLedger<L> {
    async fn head(&self, repository: &RepositoryId, source: &SourceName) -> Result<Option<Head>> {
        self.call("head", self.inner.head(repository, source)).await
    }

    async fn intended(&self, repository: &RepositoryId, source: &SourceName) -> Result<Option<Head>> {
        self.call("intended", self.inner.intended(repository, source)).await
    }

    async fn intend(&self, repository: &RepositoryId, source: &SourceName, head: Head) -> Result<()> {
        self.call("intend", self.inner.intend(repository, source, head)).await
    }

    async fn settle(&self, repository: &RepositoryId, source: &SourceName, stored: bool) -> Result<()> {
        self.call("settle", self.inner.settle(repository, source, stored)).await
    }
}

/// A [`Catalog`] in memory.
#[derive(Debug, Clone, Default)]
pub struct MemoryCatalog(Arc<Mutex<Vec<RunRecord>>>);

impl MemoryCatalog {
    fn records(&self) -> MutexGuard<'_, Vec<RunRecord>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, run: &Run, change: impl FnOnce(&mut RunRecord)) -> Result<()> {
        let mut records = self.records();
        let id = run.backup.id.to_string();
        // Only the newest run of a backup may speak for it.
        match records.iter_mut().enumerate().rfind(|(_, record)| record.id == id) {
            Some((newest, record)) if newest as u64 == run.fence => {
                change(record);
                Ok(())
            }
            _ => {
                let what = "another run has taken the place of this one";
                Err(Error::new(ErrorKind::Conflict, run.backup.to_string(), what))
            }
        }
    }
}

#[async_trait]
impl Catalog for MemoryCatalog {
    async fn begin(&self, record: RunRecord) -> Result<Run> {
        let backup = BackupRef { source: record.source.parse()?, id: record.id.parse()? };
        let mut records = self.records();
        records.push(record);
        Ok(Run { backup, fence: records.len() as u64 - 1 })
    }

    async fn advance(&self, run: &Run, status: RunStatus) -> Result<()> {
        self.change(run, |record| record.status = status)
    }

    async fn end(&self, run: Run, at: Timestamp, outcome: Result<(), (ErrorKind, String)>) -> Result<()> {
        self.change(&run, |record| {
            record.ended = Some(at);
            (record.status, record.error) = match outcome {
                Ok(()) => (RunStatus::Completed, None),
                Err((ErrorKind::Cancelled, why)) => (RunStatus::Cancelled, Some(why)),
                Err((_, why)) => (RunStatus::Failed, Some(why)),
            };
        })
    }

    async fn list(&self) -> Result<Vec<RunRecord>> {
        Ok(self.records().clone())
    }
}
