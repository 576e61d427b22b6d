//! Writes envelopes that our own writer never would: authentic, and wrong. Written from
//! docs/format.md alone, on the other implementation of AES-GCM.

use aes_gcm::{AeadInOut, Aes256Gcm, KeyInit};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hkdf::Hkdf;
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};

use crate::fixture::BLOCK;

const FILE_KEY: [u8; 32] = [7; 32];
const SALT: [u8; 32] = [9; 32];

/// An envelope without encryption, whose parts can be made wrong one by one.
#[derive(Clone)]
pub(crate) struct Forge {
    pub(crate) header: String,
    /// Plaintexts: codec byte and body.
    pub(crate) blocks: Vec<Vec<u8>>,
    pub(crate) source: Vec<u8>,
    pub(crate) source_len: Option<u64>,
    pub(crate) index: Option<Vec<u32>>,
    pub(crate) json: Option<String>,
    pub(crate) trailer_counter: Option<u64>,
}

pub(crate) fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// A header with these recipients.
pub(crate) fn header(recipients: &str) -> String {
    format!(
        r#"{{"suite":"A256GCM-HKDF-SHA256","id":"7f0a1c52-6f0b-4a53-9b5e-0d6f6c1d2e3f","block_len":65536,"salt":"{}","recipients":[{recipients}]}}"#,
        base64(&SALT)
    )
}

pub(crate) fn none_stanza() -> String {
    format!(r#"{{"type":"none","wrapped_key":"{}"}}"#, base64(&FILE_KEY))
}

pub(crate) fn stored(body: &[u8]) -> Vec<u8> {
    [&[0], body].concat()
}

pub(crate) fn zstd(frame: &[u8]) -> Vec<u8> {
    [&[1], frame].concat()
}

fn derive(info: &str) -> [u8; 32] {
    let mut key = [0; 32];
    Hkdf::<Sha256>::new(Some(&SALT), &FILE_KEY).expand(info.as_bytes(), &mut key).unwrap();
    key
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Forge {
    /// A good file of these blocks of source.
    pub(crate) fn good(source: &[u8]) -> Self {
        Self {
            header: header(&none_stanza()),
            blocks: source.chunks(BLOCK).map(stored).collect(),
            source: source.to_vec(),
            source_len: None,
            index: None,
            json: None,
            trailer_counter: None,
        }
    }

    /// A file of one block with this plaintext.
    pub(crate) fn block(plain: Vec<u8>, source: &[u8]) -> Self {
        Self { blocks: vec![plain], ..Self::good(source) }
    }

    pub(crate) fn write(&self) -> Vec<u8> {
        let mut file = b"STRONGRM\x00\x01".to_vec();
        file.extend((self.header.len() as u32).to_be_bytes());
        file.extend(self.header.as_bytes());
        let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(&derive("strongroom/v1 header")).unwrap();
        mac.update(&file);
        file.extend(mac.finalize().into_bytes());

        let cipher = Aes256Gcm::new(&derive("strongroom/v1 payload").into());
        let frame = |counter: u64, kind: u8, plain: &[u8]| {
            let mut nonce = [0; 12];
            nonce[3..11].copy_from_slice(&counter.to_be_bytes());
            nonce[11] = kind;
            let mut text = plain.to_vec();
            let tag = cipher.encrypt_inout_detached(&nonce.into(), &[], text.as_mut_slice().into()).unwrap();
            let len = (text.len() + 16) as u32 | if kind == 1 { 1 << 31 } else { 0 };
            [&len.to_be_bytes()[..], &text, &tag].concat()
        };
        let mut lens = Vec::new();
        for (i, plain) in self.blocks.iter().enumerate() {
            file.extend(frame(i as u64, 0, plain));
            lens.push(plain.len() as u32 + 16);
        }
        let trailer_offset = file.len() as u64;
        let json = self.json.clone().unwrap_or_else(|| {
            format!(
                r#"{{"source_len":{},"source_sha256":"{}","report":{{"engine":"test","tables":["Bestellungen","größe"]}}}}"#,
                self.source_len.unwrap_or(self.source.len() as u64),
                hex(&Sha256::digest(&self.source)),
            )
        });
        let mut trailer = (json.len() as u32).to_be_bytes().to_vec();
        trailer.extend(json.as_bytes());
        self.index.as_ref().unwrap_or(&lens).iter().for_each(|len| trailer.extend(len.to_be_bytes()));
        let count = self.blocks.len() as u64;
        file.extend(frame(self.trailer_counter.unwrap_or(count), 1, &trailer));
        file.extend(trailer_offset.to_be_bytes());
        file.extend(count.to_be_bytes());
        file.extend(b"SRND");
        file
    }
}
