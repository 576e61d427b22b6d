//! The temporary databases of restores: whose they are, what is left of them, what becomes of them where
//! an answer is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use backup_core::testing::known;
use backup_core::{
    ByteStream, Context, Dump, DumpFormat, Error, ErrorKind, RestoreRequest, Restored, Restorer as _, Settled,
};
use bytes::Bytes;
use dumpers::Secret;
use dumpers::postgres::{PG_BUNDLE, PG_CUSTOM, PostgresClusterDumper, PostgresConfig, PostgresRestorer};
use futures::StreamExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use crate::own_server::OwnServer;
use crate::postgres::{dump_of, restore};
use crate::server::{Server, quoted, unique};

/// A dump that stops before its last bytes until told how it goes on.
fn held(format: &str, whole: &Bytes, but: usize) -> (Dump, oneshot::Sender<Result<(), Error>>) {
    let (tell, told) = oneshot::channel::<Result<(), Error>>();
    let (first, last) = (whole.slice(..whole.len() - but), whole.slice(whole.len() - but..));
    let rest = async move { told.await.expect("it goes on").map(|()| last) };
    // The last piece is held back until the end is known.
    let pieces: Vec<_> = first.chunks(1000).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    let bytes = futures::stream::iter(pieces).chain(futures::stream::once(rest));
    let report = Settled::known(Default::default());
    (Dump { format: DumpFormat::new(format), bytes: ByteStream::new(bytes), report }, tell)
}

fn start(config: &PostgresConfig, dump: Dump) -> tokio::task::JoinHandle<backup_core::Result<Restored>> {
    let restorer = PostgresRestorer::new(config).unwrap();
    tokio::spawn(async move {
        let request = RestoreRequest { format: dump.format.clone(), source_len: None, into_existing: false };
        let plan = restorer.plan(&Context::new(), request).await?;
        restorer.restore(&Context::new(), plan, dump).await
    })
}

