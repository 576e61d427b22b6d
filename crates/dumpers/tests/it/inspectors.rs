//! The behaviour suite of every inspector, on dumps of real engines.

use backup_core::testing::{collect, inspector_suite};
use backup_core::{Context, Dumper, Selection};
use dumpers::postgres::{PostgresDumper, PostgresInspector};
use dumpers::sqlite::{SqliteConfig, SqliteDumper, SqliteInspector};

use crate::server::Server;

async fn check(inspector: &dyn backup_core::Inspector, dumper: &dyn Dumper) {
    let dump = dumper.dump(&Context::new(), &Selection::default()).await.unwrap();
    let format = dump.format.clone();
    let whole = collect(dump.bytes).await.unwrap();
    inspector_suite(inspector, &format, &whole).await;
}

#[tokio::test]
async fn the_archive_inspector_obeys_the_suite() {
    let source = Server::current().database("inspected");
    source.sql(
        "CREATE TABLE t AS SELECT i, md5(i::text) FROM generate_series(1, 300) i; CREATE TABLE nothing (); \
         SELECT lo_from_bytea(0, decode(repeat('00ff10', 900), 'hex'))",
    );
    check(&PostgresInspector, &PostgresDumper::new(&source.config()).unwrap()).await;
}

#[tokio::test]
async fn the_image_inspector_obeys_the_suite() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("inspected.db");
    let database = rusqlite::Connection::open(&path).unwrap();
    database.execute_batch("CREATE TABLE t (a); INSERT INTO t VALUES (randomblob(9000))").unwrap();
    drop(database);
    check(&SqliteInspector::default(), &SqliteDumper::new(&SqliteConfig::new(path))).await;
}
