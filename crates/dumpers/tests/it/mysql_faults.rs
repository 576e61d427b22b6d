//! A MySQL or MariaDB server that is down, refuses, or dies; tables that change under a dump;
//! programs that are killed; secrets in sight.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use backup_core::testing::{broken, collect, known};
use backup_core::{
    Context, Dump, DumpFormat, Dumper as _, Error, ErrorKind, Restorer as _, Selection, Settled,
};
use dumpers::Secret;
use dumpers::mysql::{Definers, MARIADB_SQL, MysqlConfig, MysqlDumper, MysqlRestorer};

use crate::mysql::{dump_of, request, restore};
use crate::mysql_server::{Database, Server, quoted};
use crate::own_mariadb::OwnServer;
use crate::processes::all_arguments;
use crate::server::{unique, variable};

/// Rows of a table of ten, a thousand and ten thousand.
const NUMBERS: &str =
    "CREATE TABLE n (i int PRIMARY KEY); INSERT INTO n VALUES (0),(1),(2),(3),(4),(5),(6),(7),(8),(9);";

/// More than all pipes and buffers between the program and a reader hold; `last` is read last.
fn big(server: &Server, name: &str) -> Database {
    let database = server.database(name);
    database.sql(&format!(
        "{NUMBERS} CREATE TABLE a_big (i int PRIMARY KEY, x text);
         INSERT INTO a_big SELECT a.i * 1000 + b.i * 100 + c.i * 10 + d.i, repeat('abcdefgh', 400) FROM n a, n b, n c, n d;
         CREATE TABLE z_last (i int PRIMARY KEY, x int); INSERT INTO z_last SELECT i, i FROM n;"
    ));
    database
}

async fn failure(mut dump: Dump) -> Error {
    loop {
        match dump.bytes.next().await {
            Some(Ok(_)) => {}
            Some(Err(error)) => {
                assert!(dump.report.get().is_none());
                return error;
            }
            None => panic!("ended cleanly"),
        }
    }
}

/// A dump of which the first bytes were read.
async fn begun(config: &MysqlConfig) -> Dump {
    let dumper = MysqlDumper::new(config).unwrap();
    let mut dump = dumper.dump(&Context::new(), &Selection::default()).await.unwrap();
    dump.bytes.next().await.unwrap().unwrap();
    dump
}

#[tokio::test]
async fn incident_02_a_wrong_password_is_refused_before_anything_starts() {
    let server = Server::mariadb();
    let source = server.database("refused");
    let wrong_password = MysqlConfig { password: Some(Secret::new("wr0ng")), ..source.config() };
    let wrong_user = MysqlConfig { user: Some("nobody here".to_owned()), ..source.config() };
    let cx = Context::new();
    for config in [wrong_password, wrong_user] {
        let dumper = MysqlDumper::new(&config).unwrap();
        let restorer = MysqlRestorer::new(&config).unwrap();
        let errors = [
            dumper.probe(&cx).await.unwrap_err(),
            dumper.dump(&cx, &Selection::default()).await.unwrap_err(),
            restorer.plan(&cx, request(&DumpFormat::new(MARIADB_SQL), false)).await.unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
            assert!(!format!("{error} {error:?}").contains("wr0ng"));
        }
    }
}

#[tokio::test]
async fn a_server_or_database_that_is_not_there_is_told_apart() {
    let server = Server::mariadb();
    let cx = Context::new();
    let config = MysqlConfig { dbname: Some("no such database".to_owned()), ..server.config() };
    let down = MysqlConfig { port: Some("1".to_owned()), ..config.clone() };
    let unknown = MysqlConfig { host: Some("nowhere.invalid".to_owned()), ..config.clone() };
    for config in [down, unknown] {
        let dumper = MysqlDumper::new(&config).unwrap();
        assert_eq!(dumper.probe(&cx).await.unwrap_err().kind(), ErrorKind::Unavailable);
    }
    let absent = MysqlDumper::new(&config).unwrap();
    assert_eq!(absent.probe(&cx).await.unwrap_err().kind(), ErrorKind::NotFound);
    let error = MysqlDumper::new(&server.config()).unwrap_err();
    assert!(error.what().contains("name a database"), "{error}");
}

/// A program of ours that talks about this database.
fn program(name: &str, database: &str) -> u32 {
    let output = Command::new("pgrep").args(["-f", &format!("{name} .*{database}")]).output().unwrap();
    let found = String::from_utf8(output.stdout).unwrap();
    found.lines().next().unwrap_or_else(|| panic!("no {name} of {database}")).parse().unwrap()
}

#[tokio::test]
async fn incident_03_a_killed_mariadb_dump_is_no_clean_end() {
    let source = big(&Server::mariadb(), "killed");
    let dump = begun(&source.config()).await;
    let pid = program("mariadb-dump", &source.name).to_string();
    assert!(Command::new("kill").args(["-KILL", &pid]).status().unwrap().success());
    let error = failure(dump).await;
    assert_eq!(error.kind(), ErrorKind::Tool);
    assert!(error.what().contains("signal 9"), "{error}");
}

