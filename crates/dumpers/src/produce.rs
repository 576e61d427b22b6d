//! A blocking reader on a thread of its own as a plain stream.

use std::thread;

use backup_core::{ByteStream, Context, DumpReport, Error, Plain, Result, Settled};
use bytes::Bytes;
use tokio::sync::mpsc;

/// Chunks that wait between the thread and the stream; with chunks of 1 MiB, 2 MiB of read-ahead.
const AHEAD: usize = 2;

/// Where a producing thread puts its chunks.
#[derive(Debug)]
pub(crate) struct Outlet {
    sender: mpsc::Sender<Message>,
    cx: Context,
    subject: String,
}

#[derive(Debug)]
enum Message {
    Chunk(Bytes),
    Ended(DumpReport),
    Failed(Error),
}

impl Outlet {
    /// Hands over a chunk; waits while the reader is behind.
    ///
    /// # Errors
    /// `Cancelled` when the run was cancelled or the stream dropped.
    pub(crate) fn put(&self, chunk: Bytes) -> Result<()> {
        self.cx.check(&self.subject)?;
        self.sender.blocking_send(Message::Chunk(chunk)).map_err(|_| Error::cancelled(&*self.subject))
    }
}

/// Runs `work` on a thread. The stream ends cleanly only after `work` returned a report; a thread
/// that dies is an error.
pub(crate) fn produce(
    cx: &Context,
    subject: &str,
    work: impl FnOnce(&Outlet) -> Result<DumpReport> + Send + 'static,
) -> Result<(ByteStream<Plain>, Settled<DumpReport>)> {
    let (sender, receiver) = mpsc::channel(AHEAD);
    let outlet = Outlet { sender, cx: cx.clone(), subject: subject.to_owned() };
    thread::Builder::new()
        .name("dump".to_owned())
        .spawn(move || {
            let last = match work(&outlet) {
                Ok(report) => Message::Ended(report),
                Err(error) => Message::Failed(error),
            };
            // Nobody listens any more: then nobody needs to know.
            let _ = outlet.sender.blocking_send(last);
        })
        .map_err(|error| Error::bug(format!("no thread to read {subject} in: {error}")))?;
    let (settler, report) = Settled::pending();
    let state = Some((receiver, settler, cx.clone(), subject.to_owned()));
    let bytes = ByteStream::new(futures::stream::unfold(state, async |state| {
        let (mut receiver, settler, cx, subject) = state?;
        let message = tokio::select! {
            biased;
            () = cx.cancel().cancelled() => Some(Message::Failed(Error::cancelled(&*subject))),
            message = receiver.recv() => message,
        };
        match message {
            Some(Message::Chunk(chunk)) => Some((Ok(chunk), Some((receiver, settler, cx, subject)))),
            Some(Message::Failed(error)) => Some((Err(error), None)),
            Some(Message::Ended(report)) => {
                settler.settle(report);
                None
            }
            None => Some((Err(Error::bug(format!("the thread that read {subject} died"))), None)),
        }
    }));
    Ok((bytes, report))
}

#[cfg(test)]
mod tests {
    use backup_core::ErrorKind;
    use backup_core::testing::collect;

    use super::*;

    #[tokio::test]
    async fn a_thread_that_dies_is_no_clean_end() {
        let (mut bytes, report) = produce(&Context::new(), "test", |outlet| {
            outlet.put(Bytes::from_static(b"some"))?;
            panic!("dies")
        })
        .unwrap();
        assert!(bytes.next().await.unwrap().is_ok());
        assert_eq!(bytes.next().await.unwrap().unwrap_err().kind(), ErrorKind::Bug);
        assert!(report.get().is_none());
    }

    #[tokio::test]
    async fn the_report_comes_with_the_end() {
        let (bytes, report) = produce(&Context::new(), "test", |outlet| {
            outlet.put(Bytes::from_static(b"all"))?;
            Ok(DumpReport::default())
        })
        .unwrap();
        assert_eq!(collect(bytes).await.unwrap(), "all");
        assert!(report.get().is_some());
    }
}
