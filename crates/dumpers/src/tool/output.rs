//! A program's standard output as a stream whose clean end includes exit status 0.
//!
//! The pipe is enlarged to 1 MiB and read only when somebody asks, so it is also the read-ahead. A
//! program slower than its reader writes a few KiB at a time; after a short read the reader lets the
//! pipe fill for a moment, which saves a wake-up of both sides per page.

use std::os::fd::AsFd as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use backup_core::{ByteStream, Context, Error, Plain};
use bytes::{Bytes, BytesMut};
use futures::FutureExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{ChildStderr, ChildStdin, ChildStdout};
use tokio::time::{sleep, timeout};

use super::command::{ToolCommand, Waiting};
use super::error::ToolError;
use super::group::{Group, judge};
use super::stderr::Drained;

/// Wanted size of the pipe, and capacity of a chunk.
const PIPE_LEN: usize = 1024 * 1024;
/// A chunk this long is passed on at once.
const CHUNK_GOOD: usize = 256 * 1024;
/// Shorter ones are collected for at most so long.
const COLLECT_MAX: Duration = Duration::from_millis(8);
/// The shortest sleep a timer keeps; far shorter than a 1 MiB pipe takes to fill.
const COLLECT_STEP: Duration = Duration::from_millis(1);

/// Standard output of a running program. Dropped, it stops the program's group.
#[derive(Debug)]
pub(crate) struct Output {
    name: String,
    cx: Context,
    waiting: Waiting,
    allow_empty: bool,
    group: Option<Group>,
    stdout: ChildStdout,
    stderr: Drained,
    pipe_len: usize,
    buffer: BytesMut,
    total: u64,
    ended: bool,
    /// After the program's own end: the bytes that were in the pipe then and are not yet read, and
    /// the moment until which the end of output may take.
    rest: Option<(usize, tokio::time::Instant)>,
}

/// Starts the program with no input; `allow_empty` accepts a clean end without a single byte.
///
/// # Errors
/// `NotStarted`.
pub(crate) fn stream(
    cx: &Context,
    command: &ToolCommand,
    waiting: Waiting,
    allow_empty: bool,
) -> Result<Output, ToolError> {
    start(cx, command, waiting, allow_empty, Stdio::null()).map(|(output, _)| output)
}

/// Starts a program to be talked to: what is written to its input is answered on its output. Closing
/// the input shows the program its end.
///
/// # Errors
/// `NotStarted`.
pub(crate) fn converse(
    cx: &Context,
    command: &ToolCommand,
    waiting: Waiting,
) -> Result<(Output, ChildStdin), ToolError> {
    let (output, stdin) = start(cx, command, waiting, true, Stdio::piped())?;
    let failed =
        |reason: String| ToolError::NotStarted { tool: command.program().display().to_string(), reason };
    let stdin = stdin.ok_or_else(|| failed("its input was not opened".to_owned()))?;
    // Refused only where an administrator limits pipes; then the default size serves.
    let _ = rustix::pipe::fcntl_setpipe_size(&stdin, PIPE_LEN);
    Ok((output, ChildStdin::from_std(stdin).map_err(|error| failed(error.to_string()))?))
}

fn start(
    cx: &Context,
    command: &ToolCommand,
    waiting: Waiting,
    allow_empty: bool,
    stdin: Stdio,
) -> Result<(Output, Option<std::process::ChildStdin>), ToolError> {
    let name = command.name().to_owned();
    let failed = |error: std::io::Error| ToolError::NotStarted {
        tool: command.program().display().to_string(),
        reason: error.to_string(),
    };
    let mut child = command.prepared(stdin, Stdio::piped()).spawn().map_err(failed)?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let group = Group::new(child, command, waiting.kill_after)?;
    let (Some(stdout), Some(stderr)) = (stdout, stderr) else {
        return Err(ToolError::Pipe { tool: name, reason: "it was not opened".to_owned() });
    };
    // Refused only where an administrator limits pipes; then the default size serves.
    let pipe_len = rustix::pipe::fcntl_setpipe_size(stdout.as_fd(), PIPE_LEN).unwrap_or(64 * 1024);
    let stdout = ChildStdout::from_std(stdout).map_err(failed)?;
    let stderr = Drained::start(ChildStderr::from_std(stderr).map_err(failed)?, cx, command.secrets());
    let output = Output {
        name,
        cx: cx.clone(),
        waiting,
        allow_empty,
        group: Some(group),
        stdout,
        stderr,
        pipe_len,
        buffer: BytesMut::new(),
        total: 0,
        ended: false,
        rest: None,
    };
    Ok((output, stdin))
}

