//! One object on its way.
//!
//! A task owns the upload and is fed through a bounded channel. It commits only when told to; when
//! the channel closes for any other reason, it aborts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use backup_core::{BackupId, Error, ErrorKind, ObjectKey, Receipt, Result, Upload, Whole};
use bytes::Bytes;
use opendal::{Buffer, HttpTransporter, OperationContext, Operator};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};

use crate::parts::{Part, Plan};
use crate::s3::S3Store;
use crate::s3::gather::Gathered;
use crate::s3::lock::Lock;
use crate::s3::multipart::{Crc32c, Landed, Multipart, crc32c, put_locked};
use crate::s3::requests::Requests;
use crate::s3::resume::Continued;
use crate::s3::segment::Segment;
use crate::s3::settle::{self, Sent};
use crate::s3::transport::Witness;
use crate::trouble::{Trouble, from_opendal};

/// Chunks that may wait for the task.
const WAITING: usize = 1;
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
    /// Bytes that the server has from an earlier process.
    kept: u64,
    /// `None` once its outcome was told.
    worker: Option<JoinHandle<Result<Option<Receipt>>>>,
}

impl S3Upload {
    /// Prepares the upload; the first request is sent with the second part.
    /// One that can be continued notes how far it comes.
    pub(super) fn begin(
        store: &S3Store,
        key: &ObjectKey,
        plan: Plan,
        lock: Option<Lock>,
        continued: Option<Continued>,
    ) -> Self {
        let subject = store.subject(key);
        let (transport, witness) = store.transport.witnessed();
        let context = OperationContext::new().with_http_transport(HttpTransporter::new(transport.clone()));
        let requests = store.requests.through(transport);
        let going_on = continued.as_ref().and_then(Continued::id);
        let worker = Worker {
            multipart: going_on.map(|id| Multipart::begun(&requests, key.as_str(), id)),
            mark: continued.as_ref().map_or_else(|| BackupId::random().to_string(), Continued::mark),
            comparing: None,
            sending: Crc32c::default(),
            operator: store.operator.clone().with_context(context),
            requests,
            besides: store.requests.clone(),
            witness,
            key: key.clone(),
            subject: subject.clone(),
            plan,
            put_if_absent: store.put_if_absent,
            lock,
            first: None,
            flying: JoinSet::new(),
            under_way: BTreeSet::new(),
            landed: BTreeMap::new(),
            gathered: Gathered::default(),
            segment: None,
            number: 0,
            len: 0,
            continued: continued.map(Arc::new),
        };
        let kept = worker.continued.as_ref().map_or(0, |continued| continued.len(&plan));
        let (steps, queue) = mpsc::channel(WAITING);
        let (tell, failed) = oneshot::channel();
        Self {
            subject,
            steps,
            failed: Some(failed),
            kept,
            worker: Some(tokio::spawn(worker.run(queue, tell))),
        }
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
    fn kept(&self) -> u64 {
        self.kept
    }

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

/// What owns the upload.
struct Worker {
    operator: Operator,
    /// Seen by the witness.
    requests: Requests,
    /// Not seen by it: for objects that are only parts of this one.
    besides: Requests,
    witness: Witness,
    key: ObjectKey,
    subject: String,
    mark: String,
    plan: Plan,
    put_if_absent: bool,
    /// The lock that the object gets.
    lock: Option<Lock>,
    /// The first part, until there is a second: an object of one part is put at once.
    first: Option<Buffer>,
    multipart: Option<Multipart>,
    flying: JoinSet<(u32, opendal::Result<Landed>)>,
    under_way: BTreeSet<u32>,
    landed: BTreeMap<u32, Landed>,
    gathered: Gathered,
    segment: Option<Segment>,
    /// Parts that are complete, on their way or landed.
    number: u32,
    len: u64,
    /// An upload that other processes can go on with.
    continued: Option<Arc<Continued>>,
    /// The part that the server has and that is being compared: its bytes so far.
    comparing: Option<(Crc32c, u64)>,
    /// The checksum of the segment that is being sent.
    sending: Crc32c,
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
        match self.continued {
            Some(_) => self.suspend().await,
            None => self.abort().await,
        }
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
                    self.end().await?;
                    return Ok(Some(whole));
                }
            }
        }
        Ok(None)
    }

    async fn write(&mut self, mut chunk: Bytes) -> Result<()> {
        self.len += chunk.len() as u64;
        while !chunk.is_empty() {
            match self.plan.part(self.number) {
                Some(Part::Sent(len)) => {
                    chunk = self.gathered.fill(chunk, len);
                    if self.gathered.len() == len {
                        self.warn_of_memory(len);
                        let part = self.gathered.take();
                        self.send(part).await?;
                    }
                }
                Some(Part::Composed { len, .. }) if self.is_kept(self.number + 1, len) => {
                    chunk = self.compare(chunk, len).await?;
                }
                Some(Part::Composed { len, piece }) => {
                    chunk = self.write_segment(chunk, len, piece).await?;
                }
                None => {
                    return Err(Error::new(
                        ErrorKind::Unsupported,
                        &self.subject,
                        format!("is longer than the {} bytes planned for", self.plan.object_len_max()),
                    )
                    .with_hint("raise max_parts=, or part_memory= so that parts are longer"));
                }
            }
        }
        Ok(())
    }

    /// Gathers a part that the server will copy from a segment; gives back what belongs to the next.
    async fn write_segment(&mut self, mut chunk: Bytes, len: u64, piece: u64) -> Result<Bytes> {
        let have = self.segment.as_ref().map_or(0, Segment::len) + self.gathered.len();
        let room = usize::try_from(len - have).unwrap_or(usize::MAX);
        let mut mine = chunk.split_to(chunk.len().min(room));
        let full = mine.len() == room;
        if self.continued.is_some() {
            self.sending.update(&mine);
        }
        while !mine.is_empty() {
            mine = self.gathered.fill(mine, piece);
            if self.gathered.len() == piece {
                self.send_piece().await?;
            }
        }
        if full {
            if !self.gathered.is_empty() {
                self.send_piece().await?;
            }
            self.compose().await?;
        }
        Ok(chunk)
    }

    /// Sends what was gathered as a part of the segment.
    async fn send_piece(&mut self) -> Result<()> {
        // Its parts and those before it share one budget.
        while !self.flying.is_empty() {
            self.land().await?;
        }
        let part = self.gathered.take();
        let doing = |error| from_opendal(&self.subject, "writing a segment", &error);
        if self.segment.is_none() {
            let key = Segment::key(&self.key, &self.mark, self.number + 1);
            self.segment = Some(Segment::begin(&self.besides, key, &self.mark).await.map_err(doing)?);
        }
        match &mut self.segment {
            Some(segment) => segment.send(part, &self.plan).await.map_err(doing),
            None => Ok(()),
        }
    }

    /// Makes a part of the segment: the server copies it, and it is removed.
    async fn compose(&mut self) -> Result<()> {
        let Some(segment) = self.segment.take() else { return Ok(()) };
        let number = self.number + 1;
        let multipart = self.multipart().await?;
        let len = segment.len();
        let composed = segment.compose(&multipart, number, &self.operator).await;
        let landed = composed.map_err(|error| {
            let error = from_opendal(&self.subject, "letting the server copy a segment", &error);
            match error.kind() {
                ErrorKind::Unsupported => error.with_hint(
                    "this server cannot copy parts: add compose=false to the destination, and part_memory= for long objects",
                ),
                _ => error,
            }
        })?;
        if let Some(continued) = &self.continued {
            let crc32c = std::mem::take(&mut self.sending).finish();
            continued.note_part(number, len, crc32c, &landed).await;
        }
        self.landed.insert(number, landed);
        self.number = number;
        Ok(())
    }

    /// Whether the server has a part of this length under this number.
    fn is_kept(&self, number: u32, len: u64) -> bool {
        let kept = self.continued.as_ref().and_then(|continued| continued.kept(number));
        kept.is_some_and(|kept| kept.len == len)
    }

    /// Compares a long part that the server has with what would be sent; gives back what belongs to the next.
    async fn compare(&mut self, mut chunk: Bytes, len: u64) -> Result<Bytes> {
        let (mut sum, have) = self.comparing.take().unwrap_or_default();
        let mine = chunk.split_to(chunk.len().min(usize::try_from(len - have).unwrap_or(usize::MAX)));
        sum.update(&mine);
        let have = have + mine.len() as u64;
        if have < len {
            self.comparing = Some((sum, have));
            return Ok(chunk);
        }
        let number = self.number + 1;
        let Some(continued) = self.continued.clone() else { return Ok(chunk) };
        match continued.kept(number).filter(|kept| kept.crc32c == sum.finish()) {
            Some(kept) => {
                self.landed.insert(number, kept.landed.clone());
                self.number = number;
                Ok(chunk)
            }
            None => {
                // Its bytes have gone by: only another run can send them.
                continued.clear().await;
                let what = format!("part {number} at the server is not what is sent now");
                Err(Error::new(ErrorKind::Unavailable, &self.subject, what)
                    .with_hint("run again: it begins anew"))
            }
        }
    }

    fn warn_of_memory(&self, len: u64) {
        if self.plan.held(len) > self.plan.memory() && self.plan.is_first_of_its_length(self.number) {
            tracing::warn!(
                object = %self.subject,
                part_bytes = len,
                "the object is so long that its parts need more memory than planned"
            );
        }
    }

    /// Sends a part when there is room for it; the first waits for the second.
    async fn send(&mut self, part: Buffer) -> Result<()> {
        if self.number == 0 && self.multipart.is_none() {
            self.first = Some(part);
            self.number = 1;
            return Ok(());
        }
        let multipart = self.multipart().await?;
        self.number += 1;
        self.fly(multipart, self.number, part).await
    }

    /// The upload at the server, begun now if there is none yet.
    async fn multipart(&mut self) -> Result<Multipart> {
        if let Some(multipart) = &self.multipart {
            return Ok(multipart.clone());
        }
        let multipart = Multipart::create(&self.requests, self.key.as_str(), &self.mark, self.lock)
            .await
            .map_err(|error| from_opendal(&self.subject, "beginning", &error))?;
        if let Some(continued) = &self.continued {
            continued.note_begun(multipart.id(), &self.mark).await;
        }
        self.multipart = Some(multipart.clone());
        if let Some(first) = self.first.take() {
            self.fly(multipart.clone(), 1, first).await?;
        }
        Ok(multipart)
    }

    async fn fly(&mut self, multipart: Multipart, number: u32, part: Buffer) -> Result<()> {
        let len = part.len() as u64;
        let continued = self.continued.clone();
        if let Some(kept) = continued.as_ref().and_then(|continued| continued.kept(number))
            && kept.len == len
            && crc32c(part.clone()).await.is_ok_and(|sum| sum == kept.crc32c)
        {
            self.landed.insert(number, kept.landed.clone());
            return Ok(());
        }
        while self.plan.waits(number, self.under_way.first().copied()) {
            self.land().await?;
        }
        self.under_way.insert(number);
        self.flying.spawn(async move {
            let landed = multipart.put(number, part).await;
            if let (Some(continued), Ok(landed)) = (continued, &landed) {
                continued
                    .note_part(number, len, landed.checksum().unwrap_or_default().to_owned(), landed)
                    .await;
            }
            (number, landed)
        });
        Ok(())
    }

    /// Waits for one of the parts on their way.
    async fn land(&mut self) -> Result<()> {
        match self.flying.join_next().await {
            Some(Ok((number, Ok(landed)))) => {
                self.under_way.remove(&number);
                self.landed.insert(number, landed);
                Ok(())
            }
            Some(Ok((_, Err(error)))) => {
                if let Some(continued) = &self.continued
                    && Trouble::of_opendal(&error) == Trouble::UploadGone
                {
                    continued.clear().await;
                }
                Err(from_opendal(&self.subject, "writing", &error))
            }
            Some(Err(error)) => Err(Error::bug(format!("a part of {} was lost: {error}", self.subject))),
            None => Ok(()),
        }
    }

    /// Sends what is left and waits until all parts are there.
    async fn end(&mut self) -> Result<()> {
        if self.comparing.is_some() {
            return Err(Error::bug(format!("{} ended within a part that the server has", self.subject)));
        }
        if self.segment.is_some() {
            if !self.gathered.is_empty() {
                self.send_piece().await?;
            }
            self.compose().await?;
        } else if !self.gathered.is_empty() {
            let part = self.gathered.take();
            self.send(part).await?;
        }
        while !self.flying.is_empty() {
            self.land().await?;
        }
        Ok(())
    }

    async fn commit(mut self, whole: Whole) -> Result<Receipt> {
        let sent = Sent {
            operator: &self.operator,
            key: &self.key,
            subject: &self.subject,
            mark: &self.mark,
            whole,
            witness: &self.witness,
            multipart: self.multipart.as_ref(),
        };
        if !self.put_if_absent
            && let Err(error) = sent.check_free().await
        {
            self.abort().await;
            return Err(error);
        }
        // A part that is not there would be a hole that the server closes without a word.
        if self.multipart.is_some() && !self.landed.keys().copied().eq(1..=self.number) {
            self.abort().await;
            return Err(Error::bug(format!("parts of {} are missing", self.subject)));
        }
        let closed = match &self.multipart {
            Some(multipart) => multipart.complete(&self.landed).await.map(Some),
            None => {
                let only = self.first.take().unwrap_or_default();
                match self.lock {
                    Some(lock) => put_locked(&self.requests, self.key.as_str(), only, &self.mark, lock).await,
                    None => self
                        .operator
                        .write_with(self.key.as_str(), only)
                        .if_not_exists(true)
                        .user_metadata([(MARK.to_owned(), self.mark.clone())])
                        .await
                        .map(|found| found.etag().map(str::to_owned)),
                }
            }
        };
        let receipt = sent.settle(closed).await?;
        let Some(lock) = self.lock else { return Ok(receipt) };
        match lock.check(&self.besides, &self.key, &self.subject).await {
            Ok(()) => Ok(receipt),
            // What a store keeps no lock on can be taken away again.
            Err(error) if error.kind() == ErrorKind::Unsupported => {
                sent.take_back().await;
                Err(error)
            }
            Err(error) => Err(settle::uncertain(&self.subject, error.to_string())),
        }
    }

    /// Stops and leaves what the server has to the next process.
    async fn suspend(&mut self) {
        self.first = None;
        self.gathered.take();
        self.flying.shutdown().await;
        if let Some(segment) = self.segment.take() {
            segment.abort(&self.subject).await;
        }
    }

    async fn abort(&mut self) {
        self.first = None;
        self.gathered.take();
        self.flying.shutdown().await;
        if let Some(segment) = self.segment.take() {
            segment.abort(&self.subject).await;
        }
        if let Some(multipart) = &self.multipart {
            settle::abort(multipart, &self.witness, &self.subject).await;
        }
    }
}
