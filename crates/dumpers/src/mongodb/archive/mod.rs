//! `mongodump`'s archive format, version 0.1, as bytes: no I/O happens here.
//!
//! An archive is a magic number, a prelude (one header and one entry for each collection), and then
//! blocks of documents. Blocks of several collections may alternate; a closing block of each holds
//! a checksum over its documents. The layout is documented in `docs/engines/mongodb.md`.

mod crc;
mod error;
mod extjson;
mod metadata;
mod parser;
#[cfg(test)]
mod tests;
mod writer;

use std::fmt;

pub use error::ArchiveError;
pub use metadata::Metadata;
pub use parser::{ArchiveContents, ArchiveParser, Item};
pub use writer::ArchiveWriter;

pub(super) use crc::Crc64;

/// The first four bytes.
const MAGIC: [u8; 4] = [0x6d, 0xe2, 0x99, 0x81];
/// What ends the prelude and each block; as a document's length it would be -1.
const TERMINATOR: [u8; 4] = [0xff; 4];
/// The layout's version.
const VERSION: &str = "0.1";
/// The longest document a server keeps: 16 MiB, and 16 KiB for what it adds itself.
pub(super) const DOCUMENT_MAX: usize = (16 * 1024 + 16) * 1024;
/// The collection of the oplog's entry, in a database without a name.
pub(super) const OPLOG: &str = "oplog";
/// What the collection behind a time series is called.
pub(super) const BUCKETS: &str = "system.buckets.";

/// A collection by its full name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Namespace {
    /// The database; empty for the oplog.
    pub db: String,
    /// The collection, with whatever dots it has.
    pub collection: String,
}

impl Namespace {
    /// A collection of a database.
    pub fn new(db: impl Into<String>, collection: impl Into<String>) -> Self {
        Self { db: db.into(), collection: collection.into() }
    }

    /// The oplog entries that are to be applied after everything else.
    #[must_use]
    pub fn oplog() -> Self {
        Self::new("", OPLOG)
    }

    /// Whether this is the oplog.
    #[must_use]
    pub fn is_oplog(&self) -> bool {
        self.db.is_empty() && self.collection == OPLOG
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.db.is_empty() {
            f.write_str(&self.collection)
        } else {
            write!(f, "{}.{}", self.db, self.collection)
        }
    }
}

/// What an archive begins with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Prelude {
    /// How many collections were dumped at a time.
    pub concurrent_collections: i32,
    /// The version of the server that was dumped.
    pub server_version: String,
    /// The version of the program that dumped it.
    pub tool_version: String,
    /// The collections, in any order.
    pub entries: Vec<Entry>,
}

/// A collection of the prelude.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entry {
    /// Which.
    pub namespace: Namespace,
    /// [`Metadata`] as text; empty where there is none.
    pub metadata: String,
    /// `collection`, `view`, `timeseries`, or nothing for the oplog.
    pub kind: String,
}

impl Entry {
    /// Whether blocks under this name hold the collection's documents: those of a time series stand
    /// under the name of the collection behind it.
    #[must_use]
    pub fn holds(&self, db: &str, collection: &str) -> bool {
        self.namespace.db == db
            && (self.namespace.collection == collection
                || self.kind == "timeseries"
                    && collection.strip_prefix(BUCKETS) == Some(&self.namespace.collection))
    }
}
