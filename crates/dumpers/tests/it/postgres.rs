//! Round trips through a real PostgreSQL server.

use backup_core::testing::{collect, dumper_suite, known, restorer_suite};
use backup_core::{
    ByteStream, Context, Dump, DumpFormat, Dumper as _, ErrorKind, Inspector as _, RestoreRequest,
    Restorer as _, Selection,
};
use bytes::Bytes;
use dumpers::postgres::{
    Owners, PG_CUSTOM, PostgresConfig, PostgresDumper, PostgresInspector, PostgresRestorer,
};

use crate::server::{Database, Server, quoted, unique, variable};

/// Many types, a large object, names that need quoting, text beyond ASCII, a foreign key, an index.
const VARIED: &str = r#"
CREATE SCHEMA "Läden & mehr";
CREATE TYPE mood AS ENUM ('gut', 'schlecht');
CREATE TABLE "Läden & mehr"."Kunden ""A""" (
  id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, "Näme" text NOT NULL, m mood, raw bytea, doc jsonb,
  at timestamptz, amount numeric(20, 4), tags text[], u uuid, f double precision, span int4range, ip inet);
INSERT INTO "Läden & mehr"."Kunden ""A""" ("Näme", m, raw, doc, at, amount, tags, u, f, span, ip)
  SELECT 'Zoë 🦀 \ ''' || i || E'\n\t', CASE WHEN i % 2 = 0 THEN 'gut'::mood END,
         decode(md5(i::text), 'hex') || '\x00ff0a5c'::bytea, jsonb_build_object('i', i, 'ü', '"'),
         '2024-02-29 23:59:59.123456+13'::timestamptz + i * interval '1 hour', i / 7.0,
         ARRAY['a', NULL, 'b"c,' || i], md5(i::text)::uuid, CASE i % 3 WHEN 0 THEN 'NaN'::float8 ELSE i / 3.0 END,
         int4range(i, i + 5), '10.0.0.1'
  FROM generate_series(1, 2000) i;
CREATE TABLE orders (id int PRIMARY KEY, kunde bigint REFERENCES "Läden & mehr"."Kunden ""A""", gone text);
INSERT INTO orders SELECT i, 1 + i % 2000, NULL FROM generate_series(1, 3000) i;
CREATE INDEX ON orders (kunde);
CREATE TABLE empty_one ();
CREATE SEQUENCE counter START 41; SELECT nextval('counter');
CREATE VIEW v AS SELECT count(*) AS n FROM orders;
CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 7';
SELECT lo_from_bytea(4711, decode(repeat('00ff10', 50000), 'hex'));
"#;

/// What must be the same afterwards, asked without `pg_dump`.
const FACTS: &str = r#"
SELECT count(*), md5(string_agg(k::text, '|' ORDER BY id)) FROM "Läden & mehr"."Kunden ""A""" k;
SELECT count(*), md5(string_agg(o::text, '|' ORDER BY id)) FROM orders o;
SELECT count(*) FROM empty_one; SELECT nextval('counter'); SELECT n FROM v; SELECT f();
SELECT md5(lo_get(4711)), length(lo_get(4711));
SELECT conname, contype FROM pg_constraint WHERE connamespace::regnamespace::text !~ '^pg_|information' ORDER BY 1;
SELECT indexdef FROM pg_indexes WHERE schemaname !~ '^pg_' ORDER BY 1;
SELECT pg_encoding_to_char(encoding), datcollate FROM pg_database WHERE datname = current_database();
"#;

pub(crate) fn request(into_existing: bool) -> RestoreRequest {
    RestoreRequest { format: DumpFormat::new(PG_CUSTOM), source_len: None, into_existing }
}

pub(crate) async fn dump_of(config: &PostgresConfig) -> Bytes {
    let dumper = PostgresDumper::new(config).unwrap();
    let dump = dumper.dump(&Context::new(), &Selection::default()).await.unwrap();
    collect(dump.bytes).await.unwrap()
}

