//! A folder of files into a destination and back, by the whole command.

use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use crate::lab::Lab;

fn write(path: &Path, content: &[u8], mode: u32) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
    std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// Everything below a folder: names, kinds, modes, owners, times, links and contents.
fn facts(root: &Path) -> Vec<String> {
    fn walk(root: &Path, folder: &Path, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let path = entry.path();
            let stat = path.symlink_metadata().unwrap();
            let content = match stat.file_type() {
                kind if kind.is_symlink() => {
                    std::fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()
                }
                kind if kind.is_file() => std::fs::read(&path).unwrap(),
                _ => Vec::new(),
            };
            let name = path.strip_prefix(root).unwrap().as_os_str().as_encoded_bytes().to_vec();
            found.push(format!(
                "{name:?} {:o} {}:{} {}.{} {} {:?}",
                stat.mode(),
                stat.uid(),
                stat.gid(),
                stat.mtime(),
                stat.mtime_nsec(),
                if stat.is_dir() { 0 } else { stat.nlink() },
                content,
            ));
            if stat.is_dir() {
                walk(root, &path, found);
            }
        }
    }
    let mut found = Vec::new();
    walk(root, root, &mut found);
    found.sort();
    found
}

#[test]
fn a_folder_is_backed_up_verified_and_restored_equal() {
    let lab = Lab::with_keys();
    let at = |name: &str| lab.path("uploads").join(name);
    write(&at("a/one.bin"), &(0..=255).cycle().take(300_000).collect::<Vec<u8>>(), 0o640);
    write(&at("a/b/Gr\u{fc}\u{df}e 'x' \"y\".txt"), "text\n".as_bytes(), 0o600);
    write(&at("run.sh"), b"#!/bin/sh\n", 0o755);
    write(&at("empty"), b"", 0o444);
    write(&at("cache/left-out"), b"cached", 0o644);
    write(&at("a/left-out.tmp"), b"temporary", 0o644);
    std::fs::create_dir(at("empty-folder")).unwrap();
    symlink("../run.sh", at("a/link")).unwrap();
    std::fs::hard_link(at("run.sh"), at("a/same.sh")).unwrap();

    let backup = ["backup", "files:uploads", "-d", "./b", "-r", "key.pub.pem"];
    let done = lab.run(["--json"].iter().chain(&backup)).ok().json();
    assert_eq!(
        (&done["backup"]["engine"], &done["backup"]["format"]),
        (&"files".into(), &"files-tar".into())
    );
    lab.run(["verify", "uploads@latest", "-d", "./b"]).ok();
    let deep =
        lab.run(["--json", "verify", "uploads@latest", "--deep", "-i", "key.pem", "-d", "./b"]).ok().json();
    assert_eq!(deep["parsed"], true);
    let restore = ["restore", "uploads@latest", "--to", "files:back", "-i", "key.pem", "-d", "./b"];
    let plan = lab.run(restore.iter().chain(&["--dry-run"])).ok();
    assert!(plan.text().contains("hidden folder beside") && !lab.path("back").exists(), "{}", plan.text());
    lab.run(restore).ok();
    assert_eq!(facts(&lab.path("back")), facts(&lab.path("uploads")));

    // A folder that is there is refused, or exchanged and kept.
    lab.run(restore).fails(11, "back");
    std::fs::write(lab.path("back/later"), "mine").unwrap();
    let exchanged = lab.run(restore.iter().chain(&["--into-existing"])).ok();
    assert!(exchanged.stderr.contains("what was there before is now in"), "{}", exchanged.stderr);
    assert_eq!(facts(&lab.path("back")), facts(&lab.path("uploads")));

    // Part of it, by patterns.
    lab.run(backup.iter().chain(&["--exclude", "cache", "--exclude", "*.tmp"])).ok();
    let part = ["restore", "uploads@latest", "--to", "files:part", "-i", "key.pem", "-d", "./b"];
    lab.run(part).ok();
    for name in ["cache", "a/left-out.tmp"] {
        std::fs::metadata(at(name)).unwrap();
        assert!(!lab.path("part").join(name).exists(), "{name}");
    }
    assert!(lab.path("part/a/one.bin").exists());
    lab.run(backup.iter().chain(&["--include", "no-such-*"])).fails(10, "no-such-");

    // By hand.
    let cat = lab.run(["cat", "uploads@latest", "-i", "key.pem", "-d", "./b"]).ok();
    lab.write("part.tar", &cat.stdout);
    let listed = std::process::Command::new("tar").arg("-tf").arg(lab.path("part.tar")).output().unwrap();
    assert!(
        listed.status.success() && String::from_utf8_lossy(&listed.stdout).contains("run.sh"),
        "{listed:?}"
    );
}
