//! Archives checked on their way, and from end to end.

use async_trait::async_trait;
use backup_core::{
    ByteStream, Context, DumpFormat, Error, ErrorKind, Event, Inspection, Inspector, Plain, Result, Stage,
};

use super::PG_CUSTOM;
use super::archive::{ArchiveContents, ArchiveError, ArchiveParser};
use crate::inspection::read_to_end;

/// The same bytes, with a clean end only where the archive ends: damage goes through `refuse`,
/// `at_end` is told the contents just before the clean end.
///
/// The progress of the run is told each table whose data begins.
pub(super) fn parsed(
    cx: &Context,
    bytes: ByteStream<Plain>,
    refuse: impl Fn(ArchiveError) -> Error + Send + 'static,
    at_end: impl FnOnce(ArchiveContents) + Send + 'static,
) -> ByteStream<Plain> {
    let parser = Tables { parser: ArchiveParser::new(), cx: cx.clone(), told: None };
    let state = Some((bytes, parser, refuse, at_end));
    ByteStream::new(futures::stream::unfold(state, async |state| {
        let (mut bytes, mut parser, refuse, at_end) = state?;
        match bytes.next().await {
            Some(Ok(chunk)) => match parser.push(&chunk) {
                Ok(()) => Some((Ok(chunk), Some((bytes, parser, refuse, at_end)))),
                Err(error) => Some((Err(refuse(error)), None)),
            },
            Some(Err(error)) => Some((Err(error), None)),
            None => match parser.parser.finish() {
                Ok(contents) => {
                    at_end(contents);
                    None
                }
                Err(error) => Some((Err(refuse(error)), None)),
            },
        }
    }))
}

/// A parser that tells where it is.
struct Tables {
    parser: ArchiveParser,
    cx: Context,
    told: Option<String>,
}

impl Tables {
    fn push(&mut self, chunk: &[u8]) -> Result<(), ArchiveError> {
        self.parser.push(chunk)?;
        let table = self.parser.current_table();
        if let Some(table) = table.filter(|table| self.told.as_deref() != Some(table)) {
            self.cx.report(Event::Table(table));
            self.told = Some(table.to_owned());
        }
        Ok(())
    }
}

/// The port's error for an archive that is not whole.
pub(super) fn not_whole(error: ArchiveError) -> Error {
    let kind = match error {
        ArchiveError::Version(..) => ErrorKind::Unsupported,
        _ => ErrorKind::Integrity,
    };
    Error::new(kind, PG_CUSTOM, format!("not a whole PostgreSQL archive: {error}"))
        .with_hint("use another backup")
        .with_source(error)
}

/// Reads `postgresql-custom` dumps to their end and lists their tables.
#[derive(Debug, Clone, Copy, Default)]
pub struct PostgresInspector;

#[async_trait]
impl Inspector for PostgresInspector {
    fn accepts(&self, format: &DumpFormat) -> bool {
        format.as_str() == PG_CUSTOM
    }

    async fn inspect(
        &self,
        cx: &Context,
        _format: &DumpFormat,
        mut bytes: ByteStream<Plain>,
    ) -> Result<Inspection> {
        let refuse = |error| not_whole(error).at(Stage::Verify);
        let mut parser = ArchiveParser::new();
        let total =
            read_to_end(cx, PG_CUSTOM, &mut bytes, |chunk| parser.push(&chunk).map_err(refuse)).await?;
        let contents = parser.finish().map_err(refuse)?;
        Ok(Inspection { bytes: total, parsed: true, tables: contents.tables })
    }
}
