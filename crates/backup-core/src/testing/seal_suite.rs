//! What every cipher must do: an encryptor, a decryptor and an auditor that belong together.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use sha2::{Digest as _, Sha256};
use tokio::sync::oneshot;

use super::store_suite::noise;
use crate::digest::Sha256Digest;
use crate::dump::DumpReport;
use crate::error::{Error, ErrorKind, Result};
use crate::id::BackupId;
use crate::seal::{Auditor, Decryptor, Encryptor, Expected, Opening, SealSummary};
use crate::settled::Settled;
use crate::stream::{ByteStream, Sealed};

/// A cipher, seen through all of its ports.
#[derive(Debug, Clone)]
pub struct Cipher {
    /// Seals.
    pub encryptor: Arc<dyn Encryptor>,
    /// Opens what `encryptor` seals.
    pub decryptor: Arc<dyn Decryptor>,
    /// Walks what `encryptor` seals.
    pub auditor: Arc<dyn Auditor>,
    /// Holds other keys; `None` where what is sealed is not secret.
    pub stranger: Option<Arc<dyn Decryptor>>,
    /// Bytes of plaintext in one block.
    pub block: usize,
}

/// Checks what every [`Encryptor`], [`Decryptor`] and [`Auditor`] must do together: what was sealed
/// comes back, whatever its chunks; everything that is expected of an envelope is checked, its head
/// before anything else; what is cut, longer or changed anywhere never ends cleanly and settles
/// nothing; an error of the input is passed on; and a dropped stream drops its input.
///
/// # Panics
/// Where one of them breaks the contract.
pub async fn seal_suite(cipher: &Cipher) {
    what_was_sealed_comes_back(cipher).await;
    what_is_sealed_is_hidden(cipher).await;
    expectations_are_honoured(cipher).await;
    the_head_is_checked_before_anything_else(cipher).await;
    damage_never_ends_cleanly(cipher).await;
    errors_of_the_input_are_passed_on(cipher).await;
    a_dropped_stream_drops_its_input(cipher).await;
}

/// About `count` lengths below `len`, with all that are near the start and near the end.
pub(super) fn samples(len: usize, count: usize) -> Vec<usize> {
    let step = (len / count).max(1);
    let mut places: Vec<usize> = (0..len).step_by(step).collect();
    places.extend((0..len.min(3)).chain(len.saturating_sub(3)..len));
    places.sort_unstable();
    places.dedup();
    places
}

fn report() -> DumpReport {
    DumpReport { engine: "scripted".to_owned(), tables: vec!["größe".to_owned()], ..DumpReport::default() }
}

/// Chunks of these sizes in turn; a size of 0 is an empty chunk.
fn chunks(bytes: &Bytes, sizes: &[usize]) -> Vec<Result<Bytes>> {
    let (mut items, mut rest) = (Vec::new(), bytes.clone());
    let mut sizes = sizes.iter().cycle();
    while let (false, Some(size)) = (rest.is_empty(), sizes.next()) {
        items.push(Ok(rest.split_to((*size).min(rest.len()))));
    }
    items
}

/// One whole envelope.
struct Envelope {
    id: BackupId,
    plain: Bytes,
    sealed: Bytes,
    summary: SealSummary,
}

impl Envelope {
    /// Everything that a manifest says of it, with the tree.
    fn expected(&self) -> Expected {
        Expected {
            id: Some(self.id),
            head_sha256: Some(self.summary.head_sha256),
            object_len: Some(self.sealed.len() as u64),
            tree_root: Some(self.summary.tree_root),
            tree: Some(Arc::from(&self.summary.tree[..])),
        }
    }

    /// Where the head ends, by its digest.
    fn head_len(&self) -> usize {
        let mut hasher = Sha256::new();
        for (index, byte) in self.sealed.iter().enumerate() {
            hasher.update([*byte]);
            if Sha256Digest(hasher.clone().finalize().into()) == self.summary.head_sha256 {
                return index + 1;
            }
        }
        panic!("no beginning of the envelope has the digest that its summary says is the head's");
    }
}

