//! `kill -9` at any moment: what was there stays restorable, what is not whole is not there, and the
//! next run works.

use std::process::Stdio;
use std::time::Duration;

use crate::lab::Lab;

fn backups(lab: &Lab) -> Vec<String> {
    let list = lab.run(["--json", "list", "-d", "./b"]).ok().json();
    let backups = list["backups"].as_array().unwrap();
    backups
        .iter()
        .map(|b| {
            assert!(b.get("error").is_none(), "{b}");
            b["id"].as_str().unwrap().to_owned()
        })
        .collect()
}

/// Delays from nothing to longer than a whole run, so that every stage is hit by some.
#[test]
fn incident_67_a_killed_run_is_nothing_and_the_next_one_works() {
    let lab = Lab::with_keys();
    lab.database("app.db", 4000);
    let backup = ["backup", "sqlite:app.db", "-d", "./b", "-r", "key.pub.pem"];
    let began = std::time::Instant::now();
    lab.run(backup).ok();
    let whole = began.elapsed();
    let kills = 12;
    for i in 0..kills {
        let mut child = lab.command(backup).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(whole * i / (kills - 1) + Duration::from_millis(1));
        child.kill().unwrap();
        child.wait().unwrap();
        for id in backups(&lab) {
            lab.run(["verify", &id, "-d", "./b"]).ok();
        }
    }
    lab.run(backup).ok();
    let after = backups(&lab);
    assert!(after.len() >= 2, "{after:?}");
    for id in &after {
        lab.run(["verify", id, "--deep", "-i", "key.pem", "-d", "./b"]).ok();
    }
    // Sequence numbers have no holes: a run that was cut short took none.
    let list = lab.run(["--json", "list", "-d", "./b"]).ok().json();
    let seqs: Vec<u64> =
        list["backups"].as_array().unwrap().iter().map(|b| b["seq"].as_u64().unwrap()).collect();
    assert_eq!(seqs, (1..=seqs.len() as u64).collect::<Vec<_>>());
    let interrupted =
        list["runs"].as_array().unwrap().iter().filter(|r| r["status"] == "interrupted").count();
    assert_eq!(list["runs"].as_array().unwrap().len(), interrupted, "{list}");
}

/// Killed while the repository itself is being made: the next run finishes it.
#[test]
fn a_repository_that_was_half_made_is_finished() {
    let lab = Lab::with_keys();
    lab.database("app.db", 10);
    let backup = ["backup", "sqlite:app.db", "-d", "./b", "-r", "key.pub.pem"];
    lab.run(backup).ok();
    // As after a kill between the two first statements: no trust file, nothing remembered.
    std::fs::remove_dir_all(lab.path("b/trust")).unwrap();
    std::fs::remove_dir_all(lab.path("b/app")).unwrap();
    std::fs::remove_dir_all(lab.path("state/repositories")).unwrap();
    std::fs::remove_dir_all(lab.path("state/ledger")).unwrap();
    let ran = lab.run(backup).ok();
    assert!(ran.stderr.contains("finished making repository"), "{}", ran.stderr);
    assert_eq!(backups(&lab).len(), 1);
    // Once it is remembered, a missing trust file is an attack and not an accident.
    std::fs::remove_dir_all(lab.path("b/trust")).unwrap();
    lab.run(backup).fails(13, "trust");
}
