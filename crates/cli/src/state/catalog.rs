//! The log of runs: one line of JSON for each thing that happened, appended and synced.

use std::collections::BTreeMap;
use std::path::PathBuf;

use async_trait::async_trait;
use backup_core::{BackupId, BackupRef, Catalog, Error, ErrorKind, Result, Run, RunRecord, RunStatus};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::durable;
use crate::failure::io_error;

/// A [`Catalog`] in one file. Lines of runs in other processes may stand between.
#[derive(Debug, Clone)]
pub(crate) struct RunLog {
    path: PathBuf,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
enum Line {
    Begin { record: RunRecord },
    Advance { id: String, status: RunStatus },
    End { id: String, at: Timestamp, status: RunStatus, error: Option<String> },
}

impl RunLog {
    /// A log at `path`.
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    fn append(&self, line: &Line) -> Result<()> {
        if let Some(folder) = self.path.parent() {
            durable::create_folder(folder)?;
        }
        let text =
            serde_json::to_string(line).map_err(|e| Error::bug(format!("a run could not be noted: {e}")))?;
        durable::append_line(&self.path, &text, 0o600)
    }

    /// The log as text. A line that a crash cut short may end within a character.
    fn text(&self) -> Result<String> {
        match std::fs::read(&self.path) {
            Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
            Err(error) => Err(io_error(&self.path, "read", error)),
        }
    }

    /// How many runs of this backup were begun.
    fn begun(&self, id: &str) -> Result<u64> {
        let text = self.text()?;
        let lines = text.lines().filter(|line| line.contains(id));
        let begun = lines
            .filter_map(|line| serde_json::from_str::<Line>(line).ok())
            .filter(|line| matches!(line, Line::Begin { record } if record.id == id));
        Ok(begun.count() as u64)
    }

    /// Appends what a run says of itself, unless a newer one has taken its place.
    fn append_of(&self, run: &Run, line: &Line) -> Result<()> {
        if self.begun(&run.backup.id.to_string())? > run.fence {
            let what = "another run has taken the place of this one";
            return Err(Error::new(ErrorKind::Conflict, run.backup.to_string(), what)
                .with_hint("see with `strongroom list` what became of the other"));
        }
        self.append(line)
    }

    /// Every run, oldest first. A line that a crash cut short is skipped.
    pub(crate) fn read(&self) -> Result<Vec<RunRecord>> {
        let text = self.text()?;
        let mut records: Vec<RunRecord> = Vec::new();
        let mut places: BTreeMap<String, usize> = BTreeMap::new();
        for line in text.lines().filter_map(|line| serde_json::from_str(line).ok()) {
            match line {
                Line::Begin { record } => {
                    places.insert(record.id.clone(), records.len());
                    records.push(record);
                }
                Line::Advance { id, status } => {
                    if let Some(record) = places.get(&id).and_then(|i| records.get_mut(*i)) {
                        record.status = status;
                    }
                }
                Line::End { id, at, status, error } => {
                    if let Some(record) = places.get(&id).and_then(|i| records.get_mut(*i)) {
                        (record.ended, record.status, record.error) = (Some(at), status, error);
                    }
                }
            }
        }
        Ok(records)
    }
}

/// The logs of several places, told the same.
#[derive(Debug, Clone)]
pub(crate) struct RunLogs(pub(crate) Vec<RunLog>);

impl RunLog {
    /// Says how a run ended here, where it ended otherwise than in other places.
    pub(crate) fn correct(&self, id: BackupId, at: Timestamp, error: Option<String>) -> Result<()> {
        let status = if error.is_some() { RunStatus::Failed } else { RunStatus::Completed };
        self.append(&Line::End { id: id.to_string(), at, status, error })
    }
}

#[async_trait]
impl Catalog for RunLogs {
    async fn begin(&self, record: RunRecord) -> Result<Run> {
        let mut begun = None;
        for log in &self.0 {
            begun = Some(log.begin(record.clone()).await?);
        }
        begun.ok_or_else(|| Error::bug("a run without a destination"))
    }

