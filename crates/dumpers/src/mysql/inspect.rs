//! Dumps checked on their way, and from end to end.

use async_trait::async_trait;
use backup_core::{
    ByteStream, Context, DumpFormat, Error, ErrorKind, Event, Inspection, Inspector, Plain, Result, Stage,
};

use super::script::{Script, ScriptError};
use super::{MARIADB_SQL, MYSQL_SQL};
use crate::inspection::read_to_end;

/// The port's error for a text that is no whole dump.
pub(super) fn not_whole(error: ScriptError) -> Error {
    Error::new(ErrorKind::Integrity, "SQL dump", format!("not a whole dump: {error}"))
        .with_hint("use another backup")
        .with_source(error)
}

/// Tells the progress of a run each table whose rows begin.
#[derive(Debug)]
pub(super) struct Told {
    cx: Context,
    told: Option<(String, String)>,
}

impl Told {
    pub(super) fn new(cx: &Context) -> Self {
        Self { cx: cx.clone(), told: None }
    }

    /// Gives the table whose rows ended, when another or none has begun.
    pub(super) fn look(&mut self, script: &Script) -> Option<(String, String)> {
        let table = script.table();
        if table == self.told.as_ref() {
            return None;
        }
        if let Some((database, name)) = table {
            self.cx.report(Event::Table(&super::names::qualified(database, name)));
        }
        std::mem::replace(&mut self.told, table.cloned())
    }
}

/// Reads `mariadb-sql` and `mysql-sql` dumps to their end and lists their tables.
#[derive(Debug, Clone, Copy, Default)]
pub struct MysqlInspector;

#[async_trait]
impl Inspector for MysqlInspector {
    fn accepts(&self, format: &DumpFormat) -> bool {
        [MARIADB_SQL, MYSQL_SQL].contains(&format.as_str())
    }

    async fn inspect(
        &self,
        cx: &Context,
        format: &DumpFormat,
        mut bytes: ByteStream<Plain>,
    ) -> Result<Inspection> {
        let refuse = |error| not_whole(error).at(Stage::Verify);
        let mut script = Script::new();
        let total = read_to_end(cx, format.as_str(), &mut bytes, |chunk| {
            script.push(&chunk, |_, _, _, _| Ok::<_, ScriptError>(())).map_err(refuse)
        })
        .await?;
        let contents = script.finish().map_err(refuse)?;
        Ok(Inspection { bytes: total, parsed: true, tables: contents.tables })
    }
}
