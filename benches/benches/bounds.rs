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

    println!("{blocks} MiB of rows in blocks of 1 MiB; speeds over speeds, so that more is better.");
    println!("Medians over the half of {rounds} rounds in which the rest of the machine did least.\n");
    println!("| ratio | bound | found | speeds, MB/s | others' share of the machine |");
    println!("|---|---:|---:|---|---:|");
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
    // Neither has the advantage of memory that was touched before.
    ours();
    theirs();
    let mut seen: Vec<Round> = (0..rounds).map(|_| Round::measure(clock, ours, theirs)).collect();
    seen.sort_by(|a, b| a.others.total_cmp(&b.others));
    seen.truncate(rounds.div_ceil(2));
    let of = |figure: fn(&Round) -> f64| median(seen.iter().map(figure).collect());
    let speed = |seconds: f64| rows.len() as f64 / 1e6 / seconds;
    println!(
        "| {what} | {bound} | {:.2} | {:.0} and {:.0} | {:.0} % |",
        of(|round| round.theirs / round.ours),
        speed(of(|round| round.ours)),
        speed(of(|round| round.theirs)),
        100.0 * of(|round| round.others)
    );
}

/// Both sides once, in seconds, and how much of the machine's time went elsewhere.
struct Round {
    ours: f64,
    theirs: f64,
    others: f64,
}

impl Round {
    fn measure(clock: Clock, ours: &mut dyn FnMut(), theirs: &mut dyn FnMut()) -> Self {
        let (machine, own, began) = (machine_seconds(), Clock::Process.now(), Clock::Wall.now());
        let (ours, theirs) = (clock.time(ours).as_secs_f64(), clock.time(theirs).as_secs_f64());
        let own = (Clock::Process.now() - own).as_secs_f64();
        let (machine, wall) = (machine_seconds() - machine, (Clock::Wall.now() - began).as_secs_f64());
        let cores = std::thread::available_parallelism().map_or(1.0, |n| n.get() as f64);
        Self { ours, theirs, others: ((machine - own) / wall / cores).max(0.0) }
    }
}

/// Seconds that all processors spent on anything, as Linux counts them in hundredths; 0 elsewhere.
fn machine_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let ticks: Vec<f64> =
        text.lines().next().unwrap_or_default().split(' ').filter_map(|field| field.parse().ok()).collect();
    // user, nice, system; idle and waiting for disks; interrupts
    [0, 1, 2, 5, 6].iter().filter_map(|i| ticks.get(*i)).sum::<f64>() / 100.0
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
