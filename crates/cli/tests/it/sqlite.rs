//! A SQLite database into a folder and back, by the whole command.

use std::time::Duration;

use crate::lab::Lab;

const BACKUP: [&str; 6] = ["backup", "sqlite:app.db", "-d", "./b", "-r", "key.pub.pem"];

#[test]
fn a_database_is_backed_up_listed_verified_and_restored_equal() {
    let lab = Lab::with_keys();
    lab.database("app.db", 500);
    let done = lab.run(BACKUP).ok();
    assert!(done.text().contains("read back, equal"), "{}", done.text());
    lab.run(BACKUP).ok();

    let list = lab.run(["--json", "list", "-d", "./b"]).ok().json();
    let backups = list["backups"].as_array().unwrap();
    assert_eq!(backups.len(), 2);
    assert_eq!((&backups[0]["seq"], &backups[1]["seq"]), (&1.into(), &2.into()));
    assert_eq!(list["runs"].as_array().unwrap().len(), 0);
    let text = lab.run(["list", "-d", "./b"]).ok();
    assert!(text.text().lines().nth(1).unwrap().ends_with("latest"), "{}", text.text());
    let first = backups[0]["id"].as_str().unwrap();

    let show = lab.run(["show", first, "-d", "./b"]).ok();
    assert!(show.text().contains("app (number 1)"), "{}", show.text());
    assert!(lab.run(["verify", "app@latest", "-d", "./b"]).ok().text().contains("whole"));
    let deep = lab.run(["--json", "verify", first, "--deep", "-i", "key.pem", "-d", "./b"]).ok().json();
    assert_eq!((&deep["verified"], &deep["parsed"]), (&"deep".into(), &true.into()));
    lab.run(["verify", first, "--deep", "-d", "./b"]).fails(2, "--identity");

    let restore = ["restore", "app@latest", "--to", "sqlite:new.db", "-i", "key.pem", "-d", "./b"];
    let planned = lab.run(restore.iter().chain(&["--dry-run"])).ok();
    assert!(planned.text().contains("dry run") && !lab.path("new.db").exists());
    lab.run(restore).ok();
    assert_eq!(lab.rows("new.db"), lab.rows("app.db"));
    lab.run(restore).fails(11, "new.db");
    lab.run(["restore", first, "--to", "sqlite:v.db", "--verify-first", "-i", "key.pem", "-d", "./b"]).ok();
    assert_eq!(lab.rows("v.db"), lab.rows("app.db"));
    lab.run(["restore", first, "--to", "file:image", "-i", "key.pem", "-d", "./b"]).ok();
    let cat = lab.run(["cat", first, "-i", "key.pem", "-d", "./b"]).ok();
    assert!(cat.stdout == lab.read("image"));
    assert!(cat.stdout.starts_with(b"SQLite format 3\0"));
}

#[test]
fn several_files_of_one_source_come_back_as_a_folder() {
    let lab = Lab::with_keys();
    std::fs::create_dir_all(lab.path("data/tenants")).unwrap();
    let names = ["main.db", "tenants/a.db", "tenants/b \u{fc}.db"];
    for (rows, name) in [(300, names[0]), (20, names[1]), (1, names[2])] {
        lab.database(&format!("data/{name}"), rows);
    }
    lab.write("data/tenants/notes.txt", "no database");
    lab.write(
        "s.toml",
        "destination = \"./b\"\n[sources.app]\ntype = \"sqlite\"\npaths = [\"data/main.db\", \"data/tenants/*.db\"]\n\
         [keys]\nrecipients = [\"key.pub.pem\"]\nidentities = [\"key.pem\"]\n",
    );
    let run = |args: &[&str]| lab.run(["--config", "s.toml"].iter().chain(args));
    let done = run(&["--json", "backup", "app"]).ok();
    assert!(done.stderr.contains("the moments differ"), "{}", done.stderr);
    assert_eq!(done.stderr.matches("the moments differ").count(), 1, "{}", done.stderr);
    assert_eq!(done.json()["backup"]["format"], "sqlite-bundle");
    let deep = run(&["--json", "verify", "app@latest", "--deep"]).ok().json();
    assert_eq!(deep["parsed"], true);
    // What was told at the dump is told to whoever reads it later.
    assert!(deep["report"]["warnings"][0].as_str().unwrap().contains("the moments differ"), "{deep}");
    let text = run(&["verify", "app@latest", "--deep"]).ok();
    assert!(text.text().contains("told at the dump: each file is of one moment"), "{}", text.text());
    for name in names {
        assert!(deep["report"]["tables"].to_string().contains(name), "{deep}");
    }
    let restore = ["restore", "app@latest", "--to", "sqlite:back"];
    assert!(
        run(&["restore", "app@latest", "--to", "sqlite:back", "--dry-run"])
            .ok()
            .text()
            .contains("hidden folder")
    );
    run(&restore).ok();
    assert_eq!(lab.tree("back"), names);
    for name in names {
        assert_eq!(lab.rows(&format!("back/{name}")), lab.rows(&format!("data/{name}")), "{name}");
    }
    run(&restore).fails(11, "back");
}

