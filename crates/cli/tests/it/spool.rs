//! Backups through a spool, cut off by `kill -9` and by a server that goes away, and continued.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::lab::{Lab, Ran, server};

/// Rows of a database of about 35 MB that does not compress.
const ROWS: i64 = 150_000;
const SEALED: [&str; 8] =
    ["backup", "sqlite:app.db", "-r", "key.pub.pem", "--compression", "none", "--spool", "spool"];

/// A proxy that notes which parts are sent, and goes away when told to.
struct Gate {
    port: u16,
    state: Arc<Seen>,
}

struct Seen {
    upstream: String,
    parts: Mutex<Vec<u32>>,
    away: AtomicBool,
}

impl Gate {
    fn before(endpoint: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let upstream = endpoint.trim_start_matches("http://").trim_end_matches('/').to_owned();
        let state = Arc::new(Seen { upstream, parts: Mutex::default(), away: AtomicBool::new(false) });
        let seen = Arc::clone(&state);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (Ok(client), seen) = (client, Arc::clone(&seen)) else { return };
                std::thread::spawn(move || seen.serve(client));
            }
        });
        Self { port, state }
    }

    /// The parts that were sent since this was last asked.
    fn take(&self) -> Vec<u32> {
        std::mem::take(&mut self.state.parts.lock().unwrap())
    }

    fn goes_away(&self) {
        self.state.away.store(true, Ordering::SeqCst);
    }

    fn comes_back(&self) {
        self.state.away.store(false, Ordering::SeqCst);
    }
}

impl Seen {
    fn serve(&self, client: TcpStream) {
        if self.away.load(Ordering::SeqCst) {
            return;
        }
        let Ok(server) = TcpStream::connect(&self.upstream) else { return };
        let (mut from, mut to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
        let back = std::thread::spawn(move || {
            let _ = std::io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Both);
        });
        self.forward(client, server);
        let _ = back.join();
    }

    fn forward(&self, mut client: TcpStream, mut server: TcpStream) {
        let mut buffer = vec![0; 64 << 10];
        let mut tail = Vec::new();
        while let Ok(len @ 1..) = client.read(&mut buffer) {
            tail.extend_from_slice(&buffer[..len]);
            self.note(&mut tail);
            if self.away.load(Ordering::SeqCst) {
                break;
            }
            if server.write_all(&buffer[..len]).is_err() {
                break;
            }
        }
        let _ = server.shutdown(Shutdown::Both);
        let _ = client.shutdown(Shutdown::Both);
    }

    /// Takes the numbers of parts out of the first lines of requests; keeps a line that may not be whole.
    fn note(&self, tail: &mut Vec<u8>) {
        const NAME: &[u8] = b"?partNumber=";
        while let Some(at) = tail.windows(NAME.len()).position(|window| window == NAME) {
            let rest = &tail[at + NAME.len()..];
            let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
            if digits == rest.len() {
                return;
            }
            let number = std::str::from_utf8(&rest[..digits]).unwrap().parse().unwrap();
            self.parts.lock().unwrap().push(number);
            tail.drain(..at + NAME.len() + digits);
        }
        let keep = tail.len().min(NAME.len());
        tail.drain(..tail.len() - keep);
    }
}

/// A lab, a fresh prefix on a real server, and the gate before it.
fn place(which: &str) -> (Lab, String, Gate) {
    let variable = |name: &str| server(&format!("STRONGROOM_TEST_{which}_{name}"));
    let mut lab = Lab::with_keys();
    lab.set("AWS_ACCESS_KEY_ID", variable("ACCESS_KEY"));
    lab.set("AWS_SECRET_ACCESS_KEY", variable("SECRET_KEY"));
    let gate = Gate::before(&variable("ENDPOINT"));
    let id = std::fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap();
    let (bucket, port) = (variable("BUCKET"), gate.port);
    let url = format!("s3://{bucket}/cli/{}?endpoint=http://127.0.0.1:{port}", id.trim());
    (lab, url, gate)
}

