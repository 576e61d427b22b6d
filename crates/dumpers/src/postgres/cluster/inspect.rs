//! A whole server's bundle, read from end to end.

use async_trait::async_trait;
use backup_core::{
    ByteStream, Context, DumpFormat, Error, ErrorKind, Inspection, Inspector, Plain, Result, Stage,
};

use super::super::PG_CUSTOM;
use super::super::inspect::PostgresInspector;
use super::super::names::shown;
use super::super::statements::statements;
use super::{DATABASES, GLOBALS_FORMAT, INDEX_FORMAT, Index, PG_BUNDLE, index_of, text_of};
use crate::bundle::{Member, Members};
use crate::inspection::{Counted, stoppable};

/// Reads `postgresql-bundle` dumps to their end: every archive, the script of roles, and whether each
/// database that is listed is there.
#[derive(Debug, Clone, Copy, Default)]
pub struct PostgresClusterInspector;

/// What was seen so far.
#[derive(Debug, Default)]
struct Seen {
    index: Option<Index>,
    databases: Vec<String>,
    tables: Vec<String>,
}

#[async_trait]
impl Inspector for PostgresClusterInspector {
    fn accepts(&self, format: &DumpFormat) -> bool {
        format.as_str() == PG_BUNDLE
    }

    async fn inspect(
        &self,
        cx: &Context,
        _format: &DumpFormat,
        bytes: ByteStream<Plain>,
    ) -> Result<Inspection> {
        let read = Counted::default();
        let mut members = Members::new(PG_BUNDLE, read.through(bytes));
        let mut seen = Seen::default();
        let work = async {
            while let Some(member) = members.next().await? {
                seen.take(cx, member).await?;
            }
            seen.finish()
        };
        stoppable(cx, PG_BUNDLE, work).await.map_err(|error| error.at(Stage::Verify))?;
        Ok(Inspection { bytes: read.bytes(), parsed: true, tables: seen.tables })
    }
}

impl Seen {
    async fn take(&mut self, cx: &Context, member: Member) -> Result<()> {
        let name = member.head.name;
        match member.head.format.as_str() {
            INDEX_FORMAT => self.index = Some(index_of(member.bytes).await?),
            GLOBALS_FORMAT => {
                let script = text_of(&name, member.bytes).await?;
                statements(&script).map_err(|error| broken(&format!("its member {name}: {error}")))?;
            }
            PG_CUSTOM => {
                let format = DumpFormat::new(PG_CUSTOM);
                let found = PostgresInspector.inspect(cx, &format, member.bytes).await?;
                let database = name.strip_prefix(DATABASES).unwrap_or(&name).to_owned();
                let shown = shown(&database);
                self.tables.extend(found.tables.iter().map(|table| format!("{shown}.{table}")));
                self.databases.push(database);
            }
            other => return Err(broken(&format!("its member {name} has the unknown format {other:?}"))),
        }
        Ok(())
    }

    fn finish(&self) -> Result<()> {
        let Some(index) = &self.index else {
            return Err(broken("it does not list its databases"));
        };
        let listed: Vec<&str> = index.databases.iter().map(|database| database.name.as_str()).collect();
        if listed != self.databases {
            return Err(broken("its databases are not those it lists"));
        }
        Ok(())
    }
}

fn broken(what: &str) -> Error {
    Error::new(ErrorKind::Integrity, PG_BUNDLE, format!("not a whole dump of a server: {what}"))
        .with_hint("use another backup")
}
