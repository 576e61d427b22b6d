//! A parallel dump read from end to end.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use async_trait::async_trait;
use backup_core::{ByteStream, Context, DumpFormat, Inspection, Inspector, Plain, Result, Stage};

use super::super::PG_CUSTOM;
use super::super::archive::ArchiveParser;
use super::super::inspect::not_whole;
use super::contents::{CONTENTS_MAX, Contents};
use super::copy::Rows;
use super::incoming::{Incoming, wrong};
use super::load::check_copy;
use super::{CONTENTS, DATA_FORMAT, META_RESTORE, META_TABLE, PG_PARALLEL, POST_DATA, PRE_DATA};
use crate::bundle::{MemberHead, Turn};

/// Reads `postgresql-parallel` dumps to their end, archives entry by entry, and counts the rows.
#[derive(Debug, Clone, Copy, Default)]
pub struct ParallelInspector;

/// A member that is being read.
enum Reading {
    Archive(Box<ArchiveParser>),
    Rows { table: String, rows: Rows },
    Text(Vec<u8>),
    Other,
}

impl Reading {
    fn of(head: &MemberHead) -> Result<Self> {
        Ok(match head.format.as_str() {
            PG_CUSTOM => Self::Archive(Box::default()),
            DATA_FORMAT => {
                let table = head.meta.get(META_TABLE).cloned();
                let (Some(table), Some(statement)) = (table, head.meta.get(META_RESTORE)) else {
                    return Err(wrong(format!("member {:?} does not say its table", head.name)));
                };
                check_copy(statement).map_err(|what| wrong(format!("member {:?}: {what}", head.name)))?;
                Self::Rows { table, rows: Rows::new() }
            }
            _ if head.name == CONTENTS => Self::Text(Vec::new()),
            _ => Self::Other,
        })
    }

    fn push(&mut self, chunk: &[u8]) -> Result<()> {
        match self {
            Self::Archive(parser) => parser.push(chunk).map_err(not_whole)?,
            Self::Rows { table, rows } => {
                if !rows.push(chunk) {
                    return Err(wrong(format!("a row of {table} is none of COPY's text format")));
                }
            }
            Self::Text(text) if text.len() + chunk.len() > CONTENTS_MAX => {
                return Err(wrong("its contents are longer than any real ones"));
            }
            Self::Text(text) => text.extend_from_slice(chunk),
            Self::Other => {}
        }
        Ok(())
    }
}

/// What was found so far.
#[derive(Default)]
struct Found {
    rows: BTreeMap<String, u64>,
    tables: BTreeSet<String>,
    whole: BTreeSet<String>,
    contents: Option<Contents>,
}

impl Found {
    fn close(&mut self, name: String, reading: Reading) -> Result<()> {
        match reading {
            Reading::Archive(parser) => drop(parser.finish().map_err(not_whole)?),
            Reading::Rows { rows, .. } if !rows.whole() => {
                return Err(wrong(format!("member {name:?} ends within a row")));
            }
            Reading::Rows { table, rows } => {
                self.rows.insert(name.clone(), rows.count);
                self.tables.insert(table);
            }
            Reading::Text(text) => {
                let contents = serde_json::from_slice(&text)
                    .map_err(|error| wrong("its contents are not understood").with_source(error))?;
                self.contents = Some(contents);
            }
            Reading::Other => {}
        }
        self.whole.insert(name);
        Ok(())
    }

    fn finish(self, bytes: u64) -> Result<Inspection> {
        for name in [PRE_DATA, POST_DATA] {
            if !self.whole.contains(name) {
                return Err(wrong(format!("member {name:?} is missing")));
            }
        }
        let contents = self.contents.ok_or_else(|| wrong(format!("member {CONTENTS:?} is missing")))?;
        match contents.differs(&self.rows) {
            Some(difference) => Err(wrong(difference)),
            None => Ok(Inspection { bytes, parsed: true, tables: self.tables.into_iter().collect() }),
        }
    }
}

#[async_trait]
impl Inspector for ParallelInspector {
    fn accepts(&self, format: &DumpFormat) -> bool {
        format.as_str() == PG_PARALLEL
    }

    async fn inspect(
        &self,
        cx: &Context,
        _format: &DumpFormat,
        bytes: ByteStream<Plain>,
    ) -> Result<Inspection> {
        read(cx, bytes).await.map_err(|error| error.at(Stage::Verify))
    }
}

async fn read(cx: &Context, bytes: ByteStream<Plain>) -> Result<Inspection> {
    let mut incoming = Incoming::new(cx, bytes);
    let mut open = HashMap::new();
    let mut found = Found::default();
    let unknown = || wrong("a record of a member that is not open");
    while let Some(turn) = incoming.turn().await? {
        match turn {
            Turn::Open(id, head) => {
                let reading = Reading::of(&head)?;
                open.insert(id, (head.name, reading));
            }
            Turn::Data(id, chunk) => open.get_mut(&id).ok_or_else(unknown)?.1.push(&chunk)?,
            Turn::Close(id) => {
                let (name, reading) = open.remove(&id).ok_or_else(unknown)?;
                found.close(name, reading)?;
            }
            Turn::Abandon(id) => drop(open.remove(&id)),
        }
    }
    found.finish(incoming.total)
}
