//! What the targets share: an author of envelopes who has every key and keeps no rule, and readers
//! that compare all ways of reading.
//!
//! Anybody who has a public key can seal, so what stands inside valid authentication is as hostile
//! as anything else. The file key here stands in the header in the clear (recipient `none`), so no
//! target spends its time on unwrapping.

use aes_gcm::{AeadInOut as _, Aes256Gcm, KeyInit as _};
use backup_core::{DumpReport, Expected, Sha256Digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use envelope_crypto::OpenError;
use envelope_crypto::format::trailer::TrailerFacts;
use envelope_crypto::range::{Progress, RangeOpening, RangeReader};
use envelope_crypto::{Opener, tree};
use hkdf::Hkdf;
use hmac::{Hmac, Mac as _};
use sha2::Sha256;

/// The smallest block length there is.
pub const BLOCK_LEN: usize = 64 << 10;
/// The codec of a block that is not compressed.
pub const STORED: u8 = 0;
/// The codec of a compressed block.
pub const ZSTD: u8 = 1;

/// The manifest's key that bodies of manifests in the corpus belong to.
pub const MANIFEST_KEY: &str = "orders/7f0a1c52-6f0b-4a53-9b5e-0d6f6c1d2e3f/manifest.json";
/// The owner of the corpus's repository.
pub const OWNER: &str = include_str!("../seeds/owner.txt");
/// The id of the corpus's repository.
pub const REPOSITORY: &str = include_str!("../seeds/repository.txt");
/// The corpus's repository.
pub const REPOSITORY_JSON: &[u8] = include_bytes!("../seeds/repository.json");
/// Its trust file.
pub const TRUST_JSON: &[u8] = include_bytes!("../seeds/trust-1.json");

const FILE_KEY: [u8; 32] = [0x17; 32];
const SALT: [u8; 32] = [0x2a; 32];

/// Writes envelopes of anything.
pub struct Author {
    cipher: Aes256Gcm,
    blocks: u64,
    lens: Vec<u32>,
    file: Vec<u8>,
}

impl Default for Author {
    fn default() -> Self {
        Self::new()
    }
}

impl Author {
    /// Begins a file with a valid head and blocks of [`BLOCK_LEN`].
    #[must_use]
    pub fn new() -> Self {
        let json = format!(
            "{{\"suite\":\"A256GCM-HKDF-SHA256\",\"id\":\"7f0a1c52-6f0b-4a53-9b5e-0d6f6c1d2e3f\",\"block_len\":{BLOCK_LEN},\
             \"salt\":\"{}\",\"recipients\":[{{\"type\":\"none\",\"wrapped_key\":\"{}\"}}]}}",
            STANDARD.encode(SALT),
            STANDARD.encode(FILE_KEY),
        );
        Self::with_header(json.as_bytes())
    }

    /// Begins a file with any header, rightly authenticated.
    #[must_use]
    pub fn with_header(json: &[u8]) -> Self {
        let mut file = b"STRONGRM\0\x01".to_vec();
        file.extend_from_slice(&(json.len() as u32).to_be_bytes());
        file.extend_from_slice(json);
        let mut mac = <Hmac<Sha256> as hmac::KeyInit>::new_from_slice(&derive("header")).expect("any length");
        mac.update(&file);
        file.extend_from_slice(&mac.finalize().into_bytes());
        let cipher = Aes256Gcm::new(&derive("payload").into());
        Self { cipher, blocks: 0, lens: Vec::new(), file }
    }

    /// Adds a block with this plaintext, codec byte and all.
    pub fn block(&mut self, plain: &[u8]) {
        let len = self.frame(0, 0, plain);
        self.lens.push(len);
        self.blocks += 1;
    }

    /// Adds a stored block.
    pub fn stored(&mut self, body: &[u8]) {
        self.block(&[&[STORED], body].concat());
    }

    /// Adds a compressed block.
    pub fn compressed(&mut self, body: &[u8]) {
        let body = zstd::bulk::compress(body, 3).expect("zstd compresses");
        self.block(&[&[ZSTD], body.as_slice()].concat());
    }

    /// Ends the file as a sealer would.
    #[must_use]
    pub fn finish(self, source: &[u8]) -> Vec<u8> {
        let trailer = self.trailer(source);
        self.finish_with(&trailer)
    }

    /// The plaintext of an honest trailer.
    #[must_use]
    pub fn trailer(&self, source: &[u8]) -> Vec<u8> {
        let facts = TrailerFacts {
            source_len: source.len() as u64,
            source_sha256: Sha256Digest::of(source),
            report: DumpReport::default(),
        };
        let json = serde_json::to_vec(&facts).expect("facts can be written");
        let mut plain = (json.len() as u32).to_be_bytes().to_vec();
        plain.extend_from_slice(&json);
        self.lens.iter().for_each(|len| plain.extend_from_slice(&len.to_be_bytes()));
        plain
    }

    /// Ends the file with any trailer.
    #[must_use]
    pub fn finish_with(mut self, trailer: &[u8]) -> Vec<u8> {
        let (offset, blocks) = (self.file.len() as u64, self.blocks);
        self.frame(1, 1 << 31, trailer);
        self.file.extend_from_slice(&offset.to_be_bytes());
        self.file.extend_from_slice(&blocks.to_be_bytes());
        self.file.extend_from_slice(b"SRND");
        self.file
    }

    /// What was written so far.
    #[must_use]
    pub fn into_unfinished(self) -> Vec<u8> {
        self.file
    }

    fn frame(&mut self, kind: u8, bit: u32, plain: &[u8]) -> u32 {
        let mut nonce = [0; 12];
        nonce[3..11].copy_from_slice(&self.blocks.to_be_bytes());
        nonce[11] = kind;
        let len = plain.len() as u32 + 16;
        self.file.extend_from_slice(&(len | bit).to_be_bytes());
        let at = self.file.len();
        self.file.extend_from_slice(plain);
        let text = &mut self.file[at..];
        let tag =
            self.cipher.encrypt_inout_detached(&nonce.into(), &[], text.into()).expect("a short message");
        self.file.extend_from_slice(&tag);
        len
    }
}

fn derive(what: &str) -> [u8; 32] {
    let mut key = [0; 32];
    let info = format!("strongroom/v1 {what}");
    Hkdf::<Sha256>::new(Some(&SALT), &FILE_KEY).expand(info.as_bytes(), &mut key).expect("32 bytes");
    key
}

/// What a whole file pins, as its manifest would.
#[must_use]
pub fn expected(file: &[u8]) -> Expected {
    let head_len = 14 + u32::from_be_bytes(file[10..14].try_into().expect("4 bytes")) as usize + 32;
    let mut tree_file = b"SRTREE01".to_vec();
    tree_file.extend_from_slice(&[0; 8]);
    let mut root = tree::RootHasher::default();
    let (mut rest, mut count) = (&file[head_len..file.len() - 20], 0_u64);
    while !rest.is_empty() {
        let len = u32::from_be_bytes(rest[..4].try_into().expect("4 bytes")) & !(1 << 31);
        let (frame, after) = rest.split_at(4 + len as usize);
        tree_file.extend_from_slice(&tree::leaf(frame));
        root.push(tree::leaf(frame));
        (rest, count) = (after, count + 1);
    }
    tree_file[8..16].copy_from_slice(&count.to_be_bytes());
    Expected {
        id: None,
        head_sha256: Some(Sha256Digest::of(&file[..head_len])),
        object_len: Some(file.len() as u64),
        tree_root: Some(root.root()),
        tree: Some(tree_file.into()),
    }
}

/// Opens a file in one pass, given in pieces: what was released, and how it ended.
pub fn open(file: &[u8], piece: usize, expected: Expected) -> (Vec<u8>, Result<TrailerFacts, OpenError>) {
    let mut released = Vec::new();
    let mut opener = match Opener::new(Vec::new(), expected) {
        Ok(opener) => opener,
        Err(error) => return (released, Err(error)),
    };
    for bytes in file.chunks(piece.max(1)) {
        if let Err(error) = opener.push(bytes, &mut |plain| released.extend_from_slice(plain)) {
            let len = released.len();
            // After an error it gives that error again and releases nothing.
            let again = opener.push(file, &mut |plain| released.extend_from_slice(plain));
            assert_eq!((again.as_ref(), released.len()), (Err(&error), len));
            return (released, Err(error));
        }
    }
    (released, opener.finish())
}

/// Opens a file for reading ranges.
pub fn open_range(file: &[u8], expected: Expected) -> Result<RangeReader, OpenError> {
    let mut opening = RangeOpening::new(Vec::new(), expected, file.len() as u64)?;
    // A head, a footer, a trailer: more rounds would be a loop.
    for _ in 0..5 {
        let wanted = opening.wanted()?;
        assert!(!wanted.is_empty() && wanted.end <= file.len() as u64, "{wanted:?}");
        let bytes = &file[wanted.start as usize..wanted.end as usize];
        match opening.supply(bytes)? {
            Progress::More(more) => opening = more,
            Progress::Ready(reader) => return Ok(reader),
        }
    }
    panic!("the reader wants more and more");
}

/// Reads every block through the reader of ranges.
pub fn read_all(file: &[u8], reader: &RangeReader) -> Result<Vec<u8>, OpenError> {
    let mut plain = Vec::new();
    for index in reader.blocks(0..u64::MAX) {
        let frame = reader.frame(index).expect("a block that it named");
        let frame = file.get(frame.start as usize..frame.end as usize).ok_or(OpenError::Truncated)?;
        plain.extend_from_slice(&reader.open(index, frame)?);
    }
    Ok(plain)
}