#[test]
fn stdin_and_commands_are_sources_and_targets_too() {
    let lab = Lab::with_keys();
    let to = ["-d", "./b", "-r", "key.pub.pem"];
    lab.run_with(b"any dump", ["backup", "-", "--name", "directory"].iter().chain(&to)).ok();
    let cat = lab.run(["cat", "directory@latest", "-i", "key.pem", "-d", "./b"]).ok();
    assert_eq!(cat.stdout, b"any dump");
    let command = ["--command", "--name", "prog", "--", "printf", "%s", "a b"];
    lab.run(["backup"].iter().chain(&to).chain(&command)).ok();
    assert_eq!(lab.run(["cat", "prog@latest", "-i", "key.pem", "-d", "./b"]).ok().stdout, b"a b");
    let into = ["restore", "prog@latest", "-i", "key.pem", "-d", "./b", "--command", "--", "tee", "copy"];
    lab.run(into).ok();
    assert_eq!(lab.read("copy"), b"a b");
}

/// Whoever reads a backup that everyone can read is told so, each time and by every command.
#[test]
fn incident_29_every_command_tells_that_a_backup_is_not_encrypted() {
    let lab = Lab::with_keys();
    lab.database("app.db", 5);
    lab.run(["backup", "sqlite:app.db", "-d", "./b", "--no-encryption"]).ok();
    let at = ["-q", "-d", "./b"];
    let (list, show, quick) = (["list"], ["show", "app@latest"], ["verify", "app@latest"]);
    let deep = ["verify", "app@latest", "--deep", "-i", "none"];
    let plan = ["restore", "app@latest", "--to", "sqlite:x.db", "-i", "none", "--dry-run"];
    let restore = ["restore", "app@latest", "--to", "sqlite:new.db", "-i", "none"];
    let cat = ["cat", "app@latest", "-i", "none"];
    let commands: [&[&str]; 7] = [&list, &show, &quick, &deep, &plan, &restore, &cat];
    for command in commands {
        let ran = lab.run(command.iter().chain(&at)).ok();
        assert!(ran.stderr.contains("is NOT encrypted: everyone who can"), "{command:?}: {}", ran.stderr);
    }
    assert_eq!(lab.run(["--json", "show", "app@latest", "-d", "./b"]).ok().json()["encrypted"], false);
    assert_eq!(lab.run(["--json", "list", "-d", "./b"]).ok().json()["backups"][0]["encrypted"], false);

    lab.run(["backup", "sqlite:app.db", "-d", "./c", "-r", "key.pub.pem"]).ok();
    let list = lab.run(["--json", "list", "-d", "./c"]).ok();
    assert_eq!(list.json()["backups"][0]["encrypted"], true);
    assert!(!list.stderr.contains("NOT encrypted"), "{}", list.stderr);
}

/// Without --verify-first it is said that the restore trusts no block, and the end only at the end.
#[test]
fn a_restore_tells_when_it_verifies() {
    let lab = Lab::with_keys();
    lab.database("app.db", 5);
    lab.run(BACKUP).ok();
    let from = ["restore", "app@latest", "-i", "key.pem", "-d", "./b"];
    let streamed = lab.run(from.iter().chain(&["--to", "sqlite:a.db"])).ok();
    assert!(streamed.stderr.contains("blocks are verified one by one"), "{}", streamed.stderr);
    assert!(streamed.stderr.contains("--verify-first reads everything twice"), "{}", streamed.stderr);
    let twice = lab.run(from.iter().chain(&["--to", "sqlite:b.db", "--verify-first"])).ok();
    assert!(!twice.stderr.contains("one by one"), "{}", twice.stderr);
    let program = lab.run(from.iter().chain(&["--command", "--", "tee", "copy"])).ok();
    assert!(program.stderr.contains("the program gets each block"), "{}", program.stderr);
}

