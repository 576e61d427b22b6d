//! Reading any range of the plaintext without what stands before it, and no less safely. Without
//! input or output: it says which bytes of the object it wants and is given them.
//!
//! Order of trust: the header MAC; then the trailer, found by the footer, whose block count is
//! proven by being the trailer's nonce; then the index must explain every byte of the object. Only
//! then is a block released. With a manifest, head and tree are checked before any of that.

use std::ops::Range;
use std::sync::Arc;

use backup_core::Expected;
use bytes::Bytes;

use crate::aead::AeadKey;
use crate::block::{BlockOpener, open_trailer};
use crate::error::{Mismatch, OpenError};
use crate::format::frames::BlockFrame;
use crate::format::limits::{
    BLOCK_FRAME_MIN, BLOCKS_MAX, FOOTER_LEN, LEN_LEN, TRAILER_BIT, TRAILER_LEN_MAX, TRAILER_LEN_MIN,
};
use crate::format::trailer::TrailerFacts;
use crate::format::{Footer, Head, HeadReader, Trailer};
use crate::open::{self, Checks};
use crate::pool::Pool;
use crate::recipients::Identity;
use crate::tree::Tree;

/// Enough for the head of nearly every file.
const FIRST_FETCH: u64 = 16 << 10;
/// Offsets are kept for one block in so many; the others are summed up.
const STRIDE: usize = 256;

/// An envelope that is being opened for reading ranges.
pub struct RangeOpening {
    identities: Vec<Arc<dyn Identity>>,
    checks: Checks,
    object_len: u64,
    stage: Stage,
}

enum Stage {
    Head { reader: HeadReader, have: u64 },
    Footer(Unlocked),
    Trailer(Unlocked, Footer),
}

struct Unlocked {
    head: Head,
    key: Arc<AeadKey>,
}

/// What became of an opening after bytes were supplied.
#[derive(Debug)]
pub enum Progress {
    /// It wants more.
    More(RangeOpening),
    /// Ranges can be read.
    Ready(RangeReader),
}

impl RangeOpening {
    /// Begins with an object of `object_len` bytes.
    ///
    /// # Errors
    /// `NotTheExpectedObject` when `expected` has another length, or a root without a tree, or a tree
    /// of another root.
    pub fn new(
        identities: Vec<Arc<dyn Identity>>,
        expected: Expected,
        object_len: u64,
    ) -> Result<Self, OpenError> {
        let checks = Checks::new(expected)?;
        checks.require_tree()?;
        checks.len(object_len)?;
        let stage = Stage::Head { reader: HeadReader::default(), have: 0 };
        Ok(Self { identities, checks, object_len, stage })
    }

    /// The bytes of the object that are wanted next; never empty, never beyond the object's end.
    ///
    /// # Errors
    /// When the object is too short to have them.
    pub fn wanted(&self) -> Result<Range<u64>, OpenError> {
        let end = self.object_len;
        let range = match &self.stage {
            Stage::Head { reader, have } => match reader.len_wanted()? {
                None => *have..(have + FIRST_FETCH).min(end),
                Some(len) if len > end => return Err(OpenError::Truncated),
                Some(len) => *have..len,
            },
            Stage::Footer(_) => end.saturating_sub(FOOTER_LEN as u64)..end,
            Stage::Trailer(_, footer) => {
                let end = end - FOOTER_LEN as u64;
                last_leaf(&self.checks, end).unwrap_or(footer.trailer_offset)..end
            }
        };
        if range.is_empty() {
            return Err(match &self.stage {
                Stage::Head { reader, .. } => reader.cut_off(),
                _ => OpenError::Truncated,
            });
        }
        Ok(range)
    }

