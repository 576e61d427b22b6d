//! The port to a database that can be dumped.

use std::collections::BTreeMap;
use std::fmt;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::context::Context;
use crate::error::Result;
use crate::settled::Settled;
use crate::stream::{ByteStream, Plain};

/// Reads a database as one consistent stream. Holds nothing that can write to it.
#[async_trait]
pub trait Dumper: fmt::Debug + Send + Sync {
    /// Connects, checks privileges and tool versions, lists contents, estimates the size. Changes
    /// nothing. By default nothing is known beforehand: for a program's own data, which needs neither
    /// a connection nor a tool.
    ///
    /// # Errors
    /// `Unavailable` when the database is down, `Denied` when it refuses the credentials,
    /// `Unsupported` when no fitting tool is installed.
    async fn probe(&self, cx: &Context) -> Result<Probe> {
        let _ = cx;
        Ok(Probe::default())
    }

    /// Starts one consistent dump. `Ok` means started; success is the clean end of
    /// [`Dump::bytes`], after which [`Dump::report`] is settled.
    ///
    /// Dropping the returned stream stops the dump and whatever program makes it.
    async fn dump(&self, cx: &Context, what: &Selection) -> Result<Dump>;
}

/// The shape of a dump's bytes, such as `postgresql-custom` or `sqlite-image`: lower-case words
/// joined by hyphens. A [`Restorer`](crate::Restorer) says which shapes it accepts.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DumpFormat(String);

impl DumpFormat {
    /// A format by its name.
    pub fn new(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DumpFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What to dump: everything, or tables by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// Only these tables or patterns of the engine; empty means all.
    pub include: Vec<String>,
    /// Not these.
    pub exclude: Vec<String>,
}

/// A dump under way.
#[derive(Debug)]
pub struct Dump {
    /// The shape of the bytes.
    pub format: DumpFormat,
    /// The bytes; their clean end means the tool ended well too.
    pub bytes: ByteStream<Plain>,
    /// What is known at the end.
    pub report: Settled<DumpReport>,
}

impl Dump {
    /// A dump of a program's own data, of which nothing more is known at the end: `engine` names the
    /// program, and the shape of the bytes too.
    #[must_use]
    pub fn of(engine: &str, bytes: ByteStream<Plain>) -> Self {
        let report = DumpReport { engine: engine.to_owned(), ..DumpReport::default() };
        Self { format: DumpFormat::new(engine), bytes, report: Settled::known(report) }
    }
}

/// What a dump says of itself; it is kept inside the sealed trailer. Members that a later version
/// added are passed over: what they describe is authentic, and an old reader can do without.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DumpReport {
    /// The engine, such as `postgresql`.
    pub engine: String,
    /// Versions by what they are versions of: `server`, `pg_dump`. The only part of the report that
    /// also stands in the manifest, in the clear.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub versions: BTreeMap<String, String>,
    /// The options the dump was made with, secrets left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
    /// The tables or collections in the dump, where known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tables: Vec<String>,
    /// What a person should know of this dump, in sentences. The pipeline adds what was told as
    /// warnings while it was made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// What a look at the database found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Probe {
    /// The engine.
    pub engine: String,
    /// Versions by what they are versions of.
    pub versions: BTreeMap<String, String>,
    /// About how many bytes a dump will have before compression.
    pub estimated_bytes: Option<u64>,
    /// Tables or collections.
    pub items: Vec<ProbeItem>,
    /// What this user may not do or see, so that a dump of everything would fail or not be whole.
    pub obstacles: Vec<Obstacle>,
    /// What else a person should know before relying on a dump.
    pub warnings: Vec<String>,
}

/// Something that stands in the way of a whole dump, such as a privilege that is missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Obstacle {
    /// What cannot be done, in a sentence without its full stop.
    pub what: String,
    /// What helps: a statement that can be run as it is, such as a `GRANT`, or an instruction.
    pub remedy: String,
}

impl Obstacle {
    /// Something in the way, and what helps.
    pub fn new(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { what: what.into(), remedy: remedy.into() }
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.what, self.remedy)
    }
}

/// One table or collection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProbeItem {
    /// Its name, qualified as the engine does.
    pub name: String,
    /// About how many rows.
    pub estimated_rows: Option<u64>,
    /// About how many bytes its rows take in the database, without indexes.
    pub estimated_bytes: Option<u64>,
}
