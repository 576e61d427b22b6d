//! Opening a stream.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use async_trait::async_trait;
use backup_core::{
    ByteStream, Decryptor, DumpReport, Error, Opened, Opening, Result, Sealed, Settled, Settler, Stage,
};
use bytes::{Buf, Bytes};
use futures::Stream;
use tokio::task::{JoinHandle, spawn_blocking};

use super::sealing::no_thread;
use crate::aead::AeadKey;
use crate::block::BlockOpener;
use crate::error::OpenError;
use crate::format::frames::{BlockFrame, Frame, FrameReader};
use crate::format::trailer::TrailerFacts;
use crate::format::{Head, HeadReader};
use crate::open::{self, Checks, OpenedBlock, Tally};
use crate::pool::Pool;
use crate::recipients::Identity;
use crate::workers::{Plan, Turnstile, Workers};

/// How to open.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OpenOptions {
    /// Threads that open and decompress; 0 for one per core. Fewer are used when their blocks would
    /// not fit into the memory budget.
    pub workers: usize,
}

/// Opens envelopes with the private keys it holds.
#[derive(Debug, Clone)]
pub struct EnvelopeDecryptor {
    identities: Vec<Arc<dyn Identity>>,
    options: OpenOptions,
}

/// An envelope that is being opened.
#[derive(Debug)]
pub struct OpenedEnvelope {
    /// Its proven head: who can open it, and whether it is encrypted at all.
    pub head: Head,
    /// The plaintext.
    pub opened: Opened,
}

impl EnvelopeDecryptor {
    /// Opens with any of these identities. None are needed for files that are not encrypted.
    #[must_use]
    pub fn new(identities: Vec<Arc<dyn Identity>>, options: OpenOptions) -> Self {
        Self { identities, options }
    }

    /// [`Decryptor::open`] that also shows the head, which says whether the file is encrypted.
    ///
    /// Cancel safe: dropping the future drops the sealed stream.
    ///
    /// # Errors
    /// As for [`Decryptor::open`].
    pub async fn open_envelope(&self, opening: Opening) -> Result<OpenedEnvelope> {
        let Opening { mut sealed, expected } = opening;
        let (head, chunk) = read_head(&mut sealed).await?;
        let identities = self.identities.clone();
        let (head, checks, key) = spawn_blocking(move || {
            let checks = Checks::new(expected)?;
            let key = open::unlock(&head, &checks, &identities)?;
            Ok::<_, OpenError>((head, checks, key))
        })
        .await
        .map_err(|_| died())??;
        let (settler, report) = Settled::pending();
        let stream = OpenStream::new(head.clone(), checks, key, self.options, sealed, chunk, settler)?;
        Ok(OpenedEnvelope { head, opened: Opened { bytes: ByteStream::new(stream), report } })
    }
}

#[async_trait]
impl Decryptor for EnvelopeDecryptor {
    async fn open(&self, opening: Opening) -> Result<Opened> {
        Ok(self.open_envelope(opening).await?.opened)
    }
}

pub(super) async fn read_head(sealed: &mut ByteStream<Sealed>) -> Result<(Head, Bytes)> {
    let mut reader = HeadReader::default();
    while let Some(chunk) = sealed.next().await {
        let mut chunk = chunk?;
        let mut rest = &chunk[..];
        if let Some(head) = reader.feed(&mut rest)? {
            let taken = chunk.len() - rest.len();
            chunk.advance(taken);
            return Ok((head, chunk));
        }
    }
    Err(reader.cut_off().into())
}

fn died() -> Error {
    Error::bug("an opening thread died").at(Stage::Open)
}

struct Shared {
    head: Head,
    key: Arc<AeadKey>,
    checks: Checks,
    turnstile: Turnstile,
}

pub(super) struct OpenStream {
    /// `None` after its end or after an error.
    sealed: Option<ByteStream<Sealed>>,
    chunk: Bytes,
    pub(super) frames: FrameReader,
    trailer: Option<Vec<u8>>,
    /// What comes after the blocks in flight: an error, or the length of the file.
    then: Option<Result<u64>>,
    pub(super) plan: Plan,
    shared: Arc<Shared>,
    workers: Workers<BlockFrame, Result<OpenedBlock, OpenError>>,
    tally: Option<Tally>,
    /// Plaintext that was opened and not given out; the tree has proved as many from the front.
    held: VecDeque<Bytes>,
    proved: usize,
    ending: Option<JoinHandle<Result<TrailerFacts, OpenError>>>,
    /// Stated when everything was given out.
    report: Option<DumpReport>,
    settler: Option<Settler<DumpReport>>,
}

