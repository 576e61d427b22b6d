//! Whole servers: every database with what they share, and back.

use backup_core::testing::{collect, dumper_suite, inspector_suite, known, restorer_suite};
use backup_core::{
    ByteStream, Context, DumpFormat, Dumper as _, ErrorKind, RestoreRequest, Restorer as _, Selection,
};
use bytes::Bytes;
use dumpers::postgres::{
    PG_BUNDLE, PostgresClusterDumper, PostgresClusterInspector, PostgresConfig, PostgresRestorer,
};

use crate::own_server::OwnServer;
use crate::server::{Server, quoted, unique, variable};

/// Two databases and what they share; the names are hostile, one text is not UTF-8.
fn filled() -> OwnServer {
    let own = OwnServer::start("");
    own.server.sql(
        "postgres",
        "CREATE ROLE \"Own er\" LOGIN PASSWORD 'geheim'; CREATE ROLE readers; GRANT readers TO \"Own er\" WITH ADMIN OPTION;
         ALTER ROLE \"Own er\" SET work_mem = '3MB'; COMMENT ON ROLE readers IS '\\! touch /tmp/x; it''s';
         CREATE DATABASE \"shop \"\"1\"\" /x\" OWNER \"Own er\"; CREATE DATABASE latin ENCODING 'LATIN1' LC_COLLATE 'C'
         LC_CTYPE 'C' TEMPLATE template0; CREATE DATABASE empty_one;
         ALTER DATABASE latin SET work_mem = '5MB';",
    );
    own.server.sql(
        "shop \"1\" /x",
        "CREATE TABLE t AS SELECT i, md5(i::text) FROM generate_series(1, 2000) i; ALTER TABLE t OWNER TO \"Own er\"; \
         GRANT SELECT ON t TO readers;",
    );
    own.server.sql("latin", "CREATE TABLE t AS SELECT 'Grüße'::text AS x");
    own
}

fn whole(server: &Server) -> PostgresConfig {
    PostgresConfig {
        databases: vec!["*".to_owned()],
        globals: Some(true),
        dbname: None,
        ..server.config("postgres")
    }
}

async fn dump_of(config: &PostgresConfig) -> (Bytes, backup_core::DumpReport) {
    let dumper = PostgresClusterDumper::new(config).unwrap();
    let dump = dumper.dump(&Context::new(), &Selection::default()).await.unwrap();
    assert_eq!(dump.format.as_str(), PG_BUNDLE);
    let bytes = collect(dump.bytes).await.unwrap();
    (bytes, dump.report.get().unwrap().clone())
}

fn request() -> RestoreRequest {
    RestoreRequest { format: DumpFormat::new(PG_BUNDLE), source_len: None, into_existing: false }
}

async fn restore(config: &PostgresConfig, whole: &Bytes) -> backup_core::Result<Vec<String>> {
    let restorer = PostgresRestorer::new(config).unwrap();
    let cx = Context::new();
    let plan = restorer.plan(&cx, request()).await?;
    let restored = restorer.restore(&cx, plan, known(&DumpFormat::new(PG_BUNDLE), whole)).await?;
    assert_eq!(restored.bytes, whole.len() as u64);
    Ok(restored.warnings)
}

const SHARED: &str = "SELECT rolname, a.rolcanlogin, a.rolpassword, rolconfig, shobj_description(a.oid, 'pg_authid') \
     FROM pg_authid a JOIN pg_roles USING (rolname) WHERE rolname IN ('Own er', 'readers') ORDER BY 1; \
     SELECT member::regrole, roleid::regrole, admin_option FROM pg_auth_members \
     WHERE roleid = 'readers'::regrole AND member = '\"Own er\"'::regrole;";

