//! One block: compressed and sealed, or opened and decompressed. Every sealer and every reader goes
//! through these functions.

use std::sync::Arc;

use bytes::Bytes;
use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe;

use crate::aead::{AeadKey, NONCE_LEN, TAG_LEN};
use crate::error::{OpenError, SealError};
use crate::format::limits::{BLOCK_OVERHEAD, BlockLen, LEN_LEN, TRAILER_BIT};
use crate::format::zstd_frame;
use crate::pool::{Buffer, Pool};
use crate::seal::Compression;
use crate::tree;

/// Where a block's body begins in its frame: after the length and the codec byte.
pub const BODY_AT: usize = LEN_LEN + 1;
/// Bytes that a block's frame has beside its body.
pub const FRAME_OVERHEAD: usize = LEN_LEN + BLOCK_OVERHEAD;

const STORED: u8 = 0;
const ZSTD: u8 = 1;

const KIND_BLOCK: u8 = 0;
const KIND_TRAILER: u8 = 1;

/// The counter as 11 bytes BE, then the kind. A counter has at most 23 bits.
fn nonce(counter: u64, kind: u8) -> [u8; NONCE_LEN] {
    let mut nonce = [0; NONCE_LEN];
    nonce[3..11].copy_from_slice(&counter.to_be_bytes());
    nonce[11] = kind;
    nonce
}

/// Seals the frame in place: room for the length, plaintext, room for the tag.
fn seal_frame(key: &AeadKey, counter: u64, kind: u8, frame: &mut [u8]) -> Result<(), SealError> {
    let len = frame.len() - LEN_LEN;
    let bit = if kind == KIND_TRAILER { TRAILER_BIT } else { 0 };
    frame[..LEN_LEN].copy_from_slice(&(len as u32 | bit).to_be_bytes());
    let (text, tag) = frame[LEN_LEN..].split_at_mut(len - TAG_LEN);
    tag.copy_from_slice(&key.seal(nonce(counter, kind), &[], text)?);
    Ok(())
}

/// Opens the frame in place; the plaintext stands between length and tag afterwards.
fn open_frame<'a>(key: &AeadKey, counter: u64, kind: u8, frame: &'a mut [u8]) -> Option<&'a mut [u8]> {
    let (text, tag) = frame.get_mut(LEN_LEN..)?.split_last_chunk_mut::<TAG_LEN>()?;
    key.open(nonce(counter, kind), &[], text, tag).ok()?;
    Some(text)
}

/// Seals the trailer's frame in place: room for the length, plaintext, room for the tag.
pub(crate) fn seal_trailer(key: &AeadKey, block_count: u64, frame: &mut [u8]) -> Result<(), SealError> {
    seal_frame(key, block_count, KIND_TRAILER, frame)
}

/// Opens the trailer's frame in place.
pub(crate) fn open_trailer<'a>(
    key: &AeadKey,
    block_count: u64,
    frame: &'a mut [u8],
) -> Result<&'a [u8], OpenError> {
    open_frame(key, block_count, KIND_TRAILER, frame).map(|plain| &*plain).ok_or(OpenError::Trailer)
}

/// Seals stored blocks in place and nothing else: no compression, no hashes. What a benchmark sets
/// against the bare cipher, and what every block goes through.
pub struct FrameSealer(AeadKey);

impl FrameSealer {
    /// Seals with a payload key.
    #[must_use]
    pub fn new(payload_key: &zeroize::Zeroizing<[u8; 32]>) -> Self {
        Self(AeadKey::new(payload_key))
    }

    /// Seals block `index`. `frame` has the body from [`BODY_AT`] and room for the tag at its end.
    ///
    /// # Errors
    /// Only when the cipher's library breaks its promise, or the frame has no room for a body.
    pub fn seal_stored(&self, index: u64, frame: &mut [u8]) -> Result<(), SealError> {
        if frame.len() <= FRAME_OVERHEAD {
            return Err(SealError::Internal("a block without a body"));
        }
        frame[LEN_LEN] = STORED;
        seal_frame(&self.0, index, KIND_BLOCK, frame)
    }
}

impl std::fmt::Debug for FrameSealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FrameSealer(..)")
    }
}

/// A sealed block.
#[derive(Debug)]
pub(crate) struct SealedBlock {
    /// The whole frame.
    pub(crate) frame: Bytes,
    /// Its hash in the tree.
    pub(crate) leaf: [u8; 32],
}

impl SealedBlock {
    /// The value of the frame's length field.
    pub(crate) fn len(&self) -> u32 {
        (self.frame.len() - LEN_LEN) as u32
    }
}

/// Compresses and seals blocks; one for each worker, for its compressor is reused.
pub(crate) struct BlockSealer {
    key: Arc<AeadKey>,
    compressor: Option<(Compressor<'static>, Vec<u8>)>,
}

impl BlockSealer {
    pub(crate) fn new(
        key: Arc<AeadKey>,
        compression: Compression,
        block_len: BlockLen,
    ) -> Result<Self, SealError> {
        let compressor = match compression {
            Compression::None => None,
            Compression::Zstd(level) => {
                let compressor = Compressor::new(level).map_err(|_| SealError::Level(level))?;
                Some((compressor, vec![0; zstd_safe::compress_bound(block_len.get())]))
            }
        };
        Ok(Self { key, compressor })
    }

