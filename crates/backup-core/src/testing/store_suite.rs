//! How every sink, source and remover behaves. An adapter or wrapper is right when these pass on it.
//!
//! Each function panics with the broken promise. They make objects below [`Place::prefix`] and leave
//! them there, so that they can share a bucket with others.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use tokio::task::JoinSet;

use crate::digest::Sha256Digest;
use crate::error::{ErrorKind, Result};
use crate::id::{BackupId, ObjectKey};
use crate::store::{EntityTag, Receipt, Remover, Sink, Source, Upload, Whole};

/// The size of the chunks that the suites write.
const CHUNK: usize = 256 * 1024;

/// A place to try, seen through all of its ports.
#[derive(Debug, Clone)]
pub struct Place {
    /// Writes.
    pub sink: Arc<dyn Sink>,
    /// Reads what `sink` writes.
    pub source: Arc<dyn Source>,
    /// Removes what `sink` writes.
    pub remover: Arc<dyn Remover>,
    /// What all keys begin with; random, ends in `/`.
    pub prefix: String,
    /// Bytes of the largest object; choose enough for several parts.
    pub large: usize,
    /// How many objects are listed at once; choose more than one page where that is affordable.
    pub many: usize,
    /// Whether [`Remover::sweep_unfinished`] is there.
    pub sweeps: bool,
    /// Whether the place can be asked for a name that others begin with, as a folder's; some small
    /// servers over a file system break on that.
    pub knows_folders: bool,
    /// How long must lie between two objects of one name and length for their versions to have two names: a second
    /// where a version is known by the second of its last change.
    pub clock_step: Duration,
}

impl Place {
    /// A place that is one thing with all ports.
    pub fn of(store: impl Sink + Source + Remover + 'static) -> Self {
        let store = Arc::new(store);
        Self::new(Arc::clone(&store) as _, Arc::clone(&store) as _, store)
    }

    /// A place by its ports.
    #[must_use]
    pub fn new(sink: Arc<dyn Sink>, source: Arc<dyn Source>, remover: Arc<dyn Remover>) -> Self {
        let prefix = format!("suite-{}/", BackupId::random());
        Self {
            sink,
            source,
            remover,
            prefix,
            large: 3 * CHUNK + 17,
            many: 40,
            sweeps: true,
            knows_folders: true,
            clock_step: Duration::ZERO,
        }
    }

    /// With a largest object of `large` bytes.
    #[must_use]
    pub fn with_large(mut self, large: usize) -> Self {
        self.large = large;
        self
    }

    /// With `many` objects in one listing.
    #[must_use]
    pub fn with_many(mut self, many: usize) -> Self {
        self.many = many;
        self
    }

    /// Where leftovers cannot be swept.
    #[must_use]
    pub fn without_sweep(mut self) -> Self {
        self.sweeps = false;
        self
    }

    /// Where nobody may ask for the name of a folder.
    #[must_use]
    pub fn without_folders(mut self) -> Self {
        self.knows_folders = false;
        self
    }

    /// Where two versions have two names only if so much time lies between them.
    #[must_use]
    pub fn with_clock_step(mut self, step: Duration) -> Self {
        self.clock_step = step;
        self
    }

    fn key(&self, name: &str) -> ObjectKey {
        format!("{}{name}", self.prefix).parse().expect("a valid key")
    }
}

/// Bytes that repeat in no short period, so that swapped or lost pieces show; the same for the same
/// `seed`.
#[must_use]
pub fn noise(len: usize, seed: u64) -> Bytes {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        // Xorshift (Marsaglia 2003).
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes.into()
}

/// Stores `chunks` as one object through the sink's own calls, without the pipeline.
pub async fn put(sink: &dyn Sink, key: &ObjectKey, chunks: &[&[u8]]) -> Result<Receipt> {
    let mut upload = sink.begin(key, None).await?;
    for chunk in chunks {
        if let Err(error) = upload.write(Bytes::copy_from_slice(chunk)).await {
            // As the pipeline does: an upload that failed can still be aborted.
            let _ = upload.abort().await;
            return Err(error);
        }
    }
    commit(upload, &chunks.concat()).await
}

/// Commits an upload that was given exactly `bytes`.
pub async fn commit(upload: Box<dyn Upload>, bytes: &[u8]) -> Result<Receipt> {
    upload.commit(Whole::after_clean_end(bytes.len() as u64, Sha256Digest::of(bytes))).await
}

/// The bytes of an object or a range of it.
pub async fn read(
    source: &dyn Source,
    key: &ObjectKey,
    range: Option<Range<u64>>,
    pin: Option<&EntityTag>,
) -> Result<Vec<u8>> {
    let mut stream = source.fetch(key, range, pin).await?;
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.next().await {
        bytes.extend_from_slice(&chunk?);
    }
    Ok(bytes)
}

