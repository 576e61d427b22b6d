//! Several destinations: mirrored backups, copies, migration, and the 3-2-1 rule.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value as Json;

use crate::lab::{Lab, Ran, server};

const BACKUP: [&str; 5] = ["backup", "sqlite:app.db", "-r", "key.pub.pem", "--json"];

fn lab() -> Lab {
    let lab = Lab::with_keys();
    lab.database("app.db", 300);
    lab
}

fn backup(lab: &Lab, args: &[&str]) -> Ran {
    lab.run(BACKUP.iter().chain(args))
}

fn states(document: &Json) -> Vec<&str> {
    document["copies"].as_array().unwrap().iter().map(|copy| copy["state"].as_str().unwrap()).collect()
}

/// The error document of a failed command.
fn error(ran: &Ran) -> Json {
    let line = ran.stderr.lines().find(|line| line.starts_with('{')).unwrap_or_else(|| panic!("{ran:?}"));
    serde_json::from_str::<Json>(line).unwrap()["error"].clone()
}

/// How many backups a destination lists; each of them opens and parses.
fn good(lab: &Lab, place: &str) -> usize {
    let list = lab.run(["--json", "list", "-d", place]).ok().json();
    let backups = list["backups"].as_array().unwrap();
    for backup in backups {
        let id = backup["id"].as_str().unwrap();
        lab.run(["verify", id, "--deep", "-i", "key.pem", "-d", place]).ok();
    }
    backups.len()
}

#[test]
fn a_mirrored_backup_is_in_both_places_and_restores_from_each() {
    let lab = lab();
    for _ in 0..2 {
        let done = backup(&lab, &["-d", "./a", "-d", "./b"]).ok().json();
        assert_eq!(states(&done), ["stored", "stored"]);
    }
    let objects = |place: &str| {
        let tree = lab.tree(place).into_iter().filter(|name| !name.contains("/statements/"));
        tree.map(|name| (lab.read(&format!("{place}/{name}")), name)).collect::<Vec<_>>()
    };
    assert_eq!(objects("a"), objects("b"), "one repository, one manifest, one envelope");
    for place in ["a", "b"] {
        let receipts = lab.tree(place).into_iter().filter(|name| name.contains("/statements/copied-"));
        assert_eq!(receipts.count(), 2);
        let (from, to) = (format!("./{place}"), format!("sqlite:{place}.db"));
        assert_eq!(good(&lab, &from), 2);
        lab.run(["restore", "app@latest", "-i", "key.pem", "-d", &from, "--to", &to]).ok();
        assert_eq!(lab.rows(&format!("{place}.db")), lab.rows("app.db"));
    }
    // Told to people as well.
    let text = lab.run(["backup", "sqlite:app.db", "-r", "key.pub.pem", "-d", "./a", "-d", "./b"]).ok();
    assert_eq!(text.text().matches("copy        stored in ").count(), 2, "{}", text.text());
}

#[test]
fn destinations_and_their_policy_come_from_the_configuration() {
    let lab = lab();
    let common = "[destinations.a]\nurl = \"./a\"\n[destinations.b]\nurl = \"./b\"\n[sources.app]\nurl = \"sqlite:app.db\"\n\
                  recipients = [\"key.pub.pem\"]\n";
    lab.write("strongroom.toml", format!("{common}destinations = [\"a\", \"b\"]\nmirror = \"all\"\n"));
    let done = lab.run(["backup", "app", "--json"]).ok().json();
    assert_eq!(states(&done), ["stored", "stored"]);
    // Commands that read take the first, or the one that is named.
    lab.run(["verify", "app@latest"]).ok();
    lab.run(["verify", "app@latest", "-d", "b"]).ok();
    lab.write("strongroom.toml", format!("{common}destinations = [\"a\", \"b\"]\nmirror = \"at_least:3\"\n"));
    lab.run(["backup", "app"]).fails(2, "asks for 3 copies, and there are 2 destinations");
    lab.write("strongroom.toml", format!("{common}destinations = [\"a\", \"a\"]\n"));
    lab.run(["backup", "app"]).fails(2, "named twice");
}