    /// Length of the buffers that [`BlockSealer::seal`] takes.
    pub(crate) fn buffer_len(block_len: BlockLen) -> usize {
        block_len.get() + FRAME_OVERHEAD
    }

    /// Compresses the body, which stands in `buffer` from [`BODY_AT`]: the compressed body, when
    /// that is shorter.
    fn compress(&mut self, body: &[u8]) -> Result<Option<&[u8]>, SealError> {
        let Some((compressor, scratch)) = &mut self.compressor else { return Ok(None) };
        let len = compressor
            .compress_to_buffer(body, scratch.as_mut_slice())
            .map_err(|_| SealError::Internal("zstd refused a block"))?;
        Ok((len < body.len()).then_some(&scratch[..len]))
    }

    /// Seals block `index`, whose `len` bytes of source stand in `buffer` from [`BODY_AT`].
    /// `look` sees the source first, before it is overwritten.
    pub(crate) fn seal<E: From<SealError>>(
        &mut self,
        index: u64,
        mut buffer: Buffer,
        len: usize,
        look: impl FnOnce(&[u8]) -> Result<(), E>,
    ) -> Result<SealedBlock, E> {
        let key = Arc::clone(&self.key);
        let source = &buffer.as_ref()[BODY_AT..BODY_AT + len];
        look(source)?;
        let compressed = self.compress(source)?;
        let (codec, body_len) = match compressed {
            Some(body) => (ZSTD, body.len()),
            None => (STORED, len),
        };
        let frame_len = body_len + FRAME_OVERHEAD;
        let (frame, leaf);
        if let Some(body) = compressed {
            // An exact buffer: a pooled one would hold a whole block's memory for what is a part of
            // it, for as long as a writer downstream keeps it.
            let mut exact = Vec::with_capacity(frame_len);
            exact.extend_from_slice(&[0; LEN_LEN]);
            exact.push(codec);
            exact.extend_from_slice(body);
            exact.extend_from_slice(&[0; TAG_LEN]);
            seal_frame(&key, index, KIND_BLOCK, &mut exact)?;
            leaf = tree::leaf(&exact);
            frame = exact.into();
        } else {
            let whole = &mut buffer.as_mut()[..frame_len];
            whole[LEN_LEN] = codec;
            seal_frame(&key, index, KIND_BLOCK, whole)?;
            leaf = tree::leaf(whole);
            frame = buffer.into_bytes(0..frame_len);
        }
        Ok(SealedBlock { frame, leaf })
    }
}

/// Opens and decompresses blocks; one for each worker, for its decompressor is reused.
pub(crate) struct BlockOpener {
    key: Arc<AeadKey>,
    block_len: BlockLen,
    decompressor: Decompressor<'static>,
}

impl BlockOpener {
    pub(crate) fn new(key: Arc<AeadKey>, block_len: BlockLen) -> Self {
        // The default context has no dictionary and does not fail to be made but for memory.
        Self { key, block_len, decompressor: Decompressor::default() }
    }

    /// Length of the buffers that [`BlockOpener::open`] takes: the longest frame.
    pub(crate) fn buffer_len(block_len: BlockLen) -> usize {
        block_len.get() + FRAME_OVERHEAD
    }

    /// Opens block `index`, whose frame stands in the first `frame_len` bytes of `buffer`. Only the
    /// `last` block may be shorter than the block length. A second buffer is taken from `pool` when
    /// the block is compressed.
    pub(crate) fn open(
        &mut self,
        index: u64,
        mut buffer: Buffer,
        frame_len: usize,
        last: bool,
        pool: &Arc<Pool>,
    ) -> Result<Bytes, OpenError> {
        let refused = || OpenError::Block(index);
        let frame = buffer.as_mut().get_mut(..frame_len).ok_or_else(refused)?;
        let plain = open_frame(&self.key, index, KIND_BLOCK, frame).ok_or_else(refused)?;
        let (codec, body) = plain.split_first().ok_or_else(refused)?;
        let fits =
            |len: usize| len > 0 && len <= self.block_len.get() && (last || len == self.block_len.get());
        match *codec {
            STORED if fits(body.len()) => {
                let body = BODY_AT..BODY_AT + body.len();
                Ok(buffer.into_bytes(body))
            }
            ZSTD => {
                let len = zstd_frame::content_len(body)
                    .and_then(|len| usize::try_from(len).ok())
                    .filter(|len| fits(*len))
                    .ok_or_else(refused)?;
                let whole = zstd_safe::find_frame_compressed_size(body) == Ok(body.len());
                if !whole || !zstd_frame::declares(body, len, self.block_len.get()) {
                    return Err(refused());
                }
                let mut out = pool.take();
                let target = out.as_mut().get_mut(..len).ok_or_else(refused)?;
                let written = self.decompressor.decompress_to_buffer(body, target).map_err(|_| refused())?;
                if written == len { Ok(out.into_bytes(0..len)) } else { Err(refused()) }
            }
            _ => Err(refused()),
        }
    }
}
