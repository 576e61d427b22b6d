//! Updates that tell what differs.
//!
//! The form of servers since 5.0 (`document_diff_serialization.h` in their source): of a document
//! `d` lists removed fields, `u` new values in place, `i` fields that go to the end, and `sNAME` the
//! difference inside a field; of an array, marked by `a`, `l` is the new length, `uN` the new value
//! of element N and `sN` the difference inside it. Repeating one on a document that already has it,
//! or that is ahead of it, does no harm: later entries bring it where it belongs.
//!
//! A second form, with `updatedFields`, `removedFields` and `truncatedArrays` and dotted paths as
//! change streams have them, is written by other servers of the protocol.

use mongodb::bson::{Bson, Document};

/// Refuses a difference that could not be applied.
pub(in crate::mongodb) fn check(diff: &Document) -> Result<(), String> {
    if is_by_path(diff) {
        let known = |key: &String| {
            matches!(&**key, "updatedFields" | "removedFields" | "truncatedArrays" | "disambiguatedPaths")
        };
        return if diff.keys().all(known) { Ok(()) } else { Err("an unknown kind of update".to_owned()) };
    }
    let array = diff.contains_key("a");
    for (key, value) in diff {
        let known = match (&**key, value) {
            ("a", _) => true,
            ("l", _) => array,
            ("d" | "u" | "i", Bson::Document(_)) => !array,
            (key, value) if array && key.starts_with('u') => {
                key[1..].parse::<usize>().is_ok() && *value != Bson::Undefined
            }
            (key, Bson::Document(inner)) if key.starts_with('s') => {
                check(inner)?;
                !array || key[1..].parse::<usize>().is_ok()
            }
            _ => false,
        };
        if !known {
            return Err("an unknown kind of update".to_owned());
        }
    }
    Ok(())
}

fn is_by_path(diff: &Document) -> bool {
    ["updatedFields", "removedFields", "truncatedArrays"].iter().any(|key| diff.contains_key(key))
}

/// Applies a difference that was checked.
pub(in crate::mongodb) fn apply(document: &mut Document, diff: &Document) {
    if is_by_path(diff) {
        return by_path(document, diff);
    }
    if let Ok(removed) = diff.get_document("d") {
        for key in removed.keys() {
            document.remove(key);
        }
    }
    if let Ok(updated) = diff.get_document("u") {
        for (key, value) in updated {
            document.insert(key, value.clone());
        }
    }
    if let Ok(inserted) = diff.get_document("i") {
        for (key, value) in inserted {
            document.remove(key);
            document.insert(key, value.clone());
        }
    }
    for (key, inner) in diff {
        if let (Some(field), Bson::Document(inner)) = (key.strip_prefix('s'), inner)
            && let Some(value) = document.get_mut(field)
        {
            inside(value, inner);
        }
    }
}

/// A value of another type than the difference expects was changed again later.
fn inside(value: &mut Bson, diff: &Document) {
    match value {
        Bson::Array(elements) if diff.contains_key("a") => in_array(elements, diff),
        Bson::Document(document) if !diff.contains_key("a") => apply(document, diff),
        _ => {}
    }
}

fn in_array(elements: &mut Vec<Bson>, diff: &Document) {
    let length = match diff.get("l") {
        Some(Bson::Int32(length)) => usize::try_from(*length).ok(),
        Some(Bson::Int64(length)) => usize::try_from(*length).ok(),
        _ => None,
    };
    if let Some(length) = length {
        elements.resize(length.min(LENGTH_MAX), Bson::Null);
    }
    for (key, value) in diff {
        let number = |prefix| key.strip_prefix(prefix).and_then(|n| n.parse::<usize>().ok());
        if let Some(index) = number('u') {
            put(elements, index, value.clone());
        } else if let (Some(index), Bson::Document(inner)) = (number('s'), value)
            && let Some(element) = elements.get_mut(index)
        {
            inside(element, inner);
        }
    }
}

/// Each element takes at least three bytes, and a document has 16 MiB.
const LENGTH_MAX: usize = 6 * 1024 * 1024;

fn put(elements: &mut Vec<Bson>, index: usize, value: Bson) {
    if index >= LENGTH_MAX {
        return;
    }
    if elements.len() <= index {
        elements.resize(index + 1, Bson::Null);
    }
    elements[index] = value;
}