/// Restores known bytes and gives the warnings.
pub(crate) async fn restore(
    config: &PostgresConfig,
    whole: &Bytes,
    into_existing: bool,
) -> backup_core::Result<Vec<String>> {
    let restorer = PostgresRestorer::new(config).unwrap();
    let cx = Context::new();
    let plan = restorer.plan(&cx, request(into_existing)).await?;
    let restored = restorer.restore(&cx, plan, known(&DumpFormat::new(PG_CUSTOM), whole)).await?;
    assert_eq!(restored.bytes, whole.len() as u64);
    Ok(restored.warnings)
}

#[tokio::test]
async fn what_comes_back_equals_what_went_in() {
    let server = Server::current();
    let source = server.database("varied");
    source.sql(VARIED);
    let dumper = PostgresDumper::new(&source.config()).unwrap();
    let cx = Context::new();
    let probe = dumper.probe(&cx).await.unwrap();
    assert_eq!(probe.engine, "postgresql");
    assert!(probe.warnings.is_empty(), "{:?}", probe.warnings);
    assert!(probe.estimated_bytes.unwrap() > 100_000);
    assert_eq!(probe.versions["server"].split('.').next(), probe.versions["pg_dump"].split('.').next());
    let tables = ["\"Läden & mehr\".\"Kunden \"\"A\"\"\"", "public.empty_one", "public.orders"];
    assert_eq!(probe.items.iter().map(|item| item.name.as_str()).collect::<Vec<_>>(), tables);

    let dump = dumper.dump(&cx, &Selection::default()).await.unwrap();
    let report = dump.report.clone();
    let format = dump.format.clone();
    let whole = collect(dump.bytes).await.unwrap();
    let mut reported = report.get().unwrap().tables.clone();
    reported.sort();
    assert_eq!(reported, tables);
    assert!(report.get().unwrap().options.contains(&"--format=custom".to_owned()));

    let seen = PostgresInspector.inspect(&cx, &format, ByteStream::once(whole.clone())).await.unwrap();
    assert!(seen.parsed && seen.bytes == whole.len() as u64);
    assert_eq!(seen.tables, report.get().unwrap().tables);

    let target = server.free_name("varied_back");
    let warnings = restore(&target.config(), &whole, false).await.unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    assert_eq!(target.sql(FACTS), source.sql(FACTS));
    assert_eq!(server.databases(&target.name), std::slice::from_ref(&target.name), "nothing else is left");
}

#[tokio::test]
async fn dumper_and_restorer_obey_the_suites() {
    let server = Server::current();
    let source = server.database("suite");
    source.sql("CREATE TABLE t AS SELECT i, repeat(md5(i::text), 10) AS x FROM generate_series(1, 3000) i");
    dumper_suite(&PostgresDumper::new(&source.config()).unwrap()).await;

    let whole = dump_of(&source.config()).await;
    let target = server.free_name("suite_back");
    let restorer = PostgresRestorer::new(&target.config()).unwrap();
    let format = DumpFormat::new(PG_CUSTOM);
    restorer_suite(&restorer, &format, &whole, async || {
        let found = server.databases(&target.name);
        assert!(found.iter().all(|name| *name == target.name), "left behind: {found:?}");
        !found.is_empty()
    })
    .await;
    let count = "SELECT count(*), md5(string_agg(t::text, '' ORDER BY i)) FROM t";
    assert_eq!(target.sql(count), source.sql(count));
}

#[tokio::test]
async fn hostile_database_names_are_names() {
    let server = Server::current();
    for name in ["dbname=postgres host=nowhere", "a\"b'; DROP TABLE t; -- \\ é", "postgresql://x@y/z"] {
        let source = server.database(name);
        source.sql("CREATE TABLE t AS SELECT 42 AS x");
        let whole = dump_of(&source.config()).await;
        let target = server.free_name(name);
        restore(&target.config(), &whole, false).await.unwrap();
        assert_eq!(target.sql("SELECT x FROM t"), "42", "{name}");
    }
}

