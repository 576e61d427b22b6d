//! Archives read from end to end.

use async_trait::async_trait;
use backup_core::{
    ByteStream, Context, DumpFormat, Error, ErrorKind, Inspection, Inspector, Plain, Result, Stage,
};

use super::FIRESTORE_NDJSON;
use super::archive::{ArchiveError, Parser};
use crate::inspection::read_to_end;

/// The port's error for an archive that is not whole.
pub(super) fn not_whole(error: ArchiveError) -> Error {
    let kind = match error {
        ArchiveError::Version(_) => ErrorKind::Unsupported,
        _ => ErrorKind::Integrity,
    };
    Error::new(kind, FIRESTORE_NDJSON, format!("not a whole archive: {error}"))
        .with_hint("use another backup")
        .with_source(error)
}

/// Reads `firestore-ndjson` dumps to their end: every line, every value, counts and digest.
#[derive(Debug, Clone, Copy, Default)]
pub struct FirestoreInspector;

#[async_trait]
impl Inspector for FirestoreInspector {
    fn accepts(&self, format: &DumpFormat) -> bool {
        format.as_str() == FIRESTORE_NDJSON
    }

    async fn inspect(
        &self,
        cx: &Context,
        _format: &DumpFormat,
        mut bytes: ByteStream<Plain>,
    ) -> Result<Inspection> {
        let refuse = |error| not_whole(error).at(Stage::Verify);
        let mut parser = Parser::default();
        let total =
            read_to_end(cx, FIRESTORE_NDJSON, &mut bytes, |chunk| parser.push(&chunk, drop).map_err(refuse))
                .await?;
        let counts = parser.finish().map_err(refuse)?;
        Ok(Inspection { bytes: total, parsed: true, tables: counts.collections.into_keys().collect() })
    }
}
