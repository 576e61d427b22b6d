//! Every supported server version: dumped by a fitting program, restored into the same and into the
//! newest version, compared by content.

use backup_core::testing::collect;
use backup_core::{Context, Dumper as _, Selection};
use dumpers::postgres::{PostgresConfig, PostgresDumper};

use crate::postgres::restore;
use crate::server::Server;

const FILL: &str = r#"
CREATE SCHEMA "Ö ""1""";
CREATE TABLE "Ö ""1"".t.t" (id int PRIMARY KEY GENERATED ALWAYS AS IDENTITY, x text, raw bytea, at timestamptz);
INSERT INTO "Ö ""1"".t.t" (x, raw, at)
  SELECT 'ü🦀' || i, decode(md5(i::text), 'hex'), '2024-02-29 12:00+00'::timestamptz + i * interval '1 s'
  FROM generate_series(1, 500) i;
CREATE TABLE "Ö ""1""".parts (k int, v text) PARTITION BY RANGE (k);
CREATE TABLE "Ö ""1""".low PARTITION OF "Ö ""1""".parts FOR VALUES FROM (0) TO (50);
CREATE TABLE "Ö ""1""".high PARTITION OF "Ö ""1""".parts FOR VALUES FROM (50) TO (100);
INSERT INTO "Ö ""1""".parts SELECT i, md5(i::text) FROM generate_series(0, 99) i;
CREATE VIEW v AS SELECT count(*) AS n FROM "Ö ""1"".t.t";
CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN 7; END';
CREATE INDEX ON "Ö ""1"".t.t" (x);
SELECT lo_from_bytea(4711, decode(repeat('00ff10', 5000), 'hex'));
"#;

const FACTS: &str = r#"
SELECT md5(string_agg(t::text, '|' ORDER BY id)) FROM "Ö ""1"".t.t" t;
SELECT md5(string_agg(p::text, '|' ORDER BY k)) FROM "Ö ""1""".parts p;
SELECT count(*) FROM "Ö ""1""".low; SELECT n FROM v; SELECT f(); SELECT md5(lo_get(4711));
SELECT string_agg(indexdef, ';' ORDER BY indexdef) FROM pg_indexes WHERE schemaname !~ '^pg_';
"#;

async fn round_trip(from: &Server, to: &Server, tools: &PostgresConfig) {
    let source = from.database("versions");
    source.sql(FILL);
    let config = PostgresConfig { tool_dirs: tools.tool_dirs.clone(), ..source.config() };
    let dumper = PostgresDumper::new(&config).unwrap();
    let dump = dumper.dump(&Context::new(), &Selection::default()).await.unwrap();
    let whole = collect(dump.bytes).await.unwrap();
    let report = dump.report.get().unwrap();
    let major = |name: &str| report.versions[name].split('.').next().unwrap().parse::<u32>().unwrap();
    assert!(major("pg_dump") >= major("server"), "{:?}", report.versions);
    let target = to.free_name("versions_back");
    let config = PostgresConfig {
        tool_dirs: [tools.tool_dirs.clone(), target.config().tool_dirs].concat(),
        ..target.config()
    };
    restore(&config, &whole, false).await.unwrap();
    assert_eq!(target.sql(FACTS), source.sql(FACTS));
}

async fn version(server: Server) {
    let newest = Server::version(18);
    let own = server.config("postgres");
    round_trip(&server, &server, &own).await;
    round_trip(&server, &newest, &own).await;
    // The programs of the newest version serve it too.
    round_trip(&server, &server, &newest.config("postgres")).await;
}

#[tokio::test]
async fn incident_82_postgresql_14() {
    version(Server::version(14)).await;
}

#[tokio::test]
async fn incident_82_postgresql_15() {
    version(Server::current()).await;
}

#[tokio::test]
async fn incident_82_postgresql_16() {
    version(Server::version(16)).await;
}

#[tokio::test]
async fn incident_82_postgresql_17() {
    version(Server::version(17)).await;
}

#[tokio::test]
async fn incident_82_postgresql_18() {
    version(Server::version(18)).await;
}
