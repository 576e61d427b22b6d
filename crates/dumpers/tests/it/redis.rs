//! Redis and Valkey: every kind of value, and writers while a dump is made.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use backup_core::testing::{collect, dumper_suite, inspector_suite, known, restorer_suite};
use backup_core::{
    Context, DumpFormat, DumpReport, Dumper as _, Error, ErrorKind, Inspector as _, RestoreRequest, Restored,
    Restorer as _, Selection,
};
use bytes::Bytes;
use dumpers::redis::{REDIS_RDB, RdbInspector, RedisConfig, RedisRestorer};

use crate::redis_server::{Answer, RedisServer};

pub(crate) fn format() -> DumpFormat {
    DumpFormat::new(REDIS_RDB)
}

pub(crate) fn request(into_existing: bool) -> RestoreRequest {
    RestoreRequest { format: format(), source_len: None, into_existing }
}

pub(crate) async fn dump(server: &RedisServer) -> (Bytes, DumpReport) {
    let dump = server.dumper().dump(&Context::new(), &Selection::default()).await.unwrap();
    let report = dump.report.clone();
    (collect(dump.bytes).await.unwrap(), report.get().unwrap().clone())
}

pub(crate) async fn restore(restorer: &RedisRestorer, whole: &Bytes, into: bool) -> Result<Restored, Error> {
    let cx = Context::new();
    let plan = restorer.plan(&cx, request(into)).await?;
    restorer.restore(&cx, plan, known(&format(), whole)).await
}

/// Something of every type in every encoding that this server has, in three databases.
pub(crate) fn fill(server: &RedisServer) {
    let mut session = server.session();
    let long = "x".repeat(300);
    let mut run = |command: String| {
        let answer = session.run(&command);
        assert!(!matches!(answer, Answer::Refused(_)), "{command}: {answer:?}");
    };
    for (name, value) in
        [("int8", "7"), ("int16", "-300"), ("int32", "70000"), ("int64", "8000000000"), ("raw", "v")]
    {
        run(format!("SET string:{name} {value}"));
    }
    run(format!("SET string:packed {long}"));
    run(format!("SET {long} key-is-packed"));
    run("SET 12345 key-is-a-number".to_owned());
    run("SET expiring:later v PX 100000000".to_owned());
    run("SET with-no-value ".to_owned());
    for i in 0..200 {
        run(format!("RPUSH list:quick element-{i} {long} {i}"));
        run(format!("SADD set:ints {}", i * 100_000));
        run(format!("SADD set:table member-{i} {long}{i}"));
        run(format!("SADD set:small {}", i % 7));
        run(format!("HSET hash:table field-{i} {long}{i}"));
        run(format!("ZADD zset:skip {}.5 member-{i}{long}", i - 90));
        run(format!("XADD stream:a {}-1 f{} v{i} g {long}", i + 1, i % 3));
    }
    run("RPUSH list:small a 1 -5 ".to_owned());
    run("RPUSH list:one x".to_owned());
    run("SADD set:words a b c".to_owned());
    run("HSET hash:small a 1 b ".to_owned());
    run("ZADD zset:small 1 a -inf b +inf c 2.25 d".to_owned());
    run("PEXPIRE hash:small 200000000".to_owned());
    run("XGROUP CREATE stream:a group 0".to_owned());
    run("XGROUP CREATE stream:a idle $ ".trim_end().to_owned());
    run("XREADGROUP GROUP group consumer-1 COUNT 50 STREAMS stream:a >".to_owned());
    run("XREADGROUP GROUP group consumer-2 COUNT 20 STREAMS stream:a >".to_owned());
    run("XACK stream:a group 1-1 5-1".to_owned());
    run("XDEL stream:a 7-1".to_owned());
    run("XADD stream:empty 1-1 a b".to_owned());
    run("XDEL stream:empty 1-1".to_owned());
    run("PFADD hyperloglog a b c".to_owned());
    run("SETBIT bits 100000 1".to_owned());
    run("GEOADD geo 13.4 52.5 berlin".to_owned());
    // Fields with times to live, where the server has them.
    let mut session = server.session();
    session.run("HSET hash:fading a 1 b 2 c 3");
    for (hash, field) in [("hash:fading", "b"), ("hash:table", "field-3")] {
        session.run(&format!("HPEXPIRE {hash} 100000000 FIELDS 1 {field}"));
    }
    let mut session = server.session();
    let mut run = |command: String| {
        let answer = session.run(&command);
        assert!(!matches!(answer, Answer::Refused(_)), "{command}: {answer:?}");
    };
    run("SELECT 3".to_owned());
    run("SET string:other-database v".to_owned());
    run("SELECT 15".to_owned());
    run("SADD set:last a".to_owned());
    run("SELECT 0".to_owned());
    let binary: Vec<u8> = (0..=255).collect();
    session.send(&[b"SET", &binary, &binary]);
    session.send(&[b"HSET", "hash \"quoted\" \u{e4}\u{1f980}".as_bytes(), &binary, b"\r\n$5\r\n"]);
    let library = b"#!lua name=lib\nredis.register_function('answer', function() return 42 end)";
    session.send(&[b"FUNCTION", b"LOAD", library]);
}

