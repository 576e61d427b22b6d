//! The parts of a stored envelope, each to be checked alone and without a key.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use backup_core::{Error, ErrorKind, Expected, Frames, Result, Stage};

use crate::block::BlockOpener;
use crate::error::{Mismatch, OpenError};
use crate::format::limits::{BlockLen, FOOTER_LEN, LEN_LEN, TRAILER_LEN_MAX};
use crate::format::{Footer, Head};
use crate::open::Checks;
use crate::tree::Tree;

/// Where one part in so many lies is kept; the others are summed up.
const STRIDE: usize = 256;

/// Where the parts of one envelope lie, by the lengths beside its tree. A part is a frame, or the frames
/// under one leaf where there are very many. A wrong length leads to bytes that do not hash to the
/// leaf, so nothing has to be believed.
pub(super) struct Parts {
    checks: Checks,
    tree: Tree<Arc<[u8]>>,
    lens: Vec<u32>,
    /// Where every [`STRIDE`]th part begins, counted from the first.
    landmarks: Vec<u64>,
    head_len: u64,
    object_len: u64,
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts")
            .field("parts", &self.lens.len())
            .field("object_len", &self.object_len)
            .finish_non_exhaustive()
    }
}

impl Parts {
    /// Checks the tree against its root and its lengths against the object's.
    ///
    /// # Errors
    /// `Integrity`; `Unsupported` for a tree without lengths.
    pub(super) fn new(expected: Expected) -> Result<Self> {
        let wrong = || Error::from(OpenError::NotTheExpectedObject(Mismatch::Tree));
        let (file, object_len) = match (&expected.tree, expected.tree_root, expected.object_len) {
            (Some(tree), Some(_), Some(len)) => (tree.clone(), len),
            _ => return Err(OpenError::NotTheExpectedObject(Mismatch::TreeMissing).into()),
        };
        let checks = Checks::new(expected)?;
        let tree = Tree::parse(file)?;
        let lens: Vec<u32> = tree.lens().ok_or_else(no_lens)?.collect();
        let mut landmarks = Vec::with_capacity(lens.len() / STRIDE + 1);
        let mut sum = 0u64;
        for (index, len) in lens.iter().enumerate() {
            if index % STRIDE == 0 {
                landmarks.push(sum);
            }
            // No more than such frames can have, the trailer among them, so that no more is fetched.
            let most = tree.span() as usize * BlockOpener::buffer_len(BlockLen::MAX) + TRAILER_LEN_MAX;
            if !(LEN_LEN + 1..=most).contains(&(*len as usize)) {
                return Err(wrong());
            }
            sum += u64::from(*len);
        }
        let behind = sum + FOOTER_LEN as u64;
        let head_len = object_len.checked_sub(behind).filter(|len| *len > 0).ok_or_else(wrong)?;
        if lens.is_empty() {
            return Err(wrong());
        }
        Ok(Self { checks, tree, lens, landmarks, head_len, object_len })
    }
}

fn no_lens() -> Error {
    Error::new(
        ErrorKind::Unsupported,
        "reading parts of a backup without a key",
        "its data.tree is of the first version, which does not say where each part lies",
    )
    .with_hint("verify the whole of it: leave out --sample")
    .at(Stage::Verify)
}

impl Frames for Parts {
    fn count(&self) -> u64 {
        self.lens.len() as u64
    }

    fn head(&self) -> Range<u64> {
        0..self.head_len
    }

    fn place(&self, index: u64) -> Option<Range<u64>> {
        let index = usize::try_from(index).ok()?;
        let len = u64::from(*self.lens.get(index)?);
        let mark = index / STRIDE;
        let since: u64 = self.lens[mark * STRIDE..index].iter().map(|len| u64::from(*len)).sum();
        let start = self.head_len + self.landmarks.get(mark)? + since;
        Some(start..start + len)
    }

    fn end(&self) -> Range<u64> {
        self.object_len - FOOTER_LEN as u64..self.object_len
    }

    fn check_head(&self, bytes: &[u8]) -> Result<()> {
        Ok(self.checks.head(&Head::parse(bytes)?)?)
    }

    fn check(&self, index: u64, bytes: &[u8]) -> Result<()> {
        Ok(self.tree.require_frames(index, bytes)?)
    }

    fn check_end(&self, bytes: &[u8]) -> Result<()> {
        let last = u64::from(self.tree.last_len().unwrap_or(0));
        let expected = (self.object_len - FOOTER_LEN as u64)
            .checked_sub(last)
            .map(|trailer_offset| Footer { trailer_offset, block_count: self.tree.len() - 1 }.to_bytes());
        if expected.is_some_and(|expected| bytes == expected) {
            Ok(())
        } else {
            Err(OpenError::Truncated.into())
        }
    }
}
