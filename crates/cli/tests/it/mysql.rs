//! A MySQL or MariaDB database backed up, verified, restored into a new database and found equal.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::lab::{Lab, server};

/// A test server and its own client programs, where it has some.
#[derive(Clone, Copy)]
struct Server {
    url: &'static str,
    programs: Option<&'static str>,
}

const MARIADB: Server = Server { url: "STRONGROOM_TEST_MARIADB_URL", programs: None };
const MYSQL9: Server =
    Server { url: "STRONGROOM_TEST_MYSQL9_URL", programs: Some("STRONGROOM_TEST_MYSQL9_BIN") };

impl Server {
    /// User, password and `host:port`.
    fn parts(self) -> (String, String, String) {
        let url = server(self.url);
        let (user, rest) = url.strip_prefix("mysql://").unwrap().split_once(':').unwrap();
        let (password, place) = rest.rsplit_once('@').unwrap();
        (user.to_owned(), password.to_owned(), place.trim_end_matches('/').to_owned())
    }

    fn sql(self, database: &str, statements: &str) -> String {
        let (user, password, place) = self.parts();
        let (host, port) = place.split_once(':').unwrap();
        let program = match self.programs {
            Some(folder) => format!("{}/mysql", server(folder)),
            None => "mariadb".to_owned(),
        };
        let output = Command::new(program)
            .args(["--no-defaults", "--batch", "--skip-column-names", "--default-character-set=utf8mb4"])
            .args([format!("--host={host}"), format!("--port={port}"), format!("--user={user}")])
            .args([format!("--database={database}"), format!("--execute={statements}")])
            .env("MYSQL_PWD", password)
            .output()
            .unwrap();
        assert!(output.status.success(), "{statements}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// A lab in which the programs find the server's password and themselves.
    fn lab(self) -> Lab {
        let mut lab = Lab::with_keys();
        lab.set("MYSQL_PWD", self.parts().1);
        lab
    }

    /// Arguments that name the folder of its programs.
    fn set(self) -> Vec<String> {
        let Some(folder) = self.programs else { return Vec::new() };
        vec!["--set".to_owned(), format!("tool_dirs={}", server(folder))]
    }
}

/// A database of one's own on a test server, dropped at the end.
struct Database {
    server: Server,
    name: String,
}

impl Database {
    /// A name that nothing has.
    fn absent(server: Server) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("cli_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        Self { server, name }
    }

    fn filled(server: Server) -> Self {
        let database = Self::absent(server);
        server.sql("mysql", &format!("CREATE DATABASE {} CHARACTER SET utf8mb4", database.name));
        database.sql(
            "CREATE TABLE n (i int PRIMARY KEY); INSERT INTO n VALUES (0),(1),(2),(3),(4),(5),(6),(7),(8),(9);
             CREATE TABLE `odd \"Name\" ü` (id int PRIMARY KEY, name varchar(100), raw blob, at datetime(6), KEY (name));
             INSERT INTO `odd \"Name\" ü` SELECT a.i * 100 + b.i * 10 + c.i, CONCAT('Zoë ', a.i, '\\'', b.i),
               UNHEX(SHA2(a.i * 100 + b.i * 10 + c.i, 256)), '2024-02-29 23:59:59.123456' FROM n a, n b, n c;
             CREATE TABLE orders (id int PRIMARY KEY, who int, CONSTRAINT fk FOREIGN KEY (who) REFERENCES `odd \"Name\" ü` (id));
             INSERT INTO orders SELECT a.i * 10 + b.i, a.i FROM n a, n b;
             CREATE VIEW total AS SELECT count(*) AS c, sum(who) AS s FROM orders;
             CREATE FUNCTION f(a int) RETURNS int DETERMINISTIC RETURN a * 7;
             CREATE PROCEDURE p() SELECT 'it''s; fine';
             CREATE TRIGGER tr BEFORE INSERT ON orders FOR EACH ROW SET NEW.who = 1;
             CREATE EVENT e ON SCHEDULE EVERY 1 DAY STARTS '2030-01-01' DO SELECT 1;",
        );
        database
    }

    fn sql(&self, statements: &str) -> String {
        self.server.sql(&self.name, statements)
    }

    fn url(&self) -> String {
        let (user, _, place) = self.server.parts();
        format!("mysql://{user}@{place}/{}", self.name)
    }

    /// Rows, hashed in order by the server, and definitions.
    fn content(&self) -> String {
        self.sql(
            "SET SESSION group_concat_max_len = 100000000;
             SELECT count(*), sha2(group_concat(id, hex(name), hex(raw), at ORDER BY id), 256) FROM `odd \"Name\" ü`;
             SELECT count(*), sum(id * who) FROM orders; SELECT * FROM total; SELECT f(6); CALL p();
             SELECT TABLE_NAME, TABLE_TYPE, TABLE_COLLATION FROM information_schema.TABLES WHERE TABLE_SCHEMA = database() ORDER BY 1;
             SELECT TABLE_NAME, INDEX_NAME, COLUMN_NAME FROM information_schema.STATISTICS WHERE TABLE_SCHEMA = database() ORDER BY 1, 2, 3;
             SELECT TRIGGER_NAME, sha2(ACTION_STATEMENT, 256) FROM information_schema.TRIGGERS WHERE TRIGGER_SCHEMA = database();
             SELECT EVENT_NAME, STATUS FROM information_schema.EVENTS WHERE EVENT_SCHEMA = database();
             SELECT CONSTRAINT_NAME, REFERENCED_TABLE_NAME FROM information_schema.REFERENTIAL_CONSTRAINTS WHERE CONSTRAINT_SCHEMA = database();",
        )
    }

    /// This database and those whose names begin like it.
    fn exist(&self) -> String {
        let list = format!("SELECT SCHEMA_NAME FROM SCHEMATA WHERE SCHEMA_NAME LIKE '{}%'", self.name);
        self.server.sql("information_schema", &list)
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        self.server.sql("mysql", &format!("DROP DATABASE IF EXISTS {}", self.name));
    }
}

fn comes_back_equal(server: Server, engine: &str, format: &str) {
    let (lab, old, new) = (server.lab(), Database::filled(server), Database::absent(server));
    let set = server.set();
    let run = |args: &[&str]| lab.run(args.iter().copied().chain(set.iter().map(String::as_str)));
    let source = format!("{}@latest", old.name);
    let done = run(&["--json", "backup", &old.url(), "-d", "./b", "-r", "key.pub.pem"]).ok().json();
    assert_eq!((&done["backup"]["engine"], &done["backup"]["format"]), (&engine.into(), &format.into()));
    assert!(done["backup"]["versions"]["server"].is_string(), "{done}");
    lab.run(["verify", &source, "-d", "./b"]).ok();
    let deep = lab.run(["--json", "verify", &source, "--deep", "-i", "key.pem", "-d", "./b"]).ok().json();
    assert_eq!(deep["parsed"], true);
    assert!(deep["tables"].to_string().contains("odd"), "{deep}");
    let restore = ["restore", &source, "--to", &new.url(), "-i", "key.pem", "-d", "./b"];
    let plan = run(&[&restore[..], &["--dry-run"]].concat()).ok();
    assert!(plan.text().contains("_strongroom_XXXXXXXX") && new.exist().is_empty(), "{}", plan.text());
    run(&restore).ok();
    assert_eq!(new.content(), old.content());
    assert_eq!(new.exist().trim(), new.name, "no temporary database is left");
    run(&restore).fails(11, &new.name);
    let id = done["completed"].as_str().unwrap();
    // Names of tables are sealed: nothing in the clear says what is inside.
    let manifest = lab.read(&format!("b/{}/{id}/manifest.json", old.name));
    assert!(!String::from_utf8(manifest).unwrap().contains("orders"));

    // One bit of the last block: nothing is handed over, and nothing left.
    let broken = Database::absent(server);
    let data = format!("b/{}/{id}/data.strongroom", old.name);
    let mut bytes = lab.read(&data);
    let at = bytes.len() - 100;
    bytes[at] ^= 1;
    lab.write(&data, &bytes);
    run(&["restore", &source, "--to", &broken.url(), "-i", "key.pem", "-d", "./b"]).fails(13, "");
    assert_eq!(broken.exist(), "");
}

#[test]
fn a_database_of_mariadb_is_backed_up_verified_and_restored_equal() {
    comes_back_equal(MARIADB, "mariadb", "mariadb-sql");
}

#[test]
fn mysql9_a_database_is_backed_up_verified_and_restored_equal() {
    comes_back_equal(MYSQL9, "mysql", "mysql-sql");
}

#[test]
fn incident_82_missing_client_programs_of_mysql_are_named_with_their_package() {
    let mut lab = MARIADB.lab();
    let old = Database::filled(MARIADB);
    let backup = ["backup", &old.url(), "-d", "./b", "-r", "key.pub.pem"];
    std::fs::create_dir(lab.path("bin")).unwrap();
    lab.set("PATH", lab.path("bin").display().to_string());
    let ran = lab.run(backup).fails(16, "mariadb was not found in");
    assert!(ran.stderr.contains("Debian: mariadb-client"), "{}", ran.stderr);
    // The client alone is not enough.
    let client = which("mariadb");
    std::os::unix::fs::symlink(client, lab.path("bin/mariadb")).unwrap();
    let ran = lab.run(backup).fails(16, "mariadb-dump was not found in");
    assert!(ran.stderr.contains("Debian: mariadb-client"), "{}", ran.stderr);
    assert!(lab.tree("b").is_empty());
}

fn which(program: &str) -> std::path::PathBuf {
    let path = std::env::var_os("PATH").unwrap();
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.exists()).unwrap()
}

/// A newer server and an older `mysqldump`: what is new in the server would be missing.
#[test]
fn mysql9_an_older_mysqldump_is_refused() {
    let (lab, old) = (MYSQL9.lab(), Database::filled(MYSQL9));
    let programs = server("STRONGROOM_TEST_MYSQL9_BIN");
    std::fs::create_dir(lab.path("old")).unwrap();
    std::os::unix::fs::symlink(format!("{programs}/mysql"), lab.path("old/mysql")).unwrap();
    let script =
        "#!/bin/sh\necho 'mysqldump  Ver 8.0.36 for Linux on x86_64 (MySQL Community Server - GPL)'\n";
    let file = lab.write("old/mysqldump", script);
    std::fs::set_permissions(file, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let folder = format!("tool_dirs={}", lab.path("old").display());
    let backup = ["backup", &old.url(), "-d", "./b", "-r", "key.pub.pem", "--set", &folder];
    let ran = lab.run(backup).fails(16, "newer than every mysqldump");
    assert!(ran.stderr.contains("Debian: mysql-client-core"), "{}", ran.stderr);
    assert!(lab.tree("b").is_empty());
}

/// What a transaction does not protect is told at the backup, once, and to whoever verifies it later.
#[test]
fn what_no_transaction_protects_is_told_and_kept_with_the_backup() {
    let (lab, old) = (MARIADB.lab(), Database::filled(MARIADB));
    old.sql("CREATE TABLE loose (i int) ENGINE=MyISAM");
    let backup = ["backup", &old.url(), "-d", "./b", "-r", "key.pub.pem"];
    let done = lab.run(backup).ok();
    assert_eq!(done.stderr.matches("loose (MyISAM)").count(), 1, "{}", done.stderr);
    let source = format!("{}@latest", old.name);
    let deep = lab.run(["--json", "verify", &source, "--deep", "-i", "key.pem", "-d", "./b"]).ok().json();
    assert!(deep["report"]["warnings"].to_string().contains("loose (MyISAM)"), "{deep}");
    let manifest = lab.run(["--json", "show", &source, "-d", "./b"]).ok().json();
    assert!(!manifest.to_string().contains("loose"), "{manifest}");
}

#[test]
fn incident_79_no_password_of_mysql_is_taken_from_the_command_line() {
    let (user, password, place) = MARIADB.parts();
    let lab = Lab::with_keys();
    for url in [
        format!("mysql://{user}:{password}@{place}/db"),
        format!("mysql://{user}@{place}/db?Password={password}"),
    ] {
        let ran = lab.run(["backup", &url, "-d", "./b", "-r", "key.pub.pem"]).fails(2, "process list");
        assert!(!ran.stderr.contains(&password), "{}", ran.stderr);
    }
}
