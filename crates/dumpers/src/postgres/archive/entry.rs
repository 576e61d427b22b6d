//! Entries of the table of contents, and the primitives that everything is written in.

use super::{ArchiveError, ENTRY_MAX};

/// What is used of an entry.
pub(super) struct Entry<'a> {
    pub(super) id: i64,
    pub(super) tag: Option<&'a [u8]>,
    pub(super) description: Option<&'a [u8]>,
    pub(super) definition: Option<&'a [u8]>,
    pub(super) copy: Option<&'a [u8]>,
    pub(super) namespace: Option<&'a [u8]>,
    pub(super) tablespace: Option<&'a [u8]>,
    pub(super) owner: Option<&'a [u8]>,
    pub(super) has_data: bool,
}

impl<'a> Entry<'a> {
    /// `None` when the bytes end before the entry does.
    pub(super) fn read(reader: &mut Reader<'a>, minor: u8) -> Result<Option<Self>, ArchiveError> {
        macro_rules! some {
            ($read:expr) => {
                match $read {
                    Some(value) => value,
                    None => return Ok(None),
                }
            };
        }
        let id = some!(reader.int()?);
        if id <= 0 {
            return Err(ArchiveError::Field("entry number"));
        }
        let _had_dumper = some!(reader.int()?);
        let _table_oid = some!(reader.text()?);
        let _oid = some!(reader.text()?);
        let tag = some!(reader.text()?);
        let description = some!(reader.text()?);
        let _section = some!(reader.int()?);
        let definition = some!(reader.text()?);
        let _drop_statement = some!(reader.text()?);
        let copy = some!(reader.text()?);
        let namespace = some!(reader.text()?);
        let tablespace = some!(reader.text()?);
        if minor >= 14 {
            let _access_method = some!(reader.text()?);
        }
        if minor >= 16 {
            let _kind = some!(reader.int()?);
        }
        let owner = some!(reader.text()?);
        let _with_oids = some!(reader.text()?);
        // Dependencies, ended by the one that is absent.
        while some!(reader.text()?).is_some() {}
        let has_data = match some!(reader.byte()) {
            // Position not known (a streamed dump), or known.
            1 | 2 => true,
            3 => false,
            _ => return Err(ArchiveError::Field("data state")),
        };
        some!(reader.take(usize::from(reader.off_size)));
        Ok(Some(Self { id, tag, description, definition, copy, namespace, tablespace, owner, has_data }))
    }
}

/// Primitives; `None` is "more bytes are needed".
pub(super) struct Reader<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) at: usize,
    pub(super) off_size: u8,
}

impl<'a> Reader<'a> {
    pub(super) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let bytes = self.bytes.get(self.at..self.at.checked_add(len)?)?;
        self.at += len;
        Some(bytes)
    }

    pub(super) fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    /// A sign byte and four bytes, least significant first.
    pub(super) fn int(&mut self) -> Result<Option<i64>, ArchiveError> {
        let Some(&[sign, a, b, c, d]) = self.take(5).and_then(|bytes| bytes.first_chunk::<5>()) else {
            return Ok(None);
        };
        let value = i64::from(u32::from_le_bytes([a, b, c, d]));
        match sign {
            0 => Ok(Some(value)),
            1 => Ok(Some(-value)),
            _ => Err(ArchiveError::Field("sign")),
        }
    }

    /// A length and as many bytes; below zero is an absent text, the inner `None`. Takes both or
    /// neither, so that whoever reads several at once never takes a text for the next one's length.
    #[allow(clippy::option_option, reason = "not yet here, absent and present are three things")]
    pub(super) fn text(&mut self) -> Result<Option<Option<&'a [u8]>>, ArchiveError> {
        let before = self.at;
        let Some(len) = self.int()? else { return Ok(None) };
        let Ok(len) = usize::try_from(len) else { return Ok(Some(None)) };
        if len > ENTRY_MAX {
            return Err(ArchiveError::Limit("text"));
        }
        let text = self.take(len).map(Some);
        if text.is_none() {
            self.at = before;
        }
        Ok(text)
    }
}
