//! Reading an archive.

use std::collections::HashMap;

use bytes::{Buf as _, Bytes, BytesMut};
use mongodb::bson::RawDocument;

use super::{ArchiveError, Crc64, DOCUMENT_MAX, Entry, MAGIC, Namespace, Prelude, TERMINATOR, VERSION};

/// The longest entry of the prelude, which holds a collection's indexes and options as text.
const ENTRY_MAX: usize = 3 * DOCUMENT_MAX;
/// Bytes of all entries: they are kept while the archive is read.
const PRELUDE_MAX: usize = 64 * 1024 * 1024;
/// The shortest document: its length and its end.
const DOCUMENT_MIN: usize = 5;

/// A piece of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// The beginning; comes once and first.
    Prelude(Prelude),
    /// Whole documents of a collection, one after another.
    Documents {
        /// The collection, as an index of [`Prelude::entries`].
        entry: usize,
        /// The name the block has: that of the collection, or of the one behind a time series.
        namespace: Namespace,
        /// How many.
        count: u64,
        /// The documents.
        documents: Bytes,
    },
    /// A collection has ended, and its checksum agrees.
    Ended {
        /// The collection, as an index of [`Prelude::entries`].
        entry: usize,
    },
}

/// What an archive holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ArchiveContents {
    /// Its beginning.
    pub prelude: Prelude,
    /// For each entry of the prelude its documents and their bytes.
    pub counts: Vec<(u64, u64)>,
    /// Bytes of the archive.
    pub bytes: u64,
}

/// A strict reader that needs no I/O: push bytes, take items until there is none, finish.
///
/// The bytes may be hostile: every length is bounded before it is used, and no more is kept than one
/// document and what was pushed last.
#[derive(Debug)]
pub struct ArchiveParser {
    buffer: BytesMut,
    state: State,
    prelude: Prelude,
    prelude_len: usize,
    collections: Vec<Collection>,
    by_name: HashMap<Namespace, usize>,
    open: usize,
    bytes: u64,
}

#[derive(Debug)]
enum State {
    Magic,
    Header,
    Entries,
    Between,
    Documents(usize, Namespace),
    Closing(usize),
}

#[derive(Debug)]
struct Collection {
    crc: Crc64,
    count: u64,
    bytes: u64,
    ended: bool,
}

impl Default for ArchiveParser {
    fn default() -> Self {
        Self::new()
    }
}

impl ArchiveParser {
    /// A reader at the beginning.
    #[must_use]
    pub fn new() -> Self {
        Self {
            buffer: BytesMut::new(),
            state: State::Magic,
            prelude: Prelude::default(),
            prelude_len: 0,
            collections: Vec::new(),
            by_name: HashMap::new(),
            open: 0,
            bytes: 0,
        }
    }