/// A dump that fails is an error with the tool's exit code told, and leaves no backup.
#[test]
fn incident_03_a_failing_command_is_no_backup() {
    let lab = Lab::with_keys();
    let args = ["backup", "-d", "./b", "-r", "key.pub.pem", "--command", "--name", "x", "--"];
    let fails = ["sh", "-c", "echo some data; echo went wrong >&2; exit 3"];
    lab.run(args.iter().chain(&fails)).fails(14, "went wrong");
    lab.run(args.iter().chain(&["sh", "-c", "exit 0"])).fails(14, "");
    let list = lab.run(["--json", "list", "-d", "./b"]).ok().json();
    assert_eq!(list["backups"].as_array().unwrap().len(), 0);
    let runs = list["runs"].as_array().unwrap();
    assert_eq!(runs.len(), 2);
    assert_eq!(runs[0]["status"], "failed");
    assert!(runs[0]["error"].as_str().unwrap().contains('3'), "{runs:?}");
    assert!(lab.tree("b/x").is_empty(), "{:?}", lab.tree("b"));
}

/// A run that never ends well shows in the list, and whoever watches the log is told.
#[test]
fn incident_15_a_failed_run_is_told_and_stays_visible() {
    let lab = Lab::with_keys();
    let args = ["--notify-log", "log", "-d", "./b", "-r", "key.pub.pem"];
    lab.run(["backup", "sqlite:missing.db"].iter().chain(&args)).fails(10, "missing.db");
    lab.database("app.db", 1);
    lab.run(["backup", "sqlite:app.db"].iter().chain(&args)).ok();
    let log = String::from_utf8(lab.read("log")).unwrap();
    let lines: Vec<serde_json::Value> = log.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!((&lines[0]["status"], &lines[1]["status"]), (&"failed".into(), &"completed".into()));
    assert!(lines[0]["message"].as_str().unwrap().contains("missing.db"), "{log}");
    let list = lab.run(["--json", "list", "-d", "./b"]).ok().json();
    let runs = list["runs"].as_array().unwrap();
    assert_eq!(
        (runs.len(), &runs[0]["source"], &runs[0]["status"]),
        (1, &"missing".into(), &"failed".into())
    );
    assert_eq!(runs[0]["id"], lines[0]["id"]);
}

/// A dump that hangs is stopped after a while, and told like any other failure.
#[test]
fn incident_15_a_dump_that_hangs_is_stopped_and_told() {
    let lab = Lab::with_keys();
    lab.write(
        "s.toml",
        "[sources.x]\ncommand = [\"sleep\", \"3600\"]\nstall_seconds = 1\n[notify]\nlog = \"log\"\n",
    );
    let args = ["--config", "s.toml", "backup", "x", "-d", "./b", "-r", "key.pub.pem"];
    lab.run(args).fails(15, "sleep");
    let log: serde_json::Value = serde_json::from_slice(&lab.read("log")).unwrap();
    assert_eq!(log["status"], "failed");
}

#[test]
fn leftovers_of_killed_runs_are_swept_and_nothing_else() {
    let lab = Lab::with_keys();
    lab.database("app.db", 10);
    lab.run(BACKUP.iter().chain(&["--upload-limit", "100MiB"])).ok();
    let mut child = lab
        .command(["backup", "-d", "./b", "-r", "key.pub.pem", "--command", "--name", "x", "--"])
        .args(["sh", "-c", "echo $$ > pid; while :; do echo data; sleep 0.01; done"])
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    while lab.tree("b/.strongroom-tmp").is_empty() {
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let sweep = ["--json", "sweep", "-d", "./b", "--older-than-days"];
    assert_eq!(lab.run(sweep.iter().chain(&["1"])).ok().json()["removed"], 0);
    assert_eq!(lab.run(sweep.iter().chain(&["0"])).ok().json()["removed"], 1);
    assert_eq!(lab.run(["--json", "list", "-d", "./b"]).ok().json()["backups"].as_array().unwrap().len(), 1);
    lab.run(["verify", "app@latest", "-d", "./b"]).ok();
}

#[test]
fn a_database_that_is_not_there_makes_nothing() {
    let lab = Lab::with_keys();
    lab.run(["backup", "sqlite:none.db", "-d", "./b", "-r", "key.pub.pem"]).fails(10, "none.db");
    assert!(lab.tree("b").is_empty(), "{:?}", lab.tree("b"));
    assert!(!lab.path("none.db").exists());
}

#[test]
fn not_reading_back_is_said() {
    let lab = Lab::with_keys();
    lab.database("app.db", 1);
    let ran = lab.run(BACKUP.iter().chain(&["--no-verify"])).ok();
    assert!(ran.stderr.contains("not read back"), "{}", ran.stderr);
    assert!(ran.text().contains("verified    no"), "{}", ran.text());
}

/// What is stored is looked at byte by byte, with no key.
#[test]
fn a_flipped_bit_in_the_store_is_found_without_a_key() {
    let lab = Lab::with_keys();
    lab.database("app.db", 100);
    let id = lab.run(["--json"].iter().chain(&BACKUP)).ok().json()["completed"].as_str().unwrap().to_owned();
    let data = lab.path(&format!("b/app/{id}/data.strongroom"));
    let mut bytes = std::fs::read(&data).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&data, &bytes).unwrap();
    lab.run(["verify", "app@latest", "-d", "./b"]).fails(13, "");
    lab.run(["restore", "app@latest", "--to", "sqlite:n.db", "-i", "key.pem", "-d", "./b"]).fails(13, "");
    assert!(!lab.path("n.db").exists());
    bytes.pop();
    std::fs::write(&data, &bytes).unwrap();
    lab.run(["verify", "app@latest", "-d", "./b"]).fails(13, "bytes");
}

