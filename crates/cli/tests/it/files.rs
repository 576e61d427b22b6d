//! `seal` and `open`: pipes and files, and what is left behind when something is wrong.

use std::process::Stdio;

use crate::lab::{Lab, Ran, server};

fn sealed(lab: &Lab, content: &[u8]) -> Vec<u8> {
    lab.run_with(content, ["seal", "-r", "key.pub.pem"]).ok().stdout
}

#[test]
fn what_is_sealed_opens_and_its_origin_is_called_unknown() {
    let lab = Lab::with_keys();
    let content: Vec<u8> = (0..3_000_000_u32).map(|i| (i / 7 % 251) as u8).collect();
    lab.write("in", &content);
    lab.run(["seal", "-r", "key.pub.pem", "-o", "out.strongroom", "in"]).ok();
    let opened = lab.run(["open", "-i", "key.pem", "-o", "back", "out.strongroom"]).ok();
    assert!(opened.stderr.contains("intact, origin unknown"), "{}", opened.stderr);
    assert!(lab.read("back") == content);
    let piped = lab.run_with(&lab.read("out.strongroom"), ["open", "-i", "key.pem"]).ok();
    assert!(piped.stdout == content);
    assert_eq!(lab.run(["open", "-q", "-i", "key.pem", "-o", "b2", "out.strongroom"]).ok().stderr, "");
    assert!(!lab.path("state").exists(), "sealing and opening need no state");
}

#[test]
fn an_empty_input_is_sealed_too() {
    let lab = Lab::with_keys();
    let file = sealed(&lab, b"");
    assert_eq!(lab.run_with(&file, ["open", "-i", "key.pem"]).ok().stdout, b"");
}

#[test]
fn the_wrong_key_and_a_missing_key_release_nothing() {
    let lab = Lab::with_keys();
    let file = sealed(&lab, b"secret");
    lab.write("f", &file);
    lab.run(["keygen", "-o", "other.pem", "--no-passphrase", "--bits", "2048"]).ok();
    lab.run(["open", "-i", "other.pem", "-o", "out", "f"]).fails(12, "");
    lab.run(["open", "-i", "none.pem", "-o", "out", "f"]).fails(10, "none.pem");
    lab.run(["open", "-o", "out", "f"]).fails(2, "--identity");
    assert_eq!(lab.tree(""), ["f", "key.pem", "key.pub.pem", "other.pem", "other.pub.pem"]);
}

/// Truncated, appended, flipped: an error, and no output file.
#[test]
fn a_damaged_file_leaves_no_output() {
    let lab = Lab::with_keys();
    let file = sealed(&lab, &vec![7; 3 << 20]);
    let mut flipped = file.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    let appended = [file.as_slice(), b"x"].concat();
    let damaged: [&[u8]; 5] =
        [&file[..file.len() - 1], &file[..file.len() / 2], &file[..10], &flipped, &appended];
    for (i, content) in damaged.into_iter().enumerate() {
        lab.write("f", content);
        let ran = lab.run(["open", "-i", "key.pem", "-o", "out", "f"]);
        assert_eq!(ran.code, Some(13), "{i}: {}", ran.stderr);
        assert_eq!(lab.tree(""), ["f", "key.pem", "key.pub.pem"], "{i}");
        assert_eq!(lab.run_with(content, ["open", "-i", "key.pem"]).code, Some(13), "{i}");
    }
}

#[test]
fn nothing_is_replaced_without_force() {
    let lab = Lab::with_keys();
    let file = sealed(&lab, b"new");
    lab.write("f", &file);
    lab.write("out", "old");
    lab.run(["open", "-i", "key.pem", "-o", "out", "f"]).fails(11, "--force");
    lab.run(["seal", "-r", "key.pub.pem", "-o", "out", "f"]).fails(11, "--force");
    assert_eq!(lab.read("out"), b"old");
    // A failed open does not cost the old file, even with --force.
    lab.write("half", &file[..file.len() - 1]);
    lab.run(["open", "-i", "key.pem", "-o", "out", "--force", "half"]).fails(13, "");
    assert_eq!(lab.read("out"), b"old");
    lab.run(["open", "-i", "key.pem", "-o", "out", "--force", "f"]).ok();
    assert_eq!(lab.read("out"), b"new");
    std::os::unix::fs::symlink(lab.path("f"), lab.path("link")).unwrap();
    lab.run(["open", "-i", "key.pem", "-o", "link", "--force", "f"]).fails(11, "not a regular file");
}

