//! The hash tree over an envelope's frames (RFC 6962, section 2.1): any range can be checked
//! against the signed root without a key.
//!
//! The leaves are the frames in order, each whole with its length: blocks, then the trailer. The
//! file `data.tree` is `"SRTREE02"`, the number of leaves as u64 BE, the leaves, then for each frame
//! its length in bytes as u32 BE, so that one frame can be fetched without those before it. The root is
//! over the leaves; a length is proved by the leaf of the frame it leads to. `"SRTREE01"` has no lengths.

use backup_core::Sha256Digest;
use sha2::{Digest, Sha256};

use crate::error::{Mismatch, OpenError};

const MAGIC: &[u8; 8] = b"SRTREE02";
/// Without the lengths.
const MAGIC_LEAVES: &[u8; 8] = b"SRTREE01";
const HEAD_LEN: usize = 16;

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

/// Collects leaves into the content of `data.tree`.
#[derive(Debug, Clone)]
pub(crate) struct TreeBuilder {
    file: Vec<u8>,
    root: RootHasher,
}

impl TreeBuilder {
    pub(crate) fn new() -> Self {
        let mut file = MAGIC.to_vec();
        file.extend_from_slice(&[0; 8]);
        Self { file, root: RootHasher::default() }
    }

    pub(crate) fn push(&mut self, leaf: [u8; 32]) {
        self.file.extend_from_slice(&leaf);
        self.root.push(leaf);
    }

    /// The file and its root, once the length of every frame is known.
    pub(crate) fn finish(mut self, frame_lens: impl Iterator<Item = u32>) -> (Vec<u8>, Sha256Digest) {
        let count = (self.file.len() - HEAD_LEN) as u64 / 32;
        self.file[8..HEAD_LEN].copy_from_slice(&count.to_be_bytes());
        self.file.reserve_exact(frame_lens.size_hint().0 * 4);
        frame_lens.for_each(|len| self.file.extend_from_slice(&len.to_be_bytes()));
        (self.file, self.root.root())
    }
}

/// A `data.tree` whose shape was checked.
#[derive(Debug, Clone)]
pub struct Tree<B> {
    file: B,
    count: usize,
}

impl<B: AsRef<[u8]>> Tree<B> {
    /// Reads the file's bytes.
    ///
    /// # Errors
    /// [`Mismatch::Tree`] when they are not exactly a tree's.
    pub fn parse(file: B) -> Result<Self, OpenError> {
        match Self::shape(file.as_ref()) {
            Some(count) => Ok(Self { file, count }),
            None => Err(OpenError::NotTheExpectedObject(Mismatch::Tree)),
        }
    }

    /// The number of leaves, if the file is exactly as long as it says.
    fn shape(bytes: &[u8]) -> Option<usize> {
        let (magic, rest) = bytes.split_first_chunk::<8>()?;
        let (count, rest) = rest.split_first_chunk::<8>()?;
        let each = match magic {
            MAGIC => 36,
            MAGIC_LEAVES => 32,
            _ => return None,
        };
        let count = usize::try_from(u64::from_be_bytes(*count)).ok()?;
        (count.checked_mul(each)? == rest.len()).then_some(count)
    }

    fn leaves(&self) -> &[u8] {
        &self.file.as_ref()[HEAD_LEN..HEAD_LEN + self.count * 32]
    }

    /// How many frames.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.count as u64
    }

    /// The length of each frame in bytes, its length field included; nothing of it is proved. `None`
    /// for a file that does not tell.
    #[must_use]
    pub fn frame_lens(&self) -> Option<impl Iterator<Item = u32> + '_> {
        let lens = &self.file.as_ref()[HEAD_LEN + self.count * 32..];
        (lens.len() == self.count * 4).then(|| lens.as_chunks().0.iter().map(|len| u32::from_be_bytes(*len)))
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
        self.leaves().as_chunks().0.iter().for_each(|leaf| root.push(*leaf));
        root.root()
    }

    /// Checks that the tree has this root.
    ///
    /// # Errors
    /// [`Mismatch::Tree`].
    pub fn require_root(&self, root: Sha256Digest) -> Result<(), OpenError> {
        if self.root() == root { Ok(()) } else { Err(OpenError::NotTheExpectedObject(Mismatch::Tree)) }
    }

    /// Checks a frame's hash against its place.
    ///
    /// # Errors
    /// [`Mismatch::Frame`] when it differs or there is no such place.
    pub fn require_leaf(&self, index: u64, leaf: &[u8; 32]) -> Result<(), OpenError> {
        let at = usize::try_from(index).ok().and_then(|i| i.checked_mul(32));
        let known = at.and_then(|at| self.leaves().get(at..at.checked_add(32)?));
        if known == Some(leaf) {
            Ok(())
        } else {
            Err(OpenError::NotTheExpectedObject(Mismatch::Frame(index)))
        }
    }
}

impl<B: AsRef<[u8]>> Tree<B> {
    /// Checks a frame's length against its place, where the file tells lengths.
    ///
    /// # Errors
    /// [`Mismatch::Frame`] when it differs.
    pub fn require_len(&self, index: u64, len: usize) -> Result<(), OpenError> {
        let lens = &self.file.as_ref()[HEAD_LEN + self.count * 32..];
        let at = usize::try_from(index).ok().and_then(|index| index.checked_mul(4));
        let known = at.and_then(|at| lens.get(at..)?.first_chunk()).map(|len| u32::from_be_bytes(*len));
        if known.is_none_or(|known| known as usize == len) {
            Ok(())
        } else {
            Err(OpenError::NotTheExpectedObject(Mismatch::Frame(index)))
        }
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

    #[test]
    fn the_root_is_that_of_the_standard_for_every_count() {
        for count in 0..=70_u32 {
            let leaves: Vec<_> = (0..count).map(|i| leaf(&i.to_be_bytes())).collect();
            let mut builder = TreeBuilder::new();
            leaves.iter().for_each(|leaf| builder.push(*leaf));
            let (file, root) = builder.finish(1..=count);
            assert_eq!(root.0, reference(&leaves), "{count} leaves");
            let without = [MAGIC_LEAVES, &file[8..HEAD_LEN + leaves.len() * 32]].concat();
            let tree = Tree::parse(without).unwrap();
            assert_eq!((tree.len(), tree.root()), (u64::from(count), root));
            assert!(count == 0 || tree.frame_lens().is_none());
            let tree = Tree::parse(file).unwrap();
            assert!(tree.frame_lens().unwrap().eq(1..=count));
            assert!((0..count).all(|i| tree.require_len(i.into(), i as usize + 1).is_ok()));
            assert!((0..count).all(|i| tree.require_len(i.into(), i as usize).is_err()));
            assert_eq!((tree.len(), tree.root()), (u64::from(count), root));
            for (i, leaf) in leaves.iter().enumerate() {
                assert_eq!(tree.require_leaf(i as u64, leaf), Ok(()));
                assert!(tree.require_leaf(i as u64 + 1, leaf).is_err());
            }
        }
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
        let mut builder = TreeBuilder::new();
        builder.push([7; 32]);
        let (file, _) = builder.finish(std::iter::once(9));
        assert!(Tree::parse(&file).is_ok());
        for len in 0..file.len() {
            assert!(Tree::parse(&file[..len]).is_err(), "{len}");
        }
        assert!(Tree::parse([file.as_slice(), &[0]].concat()).is_err());
        let mut huge = file.clone();
        huge[8..16].copy_from_slice(&u64::MAX.to_be_bytes());
        assert!(Tree::parse(huge).is_err());
    }
}
