//! What a run says of itself while it runs.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Receives events. Cheap, never blocks, never fails.
pub trait Progress: fmt::Debug + Send + Sync {
    /// Something happened.
    fn on(&self, event: Event<'_>);
}

/// Nobody watches.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoProgress;

impl Progress for NoProgress {
    fn on(&self, _event: Event<'_>) {}
}

/// One thing that happened in a run.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Event<'a> {
    /// The run entered a new state.
    Status(RunStatus),
    /// The source is about this many bytes; a guess for rates and bars.
    Estimate {
        /// Bytes of plaintext.
        bytes: u64,
    },
    /// This many more bytes of plaintext went by.
    Plain {
        /// Bytes since the last event.
        bytes: u64,
    },
    /// This many more sealed bytes were handed to or read from the destination.
    Sealed {
        /// Bytes since the last event.
        bytes: u64,
    },
    /// The dump or restore reached this table or collection.
    Table(&'a str),
    /// Something a person should know, though the run goes on.
    Warning(&'a str),
    /// The tool said this on stderr; secrets are already masked.
    ToolLine(&'a str),
}

/// The states of a run, in the order a good run goes through them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunStatus {
    /// Recorded, not started.
    Pending,
    /// The dump or restore was started.
    Running,
    /// The first bytes of the dump arrived and are compressed.
    Compressing,
    /// The first block is being sealed.
    Encrypting,
    /// Sealed bytes are on their way to the destination.
    Uploading,
    /// What was stored is being read back.
    Verifying,
    /// Whole, committed and, unless told otherwise, read back.
    Completed,
    /// Nothing was made.
    Failed,
    /// Stopped on request; nothing was made.
    Cancelled,
}

impl fmt::Display for RunStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Compressing => "compressing",
            Self::Encrypting => "encrypting",
            Self::Uploading => "uploading",
            Self::Verifying => "verifying",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        })
    }
}
