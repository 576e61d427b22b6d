//! Opening without input or output: bytes in, authenticated plaintext out, one thread. The parallel
//! opener of [`stream`](crate::stream) goes through the same functions.

use std::sync::Arc;

use backup_core::{Expected, Sha256Digest};
use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::aead::AeadKey;
use crate::block::{BlockOpener, open_trailer};
use crate::error::{Mismatch, OpenError};
use crate::format::frames::{BlockFrame, Frame, FrameReader};
use crate::format::limits::LEN_LEN;
use crate::format::trailer::TrailerFacts;
use crate::format::{Head, HeadReader, Trailer};
use crate::pool::Pool;
use crate::recipients::{Identity, unwrap_head};
use crate::tree::{self, Follower, RootHasher, Tree};

/// What a trusted manifest says, made ready for checking.
#[derive(Debug, Clone)]
pub(crate) struct Checks {
    expected: Expected,
    tree: Option<Tree<Arc<[u8]>>>,
}

impl Checks {
    /// Checks the tree's file against its root, when there are both. A tree whose root nobody
    /// vouches for is refused.
    pub(crate) fn new(expected: Expected) -> Result<Self, OpenError> {
        let tree = expected.tree.clone().map(Tree::parse).transpose()?;
        if let Some(tree) = &tree {
            let root = expected.tree_root.ok_or(OpenError::NotTheExpectedObject(Mismatch::Tree))?;
            tree.require_root(root)?;
        }
        Ok(Self { expected, tree })
    }

    /// Checks the head, before any private key is used.
    pub(crate) fn head(&self, head: &Head) -> Result<(), OpenError> {
        let wrong = |mismatch| Err(OpenError::NotTheExpectedObject(mismatch));
        if self.expected.head_sha256.is_some_and(|known| known != head.sha256()) {
            return wrong(Mismatch::Head);
        }
        if self.expected.id.is_some_and(|known| known != head.header().id) {
            return wrong(Mismatch::Id);
        }
        Ok(())
    }

    /// Hashes a frame and checks it before anything of it is used, where it has a leaf of its own; the
    /// hash, when anybody needs it.
    pub(crate) fn frame(&self, index: u64, frame: &[u8]) -> Result<Option<[u8; 32]>, OpenError> {
        if self.expected.tree_root.is_none() {
            return Ok(None);
        }
        let leaf = tree::leaf(frame);
        if let Some(tree) = &self.tree
            && tree.span() == 1
        {
            tree.require_leaf(index, &leaf, frame.len() as u64)?;
        }
        Ok(Some(leaf))
    }

    /// Takes what [`Checks::frame`] gave and the length of every frame, in order; whether all so far are
    /// proved, which with several frames under a leaf they are at the end of each.
    pub(crate) fn in_order(
        &self,
        follower: &mut Follower,
        leaf: Option<[u8; 32]>,
        len: usize,
    ) -> Result<bool, OpenError> {
        match (&self.tree, leaf) {
            (Some(tree), Some(leaf)) if tree.span() > 1 => follower.push(tree, leaf, len),
            _ => Ok(true),
        }
    }

    /// The tree, where it has several frames under a leaf.
    pub(crate) fn coarse_tree(&self) -> Option<&Tree<Arc<[u8]>>> {
        self.tree.as_ref().filter(|tree| tree.span() > 1)
    }

    /// Checks the object's length.
    pub(crate) fn len(&self, len: u64) -> Result<(), OpenError> {
        match self.expected.object_len {
            Some(known) if known != len => Err(OpenError::NotTheExpectedObject(Mismatch::Length)),
            _ => Ok(()),
        }
    }

    /// Checks the number of frames and the root over them.
    pub(crate) fn root(&self, frames: u64, root: &RootHasher) -> Result<(), OpenError> {
        if self.tree.as_ref().is_some_and(|tree| tree.len() != frames) {
            return Err(OpenError::NotTheExpectedObject(Mismatch::Tree));
        }
        match self.expected.tree_root {
            Some(known) if known != root.root() => Err(OpenError::NotTheExpectedObject(Mismatch::TreeRoot)),
            _ => Ok(()),
        }
    }