async fn try_seal(
    cipher: &Cipher,
    id: BackupId,
    items: Vec<Result<Bytes>>,
    report: Settled<DumpReport>,
) -> Result<(Bytes, SealSummary)> {
    let plain = ByteStream::new(futures::stream::iter(items));
    let mut sealing = cipher.encryptor.seal(&id, plain, report).await?;
    let mut sealed = BytesMut::new();
    while let Some(chunk) = sealing.bytes.next().await {
        assert!(sealing.summary.get().is_none(), "the summary is settled at the end, not before");
        sealed.extend_from_slice(&chunk?);
    }
    let summary = sealing.summary.get().expect("the summary is settled at the clean end");
    Ok((sealed.freeze(), summary.clone()))
}

async fn seal(cipher: &Cipher, plain: &Bytes, sizes: &[usize]) -> Envelope {
    let id = BackupId::random();
    let sealed = try_seal(cipher, id, chunks(plain, sizes), Settled::known(report())).await;
    let (sealed, summary) = sealed.expect("a good source is sealed");
    assert_eq!(summary.source_len, plain.len() as u64, "the summary tells the length of the source");
    Envelope { id, plain: plain.clone(), sealed, summary }
}

fn opening(items: Vec<Result<Bytes>>, expected: Expected) -> Opening {
    let sealed: ByteStream<Sealed> = ByteStream::declare_sealed(futures::stream::iter(items));
    Opening { sealed, expected }
}

/// What was released, and how it ended.
async fn open(decryptor: &dyn Decryptor, opening: Opening) -> (Bytes, Result<DumpReport>) {
    let mut released = BytesMut::new();
    let mut opened = match decryptor.open(opening).await {
        Ok(opened) => opened,
        Err(error) => return (Bytes::new(), Err(error)),
    };
    let result = loop {
        match opened.bytes.next().await {
            Some(Ok(chunk)) => released.extend_from_slice(&chunk),
            Some(Err(error)) => break Err(error),
            None => break Ok(opened.report.get().expect("the report is settled at the clean end").clone()),
        }
        assert!(opened.report.get().is_none(), "the report is settled at the end, not before");
    };
    if result.is_err() {
        assert!(opened.bytes.next().await.is_some_and(|item| item.is_err()), "no end follows an error");
        assert!(opened.report.get().is_none(), "a failed opening settles no report");
    }
    (released.freeze(), result)
}

async fn what_was_sealed_comes_back(cipher: &Cipher) {
    assert!(!cipher.encryptor.recipients().is_empty(), "somebody can open what is sealed");
    let block = cipher.block;
    let whole = [1, 1 << 30];
    let odd = [1, 0, 13, block / 2, 0, 4_096, block + 1, 3];
    for len in [0, 1, 1_000, block - 1, block, block + 1, 3 * block, 3 * block + 17] {
        let plain = noise(len, len as u64 + 1);
        let mut frames = None;
        for sizes in [&whole[1..], &whole[..], &odd[..], &[1_000][..]] {
            let envelope = seal(cipher, &plain, sizes).await;
            let what = format!("{len} bytes in chunks of {sizes:?}");
            let root_only = Expected { tree: None, ..envelope.expected() };
            for expected in [envelope.expected(), root_only.clone(), Expected::default()] {
                let items = chunks(&envelope.sealed, sizes);
                let (back, result) = open(&*cipher.decryptor, opening(items, expected)).await;
                assert_eq!(result.unwrap_or_else(|error| panic!("{what}: {error}")), report(), "{what}");
                assert!(back == plain, "{what} came back as {} other bytes", back.len());
            }
            for expected in [envelope.expected(), root_only] {
                let audited = cipher.auditor.audit(opening(chunks(&envelope.sealed, sizes), expected)).await;
                let count = audited.unwrap_or_else(|error| panic!("{what}: {error}"));
                assert_eq!(*frames.get_or_insert(count), count, "{what}: as many frames in any chunks");
            }
        }
    }
    // A source may say that it has nothing in more than one way.
    for items in [vec![], vec![Ok(Bytes::new())]] {
        let sealed = try_seal(cipher, BackupId::random(), items, Settled::known(report())).await;
        let (sealed, summary) = sealed.expect("nothing is sealed, too");
        assert_eq!(summary.source_len, 0);
        let (back, result) = open(&*cipher.decryptor, opening(vec![Ok(sealed)], Expected::default())).await;
        assert_eq!((back.len(), result.expect("an empty envelope is opened")), (0, report()));
    }
}

