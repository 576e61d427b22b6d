//! Restores that fail in the middle: what they made goes, and nothing else.

use backup_core::testing::known;
use backup_core::{ErrorKind, Restorer as _};
use bytes::Bytes;
use dumpers::mongodb::archive::{ArchiveWriter, Entry, Metadata, Namespace, Prelude};
use dumpers::mongodb::{MongoConfig, MongoRestorer};
use futures::TryStreamExt as _;
use mongodb::bson::{Document, Timestamp, doc};
use mongodb::{Client, Database};

use crate::mongodb::{config, database, format, names, request, restore};
use crate::mongodb_faults::Own;

/// CRC-64/XZ, bit by bit.
fn crc64(bytes: &[u8]) -> i64 {
    let mut crc = u64::MAX;
    for byte in bytes {
        crc ^= u64::from(*byte);
        for _ in 0..8 {
            crc = crc >> 1 ^ if crc & 1 == 1 { 0xc96c_5795_d787_0f42 } else { 0 };
        }
    }
    (!crc).cast_signed()
}

/// A whole archive of these collections of the database `shop`, with their options.
fn archive(collections: &[(&str, Document, Vec<Document>)]) -> Bytes {
    archive_with(collections, &[])
}

/// The same with entries of an oplog.
fn archive_with(collections: &[(&str, Document, Vec<Document>)], oplog: &[Document]) -> Bytes {
    let namespace = |name: &str| Namespace::new("shop", name);
    let entry = |(name, options, _): &(&str, Document, Vec<Document>)| Entry {
        namespace: namespace(name),
        metadata: Metadata {
            options: options.clone(),
            collection: (*name).to_owned(),
            kind: "collection".to_owned(),
            ..Metadata::default()
        }
        .to_text(),
        kind: "collection".to_owned(),
    };
    let mut prelude = Prelude { entries: collections.iter().map(entry).collect(), ..Prelude::default() };
    prelude.entries.push(Entry { namespace: Namespace::oplog(), ..Entry::default() });
    let (mut writer, head) = ArchiveWriter::begin(&prelude);
    let mut bytes = head.to_vec();
    for (name, _, documents) in collections {
        let encoded: Vec<u8> = documents.iter().flat_map(|document| document.to_vec().unwrap()).collect();
        if !encoded.is_empty() {
            bytes.extend(writer.documents(&namespace(name)).into_iter().flatten());
            bytes.extend_from_slice(&encoded);
        }
        bytes.extend_from_slice(&writer.end(&namespace(name), crc64(&encoded)));
    }
    let encoded: Vec<u8> = oplog.iter().flat_map(|entry| entry.to_vec().unwrap()).collect();
    if !encoded.is_empty() {
        bytes.extend(writer.documents(&Namespace::oplog()).into_iter().flatten());
        bytes.extend_from_slice(&encoded);
    }
    bytes.extend_from_slice(&writer.end(&Namespace::oplog(), crc64(&encoded)));
    bytes.into()
}

async fn all(database: &Database, name: &str) -> Vec<Document> {
    database.collection::<Document>(name).find(doc! {}).await.unwrap().try_collect().await.unwrap()
}

fn numbered(count: i32) -> Vec<Document> {
    (0..count).map(|i| doc! { "_id": i }).collect()
}

#[tokio::test]
async fn a_document_that_is_refused_leaves_the_target_as_it_was() {
    let doubled = archive(&[
        ("fine", Document::new(), numbered(50)),
        ("ring", doc! { "capped": true, "size": 65536 }, numbered(20)),
        ("doubled", Document::new(), vec![doc! { "_id": 1, "x": 1 }, doc! { "_id": 1, "x": 2 }]),
    ]);
    // Into nothing.
    let target = database("undo_empty").await;
    let error = restore(&config(target.name()), &doubled, false).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Tool, "{error}");
    assert!(error.what().contains(&format!("{}.doubled", target.name())), "{error}");
    assert!(names(&target).await.is_empty());

    // Beside what was there, under the same names and others.
    target.collection("stays").insert_one(doc! { "_id": "s" }).await.unwrap();
    target.collection("fine").insert_one(doc! { "_id": "old" }).await.unwrap();
    let error = restore(&config(target.name()), &doubled, true).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Tool, "{error}");
    assert!(!error.hint().unwrap_or_default().contains("replaced"), "{:?}", error.hint());
    assert_eq!(names(&target).await, ["fine", "stays"]);
    assert_eq!(all(&target, "fine").await, [doc! { "_id": "old" }]);

    // What cannot be replaced at once on this server is not touched, nor is anything before it.
    target.create_collection("ring").capped(true).size(65536).await.unwrap();
    target.collection("ring").insert_one(doc! { "_id": "old" }).await.unwrap();
    let whole = archive(&[
        ("fine", Document::new(), numbered(50)),
        ("ring", doc! { "capped": true, "size": 65536 }, numbered(20)),
    ]);
    let error = restore(&config(target.name()), &whole, true).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert_eq!(names(&target).await, ["fine", "ring", "stays"]);
    assert_eq!(all(&target, "ring").await, [doc! { "_id": "old" }]);
    assert_eq!(all(&target, "fine").await, [doc! { "_id": "old" }]);
    target.drop().await.unwrap();
}

