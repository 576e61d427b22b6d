//! A PostgreSQL server for one test alone: one that is to have a standby, to run out of space, or
//! whose roles are the test's own.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::server::{Server, variable};

/// The user that servers run as where the tests run as root, as in `scripts/servers.sh`.
const SERVICE: &str = "svc";

/// A running server; stopped and removed with the value.
#[derive(Debug)]
pub(crate) struct OwnServer {
    pub(crate) server: Server,
    programs: PathBuf,
    folder: tempfile::TempDir,
}

impl OwnServer {
    /// A new, empty server with the installed programs.
    pub(crate) fn start(settings: &str) -> Self {
        Self::of(&installed(), settings)
    }

    /// A new, empty server with the programs of this folder.
    pub(crate) fn of(programs: &Path, settings: &str) -> Self {
        let folder = folder();
        Self::init(programs, folder.path());
        Self::run(programs, folder, settings)
    }

    /// A standby of this server that follows it.
    pub(crate) fn standby(&self, settings: &str) -> Self {
        let folder = folder();
        let source = format!("host=127.0.0.1 port={} user=strongroom password=own", self.server.port);
        let data = folder.path().join("data");
        service(&self.programs.join("pg_basebackup"))
            .args(["--pgdata", &data.display().to_string(), "--write-recovery-conf", "--no-sync"])
            .args(["--checkpoint=fast", "--wal-method=stream", "--dbname", &source])
            .check();
        Self::run(&self.programs, folder, settings)
    }

    fn init(programs: &Path, folder: &Path) {
        let password = folder.join("password");
        fs::write(&password, "own\n").expect("a file");
        service(&programs.join("initdb"))
            .args(["-D", &folder.join("data").display().to_string(), "-U", "strongroom", "--no-sync"])
            .args(["-A", "scram-sha-256", "-E", "UTF8", "--locale", "C.UTF-8"])
            .args(["--pwfile", &password.display().to_string()])
            .check();
        fs::write(
            folder.join("data/pg_hba.conf"),
            "host all all 127.0.0.1/32 scram-sha-256\nhost replication all 127.0.0.1/32 scram-sha-256\n",
        )
        .expect("a file");
    }

    fn run(programs: &Path, folder: tempfile::TempDir, settings: &str) -> Self {
        // Taken by nobody at this moment; the next start tries another.
        let port =
            TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port").port();
        let data = folder.path().join("data");
        let configuration = data.join("postgresql.auto.conf");
        let before = fs::read_to_string(&configuration).unwrap_or_default();
        fs::write(
            &configuration,
            format!(
                "{before}\nlisten_addresses = '127.0.0.1'\nport = {port}\nunix_socket_directories = ''\nfsync = off\n\
                 shared_buffers = '16MB'\nmax_connections = 30\nautovacuum = off\n{settings}\n"
            ),
        )
        .expect("a file");
        service(&programs.join("pg_ctl"))
            .args(["-D", &data.display().to_string(), "-w", "-t", "60", "start"])
            .args(["-l", &folder.path().join("log").display().to_string()])
            .check();
        let server = Server {
            host: "127.0.0.1".to_owned(),
            port: port.to_string(),
            user: "strongroom".to_owned(),
            password: "own".to_owned(),
            programs: Some(programs.to_owned()),
        };
        Self { server, programs: programs.to_owned(), folder }
    }

    /// Stops it at once, as a crash would.
    pub(crate) fn crash(&self) {
        let data = self.folder.path().join("data");
        let _ = service(&self.programs.join("pg_ctl"))
            .args(["-D", &data.display().to_string(), "-m", "immediate", "stop"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
    }
}

impl Drop for OwnServer {
    fn drop(&mut self) {
        self.crash();
    }
}

/// A folder that the service user owns, where `scripts/servers.sh` stops what a killed test left.
pub(crate) fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir_in(variable("STRONGROOM_TEST_SERVERS_DIR")).expect("a folder");
    if is_root() {
        Command::new("chown").arg(format!("{SERVICE}:")).arg(folder.path()).check();
    }
    folder
}

/// A program as the user that servers run as.
fn service(program: &Path) -> Command {
    let mut command = if is_root() {
        let mut command = Command::new("runuser");
        command.args(["-u", SERVICE, "--"]).arg(program);
        command
    } else {
        Command::new(program)
    };
    command.current_dir("/").stdin(Stdio::null());
    command
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The folder of Debian's server programs.
fn installed() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL is installed").flatten();
    let mut folders: Vec<PathBuf> = versions
        .map(|version| version.path().join("bin"))
        .filter(|bin| bin.join("initdb").exists())
        .collect();
    folders.sort();
    folders.into_iter().next().expect("a PostgreSQL server is installed")
}

trait Check {
    /// Runs it to its good end.
    fn check(&mut self);
}

impl Check for Command {
    fn check(&mut self) {
        let output = self.stdout(Stdio::null()).stderr(Stdio::inherit()).status().expect("it starts");
        assert!(output.success(), "{self:?}");
    }
}