async fn round_trip(source: &RedisServer, target: &RedisServer, alike: bool) {
    fill(source);
    let (whole, report) = dump(source).await;
    assert_eq!(report.tables, ["db0", "db3", "db15"]);
    let seen =
        RdbInspector.inspect(&Context::new(), &format(), known(&format(), &whole).bytes).await.unwrap();
    assert!(seen.parsed && seen.tables.len() == 3, "{seen:?}");
    let restored = restore(&target.restorer(), &whole, false).await.unwrap();
    assert_eq!((restored.bytes, restored.warnings), (whole.len() as u64, Vec::new()));
    assert_eq!(target.digest(), source.digest());
    assert_eq!(target.run("FCALL answer 0"), Answer::Number(42));
    // Servers of different ages tell different things of a consumer.
    let all = if alike { "XINFO STREAM stream:a FULL COUNT 0" } else { "XINFO GROUPS stream:a" };
    let fading = "HPEXPIRETIME hash:fading FIELDS 2 a b";
    let fading_too = "HPEXPIRETIME hash:table FIELDS 2 field-3 field-4";
    if alike {
        assert_eq!(target.run(fading), source.run(fading));
        assert_eq!(target.run(fading_too), source.run(fading_too));
    }
    for query in [all, "XPENDING stream:a group", "TYPE stream:empty", "OBJECT ENCODING list:quick"] {
        assert_eq!(without_times(target.run(query)), without_times(source.run(query)), "{query}");
    }
    let (Answer::Number(there), Answer::Number(here)) =
        (target.run("PEXPIRETIME hash:small"), source.run("PEXPIRETIME hash:small"))
    else {
        panic!("no expiry")
    };
    assert_eq!(there, here);
}

/// Radix tree nodes depend on the order of insertion.
fn without_times(answer: Answer) -> Answer {
    match answer {
        Answer::List(list) => {
            let mut out: Vec<Answer> = Vec::new();
            for item in list {
                let volatile = matches!(out.last(), Some(Answer::Bytes(name)) if name == b"radix-tree-nodes");
                out.push(if volatile { Answer::Nothing } else { without_times(item) });
            }
            Answer::List(out)
        }
        other => other,
    }
}

#[tokio::test]
async fn every_kind_of_value_comes_back_to_redis() {
    round_trip(&RedisServer::redis(&[]), &RedisServer::redis(&[]), true).await;
}

#[tokio::test]
async fn every_kind_of_value_comes_back_to_valkey() {
    round_trip(&RedisServer::valkey(&[]), &RedisServer::valkey(&[]), true).await;
}

#[tokio::test]
async fn redis_moves_to_valkey() {
    round_trip(&RedisServer::redis(&[]), &RedisServer::valkey(&[]), false).await;
}

/// Four values of some 12 MB each, and a stream of 3 MB.
const LARGE: &[u8] = b"
    local long = string.rep('x', 1000)
    for i = 1, 12000 do
        redis.call('HSET', 'big:hash', 'f' .. i, i .. long)
        redis.call('SADD', 'big:set', i .. long, i)
        redis.call('RPUSH', 'big:list', i, i .. long, -i, '')
        redis.call('ZADD', 'big:zset', i / 7, i .. long)
        if i % 4 == 0 then redis.call('XADD', 'stream', '*', 'f', i .. long) end
    end
    redis.call('ZADD', 'big:zset', '-inf', 'least', '+inf', 'most', 1e300, 'far', 1e-300, 'near', '-0', 'zero')
    redis.call('RPUSH', 'big:list', string.rep('y', 100000))
    redis.call('PEXPIREAT', 'big:hash', 33000000000000)
    return redis.status_reply('OK')";

