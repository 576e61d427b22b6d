//! A streaming reader of `pg_dump`'s custom archive, versions 1.12 to 1.16.
//!
//! It needs no I/O and little memory: push bytes, then finish. It reads the header and the table of
//! contents and walks the data blocks to the end, so that it knows whether every block that the
//! table of contents promises is there and whole. The format is that of `pg_backup_archiver.c` and
//! `pg_backup_custom.c` in PostgreSQL's source; nothing else documents it.
//!
//! The bytes may be hostile: every length is bounded before it is used, nothing is interpreted.

use std::collections::{BTreeSet, HashMap};

use super::names::qualified;

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
}

/// Reads an archive piece by piece.
#[derive(Debug)]
pub struct ArchiveParser {
    state: State,
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
        if matches!(description, b"ACL" | b"DEFAULT ACL") {
            for role in super::names::grantees(&String::from_utf8_lossy(definition)) {
                self.add_role(role)?;
            }
        }
        if description == b"DATABASE" && definition.len() <= 4 * NAME_MAX {
            self.contents.create_database = Some(String::from_utf8_lossy(definition).into_owned());
        }
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

/// What is used of an entry.
struct Entry<'a> {
    id: i64,
    tag: Option<&'a [u8]>,
    description: Option<&'a [u8]>,
    definition: Option<&'a [u8]>,
    namespace: Option<&'a [u8]>,
    owner: Option<&'a [u8]>,
    has_data: bool,
}

impl<'a> Entry<'a> {
    /// `None` when the bytes end before the entry does.
    fn read(reader: &mut Reader<'a>, minor: u8) -> Result<Option<Self>, ArchiveError> {
        macro_rules! some {
            ($read:expr) => {
                match $read {
                    Some(value) => value,
                    None => return Ok(None),
                }
            };
        }
        let id = some!(reader.int()?);
        if id <= 0 {
            return Err(ArchiveError::Field("entry number"));
        }
        let _had_dumper = some!(reader.int()?);
        let _table_oid = some!(reader.text()?);
        let _oid = some!(reader.text()?);
        let tag = some!(reader.text()?);
        let description = some!(reader.text()?);
        let _section = some!(reader.int()?);
        let definition = some!(reader.text()?);
        let _drop_statement = some!(reader.text()?);
        let _copy_statement = some!(reader.text()?);
        let namespace = some!(reader.text()?);
        let _tablespace = some!(reader.text()?);
        if minor >= 14 {
            let _access_method = some!(reader.text()?);
        }
        if minor >= 16 {
            let _kind = some!(reader.int()?);
        }
        let owner = some!(reader.text()?);
        let _with_oids = some!(reader.text()?);
        // Dependencies, ended by the one that is absent.
        while some!(reader.text()?).is_some() {}
        let has_data = match some!(reader.byte()) {
            // Position not known (a streamed dump), or known.
            1 | 2 => true,
            3 => false,
            _ => return Err(ArchiveError::Field("data state")),
        };
        some!(reader.take(usize::from(reader.off_size)));
        Ok(Some(Self { id, tag, description, definition, namespace, owner, has_data }))
    }
}