#[tokio::test]
async fn a_selection_is_part_of_the_dump() {
    let source = Server::current().database("selection");
    source.sql("CREATE TABLE a AS SELECT 1 x; CREATE TABLE b AS SELECT 1 x; CREATE TABLE ab AS SELECT 1 x;");
    let dumper = PostgresDumper::new(&source.config()).unwrap();
    for (include, exclude, expected) in [
        (vec!["a*"], vec![], vec!["public.a", "public.ab"]),
        (vec![], vec!["b"], vec!["public.a", "public.ab"]),
        (vec!["a*"], vec!["ab"], vec!["public.a"]),
    ] {
        let what = Selection {
            include: include.into_iter().map(str::to_owned).collect(),
            exclude: exclude.into_iter().map(str::to_owned).collect(),
        };
        let dump = dumper.dump(&Context::new(), &what).await.unwrap();
        collect(dump.bytes).await.unwrap();
        assert_eq!(dump.report.get().unwrap().tables, expected);
    }
    let nothing = Selection { include: vec!["nowhere".to_owned()], exclude: vec![] };
    let dump = dumper.dump(&Context::new(), &nothing).await.unwrap();
    assert_eq!(collect(dump.bytes).await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn extra_arguments_are_used_and_recorded() {
    let source = Server::current().database("extra");
    source.sql("CREATE TABLE t AS SELECT 1 x");
    let config = PostgresConfig { extra_args: vec!["--schema-only".to_owned()], ..source.config() };
    let dump =
        PostgresDumper::new(&config).unwrap().dump(&Context::new(), &Selection::default()).await.unwrap();
    collect(dump.bytes).await.unwrap();
    let report = dump.report.get().unwrap();
    assert!(report.options.contains(&"--schema-only".to_owned()));
    assert!(report.tables.is_empty(), "{:?}", report.tables);
}

#[tokio::test]
async fn another_encoding_and_locale_come_back() {
    let server = Server::current();
    let source = Database { server: server.clone(), name: unique("latin") };
    server.sql(
        "postgres",
        &format!(
            "CREATE DATABASE {} ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0",
            quoted(&source.name)
        ),
    );
    source.sql("CREATE TABLE t AS SELECT 'Grüße'::text AS x");
    let whole = dump_of(&source.config()).await;
    let target = server.free_name("latin_back");
    restore(&target.config(), &whole, false).await.unwrap();
    assert_eq!(target.sql("SELECT x FROM t"), "Grüße");
    let encoding = "SELECT pg_encoding_to_char(encoding), datcollate FROM pg_database WHERE datname = current_database()";
    assert_eq!(target.sql(encoding), "LATIN1|C");
}

#[tokio::test]
async fn roles_are_kept_where_they_exist_and_told_where_not() {
    let server = Server::current();
    let (owner, reader) = (unique("owner"), unique("Reader x"));
    let source = server.database("roles");
    source.sql(&format!(
        "CREATE ROLE {owner}; CREATE ROLE {reader}; CREATE TABLE t (x int); ALTER TABLE t OWNER TO {owner}; \
         GRANT SELECT ON t TO {reader};",
        reader = quoted(&reader)
    ));
    let whole = dump_of(&source.config()).await;
    let owned = "SELECT tableowner FROM pg_tables WHERE tablename = 't'";

    let kept = server.free_name("roles_kept");
    assert!(restore(&kept.config(), &whole, false).await.unwrap().is_empty());
    assert_eq!(kept.sql(owned), owner);
    let granted = format!("SELECT has_table_privilege('{reader}', 't', 'SELECT')");
    assert_eq!(kept.sql(&granted), "t");

    let dropped = server.free_name("roles_dropped");
    let config = PostgresConfig { owners: Owners::Drop, ..dropped.config() };
    restore(&config, &whole, false).await.unwrap();
    assert_eq!(dropped.sql(owned), server.user);

    drop((source, kept));
    server.sql("postgres", &format!("DROP ROLE {owner}; DROP ROLE {}", quoted(&reader)));
    let target = server.free_name("roles_missing");
    let warnings = restore(&target.config(), &whole, false).await.unwrap();
    assert!(warnings.iter().any(|text| text.contains(&owner) && text.contains(&reader)), "{warnings:?}");
    assert_eq!(target.sql(owned), server.user);

    let strict = server.free_name("roles_strict");
    let config = PostgresConfig { owners: Owners::Keep, ..strict.config() };
    assert_eq!(restore(&config, &whole, false).await.unwrap_err().kind(), ErrorKind::Tool);
    assert!(server.databases(&strict.name).is_empty());
}

#[tokio::test]
async fn an_existing_database_takes_all_or_nothing() {
    let server = Server::current();
    let source = server.database("into");
    source.sql("CREATE TABLE a AS SELECT 1 x; CREATE TABLE b AS SELECT 2 x;");
    let whole = dump_of(&source.config()).await;

    let target = server.database("into_existing");
    target.sql("CREATE TABLE b AS SELECT 'mine' AS x");
    assert_eq!(restore(&target.config(), &whole, false).await.unwrap_err().kind(), ErrorKind::Conflict);
    let error = restore(&target.config(), &whole, true).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Tool, "{error}");
    let tables =
        "SELECT string_agg(tablename, ',' ORDER BY tablename) FROM pg_tables WHERE schemaname = 'public'";
    assert_eq!(target.sql(tables), "b");
    assert_eq!(target.sql("SELECT x FROM b"), "mine");

    target.sql("DROP TABLE b; CREATE TABLE c AS SELECT 3 x");
    restore(&target.config(), &whole, true).await.unwrap();
    assert_eq!(target.sql(tables), "a,b,c");
}

#[tokio::test]
async fn a_damaged_end_changes_nothing_in_an_existing_database() {
    let server = Server::current();
    let source = server.database("tail");
    source.sql("CREATE TABLE a AS SELECT i FROM generate_series(1, 50000) i");
    let whole = dump_of(&source.config()).await;
    let target = server.database("tail_existing");
    let restorer = PostgresRestorer::new(&target.config()).unwrap();
    let cx = Context::new();
    for cut in [whole.len() - 1, whole.len()] {
        let plan = restorer.plan(&cx, request(true)).await.unwrap();
        let broken = backup_core::testing::broken(
            &DumpFormat::new(PG_CUSTOM),
            &whole.slice(..cut),
            ErrorKind::Integrity,
        );
        assert_eq!(restorer.restore(&cx, plan, broken).await.unwrap_err().kind(), ErrorKind::Integrity);
        let short = known(&DumpFormat::new(PG_CUSTOM), &whole.slice(..whole.len() - 1));
        let plan = restorer.plan(&cx, request(true)).await.unwrap();
        assert_eq!(restorer.restore(&cx, plan, short).await.unwrap_err().kind(), ErrorKind::Integrity);
        assert_eq!(target.sql("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"), "0");
    }
}

#[tokio::test]
async fn truncated_archives_are_found_by_reading_them() {
    let source = Server::current().database("truncated");
    source.sql("CREATE TABLE t AS SELECT i, md5(i::text) FROM generate_series(1, 500) i; CREATE TABLE u AS SELECT 1 x");
    let whole = dump_of(&source.config()).await;
    let format = DumpFormat::new(PG_CUSTOM);
    for len in (0..whole.len()).step_by(97).chain([whole.len() - 1]) {
        let bytes = ByteStream::once(whole.slice(..len));
        let error = PostgresInspector.inspect(&Context::new(), &format, bytes).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Integrity, "{len} of {}", whole.len());
    }
}

