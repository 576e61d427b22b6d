//! Entries of the oplog: which of them belong to a dump, and what each changes.
//!
//! An entry is repeated by ordinary commands, not by `applyOps`, which few users may run and not
//! every server has. What could not be repeated that way is refused while the dump is made, not when
//! it is needed.

mod diff;
mod transactions;

use mongodb::bson::{Bson, Document};

use super::archive::{BUCKETS, Namespace};

pub(super) use diff::apply as apply_diff;
pub(super) use transactions::{Transactions, is_partial};

/// One change to one collection.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Change {
    /// The document is there afterwards, as it is here.
    Put(Namespace, Document),
    /// The document of this `_id` is gone afterwards.
    Delete(Namespace, Bson),
    /// The document of this `_id` changes, if it is there.
    Update(Namespace, Bson, Update),
    /// The collection is there afterwards, empty, with these options.
    Create(Namespace, Document),
    /// The collection is gone afterwards.
    Drop(Namespace),
    /// It has this index afterwards.
    CreateIndex(Namespace, Document),
    /// It has no index of this name afterwards; `*` stands for all.
    DropIndex(Namespace, String),
    /// Its options, or those of an index, change by `collMod`.
    Modify(Namespace, Document),
}

/// How a document changes.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Update {
    /// It becomes this one.
    Replace(Document),
    /// By what differs (`$v: 2`).
    Diff(Document),
    /// By the operators of an update command (`$v: 1`).
    Operators(Document),
}

/// What of an entry belongs to a selection.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Kept {
    Nothing,
    Whole,
    /// A transaction that also wrote elsewhere, without that.
    Part(Document),
}

/// What of an entry belongs to the collections that `takes` names.
///
/// # Errors
/// Says what happened if it concerns one of them and could not be repeated.
pub(super) fn kept(entry: &Document, takes: &dyn Fn(&Namespace) -> bool) -> Result<Kept, String> {
    let Some(inner) = applied(entry)? else {
        return Ok(if one(entry, takes)?.is_empty() { Kept::Nothing } else { Kept::Whole });
    };
    let mut mine = Vec::new();
    for operation in &inner {
        if !one(operation, takes)?.is_empty() {
            mine.push(Bson::Document((*operation).clone()));
        }
    }
    // Without the last of its entries a transaction would not have happened.
    if mine.is_empty() && !transactions::ends_several(entry) {
        return Ok(Kept::Nothing);
    }
    if mine.len() == inner.len() {
        return Ok(Kept::Whole);
    }
    let mut part = entry.clone();
    if let Ok(command) = part.get_document_mut("o") {
        command.insert("applyOps", mine);
    }
    Ok(Kept::Part(part))
}

/// What an entry changes, in order.
///
/// # Errors
/// Says what could not be repeated.
pub(super) fn changes(entry: &Document) -> Result<Vec<Change>, String> {
    let all = |_: &Namespace| true;
    match applied(entry)? {
        None => one(entry, &all),
        Some(inner) => {
            let mut changes = Vec::new();
            for operation in inner {
                changes.extend(one(operation, &all)?);
            }
            Ok(changes)
        }
    }
}

/// The operations of a transaction, where the entry is one.
fn applied(entry: &Document) -> Result<Option<Vec<&Document>>, String> {
    let Ok(command) = entry.get_document("o") else { return Ok(None) };
    if !entry.get_str("op").is_ok_and(|op| op == "c") || !command.contains_key("applyOps") {
        return Ok(None);
    }
    if command.get_bool("prepare").is_ok_and(|prepared| prepared) {
        return Err("a transaction over several shards".to_owned());
    }
    let operations = command.get_array("applyOps").map_err(|_| "an unknown applyOps".to_owned())?;
    operations
        .iter()
        .map(|operation| operation.as_document().ok_or_else(|| "an unknown applyOps".to_owned()))
        .collect::<Result<_, _>>()
        .map(Some)
}