    /// What a reader of ranges must have: with a root, also the tree.
    pub(crate) fn require_tree(&self) -> Result<(), OpenError> {
        if self.expected.tree_root.is_some() && self.tree.is_none() {
            return Err(OpenError::NotTheExpectedObject(Mismatch::TreeMissing));
        }
        Ok(())
    }

    /// The number of frames in the tree, when there is one.
    pub(crate) fn tree_len(&self) -> Option<u64> {
        self.tree.as_ref().map(Tree::len)
    }
}

/// Checks a head and finds the key of its payload. May take seconds of CPU when there are
/// passphrases.
pub(crate) fn unlock(
    head: &Head,
    checks: &Checks,
    identities: &[Arc<dyn Identity>],
) -> Result<Arc<AeadKey>, OpenError> {
    checks.head(head)?;
    Ok(Arc::new(unwrap_head(head, identities)?.payload_key(&head.header().salt)))
}

/// A block that was authenticated and decompressed.
#[derive(Debug)]
pub(crate) struct OpenedBlock {
    pub(crate) plain: Bytes,
    frame_len: usize,
    leaf: Option<[u8; 32]>,
}

/// Opens one frame.
pub(crate) fn open_block(
    opener: &mut BlockOpener,
    checks: &Checks,
    frame: BlockFrame,
    pool: &Arc<Pool>,
) -> Result<OpenedBlock, OpenError> {
    let BlockFrame { index, buffer, len, last } = frame;
    let leaf = checks.frame(index, &buffer.as_ref()[..len])?;
    let plain = opener.open(index, buffer, len, last, pool)?;
    Ok(OpenedBlock { plain, frame_len: len, leaf })
}

/// What is counted while opened blocks go by, in order, to be compared with the trailer.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    blocks: u64,
    /// Over the index that the trailer must have.
    index: Sha256,
    source_len: u64,
    root: RootHasher,
    follower: Follower,
}

impl Tally {
    /// Counts the next block; whether all blocks so far are proved by the tree, if there is one.
    pub(crate) fn push(&mut self, checks: &Checks, block: &OpenedBlock) -> Result<bool, OpenError> {
        self.blocks += 1;
        self.index.update(((block.frame_len - LEN_LEN) as u32).to_be_bytes());
        self.source_len += block.plain.len() as u64;
        self.count(checks, block.leaf, block.frame_len)
    }

    /// Counts the trailer; whether all is proved by the tree, if there is one.
    pub(crate) fn push_trailer(&mut self, checks: &Checks, trailer: &[u8]) -> Result<bool, OpenError> {
        let leaf = checks.frame(self.blocks, trailer)?;
        self.count(checks, leaf, trailer.len())
    }

    fn count(&mut self, checks: &Checks, leaf: Option<[u8; 32]>, len: usize) -> Result<bool, OpenError> {
        if let Some(leaf) = leaf {
            self.root.push(leaf);
        }
        checks.in_order(&mut self.follower, leaf, len)
    }

    /// Opens the trailer, which was counted, and compares everything it says with what went by.
    pub(crate) fn finish(
        self,
        key: &AeadKey,
        head: &Head,
        checks: &Checks,
        mut trailer: Vec<u8>,
        sha256: Sha256Digest,
        object_len: u64,
    ) -> Result<TrailerFacts, OpenError> {
        let block_count = self.blocks;
        let plain = open_trailer(key, block_count, &mut trailer)?;
        let trailer = Trailer::parse(plain, block_count, head.header().block_len)?;
        let facts = trailer.facts;
        let mut index = Sha256::new();
        trailer.block_lens.iter().for_each(|len| index.update(len.to_be_bytes()));
        if index.finalize() != self.index.finalize()
            || facts.source_len != self.source_len
            || facts.source_sha256 != sha256
        {
            return Err(OpenError::Trailer);
        }
        checks.len(object_len)?;
        checks.root(block_count + 1, &self.root)?;
        Ok(facts)
    }
}

/// Opens in the calling thread. After an error it gives that error again and releases nothing more.
pub struct Opener {
    identities: Vec<Arc<dyn Identity>>,
    checks: Checks,
    stage: Stage,
}

enum Stage {
    Head(HeadReader),
    Body(Box<Body>),
    Failed(OpenError),
}