#[tokio::test]
async fn a_newer_server_is_served_by_its_own_programs() {
    let server = Server::newer();
    let source = server.database("newer");
    source.sql(
        "CREATE TABLE t AS SELECT i, md5(i::text) AS x FROM generate_series(1, 500) i; ANALYZE; \
         CREATE MATERIALIZED VIEW m AS SELECT count(*) FROM t; SELECT lo_from_bytea(11, 'large');",
    );
    let dumper = PostgresDumper::new(&source.config()).unwrap();
    let dump = dumper.dump(&Context::new(), &Selection::default()).await.unwrap();
    let whole = collect(dump.bytes).await.unwrap();
    let report = dump.report.get().unwrap();
    assert!(report.versions["pg_dump"].starts_with("18"), "{:?}", report.versions);
    assert_eq!(report.tables, ["public.t"]);
    let target = server.free_name("newer_back");
    restore(&target.config(), &whole, false).await.unwrap();
    let sum = "SELECT md5(string_agg(t::text, '' ORDER BY i)) FROM t; TABLE m; SELECT lo_get(11)";
    assert_eq!(target.sql(sum), source.sql(sum));

    let older = Server::current().free_name("newer_to_older");
    let error = restore(&older.config(), &whole, false).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(older.server.databases(&older.name).is_empty());
}

