//! Records from members. No IO: frames are given to the caller.

use std::collections::HashMap;

use bytes::{BufMut as _, Bytes, BytesMut};

use super::names::Names;
use super::record::{Kind, RECORD_HEAD_LEN};
use super::{BundleError, DATA_LEN_MAX, HEAD_LEN_MAX, MAGIC, MEMBERS_OPEN_MAX, MemberHead, MemberId};

/// Writes a bundle.
///
/// Every method appends what is to be written to `out`; data is handed on without a copy.
#[derive(Debug, Default)]
pub struct BundleWriter {
    begun: bool,
    last: u32,
    open: HashMap<u32, (String, u64)>,
    names: Names,
    closed: u64,
}

impl BundleWriter {
    /// A writer of a bundle that has not begun.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Begins a member.
    ///
    /// # Errors
    /// [`BundleError::Twice`] for a name that an open or whole member has,
    /// [`BundleError::NameLength`], [`BundleError::TooMany`], [`BundleError::TooManyOpen`],
    /// [`BundleError::HeadLength`].
    pub fn open(&mut self, head: &MemberHead, out: &mut Vec<Bytes>) -> Result<MemberId, BundleError> {
        let json = serde_json::to_vec(head).map_err(|_| BundleError::Head(self.last + 1))?;
        if json.len() > HEAD_LEN_MAX {
            return Err(BundleError::HeadLength { name: head.name.chars().take(100).collect() });
        }
        if self.open.len() >= MEMBERS_OPEN_MAX {
            return Err(BundleError::TooManyOpen);
        }
        self.names.take(self.last + 1, &head.name)?;
        self.last += 1;
        self.open.insert(self.last, (head.name.clone(), 0));
        self.record(Kind::Open, self.last, &json, out);
        Ok(MemberId(self.last))
    }

    /// Adds bytes to a member.
    ///
    /// # Errors
    /// [`BundleError::NotOpen`].
    pub fn data(
        &mut self,
        member: MemberId,
        mut chunk: Bytes,
        out: &mut Vec<Bytes>,
    ) -> Result<(), BundleError> {
        let (_, len) = self.open.get_mut(&member.0).ok_or(BundleError::NotOpen(member.0))?;
        *len += chunk.len() as u64;
        while !chunk.is_empty() {
            let piece = chunk.split_to(chunk.len().min(DATA_LEN_MAX));
            self.head(Kind::Data, member.0, piece.len(), out);
            out.push(piece);
        }
        Ok(())
    }

    /// Ends a member, which is whole.
    ///
    /// # Errors
    /// [`BundleError::NotOpen`].
    pub fn close(&mut self, member: MemberId, out: &mut Vec<Bytes>) -> Result<(), BundleError> {
        let (_, len) = self.open.remove(&member.0).ok_or(BundleError::NotOpen(member.0))?;
        self.closed += 1;
        self.record(Kind::Close, member.0, &len.to_le_bytes(), out);
        Ok(())
    }

    /// Says that a member is not to be used. Its name is free again.
    ///
    /// # Errors
    /// [`BundleError::NotOpen`].
    pub fn abandon(&mut self, member: MemberId, out: &mut Vec<Bytes>) -> Result<(), BundleError> {
        let (name, _) = self.open.remove(&member.0).ok_or(BundleError::NotOpen(member.0))?;
        self.names.free(&name);
        self.record(Kind::Abandon, member.0, &[], out);
        Ok(())
    }

    /// Ends the bundle.
    ///
    /// # Errors
    /// [`BundleError::EndsOpen`] while a member is open.
    pub fn end(mut self, out: &mut Vec<Bytes>) -> Result<(), BundleError> {
        if let Some((name, _)) = self.open.values().next() {
            return Err(BundleError::EndsOpen(name.clone()));
        }
        let closed = self.closed;
        self.record(Kind::End, 0, &closed.to_le_bytes(), out);
        Ok(())
    }

    fn record(&mut self, kind: Kind, member: u32, payload: &[u8], out: &mut Vec<Bytes>) {
        self.head(kind, member, payload.len(), out);
        if !payload.is_empty() {
            out.push(Bytes::copy_from_slice(payload));
        }
    }

    fn head(&mut self, kind: Kind, member: u32, len: usize, out: &mut Vec<Bytes>) {
        let mut head = BytesMut::with_capacity(MAGIC.len() + RECORD_HEAD_LEN);
        if !std::mem::replace(&mut self.begun, true) {
            head.put_slice(&MAGIC);
        }
        head.put_u8(kind.byte());
        head.put_u32_le(member);
        // A record is at most 1 MiB long.
        head.put_u32_le(len as u32);
        out.push(head.freeze());
    }
}