    /// Takes exactly the bytes that were wanted. May take seconds of CPU when there are passphrases.
    ///
    /// # Errors
    /// What is wrong with the object.
    pub fn supply(mut self, bytes: &[u8]) -> Result<Progress, OpenError> {
        let wanted = self.wanted()?;
        if bytes.len() as u64 != wanted.end - wanted.start {
            return Err(OpenError::Truncated);
        }
        self.stage = match self.stage {
            Stage::Head { mut reader, have } => match reader.feed(&mut &*bytes)? {
                None => Stage::Head { reader, have: have + bytes.len() as u64 },
                Some(head) => {
                    let key = open::unlock(&head, &self.checks, &self.identities)?;
                    Stage::Footer(Unlocked { head, key })
                }
            },
            Stage::Footer(unlocked) => {
                let last = bytes.try_into().map_err(|_| OpenError::Truncated)?;
                let footer = Footer::parse(last)?;
                check_footer(&footer, &unlocked.head, &self.checks, self.object_len)?;
                Stage::Trailer(unlocked, footer)
            }
            Stage::Trailer(unlocked, footer) => {
                let mut trailer = bytes;
                if let Some(tree) = self.checks.coarse_tree() {
                    tree.require_frames((tree.len() - 1) / tree.span(), bytes)?;
                    let before = (footer.trailer_offset - wanted.start) as usize;
                    trailer = bytes.get(before..).ok_or(OpenError::Trailer)?;
                }
                return RangeReader::new(unlocked, self.checks, footer, trailer.to_vec())
                    .map(Progress::Ready);
            }
        };
        Ok(Progress::More(self))
    }
}

/// Where the frames under the last leaf begin, the trailer among them, when a leaf has several; they end
/// at `end`. By the lengths in the tree, which are proved when the bytes are.
fn last_leaf(checks: &Checks, end: u64) -> Option<u64> {
    let len = checks.coarse_tree()?.lens()?.next_back()?;
    end.checked_sub(len.into())
}

/// Looks at what the footer claims before anything is fetched or allocated by it.
fn check_footer(footer: &Footer, head: &Head, checks: &Checks, object_len: u64) -> Result<(), OpenError> {
    let Footer { trailer_offset, block_count } = *footer;
    let blocks_len = trailer_offset.checked_sub(head.bytes().len() as u64);
    let trailer_len =
        object_len.checked_sub((FOOTER_LEN + LEN_LEN) as u64).and_then(|end| end.checked_sub(trailer_offset));
    let possible = block_count <= BLOCKS_MAX
        && blocks_len.is_some_and(|len| len >= block_count * (LEN_LEN + BLOCK_FRAME_MIN) as u64)
        && trailer_len.is_some_and(|len| (TRAILER_LEN_MIN as u64..=TRAILER_LEN_MAX as u64).contains(&len));
    let blocks_max =
        checks.coarse_tree().map_or(0, Tree::span) * BlockOpener::buffer_len(head.header().block_len) as u64;
    let end = object_len.saturating_sub(FOOTER_LEN as u64);
    let before = last_leaf(checks, end).map(|start| trailer_offset.checked_sub(start));
    if !possible || before.is_some_and(|blocks| blocks.is_none_or(|blocks| blocks > blocks_max)) {
        return Err(OpenError::Trailer);
    }
    match checks.tree_len() {
        Some(frames) if frames != block_count + 1 => Err(OpenError::NotTheExpectedObject(Mismatch::Tree)),
        _ => Ok(()),
    }
}

/// Reads blocks in any order. Every object read through it must be the same one, pinned by its
/// version; a block of another is refused.
pub struct RangeReader {
    head: Head,
    key: Arc<AeadKey>,
    checks: Checks,
    facts: TrailerFacts,
    block_lens: Vec<u32>,
    offsets: Vec<u64>,
    trailer_end: u64,
    pool: Arc<Pool>,
}

impl RangeReader {
    fn new(
        unlocked: Unlocked,
        checks: Checks,
        footer: Footer,
        mut trailer: Vec<u8>,
    ) -> Result<Self, OpenError> {
        let Unlocked { head, key } = unlocked;
        let block_len = head.header().block_len;
        checks.frame(footer.block_count, &trailer)?;
        let field = trailer.len().checked_sub(LEN_LEN).map(|len| (len as u32 | TRAILER_BIT).to_be_bytes());
        if field.as_ref().map(<[u8; 4]>::as_slice) != trailer.get(..LEN_LEN) {
            return Err(OpenError::Trailer);
        }
        let trailer_len = trailer.len() as u64;
        let plain = open_trailer(&key, footer.block_count, &mut trailer)?;
        let Trailer { facts, block_lens } = Trailer::parse(plain, footer.block_count, block_len)?;
        let mut offset = head.bytes().len() as u64;
        let mut offsets = Vec::with_capacity(block_lens.len() / STRIDE + 1);
        for stride in block_lens.chunks(STRIDE) {
            offsets.push(offset);
            offset += frames_len(stride);
        }
        if offset != footer.trailer_offset {
            return Err(OpenError::Trailer);
        }
        let pool = Pool::new(BlockOpener::buffer_len(block_len), 4);
        let trailer_end = offset + trailer_len;
        Ok(Self { head, key, checks, facts, block_lens, offsets, trailer_end, pool })
    }

