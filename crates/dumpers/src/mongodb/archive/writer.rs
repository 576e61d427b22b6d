//! Writing an archive.

use std::collections::HashSet;

use bytes::Bytes;
use mongodb::bson::{Document, RawDocumentBuf, doc, rawdoc};

use super::{Entry, MAGIC, Namespace, Prelude, TERMINATOR, VERSION};

/// Puts blocks one after another. Documents of one collection that follow each other share a block.
#[derive(Debug, Default)]
pub struct ArchiveWriter {
    /// Whose block is open.
    current: Option<Namespace>,
    /// Who had a block.
    begun: HashSet<Namespace>,
}

impl ArchiveWriter {
    /// The beginning of an archive, and the writer of what follows.
    #[must_use]
    pub fn begin(prelude: &Prelude) -> (Self, Bytes) {
        let mut bytes = MAGIC.to_vec();
        put(
            &mut bytes,
            &doc! {
                "concurrent_collections": prelude.concurrent_collections,
                "version": VERSION,
                "server_version": &prelude.server_version,
                "tool_version": &prelude.tool_version,
            },
        );
        for Entry { namespace, metadata, kind } in &prelude.entries {
            put(
                &mut bytes,
                &doc! {
                    "db": &namespace.db,
                    "collection": &namespace.collection,
                    "metadata": metadata,
                    "size": 0_i32,
                    "type": kind,
                },
            );
        }
        bytes.extend_from_slice(&TERMINATOR);
        (Self::default(), bytes.into())
    }

    /// What has to stand before these documents of `namespace`; the documents follow as they are.
    pub fn documents(&mut self, namespace: &Namespace) -> Option<Bytes> {
        if self.current.as_ref() == Some(namespace) {
            return None;
        }
        let mut bytes = Vec::new();
        self.begun.insert(namespace.clone());
        if self.current.replace(namespace.clone()).is_some() {
            bytes.extend_from_slice(&TERMINATOR);
        }
        bytes.extend_from_slice(header(namespace, false, 0).as_bytes());
        Some(bytes.into())
    }

    /// The end of a collection whose documents have this checksum.
    #[must_use]
    pub fn end(&mut self, namespace: &Namespace, checksum: i64) -> Bytes {
        let mut bytes = Vec::new();
        if !self.begun.remove(namespace) {
            // Also a collection without documents has a block.
            bytes.extend(self.documents(namespace).into_iter().flatten());
            self.begun.remove(namespace);
        }
        if self.current.take().is_some() {
            bytes.extend_from_slice(&TERMINATOR);
        }
        bytes.extend_from_slice(header(namespace, true, checksum).as_bytes());
        bytes.extend_from_slice(&TERMINATOR);
        bytes.into()
    }
}

fn header(namespace: &Namespace, ended: bool, checksum: i64) -> RawDocumentBuf {
    rawdoc! {
        "db": namespace.db.as_str(),
        "collection": namespace.collection.as_str(),
        "EOF": ended,
        "CRC": checksum,
    }
}

/// Text alone is put here, and no text of ours has a NUL in a key.
fn put(bytes: &mut Vec<u8>, document: &Document) {
    match document.to_vec() {
        Ok(encoded) => bytes.extend_from_slice(&encoded),
        Err(error) => unreachable!("keys are constants: {error}"),
    }
}
