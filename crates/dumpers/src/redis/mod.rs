//! Redis and Valkey over their own wire protocol, without a client program.
//!
//! A dump is the RDB stream that a server sends to a new replica: this program asks for one as a
//! replica does (`PSYNC ? -1`) and reads the answer to its end. The server makes it in a child
//! process from the memory of one instant, so it is one moment of all databases while writers
//! write. The stream is parsed on its way, and its clean end means that the parser found the end
//! mark and, where the server sends one, the checksum.
//!
//! A restore writes every key with `RESTORE` (the value's bytes as they stand in the dump) into an
//! empty server. `file:dump.rdb` as a target keeps the RDB file, which a server loads at its start.

mod client;
mod config;
mod dump;
mod error;
mod probe;
pub mod rdb;
mod restore;
mod tls;
mod writer;

pub use config::RedisConfig;
pub use dump::RedisDumper;
pub use error::RedisError;
pub use rdb::RdbInspector;
pub use restore::RedisRestorer;

/// The name of the format.
pub const REDIS_RDB: &str = "redis-rdb";