#[tokio::test]
async fn incident_54_a_whole_server_moves_to_a_newer_one() {
    let old = filled();
    let probe =
        PostgresClusterDumper::new(&whole(&old.server)).unwrap().probe(&Context::new()).await.unwrap();
    assert!(probe.obstacles.is_empty(), "{:?}", probe.obstacles);
    let items: Vec<&str> = probe.items.iter().map(|item| item.name.as_str()).collect();
    assert_eq!(items, ["latin.public.t", "\"shop \"\"1\"\" /x\".public.t"]);

    let (bytes, report) = dump_of(&whole(&old.server)).await;
    assert_eq!(report.tables, items);
    assert!(report.versions.contains_key("pg_dumpall") && report.versions.contains_key("pg_dump"));
    let seen = backup_core::Inspector::inspect(
        &PostgresClusterInspector,
        &Context::new(),
        &DumpFormat::new(PG_BUNDLE),
        ByteStream::once(bytes.clone()),
    )
    .await
    .unwrap();
    assert!(seen.parsed && seen.tables == items && seen.bytes == bytes.len() as u64, "{seen:?}");

    let new = OwnServer::of(variable("STRONGROOM_TEST_PG18_BIN").as_ref(), "");
    let config = PostgresConfig { dbname: None, ..new.server.config("postgres") };
    // The programs of the newer server read what the older ones wrote.
    let warnings = restore(&config, &bytes).await.unwrap();
    assert!(
        warnings.iter().all(|warning| warning.contains("\"strongroom\"")),
        "only the superuser exists on both: {warnings:?}"
    );
    let names =
        "SELECT datname, pg_get_userbyid(datdba), pg_encoding_to_char(encoding) FROM pg_database ORDER BY 1";
    assert_eq!(new.server.sql("postgres", names), old.server.sql("postgres", names));
    assert_eq!(new.server.sql("postgres", SHARED), old.server.sql("postgres", SHARED));
    let table = "SELECT md5(string_agg(t::text, '|' ORDER BY t::text)) FROM t; SELECT relowner::regrole, relacl FROM pg_class \
                 WHERE relname = 't'; SHOW work_mem";
    for database in ["shop \"1\" /x", "latin"] {
        let owners = new.server.sql(database, table);
        let expected = old.server.sql(database, table);
        // A newer server has one more privilege on tables.
        assert_eq!(
            owners.replace("arwdDxtm", "arwdDxt"),
            expected.replace("arwdDxtm", "arwdDxt"),
            "{database}"
        );
    }

    // Again, where everything exists: nothing is touched, unless under other names.
    let error = restore(&config, &bytes).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.what().contains("latin") && error.hint().unwrap().contains("database_prefix"), "{error}");
    new.server.sql("postgres", "ALTER ROLE \"Own er\" NOLOGIN CREATEDB");
    let again = PostgresConfig {
        database_prefix: Some("again ".to_owned()),
        rename_databases: vec!["latin=Kopie".to_owned()],
        exclude_databases: vec!["empty*".to_owned()],
        ..config.clone()
    };
    let warnings = restore(&again, &bytes).await.unwrap().join("\n");
    assert!(
        warnings
            .contains("role \"Own er\" exists and was kept as it is; in the dump it is NOCREATEDB, LOGIN"),
        "{warnings}"
    );
    assert_eq!(new.server.databases("again "), ["again Kopie", "again shop \"1\" /x"]);

    // One of them, under the name of the target.
    let one = PostgresConfig {
        databases: vec!["lat?n".to_owned()],
        globals: Some(false),
        ..new.server.config("just one")
    };
    restore(&one, &bytes).await.unwrap();
    assert_eq!(new.server.sql("just one", "SELECT x FROM t"), "Grüße");
    let ambiguous = PostgresConfig { databases: vec![], ..new.server.config("only one") };
    assert_eq!(restore(&ambiguous, &bytes).await.unwrap_err().kind(), ErrorKind::Config);
    let unknown = PostgresConfig { databases: vec!["nowhere".to_owned()], ..config.clone() };
    let error = restore(&unknown, &bytes).await.unwrap_err();
    assert!(error.kind() == ErrorKind::NotFound && error.hint().unwrap().contains("latin"), "{error}");
}

#[tokio::test]
async fn a_damaged_server_dump_leaves_nothing() {
    let old = filled();
    let (bytes, _) = dump_of(&whole(&old.server)).await;
    let new = OwnServer::start("");
    let config = PostgresConfig { dbname: None, ..new.server.config("postgres") };
    let before = new
        .server
        .sql("postgres", "SELECT datname FROM pg_database UNION ALL SELECT rolname FROM pg_roles ORDER BY 1");
    let restorer = PostgresRestorer::new(&config).unwrap();
    let format = DumpFormat::new(PG_BUNDLE);
    for (cut, broken) in
        [(bytes.len(), true), (bytes.len() - 1, false), (bytes.len() - 9000, false), (3, false)]
    {
        let plan = restorer.plan(&Context::new(), request()).await.unwrap();
        let part = bytes.slice(..cut);
        let dump = if broken {
            backup_core::testing::broken(&format, &part, ErrorKind::Integrity)
        } else {
            known(&format, &part)
        };
        let error = restorer.restore(&Context::new(), plan, dump).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Integrity, "{cut}: {error}");
        let after = new.server.sql(
            "postgres",
            "SELECT datname FROM pg_database UNION ALL SELECT rolname FROM pg_roles ORDER BY 1",
        );
        assert_eq!(after, before, "{cut}");
    }
    inspector_suite(&PostgresClusterInspector, &format, &bytes).await;
}

