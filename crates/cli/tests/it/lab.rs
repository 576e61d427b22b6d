//! A folder with keys, databases and a state of its own, and a way to run the binary in it.

use std::ffi::OsStr;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

/// A folder in which commands run, with nothing of the surrounding environment.
pub(crate) struct Lab {
    dir: tempfile::TempDir,
    env: Vec<(String, String)>,
}

/// What a command did.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Ran {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.stdout).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// The command succeeded.
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "{}\n{}", String::from_utf8_lossy(&self.stdout), self.stderr);
        self
    }

    /// The command failed with this code and said this on stderr.
    #[track_caller]
    pub(crate) fn fails(self, code: i32, said: &str) -> Self {
        assert_eq!(self.code, Some(code), "{}\n{}", String::from_utf8_lossy(&self.stdout), self.stderr);
        assert!(self.stderr.contains(said), "{said:?} is not in {}", self.stderr);
        self
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: output.stdout,
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Lab {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("home");
        std::fs::create_dir(&home).unwrap();
        let env = [
            ("HOME", home.display().to_string()),
            ("PATH", std::env::var("PATH").unwrap()),
            ("STRONGROOM_STATE_DIR", dir.path().join("state").display().to_string()),
        ];
        Self { dir, env: env.map(|(k, v)| (k.to_owned(), v)).to_vec() }
    }

    /// Adds a variable to every command.
    pub(crate) fn set(&mut self, name: &str, value: impl Into<String>) {
        self.env.retain(|(k, _)| k != name);
        self.env.push((name.to_owned(), value.into()));
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }

    /// The files below a folder, relative to it, sorted.
    pub(crate) fn tree(&self, name: &str) -> Vec<String> {
        fn walk(root: &Path, folder: &Path, found: &mut Vec<String>) {
            let Ok(entries) = std::fs::read_dir(folder) else { return };
            for entry in entries.map(Result::unwrap) {
                if entry.file_type().unwrap().is_dir() {
                    walk(root, &entry.path(), found);
                } else {
                    found.push(entry.path().strip_prefix(root).unwrap().display().to_string());
                }
            }
        }
        let (root, mut found) = (self.path(name), Vec::new());
        walk(&root, &root, &mut found);
        found.sort();
        found
    }

    /// A key pair `key.pem`, `key.pub.pem` without a passphrase, made once for all tests.
    pub(crate) fn with_keys() -> Self {
        static PAIR: OnceLock<(Vec<u8>, Vec<u8>)> = OnceLock::new();
        let lab = Self::new();
        let (private, public) = PAIR.get_or_init(|| {
            lab.run(["keygen", "-o", "key.pem", "--no-passphrase", "--bits", "2048"]).ok();
            (lab.read("key.pem"), lab.read("key.pub.pem"))
        });
        lab.write("key.pem", private);
        lab.write("key.pub.pem", public);
        std::fs::set_permissions(lab.path("key.pem"), std::os::unix::fs::PermissionsExt::from_mode(0o600))
            .unwrap();
        lab
    }

    pub(crate) fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_strongroom"));
        command.args(args).current_dir(self.dir.path()).env_clear().stdin(Stdio::null());
        command.envs(self.env.iter().cloned());
        command
    }

    pub(crate) fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Ran {
        self.command(args).output().unwrap().into()
    }

    pub(crate) fn run_with<S: AsRef<OsStr>>(&self, input: &[u8], args: impl IntoIterator<Item = S>) -> Ran {
        let mut command = self.command(args);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        let feeder = std::thread::spawn(move || {
            // A command that refuses its input before reading it closes the pipe.
            let _ = stdin.write_all(&input);
        });
        let output = child.wait_with_output().unwrap();
        feeder.join().unwrap();
        output.into()
    }

    /// A SQLite database with this many rows, in WAL mode.
    pub(crate) fn database(&self, name: &str, rows: i64) -> PathBuf {
        let path = self.path(name);
        let db = rusqlite::Connection::open(&path).unwrap();
        db.execute_batch(
            "PRAGMA journal_mode = WAL; CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT, b BLOB)",
        )
        .unwrap();
        db.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)
             INSERT INTO t SELECT i, 'row ' || i, randomblob(200) FROM n",
            [rows],
        )
        .unwrap();
        path
    }

    /// Every row of `t`, as text.
    pub(crate) fn rows(&self, name: &str) -> Vec<String> {
        let db = rusqlite::Connection::open(self.path(name)).unwrap();
        let mut statement = db.prepare("SELECT id || a || hex(b) FROM t ORDER BY id").unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
    }
}

/// The value of a variable that scripts/test sets.
pub(crate) fn server(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run scripts/test"))
}
