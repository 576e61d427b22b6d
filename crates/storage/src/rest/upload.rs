//! One object on its way.
//!
//! A task owns the upload and is fed through a bounded channel. It commits only when told to; when the
//! channel closes for any other reason, it aborts.

use std::sync::Arc;

use async_trait::async_trait;
use backup_core::{BackupId, Error, ErrorKind, ObjectKey, Receipt, Result, Upload, Whole};
use bytes::{Bytes, BytesMut};
use crc_fast::{CrcAlgorithm, Digest};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::rest::http::Fault;
use crate::rest::settle::{self, Sent};
use crate::rest::{Api, RestStore};

/// Chunks that may wait for the task.
const WAITING: usize = 1;

/// Up to this length a piece grows as it comes.
const SMALL: usize = 256 << 10;

/// How a service takes an object.
#[async_trait]
pub(crate) trait Pieces: Send {
    /// The length of the next piece; `None` when the service takes no more.
    fn next_len(&self) -> Option<u64>;
    /// Takes a piece that is not the last. It may still be on its way when this returns.
    async fn send(&mut self, piece: Bytes) -> Result<(), Fault>;
    /// Takes what is left, `crc32c` being that of the whole object, and waits until all that comes before
    /// publication is done.
    async fn last(&mut self, piece: Bytes, crc32c: u32) -> Result<(), Fault>;
    /// Makes the object visible, unless there is one of this name.
    async fn publish(&mut self) -> Result<(), Fault>;
    /// Frees what the service holds; whether it confirmed that nothing can be published any more.
    async fn abort(&mut self) -> bool;
}

enum Step {
    Chunk(Bytes),
    Commit(Whole),
}

/// An object on its way.
#[derive(Debug)]
pub(super) struct RestUpload {
    subject: String,
    steps: mpsc::Sender<Step>,
    /// Why writing failed, told before the worker aborts; `None` once it was told.
    failed: Option<oneshot::Receiver<Error>>,
    /// `None` once its outcome was told.
    worker: Option<JoinHandle<Result<Option<Receipt>>>>,
}

impl RestUpload {
    /// Prepares the upload; the first request is sent with the first full piece.
    pub(super) fn begin<A: Api>(store: &RestStore<A>, key: &ObjectKey, hint: Option<u64>) -> Self {
        let (subject, full) = (store.subject(key), store.full(key));
        let mark = BackupId::random().to_string();
        let worker = Worker {
            pieces: Arc::clone(&store.api).pieces(&full, &mark, hint),
            api: Arc::clone(&store.api),
            key: full,
            subject: subject.clone(),
            mark,
            gathered: BytesMut::new(),
            crc: Digest::new(CrcAlgorithm::Crc32Iscsi),
            len: 0,
        };
        let (steps, queue) = mpsc::channel(WAITING);
        let (tell, failed) = oneshot::channel();
        Self { subject, steps, failed: Some(failed), worker: Some(tokio::spawn(worker.run(queue, tell))) }
    }

    /// What became of it, once the worker was told to commit or stopped by itself.
    async fn outcome(&mut self) -> Result<Receipt> {
        if let Some(failed) = self.failed.take()
            && let Ok(error) = failed.await
        {
            return Err(error);
        }
        let Some(worker) = self.worker.take() else {
            return Err(Error::bug(format!("the upload of {} was used after it had failed", self.subject)));
        };
        match worker.await {
            Ok(Ok(Some(receipt))) => Ok(receipt),
            Ok(Err(error)) => Err(error),
            Ok(Ok(None)) => Err(Error::bug(format!("the upload of {} ended by itself", self.subject))),
            // It may have got as far as sending the last request.
            Err(error) => Err(settle::uncertain(&self.subject, &error.to_string())),
        }
    }
}

#[async_trait]
impl Upload for RestUpload {
    async fn write(&mut self, chunk: Bytes) -> Result<()> {
        match self.steps.send(Step::Chunk(chunk)).await {
            Ok(()) => Ok(()),
            Err(_) => Err(self
                .outcome()
                .await
                .err()
                .unwrap_or_else(|| Error::bug(format!("{} was committed before its end", self.subject)))),
        }
    }

