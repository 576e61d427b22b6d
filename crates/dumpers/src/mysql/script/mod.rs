//! The text that `mariadb-dump` and `mysqldump` write, read as a stream of units.
//!
//! A unit is a statement with its semicolon, a line of comment, or a block between `DELIMITER ;;`
//! and `DELIMITER ;`. Only the beginning of a unit is held to tell what it is; a row of half a
//! gigabyte passes through in chunks.

mod lexer;
mod unit;

use std::ops::Range;

use lexer::{Found, Lexer};
pub(super) use unit::{Definition, Unit};

/// The most of a unit's beginning that is held to tell what it is.
const HEAD_MAX: usize = 4096;
/// The line the programs write last, and only after success.
const COMPLETED: &[u8] = b"-- Dump completed";

/// Why a text is not a whole dump.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ScriptError {
    /// It is no dump of these programs at all.
    #[error("it does not begin like a dump")]
    NoHeader,
    /// It ends without the line that the programs write last.
    #[error("it ends after {0} bytes without the line \"-- Dump completed\"")]
    Cut(u64),
    /// It goes on after that line.
    #[error("it goes on after the line \"-- Dump completed\", at byte {0}")]
    AfterEnd(u64),
}

/// What a dump holds, as far as its text tells.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ScriptContents {
    /// Databases, in order of their appearance.
    pub databases: Vec<String>,
    /// Tables as `database.table`, each name quoted by backticks where it is not a plain word.
    pub tables: Vec<String>,
}

/// Reads a dump's text.
#[derive(Debug)]
pub(super) struct Script {
    lexer: Lexer,
    head: Vec<u8>,
    /// The kind of the unit under way, once its beginning was seen.
    unit: Option<Unit>,
    /// Bytes before the unit's own beginning are not known to be inside of one.
    read: u64,
    begun: bool,
    completed: bool,
    database: Option<String>,
    contents: ScriptContents,
    /// The table whose data is being read.
    table: Option<(String, String)>,
}

/// A part of a unit: where it lies in the bytes pushed last, or what was held of earlier ones.
#[derive(Debug)]
pub(super) enum Text<'a> {
    Held(&'a [u8]),
    At(Range<usize>),
}

impl Script {
    pub(super) fn new() -> Self {
        Self {
            lexer: Lexer::new(),
            head: Vec::new(),
            unit: None,
            read: 0,
            begun: false,
            completed: false,
            database: None,
            contents: ScriptContents::default(),
            table: None,
        }
    }

    /// Takes more text. `part` is given every byte in order, with the unit it belongs to, and
    /// whether the unit ends there.
    pub(super) fn push<E: From<ScriptError>>(
        &mut self,
        bytes: &[u8],
        mut part: impl FnMut(&Self, &Unit, Text<'_>, bool) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut at = 0;
        while at < bytes.len() {
            if self.completed {
                return Err(ScriptError::AfterEnd(self.read).into());
            }
            let found = self.lexer.find_end(&bytes[at..]);
            let (end, ends) = match found {
                Found::End(len) => (at + len, true),
                Found::More => (bytes.len(), false),
            };
            if self.unit.is_none() {
                // Whole units inside the bytes are not copied.
                let whole = ends && self.head.is_empty();
                if !whole {
                    let take = (HEAD_MAX - self.head.len()).min(end - at);
                    self.head.extend_from_slice(&bytes[at..at + take]);
                    if self.head.len() < HEAD_MAX && !ends {
                        self.read += (end - at) as u64;
                        at = end;
                        continue;
                    }
                    let head = std::mem::take(&mut self.head);
                    let unit = self.begin(&head)?;
                    let last = ends && at + take == end;
                    part(self, &unit, Text::Held(&head), last)?;
                    self.unit = Some(unit);
                    self.read += take as u64;
                    at += take;
                    if last {
                        self.end_unit();
                        continue;
                    }
                } else {
                    let unit = self.begin(&bytes[at..end.min(at + HEAD_MAX)])?;
                    self.unit = Some(unit);
                }
            }
            if let Some(unit) = self.unit.take() {
                part(self, &unit, Text::At(at..end), ends)?;
                self.unit = Some(unit);
            }
            self.read += (end - at) as u64;
            at = end;
            if ends {
                self.end_unit();
            }
        }
        Ok(())
    }

    /// The end of the text.
    pub(super) fn finish(self) -> Result<ScriptContents, ScriptError> {
        if !self.begun && !self.completed {
            return Err(ScriptError::NoHeader);
        }
        if self.completed { Ok(self.contents) } else { Err(ScriptError::Cut(self.read)) }
    }

    /// The table whose data is being read, as database and name.
    pub(super) fn table(&self) -> Option<&(String, String)> {
        self.table.as_ref()
    }

    fn begin(&mut self, head: &[u8]) -> Result<Unit, ScriptError> {
        let mut unit = Unit::of(head);
        if unit == Unit::Account && !self.contents.databases.is_empty() {
            unit = Unit::Foreign("a statement about accounts after the first database");
        }
        match &unit {
            Unit::Comment if head.trim_ascii_start().starts_with(COMPLETED) => {
                self.table = None;
                if !self.begun {
                    return Err(ScriptError::NoHeader);
                }
            }
            // Ours may stand before the program's.
            Unit::Comment | Unit::Sandbox | Unit::Account | Unit::Blank => {}
            Unit::CreateDatabase { name, .. } | Unit::Use(name) => {
                self.table = None;
                if !self.contents.databases.contains(name) {
                    self.contents.databases.push(name.clone());
                }
                self.database = Some(name.clone());
            }
            Unit::CreateTable(name) => {
                let database = self.database.clone().unwrap_or_default();
                self.contents.tables.push(super::names::qualified(&database, name));
                self.table = Some((database, name.clone()));
            }
            Unit::Definition(..) | Unit::Block => self.table = None,
            _ => {}
        }
        let text = head.trim_ascii_start();
        if text.starts_with(b"-- MariaDB dump ") || text.starts_with(b"-- MySQL dump ") {
            self.begun = true;
        } else if !self.begun && !matches!(unit, Unit::Comment | Unit::Sandbox | Unit::Account | Unit::Blank)
        {
            return Err(ScriptError::NoHeader);
        }
        if matches!(unit, Unit::Comment) && text.starts_with(COMPLETED) {
            return Ok(Unit::Completed);
        }
        Ok(unit)
    }

    fn end_unit(&mut self) {
        if matches!(self.unit.take(), Some(Unit::Completed)) {
            self.completed = true;
        }
        self.lexer.restart();
    }
}
