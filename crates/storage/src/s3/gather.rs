//! A part that is being gathered.

use bytes::{Bytes, BytesMut};
use opendal::Buffer;

/// Chunks below this are copied together, so that a part is not a list of crumbs.
const CRUMB: usize = 64 * 1024;

/// Bytes that will be sent together; larger chunks are kept as they came.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    pieces: Vec<Bytes>,
    crumbs: BytesMut,
    len: u64,
}

impl Gathered {
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Takes what fits into `full` bytes and gives back the rest.
    pub(super) fn fill(&mut self, mut chunk: Bytes, full: u64) -> Bytes {
        let room = usize::try_from(full.saturating_sub(self.len)).unwrap_or(usize::MAX);
        let piece = chunk.split_to(chunk.len().min(room));
        self.len += piece.len() as u64;
        if piece.len() < CRUMB {
            self.crumbs.extend_from_slice(&piece);
            if self.crumbs.len() >= 1 << 20 {
                self.pieces.push(self.crumbs.split().freeze());
            }
        } else {
            if !self.crumbs.is_empty() {
                self.pieces.push(self.crumbs.split().freeze());
            }
            self.pieces.push(piece);
        }
        chunk
    }

    /// Everything, in order; empty afterwards.
    pub(super) fn take(&mut self) -> Buffer {
        let mut all = std::mem::take(self);
        if !all.crumbs.is_empty() {
            all.pieces.push(all.crumbs.freeze());
        }
        Buffer::from(all.pieces)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_of_all_lengths_stay_in_order_and_within_the_part() {
        let source: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
        let mut gathered = Gathered::default();
        let mut out = Vec::new();
        let mut at = 0;
        for len in [1, 70_000, 3, 1_500_000, 64 * 1024, 10, 1_200_000].iter().cycle() {
            let mut chunk = Bytes::copy_from_slice(&source[at..(at + len).min(source.len())]);
            at = (at + len).min(source.len());
            while !chunk.is_empty() {
                chunk = gathered.fill(chunk, 500_000);
                assert!(gathered.len() <= 500_000);
                if gathered.len() == 500_000 {
                    out.extend(gathered.take().to_vec());
                }
            }
            if at == source.len() {
                break;
            }
        }
        out.extend(gathered.take().to_vec());
        assert!(gathered.is_empty() && out == source);
    }
}
