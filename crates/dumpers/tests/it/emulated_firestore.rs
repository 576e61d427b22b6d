//! Google's Firestore emulator: dumps, restores, and what they hold.

mod faults;
pub(crate) mod lab;
mod proxy;
mod selection;
mod users;

use std::collections::BTreeMap;

use backup_core::testing::{collect, dumper_suite, inspector_suite, known, restorer_suite};
use backup_core::{Context, DumpFormat, Dumper as _, ErrorKind, Inspector as _, Restorer as _, Selection};
use dumpers::firestore::{
    Conflicts, FIRESTORE_NDJSON, FirestoreConfig, FirestoreDumper, FirestoreInspector, FirestoreRestorer,
    References,
};
use serde_json::{Value, json};

use lab::{Project, dump_of, request, restore};

/// One document of every kind of value, and names of every kind.
async fn everything(project: &Project) {
    let reference = |path: &str| json!({ "referenceValue": project.document(path) });
    let values = json!({
        "null": { "nullValue": null },
        "true": { "booleanValue": true },
        "least": { "integerValue": "-9223372036854775808" },
        "greatest": { "integerValue": "9223372036854775807" },
        "tenth": { "doubleValue": 0.1 },
        "least double": { "doubleValue": 5e-324 },
        "greatest double": { "doubleValue": 1.797_693_134_862_315_7e308 },
        "negative zero": { "doubleValue": -0.0 },
        "not a number": { "doubleValue": "NaN" },
        "infinity": { "doubleValue": "Infinity" },
        "-infinity": { "doubleValue": "-Infinity" },
        "time": { "timestampValue": "2020-02-29T23:59:59.123456Z" },
        "early": { "timestampValue": "0001-01-01T00:00:00Z" },
        "text": { "stringValue": "é \"quoted\" \\ \n \u{0} 😀 </script>" },
        "nothing": { "stringValue": "" },
        "bytes": { "bytesValue": "AAH+/w==" },
        "place": { "geoPointValue": { "latitude": -89.5, "longitude": 0.0 } },
        "reference": reference("users/b"),
        "list": { "arrayValue": { "values": [{ "nullValue": null }, { "mapValue": { "fields": { "r": reference("a/b/c/d") } } }] } },
        "empty list": { "arrayValue": {} },
        "empty map": { "mapValue": {} },
        "vector": { "mapValue": { "fields": {
            "__type__": { "stringValue": "__vector__" },
            "value": { "arrayValue": { "values": [{ "doubleValue": 1.5 }, { "doubleValue": -2.0 }] } },
        } } },
        "": { "stringValue": "a field without a name" },
        "a.b`c\\": { "stringValue": "a field with an odd name" },
        "é": { "stringValue": "a field in another alphabet" },
    });
    // The emulator refuses a field without a name; the service too.
    let mut values = values;
    values.as_object_mut().unwrap().remove("");
    let mut deep = json!({ "integerValue": "1" });
    for _ in 0..19 {
        deep = json!({ "mapValue": { "fields": { "m": deep } } });
    }
    project
        .put(&[
            ("values/all", values),
            ("values/none", json!({})),
            ("values/deep", json!({ "deep": deep })),
            ("users/missing/orders/1", json!({ "of": { "stringValue": "nobody" } })),
            ("users/missing/orders/1/lines/also missing/more/2", json!({})),
            ("a.b \"quoted\" 'é'/d o.t %2F ?&#+", json!({ "x": { "integerValue": "1" } })),
            ("__not_reserved/__neither", json!({})),
            ("n/1", json!({})),
            ("n/__id7__", json!({ "numeric": { "booleanValue": false } })),
        ])
        .await;
}

