//! The DSSE envelope around a statement: strict JSON, one signature.
//!
//! `{"payload":"<base64>","payloadType":"<type>","signatures":[{"keyid":"<hex>","sig":"<base64>"}]}`;
//! base64 is RFC 4648 section 4 with padding. What is signed is the pre-authentication encoding of
//! the payload type and of the decoded payload; what was verified is parsed, and never written anew.

use backup_core::{Error, ErrorKind, Result, Sha256Digest, SignedStatement, StatementKind, strict_json};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use thiserror::Error as ThisError;

use super::key::{SigningKey, VerifyingKey};

/// The longest stored statement, in bytes, refused before parsing.
pub const STATEMENT_LEN_MAX: usize = 4 * 1024 * 1024;

/// Why bytes are not a statement that may be believed.
#[derive(Debug, Clone, PartialEq, Eq, ThisError)]
pub enum StatementError {
    /// Longer than any statement.
    #[error("is longer than {STATEMENT_LEN_MAX} bytes")]
    TooLong,
    /// Not the strict JSON of a DSSE envelope.
    #[error("is not a signed statement: {0}")]
    Malformed(String),
    /// A statement of another kind.
    #[error("is a statement of another type: {found:?} instead of {expected:?}")]
    PayloadType {
        /// What it says.
        found: String,
        /// What belongs here.
        expected: &'static str,
    },
    /// Not exactly one signature.
    #[error("has {0} signatures; exactly one is accepted")]
    SignatureCount(usize),
    /// It names a known key, and the signature is not of that key or any other known one.
    #[error("was altered: the signature of {key_id} does not fit")]
    Altered {
        /// The key it names.
        key_id: Sha256Digest,
    },
    /// No known key made the signature.
    #[error("is not signed by a known key{}", claim(*claimed))]
    SignerUnknown {
        /// The key it names; anyone can write any name.
        claimed: Option<Sha256Digest>,
    },
}

fn claim(claimed: Option<Sha256Digest>) -> String {
    claimed.map_or_else(String::new, |key_id| format!("; it names {key_id}"))
}

impl StatementError {
    /// The error of a port, about `subject`.
    #[must_use]
    pub fn about(self, subject: impl Into<String>) -> Error {
        let kind = match self {
            Self::SignerUnknown { .. } => ErrorKind::Denied,
            _ => ErrorKind::Integrity,
        };
        Error::new(kind, subject, self.to_string()).with_source(self)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Envelope {
    payload: String,
    payload_type: String,
    signatures: Vec<Signature>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Signature {
    #[serde(default)]
    keyid: String,
    sig: String,
}

/// An error in at most 200 characters: it may quote a stranger's text, which may be long.
pub(crate) fn brief(error: &dyn std::fmt::Display) -> String {
    error.to_string().chars().take(200).collect()
}

/// The pre-authentication encoding of DSSE version 1:
/// `"DSSEv1" SP len(type) SP type SP len(body) SP body`, lengths in ASCII decimal.
#[must_use]
pub fn pae(payload_type: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), body.len());
    [head.as_bytes(), body].concat()
}

/// Signs `body` as a statement of `kind`.
pub(super) fn sign(key: &SigningKey, kind: StatementKind, body: &[u8]) -> Result<SignedStatement> {
    let signed = pae(kind.payload_type(), body);
    let envelope = Envelope {
        payload: STANDARD.encode(body),
        payload_type: kind.payload_type().to_owned(),
        signatures: vec![Signature {
            keyid: key.verifying_key().key_id().to_string(),
            sig: STANDARD.encode(key.sign_bytes(&signed)?),
        }],
    };
    let stored = serde_json::to_vec(&envelope)
        .map_err(|error| Error::bug(format!("a statement could not be written: {error}")))?;
    if stored.len() > STATEMENT_LEN_MAX {
        return Err(Error::new(
            ErrorKind::Unsupported,
            "signed statement",
            StatementError::TooLong.to_string(),
        )
        .with_hint("a statement holds at most 3 MB; shorten what it lists"));
    }
    Ok(SignedStatement::signed(stored.into(), Sha256Digest::of(&signed)))
}

/// A statement as it was stored, taken apart and not yet believed.
#[derive(Debug, Clone)]
pub struct StoredStatement {
    payload: Vec<u8>,
    pae: Vec<u8>,
    signature: [u8; 64],
    hint: Option<Sha256Digest>,
}

impl StoredStatement {
    /// Takes a stored statement apart, in time and memory linear in its length: length, strict JSON,
    /// the exact payload type of `kind`, one signature. Nothing of the payload is looked at.
    ///
    /// # Errors
    /// Every [`StatementError`] but `Altered` and `SignerUnknown`.
    pub fn parse(kind: StatementKind, stored: &[u8]) -> Result<Self, StatementError> {
        if stored.len() > STATEMENT_LEN_MAX {
            return Err(StatementError::TooLong);
        }
        let envelope: Envelope =
            strict_json::from_slice(stored).map_err(|error| StatementError::Malformed(brief(&error)))?;
        if envelope.payload_type != kind.payload_type() {
            return Err(StatementError::PayloadType {
                found: brief(&envelope.payload_type),
                expected: kind.payload_type(),
            });
        }
        let [signature] = envelope.signatures.as_slice() else {
            return Err(StatementError::SignatureCount(envelope.signatures.len()));
        };
        let decode = |what: &str, text: &str| {
            STANDARD
                .decode(text)
                .map_err(|_| StatementError::Malformed(format!("the {what} is not canonical base64")))
        };
        let payload = decode("payload", &envelope.payload)?;
        let sig = decode("signature", &signature.sig)?
            .try_into()
            .map_err(|_| StatementError::Malformed("the signature is not 64 bytes long".into()))?;
        let pae = pae(kind.payload_type(), &payload);
        Ok(Self { payload, pae, signature: sig, hint: Sha256Digest::from_hex(&signature.keyid) })
    }

    /// Finds who of `keys` signed this. The `keyid` only says whom to try first.
    ///
    /// # Errors
    /// [`StatementError::Altered`] or [`StatementError::SignerUnknown`] when it was none of them.
    pub fn verify<'k>(
        self,
        keys: impl IntoIterator<Item = &'k VerifyingKey>,
    ) -> Result<Verified, StatementError> {
        let (named, others): (Vec<&VerifyingKey>, Vec<&VerifyingKey>) =
            keys.into_iter().partition(|key| self.hint == Some(key.key_id()));
        let signer = named.iter().chain(&others).find(|key| key.verifies(&self.pae, &self.signature));
        let signer = match (signer, named.first()) {
            (Some(signer), _) => **signer,
            (None, Some(named)) => return Err(StatementError::Altered { key_id: named.key_id() }),
            (None, None) => return Err(StatementError::SignerUnknown { claimed: self.hint }),
        };
        Ok(Verified { pae_sha256: self.pae_sha256(), payload: self.payload, signer })
    }

    /// SHA-256 of the pre-authentication encoding.
    #[must_use]
    pub fn pae_sha256(&self) -> Sha256Digest {
        Sha256Digest::of(&self.pae)
    }

    /// The payload, whoever made it.
    #[must_use]
    pub fn into_unbelieved_payload(self) -> Vec<u8> {
        self.payload
    }
}

/// A statement whose signature is the signer's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// Exactly the bytes that were signed.
    pub payload: Vec<u8>,
    /// Who signed them.
    pub signer: VerifyingKey,
    /// SHA-256 of the pre-authentication encoding.
    pub pae_sha256: Sha256Digest,
}
