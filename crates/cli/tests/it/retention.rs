//! Rules of retention from the command line to the destination.

use crate::lab::{Lab, Ran};
use crate::origin::owner;

pub(crate) const TO: [&str; 4] = ["-d", "./b", "-r", "key.pub.pem"];

/// Three backups of one source, by a host; the verifier and the pruner have states of their own.
pub(crate) fn three_backups() -> (Lab, Vec<String>) {
    let lab = Lab::with_keys();
    lab.database("app.db", 5);
    let ids = (0..3)
        .map(|_| {
            let made = lab.run(["backup", "sqlite:app.db", "--json"].iter().chain(&TO)).ok();
            made.json()["completed"].as_str().unwrap().to_owned()
        })
        .collect();
    (lab, ids)
}

pub(crate) fn as_other(lab: &Lab, state: &str, args: &[&str]) -> Ran {
    let own = ["--state-dir", state, "-d", "./b"];
    lab.run(args.iter().chain(&own))
}

/// Makes a key in a state of its own and lets the owner trust it with these roles.
pub(crate) fn add(lab: &Lab, state: &str, roles: &[&str]) {
    let owner = owner(lab);
    // Reading with the owner's key pins the repository; the refusal comes after the key was made.
    as_other(lab, state, &["pin", "app@latest", "--owner", &owner]).fails(12, "trust add --role operator");
    let key = format!("{state}/host.pub.pem");
    let roles = roles.iter().flat_map(|role| ["--role", role]);
    lab.run(["trust", "add", &key, "-d", "./b"].into_iter().chain(roles)).ok();
}

#[test]
fn backups_go_by_the_rules_and_only_by_a_pruner_s_hand() {
    let (lab, ids) = three_backups();
    lab.run(["prune", "app", "--keep-last", "1", "-d", "./b"]).fails(12, "trust add --role pruner");
    add(&lab, "verifier", &["verifier"]);
    add(&lab, "pruner", &["pruner", "operator"]);

    // Nothing goes before anything was verified by somebody who does not back up.
    let keep = ["prune", "app", "--keep-last", "1", "--json"];
    let first = as_other(&lab, "pruner", &keep).ok().json();
    assert_eq!(first["removed"], serde_json::json!([]));
    lab.run(["verify", &ids[0], "--record", "-d", "./b"]).fails(12, "trust add --role verifier");
    for id in &ids {
        as_other(&lab, "verifier", &["verify", id, "--deep", "-i", "key.pem", "--record"]).ok();
    }
    as_other(&lab, "pruner", &["pin", &ids[1]]).ok();

    // All three fall into one hour: its first stays, and the newest in any case.
    let before = lab.tree("b");
    let dry = as_other(&lab, "pruner", &["prune", "app", "--keep-last", "1", "--dry-run"]).ok();
    assert!(dry.text().contains("it is pinned") && dry.text().contains("dry run"), "{}", dry.text());
    assert_eq!(lab.tree("b"), before, "a dry run removes nothing");
    as_other(&lab, "pruner", &["pin", &ids[1], "--off"]).ok();
    let done = as_other(&lab, "pruner", &keep).ok().json();
    assert_eq!(done["removed"], serde_json::json!([ids[1]]));
    let left = lab.tree("b");
    assert!(!left.iter().any(|name| name.starts_with(&format!("app/{}", ids[1]))), "{left:?}");
    assert!(left.contains(&format!("history/app/{}.json", ids[1])), "{left:?}");
    for id in [&ids[0], &ids[2]] {
        lab.run(["verify", id, "--deep", "-i", "key.pem", "-d", "./b"]).ok();
    }
    lab.run(["restore", "app@latest", "-i", "key.pem", "-d", "./b", "--to", "sqlite:back.db"]).ok();
    // And the host goes on.
    lab.run(["backup", "sqlite:app.db"].iter().chain(&TO)).ok();
}

#[test]
fn rules_come_from_the_file_and_a_failed_run_stops_pruning() {
    let (lab, _) = three_backups();
    lab.write(
        "strongroom.toml",
        "destination = \"./b\"\n[sources.app]\nurl = \"sqlite:app.db\"\nkeep_daily = 7\n[sources.all]\nurl = \"sqlite:app.db\"\n",
    );
    lab.run(["prune", "all"]).fails(2, "there are none");
    lab.run(["prune", "app", "--keep-max-size", "1GiB"]).fails(2, "one huge backup");
    lab.run(["prune", "app", "--keep-within", "soon"]).fails(2, "keep_within");
    lab.run(["trust", "add", "state/host.pub.pem", "--role", "backup", "--role", "pruner", "-d", "./b"]).ok();
    let dry = lab.run(["prune", "app", "--dry-run"]).ok();
    assert!(dry.text().contains("no other backup was deeply verified yet"), "{}", dry.text());
    std::fs::remove_file(lab.path("app.db")).unwrap();
    let failed = lab.run(["backup", "app"].iter().chain(&TO));
    assert_ne!(failed.code, Some(0));
    let frozen = lab.run(["prune", "app"]).ok();
    assert!(frozen.stderr.contains("nothing goes for now"), "{}", frozen.stderr);
}
