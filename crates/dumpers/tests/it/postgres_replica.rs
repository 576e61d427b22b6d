//! A dump of a standby while its primary writes.

use std::sync::Arc;
use std::time::Duration;

use backup_core::testing::collect;
use backup_core::{Context, Dumper as _, ErrorKind, Selection};
use dumpers::postgres::PostgresDumper;

use crate::own_server::OwnServer;
use crate::postgres::restore;
use crate::postgres_polite::Warnings;

/// Waits until the standby has replayed what the primary wrote.
async fn caught_up(primary: &OwnServer, standby: &OwnServer) {
    let written = primary.server.sql("postgres", "SELECT pg_current_wal_lsn()");
    let question = format!("SELECT pg_last_wal_replay_lsn() >= '{written}'");
    for _ in 0..1000 {
        if standby.server.sql("postgres", &question) == "t" {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the standby does not follow");
}

#[tokio::test]
async fn a_standby_is_dumped_while_its_primary_writes() {
    let primary = OwnServer::start("");
    primary.server.sql("postgres", "CREATE DATABASE bank");
    primary.server.sql(
        "bank",
        "CREATE TABLE account (id int PRIMARY KEY, amount int); INSERT INTO account SELECT i, 100 FROM generate_series(1, 5000) i;
         CREATE TABLE pad AS SELECT i, repeat(md5(i::text), 30) AS x FROM generate_series(1, 20000) i;
         CREATE UNLOGGED TABLE scratch AS SELECT 1 AS x;",
    );
    let standby = primary.standby(
        "max_standby_streaming_delay = '3s'\nhot_standby_feedback = on\nwal_receiver_status_interval = '1s'",
    );
    caught_up(&primary, &standby).await;

    let dumper = PostgresDumper::new(&standby.server.config("bank")).unwrap();
    let said = dumper.probe(&Context::new()).await.unwrap().warnings.join("\n");
    assert!(said.contains("this server is a standby"), "{said}");
    assert!(said.contains("public.scratch"), "{said}");

    // Transfers go on while the dump runs, and are replayed under it.
    let writer = primary.server.session(
        "bank",
        "DO $$ BEGIN FOR n IN 1..20000 LOOP UPDATE account SET amount = amount - 1 WHERE id = 1 + n % 5000; \
         UPDATE account SET amount = amount + 1 WHERE id = 1 + (n * 7) % 5000; COMMIT; END LOOP; END $$;\n",
    );
    let warnings = Arc::new(Warnings::default());
    let cx = Context::new().with_progress(warnings.clone());
    let dump = dumper.dump(&cx, &Selection::default()).await.unwrap();
    let whole = collect(dump.bytes).await.unwrap();
    assert!(warnings.all().contains("public.scratch"), "{}", warnings.all());
    primary
        .server
        .sql("postgres", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'bank'");
    drop(writer);
    let target = primary.server.free_name("bank_back");
    restore(&target.config(), &whole, false).await.unwrap();
    assert_eq!(
        target.sql("SELECT sum(amount), count(*) FROM account; SELECT count(*) FROM pad"),
        "500000|5000\n20000"
    );

    // The primary takes away what the dump still reads, and the standby waits for nobody any more.
    standby.server.sql("postgres", "ALTER SYSTEM SET max_standby_streaming_delay = '100ms'");
    standby.server.sql("postgres", "SELECT pg_reload_conf()");
    caught_up(&primary, &standby).await;
    let dumper = PostgresDumper::new(&standby.server.config("bank")).unwrap();
    let mut dump = dumper.dump(&Context::new(), &Selection::default()).await.unwrap();
    dump.bytes.next().await.unwrap().unwrap();
    primary.server.sql("bank", "TRUNCATE account; TRUNCATE pad");
    tokio::time::sleep(Duration::from_secs(3)).await;
    let error = collect(dump.bytes).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.hint().unwrap().contains("max_standby_streaming_delay"), "{:?} {error}", error.hint());
    assert!(dump.report.get().is_none());
}
