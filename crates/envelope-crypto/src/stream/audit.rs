//! Walking an envelope without a key.

use std::sync::Arc;

use async_trait::async_trait;
use backup_core::{Auditor, Error, Expected, Frames, Opening, Result, Stage};
use bytes::Bytes;
use tokio::task::spawn_blocking;

use super::opening::read_head;
use super::parts::Parts;
use crate::block::BlockOpener;
use crate::error::{Mismatch, OpenError};
use crate::format::frames::{Frame, FrameReader};
use crate::open::Checks;
use crate::pool::Pool;
use crate::tree::{Follower, RootHasher};

/// Checks framing, lengths and the hash tree of envelopes; holds no key and needs none.
#[derive(Debug, Clone, Copy, Default)]
pub struct EnvelopeAuditor;

#[async_trait]
impl Auditor for EnvelopeAuditor {
    /// Cancel safe: dropping the future drops the sealed stream.
    async fn audit(&self, opening: Opening) -> Result<u64> {
        let Opening { mut sealed, expected } = opening;
        if expected.tree_root.is_none() {
            // Without a root every frame would pass, and the answer would say nothing.
            return Err(OpenError::NotTheExpectedObject(Mismatch::TreeMissing).into());
        }
        let (head, rest) = read_head(&mut sealed).await?;
        let checks = Checks::new(expected)?;
        checks.head(&head)?;
        let block_len = head.header().block_len;
        let pool = Pool::new(BlockOpener::buffer_len(block_len), 2);
        let frames = FrameReader::new(head.bytes().len(), block_len, pool);
        let (root, follower) = Default::default();
        let mut walk = Walk { checks, frames, count: 0, root, follower };
        let mut chunk = rest;
        loop {
            walk = spawn_blocking(move || walk.feed(&chunk))
                .await
                .map_err(|_| Error::bug("an auditing thread died").at(Stage::Verify))??;
            match sealed.next().await {
                Some(next) => chunk = next?,
                None => return Ok(walk.finish()?),
            }
        }
    }

    /// Cancel safe.
    async fn frames(&self, expected: Expected) -> Result<Arc<dyn Frames>> {
        let parts = spawn_blocking(move || Parts::new(expected)).await;
        Ok(Arc::new(parts.map_err(|_| Error::bug("an auditing thread died").at(Stage::Verify))??))
    }
}

struct Walk {
    checks: Checks,
    frames: FrameReader,
    count: u64,
    root: RootHasher,
    follower: Follower,
}

impl Walk {
    fn feed(mut self, chunk: &Bytes) -> Result<Self, OpenError> {
        let mut input = &chunk[..];
        while let Some(frame) = self.frames.feed(&mut input)? {
            let bytes = match &frame {
                Frame::Block(block) => &block.buffer.as_ref()[..block.len],
                Frame::Trailer(bytes) => bytes,
            };
            let leaf = self.checks.frame(self.count, bytes)?;
            self.checks.in_order(&mut self.follower, leaf, bytes.len())?;
            self.count += 1;
            if let Some(leaf) = leaf {
                self.root.push(leaf);
            }
        }
        Ok(self)
    }

    fn finish(self) -> Result<u64, OpenError> {
        self.checks.len(self.frames.finish()?)?;
        self.checks.root(self.count, &self.root)?;
        Ok(self.count)
    }
}
