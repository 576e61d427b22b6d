//! Whose backups are believed, and what a machine remembers.

use crate::lab::Lab;

fn backed_up() -> Lab {
    let lab = Lab::with_keys();
    lab.database("app.db", 50);
    lab.run(["backup", "sqlite:app.db", "-d", "./b", "-r", "key.pub.pem"]).ok();
    lab
}

pub(crate) fn owner(lab: &Lab) -> String {
    let shown = lab.run(["--json", "trust", "show", "-d", "./b"]).ok().json();
    shown["owner"].as_str().unwrap().to_owned()
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// The backing-up machine is gone with everything on it: the bucket, the private key and the
/// owner's public key on paper are enough.
#[test]
fn incident_56_the_place_and_the_key_are_enough() {
    let mut lab = backed_up();
    let owner = owner(&lab);
    let rows = lab.rows("app.db");
    std::fs::remove_dir_all(lab.path("state")).unwrap();
    std::fs::remove_file(lab.path("app.db")).unwrap();
    lab.set("STRONGROOM_STATE_DIR", lab.path("another-machine").display().to_string());

    let restore = ["restore", "app@latest", "--to", "sqlite:new.db", "-i", "key.pem", "-d", "./b"];
    let refused = lab.run(restore).fails(12, &owner);
    assert!(refused.stderr.contains("recovery sheet"), "{}", refused.stderr);
    assert!(!lab.path("new.db").exists());
    let wrong = "ed25519:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE";
    let ran = lab.run(restore.iter().chain(&["--owner", wrong]));
    assert!(matches!(ran.code, Some(2 | 12 | 13)), "{ran:?}");
    lab.run(restore.iter().chain(&["--owner", owner.as_str()])).ok();
    assert_eq!(lab.rows("new.db"), rows);
    // Known from then on.
    assert_eq!(lab.run(["--json", "list", "-d", "./b"]).ok().json()["backups"].as_array().unwrap().len(), 1);
}

#[test]
fn a_backup_that_nobody_vouches_for_is_restored_only_on_request() {
    let mut lab = backed_up();
    lab.set("STRONGROOM_STATE_DIR", lab.path("another-machine").display().to_string());
    let restore = ["restore", "app@latest", "--to", "sqlite:new.db", "-i", "key.pem", "-d", "./b"];
    lab.run(restore).fails(12, "--unsigned-origin");
    let ran = lab.run(restore.iter().chain(&["--unsigned-origin"])).ok();
    assert!(ran.stderr.contains("nobody vouches"), "{}", ran.stderr);
    assert_eq!(lab.rows("new.db"), lab.rows("app.db"));
}

#[test]
fn a_second_host_asks_to_be_added_and_can_be_revoked() {
    let mut lab = backed_up();
    let owner = owner(&lab);
    let (first, second) = (lab.path("state"), lab.path("second"));
    let backup = ["backup", "sqlite:app.db", "-d", "./b", "-r", "key.pub.pem"];

    lab.set("STRONGROOM_STATE_DIR", second.display().to_string());
    lab.run(backup).fails(12, "--owner");
    lab.set("STRONGROOM_OWNER", &owner);
    let refused = lab.run(backup).fails(12, "strongroom trust add");
    assert!(refused.stderr.contains("host.pub.pem"), "{}", refused.stderr);

    lab.set("STRONGROOM_STATE_DIR", first.display().to_string());
    let key = second.join("host.pub.pem").display().to_string();
    lab.run(["trust", "add", &key, "--source", "other", "-d", "./b"]).ok();
    lab.set("STRONGROOM_STATE_DIR", second.display().to_string());
    lab.run(backup).fails(12, "may not back up app");
    lab.set("STRONGROOM_STATE_DIR", first.display().to_string());
    lab.run(["trust", "add", &key, "-d", "./b"]).ok();
    lab.set("STRONGROOM_STATE_DIR", second.display().to_string());
    let id = lab.run(["--json"].iter().chain(&backup)).ok().json()["completed"].as_str().unwrap().to_owned();
    let later =
        lab.run(["--json"].iter().chain(&backup)).ok().json()["completed"].as_str().unwrap().to_owned();

    // The second host is lost: what it signed up to `id` stays good, nothing after.
    lab.set("STRONGROOM_STATE_DIR", first.display().to_string());
    let unsaid = lab.run(["trust", "revoke", &key, "-d", "./b"]).fails(2, "--nothing-good");
    assert!(unsaid.stderr.contains("--last-good ID"), "{}", unsaid.stderr);
    lab.run(["trust", "revoke", &key, "--last-good", &id, "-d", "./b"]).ok();
    assert!(lab.run(["trust", "show", "-d", "./b"]).ok().text().contains("REVOKED"));
    lab.run(["verify", &id, "-d", "./b"]).ok();
    lab.run(["verify", &later, "-d", "./b"]).fails(12, "revoked");
    assert!(lab.run(["list", "-d", "./b"]).ok().text().contains("NOT BELIEVED"));
    lab.set("STRONGROOM_STATE_DIR", second.display().to_string());
    let refused = lab.run(backup).fails(12, "was revoked");
    assert!(refused.stderr.contains("host.key.pem") && !refused.stderr.contains("trust add"), "{refused:?}");
    // Only the owner's key changes whom a repository trusts.
    let (own, not_owner) = (first.join("host.pub.pem"), second.join("host.key.pem"));
    let (own, not_owner) = (own.display().to_string(), not_owner.display().to_string());
    lab.run(["trust", "add", &own, "--owner-key", &not_owner, "-d", "./b"]).fails(12, "");
}

/// A second host that has the right to back up, and its public key file.
fn with_second_host() -> (Lab, String) {
    let mut lab = backed_up();
    lab.set("STRONGROOM_OWNER", owner(&lab));
    let (first, second) = (lab.path("state").display().to_string(), lab.path("second"));
    let backup = ["backup", "sqlite:app.db", "-d", "./b", "-r", "key.pub.pem"];
    lab.set("STRONGROOM_STATE_DIR", second.display().to_string());
    lab.run(backup).fails(12, "strongroom trust add");
    let key = second.join("host.pub.pem").display().to_string();
    lab.set("STRONGROOM_STATE_DIR", &first);
    lab.run(["trust", "add", &key, "-d", "./b"]).ok();
    lab.set("STRONGROOM_STATE_DIR", second.display().to_string());
    lab.run(backup).ok();
    lab.set("STRONGROOM_STATE_DIR", first);
    (lab, key)
}

fn latest(lab: &Lab) -> serde_json::Value {
    lab.run(["--json", "show", "app@latest", "-d", "./b"]).ok().json()
}

/// The backups that a revoked host made were seen and count no more; those of the others do.
#[test]
fn a_revocation_does_not_make_the_place_stale() {
    let (lab, key) = with_second_host();
    let of_second = latest(&lab);
    assert_eq!(of_second["seq"], 1);
    lab.run(["trust", "revoke", &key, "--nothing-good", "-d", "./b"]).ok();
    let ran = lab.run(["verify", "app@latest", "-d", "./b"]).ok();
    assert!(ran.stderr.contains("counts no more"), "{}", ran.stderr);
    assert_ne!(latest(&lab)["signer"], of_second["signer"]);
    let ran = lab.run(["--json", "list", "-d", "./b"]).ok();
    assert!(!ran.stderr.contains("counts no more"), "told once: {}", ran.stderr);
    assert_eq!(ran.json()["warnings"].as_array().unwrap().len(), 0);
    // What is left of the trusted host is still missed when it goes.
    let left = latest(&lab)["id"].as_str().unwrap().to_owned();
    std::fs::remove_dir_all(lab.path(&format!("b/app/{left}"))).unwrap();
    assert!(lab.run(["list", "-d", "./b"]).ok().stderr.contains("number 1 was seen before"));
}

/// Whoever can delete in the place cannot undo a revocation on the machine that made it.
#[test]
fn a_revocation_is_remembered_where_it_was_made_at_once() {
    let (lab, key) = with_second_host();
    lab.run(["trust", "revoke", &key, "--nothing-good", "-d", "./b"]).ok();
    let shown = lab.tree("b/trust");
    assert_eq!(shown, ["1.json", "2.json", "3.json"]);
    let (file, kept) = (lab.path("b/trust/3.json"), lab.path("kept.json"));
    std::fs::rename(&file, &kept).unwrap();
    lab.run(["verify", "app@latest", "-d", "./b"]).fails(13, "trust/3.json");
    std::fs::rename(&kept, &file).unwrap();
    lab.run(["verify", "app@latest", "-d", "./b"]).ok();
}

#[test]
fn the_last_good_backup_of_a_revoked_host_is_still_missed() {
    let (mut lab, key) = with_second_host();
    let good = latest(&lab)["id"].as_str().unwrap().to_owned();
    let first = lab.path("state").display().to_string();
    lab.set("STRONGROOM_STATE_DIR", lab.path("second").display().to_string());
    lab.run(["backup", "sqlite:app.db", "-d", "./b", "-r", "key.pub.pem"]).ok();
    lab.set("STRONGROOM_STATE_DIR", first);
    assert_eq!(latest(&lab)["seq"], 2);
    lab.run(["trust", "revoke", &key, "--last-good", &good, "-d", "./b"]).ok();
    assert_eq!(latest(&lab)["id"], good.as_str());
    std::fs::remove_dir_all(lab.path(&format!("b/app/{good}"))).unwrap();
    lab.run(["verify", "app@latest", "-d", "./b"]).fails(13, "STALE");
}

/// A host that forgot what it signed does not sign one number twice.
#[test]
fn a_lost_memory_makes_no_fork() {
    let lab = backed_up();
    std::fs::remove_dir_all(lab.path("state/ledger")).unwrap();
    let backup = ["backup", "sqlite:app.db", "-d", "./b", "-r", "key.pub.pem"];
    lab.run(backup).fails(11, "own record of what it signed is lost");
    // A new key, let in by the owner, begins a line of its own.
    std::fs::remove_file(lab.path("state/host.key.pem")).unwrap();
    std::fs::remove_file(lab.path("state/host.pub.pem")).unwrap();
    lab.run(backup).fails(12, "strongroom trust add");
    lab.run(["trust", "add", "state/host.pub.pem", "-d", "./b"]).ok();
    lab.run(backup).ok();
    let list = lab.run(["--json", "list", "-d", "./b"]).ok().json();
    assert_eq!(
        (list["backups"].as_array().unwrap().len(), list["warnings"].as_array().unwrap().len()),
        (2, 0)
    );
}

#[test]
fn a_private_key_on_the_backing_up_host_is_noticed() {
    let lab = backed_up();
    let backup = ["backup", "sqlite:app.db", "-d", "./b", "-r", "key.pub.pem"];
    assert!(lab.run(backup).ok().stderr.contains("key.pem is on this machine"));
    std::fs::remove_file(lab.path("key.pem")).unwrap();
    assert!(!lab.run(backup).ok().stderr.contains("is on this machine"));
}

#[test]
fn a_place_that_goes_back_in_time_is_refused() {
    let lab = backed_up();
    copy(&lab.path("b"), &lab.path("old"));
    lab.run(["backup", "sqlite:app.db", "-d", "./b", "-r", "key.pub.pem"]).ok();
    lab.run(["list", "-d", "./b"]).ok();
    std::fs::remove_dir_all(lab.path("b")).unwrap();
    copy(&lab.path("old"), &lab.path("b"));
    let restore = ["restore", "app@latest", "--to", "sqlite:new.db", "-i", "key.pem", "-d", "./b"];
    lab.run(restore).fails(13, "STALE");
    assert!(!lab.path("new.db").exists());
    assert!(lab.run(["list", "-d", "./b"]).ok().stderr.contains("STALE"));
}

/// The host that made a backup misses it, though it never listed the place since.
#[test]
fn a_newest_backup_that_went_is_missed_by_the_host_that_made_it() {
    let lab = backed_up();
    let backup = ["--json", "backup", "sqlite:app.db", "-d", "./b", "-r", "key.pub.pem"];
    let second = lab.run(backup).ok().json()["completed"].as_str().unwrap().to_owned();
    std::fs::remove_dir_all(lab.path(&format!("b/app/{second}"))).unwrap();
    let ran = lab.run(["--json", "list", "-d", "./b"]).ok();
    assert!(ran.stderr.contains("number 2 was seen before"), "{}", ran.stderr);
    assert_eq!(ran.json()["warnings"].as_array().unwrap().len(), 1);
    lab.run(["verify", "app@latest", "-d", "./b"]).fails(13, "number 2 was seen before");
    // Nothing at all is left: that is no mere absence either.
    std::fs::remove_dir_all(lab.path("b/app")).unwrap();
    lab.run(["verify", "app@latest", "-d", "./b"]).fails(13, "no backup of");
    assert!(lab.run(["list", "app", "-d", "./b"]).ok().stderr.contains("number 2 was seen before"));
}

#[test]
fn another_repository_in_the_same_place_is_noticed() {
    let mut lab = backed_up();
    std::fs::rename(lab.path("b"), lab.path("mine")).unwrap();
    lab.run(["list", "-d", "./b"]).fails(13, "holds none now");
    lab.run(["backup", "sqlite:app.db", "-d", "./b", "-r", "key.pub.pem"]).fails(13, "holds none now");
    assert!(lab.tree("b").is_empty(), "nothing is made in a place that was emptied");
    let state = lab.path("state").display().to_string();
    lab.set("STRONGROOM_STATE_DIR", lab.path("attacker").display().to_string());
    lab.run(["backup", "sqlite:app.db", "-d", "./b", "-r", "key.pub.pem"]).ok();
    lab.set("STRONGROOM_STATE_DIR", state);
    lab.run(["restore", "app@latest", "--to", "sqlite:n.db", "-i", "key.pem", "-d", "./b"])
        .fails(13, "before and holds");
}

/// A manifest of another repository, or moved to another place, is not believed.
#[test]
fn a_foreign_manifest_is_not_believed() {
    let mut lab = backed_up();
    let state = lab.path("state").display().to_string();
    lab.set("STRONGROOM_STATE_DIR", lab.path("attacker").display().to_string());
    lab.run(["backup", "sqlite:app.db", "-d", "./evil", "-r", "key.pub.pem"]).ok();
    copy(&lab.path("evil/app"), &lab.path("b/app"));
    lab.set("STRONGROOM_STATE_DIR", state);
    let list = lab.run(["--json", "list", "-d", "./b"]).ok().json();
    let backups = list["backups"].as_array().unwrap();
    assert_eq!(backups.len(), 2);
    assert_eq!(backups[1]["error"]["kind"], "denied");
    let own = backups[0]["id"].as_str().unwrap();
    let latest = lab.run(["--json", "show", "app@latest", "-d", "./b"]).ok().json();
    assert_eq!(latest["id"], own, "latest is never one that is not believed");
    let foreign = backups[1]["id"].as_str().unwrap();
    lab.run(["restore", foreign, "--to", "sqlite:n.db", "-i", "key.pem", "-d", "./b"]).fails(12, "");
    std::fs::rename(lab.path(&format!("b/app/{own}")), lab.path("b/app/x")).unwrap();
    copy(&lab.path("b/app/x"), &lab.path(&format!("b/other/{own}")));
    lab.run(["verify", &format!("other@{own}"), "-d", "./b"]).fails(13, "belongs to app");
}

/// What a host that backs up holds opens nothing: the private key is needed, and is nowhere on it.
#[test]
fn incident_18_19_20_the_backing_up_host_cannot_read_its_backups() {
    let lab = backed_up();
    std::fs::rename(lab.path("key.pem"), lab.path("../offline.pem")).ok();
    let _ = std::fs::remove_file(lab.path("key.pem"));
    for key in ["state/host.key.pem", "state/owner.key.pem", "key.pub.pem"] {
        let ran = lab.run(["cat", "app@latest", "-i", key, "-d", "./b"]);
        assert!(matches!(ran.code, Some(2 | 12 | 16)), "{key}: {ran:?}");
        assert_eq!(ran.stdout, b"");
    }
    // And it goes on backing up, unattended.
    lab.run(["backup", "sqlite:app.db", "-d", "./b", "-r", "key.pub.pem"]).ok();
}

/// A machine that has not seen the newest backup cannot miss it. What it cannot read there is told.
#[test]
fn a_newest_backup_that_cannot_be_read_is_not_passed_over_in_silence() {
    let mut lab = backed_up();
    let owner = owner(&lab);
    let done = lab.run(["--json", "backup", "sqlite:app.db", "-d", "./b", "-r", "key.pub.pem"]).ok().json();
    let newest = done["completed"].as_str().unwrap();
    lab.write(&format!("b/app/{newest}/manifest.json"), "{}");
    lab.set("STRONGROOM_STATE_DIR", lab.path("another-machine").display().to_string());
    let ran = lab.run(["show", "app@latest", "-d", "./b", "--owner", &owner]).ok();
    assert!(ran.text().contains("number 1"), "{}", ran.text());
    let told = format!("app@latest passes over {newest}, which may be newer");
    assert!(ran.stderr.contains(&told), "{}", ran.stderr);
}
