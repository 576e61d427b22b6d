//! The hash tree over an envelope's frames (RFC 6962, section 2.1): any range can be checked
//! against the signed root without a key.
//!
//! The leaves are the frames in order, each whole with its length: blocks, then the trailer. The
//! file `data.tree` is `"SRTREE02"`, the number of leaves as u64 BE, the leaves, then for each frame
//! its length in bytes as u32 BE, so that one frame can be fetched without those before it. The root is
//! over the leaves; a length is proved by the leaf of the frame it leads to. `"SRTREE01"` has no lengths.
//!
//! Of more than 2^19 frames the file is `"SRTREE03"`, the number of frames, and for each span of frames
//! the root of its own small tree and its length; then the length of the last frame, the trailer. A span is
//! the smallest power of two with which there are at most 2^19 of them, so these are nodes of the same
//! tree, and the root is the same too.

use backup_core::Sha256Digest;
use sha2::{Digest, Sha256};

use crate::error::{Mismatch, OpenError};
use crate::format::limits::{BLOCKS_MAX, LEN_LEN, TRAILER_BIT};

const MAGIC: &[u8; 8] = b"SRTREE02";
/// Without the lengths.
const MAGIC_LEAVES: &[u8; 8] = b"SRTREE01";
/// With several frames under one leaf.
const MAGIC_SPANS: &[u8; 8] = b"SRTREE03";
const HEAD_LEN: usize = 16;

/// The most leaves that are written: a longer file has 2, 4, 8 or 16 frames under each, so that the tree
/// takes no more than 18 MiB of memory however long a stream becomes. Of the unit tests' files most are long.
const LEAVES_MAX: u64 = if cfg!(test) { 16 } else { 1 << 19 };

/// How many frames stand under one leaf of a file that has at most `leaves_max`.
fn span_of(frames: u64, leaves_max: u64) -> u64 {
    let mut span = 1;
    while frames.div_ceil(span) > leaves_max {
        span *= 2;
    }
    span
}

/// The hash of one frame.
#[must_use]
pub fn leaf(frame: &[u8]) -> [u8; 32] {
    let mut hash = Sha256::new_with_prefix([0]);
    hash.update(frame);
    hash.finalize().into()
}

fn node(left: &[u8; 32], right: &[u8; 32]) -> [u8; 32] {
    let mut hash = Sha256::new_with_prefix([1]);
    hash.update(left);
    hash.update(right);
    hash.finalize().into()
}

/// The root over leaves that come one by one; holds one hash per level.
#[derive(Debug, Clone, Default)]
pub struct RootHasher {
    // Roots of the perfect subtrees so far, the largest first, each with its number of leaves.
    subtrees: Vec<(u64, [u8; 32])>,
}

impl RootHasher {
    /// Takes the next leaf.
    pub fn push(&mut self, leaf: [u8; 32]) {
        let (mut count, mut hash) = (1, leaf);
        while let Some((_, left)) = self.subtrees.pop_if(|(n, _)| *n == count) {
            hash = node(&left, &hash);
            count *= 2;
        }
        self.subtrees.push((count, hash));
    }

    /// The root; of no leaves, the hash of nothing.
    #[must_use]
    pub fn root(&self) -> Sha256Digest {
        let mut from_right = self.subtrees.iter().rev();
        let Some((_, first)) = from_right.next() else { return Sha256Digest::of(b"") };
        Sha256Digest(from_right.fold(*first, |right, (_, left)| node(left, &right)))
    }
}

/// Collects leaves into the content of `data.tree`, in bounded memory.
#[derive(Debug, Clone)]
pub(crate) struct TreeBuilder {
    leaves_max: u64,
    span: u64,
    frames: u64,
    /// The file so far: what stands over whole spans.
    file: Vec<u8>,
    /// The lengths of whole spans.
    lens: Vec<u32>,
    /// The span that is not whole yet, and its length.
    open: (RootHasher, u32),
    last_len: u32,
    root: RootHasher,
}

impl TreeBuilder {
    pub(crate) fn new() -> Self {
        Self::with_leaves_max(LEAVES_MAX)
    }

    /// `leaves_max` is a power of two above 1.
    fn with_leaves_max(leaves_max: u64) -> Self {
        let (lens, open, last_len, root) = Default::default();
        Self { leaves_max, span: 1, frames: 0, file: vec![0; HEAD_LEN], lens, open, last_len, root }
    }

    /// Takes the next frame's leaf and length.
    pub(crate) fn push(&mut self, leaf: [u8; 32], frame_len: u32) {
        if self.lens.len() as u64 == self.leaves_max {
            self.double();
        }
        self.root.push(leaf);
        self.open.0.push(leaf);
        self.open.1 += frame_len;
        self.last_len = frame_len;
        self.frames += 1;
        if self.frames.is_multiple_of(self.span) {
            self.close();
        }
    }

