//! A streaming reader of `pg_dump`'s custom archive, versions 1.12 to 1.16.
//!
//! It needs no I/O and little memory: push bytes, then finish. It reads the header and the table of
//! contents and walks the data blocks to the end, so that it knows whether every block that the
//! table of contents promises is there and whole. The format is that of `pg_backup_archiver.c` and
//! `pg_backup_custom.c` in PostgreSQL's source; nothing else documents it.
//!
//! The bytes may be hostile: every length is bounded before it is used, nothing is interpreted.

mod entry;
#[cfg(test)]
pub(super) mod tests;

use std::collections::{BTreeSet, HashMap};

use super::names::qualified;
use entry::{Entry, Reader};

/// The longest single entry of the table of contents, such as a view with its text.
const ENTRY_MAX: usize = 64 * 1024 * 1024;
/// A beginning shorter than this is looked at whenever more bytes came.
const RETRY_FREE: usize = 1024 * 1024;
/// The most entries: a database with millions of large objects of the older versions has as many.
const ENTRIES_MAX: i64 = 16 * 1024 * 1024;
/// Bytes of names that are kept.
const NAMES_MAX: usize = 64 * 1024 * 1024;
/// The longest name that is kept.
const NAME_MAX: usize = 4096;
/// Integers in the archives of every platform there is.
const INT_SIZE: u8 = 4;

/// Why bytes are not a whole archive.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// It does not begin like an archive.
    #[error("it does not begin like a PostgreSQL custom archive")]
    NotAnArchive,
    /// A version that is not known here.
    #[error("archive version {0}.{1} is not known")]
    Version(u8, u8),
    /// A field has an impossible value.
    #[error("its {0} is impossible")]
    Field(&'static str),
    /// A bound was exceeded.
    #[error("its {0} is larger than any real one")]
    Limit(&'static str),
    /// A data block belongs to no entry, or came twice.
    #[error("data block {0} belongs to no entry or came twice")]
    Block(i64),
    /// It ends early.
    #[error("it is truncated: {0}")]
    Truncated(&'static str),
}

/// What the table of contents says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ArchiveContents {
    /// The version of the archive, such as `1.14`.
    pub version: String,
    /// The server's version, as the archive says.
    pub server: String,
    /// The version of `pg_dump`, as the archive says.
    pub pg_dump: String,
    /// Tables with data, qualified, in the order of the archive.
    pub tables: Vec<String>,
    /// Roles that own something or are granted something.
    pub roles: BTreeSet<String>,
    /// The statement that made the database, where it is in the archive.
    pub create_database: Option<String>,
    /// The database's name, where that statement is in the archive.
    pub database: Option<String>,
    /// Who owns the database.
    pub database_owner: Option<String>,
    /// Statements about the database as a whole: its settings, its comment, its privileges.
    pub database_level: Vec<String>,
    /// Tablespaces that something is in.
    pub tablespaces: BTreeSet<String>,
}

/// An entry whose work is done among the data, as the table of contents has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DataEntry {
    /// `TABLE DATA`, `SEQUENCE SET`, `BLOBS` and the like.
    pub(super) description: String,
    /// The schema; empty for what is in none.
    pub(super) schema: String,
    /// The name within the schema.
    pub(super) name: String,
    /// The statement that reads the rows back, or that sets the sequence.
    pub(super) statement: String,
}

/// Reads an archive piece by piece.
#[derive(Debug)]
pub struct ArchiveParser {
    state: State,
    /// Entries with a statement or with data, where somebody wants them.
    entries: Option<Vec<DataEntry>>,
    /// The beginning of something whose end has not come yet; below [`ENTRY_MAX`] and one push.
    pending: Vec<u8>,
    /// How long that must be before it is looked at again.
    retry_at: usize,
    minor: u8,
    off_size: u8,
    contents: ArchiveContents,
    names_len: usize,
    /// Entries with data.
    blocks: HashMap<i64, Block>,
    missing: usize,
    /// The table whose data came last, by its place among the tables.
    current: Option<usize>,
}

/// An entry with data: whether that was seen, and which table it is of.
#[derive(Debug, Clone, Copy)]
struct Block {
    seen: bool,
    table: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Head,
    Entry {
        left: i64,
    },
    Block,
    /// The length of the next chunk of a block; of large objects or not.
    ChunkLen {
        objects: bool,
    },
    Chunk {
        left: u64,
        objects: bool,
    },
    ObjectId,
    Failed,
}

