//! `keygen`, and where passphrases and keys are taken from.

use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;

use crate::lab::Lab;

#[test]
fn a_key_pair_is_encrypted_private_and_never_replaced() {
    let lab = Lab::new();
    lab.write("pass", "correct horse\n");
    let keygen = ["keygen", "-o", "key.pem", "--passphrase-file", "pass", "--bits", "2048"];
    let made = lab.run(keygen).ok();
    assert!(made.text().contains("key.pem (encrypted)"), "{}", made.text());
    assert!(String::from_utf8(lab.read("key.pem")).unwrap().starts_with("-----BEGIN ENCRYPTED PRIVATE KEY"));
    let mode = std::fs::metadata(lab.path("key.pem")).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    let before = lab.read("key.pem");
    lab.run(keygen).fails(11, "never replaced");
    assert_eq!(lab.read("key.pem"), before);
    // A public key that is in the way is not replaced either, and no private key is left alone.
    lab.write("other.pub.pem", "x");
    lab.run(["keygen", "-o", "other.pem", "--no-passphrase", "--bits", "2048"]).fails(11, "other.pub.pem");
    assert!(!lab.path("other.pem").exists());
}

#[test]
fn a_passphrase_is_taken_from_a_file_a_variable_or_a_descriptor() {
    let mut lab = Lab::new();
    lab.write("pass", "correct horse\n");
    lab.run(["keygen", "-o", "key.pem", "--passphrase-file", "pass", "--bits", "2048"]).ok();
    let sealed = lab.run_with(b"data", ["seal", "-r", "key.pub.pem"]).ok().stdout;
    let open = ["open", "-i", "key.pem"];
    lab.run_with(&sealed, open).fails(2, "there is no terminal to ask on");
    let by_file = lab.run_with(&sealed, ["open", "-i", "key.pem", "--passphrase-file", "pass"]).ok();
    assert_eq!(by_file.stdout, b"data");
    lab.set("STRONGROOM_PASSPHRASE", "correct horse");
    assert_eq!(lab.run_with(&sealed, open).ok().stdout, b"data");
    lab.set("STRONGROOM_PASSPHRASE", "wrong");
    let wrong = lab.run_with(&sealed, open).fails(12, "key.pem");
    assert_eq!(wrong.stdout, b"");
    // The command line wins over the environment.
    assert_eq!(
        lab.run_with(&sealed, ["open", "-i", "key.pem", "--passphrase-file", "pass"]).ok().stdout,
        b"data"
    );

    let (reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(b"correct horse\n").unwrap();
    drop(writer);
    // A duplicate without the close-on-exec flag is what a shell's redirection makes.
    let inherited = rustix::io::fcntl_dupfd_cloexec(&reader, 10).unwrap();
    rustix::io::fcntl_setfd(&inherited, rustix::io::FdFlags::empty()).unwrap();
    let number = inherited.as_raw_fd().to_string();
    let by_fd = lab.run_with(&sealed, ["open", "-i", "key.pem", "--passphrase-fd", &number]).ok();
    assert_eq!(by_fd.stdout, b"data");
}

#[test]
fn a_descriptor_that_is_not_open_and_a_pair_without_files_are_refused_by_name() {
    let lab = Lab::with_keys();
    // So high that whoever runs the tests left none of this number open.
    let open = ["open", "-i", "passphrase", "--passphrase-fd", "999", "key.pem"];
    lab.run(open).fails(2, "flag --passphrase-fd 999: no descriptor of this number");
    for name in ["-", "..", "/"] {
        lab.run(["keygen", "--no-passphrase", "--bits", "2048", "-o", name]).fails(2, "flag --output");
    }
    // Without a passphrase: nobody was asked for one.
    lab.run(["keygen", "-o", "short.pem", "--bits", "1024"]).fails(2, "flag --bits: RSA keys of 1024 bits");
    assert_eq!(lab.tree(""), ["key.pem", "key.pub.pem"]);
}

/// Of one pipe either the passphrase or the data would be empty, and an empty file sealed as if it were whole.
#[test]
fn a_passphrase_and_data_do_not_come_from_one_pipe() {
    let lab = Lab::with_keys();
    let seal = ["-r", "passphrase", "--allow-symmetric"];
    for from in [["--passphrase-fd", "0"], ["--passphrase-file", "/dev/stdin"]] {
        let ran = lab.run_with(b"data", ["seal"].iter().chain(&seal).chain(&from));
        assert_eq!(ran.fails(2, "cannot hold both the passphrase and the data").stdout, b"");
        let backup = ["backup", "-", "--name", "n", "-d", "./b"];
        lab.run_with(b"data", backup.iter().chain(&seal).chain(&from)).fails(2, "cannot hold both");
        lab.run_with(b"data", ["open", "-i", "passphrase"].iter().chain(&from)).fails(2, "cannot hold both");
    }
    let of_a_file = ["seal", "-o", "f", "key.pub.pem", "--passphrase-fd", "0"];
    lab.run_with(b"secret", of_a_file.iter().chain(&seal)).ok();
    let opened = ["open", "-i", "passphrase", "--passphrase-fd", "0", "f"];
    assert_eq!(lab.run_with(b"secret", opened).ok().stdout, lab.read("key.pub.pem"));
    assert_eq!(lab.tree(""), ["f", "key.pem", "key.pub.pem"]);
}

/// A secret that others can read is used, and said; one that they cannot is used without a word.
#[test]
fn a_file_with_a_secret_that_others_can_read_is_told() {
    let lab = Lab::new();
    let secret = |name: &str, content: &str, mode: u32| {
        let path = lab.write(name, content);
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let key = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=\n";
    let warned = |mode: u32, args: &[&str], name: &str| {
        let ran = lab.run_with(b"x", args.iter().copied());
        let said = format!(
            "warning: {name}: others may read or change this file (mode {mode:04o}); run: chmod 600 {name}\n"
        );
        let count = ran.stderr.matches(&said).count();
        assert_eq!(count, usize::from(mode != 0o600), "{mode:o} {args:?}: {}", ran.stderr);
    };
    for mode in [0o600, 0o640, 0o604] {
        secret("pass", "correct horse\n", mode);
        warned(mode, &["seal", "-r", "passphrase", "--allow-symmetric", "--passphrase-file", "pass"], "pass");
        secret("key", key, mode);
        warned(mode, &["seal", "-r", "secret-key", "--allow-symmetric", "--secret-key-file", "key"], "key");
        // A database's password, and a destination's; nobody answers at these addresses.
        secret("password", "hunter2\n", mode);
        let set = ["--set", "password_file=password"];
        let urls = ["mysql://u@127.0.0.1:1/d", "redis://u@127.0.0.1:1", "mongodb://u@127.0.0.1:1/d"];
        // An engine may try for a while, so this is not done for every mode.
        for url in urls.iter().filter(|_| mode == 0o640) {
            warned(mode, &[&["source", "test", url], &set[..]].concat(), "password");
        }
        secret(
            "s.toml",
            "[destinations.dav]\nurl = \"http://u@127.0.0.1:1/x\"\npassword_file = \"password\"\n",
            0o644,
        );
        warned(mode, &["--config", "s.toml", "list", "-d", "dav"], "password");
        secret("s.toml", "[sources.shop]\nurl = \"postgres://u:hunter2@h/d\"\n", mode);
        warned(mode, &["--config", "s.toml", "config", "show"], "s.toml");
    }
}

/// One passphrase is given, and it is that of one identity: the others do not stand in its way.
#[test]
fn a_key_that_does_not_open_is_left_out_when_another_identity_remains() {
    let mut lab = Lab::new();
    lab.set("STRONGROOM_PASSPHRASE", "of the key");
    lab.run(["keygen", "-o", "key.pem", "--bits", "2048"]).ok();
    lab.set("STRONGROOM_PASSPHRASE", "of the file");
    let seal = ["seal", "-r", "passphrase", "--allow-symmetric"];
    let sealed = lab.run_with(b"data", seal).ok().stdout;
    for order in [["passphrase", "key.pem"], ["key.pem", "passphrase"]] {
        let opened = lab.run_with(&sealed, ["open", "-i", order[0], "-i", order[1]]).ok();
        assert_eq!(opened.stdout, b"data");
        assert!(opened.stderr.contains("warning: key.pem is left out"), "{}", opened.stderr);
    }
    lab.run_with(&sealed, ["open", "-i", "key.pem"]).fails(12, "key.pem");
    lab.run_with(&sealed, ["open", "-i", "passphrase", "-i", "missing.pem"]).fails(10, "missing.pem");
}

#[test]
fn symmetric_keys_are_allowed_by_name_only() {
    let mut lab = Lab::new();
    lab.set("ENCRYPTION_KEY", "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=");
    lab.run_with(b"x", ["seal", "-r", "secret-key"]).fails(2, "--allow-symmetric");
    let sealed = lab.run_with(b"x", ["seal", "-r", "secret-key", "--allow-symmetric"]).ok().stdout;
    assert_eq!(lab.run_with(&sealed, ["open"]).ok().stdout, b"x");
    lab.set("ENCRYPTION_KEY", "MTEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=");
    assert_eq!(lab.run_with(&sealed, ["open"]).fails(12, "").stdout, b"");
    lab.set("STRONGROOM_PASSPHRASE", "correct horse");
    for kdf in ["argon2id", "pbkdf2"] {
        let seal = ["seal", "-r", "passphrase", "--allow-symmetric", "--passphrase-kdf", kdf];
        let sealed = lab.run_with(b"y", seal).ok().stdout;
        assert!(sealed.windows(kdf.len()).any(|w| w == kdf.as_bytes()), "{kdf}");
        assert_eq!(lab.run_with(&sealed, ["open", "-i", "passphrase"]).ok().stdout, b"y");
    }
}

#[test]
fn a_private_key_is_not_taken_for_a_public_one() {
    let lab = Lab::with_keys();
    let refused = lab.run_with(b"x", ["seal", "-r", "key.pem"]).fails(2, "key.pem");
    assert!(refused.stderr.contains("a private key"), "{}", refused.stderr);
    assert_eq!(refused.stdout, b"");
}
