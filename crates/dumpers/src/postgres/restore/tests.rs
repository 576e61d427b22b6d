//! Names of targets, and restores by the programs of another version.

use std::path::PathBuf;

use super::*;

#[test]
fn temporary_names_fit() {
    assert_eq!(temporary("orders", "1a2b3c4d"), "orders_strongroom_1a2b3c4d");
    let long = temporary(&"ü".repeat(31), "1a2b3c4d");
    assert!(long.len() <= NAME_MAX && long.ends_with("ü_strongroom_1a2b3c4d"), "{long}");
}

#[tokio::test]
async fn a_target_needs_a_usable_name() {
    let long = PostgresConfig::from_url(&format!("postgres://h/{}", "x".repeat(64))).unwrap();
    assert_eq!(PostgresRestorer::new(&long).unwrap_err().kind(), ErrorKind::Config);
    for bad in ["postgres://h/", "postgres://h"] {
        let restorer = PostgresRestorer::new(&PostgresConfig::from_url(bad).unwrap()).unwrap();
        let request =
            RestoreRequest { format: DumpFormat::new(PG_CUSTOM), source_len: None, into_existing: false };
        let error = restorer.plan(&Context::new(), request).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{bad}");
    }
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run scripts/test"))
}

/// The older server's database of that name.
fn url(database: &str) -> String {
    let url = variable("STRONGROOM_TEST_PG_URL");
    let (server, _) = url.rsplit_once('/').unwrap();
    format!("{server}/{database}")
}

/// Runs a program of the newer server against the older one and gives what it printed.
fn newer(program: &str, database: &str, args: &[&str]) -> Vec<u8> {
    let folder = variable("STRONGROOM_TEST_PG18_BIN");
    let mut command = std::process::Command::new(format!("{folder}/{program}"));
    let output = command.args(args).arg(format!("--dbname={}", url(database))).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn sql(database: &str, statement: &str) -> String {
    let said = newer("psql", database, &["--quiet", "--no-align", "--tuples-only", "--command", statement]);
    String::from_utf8(said).unwrap().trim().to_owned()
}

/// Databases and a role that go with the test.
struct Names(Vec<String>, String);

impl Drop for Names {
    fn drop(&mut self) {
        for name in &self.0 {
            sql("postgres", &format!("DROP DATABASE IF EXISTS {name}"));
        }
        sql("postgres", &format!("DROP ROLE IF EXISTS {}", self.1));
    }
}

#[tokio::test]
async fn incident_82_a_newer_pg_restore_serves_an_older_server() {
    let mark = std::process::id();
    let [from, to, owner] = ["from", "to", "owner"].map(|name| format!("newer_tool_{name}_{mark}"));
    let _names = Names(vec![from.clone(), to.clone()], owner.clone());
    sql("postgres", &format!("CREATE DATABASE {from}"));
    sql(&from, "CREATE TABLE t AS SELECT i, md5(i::text) AS x FROM generate_series(1, 300) i");
    let dump = || bytes::Bytes::from(newer("pg_dump", &from, &["--format=custom", "--compress=0"]));
    let restore = async |whole: &bytes::Bytes, owners, into_existing| {
        let config = PostgresConfig { owners, ..PostgresConfig::from_url(&url(&to)).unwrap() };
        // The older programs are found too; they cannot read this archive.
        let folder = PathBuf::from(variable("STRONGROOM_TEST_PG18_BIN"));
        let restorer =
            PostgresRestorer { places: Places::new(&[folder]), ..PostgresRestorer::new(&config).unwrap() };
        let (cx, format) = (Context::new(), DumpFormat::new(PG_CUSTOM));
        let request = RestoreRequest { format: format.clone(), source_len: None, into_existing };
        let plan = restorer.plan(&cx, request).await?;
        restorer.restore(&cx, plan, backup_core::testing::known(&format, whole)).await
    };
    let exists = || sql("postgres", &format!("SELECT count(*) FROM pg_database WHERE datname LIKE '{to}%'"));

    // A second error is not forgiven, and nothing is left of what was applied before it.
    sql("postgres", &format!("CREATE ROLE {owner}"));
    sql(&from, &format!("CREATE TABLE theirs (x int); ALTER TABLE theirs OWNER TO {owner}"));
    let whole = dump();
    sql(&from, "DROP TABLE theirs");
    sql("postgres", &format!("DROP ROLE {owner}"));
    let error = restore(&whole, Owners::Keep, false).await.unwrap_err();
    assert_eq!((error.kind(), exists().as_str()), (ErrorKind::Tool, "0"), "{error}");

    let whole = dump();
    restore(&whole, Owners::Keep, false).await.unwrap();
    let sum = "SELECT count(*), md5(string_agg(t::text, '' ORDER BY i)) FROM t";
    assert_eq!(sql(&to, sum), sql(&from, sum));

    // In one transaction the first error is the end, so it is not begun.
    let error = restore(&whole, Owners::Keep, true).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.hint().unwrap().contains("postgresql-client-"), "{error}");
}