/// An entry of a transaction that inserts documents of these `_id`s.
fn transaction(number: i64, ids: &[i32], partial: bool) -> Document {
    let insert = |id: &i32| doc! { "op": "i", "ns": "shop.a", "o": { "_id": id }, "o2": { "_id": id } };
    let mut o = doc! { "applyOps": ids.iter().map(insert).collect::<Vec<_>>() };
    if partial {
        o.insert("partialTxn", true);
    }
    doc! {
        "op": "c", "ns": "admin.$cmd", "o": o, "ts": Timestamp { time: 9, increment: 9 },
        "lsid": { "id": 1 }, "txnNumber": number,
        "prevOpTime": { "ts": Timestamp { time: 8, increment: 1 }, "t": 1_i64 },
    }
}

#[tokio::test]
async fn a_transaction_is_restored_whole_or_not_at_all() {
    const EMPTY: Timestamp = Timestamp { time: 0, increment: 0 };
    let oplog = [
        transaction(1, &[10, 11], true),
        doc! { "op": "i", "ns": "shop.a", "o": { "_id": 5, "t": EMPTY, "z": 1 } },
        transaction(2, &[20, 21], true),
        transaction(1, &[12], true),
        transaction(1, &[13], false),
        doc! { "op": "u", "ns": "shop.a", "o": { "$v": 2, "diff": { "u": { "z": 2 } } }, "o2": { "_id": 5 } },
    ];
    let whole = archive_with(&[("a", Document::new(), numbered(2))], &oplog);
    let target = database("transactions").await;
    restore(&config(target.name()), &whole, false).await.unwrap();
    let mut restored = all(&target, "a").await;
    restored.sort_by_key(|document| document.get_i32("_id").unwrap());
    let ids: Vec<i32> = restored.iter().map(|document| document.get_i32("_id").unwrap()).collect();
    assert_eq!(ids, [0, 1, 5, 10, 11, 12, 13], "the second transaction did not happen");
    assert_eq!(restored[2], doc! { "_id": 5, "t": EMPTY, "z": 2 });
    target.drop().await.unwrap();
}

/// Somebody else makes a collection of a wanted name between the look and the end.
#[tokio::test]
async fn a_collection_that_appears_meanwhile_stays() {
    let whole = archive(&[("a", Document::new(), numbered(50)), ("b", Document::new(), numbered(50))]);
    let target = database("undo_meanwhile").await;
    let restorer = MongoRestorer::new(&config(target.name())).unwrap();
    let cx = backup_core::Context::new();
    let plan = restorer.plan(&cx, request(false)).await.unwrap();
    let mut dump = known(&format(), &whole);
    let (theirs, head) = (target.clone(), whole.slice(..whole.len() - 10));
    let late = futures::stream::once(async move {
        // The first bytes came, with them the names; these come before the last.
        tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
        theirs.collection("b").insert_one(doc! { "_id": "theirs" }).await.unwrap();
        Ok(whole.slice(whole.len() - 10..))
    });
    let first = futures::stream::iter([Ok(head)]);
    dump.bytes = backup_core::ByteStream::new(futures::StreamExt::chain(first, late));
    let error = restorer.restore(&cx, plan, dump).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Tool | ErrorKind::Conflict), "{error}");
    assert_eq!(names(&target).await, ["b"]);
    assert_eq!(all(&target, "b").await, [doc! { "_id": "theirs" }]);
    target.drop().await.unwrap();
}

#[tokio::test]
async fn incident_03_a_server_that_is_killed_during_a_restore_keeps_what_it_had() {
    let mut own = Own::start().await;
    let target = Client::with_uri_str(&own.url).await.unwrap().database("shop");
    target.collection("a").insert_one(doc! { "_id": "old" }).await.unwrap();
    target.collection("stays").insert_one(doc! { "_id": "s" }).await.unwrap();
    let pad = "z".repeat(500_000);
    let documents = |count: i32| (0..count).map(|i| doc! { "_id": i, "pad": &pad }).collect::<Vec<_>>();
    let large = archive(&[("a", Document::new(), documents(40)), ("b", Document::new(), documents(40))]);
    let settings =
        MongoConfig { dbname: Some("shop".to_owned()), ..MongoConfig::from_url(&own.url).unwrap() };
    let restorer = MongoRestorer::new(&settings).unwrap();
    let cx = backup_core::Context::new();
    let plan = restorer.plan(&cx, request(true)).await.unwrap();
    let mut dump = known(&format(), &large);
    let (mut killed, kill) = (own.killer(), large.len() * 3 / 4);
    let mut seen = 0;
    dump.bytes = dump.bytes.inspect(move |chunk| {
        seen += chunk.len();
        if seen > kill {
            killed();
        }
    });
    let error = restorer.restore(&cx, plan, dump).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.hint().unwrap().contains("strongroom_restoring_"), "{:?}", error.hint());

    own.again().await;
    let target = Client::with_uri_str(&own.url).await.unwrap().database("shop");
    let left = target.list_collection_names().await.unwrap();
    let (ours, others): (Vec<&String>, Vec<&String>) =
        left.iter().partition(|name| name.starts_with("strongroom_restoring_"));
    assert_eq!(others.len(), 2, "{left:?}");
    assert!(!ours.is_empty(), "the server was killed while it was filled: {left:?}");
    assert_eq!(all(&target, "a").await, [doc! { "_id": "old" }]);
    assert_eq!(all(&target, "stays").await, [doc! { "_id": "s" }]);
    // And again: what is left does not stand in the way.
    restore(&settings, &large, true).await.unwrap();
    assert_eq!(target.collection::<Document>("a").count_documents(doc! {}).await.unwrap(), 40);
}
