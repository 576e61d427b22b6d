//! One line of JSON for each notice, appended to a file.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use backup_core::{Error, ErrorKind, Notice, Notifier, Result};

/// Appends each notice to a file as one line of JSON (RFC 8259), synced to the disk.
///
/// A log shipper or a monitor reads the file; the program that rotates it may rename it at any time,
/// because it is opened anew for each notice.
#[derive(Debug, Clone)]
pub struct JsonLines {
    path: PathBuf,
}

impl JsonLines {
    /// A notifier that appends to `path`; the file is made, mode 0600, when it is first needed.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }
}

#[async_trait]
impl Notifier for JsonLines {
    /// Not cancel safe in the strict sense: a dropped call may still write its line.
    ///
    /// # Errors
    /// `Unavailable` when the file cannot be written.
    async fn notify(&self, notice: &Notice) -> Result<()> {
        let mut line = serde_json::to_vec(notice)
            .map_err(|e| Error::bug(format!("a notice could not be written as JSON: {e}")))?;
        line.push(b'\n');
        let path = self.path.clone();
        tokio::task::spawn_blocking(move || append(&path, &line))
            .await
            .map_err(|e| Error::bug(format!("appending a notice panicked: {e}")))?
    }
}

fn append(path: &Path, line: &[u8]) -> Result<()> {
    // One write of a whole line in append mode: lines of several processes do not mix.
    std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(line).and_then(|()| file.sync_data()))
        .map_err(|e| {
            Error::new(
                ErrorKind::Unavailable,
                path.display().to_string(),
                format!("the notice could not be written: {e}"),
            )
            .with_hint("check the folder and its permissions")
        })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use backup_core::RunStatus;

    fn notice(message: &str) -> Notice {
        Notice {
            at: "2026-01-02T03:04:05Z".parse().unwrap(),
            source: "orders".into(),
            id: "7f0a1c52-6f0b-4a53-9b5e-0d6f6c1d2e3f".into(),
            status: RunStatus::Failed,
            message: message.into(),
        }
    }

    #[tokio::test]
    async fn it_obeys_the_suite() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notices.jsonl");
        let delivered = async || -> Vec<Notice> {
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
        };
        let notifier = Arc::new(JsonLines::new(&path));
        backup_core::testing::notifier_suite(notifier, delivered).await;
    }

    #[tokio::test]
    async fn a_place_that_cannot_be_written_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let error = JsonLines::new(folder.path().join("none/x")).notify(&notice("x")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
    }
}
