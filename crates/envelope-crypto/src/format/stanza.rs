//! A stanza: the file key wrapped for one recipient.

use backup_core::{RecipientRef, Sha256Digest};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::base64;
use crate::error::StanzaProblem;

/// The file key, wrapped for one recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stanza {
    /// RSA-OAEP with SHA-256.
    Rsa {
        /// SHA-256 of the public key's SPKI DER.
        key_id: Sha256Digest,
        /// As long as the modulus.
        wrapped_key: Vec<u8>,
    },
    /// A passphrase.
    Passphrase {
        /// How its key is derived.
        kdf: PassphraseKdf,
        /// The wrapping.
        wrapped: SymmetricWrapped,
    },
    /// A 256-bit key.
    SecretKey {
        /// SHA-256 over a label and the key.
        key_id: Sha256Digest,
        /// The wrapping.
        wrapped: SymmetricWrapped,
    },
    /// No encryption: the file key in the clear.
    None {
        /// The file key.
        file_key: [u8; 32],
    },
    /// A type this program does not know; passed over.
    Other {
        /// Its type.
        kind: String,
        /// Its `key_id`, when it has one of the usual shape.
        key_id: Option<Sha256Digest>,
    },
}

/// What symmetric stanzas share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SymmetricWrapped {
    /// For the derivation of the wrapping key.
    pub salt: [u8; 32],
    /// For AES-256-GCM.
    pub nonce: [u8; 12],
    /// The file key's ciphertext and tag.
    pub wrapped_key: [u8; 48],
}

/// The work that turns a passphrase into a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PassphraseKdf {
    /// Argon2id version 0x13 (RFC 9106).
    Argon2id {
        /// Memory in KiB: 65,536 to 1,048,576.
        m_kib: u32,
        /// Passes: 1 to 10.
        t: u32,
        /// Lanes: 1 to 4.
        p: u32,
    },
    /// PBKDF2 with HMAC-SHA256 (RFC 8018).
    Pbkdf2 {
        /// 600,000 to 10,000,000.
        iterations: u32,
    },
}

impl PassphraseKdf {
    /// 64 MiB, 3 passes, 4 lanes: the second recommendation of RFC 9106, section 4. The first needs
    /// 2 GiB, which a small backup host does not have.
    pub const DEFAULT: Self = Self::Argon2id { m_kib: 64 << 10, t: 3, p: 4 };

    /// Whether the work is within the bounds of the format.
    #[must_use]
    pub fn is_allowed(self) -> bool {
        match self {
            Self::Argon2id { m_kib, t, p } => {
                (64 << 10..=1 << 20).contains(&m_kib)
                    && (1..=10).contains(&t)
                    && (1..=4).contains(&p)
                    && u64::from(m_kib) * u64::from(t) <= 4 << 20
            }
            Self::Pbkdf2 { iterations } => (600_000..=10_000_000).contains(&iterations),
        }
    }
}

/// The type of an RSA stanza.
pub const RSA: &str = "rsa-oaep-sha256";
/// The type of a passphrase stanza.
pub const PASSPHRASE: &str = "passphrase";
/// The type of a secret key stanza.
pub const SECRET_KEY: &str = "secret-key";
/// The type of the stanza of a file that is not encrypted.
pub const NONE: &str = "none";

const ARGON2ID: &str = "argon2id";
const PBKDF2: &str = "pbkdf2-hmac-sha256";

