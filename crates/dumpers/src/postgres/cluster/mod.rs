//! A whole server as one bundle: what its databases share, and each database as `pg_dump` writes it.
//!
//! Members in their order: `server.json`, which lists the databases; `globals.sql` where that was
//! wanted, as `pg_dumpall --globals-only` writes it; and `databases/NAME` for each, a custom archive.
//! Each database is one consistent moment, and they are dumped one after another: the server knows no
//! moment common to several databases.

mod dump;
mod global;
pub(super) mod globals;
mod inspect;
mod make;
mod patterns;

use backup_core::{ByteStream, Error, ErrorKind, Plain, Result};
use serde::{Deserialize, Serialize};

pub use dump::PostgresClusterDumper;
pub use inspect::PostgresClusterInspector;
pub(super) use patterns::Patterns;

/// The name of the format: the databases of a server in one bundle.
pub const PG_BUNDLE: &str = "postgresql-bundle";

/// The member with the list of databases.
pub(super) const INDEX: &str = "server.json";
/// The format of that member.
pub(super) const INDEX_FORMAT: &str = "postgresql-server";
/// The member with roles, tablespaces and memberships.
pub(super) const GLOBALS: &str = "globals.sql";
/// The format of that member.
pub(super) const GLOBALS_FORMAT: &str = "postgresql-globals";
/// What the names of databases begin with as members.
pub(super) const DATABASES: &str = "databases/";
/// The longest list or script that is read.
const TEXT_MAX: usize = 64 * 1024 * 1024;

/// What the first member says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Index {
    /// The server's version.
    pub(super) server: String,
    /// The databases that follow, in their order.
    pub(super) databases: Vec<IndexDatabase>,
}

/// A database that follows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct IndexDatabase {
    /// Its name.
    pub(super) name: String,
    /// How it stores text.
    pub(super) encoding: String,
}

/// Reads a member that is text.
pub(super) async fn text_of(name: &str, mut bytes: ByteStream<Plain>) -> Result<String> {
    let broken = |what: &str| {
        Error::new(ErrorKind::Integrity, PG_BUNDLE, format!("its member {name} {what}"))
            .with_hint("use another backup")
    };
    let mut whole = Vec::new();
    while let Some(chunk) = bytes.next().await.transpose()? {
        if whole.len() + chunk.len() > TEXT_MAX {
            return Err(broken("is larger than any real one"));
        }
        whole.extend_from_slice(&chunk);
    }
    String::from_utf8(whole).map_err(|_| broken("is not UTF-8"))
}

/// Reads the first member.
pub(super) async fn index_of(bytes: ByteStream<Plain>) -> Result<Index> {
    let text = text_of(INDEX, bytes).await?;
    serde_json::from_str(&text).map_err(|error| {
        Error::new(ErrorKind::Integrity, PG_BUNDLE, format!("its member {INDEX} is not understood: {error}"))
            .with_hint("use another backup")
    })
}