#[tokio::test]
async fn every_value_and_every_name_comes_back_in_another_project() {
    let (source, target) = (Project::new("values"), Project::new("values-back"));
    everything(&source).await;
    let before = source.documents().await;
    assert_eq!(before.len(), 9);
    let whole = dump_of(&source.config()).await;
    let restored = restore(&target.config(), &whole, false).await.unwrap();
    assert_eq!(restored.bytes, whole.len() as u64);
    assert_eq!(restored.warnings, Vec::<String>::new());
    let mut expected = json!(before).to_string();
    expected = expected.replace(&source.document(""), &target.document(""));
    let expected: BTreeMap<String, Value> = serde_json::from_str(&expected).unwrap();
    assert_eq!(target.documents().await, expected);
    assert_eq!(source.documents().await, before, "a dump changes nothing");
}

#[tokio::test]
async fn the_dumper_obeys_the_suite() {
    let source = Project::new("dumper-suite");
    everything(&source).await;
    dumper_suite(&FirestoreDumper::new(&source.config()).unwrap()).await;
}

#[tokio::test]
async fn the_inspector_obeys_the_suite() {
    let source = Project::new("inspector-suite");
    everything(&source).await;
    let whole = dump_of(&source.config()).await;
    inspector_suite(&FirestoreInspector, &DumpFormat::new(FIRESTORE_NDJSON), &whole).await;
}

#[tokio::test]
async fn the_restorer_obeys_the_suite() {
    let (source, target) = (Project::new("restorer-suite"), Project::new("restorer-suite-back"));
    source.fill("filled", 1_200).await;
    let whole = dump_of(&source.config()).await;
    let restorer = FirestoreRestorer::new(&target.config()).unwrap();
    let format = DumpFormat::new(FIRESTORE_NDJSON);
    restorer_suite(&restorer, &format, &whole, async || !target.documents().await.is_empty()).await;
    assert_eq!(target.documents().await, source.documents().await);
}

#[tokio::test]
async fn an_empty_database_is_a_dump_and_a_restore() {
    let (source, target) = (Project::new("empty"), Project::new("empty-back"));
    let whole = dump_of(&source.config()).await;
    let bytes = known(&DumpFormat::new(FIRESTORE_NDJSON), &whole).bytes;
    let seen =
        FirestoreInspector.inspect(&Context::new(), &DumpFormat::new(FIRESTORE_NDJSON), bytes).await.unwrap();
    assert!(seen.parsed && seen.tables.is_empty());
    restore(&target.config(), &whole, false).await.unwrap();
    assert!(target.documents().await.is_empty());
}

#[tokio::test]
async fn documents_of_one_mebibyte_and_thousands_of_small_ones() {
    let (source, target) = (Project::new("big"), Project::new("big-back"));
    let text = "x".repeat(1_048_400);
    for i in 0..3 {
        source.put(&[(&format!("big/{i}"), json!({ "t": { "stringValue": text } }))]).await;
    }
    // Fifty thousand of the smallest values are twenty times as long in JSON.
    let many = vec![json!({ "nullValue": null }); 50_000];
    source.put(&[("big/many", json!({ "a": { "arrayValue": { "values": many } } }))]).await;
    source.fill("small", 5_000).await;
    let whole = dump_of(&source.config()).await;
    restore(&target.config(), &whole, false).await.unwrap();
    let (before, after) = (source.documents().await, target.documents().await);
    assert_eq!(before.len(), 5_004);
    assert!(before == after, "the copies differ");
}

#[tokio::test]
async fn many_collections() {
    let (source, target) = (Project::new("many"), Project::new("many-back"));
    let paths: Vec<String> = (0..300).map(|i| format!("c{i}/d/s{i}/e")).collect();
    let documents: Vec<(&str, Value)> = paths.iter().map(|path| (path.as_str(), json!({}))).collect();
    source.put(&documents).await;
    let config = FirestoreConfig { parallel: Some(8), ..source.config() };
    let whole = dump_of(&config).await;
    restore(&target.config(), &whole, false).await.unwrap();
    assert_eq!(target.documents().await.len(), 300);
}