#[tokio::test]
async fn tls_is_verified_against_the_named_authority() {
    let server = Server::current();
    let source = server.database("tls");
    source.sql("CREATE TABLE t AS SELECT 1 x");
    let with = |authority: &str| PostgresConfig {
        sslmode: Some("verify-full".to_owned()),
        sslrootcert: Some(authority.into()),
        ..source.config()
    };
    let trusted = with(&variable("STRONGROOM_TEST_PG_CA"));
    assert!(!dump_of(&trusted).await.is_empty());
    for other in [variable("STRONGROOM_TEST_PG_OTHER_CA"), "/nowhere/ca.pem".to_owned()] {
        let dumper = PostgresDumper::new(&with(&other)).unwrap();
        let error = dumper.probe(&Context::new()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
        assert!(error.hint().unwrap().contains("sslrootcert"));
        let error = dumper.dump(&Context::new(), &Selection::default()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    }
    // The same through a URI.
    let uri = format!(
        "postgres://{}:{}@localhost:{}/{}?sslmode=verify-full&sslrootcert={}",
        server.user,
        server.password,
        server.port,
        source.name,
        variable("STRONGROOM_TEST_PG_CA")
    );
    assert!(!dump_of(&PostgresConfig::from_url(&uri).unwrap()).await.is_empty());
}

#[tokio::test]
async fn what_cannot_be_read_is_named_with_its_remedy() {
    let server = Server::current();
    let source = server.database("closed");
    let role = unique("Limited");
    source.sql(&format!(
        "CREATE ROLE {role} LOGIN PASSWORD 'limited'; CREATE SCHEMA \"S 1\"; CREATE TABLE \"S 1\".\"T 1\" (x serial); \
         CREATE TABLE open_one (x int); GRANT SELECT ON open_one TO {role};",
        role = quoted(&role)
    ));
    let config = PostgresConfig {
        user: Some(role.clone()),
        password: Some(dumpers::Secret::new("limited")),
        ..source.config()
    };
    let dumper = PostgresDumper::new(&config).unwrap();
    let cx = Context::new();
    let grants = [
        format!("GRANT USAGE ON SCHEMA \"S 1\" TO {};", quoted(&role)),
        format!("GRANT SELECT ON TABLE \"S 1\".\"T 1\" TO {};", quoted(&role)),
        format!("GRANT SELECT ON SEQUENCE \"S 1\".\"T 1_x_seq\" TO {};", quoted(&role)),
    ];
    let obstacles = dumper.probe(&cx).await.unwrap().obstacles;
    let error = dumper.dump(&cx, &Selection::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    for grant in &grants {
        assert!(obstacles.iter().any(|obstacle| obstacle.remedy == *grant), "{obstacles:?}");
        assert!(error.hint().unwrap().contains(grant), "{:?}", error.hint());
    }
    assert!(obstacles.iter().all(|obstacle| !obstacle.what.contains("open_one")), "{obstacles:?}");
    source.sql(&grants.concat());
    assert!(dumper.probe(&cx).await.unwrap().obstacles.is_empty());
    assert!(!dump_of(&config).await.is_empty());

    let target = PostgresConfig { dbname: Some(unique("never")), ..config };
    let error = PostgresRestorer::new(&target).unwrap().plan(&cx, request(false)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert!(error.hint().unwrap().contains("CREATEDB"));
    drop(source);
    server.sql("postgres", &format!("DROP ROLE {}", quoted(&role)));
}

#[tokio::test]
async fn a_dump_of_another_format_is_refused() {
    let target = Server::current().free_name("format");
    let restorer = PostgresRestorer::new(&target.config()).unwrap();
    let other = RestoreRequest { format: DumpFormat::new("raw"), ..request(false) };
    assert_eq!(restorer.plan(&Context::new(), other).await.unwrap_err().kind(), ErrorKind::Unsupported);
    let plan = restorer.plan(&Context::new(), request(false)).await.unwrap();
    let bytes = ByteStream::once("this is no archive");
    let dump = Dump {
        format: DumpFormat::new(PG_CUSTOM),
        bytes,
        report: backup_core::Settled::known(Default::default()),
    };
    let error = restorer.restore(&Context::new(), plan, dump).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Integrity);
    assert!(!target.exists());
}
