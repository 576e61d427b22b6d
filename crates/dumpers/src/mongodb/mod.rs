//! MongoDB databases over the wire protocol, in the archive format of `mongodump`.
//!
//! A dump reads every collection at one moment: by snapshot reads where the server keeps them, else
//! by reading the collections as they come and adding the oplog from before the first read to after
//! the last, which a restore applies at the end. A server that has neither is refused unless the
//! settings say that this is wanted.

pub mod archive;
mod catalog;
mod config;
mod connect;
mod dump;
mod error;
mod inspect;
mod moment;
mod oplog;
mod pattern;
mod probe;
mod read;
mod restore;
mod tools;

pub use config::{Consistency, MongoConfig};
pub use dump::MongoDumper;
pub use error::MongoError;
pub use inspect::MongoInspector;
pub use restore::MongoRestorer;
pub use tools::{MongodumpDumper, MongorestoreRestorer};

/// The name of the format: `mongodump --archive`, not compressed.
pub const MONGODB_ARCHIVE: &str = "mongodb-archive";