async fn a_cut_session_is_no_clean_end(server: Server) {
    let source = big(&server, "cut");
    let dump = begun(&source.config()).await;
    let sessions = format!("SELECT ID FROM information_schema.PROCESSLIST WHERE DB = '{}'", source.name);
    for id in server.sql("mysql", &sessions).lines() {
        let _ = server.try_sql("mysql", &format!("KILL {id}"));
    }
    let error = failure(dump).await;
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
}

#[tokio::test]
async fn incident_06_a_mysql_session_that_the_server_ends_is_no_clean_end() {
    a_cut_session_is_no_clean_end(Server::mariadb()).await;
}

#[tokio::test]
async fn mysql9_a_session_that_the_server_ends_is_no_clean_end() {
    a_cut_session_is_no_clean_end(Server::mysql9()).await;
}

/// What is done to a table after the snapshot and before its rows are read never makes a short dump
/// that looks good.
async fn changes_are_noticed(server: Server) {
    for change in [
        "TRUNCATE TABLE z_last",
        "DROP TABLE z_last",
        "RENAME TABLE z_last TO z_other",
        "DROP TABLE z_last; CREATE TABLE z_last (i int PRIMARY KEY, x int)",
        "ALTER TABLE z_last ADD COLUMN y int DEFAULT 5",
        "ALTER TABLE z_last FORCE",
        "CREATE TABLE fresh LIKE z_last; RENAME TABLE z_last TO z_old, fresh TO z_last",
    ] {
        let source = big(&server, "changing");
        let dump = begun(&source.config()).await;
        // The time of a table's making has whole seconds.
        tokio::time::sleep(Duration::from_millis(1100)).await;
        source.sql(change);
        let error = failure(dump).await;
        assert_eq!(error.kind(), ErrorKind::Tool, "{change}: {error}");
        assert!(
            error.what().contains("z_last") || error.what().contains("schema changed"),
            "{change}: {error}"
        );
    }
    // What happens to a table whose rows were read long ago, or to a new one, is no reason to fail.
    let source = big(&server, "changing");
    let dump = begun(&source.config()).await;
    source.sql("CREATE TABLE zz_new (i int); INSERT INTO zz_new VALUES (1)");
    let dump = collect(dump.bytes).await;
    // Some versions refuse to read a table that is newer than the snapshot: that is told, too.
    if let Err(error) = dump {
        assert_eq!(error.kind(), ErrorKind::Tool, "{error}");
    }
}

#[tokio::test]
async fn a_table_that_changes_during_a_dump_is_noticed() {
    changes_are_noticed(Server::mariadb()).await;
}

#[tokio::test]
async fn mariadb118_a_table_that_changes_during_a_dump_is_noticed() {
    changes_are_noticed(Server::mariadb118()).await;
}

#[tokio::test]
async fn mysql9_a_table_that_changes_during_a_dump_is_noticed() {
    changes_are_noticed(Server::mysql9()).await;
}

/// Transfers between accounts keep their sum, and every transfer is noted with a reference.
async fn a_dump_is_one_moment(server: Server) {
    let source = big(&server, "bank");
    source.sql(
        "CREATE TABLE b_accounts (id int PRIMARY KEY, amount bigint); INSERT INTO b_accounts SELECT a.i * 10 + b.i, 1000 FROM n a, n b;
         CREATE TABLE transfers (id bigint AUTO_INCREMENT PRIMARY KEY, de int, vers int, amount bigint,
           FOREIGN KEY (de) REFERENCES b_accounts (id));
         CREATE TABLE zz_after (id bigint PRIMARY KEY, FOREIGN KEY (id) REFERENCES transfers (id));",
    );
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..2)
        .map(|writer| {
            let (server, name, stop) = (server.clone(), source.name.clone(), Arc::clone(&stop));
            std::thread::spawn(move || {
                let mut round = writer;
                while !stop.load(Ordering::Relaxed) {
                    let mut script = String::new();
                    for _ in 0..50 {
                        round += 7;
                        let (from, to) = (round % 50, 50 + round % 49);
                        script.push_str(&format!(
                            "START TRANSACTION; UPDATE b_accounts SET amount = amount - 3 WHERE id = {from};
                             UPDATE b_accounts SET amount = amount + 3 WHERE id = {to};
                             INSERT INTO transfers (de, vers, amount) VALUES ({from}, {to}, 3);
                             INSERT INTO zz_after VALUES (LAST_INSERT_ID()); COMMIT;\n"
                        ));
                    }
                    let _ = server.try_sql(&name, &script);
                }
            })
        })
        .collect();
    while source.sql("SELECT count(*) > 100 FROM transfers") != "1" {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let dumper = MysqlDumper::new(&source.config()).unwrap();
    let mut dump = dumper.dump(&Context::new(), &Selection::default()).await.unwrap();
    let mut whole = bytes::BytesMut::from(&*dump.bytes.next().await.unwrap().unwrap());
    // The accounts are read after all of this was written.
    let before: u64 = source.sql("SELECT count(*) FROM transfers").parse().unwrap();
    while source.sql("SELECT count(*) FROM transfers").parse::<u64>().unwrap() < before + 200 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    while let Some(chunk) = dump.bytes.next().await {
        whole.extend_from_slice(&chunk.unwrap());
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.join().unwrap();
    }
    let target = server.free_name("bank_back");
    restore(&target.config(), &(dump.format, whole.freeze()), false).await.unwrap();
    check_bank(&target);
    let came: u64 = target.sql("SELECT count(*) FROM transfers").parse().unwrap();
    assert!(came <= before, "{came} transfers of {before} before: not the moment of the start");
}