async fn large_values_come_back(start: fn(&[&str]) -> RedisServer) {
    // Without compression, so that the stream is as long as the values.
    let (source, target) = (&start(&["--rdbcompression", "no"]), &start(&[]));
    let filled = source.session().send(&[b"EVAL", LARGE, b"0"]);
    assert_eq!(filled, Answer::Text("OK".to_owned()));
    let whole = dump(source).await.0;
    let restored = restore(&target.restorer(), &whole, false).await.unwrap();
    assert_eq!(restored.warnings, Vec::<String>::new());
    assert_eq!(target.digest(), source.digest());
    for query in [
        "PEXPIRETIME big:hash",
        "LRANGE big:list 20000 20010",
        "ZRANGE big:zset 0 3 WITHSCORES",
        "LLEN big:list",
    ] {
        assert_eq!(target.run(query), source.run(query), "{query}");
    }
    // Over what is there, when told.
    target.run("HSET big:hash mine kept");
    let config = RedisConfig { replace: true, ..target.config() };
    restore(&RedisRestorer::new(&config).unwrap(), &whole, true).await.unwrap();
    assert_eq!(target.digest(), source.digest());
    // What cannot be divided has a limit, and is named.
    let (small, enough) = (start(&[]), start(&[]));
    let with = |server: &RedisServer, limit| {
        RedisRestorer::new(&RedisConfig { memory_limit: Some(limit), ..server.config() }).unwrap()
    };
    let error = restore(&with(&small, 1 << 20), &whole, false).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.what().contains("\"stream\"") && error.hint().unwrap().contains("memory_limit"), "{error}");
    assert_eq!(small.keys(), 0, "nothing is left");
    restore(&with(&enough, 9 << 20), &whole, false).await.unwrap();
    assert_eq!(enough.digest(), source.digest());
}

#[tokio::test]
async fn values_larger_than_what_may_be_in_memory_come_back_in_parts() {
    large_values_come_back(RedisServer::redis).await;
}

#[tokio::test]
async fn large_values_of_valkey_come_back_in_parts() {
    large_values_come_back(RedisServer::valkey).await;
}

#[tokio::test]
async fn a_missing_right_for_the_parts_of_a_large_value_is_named_and_leaves_nothing() {
    let (source, target) = (RedisServer::redis(&["--rdbcompression", "no"]), RedisServer::redis(&[]));
    source.session().send(&[b"EVAL", LARGE, b"0"]);
    let whole = dump(&source).await.0;
    let rules = "ACL SETUSER restorer on >pw ~* +ping +info +select +restore +set +pexpireat +flushall \
                 +function|restore +function|flush +function|list";
    target.run(rules);
    let config = RedisConfig {
        user: Some("restorer".to_owned()),
        password: Some(dumpers::Secret::new("pw")),
        ..target.config()
    };
    let restorer = RedisRestorer::new(&config).unwrap();
    let mut granted = Vec::new();
    loop {
        let error = match restore(&restorer, &whole, false).await {
            Ok(_) => break,
            Err(error) => error,
        };
        assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
        assert_eq!(target.keys(), 0, "{error}");
        let statement = error.hint().unwrap().strip_prefix("an administrator can run: ").unwrap().to_owned();
        assert_eq!(target.run(&statement), Answer::Text("OK".to_owned()));
        granted.push(statement.rsplit_once('+').unwrap().1.to_owned());
    }
    granted.sort();
    assert_eq!(granted, ["hset", "rpush", "sadd", "zadd"]);
    assert_eq!(target.digest(), source.digest());
}

#[tokio::test]
async fn an_older_server_takes_what_it_can_hold() {
    let (source, target) = (RedisServer::valkey(&[]), RedisServer::redis(&[]));
    source.run("SET a b");
    source.run("HSET h a b");
    source.run("ZADD z 1 m");
    restore(&target.restorer(), &dump(&source).await.0, false).await.unwrap();
    assert_eq!(target.digest(), source.digest());
    target.run("FLUSHALL");
    // A small set of words has an encoding that Redis 7.0 does not know.
    source.run("SADD words a b c");
    let error = restore(&target.restorer(), &dump(&source).await.0, false).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.what().contains("\"words\""), "{error}");
    assert_eq!(target.keys(), 0);
}

#[tokio::test]
async fn a_dumper_and_an_inspector_obey_their_suites() {
    let server = RedisServer::redis(&["--repl-diskless-sync", "no"]);
    fill(&server);
    dumper_suite(&server.dumper()).await;
    let (whole, _) = dump(&server).await;
    inspector_suite(&RdbInspector, &format(), &whole).await;
}

#[tokio::test]
async fn a_restorer_obeys_the_suite() {
    let (source, target) = (RedisServer::redis(&[]), RedisServer::redis(&[]));
    fill(&source);
    let (whole, _) = dump(&source).await;
    restorer_suite(&target.restorer(), &format(), &whole, async || {
        target.keys() > 0 || target.run("FUNCTION LIST") != Answer::List(Vec::new())
    })
    .await;
}

/// Transfers between accounts in transactions, with a journal of as many entries.
struct Bank {
    stop: Arc<AtomicBool>,
    transfers: Arc<AtomicU64>,
    threads: Vec<thread::JoinHandle<()>>,
}

const ACCOUNTS: u64 = 500;

