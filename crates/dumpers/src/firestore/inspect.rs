//! Archives read from end to end.

use async_trait::async_trait;
use backup_core::{
    ByteStream, Context, DumpFormat, Error, ErrorKind, Inspection, Inspector, Plain, Result, Stage,
};

use super::FIRESTORE_NDJSON;
use super::archive::{ArchiveError, Parser};

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
        let mut total = 0;
        loop {
            // Also where the input stalls.
            let next = tokio::select! {
                biased;
                () = cx.cancel().cancelled() => return Err(Error::cancelled(FIRESTORE_NDJSON).at(Stage::Verify)),
                next = bytes.next() => next,
            };
            let Some(chunk) = next.transpose()? else { break };
            parser.push(&chunk, drop).map_err(refuse)?;
            total += chunk.len() as u64;
        }
        let counts = parser.finish().map_err(refuse)?;
        Ok(Inspection { bytes: total, parsed: true, tables: counts.collections.into_keys().collect() })
    }
}