#[tokio::test]
async fn a_probe_lists_collections_with_what_they_hold() {
    let source = Project::new("probe");
    source.fill("small", 120).await;
    source.put(&[("users/missing/orders/1", json!({})), ("users/missing/orders/2", json!({}))]).await;
    let probe = FirestoreDumper::new(&source.config()).unwrap().probe(&Context::new()).await.unwrap();
    assert_eq!(probe.engine, "firestore");
    let rows: Vec<_> = probe.items.iter().map(|item| (&*item.name, item.estimated_rows)).collect();
    assert_eq!(rows, [("small", Some(120)), ("users", Some(2))]);
    let len = dump_of(&source.config()).await.len() as u64;
    let estimate = probe.estimated_bytes.unwrap();
    assert!(estimate > len / 2 && estimate < len * 2, "{estimate} for {len}");
}

#[tokio::test]
async fn a_restore_below_a_document_moves_names_and_references() {
    let (source, target) = (Project::new("root"), Project::new("root-back"));
    let elsewhere = "projects/elsewhere/databases/(default)/documents/x/y";
    let of = |name: String| json!({ "r": { "referenceValue": name } });
    source.put(&[("a/1", of(source.document("b/2"))), ("b/2", of(elsewhere.to_owned()))]).await;
    let whole = dump_of(&source.config()).await;
    target.put(&[("kept/1", json!({}))]).await;
    let config = FirestoreConfig { root: Some("restored/monday é".to_owned()), ..target.config() };
    let restored = restore(&config, &whole, false).await.unwrap();
    assert_eq!(restored.warnings, ["1 references point to other databases and were left"]);
    let expected = BTreeMap::from([
        ("kept/1".to_owned(), json!({})),
        ("restored/monday é/a/1".to_owned(), of(target.document("restored/monday é/b/2"))),
        ("restored/monday é/b/2".to_owned(), of(elsewhere.to_owned())),
    ]);
    assert_eq!(target.documents().await, expected);

    // Below another document there is room again; this time the references stay as they are.
    let config = FirestoreConfig {
        root: Some("restored/tuesday".to_owned()),
        references: References::Keep,
        ..target.config()
    };
    restore(&config, &whole, false).await.unwrap();
    assert_eq!(target.documents().await["restored/tuesday/a/1"], of(source.document("b/2")));
}

#[tokio::test]
async fn documents_that_exist_are_treated_as_asked_for() {
    let source = Project::new("conflicts");
    let text = |text: &str| json!({ "stringValue": text });
    let map = |fields: Value| json!({ "mapValue": { "fields": fields } });
    source
        .put(&[
            (
                "c/both",
                json!({ "a": text("new"), "m": map(json!({ "x": text("new") })), "e.1": text("new") }),
            ),
            ("c/empty", json!({})),
            ("c/new", json!({ "a": text("new") })),
        ])
        .await;
    let whole = dump_of(&source.config()).await;
    let old = json!({ "a": text("old"), "b": text("old"), "m": map(json!({ "x": text("old"), "y": text("old") })) });
    let merged = json!({
        "a": text("new"), "b": text("old"), "e.1": text("new"), "m": map(json!({ "x": text("new"), "y": text("old") })),
    });
    let new = source.documents().await;
    for (conflicts, both, empty) in [
        (Conflicts::Skip, &old, &old),
        (Conflicts::Overwrite, &new["c/both"], &json!({})),
        (Conflicts::Merge, &merged, &old),
    ] {
        let target = Project::new("conflicts-back");
        target.put(&[("c/both", old.clone()), ("c/empty", old.clone()), ("c/kept", old.clone())]).await;
        let config = FirestoreConfig { conflicts, ..target.config() };
        let refused = FirestoreRestorer::new(&config).unwrap().plan(&Context::new(), request(false)).await;
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Conflict);
        let restored = restore(&config, &whole, true).await.unwrap();
        let after = target.documents().await;
        assert_eq!(
            (&after["c/both"], &after["c/empty"], &after["c/kept"]),
            (both, empty, &old),
            "{conflicts:?}"
        );
        assert_eq!(after["c/new"], new["c/new"]);
        let told = restored.warnings.iter().any(|warning| warning.starts_with("2 documents existed"));
        assert_eq!(told, conflicts == Conflicts::Skip);
    }

    let target = Project::new("conflicts-fail");
    target.put(&[("c/both", old.clone())]).await;
    let error = restore(&target.config(), &whole, true).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert!(error.subject().ends_with("c/both") && error.what().contains("2 documents stay"), "{error}");
    assert_eq!(target.documents().await["c/both"], old);
}

