//! Locks and holds that the store keeps, and tags, from the command line to the destination.

use std::path::Path;
use std::process::Command;

use crate::lab::{Lab, Ran, server};

fn variable(name: &str) -> String {
    server(&format!("STRONGROOM_TEST_RGW_{name}"))
}

/// A lab with a destination `far` on a bucket of its own with object lock, and a source `app`.
fn locked(lock: &str) -> Lab {
    let mut lab = Lab::with_keys();
    lab.database("app.db", 50);
    let (endpoint, access, secret) = (variable("ENDPOINT"), variable("ACCESS_KEY"), variable("SECRET_KEY"));
    let id = std::fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap();
    let bucket = format!("lock-{}", id.trim());
    let ran = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/s3-request"))
        .args([endpoint.as_str(), "PUT", &format!("/{bucket}")])
        .env("S3_ACCESS_KEY", &access)
        .env("S3_SECRET_KEY", &secret)
        .env("S3_HEADER", "x-amz-bucket-object-lock-enabled:true")
        .output()
        .unwrap();
    assert!(ran.status.success(), "{ran:?}");
    lab.set("AWS_ACCESS_KEY_ID", access);
    lab.set("AWS_SECRET_ACCESS_KEY", secret);
    lab.write(
        "strongroom.toml",
        format!(
            "[destinations.far]\nurl = \"s3://{bucket}/p?endpoint={endpoint}\"\n{lock}\n\
             [sources.app]\nurl = \"sqlite:app.db\"\ndestination = \"far\"\nrecipients = [\"key.pub.pem\"]\ntags = [\"env=prod\", \"team=a\"]\n"
        ),
    );
    lab
}

fn backup(lab: &Lab, more: &[&str]) -> String {
    let made = lab.run(["backup", "app", "--json"].iter().chain(more)).ok().json();
    made["completed"].as_str().unwrap().to_owned()
}

fn trusted(lab: &Lab, state: &str, roles: &[&str]) {
    let shown = lab.run(["--json", "trust", "show", "-d", "far"]).ok().json();
    let owner = shown["owner"].as_str().unwrap();
    let own = ["--state-dir", state, "-d", "far"];
    lab.run(["pin", "app@latest", "--owner", owner].iter().chain(&own))
        .fails(12, "trust add --role operator");
    let roles: Vec<&str> = roles.iter().flat_map(|role| ["--role", role]).collect();
    let key = format!("{state}/host.pub.pem");
    lab.run(["trust", "add", &key, "-d", "far"].into_iter().chain(roles)).ok();
}

fn as_keeper(lab: &Lab, args: &[&str]) -> Ran {
    lab.run(args.iter().chain(&["--state-dir", "keeper", "-d", "far"]))
}

#[test]
fn incident_38_45_locked_backups_wait_for_their_date_and_a_hold_is_set_and_ended() {
    let lab = locked("lock_days = 30\nlock_mode = \"compliance\"\nlegal_hold = true");
    let ids = [backup(&lab, &[]), backup(&lab, &[]), backup(&lab, &[])];
    let shown = lab.run(["show", &ids[1], "-d", "far", "--json"]).ok().json();
    assert_eq!((&shown["lock_mode"], &shown["legal_hold"]), (&"COMPLIANCE".into(), &false.into()));
    let until = shown["locked_until"].as_str().unwrap().to_owned();
    let text = lab.run(["list", "-d", "far"]).ok();
    assert_eq!(text.text().matches("locked until 20").count(), 3, "{}", text.text());
    assert!(lab.run(["show", &ids[1], "-d", "far"]).ok().text().contains("(compliance)"));

    trusted(&lab, "keeper", &["pruner", "operator"]);
    trusted(&lab, "verifier", &["verifier"]);
    for id in &ids {
        let deep =
            ["verify", id, "--deep", "-i", "key.pem", "--record", "--state-dir", "verifier", "-d", "far"];
        lab.run(deep).ok();
    }
    let pruned = as_keeper(&lab, &["prune", "app", "--keep-last", "1", "--json"]).ok().json();
    assert_eq!(pruned["removed"], serde_json::json!([]));
    let waits = pruned["planned"].as_array().unwrap().iter().find(|one| one["id"] == *ids[1]).unwrap();
    assert_eq!(waits["locked_until"], *until);
    let text = as_keeper(&lab, &["prune", "app", "--keep-last", "1"]).ok();
    assert!(text.text().contains(&format!("it is locked until {until}")), "{}", text.text());
    let shred = ["shred", &ids[1], "--reason", "case 12"];
    as_keeper(&lab, &shred).fails(11, "is locked until");

    let pinned = as_keeper(&lab, &["pin", &ids[1], "--json"]).ok().json();
    assert_eq!(pinned["legal_hold"], true);
    assert_eq!(lab.run(["show", &ids[1], "-d", "far", "--json"]).ok().json()["legal_hold"], true);
    assert!(as_keeper(&lab, &["pin", &ids[1], "--off"]).ok().text().contains("its legal hold ended"));
    assert_eq!(lab.run(["show", &ids[1], "-d", "far", "--json"]).ok().json()["legal_hold"], false);
}

