//! Dumps over several connections, held against `pg_dump` by content.

use backup_core::testing::{collect, dumper_suite, inspector_suite, known, restorer_suite};
use backup_core::{
    ByteStream, Context, Dump, DumpFormat, Dumper as _, ErrorKind, Inspector as _, RestoreRequest,
    Restorer as _, Selection,
};
use bytes::Bytes;
use dumpers::postgres::{PG_PARALLEL, ParallelInspector, PostgresConfig, PostgresDumper, PostgresRestorer};

use crate::own_server::{OwnServer, folder};
use crate::postgres::{dump_of, restore};
use crate::server::{Database, Server, variable};

/// Everything that a dump has to get right: types, partitions, inheritance, generated and identity
/// columns, dropped columns, large objects with owners and comments, odd names, empty tables, tables of
/// several ranges, long values, sequences in every state, an extension with a table of its own.
pub(crate) const EVERYTHING: &str = r#"
CREATE SCHEMA "Läden & mehr";
CREATE TYPE mood AS ENUM ('gut', 'schlecht');
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE TYPE pair AS (a int, b text);
CREATE TABLE "Läden & mehr"."Kunden ""A"" (1)" (
  id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, "Näme, (x)" text NOT NULL, m mood, raw bytea, doc jsonb,
  at timestamptz, amount numeric(20, 4), tags text[], u uuid, f double precision, span int4range, ip inet,
  p pair, d positive, i interval, x xml, twice numeric GENERATED ALWAYS AS (amount * 2) STORED);
INSERT INTO "Läden & mehr"."Kunden ""A"" (1)" ("Näme, (x)", m, raw, doc, at, amount, tags, u, f, span, ip, p, d, i, x)
  SELECT 'Zoë 🦀 \ \. ''' || i || E'\n\t\r\b\f\v', CASE WHEN i % 2 = 0 THEN 'gut'::mood END,
         decode(md5(i::text), 'hex') || '\x00ff0a5c'::bytea, jsonb_build_object('i', i, 'ü', '"'),
         '2024-02-29 23:59:59.123456+13'::timestamptz + i * interval '1 hour', i / 7.0,
         ARRAY['a', NULL, 'b"c,' || i], md5(i::text)::uuid, CASE i % 3 WHEN 0 THEN 'NaN'::float8 ELSE i / 3.0 END,
         int4range(i, i + 5), '10.0.0.1', (i, 'x,"y"')::pair, i, i * interval '1 month 3 days -2 hours', '<a>é</a>text'
  FROM generate_series(1, 2000) i;