fn one(entry: &Document, takes: &dyn Fn(&Namespace) -> bool) -> Result<Vec<Change>, String> {
    let op = entry.get_str("op").map_err(|_| "an entry without operation".to_owned())?;
    if op == "n" {
        return Ok(Vec::new());
    }
    let full = entry.get_str("ns").map_err(|_| "an entry without collection".to_owned())?;
    let Some((db, name)) = full.split_once('.') else { return Ok(Vec::new()) };
    let object = entry.get_document("o").map_err(|_| format!("an unknown change of {full}"))?;
    if op == "c" {
        return command(db, object, takes);
    }
    let namespace = Namespace::new(db, name);
    if name == "system.views" {
        let view =
            object.get_str("_id").or_else(|_| entry.get_document("o2").and_then(|o2| o2.get_str("_id")));
        let view = view.ok().and_then(|view| view.split_once('.'));
        return match view.map(|(db, view)| Namespace::new(db, view)) {
            Some(view) if takes(&view) => Err(format!("a change of the view or time series {view}")),
            _ => Ok(Vec::new()),
        };
    }
    if !takes(&front(&namespace)) {
        return Ok(Vec::new());
    }
    refuse_buckets(&namespace)?;
    let id = |document: &Document| {
        document.get("_id").cloned().ok_or_else(|| format!("a change without _id in {namespace}"))
    };
    let change = match op {
        "i" => {
            id(object)?;
            Change::Put(namespace, object.clone())
        }
        "d" => Change::Delete(namespace.clone(), id(object)?),
        "u" => {
            let which = entry.get_document("o2").map_err(|_| format!("an unknown change of {namespace}"))?;
            let update = update(object).map_err(|what| format!("{what} in {namespace}"))?;
            Change::Update(namespace.clone(), id(which)?, update)
        }
        _ => return Err(format!("an unknown change ({op}) of {namespace}")),
    };
    Ok(vec![change])
}

/// The name that a selection knows: that of the time series instead of what is behind it.
fn front(namespace: &Namespace) -> Namespace {
    let name = namespace.collection.strip_prefix(BUCKETS).unwrap_or(&namespace.collection);
    Namespace::new(&*namespace.db, name)
}

/// Servers of different versions keep the measurements of a time series differently: a change behind
/// it is repeated by none of the ordinary commands.
fn refuse_buckets(namespace: &Namespace) -> Result<(), String> {
    match namespace.collection.starts_with(BUCKETS) {
        true => Err(format!("a change of the time series {}", front(namespace))),
        false => Ok(()),
    }
}

fn update(object: &Document) -> Result<Update, String> {
    let version = object.get_i32("$v").ok().or_else(|| object.get_i64("$v").ok().map(|v| v as i32));
    match object.get("diff") {
        Some(Bson::Document(difference)) if version == Some(2) => {
            diff::check(difference)?;
            return Ok(Update::Diff(difference.clone()));
        }
        _ if version.is_some_and(|version| version != 1) => {
            return Err("an unknown kind of update".to_owned());
        }
        _ => {}
    }
    if object.keys().next().is_some_and(|key| key.starts_with('$')) {
        let mut operators = object.clone();
        operators.remove("$v");
        if operators.keys().any(|key| !matches!(&**key, "$set" | "$unset")) {
            return Err("an unknown kind of update".to_owned());
        }
        return Ok(Update::Operators(operators));
    }
    Ok(Update::Replace(object.clone()))
}

