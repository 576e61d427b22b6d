//! What every long call is given: a way to be stopped, a way to be watched, and the time.

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;

use crate::error::{Error, Result};
use crate::progress::{Event, NoProgress, Progress};

/// Asks running work to stop between chunks; clones share one state.
pub type CancelToken = tokio_util::sync::CancellationToken;

/// Tells the time, so that a test can.
pub trait Clock: fmt::Debug + Send + Sync {
    /// Now, in UTC.
    fn now(&self) -> Timestamp;
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

/// The surroundings of one run; cheap to clone.
#[derive(Debug, Clone)]
pub struct Context {
    cancel: CancelToken,
    progress: Arc<dyn Progress>,
    clock: Arc<dyn Clock>,
}

impl Context {
    /// No watcher, the machine's clock, never cancelled by anyone who does not ask for the token.
    #[must_use]
    pub fn new() -> Self {
        Self { cancel: CancelToken::new(), progress: Arc::new(NoProgress), clock: Arc::new(SystemClock) }
    }

    /// Watches through `progress`.
    #[must_use]
    pub fn with_progress(mut self, progress: Arc<dyn Progress>) -> Self {
        self.progress = progress;
        self
    }

    /// Stops when `cancel` says so.
    #[must_use]
    pub fn with_cancel(mut self, cancel: CancelToken) -> Self {
        self.cancel = cancel;
        self
    }

    /// Reads the time from `clock`.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Who watches.
    pub(crate) fn progress(&self) -> Arc<dyn Progress> {
        Arc::clone(&self.progress)
    }

    /// The token that stops this run.
    #[must_use]
    pub fn cancel(&self) -> &CancelToken {
        &self.cancel
    }

    /// `Cancelled` once somebody asked to stop; `subject` says what was under way.
    pub fn check(&self, subject: &str) -> Result<()> {
        if self.cancel.is_cancelled() { Err(Error::cancelled(subject)) } else { Ok(()) }
    }

    /// Now.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Reports an event.
    pub fn report(&self, event: Event<'_>) {
        self.progress.on(event);
    }
}

impl Default for Context {
    fn default() -> Self {
        Self::new()
    }
}