/// Primitives; `None` is "more bytes are needed".
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    off_size: u8,
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let bytes = self.bytes.get(self.at..self.at.checked_add(len)?)?;
        self.at += len;
        Some(bytes)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    /// A sign byte and four bytes, least significant first.
    fn int(&mut self) -> Result<Option<i64>, ArchiveError> {
        let Some(&[sign, a, b, c, d]) = self.take(5).and_then(|bytes| bytes.first_chunk::<5>()) else {
            return Ok(None);
        };
        let value = i64::from(u32::from_le_bytes([a, b, c, d]));
        match sign {
            0 => Ok(Some(value)),
            1 => Ok(Some(-value)),
            _ => Err(ArchiveError::Field("sign")),
        }
    }

    /// A length and as many bytes; below zero is an absent text, the inner `None`.
    #[allow(clippy::option_option, reason = "not yet here, absent and present are three things")]
    fn text(&mut self) -> Result<Option<Option<&'a [u8]>>, ArchiveError> {
        let Some(len) = self.int()? else { return Ok(None) };
        let Ok(len) = usize::try_from(len) else { return Ok(Some(None)) };
        if len > ENTRY_MAX {
            return Err(ArchiveError::Limit("text"));
        }
        Ok(self.take(len).map(Some))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes archives as `pg_dump` does.
    #[derive(Default)]
    struct Writer(Vec<u8>);

    impl Writer {
        fn int(mut self, value: i64) -> Self {
            self.0.push(u8::from(value < 0));
            self.0.extend_from_slice(&(value.unsigned_abs() as u32).to_le_bytes());
            self
        }
        fn bytes(mut self, bytes: &[u8]) -> Self {
            self.0.extend_from_slice(bytes);
            self
        }
        fn text(self, text: &str) -> Self {
            self.int(text.len() as i64).bytes(text.as_bytes())
        }
        fn absent(self) -> Self {
            self.int(-1)
        }
        fn head(self, minor: u8, entries: i64) -> Self {
            let head = self.bytes(b"PGDMP").bytes(&[1, minor, 0, 4, 8, 1]);
            let head = if minor >= 15 { head.bytes(&[0]) } else { head.int(0) };
            let head = (0..7).fold(head, |head, field| head.int(field));
            head.text("db").text("15.18").text("15.18").int(entries)
        }
        fn entry(
            self,
            minor: u8,
            id: i64,
            description: &str,
            tag: &str,
            definition: &str,
            data: bool,
        ) -> Self {
            let entry =
                self.int(id).int(i64::from(data)).text("1259").text("16384").text(tag).text(description);
            let entry = entry.int(3).text(definition).text("").absent().text("public").absent();
            let entry = if minor >= 14 { entry.text("heap") } else { entry };
            let entry = if minor >= 16 { entry.int(114) } else { entry };
            let entry = entry.text("owner").text("false").text("7").text("8").absent();
            entry.bytes(&[if data { 1 } else { 3 }]).bytes(&[0; 8])
        }
    }

    fn archive(minor: u8) -> Vec<u8> {
        let writer = Writer::default()
            .head(minor, 4)
            .entry(minor, 1, "TABLE", "t", "CREATE TABLE", false)
            .entry(minor, 2, "TABLE DATA", "T x", "", true)
            .entry(minor, 3, "BLOBS", "BLOBS", "", true)
            .entry(minor, 4, "ACL", "TABLE t", "GRANT SELECT ON TABLE t TO reader;\n", false);
        writer
            .bytes(&[1])
            .int(2)
            .int(3)
            .bytes(b"abc")
            .int(1)
            .bytes(b"d")
            .int(0)
            .bytes(&[3])
            .int(3)
            .int(17)
            .int(2)
            .bytes(b"xy")
            .int(0)
            .int(18)
            .int(0)
            .int(0)
            .0
    }

    fn parse(bytes: &[u8], step: usize) -> Result<ArchiveContents, ArchiveError> {
        let mut parser = ArchiveParser::new();
        for chunk in bytes.chunks(step) {
            parser.push(chunk)?;
        }
        parser.finish()
    }

    #[test]
    fn every_version_is_read_in_pieces_of_any_size() {
        for minor in 12..=16 {
            let bytes = archive(minor);
            for step in [1, 2, 3, 7, 64, bytes.len()] {
                let contents = parse(&bytes, step).unwrap();
                assert_eq!(contents.tables, ["public.\"T x\""]);
                assert_eq!(contents.roles, BTreeSet::from(["owner".to_owned(), "reader".to_owned()]));
                assert_eq!(contents.server, "15.18");
                assert_eq!(contents.version, format!("1.{minor}"));
            }
        }
    }

    #[test]
    fn every_prefix_is_truncated() {
        let bytes = archive(14);
        for len in 0..bytes.len() {
            let outcome = parse(&bytes[..len], 64);
            assert!(matches!(outcome, Err(ArchiveError::Truncated(_))), "{len}: {outcome:?}");
        }
    }

    #[test]
    fn what_is_impossible_is_named() {
        let good = archive(14);
        let with = |at: usize, value: u8| {
            let mut bytes = good.clone();
            bytes[at] = value;
            parse(&bytes, 64).unwrap_err()
        };
        assert_eq!(with(0, b'p'), ArchiveError::NotAnArchive);
        assert_eq!(with(5, 2), ArchiveError::Version(2, 14));
        assert_eq!(with(6, 17), ArchiveError::Version(1, 17));
        assert_eq!(with(6, 11), ArchiveError::Version(1, 11));
        assert_eq!(with(8, 8), ArchiveError::Field("integer size"));
        assert_eq!(with(9, 0), ArchiveError::Field("offset size"));
        assert_eq!(with(10, 3), ArchiveError::Field("format"));
        assert_eq!(with(11, 9), ArchiveError::Field("sign"));
        let huge = Writer::default().head(14, ENTRIES_MAX + 1).0;
        assert_eq!(parse(&huge, 64), Err(ArchiveError::Limit("number of entries")));
        let long = Writer::default().head(14, 1).int(1).int(0).int(ENTRY_MAX as i64 + 1).0;
        assert_eq!(parse(&long, 64), Err(ArchiveError::Limit("text")));
        let mut twice = archive(14);
        twice.extend(Writer::default().bytes(&[1]).int(2).int(0).0);
        assert_eq!(parse(&twice, 64), Err(ArchiveError::Block(2)));
        let mut garbage = archive(14);
        garbage.push(b'x');
        assert_eq!(parse(&garbage, 64), Err(ArchiveError::Field("block type")));
    }

    #[test]
    fn the_table_under_way_is_known() {
        let bytes = archive(14);
        let mut parser = ArchiveParser::new();
        let mut seen = Vec::new();
        for byte in &bytes {
            parser.push(&[*byte]).unwrap();
            let table = parser.current_table().map(str::to_owned);
            if seen.last() != Some(&table) {
                seen.push(table);
            }
        }
        assert_eq!(seen, [None, Some("public.\"T x\"".to_owned()), None]);
    }

    #[test]
    fn a_long_entry_costs_in_proportion_to_its_length() {
        let view = "x".repeat(8 * 1024 * 1024);
        let mut dependencies = Writer::default().head(14, 2).entry(14, 1, "VIEW", "v", &view, false);
        // An entry of many small fields is the dearest to read again.
        dependencies = dependencies.int(2).int(0).text("0").text("0").text("v").text("VIEW").int(2);
        dependencies = dependencies.text("").text("").absent().text("public").absent().text("");
        dependencies = dependencies.text("owner").text("false");
        dependencies = (0..1_000_000).fold(dependencies, |entry, _| entry.int(1).bytes(b"7"));
        let bytes = dependencies.absent().bytes(&[3]).bytes(&[0; 8]).0;
        let mut parser = ArchiveParser::new();
        for chunk in bytes.chunks(8 * 1024) {
            parser.push(chunk).unwrap();
        }
        assert_eq!(parser.finish().unwrap().roles.len(), 1);
    }

    #[test]
    fn a_parser_that_failed_stays_failed() {
        let mut parser = ArchiveParser::new();
        assert!(parser.push(b"nonsense").is_err());
        assert!(parser.push(&archive(14)).is_err());
        assert!(parser.contents().is_none());
        assert!(parser.finish().is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(flips in proptest::collection::vec((0..400_usize, 0..=255_u8), 0..8), step in 1..64_usize) {
            let mut bytes = archive(16);
            for (at, value) in flips {
                let at = at % bytes.len();
                bytes[at] = value;
            }
            let _ = parse(&bytes, step);
        }
    }
}