struct Body {
    head: Head,
    key: Arc<AeadKey>,
    blocks: BlockOpener,
    pool: Arc<Pool>,
    frames: FrameReader,
    tally: Tally,
    sha256: Sha256,
    /// Plaintext that the tree has not proved yet.
    held: Vec<Bytes>,
    trailer: Option<Vec<u8>>,
}

impl Opener {
    /// Opens with any of these identities; what `expected` pins is checked.
    ///
    /// # Errors
    /// When the expected hash tree is malformed or has another root.
    pub fn new(identities: Vec<Arc<dyn Identity>>, expected: Expected) -> Result<Self, OpenError> {
        let checks = Checks::new(expected)?;
        Ok(Self { identities, checks, stage: Stage::Head(HeadReader::default()) })
    }

    /// The head, once it was read and proven.
    #[must_use]
    pub fn head(&self) -> Option<&Head> {
        match &self.stage {
            Stage::Body(body) => Some(&body.head),
            _ => None,
        }
    }

    /// Takes bytes of the file; `release` is given authenticated plaintext, in order.
    ///
    /// # Errors
    /// What is wrong with the file; nothing from the bad block on was released.
    pub fn push(&mut self, mut input: &[u8], release: &mut dyn FnMut(&[u8])) -> Result<(), OpenError> {
        let result = self.advance(&mut input, release);
        if let Err(error) = &result {
            self.stage = Stage::Failed(error.clone());
        }
        result
    }

    /// Says that the file ends here. Only after this is the plaintext known to be whole.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn finish(self) -> Result<TrailerFacts, OpenError> {
        match self.stage {
            Stage::Head(reader) => Err(reader.cut_off()),
            Stage::Failed(error) => Err(error),
            Stage::Body(body) => {
                let Body { head, key, frames, tally, sha256, trailer, .. } = *body;
                let object_len = frames.finish()?;
                let trailer = trailer.ok_or(OpenError::Truncated)?;
                let sha256 = Sha256Digest(sha256.finalize().into());
                tally.finish(&key, &head, &self.checks, trailer, sha256, object_len)
            }
        }
    }

    fn advance(&mut self, input: &mut &[u8], release: &mut dyn FnMut(&[u8])) -> Result<(), OpenError> {
        if let Stage::Head(reader) = &mut self.stage {
            let Some(head) = reader.feed(input)? else { return Ok(()) };
            let key = unlock(&head, &self.checks, &self.identities)?;
            let block_len = head.header().block_len;
            let pool = Pool::new(BlockOpener::buffer_len(block_len), 3);
            let frames = FrameReader::new(head.bytes().len(), block_len, Arc::clone(&pool));
            let blocks = BlockOpener::new(Arc::clone(&key), block_len);
            let (tally, sha256, held, trailer) = Default::default();
            let body = Body { head, key, blocks, pool, frames, tally, sha256, held, trailer };
            self.stage = Stage::Body(Box::new(body));
        }
        match &mut self.stage {
            Stage::Body(body) => body.advance(&self.checks, input, release),
            Stage::Failed(error) => Err(error.clone()),
            Stage::Head(_) => Ok(()),
        }
    }
}

impl Body {
    fn advance(
        &mut self,
        checks: &Checks,
        input: &mut &[u8],
        release: &mut dyn FnMut(&[u8]),
    ) -> Result<(), OpenError> {
        while let Some(frame) = self.frames.feed(input)? {
            let proved = match frame {
                Frame::Block(frame) => {
                    let block = open_block(&mut self.blocks, checks, frame, &self.pool)?;
                    self.sha256.update(&block.plain);
                    let proved = self.tally.push(checks, &block)?;
                    self.held.push(block.plain);
                    proved
                }
                Frame::Trailer(frame) => {
                    let proved = self.tally.push_trailer(checks, &frame)?;
                    self.trailer = Some(frame);
                    proved
                }
            };
            if proved {
                self.held.drain(..).for_each(|plain| release(&plain));
            }
        }
        Ok(())
    }
}

impl std::fmt::Debug for Opener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let stage = match &self.stage {
            Stage::Head(_) => "head",
            Stage::Body(_) => "body",
            Stage::Failed(_) => "failed",
        };
        f.debug_tuple("Opener").field(&stage).finish()
    }
}
