//! Dumps that somebody made to harm whoever restores them.

use backup_core::testing::known;
use backup_core::{Context, DumpFormat, ErrorKind, RestoreRequest, Restorer as _};
use bytes::Bytes;
use dumpers::bundle::{BundleReader, BundleWriter, MemberHead, Turn};
use dumpers::postgres::{PG_BUNDLE, PG_CUSTOM, PostgresConfig, PostgresRestorer};

use crate::own_server::OwnServer;
use crate::postgres::dump_of;
use crate::postgres_parallel::{parallel, restored, whole};
use crate::server::Server;

/// A bundle of these members: name, format, bytes.
fn bundle(members: &[(&str, &str, Bytes)]) -> Bytes {
    let (mut writer, mut out) = (BundleWriter::new(), Vec::new());
    for (name, format, bytes) in members {
        let id = writer.open(&MemberHead::new(*name, *format), &mut out).unwrap();
        writer.data(id, bytes.clone(), &mut out).unwrap();
        writer.close(id, &mut out).unwrap();
    }
    writer.end(&mut out).unwrap();
    out.concat().into()
}

/// A server's dump of one database with this name and these globals.
fn server_dump(name: &str, globals: &str, archive: &Bytes) -> Bytes {
    let index = serde_json::json!({ "server": "15.1", "databases": [{ "name": name, "encoding": "UTF8" }] });
    bundle(&[
        ("server.json", "postgresql-server", index.to_string().into()),
        ("globals.sql", "postgresql-globals", globals.to_owned().into()),
        (&format!("databases/{name}"), PG_CUSTOM, archive.clone()),
    ])
}

async fn restore(config: &PostgresConfig, whole: &Bytes) -> backup_core::Result<Vec<String>> {
    let format = DumpFormat::new(PG_BUNDLE);
    let restorer = PostgresRestorer::new(config).unwrap();
    let request = RestoreRequest { format: format.clone(), source_len: None, into_existing: false };
    let plan = restorer.plan(&Context::new(), request).await?;
    restorer.restore(&Context::new(), plan, known(&format, whole)).await.map(|restored| restored.warnings)
}

const SHARED: &str = "SELECT rolname, rolsuper, rolcanlogin, rolpassword FROM pg_authid WHERE rolname !~ '^pg_' ORDER BY 1; \
     SELECT roleid::regrole, member::regrole FROM pg_auth_members ORDER BY 1, 2; SELECT datname FROM pg_database ORDER BY 1;";

