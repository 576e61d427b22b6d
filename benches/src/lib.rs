//! What the measurements share: rows that look like a database's, and a place that keeps nothing.

#[cfg(test)]
#[path = "../../examples/embed.rs"]
#[allow(dead_code)] // its main is only for people
mod embed;
pub mod through;

use std::fmt;
use std::io::Write as _;

use async_trait::async_trait;
use backup_core::{Limits, ObjectKey, Receipt, Result, Sink, Upload, Whole};
use bytes::Bytes;

const WORDS: [&str; 48] = [
    "the",
    "order",
    "customer",
    "please",
    "delivery",
    "address",
    "before",
    "noon",
    "ring",
    "bell",
    "leave",
    "parcel",
    "with",
    "neighbour",
    "invoice",
    "payment",
    "received",
    "late",
    "damaged",
    "return",
    "refund",
    "colour",
    "size",
    "large",
    "small",
    "blue",
    "green",
    "black",
    "white",
    "gift",
    "wrap",
    "card",
    "happy",
    "birthday",
    "thank",
    "you",
    "very",
    "much",
    "call",
    "when",
    "arrived",
    "door",
    "garden",
    "back",
    "front",
    "floor",
    "second",
    "lift",
];
const NAMES: [&str; 16] = [
    "anna", "ben", "clara", "david", "emma", "felix", "greta", "hannes", "ida", "jonas", "klara", "leon",
    "mia", "noah", "olga", "paul",
];

/// `len` bytes of rows as `COPY` writes them: identifiers, mail addresses, times, JSON and words.
/// The same bytes for the same `len`, in every run. zstd 3 brings them to about a third.
#[must_use]
pub fn rows(len: usize) -> Bytes {
    let mut random = SplitMix(0x5eed);
    let mut text = Vec::with_capacity(len + 1024);
    let mut row = 0_u64;
    while text.len() < len {
        row += 1;
        // Writing to a vector does not fail.
        let _ = write_row(&mut text, row, &mut random);
    }
    text.truncate(len);
    text.into()
}

fn write_row(text: &mut Vec<u8>, row: u64, random: &mut SplitMix) -> std::io::Result<()> {
    let (a, b) = (random.next(), random.next());
    let name = NAMES[random.below(NAMES.len())];
    let (day, second) = (random.below(28) + 1, random.below(60));
    write!(
        text,
        "{row}\t{:08x}-{:04x}-4{:03x}-9{:03x}-{:012x}\t{name}.{}{row}@example.com\t2024-{:02}-{day:02} \
         {:02}:{:02}:{second:02}.{:06}+00\t{}.{:02}\t",
        a >> 32,
        a >> 16 & 0xffff,
        a & 0xfff,
        b >> 52,
        b & 0xffff_ffff_ffff,
        WORDS[random.below(WORDS.len())],
        row % 12 + 1,
        row % 24,
        random.below(60),
        random.below(1_000_000),
        random.below(2000),
        random.below(100),
    )?;
    write!(
        text,
        "{{\"plan\": \"{}\", \"score\": {}, \"token\": \"{:016x}\", \"active\": {}, \"tags\": [\"{}\", \"{}\"]}}\t",
        ["free", "plus", "team"][random.below(3)],
        random.below(100_000),
        random.next(),
        random.below(10) != 0,
        WORDS[random.below(WORDS.len())],
        WORDS[random.below(WORDS.len())],
    )?;
    for _ in 0..random.below(24) {
        write!(text, "{} ", WORDS[random.below(WORDS.len())])?;
    }
    text.push(b'\n');
    Ok(())
}

/// Steele, Lea and Flood's SplitMix64: small, quick and the same everywhere.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

/// A place that takes everything and keeps nothing: what is measured with it is all that stands
/// before the store.
#[derive(Debug, Clone, Copy)]
pub struct NullSink;

impl fmt::Display for NullSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nowhere")
    }
}

#[async_trait]
impl Sink for NullSink {
    fn limits(&self) -> Limits {
        Limits { object_len_max: u64::MAX, put_if_absent: true }
    }

    async fn begin(&self, _: &ObjectKey, _: Option<u64>) -> Result<Box<dyn Upload>> {
        Ok(Box::new(NullUpload))
    }
}

#[derive(Debug)]
struct NullUpload;

#[async_trait]
impl Upload for NullUpload {
    async fn write(&mut self, _: Bytes) -> Result<()> {
        Ok(())
    }

    async fn commit(self: Box<Self>, whole: Whole) -> Result<Receipt> {
        Ok(Receipt { len: whole.len(), sha256: whole.sha256(), tag: None })
    }

    async fn abort(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use backup_core::{Context, SourceName, pipeline};
    use envelope_crypto::sign::SigningKey;
    use envelope_crypto::trust::UnsignedOrigin;
    use envelope_crypto::{EnvelopeDecryptor, EnvelopeEncryptor, NoneRecipient, OpenOptions, SealOptions};

    use super::*;

    #[test]
    fn rows_are_of_the_length_asked_for_and_always_the_same() {
        for len in [0, 1, 100_000] {
            let rows = rows(len);
            assert_eq!((rows.len(), &rows), (len, &super::rows(len)));
        }
        assert_ne!(rows(1000)[..500], rows(1000)[500..]);
    }

    #[test]
    fn the_embedding_example_is_short() {
        let lines = include_str!("../../examples/embed.rs").lines().map(str::trim);
        let code = lines.filter(|line| !line.is_empty() && !line.starts_with("//")).count();
        assert!(code < 40, "{code} lines of code");
    }

    #[tokio::test]
    async fn the_embedding_example_backs_up_what_it_says() {
        let folder = tempfile::tempdir().unwrap();
        let place = || storage::open(&storage::StorageConfig::local(folder.path())).unwrap();
        let recipients: Vec<Arc<dyn envelope_crypto::Recipient>> = vec![Arc::new(NoneRecipient)];
        let encryptor = EnvelopeEncryptor::new(recipients, SealOptions::default()).unwrap();
        let done = embed::back_up(place(), encryptor, SigningKey::generate().unwrap()).await.unwrap();

        let at = done.manifest.backup();
        assert_eq!(at.source, "notes".parse::<SourceName>().unwrap());
        let decryptor = EnvelopeDecryptor::new(Vec::new(), OpenOptions::default());
        let (cx, source) = (Context::new(), place().source);
        let opened = pipeline::open(&cx, source.as_ref(), &UnsignedOrigin, &decryptor, &at).await.unwrap();
        assert_eq!(backup_core::testing::collect(opened.dump.bytes).await.unwrap(), "milk and bread\n");
    }
}