fn check_bank(target: &Database) {
    assert_eq!(target.sql("SELECT sum(amount) FROM b_accounts"), "100000");
    let facts = "SELECT (SELECT count(*) FROM transfers) = (SELECT count(*) FROM zz_after),
                   (SELECT count(*) FROM zz_after z LEFT JOIN transfers t USING (id) WHERE t.id IS NULL),
                   (SELECT count(*) FROM b_accounts a WHERE a.id < 50 AND amount <> 1000 - 3 * (SELECT count(*) FROM transfers WHERE de = a.id))";
    assert_eq!(target.sql(facts), "1\t0\t0");
}

#[tokio::test]
async fn a_dump_under_writers_is_one_moment() {
    a_dump_is_one_moment(Server::mariadb()).await;
}

#[tokio::test]
async fn mysql9_a_dump_under_writers_is_one_moment() {
    a_dump_is_one_moment(Server::mysql9()).await;
}

#[tokio::test]
async fn what_cannot_be_read_is_named_with_its_remedy() {
    for server in [Server::mariadb()] {
        let source = server.database("clo_sed");
        source.sql("CREATE TABLE open_one (i int); CREATE TABLE closed (i int);");
        let user = unique("lim'ited");
        let user = user.chars().rev().take(30).collect::<String>();
        let account = format!("'{}'@'127.0.0.1'", user.replace('\'', "''"));
        server.sql(
            "mysql",
            &format!(
                "CREATE USER {account} IDENTIFIED BY 'limited'; GRANT SELECT ON {}.open_one TO {account}",
                quoted(&source.name)
            ),
        );
        let config =
            MysqlConfig { user: Some(user), password: Some(Secret::new("limited")), ..source.config() };
        let dumper = MysqlDumper::new(&config).unwrap();
        let cx = Context::new();
        let obstacles = dumper.probe(&cx).await.unwrap().obstacles;
        let error = dumper.dump(&cx, &Selection::default()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
        let [_, routines] = obstacles.as_slice() else { panic!("{obstacles:?}") };
        assert!(routines.what.contains("stored routines of others"), "{routines:?}");
        // Tables that were chosen may lie beside some that this user cannot see.
        let chosen = Selection { include: vec!["open_*".to_owned()], ..Selection::default() };
        let refused = dumper.dump(&cx, &chosen).await.unwrap_err();
        assert!(refused.kind() == ErrorKind::Denied && refused.what().contains("TRIGGER"), "{refused}");
        assert!(!refused.what().contains("EVENT") && !refused.what().contains("routines"), "{refused}");
        for obstacle in &obstacles {
            assert!(error.hint().unwrap().contains(&obstacle.remedy), "{error}");
            // The statement can be run as it is, and helps.
            server.sql("mysql", &obstacle.remedy);
        }
        assert!(dumper.probe(&cx).await.unwrap().obstacles.is_empty());
        let whole = dump_of(&config).await;
        let target = MysqlConfig { dbname: Some(unique("never")), ..config };
        let restorer = MysqlRestorer::new(&target).unwrap();
        let error = restorer.plan(&cx, request(&whole.0, false)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
        let grant = error.hint().unwrap().strip_prefix("run as an administrator: ").unwrap().to_owned();
        server.sql("mysql", &grant);
        restore(&target, &whole, false).await.unwrap();
        let made = Database { server: server.clone(), name: target.dbname.unwrap() };
        assert_eq!(made.sql("SELECT count(*) FROM closed"), "0");
        server.sql("mysql", &format!("DROP USER {account}"));
    }
}

async fn routines_of_others_come_along(server: Server) {
    let source = server.database("of_others");
    source.sql("CREATE TABLE t (i int); CREATE PROCEDURE p() SELECT 1; CREATE FUNCTION f() RETURNS int DETERMINISTIC RETURN 7;");
    let user: String = unique("reader").chars().rev().take(30).collect();
    let account = format!("'{user}'@'127.0.0.1'");
    let pattern = quoted(&source.name.replace('_', "\\_"));
    server.sql(
        "mysql",
        &format!(
            "CREATE USER {account} IDENTIFIED BY 'reader';
             GRANT SELECT, SHOW VIEW, TRIGGER, EVENT ON {pattern}.* TO {account}; GRANT PROCESS ON *.* TO {account};"
        ),
    );
    let config = MysqlConfig { user: Some(user), password: Some(Secret::new("reader")), ..source.config() };
    let dumper = MysqlDumper::new(&config).unwrap();
    let cx = Context::new();
    let error = dumper.dump(&cx, &Selection::default()).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Denied && error.what().contains("routines of others"), "{error}");
    let obstacles = dumper.probe(&cx).await.unwrap().obstacles;
    let [obstacle] = obstacles.as_slice() else { panic!("{obstacles:?}") };
    server.sql("mysql", &obstacle.remedy);
    let (_, whole) = dump_of(&config).await;
    let text = String::from_utf8_lossy(&whole);
    assert!(text.contains("PROCEDURE `p`()") && text.contains("FUNCTION `f`()"), "{text}");
    server.sql("mysql", &format!("DROP USER {account}"));
}

#[tokio::test]
async fn routines_of_others_are_dumped_or_the_dump_is_refused() {
    routines_of_others_come_along(Server::mariadb()).await;
}

#[tokio::test]
async fn mariadb118_routines_of_others_are_dumped_or_the_dump_is_refused() {
    routines_of_others_come_along(Server::mariadb118()).await;
}

#[tokio::test]
async fn mysql9_routines_of_others_are_dumped_or_the_dump_is_refused() {
    routines_of_others_come_along(Server::mysql9()).await;
}

#[tokio::test]
async fn a_history_that_is_not_dumped_is_told_and_system_databases_are_refused() {
    let source = Server::mariadb().database("history");
    source.sql("CREATE TABLE h (i int) WITH SYSTEM VERSIONING; CREATE TABLE plain (i int);");
    let cx = Context::new();
    let warnings = MysqlDumper::new(&source.config()).unwrap().probe(&cx).await.unwrap().warnings;
    let [warning] = warnings.as_slice() else { panic!("{warnings:?}") };
    assert!(warning.contains(&format!("{}.h;", source.name)), "{warning}");
    let config = MysqlConfig { extra_args: vec!["--dump-history".to_owned()], ..source.config() };
    assert!(MysqlDumper::new(&config).unwrap().probe(&cx).await.unwrap().warnings.is_empty());
    let config = MysqlConfig { dbname: Some("MySQL".to_owned()), ..source.config() };
    assert_eq!(MysqlDumper::new(&config).unwrap_err().kind(), ErrorKind::Config);
}

#[tokio::test]
async fn tables_that_no_transaction_protects_are_told() {
    let source = Server::mariadb().database("engines");
    source.sql("CREATE TABLE a (i int) ENGINE=MyISAM; CREATE TABLE b (i int) ENGINE=MEMORY; CREATE TABLE c (i int) ENGINE=Aria; CREATE TABLE d (i int);");
    let cx = Context::new();
    let warnings = MysqlDumper::new(&source.config()).unwrap().probe(&cx).await.unwrap().warnings;
    let [warning] = warnings.as_slice() else { panic!("{warnings:?}") };
    for name in ["a (MyISAM)", "b (MEMORY)", "c (Aria)"] {
        assert!(warning.contains(&format!("{}.{name}", source.name)), "{warning}");
    }
    assert!(!warning.contains(".d ("), "{warning}");
    let config = MysqlConfig { lock_all_tables: true, ..source.config() };
    assert!(MysqlDumper::new(&config).unwrap().probe(&cx).await.unwrap().warnings.is_empty());
    let whole = dump_of(&config).await;
    let target = source.server.free_name("engines_back");
    restore(&target.config(), &whole, false).await.unwrap();
}

#[tokio::test]
async fn a_selection_is_part_of_the_dump() {
    let source = Server::mariadb().database("selection");
    source.sql("CREATE TABLE a (i int); CREATE TABLE ab (i int); CREATE TABLE `b.c``d` (i int); CREATE PROCEDURE p() SELECT 1;");
    let dumper = MysqlDumper::new(&source.config()).unwrap();
    let name = |table: &str| format!("{}.{table}", source.name);
    for (include, exclude, expected) in [
        (vec!["a*"], vec![], vec![name("a"), name("ab")]),
        (vec![], vec!["`b.c``d`"], vec![name("a"), name("ab")]),
        (vec!["a*"], vec!["ab"], vec![name("a")]),
        (vec!["sel*.a"], vec![], vec![name("a")]),
        (vec!["`b.c``d`"], vec![], vec![name("`b.c``d`")]),
    ] {
        let what = Selection {
            include: include.into_iter().map(str::to_owned).collect(),
            exclude: exclude.into_iter().map(str::to_owned).collect(),
        };
        let dump = dumper.dump(&Context::new(), &what).await.unwrap();
        let whole = collect(dump.bytes).await.unwrap();
        assert_eq!(dump.report.get().unwrap().tables, expected, "{what:?}");
        let routines = String::from_utf8_lossy(&whole).contains("PROCEDURE");
        assert_eq!(routines, what.include.is_empty(), "{what:?}");
    }
    let nothing = Selection { include: vec!["nowhere".to_owned()], exclude: vec![] };
    let error = dumper.dump(&Context::new(), &nothing).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn incident_55_several_databases_are_one_dump_and_come_back_under_their_names() {
    let server = Server::mariadb();
    let (a, b) = (server.database("se`veral"), server.database("se`veral"));
    a.sql("CREATE TABLE t (i int PRIMARY KEY); INSERT INTO t VALUES (1);");
    b.sql(&format!(
        "CREATE TABLE u (i int, FOREIGN KEY (i) REFERENCES {}.t (i)); INSERT INTO u VALUES (1); CREATE VIEW v AS SELECT * FROM {0}.t;",
        quoted(&a.name)
    ));
    let config = MysqlConfig {
        databases: vec!["se`veral*".to_owned()],
        exclude_databases: vec!["*_x".to_owned()],
        ..server.config()
    };
    let whole = dump_of(&config).await;
    // One of several cannot take the name of a target.
    let error = restore(&server.free_name("one").config(), &whole, false).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    // Neither is there while they exist.
    let error = restore(&server.config(), &whole, false).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    b.sql(&format!("DROP DATABASE {}; DROP DATABASE {}", quoted(&b.name), quoted(&a.name)));
    restore(&server.config(), &whole, false).await.unwrap();
    assert_eq!(b.sql("SELECT count(*) FROM v, u"), "1");
    assert!(server.try_sql(&b.name, "INSERT INTO u VALUES (2)").is_err(), "the reference is kept");
    assert!(
        server.databases("").iter().all(|name| !name.contains("_strongroom_") || !name.starts_with("se`"))
    );
}

#[tokio::test]
async fn an_existing_database_is_refused_or_takes_what_is_new() {
    let server = Server::mariadb();
    let source = server.database("into");
    source.sql("CREATE TABLE a (i int); INSERT INTO a VALUES (1); CREATE TABLE b (i int);");
    let whole = dump_of(&source.config()).await;
    let target = server.database("into_existing");
    target.sql("CREATE TABLE b (mine int)");
    assert_eq!(restore(&target.config(), &whole, false).await.unwrap_err().kind(), ErrorKind::Conflict);
    let error = restore(&target.config(), &whole, true).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert_eq!(target.sql("SHOW TABLES"), "b");
    target.sql("DROP TABLE b; CREATE TABLE c (i int)");
    restore(&target.config(), &whole, true).await.unwrap();
    assert_eq!(target.sql("SHOW TABLES"), "a\nb\nc");
    // An empty one needs no permission, and keeps its character set.
    let empty = server.free_name("into_empty");
    server.sql("mysql", &format!("CREATE DATABASE {} CHARACTER SET latin1", quoted(&empty.name)));
    restore(&empty.config(), &whole, false).await.unwrap();
    assert_eq!(empty.sql("SELECT i FROM a; SELECT @@character_set_database"), "1\nlatin1");
    // Nothing in the target is replaced, whatever the case of its name.
    source.sql(
        "CREATE PROCEDURE Ours() SELECT 'dump'; CREATE FUNCTION f() RETURNS int DETERMINISTIC RETURN 1;",
    );
    source.sql("CREATE EVENT e ON SCHEDULE EVERY 1 DAY DO SELECT 1; CREATE TRIGGER tr BEFORE INSERT ON a FOR EACH ROW SET NEW.i = 1;");
    let defined = dump_of(&source.config()).await;
    for (mine, kept) in [
        (
            "CREATE PROCEDURE ours() SELECT 'mine'",
            "SELECT ROUTINE_DEFINITION FROM information_schema.ROUTINES WHERE ROUTINE_SCHEMA = database()",
        ),
        ("CREATE FUNCTION F() RETURNS int DETERMINISTIC RETURN 2", "SELECT F()"),
        (
            "CREATE EVENT E ON SCHEDULE EVERY 2 DAY DO SELECT 2",
            "SELECT EVENT_DEFINITION FROM information_schema.EVENTS WHERE EVENT_SCHEMA = database()",
        ),
        (
            "CREATE TABLE other (i int); CREATE TRIGGER TR BEFORE INSERT ON other FOR EACH ROW SET NEW.i = 2",
            "SELECT ACTION_STATEMENT FROM information_schema.TRIGGERS WHERE TRIGGER_SCHEMA = database()",
        ),
    ] {
        let target = server.database("into_defined");
        target.sql(mine);
        let before = (target.sql(kept), target.sql("SHOW TABLES"));
        let error = restore(&target.config(), &defined, true).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "{mine}: {error}");
        assert_eq!((target.sql(kept), target.sql("SHOW TABLES")), before, "{mine}");
    }
    // A routine alone is something, too.
    let routine = server.database("into_routine");
    routine.sql("CREATE PROCEDURE p() SELECT 1");
    assert_eq!(restore(&routine.config(), &whole, false).await.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(server.databases(&target.name).len(), 1);
}

#[tokio::test]
async fn a_broken_end_leaves_an_existing_database_as_it_was() {
    let server = Server::mariadb();
    let source = big(&server, "tail");
    let (format, whole) = dump_of(&source.config()).await;
    let target = server.database("tail_existing");
    let restorer = MysqlRestorer::new(&target.config()).unwrap();
    let cx = Context::new();
    for dump in
        [broken(&format, &whole, ErrorKind::Integrity), known(&format, &whole.slice(..whole.len() - 1))]
    {
        let plan = restorer.plan(&cx, request(&format, true)).await.unwrap();
        assert_eq!(restorer.restore(&cx, plan, dump).await.unwrap_err().kind(), ErrorKind::Integrity);
        assert_eq!(target.sql("SHOW TABLES"), "");
        assert_eq!(server.databases(&target.name), std::slice::from_ref(&target.name));
    }
}

#[tokio::test]
async fn definers_are_kept_where_they_exist_and_told_where_not() {
    let server = Server::mariadb();
    let owner = format!("{}`s", unique("own"));
    let account = format!("{}@`%`", quoted(&owner));
    let source = server.database("definers");
    source.sql(&format!(
        "CREATE USER {account}; CREATE TABLE t (i int); CREATE DEFINER={account} VIEW v AS SELECT 1 AS x;
         CREATE DEFINER={account} TRIGGER tr BEFORE INSERT ON t FOR EACH ROW SET NEW.i = 1;
         CREATE DEFINER={account} PROCEDURE p() SELECT 'DEFINER=`x`@`y`';"
    ));
    let whole = dump_of(&source.config()).await;
    let who = "SELECT DEFINER FROM information_schema.VIEWS WHERE TABLE_SCHEMA = database() UNION ALL
               SELECT DEFINER FROM information_schema.TRIGGERS WHERE TRIGGER_SCHEMA = database() UNION ALL
               SELECT DEFINER FROM information_schema.ROUTINES WHERE ROUTINE_SCHEMA = database()";
    let kept = server.free_name("definers_kept");
    assert!(restore(&kept.config(), &whole, false).await.unwrap().is_empty());
    assert_eq!(kept.sql(who), [format!("{owner}@%"), format!("{owner}@%"), format!("{owner}@%")].join("\n"));
    server.sql("mysql", &format!("DROP USER {account}"));
    let missing = server.free_name("definers_missing");
    let warnings = restore(&missing.config(), &whole, false).await.unwrap();
    assert!(warnings.iter().any(|text| text.contains(&owner)), "{warnings:?}");
    let me = "strongroom@127.0.0.1";
    assert_eq!(missing.sql(who), [me, me, me].join("\n"));
    let strict = server.free_name("definers_strict");
    restore(&MysqlConfig { definers: Definers::Keep, ..strict.config() }, &whole, false).await.unwrap();
    assert!(strict.sql(who).contains(&owner));
}

async fn accounts_come_along(server: Server) {
    let source = server.database("accounts");
    source.sql("CREATE TABLE t (i int)");
    let (user, team) = (unique("us'er"), unique("role"));
    let account = format!("{}@`10.%`", quoted(&user));
    server.sql(
        "mysql",
        &format!(
            "CREATE USER {account} IDENTIFIED BY 'Pass!word1'; GRANT SELECT ON {}.* TO {account} WITH GRANT OPTION;",
            quoted(&source.name)
        ),
    );
    let roles =
        format!("CREATE ROLE {0}; GRANT {0} TO {account}; GRANT INSERT ON *.* TO {0};", quoted(&team));
    server.sql("mysql", &roles);
    let config = MysqlConfig { accounts: true, ..source.config() };
    let whole = dump_of(&config).await;
    let show = format!("SHOW CREATE USER {account}; SHOW GRANTS FOR {account};");
    let before = server.sql("mysql", &show);
    server.sql("mysql", &format!("DROP USER {account}"));
    let target = server.free_name("accounts_back");
    let warnings = restore(&target.config(), &whole, false).await.unwrap();
    assert!(warnings.iter().any(|text| text.contains("accounts and grants")), "{warnings:?}");
    assert!(server.try_sql("mysql", &show).is_err(), "nobody asked for accounts");
    let target = server.free_name("accounts_too");
    restore(&MysqlConfig { accounts: true, ..target.config() }, &whole, false).await.unwrap();
    assert_eq!(server.sql("mysql", &show), before);
    server.sql("mysql", &format!("DROP USER {account}"));
    server.sql("mysql", &format!("DROP ROLE {}", quoted(&team)));
}

#[tokio::test]
async fn accounts_and_grants_come_along_on_request() {
    // Other tests make and drop accounts of their own.
    let own = OwnServer::start(&[]);
    accounts_come_along(own.server.clone()).await;
}

#[tokio::test]
async fn mysql9_accounts_and_grants_come_along_on_request() {
    accounts_come_along(Server::mysql9()).await;
}

#[tokio::test]
async fn hostile_names_and_passwords_are_values() {
    let server = Server::mariadb();
    let user = unique("a b");
    for password in ["a\"b'c\\d#e;$é ", "-p", "x\\n=[client]"] {
        let account = format!("{}@`127.0.0.1`", quoted(&user));
        let text = password.replace('\\', "\\\\").replace('\'', "''");
        server.sql(
            "mysql",
            &format!(
                "CREATE OR REPLACE USER {account} IDENTIFIED BY '{text}'; GRANT ALL ON *.* TO {account}"
            ),
        );
        for name in ["--help", "a'b\"; DROP -- \\ é", "x.y%_ü"] {
            let source = server.database(name);
            source.sql("CREATE TABLE `t.%` (x int); INSERT INTO `t.%` VALUES (42)");
            let sign = |config: MysqlConfig| MysqlConfig {
                user: Some(user.clone()),
                password: Some(Secret::new(password)),
                ..config
            };
            let whole = dump_of(&sign(source.config())).await;
            let target = server.free_name(name);
            restore(&sign(target.config()), &whole, false).await.unwrap();
            assert_eq!(target.sql("SELECT x FROM `t.%`"), "42", "{name}");
        }
        server.sql("mysql", &format!("DROP USER {account}"));
    }
}

#[tokio::test]
async fn tls_is_verified_against_the_named_authority() {
    let server = Server::mariadb();
    let source = server.database("tls");
    source.sql("CREATE TABLE t (i int)");
    let with = |authority: &str| MysqlConfig {
        sslmode: Some("verify-full".to_owned()),
        sslrootcert: Some(authority.into()),
        ..source.config()
    };
    let trusted = with(&variable("STRONGROOM_TEST_MARIADB_CA"));
    dump_of(&trusted).await;
    let target = MysqlConfig { dbname: Some(unique("tls_back")), ..trusted.clone() };
    let _made = Database { server: server.clone(), name: target.dbname.clone().unwrap() };
    restore(&target, &dump_of(&trusted).await, false).await.unwrap();
    for other in [variable("STRONGROOM_TEST_MARIADB_OTHER_CA"), "/nowhere/ca.pem".to_owned()] {
        let dumper = MysqlDumper::new(&with(&other)).unwrap();
        let error = dumper.probe(&Context::new()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
        assert!(error.hint().unwrap().contains("sslrootcert"));
    }
}

#[tokio::test]
async fn incident_79_no_secret_of_mysql_in_the_process_list() {
    let source = big(&Server::mariadb(), "secrets");
    let server = &source.server;
    let url = format!(
        "mysql://{}:{}@{}:{}/{}",
        server.user, server.password, server.host, server.port, source.name
    );
    let config = MysqlConfig::from_url(&url).unwrap();
    let dumper = MysqlDumper::new(&config).unwrap();
    assert!(!format!("{config:?} {dumper:?}").contains(&server.password));
    let dump = begun(&config).await;
    let pid = program("mariadb-dump", &source.name);
    assert!(!all_arguments().contains(&server.password), "the password is in the process list");
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
    assert!(
        !String::from_utf8_lossy(&environment).contains(&server.password),
        "nor is it in the environment"
    );
    drop(dump);

    let (format, whole) = dump_of(&config).await;
    let target = server.free_name("secrets_back");
    let restorer = MysqlRestorer::new(&target.config()).unwrap();
    let cx = Context::new();
    let plan = restorer.plan(&cx, request(&format, false)).await.unwrap();
    let looks = Arc::new(AtomicUsize::new(0));
    let known = known(&format, &whole);
    let bytes = known.bytes.inspect({
        let (looks, password) = (Arc::clone(&looks), server.password.clone());
        let mut chunks = 0;
        move |_| {
            chunks += 1;
            if chunks % 50 == 0 {
                let all = all_arguments();
                looks.fetch_add(
                    usize::from(all.contains("mariadb --defaults-file=/proc/")),
                    Ordering::Relaxed,
                );
                assert!(!all.contains(&password), "the password is in the process list");
            }
        }
    });
    let dump = Dump { format: known.format, bytes, report: Settled::known(Default::default()) };
    restorer.restore(&cx, plan, dump).await.unwrap();
    assert!(looks.load(Ordering::Relaxed) > 0, "mariadb was never seen");
}

#[tokio::test]
async fn a_waiting_dump_is_stopped_and_named() {
    let source = big(&Server::mariadb(), "locked");
    let _holder = source.server.session(&source.name, "LOCK TABLES a_big WRITE; SELECT SLEEP(600);\n");
    let waits = format!(
        "SELECT count(*) FROM information_schema.PROCESSLIST WHERE DB = '{}' AND INFO LIKE '%SLEEP%'",
        source.name
    );
    while source.server.sql("mysql", &waits) == "0" {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let config = MysqlConfig { stall_seconds: Some(1), ..source.config() };
    let dump = MysqlDumper::new(&config).unwrap().dump(&Context::new(), &Selection::default()).await.unwrap();
    let error = failure(dump).await;
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
}

#[tokio::test]
async fn a_dump_that_reaches_beyond_its_databases_is_refused() {
    let source = Server::mariadb().database("foreign");
    source.sql("CREATE TABLE t (i int)");
    let (format, whole) = dump_of(&source.config()).await;
    let text = String::from_utf8(whole.to_vec()).unwrap();
    let target = source.server.free_name("foreign_back");
    for statement in [
        "DROP DATABASE `mysql`;",
        "SET GLOBAL read_only = 1;",
        "CHANGE MASTER TO MASTER_HOST='x';",
        // A text in a routine that looks like the end of its block.
        "DELIMITER ;;\nCREATE PROCEDURE `p`() SELECT '\n;;\nDELIMITER ;\nINSERT INTO `mysql`.`user` SELECT * FROM x; '\n;;\nDELIMITER ;\n",
        "CREATE USER IF NOT EXISTS `x`@`%`;",
    ] {
        let changed = text.replace("CREATE TABLE `t`", &format!("{statement}\nCREATE TABLE `t`"));
        let error = restore(&target.config(), &(format.clone(), changed.into()), false).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{statement}: {error}");
        assert!(source.server.databases(&target.name).is_empty());
    }
    // Commands of the client itself are no statements.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("made");
    for command in [
        format!("\\! touch {}", file.display()),
        format!("system touch {}", file.display()),
        format!("tee {}", file.display()),
    ] {
        let changed = text.replace("CREATE TABLE `t`", &format!("{command}\nCREATE TABLE `t`"));
        let _ = restore(&target.config(), &(format.clone(), changed.into()), false).await;
        assert!(!file.exists(), "{command}");
    }
}

#[tokio::test]
async fn a_server_that_dies_or_is_full_is_told() {
    let server = OwnServer::start(&[
        "--innodb-file-per-table=0",
        "--innodb-data-file-path=ibdata1:12M:autoextend:max:160M",
    ]);
    let source = big(&server.server, "dies");
    let whole = dump_of(&source.config()).await;
    let full = server.server.free_name("full");
    server.server.sql(
        "mysql",
        &format!(
            "CREATE DATABASE filler; CREATE TABLE filler.t (x longblob); {}",
            "INSERT INTO filler.t VALUES (REPEAT('x', 4000000));".repeat(3)
        ),
    );
    // Fill up until the server has no room.
    while server.server.try_sql("filler", "INSERT INTO t VALUES (REPEAT('x', 2000000))").is_ok() {}
    let error = restore(&full.config(), &whole, false).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.what().contains("out of space"), "{error}");
    assert!(server.server.databases("full").is_empty());

    let dump = begun(&source.config()).await;
    server.kill();
    let error = failure(dump).await;
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
}

/// The largest row that is asked for, with every byte in it.
async fn a_row_of_512_mb(server: Server) {
    let source = server.database("row");
    source.sql("CREATE TABLE t (i int, x longblob)");
    source.sql("SET @x = ''; SET @x = (SELECT REPEAT(UNHEX('00ff0a5c27221a0d61'), 59652323)); INSERT INTO t VALUES (1, @x)");
    let facts = "SELECT length(x), sha2(x, 256) FROM t";
    let config = source.config();
    let dumper = MysqlDumper::new(&config).unwrap();
    let dump = dumper.dump(&Context::new(), &Selection::default()).await.unwrap();
    let target = server.free_name("row_back");
    let restorer = MysqlRestorer::new(&target.config()).unwrap();
    let cx = Context::new();
    let plan = restorer.plan(&cx, request(&dump.format, false)).await.unwrap();
    restorer.restore(&cx, plan, dump).await.unwrap();
    assert_eq!(target.sql(facts), source.sql(facts));
}

#[tokio::test]
#[ignore = "takes a minute and two GB of memory"]
async fn slow_a_row_of_512_mb_comes_back() {
    a_row_of_512_mb(Server::mariadb()).await;
}

#[tokio::test]
#[ignore = "takes a minute and two GB of memory"]
async fn slow_mysql9_a_row_of_512_mb_comes_back() {
    a_row_of_512_mb(Server::mysql9()).await;
}

#[tokio::test]
#[ignore = "makes twenty thousand tables"]
async fn slow_ten_thousand_tables_come_back() {
    let source = Server::mariadb().database("many");
    let tables: String = (0..10_000).map(|i| format!("CREATE TABLE t{i} (i int);")).collect();
    source.sql(&tables);
    let whole = dump_of(&source.config()).await;
    let target = source.server.free_name("many_back");
    restore(&target.config(), &whole, false).await.unwrap();
    assert_eq!(
        target.sql("SELECT count(*) FROM information_schema.TABLES WHERE TABLE_SCHEMA = database()"),
        "10000"
    );
}
