//! What a run said while it ran: one file of JSON lines for each run, the newest kept.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use backup_core::{BackupId, Event, Progress, Result, SourceName};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::durable;
use crate::failure::io_error;

/// How many logs are kept, whatever the sources.
const KEPT: usize = 200;

/// The log of one run. Lines are written as they come; a log that cannot be written never fails a run.
#[derive(Debug)]
pub(crate) struct JobLog {
    path: PathBuf,
    file: Mutex<File>,
}

impl JobLog {
    /// Begins the log of a run in `folder`, and removes the oldest beyond those kept.
    ///
    /// # Errors
    /// Those of the file system.
    pub(super) fn begin(folder: &Path, source: &SourceName, id: BackupId, now: Timestamp) -> Result<Self> {
        durable::create_folder(folder)?;
        forget_oldest(folder, KEPT - 1);
        // The time comes first, so that the order of names is the order of runs.
        let time = now.strftime("%Y%m%dT%H%M%SZ");
        let path = folder.join(format!("{time}-{source}-{id}.jsonl"));
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&path)
            .map_err(|error| io_error(&path, "write", error))?;
        Ok(Self { path, file: Mutex::new(file) })
    }

    /// Where it lies.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Adds how the run ended.
    pub(crate) fn ended(&self, outcome: &Value) {
        self.line("info", "ended", outcome);
    }

    fn line(&self, level: &str, what: &str, value: &Value) {
        let line = json!({ "time": Timestamp::now(), "level": level, "event": what, "value": value });
        if let Ok(mut file) = self.file.lock() {
            let _ = writeln!(file, "{line}");
        }
    }
}

impl Progress for JobLog {
    fn on(&self, event: Event<'_>) {
        match event {
            Event::Status(status) => self.line("info", "status", &json!(status)),
            Event::Estimate { bytes } => self.line("info", "estimate", &json!(bytes)),
            Event::Table(name) => self.line("debug", "table", &json!(name)),
            Event::Warning(text) => self.line("warning", "warning", &json!(text)),
            Event::ToolLine(text) => self.line("info", "tool", &json!(text)),
            _ => {}
        }
    }
}

/// Tells two watchers.
#[derive(Debug)]
pub(crate) struct Both(pub(crate) Arc<dyn Progress>, pub(crate) Arc<dyn Progress>);

impl Progress for Both {
    fn on(&self, event: Event<'_>) {
        self.0.on(event);
        self.1.on(event);
    }
}

fn forget_oldest(folder: &Path, keep: usize) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    let mut logs: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    logs.sort();
    for old in logs.iter().take(logs.len().saturating_sub(keep)) {
        // A log that stays too long harms nobody.
        let _ = std::fs::remove_file(old);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use backup_core::RunStatus;

    #[test]
    fn a_log_has_a_line_for_each_event_and_the_oldest_logs_go() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("logs");
        let source: SourceName = "orders".parse().unwrap();
        let mut last = None;
        for second in 0..KEPT as i64 + 3 {
            let now = Timestamp::from_second(second).unwrap();
            last = Some(JobLog::begin(&folder, &source, BackupId::random(), now).unwrap());
        }
        let log = last.unwrap();
        log.on(Event::Status(RunStatus::Running));
        log.on(Event::Plain { bytes: 7 });
        log.on(Event::Warning("careful"));
        log.ended(&json!("completed"));
        let text = std::fs::read_to_string(log.path()).unwrap();
        let events: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let names: Vec<_> = events.iter().map(|e| e["event"].as_str().unwrap()).collect();
        assert_eq!(names, ["status", "warning", "ended"], "bytes are not worth a line each");
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), KEPT);
        let newest = std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path()).max().unwrap();
        assert_eq!(newest, log.path());
    }
}
