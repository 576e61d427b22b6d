//! MongoDB: archives of `mongodump` restored, dumped again and compared; the suites of the ports;
//! writers during the dump.

use std::collections::BTreeMap;
use std::path::Path;

use backup_core::testing::{collect, dumper_suite, inspector_suite, known, restorer_suite};
use backup_core::{
    Context, DumpFormat, DumpReport, Dumper as _, ErrorKind, Inspector as _, RestoreRequest, Restored,
    Restorer as _, Result, Selection,
};
use bytes::Bytes;
use dumpers::mongodb::archive::{ArchiveContents, ArchiveParser, Item, Metadata};
use dumpers::mongodb::{MONGODB_ARCHIVE, MongoConfig, MongoDumper, MongoInspector, MongoRestorer};
use futures::TryStreamExt as _;
use mongodb::bson::{Document, RawDocumentBuf, doc};
use mongodb::{Client, Database};

use crate::server::{unique, variable};

/// The server's connection string.
pub(crate) fn url() -> String {
    variable("STRONGROOM_TEST_MONGODB_URL")
}

/// A database of this name; it is there once something is inserted.
pub(crate) async fn database(name: &str) -> Database {
    Client::with_uri_str(url()).await.unwrap().database(&unique(name))
}

/// Settings for one database.
pub(crate) fn config(database: &str) -> MongoConfig {
    MongoConfig { dbname: Some(database.to_owned()), ..MongoConfig::from_url(&url()).unwrap() }
}

pub(crate) fn format() -> DumpFormat {
    DumpFormat::new(MONGODB_ARCHIVE)
}

pub(crate) fn request(into_existing: bool) -> RestoreRequest {
    RestoreRequest { format: format(), source_len: None, into_existing }
}

pub(crate) async fn dump(config: &MongoConfig, what: &Selection) -> Result<(Bytes, DumpReport)> {
    let dump = MongoDumper::new(config)?.dump(&Context::new(), what).await?;
    let bytes = collect(dump.bytes).await?;
    Ok((bytes, dump.report.get().unwrap().clone()))
}

pub(crate) async fn restore(config: &MongoConfig, archive: &Bytes, into_existing: bool) -> Result<Restored> {
    let restorer = MongoRestorer::new(config)?;
    let cx = Context::new();
    let plan = restorer.plan(&cx, request(into_existing)).await?;
    restorer.restore(&cx, plan, known(&format(), archive)).await
}

/// Everything of an archive: for each collection its metadata without the id, and its documents by
/// their `_id`.
pub(crate) type Contents = BTreeMap<String, (Metadata, BTreeMap<Vec<u8>, Vec<u8>>)>;

pub(crate) fn contents(archive: &Bytes) -> (ArchiveContents, Contents) {
    let mut parser = ArchiveParser::new();
    let mut all = Contents::new();
    let mut entries = Vec::new();
    parser.push(archive);
    while let Some(item) = parser.next_item().unwrap() {
        match item {
            Item::Prelude(prelude) => {
                entries = prelude.entries;
                for entry in &entries {
                    let metadata = Metadata { uuid: None, ..Metadata::from_text(&entry.metadata).unwrap() };
                    all.insert(entry.namespace.collection.clone(), (metadata, BTreeMap::new()));
                }
            }
            Item::Documents { entry, documents, .. } => {
                let of = &mut all.get_mut(&entries[entry].namespace.collection).unwrap().1;
                let mut rest = documents;
                while let Some(len) = rest.first_chunk::<4>().map(|len| i32::from_le_bytes(*len) as usize) {
                    let document = rest.split_to(len);
                    let raw = RawDocumentBuf::from_bytes(document.to_vec()).unwrap();
                    let id = raw.get("_id").unwrap().map_or_else(
                        || raw.get("ts").unwrap().map(|ts| format!("{ts:?}")),
                        |id| Some(format!("{id:?}")),
                    );
                    of.insert(id.unwrap().into_bytes(), document.to_vec());
                }
            }
            Item::Ended { .. } => {}
        }
    }
    (parser.finish().unwrap(), all)
}