    /// The proven head.
    #[must_use]
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Length, digest and report of the plaintext, from the trailer.
    #[must_use]
    pub fn facts(&self) -> &TrailerFacts {
        &self.facts
    }

    /// How many blocks there are.
    #[must_use]
    pub fn block_count(&self) -> u64 {
        self.block_lens.len() as u64
    }

    /// The blocks that hold a range of the plaintext; what lies beyond its end is left out.
    #[must_use]
    pub fn blocks(&self, plain: Range<u64>) -> Range<u64> {
        let block_len = self.head.header().block_len.bytes();
        let end = plain.end.min(self.facts.source_len);
        if plain.start >= end {
            return 0..0;
        }
        plain.start / block_len..end.div_ceil(block_len)
    }

    /// Where in the object the bytes stand that a block is opened from: its frame, or where the tree has
    /// several frames under a leaf, all of those. `None` when there is no such block.
    #[must_use]
    pub fn frame(&self, index: u64) -> Option<Range<u64>> {
        let own = self.own_frame(index)?;
        let Some(tree) = self.checks.coarse_tree() else { return Some(own) };
        let first = index / tree.span() * tree.span();
        let last = (first + tree.span()).min(tree.len()) - 1;
        let end = self.own_frame(last).map_or(self.trailer_end, |frame| frame.end);
        Some(self.own_frame(first)?.start..end)
    }

    fn own_frame(&self, index: u64) -> Option<Range<u64>> {
        let at = usize::try_from(index).ok()?;
        let len = u64::from(*self.block_lens.get(at)?) + LEN_LEN as u64;
        let before = self.block_lens.get(at / STRIDE * STRIDE..at)?;
        let start = self.offsets.get(at / STRIDE)? + frames_len(before);
        Some(start..start + len)
    }

    /// Opens a block from the bytes that stand at [`RangeReader::frame`].
    ///
    /// # Errors
    /// `Block` when it is not the one that was sealed in this place, `NotTheExpectedObject` when its
    /// hash is not in the tree.
    pub fn open(&self, index: u64, frame: &[u8]) -> Result<Bytes, OpenError> {
        let refused = OpenError::Block(index);
        let place = self.own_frame(index).ok_or_else(|| refused.clone())?;
        let mut frame = frame;
        if let (Some(tree), Some(all)) = (self.checks.coarse_tree(), self.frame(index)) {
            tree.require_frames(index / tree.span(), frame)?;
            let own = (place.start - all.start) as usize..(place.end - all.start) as usize;
            frame = frame.get(own).ok_or_else(|| refused.clone())?;
        }
        let block_len = self.head.header().block_len;
        let last = index + 1 == self.block_count();
        let field = (frame.len().saturating_sub(LEN_LEN) as u32).to_be_bytes();
        if frame.len() as u64 != place.end - place.start || !frame.starts_with(&field) {
            // The hash says better what is wrong, when there is one.
            self.checks.frame(index, frame)?;
            return Err(refused);
        }
        let mut buffer = self.pool.take();
        buffer.as_mut()[..frame.len()].copy_from_slice(frame);
        let mut opener = BlockOpener::new(Arc::clone(&self.key), block_len);
        let block = BlockFrame { index, buffer, len: frame.len(), last };
        let plain = open::open_block(&mut opener, &self.checks, block, &self.pool)?.plain;
        let expected = (self.facts.source_len - index * block_len.bytes()).min(block_len.bytes());
        if plain.len() as u64 == expected { Ok(plain) } else { Err(refused) }
    }

    /// The part of block `index` that lies in a range of the plaintext, as a range of the block.
    #[must_use]
    pub fn part(&self, index: u64, plain: &Range<u64>) -> Range<usize> {
        let block_len = self.head.header().block_len.bytes();
        let start = index * block_len;
        let len = self.facts.source_len.saturating_sub(start).min(block_len);
        let within = |at: u64| at.saturating_sub(start).min(len) as usize;
        within(plain.start)..within(plain.end)
    }
}

/// Bytes that frames of these lengths take.
fn frames_len(block_lens: &[u32]) -> u64 {
    block_lens.iter().map(|len| u64::from(*len) + LEN_LEN as u64).sum()
}

impl std::fmt::Debug for RangeOpening {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RangeOpening").field("object_len", &self.object_len).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for RangeReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RangeReader").field("blocks", &self.block_lens.len()).finish_non_exhaustive()
    }
}