#[test]
fn two_repositories_are_not_mixed_and_an_emptied_place_is_not_filled_in_silence() {
    let mut lab = lab();
    backup(&lab, &["-d", "./a"]).ok();
    lab.set("STRONGROOM_STATE_DIR", lab.path("other").display().to_string());
    backup(&lab, &["-d", "./b"]).ok();
    lab.set("STRONGROOM_STATE_DIR", lab.path("state").display().to_string());
    backup(&lab, &["-d", "./a", "-d", "./b"]).fails(2, "holds repository");
    // A second place for a repository that exists: it is carried there.
    backup(&lab, &["-d", "./a", "-d", "./c"]).ok();
    assert_eq!((good(&lab, "./a"), good(&lab, "./c")), (2, 1));
    std::fs::remove_dir_all(lab.path("c")).unwrap();
    std::fs::create_dir(lab.path("c")).unwrap();
    backup(&lab, &["-d", "./a", "-d", "./c"]).fails(13, "holds none now");
    let done = backup(&lab, &["-d", "./a", "-d", "./c", "--mirror", "at_least:1"]).ok();
    assert_eq!(states(&done.json()), ["stored", "failed"]);
    assert_eq!(lab.tree("c"), Vec::<String>::new());
    lab.run(["copy", "app", "--all", "--from", "./a", "--to", "./c"]).fails(13, "holds none now");
    lab.run(["copy", "app", "--all", "--from", "./a", "--to", "./c", "--repair"]).ok();
    assert_eq!((good(&lab, "./a"), good(&lab, "./c")), (3, 3));
    backup(&lab, &["-d", "./a", "-d", "./c"]).ok();
}

/// A file system in memory, unmounted at the end.
struct Mount(PathBuf);

impl Mount {
    fn new(at: PathBuf, options: &str) -> Self {
        std::fs::create_dir_all(&at).unwrap();
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(&at).status();
        assert!(mount.unwrap().success(), "mounting a tmpfs needs root: run scripts/test as root");
        Self(at)
    }

