//! The system's SSH client, which makes the connection.
//!
//! OpenSSH's `ssh` is maintained by the distribution, knows every kind of key (agents, hardware, certificates) and the
//! user's own configuration (aliases, jump hosts). It is told what no configuration may change: a host key that is not
//! known is refused, and nothing is asked on a terminal.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use backup_core::BackupId;
use tokio::process::{Child, Command};

use crate::config::Login;
use crate::sftp::fault::{Fault, Lost};
use crate::sftp::place::SftpPlace;
use crate::trouble::Trouble;

/// How long a connection may take to be made.
const CONNECTING: Duration = Duration::from_secs(15);
/// What the client may need of our environment; everything else may be a secret.
const KEPT: [&str; 9] =
    ["HOME", "USER", "LOGNAME", "PATH", "SSH_AUTH_SOCK", "XDG_RUNTIME_DIR", "TMPDIR", "KRB5CCNAME", "TZ"];
/// The variable from which the helper below takes the answer to the only question there can be.
const ANSWER: &str = "STRONGROOM_SSH_ANSWER";
/// What prints it. The client runs it without a terminal.
const HELPER: &str = "#!/bin/sh\nprintf '%s\\n' \"$STRONGROOM_SSH_ANSWER\"\n";

/// A client that was started; keep the helper until the session has begun.
pub(super) struct Started {
    pub(super) child: Child,
    pub(super) helper: Option<Helper>,
}