impl Default for ArchiveParser {
    fn default() -> Self {
        Self::new()
    }
}

impl ArchiveParser {
    /// A parser before the first byte.
    #[must_use]
    pub fn new() -> Self {
        Self {
            state: State::Head,
            entries: None,
            pending: Vec::new(),
            retry_at: 0,
            minor: 0,
            off_size: 0,
            contents: ArchiveContents::default(),
            names_len: 0,
            blocks: HashMap::new(),
            missing: 0,
            current: None,
        }
    }

    /// A parser that keeps the entries of the data section too.
    pub(super) fn keeping_entries() -> Self {
        Self { entries: Some(Vec::new()), ..Self::new() }
    }

    /// Those entries, once.
    pub(super) fn take_entries(&mut self) -> Vec<DataEntry> {
        self.entries.take().unwrap_or_default()
    }

    /// Takes the next bytes, in pieces of any size.
    ///
    /// # Errors
    /// What is wrong with them; every later call fails too.
    pub fn push(&mut self, input: &[u8]) -> Result<(), ArchiveError> {
        let outcome = if self.pending.is_empty() {
            self.walk(input).map(|used| self.keep_pending(input[used..].to_vec()))
        } else {
            self.pending.extend_from_slice(input);
            if self.pending.len() < self.retry_at { Ok(()) } else { self.walk_pending() }
        };
        let outcome = match outcome {
            Ok(()) if self.pending.len() > ENTRY_MAX => Err(ArchiveError::Limit("entry")),
            outcome => outcome,
        };
        if outcome.is_err() {
            self.state = State::Failed;
            self.pending = Vec::new();
        }
        outcome
    }

    /// What the table of contents says, once it was read.
    #[must_use]
    pub fn contents(&self) -> Option<&ArchiveContents> {
        match self.state {
            State::Head | State::Entry { .. } | State::Failed => None,
            _ => Some(&self.contents),
        }
    }

    /// The bytes are over: is the archive?
    ///
    /// # Errors
    /// `Truncated` where something promised is not there.
    pub fn finish(mut self) -> Result<ArchiveContents, ArchiveError> {
        if !self.pending.is_empty() {
            self.walk_pending()?;
        }
        let what = match self.state {
            State::Head => "it ends within its header",
            State::Entry { .. } => "it ends within its table of contents",
            State::ChunkLen { .. } | State::Chunk { .. } | State::ObjectId => "it ends within a data block",
            State::Failed => return Err(ArchiveError::NotAnArchive),
            State::Block if !self.pending.is_empty() => "it ends within a data block",
            State::Block if self.missing > 0 => "data of a table is missing",
            State::Block => return Ok(self.contents),
        };
        Err(ArchiveError::Truncated(what))
    }

    /// The table whose data came last, qualified as in [`ArchiveContents::tables`].
    #[must_use]
    pub fn current_table(&self) -> Option<&str> {
        self.contents.tables.get(self.current?).map(String::as_str)
    }

    fn walk_pending(&mut self) -> Result<(), ArchiveError> {
        let mut pending = std::mem::take(&mut self.pending);
        let used = self.walk(&pending)?;
        pending.drain(..used);
        self.keep_pending(pending);
        Ok(())
    }

    /// A beginning is read again from its first byte; a long one only after it has grown by a
    /// quarter, so that the work stays in proportion to the bytes.
    fn keep_pending(&mut self, pending: Vec<u8>) {
        let len = pending.len();
        self.retry_at = if len < RETRY_FREE { 0 } else { (len + len / 4).min(ENTRY_MAX) };
        self.pending = pending;
    }

