//! The header: strict JSON that names the file and holds its key, wrapped for each recipient.

use std::collections::HashSet;

use backup_core::{BackupId, RecipientRef, strict_json};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::base64;
use super::limits::{BlockLen, HEADER_LEN_MAX, PASSPHRASES_MAX, STANZAS_MAX};
use super::stanza::{Members, Stanza};
use crate::error::{HeaderProblem, SealError};

/// The one suite.
pub const SUITE: &str = "A256GCM-HKDF-SHA256";

/// What a header says. Until its MAC was checked, this is only a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Ties the file to its manifest.
    pub id: BackupId,
    /// Bytes of plaintext in every block but the last.
    pub block_len: BlockLen,
    /// For the derivation of the file's keys.
    pub salt: [u8; 32],
    /// At least one.
    pub stanzas: Vec<Stanza>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Read {
    suite: String,
    id: String,
    block_len: u64,
    salt: String,
    recipients: Vec<Value>,
}

#[derive(Serialize)]
struct Written<'a> {
    suite: &'a str,
    id: String,
    block_len: u64,
    salt: String,
    recipients: Vec<Members>,
}

impl Header {
    /// Reads a header's JSON by every rule of the format, in bounded time; derives nothing.
    ///
    /// # Errors
    /// Which rule is broken.
    pub fn parse(json: &[u8]) -> Result<Self, HeaderProblem> {
        if json.len() > HEADER_LEN_MAX {
            return Err(HeaderProblem::TooLong);
        }
        let read: Read = strict_json::from_slice(json).map_err(HeaderProblem::Json)?;
        if read.suite != SUITE {
            return Err(HeaderProblem::Suite);
        }
        let id = read.id.parse().map_err(|_| HeaderProblem::Id)?;
        let block_len = BlockLen::new(read.block_len).ok_or(HeaderProblem::BlockLen)?;
        let salt = base64::decode_array(&read.salt).ok_or(HeaderProblem::Salt)?;
        let count = read.recipients.len();
        if !(1..=STANZAS_MAX).contains(&count) {
            return Err(HeaderProblem::RecipientCount(count));
        }
        let stanzas: Vec<Stanza> = read
            .recipients
            .into_iter()
            .enumerate()
            .map(|(index, value)| {
                Stanza::from_json(value).map_err(|problem| HeaderProblem::Stanza { index, problem })
            })
            .collect::<Result<_, _>>()?;
        check_together(&stanzas)?;
        Ok(Self { id, block_len, salt, stanzas })
    }

    /// Writes the header: one order of members, no white space.
    ///
    /// # Errors
    /// When it is longer than the format allows.
    pub(crate) fn to_json(&self) -> Result<Vec<u8>, SealError> {
        let recipients = self.stanzas.iter().map(Stanza::to_members).collect::<Option<_>>();
        let written = Written {
            suite: SUITE,
            id: self.id.to_string(),
            block_len: self.block_len.bytes(),
            salt: base64::encode(&self.salt),
            recipients: recipients.ok_or(SealError::Internal("a stanza of an unknown type"))?,
        };
        let json = serde_json::to_vec(&written)
            .map_err(|_| SealError::Internal("the header could not be written"))?;
        if json.len() > HEADER_LEN_MAX { Err(SealError::HeaderTooLong) } else { Ok(json) }
    }

    /// Whether the payload is a secret. A file that is not has the one recipient `none`.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        !self.stanzas.iter().any(|stanza| matches!(stanza, Stanza::None { .. }))
    }

    /// The recipients as a manifest names them. A claim of the writer.
    #[must_use]
    pub fn recipients(&self) -> Vec<RecipientRef> {
        self.stanzas.iter().map(Stanza::recipient).collect()
    }
}

fn check_together(stanzas: &[Stanza]) -> Result<(), HeaderProblem> {
    let passphrases = stanzas.iter().filter(|s| matches!(s, Stanza::Passphrase { .. })).count();
    if passphrases > PASSPHRASES_MAX {
        return Err(HeaderProblem::PassphraseCount(passphrases));
    }
    if stanzas.len() > 1 && stanzas.iter().any(|s| matches!(s, Stanza::None { .. })) {
        return Err(HeaderProblem::NoneNotAlone);
    }
    // A passphrase has no key id: nothing public may tell two of them apart.
    let mut seen = HashSet::new();
    for (index, stanza) in stanzas.iter().enumerate() {
        if let Some(key_id) = stanza.key_id()
            && !seen.insert((stanza.kind(), key_id))
        {
            return Err(HeaderProblem::DuplicateRecipient(index));
        }
    }
    Ok(())
}
