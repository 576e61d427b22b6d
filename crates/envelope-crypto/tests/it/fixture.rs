//! Keys, options and the three readers, in the shape that tests want.

use std::ops::Range;
use std::sync::{Arc, LazyLock};

use backup_core::{
    BackupId, ByteStream, Decryptor, DumpReport, Encryptor, Expected, Opening, SealSummary, Settled,
};
use bytes::Bytes;
use envelope_crypto::keys::{Passphrase, RsaPrivateKey, SecretKey};
use envelope_crypto::range::{Progress, RangeOpening, RangeReader};
use envelope_crypto::{
    BlockLen, Compression, EnvelopeDecryptor, EnvelopeEncryptor, Identity, NoneRecipient, OpenError,
    OpenOptions, Opener, PassphraseIdentity, PassphraseKdf, PassphraseRecipient, Recipient, RsaIdentity,
    RsaRecipient, SealOptions, Sealer, SecretKeyIdentity, SecretKeyRecipient,
};
use zeroize::Zeroizing;

/// The shortest block, to have many of them in a small file.
pub(crate) const BLOCK: usize = 64 << 10;

pub(crate) const PASSPHRASE: &str = "correct horse, Zürich";
pub(crate) const SECRET: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// One key for all tests: making one takes a second.
pub(crate) static RSA: LazyLock<RsaPrivateKey> = LazyLock::new(|| RsaPrivateKey::generate(2048).unwrap());

pub(crate) struct Pair {
    pub(crate) recipient: Arc<dyn Recipient>,
    pub(crate) identities: Vec<Arc<dyn Identity>>,
}

fn pair(recipient: impl Recipient + 'static, identity: impl Identity + 'static) -> Pair {
    Pair { recipient: Arc::new(recipient), identities: vec![Arc::new(identity)] }
}

pub(crate) fn rsa() -> Pair {
    pair(
        RsaRecipient::from_public(RSA.public_key().as_rsa().clone()).unwrap(),
        RsaIdentity::from_private(RSA.as_rsa().clone()).unwrap(),
    )
}

pub(crate) fn secret_key() -> Pair {
    let key = Zeroizing::new(*SecretKey::from_base64(SECRET.as_bytes()).unwrap().as_bytes());
    pair(SecretKeyRecipient::from_bytes(key.clone()), SecretKeyIdentity::from_bytes(key))
}

pub(crate) fn passphrase(kdf: PassphraseKdf) -> Pair {
    pair(
        PassphraseRecipient::with_kdf(Passphrase::new(PASSPHRASE.as_bytes()).unwrap(), kdf).unwrap(),
        PassphraseIdentity::new(&format!("{PASSPHRASE}\n")).unwrap(),
    )
}

pub(crate) const ARGON2ID: PassphraseKdf = PassphraseKdf::Argon2id { m_kib: 64 << 10, t: 1, p: 1 };
pub(crate) const PBKDF2: PassphraseKdf = PassphraseKdf::Pbkdf2 { iterations: 600_000 };

pub(crate) fn none() -> Pair {
    Pair { recipient: Arc::new(NoneRecipient), identities: vec![] }
}

pub(crate) fn options(workers: usize) -> SealOptions {
    SealOptions {
        compression: Compression::Zstd(3),
        block_len: BlockLen::MIN,
        workers,
        allow_symmetric: true,
    }
}

/// Text that compresses about as a dump does.
pub(crate) fn text(len: usize) -> Vec<u8> {
    let mut state = 7_u32;
    let mut out = Vec::with_capacity(len + 40);
    while out.len() < len {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        out.extend_from_slice(format!("row {} has value {state:08x}\n", out.len()).as_bytes());
    }
    out.truncate(len);
    out
}

/// Bytes that no compressor shrinks.
pub(crate) fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.wrapping_mul(0x2545_F491_4F6C_DD1D).to_be_bytes());
    }
    out.truncate(len);
    out
}

pub(crate) fn report() -> DumpReport {
    DumpReport {
        engine: "test".into(),
        tables: vec!["Bestellungen".into(), "größe".into()],
        ..Default::default()
    }
}

/// Seals in one thread, without input and output.
pub(crate) fn seal(pairs: &[&Pair], options: &SealOptions, plain: &[u8]) -> (Vec<u8>, SealSummary) {
    let recipients: Vec<_> = pairs.iter().map(|pair| Arc::clone(&pair.recipient)).collect();
    let (mut sealer, mut file) = Sealer::new(BackupId::random(), &recipients, options).unwrap();
    for chunk in plain.chunks(10_007) {
        sealer.push(chunk, &mut file).unwrap();
    }
    let summary = sealer.finish(report(), &mut file).unwrap();
    (file, summary)
}

