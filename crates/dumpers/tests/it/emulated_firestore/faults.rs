//! An emulator that is down, refuses, dies; wires that break; writers who do not wait.

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use backup_core::testing::{collect, known};
use backup_core::{
    CancelToken, Context, Dump, DumpFormat, Dumper as _, ErrorKind, Restorer as _, Selection, Settled,
};
use dumpers::firestore::{FIRESTORE_NDJSON, FirestoreConfig, FirestoreDumper, FirestoreRestorer};
use serde_json::{Value, json};

use super::lab::{Project, dump_of, emulator, request, restore};
use super::proxy::{Fate, Proxy, answer};
use crate::server::variable;

/// An emulator of one's own, to be killed.
struct Own {
    process: Child,
    address: String,
}

impl Own {
    async fn start() -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let process = Command::new("java")
            .args(["-Xmx512m", "-cp", &variable("STRONGROOM_TEST_FIRESTORE_JAR")])
            .args([
                "com.google.cloud.datastore.emulator.firestore.CloudFirestore",
                "start",
                "--host=127.0.0.1",
            ])
            .arg(format!("--port={port}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let own = Self { process, address: format!("127.0.0.1:{port}") };
        for _ in 0..600 {
            let project = Project::on("ready", own.address.clone());
            if project.try_post("listCollectionIds", json!({})).await.is_ok() {
                return own;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("the emulator did not start");
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Documents that are more than all buffers on the way.
async fn fill_big(project: &Project, count: usize) {
    let text = "x".repeat(1_000_000);
    let paths: Vec<String> = (0..count).map(|i| format!("big/{i:03}")).collect();
    let documents: Vec<_> =
        paths.iter().map(|path| (path.as_str(), json!({ "t": { "stringValue": text } }))).collect();
    for documents in documents.chunks(3) {
        project.put(documents).await;
    }
}

#[tokio::test]
async fn incident_02_who_may_not_read_is_refused_before_anything_starts() {
    let project = Project::new("refused");
    project.put(&[("a/1", json!({}))]).await;
    // A user of the application, to whom the rules of the database apply.
    let rules = "service cloud.firestore { match /databases/{d}/documents { match /{x=**} { allow read: if false; } } }";
    project.rules(rules).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    let config = FirestoreConfig { token_file: Some(file.clone()), ..project.config() };
    let user = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.eyJzdWIiOiJ1IiwidXNlcl9pZCI6InUifQ.";
    let cx = Context::new();
    for token in [user, "hunter2"] {
        std::fs::write(&file, token).unwrap();
        let dumper = FirestoreDumper::new(&config).unwrap();
        let errors = [
            dumper.probe(&cx).await.unwrap_err(),
            dumper.dump(&cx, &Selection::default()).await.unwrap_err(),
            FirestoreRestorer::new(&config).unwrap().plan(&cx, request(true)).await.unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
            assert!(!format!("{error} {error:?} {:?}", error.hint()).contains(token), "{error:?}");
        }
    }
    let error = FirestoreDumper::new(&config).unwrap().probe(&cx).await.unwrap_err();
    assert!(error.hint().is_some(), "{error}");
    std::fs::remove_file(&file).unwrap();
    assert_eq!(
        FirestoreDumper::new(&config).unwrap().probe(&cx).await.unwrap_err().kind(),
        ErrorKind::Denied
    );
}

#[tokio::test]
async fn nobody_there_and_something_else_there_are_told_apart() {
    let down = FirestoreConfig {
        project: Some("p".to_owned()),
        emulator: Some("127.0.0.1:1".to_owned()),
        ..FirestoreConfig::default()
    };
    let error = FirestoreDumper::new(&down).unwrap().probe(&Context::new()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    let page = Proxy::new("", &[Fate::Answer(answer("200 OK", "", "<html>hello</html>"))]);
    let other = FirestoreConfig { emulator: Some(page.address.clone()), ..down };
    let error = FirestoreDumper::new(&other).unwrap().probe(&Context::new()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Integrity, "{error}");
}

#[tokio::test]
async fn incident_03_a_killed_server_is_no_clean_end() {
    let mut own = Own::start().await;
    let source = Project::on("killed", own.address.clone());
    fill_big(&source, 16).await;
    let config = FirestoreConfig { retry_seconds: Some(1), ..source.config() };
    let dumper = FirestoreDumper::new(&config).unwrap();
    let mut dump = dumper.dump(&Context::new(), &Selection::default()).await.unwrap();
    dump.bytes.next().await.unwrap().unwrap();
    own.process.kill().unwrap();
    own.process.wait().unwrap();
    let error = loop {
        match dump.bytes.next().await {
            Some(Ok(_)) => {}
            Some(Err(error)) => break error,
            None => panic!("a dump of a killed server ended cleanly"),
        }
    };
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(dump.report.get().is_none());
}

#[tokio::test]
async fn incident_12_pages_that_break_go_on_where_they_broke() {
    let source = Project::new("cut");
    source.fill("small", 1_200).await;
    fill_big(&source, 4).await;
    let config =
        FirestoreConfig { read_time: Some(source.now().await), parallel: Some(1), ..source.config() };
    let whole = dump_of(&config).await;
    let slow_down = r#"{"error":{"code":429,"message":"Quota exceeded.","status":"RESOURCE_EXHAUSTED"}}"#;
    let down = r#"[{"error":{"code":503,"message":"The service is currently unavailable.","status":"UNAVAILABLE"}}]"#;
    let proxy = Proxy::new(
        &source.emulator,
        &[
            Fate::Answer(answer("429 Too Many Requests", "retry-after: 1\r\n", slow_down)),
            Fate::CutAfter(900),
            Fate::CutAfter(50_000),
            Fate::Answer(answer("503 Service Unavailable", "", down)),
            Fate::CutAfter(1_500_000),
            Fate::CutAfter(1_500_000),
            Fate::Answer(answer("500 Internal Server Error", "", "oops")),
            Fate::CutAfter(10),
            Fate::CutAfter(400_000),
            Fate::Answer(answer("429 Too Many Requests", "", slow_down)),
            // An error in the midst of an answer that began well.
            Fate::Answer(answer("200 OK", "", down)),
            Fate::Pass,
        ],
    );
    let broken = FirestoreConfig { emulator: Some(proxy.address.clone()), ..config.clone() };
    let began = std::time::Instant::now();
    let again = dump_of(&broken).await;
    assert!(again == whole, "{} and {} bytes", again.len(), whole.len());
    assert!(proxy.connections() >= 12, "{} connections", proxy.connections());
    assert!(began.elapsed() >= Duration::from_secs(1), "the server asked to wait");

    // A quota that is used up for good is told in the end.
    let never = Proxy::new("", &[Fate::Answer(answer("429 Too Many Requests", "", slow_down))]);
    let config = FirestoreConfig { emulator: Some(never.address.clone()), retry_seconds: Some(1), ..config };
    let error = FirestoreDumper::new(&config).unwrap().probe(&Context::new()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.what().contains("Quota exceeded") && never.connections() > 1, "{error}");
}

#[tokio::test]
async fn a_moment_that_is_forgotten_is_no_clean_end() {
    let source = Project::new("forgotten");
    fill_big(&source, 3).await;
    let old = r#"{"error":{"code":400,"message":"The requested snapshot version is too old.","status":"FAILED_PRECONDITION"}}"#;
    // Only what asks for a page of documents at a moment is answered so.
    let proxy = Proxy::new(
        &source.emulator,
        &[Fate::CutAfter(1_200_000), Fate::Answer(answer("400 Bad Request", "", old)), Fate::Pass],
    );
    let config =
        FirestoreConfig { emulator: Some(proxy.address.clone()), parallel: Some(1), ..source.config() };
    let dump =
        FirestoreDumper::new(&config).unwrap().dump(&Context::new(), &Selection::default()).await.unwrap();
    let error = collect(dump.bytes).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.hint().unwrap().contains("point-in-time recovery"), "{error}");
}

#[tokio::test]
async fn writers_go_on_and_the_copy_is_one_moment() {
    const ACCOUNTS: i64 = 40;
    let source = Arc::new(Project::new("bank"));
    let account = |i: i64| format!("accounts/{i:02}");
    let balance =
        |amount: i64, last: Value| json!({ "balance": { "integerValue": amount.to_string() }, "last": last });
    let none = json!({ "nullValue": null });
    let paths: Vec<String> = (0..ACCOUNTS).map(account).collect();
    let opened: Vec<_> = paths.iter().map(|path| (path.as_str(), balance(1_000, none.clone()))).collect();
    source.put(&opened).await;
    // Between the two collections in the order of names, so that the dump takes a while.
    fill_big(&source, 10).await;

    let stop = Arc::new(AtomicBool::new(false));
    let transfers = Arc::new(AtomicUsize::new(0));
    let writer = tokio::spawn({
        let (source, stop, transfers) = (Arc::clone(&source), Arc::clone(&stop), Arc::clone(&transfers));
        async move {
            let mut balances = vec![1_000_i64; ACCOUNTS as usize];
            let mut number = 0_i64;
            while !stop.load(Ordering::Relaxed) {
                let (from, to) = ((number * 7) % ACCOUNTS, (number * 11 + 3) % ACCOUNTS);
                number += 1;
                if from == to {
                    continue;
                }
                let amount = number % 90;
                balances[from as usize] -= amount;
                balances[to as usize] += amount;
                let path = format!("transfers/{number:06}");
                let last = json!({ "referenceValue": source.document(&path) });
                let transfer = json!({
                    "from": { "referenceValue": source.document(&account(from)) },
                    "to": { "referenceValue": source.document(&account(to)) },
                    "amount": { "integerValue": amount.to_string() },
                });
                // One commit is one transaction.
                source
                    .put(&[
                        (&account(from), balance(balances[from as usize], last.clone())),
                        (&account(to), balance(balances[to as usize], last)),
                        (&path, transfer),
                    ])
                    .await;
                transfers.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    while transfers.load(Ordering::Relaxed) < 20 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let dumper = FirestoreDumper::new(&source.config()).unwrap();
    let mut dump = dumper.dump(&Context::new(), &Selection::default()).await.unwrap();
    let before = transfers.load(Ordering::Relaxed);
    let mut whole = dump.bytes.next().await.unwrap().unwrap().to_vec();
    while transfers.load(Ordering::Relaxed) < before + 20 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // A collection that vanishes during the dump is in it, as it was.
    for i in 0..10 {
        let name = source.document(&format!("big/{i:03}"));
        source.post("commit", json!({ "writes": [{ "delete": name }] })).await;
    }
    whole.extend(collect(dump.bytes).await.unwrap());
    stop.store(true, Ordering::Relaxed);
    writer.await.unwrap();

    let target = Project::new("bank-back");
    restore(&target.config(), &whole.into(), false).await.unwrap();
    let documents = target.documents().await;
    let number = |value: &Value| value["integerValue"].as_str().unwrap().parse::<i64>().unwrap();
    let prefix = target.document("");
    let mut expected: BTreeMap<String, i64> = paths.iter().map(|path| (path.clone(), 1_000)).collect();
    let mut made = 0;
    for transfer in
        documents.iter().filter(|(path, _)| path.starts_with("transfers/")).map(|(_, fields)| fields)
    {
        for (end, sign) in [("from", -1), ("to", 1)] {
            let name = transfer[end]["referenceValue"].as_str().unwrap();
            *expected.get_mut(name.strip_prefix(&prefix).unwrap()).unwrap() +=
                sign * number(&transfer["amount"]);
        }
        made += 1;
    }
    assert!(made >= 20 && made < transfers.load(Ordering::Relaxed), "{made} transfers were copied");
    let mut sum = 0;
    for (path, expected) in &expected {
        let fields = &documents[path];
        assert_eq!(number(&fields["balance"]), *expected, "{path}");
        sum += number(&fields["balance"]);
        if let Some(last) = fields["last"]["referenceValue"].as_str() {
            assert!(documents.contains_key(last.strip_prefix(&prefix).unwrap()), "{path} points to nothing");
        }
    }
    assert_eq!(sum, ACCOUNTS * 1_000);
    assert_eq!(documents.keys().filter(|path| path.starts_with("big/")).count(), 10);
}

#[tokio::test]
async fn a_lost_answer_to_a_write_is_settled() {
    let (source, target) = (Project::new("lost"), Project::new("lost-back"));
    source.fill("filled", 700).await;
    let whole = dump_of(&source.config()).await;
    let fates = [Fate::Pass, Fate::LoseWrite, Fate::LoseWrite, Fate::Pass];
    let proxy = Proxy::new(&emulator(), &fates);
    let config =
        FirestoreConfig { emulator: Some(proxy.address.clone()), parallel: Some(1), ..target.config() };
    let restored = restore(&config, &whole, false).await.unwrap();
    assert_eq!(restored.warnings, Vec::<String>::new());
    assert!(proxy.connections() >= 4, "{} connections", proxy.connections());
    assert_eq!(target.documents().await, source.documents().await);
}

#[tokio::test]
async fn a_quota_of_writes_is_waited_for() {
    let (source, target) = (Project::new("quota"), Project::new("quota-back"));
    source.fill("filled", 700).await;
    let whole = dump_of(&source.config()).await;
    let exhausted = |details: &str| {
        format!(
            r#"{{"error":{{"code":429,"message":"Quota exceeded.","status":"RESOURCE_EXHAUSTED","details":[{details}]}}}}"#
        )
    };
    let delay = r#"{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"0.6s"}"#;
    let fates = [
        Fate::CutAfter(3_000),
        Fate::Answer(answer("429 Too Many Requests", "retry-after: 1\r\n", &exhausted(""))),
        Fate::Answer(answer("429 Too Many Requests", "", &exhausted(delay))),
        Fate::Pass,
    ];
    let proxy = Proxy::new(&emulator(), &fates);
    let config =
        FirestoreConfig { emulator: Some(proxy.address.clone()), parallel: Some(1), ..target.config() };
    let began = std::time::Instant::now();
    let restored = restore(&config, &whole, false).await.unwrap();
    assert_eq!(restored.warnings, Vec::<String>::new());
    assert!(began.elapsed() >= Duration::from_millis(1_600), "{:?}", began.elapsed());
    assert!(proxy.connections() >= 4, "{} connections", proxy.connections());
    assert_eq!(target.documents().await, source.documents().await);
}

/// A dump whose bytes call `at` after so many.
fn watched(whole: &bytes::Bytes, after: usize, mut at: impl FnMut() + Send + 'static) -> Dump {
    let mut seen = 0;
    let bytes = known(&DumpFormat::new(FIRESTORE_NDJSON), whole).bytes.inspect(move |chunk| {
        seen += chunk.len();
        if seen >= after {
            at();
        }
    });
    Dump { format: DumpFormat::new(FIRESTORE_NDJSON), bytes, report: Settled::known(Default::default()) }
}

#[tokio::test]
async fn a_restore_that_is_stopped_takes_back_what_is_its_own() {
    let source = Project::new("stopped");
    source.fill("filled", 4_000).await;
    let whole = dump_of(&source.config()).await;
    for keep_partial in [false, true] {
        let target = Project::new("stopped-back");
        let config = FirestoreConfig { keep_partial, parallel: Some(1), ..target.config() };
        let restorer = FirestoreRestorer::new(&config).unwrap();
        let cancel = CancelToken::new();
        let cx = Context::new().with_cancel(cancel.clone());
        let plan = restorer.plan(&cx, request(false)).await.unwrap();
        // Somebody else begins to use the database meanwhile.
        target.put(&[("filled/of somebody else", json!({})), ("other/1", json!({}))]).await;
        let dump = watched(&whole, whole.len() / 2, move || cancel.cancel());
        let error = restorer.restore(&cx, plan, dump).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled);
        let left = target.documents().await;
        if keep_partial {
            assert!(left.len() > 400 && error.what().contains("stay in"), "{error}");
        } else {
            assert_eq!(left.len(), 2, "{error}");
            assert!(left.contains_key("filled/of somebody else") && left.contains_key("other/1"));
            assert!(error.what().contains("2 are there that somebody else wrote"), "{error}");
        }
    }
}

#[tokio::test]
async fn a_document_that_cannot_be_written_is_named() {
    let (source, target) = (Project::new("unwritable"), Project::new("unwritable-back"));
    source.fill("filled", 100).await;
    let whole = String::from_utf8(dump_of(&source.config()).await.to_vec()).unwrap();
    // What a later limit, or a service other than the emulator, may refuse: a reserved name.
    let whole = whole.replace("filled/000050", "filled/__0000050__");
    let whole = lines_with_new_end(&whole);
    let error = restore(&target.config(), &whole.into(), false).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.subject().ends_with("filled/__0000050__"), "{error}");
    assert!(error.what().contains("were removed again"), "{error}");
    assert!(target.documents().await.is_empty());
}

/// The same lines with an end that fits them.
fn lines_with_new_end(text: &str) -> String {
    let (lines, end) = text[..text.len() - 1].rsplit_once('\n').unwrap();
    let lines = format!("{lines}\n");
    let mut end: Value = serde_json::from_str(end).unwrap();
    end["end"]["sha256"] = backup_core::Sha256Digest::of(lines.as_bytes()).to_string().into();
    format!("{lines}{end}\n")
}

#[tokio::test]
async fn a_server_that_fails_for_good_leaves_a_clear_statement() {
    let (source, target) = (Project::new("fails"), Project::new("fails-back"));
    source.fill("filled", 3_000).await;
    let whole = dump_of(&source.config()).await;
    let down = r#"{"error":{"code":503,"message":"down","status":"UNAVAILABLE"}}"#;
    let fates =
        [Fate::Pass, Fate::CutAfter(60_000), Fate::Answer(answer("503 Service Unavailable", "", down))];
    let proxy = Proxy::new(&emulator(), &fates);
    let config = FirestoreConfig {
        emulator: Some(proxy.address.clone()),
        parallel: Some(1),
        retry_seconds: Some(1),
        ..target.config()
    };
    let error = restore(&config, &whole, false).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    let (told, left) = (error.what(), target.documents().await.len());
    assert!(told.contains("stay in") && told.contains("removing them failed"), "{told}");
    let number: usize = told.split("; ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!(number > 0 && left >= number && left <= number + 500, "{left} are there: {told}");
}
