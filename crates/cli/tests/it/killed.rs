//! `kill -9` at every step that touches a disk: what a reader finds afterwards is whole, and the next
//! run works.
//!
//! strace delivers the signal instead of the n-th call of one kind in any thread of the real program,
//! so that the call is not made. It counts for each thread; n grows until a run ends undisturbed.

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt as _;
use std::process::Command;

use crate::lab::Lab;

/// Calls that change what stands on a disk, and the one that opens it.
const CALLS: [&str; 8] = ["openat", "mkdir", "write", "fsync", "fdatasync", "renameat2", "rename", "linkat"];
const BACKUP: [&str; 6] = ["backup", "sqlite:app.db", "-d", "./b", "-r", "key.pub.pem"];

/// A copy of a lab with everything it has stored.
fn copy(lab: &Lab) -> Lab {
    let copy = Lab::new();
    let everything = format!("{}/.", lab.path("").display());
    assert!(Command::new("cp").arg("-a").arg(everything).arg(copy.path("")).status().unwrap().success());
    copy
}

/// A command that is killed instead of its n-th `call`; whether it was.
fn is_killed(lab: &Lab, args: &[&str], call: &str, n: usize) -> bool {
    let inner = lab.command(args);
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}")]);
    strace.args(["-e", &format!("inject={call}:signal=SIGKILL:when={n}")]);
    strace.arg(inner.get_program()).args(inner.get_args());
    strace.env_clear().envs(inner.get_envs().filter_map(|(k, v)| Some((k, v?)))).current_dir(lab.path(""));
    let done = strace.output().expect("strace is not installed: run scripts/test");
    // strace ends the way its child did.
    let killed = done.status.signal() == Some(9) || done.status.code() == Some(128 + 9);
    assert!(
        killed || done.status.success(),
        "neither killed nor done: {}",
        String::from_utf8_lossy(&done.stderr)
    );
    killed
}

/// The ids that `list` shows; every one of them is opened and parsed.
fn checked_ids(lab: &Lab) -> BTreeSet<String> {
    let list = lab.run(["list", "-d", "./b", "--json"]).ok().json();
    let backups = list["backups"].as_array().unwrap();
    let ids: BTreeSet<String> = backups.iter().map(|b| b["id"].as_str().unwrap().to_owned()).collect();
    for id in &ids {
        lab.run(["verify", id, "--deep", "-i", "key.pem", "-d", "./b"]).ok();
    }
    ids
}

/// Kills a backup at the n-th call of every kind, n growing in steps that widen, and looks.
fn kill_everywhere(template: &Lab, earlier: &BTreeSet<String>) -> usize {
    let mut killed = 0;
    for call in CALLS {
        let mut n = 1;
        loop {
            let lab = copy(template);
            if !is_killed(&lab, &BACKUP, call, n) {
                break;
            }
            killed += 1;
            let what = format!("killed at {call} number {n}");
            let again = lab.run(BACKUP);
            assert_eq!(again.code, Some(0), "{what}: the next run failed: {}", again.stderr);
            let ids = checked_ids(&lab);
            assert!(ids.is_superset(earlier), "{what}: an earlier backup is gone");
            // The next run's, and the killed one's if it came as far as its manifest.
            assert!((1..=2).contains(&(ids.len() - earlier.len())), "{what}: {ids:?}");
            n += 1 + n / 4;
        }
    }
    killed
}

#[test]
fn a_first_backup_killed_at_any_step_leaves_a_destination_that_works() {
    let lab = Lab::with_keys();
    lab.database("app.db", 300);
    let killed = kill_everywhere(&lab, &BTreeSet::new());
    assert!(killed >= 30, "only {killed} runs were killed");
}

#[test]
fn a_backup_killed_at_any_step_leaves_every_earlier_one_whole() {
    let lab = Lab::with_keys();
    lab.database("app.db", 300);
    lab.run(BACKUP).ok();
    lab.run(BACKUP).ok();
    let earlier = checked_ids(&lab);
    assert_eq!(earlier.len(), 2);
    let killed = kill_everywhere(&lab, &earlier);
    assert!(killed >= 20, "only {killed} runs were killed");
}

/// What a killed restore of several files left is a folder; the next plan names it.
#[test]
fn what_a_killed_restore_of_several_files_left_is_named_by_the_next() {
    let lab = Lab::with_keys();
    lab.database("one.db", 30);
    lab.database("two.db", 30);
    lab.write("s.toml", "[sources.app]\ntype = \"sqlite\"\npaths = [\"one.db\", \"two.db\"]\n");
    lab.run(["--config", "s.toml", "backup", "app", "-d", "./b", "-r", "key.pub.pem"]).ok();
    std::fs::create_dir(lab.path("new")).unwrap();
    let restore = ["restore", "app@latest", "-d", "./b", "-i", "key.pem", "--to", "sqlite:new/app"];
    let mut n = 1;
    while lab.tree("new").is_empty() {
        assert!(is_killed(&lab, &restore, "renameat2", n), "no restore was killed over its folder");
        n += 1;
    }
    let entry = std::fs::read_dir(lab.path("new")).unwrap().next().unwrap().unwrap();
    let left = entry.file_name().into_string().unwrap();
    assert!(left.starts_with(".app.") && left.ends_with(".partial"), "{left}");
    let plan = lab.run(restore.iter().chain(&["--dry-run"])).ok();
    assert!(plan.text().contains(&format!("leave new/{left}")), "{}", plan.text());
    lab.run(restore).ok();
    assert_eq!(lab.rows("new/app/one.db"), lab.rows("one.db"));
    assert!(lab.path("new").join(left).exists(), "it may be what an exchange kept, so nobody removes it");
}

/// A killed restore leaves plaintext under a hidden name. The next one to the same name takes it away.
#[test]
fn what_a_killed_restore_left_is_named_and_removed_by_the_next() {
    let lab = Lab::with_keys();
    lab.database("app.db", 300);
    lab.run(BACKUP).ok();
    for to in ["sqlite:new/app.db", "file:new/app.db"] {
        std::fs::create_dir(lab.path("new")).unwrap();
        let restore = ["restore", "app@latest", "-d", "./b", "-i", "key.pem", "--to", to];
        let mut n = 1;
        while lab.tree("new").is_empty() {
            assert!(is_killed(&lab, &restore, "renameat2", n), "{to}: no restore was killed over its file");
            n += 1;
        }
        let [left] = &lab.tree("new")[..] else { panic!("{to}: {:?}", lab.tree("new")) };
        assert!(left.starts_with(".app.db.") && left.ends_with(".partial"), "{to}: {left}");
        let plan = lab.run(restore.iter().chain(&["--dry-run"])).ok();
        assert!(plan.text().contains(&format!("remove new/{left}")), "{}", plan.text());
        assert_eq!(lab.tree("new"), std::slice::from_ref(left), "{to}: a plan changes nothing");
        lab.run(restore).ok();
        assert_eq!(lab.tree("new"), ["app.db"], "{to}");
        std::fs::remove_dir_all(lab.path("new")).unwrap();
    }
}
