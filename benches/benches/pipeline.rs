//! Everything between a dump and a store, by compression and number of workers: the parallel
//! sealer, the digests of the pipeline, a place that keeps nothing.
//!
//! `cargo bench -p benches --bench pipeline`
#![allow(missing_docs)]

use std::fmt;
use std::sync::LazyLock;

use benches::through;
use bytes::Bytes;
use divan::Bencher;
use divan::counter::BytesCount;
use envelope_crypto::Compression;

const LEN: usize = 64 << 20;

static ROWS: LazyLock<Bytes> = LazyLock::new(|| benches::rows(LEN));

fn main() {
    divan::main();
}

#[derive(Clone, Copy)]
struct Case {
    compression: Compression,
    workers: usize,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.compression {
            Compression::None => write!(f, "stored, {} workers", self.workers),
            Compression::Zstd(level) => write!(f, "zstd {level}, {} workers", self.workers),
        }
    }
}

fn cases() -> impl Iterator<Item = Case> {
    [Compression::None, Compression::Zstd(1), Compression::Zstd(3)]
        .into_iter()
        .flat_map(|compression| [1, 2].map(|workers| Case { compression, workers }))
}

#[divan::bench(args = cases(), sample_count = 5, sample_size = 1)]
fn seal(bencher: Bencher<'_, '_>, case: Case) {
    LazyLock::force(&ROWS);
    bencher
        .counter(BytesCount::new(LEN))
        .bench_local(|| through::seal(&ROWS, case.compression, case.workers));
}

#[divan::bench(args = cases(), sample_count = 5, sample_size = 1)]
fn open(bencher: Bencher<'_, '_>, case: Case) {
    let file = through::sealed(&ROWS, case.compression);
    bencher.counter(BytesCount::new(LEN)).bench_local(|| through::open(&file, case.workers));
}
