//! The beginning of an archive, read before anything is restored.

use backup_core::{ByteStream, Context, Error, Plain, Result, Stage};
use bytes::Bytes;
use futures::StreamExt as _;

use crate::postgres::archive::{ArchiveContents, ArchiveParser};
use crate::postgres::inspect::not_whole;

/// The most bytes of an archive's beginning that are held to read its table of contents.
const HEAD_MAX: usize = 16 * 1024 * 1024;

/// The beginning of an archive, held until its table of contents was read.
pub(super) struct Head {
    /// `None` when it is longer than what is held.
    pub(super) contents: Option<ArchiveContents>,
}

impl Head {
    /// Reads the beginning and gives the whole stream back.
    pub(super) async fn read(
        cx: &Context,
        mut bytes: ByteStream<Plain>,
    ) -> Result<(Self, ByteStream<Plain>)> {
        let mut parser = ArchiveParser::new();
        let mut held: Vec<Bytes> = Vec::new();
        let mut len = 0;
        while parser.contents().is_none() && len < HEAD_MAX {
            let chunk = tokio::select! {
                biased;
                () = cx.cancel().cancelled() => return Err(Error::cancelled("restore").at(Stage::Restore)),
                chunk = bytes.next() => chunk,
            };
            let Some(chunk) = chunk else {
                let contents = parser.finish().map_err(|error| not_whole(error).at(Stage::Restore))?;
                let held = futures::stream::iter(held.into_iter().map(Ok));
                return Ok((Self { contents: Some(contents) }, ByteStream::new(held)));
            };
            let chunk = chunk?;
            parser.push(&chunk).map_err(|error| not_whole(error).at(Stage::Restore))?;
            len += chunk.len();
            held.push(chunk);
        }
        let contents = parser.contents().cloned();
        let held = futures::stream::iter(held.into_iter().map(Ok));
        Ok((Self { contents }, ByteStream::new(held.chain(bytes))))
    }
}
