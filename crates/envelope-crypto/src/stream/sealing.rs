//! Sealing a stream.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use async_trait::async_trait;
use backup_core::{
    BackupId, ByteStream, DumpReport, Encryptor, Error, Plain, RecipientRef, Result, SealSummary, Sealing,
    Settled, Settler, Stage,
};
use bytes::{Buf, Bytes};
use futures::Stream;
use tokio::task::{JoinHandle, spawn_blocking};

use crate::aead::AeadKey;
use crate::block::{BlockSealer, SealedBlock};
use crate::error::SealError;
use crate::pool::{Buffer, Pool};
use crate::recipients::Recipient;
use crate::seal::{self, Ending, SealOptions, Started, Tally};
use crate::workers::{Plan, Turnstile, Workers};

/// Seals streams as envelopes.
#[derive(Debug, Clone)]
pub struct EnvelopeEncryptor {
    recipients: Vec<Arc<dyn Recipient>>,
    options: SealOptions,
}

impl EnvelopeEncryptor {
    /// Seals for all of these recipients.
    ///
    /// # Errors
    /// When they do not go together or are not allowed by the options.
    pub fn new(recipients: Vec<Arc<dyn Recipient>>, options: SealOptions) -> Result<Self, SealError> {
        seal::check_settings(&recipients, &options)?;
        Ok(Self { recipients, options })
    }

    /// How it seals.
    #[must_use]
    pub fn options(&self) -> &SealOptions {
        &self.options
    }
}

#[async_trait]
impl Encryptor for EnvelopeEncryptor {
    fn recipients(&self) -> Vec<RecipientRef> {
        self.recipients.iter().map(|recipient| recipient.describe()).collect()
    }

    /// Cancel safe: dropping the future drops `plain` and starts nothing.
    async fn seal(
        &self,
        id: &BackupId,
        plain: ByteStream<Plain>,
        report: Settled<DumpReport>,
    ) -> Result<Sealing> {
        let (id, recipients, options) = (*id, self.recipients.clone(), self.options);
        let started = spawn_blocking(move || seal::start(id, &recipients, options.block_len))
            .await
            .map_err(|_| died())??;
        let (settler, summary) = Settled::pending();
        let stream = SealStream::new(started, options, plain, report, settler)?;
        Ok(Sealing { bytes: ByteStream::declare_sealed(stream), summary })
    }
}

fn died() -> Error {
    Error::bug("a sealing thread died").at(Stage::Seal)
}

struct Job {
    index: u64,
    buffer: Buffer,
    len: usize,
}

pub(super) struct Shared {
    key: Arc<AeadKey>,
    turnstile: Turnstile,
}

pub(super) struct SealStream {
    /// `None` after its clean end.
    plain: Option<ByteStream<Plain>>,
    report: Settled<DumpReport>,
    settler: Option<Settler<SealSummary>>,
    options: SealOptions,
    pub(super) plan: Plan,
    pub(super) pool: Arc<Pool>,
    pub(super) shared: Arc<Shared>,
    workers: Workers<Job, Result<SealedBlock, SealError>>,
    head: Option<Bytes>,
    /// What of the last chunk is not gathered yet.
    chunk: Bytes,
    filling: Option<(Buffer, usize)>,
    index: u64,
    tally: Option<Tally>,
    ending: Option<JoinHandle<Result<Ending, SealError>>>,
    summary: Option<SealSummary>,
}

impl SealStream {
    pub(super) fn new(
        started: Started,
        options: SealOptions,
        plain: ByteStream<Plain>,
        report: Settled<DumpReport>,
        settler: Settler<SealSummary>,
    ) -> Result<Self> {
        let plan = Plan::new(options.workers, options.block_len);
        let Started { head, key } = started;
        let shared = Arc::new(Shared { key, turnstile: Turnstile::default() });
        let workers = {
            let shared = Arc::clone(&shared);
            Workers::start(plan.workers, "seal", move |jobs| {
                let mut sealer =
                    BlockSealer::new(Arc::clone(&shared.key), options.compression, options.block_len);
                jobs.each(|Job { index, buffer, len }| {
                    let turn = shared.turnstile.turn(index);
                    let sealer = sealer.as_mut().map_err(|error| error.clone())?;
                    sealer.seal(index, buffer, len, |source| {
                        turn.pass(source).map_err(|_| SealError::Internal("an earlier block was not sealed"))
                    })
                });
            })
            .map_err(no_thread)?
        };
        Ok(Self {
            plain: Some(plain),
            report,
            settler: Some(settler),
            options,
            plan,
            pool: Pool::new(BlockSealer::buffer_len(options.block_len), plan.blocks),
            shared,
            workers,
            tally: Some(Tally::new(&head, options.block_len)),
            head: Some(head.into()),
            chunk: Bytes::new(),
            filling: None,
            index: 0,
            ending: None,
            summary: None,
        })
    }

