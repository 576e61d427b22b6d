//! A running program and everything it started, held as one process group.
//!
//! A thread per program waits for its end without reaping it, so that its number, and with it the
//! group's, cannot be given to anybody else while a signal may still be sent. The group is always
//! signalled first and reaped afterwards.

use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, ExitStatus};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use tokio::sync::watch;

use super::command::ToolCommand;
use super::error::ToolError;

/// A program that runs, or has ended and is not yet reaped. Dropped: SIGTERM to the group, SIGKILL
/// after the deadline, reaped, all in the background.
#[derive(Debug)]
pub(super) struct Group {
    shared: Arc<Shared>,
    exited: watch::Receiver<bool>,
    reaped: watch::Receiver<Option<ExitStatus>>,
    kill_after: Duration,
    /// A second handle to the program's input. A stopped program must never see the end of its input
    /// and take it for the end of the dump, so this is closed only once the program is gone.
    input: Option<OwnedFd>,
    finished: bool,
}

#[derive(Debug)]
struct Shared {
    pid: Pid,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    exited: bool,
    /// The group needs no more signals: its number may go.
    released: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Signals the whole group, unless its number may already be somebody else's.
    fn signal(&self, signal: Signal) {
        let state = self.state();
        if !state.released {
            // Fails only when nobody is left, which is what we want.
            let _ = kill_process_group(self.pid, signal);
        }
    }

    fn release(&self) {
        self.state().released = true;
        self.changed.notify_all();
    }

    /// Waits for the program's own end, at most so long.
    fn wait_exited(&self, limit: Duration) {
        let state = self.state();
        let _ = self.changed.wait_timeout_while(state, limit, |state| !state.exited);
    }
}

impl Group {
    /// Takes over a child that leads its own group.
    pub(super) fn new(child: Child, command: &ToolCommand, kill_after: Duration) -> Result<Self, ToolError> {
        let pid = Pid::from_child(&child);
        let shared = Arc::new(Shared { pid, state: Mutex::default(), changed: Condvar::new() });
        let (said_exited, exited) = watch::channel(false);
        let (said_reaped, reaped) = watch::channel(None);
        let waiter = Arc::clone(&shared);
        let running = Running::count();
        let spawned = thread::Builder::new().name(format!("wait-{}", command.name())).spawn(move || {
            wait(child, &waiter, &said_exited, &said_reaped);
            drop(running);
        });
        let group = Self { shared, exited, reaped, kill_after, input: None, finished: false };
        match spawned {
            Ok(_) => Ok(group),
            Err(error) => {
                Err(ToolError::NotStarted { tool: command.name().to_owned(), reason: error.to_string() })
            }
        }
    }

    /// Keeps a second handle to the program's input until it is gone or [`Group::close_input`].
    pub(super) fn hold_input(&mut self, input: OwnedFd) {
        self.input = Some(input);
    }

    /// Lets the program see the end of its input, once every other handle is closed too.
    pub(super) fn close_input(&mut self) {
        self.input = None;
    }

    /// Waits until the program itself has ended. Cancel safe.
    pub(super) async fn exited(&mut self) {
        // The sender lives until it has said so; if its thread died, nothing more will come.
        let _ = self.exited.wait_for(|exited| *exited).await;
    }

    /// Whether the program itself has ended.
    pub(super) fn has_exited(&self) -> bool {
        *self.exited.borrow()
    }

    /// Kills what is left of the group, reaps, and gives the status of the program itself.
    ///
    /// To be called after [`Group::exited`].
    pub(super) async fn finish(mut self) -> Option<ExitStatus> {
        self.shared.signal(Signal::KILL);
        self.shared.release();
        self.finished = true;
        self.reaped.wait_for(Option::is_some).await.ok().and_then(|status| *status)
    }

    /// Stops the program: SIGTERM, SIGKILL after the deadline, reaped. Its input stays open until then.
    pub(super) async fn stop(mut self) {
        self.shared.signal(Signal::TERM);
        let limit = self.kill_after;
        let _ = tokio::time::timeout(limit, self.exited()).await;
        self.shared.signal(Signal::KILL);
        self.exited().await;
        self.finish().await;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        self.shared.signal(Signal::TERM);
        let shared = Arc::clone(&self.shared);
        let input = self.input.take();
        let kill_after = self.kill_after;
        let end = move || {
            shared.wait_exited(kill_after);
            shared.signal(Signal::KILL);
            shared.wait_exited(kill_after);
            shared.release();
            drop(input);
        };
        let fallback = Arc::clone(&self.shared);
        if thread::Builder::new().name("end-tool".to_owned()).spawn(end).is_err() {
            // No thread to wait in: end it at once rather than leave it running.
            fallback.signal(Signal::KILL);
            fallback.release();
        }
    }
}

/// How many programs were started and are not reaped yet, in this process.
static RUNNING: Mutex<usize> = Mutex::new(0);
static ONE_LESS: Condvar = Condvar::new();

/// Counts a program from its start until it is reaped.
#[derive(Debug)]
struct Running;

impl Running {
    fn count() -> Self {
        *RUNNING.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        Self
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        *RUNNING.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        ONE_LESS.notify_all();
    }
}

/// Waits until every program that was started has ended and was reaped, `limit` at the longest;
/// whether that is so. Programs that are being stopped are stopped in the background, so that a
/// process that ends at once could leave one behind that does not listen to SIGTERM. Blocks.
#[must_use]
pub fn programs_ended(limit: Duration) -> bool {
    let running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    let left = ONE_LESS.wait_timeout_while(running, limit, |running| *running > 0);
    *left.unwrap_or_else(PoisonError::into_inner).0 == 0
}

/// The waiting thread: sees the end, tells it, and reaps once no more signal will be sent.
fn wait(
    mut child: Child,
    shared: &Shared,
    exited: &watch::Sender<bool>,
    reaped: &watch::Sender<Option<ExitStatus>>,
) {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    while let Err(rustix::io::Errno::INTR) = waitid(WaitId::Pid(shared.pid), options) {}
    shared.state().exited = true;
    shared.changed.notify_all();
    exited.send_replace(true);
    let state = shared.state();
    drop(shared.changed.wait_while(state, |state| !state.released));
    reaped.send_replace(child.wait().ok());
}

/// Status 0 is success; everything else is named.
pub(super) fn judge(status: Option<ExitStatus>, tool: &str, stderr: String) -> Result<String, ToolError> {
    let tool = tool.to_owned();
    match status {
        Some(status) if status.success() => Ok(stderr),
        Some(status) => Err(match status.signal() {
            Some(signal) => ToolError::Signalled { tool, signal, stderr },
            None => ToolError::Exited { tool, status: status.code().unwrap_or(-1), stderr },
        }),
        None => Err(ToolError::Pipe { tool, reason: "its status is not known".to_owned() }),
    }
}