fn command(db: &str, object: &Document, takes: &dyn Fn(&Namespace) -> bool) -> Result<Vec<Change>, String> {
    let Some((name, target)) = object.iter().next() else { return Err("an unknown command".to_owned()) };
    let collection = target.as_str().map(|target| Namespace::new(db, target));
    if name == "renameCollection" {
        let full = |key: &str| {
            let (db, name) = object.get_str(key).ok()?.split_once('.')?;
            Some(Namespace::new(db, name))
        };
        let (from, to) = (full("renameCollection"), full("to"));
        return match (from, to) {
            (Some(from), Some(to)) if !takes(&from) && !takes(&to) => Ok(Vec::new()),
            (Some(from), _) => Err(format!("the renaming of {from}")),
            _ => Err("the renaming of a collection".to_owned()),
        };
    }
    let Some(namespace) = collection else {
        return match &**name {
            // Its collections were dropped by entries of their own before.
            "dropDatabase" => Ok(Vec::new()),
            // Of transactions over several shards, whose preparation is refused where it concerns us.
            "commitTransaction" | "abortTransaction" => Ok(Vec::new()),
            _ => Err(format!("{name:?} in {db}")),
        };
    };
    if !takes(&front(&namespace)) {
        return Ok(Vec::new());
    }
    refuse_buckets(&namespace)?;
    let unknown = || format!("an unknown {name} of {namespace}");
    match &**name {
        "create" => {
            let mut options = object.clone();
            options.remove("create");
            // The server makes the one it needs.
            options.remove("idIndex");
            if options.contains_key("viewOn") || options.contains_key("timeseries") {
                return Err(format!("the creation of the view or time series {namespace}"));
            }
            Ok(vec![Change::Create(namespace, options)])
        }
        "drop" => Ok(vec![Change::Drop(namespace)]),
        "createIndexes" | "commitIndexBuild" => {
            let specs: Vec<Document> = match object.get_array("indexes") {
                Ok(specs) => specs
                    .iter()
                    .map(|spec| spec.as_document().cloned())
                    .collect::<Option<_>>()
                    .ok_or_else(unknown)?,
                Err(_) => {
                    let mut spec = object.clone();
                    spec.remove("createIndexes");
                    vec![spec]
                }
            };
            let mut specs = specs;
            for spec in &mut specs {
                // What some servers note for themselves, and refuse to be given.
                spec.remove("entryFormat");
                spec.remove("ns");
            }
            if specs.iter().any(|spec| spec.get_str("name").is_err() || spec.get_document("key").is_err()) {
                return Err(unknown());
            }
            Ok(specs.into_iter().map(|spec| Change::CreateIndex(namespace.clone(), spec)).collect())
        }
        "startIndexBuild" | "abortIndexBuild" => Ok(Vec::new()),
        "dropIndexes" | "dropIndex" | "deleteIndexes" | "deleteIndex" => {
            let index = object.get_str("index").map_err(|_| unknown())?;
            Ok(vec![Change::DropIndex(namespace, index.to_owned())])
        }
        "collMod" => Ok(vec![Change::Modify(namespace, object.clone())]),
        _ => Err(format!("{name:?} of {namespace}")),
    }
}

#[cfg(test)]
mod tests {
    use mongodb::bson::doc;

    use super::*;

    fn ns(name: &str) -> Namespace {
        Namespace::new("shop", name)
    }

    #[test]
    fn entries_say_what_they_change() {
        let table = [
            (doc! { "op": "n", "ns": "", "o": { "msg": "x" } }, vec![]),
            (
                doc! { "op": "i", "ns": "shop.a.b", "o": { "_id": 1 } },
                vec![Change::Put(ns("a.b"), doc! { "_id": 1 })],
            ),
            (
                doc! { "op": "d", "ns": "shop.a", "o": { "_id": 1 } },
                vec![Change::Delete(ns("a"), Bson::Int32(1))],
            ),
            (
                doc! { "op": "u", "ns": "shop.a", "o": { "_id": 1, "x": 2 }, "o2": { "_id": 1 } },
                vec![Change::Update(ns("a"), Bson::Int32(1), Update::Replace(doc! { "_id": 1, "x": 2 }))],
            ),
            (
                doc! { "op": "u", "ns": "shop.a", "o": { "$v": 1, "$set": { "x": 2 } }, "o2": { "_id": 1 } },
                vec![Change::Update(ns("a"), Bson::Int32(1), Update::Operators(doc! { "$set": { "x": 2 } }))],
            ),
            (
                doc! { "op": "u", "ns": "shop.a", "o": { "$v": 2, "diff": { "u": { "x": 2 } } }, "o2": { "_id": 1 } },
                vec![Change::Update(ns("a"), Bson::Int32(1), Update::Diff(doc! { "u": { "x": 2 } }))],
            ),
            (
                doc! { "op": "c", "ns": "shop.$cmd", "o": { "create": "a", "capped": true, "idIndex": {} } },
                vec![Change::Create(ns("a"), doc! { "capped": true })],
            ),
            (doc! { "op": "c", "ns": "shop.$cmd", "o": { "drop": "a" } }, vec![Change::Drop(ns("a"))]),
            (doc! { "op": "c", "ns": "shop.$cmd", "o": { "dropDatabase": 1 } }, vec![]),
            (
                doc! { "op": "c", "ns": "shop.$cmd", "o": { "createIndexes": "a", "v": 2, "key": { "x": 1 }, "name": "x_1" } },
                vec![Change::CreateIndex(ns("a"), doc! { "v": 2, "key": { "x": 1 }, "name": "x_1" })],
            ),
            (
                doc! { "op": "c", "ns": "shop.$cmd", "o": { "commitIndexBuild": "a", "indexes": [{ "key": { "x": 1 }, "name": "x_1" }] } },
                vec![Change::CreateIndex(ns("a"), doc! { "key": { "x": 1 }, "name": "x_1" })],
            ),
            (
                doc! { "op": "c", "ns": "shop.$cmd", "o": { "dropIndexes": "a", "index": "x_1" } },
                vec![Change::DropIndex(ns("a"), "x_1".to_owned())],
            ),
            (
                doc! { "op": "c", "ns": "admin.$cmd", "o": { "applyOps": [
                    { "op": "i", "ns": "shop.a", "o": { "_id": 1 } },
                    { "op": "d", "ns": "shop.b", "o": { "_id": 2 } },
                ] } },
                vec![Change::Put(ns("a"), doc! { "_id": 1 }), Change::Delete(ns("b"), Bson::Int32(2))],
            ),
        ];
        for (entry, expected) in table {
            assert_eq!(changes(&entry).unwrap(), expected, "{entry}");
        }
    }

