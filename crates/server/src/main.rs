//! The `strongroom-server` binary. Serving is not part of this version; the binary says so.

use std::io::Write as _;
use std::process::ExitCode;

use backup_core::ErrorKind;

const HELP: &str = "strongroom-server: the server of Strongroom

Serving is not part of this version. Use the `strongroom` command.

Options:
  --help       this text
  --version    the version";

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    let words: Vec<_> = args.iter().map(|arg| arg.to_string_lossy()).collect();
    let answer = match words.iter().map(AsRef::as_ref).collect::<Vec<&str>>()[..] {
        ["--version" | "-V"] => format!("strongroom-server {}", env!("CARGO_PKG_VERSION")),
        ["--help" | "-h"] => HELP.to_owned(),
        _ => {
            // A closed stderr changes nothing about the exit code.
            let _ = writeln!(
                std::io::stderr(),
                "error: strongroom-server: serving is not part of this version\n  try: the `strongroom` command, such as `strongroom backup`"
            );
            return ExitCode::from(ErrorKind::Unsupported.exit_code());
        }
    };
    match writeln!(std::io::stdout(), "{answer}") {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
