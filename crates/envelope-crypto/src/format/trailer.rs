//! The trailer's plaintext: what is known only at the end, and the index of the blocks.

use backup_core::{DumpReport, Sha256Digest};
use serde::{Deserialize, Serialize};

use super::limits::{BLOCK_FRAME_MIN, BLOCK_OVERHEAD, BLOCKS_MAX, BlockLen, LEN_LEN, TRAILER_LEN_MAX};
use crate::aead::TAG_LEN;
use crate::error::{OpenError, SealError};

/// What the trailer says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trailer {
    /// The sealed facts.
    pub facts: TrailerFacts,
    /// The length field of every block, in order.
    pub block_lens: Vec<u32>,
}

/// The trailer's JSON. It is inside the ciphertext, so it may be any UTF-8.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrailerFacts {
    /// Bytes of plaintext.
    pub source_len: u64,
    /// Their digest.
    pub source_sha256: Sha256Digest,
    /// What the dump says of itself.
    pub report: DumpReport,
}

impl TrailerFacts {
    /// The frame that is sealed, before the index of the blocks: room for the length, plaintext, room for the
    /// tag. There is memory for `behind` bytes more. The index, 4 bytes for every block, is not copied.
    ///
    /// # Errors
    /// `ReportTooLong`.
    pub(crate) fn into_frame(self, index: Vec<u8>, behind: usize) -> Result<Vec<u8>, SealError> {
        let json =
            serde_json::to_vec(&self).map_err(|_| SealError::Internal("the trailer could not be written"))?;
        if 4 + json.len() + index.len() + TAG_LEN > TRAILER_LEN_MAX {
            return Err(SealError::ReportTooLong);
        }
        let mut before = vec![0; LEN_LEN];
        before.extend_from_slice(&(json.len() as u32).to_be_bytes());
        before.extend_from_slice(&json);
        let mut frame = index;
        frame.reserve_exact(before.len() + TAG_LEN + behind);
        frame.splice(..0, before);
        frame.extend_from_slice(&[0; TAG_LEN]);
        Ok(frame)
    }
}

impl Trailer {
    /// Reads the plaintext of a trailer after `block_count` blocks and checks what it says against
    /// itself.
    ///
    /// # Errors
    /// `Trailer`.
    pub fn parse(bytes: &[u8], block_count: u64, block_len: BlockLen) -> Result<Self, OpenError> {
        Self::read(bytes, block_count, block_len).ok_or(OpenError::Trailer)
    }

    fn read(bytes: &[u8], block_count: u64, block_len: BlockLen) -> Option<Self> {
        let (json_len, rest) = bytes.split_first_chunk()?;
        let (json, index) = rest.split_at_checked(u32::from_be_bytes(*json_len) as usize)?;
        let facts: TrailerFacts = serde_json::from_slice(json).ok()?;
        let (lens, []) = index.as_chunks::<4>() else { return None };
        let block_lens: Vec<u32> = lens.iter().map(|len| u32::from_be_bytes(*len)).collect();
        let longest = block_len.get() + BLOCK_OVERHEAD;
        let good = block_count <= BLOCKS_MAX
            && block_lens.len() as u64 == block_count
            && block_lens.iter().all(|len| (BLOCK_FRAME_MIN..=longest).contains(&(*len as usize)))
            && facts.source_len.div_ceil(block_len.bytes()) == block_count;
        good.then_some(Self { facts, block_lens })
    }
}
