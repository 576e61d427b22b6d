//! Sealing without input or output: bytes in, bytes out, one thread. The parallel sealer of
//! [`stream`](crate::stream) goes through the same functions.

use std::collections::HashSet;
use std::sync::Arc;

use backup_core::{BackupId, DumpReport, SealSummary, Sha256Digest};
use sha2::{Digest, Sha256};

use crate::aead::AeadKey;
use crate::block::{BODY_AT, BlockSealer, SealedBlock, seal_trailer};
use crate::error::SealError;
use crate::file_key::{FileKey, random_bytes};
use crate::format::limits::{BLOCKS_MAX, BlockLen, FOOTER_LEN, PASSPHRASES_MAX, STANZAS_MAX};
use crate::format::stanza::PASSPHRASE;
use crate::format::trailer::TrailerFacts;
use crate::format::{Footer, Head, Header};
use crate::pool::{Buffer, Pool};
use crate::recipients::{Binding, Recipient, RecipientClass};
use crate::tree::{self, TreeBuilder};

/// How blocks are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all; block lengths then tell nothing about the content.
    None,
    /// zstd (RFC 8878) at a level from 1 to 22. A block that does not shrink is stored.
    Zstd(i32),
}

/// How to seal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SealOptions {
    /// How blocks are compressed.
    pub compression: Compression,
    /// Bytes of plaintext in a block.
    pub block_len: BlockLen,
    /// Threads that compress and seal; 0 for one per core. Fewer are used when their blocks would
    /// not fit into the memory budget.
    pub workers: usize,
    /// Allow recipients that let the sealing machine read what it sealed: passphrases and secret
    /// keys.
    pub allow_symmetric: bool,
}

impl Default for SealOptions {
    /// zstd 3, blocks of 1 MiB, a worker per core, public keys only.
    fn default() -> Self {
        Self {
            compression: Compression::Zstd(3),
            block_len: BlockLen::DEFAULT,
            workers: 0,
            allow_symmetric: false,
        }
    }
}

/// Checks that recipients and options can be sealed with; derives nothing.
pub(crate) fn check_settings(
    recipients: &[Arc<dyn Recipient>],
    options: &SealOptions,
) -> Result<(), SealError> {
    if let Compression::Zstd(level) = options.compression
        && !(1..=22).contains(&level)
    {
        return Err(SealError::Level(level));
    }
    match recipients.len() {
        0 => return Err(SealError::NoRecipients),
        1..=STANZAS_MAX => {}
        many => return Err(SealError::TooManyRecipients(many)),
    }
    let mut seen = HashSet::new();
    let mut passphrases = 0;
    for recipient in recipients {
        let named = recipient.describe();
        match recipient.class() {
            RecipientClass::Unencrypted if recipients.len() > 1 => return Err(SealError::NoneNotAlone),
            RecipientClass::Symmetric if !options.allow_symmetric => {
                return Err(SealError::SymmetricNotAllowed(named.kind));
            }
            _ => {}
        }
        passphrases += usize::from(named.kind == PASSPHRASE);
        if let Some(key_id) = named.key_id
            && !seen.insert((named.kind.clone(), key_id))
        {
            return Err(SealError::DuplicateRecipient(format!("{} {key_id}", named.kind)));
        }
    }
    if passphrases > PASSPHRASES_MAX {
        return Err(SealError::TooManyPassphrases(passphrases));
    }
    Ok(())
}

/// A new envelope's head and the key of its payload.
pub(crate) struct Started {
    pub(crate) head: Vec<u8>,
    pub(crate) key: Arc<AeadKey>,
}

/// Makes a file key, wraps it for every recipient and writes the head. May take seconds of CPU
/// when there are passphrases.
pub(crate) fn start(
    id: BackupId,
    recipients: &[Arc<dyn Recipient>],
    block_len: BlockLen,
) -> Result<Started, SealError> {
    let file_key = FileKey::random()?;
    let salt = random_bytes()?;
    start_with(&file_key, salt, id, recipients, block_len)
}

pub(crate) fn start_with(
    file_key: &FileKey,
    salt: [u8; 32],
    id: BackupId,
    recipients: &[Arc<dyn Recipient>],
    block_len: BlockLen,
) -> Result<Started, SealError> {
    let binding = Binding { id, salt: &salt };
    let stanzas = recipients.iter().map(|r| r.wrap(file_key, binding)).collect::<Result<_, _>>()?;
    let json = Header { id, block_len, salt, stanzas }.to_json()?;
    let head = Head::write(&json, |covered| file_key.header_key(&salt).sign(covered));
    Ok(Started { head, key: Arc::new(file_key.payload_key(&salt)) })
}

/// What is counted while blocks go by, in order.
pub(crate) struct Tally {
    block_len: BlockLen,
    head_sha256: Sha256Digest,
    offset: u64,
    /// The trailer's index: the length field of every block.
    index: Vec<u8>,
    tree: TreeBuilder,
}

/// An envelope's end.
pub(crate) struct Ending {
    /// Trailer and footer.
    pub(crate) bytes: Vec<u8>,
    pub(crate) summary: SealSummary,
}

impl Tally {
    pub(crate) fn new(head: &[u8], block_len: BlockLen) -> Self {
        Self {
            block_len,
            head_sha256: Sha256Digest::of(head),
            offset: head.len() as u64,
            index: Vec::new(),
            tree: TreeBuilder::new(),
        }
    }

