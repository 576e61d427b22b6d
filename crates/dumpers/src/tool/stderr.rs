//! Standard error, drained beside the data: the last part is kept, lines are passed on.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use backup_core::{Context, Event};
use tokio::io::AsyncReadExt as _;
use tokio::process::ChildStderr;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::secret::{Secret, masked};

/// Bytes of standard error that are kept.
const TAIL_MAX: usize = 64 * 1024;
/// Bytes of it that go into a message.
const MESSAGE_MAX: usize = 4 * 1024;
/// Lines that are passed to the progress of a run; a flood is not news.
const LINES_MAX: usize = 1000;

/// How long draining goes on when nobody waits for it any more. A program that is being stopped may
/// still say so; without a reader that would end it before it has tidied up.
const LAST_WORDS: Duration = Duration::from_secs(60);

/// A task that drains standard error. Dropped, it goes on until the end or for [`LAST_WORDS`].
#[derive(Debug)]
pub(super) struct Drained {
    tail: Arc<Mutex<Vec<u8>>>,
    secrets: Vec<Secret>,
    task: JoinHandle<()>,
    /// Closed with this value.
    _wanted: oneshot::Sender<()>,
}

impl Drained {
    pub(super) fn start(stderr: ChildStderr, cx: &Context, secrets: &[Secret]) -> Self {
        let tail = Arc::new(Mutex::new(Vec::new()));
        let longest = secrets.iter().map(|secret| secret.expose().len()).max().unwrap_or(0);
        let drain = drain(stderr, Arc::clone(&tail), cx.clone(), secrets.to_vec(), TAIL_MAX + longest);
        let (wanted, unwanted) = oneshot::channel::<()>();
        let task = tokio::spawn(async move {
            let enough = async {
                let _ = unwanted.await;
                tokio::time::sleep(LAST_WORDS).await;
            };
            tokio::select! {
                () = drain => {}
                () = enough => {}
            }
        });
        Self { tail, secrets: secrets.to_vec(), task, _wanted: wanted }
    }

    /// Waits until standard error is closed. Cancel safe.
    pub(super) async fn closed(&mut self) {
        if !self.task.is_finished() {
            let _ = (&mut self.task).await;
        }
    }

    /// The masked end of what was said, short enough for a message.
    pub(super) fn text(&self) -> String {
        let tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        let text = shown(&masked(&String::from_utf8_lossy(&tail), &self.secrets));
        let text = text.trim();
        let mut from = text.len().saturating_sub(MESSAGE_MAX);
        while !text.is_char_boundary(from) {
            from += 1;
        }
        text[from..].to_owned()
    }
}

/// What a program said, with `?` for what could move a terminal's cursor, change its colours or its
/// title: a server may have chosen the words.
fn shown(text: &str) -> String {
    let text = text.replace("\r\n", "\n");
    text.chars().map(|c| if c.is_control() && !matches!(c, '\n' | '\t') { '?' } else { c }).collect()
}

async fn drain(
    mut stderr: ChildStderr,
    tail: Arc<Mutex<Vec<u8>>>,
    cx: Context,
    secrets: Vec<Secret>,
    keep: usize,
) {
    let mut buffer = vec![0; 64 * 1024];
    let mut line = Vec::new();
    let mut lines = 0;
    loop {
        let count = match stderr.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(count) => count,
        };
        let said = &buffer[..count];
        {
            let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
            tail.extend_from_slice(said);
            if tail.len() > 2 * keep {
                let from = tail.len() - keep;
                tail.drain(..from);
            }
        }
        if lines < LINES_MAX {
            line.extend_from_slice(said);
            while let Some(end) = line.iter().position(|&byte| byte == b'\n') {
                if lines < LINES_MAX {
                    let text = masked(&String::from_utf8_lossy(&line[..end]), &secrets);
                    cx.report(Event::ToolLine(shown(text.trim_end()).trim_end()));
                }
                lines += 1;
                line.drain(..=end);
            }
            // A line without an end is passed on in the tail only.
            if line.len() > MESSAGE_MAX {
                line.clear();
            }
        }
    }
    let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
    if tail.len() > keep {
        let from = tail.len() - keep;
        tail.drain(..from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_program_said_moves_no_cursor() {
        assert_eq!(shown("a\x1b[31mb\x1b]0;t\x07\u{9b}c\r\nd\te\r"), "a?[31mb?]0;t??c\nd\te?");
    }
}
