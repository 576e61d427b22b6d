//! A plain stream into a program's standard input.
//!
//! The program sees the end of its input only after the stream's clean end: on any failure it is
//! killed with the input still open, so that it cannot take half a dump for a whole one. The last
//! chunk is held back until the end is known, because a program that knows its format may act on
//! the last byte without waiting for the end.

use std::process::Stdio;
use std::time::Duration;

use backup_core::{ByteStream, Context, Error, Plain};
use bytes::Bytes;
use tokio::io::AsyncWriteExt as _;
use tokio::process::{ChildStderr, ChildStdin};
use tokio::time::timeout;

use super::command::{ToolCommand, Waiting};
use super::error::ToolError;
use super::group::{Group, judge};
use super::output::deadline;
use super::stderr::Drained;

/// A program that took a whole stream and ended with status 0.
#[derive(Debug)]
pub(crate) struct Fed {
    /// Bytes it was given.
    pub(crate) bytes: u64,
    /// What it said nevertheless, masked.
    pub(crate) stderr: String,
}

/// Starts the program and gives it the stream. After the end of input there is no limit on its
/// time: building an index may take hours.
///
/// # Errors
/// The stream's own error, or what `convert` makes of the program's.
///
/// Dropping the future stops the program before its input is closed.
pub(crate) async fn feed(
    cx: &Context,
    command: &ToolCommand,
    waiting: Waiting,
    bytes: ByteStream<Plain>,
    convert: impl Fn(ToolError) -> Error,
) -> Result<Fed, Error> {
    feed_forgiving(cx, command, waiting, bytes, convert, |_| false).await
}

/// As [`feed`], but a program that took the whole stream may end in a way that `forgive` knows to be
/// harmless.
pub(crate) async fn feed_forgiving(
    cx: &Context,
    command: &ToolCommand,
    waiting: Waiting,
    mut bytes: ByteStream<Plain>,
    convert: impl Fn(ToolError) -> Error,
    forgive: impl Fn(&ToolError) -> bool,
) -> Result<Fed, Error> {
    let mut feeder = Feeder::start(cx, command, waiting).map_err(&convert)?;
    let mut total = 0;
    match feeder.pour(cx, &mut bytes, &mut total).await {
        Ok(()) => match feeder.close(cx).await {
            Ok(stderr) => Ok(Fed { bytes: total, stderr }),
            Err(error) if forgive(&error) => Ok(Fed { bytes: total, stderr: String::new() }),
            Err(error) => Err(convert(error)),
        },
        Err(Stop::Ended) => {
            let tool = command.name().to_owned();
            let stopped = |stderr| ToolError::StoppedReading { tool, stderr };
            Err(convert(feeder.ended_early().await.map_or_else(|error| error, stopped)))
        }
        Err(stop) => Err(feeder.stopped(stop, convert).await),
    }
}

/// As [`feed_forgiving`], but the program may end with status 0 before it had everything, as one that
/// wants only a part does. The stream is read to its clean end all the same.
pub(crate) async fn feed_partly(
    cx: &Context,
    command: &ToolCommand,
    waiting: Waiting,
    mut bytes: ByteStream<Plain>,
    convert: impl Fn(ToolError) -> Error,
    forgive: impl Fn(&ToolError) -> bool,
) -> Result<Fed, Error> {
    let mut feeder = Feeder::start(cx, command, waiting).map_err(&convert)?;
    let mut total = 0;
    let ended = match feeder.pour(cx, &mut bytes, &mut total).await {
        Ok(()) => feeder.close(cx).await,
        Err(Stop::Ended) => feeder.ended_early().await,
        Err(stop) => return Err(feeder.stopped(stop, convert).await),
    };
    let stderr = match ended {
        Ok(stderr) => stderr,
        Err(error) if forgive(&error) => String::new(),
        Err(error) => return Err(convert(error)),
    };
    loop {
        let next = tokio::select! {
            biased;
            () = cx.cancel().cancelled() => return Err(Error::cancelled(command.name())),
            next = bytes.next() => next,
        };
        match next.transpose()? {
            Some(chunk) => total += chunk.len() as u64,
            None => return Ok(Fed { bytes: total, stderr }),
        }
    }
}

/// Why pouring stopped before the end.
enum Stop {
    Stream(Error),
    Tool(ToolError),
    Ended,
}

struct Feeder {
    name: String,
    waiting: Waiting,
    group: Group,
    stdin: ChildStdin,
    stderr: Drained,
}

