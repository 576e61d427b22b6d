//! Firestore databases in Native mode, over their REST interface.
//!
//! A dump is every document of one moment. The moment is the server's own time at the start, and
//! every request names it (`readTime`), so that writers go on meanwhile and the dump holds nothing of
//! what they do. Documents are read with one query for each collection at the root, over all its
//! descendants in the order of their names: also those below documents that do not exist are found,
//! and a page that breaks goes on behind the last name that arrived.
//!
//! The bytes are `firestore-ndjson`, described in docs/engines/firestore.md.
//!
//! A restore writes documents where they belong. Firestore has no way to give a whole database its
//! name at the end: what is restored can be seen while it is written. A restore that fails removes
//! what it created, if the target was empty, and says what it left otherwise.

mod api;
mod archive;
mod config;
mod credentials;
mod dump;
mod elements;
mod error;
mod http;
mod inspect;
mod json;
mod names;
#[cfg(test)]
mod peer;
mod restore;
mod users;
mod value;

pub use archive::{ArchiveError, VERSION};
pub use config::{Conflicts, FirestoreConfig, References};
pub use dump::FirestoreDumper;
pub use error::FirestoreError;
pub use inspect::FirestoreInspector;
pub use restore::FirestoreRestorer;

/// The name of the format.
pub const FIRESTORE_NDJSON: &str = "firestore-ndjson";