    /// Takes more bytes; call [`ArchiveParser::next_item`] until it has none.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next item of what was pushed; `None` means that more bytes are needed.
    ///
    /// # Errors
    /// Where the bytes are no archive. Nothing more is to be asked after an error.
    pub fn next_item(&mut self) -> Result<Option<Item>, ArchiveError> {
        loop {
            match &self.state {
                State::Magic => {
                    let Some(magic) = self.buffer.first_chunk::<4>() else { return Ok(None) };
                    if *magic != MAGIC {
                        return Err(ArchiveError::NotAnArchive);
                    }
                    self.buffer.advance(MAGIC.len());
                    self.state = State::Header;
                }
                State::Header => {
                    let Some(document) = self.take_document("its beginning", ENTRY_MAX)? else {
                        return Ok(None);
                    };
                    self.read_header(&document)?;
                    self.state = State::Entries;
                }
                State::Entries => {
                    if self.take_terminator() {
                        self.state = State::Between;
                        return Ok(Some(Item::Prelude(self.prelude.clone())));
                    }
                    let Some(document) = self.take_document("its beginning", ENTRY_MAX)? else {
                        return Ok(None);
                    };
                    self.prelude_len += document.len();
                    if self.prelude_len > PRELUDE_MAX {
                        return Err(ArchiveError::Limit("list of collections"));
                    }
                    self.read_entry(&document)?;
                }
                State::Between => {
                    if self.buffer.is_empty() {
                        return Ok(None);
                    }
                    if self.open == 0 {
                        return Err(ArchiveError::Trailing);
                    }
                    let Some(document) = self.take_document("a block's header", DOCUMENT_MAX)? else {
                        return Ok(None);
                    };
                    self.read_block_header(&document)?;
                }
                State::Documents(entry, namespace) => {
                    let (entry, namespace) = (*entry, namespace.clone());
                    if self.take_terminator() {
                        self.state = State::Between;
                        continue;
                    }
                    let (count, documents) = self.take_documents(&namespace)?;
                    if count == 0 {
                        return Ok(None);
                    }
                    let collection = &mut self.collections[entry];
                    collection.crc.update(&documents);
                    collection.count += count;
                    collection.bytes += documents.len() as u64;
                    return Ok(Some(Item::Documents { entry, namespace, count, documents }));
                }
                State::Closing(entry) => {
                    let entry = *entry;
                    if self.take_terminator() {
                        self.state = State::Between;
                        self.collections[entry].ended = true;
                        self.open -= 1;
                        return Ok(Some(Item::Ended { entry }));
                    }
                    if self.buffer.len() < TERMINATOR.len() {
                        return Ok(None);
                    }
                    return Err(ArchiveError::AfterEnd(self.name(entry)));
                }
            }
        }
    }

    /// The end of the bytes.
    ///
    /// # Errors
    /// `Truncated` unless every collection of the prelude has ended.
    pub fn finish(self) -> Result<ArchiveContents, ArchiveError> {
        match self.state {
            State::Between if self.buffer.is_empty() && self.open == 0 => Ok(ArchiveContents {
                counts: self.collections.iter().map(|c| (c.count, c.bytes)).collect(),
                prelude: self.prelude,
                bytes: self.bytes,
            }),
            State::Between => {
                let missing = self.collections.iter().position(|collection| !collection.ended);
                let missing = missing.map_or_else(|| "a block".to_owned(), |entry| self.name(entry));
                Err(ArchiveError::Truncated(format!("the end of {missing} is missing")))
            }
            State::Magic | State::Header | State::Entries => {
                Err(ArchiveError::Truncated("it ends within its beginning".to_owned()))
            }
            State::Documents(entry, _) | State::Closing(entry) => {
                Err(ArchiveError::Truncated(format!("it ends within {}", self.name(entry))))
            }
        }
    }

    fn name(&self, entry: usize) -> String {
        self.prelude.entries[entry].namespace.to_string()
    }

    fn take_terminator(&mut self) -> bool {
        let is = self.buffer.starts_with(&TERMINATOR);
        if is {
            self.buffer.advance(TERMINATOR.len());
        }
        is
    }

    /// The length of the document at `at`, once all of it is here.
    fn document_at(&self, at: usize, place: &str, max: usize) -> Result<Option<usize>, ArchiveError> {
        let Some(len) = self.buffer[at..].first_chunk::<4>() else { return Ok(None) };
        let wrong = || ArchiveError::Document(place.to_owned());
        let len = usize::try_from(i32::from_le_bytes(*len)).map_err(|_| wrong())?;
        if !(DOCUMENT_MIN..=max).contains(&len) {
            return Err(wrong());
        }
        if self.buffer.len() - at < len {
            return Ok(None);
        }
        if self.buffer[at + len - 1] != 0 {
            return Err(wrong());
        }
        Ok(Some(len))
    }

    fn take_document(&mut self, place: &str, max: usize) -> Result<Option<Bytes>, ArchiveError> {
        let len = self.document_at(0, place, max)?;
        Ok(len.map(|len| self.buffer.split_to(len).freeze()))
    }