#[tokio::test]
async fn a_hostile_servers_dump_runs_no_program_and_touches_no_role() {
    let own = OwnServer::start("");
    let server = &own.server;
    server.sql(
        "postgres",
        "CREATE ROLE boss LOGIN PASSWORD 'boss'; CREATE ROLE friend; CREATE DATABASE source; CREATE TABLE victim (x text)",
    );
    server.sql("source", "CREATE TABLE t AS SELECT 1 AS x");
    let archive = dump_of(&server.config("source")).await;
    server.sql("postgres", "DROP DATABASE source");
    let before = server.sql("postgres", SHARED);
    let config = PostgresConfig { dbname: None, ..server.config("postgres") };
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("trace");
    let touch = format!("touch {}", trace.display());

    // What is no script of statements is refused as a whole.
    for globals in [
        format!("SET a = 1;\n\\! {touch}\n"),
        format!("SET a = 1;\n\\copy victim from program '{touch}'\n"),
        format!("COMMENT ON ROLE friend IS 'x\0';\nCOMMENT ON ROLE friend IS '\n\\! {touch}\n';\n"),
        format!("CREATE ROLE evil --\r\\! {touch}\n;\n"),
    ] {
        let error = restore(&config, &server_dump("back", &globals, &archive)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Integrity, "{globals:?}: {error}");
        assert_eq!(server.sql("postgres", SHARED), before, "{globals:?}");
    }

    // What no `pg_dumpall` writes is left out, and told.
    let globals = format!(
        "CREATE ROLE \"current_user\";\nALTER ROLE current_user WITH PASSWORD 'SCRAM-SHA-256$mine';\n\
         ALTER ROLE BOSS WITH SUPERUSER;\nCOPY victim FROM PROGRAM '{touch}';\n\
         DO $$ BEGIN EXECUTE 'COPY victim FROM PROGRAM ''{touch}'''; END $$;\n\
         ALTER SYSTEM SET archive_command TO '{touch}';\nGRANT pg_execute_server_program TO boss;\n\
         GRANT pg_execute_server_program TO \"current_user\", friend;\nGRANT friend TO boss;\n\
         CREATE ROLE sly SUPERUSER ADMIN boss;\nDROP ROLE friend;\nCOMMENT ON ROLE \"current_user\" IS '\\! {touch}';\n"
    );
    let warnings = restore(&config, &server_dump("back", &globals, &archive)).await.unwrap().join("\n");
    for kind in [
        "COPY victim",
        "ALTER SYSTEM",
        "ALTER ROLE",
        "DROP ROLE",
        "CREATE ROLE",
        "GRANT pg_execute_server_program",
    ] {
        assert!(warnings.contains(kind), "{kind}: {warnings}");
    }
    assert!(warnings.contains("was not made a member of \"pg_execute_server_program\""), "{warnings}");
    assert!(!warnings.contains("SCRAM"), "{warnings}");
    assert_eq!(
        server.sql("back", "SELECT x FROM t; SELECT count(*) FROM pg_roles WHERE rolname = 'sly'"),
        "1\n0"
    );
    server.sql("postgres", "DROP ROLE \"current_user\"; DROP DATABASE back");
    assert_eq!(server.sql("postgres", SHARED), before);
    assert_eq!(server.sql("postgres", "SELECT count(*) FROM victim; SHOW archive_command"), "0\n(disabled)");
    assert!(!trace.exists(), "a program was run");
}