fn by_path(document: &mut Document, diff: &Document) {
    if let Ok(truncated) = diff.get_array("truncatedArrays") {
        for entry in truncated.iter().filter_map(Bson::as_document) {
            let size = match entry.get("newSize") {
                Some(Bson::Int32(n)) => usize::try_from(*n).ok(),
                Some(Bson::Int64(n)) => usize::try_from(*n).ok(),
                _ => None,
            };
            if let (Ok(path), Some(size)) = (entry.get_str("field"), size)
                && let Some(Bson::Array(elements)) = at_path(document, path)
            {
                elements.truncate(size);
            }
        }
    }
    if let Ok(removed) = diff.get_array("removedFields") {
        for path in removed.iter().filter_map(Bson::as_str) {
            remove(document, path);
        }
    }
    if let Ok(updated) = diff.get_document("updatedFields") {
        for (path, value) in updated {
            set(document, path, value.clone());
        }
    }
}

/// The value at a dotted path; a field whose own name has dots is found first.
fn at_path<'a>(document: &'a mut Document, path: &str) -> Option<&'a mut Bson> {
    if document.contains_key(path) {
        return document.get_mut(path);
    }
    let (parent, last) = path.rsplit_once('.')?;
    match at_path(document, parent)? {
        Bson::Document(inner) => inner.get_mut(last),
        Bson::Array(elements) => elements.get_mut(last.parse::<usize>().ok()?),
        _ => None,
    }
}

fn remove(document: &mut Document, path: &str) {
    if document.remove(path).is_some() {
        return;
    }
    if let Some((parent, last)) = path.rsplit_once('.')
        && let Some(Bson::Document(inner)) = at_path(document, parent)
    {
        inner.remove(last);
    }
}

fn set(document: &mut Document, path: &str, value: Bson) {
    let Some((parent, last)) = path.rsplit_once('.').filter(|_| !document.contains_key(path)) else {
        document.insert(path, value);
        return;
    };
    if at_path(document, parent).is_none() {
        set(document, parent, Bson::Document(Document::new()));
    }
    match at_path(document, parent) {
        Some(Bson::Document(inner)) => {
            inner.insert(last, value);
        }
        Some(Bson::Array(elements)) => {
            if let Ok(index) = last.parse() {
                put(elements, index, value);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use mongodb::bson::doc;

    use super::*;

    fn applied(before: &Document, diff: &Document) -> Document {
        check(diff).unwrap();
        let mut after = before.clone();
        apply(&mut after, diff);
        let mut again = after.clone();
        apply(&mut again, diff);
        assert_eq!(again, after, "{diff} twice");
        after
    }

    #[test]
    fn differences_of_documents_and_arrays() {
        let before = doc! { "_id": 1, "a": 1, "b": { "c": [1, { "d": 2 }, 3], "e": 5 }, "f.g": 7 };
        for (diff, after) in [
            (
                doc! { "u": { "a": 2 } },
                doc! { "_id": 1, "a": 2, "b": { "c": [1, { "d": 2 }, 3], "e": 5 }, "f.g": 7 },
            ),
            (
                doc! { "d": { "a": false }, "i": { "z": 9 } },
                doc! { "_id": 1, "b": { "c": [1, { "d": 2 }, 3], "e": 5 }, "f.g": 7, "z": 9 },
            ),
            (
                doc! { "sb": { "d": { "e": false }, "sc": { "a": true, "l": 2, "u0": 10, "s1": { "u": { "d": 20 } } } } },
                doc! { "_id": 1, "a": 1, "b": { "c": [10, { "d": 20 }] }, "f.g": 7 },
            ),
            (
                doc! { "sb": { "sc": { "a": true, "u4": "x" } } },
                doc! { "_id": 1, "a": 1, "b": { "c": [1, { "d": 2 }, 3, Bson::Null, "x"], "e": 5 }, "f.g": 7 },
            ),
            // What was changed again later, into another type.
            (doc! { "sa": { "u": { "x": 1 } } }, before.clone()),
            (
                doc! { "updatedFields": { "b.e": 6, "b.c.0": 0, "f.g": 8, "n.m": 1 }, "removedFields": ["a"], "truncatedArrays": [{ "field": "b.c", "newSize": 2 }] },
                doc! { "_id": 1, "b": { "c": [0, { "d": 2 }], "e": 6 }, "f.g": 8, "n": { "m": 1 } },
            ),
        ] {
            assert_eq!(applied(&before, &diff), after, "{diff}");
        }
    }

    #[test]
    fn unknown_differences_are_refused() {
        for diff in [
            doc! { "b": { "d": 1 } },
            doc! { "a": true, "ux": 1 },
            doc! { "sa": { "a": true, "sx": {} } },
            doc! { "u": 1 },
            doc! { "updatedFields": {}, "more": 1 },
        ] {
            assert!(check(&diff).is_err(), "{diff}");
        }
    }
}