async fn what_is_sealed_is_hidden(cipher: &Cipher) {
    let Some(stranger) = &cipher.stranger else { return };
    let plain = noise(cipher.block + 100, 3);
    let (one, other) = (seal(cipher, &plain, &[1_000]).await, seal(cipher, &plain, &[1_000]).await);
    let (released, result) =
        open(&**stranger, opening(vec![Ok(one.sealed.clone())], Expected::default())).await;
    assert_eq!(result.expect_err("a stranger has no key").kind(), ErrorKind::Denied);
    assert!(released.is_empty(), "a stranger read {} bytes", released.len());
    for place in samples(plain.len() - 16, 16) {
        let piece = &plain[place..place + 16];
        for envelope in [&one, &other] {
            let shown = envelope.sealed.windows(16).any(|window| window == piece);
            assert!(!shown, "the 16 bytes of plaintext at {place} can be read without a key");
        }
        // Nothing is sealed under one key and nonce twice.
        let at = one.head_len() + place;
        assert_ne!(one.sealed[at..at + 16], other.sealed[at..at + 16], "sealed alike at {at}");
    }
}

async fn expectations_are_honoured(cipher: &Cipher) {
    let envelope = seal(cipher, &noise(2 * cipher.block + 99, 4), &[1 << 30]).await;
    let good = envelope.expected();
    let bare = Expected::default();
    let len = envelope.sealed.len() as u64;
    let wrong = Sha256Digest::of(b"another");
    let altered = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut tree = envelope.summary.tree.to_vec();
        change(&mut tree);
        Some(Arc::from(tree))
    };
    let leaf = altered(&|tree| *tree.last_mut().expect("a tree has leaves") ^= 1);
    let short = altered(&|tree| tree.truncate(tree.len() - 1));
    let long = altered(&|tree| tree.push(0));
    let mut table = vec![("an id", Expected { id: Some(BackupId::random()), ..good.clone() })];
    for base in [&good, &bare] {
        table.push(("a head", Expected { head_sha256: Some(wrong), ..base.clone() }));
        table.push(("a shorter length", Expected { object_len: Some(len - 1), ..base.clone() }));
        table.push(("a longer length", Expected { object_len: Some(len + 1), ..base.clone() }));
        table.push(("a root", Expected { tree_root: Some(wrong), ..base.clone() }));
    }
    table.push(("a root, without a tree", Expected { tree_root: Some(wrong), tree: None, ..good.clone() }));
    for (what, tree) in [("a leaf", leaf), ("half a leaf", short), ("half a leaf more", long)] {
        table.push((what, Expected { tree, ..good.clone() }));
    }
    table.push(("a tree that nobody vouches for", Expected { tree_root: None, ..good.clone() }));
    for (what, expected) in table {
        let items = chunks(&envelope.sealed, &[7_001]);
        let (released, result) = open(&*cipher.decryptor, opening(items, expected.clone())).await;
        let error = result.expect_err(what);
        assert_eq!(error.kind(), ErrorKind::Integrity, "another {what} was expected: {error}");
        assert!(envelope.plain.starts_with(&released), "{what}: other bytes were released");

        let items = chunks(&envelope.sealed, &[7_001]);
        let error = cipher.auditor.audit(opening(items, expected)).await.expect_err(what);
        assert_eq!(error.kind(), ErrorKind::Integrity, "another {what} was expected: {error}");
    }
    let nothing = cipher.auditor.audit(opening(vec![Ok(envelope.sealed.clone())], bare)).await;
    let error = nothing.expect_err("an audit with nothing to hold against says nothing");
    assert_eq!(error.kind(), ErrorKind::Integrity);
}