    fn read_only(&self) {
        let remount = Command::new("mount").args(["-o", "remount,ro"]).arg(&self.0).status();
        assert!(remount.unwrap().success());
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_or_read_only_destination_is_given_up_and_the_policy_decides() {
    let lab = lab();
    let both = ["-d", "./a", "-d", "./small/b"];
    let mount = Mount::new(lab.path("small"), "size=8m");
    backup(&lab, &both).ok();
    // The next one has more than fits there.
    lab.database("large.db", 60_000);
    let large = |policy: &str| {
        let args = ["backup", "sqlite:large.db", "-r", "key.pub.pem", "--json", "--mirror", policy];
        lab.run(args.iter().chain(&both))
    };
    let refused = large("all").fails(15, "no space left");
    assert_eq!(error(&refused)["copies"][1]["state"], "failed");
    assert_eq!((good(&lab, "./a"), good(&lab, "./small/b")), (1, 1), "one destination too few is no backup");
    let done = large("at_least:1").ok();
    assert_eq!(states(&done.json()), ["stored", "failed"]);
    assert!(done.stderr.contains("in 1 of 2 destinations"), "{}", done.stderr);
    assert_eq!((good(&lab, "./a"), good(&lab, "./small/b")), (2, 1));
    // What is missing is told by `copies`, and the run where it is missing by `list`.
    let list = lab.run(["--json", "list", "-d", "./small/b"]).ok().json();
    assert!(list["runs"].as_array().unwrap().iter().any(|run| run["status"] == "failed"), "{list}");
    mount.read_only();
    backup(&lab, &both).fails(12, "read-only");
    let done = backup(&lab, &[&both[..], &["--mirror", "at_least:1"]].concat()).ok();
    assert_eq!(states(&done.json()), ["stored", "failed"]);
    assert_eq!((good(&lab, "./a"), good(&lab, "./small/b")), (3, 1));
}

fn s3() -> (Lab, String, String) {
    let mut lab = lab();
    lab.set("AWS_ACCESS_KEY_ID", server("STRONGROOM_TEST_S3S_ACCESS_KEY"));
    lab.set("AWS_SECRET_ACCESS_KEY", server("STRONGROOM_TEST_S3S_SECRET_KEY"));
    let id = std::fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap();
    let prefix = format!("s3://{}/mirror/{}", server("STRONGROOM_TEST_S3S_BUCKET"), id.trim());
    (lab, prefix, server("STRONGROOM_TEST_S3S_ENDPOINT"))
}

#[test]
fn a_folder_and_a_bucket_hold_the_same_and_a_dead_endpoint_is_told() {
    let (lab, prefix, endpoint) = s3();
    let far = format!("{prefix}?endpoint={endpoint}");
    let done = backup(&lab, &["-d", "./a", "-d", &far]).ok();
    assert_eq!(states(&done.json()), ["stored", "stored"]);
    assert_eq!((good(&lab, "./a"), good(&lab, &far)), (1, 1));
    lab.run(["restore", "app@latest", "-i", "key.pem", "-d", &far, "--to", "sqlite:far.db"]).ok();
    assert_eq!(lab.rows("far.db"), lab.rows("app.db"));
    // Nobody listens on this port.
    let dead = format!("{prefix}?endpoint=http://127.0.0.1:1");
    lab.write(
        "s.toml",
        format!(
            "[destinations.dead]\nurl = \"{dead}\"\nstall_seconds = 1\n[destinations.a]\nurl = \"./a\"\n"
        ),
    );
    let args = ["--config", "s.toml", "-d", "dead", "-d", "a"];
    let refused = backup(&lab, &args).fails(15, "127.0.0.1:1");
    assert_eq!(states(&error(&refused)), ["failed", "stopped"]);
    let done = backup(&lab, &[&args[..], &["--mirror", "at_least:1"]].concat()).ok();
    assert_eq!(states(&done.json()), ["failed", "stored"]);
    assert_eq!(good(&lab, "./a"), 2);
}

/// Passes bytes on to a server until so many have gone there; then it is silent, or closes everything.
fn proxy(endpoint: &str, budget: u64, silent: bool) -> String {
    let target = endpoint.trim_start_matches("http://").to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let left = Arc::new(AtomicU64::new(budget));
    std::thread::spawn(move || {
        for near in listener.incoming().map_while(Result::ok) {
            let (left, target) = (Arc::clone(&left), target.clone());
            std::thread::spawn(move || {
                let Ok(far) = TcpStream::connect(target) else { return };
                let (near_back, mut far_back) = (near.try_clone().unwrap(), far.try_clone().unwrap());
                let mut to_near = near_back.try_clone().unwrap();
                std::thread::spawn(move || std::io::copy(&mut far_back, &mut to_near));
                let (mut near, mut far) = (near, far);
                let mut buffer = [0; 16 << 10];
                while let Ok(len @ 1..) = near.read(&mut buffer) {
                    let had = left.load(Ordering::SeqCst);
                    if had < len as u64 {
                        left.store(0, Ordering::SeqCst);
                        if silent {
                            std::thread::sleep(Duration::from_secs(120));
                        }
                        break;
                    }
                    left.store(had - len as u64, Ordering::SeqCst);
                    if far.write_all(&buffer[..len]).is_err() {
                        break;
                    }
                }
                let _ = (near.shutdown(std::net::Shutdown::Both), far.shutdown(std::net::Shutdown::Both));
            });
        }
    });
    format!("http://{address}")
}

/// A server that falls silent, or dies, in the middle of the data.
#[test]
fn a_destination_that_stalls_or_dies_in_the_middle_does_not_take_the_other_with_it() {
    let (lab, prefix, endpoint) = s3();
    lab.database("large.db", 60_000);
    for (silent, name) in [(true, "stalled"), (false, "dead")] {
        let through = proxy(&endpoint, 6 << 20, silent);
        lab.write(
            "s.toml",
            format!(
                "[destinations.far]\nurl = \"{prefix}/{name}?endpoint={through}\"\nstall_seconds = 4\n\
                 [destinations.near]\nurl = \"./{name}\"\n"
            ),
        );
        let args = ["--config", "s.toml", "backup", "sqlite:large.db", "-r", "key.pub.pem", "--json"];
        let began = Instant::now();
        let done = lab.run(args.iter().chain(&["-d", "far", "-d", "near", "--mirror", "at_least:1"])).ok();
        assert_eq!(states(&done.json()), ["failed", "stored"], "{}", done.stderr);
        assert!(began.elapsed() < Duration::from_secs(120), "{name}: {:?}", began.elapsed());
        assert_eq!(good(&lab, &format!("./{name}")), 1);
        // Nothing is visible in the other place, by another way.
        let direct = format!("{prefix}/{name}?endpoint={endpoint}");
        assert_eq!(good(&lab, &direct), 0);
        // What is missing is added later.
        lab.run(["copy", "large@latest", "--from", &format!("./{name}"), "--to", &direct]).ok();
        assert_eq!(good(&lab, &direct), 1);
    }
}

fn damage(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn copies_are_made_without_a_private_key_once_and_repaired_on_request() {
    let lab = lab();
    let ids: Vec<String> = (0..2)
        .map(|_| backup(&lab, &["-d", "./a"]).ok().json()["completed"].as_str().unwrap().to_owned())
        .collect();
    std::fs::rename(lab.path("key.pem"), lab.path("away.pem")).unwrap();
    let copy = |what: &str, more: &[&str]| {
        let args = ["copy", what, "--from", "./a", "--to", "./b", "--json"];
        lab.run(args.iter().chain(more))
    };
    let done = copy("app@latest", &[]).ok().json();
    assert_eq!(
        (&done["backups"][0]["id"], &done["backups"][0]["state"]),
        (&ids[1].as_str().into(), &"stored".into())
    );
    let all = copy("app", &["--all"]).ok().json();
    let word = |n: usize| all["backups"][n]["state"].as_str().unwrap().to_owned();
    assert_eq!((word(0), word(1)), ("stored".into(), "already there".into()));
    let before = lab.tree("b");
    copy("app", &["--all"]).ok();
    assert_eq!(lab.tree("b"), before, "doing it again changes nothing");
    assert_eq!(before.iter().filter(|name| name.contains("/copied-")).count(), 2);

    // A flipped bit in a copy is found by reading, named, and mended only on request.
    let data = lab.path(&format!("b/app/{}/data.strongroom", ids[0]));
    damage(&data);
    let spoiled = std::fs::read(&data).unwrap();
    assert_eq!(copy(&ids[0], &[]).ok().json()["backups"][0]["state"], "already there");
    lab.run(["copies", "app", "-d", "./a", "-d", "./b", "--read"]).fails(18, "");
    let repaired = copy(&ids[0], &["--repair"]).ok().json();
    assert_eq!(repaired["backups"][0]["state"], "repaired");
    assert_ne!(std::fs::read(&data).unwrap(), spoiled);
    // A copy that is shorter is refused at once, and nothing is changed.
    std::fs::write(&data, "cut").unwrap();
    copy(&ids[0], &[]).fails(13, "data.strongroom has 3 bytes");
    assert_eq!(std::fs::read(&data).unwrap(), b"cut");
    copy(&ids[0], &["--repair"]).ok();
    // A damaged original is not copied, and not used for a repair.
    damage(&lab.path(&format!("a/app/{}/data.strongroom", ids[1])));
    lab.run(["copy", &ids[1], "--from", "./a", "--to", "./c"])
        .fails(13, "not those that were sent and signed");
    assert!(
        !lab.tree("c")
            .iter()
            .any(|name| name.ends_with("manifest.json") || name.ends_with("data.strongroom"))
    );
    // The good one mends it.
    lab.run(["copy", &ids[1], "--from", "./b", "--to", "./a", "--repair"]).ok();
    std::fs::rename(lab.path("away.pem"), lab.path("key.pem")).unwrap();
    assert_eq!((good(&lab, "./a"), good(&lab, "./b")), (2, 2));
    copy("nothing@latest", &[]).fails(10, "");
    lab.run(["copy", "app@latest", "--from", "./a", "--to", "./a"]).fails(2, "the place that is copied from");
}

/// A verifier with a key of its own, trusted in these places, reads every backup of the first.
fn verified(lab: &Lab, places: &[&str]) {
    let place = places[0];
    let owner = crate::origin::owner(lab);
    let run = |args: &[&str]| lab.run(args.iter().chain(&["--state-dir", "verifier", "-d", place]));
    run(&["pin", "app@latest", "--owner", &owner]).fails(12, "trust add --role operator");
    let trusting = places.iter().flat_map(|place| ["-d", place]);
    lab.run(["trust", "add", "verifier/host.pub.pem", "--role", "verifier"].into_iter().chain(trusting)).ok();
    let list = run(&["list", "--json"]).ok().json();
    for backup in list["backups"].as_array().unwrap() {
        let id = backup["id"].as_str().unwrap();
        run(&["verify", id, "--deep", "-i", "key.pem", "--record"]).ok();
    }
}

#[test]
fn a_migration_moves_everything_and_removes_only_what_was_verified_there() {
    let lab = lab();
    for _ in 0..3 {
        backup(&lab, &["-d", "./a"]).ok();
    }
    let migrate = |more: &[&str]| lab.run(["migrate", "--from", "./a", "--to", "./b"].iter().chain(more));
    migrate(&["--remove"]).fails(12, "trust add --role pruner");
    assert_eq!(lab.tree("b").iter().filter(|name| name.ends_with("manifest.json")).count(), 0);
    let roles = ["--role", "backup", "--role", "pruner"];
    lab.run(["trust", "add", "state/host.pub.pem", "-d", "./a"].iter().chain(&roles)).ok();
    migrate(&[]).ok();
    assert_eq!((good(&lab, "./a"), good(&lab, "./b")), (3, 3));
    // While nobody verified one deeply who does not back up, nothing is removed, as with a prune.
    let kept = migrate(&["--remove", "--json"]).ok();
    assert_eq!(kept.json()["stay"].as_array().unwrap().len(), 3);
    assert!(kept.stderr.contains("3 backups stay in"), "{}", kept.stderr);
    assert!(migrate(&["--remove"]).ok().text().contains("no other backup was deeply verified yet"));
    verified(&lab, &["./b", "./a"]);
    // A pin holds here too.
    let operator = ["--role", "backup", "--role", "pruner", "--role", "operator"];
    lab.run(["trust", "add", "state/host.pub.pem", "-d", "./a"].iter().chain(&operator)).ok();
    lab.run(["pin", "app@latest", "-d", "./a"]).ok();

    // One copy is damaged: nothing is removed.
    let data = lab.tree("b").into_iter().find(|name| name.ends_with("data.strongroom")).unwrap();
    damage(&lab.path(&format!("b/{data}")));
    migrate(&["--remove"]).fails(13, "nothing was removed");
    assert_eq!(good(&lab, "./a"), 3);
    let done = migrate(&["--remove", "--repair", "--json"]).ok().json();
    assert_eq!(done["removed"].as_array().unwrap().len(), 2);
    assert_eq!(good(&lab, "./a"), 1, "the pinned one");
    lab.run(["pin", "app@latest", "-d", "./a", "--off"]).ok();
    lab.write("s.toml", "[sources.app]\nurl = \"sqlite:app.db\"\ndelete_delay = \"7d\"\n");
    let delayed = lab
        .run(["--config", "s.toml", "migrate", "app", "--from", "./a", "--to", "./b", "--remove", "--json"]);
    assert_eq!(delayed.ok().json()["waiting"].as_array().unwrap().len(), 1);
    assert_eq!(good(&lab, "./a"), 1, "marked, and not removed");
    assert_eq!(migrate(&["--remove", "--json"]).ok().json()["removed"].as_array().unwrap().len(), 1);
    assert_eq!(good(&lab, "./b"), 3);
    let left = lab.tree("a");
    assert_eq!(left.iter().filter(|name| name.starts_with("app/")).count(), 0, "{left:?}");
    assert_eq!(left.iter().filter(|name| name.starts_with("history/app/")).count(), 3, "{left:?}");
    // The next backup goes on in the new place, with the next number.
    let next = backup(&lab, &["-d", "./b"]).ok().json();
    assert_eq!(next["backup"]["seq"], 4);
    lab.run(["restore", "app@latest", "-i", "key.pem", "-d", "./b", "--to", "sqlite:new.db"]).ok();
    assert_eq!(lab.rows("new.db"), lab.rows("app.db"));
}

/// What retention removed from a place is not copied there again.
#[test]
fn a_copy_does_not_work_against_retention() {
    let lab = lab();
    let id = backup(&lab, &["-d", "./a", "-d", "./b"]).ok().json()["completed"].as_str().unwrap().to_owned();
    let roles = ["--role", "backup", "--role", "pruner"];
    let add = |places: &[&str]| {
        lab.run(["trust", "add", "state/host.pub.pem"].iter().chain(&roles).chain(places)).ok()
    };
    verified(&lab, &["./b", "./a"]);
    add(&["-d", "./a", "-d", "./b"]);
    lab.run(["migrate", "--from", "./b", "--to", "./c", "--remove"]).ok();
    lab.run(["copy", &id, "--from", "./a", "--to", "./b"]).fails(11, "was removed there by a pruner");
    for place in ["a", "b", "c"] {
        assert!(lab.path(&format!("{place}/trust/3.json")).exists(), "{place}");
    }
    // A trust file that one place alone has goes to the others with the next backup.
    add(&["-d", "./c"]);
    assert!(!lab.path("a/trust/4.json").exists());
    backup(&lab, &["-d", "./a", "-d", "./c"]).ok();
    assert!(lab.path("a/trust/4.json").exists());
    assert_eq!((good(&lab, "./a"), good(&lab, "./c")), (2, 2));
}

#[test]
fn the_3_2_1_rule_has_a_verdict() {
    let (lab, prefix, endpoint) = s3();
    let table = |offsite: bool| {
        let far =
            format!("[destinations.far]\nurl = \"{prefix}?endpoint={endpoint}\"\noffsite = {offsite}\n");
        format!(
            "{far}[destinations.a]\nurl = \"./a\"\n[destinations.b]\nurl = \"./b\"\n[sources.app]\nurl = \"sqlite:app.db\"\n\
             recipients = [\"key.pub.pem\"]\ndestinations = [\"a\", \"b\"]\n"
        )
    };
    lab.write("strongroom.toml", table(false));
    lab.run(["copies", "-d", "./a"]).fails(10, "");
    lab.run(["backup", "app"]).ok();
    let ran = lab.run(["copies", "app", "--json"]).fails(18, "1 of 2 separate copies");
    let verdict = ran.json();
    assert_eq!((&verdict["met"], &verdict["backups"][0]["spread"]["copies"]), (&false.into(), &2.into()));
    assert!(ran.stderr.contains("nothing is known of the copies in far"), "{}", ran.stderr);
    lab.run(["copy", "app@latest", "--to", "far"]).ok();
    let ran = lab.run(["copies", "app"]).fails(18, "no copy is offsite");
    assert!(ran.text().contains("3 copies, 2 kinds, 0 offsite"), "{}", ran.text());
    lab.write("strongroom.toml", table(true));
    let ran = lab.run(["copies", "app"]).ok();
    assert!(ran.text().contains("3-2-1 met"), "{}", ran.text());
    let read = lab.run(["copies", "--read", "--json"]).ok().json();
    assert_eq!((&read["met"], &read["read"]), (&true.into(), &true.into()));
    // A copy that is not whole does not count.
    let data = lab.tree("a").into_iter().find(|name| name.ends_with("data.tree")).unwrap();
    std::fs::remove_file(lab.path(&format!("a/{data}"))).unwrap();
    let told = lab.run(["copies", "app"]).ok();
    assert!(told.text().contains("NOT GOOD in a: its hash tree is gone"), "{}", told.text());
    // Missing parts are put back without a repair.
    lab.run(["copy", "app@latest", "--from", "b", "--to", "a"]).ok();
    assert_eq!(good(&lab, "a"), 1);
}
