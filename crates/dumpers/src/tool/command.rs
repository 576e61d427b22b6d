//! A program with its arguments and the little environment it is given.

use std::collections::BTreeMap;
use std::env;
use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::secret::Secret;

/// Variables of our own environment that every program gets. Everything else stays here.
const PASSED: [&str; 10] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "TMPDIR",
    "TZ",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "SYSTEMROOT",
    "KRB5CCNAME",
];

/// A program to be run: arguments as a list, a cleaned environment, secrets only in that environment.
#[derive(Debug, Clone)]
pub(crate) struct ToolCommand {
    name: String,
    program: PathBuf,
    args: Vec<OsString>,
    env: BTreeMap<String, Secret>,
    passed: Vec<String>,
    secrets: Vec<Secret>,
}

/// How long a program is waited for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Waiting {
    /// Without a byte of output while we ask, or a byte of input taken while we offer; zero is no limit.
    pub(crate) stall: Duration,
    /// For the end of its output after it ended itself.
    pub(crate) grace: Duration,
    /// Between SIGTERM and SIGKILL.
    pub(crate) kill_after: Duration,
}

impl Default for Waiting {
    fn default() -> Self {
        Self {
            stall: Duration::from_secs(900),
            grace: Duration::from_secs(5),
            kill_after: Duration::from_secs(5),
        }
    }
}

impl ToolCommand {
    /// `program`, spoken of by its file name.
    pub(crate) fn new(program: impl Into<PathBuf>) -> Self {
        let program = program.into();
        let name = program.file_name().unwrap_or(program.as_os_str()).to_string_lossy().into_owned();
        Self {
            name,
            program,
            args: Vec::new(),
            env: BTreeMap::from([("LC_ALL".to_owned(), Secret::new("C.UTF-8"))]),
            passed: PASSED.iter().map(|&name| name.to_owned()).collect(),
            secrets: Vec::new(),
        }
    }

    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    pub(crate) fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets a variable whose value may be shown.
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.env.insert(name.to_owned(), Secret::new(value));
        self
    }

    /// Sets a variable whose value is masked wherever the program repeats it.
    pub(crate) fn secret_env(mut self, name: &str, value: &Secret) -> Self {
        self.env.insert(name.to_owned(), value.clone());
        self.secrets.push(value.clone());
        self
    }

    /// Masks a value that reaches the program by another way wherever the program repeats it.
    pub(crate) fn masking(mut self, value: &Secret) -> Self {
        self.secrets.push(value.clone());
        self
    }

    /// Passes a variable of our own environment on.
    pub(crate) fn pass_env(mut self, name: &str) -> Self {
        self.passed.push(name.to_owned());
        self
    }

    /// The name in messages.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn program(&self) -> &Path {
        &self.program
    }

    pub(crate) fn secrets(&self) -> &[Secret] {
        &self.secrets
    }

    /// The command in its own process group, with these ends.
    pub(super) fn prepared(&self, stdin: Stdio, stdout: Stdio) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.args).env_clear().process_group(0);
        for name in &self.passed {
            if let Some(value) = env::var_os(name) {
                command.env(name, value);
            }
        }
        for (name, value) in &self.env {
            command.env(name, value.expose());
        }
        command.stdin(stdin).stdout(stdout).stderr(Stdio::piped());
        command
    }
}