/// Every promise of a [`Sink`].
pub async fn sink(place: &Place) {
    nothing_is_visible_before_commit(place).await;
    objects_of_all_sizes_arrive(place).await;
    a_second_object_of_one_key_is_refused(place).await;
    of_two_at_once_one_wins(place).await;
    dropped_and_aborted_uploads_leave_nothing(place).await;
    a_commit_of_something_else_is_refused(place).await;
}

/// Every promise of a [`Source`].
pub async fn source(place: &Place) {
    ranges_are_exact(place).await;
    what_is_missing_is_named(place).await;
    pins_hold(place).await;
    listings_are_complete_and_in_order(place).await;
}

/// Every promise of a [`Remover`].
pub async fn remover(place: &Place) {
    removing_is_exact_and_repeatable(place).await;
    if place.sweeps {
        sweeping_spares_what_is_young_or_committed(place).await;
    }
}

async fn assert_absent(place: &Place, key: &ObjectKey, when: &str) {
    let seen = place.source.stat(key).await.expect("stat");
    assert_eq!(seen, None, "{key} has a stat {when}");
    let folder = key.as_str().rsplit_once('/').map_or(String::new(), |(folder, _)| format!("{folder}/"));
    let listed = place.source.list(&folder).await.expect("list");
    assert!(listed.iter().all(|object| object.key != *key), "{key} is listed {when}");
    let fetched = read(place.source.as_ref(), key, None, None).await;
    assert_eq!(fetched.map_err(|e| e.kind()), Err(ErrorKind::NotFound), "{key} can be read {when}");
}

async fn assert_holds(place: &Place, key: &ObjectKey, bytes: &[u8]) {
    let info = place.source.stat(key).await.expect("stat").expect("the object is there");
    assert_eq!((&info.key, info.len), (key, bytes.len() as u64));
    let got = read(place.source.as_ref(), key, None, info.tag.as_ref()).await.expect("read");
    assert!(got == bytes, "{key} holds other bytes than were stored");
}

async fn nothing_is_visible_before_commit(place: &Place) {
    let key = place.key("unseen/object");
    let bytes = noise(place.large, 1);
    let mut upload = place.sink.begin(&key, Some(bytes.len() as u64)).await.expect("begin");
    assert_absent(place, &key, "after begin").await;
    // Looking after every chunk of a large object would be slow and show no more than eight looks do.
    let chunks: Vec<&[u8]> = bytes.chunks(CHUNK).collect();
    let every = chunks.len().div_ceil(8);
    for (n, chunk) in chunks.iter().enumerate() {
        upload.write(Bytes::copy_from_slice(chunk)).await.expect("write");
        if n % every == 0 {
            assert_absent(place, &key, "after a write").await;
        }
    }
    assert_absent(place, &key, "after the last write").await;
    let receipt = commit(upload, &bytes).await.expect("commit");
    assert_eq!((receipt.len, receipt.sha256), (bytes.len() as u64, Sha256Digest::of(&bytes)));
    assert_holds(place, &key, &bytes).await;
    let info = place.source.stat(&key).await.expect("stat").expect("the object is there");
    assert_eq!(receipt.tag, info.tag, "the receipt names the version that is there");
}

async fn objects_of_all_sizes_arrive(place: &Place) {
    for len in [0, 1, CHUNK, CHUNK + 1] {
        let key = place.key(&format!("sizes/{len}"));
        let bytes = noise(len, len as u64);
        let receipt = put(place.sink.as_ref(), &key, &[&bytes]).await.expect("put");
        assert_eq!(receipt.len, len as u64);
        assert_holds(place, &key, &bytes).await;
    }
    let key = place.key("sizes/uneven");
    put(place.sink.as_ref(), &key, &[b"a", b"", b"bcd", b""]).await.expect("put");
    assert_holds(place, &key, b"abcd").await;
}

async fn a_second_object_of_one_key_is_refused(place: &Place) {
    let key = place.key("once");
    put(place.sink.as_ref(), &key, &[b"the first"]).await.expect("put");
    let second = put(place.sink.as_ref(), &key, &[b"the second"]).await;
    assert_eq!(second.map_err(|e| e.kind()), Err(ErrorKind::Conflict));
    assert_holds(place, &key, b"the first").await;

    // Begun before the first was there.
    let key = place.key("overtaken");
    let mut late = place.sink.begin(&key, None).await.expect("begin");
    late.write(Bytes::from_static(b"late")).await.expect("write");
    put(place.sink.as_ref(), &key, &[b"early"]).await.expect("put");
    let overtaken = commit(late, b"late").await;
    assert_eq!(overtaken.map_err(|e| e.kind()), Err(ErrorKind::Conflict));
    assert_holds(place, &key, b"early").await;
}