    /// Ends a span.
    fn close(&mut self) {
        let (hasher, len) = std::mem::take(&mut self.open);
        self.file.extend_from_slice(&hasher.root().0);
        self.lens.push(len);
    }

    /// Puts spans together by twos; all of them are whole then.
    fn double(&mut self) {
        let (leaves, _) = self.file[HEAD_LEN..].as_chunks_mut::<32>();
        let half = leaves.len() / 2;
        for i in 0..half {
            leaves[i] = node(&leaves[2 * i], &leaves[2 * i + 1]);
            self.lens[i] = self.lens[2 * i] + self.lens[2 * i + 1];
        }
        self.file.truncate(HEAD_LEN + half * 32);
        self.lens.truncate(half);
        self.span *= 2;
    }

    /// The file and its root.
    pub(crate) fn finish(mut self) -> (Vec<u8>, Sha256Digest) {
        if !self.frames.is_multiple_of(self.span) {
            self.close();
        }
        let magic = if self.span == 1 { MAGIC } else { MAGIC_SPANS };
        self.file[..8].copy_from_slice(magic);
        self.file[8..HEAD_LEN].copy_from_slice(&self.frames.to_be_bytes());
        self.file.reserve_exact(self.lens.len() * 4 + 4);
        if self.span > 1 {
            self.lens.push(self.last_len);
        }
        self.lens.iter().for_each(|len| self.file.extend_from_slice(&len.to_be_bytes()));
        (self.file, self.root.root())
    }
}

/// A `data.tree` whose shape was checked.
#[derive(Debug, Clone)]
pub struct Tree<B> {
    file: B,
    frames: u64,
    span: u64,
    leaves: usize,
}

impl<B: AsRef<[u8]>> Tree<B> {
    /// Reads the file's bytes.
    ///
    /// # Errors
    /// [`Mismatch::Tree`] when they are not exactly a tree's.
    pub fn parse(file: B) -> Result<Self, OpenError> {
        match shape(file.as_ref()) {
            Some((frames, span, leaves)) => Ok(Self { file, frames, span, leaves }),
            None => Err(OpenError::NotTheExpectedObject(Mismatch::Tree)),
        }
    }

    fn leaves(&self) -> &[[u8; 32]] {
        self.file.as_ref()[HEAD_LEN..HEAD_LEN + self.leaves * 32].as_chunks().0
    }

    /// How many frames.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.frames
    }

    /// How many frames stand under one leaf, the last one aside: 1 unless there are very many.
    #[must_use]
    pub fn span(&self) -> u64 {
        self.span
    }

    /// For each leaf the length in bytes of the frames under it, their length fields included; nothing of
    /// it is proved. `None` for a file that does not tell.
    #[must_use]
    pub fn lens(&self) -> Option<impl DoubleEndedIterator<Item = u32> + '_> {
        let lens = self.len_fields().get(..self.leaves)?;
        Some(lens.iter().map(|len| u32::from_be_bytes(*len)))
    }

    /// The length of the last frame, the trailer, where the file tells lengths.
    #[must_use]
    pub fn last_len(&self) -> Option<u32> {
        self.len_fields().last().map(|len| u32::from_be_bytes(*len))
    }

    /// Empty for a file that does not tell.
    fn len_fields(&self) -> &[[u8; 4]] {
        self.file.as_ref()[HEAD_LEN + self.leaves * 32..].as_chunks().0
    }

    /// Whether there is no frame; no envelope is like that.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The root over all leaves.
    #[must_use]
    pub fn root(&self) -> Sha256Digest {
        let mut root = RootHasher::default();
        self.leaves().iter().for_each(|leaf| root.push(*leaf));
        root.root()
    }

    /// Checks that the tree has this root.
    ///
    /// # Errors
    /// [`Mismatch::Tree`].
    pub fn require_root(&self, root: Sha256Digest) -> Result<(), OpenError> {
        if self.root() == root { Ok(()) } else { Err(OpenError::NotTheExpectedObject(Mismatch::Tree)) }
    }

    /// Checks a hash against the leaf in its place; and the length of what it is over, where the file
    /// tells lengths.
    ///
    /// # Errors
    /// [`Mismatch::Frame`], with the first frame under it, when one differs or there is no such leaf.
    pub fn require_leaf(&self, index: u64, leaf: &[u8; 32], len: u64) -> Result<(), OpenError> {
        let refused = OpenError::NotTheExpectedObject(Mismatch::Frame(index.saturating_mul(self.span)));
        let at = usize::try_from(index).ok().filter(|at| self.leaves().get(*at) == Some(leaf));
        let Some(at) = at else { return Err(refused) };
        // Damage of the lengths is found by whoever reads them, not by the sample that would need them.
        let known = self.len_fields().get(at).map(|known| u64::from(u32::from_be_bytes(*known)));
        if known.is_none_or(|known| known == len) { Ok(()) } else { Err(refused) }
    }

    /// Checks all the frames under one leaf, which stand in `bytes` one after the other.
    ///
    /// # Errors
    /// [`Mismatch::Frame`] when they are not exactly those.
    pub fn require_frames(&self, index: u64, bytes: &[u8]) -> Result<(), OpenError> {
        let (mut root, mut rest) = (RootHasher::default(), bytes);
        while let Some(field) = rest.first_chunk() {
            // The leaf proves the bytes; the fields in them must lead from frame to frame.
            let len = (u32::from_be_bytes(*field) & !TRAILER_BIT) as usize + LEN_LEN;
            let Some((frame, behind)) = rest.split_at_checked(len) else { break };
            root.push(leaf(frame));
            rest = behind;
        }
        let known = if rest.is_empty() { root.root().0 } else { [0; 32] };
        self.require_leaf(index, &known, bytes.len() as u64)
    }
}

