//! A server without room, and databases with much in them.

use std::process::Command;

use backup_core::testing::{collect, known};
use backup_core::{Context, Dumper as _, ErrorKind, RestoreRequest, Restorer as _, Selection};
use dumpers::postgres::{PostgresConfig, PostgresDumper, PostgresRestorer};

use crate::own_server::{OwnServer, folder};
use crate::postgres::{dump_of, restore};
use crate::server::Server;

/// A folder with so little room, where this user may mount one.
struct Small(tempfile::TempDir);

impl Small {
    fn mount(size: &str) -> Self {
        let folder = folder();
        let options = format!("size={size},mode=0700");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(folder.path()).status();
        assert!(
            mounted.is_ok_and(|status| status.success()),
            "mounting a tmpfs needs root: run scripts/test as root"
        );
        Command::new("chown").arg("svc:").arg(folder.path()).status().unwrap();
        Self(folder)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

#[tokio::test]
async fn a_full_server_is_named_and_nothing_is_left_of_the_restore() {
    full("too_much", None).await;
}

#[tokio::test]
async fn a_full_server_is_named_over_several_connections_too() {
    full("too_much_several", Some(3)).await;
}

async fn full(name: &str, jobs: Option<u32>) {
    let source = Server::current().database(name);
    source.sql(
        "CREATE TABLE t AS SELECT i, repeat(md5(random()::text), 30) AS x FROM generate_series(1, 60000) i",
    );
    let dumper = PostgresDumper::new(&PostgresConfig { jobs, ..source.config() }).unwrap();
    let dump = dumper.dump(&Context::new(), &Selection::default()).await.unwrap();
    let format = dump.format.clone();
    let whole = collect(dump.bytes).await.unwrap();
    let small = Small::mount("16M");
    let full = OwnServer::start("");
    full.server.sql("postgres", &format!("CREATE TABLESPACE small LOCATION '{}'", small.0.path().display()));
    full.server.sql("postgres", "ALTER ROLE strongroom SET default_tablespace = 'small'");
    // Where the dump names no tablespace, the role's own is used.
    let target =
        PostgresConfig { extra_args: vec!["--no-tablespaces".to_owned()], ..full.server.config("restored") };
    let restorer = PostgresRestorer::new(&target).unwrap();
    let request = RestoreRequest { format: format.clone(), source_len: None, into_existing: false };
    let plan = restorer.plan(&Context::new(), request).await.unwrap();
    let error = restorer.restore(&Context::new(), plan, known(&format, &whole)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.what().contains("out of space"), "{error}");
    assert_eq!(full.server.databases("restored"), [""; 0]);
    drop(full);
}

#[tokio::test]
#[ignore = "takes most of a minute"]
async fn slow_ten_thousand_tables_are_one_backup() {
    let server = Server::current();
    let source = server.database("many_tables");
    source.sql("DO $$ BEGIN FOR n IN 1..10000 LOOP EXECUTE format('CREATE TABLE t%s (x int)', n); IF n % 500 = 0 THEN COMMIT; END IF; END LOOP; END $$");
    let dumper = PostgresDumper::new(&source.config()).unwrap();
    assert_eq!(dumper.probe(&Context::new()).await.unwrap().items.len(), 10_000);
    let dump = dumper.dump(&Context::new(), &Selection::default()).await.unwrap();
    let whole = collect(dump.bytes).await.unwrap();
    assert_eq!(dump.report.get().unwrap().tables.len(), 10_000);
    let target = server.free_name("many_tables_back");
    restore(&target.config(), &whole, false).await.unwrap();
    assert_eq!(target.sql("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"), "10000");
}

/// The server builds the text of a row in one buffer, which ends at 1 GiB: half of that in a `bytea`,
/// whose text is two characters a byte, and all of it in a `text`.
#[tokio::test]
#[ignore = "moves gigabytes"]
async fn slow_a_row_of_512_mib_comes_back_and_one_too_long_is_an_error() {
    let server = Server::current();
    let source = server.database("long_row");
    source.sql("CREATE TABLE t AS SELECT repeat(md5('x'), 16 * 1024 * 1024) AS x");
    let sum = "SELECT length(x), md5(x) FROM t";
    let whole = dump_of(&source.config()).await;
    let target = server.free_name("long_row_back");
    restore(&target.config(), &whole, false).await.unwrap();
    assert_eq!(target.sql(sum), source.sql(sum));
    drop((whole, target));

    source.sql("CREATE TABLE b AS SELECT decode(repeat('00ff', 128 * 1024 * 1024), 'hex') AS x; UPDATE b SET x = x || x");
    let dumper = PostgresDumper::new(&source.config()).unwrap();
    let mut dump = dumper.dump(&Context::new(), &Selection::default()).await.unwrap();
    let error = loop {
        match dump.bytes.next().await {
            Some(Ok(_)) => {}
            Some(Err(error)) => break error,
            None => panic!("a row that cannot be written ended cleanly"),
        }
    };
    assert_eq!(error.kind(), ErrorKind::Tool, "{error}");
    assert!(dump.report.get().is_none());
}
