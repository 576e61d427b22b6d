//! The PostgreSQL test servers and throwaway databases on them.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use dumpers::Secret;
use dumpers::postgres::PostgresConfig;

/// A variable of the test environment.
pub(crate) fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run scripts/test"))
}

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
    pub(crate) fn current() -> Self {
        Self::at(&variable("STRONGROOM_TEST_PG_URL"), None)
    }

    /// A server newer than the installed client programs, with programs of its own.
    pub(crate) fn newer() -> Self {
        Self::version(18)
    }

    /// One of the supported versions other than the installed client programs', with its own programs.
    pub(crate) fn version(major: u32) -> Self {
        let programs = variable(&format!("STRONGROOM_TEST_PG{major}_BIN"));
        Self::at(&variable(&format!("STRONGROOM_TEST_PG{major}_URL")), Some(programs.into()))
    }

    fn at(url: &str, programs: Option<PathBuf>) -> Self {
        let rest = url.strip_prefix("postgres://").expect("a URL");
        let (user, place) = rest.rsplit_once('@').expect("a user");
        let (user, password) = user.split_once(':').expect("a password");
        let (host, port) = place.split_once('/').expect("a path").0.split_once(':').expect("a port");
        let [host, port, user, password] = [host, port, user, password].map(str::to_owned);
        Self { host, port, user, password, programs }
    }

    /// Settings for one of its databases.
    pub(crate) fn config(&self, database: &str) -> PostgresConfig {
        PostgresConfig {
            host: Some(self.host.clone()),
            port: Some(self.port.clone()),
            user: Some(self.user.clone()),
            password: Some(Secret::new(self.password.clone())),
            dbname: Some(database.to_owned()),
            tool_dirs: self.programs.clone().into_iter().collect(),
            ..PostgresConfig::default()
        }
    }

    /// Runs statements and gives what they print.
    pub(crate) fn sql(&self, database: &str, statements: &str) -> String {
        self.try_sql(database, statements).unwrap_or_else(|error| panic!("{statements}: {error}"))
    }

    pub(crate) fn try_sql(&self, database: &str, statements: &str) -> Result<String, String> {
        let mut psql = self.psql(database).spawn().expect("psql is installed");
        psql.stdin.take().expect("piped").write_all(statements.as_bytes()).expect("psql reads");
        let output = psql.wait_with_output().expect("psql ends");
        if output.status.success() {
            Ok(String::from_utf8(output.stdout).expect("UTF-8").trim().to_owned())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    fn psql(&self, database: &str) -> Command {
        let mut psql = Command::new("psql");
        psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-f", "-"])
            .envs([
                ("PGHOST", &*self.host),
                ("PGPORT", &*self.port),
                ("PGUSER", &*self.user),
                ("PGPASSWORD", &*self.password),
                ("PGDATABASE", database),
                ("PGCLIENTENCODING", "UTF8"),
                ("PGOPTIONS", "-c client_min_messages=warning"),
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        psql
    }

    /// A session that runs these statements until it is dropped.
    pub(crate) fn session(&self, database: &str, statements: &str) -> Session {
        let mut psql = self.psql(database).spawn().expect("psql is installed");
        let mut input = psql.stdin.take().expect("piped");
        input.write_all(statements.as_bytes()).expect("psql reads");
        Session { psql, input }
    }

    /// The names of the databases that begin like this.
    pub(crate) fn databases(&self, prefix: &str) -> Vec<String> {
        let names = self.sql("postgres", "SELECT datname FROM pg_database ORDER BY 1");
        names.lines().filter(|name| name.starts_with(prefix)).map(str::to_owned).collect()
    }

    /// A new database that is dropped with the value.
    pub(crate) fn database(&self, name: &str) -> Database {
        let name = unique(name);
        self.sql("postgres", &format!("CREATE DATABASE {}", quoted(&name)));
        Database { server: self.clone(), name }
    }

    /// A name for a restore; the database is dropped with the value if it came to be.
    pub(crate) fn free_name(&self, name: &str) -> Database {
        Database { server: self.clone(), name: unique(name) }
    }
}

/// An open session; its program is ended with the value.
#[derive(Debug)]
pub(crate) struct Session {
    psql: Child,
    input: ChildStdin,
}

impl Session {
    /// Gives it more to do.
    pub(crate) fn send(&self, statements: &str) {
        (&self.input).write_all(statements.as_bytes()).expect("psql reads");
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.psql.kill();
        let _ = self.psql.wait();
    }
}

/// A name no other test and no other run uses.
pub(crate) fn unique(name: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{name}_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
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

    pub(crate) fn config(&self) -> PostgresConfig {
        self.server.config(&self.name)
    }

    pub(crate) fn exists(&self) -> bool {
        self.server.databases("").contains(&self.name)
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let statement = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", quoted(&self.name));
        let _ = self.server.try_sql("postgres", &statement);
    }
}