/// Compares two archives by content; the oplog is not compared.
pub(crate) fn assert_same(one: &Contents, other: &Contents) {
    let names =
        |contents: &Contents| contents.keys().filter(|name| *name != "oplog").cloned().collect::<Vec<_>>();
    assert_eq!(names(one), names(other));
    for name in names(one) {
        assert_eq!(one[&name].0, other[&name].0, "metadata of {name}");
        let (a, b) = (&one[&name].1, &other[&name].1);
        assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>(), "ids of {name}");
        for (id, document) in a {
            assert!(b[id] == *document, "document {} of {name}", String::from_utf8_lossy(id));
        }
    }
}

/// The names of a database's collections, sorted. The test server sometimes lists a collection that it
/// renamed under its old name too, empty; nothing of ours may be in one.
pub(crate) async fn names(database: &Database) -> Vec<String> {
    let mut names = Vec::new();
    for name in database.list_collection_names().await.unwrap() {
        if name.starts_with("strongroom_restoring_") {
            let left = database.collection::<Document>(&name).count_documents(doc! {}).await.unwrap();
            assert_eq!(left, 0, "{name} holds documents");
        } else {
            names.push(name);
        }
    }
    names.sort();
    names
}

fn golden(name: &str) -> Bytes {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/mongodump").join(name);
    std::fs::read(path).unwrap().into()
}

#[tokio::test]
async fn an_archive_of_mongodump_is_restored_with_its_oplog_and_dumped_the_same() {
    let (golden_db, second) = (database("golden").await, database("second").await);
    let rename = vec![format!("golden={}", golden_db.name()), format!("second={}", second.name())];
    let server = MongoConfig { rename, ..MongoConfig::from_url(&url()).unwrap() };
    let archive = golden("oplog.archive");
    let restored = restore(&server, &archive, false).await.unwrap();
    assert_eq!(restored.bytes, archive.len() as u64);

    // The oplog was applied: expected.json tells 43 documents afterwards.
    let written = second.collection::<Document>("written");
    assert_eq!(written.count_documents(doc! {}).await.unwrap(), 43);
    let ids: Vec<Document> =
        written.find(doc! {}).sort(doc! { "_id": 1 }).await.unwrap().try_collect().await.unwrap();
    assert_eq!(
        ids.iter().map(|document| document.get_i32("_id").unwrap()).collect::<Vec<_>>(),
        (0..43).collect::<Vec<_>>()
    );

    let (dumped, report) = dump(&config(golden_db.name()), &Selection::default()).await.unwrap();
    assert!(report.options.contains(&"consistency=oplog".to_owned()), "{report:?}");
    let (_, mut before) = contents(&archive);
    before.retain(|name, _| !["written", "only", "oplog"].contains(&&**name));
    let (_, after) = contents(&dumped);
    assert_same(&before, &after);
    assert_eq!(names(&golden_db).await.len(), 10);

    // A reader of its own says the same of what mongodump wrote and of what we write.
    let lines = |file: &Path| -> BTreeMap<String, String> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/mongo_archive.py");
        let read = std::process::Command::new(variable("STRONGROOM_TEST_PYTHON"))
            .arg(script)
            .arg(file)
            .output()
            .unwrap();
        assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
        let text = String::from_utf8(read.stdout).unwrap();
        // Name, documents, bytes, blocks, digest, type; the metadata was compared above.
        let line = |line: &str| {
            let (db_and_name, rest) = line.split_once('\t').unwrap();
            let (_, name) = db_and_name.split_once('.')?;
            Some((name.to_owned(), rest.split('\t').take(5).collect::<Vec<_>>().join(" ")))
        };
        text.lines().filter_map(line).collect()
    };
    let ours = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(ours.path(), &dumped).unwrap();
    let mut theirs = lines(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/mongodump/oplog.archive"));
    theirs.retain(|name, _| !["written", "only"].contains(&&**name));
    assert_eq!(lines(ours.path()), theirs);

    let (cx, format, bytes) = (Context::new(), format(), backup_core::ByteStream::once(dumped.clone()));
    let seen = MongoInspector.inspect(&cx, &format, bytes).await.unwrap();
    assert_eq!(seen.bytes, dumped.len() as u64);
    for database in [golden_db, second] {
        database.drop().await.unwrap();
    }
}

