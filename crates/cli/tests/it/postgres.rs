//! A PostgreSQL database backed up, verified, restored into a new database and found equal.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::lab::{Lab, server};

/// A database of one's own on the test server, dropped at the end.
pub(crate) struct Database {
    name: String,
}

/// User, password and `host:port` of the test server.
fn parts() -> (String, String, String) {
    let url = server("STRONGROOM_TEST_PG_URL");
    let (user, rest) = url.strip_prefix("postgres://").unwrap().split_once(':').unwrap();
    let (password, rest) = rest.split_once('@').unwrap();
    (user.to_owned(), password.to_owned(), rest.split('/').next().unwrap().to_owned())
}

pub(crate) fn password() -> String {
    parts().1
}

pub(crate) fn psql(database: &str, sql: &str) -> String {
    let (user, password, place) = parts();
    let output = Command::new("psql")
        .args([
            "-XAtq",
            "-v",
            "ON_ERROR_STOP=1",
            "-d",
            &format!("postgres://{user}@{place}/{database}"),
            "-c",
            sql,
        ])
        .env("PGPASSWORD", password)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

impl Database {
    /// A name that nothing has.
    pub(crate) fn absent() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("cli_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        Self { name }
    }

    /// With tables of many types and this many rows.
    pub(crate) fn filled(rows: u32) -> Self {
        let database = Self::absent();
        psql("postgres", &format!("CREATE DATABASE {}", database.name));
        psql(
            &database.name,
            &format!(
                "CREATE TABLE customers (id int PRIMARY KEY, name text NOT NULL, born date, balance numeric(12,2), extra jsonb);
                 CREATE TABLE \"odd Name\" (key uuid, raw bytea, tags text[]);
                 INSERT INTO customers SELECT i, 'name ' || md5(i::text), date '1950-01-01' + i % 20000, i / 7.0,
                     CASE WHEN i % 3 = 0 THEN NULL ELSE jsonb_build_object('i', i) END FROM generate_series(1, {rows}) i;
                 INSERT INTO \"odd Name\" SELECT md5(i::text)::uuid, decode(md5(i::text), 'hex'), ARRAY['a', 'ü' || i]
                     FROM generate_series(1, {rows}) i;
                 CREATE INDEX ON customers (name);
                 CREATE VIEW rich AS SELECT * FROM customers WHERE balance > 100;"
            ),
        );
        database
    }

    pub(crate) fn url(&self) -> String {
        let (user, _, place) = parts();
        format!("postgres://{user}@{place}/{}", self.name)
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Every row of every table, hashed in order by the server.
    pub(crate) fn content(&self) -> String {
        psql(
            &self.name,
            "SELECT (SELECT count(*) || md5(string_agg(c::text, '|' ORDER BY id)) FROM customers c),
                    (SELECT count(*) || md5(string_agg(o::text, '|' ORDER BY o::text)) FROM \"odd Name\" o),
                    (SELECT count(*) FROM rich), (SELECT count(*) FROM pg_indexes WHERE schemaname = 'public')",
        )
    }

    pub(crate) fn exists(&self) -> bool {
        psql("postgres", &format!("SELECT 1 FROM pg_database WHERE datname = '{}'", self.name)) == "1\n"
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        psql("postgres", &format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name));
    }
}

fn lab() -> Lab {
    let mut lab = Lab::with_keys();
    lab.set("PGPASSWORD", password());
    lab
}

#[test]
fn a_database_is_backed_up_verified_and_restored_equal() {
    let (lab, old, new) = (lab(), Database::filled(3000), Database::absent());
    let source = format!("{}@latest", old.name());
    let done = lab.run(["--json", "backup", &old.url(), "-d", "./b", "-r", "key.pub.pem"]).ok().json();
    assert_eq!(done["backup"]["engine"], "postgresql");
    assert!(done["backup"]["versions"]["pg_dump"].is_string(), "{done}");
    lab.run(["verify", &source, "-d", "./b"]).ok();
    let deep = lab.run(["--json", "verify", &source, "--deep", "-i", "key.pem", "-d", "./b"]).ok().json();
    assert_eq!(deep["parsed"], true);
    assert!(deep["tables"].to_string().contains("odd Name"), "{deep}");
    lab.run(["restore", &source, "--to", &new.url(), "-i", "key.pem", "-d", "./b"]).ok();
    assert_eq!(new.content(), old.content());
    lab.run(["restore", &source, "--to", &new.url(), "-i", "key.pem", "-d", "./b"]).fails(11, new.name());
    // Names of tables are sealed: nothing in the clear says what is inside.
    let manifest =
        lab.read(&format!("b/{}/{}/manifest.json", old.name(), done["completed"].as_str().unwrap()));
    assert!(!String::from_utf8(manifest).unwrap().contains("customers"));
}

#[test]
fn a_wrong_password_and_a_missing_database_are_told_and_make_nothing() {
    let mut lab = lab();
    let absent = Database::absent();
    lab.run(["backup", &absent.url(), "-d", "./b", "-r", "key.pub.pem"]).fails(10, absent.name());
    let old = Database::filled(1);
    lab.set("PGPASSWORD", "not-the-password");
    let ran = lab.run(["backup", &old.url(), "-d", "./b", "-r", "key.pub.pem"]).fails(12, "");
    assert!(!ran.stderr.contains("not-the-password"));
    let down = "postgres://u@127.0.0.1:1/db";
    lab.run(["backup", down, "-d", "./b", "-r", "key.pub.pem"]).fails(15, "");
    assert!(lab.tree("b").is_empty(), "{:?}", lab.tree("b"));
}

/// A restore of a damaged backup leaves no database behind.
#[test]
fn a_damaged_backup_is_not_handed_over() {
    let (lab, old, new) = (lab(), Database::filled(2000), Database::absent());
    let done = lab.run(["--json", "backup", &old.url(), "-d", "./b", "-r", "key.pub.pem"]).ok().json();
    let data = format!("b/{}/{}/data.strongroom", old.name(), done["completed"].as_str().unwrap());
    let mut bytes = lab.read(&data);
    let at = bytes.len() - 100;
    bytes[at] ^= 1;
    lab.write(&data, &bytes);
    let restore =
        ["restore", &format!("{}@latest", old.name()), "--to", &new.url(), "-i", "key.pem", "-d", "./b"];
    lab.run(restore).fails(13, "");
    assert!(!new.exists());
    lab.run(restore.iter().chain(&["--verify-first"])).fails(13, "");
    assert!(!new.exists());
}

/// The arguments of every process, ours and the tools', hold no secret at any moment of a backup and
/// of a restore.
#[test]
fn incident_79_no_secret_is_visible_in_the_process_list() {
    let (mut lab, old, new) = (lab(), Database::filled(60_000), Database::absent());
    lab.write("pass", format!("{}\n", password()));
    lab.write(
        "s.toml",
        format!("destination = \"./b\"\n[sources.db]\nurl = \"{}\"\npassword_file = \"pass\"\n", old.url()),
    );
    lab.set("PGPASSWORD", "");
    lab.set("ENCRYPTION_KEY", "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=");
    let backup = ["--config", "s.toml", "backup", "db", "-r", "secret-key", "--allow-symmetric"];
    let seen = arguments_during(&lab, &backup);
    assert!(seen.iter().any(|a| a.contains("pg_dump")), "{seen:?}");
    lab.set("PGPASSWORD", password());
    let restored = arguments_during(&lab, &["restore", "db@latest", "--to", &new.url(), "-d", "./b"]);
    assert!(restored.iter().any(|a| a.contains("pg_restore")), "{restored:?}");
    for arguments in seen.iter().chain(&restored) {
        assert!(!arguments.contains(&password()) && !arguments.contains("MDEyMzQ1"), "{arguments}");
    }
    assert_eq!(new.content(), old.content());
}

/// Every different command line of a command and of the programs it starts, until its success.
fn arguments_during(lab: &Lab, args: &[&str]) -> BTreeSet<String> {
    let mut child = lab.command(args).stdout(std::process::Stdio::null()).spawn().unwrap();
    let mut seen = BTreeSet::new();
    let status = loop {
        // Processes come and go between the calls: what cannot be read is gone.
        let parents: BTreeMap<u32, u32> =
            std::fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| parent(&entry)).collect();
        for pid in parents.keys() {
            let mut ancestors = std::iter::successors(Some(*pid), |pid| parents.get(pid).copied());
            if ancestors.any(|ancestor| ancestor == child.id())
                && let Ok(arguments) = std::fs::read(format!("/proc/{pid}/cmdline"))
            {
                seen.insert(String::from_utf8_lossy(&arguments).replace('\0', " "));
            }
        }
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
    };
    assert!(status.success());
    seen
}

/// A process and its parent (proc(5): the second field after the name in parentheses).
fn parent(entry: &std::fs::DirEntry) -> Option<(u32, u32)> {
    let pid = entry.file_name().to_str()?.parse().ok()?;
    let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
    let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
    Some((pid, parent))
}

/// The client tools of an older version than the server are refused before a byte is dumped.
#[test]
fn incident_82_an_older_pg_dump_is_refused() {
    let mut lab = lab();
    let url = server("STRONGROOM_TEST_PG18_URL");
    let (user, rest) = url.strip_prefix("postgres://").unwrap().split_once(':').unwrap();
    let (password, place) = rest.split_once('@').unwrap();
    lab.set("PGPASSWORD", password);
    let url = format!("postgres://{user}@{place}");
    let old = std::path::Path::new("/usr/lib/postgresql/15/bin");
    let config = |dirs: &str| {
        format!("destination = \"./b\"\n[sources.new]\nurl = \"{url}\"\ntool_dirs = [\"{dirs}\"]\n")
    };
    lab.write("old.toml", config(&old.display().to_string()));
    let ran = lab.run(["--config", "old.toml", "backup", "new", "-r", "key.pub.pem"]).fails(16, "18");
    assert!(ran.stderr.contains("pg_dump"), "{}", ran.stderr);
    assert!(lab.tree("b").is_empty());
    lab.write("new.toml", config(&server("STRONGROOM_TEST_PG18_BIN")));
    lab.run(["--config", "new.toml", "backup", "new", "-r", "key.pub.pem"]).ok();
}
