//! Archives checked from end to end.

use async_trait::async_trait;
use backup_core::{ByteStream, Context, DumpFormat, Inspection, Inspector, Plain, Result, Stage};

use super::MONGODB_ARCHIVE;
use super::archive::{ArchiveError, ArchiveParser};
use super::error::MongoError;
use crate::inspection::read_to_end;

/// Reads `mongodb-archive` dumps to their end: every length, every name, every checksum.
#[derive(Debug, Clone, Copy, Default)]
pub struct MongoInspector;

#[async_trait]
impl Inspector for MongoInspector {
    fn accepts(&self, format: &DumpFormat) -> bool {
        format.as_str() == MONGODB_ARCHIVE
    }

    async fn inspect(
        &self,
        cx: &Context,
        _format: &DumpFormat,
        mut bytes: ByteStream<Plain>,
    ) -> Result<Inspection> {
        let refuse = |error: ArchiveError| MongoError::from(error).about(MONGODB_ARCHIVE).at(Stage::Verify);
        let mut parser = ArchiveParser::new();
        read_to_end(cx, MONGODB_ARCHIVE, &mut bytes, |chunk| {
            parser.push(&chunk);
            while parser.next_item().map_err(refuse)?.is_some() {}
            Ok(())
        })
        .await?;
        let contents = parser.finish().map_err(refuse)?;
        let entries = contents.prelude.entries.iter().zip(&contents.counts);
        let tables = entries
            .filter(|(entry, (documents, _))| *documents > 0 && !entry.namespace.is_oplog())
            .map(|(entry, _)| entry.namespace.to_string())
            .collect();
        Ok(Inspection { bytes: contents.bytes, parsed: true, tables })
    }
}