    /// Reads as far as the bytes go; gives how many were used.
    fn walk(&mut self, input: &[u8]) -> Result<usize, ArchiveError> {
        let mut at = 0;
        loop {
            let mut reader = Reader { bytes: &input[at..], at: 0, off_size: self.off_size };
            let next = match self.state {
                State::Head => self.head(&mut reader)?,
                State::Entry { left } => self.entry(&mut reader, left)?,
                State::Block => self.block(&mut reader)?,
                State::ObjectId => match reader.int()? {
                    None => None,
                    // An unsigned number that is written as a signed one.
                    Some(0) => Some(State::Block),
                    Some(_) => Some(State::ChunkLen { objects: true }),
                },
                State::ChunkLen { objects } => match reader.int()? {
                    None => None,
                    Some(0) if objects => Some(State::ObjectId),
                    Some(0) => Some(State::Block),
                    Some(left) => match u64::try_from(left) {
                        Ok(left) => Some(State::Chunk { left, objects }),
                        Err(_) => return Err(ArchiveError::Field("chunk length")),
                    },
                },
                State::Chunk { left, objects } => {
                    let here = (input.len() - at) as u64;
                    let used = here.min(left);
                    // Both are lengths of slices in memory.
                    reader.at = used as usize;
                    match left - used {
                        0 => Some(State::ChunkLen { objects }),
                        left => {
                            self.state = State::Chunk { left, objects };
                            return Ok(input.len());
                        }
                    }
                }
                State::Failed => return Err(ArchiveError::NotAnArchive),
            };
            match next {
                Some(state) => {
                    self.state = state;
                    at += reader.at;
                }
                None => return Ok(at),
            }
        }
    }

    fn head(&mut self, reader: &mut Reader<'_>) -> Result<Option<State>, ArchiveError> {
        const MAGIC: &[u8; 5] = b"PGDMP";
        let known = reader.bytes.len().min(MAGIC.len());
        if reader.bytes[..known] != MAGIC[..known] {
            return Err(ArchiveError::NotAnArchive);
        }
        let Some(&[major, minor, revision, int_size, off_size, format]) =
            reader.bytes.get(5..11).and_then(|b| b.first_chunk())
        else {
            return Ok(None);
        };
        if major != 1 || !(12..=16).contains(&minor) {
            return Err(ArchiveError::Version(major, minor));
        }
        let _ = revision;
        if int_size != INT_SIZE {
            return Err(ArchiveError::Field("integer size"));
        }
        if !(1..=8).contains(&off_size) {
            return Err(ArchiveError::Field("offset size"));
        }
        if format != 1 {
            return Err(ArchiveError::Field("format"));
        }
        reader.at = 11;
        reader.off_size = off_size;
        // Compression: an algorithm since 1.15, a level before.
        let compression = if minor >= 15 { reader.byte() } else { reader.int()?.map(|_| 0) };
        if compression.is_none() {
            return Ok(None);
        }
        // Second, minute, hour, day, month, year, daylight saving.
        for _ in 0..7 {
            if reader.int()?.is_none() {
                return Ok(None);
            }
        }
        let (Some(_database), Some(server), Some(pg_dump)) = (reader.text()?, reader.text()?, reader.text()?)
        else {
            return Ok(None);
        };
        let Some(count) = reader.int()? else { return Ok(None) };
        if !(0..=ENTRIES_MAX).contains(&count) {
            return Err(ArchiveError::Limit("number of entries"));
        }
        self.minor = minor;
        self.off_size = off_size;
        self.contents.version = format!("{major}.{minor}");
        self.contents.server = name(server)?.unwrap_or_default();
        self.contents.pg_dump = name(pg_dump)?.unwrap_or_default();
        Ok(Some(if count == 0 { State::Block } else { State::Entry { left: count } }))
    }

    /// One entry of the table of contents; read again from its beginning when more bytes came.
    fn entry(&mut self, reader: &mut Reader<'_>, left: i64) -> Result<Option<State>, ArchiveError> {
        let Some(entry) = Entry::read(reader, self.minor)? else { return Ok(None) };
        self.keep(&entry)?;
        Ok(Some(if left > 1 { State::Entry { left: left - 1 } } else { State::Block }))
    }