/// The temporary database of a target, once something is in it.
async fn draft(server: &Server, target: &str) -> String {
    for _ in 0..600 {
        let names = server.databases(&format!("{target}_strongroom_"));
        let filled = names.iter().find(|name| {
            server.try_sql(name, "SELECT count(*) FROM pg_class WHERE relname = 't'").as_deref() == Ok("1")
        });
        if let Some(name) = filled {
            return name.clone();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("no temporary database of {target}");
}

async fn until(server: &Server, question: &str) {
    for _ in 0..600 {
        if server.sql("postgres", question) == "t" {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {question}");
}

/// A source, and a role without rights beyond making databases.
async fn plain_role(name: &str) -> (Server, Bytes, PostgresConfig, String) {
    let server = Server::current();
    let source = server.database(name);
    source.sql("CREATE TABLE t AS SELECT 1 AS x; CREATE TABLE u AS SELECT repeat('x', 100000) AS x");
    let whole = dump_of(&source.config()).await;
    let role = unique(name);
    server.sql("postgres", &format!("CREATE ROLE {role} LOGIN CREATEDB PASSWORD 'plain'"));
    let config = PostgresConfig {
        user: Some(role.clone()),
        password: Some(Secret::new("plain")),
        ..server.config(&unique(&format!("{name}_back")))
    };
    (server, whole, config, role)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plain_role_drops_its_draft_although_others_are_in_it() {
    let (server, whole, config, role) = plain_role("plain_drop").await;
    let target = config.dbname.clone().unwrap();
    let (dump, tell) = held(PG_CUSTOM, &whole, 10);
    let restoring = start(&config, dump);
    let name = draft(&server, &target).await;
    // As autovacuum is: a session that this role may not end, which goes by itself.
    let other = server.session(&name, "SELECT pg_sleep(600);\n");
    until(
        &server,
        &format!(
            "SELECT count(*) = 1 FROM pg_stat_activity WHERE datname = '{name}' AND usename = '{}'",
            server.user
        ),
    )
    .await;
    tell.send(Err(Error::new(ErrorKind::Integrity, "dump", "broken for a test"))).unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    drop(other);
    server.sql("postgres", &format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}' AND usename <> '{role}'"));
    let error = restoring.await.unwrap().map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Integrity, "{error}");
    assert!(!error.hint().unwrap_or_default().contains("could not be dropped"), "{:?}", error.hint());
    assert_eq!(server.databases(&target), [""; 0]);
    server.sql("postgres", &format!("DROP ROLE {role}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_draft_that_cannot_be_dropped_is_named_before_other_hints() {
    let (server, whole, config, role) = plain_role("plain_left").await;
    let target = config.dbname.clone().unwrap();
    let (dump, tell) = held(PG_CUSTOM, &whole, 10);
    let restoring = start(&config, dump);
    let name = draft(&server, &target).await;
    server.sql("postgres", &format!("ALTER DATABASE {} OWNER TO {}", quoted(&name), server.user));
    let broken = Error::new(ErrorKind::Integrity, "dump", "broken for a test").with_hint("the first hint");
    tell.send(Err(broken)).unwrap();
    let error = restoring.await.unwrap().map(drop).unwrap_err();
    let hint = error.hint().unwrap();
    assert_eq!(error.kind(), ErrorKind::Integrity, "{error}");
    assert!(hint.starts_with(&format!("the temporary database {name:?} could not be dropped")), "{hint}");
    assert!(hint.contains("it holds restored data") && hint.ends_with("; the first hint"), "{hint}");
    server.sql("postgres", &format!("DROP DATABASE {} WITH (FORCE)", quoted(&name)));
    server.sql("postgres", &format!("DROP ROLE {role}"));
}

/// A day and an hour ago, as a restore would have written it.
fn long_ago(server: &Server, database: &str, number: &str) {
    server.sql(
        "postgres",
        &format!(
            "SELECT format('COMMENT ON DATABASE %I IS %L', '{database}', 'strongroom: unfinished restore begun at ' \
             || extract(epoch FROM now())::bigint - 90000 || ' by {number}') \\gexec"
        ),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_under_way_for_days_is_not_taken_for_dead() {
    let server = Server::current();
    let prefix = unique("alive");
    let databases: Vec<_> = ["a", "b"].map(|name| server.database(&format!("{prefix}_{name}"))).into();
    databases[0].sql("CREATE TABLE t AS SELECT 1 AS x");
    databases[1].sql("CREATE TABLE t AS SELECT 2 AS x");
    let config = PostgresConfig { databases: vec![format!("{prefix}_*")], ..server.config("postgres") };
    let dumper = PostgresClusterDumper::new(&config).unwrap();
    let dump = backup_core::Dumper::dump(&dumper, &Context::new(), &Default::default()).await.unwrap();
    let whole = backup_core::testing::collect(dump.bytes).await.unwrap();
    // Two databases; the first is whole and nobody is in it while the second waits for its first byte.
    let target = PostgresConfig { database_prefix: Some("Back ".to_owned()), dbname: None, ..config.clone() };
    let member = format!("{{\"name\":\"databases/{}\"", databases[1].name);
    let at = whole.windows(member.len()).position(|bytes| bytes == member.as_bytes()).expect("its head");
    let (dump, tell) = held(PG_BUNDLE, &whole, whole.len() - at);
    let restoring = start(&target, dump);
    let first = draft(&server, &format!("Back {}", databases[0].name)).await;
    let number = server.sql(
        "postgres",
        &format!("SELECT substring(shobj_description(oid, 'pg_database') FROM 'begun at [0-9]+ by ([0-9a-f]{{8}})$') \
                  FROM pg_database WHERE datname = '{first}'"),
    );
    assert_eq!(number.len(), 8, "{number:?}");
    until(&server, &format!("SELECT count(*) = 0 FROM pg_stat_activity WHERE datname = '{first}'")).await;
    long_ago(&server, &first, &number);
    let dead = format!("{first}_strongroom_00000001");
    let dead = format!("dead{}", &dead[dead.len() - 21..]);
    server.sql("postgres", &format!("CREATE DATABASE {}", quoted(&dead)));
    long_ago(&server, &dead, "00000000");

    let small = server.database("alive_small");
    small.sql("CREATE TABLE t AS SELECT 3 AS x");
    let back = server.free_name("alive_small_back");
    let config = PostgresConfig { drop_leftovers: true, ..back.config() };
    let restorer = PostgresRestorer::new(&config).unwrap();
    let request =
        RestoreRequest { format: DumpFormat::new(PG_CUSTOM), source_len: None, into_existing: false };
    let plan = restorer.plan(&Context::new(), request).await.unwrap();
    let steps = plan.steps().join("\n");
    assert!(steps.contains(&format!("database {first:?} belongs to a restore that is under way")), "{steps}");
    assert!(steps.contains(&format!("drop {dead:?}")), "{steps}");
    let dump = known(&DumpFormat::new(PG_CUSTOM), &dump_of(&small.config()).await);
    let warnings = restorer.restore(&Context::new(), plan, dump).await.unwrap().warnings.join("\n");
    assert!(warnings.contains(&format!("dropped {dead:?}")) && !warnings.contains(&first), "{warnings}");

    tell.send(Ok(())).unwrap();
    restoring.await.unwrap().unwrap();
    for (database, expected) in databases.iter().zip(["1", "2"]) {
        let name = format!("Back {}", database.name);
        assert_eq!(server.sql(&name, "SELECT x FROM t"), expected);
        server.sql("postgres", &format!("DROP DATABASE {} WITH (FORCE)", quoted(&name)));
    }
    let ended = format!(
        "SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'strongroom restore {number}'"
    );
    until(&server, &ended).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_an_unknown_locale_is_replaced() {
    let server = Server::current();
    let source = server.free_name("locale");
    server.sql(
        "postgres",
        &format!(
            "CREATE DATABASE {} ENCODING 'UTF8' LOCALE 'C.UTF-8' TEMPLATE template0",
            quoted(&source.name)
        ),
    );
    source.sql("CREATE TABLE t AS SELECT 'ü'::text AS x");
    let whole = dump_of(&source.config()).await;
    // A locale that no system has, of the same length.
    let known = String::from_utf8_lossy(&whole).matches("'C.UTF-8'").count();
    assert!(known > 0, "the dump names its locale");
    let mut unknown = whole.to_vec();
    for at in 0..unknown.len() - 9 {
        if &unknown[at..at + 9] == b"'C.UTF-8'" {
            unknown[at + 1] = b'Q';
        }
    }
    let target = server.free_name("locale_back");
    let warnings = restore(&target.config(), &unknown.clone().into(), false).await.unwrap().join("\n");
    assert!(warnings.contains("Q.UTF-8") && warnings.contains("was made with locale C"), "{warnings}");
    let locale = "SELECT x FROM t; SELECT pg_encoding_to_char(encoding), datcollate FROM pg_database WHERE datname = current_database()";
    assert_eq!(target.sql(locale), "ü\nUTF8|C");

    // Another reason is no reason for another locale.
    let role = unique("read_only");
    server.sql(
        "postgres",
        &format!("CREATE ROLE {role} LOGIN CREATEDB PASSWORD 'plain'; ALTER ROLE {role} SET default_transaction_read_only = on"),
    );
    let refused = server.free_name("locale_refused");
    let config =
        PostgresConfig { user: Some(role.clone()), password: Some(Secret::new("plain")), ..refused.config() };
    let error = restore(&config, &whole, false).await.unwrap_err();
    assert!(error.what().contains("read-only transaction"), "{error}");
    assert_eq!(server.databases(&refused.name), [""; 0]);
    server.sql("postgres", &format!("DROP ROLE {role}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_of_contents_of_any_length_keeps_encoding_and_settings() {
    let server = Server::current();
    let source = server.free_name("long_contents");
    let name = quoted(&source.name);
    server.sql(
        "postgres",
        &format!(
            "CREATE DATABASE {name} ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0; \
                  ALTER DATABASE {name} SET work_mem = '17MB'"
        ),
    );
    // More than the 16 MiB that are held as they are, in a few entries.
    source.sql(
        "SET check_function_bodies = off; CREATE TABLE t AS SELECT 'Grüße'::text AS x; \
         DO $$ BEGIN FOR n IN 1..3 LOOP EXECUTE format('CREATE FUNCTION f%s() RETURNS text LANGUAGE sql AS %L', n, \
         'SELECT ' || quote_literal((SELECT string_agg(md5(i::text), ' ') FROM generate_series(1, 200000) i))); END LOOP; END $$;",
    );
    let whole = dump_of(&source.config()).await;
    assert!(whole.len() > 17 << 20);
    let target = server.free_name("long_contents_back");
    let warnings = restore(&target.config(), &whole, false).await.unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    let said = "SELECT x FROM t; SHOW work_mem; SELECT length(f3()); \
                SELECT pg_encoding_to_char(encoding) FROM pg_database WHERE datname = current_database()";
    assert_eq!(target.sql(said), source.sql(said));
    assert!(target.sql(said).contains("LATIN1"));
}

/// What is done with the end of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    /// It arrives and its answer does not.
    Answer,
    /// It does not arrive.
    Request,
}

/// A way to a server that cuts one connection at the `COMMIT` of this number.
async fn cutting(server: &Server, number: usize, cut: Cut) -> (Server, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let upstream = format!("{}:{}", server.host, server.port);
    let seen = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&seen);
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (upstream, counter) = (upstream.clone(), Arc::clone(&counter));
            tokio::spawn(async move {
                let server = TcpStream::connect(upstream).await.unwrap();
                let _ = relay(client, server, &counter, number, cut).await;
            });
        }
    });
    (Server { port, ..server.clone() }, seen)
}

async fn relay(
    mut client: TcpStream,
    mut server: TcpStream,
    counter: &AtomicUsize,
    number: usize,
    cut: Cut,
) -> std::io::Result<()> {
    let (mut from_client, mut from_server) = (vec![0; 65536], vec![0; 65536]);
    loop {
        tokio::select! {
            read = client.read(&mut from_client) => {
                let len = read?;
                if len == 0 {
                    return Ok(());
                }
                // A query message of its own.
                let commit = from_client[..len].windows(13).any(|bytes| bytes == b"Q\0\0\0\x0cCOMMIT;\0");
                let cut_here = commit && counter.fetch_add(1, Ordering::SeqCst) + 1 == number;
                if cut_here && cut == Cut::Request {
                    return Ok(());
                }
                server.write_all(&from_client[..len]).await?;
                if cut_here {
                    // The server has answered, and nobody hears it.
                    let answered = server.read(&mut from_server).await?;
                    assert!(answered > 0, "the server ended the session");
                    return Ok(());
                }
            }
            read = server.read(&mut from_server) => {
                let len = read?;
                if len == 0 {
                    return Ok(());
                }
                client.write_all(&from_server[..len]).await?;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_to_the_last_step_is_settled_by_looking() {
    let own = OwnServer::start("");
    let server = &own.server;
    server.sql(
        "postgres",
        "CREATE ROLE owner_one LOGIN PASSWORD 'x'; CREATE ROLE owner_two; CREATE DATABASE source OWNER owner_one",
    );
    server.sql("source", "CREATE TABLE t AS SELECT 1 AS x; ALTER TABLE t OWNER TO owner_two");
    let config = PostgresConfig {
        databases: vec!["source".to_owned()],
        globals: Some(true),
        ..server.config("postgres")
    };
    let dumper = PostgresClusterDumper::new(&config).unwrap();
    let dump = backup_core::Dumper::dump(&dumper, &Context::new(), &Default::default()).await.unwrap();
    let whole = backup_core::testing::collect(dump.bytes).await.unwrap();
    let gone = "DROP DATABASE IF EXISTS source; DROP ROLE IF EXISTS owner_one; DROP ROLE IF EXISTS owner_two";
    let found = "SELECT count(*) FROM pg_roles WHERE rolname LIKE 'owner_%'; SELECT count(*) FROM pg_database WHERE datname LIKE 'source%'";
    // The first is that of the roles, the second that of the names.
    for (number, cut) in [(1, Cut::Answer), (1, Cut::Request), (2, Cut::Answer), (2, Cut::Request)] {
        server.sql("postgres", gone);
        let (through, commits) = cutting(server, number, cut).await;
        let target = PostgresConfig { dbname: None, ..through.config("postgres") };
        let outcome = start(&target, known(&DumpFormat::new(PG_BUNDLE), &whole)).await.unwrap();
        assert!(commits.load(Ordering::SeqCst) >= number, "no such COMMIT");
        match cut {
            Cut::Answer => {
                outcome.unwrap();
                assert_eq!(server.sql("postgres", found), "2\n1", "{number} {cut:?}");
                assert_eq!(server.sql("source", "SELECT x FROM t"), "1");
            }
            Cut::Request => {
                let error = outcome.map(drop).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{number} {cut:?}: {error}");
                assert_eq!(server.sql("postgres", found), "0\n0", "{number} {cut:?}");
            }
        }
    }
}
