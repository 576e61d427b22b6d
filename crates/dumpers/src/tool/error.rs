//! What can go wrong with a program.

use std::time::Duration;

use backup_core::{Error, ErrorKind};

use crate::publish::EMPTY_HINT;

/// How a program failed us. Holds masked text only.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ToolError {
    /// The program is in none of the places that were searched.
    #[error("{tool} was not found in {places}")]
    Missing {
        /// Its name.
        tool: String,
        /// Where it was looked for.
        places: String,
    },
    /// The operating system would not start it.
    #[error("{tool} could not be started: {reason}")]
    NotStarted {
        /// Its name.
        tool: String,
        /// What the system said.
        reason: String,
    },
    /// It ended with a status other than 0.
    #[error("{tool} ended with status {status}{}", tail(.stderr))]
    Exited {
        /// Its name.
        tool: String,
        /// Its exit status.
        status: i32,
        /// The masked end of what it wrote to standard error.
        stderr: String,
    },
    /// A signal ended it.
    #[error("{tool} was ended by signal {signal}{}", tail(.stderr))]
    Signalled {
        /// Its name.
        tool: String,
        /// The number of the signal.
        signal: i32,
        /// The masked end of what it wrote to standard error.
        stderr: String,
    },
    /// It ended with status 0 and wrote nothing at all.
    #[error("{tool} ended well but produced no output{}", tail(.stderr))]
    NoOutput {
        /// Its name.
        tool: String,
        /// The masked end of what it wrote to standard error.
        stderr: String,
    },
    /// It ended, and a process it started still holds or feeds its output.
    #[error("{tool} ended but left a process behind that holds its output open")]
    Outlived {
        /// Its name.
        tool: String,
    },
    /// It closed its input before the dump was over.
    #[error("{tool} stopped reading before the end of the dump{}", tail(.stderr))]
    StoppedReading {
        /// Its name.
        tool: String,
        /// The masked end of what it wrote to standard error.
        stderr: String,
    },
    /// It neither gave nor took a byte for too long.
    #[error("{tool} stalled: it {doing} for {} s and was stopped{}", .limit.as_secs_f64(), tail(.stderr))]
    Stalled {
        /// Its name.
        tool: String,
        /// `gave no output` or the like.
        doing: &'static str,
        /// How long it was waited for.
        limit: Duration,
        /// The masked end of what it wrote to standard error.
        stderr: String,
    },
    /// It wrote more than its answer may have.
    #[error("{tool} answered with more than {limit} bytes")]
    TooMuch {
        /// Its name.
        tool: String,
        /// The bound.
        limit: usize,
    },
    /// A pipe to or from it failed.
    #[error("pipe of {tool}: {reason}")]
    Pipe {
        /// Its name.
        tool: String,
        /// What the system said.
        reason: String,
    },
    /// The run was cancelled and the program stopped.
    #[error("{tool} was stopped on request")]
    Cancelled {
        /// Its name.
        tool: String,
    },
}

/// The tail of standard error, introduced when there is one.
fn tail(stderr: &str) -> String {
    if stderr.is_empty() { String::new() } else { format!("; it said: {stderr}") }
}

impl ToolError {
    /// The name of the program.
    #[must_use]
    pub fn tool(&self) -> &str {
        match self {
            Self::Missing { tool, .. }
            | Self::NotStarted { tool, .. }
            | Self::Exited { tool, .. }
            | Self::Signalled { tool, .. }
            | Self::NoOutput { tool, .. }
            | Self::Outlived { tool }
            | Self::StoppedReading { tool, .. }
            | Self::Stalled { tool, .. }
            | Self::TooMuch { tool, .. }
            | Self::Pipe { tool, .. }
            | Self::Cancelled { tool } => tool,
        }
    }

    /// What it said on standard error, masked; empty where it is not known.
    #[must_use]
    pub fn stderr(&self) -> &str {
        match self {
            Self::Exited { stderr, .. }
            | Self::Signalled { stderr, .. }
            | Self::NoOutput { stderr, .. }
            | Self::StoppedReading { stderr, .. }
            | Self::Stalled { stderr, .. } => stderr,
            _ => "",
        }
    }
}

impl From<ToolError> for Error {
    fn from(error: ToolError) -> Self {
        let (kind, hint) = match &error {
            ToolError::Missing { .. } => {
                (ErrorKind::Unsupported, "install it, or name the folder it is in".to_owned())
            }
            ToolError::NotStarted { .. } => {
                (ErrorKind::Unsupported, "check that the file exists and may be executed".to_owned())
            }
            ToolError::Exited { tool, .. } | ToolError::Signalled { tool, .. } => {
                (ErrorKind::Tool, format!("the last lines of {tool} say why; nothing was kept of this run"))
            }
            ToolError::NoOutput { .. } => (ErrorKind::Tool, EMPTY_HINT.to_owned()),
            ToolError::Outlived { .. } => {
                (ErrorKind::Tool, "let the command wait for everything it starts before it ends".to_owned())
            }
            ToolError::StoppedReading { .. } => {
                (ErrorKind::Tool, "let the command read its input to the end".to_owned())
            }
            ToolError::Stalled { .. } => {
                (ErrorKind::TimedOut, "look for locks in the database, or raise the stall limit".to_owned())
            }
            ToolError::TooMuch { .. } => (ErrorKind::Unsupported, "narrow what is asked for".to_owned()),
            ToolError::Pipe { .. } => (ErrorKind::Tool, "try again".to_owned()),
            ToolError::Cancelled { tool } => return Self::cancelled(tool.clone()),
        };
        Self::new(kind, error.tool().to_owned(), error.to_string()).with_hint(hint).with_source(error)
    }
}
