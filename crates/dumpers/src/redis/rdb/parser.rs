//! The parser's owner: chunks in, contents out.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use super::RdbError;
use super::grammar::parse;
use super::input::Input;

/// What a whole dump holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RdbContents {
    /// The RDB version.
    pub version: u32,
    /// The server's version as it says, such as `redis 7.0.15`.
    pub server: Option<String>,
    /// Keys by database.
    pub databases: BTreeMap<u64, Counts>,
    /// Function libraries.
    pub functions: u64,
    /// Names of modules whose data is in the dump.
    pub modules: BTreeSet<String>,
    /// Data that modules keep beside keys.
    pub module_sections: u64,
    /// Whether the server wrote a checksum (`rdbchecksum yes`); it was compared then.
    pub checksum: bool,
}

/// What one database holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Keys.
    pub keys: u64,
    /// Keys with a time to live.
    pub expiring: u64,
}

/// Something that a restore has to write.
#[derive(Debug)]
pub(crate) enum Item {
    /// Keys from here on are of this database.
    Database(u64),
    /// A function library: its opcode and its string, as they stand.
    Function(Vec<u8>),
    /// A whole key.
    Entry(Entry),
    /// A plain string of so many bytes begins; its parts follow. The entry's body is empty.
    Long(Entry, u64),
    /// A part of a long string, and whether it is the last.
    Part(Bytes, bool),
    /// The beginning of a value of many elements, as a value; the other elements follow.
    First(Entry),
    /// More elements of it.
    More(More),
    /// All elements of it were given.
    Last,
}

/// Elements to be added to a value.
#[derive(Debug)]
pub(crate) struct More {
    /// The command that adds them.
    pub(crate) command: &'static str,
    /// Its words after the key.
    pub(crate) words: Vec<Vec<u8>>,
    /// How many elements these are.
    pub(crate) elements: u64,
}

/// A key with its value.
#[derive(Debug, Default)]
pub(crate) struct Entry {
    pub(crate) key: Vec<u8>,
    /// The type's byte and the value's bytes, as they stand.
    pub(crate) body: Vec<u8>,
    /// When it expires, in milliseconds since 1970.
    pub(crate) expires: Option<u64>,
    /// Seconds since it was last used.
    pub(crate) idle: Option<u64>,
    /// How often it was used, logarithmic.
    pub(crate) frequency: Option<u8>,
}

type Grammar = Pin<Box<dyn Future<Output = Result<(), RdbError>> + Send>>;

/// Parses a dump in chunks of any size.
///
/// After an error every further call gives an error.
pub struct RdbParser {
    input: Input,
    grammar: Option<Grammar>,
    failed: Option<RdbError>,
}

impl RdbParser {
    /// A parser that only finds out whether a dump is whole, and what it holds.
    #[must_use]
    pub fn new() -> Self {
        Self::with(None)
    }

    /// A parser that also keeps what is to be written; take it with [`RdbParser::items`] after each
    /// chunk. What cannot be divided may have up to `limit` bytes.
    pub(crate) fn keeping(limit: u64) -> Self {
        Self::with(Some(limit))
    }

    fn with(keep: Option<u64>) -> Self {
        let input = Input::new();
        let grammar: Grammar = Box::pin(parse(input.clone(), keep));
        Self { input, grammar: Some(grammar), failed: None }
    }

    /// Reads the next chunk.
    ///
    /// # Errors
    /// What is wrong with the dump up to here.
    pub fn push(&mut self, chunk: &Bytes) -> Result<(), RdbError> {
        if chunk.is_empty() {
            return self.failed.clone().map_or(Ok(()), Err);
        }
        self.input.push(chunk);
        self.advance()?;
        self.input.hash_rest();
        Ok(())
    }

    /// What the whole dump holds.
    ///
    /// # Errors
    /// `Truncated` unless the end mark was read.
    pub fn finish(&mut self) -> Result<RdbContents, RdbError> {
        self.input.end();
        self.advance()?;
        Ok(self.input.feed().contents.clone())
    }

    /// What came with the chunks so far.
    pub(crate) fn items(&mut self) -> Vec<Item> {
        self.input.feed().items.drain(..).collect()
    }

    /// The database whose keys are being read.
    #[must_use]
    pub fn database(&self) -> Option<u64> {
        self.input.feed().contents.databases.keys().next_back().copied()
    }

    /// The dump's version, once its head was read.
    pub(crate) fn version(&self) -> u32 {
        self.input.feed().contents.version
    }

    fn advance(&mut self) -> Result<(), RdbError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        if let Some(grammar) = &mut self.grammar {
            match grammar.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(())) => self.grammar = None,
                Poll::Ready(Err(error)) => return self.fail(error),
            }
        }
        if self.input.is_drained() { Ok(()) } else { self.fail(RdbError::Trailing) }
    }

    fn fail(&mut self, error: RdbError) -> Result<(), RdbError> {
        self.grammar = None;
        self.failed = Some(error.clone());
        Err(error)
    }
}

impl Default for RdbParser {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for RdbParser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RdbParser").field("failed", &self.failed).finish_non_exhaustive()
    }
}