// The members as they are written, in this order.

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RsaMembers {
    r#type: String,
    key_id: String,
    wrapped_key: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Argon2idMembers {
    r#type: String,
    kdf: String,
    m_kib: u64,
    t: u64,
    p: u64,
    salt: String,
    nonce: String,
    wrapped_key: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Pbkdf2Members {
    r#type: String,
    kdf: String,
    iterations: u64,
    salt: String,
    nonce: String,
    wrapped_key: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SecretKeyMembers {
    r#type: String,
    key_id: String,
    salt: String,
    nonce: String,
    wrapped_key: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NoneMembers {
    r#type: String,
    wrapped_key: String,
}

#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Members {
    Rsa(RsaMembers),
    Argon2id(Argon2idMembers),
    Pbkdf2(Pbkdf2Members),
    SecretKey(SecretKeyMembers),
    None(NoneMembers),
}

impl Stanza {
    /// The stanza's type.
    #[must_use]
    pub fn kind(&self) -> &str {
        match self {
            Self::Rsa { .. } => RSA,
            Self::Passphrase { .. } => PASSPHRASE,
            Self::SecretKey { .. } => SECRET_KEY,
            Self::None { .. } => NONE,
            Self::Other { kind, .. } => kind,
        }
    }

    /// The id of the key that opens it, where there is one.
    #[must_use]
    pub fn key_id(&self) -> Option<Sha256Digest> {
        match self {
            Self::Rsa { key_id, .. } | Self::SecretKey { key_id, .. } => Some(*key_id),
            Self::Other { key_id, .. } => *key_id,
            Self::Passphrase { .. } | Self::None { .. } => None,
        }
    }

    /// As a manifest names it.
    #[must_use]
    pub fn recipient(&self) -> RecipientRef {
        RecipientRef { kind: self.kind().to_owned(), key_id: self.key_id() }
    }

    /// Reads one stanza that already passed the strict JSON rules.
    pub(super) fn from_json(value: Value) -> Result<Self, StanzaProblem> {
        let text = |name: &str| value.get(name).and_then(Value::as_str);
        let kind = text("type").ok_or(StanzaProblem::Type)?;
        match (kind, text("kdf")) {
            (RSA, _) => {
                let m: RsaMembers = members(value)?;
                let wrapped_key = base64::decode(&m.wrapped_key)
                    .filter(|key| (2048 / 8..=8192 / 8).contains(&key.len()))
                    .ok_or(StanzaProblem::WrappedKey)?;
                Ok(Self::Rsa { key_id: key_id(&m.key_id)?, wrapped_key })
            }
            (PASSPHRASE, Some(ARGON2ID)) => {
                let m: Argon2idMembers = members(value)?;
                let wrapped = SymmetricWrapped::parse(&m.salt, &m.nonce, &m.wrapped_key)?;
                let kdf = PassphraseKdf::Argon2id { m_kib: work(m.m_kib)?, t: work(m.t)?, p: work(m.p)? };
                Self::passphrase(kdf, wrapped)
            }
            (PASSPHRASE, Some(PBKDF2)) => {
                let m: Pbkdf2Members = members(value)?;
                let wrapped = SymmetricWrapped::parse(&m.salt, &m.nonce, &m.wrapped_key)?;
                Self::passphrase(PassphraseKdf::Pbkdf2 { iterations: work(m.iterations)? }, wrapped)
            }
            (PASSPHRASE, _) => Err(StanzaProblem::Shape),
            (SECRET_KEY, _) => {
                let m: SecretKeyMembers = members(value)?;
                let wrapped = SymmetricWrapped::parse(&m.salt, &m.nonce, &m.wrapped_key)?;
                Ok(Self::SecretKey { key_id: key_id(&m.key_id)?, wrapped })
            }
            (NONE, _) => {
                let m: NoneMembers = members(value)?;
                let file_key = base64::decode_array(&m.wrapped_key).ok_or(StanzaProblem::WrappedKey)?;
                Ok(Self::None { file_key })
            }
            (other, _) => {
                let named = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
                if !(1..=64).contains(&other.len()) || !other.bytes().all(named) {
                    return Err(StanzaProblem::Type);
                }
                let key_id = text("key_id").and_then(Sha256Digest::from_hex);
                Ok(Self::Other { kind: other.to_owned(), key_id })
            }
        }
    }

    fn passphrase(kdf: PassphraseKdf, wrapped: SymmetricWrapped) -> Result<Self, StanzaProblem> {
        if kdf.is_allowed() { Ok(Self::Passphrase { kdf, wrapped }) } else { Err(StanzaProblem::Work) }
    }

    /// The members to write; `None` for a type that is not known.
    pub(super) fn to_members(&self) -> Option<Members> {
        let r#type = self.kind().to_owned();
        Some(match self {
            Self::Rsa { key_id, wrapped_key } => Members::Rsa(RsaMembers {
                r#type,
                key_id: key_id.to_string(),
                wrapped_key: base64::encode(wrapped_key),
            }),
            Self::Passphrase { kdf: PassphraseKdf::Argon2id { m_kib, t, p }, wrapped } => {
                let [salt, nonce, wrapped_key] = wrapped.to_text();
                let (m_kib, t, p) = ((*m_kib).into(), (*t).into(), (*p).into());
                let kdf = ARGON2ID.to_owned();
                Members::Argon2id(Argon2idMembers { r#type, kdf, m_kib, t, p, salt, nonce, wrapped_key })
            }
            Self::Passphrase { kdf: PassphraseKdf::Pbkdf2 { iterations }, wrapped } => {
                let [salt, nonce, wrapped_key] = wrapped.to_text();
                let (kdf, iterations) = (PBKDF2.to_owned(), (*iterations).into());
                Members::Pbkdf2(Pbkdf2Members { r#type, kdf, iterations, salt, nonce, wrapped_key })
            }
            Self::SecretKey { key_id, wrapped } => {
                let [salt, nonce, wrapped_key] = wrapped.to_text();
                let key_id = key_id.to_string();
                Members::SecretKey(SecretKeyMembers { r#type, key_id, salt, nonce, wrapped_key })
            }
            Self::None { file_key } => {
                Members::None(NoneMembers { r#type, wrapped_key: base64::encode(file_key) })
            }
            Self::Other { .. } => return None,
        })
    }
}

impl SymmetricWrapped {
    fn parse(salt: &str, nonce: &str, wrapped_key: &str) -> Result<Self, StanzaProblem> {
        Ok(Self {
            salt: base64::decode_array(salt).ok_or(StanzaProblem::Salt)?,
            nonce: base64::decode_array(nonce).ok_or(StanzaProblem::Nonce)?,
            wrapped_key: base64::decode_array(wrapped_key).ok_or(StanzaProblem::WrappedKey)?,
        })
    }

    fn to_text(&self) -> [String; 3] {
        [base64::encode(&self.salt), base64::encode(&self.nonce), base64::encode(&self.wrapped_key)]
    }
}

fn members<T: serde::de::DeserializeOwned>(value: Value) -> Result<T, StanzaProblem> {
    serde_json::from_value(value).map_err(|_| StanzaProblem::Shape)
}

fn key_id(text: &str) -> Result<Sha256Digest, StanzaProblem> {
    Sha256Digest::from_hex(text).ok_or(StanzaProblem::KeyId)
}

fn work(number: u64) -> Result<u32, StanzaProblem> {
    u32::try_from(number).map_err(|_| StanzaProblem::Work)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bounds_of_work_are_the_documented_ones() {
        let argon = |m_kib, t, p| PassphraseKdf::Argon2id { m_kib, t, p };
        let mib = 1 << 10;
        let table = [
            (argon(64 * mib, 1, 1), true),
            (argon(64 * mib - 1, 1, 1), false),
            (argon(1024 * mib, 4, 4), true),
            (argon(1024 * mib, 5, 4), false),
            (argon(1024 * mib + 1, 1, 1), false),
            (argon(64 * mib, 10, 1), true),
            (argon(64 * mib, 11, 1), false),
            (argon(64 * mib, 0, 1), false),
            (argon(64 * mib, 1, 0), false),
            (argon(64 * mib, 1, 5), false),
            (PassphraseKdf::Pbkdf2 { iterations: 600_000 }, true),
            (PassphraseKdf::Pbkdf2 { iterations: 599_999 }, false),
            (PassphraseKdf::Pbkdf2 { iterations: 10_000_000 }, true),
            (PassphraseKdf::Pbkdf2 { iterations: 10_000_001 }, false),
            (PassphraseKdf::DEFAULT, true),
        ];
        for (kdf, allowed) in table {
            assert_eq!(kdf.is_allowed(), allowed, "{kdf:?}");
        }
    }
}