    /// Counts the next block.
    pub(crate) fn push(&mut self, block: &SealedBlock) {
        self.offset += block.frame.len() as u64;
        self.index.extend_from_slice(&block.len().to_be_bytes());
        self.tree.push(block.leaf, block.frame.len() as u32);
    }

    /// Seals the trailer and writes the footer.
    pub(crate) fn finish(
        mut self,
        key: &AeadKey,
        source_len: u64,
        source_sha256: Sha256Digest,
        report: DumpReport,
    ) -> Result<Ending, SealError> {
        let block_count = self.index.len() as u64 / 4;
        if source_len.div_ceil(self.block_len.bytes()) != block_count {
            return Err(SealError::Internal("blocks and bytes of source disagree"));
        }
        let facts = TrailerFacts { source_len, source_sha256, report };
        let mut bytes = facts.into_frame(self.index, FOOTER_LEN)?;
        seal_trailer(key, block_count, &mut bytes)?;
        self.tree.push(tree::leaf(&bytes), bytes.len() as u32);
        bytes.extend_from_slice(&Footer { trailer_offset: self.offset, block_count }.to_bytes());
        let (tree, tree_root) = self.tree.finish();
        let summary = SealSummary { head_sha256: self.head_sha256, tree_root, tree: tree.into(), source_len };
        Ok(Ending { bytes, summary })
    }
}

/// Refuses block `index` when the format does not count so far.
pub(crate) fn check_count(index: u64, block_len: BlockLen) -> Result<(), SealError> {
    if index < BLOCKS_MAX {
        Ok(())
    } else {
        Err(SealError::TooLong { limit: BLOCKS_MAX, block_len: block_len.bytes() as u32 })
    }
}

/// Seals in the calling thread.
pub struct Sealer {
    key: Arc<AeadKey>,
    blocks: BlockSealer,
    block_len: BlockLen,
    pool: Arc<Pool>,
    filling: Option<(Buffer, usize)>,
    tally: Tally,
    index: u64,
    source: Sha256,
    source_len: u64,
}

impl Sealer {
    /// Starts an envelope; the bytes are its head.
    ///
    /// # Errors
    /// When recipients and options do not go together, or the system gives no random bytes.
    pub fn new(
        id: BackupId,
        recipients: &[Arc<dyn Recipient>],
        options: &SealOptions,
    ) -> Result<(Self, Vec<u8>), SealError> {
        check_settings(recipients, options)?;
        Self::from_started(start(id, recipients, options.block_len)?, options)
    }

    pub(crate) fn from_started(
        started: Started,
        options: &SealOptions,
    ) -> Result<(Self, Vec<u8>), SealError> {
        let Started { head, key } = started;
        let sealer = Self {
            blocks: BlockSealer::new(Arc::clone(&key), options.compression, options.block_len)?,
            key,
            block_len: options.block_len,
            pool: Pool::new(BlockSealer::buffer_len(options.block_len), 2),
            filling: None,
            tally: Tally::new(&head, options.block_len),
            index: 0,
            source: Sha256::new(),
            source_len: 0,
        };
        Ok((sealer, head))
    }

    /// Takes plaintext; appends the frames that became complete to `out`.
    ///
    /// # Errors
    /// `TooLong`.
    pub fn push(&mut self, mut plain: &[u8], out: &mut Vec<u8>) -> Result<(), SealError> {
        while !plain.is_empty() {
            let (mut buffer, have) = self.filling.take().unwrap_or_else(|| (self.pool.take(), 0));
            let have = gather(&mut plain, &mut buffer, have, self.block_len);
            if have < self.block_len.get() {
                self.filling = Some((buffer, have));
            } else {
                self.block(buffer, have, out)?;
            }
        }
        Ok(())
    }

    /// Ends the envelope: appends its last block, trailer and footer to `out`.
    ///
    /// # Errors
    /// `ReportTooLong`, `TooLong`.
    pub fn finish(mut self, report: DumpReport, out: &mut Vec<u8>) -> Result<SealSummary, SealError> {
        if let Some((buffer, len)) = self.filling.take() {
            self.block(buffer, len, out)?;
        }
        let sha256 = Sha256Digest(self.source.finalize().into());
        let ending = self.tally.finish(&self.key, self.source_len, sha256, report)?;
        out.extend_from_slice(&ending.bytes);
        Ok(ending.summary)
    }

    fn block(&mut self, buffer: Buffer, len: usize, out: &mut Vec<u8>) -> Result<(), SealError> {
        check_count(self.index, self.block_len)?;
        let sealed = self.blocks.seal(self.index, buffer, len, |source| {
            self.source.update(source);
            Ok::<_, SealError>(())
        })?;
        self.index += 1;
        self.source_len += len as u64;
        self.tally.push(&sealed);
        out.extend_from_slice(&sealed.frame);
        Ok(())
    }
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sealer").field("index", &self.index).finish_non_exhaustive()
    }
}

/// Moves source bytes from the front of `plain` into a block's buffer that has `have` of them; how
/// many it has then.
pub(crate) fn gather(plain: &mut &[u8], buffer: &mut Buffer, have: usize, block_len: BlockLen) -> usize {
    let room = &mut buffer.as_mut()[BODY_AT + have..BODY_AT + block_len.get()];
    let (taken, rest) = plain.split_at(plain.len().min(room.len()));
    room[..taken.len()].copy_from_slice(taken);
    *plain = rest;
    have + taken.len()
}
