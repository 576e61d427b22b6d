//! Dumps checked on their way, and from end to end.

use async_trait::async_trait;
use backup_core::{
    ByteStream, Context, DumpFormat, Error, ErrorKind, Inspection, Inspector, Plain, Result, Stage,
};

use super::super::REDIS_RDB;
use super::{RdbContents, RdbError, RdbParser};
use crate::inspection::read_to_end;

impl RdbContents {
    /// The databases with their keys, for a person.
    #[must_use]
    pub fn describe(&self) -> Vec<String> {
        let lines = self.databases.iter().map(|(number, counts)| {
            let (keys, expiring) = (counts.keys, counts.expiring);
            format!("db{number}: {keys} keys, {expiring} of them with a time to live")
        });
        lines.collect()
    }

    /// What a person should know of this dump.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if !self.modules.is_empty() {
            let names: Vec<&str> = self.modules.iter().map(String::as_str).collect();
            warnings.push(format!(
                "the dump holds data of modules ({}), which only a server with these modules can take",
                names.join(", ")
            ));
        }
        if !self.checksum {
            warnings.push(
                "the server wrote no checksum (rdbchecksum no): the structure of the dump was checked, and its \
                 values on their way from the server were not"
                    .to_owned(),
            );
        }
        warnings
    }
}

/// The port's error for a dump that is not whole.
pub(in crate::redis) fn not_whole(error: RdbError) -> Error {
    let (kind, hint) = if matches!(error, RdbError::TooLarge { .. }) {
        (
            ErrorKind::Unsupported,
            "pass --set memory_limit=BYTES (up to 536870896, and have as much memory), or restore it to file:PATH",
        )
    } else if error.is_unsupported() {
        (ErrorKind::Unsupported, "read it with a newer version of this program, or restore it to file:PATH")
    } else {
        (ErrorKind::Integrity, "use another backup")
    };
    let what = match error {
        RdbError::TooLarge { .. } => error.to_string(),
        _ => format!("not a whole RDB dump: {error}"),
    };
    Error::new(kind, REDIS_RDB, what).with_hint(hint).with_source(error)
}

/// Reads `redis-rdb` dumps to their end and lists their databases.
#[derive(Debug, Clone, Copy, Default)]
pub struct RdbInspector;

#[async_trait]
impl Inspector for RdbInspector {
    fn accepts(&self, format: &DumpFormat) -> bool {
        format.as_str() == REDIS_RDB
    }

    async fn inspect(
        &self,
        cx: &Context,
        _format: &DumpFormat,
        mut bytes: ByteStream<Plain>,
    ) -> Result<Inspection> {
        let refuse = |error| not_whole(error).at(Stage::Verify);
        let mut parser = RdbParser::new();
        let total =
            read_to_end(cx, REDIS_RDB, &mut bytes, |chunk| parser.push(&chunk).map_err(refuse)).await?;
        let contents = parser.finish().map_err(refuse)?;
        Ok(Inspection { bytes: total, parsed: true, tables: contents.describe() })
    }
}
