//! What is kept is looked after: samples, failed verifications, listings, leftovers, destroying.

use std::path::Path;

use crate::lab::Lab;
use crate::retention::{TO, add, as_other, three_backups};

/// Turns one bit of a file.
fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_sample_needs_no_key_says_what_it_bought_and_is_recorded_also_when_it_fails() {
    let (lab, ids) = three_backups();
    let id = ids[0].as_str();
    let all = lab.run(["verify", id, "--sample", "100%", "-d", "./b", "--json"]).ok().json();
    assert_eq!((&all["verified"], &all["damaged_frames_below"]), (&"sample".into(), &1.into()));
    let some = lab.run(["verify", id, "--sample", "1", "-d", "./b"]).ok();
    assert!(some.text().contains("of the backup is damaged, 99.9 % sure"), "{}", some.text());
    lab.run(["verify", id, "--sample", "none", "-d", "./b"]).fails(2, "--sample");
    lab.run(["verify", id, "--sample", "1%", "--deep", "-d", "./b"]).fails(2, "--deep");

    add(&lab, "verifier", &["verifier"]);
    as_other(&lab, "verifier", &["verify", id, "--deep", "-i", "key.pem", "--record"]).ok();
    as_other(&lab, "verifier", &["verify", id, "--sample", "100%", "--record"]).ok();
    let shown = |state: &str| {
        let listed = lab.run(["list", "--state", state, "-d", "./b", "--json"]).ok().json();
        let ids =
            listed["backups"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap().to_owned());
        ids.collect::<Vec<_>>()
    };
    assert_eq!(shown("verified"), [id]);
    let data = lab.path(&format!("b/app/{id}/data.strongroom"));
    let len = std::fs::metadata(&data).unwrap().len() as usize;
    flip(&data, len / 2);
    let found = as_other(&lab, "verifier", &["verify", id, "--sample", "100%", "--record"]);
    let found = found.fails(13, "are not those that were signed");
    assert!(found.stderr.contains("recorded beside the backup"), "{}", found.stderr);
    // It counts also after the bytes are as they were, until somebody opens it again.
    flip(&data, len / 2);
    assert_eq!(shown("failed"), [id]);
    assert_eq!(shown("verified"), [""; 0]);
    as_other(&lab, "verifier", &["verify", id, "--sample", "100%", "--record"]).ok();
    assert_eq!(shown("failed"), [id]);
    as_other(&lab, "verifier", &["verify", id, "--deep", "-i", "key.pem", "--record"]).ok();
    assert_eq!((shown("verified"), shown("failed")), (vec![id.to_owned()], vec![]));
    // A key that does not fit says nothing of the backup.
    lab.run(["keygen", "-o", "other.pem", "--no-passphrase", "--bits", "2048"]).ok();
    as_other(&lab, "verifier", &["verify", id, "--deep", "-i", "other.pem", "--record"]).fails(12, "");
    assert_eq!(shown("failed"), [""; 0]);
}

#[test]
fn listings_are_filtered_and_the_cache_is_never_believed_more_than_the_destination() {
    let (lab, ids) = three_backups();
    let list = |args: &[&str]| {
        let listed = lab.run(["list", "-d", "./b", "--json"].iter().chain(args)).ok().json();
        listed["backups"].as_array().unwrap().clone()
    };
    lab.run(["list", "--cached", "-d", "./elsewhere"]).fails(10, "never listed");
    assert_eq!(list(&[]).len(), 3);
    let started = |n: usize| list(&[])[n]["started"].as_str().unwrap().to_owned();
    assert_eq!(list(&["--since", &started(1)]).len(), 2);
    assert_eq!(list(&["--until", &started(1)]).len(), 1);
    assert_eq!(list(&["--since", "1h"]).len(), 3);
    assert_eq!(list(&["--until", "1h"]).len(), 0);
    assert_eq!(list(&["--since", "2020-01-01", "--newest", "1"])[0]["id"], ids[2].as_str());
    lab.run(["list", "--since", "soon", "-d", "./b"]).fails(2, "--since");

    // Without the destination, what was seen last, and said so.
    std::fs::rename(lab.path("b"), lab.path("away")).unwrap();
    let cached = lab.run(["list", "--cached", "-d", "./b"]).ok();
    assert!(ids.iter().all(|id| cached.text().contains(id)), "{}", cached.text());
    assert!(cached.stderr.contains("the destination was not asked"), "{}", cached.stderr);
    std::fs::rename(lab.path("away"), lab.path("b")).unwrap();

    // Somebody changes the destination: the cache does not hide it.
    let manifest = lab.path(&format!("b/app/{}/manifest.json", ids[1]));
    let good = std::fs::read(&manifest).unwrap();
    flip(&manifest, good.len() / 2);
    assert!(list(&[])[2]["error"].is_object(), "one is not believed any more");
    assert_eq!(list(&["--state", "not-believed"]).len(), 1);
    std::fs::write(&manifest, &good).unwrap();
    assert!(list(&[]).iter().all(|one| one["error"].is_null()));

    // Somebody changes the cache: what nobody signed is not believed from there either, and the place wins.
    let folder = lab.path("state/catalogue");
    let files = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    // The other place has an empty one.
    let file = files.max_by_key(|path| std::fs::metadata(path).unwrap().len()).unwrap();
    {
        let cache = rusqlite::Connection::open(&file).unwrap();
        let forged = "UPDATE objects SET stored = CAST(replace(CAST(stored AS TEXT), 'a', 'b') AS BLOB)
                      WHERE key LIKE '%/manifest.json'";
        assert_eq!(cache.execute(forged, []).unwrap(), 3);
    }
    assert!(list(&["--cached"]).iter().all(|one| one["error"].is_object()));
    assert!(list(&[]).iter().all(|one| one["error"].is_null()));
    assert!(list(&["--cached"]).iter().all(|one| one["error"].is_null()), "it was put right");
    // Verifying and restoring ask the destination alone.
    lab.run(["verify", "app@latest", "-d", "./b"]).ok();
    lab.run(["restore", "app@latest", "-i", "key.pem", "-d", "./b", "--to", "sqlite:back.db"]).ok();
    // It can be damaged or deleted, and is made anew from the destination.
    std::fs::write(&file, "no database").unwrap();
    assert!(list(&[]).iter().all(|one| one["error"].is_null()));
    std::fs::remove_dir_all(&folder).unwrap();
    assert_eq!(list(&[]).len(), 3);
    assert_eq!(list(&["--cached"]).len(), 3);
}

