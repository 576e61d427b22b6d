//! The peak memory of the whole process, over sources twenty times as long as it may be.

use std::io::Read as _;
use std::process::Stdio;
use std::time::Duration;

use crate::lab::{Lab, server};

/// What a backup or a restore may take, in KiB.
const PEAK_KIB_MAX: u64 = 128 << 10;
/// Twenty times that, in bytes.
const LONG: u64 = 20 * (PEAK_KIB_MAX << 10);

/// Runs a command to its successful end; its peak resident set in KiB, as the kernel counted it.
fn peak_kib<'a>(lab: &Lab, args: impl IntoIterator<Item = &'a str>) -> u64 {
    let mut command = lab.command(args);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let status_file = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    loop {
        // The high-water mark never falls, so the last look has seen nearly all of it.
        let status = std::fs::read_to_string(&status_file).unwrap_or_default();
        let mark = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        if let Some(kib) = mark.and_then(|mark| mark.trim().trim_end_matches(" kB").parse().ok()) {
            peak = kib;
        }
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success(), "{command:?}: {status}");
            assert!(peak > 0, "the process was never looked at");
            return peak;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// 32 MiB in which every 64 KiB are random and stand there 16 times, so that each block of an envelope is another
/// one and most of it shrinks.
fn noisy(lab: &Lab) {
    let mut random = vec![0; 2 << 20];
    std::fs::File::open("/dev/urandom").unwrap().read_exact(&mut random).unwrap();
    let noisy: Vec<u8> = random.chunks(64 << 10).flat_map(|chunk| chunk.repeat(16)).collect();
    assert_eq!(LONG % noisy.len() as u64, 0);
    lab.write("noisy", noisy);
}

#[test]
fn a_source_of_twenty_times_the_bound_is_backed_up_read_and_restored_within_it() {
    let lab = Lab::with_keys();
    noisy(&lab);
    let source = format!("for i in $(seq {}); do cat noisy || exit 1; done", LONG >> 25);
    let target = format!("test $(wc -c) = {LONG}");
    let backup = ["backup", "--name", "long", "-r", "key.pub.pem", "-d", "./b", "--command", "--"];
    let backup = peak_kib(&lab, backup.into_iter().chain(["sh", "-c", &source]));
    let read = peak_kib(&lab, ["cat", "long@latest", "-d", "./b", "-i", "key.pem"]);
    let verify = peak_kib(&lab, ["verify", "long@latest", "-d", "./b"]);
    let restore = ["restore", "long@latest", "-d", "./b", "-i", "key.pem", "--command", "--"];
    let restore = peak_kib(&lab, restore.into_iter().chain(["sh", "-c", &target]));
    let peaks = [backup, read, verify, restore];
    assert!(peaks.iter().all(|peak| *peak <= PEAK_KIB_MAX), "{peaks:?}");
}

/// What does not shrink fills the parts on their way to S3 as well.
#[test]
fn an_incompressible_source_goes_to_s3_and_back_within_the_bound() {
    let mut lab = Lab::with_keys();
    lab.set("AWS_ACCESS_KEY_ID", server("STRONGROOM_TEST_S3S_ACCESS_KEY"));
    lab.set("AWS_SECRET_ACCESS_KEY", server("STRONGROOM_TEST_S3S_SECRET_KEY"));
    let place = format!(
        "s3://{}/memory-{}?endpoint={}&region=us-east-1&path_style=true",
        server("STRONGROOM_TEST_S3S_BUCKET"),
        std::process::id(),
        server("STRONGROOM_TEST_S3S_ENDPOINT"),
    );
    // Ten times what the parts on their way may hold.
    let backup = ["backup", "--name", "noise", "-r", "key.pub.pem", "-d", &place, "--command", "--"];
    let backup = peak_kib(&lab, backup.into_iter().chain(["head", "-c", "512M", "/dev/urandom"]));
    let read = peak_kib(&lab, ["cat", "noise@latest", "-d", &place, "-i", "key.pem"]);
    assert!(backup <= PEAK_KIB_MAX && read <= PEAK_KIB_MAX, "{backup} {read}");
}

/// Four destinations are written in step, so that they share what is on its way.
#[test]
fn four_destinations_stay_within_the_bound_of_one() {
    let mut lab = Lab::with_keys();
    lab.set("AWS_ACCESS_KEY_ID", server("STRONGROOM_TEST_S3S_ACCESS_KEY"));
    lab.set("AWS_SECRET_ACCESS_KEY", server("STRONGROOM_TEST_S3S_SECRET_KEY"));
    let place = |n: usize| {
        format!(
            "s3://{}/four-{}-{n}?endpoint={}&region=us-east-1&path_style=true",
            server("STRONGROOM_TEST_S3S_BUCKET"),
            std::process::id(),
            server("STRONGROOM_TEST_S3S_ENDPOINT"),
        )
    };
    let run = |places: [String; 4], program: [&str; 4]| {
        let name = program[3].rsplit('/').next().unwrap_or_default();
        let flags = places.iter().flat_map(|place| ["-d", place.as_str()]);
        let args = ["backup", "--name", name, "-r", "key.pub.pem"].into_iter().chain(flags);
        peak_kib(&lab, args.chain(["--command", "--"]).chain(program))
    };
    // What does not shrink, over four times what the parts on their way to one place may hold.
    let noise = run([0, 1, 2, 3].map(place), ["head", "-c", "288M", "/dev/urandom"]);
    // Twenty times the bound.
    let long = LONG.to_string();
    let long = run(["./a", "./b", "./c", "./d"].map(str::to_owned), ["head", "-c", &long, "/dev/zero"]);
    assert!(noise <= PEAK_KIB_MAX && long <= PEAK_KIB_MAX, "{noise} {long}");
}
