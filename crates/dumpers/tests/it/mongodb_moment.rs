//! Writers and changes of the catalogue while MongoDB is dumped: the copy is one moment.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::Duration;

use backup_core::{Context, Dump, Dumper as _, ErrorKind, Selection};
use bytes::{Bytes, BytesMut};
use dumpers::mongodb::{Consistency, MongoConfig, MongoDumper};
use futures::TryStreamExt as _;
use mongodb::Database;
use mongodb::bson::{Document, doc};

use crate::mongodb::{config, contents, database, dump, names, restore};

const ACCOUNTS: i32 = 24;
const BALANCE: i32 = 100;

/// Accounts that take more than one batch to read, so that the dump lasts.
async fn bank(name: &str) -> Database {
    let bank = database(name).await;
    let pad = "x".repeat(300_000);
    let accounts = bank.collection("accounts");
    for id in 0..ACCOUNTS {
        accounts.insert_one(doc! { "_id": id, "balance": BALANCE, "pad": &pad }).await.unwrap();
    }
    bank.collection("transfers")
        .insert_one(doc! { "_id": 0, "from": 0, "to": 0, "amount": 0 })
        .await
        .unwrap();
    bank.collection("receipts").insert_one(doc! { "_id": 0, "transfer": 0 }).await.unwrap();
    bank
}