impl Bank {
    fn open(server: &RedisServer) -> Self {
        let mut session = server.session();
        for account in 0..ACCOUNTS {
            session.run(&format!("SET account:{account} 1000"));
        }
        let (stop, transfers) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let threads = (0..2).map(|seed| {
            let (mut session, stop, transfers) =
                (server.session(), Arc::clone(&stop), Arc::clone(&transfers));
            thread::spawn(move || {
                let mut number: u64 = seed;
                while !stop.load(Ordering::Relaxed) {
                    number = number
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1_442_695_040_888_963_407);
                    let (from, to) = ((number >> 33) % ACCOUNTS, (number >> 17) % ACCOUNTS);
                    let (from, to) = (format!("account:{from}"), format!("account:{to}"));
                    session.all(&[
                        &[b"MULTI"],
                        &[b"DECRBY", from.as_bytes(), b"7"],
                        &[b"INCRBY", to.as_bytes(), b"7"],
                        &[b"SELECT", b"1"],
                        &[b"XADD", b"journal", b"*", b"from", from.as_bytes(), b"to", to.as_bytes()],
                        &[b"INCR", b"transfers"],
                        &[b"SELECT", b"0"],
                        &[b"EXEC"],
                    ]);
                    transfers.fetch_add(1, Ordering::Relaxed);
                }
            })
        });
        let threads = threads.collect();
        Self { stop, transfers, threads }
    }
}

impl Drop for Bank {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// The sum of all accounts, and what the journal says of each.
fn audit(server: &RedisServer) -> u64 {
    let mut session = server.session();
    let mut balances = Vec::new();
    for account in 0..ACCOUNTS {
        let Answer::Bytes(balance) = session.run(&format!("GET account:{account}")) else {
            panic!("no account")
        };
        balances.push(String::from_utf8(balance).unwrap().parse::<i64>().unwrap());
    }
    assert_eq!(balances.iter().sum::<i64>(), ACCOUNTS as i64 * 1000);
    session.run("SELECT 1");
    let Answer::List(journal) = session.run("XRANGE journal - +") else { panic!("no journal") };
    let Answer::Bytes(count) = session.run("GET transfers") else { panic!("no count") };
    assert_eq!(String::from_utf8(count).unwrap(), journal.len().to_string());
    for entry in &journal {
        let Answer::List(entry) = entry else { panic!("{entry:?}") };
        let Answer::List(fields) = &entry[1] else { panic!("{entry:?}") };
        for (at, sign) in [(1, 7), (3, -7)] {
            let Answer::Bytes(account) = &fields[at] else { panic!("{fields:?}") };
            let account = String::from_utf8_lossy(account)["account:".len()..].parse::<usize>().unwrap();
            balances[account] += sign;
        }
    }
    assert!(balances.iter().all(|balance| *balance == 1000), "the journal tells the same story");
    journal.len() as u64
}

async fn one_moment(settings: &[&str]) {
    let (source, target) = (RedisServer::redis(settings), RedisServer::redis(&[]));
    let bank = Bank::open(&source);
    source.run("DEBUG POPULATE 20000 ballast 500");
    while bank.transfers.load(Ordering::Relaxed) < 100 {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let mut running = source.dumper().dump(&Context::new(), &Selection::default()).await.unwrap();
    let first = running.bytes.next().await.unwrap().unwrap();
    let before = bank.transfers.load(Ordering::Relaxed);
    while bank.transfers.load(Ordering::Relaxed) < before + 100 {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let rest = collect(running.bytes).await.unwrap();
    let whole = Bytes::from([first, rest].concat());
    drop(bank);
    restore(&target.restorer(), &whole, false).await.unwrap();
    let there = audit(&target);
    assert!(there > 0 && there < audit(&source), "{there}");
}

#[tokio::test]
async fn writers_during_a_dump_leave_one_moment() {
    one_moment(&["--repl-diskless-sync", "yes"]).await;
}

#[tokio::test]
async fn writers_during_a_dump_by_way_of_a_file_leave_one_moment() {
    one_moment(&["--repl-diskless-sync", "no"]).await;
}

#[tokio::test]
async fn a_file_of_a_dump_starts_a_server() {
    let source = RedisServer::redis(&[]);
    fill(&source);
    let (whole, _) = dump(&source).await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("dump.rdb"), &whole).unwrap();
    let program = crate::server::variable("STRONGROOM_TEST_REDIS_SERVER");
    let target = RedisServer::start_in(&program, folder, &[]);
    assert_eq!(target.digest(), source.digest());
    assert_eq!(target.run("FCALL answer 0"), Answer::Number(42));
}

#[tokio::test]
async fn an_empty_server_is_a_dump_too() {
    let (source, target) = (RedisServer::redis(&[]), RedisServer::redis(&[]));
    let (whole, report) = dump(&source).await;
    assert!(report.tables.is_empty() && !whole.is_empty());
    restore(&target.restorer(), &whole, false).await.unwrap();
    assert_eq!(target.keys(), 0);
}