async fn the_head_is_checked_before_anything_else(cipher: &Cipher) {
    let envelope = seal(cipher, &noise(2 * cipher.block, 5), &[1 << 30]).await;
    let head = envelope.sealed.slice(..envelope.head_len());
    let other = Expected { head_sha256: Some(Sha256Digest::of(b"another")), ..envelope.expected() };
    let other_id = Expected { id: Some(BackupId::random()), head_sha256: None, ..envelope.expected() };
    // The stranger would be denied if it looked for a key first; a reader that reads on meets the error.
    for decryptor in [Some(&cipher.decryptor), cipher.stranger.as_ref()].into_iter().flatten() {
        for expected in [&other, &other_id] {
            let beyond = Error::new(ErrorKind::Bug, "envelope", "was read beyond its head");
            let items = vec![Ok(head.clone()), Err(beyond)];
            let error = decryptor.open(opening(items, expected.clone())).await;
            let error = error.expect_err("another head is refused before any plaintext is promised");
            assert_eq!(error.kind(), ErrorKind::Integrity, "{error}");
        }
    }
    let items = vec![Ok(head), Err(Error::new(ErrorKind::Bug, "envelope", "was read beyond its head"))];
    let error = cipher.auditor.audit(opening(items, other)).await.expect_err("another head is refused");
    assert_eq!(error.kind(), ErrorKind::Integrity, "{error}");
}

async fn damage_never_ends_cleanly(cipher: &Cipher) {
    let envelope = seal(cipher, &noise(2 * cipher.block + 99, 6), &[1 << 30]).await;
    let (sealed, head_len) = (&envelope.sealed, envelope.head_len());
    let mut table: Vec<(String, Vec<u8>)> = Vec::new();
    let near_the_head = head_len.saturating_sub(2)..head_len + 6;
    for len in samples(sealed.len(), 32).into_iter().chain(near_the_head.clone()) {
        table.push((format!("cut at {len}"), sealed[..len].to_vec()));
    }
    let flips = samples(sealed.len(), 64).into_iter().chain(samples(head_len, 64)).chain(near_the_head);
    for (place, bit) in flips.chain(sealed.len().saturating_sub(64)..sealed.len()).zip((0..8).cycle()) {
        let mut changed = sealed.to_vec();
        changed[place] ^= 1 << bit;
        table.push((format!("bit {bit} of byte {place} flipped"), changed));
    }
    table.push(("a byte appended".to_owned(), [&sealed[..], b"\0"].concat()));
    table.push(("a line end appended".to_owned(), [&sealed[..], b"\n"].concat()));
    table.push(("twice".to_owned(), [&sealed[..], &sealed[..]].concat()));
    let half = head_len + (sealed.len() - head_len) / 2;
    table.push(("a byte left out".to_owned(), [&sealed[..half], &sealed[half + 1..]].concat()));
    table.push(("a byte put in".to_owned(), [&sealed[..half], b"\0", &sealed[half..]].concat()));

    for (what, bytes) in table {
        let what = format!("{what} of {} (head {head_len})", sealed.len());
        let bytes = Bytes::from(bytes);
        // Without a manifest a header may name another version or another key; that is no clean end.
        let bare = [ErrorKind::Integrity, ErrorKind::Denied, ErrorKind::Unsupported];
        let pinned = [ErrorKind::Integrity, ErrorKind::Unsupported];
        let root = Expected { tree: None, ..envelope.expected() };
        let cases = [(Expected::default(), &bare[..]), (root, &pinned), (envelope.expected(), &pinned)];
        for (expected, kinds) in cases {
            let items = chunks(&bytes, &[5_003]);
            let (released, result) = open(&*cipher.decryptor, opening(items, expected)).await;
            let error = result.expect_err(&what);
            assert!(kinds.contains(&error.kind()), "{what}: {:?}: {error}", error.kind());
            assert!(envelope.plain.starts_with(&released), "{what}: other bytes were released");
        }
        for expected in [envelope.expected(), Expected { tree: None, ..envelope.expected() }] {
            let error = cipher.auditor.audit(opening(chunks(&bytes, &[5_003]), expected)).await;
            let error = error.expect_err(&what);
            assert!(pinned.contains(&error.kind()), "{what}: {:?}: {error}", error.kind());
        }
    }
}

fn failure() -> Result<Bytes> {
    Err(Error::new(ErrorKind::TimedOut, "input", "broken for a test"))
}

