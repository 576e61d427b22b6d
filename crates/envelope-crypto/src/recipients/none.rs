//! No encryption, on an explicit wish: the file key stands in the header in the clear.

use backup_core::RecipientRef;

use super::{Binding, FileKey, Recipient, RecipientClass};
use crate::error::SealError;
use crate::format::{Stanza, stanza};

/// Leaves the file readable by anybody. Hashes, ranges and the end mark work as in any envelope;
/// the file must have no other recipient.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoneRecipient;

impl Recipient for NoneRecipient {
    fn describe(&self) -> RecipientRef {
        RecipientRef { kind: stanza::NONE.to_owned(), key_id: None }
    }

    fn class(&self) -> RecipientClass {
        RecipientClass::Unencrypted
    }

    fn wrap(&self, file_key: &FileKey, _: Binding<'_>) -> Result<Stanza, SealError> {
        Ok(Stanza::None { file_key: *file_key.as_bytes() })
    }
}
