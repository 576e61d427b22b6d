//! Redis and Valkey servers of a test's own: a restore wants an empty one, and one starts in 0.1 s.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use dumpers::redis::{RedisConfig, RedisDumper, RedisRestorer};

use crate::server::variable;

/// A running server; it is killed with the value.
#[derive(Debug)]
pub(crate) struct RedisServer {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) port: u16,
    process: Child,
}

/// An answer, as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    Text(String),
    Bytes(Vec<u8>),
    Nothing,
    Number(i64),
    List(Vec<Answer>),
    Refused(String),
}

impl RedisServer {
    pub(crate) fn redis(settings: &[&str]) -> Self {
        Self::start(&variable("STRONGROOM_TEST_REDIS_SERVER"), settings)
    }

    pub(crate) fn valkey(settings: &[&str]) -> Self {
        Self::start(&variable("STRONGROOM_TEST_VALKEY_SERVER"), settings)
    }

    pub(crate) fn start(program: &str, settings: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self::start_in(program, folder, settings)
    }

    pub(crate) fn start_in(program: &str, folder: tempfile::TempDir, settings: &[&str]) -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        for _ in 0..50 {
            // Below the ephemeral range; another run may have the same idea, then the next is tried.
            let port = 10_000
                + (std::process::id() as u16 % 200) * 40
                + NEXT.fetch_add(1, Ordering::Relaxed) % 9_000;
            let socket = folder.path().join("s");
            let mut process = Command::new(program)
                .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""])
                .args(["--unixsocket", socket.to_str().unwrap(), "--dir", folder.path().to_str().unwrap()])
                .args(["--repl-diskless-sync-delay", "0", "--enable-debug-command", "local"])
                .args(settings)
                .stdin(Stdio::null())
                .stdout(std::fs::File::create(folder.path().join("log")).unwrap())
                .stderr(Stdio::null())
                .spawn()
                .unwrap_or_else(|error| panic!("{program}: {error}"));
            for _ in 0..200 {
                if UnixStream::connect(&socket).is_ok() {
                    return Self { folder, port, process };
                }
                if process.try_wait().unwrap().is_some() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            let _ = process.kill();
            let _ = process.wait();
        }
        panic!("no server: {}", std::fs::read_to_string(folder.path().join("log")).unwrap_or_default());
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("s")
    }

    pub(crate) fn config(&self) -> RedisConfig {
        RedisConfig {
            host: Some("127.0.0.1".to_owned()),
            port: Some(self.port.to_string()),
            ..RedisConfig::default()
        }
    }

    pub(crate) fn dumper(&self) -> RedisDumper {
        RedisDumper::new(&self.config()).unwrap()
    }

    pub(crate) fn restorer(&self) -> RedisRestorer {
        RedisRestorer::new(&self.config()).unwrap()
    }

    pub(crate) fn session(&self) -> Session {
        Session::open(&self.socket())
    }

    /// One command by its words.
    pub(crate) fn run(&self, command: &str) -> Answer {
        self.session().run(command)
    }

    pub(crate) fn keys(&self) -> i64 {
        let info = self.run("INFO keyspace");
        let Answer::Bytes(info) = info else { panic!("{info:?}") };
        let info = String::from_utf8(info).unwrap();
        info.split("keys=").skip(1).map(|rest| rest.split(',').next().unwrap().parse::<i64>().unwrap()).sum()
    }

    /// A digest of every key, value and expiry of all databases.
    pub(crate) fn digest(&self) -> String {
        match self.run("DEBUG DIGEST") {
            Answer::Text(digest) => digest,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Session(BufReader<UnixStream>);

impl Session {
    pub(crate) fn open(socket: &Path) -> Self {
        Self(BufReader::new(UnixStream::connect(socket).unwrap()))
    }

    pub(crate) fn run(&mut self, command: &str) -> Answer {
        let words: Vec<&[u8]> = command.split(' ').map(str::as_bytes).collect();
        self.send(&words)
    }

    pub(crate) fn send(&mut self, words: &[&[u8]]) -> Answer {
        self.all(&[words]).pop().unwrap()
    }

    /// Several commands at once.
    pub(crate) fn all(&mut self, commands: &[&[&[u8]]]) -> Vec<Answer> {
        let mut bytes = Vec::new();
        for words in commands {
            bytes.extend(format!("*{}\r\n", words.len()).into_bytes());
            for word in *words {
                bytes.extend(format!("${}\r\n", word.len()).into_bytes());
                bytes.extend_from_slice(word);
                bytes.extend(b"\r\n");
            }
        }
        self.0.get_mut().write_all(&bytes).unwrap();
        commands.iter().map(|_| self.answer()).collect()
    }

    fn answer(&mut self) -> Answer {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        let (kind, rest) = line.trim_end().split_at(1);
        match kind {
            "+" => Answer::Text(rest.to_owned()),
            "-" => Answer::Refused(rest.to_owned()),
            ":" => Answer::Number(rest.parse().unwrap()),
            "$" if rest == "-1" => Answer::Nothing,
            "$" => {
                let mut bytes = vec![0; rest.parse::<usize>().unwrap() + 2];
                self.0.read_exact(&mut bytes).unwrap();
                bytes.truncate(bytes.len() - 2);
                Answer::Bytes(bytes)
            }
            "*" => Answer::List((0..rest.parse::<i64>().unwrap()).map(|_| self.answer()).collect()),
            _ => panic!("{line:?}"),
        }
    }
}