impl Output {
    /// The next chunk. `None`: the output ended, the program ended with status 0 and nothing of it
    /// is left. After an error the group is being stopped.
    ///
    /// Not cancel safe at the end; hold the future, as [`Output::into_bytes`] does.
    pub(crate) async fn next(&mut self) -> Option<Result<Bytes, ToolError>> {
        if self.ended {
            return None;
        }
        let outcome = match self.read().await {
            Ok(Some(chunk)) => {
                self.total += chunk.len() as u64;
                return Some(Ok(chunk));
            }
            Ok(None) => self.close().await,
            Err(error) => Err(error),
        };
        self.ended = true;
        self.group = None;
        outcome.err().map(Err)
    }

    /// The stream of the ports: errors go through `convert`, and `at_end` runs just before the clean
    /// end.
    pub(crate) fn into_bytes(
        self,
        convert: impl Fn(ToolError) -> Error + Send + 'static,
        at_end: impl FnOnce() + Send + 'static,
    ) -> ByteStream<Plain> {
        let state = Some((self, convert, at_end));
        ByteStream::new(futures::stream::unfold(state, async |state| {
            let (mut output, convert, at_end) = state?;
            match output.next().await {
                Some(Ok(chunk)) => Some((Ok(chunk), Some((output, convert, at_end)))),
                Some(Err(error)) => Some((Err(convert(error)), None)),
                None => {
                    at_end();
                    None
                }
            }
        }))
    }

    /// A chunk, or `None` at the end of output.
    async fn read(&mut self) -> Result<Option<Bytes>, ToolError> {
        let mut since = None;
        loop {
            if self.buffer.capacity() - self.buffer.len() < 64 * 1024 {
                self.buffer.reserve(PIPE_LEN);
            }
            self.notice_exit();
            let count = if self.buffer.is_empty() {
                match self.wait_read().await? {
                    Some(count) => count,
                    None => continue,
                }
            } else {
                match self.stdout.read_buf(&mut self.buffer).now_or_never() {
                    Some(read) => read.map_err(|error| self.pipe(&error))?,
                    None => return Ok(Some(self.buffer.split().freeze())),
                }
            };
            if count == 0 {
                let rest = self.buffer.split().freeze();
                return Ok(if rest.is_empty() { None } else { Some(rest) });
            }
            if let Some((left, _)) = &mut self.rest {
                // More than was in the pipe when the program ended: somebody else writes.
                let Some(after) = left.checked_sub(count) else { return Err(self.outlived().await) };
                *left = after;
            }
            let since = since.get_or_insert_with(Instant::now);
            let collected = self.buffer.len() >= CHUNK_GOOD || since.elapsed() >= COLLECT_MAX;
            if collected || self.pipe_len < PIPE_LEN || self.rest.is_some() {
                return Ok(Some(self.buffer.split().freeze()));
            }
            sleep(COLLECT_STEP).await;
        }
    }

    /// Waits for bytes; `None` means that the program ended meanwhile.
    async fn wait_read(&mut self) -> Result<Option<usize>, ToolError> {
        let Some(group) = &mut self.group else { return Ok(Some(0)) };
        let (exited, until) = match self.rest {
            Some((_, until)) => (true, until),
            None => (false, deadline(self.waiting.stall)),
        };
        tokio::select! {
            biased;
            () = self.cx.cancel().cancelled() => Err(ToolError::Cancelled { tool: self.name.clone() }),
            read = self.stdout.read_buf(&mut self.buffer) => match read {
                Ok(count) => Ok(Some(count)),
                Err(error) => Err(self.pipe(&error)),
            },
            () = group.exited(), if !exited => Ok(None),
            () = tokio::time::sleep_until(until) => {
                Err(if exited { self.outlived().await } else { self.stalled("gave no output") })
            }
        }
    }