/// The parts that the journals of a lab's spool hold.
fn acknowledged(lab: &Lab) -> BTreeSet<u32> {
    let journals = lab.tree("spool/journals");
    let lines = journals.iter().map(|name| lab.read(&format!("spool/journals/{name}")));
    let text: String = lines.map(|bytes| String::from_utf8(bytes).unwrap()).collect();
    let lines = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    lines.filter_map(|line| Some(u32::try_from(line["number"].as_u64()?).unwrap())).collect()
}

/// Runs a backup and kills it with SIGKILL as soon as `is_time`.
fn killed_when(lab: &Lab, args: &[&str], is_time: impl Fn() -> bool) {
    let mut command = lab.command(args);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let began = Instant::now();
    while !is_time() {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it was killed");
        assert!(began.elapsed() < Duration::from_secs(60), "it did not come so far");
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

fn backups(lab: &Lab, url: &str) -> usize {
    lab.run(["--json", "list", "-d", url]).ok().json()["backups"].as_array().unwrap().len()
}

/// What is left in the spool but locks.
fn left(lab: &Lab) -> Vec<String> {
    lab.tree("spool").into_iter().filter(|name| !name.starts_with("locks/")).collect()
}

/// Killed in the middle of the upload, continued when the database is no longer there at all.
fn killed_and_continued(which: &str) {
    let (lab, url, gate) = place(which);
    lab.database("app.db", ROWS);
    let rows = lab.rows("app.db");
    let slow = [&SEALED[..], &["-d", &url, "--upload-limit", "6MiB"]].concat();
    killed_when(&lab, &slow, || acknowledged(&lab).len() >= 2);
    assert_eq!(backups(&lab, &url), 0);
    let (sent, acknowledged) = (gate.take(), acknowledged(&lab));
    assert!(acknowledged.len() >= 2 && sent.len() < 5, "{acknowledged:?} {sent:?}");
    for name in lab.tree("spool") {
        let mode = std::fs::metadata(lab.path(&format!("spool/{name}"))).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }

    std::fs::remove_file(lab.path("app.db")).unwrap();
    let resume = [&SEALED[..], &["-d", &url, "--resume", "--json"]].concat();
    let done = lab.run(&resume).ok().json();
    assert_eq!(done["resumed"][0], done["completed"]);
    let again: BTreeSet<u32> = gate.take().into_iter().collect();
    assert!(again.is_disjoint(&acknowledged), "sent again: {again:?}, acknowledged: {acknowledged:?}");
    let all: BTreeSet<u32> = again.union(&acknowledged).copied().collect();
    assert_eq!(all, (1..=all.len() as u32).collect());

    assert_eq!(backups(&lab, &url), 1);
    assert_eq!(left(&lab), [""; 0]);
    lab.run(["restore", "app@latest", "--to", "sqlite:new.db", "-i", "key.pem", "-d", &url]).ok();
    assert_eq!(lab.rows("new.db"), rows);
}

#[test]
fn incident_67_an_upload_to_ceph_that_was_killed_goes_on_from_the_last_part() {
    killed_and_continued("RGW");
}

#[test]
fn incident_67_an_upload_to_s3s_that_was_killed_goes_on_from_the_last_part() {
    killed_and_continued("S3S");
}

/// The server goes away in the middle: the run fails, and the next one finishes its backup, then makes its
/// own.
#[test]
fn a_server_that_goes_away_in_the_middle_costs_no_dump() {
    let (lab, url, gate) = place("RGW");
    lab.database("app.db", ROWS);
    let run = [&SEALED[..], &["-d", &url, "--upload-limit", "6MiB"]].concat();
    let mut command = lab.command(&run);
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let began = Instant::now();
    while acknowledged(&lab).len() < 2 {
        assert!(began.elapsed() < Duration::from_secs(60), "it did not come so far");
        std::thread::sleep(Duration::from_millis(5));
    }
    gate.goes_away();
    let failed: Ran = child.wait_with_output().unwrap().into();
    assert_eq!(failed.code, Some(15), "{}", failed.stderr);
    assert!(failed.stderr.contains("stays in the spool"), "{}", failed.stderr);
    let acknowledged = acknowledged(&lab);
    gate.comes_back();
    gate.take();
    let done = lab.run([&SEALED[..], &["-d", &url, "--json"]].concat()).ok().json();
    assert_eq!(done["resumed"].as_array().unwrap().len(), 1);
    assert_ne!(done["resumed"][0], done["completed"]);
    assert_eq!(backups(&lab, &url), 2);
    assert_eq!(left(&lab), [""; 0]);
    let sent = gate.take();
    let twice = |number: &u32| sent.iter().filter(|sent| *sent == number).count() > 1;
    assert!(!acknowledged.iter().any(twice), "{acknowledged:?} {sent:?}");
}

/// Killed while the spooled backup goes into a folder.
fn killed(lab: &Lab) -> String {
    let slow = [&SEALED[..], &["-d", "./b", "--upload-limit", "2MiB"]].concat();
    killed_when(lab, &slow, || lab.tree("spool").iter().any(|name| name.ends_with("spooled.json")));
    let data = lab.tree("spool").into_iter().find(|name| name.ends_with("data.strongroom")).unwrap();
    format!("spool/{data}")
}

#[test]
fn a_bent_byte_in_the_spool_makes_no_backup() {
    let lab = Lab::with_keys();
    lab.database("app.db", 20_000);
    let data = killed(&lab);
    let mut bytes = lab.read(&data);
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    lab.write(&data, bytes);
    let ran = lab.run([&SEALED[..], &["-d", "./b", "--resume", "--json"]].concat()).ok();
    assert!(ran.stderr.contains("is discarded"), "{}", ran.stderr);
    assert_eq!(ran.json()["resumed"].as_array().unwrap().len(), 0);
    assert_eq!(backups(&lab, "./b"), 1);
    lab.run(["verify", "app@latest", "--deep", "-i", "key.pem", "-d", "./b"]).ok();
    assert_eq!(left(&lab), [""; 0]);
}

#[test]
fn what_a_cut_dump_left_in_the_spool_is_removed() {
    let lab = Lab::with_keys();
    lab.database("app.db", 20_000);
    let data = killed(&lab);
    let record = data.replace("data.strongroom", "spooled.json");
    std::fs::remove_file(lab.path(&record)).unwrap();
    let done = lab.run([&SEALED[..], &["-d", "./b", "--resume", "--json"]].concat()).ok().json();
    assert_eq!(done["resumed"].as_array().unwrap().len(), 0);
    assert_eq!(backups(&lab, "./b"), 1);
    assert_eq!(left(&lab), [""; 0]);
}

#[test]
fn a_full_disk_under_the_spool_is_told_and_leaves_nothing() {
    struct Small(std::path::PathBuf);
    impl Drop for Small {
        fn drop(&mut self) {
            let _ = std::process::Command::new("umount").arg(&self.0).status();
        }
    }
    let lab = Lab::with_keys();
    lab.database("app.db", 20_000);
    let spool = lab.path("spool");
    std::fs::create_dir(&spool).unwrap();
    let mount = ["-t", "tmpfs", "-o", "size=2m,mode=700", "spool"];
    let mounted = std::process::Command::new("mount").args(mount).arg(&spool).status().unwrap();
    assert!(mounted.success(), "a small file system could not be mounted: run the tests as root");
    let small = Small(spool);
    // What cannot fit is told before the dump; what may fit, when it does not.
    lab.run([&SEALED[..], &["-d", "./b"]].concat()).fails(15, "the spool has");
    let run = ["backup", "sqlite:app.db", "-r", "key.pub.pem", "--spool", "spool", "-d", "./b"];
    let ran = lab.run(run).fails(15, "no space left");
    assert!(
        ran.stderr.contains("it may not be enough") && ran.stderr.contains("this is the spool"),
        "{}",
        ran.stderr
    );
    assert_eq!(left(&lab), [""; 0]);
    drop(small);
    assert!(lab.tree("b").iter().all(|name| !name.contains("data.strongroom")));
}