#[tokio::test]
async fn the_suites_of_the_ports_pass() {
    let source = database("suite").await;
    source
        .collection("a")
        .insert_many((0..200).map(|i| doc! { "_id": i, "x": "y".repeat(100) }))
        .await
        .unwrap();
    source.collection("b").insert_one(doc! { "_id": "ü" }).await.unwrap();
    source
        .collection::<Document>("a")
        .create_index(mongodb::IndexModel::builder().keys(doc! { "x": 1 }).build())
        .await
        .unwrap();
    dumper_suite(&MongoDumper::new(&config(source.name())).unwrap()).await;
    let (archive, _) = dump(&config(source.name()), &Selection::default()).await.unwrap();
    inspector_suite(&MongoInspector, &format(), &archive).await;
    let target = database("suite_target").await;
    let restorer = MongoRestorer::new(&config(target.name())).unwrap();
    restorer_suite(&restorer, &format(), &archive, async || {
        !target.list_collection_names().await.unwrap().is_empty()
    })
    .await;
    source.drop().await.unwrap();
    target.drop().await.unwrap();
}

#[tokio::test]
async fn every_name_and_every_kind_of_collection_comes_back() {
    let source = database("names").await;
    let names = [
        "dots.in.name",
        "with space",
        "quo\"te's",
        "ünï-çødé 数据",
        "back\\slash",
        "a*b?c",
        "{x}",
        "x".repeat(120).as_str(),
    ]
    .map(str::to_owned);
    for (i, name) in names.iter().enumerate() {
        source
            .collection(name)
            .insert_one(doc! { "_id": i as i32, name.replace('\0', ""): "v" })
            .await
            .unwrap();
    }
    let make = |command: Document| source.run_command(command);
    make(doc! { "create": "empty" }).await.unwrap();
    make(doc! { "create": "capped", "capped": true, "size": 65536, "max": 50 }).await.unwrap();
    make(doc! { "create": "strict", "validator": { "x": { "$gt": 1 } }, "validationLevel": "moderate" })
        .await
        .unwrap();
    make(doc! { "create": "french", "collation": { "locale": "fr" } }).await.unwrap();
    make(doc! { "create": "clustered", "clusteredIndex": { "key": { "_id": 1 }, "unique": true, "name": "by id" } }).await.unwrap();
    make(doc! { "create": "times", "timeseries": { "timeField": "t", "metaField": "m" } }).await.unwrap();
    make(doc! { "create": "seen", "viewOn": "capped", "pipeline": [{ "$match": { "n": { "$gt": 5 } } }] })
        .await
        .unwrap();
    source.collection("capped").insert_many((0..20).map(|n| doc! { "_id": n, "n": n })).await.unwrap();
    source.collection("strict").insert_one(doc! { "_id": 1, "x": 2 }).await.unwrap();
    source.collection("clustered").insert_one(doc! { "_id": "k" }).await.unwrap();
    let times = (0..5).map(|i| doc! { "t": mongodb::bson::DateTime::from_millis(i * 1000), "m": 1, "x": i });
    source.collection("times").insert_many(times).await.unwrap();
    let indexes = doc! { "createIndexes": "capped", "indexes": [
        { "key": { "n": -1, "z": 1 }, "name": "compound" },
        { "key": { "n": 1 }, "name": "part", "partialFilterExpression": { "n": { "$gt": 3 } } },
        { "key": { "when": 1 }, "name": "ttl", "expireAfterSeconds": 3600 },
    ] };
    make(indexes).await.unwrap();
    // As large as a document can be.
    let pad = "z".repeat(16 * 1024 * 1024 - 40);
    source.collection("huge").insert_one(doc! { "_id": 1, "pad": pad }).await.unwrap();

    let (archive, report) = dump(&config(source.name()), &Selection::default()).await.unwrap();
    assert_eq!(report.tables.len(), names.len() + 8);
    let target = database("names_restored").await;
    restore(&config(target.name()), &archive, false).await.unwrap();
    let (again, _) = dump(&config(target.name()), &Selection::default()).await.unwrap();
    assert_same(&contents(&archive).1, &contents(&again).1);
    let seen = target.collection::<Document>("seen").find(doc! {}).await.unwrap();
    assert_eq!(seen.try_collect::<Vec<_>>().await.unwrap().len(), 14);

    // The same into what is there: refused, or as told, and never more than asked.
    let error = restore(&config(target.name()), &archive, false).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    source.drop().await.unwrap();
    target.drop().await.unwrap();
}

