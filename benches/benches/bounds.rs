//! The ratios that the project holds itself to, each pair measured in turns in one run, as Markdown.
//! What needs a database is in `scripts/bench-postgres`.
//!
//! `cargo bench -p benches --bench bounds`
#![allow(missing_docs, clippy::print_stdout)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use backup_core::{BackupId, DumpReport};
use benches::through;
use bytes::Bytes;
use envelope_crypto::block::{BODY_AT, FRAME_OVERHEAD, FrameSealer};
use envelope_crypto::{BlockLen, Compression, NoneRecipient, SealOptions, Sealer};
use rustix::time::{ClockId, clock_gettime};
use zeroize::Zeroizing;

const BLOCK_LEN: usize = 1 << 20;

fn main() {
    // `--test` only looks that everything runs.
    let test = std::env::args().any(|arg| arg == "--test");
    let (blocks, rounds) = if test { (2, 1) } else { (128, 15) };
    let rows = benches::rows(blocks * BLOCK_LEN);

    println!("{} MiB of rows in blocks of 1 MiB; medians of {rounds} rounds.\n", blocks);
    println!("| ratio | bound | found | speeds, MB/s |\n|---|---:|---:|---|");
    let one_thread = Clock::Thread;
    report(
        "seal frames in place, over bare AES-256-GCM",
        "0.85",
        rounds,
        one_thread,
        &rows,
        &mut frames(&rows),
        &mut bare(&rows),
    );
    report(
        "whole sealer without compression (copy, SHA-256 of the source, cipher, hash tree), over bare AES-256-GCM",
        "0.85",
        rounds,
        one_thread,
        &rows,
        &mut || whole(&rows),
        &mut bare(&rows),
    );
    report(
        "whole sealer without compression, over what it must do (AES-256-GCM and two SHA-256)",
        "",
        rounds,
        one_thread,
        &rows,
        &mut || whole(&rows),
        &mut with_digests(&rows),
    );
    let rounds = rounds.div_ceil(2);
    for (level, bound) in [(3, "1.8"), (1, "")] {
        report(
            &format!("pipeline, zstd {level}, 2 workers over 1, wall time"),
            bound,
            rounds,
            Clock::Wall,
            &rows,
            &mut || through::seal(&rows, Compression::Zstd(level), 2),
            &mut || through::seal(&rows, Compression::Zstd(level), 1),
        );
    }
    for workers in [1, 2] {
        report(
            &format!("pipeline, zstd 3, {workers} workers, over zstd 3 alone, CPU"),
            "",
            rounds,
            Clock::Process,
            &rows,
            &mut || through::seal(&rows, Compression::Zstd(3), workers),
            &mut || zstd_alone(&rows, 3),
        );
    }
}

/// Time of the calling thread, of the whole process, or passed.
#[derive(Clone, Copy)]
enum Clock {
    Thread,
    Process,
    Wall,
}

impl Clock {
    fn time(self, work: &mut dyn FnMut()) -> Duration {
        let began = self.now();
        work();
        self.now() - began
    }

    fn now(self) -> Duration {
        let id = match self {
            Self::Thread => ClockId::ThreadCPUTime,
            Self::Process => ClockId::ProcessCPUTime,
            Self::Wall => ClockId::Monotonic,
        };
        let now = clock_gettime(id);
        Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
    }
}

/// One row: `ours` over `theirs`, in speed, so that 1 is as good and less is slower.
fn report(
    what: &str,
    bound: &str,
    rounds: usize,
    clock: Clock,
    rows: &Bytes,
    ours: &mut dyn FnMut(),
    theirs: &mut dyn FnMut(),
) {
    let (mut a, mut b, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    // Neither has the advantage of memory that was touched before.
    ours();
    theirs();
    for _ in 0..rounds {
        let (ours, theirs) = (clock.time(ours).as_secs_f64(), clock.time(theirs).as_secs_f64());
        a.push(ours);
        b.push(theirs);
        ratios.push(theirs / ours);
    }
    let speed = |times| rows.len() as f64 / 1e6 / median(times);
    println!("| {what} | {bound} | {:.2} | {:.0} and {:.0} |", median(ratios), speed(a), speed(b));
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn frames(rows: &Bytes) -> impl FnMut() {
    let sealer = FrameSealer::new(&Zeroizing::new([7; 32]));
    let mut frame = vec![0; BLOCK_LEN + FRAME_OVERHEAD];
    frame[BODY_AT..BODY_AT + BLOCK_LEN].copy_from_slice(&rows[..BLOCK_LEN]);
    let blocks = (rows.len() / BLOCK_LEN) as u64;
    move || (0..blocks).for_each(|i| sealer.seal_stored(i, black_box(&mut frame)).expect("sealing"))
}

fn bare(rows: &Bytes) -> impl FnMut() {
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[7; 32]).expect("32 bytes"));
    let mut buffer = rows[..BLOCK_LEN].to_vec();
    let blocks = (rows.len() / BLOCK_LEN) as u32;
    move || {
        for i in 0..blocks {
            encrypt(&key, i, black_box(&mut buffer));
        }
    }
}

fn encrypt(key: &LessSafeKey, i: u32, buffer: &mut [u8]) {
    let mut nonce = [0; 12];
    nonce[..4].copy_from_slice(&i.to_be_bytes());
    let nonce = Nonce::assume_unique_for_key(nonce);
    black_box(key.seal_in_place_separate_tag(nonce, Aad::empty(), buffer).expect("sealing").as_ref()[0]);
}

/// The cipher, the digest of the source and the leaves of the tree, with the quickest digest at hand.
fn with_digests(rows: &Bytes) -> impl FnMut() {
    use aws_lc_rs::digest::{Context, SHA256, digest};
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[7; 32]).expect("32 bytes"));
    let mut buffer = rows[..BLOCK_LEN].to_vec();
    let blocks = (rows.len() / BLOCK_LEN) as u32;
    move || {
        let mut source = Context::new(&SHA256);
        for i in 0..blocks {
            source.update(black_box(&buffer));
            encrypt(&key, i, black_box(&mut buffer));
            black_box(digest(&SHA256, &buffer));
        }
        black_box(source.finish());
    }
}

fn whole(rows: &Bytes) {
    let options = SealOptions {
        compression: Compression::None,
        block_len: BlockLen::new(BLOCK_LEN as u64).expect("a valid block length"),
        workers: 1,
        allow_symmetric: false,
    };
    let (mut sealer, mut out) =
        Sealer::new(BackupId::random(), &[Arc::new(NoneRecipient)], &options).expect("valid options");
    for chunk in rows.chunks(64 << 10) {
        sealer.push(chunk, &mut out).expect("sealing");
        black_box(&out);
        out.clear();
    }
    sealer.finish(DumpReport::default(), &mut out).expect("sealing");
}

fn zstd_alone(rows: &Bytes, level: i32) {
    let mut compressor = zstd::bulk::Compressor::new(level).expect("a level");
    let mut out = vec![0; zstd::zstd_safe::compress_bound(BLOCK_LEN)];
    for block in rows.chunks(BLOCK_LEN) {
        black_box(compressor.compress_to_buffer(block, out.as_mut_slice()).expect("compressing"));
    }
}