CREATE TABLE orders (id int PRIMARY KEY, kunde bigint REFERENCES "Läden & mehr"."Kunden ""A"" (1)", gone text, rest text);
ALTER TABLE orders DROP COLUMN gone;
INSERT INTO orders SELECT i, 1 + i % 2000, NULLIF(repeat('\', i % 4), '') FROM generate_series(1, 3000) i;
CREATE INDEX ON orders (kunde);
CREATE TABLE empty_one ();
CREATE TABLE rows_without_columns (); INSERT INTO rows_without_columns DEFAULT VALUES;
CREATE TABLE nothing_in_it (a int, b text);
CREATE TABLE dots (a text); INSERT INTO dots VALUES ('\.'), (''), (NULL), ('\N'), (E'\\.\n\\.'), ('\');
CREATE TABLE only_generated (g int GENERATED ALWAYS AS (7) STORED); INSERT INTO only_generated DEFAULT VALUES;
CREATE TABLE parted (k int, v text) PARTITION BY RANGE (k);
CREATE TABLE parted_low PARTITION OF parted FOR VALUES FROM (0) TO (500);
CREATE TABLE parted_high PARTITION OF parted FOR VALUES FROM (500) TO (1000) PARTITION BY LIST (v);
CREATE TABLE parted_high_a PARTITION OF parted_high FOR VALUES IN ('a');
CREATE TABLE parted_high_rest PARTITION OF parted_high DEFAULT;
INSERT INTO parted SELECT i, CASE i % 3 WHEN 0 THEN 'a' ELSE 'b' || i END FROM generate_series(0, 999) i;
CREATE TABLE above (a int, b text); INSERT INTO above VALUES (1, 'above');
CREATE TABLE below (c int) INHERITS (above); INSERT INTO below VALUES (2, 'below', 3);
CREATE UNLOGGED TABLE unlogged AS SELECT 1 AS x;
CREATE TABLE large AS SELECT i AS id, i % 97 AS k, repeat(md5(i::text), 20) AS filler FROM generate_series(1, 60000) i;
DELETE FROM large WHERE id BETWEEN 10000 AND 20000;
ALTER TABLE large ADD PRIMARY KEY (id);
CREATE TABLE long_values (id int PRIMARY KEY, x text);
ALTER TABLE long_values ALTER x SET STORAGE EXTERNAL;
INSERT INTO long_values SELECT i, repeat(md5(i::text), 20000) FROM generate_series(1, 40) i;
CREATE SEQUENCE counter START 41; SELECT nextval('counter');
CREATE SEQUENCE untouched START 5; CREATE SEQUENCE "Odd 'one'"; SELECT setval('"Odd ''one''"', 77, false);
CREATE VIEW v AS SELECT count(*) AS n FROM orders;
CREATE MATERIALIZED VIEW mv AS SELECT k, count(*) FROM large GROUP BY k; CREATE INDEX ON mv (k);
CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''not while restoring''; END';
CREATE TRIGGER t BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION f();
CREATE RULE r AS ON INSERT TO above DO ALSO SELECT 1;
COMMENT ON TABLE orders IS 'a; comment''s';
SELECT lo_from_bytea(4711, decode(repeat('00ff10', 50000), 'hex')); COMMENT ON LARGE OBJECT 4711 IS 'large';
SELECT lo_from_bytea(4712, ''); GRANT SELECT ON LARGE OBJECT 4712 TO PUBLIC;
"#;

/// Rows, sequences, large objects, asked without `pg_dump`: one line for each.
const CONTENT: &str = r#"
SELECT format('SELECT %L, count(*), md5(coalesce(string_agg(r::text, E''\n'' ORDER BY r::text COLLATE "C"), '''')) FROM ONLY %I.%I r',
              n.nspname || '.' || c.relname, n.nspname, c.relname)
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE c.relkind IN ('r', 'm') AND n.nspname !~ '^pg_|^information_schema$' ORDER BY n.nspname, c.relname \gexec
SELECT format('SELECT %L, last_value, is_called FROM %I.%I', c.relname, n.nspname, c.relname)
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'S' ORDER BY n.nspname, c.relname \gexec
SELECT m.oid, m.lomacl, md5(lo_get(m.oid)), length(lo_get(m.oid)), obj_description(m.oid, 'pg_largeobject')
  FROM pg_largeobject_metadata m ORDER BY m.oid;
SELECT pg_encoding_to_char(encoding), datcollate FROM pg_database WHERE datname = current_database();
"#;

pub(crate) fn content(database: &Database) -> String {
    database.sql(CONTENT)
}

/// The schema as `pg_dump` writes it.
fn schema(database: &Database) -> String {
    let mut pg_dump = match &database.server.programs {
        Some(folder) => std::process::Command::new(folder.join("pg_dump")),
        None => std::process::Command::new("pg_dump"),
    };
    let server = &database.server;
    let output = pg_dump
        .arg("--schema-only")
        .envs([
            ("PGHOST", &*server.host),
            ("PGPORT", &*server.port),
            ("PGUSER", &*server.user),
            ("PGPASSWORD", &*server.password),
            ("PGDATABASE", &*database.name),
        ])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    // A random word of newer versions.
    text.lines()
        .filter(|line| !line.starts_with("\\restrict") && !line.starts_with("\\unrestrict"))
        .collect::<Vec<_>>()
        .join("\n")
}

pub(crate) fn parallel(database: &Database, jobs: u32) -> PostgresConfig {
    PostgresConfig { jobs: Some(jobs), ..database.config() }
}

pub(crate) fn format() -> DumpFormat {
    DumpFormat::new(PG_PARALLEL)
}

pub(crate) fn request(into_existing: bool) -> RestoreRequest {
    RestoreRequest { format: format(), source_len: None, into_existing }
}

pub(crate) async fn begin(config: &PostgresConfig) -> backup_core::Result<Dump> {
    PostgresDumper::new(config).unwrap().dump(&Context::new(), &Selection::default()).await
}

pub(crate) async fn whole(config: &PostgresConfig) -> Bytes {
    let dump = begin(config).await.unwrap();
    assert_eq!(dump.format, format());
    collect(dump.bytes).await.unwrap()
}

pub(crate) async fn restored(config: &PostgresConfig, whole: &Bytes) -> backup_core::Result<Vec<String>> {
    let restorer = PostgresRestorer::new(config).unwrap();
    let cx = Context::new();
    let plan = restorer.plan(&cx, request(false)).await?;
    let restored = restorer.restore(&cx, plan, known(&format(), whole)).await?;
    assert_eq!(restored.bytes, whole.len() as u64);
    Ok(restored.warnings)
}

/// Dumps both ways, restores both, and compares.
async fn equal_to_pg_dump(source: &Database, jobs: u32) {
    let server = &source.server;
    let expected = server.free_name("by_pg_dump");
    restore(&expected.config(), &dump_of(&source.config()).await, false).await.unwrap();
    for native in [None, Some(false)] {
        let target = server.free_name("by_several");
        let bytes = whole(&PostgresConfig { native, ..parallel(source, jobs) }).await;
        let warnings = restored(&target.config(), &bytes).await.unwrap();
        assert!(warnings.is_empty(), "{warnings:?}");
        assert_eq!(content(&target), content(&expected));
        assert_eq!(content(&target), content(source));
        assert_eq!(schema(&target), schema(&expected));
        assert_eq!(
            server.databases(&target.name),
            std::slice::from_ref(&target.name),
            "nothing else is left"
        );
    }
}

#[tokio::test]
async fn several_connections_give_what_pg_dump_gives() {
    let source = Server::current().database("everything");
    source.sql(EVERYTHING);
    equal_to_pg_dump(&source, 3).await;
}

#[tokio::test]
async fn dumper_restorer_and_inspector_obey_the_suites() {
    let server = Server::current();
    let source = server.database("suite");
    source.sql(
        "CREATE TABLE t AS SELECT i, repeat(md5(i::text), 10) AS x FROM generate_series(1, 3000) i; \
         CREATE TABLE u AS SELECT 1 AS x; CREATE SEQUENCE s; SELECT lo_from_bytea(11, 'large');",
    );
    dumper_suite(&PostgresDumper::new(&parallel(&source, 2)).unwrap()).await;
    let whole = whole(&parallel(&source, 2)).await;
    inspector_suite(&ParallelInspector, &format(), &whole).await;
    let (cx, bytes) = (Context::new(), ByteStream::once(whole.clone()));
    let seen = ParallelInspector.inspect(&cx, &format(), bytes).await.unwrap();
    assert_eq!(seen.tables, ["public.t", "public.u"]);

    let target = server.free_name("suite_back");
    let restorer = PostgresRestorer::new(&target.config()).unwrap();
    restorer_suite(&restorer, &format(), &whole, async || {
        let found = server.databases(&target.name);
        assert!(found.iter().all(|name| *name == target.name), "left behind: {found:?}");
        !found.is_empty()
    })
    .await;
    assert_eq!(content(&target), content(&source));
}

#[tokio::test]
async fn an_existing_database_is_refused_before_anything_is_read() {
    let server = Server::current();
    let target = server.database("existing");
    let restorer = PostgresRestorer::new(&target.config()).unwrap();
    for (into_existing, kind) in [(false, ErrorKind::Conflict), (true, ErrorKind::Unsupported)] {
        let error = restorer.plan(&Context::new(), request(into_existing)).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
    }
}

#[tokio::test]
async fn settings_that_do_not_go_together_are_refused() {
    let config = Server::current().config("x");
    for jobs in [0, 17] {
        let config = PostgresConfig { jobs: Some(jobs), ..config.clone() };
        assert_eq!(PostgresDumper::new(&config).unwrap_err().kind(), ErrorKind::Config, "{jobs}");
    }
    for arg in ["--inserts", "--data-only", "--data-o", "--section=data", "--snapshot=x", "--role=x"] {
        let config = PostgresConfig { extra_args: vec![arg.to_owned()], ..config.clone() };
        assert!(PostgresDumper::new(&config).is_ok(), "{arg}");
        let config = PostgresConfig { jobs: Some(2), ..config };
        assert_eq!(PostgresDumper::new(&config).unwrap_err().kind(), ErrorKind::Config, "{arg}");
    }
    for arg in ["--no-comments", "--schema=a", "--exclude-table-data=t", "--no-owner"] {
        let config = PostgresConfig { jobs: Some(2), extra_args: vec![arg.to_owned()], ..config.clone() };
        assert!(PostgresDumper::new(&config).is_ok(), "{arg}");
    }
}

#[tokio::test]
async fn arguments_that_leave_out_a_part_are_refused_by_the_restore() {
    let server = Server::current();
    let target = server.free_name("arguments");
    for arg in [
        "--section=data",
        "--data-only",
        "--data",
        "--schema-only",
        "--table=t",
        "--role=x",
        "--clean",
        "--no-data",
    ] {
        let config = PostgresConfig { extra_args: vec![arg.to_owned()], ..target.config() };
        let restorer = PostgresRestorer::new(&config).unwrap();
        let error = restorer.plan(&Context::new(), request(false)).await.unwrap_err();
        assert!(error.kind() == ErrorKind::Config && error.what().contains(arg), "{arg}: {error}");
    }
    let source = server.database("arguments_from");
    source.sql("CREATE TABLE t AS SELECT 1 AS x; COMMENT ON TABLE t IS 'x'; CREATE INDEX i ON t (x); COMMENT ON INDEX i IS 'y'");
    let extra_args = vec!["--no-comments".to_owned(), "--no-owner".to_owned()];
    restored(&PostgresConfig { extra_args, ..target.config() }, &whole(&parallel(&source, 2)).await)
        .await
        .unwrap();
    assert_eq!(
        target
            .sql("SELECT obj_description('t'::regclass) IS NULL AND obj_description('i'::regclass) IS NULL"),
        "t"
    );
}

#[tokio::test]
async fn sequences_of_every_kind_come_back() {
    let source = Server::current().database("sequences");
    source.sql(
        "CREATE SEQUENCE up; SELECT nextval('up'), nextval('up'); CREATE SEQUENCE never START 9;
         CREATE SEQUENCE down INCREMENT -3 MINVALUE -9223372036854775808 START -5; SELECT nextval('down'), nextval('down');
         CREATE SEQUENCE lowest MINVALUE -9223372036854775808; SELECT setval('lowest', -9223372036854775808);
         CREATE SEQUENCE highest; SELECT setval('highest', 9223372036854775807, false);
         CREATE SEQUENCE small AS smallint CYCLE MAXVALUE 3; SELECT setval('small', 3);
         CREATE SCHEMA \"S \\ 'x'\"; CREATE SEQUENCE \"S \\ 'x'\".\"Zähler \\ ''\" CACHE 20; SELECT nextval('\"S \\ ''x''\".\"Zähler \\ ''''\"');
         CREATE TABLE t (a serial, b int GENERATED BY DEFAULT AS IDENTITY (START 100 INCREMENT 10), c int);
         INSERT INTO t (c) SELECT 1 FROM generate_series(1, 7);
         ALTER SEQUENCE up RESTART WITH 77; CREATE UNLOGGED TABLE u (a serial); INSERT INTO u DEFAULT VALUES;",
    );
    equal_to_pg_dump(&source, 2).await;
    let target = source.server.free_name("sequences_go_on");
    restored(&target.config(), &whole(&parallel(&source, 2)).await).await.unwrap();
    let next = "INSERT INTO t (c) VALUES (2); SELECT a, b FROM t WHERE c = 2; SELECT nextval('up'), nextval('down'), nextval('small')";
    assert_eq!(target.sql(next), "8|170\n77|-11|1");
}

/// An extension whose table has rows of its own and rows of the user: only the latter are dumped.
#[tokio::test]
async fn the_condition_of_an_extension_holds_for_both_ways() {
    let folder = folder();
    let extension = |name: &str, condition: &str| {
        let place = folder.path().join("extension");
        std::fs::create_dir_all(&place).unwrap();
        std::fs::write(place.join(format!("{name}.control")), "default_version = '1'\nrelocatable = true\n")
            .unwrap();
        let script = format!(
            "CREATE TABLE {name}_kept (id int, builtin bool, note text);\n\
             INSERT INTO {name}_kept SELECT i, true, 'of the script' FROM generate_series(1, 3) i;\n\
             CREATE TABLE {name}_all (x int);\nCREATE TABLE {name}_none (x int);\n\
             SELECT pg_catalog.pg_extension_config_dump('{name}_kept', $q${condition}$q$);\n\
             SELECT pg_catalog.pg_extension_config_dump('{name}_all', '');\n"
        );
        std::fs::write(place.join(format!("{name}--1.sql")), script).unwrap();
    };
    extension("conf", "WHERE NOT builtin AND note <> 'it''s'");
    extension("slash", "WHERE note <> '\\'");
    for path in [folder.path().to_owned(), folder.path().join("extension")] {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    let path = format!("extension_control_path = '{}:$system'", folder.path().display());
    let own = OwnServer::of(variable("STRONGROOM_TEST_PG18_BIN").as_ref(), &path);
    let source = own.server.database("extended");
    source.sql(
        "CREATE EXTENSION conf; INSERT INTO conf_kept VALUES (4, false, 'mine'), (5, false, 'it''s'), (6, true, 'x');
         INSERT INTO conf_all VALUES (1), (2); INSERT INTO conf_none VALUES (1); CREATE TABLE t AS SELECT 1 AS x",
    );
    let rows = "SELECT string_agg(id::text, ' ' ORDER BY id) FROM conf_kept; SELECT count(*) FROM conf_all; SELECT count(*) FROM conf_none";
    let expected = own.server.free_name("extended_by_pg_dump");
    restore(&expected.config(), &dump_of(&source.config()).await, false).await.unwrap();
    assert_eq!(expected.sql(rows), "1 2 3 4\n2\n0");
    let target = own.server.free_name("extended_back");
    restored(&target.config(), &whole(&parallel(&source, 2)).await).await.unwrap();
    assert_eq!(target.sql(rows), expected.sql(rows));

    // psql would read a command where that condition has a backslash.
    source.sql("CREATE EXTENSION slash");
    let error = begin(&parallel(&source, 2)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(
        error.what().contains("slash_kept") && error.hint().unwrap().contains("leave jobs out"),
        "{error}"
    );
    assert!(!dump_of(&source.config()).await.is_empty());
}

/// Roles and tablespaces that only the schema after the rows names.
#[tokio::test]
async fn what_only_indexes_name_may_be_missing_too() {
    let (own, folder) = (OwnServer::start(""), folder());
    own.server.sql(
        "postgres",
        &format!("CREATE ROLE publisher; CREATE TABLESPACE fast LOCATION '{}'", folder.path().display()),
    );
    let source = own.server.database("post_only");
    source.sql("CREATE TABLE t AS SELECT 1 AS x; CREATE INDEX i ON t (x) TABLESPACE fast; CREATE PUBLICATION p; ALTER PUBLICATION p OWNER TO publisher");
    let whole = whole(&parallel(&source, 2)).await;
    let target = Server::current().free_name("post_only_back");
    let warnings = restored(&target.config(), &whole).await.unwrap().join("\n");
    assert!(warnings.contains("\"publisher\"") && warnings.contains("\"fast\""), "{warnings}");
    assert_eq!(target.sql("SELECT count(*) FROM pg_indexes WHERE indexname = 'i'; SELECT pubowner::regrole = current_user::regrole FROM pg_publication"), "1\nt");
    drop((source, own));
}

#[tokio::test]
async fn a_newer_server_gives_the_same_over_several_connections() {
    let source = Server::newer().database("everything");
    source.sql(EVERYTHING);
    equal_to_pg_dump(&source, 2).await;
}