async fn of_two_at_once_one_wins(place: &Place) {
    for round in 0..3 {
        // Small ones and ones of several parts take different ways.
        for len in [100, place.large] {
            let key = place.key(&format!("race/{round}/{len}"));
            let mut writers = JoinSet::new();
            for seed in [1, 2] {
                let (sink, key, bytes) = (Arc::clone(&place.sink), key.clone(), noise(len, seed));
                writers.spawn(async move {
                    let chunks: Vec<&[u8]> = bytes.chunks(CHUNK).collect();
                    let done = put(sink.as_ref(), &key, &chunks).await;
                    (bytes.clone(), done.map_err(|e| e.kind()))
                });
            }
            let done = writers.join_all().await;
            let winners: Vec<&Bytes> =
                done.iter().filter(|(_, done)| done.is_ok()).map(|(bytes, _)| bytes).collect();
            for (_, lost) in done.iter().filter(|(_, done)| done.is_err()) {
                assert_eq!(lost.as_ref().err(), Some(&ErrorKind::Conflict), "{key}");
            }
            if place.sink.limits().put_if_absent {
                assert_eq!(winners.len(), 1, "{key} was won by exactly one");
                assert_holds(place, &key, winners[0]).await;
            } else {
                // Such a place can only promise that what is there is one of them, whole.
                let got = read(place.source.as_ref(), &key, None, None).await.expect("read");
                assert!(done.iter().any(|(bytes, _)| *bytes == got), "{key} is a mixture");
            }
        }
    }
}

async fn dropped_and_aborted_uploads_leave_nothing(place: &Place) {
    let bytes = noise(place.large, 5);
    for name in ["dropped", "aborted", "untouched"] {
        let key = place.key(&format!("left/{name}"));
        let mut upload = place.sink.begin(&key, None).await.expect("begin");
        if name != "untouched" {
            for chunk in bytes.chunks(CHUNK) {
                upload.write(Bytes::copy_from_slice(chunk)).await.expect("write");
            }
        }
        if name == "dropped" {
            drop(upload);
        } else {
            upload.abort().await.expect("abort");
        }
        assert_absent(place, &key, &format!("although its upload was {name}")).await;
        // The name is free for the next.
        put(place.sink.as_ref(), &key, &[b"next"]).await.expect("put");
        assert_holds(place, &key, b"next").await;
    }
}

async fn a_commit_of_something_else_is_refused(place: &Place) {
    let key = place.key("other");
    let mut upload = place.sink.begin(&key, None).await.expect("begin");
    upload.write(Bytes::from_static(b"abc")).await.expect("write");
    let done = commit(upload, b"abcd").await;
    assert_eq!(done.map_err(|e| e.kind()), Err(ErrorKind::Integrity));
    assert_absent(place, &key, "although its commit was refused").await;
}

async fn ranges_are_exact(place: &Place) {
    let source = place.source.as_ref();
    let key = place.key("ranges/large");
    let bytes = noise(place.large, 9);
    let chunks: Vec<&[u8]> = bytes.chunks(CHUNK).collect();
    put(place.sink.as_ref(), &key, &chunks).await.expect("put");
    let len = bytes.len();
    let ranges =
        [0..1, 0..len, 1..2, len / 2..len / 2 + 1, len / 3..len - 1, len - 1..len, 0..0, 7..7, len..len];
    for range in ranges {
        let wanted = range.start as u64..range.end as u64;
        let got = read(source, &key, Some(wanted.clone()), None).await.expect("read");
        assert!(got == bytes[range], "the bytes {wanted:?} of {len}");
    }
    for beyond in [0..len + 1, len..len + 1, len + 5..len + 9] {
        let beyond = beyond.start as u64..beyond.end as u64;
        let got = read(source, &key, Some(beyond.clone()), None).await;
        assert_eq!(got.map_err(|e| e.kind()), Err(ErrorKind::Integrity), "the bytes {beyond:?} of {len}");
    }
    let empty = place.key("ranges/empty");
    put(place.sink.as_ref(), &empty, &[]).await.expect("put");
    for range in [None, Some(0..0)] {
        assert_eq!(read(source, &empty, range, None).await.expect("read"), b"");
    }
    let got = read(source, &empty, Some(0..1), None).await;
    assert_eq!(got.map_err(|e| e.kind()), Err(ErrorKind::Integrity));
}

async fn what_is_missing_is_named(place: &Place) {
    let key = place.key("missing/object");
    assert_absent(place, &key, "although nobody made it").await;
    let error = place.source.fetch(&key, Some(0..1), None).await.expect_err("nothing to fetch");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.subject().contains(key.as_str()), "the message names the object: {error}");
    assert_eq!(place.source.list(&format!("{}missing/", place.prefix)).await.expect("list"), []);
    // A folder is no object.
    put(place.sink.as_ref(), &place.key("folder/object"), &[b"x"]).await.expect("put");
    if place.knows_folders {
        assert_eq!(place.source.stat(&place.key("folder")).await.expect("stat"), None);
    }
}

