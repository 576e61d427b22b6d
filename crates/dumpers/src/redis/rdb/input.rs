//! The bytes of a dump, as they come, for a parser that is written as if all were there.
//!
//! The parser is a future. [`Input`] hands it bytes and is pending where they end for now; nobody is
//! woken, since [`RdbParser::push`](super::RdbParser::push) polls again with the next chunk.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use bytes::{Buf as _, Bytes};
use crc_fast::{CrcAlgorithm, Digest};

use super::RdbError;
use super::parser::{Item, RdbContents};

/// What the parser and its owner share.
pub(super) struct Feed {
    /// The current chunk; what lies before `at` is read, what lies before `hashed` is in the checksum.
    chunk: Bytes,
    at: usize,
    hashed: usize,
    crc: Option<Digest>,
    /// Bytes before the current chunk.
    before: u64,
    ended: bool,
    /// The bytes of the value that is being read, where somebody wants them.
    body: Option<Vec<u8>>,
    /// What was read, for whoever wants it.
    pub(super) items: VecDeque<Item>,
    pub(super) contents: RdbContents,
}

/// The parser's side.
#[derive(Clone)]
pub(super) struct Input(Arc<Mutex<Feed>>);

impl Input {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(Feed {
            chunk: Bytes::new(),
            at: 0,
            hashed: 0,
            crc: Some(Digest::new(CrcAlgorithm::Crc64Redis)),
            before: 0,
            ended: false,
            body: None,
            items: VecDeque::new(),
            contents: RdbContents::default(),
        })))
    }

    pub(super) fn feed(&self) -> MutexGuard<'_, Feed> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the next chunk; the one before is read.
    pub(super) fn push(&self, chunk: &Bytes) {
        let mut feed = self.feed();
        feed.before += feed.chunk.len() as u64;
        feed.chunk = chunk.clone();
        (feed.at, feed.hashed) = (0, 0);
    }

    /// The rest of the chunk goes into the checksum, before the next one comes.
    pub(super) fn hash_rest(&self) {
        let mut feed = self.feed();
        let end = feed.chunk.len();
        feed.hash_to(end);
    }

    pub(super) fn end(&self) {
        self.feed().ended = true;
    }

    /// Whether all of the chunk was read.
    pub(super) fn is_drained(&self) -> bool {
        let feed = self.feed();
        feed.at == feed.chunk.len()
    }

    /// Between one and `max` bytes.
    pub(super) async fn some(&self, max: u64) -> Result<Bytes, RdbError> {
        std::future::poll_fn(|_| {
            let mut feed = self.feed();
            let rest = feed.chunk.len() - feed.at;
            if rest == 0 {
                return feed.more();
            }
            let take = usize::try_from(max).unwrap_or(usize::MAX).min(rest);
            let taken = feed.chunk.slice(feed.at..feed.at + take);
            feed.at += take;
            if let Some(body) = &mut feed.body {
                body.extend_from_slice(&taken);
            }
            Poll::Ready(Ok(taken))
        })
        .await
    }

    /// Exactly so many bytes.
    pub(super) async fn exact<const N: usize>(&self) -> Result<[u8; N], RdbError> {
        let mut found = [0; N];
        let mut filled = 0;
        std::future::poll_fn(|_| {
            let mut feed = self.feed();
            let take = (N - filled).min(feed.chunk.len() - feed.at);
            let from = feed.at;
            found[filled..filled + take].copy_from_slice(&feed.chunk[from..from + take]);
            filled += take;
            feed.at += take;
            if filled < N {
                return feed.more();
            }
            if let Some(body) = &mut feed.body {
                body.extend_from_slice(&found);
            }
            Poll::Ready(Ok(()))
        })
        .await?;
        Ok(found)
    }

    pub(super) async fn byte(&self) -> Result<u8, RdbError> {
        let [byte] = self.exact().await?;
        Ok(byte)
    }

    /// Passes over bytes.
    pub(super) async fn skip(&self, mut len: u64) -> Result<(), RdbError> {
        while len > 0 {
            len -= self.some(len).await?.remaining() as u64;
        }
        Ok(())
    }

    /// Bytes as one piece. Memory grows with what comes, not with what a length says.
    pub(super) async fn bytes(&self, mut len: u64) -> Result<Vec<u8>, RdbError> {
        let mut all = Vec::new();
        while len > 0 {
            let some = self.some(len).await?;
            len -= some.len() as u64;
            all.extend_from_slice(&some);
        }
        Ok(all)
    }

    /// Keeps the bytes that are read from here on.
    pub(super) fn keep(&self, first: u8) {
        self.feed().body = Some(vec![first]);
    }

    /// What was kept.
    pub(super) fn kept(&self) -> Vec<u8> {
        self.feed().body.take().unwrap_or_default()
    }

    /// How many bytes were kept by now.
    pub(super) fn kept_len(&self) -> u64 {
        self.feed().body.as_ref().map_or(0, |body| body.len() as u64)
    }

    /// The checksum of everything that was read.
    pub(super) fn checksum(&self) -> u64 {
        let mut feed = self.feed();
        let at = feed.at;
        feed.hash_to(at);
        feed.crc.take().map_or(0, |crc| crc.finalize())
    }

    /// A refusal of what stands here.
    pub(super) fn damaged(&self, what: &'static str) -> RdbError {
        let feed = self.feed();
        RdbError::Damaged { at: feed.before + feed.at as u64, what }
    }
}

impl Feed {
    fn more<T>(&self) -> Poll<Result<T, RdbError>> {
        if self.ended {
            Poll::Ready(Err(RdbError::Truncated(self.before + self.at as u64)))
        } else {
            Poll::Pending
        }
    }

    fn hash_to(&mut self, end: usize) {
        if let Some(crc) = &mut self.crc {
            crc.update(&self.chunk[self.hashed..end]);
            self.hashed = end;
        }
    }
}