/// The number of frames, how many are under a leaf, and the number of leaves, if the file is exactly as
/// long as it says and has no more and no fewer leaves than is written.
fn shape(bytes: &[u8]) -> Option<(u64, u64, usize)> {
    let (magic, rest) = bytes.split_first_chunk::<8>()?;
    let (frames, rest) = rest.split_first_chunk::<8>()?;
    let frames = u64::from_be_bytes(*frames);
    let (each, span, more) = match magic {
        MAGIC => (36, 1, 0),
        MAGIC_LEAVES => (32, 1, 0),
        MAGIC_SPANS if (LEAVES_MAX + 1..=BLOCKS_MAX + 1).contains(&frames) => {
            (36, span_of(frames, LEAVES_MAX), 4)
        }
        _ => return None,
    };
    let leaves = usize::try_from(frames.div_ceil(span)).ok()?;
    (leaves.checked_mul(each)?.checked_add(more)? == rest.len()).then_some((frames, span, leaves))
}

/// Holds frames that come in order against a tree with several of them under a leaf.
#[derive(Debug, Default)]
pub(crate) struct Follower {
    frames: u64,
    open: RootHasher,
    open_len: u64,
}

impl Follower {
    /// Takes the hash and the length of the next frame; whether all frames so far are proved.
    pub(crate) fn push<B: AsRef<[u8]>>(
        &mut self,
        tree: &Tree<B>,
        leaf: [u8; 32],
        len: usize,
    ) -> Result<bool, OpenError> {
        self.open.push(leaf);
        self.open_len += len as u64;
        self.frames += 1;
        if !self.frames.is_multiple_of(tree.span) && self.frames < tree.frames {
            return Ok(false);
        }
        let known = std::mem::take(&mut self.open).root().0;
        tree.require_leaf((self.frames - 1) / tree.span, &known, std::mem::take(&mut self.open_len))?;
        if self.frames == tree.frames && tree.last_len().is_some_and(|known| known as usize != len) {
            return Err(OpenError::NotTheExpectedObject(Mismatch::Frame(self.frames - 1)));
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition of RFC 6962, word for word.
    fn reference(leaves: &[[u8; 32]]) -> [u8; 32] {
        match leaves {
            [] => Sha256::digest([]).into(),
            [one] => *one,
            many => {
                let k = many.len().next_power_of_two() / 2;
                node(&reference(&many[..k]), &reference(&many[k..]))
            }
        }
    }

    /// Frame `i` of length `i + 5`, with its length field.
    fn frame(i: u32) -> Vec<u8> {
        [&(i + 1).to_be_bytes()[..], &vec![7; i as usize + 1]].concat()
    }

    fn built(count: u32) -> (Vec<u8>, Sha256Digest) {
        let mut builder = TreeBuilder::new();
        (0..count).for_each(|i| builder.push(leaf(&frame(i)), i + 5));
        builder.finish()
    }

    #[test]
    fn the_root_is_that_of_the_standard_for_every_count() {
        for count in 0..=150_u32 {
            let leaves: Vec<_> = (0..count).map(|i| leaf(&frame(i))).collect();
            let (file, root) = built(count);
            assert_eq!(root.0, reference(&leaves), "{count} leaves");
            let tree = Tree::parse(&file).unwrap();
            assert_eq!((tree.len(), tree.root()), (u64::from(count), root));
            assert_eq!(tree.span() > 1, u64::from(count) > LEAVES_MAX, "{count}");
            assert!(tree.leaves().len() as u64 <= LEAVES_MAX);
            assert_eq!(tree.last_len(), count.checked_sub(1).map(|last| last + 5));
            assert!(
                tree.span() == 1 || tree.leaves().len() as u64 > LEAVES_MAX / 2,
                "no coarser than needed"
            );
            for (i, expected) in leaves.chunks(tree.span() as usize).enumerate() {
                let (first, index) = (i as u32 * tree.span() as u32, i as u64);
                let len: u64 = (first..).zip(expected).map(|(i, _)| u64::from(i) + 5).sum();
                assert_eq!(tree.require_leaf(index, &reference(expected), len), Ok(()));
                assert!(tree.require_leaf(index, &reference(expected), len - 1).is_err());
                assert!(tree.require_leaf(index + 1, &reference(expected), len).is_err());
                let bytes: Vec<u8> = (first..).zip(expected).flat_map(|(i, _)| frame(i)).collect();
                assert_eq!(tree.require_frames(index, &bytes), Ok(()));
                assert!(tree.require_frames(index, &bytes[..bytes.len() - 1]).is_err());
                assert!(tree.require_frames(index, &[&bytes[..], &[0]].concat()).is_err());
            }
            // The first version has the leaves alone, however many.
            let without = [MAGIC_LEAVES, &u64::from(count).to_be_bytes()[..], leaves.as_flattened()].concat();
            let tree = Tree::parse(without).unwrap();
            assert_eq!((tree.len(), tree.root(), tree.span()), (u64::from(count), root, 1));
            assert!(count == 0 || tree.lens().is_none());
        }
    }

    #[test]
    fn frames_in_order_are_proved_at_the_end_of_each_span() {
        for count in [1, 16, 17, 18, 63, 64, 65, 129_u32] {
            let (file, _) = built(count);
            let tree = Tree::parse(&file).unwrap();
            for damaged in [None, Some(0), Some(count / 2), Some(count - 1)] {
                let mut follower = Follower::default();
                let mut proved = 0;
                let outcome = (0..count).try_for_each(|i| {
                    let bytes = if damaged == Some(i) { b"else".to_vec() } else { frame(i) };
                    if follower.push(&tree, leaf(&bytes), i as usize + 5)? {
                        proved = u64::from(i) + 1;
                    }
                    Ok::<_, OpenError>(())
                });
                match damaged {
                    None => assert_eq!((outcome, proved), (Ok(()), u64::from(count))),
                    Some(i) => {
                        let first = u64::from(i) / tree.span() * tree.span();
                        let refused = OpenError::NotTheExpectedObject(Mismatch::Frame(first));
                        assert_eq!((outcome, proved), (Err(refused), first), "{count}");
                    }
                }
            }
            let mut follower = Follower::default();
            for i in 0..count {
                follower.push(&tree, leaf(&frame(i)), i as usize + 5).unwrap();
            }
            assert!(follower.push(&tree, leaf(b"one more"), 8).is_err());
        }
    }

    /// The real bound, on twice as many frames and one more.
    #[test]
    fn a_long_file_has_a_tree_of_bounded_size() {
        const MAX: u64 = 1 << 19;
        let (mut builder, mut root) = (TreeBuilder::with_leaves_max(MAX), RootHasher::default());
        for i in 0..=2 * MAX {
            let leaf = leaf(&i.to_be_bytes());
            builder.push(leaf, 16 << 20);
            root.push(leaf);
            assert!(builder.file.len() <= HEAD_LEN + 32 * MAX as usize);
        }
        let (file, found) = builder.finish();
        assert_eq!(found, root.root());
        assert_eq!(file.len(), HEAD_LEN + 36 * (MAX as usize / 2 + 1) + 4);
    }

    #[test]
    fn the_published_root_of_seven_leaves_holds() {
        // The well-known inputs of the Certificate Transparency test suite, first seven of eight.
        let inputs: [&[u8]; 7] = [
            b"",
            b"\x00",
            b"\x10",
            b"\x20\x21",
            b"\x30\x31",
            b"\x40\x41\x42\x43",
            b"\x50\x51\x52\x53\x54\x55\x56\x57",
        ];
        let mut root = RootHasher::default();
        inputs.iter().for_each(|input| root.push(leaf(input)));
        let known = "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c";
        assert_eq!(root.root().to_string(), known);
    }

    #[test]
    fn another_length_is_no_tree() {
        for count in [1, 20] {
            let (file, _) = built(count);
            assert!(Tree::parse(&file).is_ok());
            for len in 0..file.len() {
                assert!(Tree::parse(&file[..len]).is_err(), "{len}");
            }
            assert!(Tree::parse([file.as_slice(), &[0]].concat()).is_err());
            for frames in [0, 15, 16, 22, BLOCKS_MAX + 2, u64::MAX] {
                let mut other = file.clone();
                other[8..16].copy_from_slice(&frames.to_be_bytes());
                assert!(Tree::parse(other).is_err(), "{frames}");
            }
        }
        // Several frames under a leaf only where there are too many for one each.
        let mut few = built(20).0;
        few[8..16].copy_from_slice(&10_u64.to_be_bytes());
        assert!(Tree::parse(few).is_err());
    }
}