    fn keep(&mut self, entry: &Entry<'_>) -> Result<(), ArchiveError> {
        let description = entry.description.unwrap_or_default();
        let mut table = None;
        if description == b"TABLE DATA" {
            let name =
                qualified(&name(entry.namespace)?.unwrap_or_default(), &name(entry.tag)?.unwrap_or_default());
            self.count(name.len())?;
            table = Some(self.contents.tables.len());
            self.contents.tables.push(name);
        }
        if self.entries.is_some() && (entry.has_data || description == b"SEQUENCE SET") {
            self.keep_entry(entry)?;
        }
        if entry.has_data {
            if self.blocks.insert(entry.id, Block { seen: false, table }).is_some() {
                return Err(ArchiveError::Field("entry number"));
            }
            self.missing += 1;
        }
        if let Some(owner) = name(entry.owner)?.filter(|owner| !owner.is_empty()) {
            self.add_role(owner)?;
        }
        let definition = entry.definition.unwrap_or_default();
        if let Some(tablespace) = name(entry.tablespace)?.filter(|tablespace| !tablespace.is_empty())
            && !self.contents.tablespaces.contains(&tablespace)
        {
            self.count(tablespace.len())?;
            self.contents.tablespaces.insert(tablespace);
        }
        let of_database = match description {
            b"DATABASE PROPERTIES" => true,
            b"ACL" | b"COMMENT" | b"SECURITY LABEL" => {
                entry.tag.unwrap_or_default().starts_with(b"DATABASE ")
                    && entry.namespace.unwrap_or_default().is_empty()
            }
            _ => false,
        };
        if of_database {
            self.count(definition.len())?;
            self.contents.database_level.push(String::from_utf8_lossy(definition).into_owned());
        }
        if matches!(description, b"ACL" | b"DEFAULT ACL") {
            for role in super::names::grantees(&String::from_utf8_lossy(definition)) {
                self.add_role(role)?;
            }
        }
        if description == b"DATABASE" && definition.len() <= 4 * NAME_MAX {
            self.contents.create_database = Some(String::from_utf8_lossy(definition).into_owned());
            self.contents.database = name(entry.tag)?;
            self.contents.database_owner = name(entry.owner)?.filter(|owner| !owner.is_empty());
        }
        Ok(())
    }

    fn keep_entry(&mut self, entry: &Entry<'_>) -> Result<(), ArchiveError> {
        // Names are kept in UTF-8, and nothing may be restored under another name.
        let text = |bytes: Option<&[u8]>| {
            String::from_utf8(bytes.unwrap_or_default().to_vec())
                .map_err(|_| ArchiveError::Field("name, which is not UTF-8,"))
        };
        let statement = if entry.has_data { entry.copy } else { entry.definition };
        let kept = DataEntry {
            description: text(entry.description)?,
            schema: text(entry.namespace)?,
            name: text(entry.tag)?,
            statement: text(statement)?,
        };
        self.count(kept.statement.len() + kept.schema.len() + kept.name.len())?;
        self.entries.get_or_insert_default().push(kept);
        Ok(())
    }

    fn add_role(&mut self, role: String) -> Result<(), ArchiveError> {
        if !self.contents.roles.contains(&role) {
            self.count(role.len())?;
            self.contents.roles.insert(role);
        }
        Ok(())
    }

    /// Memory of names is bounded whatever the archive says.
    fn count(&mut self, len: usize) -> Result<(), ArchiveError> {
        // An entry of a collection costs about as much as a short name.
        self.names_len += len + 64;
        if self.names_len > NAMES_MAX { Err(ArchiveError::Limit("list of names")) } else { Ok(()) }
    }

    fn block(&mut self, reader: &mut Reader<'_>) -> Result<Option<State>, ArchiveError> {
        let (Some(kind), Some(id)) = (reader.byte(), reader.int()?) else {
            // Whatever it is, it is no block of a kind that exists.
            return match reader.bytes.first() {
                Some(kind) if !matches!(kind, 1 | 3) => Err(ArchiveError::Field("block type")),
                _ => Ok(None),
            };
        };
        let next = match kind {
            1 => State::ChunkLen { objects: false },
            3 => State::ObjectId,
            _ => return Err(ArchiveError::Field("block type")),
        };
        match self.blocks.get_mut(&id) {
            Some(block) if !block.seen => {
                block.seen = true;
                self.current = block.table;
            }
            _ => return Err(ArchiveError::Block(id)),
        }
        self.missing -= 1;
        Ok(Some(next))
    }
}

/// A name that is kept, so it must be short and text.
fn name(bytes: Option<&[u8]>) -> Result<Option<String>, ArchiveError> {
    match bytes {
        None => Ok(None),
        Some(bytes) if bytes.len() > NAME_MAX => Err(ArchiveError::Limit("name")),
        // Names of a database that is not in UTF-8 are shown as well as they can be.
        Some(bytes) => Ok(Some(String::from_utf8_lossy(bytes).into_owned())),
    }
}