/// Moves money, each time in a transaction with a record of it, until told to stop.
async fn transfers(bank: Database, stop: Arc<AtomicBool>, done: Arc<AtomicI32>) {
    let mut session = bank.client().start_session().await.unwrap();
    let accounts = bank.collection::<Document>("accounts");
    let mut id = 1;
    while !stop.load(Ordering::Relaxed) {
        let (from, to, amount) = (id * 7 % ACCOUNTS, (id * 11 + 3) % ACCOUNTS, id % 5 + 1);
        session.start_transaction().await.unwrap();
        let add = |by: i32| doc! { "$inc": { "balance": by } };
        accounts.update_one(doc! { "_id": from }, add(-amount)).session(&mut session).await.unwrap();
        accounts.update_one(doc! { "_id": to }, add(amount)).session(&mut session).await.unwrap();
        let record = doc! { "_id": id, "from": from, "to": to, "amount": amount };
        bank.collection("transfers").insert_one(record).session(&mut session).await.unwrap();
        let receipt = doc! { "_id": id, "transfer": id };
        bank.collection("receipts").insert_one(receipt).session(&mut session).await.unwrap();
        session.commit_transaction().await.unwrap();
        done.store(id, Ordering::Relaxed);
        id += 1;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Reads a dump; after the first documents came, `meanwhile` runs before the rest is read.
async fn read_slowly(mut dump: Dump, meanwhile: impl AsyncFnOnce()) -> Bytes {
    let mut all = BytesMut::new();
    let mut meanwhile = Some(meanwhile);
    while let Some(chunk) = dump.bytes.next().await {
        all.extend_from_slice(&chunk.unwrap());
        if all.len() > 1024 * 1024
            && let Some(meanwhile) = meanwhile.take()
        {
            meanwhile().await;
        }
    }
    assert!(meanwhile.is_none(), "the dump was long enough");
    assert!(dump.report.get().is_some());
    all.freeze()
}

async fn all(bank: &Database, name: &str) -> Vec<Document> {
    bank.collection::<Document>(name).find(doc! {}).await.unwrap().try_collect().await.unwrap()
}

#[tokio::test]
async fn incident_74_writers_go_on_during_a_dump_and_the_copy_is_one_moment() {
    let bank = bank("bank").await;
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicI32::new(0)));
    let writer = tokio::spawn(transfers(bank.clone(), Arc::clone(&stop), Arc::clone(&done)));
    while done.load(Ordering::Relaxed) < 3 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // One reader, so that accounts are read long before their transfers.
    let settings = MongoConfig { parallel: Some(1), ..config(bank.name()) };
    let dump = MongoDumper::new(&settings).unwrap();
    let dump = dump.dump(&Context::new(), &Selection::default()).await.unwrap();
    let mut before_the_rest = 0;
    let archive = read_slowly(dump, async || {
        let now = done.load(Ordering::Relaxed);
        while done.load(Ordering::Relaxed) < now + 20 {
            assert!(!writer.is_finished(), "the writer goes on");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        before_the_rest = done.load(Ordering::Relaxed);
    })
    .await;
    stop.store(true, Ordering::Relaxed);
    writer.await.unwrap();
    assert!(contents(&archive).1["oplog"].1.len() > 20, "the oplog came along");

    let target = database("bank_restored").await;
    restore(&config(target.name()), &archive, false).await.unwrap();
    let mut balances: BTreeMap<i32, i32> = (0..ACCOUNTS).map(|id| (id, BALANCE)).collect();
    let transfers = all(&target, "transfers").await;
    assert!(transfers.len() > before_the_rest as usize, "the moment is the end of the dump");
    for transfer in &transfers {
        let number = |key| transfer.get_i32(key).unwrap();
        *balances.get_mut(&number("from")).unwrap() -= number("amount");
        *balances.get_mut(&number("to")).unwrap() += number("amount");
    }
    let restored: BTreeMap<i32, i32> = all(&target, "accounts")
        .await
        .iter()
        .map(|account| (account.get_i32("_id").unwrap(), account.get_i32("balance").unwrap()))
        .collect();
    assert_eq!(restored, balances, "each balance is that of the transfers");
    assert_eq!(restored.values().sum::<i32>(), ACCOUNTS * BALANCE);
    let ids = |documents: &[Document], key: &str| {
        let mut ids: Vec<i32> = documents.iter().map(|document| document.get_i32(key).unwrap()).collect();
        ids.sort_unstable();
        ids
    };
    assert_eq!(ids(&all(&target, "receipts").await, "transfer"), ids(&transfers, "_id"));
    bank.drop().await.unwrap();
    target.drop().await.unwrap();
}

#[tokio::test]
async fn changes_of_the_catalogue_during_the_dump_are_repeated() {
    let source = bank("catalogue").await;
    source.collection("doomed").insert_one(doc! { "_id": 1 }).await.unwrap();
    let settings = MongoConfig { parallel: Some(1), ..config(source.name()) };
    let dump = MongoDumper::new(&settings).unwrap();
    let dump = dump.dump(&Context::new(), &Selection::default()).await.unwrap();
    let archive = read_slowly(dump, async || {
        let transfers = source.collection::<Document>("transfers");
        let index = |key: &str| mongodb::IndexModel::builder().keys(doc! { key: 1 }).build();
        transfers.create_index(index("from")).await.unwrap();
        transfers.create_index(index("to")).await.unwrap();
        transfers.drop_index("to_1").await.unwrap();
        source
            .collection("new")
            .insert_many((0..10).map(|i| doc! { "_id": i, "a": [1, 2, { "b": 3 }] }))
            .await
            .unwrap();
        let new = source.collection::<Document>("new");
        new.update_many(doc! {}, doc! { "$push": { "a": 4 }, "$set": { "c.d": "é" } }).await.unwrap();
        new.update_one(doc! { "_id": 3 }, doc! { "$unset": { "c": 1 } }).await.unwrap();
        new.delete_one(doc! { "_id": 4 }).await.unwrap();
        new.replace_one(doc! { "_id": 5 }, doc! { "only": 1 }).await.unwrap();
        source.collection::<Document>("doomed").drop().await.unwrap();
        source.collection::<Document>("accounts").delete_one(doc! { "_id": 1 }).await.unwrap();
    })
    .await;
    let target = database("catalogue_restored").await;
    restore(&config(target.name()), &archive, false).await.unwrap();
    let names = names(&target).await;
    assert_eq!(names, ["accounts", "new", "receipts", "transfers"]);
    assert_eq!(all(&target, "new").await.len(), 9);
    for name in &names {
        let key = |document: &Document| document.get("_id").unwrap().to_string();
        let by_id = |documents: Vec<Document>| -> BTreeMap<String, Document> {
            documents.into_iter().map(|document| (key(&document), document)).collect()
        };
        assert_eq!(by_id(all(&target, name).await), by_id(all(&source, name).await), "{name}");
    }
    let indexes = target.collection::<Document>("transfers").list_index_names().await.unwrap();
    assert_eq!(indexes, ["_id_", "from_1"]);
    source.drop().await.unwrap();
    target.drop().await.unwrap();
}

#[tokio::test]
async fn a_renaming_or_a_drop_during_the_dump_is_an_error_or_in_the_copy() {
    for rename in [true, false] {
        let source = bank("renamed").await;
        let settings = MongoConfig { parallel: Some(1), ..config(source.name()) };
        let dump = MongoDumper::new(&settings).unwrap();
        let mut dump = dump.dump(&Context::new(), &Selection::default()).await.unwrap();
        let mut read = BytesMut::new();
        while read.len() < 1024 * 1024 {
            read.extend_from_slice(&dump.bytes.next().await.unwrap().unwrap());
        }
        if rename {
            let command = doc! {
                "renameCollection": format!("{}.receipts", source.name()), "to": format!("{}.bills", source.name()),
            };
            source.client().database("admin").run_command(command).await.unwrap();
        } else {
            source.collection::<Document>("accounts").drop().await.unwrap();
        }
        let ended = loop {
            match dump.bytes.next().await {
                Some(Ok(chunk)) => read.extend_from_slice(&chunk),
                Some(Err(error)) => break Some(error),
                None => break None,
            }
        };
        if let Some(error) = ended {
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
            assert_eq!(error.retry(), backup_core::Retry::WholeRun);
            assert!(error.what().contains(if rename { "receipts" } else { "accounts" }), "{error}");
            assert!(dump.report.get().is_none());
        } else {
            // All of it had been read before it was dropped.
            assert!(!rename, "a dump during a renaming ended cleanly");
            let target = database("without").await;
            restore(&config(target.name()), &read.freeze(), false).await.unwrap();
            let names = names(&target).await;
            assert_eq!(names, ["receipts", "transfers"]);
            target.drop().await.unwrap();
        }
        source.drop().await.unwrap();
    }
}

/// This server accepts the words of a snapshot read and reads what is there now.
#[tokio::test]
async fn a_server_that_only_accepts_the_words_of_a_snapshot_is_not_believed() {
    let source = database("words").await;
    source.collection("a").insert_one(doc! { "_id": 1 }).await.unwrap();
    let settings = MongoConfig { consistency: Consistency::Snapshot, ..config(source.name()) };
    let error = dump(&settings, &Selection::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    let settings = MongoConfig { consistency: Consistency::None, ..config(source.name()) };
    let (_, report) = dump(&settings, &Selection::default()).await.unwrap();
    assert!(report.options.contains(&"consistency=none".to_owned()));
    source.drop().await.unwrap();
}
