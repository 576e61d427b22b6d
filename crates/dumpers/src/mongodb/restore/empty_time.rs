//! `Timestamp(0, 0)` at the top of a document.
//!
//! A server that is given one by an insert or a replacement writes its own time instead, whatever the
//! document said before (<https://www.mongodb.com/docs/manual/reference/bson-types/#timestamps>). It
//! takes one by `$set`. So another value is written first, in its place, and set to nothing after.

use mongodb::bson::{Bson, Document, RawBsonRef, RawDocument, RawDocumentBuf, Timestamp, doc};

const EMPTY: Timestamp = Timestamp { time: 0, increment: 0 };
/// What is written first.
const OTHER: Timestamp = Timestamp { time: 0, increment: 1 };
/// The type of a timestamp in BSON.
const TYPE: u8 = 0x11;

/// The document to be written first, and the update that follows; `None` where it is to be written as
/// it is.
///
/// # Errors
/// The name of a field that no update can name, or what is no document.
pub(super) fn apart(document: &RawDocument) -> Result<Option<(RawDocumentBuf, Document)>, String> {
    if !document.as_bytes().contains(&TYPE) {
        return Ok(None);
    }
    let mut fields = Document::new();
    let mut id = None;
    let mut first = RawDocumentBuf::new();
    for element in document {
        let (key, value) = element.map_err(|_| "what is no document".to_owned())?;
        if key.as_str() == "_id" {
            id = Bson::try_from(value).ok();
        } else if value == RawBsonRef::Timestamp(EMPTY) {
            fields.insert(nameable(key.as_str())?, EMPTY);
            first.append(key, OTHER);
            continue;
        }
        first.append(key, value);
    }
    Ok((!fields.is_empty()).then(|| (first, setting(id.as_ref(), fields))))
}

/// The same of a document that was taken apart already, which becomes what is to be written first.
///
/// # Errors
/// The name of a field that no update can name.
pub(super) fn take(id: &Bson, document: &mut Document) -> Result<Option<Document>, String> {
    let mut fields = Document::new();
    for (key, value) in document.iter_mut() {
        if key != "_id" && *value == Bson::Timestamp(EMPTY) {
            fields.insert(nameable(key)?, EMPTY);
            *value = Bson::Timestamp(OTHER);
        }
    }
    Ok((!fields.is_empty()).then(|| setting(Some(id), fields)))
}

fn nameable(key: &str) -> Result<&str, String> {
    match key.is_empty() || key.starts_with('$') || key.contains('.') {
        true => Err(format!("an empty timestamp in a field called {key:?}, which no update can name")),
        false => Ok(key),
    }
}

fn setting(id: Option<&Bson>, fields: Document) -> Document {
    doc! { "q": { "_id": { "$eq": id.cloned().unwrap_or(Bson::Null) } }, "u": { "$set": fields } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_empty_ones_at_the_top_are_taken_apart() {
        let raw = |document: &Document| RawDocumentBuf::try_from(document).unwrap();
        let inside = doc! { "_id": EMPTY, "a": { "b": EMPTY }, "c": [EMPTY], "d": OTHER, "e": 17 };
        assert_eq!(apart(&raw(&inside)), Ok(None));
        assert_eq!(take(&Bson::Null, &mut inside.clone()), Ok(None));

        let document = doc! { "_id": 5, "x": 1, "t": EMPTY, "y": "é", "u": EMPTY };
        let first = doc! { "_id": 5, "x": 1, "t": OTHER, "y": "é", "u": OTHER };
        let after = doc! { "q": { "_id": { "$eq": 5 } }, "u": { "$set": { "t": EMPTY, "u": EMPTY } } };
        assert_eq!(apart(&raw(&document)), Ok(Some((raw(&first), after.clone()))));
        let mut taken = document;
        assert_eq!(take(&Bson::Int32(5), &mut taken), Ok(Some(after)));
        assert_eq!(taken, first);

        for key in ["", "a.b", "$x"] {
            assert!(apart(&raw(&doc! { "_id": 1, key: EMPTY })).is_err(), "{key}");
        }
    }
}
