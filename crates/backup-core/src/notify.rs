//! The port to people and programs that want to know.

use std::fmt;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::progress::RunStatus;

/// Tells somebody. Called after the state it reports is durable; a failure here never fails a backup.
#[async_trait]
pub trait Notifier: fmt::Debug + Send + Sync {
    /// Delivers one notice: when this returns, it has arrived.
    async fn notify(&self, notice: &Notice) -> Result<()>;
}

/// What became of a run. Holds no secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// When.
    pub at: Timestamp,
    /// The source.
    pub source: String,
    /// The backup.
    pub id: String,
    /// `completed`, `failed` or `cancelled`.
    pub status: RunStatus,
    /// One sentence for a person.
    pub message: String,
}
