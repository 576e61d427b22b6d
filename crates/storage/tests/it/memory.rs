//! Bytes in memory while much more than that is streamed.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use backup_core::testing::noise;
use backup_core::{ByteStream, Context, ObjectKey, Sink, pipeline};
use bytes::Bytes;
use storage::StorageConfig;

use crate::servers::{rgw, s3s, variable};

pub(crate) const CHUNK: usize = 1 << 20;

/// Counts the bytes that are alive.
#[derive(Debug, Default)]
struct Meter {
    now: AtomicUsize,
    peak: AtomicUsize,
}

/// Bytes that are counted until the last handle to them is gone.
struct Counted {
    bytes: Bytes,
    meter: Arc<Meter>,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.meter.now.fetch_sub(self.bytes.len(), Ordering::SeqCst);
    }
}

/// Stores `chunks` chunks and says how many bytes were alive at the same time.
pub(crate) async fn peak(sink: &dyn Sink, chunks: usize) -> usize {
    let meter = Arc::new(Meter::default());
    let counting = Arc::clone(&meter);
    let bytes = noise(CHUNK, 1);
    let stream = futures::stream::iter((0..chunks).map(move |_| {
        let now = counting.now.fetch_add(CHUNK, Ordering::SeqCst) + CHUNK;
        counting.peak.fetch_max(now, Ordering::SeqCst);
        Ok(Bytes::from_owner(Counted { bytes: bytes.clone(), meter: Arc::clone(&counting) }))
    }));
    let key: ObjectKey = "db/large".parse().unwrap();
    let sealed = ByteStream::declare_sealed(stream);
    let receipt = pipeline::store(&Context::new(), sink, &key, sealed, None).await.unwrap();
    assert_eq!(receipt.len, (chunks * CHUNK) as u64);
    assert_eq!(meter.now.load(Ordering::SeqCst), 0, "nothing is kept after the end");
    meter.peak.load(Ordering::SeqCst)
}

/// What may wait in the channel and in the hands of the pipeline.
pub(crate) const SLACK: usize = 4 * CHUNK;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn incident_64_an_upload_of_20_times_the_budget_stays_within_it() {
    let budget = 20 << 20;
    let opened = s3s().open("&part_memory=20");
    let peak = peak(opened.sink.as_ref(), 20 * budget / CHUNK + 3).await;
    assert!(peak <= budget + SLACK, "{peak} bytes at once");
    // The meter does count: a part that is being gathered is in memory.
    assert!(peak >= 5 << 20, "{peak} bytes at once");
    opened.remover.remove(&"db/large".parse().unwrap()).await.unwrap();
}

/// An object that outgrows its parts goes on in segments that the server copies, within the same budget.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn incident_64_an_upload_of_any_length_stays_within_the_budget() {
    let budget = 20 << 20;
    // 40 parts of 6 MiB, then segments of 16 MiB: three, and one of which there is only a beginning.
    let chunks = 40 * 6 + 3 * 16 + 7;
    for server in [s3s(), rgw()] {
        let opened = server.open("&part_memory=20&max_parts=100&segment=16");
        let peak = peak(opened.sink.as_ref(), chunks).await;
        assert!(peak <= budget + SLACK, "{peak} bytes at once");
        let key = "db/large".parse().unwrap();
        let listed = opened.source.list("").await.unwrap();
        assert_eq!(listed.len(), 1, "segments are removed: {listed:?}");
        let chunk = noise(CHUNK, 1);
        let mut read = opened.source.fetch(&key, None, None).await.unwrap();
        let mut at = 0;
        while let Some(got) = read.next().await {
            let mut got = got.unwrap();
            while !got.is_empty() {
                let begins = at % CHUNK;
                let piece = got.split_to(got.len().min(CHUNK - begins));
                assert!(piece == chunk[begins..begins + piece.len()], "at {at}");
                at += piece.len();
            }
        }
        assert_eq!(at, chunks * CHUNK);
        opened.remover.remove(&key).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn incident_64_a_folder_keeps_a_handful_of_chunks() {
    let folder = tempfile::tempdir().unwrap();
    let opened = storage::open(&StorageConfig::local(folder.path())).unwrap();
    let peak = peak(opened.sink.as_ref(), 200).await;
    assert!(peak <= 5 * CHUNK + SLACK, "{peak} bytes at once");
}

/// What glibc keeps of blocks that were freed, so that they come back sooner.
const ALLOCATOR: usize = 32 << 20;
const DESTINATION: &str = "STRONGROOM_TEST_DESTINATION";

/// What this process has and had in memory, in bytes.
fn resident(name: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() << 10
}

/// Run in a process of its own by the test below.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "incident_64_google_and_azure_stay_within_the_budget runs it in a process of its own"]
async fn a_long_upload() {
    let config = StorageConfig::from_url(&std::env::var(DESTINATION).unwrap()).unwrap();
    storage::probe(&Context::new(), &config, true).await.unwrap();
    let opened = storage::open(&config).unwrap();
    let before = resident("VmRSS:");
    peak(opened.sink.as_ref(), 300).await;
    let grown = resident("VmHWM:").saturating_sub(before);
    assert!(grown <= (64 << 20) + ALLOCATOR, "{} MiB more than before", grown >> 20);
    opened.remover.remove(&"db/large".parse().unwrap()).await.unwrap();
}

#[test]
fn incident_64_google_and_azure_stay_within_the_budget() {
    let id = backup_core::BackupId::random();
    let places = [
        format!("gs://memory-{id}?project=test&endpoint={}", variable("GCS_ENDPOINT")),
        format!("azblob://memory-{id}?account=devstoreaccount1&endpoint={}", variable("AZURITE_ENDPOINT")),
    ];
    for place in places {
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "memory::a_long_upload", "--ignored"])
            .env(DESTINATION, &place)
            .env("AZURE_STORAGE_KEY", variable("AZURITE_KEY"))
            .output()
            .unwrap();
        let shown = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && shown.contains("1 passed"), "{place}: {shown}");
    }
}