/// /dev/full answers every write with "no space left", as a full disk does.
#[test]
fn a_full_disk_is_an_error() {
    let lab = Lab::with_keys();
    let file = sealed(&lab, &vec![7; 1 << 20]);
    lab.write("f", &file);
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut command = lab.command(["open", "-i", "key.pem", "f"]);
    let ran = command.stdout(full).stderr(Stdio::piped()).output().unwrap();
    assert_eq!(ran.status.code(), Some(15));
    assert!(String::from_utf8(ran.stderr).unwrap().contains("No space left"));
}

/// As far as a process may write a file, and no further: no file is left under any name.
#[test]
fn an_output_file_that_cannot_grow_is_not_left_behind() {
    let lab = Lab::with_keys();
    let file = sealed(&lab, &vec![7; 1 << 20]);
    lab.write("f", &file);
    let open = lab.command(["open", "-i", "key.pem", "-o", "out", "f"]);
    let mut limited = std::process::Command::new("sh");
    limited.args(["-c", "trap '' XFSZ; ulimit -f 8; exec \"$0\" \"$@\""]);
    limited
        .arg(open.get_program())
        .args(open.get_args())
        .current_dir(lab.path(""))
        .env("HOME", lab.path("home"));
    let ran = limited.output().unwrap();
    assert_eq!(ran.status.code(), Some(15), "{}", String::from_utf8_lossy(&ran.stderr));
    assert_eq!(lab.tree(""), ["f", "key.pem", "key.pub.pem"]);
}

/// A reader that goes away makes the command fail: what it read was not whole.
#[test]
fn a_closed_pipe_is_no_success() {
    let lab = Lab::with_keys();
    let file = sealed(&lab, &vec![7; 8 << 20]);
    lab.write("f", &file);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let ran = lab.command(["open", "-i", "key.pem", "f"]).stdout(writer).output().unwrap();
    assert_ne!(ran.status.code(), Some(0));
    assert!(!String::from_utf8(ran.stderr).unwrap().contains("intact"));
}

/// Without a recipient nothing is written; without encryption only when asked, and loudly.
#[test]
fn incident_29_no_recipient_is_no_plain_file() {
    let lab = Lab::with_keys();
    let refused = lab.run_with(b"secret", ["seal", "-o", "out"]).fails(2, "--recipient");
    assert_eq!(refused.stdout, b"");
    assert!(!lab.path("out").exists());
    let open = lab.run_with(b"public", ["seal", "--no-encryption"]).ok();
    assert!(open.stderr.contains("NO ENCRYPTION"), "{}", open.stderr);
    let quiet = lab.run_with(b"public", ["-q", "seal", "--no-encryption"]).ok();
    assert!(quiet.stderr.contains("NO ENCRYPTION"), "a warning is not silenced");
    assert_eq!(lab.run_with(&open.stdout, ["open", "-i", "key.pem"]).ok().stdout, b"public");
    let opened = lab.run_with(&open.stdout, ["-q", "open", "-i", "none"]).ok();
    assert_eq!(opened.stdout, b"public");
    assert!(opened.stderr.contains("the input is NOT encrypted"), "{}", opened.stderr);
}

