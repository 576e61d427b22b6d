//! A MariaDB server of a test's own, which may be killed.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::mysql_server::Server;

/// A server in a folder that goes with the value.
#[derive(Debug)]
pub(crate) struct OwnServer {
    pub(crate) server: Server,
    process: Mutex<Child>,
    _folder: tempfile::TempDir,
}

impl OwnServer {
    /// Makes and starts it with these settings.
    pub(crate) fn start(settings: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data = format!("--datadir={}/data", folder.path().display());
        let user = format!("--user={}", std::env::var("USER").unwrap_or_else(|_| "root".to_owned()));
        let made = Command::new("mariadb-install-db")
            .args([
                "--no-defaults",
                &data,
                "--skip-test-db",
                "--auth-root-authentication-method=normal",
                &user,
            ])
            .args(settings)
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
        let socket = folder.path().join("socket");
        let program = ["/usr/sbin/mariadbd", "/usr/local/sbin/mariadbd"]
            .into_iter()
            .find(|path| Path::new(path).exists());
        let process = Command::new(program.unwrap_or("mariadbd"))
            .args(["--no-defaults", &data, &user, "--bind-address=127.0.0.1", "--skip-name-resolve"])
            .args([format!("--socket={}", socket.display()), format!("--port={port}")])
            .args(["--innodb-buffer-pool-size=32M", "--innodb-flush-log-at-trx-commit=0"])
            .args(settings)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let server = Server {
            host: "127.0.0.1".to_owned(),
            port,
            user: "strongroom".to_owned(),
            password: "of-a-test".to_owned(),
            programs: None,
        };
        let own = Self { server, process: Mutex::new(process), _folder: folder };
        let account = "CREATE USER strongroom@'127.0.0.1' IDENTIFIED BY 'of-a-test'; \
                       GRANT ALL PRIVILEGES ON *.* TO strongroom@'127.0.0.1' WITH GRANT OPTION";
        let began = Instant::now();
        loop {
            let made = Command::new("mariadb")
                .args([
                    "--no-defaults",
                    "--user=root",
                    &format!("--socket={}", socket.display()),
                    "-e",
                    account,
                ])
                .output()
                .unwrap();
            if made.status.success() {
                return own;
            }
            assert!(began.elapsed() < Duration::from_secs(60), "{}", String::from_utf8_lossy(&made.stderr));
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// As a power cut would.
    pub(crate) fn kill(&self) {
        let mut process = self.process.lock().unwrap();
        let _ = process.kill();
        let _ = process.wait();
    }
}

impl Drop for OwnServer {
    fn drop(&mut self) {
        self.kill();
    }
}