#[test]
fn what_has_no_manifest_is_listed_and_swept_by_age_and_a_lost_manifest_is_told() {
    let (lab, ids) = three_backups();
    let killed = "11111111-2222-4333-8444-555555555555";
    let path = lab.path(&format!("b/app/{killed}/data.strongroom"));
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, "sealed bytes of a run that was killed").unwrap();
    lab.write("b/notes.txt", "not ours");
    let found = lab.run(["storage", "orphans", "./b", "--json"]).ok().json();
    let found = found["orphans"].as_array().unwrap().clone();
    assert_eq!(found.len(), 1);
    assert_eq!((&found[0]["id"], &found[0]["state"]), (&killed.into(), &"unfinished".into()));

    // The file is old, but this machine saw it for the first time just now; and then the other way round.
    let month = std::time::SystemTime::now() - std::time::Duration::from_secs(30 * 86_400);
    let age =
        |file: &Path| std::fs::File::options().write(true).open(file).unwrap().set_modified(month).unwrap();
    age(&path);
    let swept = |args: &[&str]| {
        let done = lab.run(["sweep", "-d", "./b", "--json"].iter().chain(args)).ok().json();
        done["orphans_removed"].as_array().unwrap().len()
    };
    assert_eq!(swept(&[]), 0);
    let memory = std::fs::read_dir(lab.path("state/orphans")).unwrap().next().unwrap().unwrap().path();
    let seen_long_ago = || {
        let mut seen: serde_json::Value = serde_json::from_slice(&std::fs::read(&memory).unwrap()).unwrap();
        for one in seen.as_object_mut().unwrap().values_mut() {
            one["first"] = "2020-01-01T00:00:00Z".into();
        }
        std::fs::write(&memory, seen.to_string()).unwrap();
    };
    seen_long_ago();
    std::fs::write(&path, "sealed bytes of a run that goes on!!!").unwrap();
    assert_eq!(swept(&["--older-than", "0h"]), 0, "it changed: it may be a backup that is being made");
    seen_long_ago();
    assert_eq!(swept(&["--older-than", "0h"]), 0, "never before a day");
    age(&path);
    assert_eq!(swept(&[]), 0, "its time changed, so it is another");
    seen_long_ago();

    // A backup whose manifest somebody removed is no leftover.
    add(&lab, "verifier", &["verifier"]);
    as_other(&lab, "verifier", &["verify", &ids[1], "--record"]).ok();
    std::fs::remove_file(lab.path(&format!("b/app/{}/manifest.json", ids[1]))).unwrap();
    let told = lab.run(["storage", "orphans", "./b"]).ok();
    assert!(told.stderr.contains("its manifest is gone without a word"), "{}", told.stderr);
    for entry in std::fs::read_dir(lab.path(&format!("b/app/{}", ids[1]))).unwrap() {
        let entry = entry.unwrap().path();
        if entry.is_file() {
            age(&entry);
        } else {
            std::fs::read_dir(entry).unwrap().for_each(|said| age(&said.unwrap().path()));
        }
    }
    lab.run(["storage", "orphans", "./b"]).ok();
    seen_long_ago();
    let done = lab.run(["storage", "sweep", "./b", "--older-than", "7d", "--json"]).ok().json();
    assert_eq!(done["orphans_removed"].as_array().unwrap().len(), 1, "the killed one alone");
    assert!(!path.exists());
    assert!(lab.path(&format!("b/app/{}/data.strongroom", ids[1])).exists());
    assert!(lab.path("b/notes.txt").exists());
    lab.run(["verify", &ids[0], "-d", "./b"]).ok();
}