/// A variable that switches encryption off does not outvote a key that the command line names.
#[test]
fn incident_29_a_named_key_is_never_dropped() {
    let mut lab = Lab::with_keys();
    lab.set("STRONGROOM_NO_ENCRYPTION", "true");
    let sealed = lab.run_with(b"secret", ["seal", "-r", "key.pub.pem"]).ok();
    assert!(!sealed.stderr.contains("NO ENCRYPTION"), "{}", sealed.stderr);
    lab.run_with(&sealed.stdout, ["open", "-i", "none"]).fails(12, "");
    assert_eq!(lab.run_with(&sealed.stdout, ["open", "-i", "key.pem"]).ok().stdout, b"secret");
    lab.set("STRONGROOM_RECIPIENTS", "key.pub.pem");
    let both = lab.run_with(b"secret", ["seal"]).fails(2, "--no-encryption");
    assert!(both.stderr.contains("--recipient") && both.stdout.is_empty(), "{}", both.stderr);
    // Said out loud on the command line, it is meant.
    let off = lab.run_with(b"public", ["seal", "--no-encryption"]).ok();
    assert!(off.stderr.contains("NO ENCRYPTION"), "{}", off.stderr);
}

/// The two readers without this program: what is there stays, and a file for everyone is called one.
#[test]
fn the_readers_of_the_documentation_replace_nothing_and_tell_of_no_encryption() {
    let lab = Lab::with_keys();
    let docs = |name: &str| format!("{}/../../docs/{name}", env!("CARGO_MANIFEST_DIR"));
    let run = |program: &str, args: &[&str]| {
        let mut command = std::process::Command::new(program);
        Ran::from(command.args(args).current_dir(lab.path("")).output().unwrap())
    };
    let (shell, python) = (docs("recover-by-hand.sh"), docs("recover.py"));
    let interpreter = server("STRONGROOM_TEST_PYTHON");
    lab.write("f", sealed(&lab, b"new"));
    lab.write("out", "old");
    run("bash", &[&shell]).fails(2, "usage: recover-by-hand.sh FILE");
    run("bash", &[&shell, "f", "key.pem", "out"]).fails(1, "not replaced");
    run(&interpreter, &[&python, "f", "out", "-i", "key.pem"]).fails(1, "not replaced");
    assert_eq!(lab.read("out"), b"old");
    run("bash", &[&shell, "f", "key.pem", "by-hand"]).ok();
    let told = run(&interpreter, &[&python, "f", "by-python", "-i", "key.pem"]).ok();
    assert!(!told.stderr.contains("NOT encrypted"), "{}", told.stderr);
    assert_eq!((lab.read("by-hand"), lab.read("by-python")), (b"new".to_vec(), b"new".to_vec()));
    lab.write("plain", lab.run_with(b"public", ["seal", "--no-encryption"]).ok().stdout);
    let told = run(&interpreter, &[&python, "plain", "public"]).ok();
    assert!(told.stderr.contains("the file is NOT encrypted"), "{}", told.stderr);
}

/// A script learns what it has got without reading it; where the data itself is on stdout, nothing else is.
#[test]
fn results_are_json_when_asked_for_and_data_is_not_on_stdout() {
    let lab = Lab::with_keys();
    lab.write("in", "notes\n");
    let sealed = lab.run(["--json", "seal", "-r", "key.pub.pem", "-o", "f", "in"]).ok().json();
    let sha256 = |name: &str| backup_core::Sha256Digest::of(&lab.read(name)).to_string();
    assert_eq!((&sealed["sealed"], &sealed["encrypted"]), (&"f".into(), &true.into()));
    assert_eq!((&sealed["source_len"], &sealed["object_len"]), (&6.into(), &lab.read("f").len().into()));
    assert_eq!(sealed["sha256"], sha256("f"));
    assert_eq!(sealed["recipients"][0]["type"], "rsa-oaep-sha256");
    assert_eq!(sealed["tree_root"].as_str().unwrap().len(), 64);

    let opened = lab.run(["--json", "open", "-i", "key.pem", "-o", "back", "f"]).ok();
    assert_eq!(opened.stderr, "");
    let opened = opened.json();
    assert_eq!((&opened["opened"], &opened["origin"]), (&"back".into(), &"unknown".into()));
    assert_eq!((&opened["bytes"], &opened["sha256"]), (&6.into(), &sha256("in").into()));
    for same in ["id", "recipients", "head_sha256", "encrypted"] {
        assert_eq!(opened[same], sealed[same], "{same}");
    }
    assert_eq!(opened["report"]["engine"], "file");

    assert_eq!(lab.run(["--json", "open", "-i", "key.pem", "f"]).ok().text(), "notes\n");
    let piped = lab.run(["--json", "seal", "-r", "key.pub.pem", "in"]).ok().stdout;
    assert_eq!(lab.run_with(&piped, ["open", "-i", "key.pem"]).ok().text(), "notes\n");
}

