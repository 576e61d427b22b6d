//! The head: prefix, header and header MAC, everything before the first block.

use backup_core::Sha256Digest;

use super::header::Header;
use super::limits::{HEADER_LEN_MAX, HEADER_MAC_LEN, MAGIC, PREFIX_LEN, VERSION};
use crate::error::{HeaderProblem, OpenError};

/// A head as it stands in a file. Nothing of it is proven until the MAC was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    bytes: Vec<u8>,
    header: Header,
}

impl Head {
    /// Reads exactly one head.
    ///
    /// # Errors
    /// Those of [`HeadReader`], and [`OpenError::TrailingBytes`] for more than a head.
    pub fn parse(bytes: &[u8]) -> Result<Self, OpenError> {
        let mut rest = bytes;
        let head = HeadReader::default().feed(&mut rest)?.ok_or(OpenError::Truncated)?;
        if rest.is_empty() { Ok(head) } else { Err(OpenError::TrailingBytes) }
    }

    /// Puts a head together from a header's JSON and a function that makes the MAC.
    pub(crate) fn write(json: &[u8], mac: impl FnOnce(&[u8]) -> [u8; HEADER_MAC_LEN]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(PREFIX_LEN + json.len() + HEADER_MAC_LEN);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_be_bytes());
        // A header is at most 1 MiB.
        bytes.extend_from_slice(&(json.len() as u32).to_be_bytes());
        bytes.extend_from_slice(json);
        let mac = mac(&bytes);
        bytes.extend_from_slice(&mac);
        bytes
    }

    /// What the header says.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// All bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The digest that a manifest pins.
    #[must_use]
    pub fn sha256(&self) -> Sha256Digest {
        Sha256Digest::of(&self.bytes)
    }

    /// What the MAC covers, and the MAC.
    pub(crate) fn authenticated(&self) -> Option<(&[u8], &[u8; HEADER_MAC_LEN])> {
        self.bytes.split_last_chunk()
    }
}

/// Reads a head from pieces of any size; holds at most a head.
#[derive(Debug, Default)]
pub struct HeadReader {
    bytes: Vec<u8>,
}

impl HeadReader {
    /// Takes bytes from the front of `input`, never more than the head has; the head when it is
    /// complete, `None` when more is needed.
    ///
    /// # Errors
    /// `NotEnvelope`, `UnsupportedVersion`, `HeaderMalformed`.
    pub fn feed(&mut self, input: &mut &[u8]) -> Result<Option<Head>, OpenError> {
        self.fill(input, PREFIX_LEN);
        let Some(header_len) = self.header_len()? else { return Ok(None) };
        let len = PREFIX_LEN + header_len + HEADER_MAC_LEN;
        self.fill(input, len);
        if self.bytes.len() < len {
            return Ok(None);
        }
        let header = Header::parse(&self.bytes[PREFIX_LEN..len - HEADER_MAC_LEN])
            .map_err(OpenError::HeaderMalformed)?;
        Ok(Some(Head { bytes: std::mem::take(&mut self.bytes), header }))
    }

    /// What an end of the file at this place means.
    #[must_use]
    pub fn cut_off(&self) -> OpenError {
        if self.bytes.len() < MAGIC.len() { OpenError::NotEnvelope } else { OpenError::Truncated }
    }

    /// The length of the whole head, once its prefix was read.
    ///
    /// # Errors
    /// As for [`HeadReader::feed`].
    pub fn len_wanted(&self) -> Result<Option<u64>, OpenError> {
        Ok(self.header_len()?.map(|len| (PREFIX_LEN + len + HEADER_MAC_LEN) as u64))
    }

    fn fill(&mut self, input: &mut &[u8], len: usize) {
        let (taken, rest) = input.split_at(input.len().min(len.saturating_sub(self.bytes.len())));
        self.bytes.extend_from_slice(taken);
        *input = rest;
    }

    fn header_len(&self) -> Result<Option<usize>, OpenError> {
        let known = self.bytes.len().min(MAGIC.len());
        if self.bytes[..known] != MAGIC[..known] {
            return Err(OpenError::NotEnvelope);
        }
        if let Some(&[a, b]) = self.bytes.get(8..10) {
            let version = u16::from_be_bytes([a, b]);
            if version != VERSION {
                return Err(OpenError::UnsupportedVersion(version));
            }
        }
        let Some(&[a, b, c, d]) = self.bytes.get(10..PREFIX_LEN) else { return Ok(None) };
        match u32::from_be_bytes([a, b, c, d]) as usize {
            len @ 0..=HEADER_LEN_MAX => Ok(Some(len)),
            _ => Err(OpenError::HeaderMalformed(HeaderProblem::TooLong)),
        }
    }
}