#[test]
fn a_hold_is_on_request_and_a_place_without_locks_says_so() {
    let lab = locked("");
    let (first, second) = (backup(&lab, &[]), backup(&lab, &[]));
    trusted(&lab, "keeper", &["pruner", "operator"]);
    let pinned = as_keeper(&lab, &["pin", &first, "--json"]).ok().json();
    assert_eq!(pinned["legal_hold"], serde_json::Value::Null);
    as_keeper(&lab, &["pin", &first, "--legal-hold"]).ok();
    as_keeper(&lab, &["shred", &first, "--reason", "x", "--last-good"]).fails(11, "is pinned");
    // A hold of the store's alone is found and ended, too.
    as_keeper(&lab, &["pin", &first, "--off"]).ok();
    let done = as_keeper(&lab, &["shred", &first, "--reason", "x", "--last-good", "--json"]).ok().json();
    let objects = done["shredded"]["objects"].as_array().unwrap();
    assert!(objects.iter().all(|object| object["versions"].as_u64() >= Some(1)), "{objects:?}");
    lab.run(["verify", &second, "-d", "far"]).ok();

    let plain = Lab::with_keys();
    plain.database("app.db", 1);
    let table = |more: &str| format!("[destinations.near]\nurl = \"./b\"\n{more}\n");
    for (more, code, said) in [
        ("lock_days = 30", 2, "only S3 takes a lock"),
        ("lock_days = 0", 2, "lock_days"),
        ("lock_mode = \"compliance\"", 2, "there is none"),
        ("lock_days = 3\nlock_mode = \"strict\"", 2, "no kind of lock"),
    ] {
        plain.write("s.toml", table(more));
        plain
            .run(["--config", "s.toml", "backup", "sqlite:app.db", "-d", "near", "-r", "key.pub.pem"])
            .fails(code, said);
    }
}

#[test]
fn tags_are_signed_shown_and_found_again() {
    let lab = Lab::with_keys();
    lab.database("app.db", 5);
    lab.write(
        "strongroom.toml",
        "[sources.app]\nurl = \"sqlite:app.db\"\ndestination = \"./b\"\nrecipients = [\"key.pub.pem\"]\ntags = [\"env=prod\", \"team=a\"]\n",
    );
    let plain = backup(&lab, &[]);
    let tagged = backup(&lab, &["--tag", "env=test", "--tag", "release=1.2"]);
    lab.run(["backup", "app", "--tag", "no tag"]).fails(2, "a tag is written NAME=VALUE");
    lab.run(["backup", "app", "--tag", "a=1", "--tag", "a=2"]).fails(2, "given twice");
    let found = |tags: &[&str]| {
        let flags = tags.iter().flat_map(|tag| ["--tag", tag]);
        let list = lab.run(["list", "-d", "./b", "--json"].into_iter().chain(flags)).ok().json();
        let ids =
            list["backups"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap().to_owned());
        ids.collect::<Vec<_>>()
    };
    assert_eq!(found(&["env=prod"]), std::slice::from_ref(&plain));
    assert_eq!(found(&["env=test", "team=a"]), std::slice::from_ref(&tagged));
    assert_eq!(found(&["team=a"]).len(), 2);
    assert!(found(&["env=test", "team=b"]).is_empty());
    lab.run(["list", "-d", "./b", "--tag", "x"]).fails(2, "NAME=VALUE");
    let shown = lab.run(["show", &tagged, "-d", "./b", "--json"]).ok().json();
    assert_eq!(shown["tags"], serde_json::json!({"env": "test", "release": "1.2", "team": "a"}));
    assert!(lab.run(["show", &tagged, "-d", "./b"]).ok().text().contains("release=1.2"));
    assert!(lab.run(["list", "-d", "./b"]).ok().text().contains("env=prod  team=a"));
}