#[tokio::test]
async fn databases_are_chosen_and_mistakes_are_named() {
    let server = Server::current();
    let prefix = unique("chosen");
    let (first, second) = (server.database(&format!("{prefix}_a")), server.database(&format!("{prefix}_b")));
    first.sql("CREATE TABLE t AS SELECT i, repeat(md5(i::text), 10) AS x FROM generate_series(1, 3000) i");
    let config = |databases: &[&str], exclude: &[&str]| PostgresConfig {
        databases: databases.iter().map(|name| (*name).to_owned()).collect(),
        exclude_databases: exclude.iter().map(|name| (*name).to_owned()).collect(),
        ..server.config("postgres")
    };
    let pattern = format!("{prefix}_*");
    dumper_suite(&PostgresClusterDumper::new(&config(&[&pattern], &[])).unwrap()).await;
    let (bytes, _) = dump_of(&config(&[&pattern], &[])).await;
    let back = server.free_name("chosen_back");
    let target = PostgresConfig { databases: vec![first.name.clone()], ..back.config() };
    let restorer = PostgresRestorer::new(&target).unwrap();
    restorer_suite(&restorer, &DumpFormat::new(PG_BUNDLE), &bytes, async || {
        let found = server.databases(&back.name);
        assert!(found.iter().all(|name| *name == back.name), "left behind: {found:?}");
        !found.is_empty()
    })
    .await;
    let (_, report) = dump_of(&config(&[&pattern], &["*_b_*"])).await;
    assert_eq!(report.tables, [format!("{}.public.t", first.name)]);

    let refused = async |config: &PostgresConfig| {
        let dumper = PostgresClusterDumper::new(config).unwrap();
        dumper.dump(&Context::new(), &Selection::default()).await.unwrap_err()
    };
    for bad in
        [config(&["nowhere_*"], &[]), config(&[&pattern], &["nowhere"]), config(&[&pattern], &[&pattern])]
    {
        assert_eq!(refused(&bad).await.kind(), ErrorKind::NotFound);
    }
    // A database that nobody may enter is not left out in silence.
    server.sql("postgres", &format!("ALTER DATABASE {} ALLOW_CONNECTIONS false", quoted(&second.name)));
    let error = refused(&config(&[&pattern], &[])).await;
    assert!(error.kind() == ErrorKind::Denied && error.what().contains("ALLOW_CONNECTIONS true"), "{error}");
    server.sql("postgres", &format!("ALTER DATABASE {} ALLOW_CONNECTIONS true", quoted(&second.name)));

    // Dropped while the first was dumped.
    let dumper = PostgresClusterDumper::new(&config(&[&pattern], &[])).unwrap();
    let mut dump = dumper.dump(&Context::new(), &Selection::default()).await.unwrap();
    dump.bytes.next().await.unwrap().unwrap();
    server.sql("postgres", &format!("DROP DATABASE {}", quoted(&second.name)));
    let error = collect(dump.bytes).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(dump.report.get().is_none());
}

#[tokio::test]
async fn password_hashes_are_for_those_who_may_read_them() {
    let own = OwnServer::start("");
    own.server.sql(
        "postgres",
        "CREATE ROLE limited LOGIN PASSWORD 'limited'; CREATE DATABASE d; \
         CREATE ROLE other PASSWORD 'other';",
    );
    // Whoever may read all data may read these too.
    own.server.sql("d", "CREATE TABLE t AS SELECT 1 x; GRANT SELECT ON t TO limited");
    let config = PostgresConfig {
        user: Some("limited".to_owned()),
        password: Some(dumpers::Secret::new("limited")),
        ..whole(&own.server)
    };
    let dumper = PostgresClusterDumper::new(&config).unwrap();
    let error = dumper.dump(&Context::new(), &Selection::default()).await.unwrap_err();
    let hint = error.hint().unwrap();
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert!(hint.contains("role_passwords = false"), "{hint}");
    let grant = hint.split("superuser: ").nth(1).unwrap();
    assert!(
        dumper.probe(&Context::new()).await.unwrap().obstacles.iter().any(|it| it.remedy.contains(grant))
    );

    let without = PostgresConfig { role_passwords: Some(false), ..config.clone() };
    let (bytes, report) = dump_of(&without).await;
    assert!(report.options.contains(&"--no-role-passwords".to_owned()), "{:?}", report.options);
    let text = String::from_utf8_lossy(&bytes).into_owned();
    assert!(text.contains("CREATE ROLE other") && !text.contains("SCRAM"));

    own.server.sql("postgres", grant);
    let (bytes, _) = dump_of(&config).await;
    assert!(String::from_utf8_lossy(&bytes).contains("SCRAM"));
}
