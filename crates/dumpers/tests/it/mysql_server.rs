//! The MySQL and MariaDB test servers and throwaway databases on them.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};

use dumpers::Secret;
use dumpers::mysql::MysqlConfig;

use crate::server::{unique, variable};

/// A server, by its administrator's parts.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    pub(crate) host: String,
    pub(crate) port: String,
    pub(crate) user: String,
    pub(crate) password: String,
    /// The folder of its own client programs, where it has one.
    pub(crate) programs: Option<PathBuf>,
}

impl Server {
    /// The server that the installed client programs fit.
    pub(crate) fn mariadb() -> Self {
        Self::at("STRONGROOM_TEST_MARIADB_URL", None)
    }

    /// A newer MariaDB, with programs of its own.
    pub(crate) fn mariadb118() -> Self {
        Self::at("STRONGROOM_TEST_MARIADB118_URL", Some("STRONGROOM_TEST_MARIADB118_BIN"))
    }

    /// Oracle's MySQL, with programs of its own.
    pub(crate) fn mysql9() -> Self {
        Self::at("STRONGROOM_TEST_MYSQL9_URL", Some("STRONGROOM_TEST_MYSQL9_BIN"))
    }

    fn at(url: &str, programs: Option<&str>) -> Self {
        let url = variable(url);
        let rest = url.strip_prefix("mysql://").expect("a URL");
        let (user, place) = rest.rsplit_once('@').expect("a user");
        let (user, password) = user.split_once(':').expect("a password");
        let (host, port) = place.split_once('/').expect("a path").0.split_once(':').expect("a port");
        let [host, port, user, password] = [host, port, user, password].map(str::to_owned);
        Self { host, port, user, password, programs: programs.map(|name| variable(name).into()) }
    }

    /// Settings for the server without a database.
    pub(crate) fn config(&self) -> MysqlConfig {
        MysqlConfig {
            host: Some(self.host.clone()),
            port: Some(self.port.clone()),
            user: Some(self.user.clone()),
            password: Some(Secret::new(self.password.clone())),
            tool_dirs: self.programs.clone().into_iter().collect(),
            ..MysqlConfig::default()
        }
    }

    /// Runs statements and gives what they print, columns parted by tabs.
    pub(crate) fn sql(&self, database: &str, statements: &str) -> String {
        self.try_sql(database, statements).unwrap_or_else(|error| panic!("{statements}: {error}"))
    }

    pub(crate) fn try_sql(&self, database: &str, statements: &str) -> Result<String, String> {
        let mut client = self.client(database).spawn().expect("a client is installed");
        client.stdin.take().expect("piped").write_all(statements.as_bytes()).expect("the client reads");
        let output = client.wait_with_output().expect("the client ends");
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    pub(crate) fn program(&self, names: [&str; 2]) -> PathBuf {
        let Some(folder) = &self.programs else { return names[0].into() };
        let own = names.map(|name| folder.join(name));
        own.into_iter().find(|path| path.exists()).expect("a program")
    }

    fn client(&self, database: &str) -> Command {
        let mut client = Command::new(self.program(["mariadb", "mysql"]));
        client
            .args(["--no-defaults", "--batch", "--skip-column-names", "--default-character-set=utf8mb4"])
            .args(["--binary-mode", "--max-allowed-packet=1G"])
            .args([format!("--host={}", self.host), format!("--port={}", self.port)])
            .args([format!("--user={}", self.user), format!("--database={database}")])
            .env("MYSQL_PWD", &self.password)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        client
    }

    /// A session that runs these statements until it is dropped.
    pub(crate) fn session(&self, database: &str, statements: &str) -> Session {
        let mut client = self.client(database).stdout(Stdio::null()).spawn().expect("a client is installed");
        let mut input = client.stdin.take().expect("piped");
        input.write_all(statements.as_bytes()).expect("the client reads");
        Session { client, _input: input }
    }

    /// The names of the databases that begin like this.
    pub(crate) fn databases(&self, prefix: &str) -> Vec<String> {
        let names = self.sql("information_schema", "SELECT SCHEMA_NAME FROM SCHEMATA ORDER BY 1");
        names.lines().filter(|name| name.starts_with(prefix)).map(str::to_owned).collect()
    }

    /// A new database that is dropped with the value.
    pub(crate) fn database(&self, name: &str) -> Database {
        let database = self.free_name(name);
        self.sql("mysql", &format!("CREATE DATABASE {} CHARACTER SET utf8mb4", quoted(&database.name)));
        database
    }

    /// A name for a restore; the database is dropped with the value if it came to be.
    pub(crate) fn free_name(&self, name: &str) -> Database {
        Database { server: self.clone(), name: unique(name) }
    }
}

/// An open session; its program is ended with the value.
#[derive(Debug)]
pub(crate) struct Session {
    client: Child,
    _input: ChildStdin,
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.client.kill();
        let _ = self.client.wait();
    }
}

pub(crate) fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// A database for one test.
#[derive(Debug)]
pub(crate) struct Database {
    pub(crate) server: Server,
    pub(crate) name: String,
}

impl Database {
    pub(crate) fn sql(&self, statements: &str) -> String {
        self.server.sql(&self.name, statements)
    }

    pub(crate) fn config(&self) -> MysqlConfig {
        MysqlConfig { dbname: Some(self.name.clone()), ..self.server.config() }
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let _ = self.server.try_sql("mysql", &format!("DROP DATABASE IF EXISTS {}", quoted(&self.name)));
    }
}