    /// Once the program has ended, no more may come than stands in the pipe.
    fn notice_exit(&mut self) {
        if self.rest.is_none() && self.group.as_ref().is_some_and(Group::has_exited) {
            let left = rustix::io::ioctl_fionread(&self.stdout).unwrap_or(PIPE_LEN as u64);
            let left = usize::try_from(left).unwrap_or(usize::MAX);
            self.rest = Some((left, tokio::time::Instant::now() + self.waiting.grace));
        }
    }

    /// After the end of output: the program's own end, the end of standard error, the status.
    async fn close(&mut self) -> Result<(), ToolError> {
        let Some(mut group) = self.group.take() else { return Ok(()) };
        tokio::select! {
            biased;
            () = self.cx.cancel().cancelled() => return Err(ToolError::Cancelled { tool: self.name.clone() }),
            () = group.exited() => {}
            () = tokio::time::sleep_until(deadline(self.waiting.stall)) => {
                return Err(self.stalled("closed its output and kept running"));
            }
        }
        let clean = timeout(self.waiting.grace, self.stderr.closed()).await.is_ok();
        let status = group.finish().await;
        let stderr = judge(status, &self.name, self.stderr.text())?;
        if !clean {
            return Err(ToolError::Outlived { tool: self.name.clone() });
        }
        if self.total == 0 && !self.allow_empty {
            return Err(ToolError::NoOutput { tool: self.name.clone(), stderr });
        }
        Ok(())
    }

    /// The program's own failure, if it failed; otherwise that it left somebody behind.
    async fn outlived(&mut self) -> ToolError {
        if let Some(group) = self.group.take() {
            let status = group.finish().await;
            if let Err(error) = judge(status, &self.name, self.stderr.text()) {
                return error;
            }
        }
        ToolError::Outlived { tool: self.name.clone() }
    }

    fn stalled(&self, doing: &'static str) -> ToolError {
        ToolError::Stalled {
            tool: self.name.clone(),
            doing,
            limit: self.waiting.stall,
            stderr: self.stderr.text(),
        }
    }

    fn pipe(&self, error: &std::io::Error) -> ToolError {
        ToolError::Pipe { tool: self.name.clone(), reason: error.to_string() }
    }
}

/// So long from now; zero is no limit, which a timer spells as a century.
pub(crate) fn deadline(limit: Duration) -> tokio::time::Instant {
    const NEVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
    tokio::time::Instant::now() + if limit.is_zero() { NEVER } else { limit }
}

/// Runs a program to its end with `input` and gives all of its answer, at most `limit` bytes.
///
/// Dropping the future stops the program.
pub(crate) async fn capture(
    cx: &Context,
    command: &ToolCommand,
    waiting: Waiting,
    input: Option<Vec<u8>>,
    limit: usize,
) -> Result<Vec<u8>, ToolError> {
    let stdin = if input.is_some() { Stdio::piped() } else { Stdio::null() };
    let (mut output, stdin) = start(cx, command, waiting, true, stdin)?;
    let writer = stdin.zip(input).map(|(stdin, input)| {
        tokio::spawn(async move {
            // A program that does not read its input says so by its status.
            if let Ok(mut stdin) = ChildStdin::from_std(stdin) {
                let _ = stdin.write_all(&input).await;
            }
        })
    });
    let mut stdout = Vec::new();
    let outcome = loop {
        match output.next().await {
            Some(Ok(chunk)) if stdout.len() + chunk.len() > limit => {
                break Err(ToolError::TooMuch { tool: command.name().to_owned(), limit });
            }
            Some(Ok(chunk)) => stdout.extend_from_slice(&chunk),
            Some(Err(error)) => break Err(error),
            None => break Ok(()),
        }
    };
    if let Some(writer) = writer {
        writer.abort();
    }
    outcome.map(|()| stdout)
}
