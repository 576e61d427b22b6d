//! Random parts of a stored backup against its signed tree, without a key, and how much that says.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::stream::{StreamExt as _, TryStreamExt as _};
use sha2::{Digest as _, Sha256};

use crate::context::Context;
use crate::error::{Error, ErrorKind, Result, Stage};
use crate::id::{BackupId, ObjectKey};
use crate::manifest::BackupRef;
use crate::progress::{Event, RunStatus};
use crate::seal::{Auditor, Expected, Frames};
use crate::statement::{Trust, VouchedManifest};
use crate::store::{EntityTag, Source};

use super::read;

/// How many parts are fetched at a time.
const FETCHES_MAX: usize = 4;
/// How sure the statement is to be: the chance that a backup as damaged as stated passes is at most
/// one minus this.
pub const CONFIDENCE: f64 = 0.999;

/// How many frames to look at.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum SampleSize {
    /// This share of them, above 0 and at most 1; at least one.
    Share(f64),
    /// As many; all where there are fewer.
    Frames(u64),
}

impl SampleSize {
    /// How many of `count` frames.
    #[must_use]
    pub fn of(self, count: u64) -> u64 {
        match self {
            #[allow(clippy::cast_precision_loss, reason = "at most 2^23 frames")]
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most the count")]
            Self::Share(share) => ((count as f64 * share.clamp(0.0, 1.0)).ceil() as u64).clamp(1, count),
            Self::Frames(frames) => frames.clamp(1, count),
        }
    }
}

/// A backup of which random parts are what was signed.
#[derive(Debug)]
pub struct Sampled {
    /// Its manifest.
    pub manifest: VouchedManifest,
    /// How many frames it has.
    pub frames: u64,
    /// How many of them were read and held against the signed tree.
    pub sampled: u64,
    /// Bytes that were read, those of head and end among them.
    pub bytes: u64,
    /// With [`CONFIDENCE`], fewer frames than this are damaged or gone.
    pub damaged_below: u64,
}

impl Sampled {
    /// The share of frames, below which damage is with [`CONFIDENCE`].
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "at most 2^23 frames")]
    pub fn share_below(&self) -> f64 {
        self.damaged_below as f64 / self.frames as f64
    }
}

/// The smallest number of damaged frames among `count` that a clean sample of `sampled` rules out with
/// `confidence`; 1 when every frame was looked at.
///
/// The sample is drawn without replacement, so a backup with `d` damaged frames passes with the chance
/// of the hypergeometric distribution, `C(count - d, sampled) / C(count, sampled)`.
#[must_use]
#[allow(clippy::cast_precision_loss, reason = "at most 2^23 frames")]
pub fn damaged_below(count: u64, sampled: u64, confidence: f64) -> u64 {
    // ln of C(count - d, n) / C(count, n), which is the same with d and n exchanged.
    let passes = |damaged: u64| -> f64 {
        let (few, many) = (damaged.min(sampled), damaged.max(sampled));
        if few + many > count {
            return f64::NEG_INFINITY;
        }
        (0..few).map(|i| ((count - many - i) as f64 / (count - i) as f64).ln()).sum()
    };
    let bound = (1.0 - confidence).ln();
    let (mut passing, mut ruled_out) = (0, count - sampled + 1);
    while ruled_out - passing > 1 {
        let middle = u64::midpoint(passing, ruled_out);
        if passes(middle) <= bound { ruled_out = middle } else { passing = middle }
    }
    ruled_out
}

/// Reads the head, the end and random frames of a backup, all of one version, and holds each against
/// what was signed. Needs no key. Which frames is chosen by the system's random numbers, and nobody
/// knows it before they are asked for.
///
/// Cancel safe; also stops through the context's token.
///
/// # Errors
/// `Integrity` where anything differs; `Unsupported` for a backup whose tree tells no lengths; those of
/// [`Trust::vouch`] and of the place.
pub async fn sample(
    cx: &Context,
    source: &dyn Source,
    trust: &dyn Trust,
    auditor: &dyn Auditor,
    at: &BackupRef,
    size: SampleSize,
) -> Result<Sampled> {
    cx.report(Event::Status(RunStatus::Verifying));
    let manifest = read::manifest(source, trust, at).await?;
    let body = manifest.manifest();
    let pin = read::data_version(source, &manifest).await?;
    let tree = read::tree(source, body).await?;
    let expected = Expected {
        id: Some(body.id),
        head_sha256: Some(body.head_sha256),
        object_len: Some(body.object_len),
        tree_root: Some(body.tree_root),
        tree: Some(tree),
    };
    let frames = auditor.frames(expected).await.map_err(|e| e.at(Stage::Verify))?;
    let count = frames.count();
    let chosen = choose(count, size.of(count));
    let reading = Reading { cx, source, key: at.data(), pin, frames };

    let length: u64 =
        chosen.iter().filter_map(|index| reading.frames.place(*index)).map(|r| r.end - r.start).sum();
    cx.report(Event::Estimate { bytes: length });
    let head = reading.range(reading.frames.head()).await?;
    reading.frames.check_head(&head).map_err(|e| e.at(Stage::Verify))?;
    let end = reading.range(reading.frames.end()).await?;
    reading.frames.check_end(&end).map_err(|e| e.at(Stage::Verify))?;
    let sampled = chosen.len() as u64;
    let read: Vec<u64> = futures::stream::iter(chosen.into_iter().map(|index| reading.frame(index)))
        .buffer_unordered(FETCHES_MAX)
        .try_collect()
        .await?;
    cx.report(Event::Status(RunStatus::Completed));
    let bytes = read.iter().sum::<u64>() + (head.len() + end.len()) as u64;
    let damaged_below = damaged_below(count, sampled, CONFIDENCE);
    Ok(Sampled { frames: count, sampled, bytes, damaged_below, manifest })
}