async fn errors_of_the_input_are_passed_on(cipher: &Cipher) {
    let block = cipher.block;
    let plain = noise(3 * block, 7);
    for len in [0, 1, block - 1, block, block + 1, 3 * block] {
        let mut items = chunks(&plain.slice(..len), &[9_001]);
        items.push(failure());
        let stream = ByteStream::new(futures::stream::iter(items));
        // The report is there: nothing but the failed input stands against a clean end.
        let sealing = cipher.encryptor.seal(&BackupId::random(), stream, Settled::known(report())).await;
        let mut sealing = sealing.expect("sealing starts");
        let error = loop {
            match sealing.bytes.next().await {
                Some(Ok(_)) => {}
                Some(Err(error)) => break error,
                None => panic!("an input broken after {len} bytes was sealed as if it were whole"),
            }
        };
        assert_eq!(error.kind(), ErrorKind::TimedOut, "broken after {len}: {error}");
        assert!(sealing.bytes.next().await.is_some_and(|item| item.is_err()), "no end follows an error");
        assert!(sealing.summary.get().is_none(), "a failed sealing settles no summary");
    }

    // A dump that ends without saying how is not whole.
    let (settler, unsaid) = Settled::pending();
    drop(settler);
    let sealed = try_seal(cipher, BackupId::random(), chunks(&plain, &[9_001]), unsaid).await;
    sealed.expect_err("a source that ends without its report is not sealed");

    let envelope = seal(cipher, &plain, &[1 << 30]).await;
    let whole = envelope.sealed.len();
    let head_len = envelope.head_len();
    for len in [0, 1, head_len - 1, head_len, head_len + 1, whole / 2, whole - 1, whole] {
        let items = || {
            let mut items = chunks(&envelope.sealed.slice(..len), &[9_001]);
            items.push(failure());
            items
        };
        for expected in [envelope.expected(), Expected::default()] {
            let (released, result) = open(&*cipher.decryptor, opening(items(), expected)).await;
            let error = result.expect_err("a broken input has no end");
            assert_eq!(error.kind(), ErrorKind::TimedOut, "broken after {len} of {whole}: {error}");
            assert!(plain.starts_with(&released));
        }
        let error = cipher.auditor.audit(opening(items(), envelope.expected())).await;
        let error = error.expect_err("a broken input has no end");
        assert_eq!(error.kind(), ErrorKind::TimedOut, "broken after {len} of {whole}: {error}");
    }
}

/// The answer comes when the input that holds the other end is dropped.
async fn dropped(input: oneshot::Receiver<()>, whose: &str) {
    let waited = tokio::time::timeout(Duration::from_secs(60), input).await;
    assert!(waited.is_ok(), "{whose} was dropped and still holds its input");
}

async fn a_dropped_stream_drops_its_input(cipher: &Cipher) {
    let chunk = noise(10_000, 8);
    for read in [0, 1, 4] {
        let (held, gone) = oneshot::channel();
        let endless = futures::stream::repeat_with({
            let chunk = chunk.clone();
            move || {
                let _held = &held;
                Ok(chunk.clone())
            }
        });
        let plain = ByteStream::new(endless);
        let sealing = cipher.encryptor.seal(&BackupId::random(), plain, Settled::known(report())).await;
        let mut sealing = sealing.expect("sealing starts");
        for _ in 0..read {
            sealing.bytes.next().await.expect("an endless source has no end").expect("sealed bytes");
        }
        let summary = sealing.summary.clone();
        drop(sealing);
        dropped(gone, "a sealing").await;
        assert!(summary.get().is_none(), "a dropped sealing settles no summary");
    }

    let envelope = seal(cipher, &noise(4 * cipher.block, 9), &[1 << 30]).await;
    let head_len = envelope.head_len();
    for read in [0, 1, 2] {
        let (held, gone) = oneshot::channel::<()>();
        let mut items = chunks(&envelope.sealed.slice(head_len..), &[3_001]);
        items.insert(0, Ok(envelope.sealed.slice(..head_len)));
        let stalled = futures::stream::iter(items).chain(futures::stream::pending()).map(move |item| {
            let _held = &held;
            item
        });
        let sealed = ByteStream::declare_sealed(stalled);
        let opened = cipher.decryptor.open(Opening { sealed, expected: envelope.expected() }).await;
        let mut opened = opened.expect("opening starts");
        for _ in 0..read {
            opened.bytes.next().await.expect("no end yet").expect("plain bytes");
        }
        let report = opened.report.clone();
        drop(opened);
        dropped(gone, "an opening").await;
        assert!(report.get().is_none(), "a dropped opening settles no report");
    }
}