#[test]
fn a_backup_is_shredded_with_a_certificate_and_the_last_good_one_only_on_request() {
    let (lab, ids) = three_backups();
    let shred = |id: &str, more: &[&str]| {
        as_other(&lab, "pruner", &[&["shred", id, "--reason", "asked for by the person"], more].concat())
    };
    add(&lab, "verifier", &["verifier"]);
    lab.run(["shred", &ids[0], "--reason", "x", "-d", "./b"]).fails(12, "trust add --role pruner");
    add(&lab, "pruner", &["pruner", "operator"]);
    shred("app@latest", &[]).fails(2, "named by its id");
    shred(&ids[0], &[]).fails(11, "--last-good");
    as_other(&lab, "verifier", &["verify", &ids[2], "--deep", "-i", "key.pem", "--record"]).ok();
    as_other(&lab, "pruner", &["pin", &ids[0]]).ok();
    shred(&ids[0], &[]).fails(11, "is pinned");
    as_other(&lab, "pruner", &["pin", &ids[0], "--off"]).ok();
    let done = shred(&ids[0], &[]).ok();
    assert!(done.text().contains("not promised: copies in other places"), "{}", done.text());
    let left = lab.tree("b");
    assert!(!left.iter().any(|name| name.starts_with(&format!("app/{}", ids[0]))), "{left:?}");
    for end in ["json", "shredded.json"] {
        assert!(left.contains(&format!("history/app/{}.{end}", ids[0])), "{left:?}");
    }
    let again = shred(&ids[0], &["--json"]).ok().json();
    assert_eq!(again["shredded"]["reason"], "asked for by the person");
    shred(&ids[2], &[]).fails(11, "--last-good");
    shred(&ids[2], &["--last-good"]).ok();
    shred("11111111-2222-4333-8444-555555555555", &[]).fails(10, "");
    lab.run(["verify", &ids[1], "--deep", "-i", "key.pem", "-d", "./b"]).ok();
    lab.run(["backup", "sqlite:app.db"].iter().chain(&TO)).ok();
}

#[test]
fn a_delay_marks_first_and_an_accepted_size_is_signed_by_an_operator() {
    let (lab, ids) = three_backups();
    add(&lab, "verifier", &["verifier"]);
    add(&lab, "pruner", &["pruner"]);
    for id in &ids {
        as_other(&lab, "verifier", &["verify", id, "--deep", "-i", "key.pem", "--record"]).ok();
    }
    let keep = ["prune", "app", "--keep-last", "1", "--delete-delay", "7d", "--json"];
    for _ in 0..2 {
        let done = as_other(&lab, "pruner", &keep).ok().json();
        assert_eq!(
            (&done["removed"], &done["waiting"]),
            (&serde_json::json!([]), &serde_json::json!([ids[1]]))
        );
    }
    let leaving = lab.run(["list", "--state", "leaving", "-d", "./b", "--json"]).ok().json();
    assert_eq!(leaving["backups"].as_array().unwrap().len(), 1);
    let accept = ["prune", "app", "--keep-last", "1", "--accept", ids[2].as_str(), "--json"];
    as_other(&lab, "pruner", &accept).fails(12, "trust add --role operator");
    let nobody = ["prune", "app", "--keep-last", "1", "--accept", "11111111-2222-4333-8444-555555555555"];
    as_other(&lab, "pruner", &nobody).fails(10, "no backup of app");
    as_other(&lab, "pruner", &["prune", "app", "--keep-last", "1", "--delete-delay", "soon"])
        .fails(2, "delete_delay");
    lab.run(["trust", "add", "pruner/host.pub.pem", "--role", "pruner", "--role", "operator", "-d", "./b"])
        .ok();
    let done = as_other(&lab, "pruner", &accept).ok().json();
    assert_eq!(done["removed"], serde_json::json!([ids[1]]), "at once without the delay");
    let kept = done["planned"].as_array().unwrap().iter().find(|one| one["id"] == ids[2].as_str()).unwrap();
    assert_eq!(kept["accepted"], true);
}

/// One who only lists leaves nothing in the destination.
#[test]
fn listing_writes_nothing_to_the_destination() {
    let lab: Lab = three_backups().0;
    let before = lab.tree("b");
    lab.run(["list", "--state", "unverified", "-d", "./b"]).ok();
    lab.run(["storage", "orphans", "./b"]).ok();
    assert_eq!(lab.tree("b"), before);
}
