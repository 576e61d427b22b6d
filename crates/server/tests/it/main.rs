//! The server's binary says what it is not.

#![allow(clippy::unwrap_used, reason = "tests panic where something is not as it should be")]

use std::process::{Command, Output};

fn run(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_strongroom-server")).args(args).output().unwrap()
}

#[test]
fn help_and_version_are_answers() {
    for flag in ["--version", "-V", "--help", "-h"] {
        let output = run(&[flag]);
        assert!(output.status.success(), "{flag}");
        assert!(String::from_utf8(output.stdout).unwrap().starts_with("strongroom-server"), "{flag}");
    }
}

#[test]
fn serving_is_refused_as_unsupported() {
    for args in [&[][..], &["serve"], &["--version", "x"]] {
        let output = run(args);
        assert_eq!(output.status.code(), Some(16), "{args:?}");
        assert!(String::from_utf8(output.stderr).unwrap().contains("not part of this version"));
    }
}