#[tokio::test]
async fn names_of_members_are_names_and_no_paths() {
    let own = OwnServer::start("");
    let server = &own.server;
    server.sql("postgres", "CREATE DATABASE source");
    server.sql("source", "CREATE TABLE t AS SELECT 1 AS x");
    let archive = dump_of(&server.config("source")).await;
    let config = PostgresConfig { dbname: None, globals: Some(false), ..server.config("postgres") };
    for name in ["../../tmp/x", "/etc/passwd", "..", "a\n\\! false\nb", "x\"; DROP DATABASE source; --"] {
        restore(&config, &server_dump(name, "", &archive)).await.unwrap();
        assert_eq!(server.sql(name, "SELECT x FROM t"), "1", "{name:?}");
        assert!(server.databases("source").contains(&"source".to_owned()));
    }
    for name in ["", "a\0\n\\! false", &"x".repeat(64), &"x".repeat(5000)] {
        let refused = match name.len() {
            5000 => {
                let mut out = Vec::new();
                let head = MemberHead::new(format!("databases/{name}"), PG_CUSTOM);
                assert!(BundleWriter::new().open(&head, &mut out).is_err(), "no writer makes such a name");
                continue;
            }
            _ => restore(&config, &server_dump(name, "", &archive)).await.unwrap_err(),
        };
        assert!(
            matches!(refused.kind(), ErrorKind::Config | ErrorKind::Unsupported | ErrorKind::Integrity),
            "{name:?}: {refused}"
        );
    }
    // A member that the list does not name is passed over; one that it names must be there.
    let two = bundle(&[
        (
            "server.json",
            "postgresql-server",
            Bytes::from_static(br#"{"server": "15.1", "databases": [{"name": "../y", "encoding": "UTF8"}]}"#),
        ),
        ("databases/y", PG_CUSTOM, archive.clone()),
    ]);
    assert_eq!(restore(&config, &two).await.unwrap_err().kind(), ErrorKind::Integrity);
    assert!(server.databases("y").is_empty() && server.databases("../y").is_empty());
}

/// The same dump over several connections, with other bytes or another head for some members.
fn changed(good: &Bytes, mut change: impl FnMut(&mut MemberHead) -> Option<Bytes>) -> Bytes {
    let mut reader = BundleReader::new();
    reader.feed(good.clone());
    let (mut writer, mut out) = (BundleWriter::new(), Vec::new());
    let mut ids = std::collections::HashMap::new();
    while let Some(turn) = reader.turn().unwrap() {
        match turn {
            Turn::Open(id, mut head) => {
                let other = change(&mut head);
                let own = writer.open(&head, &mut out).unwrap();
                ids.insert(id, (own, other.is_some()));
                if let Some(bytes) = other {
                    writer.data(own, bytes, &mut out).unwrap();
                }
            }
            Turn::Data(id, _) if ids[&id].1 => {}
            Turn::Data(id, chunk) => writer.data(ids[&id].0, chunk, &mut out).unwrap(),
            Turn::Close(id) => writer.close(ids[&id].0, &mut out).unwrap(),
            Turn::Abandon(id) => writer.abandon(ids[&id].0, &mut out).unwrap(),
        }
    }
    writer.end(&mut out).unwrap();
    out.concat().into()
}

#[tokio::test]
async fn a_hostile_dump_over_several_connections_is_refused() {
    let server = Server::current();
    let source = server.database("hostile_several");
    source.sql("CREATE TABLE t AS SELECT 1 AS x; CREATE SEQUENCE s; SELECT nextval('s')");
    let good = whole(&parallel(&source, 2)).await;
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("trace");
    let touch = format!("touch {}", trace.display());
    let target = server.free_name("hostile_several_back");
    let refused = async |whole: &Bytes, what: &str| {
        let error = restored(&target.config(), whole).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Integrity, "{what}: {error}");
        assert!(error.what().contains(what), "{what}: {error}");
        assert!(server.databases(&target.name).is_empty(), "left behind");
    };
    for script in [
        format!("COPY t FROM PROGRAM '{touch}';\n"),
        format!(
            "SELECT pg_catalog.setval('public.s', 1, true);\nDO $$ BEGIN EXECUTE 'COPY t FROM PROGRAM ''{touch}'''; END $$;\n"
        ),
    ] {
        let bad = changed(&good, |head| (head.name == "sequences").then(|| script.clone().into()));
        refused(&bad, "a statement that sets none").await;
    }
    let meta = format!("SELECT 1;\n\\! {touch}\n");
    let bad = changed(&good, |head| (head.name == "sequences").then(|| meta.clone().into()));
    refused(&bad, "a command to psql").await;
    let statement = format!("COPY public.t (x) FROM STDIN; \\! {touch}");
    let bad = changed(&good, |head| {
        if let Some(restore) = head.meta.get_mut("restore") {
            restore.clone_from(&statement);
        }
        None
    });
    refused(&bad, "a command to psql").await;
    assert!(!trace.exists(), "a program was run");

    // Each open member costs a session: no more than any dump opens.
    let (mut reader, mut writer, mut out) = (BundleReader::new(), BundleWriter::new(), Vec::new());
    reader.feed(good.clone());
    let mut open = None;
    while let Some(turn) = reader.turn().unwrap() {
        match turn {
            Turn::Open(_, head) if head.name == "pre-data" => {
                open = Some(writer.open(&head, &mut out).unwrap());
            }
            Turn::Open(_, head) if head.meta.contains_key("restore") => {
                for n in 0..18 {
                    let head = MemberHead { name: format!("data/1/{n}"), ..head.clone() };
                    let id = writer.open(&head, &mut out).unwrap();
                    writer.data(id, Bytes::from_static(b"1\n"), &mut out).unwrap();
                }
                break;
            }
            Turn::Data(_, chunk) => writer.data(open.unwrap(), chunk, &mut out).unwrap(),
            Turn::Close(_) => writer.close(open.unwrap(), &mut out).unwrap(),
            other => panic!("{other:?}"),
        }
    }
    refused(&out.concat().into(), "are open at a time").await;
}
