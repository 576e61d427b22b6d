//! Cuts what follows the head into frames, from pieces of any size, and checks the end mark.

use std::sync::Arc;

use super::footer::Footer;
use super::limits::{
    BLOCK_FRAME_MIN, BLOCK_OVERHEAD, BLOCKS_MAX, BlockLen, FOOTER_LEN, LEN_LEN, TRAILER_BIT, TRAILER_LEN_MAX,
    TRAILER_LEN_MIN,
};
use crate::error::OpenError;
use crate::pool::{Buffer, Pool};

/// A whole frame, with its length; nothing of it is proven.
#[derive(Debug)]
pub(crate) enum Frame {
    Block(BlockFrame),
    /// The trailer, with its length.
    Trailer(Vec<u8>),
}

#[derive(Debug)]
pub(crate) struct BlockFrame {
    pub(crate) index: u64,
    pub(crate) buffer: Buffer,
    pub(crate) len: usize,
    /// Whether the trailer comes next.
    pub(crate) last: bool,
}

#[derive(Debug)]
enum Stage {
    Len { bytes: [u8; LEN_LEN], have: usize },
    Block { buffer: Buffer, have: usize, len: usize },
    Trailer { bytes: Vec<u8>, len: usize },
    Footer { bytes: [u8; FOOTER_LEN], have: usize },
    End,
}

/// Reads frames. A block is given out only once the length after it is known, for only the last
/// may be short. It holds at most one block.
#[derive(Debug)]
pub(crate) struct FrameReader {
    block_len: BlockLen,
    pool: Arc<Pool>,
    /// Where the next byte stands in the file.
    offset: u64,
    trailer_offset: u64,
    block_count: u64,
    pending: Option<(Buffer, usize)>,
    stage: Stage,
}

const BEFORE_LEN: Stage = Stage::Len { bytes: [0; LEN_LEN], have: 0 };

impl FrameReader {
    /// Reads on after a head of `head_len` bytes.
    pub(crate) fn new(head_len: usize, block_len: BlockLen, pool: Arc<Pool>) -> Self {
        Self {
            block_len,
            pool,
            offset: head_len as u64,
            trailer_offset: 0,
            block_count: 0,
            pending: None,
            stage: BEFORE_LEN,
        }
    }

    /// Takes bytes from the front of `input`; a frame when one is complete, `None` when `input` is
    /// used up.
    pub(crate) fn feed(&mut self, input: &mut &[u8]) -> Result<Option<Frame>, OpenError> {
        loop {
            match &mut self.stage {
                Stage::Len { bytes, have } => {
                    self.offset += fill(input, bytes, have);
                    if *have < LEN_LEN {
                        return Ok(None);
                    }
                    let field = u32::from_be_bytes(*bytes);
                    let (is_trailer, len) = (field & TRAILER_BIT != 0, (field & !TRAILER_BIT) as usize);
                    if let Some((buffer, len)) = self.pending.take() {
                        let index = self.block_count - 1;
                        return Ok(Some(Frame::Block(BlockFrame { index, buffer, len, last: is_trailer })));
                    }
                    self.begin_frame(field, is_trailer, len)?;
                }
                Stage::Block { buffer, have, len } => {
                    self.offset += fill(input, &mut buffer.as_mut()[..*len], have);
                    if have < len {
                        return Ok(None);
                    }
                    if let Stage::Block { buffer, len, .. } = std::mem::replace(&mut self.stage, BEFORE_LEN) {
                        self.pending = Some((buffer, len));
                        self.block_count += 1;
                    }
                }
                Stage::Trailer { bytes, len } => {
                    let (taken, rest) = input.split_at(input.len().min(*len - bytes.len()));
                    // Grows with what really arrives, not with what the length claims.
                    bytes.extend_from_slice(taken);
                    *input = rest;
                    self.offset += taken.len() as u64;
                    if bytes.len() < *len {
                        return Ok(None);
                    }
                    let frame = std::mem::take(bytes);
                    self.stage = Stage::Footer { bytes: [0; FOOTER_LEN], have: 0 };
                    return Ok(Some(Frame::Trailer(frame)));
                }
                Stage::Footer { bytes, have } => {
                    self.offset += fill(input, bytes, have);
                    if *have < FOOTER_LEN {
                        return Ok(None);
                    }
                    let known = Footer { trailer_offset: self.trailer_offset, block_count: self.block_count };
                    if Footer::parse(bytes)? != known {
                        return Err(OpenError::Trailer);
                    }
                    self.stage = Stage::End;
                }
                Stage::End if input.is_empty() => return Ok(None),
                Stage::End => return Err(OpenError::TrailingBytes),
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// Says that the file ends here; its length.
    pub(crate) fn finish(&self) -> Result<u64, OpenError> {
        if matches!(self.stage, Stage::End) { Ok(self.offset) } else { Err(OpenError::Truncated) }
    }

    fn begin_frame(&mut self, field: u32, is_trailer: bool, len: usize) -> Result<(), OpenError> {
        if is_trailer {
            if !(TRAILER_LEN_MIN..=TRAILER_LEN_MAX).contains(&len) {
                return Err(OpenError::Trailer);
            }
            self.trailer_offset = self.offset - LEN_LEN as u64;
            self.stage = Stage::Trailer { bytes: field.to_be_bytes().to_vec(), len: LEN_LEN + len };
            return Ok(());
        }
        let longest = self.block_len.get() + BLOCK_OVERHEAD;
        if !(BLOCK_FRAME_MIN..=longest).contains(&len) || self.block_count == BLOCKS_MAX {
            return Err(OpenError::Block(self.block_count));
        }
        let mut buffer = self.pool.take();
        buffer.as_mut()[..LEN_LEN].copy_from_slice(&field.to_be_bytes());
        self.stage = Stage::Block { buffer, have: LEN_LEN, len: LEN_LEN + len };
        Ok(())
    }
}

/// Moves bytes from the front of `input` into `target`, which has `have` already; how many.
fn fill(input: &mut &[u8], target: &mut [u8], have: &mut usize) -> u64 {
    let room = &mut target[*have..];
    let (taken, rest) = input.split_at(input.len().min(room.len()));
    room[..taken.len()].copy_from_slice(taken);
    *have += taken.len();
    *input = rest;
    taken.len() as u64
}