    #[test]
    fn what_cannot_be_repeated_is_refused_only_where_it_matters() {
        let entries = [
            doc! { "op": "c", "ns": "shop.$cmd", "o": { "renameCollection": "shop.a", "to": "shop.b" } },
            doc! { "op": "c", "ns": "shop.$cmd", "o": { "convertToCapped": "a" } },
            doc! { "op": "c", "ns": "shop.$cmd", "o": { "create": "a", "viewOn": "b" } },
            doc! { "op": "i", "ns": "shop.system.views", "o": { "_id": "shop.a" } },
            doc! { "op": "x", "ns": "shop.a", "o": {} },
            doc! { "op": "i", "ns": "shop.system.buckets.a", "o": { "_id": 1 } },
            doc! { "op": "d", "ns": "shop.system.buckets.a", "o": { "_id": 1 } },
            doc! { "op": "c", "ns": "admin.$cmd", "o": { "applyOps": [
                { "op": "i", "ns": "shop.system.buckets.a", "o": { "_id": 1 } },
            ] } },
            doc! { "op": "u", "ns": "shop.a", "o": { "$v": 2, "diff": { "b": 1 } }, "o2": { "_id": 1 } },
            doc! { "op": "u", "ns": "shop.a", "o": { "$v": 3 }, "o2": { "_id": 1 } },
        ];
        for entry in entries {
            assert!(kept(&entry, &|ns| ns.db == "shop").is_err(), "{entry}");
            assert_eq!(kept(&entry, &|ns| ns.db == "other"), Ok(Kept::Nothing), "{entry}");
        }
        let prepared = doc! { "op": "c", "ns": "admin.$cmd", "o": { "applyOps": [], "prepare": true } };
        assert!(kept(&prepared, &|_| true).is_err());
    }

    #[test]
    fn a_transaction_keeps_what_is_selected() {
        let mine = doc! { "op": "i", "ns": "shop.a", "o": { "_id": 1 } };
        let other = doc! { "op": "i", "ns": "other.a", "o": { "_id": 1 } };
        let both = doc! { "op": "c", "ns": "admin.$cmd", "o": { "applyOps": [mine.clone(), other] } };
        let only = doc! { "op": "c", "ns": "admin.$cmd", "o": { "applyOps": [mine] } };
        let shop = |ns: &Namespace| ns.db == "shop";
        assert_eq!(kept(&both, &shop), Ok(Kept::Part(only.clone())));
        assert_eq!(kept(&only, &shop), Ok(Kept::Whole));
        assert_eq!(kept(&both, &|_| true), Ok(Kept::Whole));
        assert_eq!(kept(&only, &|ns| ns.db == "x"), Ok(Kept::Nothing));
        // The last entry of a transaction stays, also where nothing of it is selected.
        let mut last = only.clone();
        last.insert(
            "prevOpTime",
            doc! { "ts": mongodb::bson::Timestamp { time: 1, increment: 1 }, "t": 1_i64 },
        );
        let Ok(Kept::Part(part)) = kept(&last, &|ns| ns.db == "x") else { panic!("{last}") };
        assert!(changes(&part).unwrap().is_empty());
        assert!(part.contains_key("prevOpTime"));
    }
}