    async fn advance(&self, run: &Run, status: RunStatus) -> Result<()> {
        for log in &self.0 {
            log.advance(run, status).await?;
        }
        Ok(())
    }

    async fn end(&self, run: Run, at: Timestamp, outcome: Result<(), (ErrorKind, String)>) -> Result<()> {
        for log in &self.0 {
            let run = Run { backup: run.backup.clone(), fence: run.fence };
            log.end(run, at, outcome.clone()).await?;
        }
        Ok(())
    }

    async fn list(&self) -> Result<Vec<RunRecord>> {
        match self.0.first() {
            Some(log) => log.list().await,
            None => Ok(Vec::new()),
        }
    }
}

#[async_trait]
impl Catalog for RunLog {
    async fn begin(&self, record: RunRecord) -> Result<Run> {
        let backup = BackupRef { source: record.source.parse()?, id: record.id.parse()? };
        // Ids are random, so the fence counts the runs of this backup alone.
        let fence = self.begun(&record.id)? + 1;
        self.append(&Line::Begin { record })?;
        Ok(Run { backup, fence })
    }

    async fn advance(&self, run: &Run, status: RunStatus) -> Result<()> {
        self.append_of(run, &Line::Advance { id: run.backup.id.to_string(), status })
    }

    async fn end(&self, run: Run, at: Timestamp, outcome: Result<(), (ErrorKind, String)>) -> Result<()> {
        let (status, error) = match outcome {
            Ok(()) => (RunStatus::Completed, None),
            Err((ErrorKind::Cancelled, why)) => (RunStatus::Cancelled, Some(why)),
            Err((_, why)) => (RunStatus::Failed, Some(why)),
        };
        self.append_of(&run, &Line::End { id: run.backup.id.to_string(), at, status, error })
    }

    async fn list(&self) -> Result<Vec<RunRecord>> {
        self.read()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_log_of_runs_obeys_the_suite() {
        let folder = tempfile::tempdir().unwrap();
        backup_core::testing::catalog_suite(|| RunLog::new(folder.path().join("state/runs.jsonl"))).await;
    }

    #[tokio::test]
    async fn a_line_that_was_cut_within_a_character_hides_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("runs.jsonl");
        let log = RunLog::new(path.clone());
        let (first, second) =
            (record(backup_core::BackupId::random()), record(backup_core::BackupId::random()));
        log.begin(first.clone()).await.unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.extend_from_slice(b"{\"event\":\"end\",\"error\":\"gr\xc3");
        std::fs::write(&path, bytes).unwrap();
        log.begin(second.clone()).await.unwrap();
        assert_eq!(log.list().await.unwrap(), [first, second]);
    }

    fn record(id: backup_core::BackupId) -> RunRecord {
        RunRecord {
            source: "orders".into(),
            id: id.to_string(),
            started: Timestamp::UNIX_EPOCH,
            ended: None,
            status: RunStatus::Pending,
            error: None,
        }
    }

    #[tokio::test]
    async fn failed_and_interrupted_runs_stay_visible() {
        let folder = tempfile::tempdir().unwrap();
        let log = RunLog::new(folder.path().join("runs.jsonl"));
        let (failed, interrupted) = (backup_core::BackupId::random(), backup_core::BackupId::random());
        let run = log.begin(record(failed)).await.unwrap();
        let other = log.begin(record(interrupted)).await.unwrap();
        log.advance(&other, RunStatus::Uploading).await.unwrap();
        log.end(run, Timestamp::UNIX_EPOCH, Err((ErrorKind::Tool, "exit 3".into()))).await.unwrap();
        let list = log.list().await.unwrap();
        assert_eq!(list[0].status, RunStatus::Failed);
        assert_eq!(list[0].error.as_deref(), Some("exit 3"));
        assert_eq!((list[1].status, list[1].ended), (RunStatus::Uploading, None));
    }
}
