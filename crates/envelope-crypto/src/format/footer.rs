//! The end mark. It finds the trailer for readers that begin at the end; everything it says is
//! known otherwise and must agree.

use super::limits::{FOOTER_LEN, FOOTER_MAGIC};
use crate::error::OpenError;

/// The last 20 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Footer {
    /// Where the trailer begins, from the first byte of the file.
    pub trailer_offset: u64,
    /// How many blocks stand before it.
    pub block_count: u64,
}

impl Footer {
    /// The bytes.
    #[must_use]
    pub fn to_bytes(self) -> [u8; FOOTER_LEN] {
        let mut bytes = [0; FOOTER_LEN];
        bytes[..8].copy_from_slice(&self.trailer_offset.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.block_count.to_be_bytes());
        bytes[16..].copy_from_slice(FOOTER_MAGIC);
        bytes
    }

    /// Reads the last bytes of a file.
    ///
    /// # Errors
    /// `Truncated` when they are not an end mark.
    pub fn parse(bytes: &[u8; FOOTER_LEN]) -> Result<Self, OpenError> {
        let (numbers, magic) = bytes.split_at(16);
        let ([trailer_offset, block_count], []) = numbers.as_chunks::<8>() else {
            return Err(OpenError::Truncated);
        };
        if magic != FOOTER_MAGIC {
            return Err(OpenError::Truncated);
        }
        Ok(Self {
            trailer_offset: u64::from_be_bytes(*trailer_offset),
            block_count: u64::from_be_bytes(*block_count),
        })
    }
}
