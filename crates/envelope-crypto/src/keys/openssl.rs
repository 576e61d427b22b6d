//! Runs the openssl program, the other implementation that tests compare with.

use std::path::Path;
use std::process::Command;

/// Runs `openssl ARGS` in `folder`; its stdout, or its stderr when it fails.
pub(crate) fn openssl(folder: &Path, args: &[&str]) -> Result<Vec<u8>, String> {
    let output =
        Command::new("openssl").args(args).current_dir(folder).output().expect("openssl is installed");
    if output.status.success() {
        Ok(output.stdout)
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// Runs `openssl ARGS`, which must succeed.
pub(crate) fn run(folder: &Path, args: &str) -> Vec<u8> {
    let split: Vec<&str> = args.split(' ').collect();
    openssl(folder, &split).unwrap_or_else(|stderr| panic!("openssl {args}: {stderr}"))
}