/// Asked once to stop, a run ends in order: exit 130, nothing visible, the run recorded, the program
/// gone, also one that does not listen.
#[test]
fn a_cancelled_run_leaves_nothing_and_is_recorded() {
    for deaf in ["", "trap '' TERM; "] {
        cancelled_run(deaf);
    }
}

fn cancelled_run(deaf: &str) {
    let lab = Lab::with_keys();
    let mut child = lab
        .command(["backup", "-d", "./b", "-r", "key.pub.pem", "--command", "--name", "x", "--"])
        .args(["sh", "-c", &format!("{deaf}echo $$ > pid; while :; do echo data; sleep 0.01; done")])
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    while std::fs::read(lab.path("pid")).unwrap_or_default().is_empty() {
        std::thread::sleep(Duration::from_millis(5));
    }
    let id = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(130));
    assert!(lab.tree("b/x").is_empty(), "{:?}", lab.tree("b"));
    let list = lab.run(["--json", "list", "-d", "./b"]).ok().json();
    assert_eq!(list["runs"][0]["status"], "cancelled");
    let tool = String::from_utf8(lab.read("pid")).unwrap();
    assert!(!std::path::Path::new(&format!("/proc/{}", tool.trim())).exists(), "the dump program lives on");
}

/// Nothing comes, or nobody reads: the first signal ends the command all the same.
#[test]
fn a_stalled_pipe_does_not_hold_the_first_signal() {
    let lab = Lab::with_keys();
    lab.run_with(&vec![7; 8 << 20], ["seal", "-r", "key.pub.pem", "--compression", "none", "-o", "sealed"])
        .ok();
    let sealed = lab.path("sealed").display().to_string();
    let cases: [(&[&str], bool); 4] = [
        (&["seal", "-r", "key.pub.pem", "-o", "never"], true),
        (&["open", "-i", "key.pem", "-o", "never"], true),
        (&["seal", "-r", "key.pub.pem", "--compression", "none", &sealed], false),
        (&["open", "-i", "key.pem", &sealed], false),
    ];
    for (args, silent) in cases {
        let mut command = lab.command(args.iter().copied());
        command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
        let mut child = command.stderr(std::process::Stdio::null()).spawn().unwrap();
        // Held open, and never written to or read from.
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let id = rustix::process::Pid::from_child(&child);
        // Until it waits: for input, or with the pipe as good as full, as a page need not be.
        let waits = |child: &mut std::process::Child| {
            assert!(child.try_wait().unwrap().is_none(), "{args:?} has ended");
            let full = stdout.as_ref().is_some_and(|out| rustix::io::ioctl_fionread(out).unwrap() > 32_768);
            if silent { lab.path(&format!(".never.{}.part", child.id())).exists() } else { full }
        };
        while !waits(&mut child) {
            std::thread::sleep(Duration::from_millis(5));
        }
        rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(130), "{args:?}");
        assert!(!lab.path("never").exists());
        drop((stdin, stdout));
    }
    let left: Vec<_> = std::fs::read_dir(lab.path("")).unwrap().flatten().map(|e| e.file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().ends_with(".part")), "{left:?}");
}

#[test]
fn two_runs_of_one_source_do_not_overlap() {
    let lab = Lab::with_keys();
    let args = ["backup", "-d", "./b", "-r", "key.pub.pem", "--command", "--name", "x", "--"];
    let mut first = lab.command(args);
    first.args(["sh", "-c", "echo started > started; cat wait; echo end"]);
    first.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    // The program waits for a reader of this pipe to end.
    let fifo = lab.path("wait");
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
    let mut child = first.spawn().unwrap();
    while !lab.path("started").exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
    lab.run(args.iter().chain(&["echo", "second"])).fails(11, "already running");
    let list = lab.run(["--json", "list", "-d", "./b"]).ok().json();
    assert_eq!(list["runs"][0]["status"], "running");
    drop(std::fs::OpenOptions::new().write(true).open(&fifo).unwrap());
    assert!(child.wait().unwrap().success());
}
