//! A Redis server into a folder and back, by the whole command.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::lab::Lab;

struct Server {
    process: Child,
    socket: String,
}

impl Server {
    fn start(folder: &Path, name: &str) -> Self {
        let program = std::env::var("STRONGROOM_TEST_REDIS_SERVER")
            .expect("STRONGROOM_TEST_REDIS_SERVER is not set: run scripts/test");
        let socket = folder.join(name).display().to_string();
        let process = Command::new(program)
            .args(["--port", "0", "--unixsocket", &socket, "--save", "", "--requirepass", "hunter2"])
            .args(["--repl-diskless-sync-delay", "0", "--dir", &folder.display().to_string()])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let server = Self { process, socket };
        for _ in 0..200 {
            if server.try_cli("PING").is_some() {
                return server;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("no server")
    }

    fn try_cli(&self, command: &str) -> Option<String> {
        let output = Command::new("redis-cli")
            .env("REDISCLI_AUTH", "hunter2")
            .args(["-s", &self.socket])
            .args(command.split(' '))
            .output()
            .unwrap();
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    }

    fn cli(&self, command: &str) -> String {
        self.try_cli(command).unwrap()
    }

    fn url(&self) -> String {
        format!("redis+unix://{}", self.socket)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn a_server_is_backed_up_verified_and_restored() {
    let mut lab = Lab::with_keys();
    let (source, target) =
        (Server::start(&lab.path(""), "app.sock"), Server::start(&lab.path(""), "new.sock"));
    source.cli("SET greeting hello");
    source.cli("-n 2 RPUSH list a b c");
    let (from, to) = (source.url(), target.url());
    let backup = ["backup", &from, "-d", "./b", "-r", "key.pub.pem"];
    let restore = ["restore", "app@latest", "--to", &to, "-i", "key.pem", "-d", "./b"];
    lab.run(backup).fails(12, "REDISCLI_AUTH");
    lab.write("pw", "hunter2\n");
    lab.run(backup.iter().chain(&["--set", "password_file=pw"])).ok();
    lab.set("REDISCLI_AUTH", "hunter2");
    lab.run(backup).ok();
    let deep = ["--json", "verify", "app@latest", "--deep", "-i", "key.pem", "-d", "./b"];
    assert_eq!(lab.run(deep).ok().json()["parsed"], true);
    assert!(lab.run(restore.iter().chain(&["--dry-run"])).ok().text().contains("FLUSHALL"));
    lab.run(restore).ok();
    assert_eq!(target.cli("GET greeting"), "hello\n");
    assert_eq!(target.cli("-n 2 LRANGE list 0 -1"), "a\nb\nc\n");
    lab.run(restore).fails(11, "--into-existing");
    lab.run(restore.iter().chain(&["--into-existing"])).fails(11, "replace=true");
    lab.run(restore.iter().chain(&["--into-existing", "--set", "replace=true"])).ok();
    lab.run(["restore", "app@latest", "--to", "file:dump.rdb", "-i", "key.pem", "-d", "./b"]).ok();
    let checked = Command::new("redis-check-rdb").arg(lab.path("dump.rdb")).output().unwrap();
    assert!(checked.status.success(), "{checked:?}");
    lab.run(["backup", "redis://:hunter2@localhost", "-d", "./b", "-r", "key.pub.pem"])
        .fails(2, "process list");
}