async fn pins_hold(place: &Place) {
    let key = place.key("pinned");
    put(place.sink.as_ref(), &key, &[b"first"]).await.expect("put");
    let first = place.source.stat(&key).await.expect("stat").expect("there").tag.expect("a tag");
    let got = read(place.source.as_ref(), &key, Some(1..3), Some(&first)).await.expect("read");
    assert_eq!(got, b"ir");
    place.remover.remove(&key).await.expect("remove");
    tokio::time::sleep(place.clock_step).await;
    put(place.sink.as_ref(), &key, &[b"other"]).await.expect("put");
    for range in [None, Some(1..3)] {
        let got = read(place.source.as_ref(), &key, range, Some(&first)).await;
        assert_eq!(got.map_err(|e| e.kind()), Err(ErrorKind::Integrity));
    }
}

async fn listings_are_complete_and_in_order(place: &Place) {
    let folder = format!("{}list/", place.prefix);
    let mut keys: Vec<ObjectKey> = (0..place.many).map(|n| place.key(&format!("list/many/{n:05}"))).collect();
    keys.push(place.key("list/a"));
    keys.push(place.key("list/many-more/z"));
    keys.push(place.key("list/B/c/d"));
    let mut writers = JoinSet::new();
    for (n, key) in keys.iter().cloned().enumerate() {
        let sink = Arc::clone(&place.sink);
        writers.spawn(async move { put(sink.as_ref(), &key, &[n.to_string().as_bytes()]).await });
        if writers.len() == 8 {
            writers.join_next().await.expect("a writer").expect("no panic").expect("put");
        }
    }
    for done in writers.join_all().await {
        done.expect("put");
    }
    keys.sort();
    let listed = place.source.list(&folder).await.expect("list");
    let names: Vec<&ObjectKey> = listed.iter().map(|object| &object.key).collect();
    assert_eq!(names, keys.iter().collect::<Vec<_>>(), "all of them, in the order of their keys");
    // What a listing says of an object is what a stat says of it.
    for object in [&listed[0], &listed[listed.len() - 1]] {
        let stat = place.source.stat(&object.key).await.expect("stat").expect("there");
        assert_eq!(stat.len, object.len, "{}", object.key);
        // Not every listing names versions, but none names another.
        assert!(object.tag.is_none() || stat.tag == object.tag, "{}", object.key);
    }
    // Whole segments only: `many/` is not `many-more/`.
    let many = place.source.list(&format!("{folder}many/")).await.expect("list");
    assert_eq!(many.len(), place.many);
    let all = place.source.list("").await.expect("list");
    assert!(all.len() >= keys.len() && all.is_sorted_by(|a, b| a.key < b.key));
}

async fn removing_is_exact_and_repeatable(place: &Place) {
    let (one, other) = (place.key("remove/folder/one"), place.key("remove/folder/one-more"));
    for key in [&one, &other] {
        put(place.sink.as_ref(), key, &[b"x"]).await.expect("put");
    }
    for _ in 0..2 {
        place.remover.remove(&one).await.expect("remove");
        assert_absent(place, &one, "although it was removed").await;
    }
    assert_holds(place, &other, b"x").await;
    if place.knows_folders {
        place.remover.remove(&place.key("remove/folder")).await.expect("a folder is no object");
        assert_holds(place, &other, b"x").await;
    }
    place.remover.remove(&other).await.expect("remove");
    put(place.sink.as_ref(), &one, &[b"again"]).await.expect("a removed name is free");
    assert_holds(place, &one, b"again").await;
}

async fn sweeping_spares_what_is_young_or_committed(place: &Place) {
    let committed = place.key("sweep/committed");
    put(place.sink.as_ref(), &committed, &[b"x"]).await.expect("put");
    // As the data of a backup is called.
    let live = place.key(&format!("sweep/{}/data.strongroom", crate::id::BackupId::random()));
    let bytes = noise(place.large, 11);
    let mut upload = place.sink.begin(&live, None).await.expect("begin");
    for chunk in bytes.chunks(CHUNK) {
        upload.write(Bytes::copy_from_slice(chunk)).await.expect("write");
    }
    let an_hour_ago = Timestamp::now() - SignedDuration::from_hours(1);
    place.remover.sweep_unfinished(an_hour_ago).await.expect("sweep");
    commit(upload, &bytes).await.expect("what is young is spared");
    assert_holds(place, &live, &bytes).await;
    assert_holds(place, &committed, b"x").await;
}