/// A device takes the bytes as they come; nothing there is replaced.
#[test]
fn a_device_can_be_written_to() {
    let lab = Lab::with_keys();
    lab.write("f", sealed(&lab, b"notes"));
    let opened = lab.run(["--json", "open", "-i", "key.pem", "-o", "/dev/null", "f"]).ok().json();
    assert_eq!(opened["bytes"], 5);
    lab.run(["seal", "-r", "key.pub.pem", "-o", "/dev/full", "f"]).fails(15, "/dev/full");
    assert_eq!(lab.tree(""), ["f", "key.pem", "key.pub.pem"]);
}

/// What is written to a closed stdout is lost, and a closed stdin is no empty file.
#[test]
fn closed_standard_streams_are_told() {
    let lab = Lab::with_keys();
    lab.write("f", sealed(&lab, b"notes"));
    let shell = |line: &str| -> Ran {
        let mut command = std::process::Command::new("sh");
        command.args(["-c", line, env!("CARGO_BIN_EXE_strongroom")]).current_dir(lab.path(""));
        command.env("HOME", lab.path("home")).output().unwrap().into()
    };
    shell("exec $0 open -i key.pem f >&-").fails(2, "standard output: closed");
    shell("exec $0 seal -r key.pub.pem f >&-").fails(2, "standard output: closed");
    shell("exec $0 seal -r key.pub.pem -o g <&-").fails(2, "standard input: closed");
    assert!(!lab.path("g").exists());
    shell("exec $0 open -i key.pem f >/dev/null").ok();
    shell("exec $0 seal -r key.pub.pem -o g </dev/null").ok();
}

#[test]
fn switches_may_be_repeated() {
    let lab = Lab::with_keys();
    lab.write("f", "x");
    for more in [&["-vv"][..], &["-v", "-v"], &["-qq"], &["--json", "--json=false"]] {
        let seal = ["seal", "--force", "-r", "key.pub.pem", "-o", "out", "f"];
        assert_eq!(lab.run(more.iter().chain(&seal)).ok().stdout, b"", "{more:?}");
    }
}

#[test]
fn errors_are_json_when_asked_for() {
    let lab = Lab::with_keys();
    let ran = lab.run(["--json", "open", "-i", "key.pem", "x"]);
    let error: serde_json::Value = serde_json::from_str(&ran.stderr).unwrap();
    assert_eq!((ran.code, &error["error"]["kind"]), (Some(10), &"not found".into()));
    assert!(error["error"]["subject"].as_str().unwrap().contains('x'), "{error}");
    assert!(error["error"]["hint"].is_string());
    let ran = lab.run(["--json", "open", "--no-such-flag"]);
    let error: serde_json::Value = serde_json::from_str(&ran.stderr).unwrap();
    assert_eq!((ran.code, &error["error"]["kind"]), (Some(2), &"configuration".into()));
}

/// An input that cannot be read is an error, and nothing is sealed from it.
#[test]
fn incident_06_an_unreadable_input_seals_nothing() {
    let lab = Lab::with_keys();
    std::fs::create_dir(lab.path("folder")).unwrap();
    lab.run(["seal", "-r", "key.pub.pem", "-o", "out", "folder"]).fails(2, "is a folder");
    lab.run(["seal", "-r", "key.pub.pem", "-o", "out", "missing"]).fails(10, "missing");
    assert!(!lab.path("out").exists());
}