/// Starts the client for one session of SFTP.
pub(super) fn start(place: &SftpPlace, login: &Login, patience: Duration) -> Result<Started, Fault> {
    if let Some(key) = &place.key
        && !key.starts_with("~")
        && let Err(error) = fs::File::open(key)
    {
        return Err(lost(
            Trouble::BadCredentials,
            format!("{}: {error}", key.display()),
            Some("give the private key's file with key=".to_owned()),
        ));
    }
    let mut command = Command::new("ssh");
    command.env_clear().envs(KEPT.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
    command.env("LC_ALL", "C");
    let helper = match login.answer() {
        Some(answer) => {
            let helper = Helper::make().map_err(|error| {
                lost(
                    Trouble::Other,
                    format!("no helper can be made in {}: {error}", std::env::temp_dir().display()),
                    Some("set TMPDIR to a folder where programs can be written and run".to_owned()),
                )
            })?;
            command.env("SSH_ASKPASS", &helper.program).env("SSH_ASKPASS_REQUIRE", "force");
            command.env(ANSWER, answer.as_str());
            Some(helper)
        }
        None => None,
    };
    command.args(arguments(place, login, patience));
    // A group of its own, so that Ctrl-C at the terminal is for us to handle.
    command.process_group(0).kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    match command.spawn() {
        Ok(child) => Ok(Started { child, helper }),
        Err(error) => {
            let hint = "install OpenSSH's client (Debian: openssh-client)";
            Err(lost(Trouble::NoTool, format!("ssh: {error}"), Some(hint.to_owned())))
        }
    }
}

fn arguments(place: &SftpPlace, login: &Login, patience: Duration) -> Vec<String> {
    let timeout = format!("ConnectTimeout={}", patience.min(CONNECTING).as_secs().max(1));
    let mut options = vec![
        timeout,
        "StrictHostKeyChecking=yes".to_owned(),
        "VerifyHostKeyDNS=no".to_owned(),
        "UpdateHostKeys=no".to_owned(),
        // Somebody else's connection would not be the one that was verified here.
        "ControlMaster=no".to_owned(),
        "ControlPath=none".to_owned(),
        "RequestTTY=no".to_owned(),
        "RemoteCommand=none".to_owned(),
        "PermitLocalCommand=no".to_owned(),
        "ClearAllForwardings=yes".to_owned(),
        "ForwardAgent=no".to_owned(),
        "ForwardX11=no".to_owned(),
        // What is sent is compressed already.
        "Compression=no".to_owned(),
        "ServerAliveInterval=15".to_owned(),
        "ServerAliveCountMax=4".to_owned(),
        "LogLevel=ERROR".to_owned(),
    ];
    if let Some(file) = &place.known_hosts {
        options.push(format!("UserKnownHostsFile={}", quoted(file)));
        options.push("GlobalKnownHostsFile=/dev/null".to_owned());
    }
    if let Some(key) = &place.key {
        options.push(format!("IdentityFile={}", quoted(key)));
        options.push("IdentitiesOnly=yes".to_owned());
    }
    // The answer is given to the one question it is for: a server that asks for "the passphrase" does not get it.
    let methods = match (&login.password, &place.key) {
        (Some(_), Some(_)) => Some("publickey,password,keyboard-interactive"),
        (Some(_), None) => Some("password,keyboard-interactive"),
        (None, _) if login.key_passphrase.is_some() => Some("publickey"),
        (None, _) => None,
    };
    match methods {
        Some(methods) => {
            options.push(format!("PreferredAuthentications={methods}"));
            options.push("NumberOfPasswordPrompts=1".to_owned());
            options.push("BatchMode=no".to_owned());
        }
        None => options.push("BatchMode=yes".to_owned()),
    }
    let mut arguments: Vec<String> =
        options.into_iter().flat_map(|option| ["-o".to_owned(), option]).collect();
    if let Some(port) = place.port {
        arguments.extend(["-p".to_owned(), port.to_string()]);
    }
    if let Some(user) = &place.user {
        arguments.extend(["-l".to_owned(), user.clone()]);
    }
    arguments.extend(["-s", "--", &place.host, "sftp"].map(str::to_owned));
    arguments
}

/// A path as a value of the client's configuration. Quotes and `$` are refused where the place is read.
fn quoted(path: &Path) -> String {
    format!("\"{}\"", path.display().to_string().replace('%', "%%"))
}

pub(super) fn lost(trouble: Trouble, said: String, hint: Option<String>) -> Fault {
    Fault::Lost(Arc::new(Lost { trouble, said, hint }))
}

/// What the client's last words mean.
pub(super) fn understood(said: &str) -> Trouble {
    let has = |words: &[&str]| words.iter().any(|word| said.contains(word));
    if has(&[
        "HOST IDENTIFICATION HAS CHANGED",
        "has changed and you have requested strict checking",
        "REVOKED HOST KEY",
    ]) {
        Trouble::HostKeyChanged
    } else if has(&["Host key verification failed", "host key is known for"]) {
        Trouble::HostKeyUnknown
    } else if has(&["Permission denied (", "Too many authentication failures", "Authentication failed"]) {
        Trouble::BadCredentials
    } else if has(&["Connection refused"]) {
        Trouble::ConnectionRefused
    } else if has(&["Could not resolve hostname", "No route to host", "Network is unreachable"]) {
        Trouble::Unreachable
    } else if has(&["timed out", "Timeout, server"]) {
        Trouble::TimedOut
    } else if has(&["subsystem request failed", "no matching ", "Protocol major versions differ"]) {
        Trouble::NotSupported
    } else if has(&["Bad configuration option", "keyword ", "terminating, "]) {
        Trouble::BadSshConfiguration
    } else {
        Trouble::ConnectionLost
    }
}

/// What a person needs to trust a host whose key is not known: the key, and how to check it.
pub(super) async fn unknown_host_hint(place: &SftpPlace) -> String {
    let file = place
        .known_hosts
        .as_ref()
        .map_or_else(|| "~/.ssh/known_hosts".to_owned(), |file| file.display().to_string());
    let mut scan = Command::new("ssh-keyscan");
    scan.args(["-T", "5", "-p", &place.port.unwrap_or(22).to_string(), "--", &place.host]);
    scan.env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
    scan.stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let found = match tokio::time::timeout(CONNECTING, scan.output()).await {
        Ok(Ok(output)) => String::from_utf8_lossy(&output.stdout).into_owned(),
        _ => String::new(),
    };
    let shown =
        |line: &&str| !line.starts_with('#') && line.len() < 4_096 && !line.contains(char::is_control);
    let lines: Vec<&str> = found.lines().filter(shown).collect();
    let chosen = lines.iter().find(|line| line.contains(" ssh-ed25519 ")).or(lines.first());
    match chosen {
        Some(line) => format!(
            "this is the key that answers now; compare it with the key on the server itself \
             (/etc/ssh/ssh_host_*_key.pub), and only if it is the same add the line to {file}: {line}"
        ),
        None => format!("ask whoever runs the server for its host key and add it to {file}"),
    }
}

/// A program that answers the client's question, in a folder of its own; removed when dropped. It holds no secret.
pub(super) struct Helper {
    folder: PathBuf,
    program: PathBuf,
}

impl Helper {
    fn make() -> io::Result<Self> {
        let folder = std::env::temp_dir().join(format!("strongroom-ssh-{}", BackupId::random()));
        DirBuilder::new().mode(0o700).create(&folder)?;
        let helper = Self { program: folder.join("answer"), folder };
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o700).open(&helper.program)?;
        file.write_all(HELPER.as_bytes())?;
        Ok(helper)
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        // Hygiene: the script tells nobody anything.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clients_words_are_understood() {
        for (said, trouble) in [
            ("svc@h: Permission denied (publickey,password).", Trouble::BadCredentials),
            (
                "No ED25519 host key is known for [h]:22 and you have requested strict checking.\r\nHost key verification failed.",
                Trouble::HostKeyUnknown,
            ),
            (
                "@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\r\nHost key verification failed.",
                Trouble::HostKeyChanged,
            ),
            ("ssh: connect to host h port 22: Connection refused", Trouble::ConnectionRefused),
            ("ssh: Could not resolve hostname h: Name or service not known", Trouble::Unreachable),
            ("ssh: connect to host h port 22: Connection timed out", Trouble::TimedOut),
            ("subsystem request failed on channel 0", Trouble::NotSupported),
            ("command-line: line 0: Bad configuration option: x", Trouble::BadSshConfiguration),
            ("Connection to h closed by remote host.", Trouble::ConnectionLost),
            ("", Trouble::ConnectionLost),
        ] {
            assert_eq!(understood(said), trouble, "{said}");
        }
    }

    #[test]
    fn no_configuration_can_make_an_unknown_host_known() {
        let place = SftpPlace::parse("sftp://me@h:7/x?key=/my%20key&known_hosts=/a%25b").unwrap();
        let arguments = arguments(&place, &Login::default(), Duration::from_secs(60)).join(" ");
        for option in [
            "StrictHostKeyChecking=yes",
            "UserKnownHostsFile=\"/a%%b\"",
            "IdentityFile=\"/my key\"",
            "BatchMode=yes",
            "-p 7 -l me -s -- h sftp",
        ] {
            assert!(arguments.contains(option), "{option} is not in {arguments}");
        }
    }

    #[test]
    fn a_passphrase_is_for_the_key_and_never_for_the_server() {
        let place = SftpPlace::parse("sftp://h/x?key=/k").unwrap();
        let login = Login::default().with_key_passphrase("hunter2".to_owned());
        let arguments = arguments(&place, &login, Duration::from_secs(60)).join(" ");
        assert!(arguments.contains("PreferredAuthentications=publickey "), "{arguments}");
        assert!(!arguments.contains("hunter2"), "{arguments}");
    }
}
