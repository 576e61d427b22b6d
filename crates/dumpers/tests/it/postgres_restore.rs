//! What a restore into PostgreSQL takes along, leaves out and cleans up.

use backup_core::testing::known;
use backup_core::{Context, DumpFormat, ErrorKind, Restorer as _};
use dumpers::postgres::{PG_CUSTOM, PostgresConfig, PostgresRestorer};

use crate::postgres::{dump_of, request, restore};
use crate::server::{Server, quoted, unique};

/// What is said of a database as a whole.
const LEVEL: &str = r"
SELECT datconnlimit, shobj_description(oid, 'pg_database'), pg_get_userbyid(datdba), datacl::text
FROM pg_database WHERE datname = current_database();
SELECT setrole::regrole, setconfig FROM pg_db_role_setting
WHERE setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database()) ORDER BY 1;";

#[tokio::test]
async fn settings_of_the_database_come_along_under_another_name() {
    for server in [Server::current(), Server::version(14), Server::version(18)] {
        let role = unique("Level owner");
        let source = server.database("level DATABASE \"x\"");
        let name = quoted(&source.name);
        let owner = quoted(&role);
        source.sql(&format!(
            "CREATE ROLE {owner}; ALTER DATABASE {name} OWNER TO {owner}; ALTER DATABASE {name} SET work_mem = '17MB';
             ALTER DATABASE {name} SET search_path = 'a', 'DATABASE {name}';
             ALTER ROLE {owner} IN DATABASE {name} SET application_name = 'it''s';
             COMMENT ON DATABASE {name} IS 'about \"it\"; \\! true'; ALTER DATABASE {name} CONNECTION LIMIT 7;
             REVOKE ALL ON DATABASE {name} FROM PUBLIC; GRANT CONNECT ON DATABASE {name} TO {owner};
             CREATE TABLE t AS SELECT 1 x;"
        ));
        let whole = dump_of(&source.config()).await;
        let target = server.free_name("level back");
        let warnings = restore(&target.config(), &whole, false).await.unwrap();
        assert!(warnings.is_empty(), "{warnings:?}");
        assert_eq!(target.sql(LEVEL), source.sql(LEVEL));

        drop((source, target));
        server.sql("postgres", &format!("DROP ROLE {owner}"));
        let target = server.free_name("level without");
        let warnings = restore(&target.config(), &whole, false).await.unwrap().join("\n");
        assert!(warnings.contains(&format!("role {role:?} does not exist here")), "{warnings}");
        assert_eq!(target.sql("SHOW work_mem"), "17MB");
        let said = target.sql(LEVEL);
        assert!(said.starts_with(&format!("7|about \"it\"; \\! true|{}|", server.user)), "{said}");
    }
}

#[tokio::test]
async fn a_restore_has_its_options() {
    let server = Server::current();
    let (owner, reader) = (unique("opt_owner"), unique("opt_reader"));
    let source = server.database("options");
    source.sql(&format!(
        "CREATE ROLE {owner}; CREATE ROLE {reader}; CREATE SCHEMA s; GRANT CREATE ON SCHEMA s TO {owner}; \
         CREATE TABLE s.a (x int PRIMARY KEY); CREATE TABLE s.b AS SELECT 2 x; CREATE TABLE z AS SELECT 3 x;
         INSERT INTO s.a VALUES (1); GRANT SELECT ON z TO {reader};"
    ));
    let whole = dump_of(&source.config()).await;
    let tables = "SELECT string_agg(schemaname || '.' || tablename || ':' || tableowner, ' ' ORDER BY 1) FROM pg_tables \
                  WHERE schemaname IN ('s', 'public')";
    let all = |owner: &str| format!("s.a:{owner} s.b:{owner} public.z:{owner}");
    let granted = format!("SELECT has_table_privilege('{reader}', 'z', 'SELECT')");

    let target = server.free_name("options_plain");
    restore(&target.config(), &whole, false).await.unwrap();
    assert_eq!(target.sql(&granted), "t");

    let target = server.free_name("options_unprivileged");
    let config = PostgresConfig { no_privileges: true, single_transaction: true, ..target.config() };
    restore(&config, &whole, false).await.unwrap();
    assert_eq!(target.sql(&granted), "f");
    assert_eq!(sorted(&target.sql(tables)), sorted(&all(&server.user)));

    // Everything belongs to the role, which may do that.
    let target = server.free_name("options_role");
    server.sql("postgres", &format!("ALTER ROLE {owner} SUPERUSER"));
    let config = PostgresConfig {
        role: Some(owner.clone()),
        owners: dumpers::postgres::Owners::Drop,
        ..target.config()
    };
    restore(&config, &whole, false).await.unwrap();
    assert_eq!(sorted(&target.sql(tables)), sorted(&all(&owner)));

    // Into what exists: clean replaces what the dump holds and leaves the rest.
    let target = server.database("options_clean");
    target.sql("CREATE TABLE z (other text); CREATE TABLE mine AS SELECT 9 x");
    let error = restore(&target.config(), &whole, true).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Tool, "{error}");
    let config = PostgresConfig { clean: true, ..target.config() };
    restore(&config, &whole, true).await.unwrap();
    assert_eq!(target.sql("SELECT x FROM z; SELECT x FROM mine; SELECT x FROM s.a"), "3\n9\n1");
    let fresh = PostgresConfig { clean: true, ..server.free_name("never").config() };
    let error =
        PostgresRestorer::new(&fresh).unwrap().plan(&Context::new(), request(false)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);

    drop((source, target));
    for config in server.databases("options_") {
        server.sql("postgres", &format!("DROP DATABASE {}", quoted(&config)));
    }
    server.sql("postgres", &format!("DROP ROLE {owner}; DROP ROLE {reader}"));
}

