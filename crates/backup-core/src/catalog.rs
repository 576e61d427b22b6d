//! An index of runs. The destination is the truth; a catalogue can be lost and rebuilt.

use std::fmt;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::error::{ErrorKind, Result};
use crate::manifest::BackupRef;
use crate::progress::RunStatus;

/// Records runs, also those that failed, so that a missing backup leaves a trace.
#[async_trait]
pub trait Catalog: fmt::Debug + Send + Sync {
    /// Records that a run begins. A run that is begun and never ended was interrupted.
    async fn begin(&self, record: RunRecord) -> Result<Run>;

    /// Records a new state of a run that goes on.
    ///
    /// # Errors
    /// `Conflict` when a newer run has taken this one's place, which stops it; any other error is
    /// only told, and the run goes on.
    async fn advance(&self, run: &Run, status: RunStatus) -> Result<()>;

    /// Records a run's end: `Completed`, or failed with this kind of error and message.
    ///
    /// # Errors
    /// `Conflict` when a newer run has taken this one's place: its end says nothing of the newer.
    async fn end(&self, run: Run, at: Timestamp, outcome: Result<(), (ErrorKind, String)>) -> Result<()>;

    /// Every run, oldest first.
    async fn list(&self) -> Result<Vec<RunRecord>>;
}

/// The right to record the progress of one run.
#[derive(Debug)]
pub struct Run {
    /// Which backup.
    pub backup: BackupRef,
    /// Grows with every run begun; a catalogue refuses a fence older than the newest of a backup.
    pub fence: u64,
}

/// What is known of one run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRecord {
    /// The source.
    pub source: String,
    /// The backup it makes.
    pub id: String,
    /// When it began.
    pub started: Timestamp,
    /// When it ended.
    pub ended: Option<Timestamp>,
    /// Its state.
    pub status: RunStatus,
    /// Why it failed.
    pub error: Option<String>,
}