    /// As many whole documents as are here, up to the end of their block.
    fn take_documents(&mut self, namespace: &Namespace) -> Result<(u64, Bytes), ArchiveError> {
        let (mut at, mut count) = (0, 0);
        while !self.buffer[at..].starts_with(&TERMINATOR) {
            match self.document_at(at, &namespace.to_string(), DOCUMENT_MAX)? {
                Some(len) => at += len,
                None => break,
            }
            count += 1;
        }
        Ok((count, self.buffer.split_to(at).freeze()))
    }

    fn read_header(&mut self, bytes: &[u8]) -> Result<(), ArchiveError> {
        let document = raw(bytes, "beginning")?;
        let version = text(document, "version")?;
        if version != VERSION {
            return Err(ArchiveError::Version(version.chars().take(20).collect()));
        }
        let concurrent = document.get_i32("concurrent_collections");
        self.prelude.concurrent_collections =
            concurrent.map_err(|_| ArchiveError::Field("concurrent_collections"))?;
        self.prelude.server_version = text(document, "server_version")?.to_owned();
        self.prelude.tool_version = text(document, "tool_version")?.to_owned();
        Ok(())
    }

    fn read_entry(&mut self, bytes: &[u8]) -> Result<(), ArchiveError> {
        let document = raw(bytes, "entry")?;
        let namespace = Namespace::new(text(document, "db")?, text(document, "collection")?);
        if namespace.collection.is_empty() || namespace.db.is_empty() && !namespace.is_oplog() {
            return Err(ArchiveError::Field("collection"));
        }
        let entry = Entry {
            namespace: namespace.clone(),
            metadata: text(document, "metadata")?.to_owned(),
            kind: text(document, "type")?.to_owned(),
        };
        if self.by_name.insert(namespace, self.collections.len()).is_some() {
            return Err(ArchiveError::Twice(entry.namespace.to_string()));
        }
        self.prelude.entries.push(entry);
        self.collections.push(Collection { crc: Crc64::new(), count: 0, bytes: 0, ended: false });
        self.open += 1;
        Ok(())
    }

    fn read_block_header(&mut self, bytes: &[u8]) -> Result<(), ArchiveError> {
        let document = raw(bytes, "block's header")?;
        let namespace = Namespace::new(text(document, "db")?, text(document, "collection")?);
        let ended = document.get_bool("EOF").map_err(|_| ArchiveError::Field("EOF"))?;
        let checksum = document.get_i64("CRC").map_err(|_| ArchiveError::Field("CRC"))?;
        let entry = self.entry_of(&namespace)?;
        let collection = &self.collections[entry];
        if collection.ended {
            return Err(if ended {
                ArchiveError::Twice(format!("the end of {namespace}"))
            } else {
                ArchiveError::AfterEnd(namespace.to_string())
            });
        }
        if !ended {
            if checksum != 0 {
                return Err(ArchiveError::Field("CRC"));
            }
            self.state = State::Documents(entry, namespace);
            return Ok(());
        }
        if collection.crc.value() != checksum {
            return Err(ArchiveError::Checksum(namespace.to_string()));
        }
        self.state = State::Closing(entry);
        Ok(())
    }

    fn entry_of(&self, namespace: &Namespace) -> Result<usize, ArchiveError> {
        if let Some(entry) = self.by_name.get(namespace) {
            return Ok(*entry);
        }
        let behind = namespace.collection.strip_prefix(super::BUCKETS);
        let front = behind.and_then(|name| self.by_name.get(&Namespace::new(&*namespace.db, name)));
        let holds =
            |entry: &&usize| self.prelude.entries[**entry].holds(&namespace.db, &namespace.collection);
        front.filter(holds).copied().ok_or_else(|| ArchiveError::Unlisted(namespace.to_string()))
    }
}

fn raw<'a>(bytes: &'a [u8], what: &'static str) -> Result<&'a RawDocument, ArchiveError> {
    RawDocument::from_bytes(bytes).map_err(|_| ArchiveError::Field(what))
}

fn text<'a>(document: &'a RawDocument, key: &'static str) -> Result<&'a str, ArchiveError> {
    document.get_str(key).map_err(|_| ArchiveError::Field(key))
}