struct Reading<'a> {
    cx: &'a Context,
    source: &'a dyn Source,
    key: ObjectKey,
    pin: Option<EntityTag>,
    frames: Arc<dyn Frames>,
}

impl Reading<'_> {
    /// Reads and checks one frame; answers its length.
    async fn frame(&self, index: u64) -> Result<u64> {
        self.cx.check(self.key.as_str())?;
        let place = self
            .frames
            .place(index)
            .ok_or_else(|| Error::bug(format!("frame {index} was chosen and is not there")))?;
        let (start, len) = (place.start, place.end - place.start);
        let bytes = self.range(place).await?;
        let frames = Arc::clone(&self.frames);
        let checked = tokio::task::spawn_blocking(move || frames.check(index, &bytes)).await;
        checked.map_err(|e| Error::bug(format!("the hashing thread died: {e}")))?.map_err(|error| {
            Error::new(
                error.kind(),
                self.key.as_str(),
                format!("bytes {start} to {} are not those that were signed: {}", start + len, error.what()),
            )
            .with_hint("the store or the way to it damages data: do not rely on this copy; look for another, and check the store")
            .at(Stage::Verify)
        })?;
        self.cx.report(Event::Sealed { bytes: len });
        Ok(len)
    }

    async fn range(&self, range: Range<u64>) -> Result<Bytes> {
        let len = range.end - range.start;
        let fetched = self.source.fetch(&self.key, Some(range), self.pin.as_ref()).await;
        let mut stream = fetched.map_err(|e| e.at(Stage::Fetch))?;
        let mut bytes = BytesMut::new();
        while let Some(chunk) = stream.next().await {
            bytes.extend_from_slice(&chunk.map_err(|e| e.at(Stage::Fetch))?);
            if bytes.len() as u64 > len {
                return Err(Error::new(
                    ErrorKind::Integrity,
                    self.key.as_str(),
                    "the store gave more bytes than asked for",
                )
                .at(Stage::Fetch));
            }
        }
        Ok(bytes.freeze())
    }
}

/// So many different numbers below `count`, each set of them as likely as any other (Floyd's method).
fn choose(count: u64, wanted: u64) -> BTreeSet<u64> {
    let mut random = Random { seed: BackupId::random().to_string(), drawn: 0 };
    let mut chosen = BTreeSet::new();
    for last in count - wanted.min(count)..count {
        let drawn = random.below(last + 1);
        if !chosen.insert(drawn) {
            chosen.insert(last);
        }
    }
    chosen
}

/// Numbers that nobody can foresee without the seed, which has 122 random bits of the system.
struct Random {
    seed: String,
    drawn: u64,
}

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        loop {
            let hash = Sha256::new_with_prefix(&self.seed).chain_update(self.drawn.to_be_bytes()).finalize();
            self.drawn += 1;
            let number = hash.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
            // The numbers above the last whole multiple would make the low ones likelier.
            if number < u64::MAX - u64::MAX % bound {
                return number % bound;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_confidence_is_that_of_the_hypergeometric_distribution() {
        // By hand: of 100 frames 50 were seen; d damaged ones pass with C(100-d,50)/C(100,50).
        // d = 9 passes with 0.00132, d = 10 with 0.00059.
        assert_eq!(damaged_below(100, 50, 0.999), 10);
        assert_eq!(damaged_below(100, 100, 0.999), 1, "all of them were seen");
        assert_eq!(damaged_below(1, 1, 0.999), 1);
        // One of two: even a wholly damaged one is ruled out only as such.
        assert_eq!(damaged_below(2, 1, 0.999), 2);
        // The rule of thumb for large counts: ln(1000)/n = 6.9/n.
        let below = damaged_below(8_000_000, 6_905, 0.999);
        assert!((7_980..8_020).contains(&below), "{below}: a thousandth");
        let many = damaged_below(8_000_000, 80_000, 0.999);
        assert!((680..692).contains(&many), "{many}");
        // More samples never say less.
        let mut last = u64::MAX;
        for sampled in 1..=300 {
            let below = damaged_below(300, sampled, 0.999);
            assert!(below <= last && below >= 1);
            last = below;
        }
    }

    #[test]
    fn a_sample_has_the_size_that_was_asked_for_and_every_frame_is_as_likely() {
        assert_eq!(SampleSize::Share(0.01).of(1_000), 10);
        assert_eq!(SampleSize::Share(0.01).of(10), 1);
        assert_eq!(SampleSize::Share(1.0).of(10), 10);
        assert_eq!(SampleSize::Frames(50).of(10), 10);
        assert_eq!(choose(10, 10).len(), 10);
        let mut hits = [0u32; 20];
        for _ in 0..2_000 {
            let chosen = choose(20, 5);
            assert_eq!(chosen.len(), 5);
            chosen.iter().for_each(|index| hits[*index as usize] += 1);
        }
        // 500 each; ten standard deviations are 194.
        assert!(hits.iter().all(|hits| (306..694).contains(hits)), "{hits:?}");
    }
}
