//! The numbers of the format. Each is checked before anything of that size is allocated.

use std::fmt;

/// The first bytes of every envelope.
pub const MAGIC: &[u8; 8] = b"STRONGRM";
/// The version that is read and written.
pub const VERSION: u16 = 1;
/// Magic, version and header length.
pub const PREFIX_LEN: usize = 14;
/// The longest header, in bytes.
pub const HEADER_LEN_MAX: usize = 1 << 20;
/// The MAC after the header, in bytes.
pub const HEADER_MAC_LEN: usize = 32;
/// The most recipients.
pub const STANZAS_MAX: usize = 64;
/// The most recipients that are passphrases.
pub const PASSPHRASES_MAX: usize = 2;
/// The length before each frame, in bytes.
pub const LEN_LEN: usize = 4;
/// What a block adds to its body: the codec byte and the tag.
pub const BLOCK_OVERHEAD: usize = 1 + 16;
/// The shortest block: one byte of body.
pub const BLOCK_FRAME_MIN: usize = BLOCK_OVERHEAD + 1;
/// The most blocks.
pub const BLOCKS_MAX: u64 = 1 << 23;
/// The longest trailer, in bytes after its length.
pub const TRAILER_LEN_MAX: usize = 64 << 20;
/// The shortest trailer: the JSON's length and the tag.
pub const TRAILER_LEN_MIN: usize = 4 + 16;
/// Set in a frame's length when the frame is the trailer.
pub const TRAILER_BIT: u32 = 1 << 31;
/// The end mark, in bytes.
pub const FOOTER_LEN: usize = 20;
/// The last bytes of every envelope.
pub const FOOTER_MAGIC: &[u8; 4] = b"SRND";

/// Bytes of plaintext in every block but the last: a power of two from 64 KiB to 16 MiB.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockLen(u32);

impl BlockLen {
    /// 64 KiB.
    pub const MIN: Self = Self(1 << 16);
    /// 1 MiB, the default: larger blocks are no faster and cost memory.
    pub const DEFAULT: Self = Self(1 << 20);
    /// 16 MiB.
    pub const MAX: Self = Self(1 << 24);

    /// A block length in bytes; `None` when the format does not have it.
    #[must_use]
    pub fn new(bytes: u64) -> Option<Self> {
        let bytes = u32::try_from(bytes).ok()?;
        (bytes.is_power_of_two() && (Self::MIN.0..=Self::MAX.0).contains(&bytes)).then_some(Self(bytes))
    }

    /// The length for data of about `estimate` bytes: the default, or the smallest larger one that
    /// keeps the count of blocks at 2^19, so that the index (4 bytes for each block, in memory until the
    /// end) stays at 2 MiB and every block has a leaf of its own in the hash tree. An estimate that is too
    /// low by a factor of 16 still fits.
    #[must_use]
    pub fn for_estimate(estimate: Option<u64>) -> Self {
        let mut len = Self::DEFAULT;
        while len < Self::MAX && estimate.unwrap_or(0) / len.bytes() > 1 << 19 {
            len = Self(len.0 * 2);
        }
        len
    }

    /// In bytes.
    #[must_use]
    pub fn bytes(self) -> u64 {
        u64::from(self.0)
    }

    /// In bytes, for indexing.
    #[must_use]
    pub fn get(self) -> usize {
        self.0 as usize
    }
}

impl Default for BlockLen {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl fmt::Debug for BlockLen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_powers_of_two_within_the_bounds() {
        for good in [1 << 16, 1 << 17, 1 << 20, 1 << 24] {
            assert_eq!(BlockLen::new(good).map(BlockLen::bytes), Some(good));
        }
        for bad in [0, 1, 1 << 15, (1 << 16) + 1, 3 << 16, 1 << 25, 1 << 32, (1 << 32) + (1 << 20), u64::MAX]
        {
            assert_eq!(BlockLen::new(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_estimate_bounds_the_index() {
        const GIB: u64 = 1 << 30;
        let table = [
            (None, 1),
            (Some(0), 1),
            (Some(512 * GIB), 1),
            (Some(1024 * GIB), 2),
            (Some(8192 * GIB), 16),
            (Some(u64::MAX), 16),
        ];
        for (estimate, mib) in table {
            assert_eq!(BlockLen::for_estimate(estimate).bytes(), mib << 20, "{estimate:?}");
        }
    }
}
