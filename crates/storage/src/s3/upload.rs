//! One object on its way.
//!
//! A task owns the writer and is fed through a bounded channel, because a `write` or `close` of
//! `opendal` that is dropped half way leaves an upload that cannot be aborted. The task runs each of
//! them to its end. It commits only when told to; when the channel closes for any other reason, it
//! aborts.

use std::collections::HashMap;

use async_trait::async_trait;
use backup_core::{BackupId, Error, ErrorKind, ObjectKey, Receipt, Result, Upload, Whole};
use bytes::{Bytes, BytesMut};
use opendal::{Buffer, HttpTransporter, OperationContext, Operator, Writer};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::parts::Plan;
use crate::s3::S3Store;
use crate::s3::settle::{self, Sent};
use crate::s3::transport::Witness;
use crate::trouble::from_opendal;

/// Chunks that may wait for the writer.
const WAITING: usize = 1;
/// Chunks below this are copied together, so that a part is not a list of crumbs.
const CRUMB: usize = 64 * 1024;
/// The user metadata by which we know our own objects again.
pub(super) const MARK: &str = "strongroom-upload";

enum Step {
    Chunk(Bytes),
    Commit(Whole),
}

/// An object on its way.
#[derive(Debug)]
pub(super) struct S3Upload {
    subject: String,
    steps: mpsc::Sender<Step>,
    /// Why writing failed, told before the worker aborts; `None` once it was told.
    failed: Option<oneshot::Receiver<Error>>,
    /// `None` once its outcome was told.
    worker: Option<JoinHandle<Result<Option<Receipt>>>>,
}

impl S3Upload {
    /// Prepares the writer; the first request is sent with the first full part.
    pub(super) async fn begin(store: &S3Store, key: &ObjectKey, plan: Plan) -> Result<Self> {
        let subject = store.subject(key);
        let mark = BackupId::random().to_string();
        let (transport, witness) = store.transport.witnessed();
        let context = OperationContext::new().with_http_transport(HttpTransporter::new(transport));
        let operator = store.operator.clone().with_context(context);
        let writer = operator
            .writer_with(key.as_str())
            .concurrent(plan.in_flight())
            .if_not_exists(true)
            .user_metadata(HashMap::from([(MARK.to_owned(), mark.clone())]))
            .await
            .map_err(|error| from_opendal(&subject, "beginning", &error))?;
        let worker = Worker {
            operator,
            witness,
            writer,
            key: key.clone(),
            subject: subject.clone(),
            mark,
            plan,
            put_if_absent: store.put_if_absent,
            part: Part::default(),
            parts: 0,
            len: 0,
        };
        let (steps, queue) = mpsc::channel(WAITING);
        let (tell, failed) = oneshot::channel();
        Ok(Self { subject, steps, failed: Some(failed), worker: Some(tokio::spawn(worker.run(queue, tell))) })
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
            Err(error) => Err(settle::uncertain(&self.subject, error.to_string())),
        }
    }
}

#[async_trait]
impl Upload for S3Upload {
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

/// What owns the writer.
struct Worker {
    operator: Operator,
    witness: Witness,
    writer: Writer,
    key: ObjectKey,
    subject: String,
    mark: String,
    plan: Plan,
    put_if_absent: bool,
    part: Part,
    parts: u32,
    len: u64,
}

impl Worker {
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
        self.abort().await;
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
                    if !self.part.is_empty() {
                        self.send().await?;
                    }
                    return Ok(Some(whole));
                }
            }
        }
        Ok(None)
    }

    async fn write(&mut self, mut chunk: Bytes) -> Result<()> {
        self.len += chunk.len() as u64;
        while !chunk.is_empty() {
            let Some(part_len) = self.plan.part_len(self.parts) else {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    &self.subject,
                    format!("is longer than the {} bytes planned for", self.plan.object_len_max()),
                )
                .with_hint("raise max_parts=, or part_memory= so that parts are longer"));
            };
            let room = usize::try_from(part_len).unwrap_or(usize::MAX) - self.part.len;
            self.part.push(chunk.split_to(chunk.len().min(room)));
            if self.part.len as u64 == part_len {
                self.send().await?;
            }
        }
        Ok(())
    }

    /// Hands the gathered part to the writer: one `write` of at least the shortest length is one part.
    async fn send(&mut self) -> Result<()> {
        let part = self.part.take();
        let longer = self.parts > 0 && self.plan.part_len(self.parts) != self.plan.part_len(self.parts - 1);
        if (longer || self.parts == 0) && self.plan.held(part.len() as u64) > self.plan.memory() {
            tracing::warn!(
                object = %self.subject,
                part_bytes = part.len(),
                "the object is so long that its parts need more memory than planned"
            );
        }
        self.parts += 1;
        self.writer.write(part).await.map_err(|error| from_opendal(&self.subject, "writing", &error))
    }

    async fn commit(mut self, whole: Whole) -> Result<Receipt> {
        let sent = Sent {
            operator: &self.operator,
            key: &self.key,
            subject: &self.subject,
            mark: &self.mark,
            whole,
            witness: &self.witness,
            in_parts: self.parts > 1,
        };
        if !self.put_if_absent
            && let Err(error) = sent.check_free().await
        {
            self.abort().await;
            return Err(error);
        }
        let closed = self.writer.close().await;
        sent.settle(closed, &mut self.writer).await
    }

    async fn abort(&mut self) {
        self.part.take();
        // The writer keeps the first part back until there is a second.
        if self.parts > 1 {
            settle::abort(&mut self.writer, &self.witness, &self.subject).await;
        }
    }
}

/// A part that is being gathered.
#[derive(Default)]
struct Part {
    pieces: Vec<Bytes>,
    crumbs: BytesMut,
    len: usize,
}

impl Part {
    fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn push(&mut self, piece: Bytes) {
        self.len += piece.len();
        if piece.len() < CRUMB {
            self.crumbs.extend_from_slice(&piece);
            if self.crumbs.len() >= 1 << 20 {
                self.pieces.push(self.crumbs.split().freeze());
            }
        } else {
            if !self.crumbs.is_empty() {
                self.pieces.push(self.crumbs.split().freeze());
            }
            self.pieces.push(piece);
        }
    }

    fn take(&mut self) -> Buffer {
        let mut part = std::mem::take(self);
        if !part.crumbs.is_empty() {
            part.pieces.push(part.crumbs.freeze());
        }
        Buffer::from(part.pieces)
    }
}