impl Feeder {
    fn start(cx: &Context, command: &ToolCommand, waiting: Waiting) -> Result<Self, ToolError> {
        let name = command.name().to_owned();
        let failed = |error: std::io::Error| ToolError::NotStarted {
            tool: command.program().display().to_string(),
            reason: error.to_string(),
        };
        let mut child = command.prepared(Stdio::piped(), Stdio::null()).spawn().map_err(failed)?;
        let (stdin, stderr) = (child.stdin.take(), child.stderr.take());
        let mut group = Group::new(child, command, waiting.kill_after)?;
        let (Some(stdin), Some(stderr)) = (stdin, stderr) else {
            return Err(ToolError::Pipe { tool: name, reason: "it was not opened".to_owned() });
        };
        let _ = rustix::pipe::fcntl_setpipe_size(&stdin, 1024 * 1024);
        group.hold_input(std::os::fd::AsFd::as_fd(&stdin).try_clone_to_owned().map_err(failed)?);
        let stdin = ChildStdin::from_std(stdin).map_err(failed)?;
        let stderr = Drained::start(ChildStderr::from_std(stderr).map_err(failed)?, cx, command.secrets());
        Ok(Self { name, waiting, group, stdin, stderr })
    }

    /// Writes everything up to the clean end; `total` counts what came.
    async fn pour(
        &mut self,
        cx: &Context,
        bytes: &mut ByteStream<Plain>,
        total: &mut u64,
    ) -> Result<(), Stop> {
        let mut held = Bytes::new();
        loop {
            let item = tokio::select! {
                biased;
                () = cx.cancel().cancelled() => return Err(Stop::Tool(self.cancelled())),
                () = self.group.exited() => return Err(Stop::Ended),
                item = bytes.next() => item,
            };
            match item {
                Some(Ok(chunk)) if chunk.is_empty() => {}
                Some(Ok(chunk)) => {
                    *total += chunk.len() as u64;
                    let previous = std::mem::replace(&mut held, chunk);
                    self.write(cx, previous).await?;
                }
                Some(Err(error)) => return Err(Stop::Stream(error)),
                None => break,
            }
        }
        self.write(cx, held).await
    }

    async fn write(&mut self, cx: &Context, mut chunk: Bytes) -> Result<(), Stop> {
        while !chunk.is_empty() {
            let written = tokio::select! {
                biased;
                () = cx.cancel().cancelled() => return Err(Stop::Tool(self.cancelled())),
                written = self.stdin.write(&chunk) => written,
                () = tokio::time::sleep_until(deadline(self.waiting.stall)) => {
                    return Err(Stop::Tool(ToolError::Stalled {
                        tool: self.name.clone(),
                        doing: "took no input",
                        limit: self.waiting.stall,
                        stderr: self.stderr.text(),
                    }));
                }
            };
            match written {
                Ok(count) => drop(chunk.split_to(count)),
                Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Err(Stop::Ended),
                Err(error) => {
                    let reason = error.to_string();
                    return Err(Stop::Tool(ToolError::Pipe { tool: self.name.clone(), reason }));
                }
            }
        }
        Ok(())
    }

    /// Shows the end of input and waits for the program's own.
    async fn close(mut self, cx: &Context) -> Result<String, ToolError> {
        drop(self.stdin);
        self.group.close_input();
        let cancelled = tokio::select! {
            biased;
            () = self.group.exited() => false,
            () = cx.cancel().cancelled() => true,
        };
        if cancelled {
            self.group.stop().await;
            return Err(ToolError::Cancelled { tool: self.name });
        }
        let clean = timeout(self.waiting.grace, self.stderr.closed()).await.is_ok();
        let stderr = judge(self.group.finish().await, &self.name, self.stderr.text())?;
        if clean { Ok(stderr) } else { Err(ToolError::Outlived { tool: self.name }) }
    }

    /// The program closed its input or ended before it had everything: what it said, if its status is 0.
    async fn ended_early(mut self) -> Result<String, ToolError> {
        let grace = self.waiting.grace;
        if timeout(grace, self.group.exited()).await.is_err() {
            self.group.stop().await;
            return Err(ToolError::StoppedReading { tool: self.name, stderr: self.stderr.text() });
        }
        let _ = timeout(grace.min(Duration::from_secs(1)), self.stderr.closed()).await;
        judge(self.group.finish().await, &self.name, self.stderr.text())
    }

    /// Stops the program for a reason that is not its own end.
    async fn stopped(self, stop: Stop, convert: impl Fn(ToolError) -> Error) -> Error {
        self.group.stop().await;
        match stop {
            Stop::Stream(error) => error,
            Stop::Tool(error) => convert(error),
            Stop::Ended => convert(ToolError::StoppedReading { tool: self.name, stderr: self.stderr.text() }),
        }
    }

    fn cancelled(&self) -> ToolError {
        ToolError::Cancelled { tool: self.name.clone() }
    }
}
