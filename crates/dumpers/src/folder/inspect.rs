//! An archive from end to end.

use std::collections::BTreeSet;

use async_trait::async_trait;
use backup_core::{ByteStream, Context, DumpFormat, Inspection, Inspector, Plain, Result, Stage};

use super::tar::{TarEvent, TarReader};
use super::{FILES_TAR, TarError};
use crate::inspection::read_to_end;

/// The most names that are listed.
const NAMES_MAX: usize = 1000;

/// Reads `files-tar` dumps to their end and lists what lies at their top.
#[derive(Debug, Clone, Copy, Default)]
pub struct TarInspector;

#[async_trait]
impl Inspector for TarInspector {
    fn accepts(&self, format: &DumpFormat) -> bool {
        format.as_str() == FILES_TAR
    }

    async fn inspect(
        &self,
        cx: &Context,
        _format: &DumpFormat,
        mut bytes: ByteStream<Plain>,
    ) -> Result<Inspection> {
        let refuse = |error: TarError| error.at_port().at(Stage::Verify);
        let mut reader = TarReader::new();
        let mut names = BTreeSet::new();
        let total = read_to_end(cx, FILES_TAR, &mut bytes, |mut chunk| {
            while let Some(event) = reader.next(&mut chunk).map_err(refuse)? {
                if let TarEvent::Entry(entry) = event
                    && !entry.path.is_empty()
                    && names.len() < NAMES_MAX
                {
                    let top = entry.path.split(|byte| *byte == b'/').next().unwrap_or_default();
                    names.insert(String::from_utf8_lossy(top).into_owned());
                }
            }
            Ok(())
        })
        .await?;
        reader.finish().map_err(refuse)?;
        Ok(Inspection { bytes: total, parsed: true, tables: names.into_iter().collect() })
    }
}