    async fn commit(mut self: Box<Self>, whole: Whole) -> Result<Receipt> {
        // Where nobody takes the order, the outcome says why.
        let _ = self.steps.send(Step::Commit(whole)).await;
        self.outcome().await
    }

    async fn abort(self: Box<Self>) -> Result<()> {
        let Self { steps, worker, .. } = *self;
        drop(steps);
        if let Some(worker) = worker {
            // An error of an earlier write was told by that write, and the worker has aborted after it.
            let _ = worker.await;
        }
        Ok(())
    }
}

struct Worker<A> {
    api: Arc<A>,
    pieces: Box<dyn Pieces>,
    /// With the prefix.
    key: String,
    subject: String,
    mark: String,
    /// A full piece stays here until there is more, because the last one goes another way.
    gathered: BytesMut,
    crc: Digest,
    len: u64,
}

impl<A: Api> Worker<A> {
    async fn run(
        mut self,
        mut queue: mpsc::Receiver<Step>,
        failed: oneshot::Sender<Error>,
    ) -> Result<Option<Receipt>> {
        match self.write_all(&mut queue).await {
            Ok(Some(whole)) => return self.commit(whole).await.map(Some),
            Ok(None) => {}
            // Whoever writes learns of it now, and not after the abort.
            Err(error) => drop(failed.send(error)),
        }
        drop(queue);
        self.pieces.abort().await;
        Ok(None)
    }

    async fn write_all(&mut self, queue: &mut mpsc::Receiver<Step>) -> Result<Option<Whole>> {
        while let Some(step) = queue.recv().await {
            match step {
                Step::Chunk(chunk) => self.write(chunk).await?,
                Step::Commit(whole) => {
                    if self.len != whole.len() {
                        return Err(Error::new(
                            ErrorKind::Integrity,
                            &self.subject,
                            format!("{} bytes arrived of {}", self.len, whole.len()),
                        ));
                    }
                    let (last, crc) =
                        (std::mem::take(&mut self.gathered).freeze(), self.crc.finalize() as u32);
                    let ended = self.pieces.last(last, crc).await;
                    ended.map_err(|fault| fault.at(&*self.subject, "writing"))?;
                    return Ok(Some(whole));
                }
            }
        }
        Ok(None)
    }

    async fn write(&mut self, mut chunk: Bytes) -> Result<()> {
        self.len += chunk.len() as u64;
        self.crc.update(&chunk);
        while !chunk.is_empty() {
            let Some(full) = self.pieces.next_len() else {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    &self.subject,
                    "is longer than the place takes",
                )
                .with_hint("raise part_memory= so that parts are longer"));
            };
            let full = usize::try_from(full).unwrap_or(usize::MAX);
            if self.gathered.len() == full {
                let piece = std::mem::take(&mut self.gathered).freeze();
                let sent = self.pieces.send(piece).await;
                sent.map_err(|fault| fault.at(&*self.subject, "writing"))?;
                continue;
            }
            let part = chunk.split_to(chunk.len().min(full - self.gathered.len()));
            // At once what a full piece needs, as doubling would take up to twice that.
            if self.gathered.len() + part.len() > SMALL && self.gathered.capacity() < full {
                self.gathered.reserve(full - self.gathered.len());
            }
            self.gathered.extend_from_slice(&part);
        }
        Ok(())
    }

    async fn commit(mut self, whole: Whole) -> Result<Receipt> {
        let sent = Sent {
            api: self.api.as_ref(),
            key: &self.key,
            subject: &self.subject,
            mark: &self.mark,
            whole,
            crc32c: self.crc.finalize() as u32,
        };
        if !self.api.limits().put_if_absent
            && let Err(error) = sent.check_free().await
        {
            self.pieces.abort().await;
            return Err(error);
        }
        let answer = self.pieces.publish().await;
        // An upload that could be aborted cannot be completed any more.
        let gone = answer.is_err() && self.pieces.abort().await;
        sent.settle(answer, gone).await
    }
}