#[tokio::test]
async fn incident_54_one_database_one_collection_and_other_names() {
    let (shop, other) = (database("shop").await, database("other").await);
    for db in [&shop, &other] {
        for name in ["orders", "orders.old", "log"] {
            db.collection(name).insert_one(doc! { "_id": db.name() }).await.unwrap();
        }
    }
    let select = |include: &[&str], exclude: &[&str]| {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        Selection { include: owned(include), exclude: owned(exclude) }
    };
    let names = async |config: &MongoConfig, what: Selection| dump(config, &what).await.unwrap().1.tables;
    let one = config(shop.name());
    let full = |db: &Database, name: &str| format!("{}.{name}", db.name());
    assert_eq!(
        names(&one, select(&["orders*"], &[])).await,
        [full(&shop, "orders"), full(&shop, "orders.old")]
    );
    assert_eq!(names(&one, select(&[], &["orders.old", "log"])).await, [full(&shop, "orders")]);
    let server = MongoConfig::from_url(&url()).unwrap();
    let both = select(&[shop.name(), &full(&other, "log")], &["*.log"]);
    assert_eq!(names(&server, both).await, [full(&shop, "orders"), full(&shop, "orders.old")]);
    for wrong in [select(&["ordres"], &[]), select(&["orders", "nothing*"], &[])] {
        let error = dump(&one, &wrong).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    }

    // Several databases do not go into one, unless told how.
    let both = select(&[shop.name(), other.name()], &[]);
    let (archive, _) = dump(&server, &both).await.unwrap();
    let target = database("renamed").await;
    let error = restore(&config(target.name()), &archive, false).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    assert!(target.list_collection_names().await.unwrap().is_empty());
    let rename = vec![
        format!("{}.*={}.first.*", shop.name(), target.name()),
        format!("{}.*={}.second.*", other.name(), target.name()),
    ];
    restore(&MongoConfig { rename, ..server.clone() }, &archive, false).await.unwrap();
    let restored = crate::mongodb::names(&target).await;
    assert_eq!(
        restored,
        ["first.log", "first.orders", "first.orders.old", "second.log", "second.orders", "second.orders.old"]
    );

    // Into what exists: collections of the backup are replaced, others stay.
    target.collection("stays").insert_one(doc! { "_id": 1 }).await.unwrap();
    let (archive, _) = dump(&one, &select(&["orders"], &[])).await.unwrap();
    let rename = vec![format!("{}.orders={}.first.orders", shop.name(), target.name())];
    target.collection("first.orders").insert_one(doc! { "_id": "goes" }).await.unwrap();
    let into = MongoConfig { rename, ..server };
    restore(&into, &archive, true).await.unwrap();
    let orders = target.collection::<Document>("first.orders").find(doc! {}).await.unwrap();
    assert_eq!(orders.try_collect::<Vec<_>>().await.unwrap(), [doc! { "_id": shop.name() }]);
    assert_eq!(crate::mongodb::names(&target).await.len(), 7);
    for db in [shop, other, target] {
        db.drop().await.unwrap();
    }
}

#[tokio::test]
async fn an_empty_database_and_many_collections() {
    let nothing = database("nothing").await;
    let (archive, report) = dump(&config(nothing.name()), &Selection::default()).await.unwrap();
    assert!(report.tables.is_empty());
    restore(&config(nothing.name()), &archive, false).await.unwrap();

    let many = database("many").await;
    for i in 0..150 {
        many.collection(&format!("c{i}")).insert_one(doc! { "_id": i }).await.unwrap();
    }
    let probe = MongoDumper::new(&config(many.name())).unwrap().probe(&Context::new()).await.unwrap();
    assert_eq!(probe.items.len(), 150);
    assert!(
        probe
            .items
            .iter()
            .all(|item| item.estimated_rows == Some(1) && item.estimated_bytes.is_some_and(|b| b > 0))
    );
    let (archive, _) = dump(&config(many.name()), &Selection::default()).await.unwrap();
    let target = database("many_restored").await;
    restore(&config(target.name()), &archive, false).await.unwrap();
    assert_eq!(names(&target).await.len(), 150);
    many.drop().await.unwrap();
    target.drop().await.unwrap();
}
