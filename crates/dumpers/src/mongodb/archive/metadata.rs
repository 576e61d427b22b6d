//! What an archive says of a collection besides its documents.

use mongodb::bson::{Bson, Document};

use super::{ArchiveError, extjson};

/// Options and indexes of a collection, kept as a text of JSON.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metadata {
    /// The options as `listCollections` gives them.
    pub options: Document,
    /// The definitions of the indexes.
    pub indexes: Vec<Document>,
    /// 32 hexadecimal digits, where the server tells.
    pub uuid: Option<String>,
    /// The collection's own name.
    pub collection: String,
    /// `collection`, `view` or `timeseries`.
    pub kind: String,
}

impl Metadata {
    /// As text, in the order of `mongodump`.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut document = Document::new();
        if !self.options.is_empty() {
            document.insert("options", self.options.clone());
        }
        let indexes: Vec<Bson> = self.indexes.iter().cloned().map(Bson::Document).collect();
        document.insert("indexes", indexes);
        if let Some(uuid) = &self.uuid {
            document.insert("uuid", uuid);
        }
        document.insert("collectionName", &self.collection);
        document.insert("type", &self.kind);
        extjson::canonical(&document)
    }

    /// From text; empty text is a collection without options and indexes.
    ///
    /// # Errors
    /// `Field` where the text is no JSON of that shape.
    pub fn from_text(text: &str) -> Result<Self, ArchiveError> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let wrong = || ArchiveError::Field("metadata");
        let mut document: Document = serde_json::from_str(text).map_err(|_| wrong())?;
        let mut text = |key: &str| match document.remove(key) {
            None | Some(Bson::Null) => Ok(None),
            Some(Bson::String(text)) => Ok(Some(text)),
            Some(_) => Err(wrong()),
        };
        let (uuid, collection, kind) = (text("uuid")?, text("collectionName")?, text("type")?);
        let options = match document.remove("options") {
            None | Some(Bson::Null) => Document::new(),
            Some(Bson::Document(options)) => options,
            Some(_) => return Err(wrong()),
        };
        let indexes = match document.remove("indexes") {
            None | Some(Bson::Null) => Vec::new(),
            Some(Bson::Array(indexes)) => indexes
                .into_iter()
                .map(|index| match index {
                    Bson::Document(index) => Ok(index),
                    _ => Err(wrong()),
                })
                .collect::<Result<_, _>>()?,
            Some(_) => return Err(wrong()),
        };
        Ok(Self {
            options,
            indexes,
            uuid,
            collection: collection.unwrap_or_default(),
            kind: kind.unwrap_or_default(),
        })
    }
}