impl OpenStream {
    pub(super) fn new(
        head: Head,
        checks: Checks,
        key: Arc<AeadKey>,
        options: OpenOptions,
        sealed: ByteStream<Sealed>,
        chunk: Bytes,
        settler: Settler<DumpReport>,
    ) -> Result<Self> {
        let block_len = head.header().block_len;
        let plan = Plan::new(options.workers, block_len);
        let pool = Pool::new(BlockOpener::buffer_len(block_len), plan.blocks + plan.workers);
        let frames = FrameReader::new(head.bytes().len(), block_len, Arc::clone(&pool));
        let shared = Arc::new(Shared { head, key, checks, turnstile: Turnstile::default() });
        let workers = {
            let shared = Arc::clone(&shared);
            Workers::start(plan.workers, "open", move |jobs| {
                let mut opener = BlockOpener::new(Arc::clone(&shared.key), block_len);
                jobs.each(|frame: BlockFrame| {
                    let index = frame.index;
                    let turn = shared.turnstile.turn(index);
                    let block = open::open_block(&mut opener, &shared.checks, frame, &pool)?;
                    turn.pass(&block.plain).map_err(|_| OpenError::Block(index))?;
                    Ok(block)
                });
            })
            .map_err(no_thread)?
        };
        Ok(Self {
            sealed: Some(sealed),
            chunk,
            frames,
            trailer: None,
            then: None,
            plan,
            shared,
            workers,
            tally: Some(Tally::default()),
            held: VecDeque::new(),
            proved: 0,
            ending: None,
            report: None,
            settler: Some(settler),
        })
    }

    /// Cuts the file into frames and hands them to the workers, while there is room and input.
    fn gather(&mut self, cx: &mut Context<'_>) {
        // With the block that is being read, never more than the plan has.
        while self.then.is_none() && self.workers.in_flight() < self.plan.blocks {
            let mut rest = &self.chunk[..];
            let frame = self.frames.feed(&mut rest);
            let taken = self.chunk.len() - rest.len();
            self.chunk.advance(taken);
            match frame {
                Err(error) => self.stop(Err(error.into())),
                Ok(Some(Frame::Block(frame))) => self.workers.submit(frame),
                Ok(Some(Frame::Trailer(frame))) => self.trailer = Some(frame),
                Ok(None) => {
                    let Some(sealed) = &mut self.sealed else { return };
                    match Pin::new(sealed).poll_next(cx) {
                        Poll::Pending => return,
                        Poll::Ready(Some(Ok(chunk))) => self.chunk = chunk,
                        Poll::Ready(Some(Err(error))) => self.stop(Err(error)),
                        Poll::Ready(None) => {
                            let end = self.frames.finish().map_err(Error::from);
                            self.stop(end);
                        }
                    }
                }
            }
        }
    }

    fn stop(&mut self, then: Result<u64>) {
        self.then = Some(then);
        self.sealed = None;
        self.chunk = Bytes::new();
    }

    fn end(
        &mut self,
        mut tally: Tally,
        object_len: u64,
    ) -> Result<JoinHandle<Result<TrailerFacts, OpenError>>> {
        let trailer = self.trailer.take().ok_or(OpenError::Truncated)?;
        let shared = Arc::clone(&self.shared);
        Ok(spawn_blocking(move || {
            let Shared { head, key, checks, turnstile } = &*shared;
            let (_, sha256) = turnstile.finish();
            tally.push_trailer(checks, &trailer)?;
            tally.finish(key, head, checks, trailer, sha256, object_len)
        }))
    }

    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes>>> {
        loop {
            if self.proved > 0 {
                self.proved -= 1;
                return Poll::Ready(self.held.pop_front().map(Ok));
            }
            self.gather(cx);
            match self.workers.poll_oldest(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(block)) => {
                    let block = block.map_err(|_| died())??;
                    let checks = &self.shared.checks;
                    let proved = self.tally.as_mut().map_or(Ok(true), |tally| tally.push(checks, &block))?;
                    self.held.push_back(block.plain);
                    self.proved = if proved { self.held.len() } else { 0 };
                    continue;
                }
                Poll::Ready(None) => {}
            }
            match self.then.take() {
                None if self.ending.is_none() && self.tally.is_some() => return Poll::Pending,
                None => {}
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                Some(Ok(object_len)) => {
                    if let Some(tally) = self.tally.take() {
                        self.ending = Some(self.end(tally, object_len)?);
                    }
                    // Stays settled: the input has ended, and nothing more is to be gathered.
                    self.then = Some(Ok(object_len));
                }
            }
            if let Some(ending) = &mut self.ending {
                let facts = ready!(Pin::new(ending).poll(cx)).map_err(|_| died())??;
                self.ending = None;
                self.report = Some(facts.report);
                self.proved = self.held.len();
                continue;
            }
            if let (Some(settler), Some(report)) = (self.settler.take(), self.report.take()) {
                settler.settle(report);
            }
            return Poll::Ready(None);
        }
    }
}

impl Stream for OpenStream {
    type Item = Result<Bytes>;

    /// The surrounding [`ByteStream`] never polls again after an error.
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_chunk(cx)
    }
}