    /// Gathers source into blocks and hands them to the workers, while there is room and source.
    fn gather(&mut self, cx: &mut Context<'_>) -> Result<()> {
        // With the block that is being filled, never more than the plan has.
        while self.workers.in_flight() < self.plan.blocks {
            if self.chunk.is_empty() {
                let Some(plain) = &mut self.plain else { return Ok(()) };
                match Pin::new(plain).poll_next(cx) {
                    Poll::Pending => return Ok(()),
                    Poll::Ready(Some(chunk)) => self.chunk = chunk?,
                    Poll::Ready(None) => {
                        self.plain = None;
                        if let Some((buffer, len)) = self.filling.take() {
                            self.submit(buffer, len)?;
                        }
                        return Ok(());
                    }
                }
                continue;
            }
            let (mut buffer, have) = self.filling.take().unwrap_or_else(|| (self.pool.take(), 0));
            let mut rest = &self.chunk[..];
            let have = seal::gather(&mut rest, &mut buffer, have, self.options.block_len);
            let taken = self.chunk.len() - rest.len();
            self.chunk.advance(taken);
            if have < self.options.block_len.get() {
                self.filling = Some((buffer, have));
            } else {
                self.submit(buffer, have)?;
            }
        }
        Ok(())
    }

    fn submit(&mut self, buffer: Buffer, len: usize) -> Result<()> {
        seal::check_count(self.index, self.options.block_len)?;
        self.workers.submit(Job { index: self.index, buffer, len });
        self.index += 1;
        Ok(())
    }

    fn end(&mut self, tally: Tally) -> Result<JoinHandle<Result<Ending, SealError>>> {
        let report = self
            .report
            .get()
            .cloned()
            .ok_or_else(|| Error::bug("a dump ended cleanly without its report").at(Stage::Seal))?;
        let shared = Arc::clone(&self.shared);
        Ok(spawn_blocking(move || {
            let (source_len, sha256) = shared.turnstile.finish();
            tally.finish(&shared.key, source_len, sha256, report)
        }))
    }

    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes>>> {
        if let Some(head) = self.head.take() {
            return Poll::Ready(Some(Ok(head)));
        }
        self.gather(cx)?;
        match self.workers.poll_oldest(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Some(block)) => {
                let block = block.map_err(|_| died())??;
                if let Some(tally) = &mut self.tally {
                    tally.push(&block);
                }
                return Poll::Ready(Some(Ok(block.frame)));
            }
            Poll::Ready(None) if self.plain.is_some() => return Poll::Pending,
            Poll::Ready(None) => {}
        }
        if let Some(tally) = self.tally.take() {
            self.ending = Some(self.end(tally)?);
        }
        if let Some(ending) = &mut self.ending {
            let ending = ready!(Pin::new(ending).poll(cx)).map_err(|_| died())??;
            self.ending = None;
            self.summary = Some(ending.summary);
            return Poll::Ready(Some(Ok(ending.bytes.into())));
        }
        if let (Some(settler), Some(summary)) = (self.settler.take(), self.summary.take()) {
            settler.settle(summary);
        }
        Poll::Ready(None)
    }
}

pub(super) fn no_thread(error: std::io::Error) -> Error {
    Error::new(backup_core::ErrorKind::Unavailable, "threads", "the system gave no thread to work in")
        .with_hint("look at the limits of this machine and run again")
        .with_source(error)
}

impl Stream for SealStream {
    type Item = Result<Bytes>;

    /// The surrounding [`ByteStream`] never polls again after an error, which is the only reason why
    /// a failed stream here needs no state of its own.
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_chunk(cx)
    }
}
