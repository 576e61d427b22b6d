//! `mongodump` and `mongorestore` instead of the wire protocol, where `native = false` asks for them.
//!
//! The bytes are those of `mongodump --archive`, so that either side restores the other's. They are
//! read on their way: a dump that is not a whole archive is an error, whatever the program's status,
//! and `mongorestore` sees the end of its input only after the verified end of the backup. What
//! exists on the server is asked by ourselves, over the wire protocol.
//!
//! The programs are told the server and the password by a file in memory (`--config`, since 100.3),
//! nothing by argument.

mod connection;
mod dump;
mod names;
mod program;
mod restore;
mod said;

pub use dump::MongodumpDumper;
pub use restore::MongorestoreRestorer;