fn sorted(text: &str) -> Vec<&str> {
    let mut words: Vec<&str> = text.split(' ').collect();
    words.sort_unstable();
    words
}

#[tokio::test]
async fn incident_53_a_table_or_a_schema_comes_out_of_a_whole_dump() {
    let server = Server::current();
    let source = server.database("partial");
    // Much after the wanted table, so that pg_restore ends before the dump does.
    source.sql(
        "CREATE SCHEMA s; CREATE TABLE s.a AS SELECT i x FROM generate_series(1, 500) i; CREATE TABLE s.b AS SELECT 2 x; \
         CREATE TABLE z AS SELECT i, repeat(md5(i::text), 30) FROM generate_series(1, 30000) i;",
    );
    let whole = dump_of(&source.config()).await;
    let names = "SELECT string_agg(schemaname || '.' || tablename, ' ') FROM pg_tables WHERE schemaname IN ('s', 'public')";

    let target = server.free_name("partial_table");
    let config = PostgresConfig { tables: vec!["z".into()], ..target.config() };
    restore(&config, &whole, false).await.unwrap();
    assert_eq!(target.sql(names), "public.z");
    assert_eq!(target.sql("SELECT count(*) FROM z"), "30000");

    let target = server.free_name("partial_schema");
    let config = PostgresConfig { schemas: vec!["s".into()], tables: vec!["a".into()], ..target.config() };
    restore(&config, &whole, false).await.unwrap();
    assert_eq!(target.sql(names), "s.a");

    let target = server.free_name("partial_nothing");
    let config = PostgresConfig { tables: vec!["nowhere".into()], ..target.config() };
    let error = restore(&config, &whole, false).await.unwrap_err();
    assert!(error.what().contains("nowhere"), "{error}");
    assert!(server.databases(&target.name).is_empty());

    // A damaged end is found although pg_restore did not want it.
    let config = PostgresConfig { tables: vec!["z".into()], ..target.config() };
    let restorer = PostgresRestorer::new(&config).unwrap();
    let plan = restorer.plan(&Context::new(), request(false)).await.unwrap();
    assert!(plan.steps().iter().any(|step| step.contains("without their indexes")), "{:?}", plan.steps());
    let broken = backup_core::testing::broken(&DumpFormat::new(PG_CUSTOM), &whole, ErrorKind::Integrity);
    let error = restorer.restore(&Context::new(), plan, broken).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Integrity);
    assert!(server.databases(&target.name).is_empty());

    let existing = server.database("partial_existing");
    let config = PostgresConfig { tables: vec!["z".into()], ..existing.config() };
    let restorer = PostgresRestorer::new(&config).unwrap();
    let error = restorer.plan(&Context::new(), request(true)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
}

#[tokio::test]
async fn what_an_interrupted_restore_left_is_named_and_dropped_when_told() {
    let server = Server::current();
    let source = server.database("left");
    source.sql("CREATE TABLE t AS SELECT 1 x");
    let whole = dump_of(&source.config()).await;
    let target = server.free_name("left_back");
    let leftover = |mark: &str, suffix: &str| {
        let name = format!("{}_strongroom_{suffix}", target.name);
        let quoted = quoted(&name);
        server.sql("postgres", &format!("CREATE DATABASE {quoted}"));
        if !mark.is_empty() {
            server.sql("postgres", &format!("COMMENT ON DATABASE {quoted} IS '{mark}'"));
        }
        name
    };
    let now = now_seconds();
    let begun = |ago: u64| format!("strongroom: unfinished restore begun at {}", now - ago);
    let old = leftover(&begun(90_000), "00000001");
    let used = leftover(&begun(90_000), "00000002");
    let young = leftover(&begun(60), "00000003");
    let foreign = leftover("", "00000004");
    let session = server.session(&used, "SELECT 1;\n");
    while server.sql("postgres", &format!("SELECT count(*) FROM pg_stat_activity WHERE datname = '{used}'"))
        == "0"
    {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }

    let plan = async |config: &PostgresConfig| {
        let restorer = PostgresRestorer::new(config).unwrap();
        let plan = restorer.plan(&Context::new(), request(false)).await.unwrap();
        (restorer, plan)
    };
    let (_, looked) = plan(&target.config()).await;
    let steps = looked.steps().join("\n");
    for name in [&old, &used, &young, &foreign] {
        assert!(steps.contains(name.as_str()), "{steps}");
    }
    assert!(steps.contains(&format!("DROP DATABASE \"{old}\"")), "{steps}");

    let (restorer, plan) = plan(&PostgresConfig { drop_leftovers: true, ..target.config() }).await;
    let dump = known(&DumpFormat::new(PG_CUSTOM), &whole);
    let restored = restorer.restore(&Context::new(), plan, dump).await.unwrap();
    assert!(restored.warnings.join("\n").contains(&format!("dropped \"{old}\"")), "{:?}", restored.warnings);
    let mut expected = vec![target.name.clone(), used.clone(), young.clone(), foreign.clone()];
    expected.sort();
    let mut left = server.databases(&target.name);
    left.sort();
    assert_eq!(left, expected);
    drop(session);
    for name in [used, young, foreign] {
        server.sql("postgres", &format!("DROP DATABASE \"{name}\" WITH (FORCE)"));
    }
}

fn now_seconds() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}