#[tokio::test]
async fn a_dump_of_the_past_is_of_the_past() {
    let source = Project::new("past");
    source.put(&[("a/1", json!({ "v": { "integerValue": "1" } }))]).await;
    let probe = source.now().await;
    source.put(&[("a/1", json!({ "v": { "integerValue": "2" } })), ("a/2", json!({}))]).await;
    let config = FirestoreConfig { read_time: Some(probe), ..source.config() };
    let whole = String::from_utf8(dump_of(&config).await.to_vec()).unwrap();
    assert!(whole.contains("\"integerValue\":\"1\"") && !whole.contains("a/2"), "{whole}");
    let config = FirestoreConfig { read_time: Some("2999-01-01T00:00:00Z".to_owned()), ..source.config() };
    let error = FirestoreDumper::new(&config)
        .unwrap()
        .dump(&Context::new(), &Selection::default())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
}

#[tokio::test]
async fn two_dumps_of_one_moment_are_the_same_in_content() {
    let source = Project::new("same");
    source.fill("filled", 50).await;
    let config =
        FirestoreConfig { read_time: Some(source.now().await), parallel: Some(1), ..source.config() };
    assert_eq!(dump_of(&config).await, dump_of(&config).await);
    let dumper = FirestoreDumper::new(&config).unwrap();
    let dump = dumper.dump(&Context::new(), &Selection::default()).await.unwrap();
    let report = dump.report.clone();
    collect(dump.bytes).await.unwrap();
    let report = report.get().unwrap();
    assert_eq!(report.tables, ["filled"]);
    assert!(report.options.iter().any(|option| option == "documents=50"), "{:?}", report.options);
}

/// docs/engines/firestore.md promises a restore with a page of Python and nothing else.
#[tokio::test]
async fn the_restore_by_hand_works() {
    let (source, target) = (Project::new("by-hand"), Project::new("by-hand-back"));
    everything(&source).await;
    let whole = dump_of(&source.config()).await;
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/engines/firestore.md");
    let page = std::fs::read_to_string(page).unwrap();
    let script = page.split("    # restore.py").nth(1).unwrap();
    let script: Vec<_> = script.lines().skip(1).map(|line| line.strip_prefix("    ").unwrap_or("")).collect();
    let script =
        script.join("\n").replace("https://firestore.googleapis.com", &format!("http://{}", target.emulator));
    let run = |input: bytes::Bytes| {
        let mut python = std::process::Command::new("python3")
            .args(["-c", &script, &target.id, "owner"])
            .env("no_proxy", "127.0.0.1")
            .stdin(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let written = std::io::Write::write_all(&mut python.stdin.take().unwrap(), &input);
        let output = python.wait_with_output().unwrap();
        written.is_ok().then_some(()).ok_or_else(String::new)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() { Ok(()) } else { Err(said) }
    };
    let end = whole.slice(..whole.len() - 1).iter().rposition(|&byte| byte == b'\n').unwrap() + 1;
    assert!(run(whole.slice(..end)).unwrap_err().contains("cut or damaged"));
    assert!(target.documents().await.is_empty());
    run(whole).unwrap();
    let expected = json!(source.documents().await).to_string();
    let expected = expected.replace(&source.document(""), &target.document(""));
    assert_eq!(json!(target.documents().await).to_string(), expected);
}