/// Chunks of odd sizes, one of them empty.
pub(crate) fn chunks(bytes: &[u8]) -> Vec<backup_core::Result<Bytes>> {
    let mut rest = bytes;
    let mut chunks = vec![Ok(Bytes::new())];
    for size in [1, 13, 70_000, 4_096, 200_000, 3].iter().cycle() {
        if rest.is_empty() {
            return chunks;
        }
        let (chunk, after) = rest.split_at((*size).min(rest.len()));
        chunks.push(Ok(Bytes::copy_from_slice(chunk)));
        rest = after;
    }
    chunks
}

/// Seals through the port.
pub(crate) async fn seal_stream(
    pairs: &[&Pair],
    options: SealOptions,
    plain: &[u8],
) -> backup_core::Result<(Vec<u8>, SealSummary)> {
    let recipients = pairs.iter().map(|pair| Arc::clone(&pair.recipient)).collect();
    let encryptor = EnvelopeEncryptor::new(recipients, options)?;
    let plain = ByteStream::new(futures::stream::iter(chunks(plain)));
    let mut sealing = encryptor.seal(&BackupId::random(), plain, Settled::known(report())).await?;
    let mut file = Vec::new();
    while let Some(chunk) = sealing.bytes.next().await {
        assert!(sealing.summary.get().is_none(), "nothing is settled before the end");
        file.extend_from_slice(&chunk?);
    }
    Ok((file, sealing.summary.get().unwrap().clone()))
}

/// What was released, and how it ended.
pub(crate) type Outcome = (Vec<u8>, Result<(), OpenError>);

/// Opens in one thread, without input and output.
pub(crate) fn open_sync(identities: &[Arc<dyn Identity>], expected: Expected, file: &[u8]) -> Outcome {
    let mut plain = Vec::new();
    let run = || {
        let mut opener = Opener::new(identities.to_vec(), expected)?;
        for chunk in file.chunks(9_973) {
            opener.push(chunk, &mut |released| plain.extend_from_slice(released))?;
        }
        let facts = opener.finish()?;
        assert_eq!(facts.report, report());
        Ok(())
    };
    let result = run();
    (plain, result)
}

/// The exact error behind one that crossed the port.
pub(crate) fn exact(error: &backup_core::Error) -> OpenError {
    std::error::Error::source(error).unwrap().downcast_ref::<OpenError>().unwrap().clone()
}

/// Opens through the port.
pub(crate) async fn open_stream(
    identities: &[Arc<dyn Identity>],
    workers: usize,
    expected: Expected,
    file: &[u8],
) -> Outcome {
    let decryptor = EnvelopeDecryptor::new(identities.to_vec(), OpenOptions { workers });
    let sealed = ByteStream::declare_sealed(futures::stream::iter(chunks(file)));
    let mut plain = Vec::new();
    let mut opened = match decryptor.open(Opening { sealed, expected }).await {
        Ok(opened) => opened,
        Err(error) => return (plain, Err(exact(&error))),
    };
    while let Some(chunk) = opened.bytes.next().await {
        match chunk {
            Ok(chunk) => plain.extend_from_slice(&chunk),
            Err(error) => {
                assert!(opened.report.get().is_none(), "a failed stream settles nothing");
                return (plain, Err(exact(&error)));
            }
        }
    }
    assert_eq!(opened.report.get(), Some(&report()));
    (plain, Ok(()))
}

/// Opens for reading ranges.
pub(crate) fn open_ranges(
    identities: &[Arc<dyn Identity>],
    expected: Expected,
    file: &[u8],
) -> Result<RangeReader, OpenError> {
    let mut opening = RangeOpening::new(identities.to_vec(), expected, file.len() as u64)?;
    loop {
        let wanted = opening.wanted()?;
        assert!(!wanted.is_empty() && wanted.end <= file.len() as u64);
        match opening.supply(&file[wanted.start as usize..wanted.end as usize])? {
            Progress::More(more) => opening = more,
            Progress::Ready(reader) => return Ok(reader),
        }
    }
}

/// Reads one range.
pub(crate) fn read_range(reader: &RangeReader, file: &[u8], range: Range<u64>) -> Outcome {
    let mut plain = Vec::new();
    for index in reader.blocks(range.clone()) {
        let place = reader.frame(index).unwrap();
        match reader.open(index, &file[place.start as usize..place.end as usize]) {
            Ok(block) => plain.extend_from_slice(&block[reader.part(index, &range)]),
            Err(error) => return (plain, Err(error)),
        }
    }
    (plain, Ok(()))
}

/// Reads everything as one range.
pub(crate) fn open_as_range(identities: &[Arc<dyn Identity>], expected: Expected, file: &[u8]) -> Outcome {
    match open_ranges(identities, expected, file) {
        Ok(reader) => read_range(&reader, file, 0..u64::MAX),
        Err(error) => (Vec::new(), Err(error)),
    }
}

/// What a manifest would say of a file.
pub(crate) fn expected(summary: &SealSummary, file: &[u8]) -> Expected {
    Expected {
        id: None,
        head_sha256: Some(summary.head_sha256),
        object_len: Some(file.len() as u64),
        tree_root: Some(summary.tree_root),
        tree: Some(Arc::from(&summary.tree[..])),
    }
}
