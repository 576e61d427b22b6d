//! The beginning of an archive, read before anything is restored.

use std::io::{Read as _, Write as _};

use backup_core::{ByteStream, Context, Error, ErrorKind, Plain, Result, Stage};
use bytes::{Bytes, BytesMut};
use flate2::Compression;
use flate2::read::DeflateDecoder;
use flate2::write::DeflateEncoder;
use futures::StreamExt as _;

use crate::postgres::PG_CUSTOM;
use crate::postgres::archive::{ArchiveContents, ArchiveParser};
use crate::postgres::inspect::not_whole;

/// How much memory a table of contents may take.
const LIMITS: Limits = Limits { plain: 16 << 20, packed: 48 << 20 };
/// Bytes that are packed together.
const BLOCK_LEN: usize = 1 << 20;

/// The beginning of an archive, up to the end of its table of contents.
pub(super) struct Head {
    pub(super) contents: ArchiveContents,
}

/// Bytes of a beginning that are held as they are, and of what follows in packed form. The text of a
/// schema packs to less than a tenth: some 200,000 tables fit.
#[derive(Debug, Clone, Copy)]
struct Limits {
    plain: usize,
    packed: usize,
}

impl Head {
    /// Reads the beginning and gives the whole stream back.
    ///
    /// # Errors
    /// `Integrity` for what is no archive, `Unsupported` for a table of contents that does not fit:
    /// without it the database's encoding, its owner and its settings would be lost.
    pub(super) async fn read(cx: &Context, bytes: ByteStream<Plain>) -> Result<(Self, ByteStream<Plain>)> {
        Self::read_within(cx, bytes, LIMITS).await
    }

    async fn read_within(
        cx: &Context,
        mut bytes: ByteStream<Plain>,
        limits: Limits,
    ) -> Result<(Self, ByteStream<Plain>)> {
        let mut parser = ArchiveParser::new();
        let mut held = Held::new(limits);
        while parser.contents().is_none() {
            let chunk = tokio::select! {
                biased;
                () = cx.cancel().cancelled() => return Err(Error::cancelled("restore").at(Stage::Restore)),
                chunk = bytes.next() => chunk,
            };
            let Some(chunk) = chunk else {
                let contents = parser.finish().map_err(|error| not_whole(error).at(Stage::Restore))?;
                return Ok((Self { contents }, held.again()));
            };
            let chunk = chunk?;
            parser.push(&chunk).map_err(|error| not_whole(error).at(Stage::Restore))?;
            held.push(chunk)?;
        }
        let contents = parser.contents().cloned().unwrap_or_default();
        Ok((Self { contents }, ByteStream::new(held.again().chain(bytes))))
    }
}

/// Bytes that were read and are needed once more.
struct Held {
    limits: Limits,
    plain: Vec<Bytes>,
    plain_len: usize,
    /// What is not packed yet.
    open: BytesMut,
    packed: Vec<Vec<u8>>,
    packed_len: usize,
}

impl Held {
    fn new(limits: Limits) -> Self {
        Self {
            limits,
            plain: Vec::new(),
            plain_len: 0,
            open: BytesMut::new(),
            packed: Vec::new(),
            packed_len: 0,
        }
    }

    fn push(&mut self, chunk: Bytes) -> Result<()> {
        if self.plain_len + chunk.len() <= self.limits.plain && self.open.is_empty() && self.packed.is_empty()
        {
            self.plain_len += chunk.len();
            self.plain.push(chunk);
            return Ok(());
        }
        self.open.extend_from_slice(&chunk);
        while self.open.len() >= BLOCK_LEN {
            let block = self.open.split_to(BLOCK_LEN);
            let block = packed(&block).map_err(|error| Error::bug(format!("packing: {error}")))?;
            self.packed_len += block.len();
            self.packed.push(block);
        }
        if self.packed_len > self.limits.packed {
            let what = "the dump's table of contents is larger than any that can be held in memory";
            return Err(Error::new(ErrorKind::Unsupported, PG_CUSTOM, what)
                .with_hint("write the dump to a file (strongroom open) and restore that with pg_restore")
                .at(Stage::Restore));
        }
        Ok(())
    }

    /// Everything, from the first byte.
    fn again(self) -> ByteStream<Plain> {
        let plain = futures::stream::iter(self.plain.into_iter().map(Ok));
        let packed = futures::stream::iter(self.packed).map(|block| {
            let block = unpacked(&block).map_err(|error| Error::bug(format!("unpacking: {error}")))?;
            Ok(Bytes::from(block))
        });
        let open = (!self.open.is_empty()).then(|| Ok(self.open.freeze()));
        ByteStream::new(plain.chain(packed).chain(futures::stream::iter(open)))
    }
}

fn packed(block: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(block)?;
    encoder.finish().map(|mut packed| {
        packed.shrink_to_fit();
        packed
    })
}

fn unpacked(block: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut whole = Vec::with_capacity(BLOCK_LEN);
    DeflateDecoder::new(block).read_to_end(&mut whole)?;
    Ok(whole)
}

#[cfg(test)]
mod tests {
    use backup_core::testing::collect;

    use super::*;
    use crate::postgres::archive::tests::long;

    const LIMITS: Limits = Limits { plain: 1 << 20, packed: 1 << 20 };

    async fn read(archive: &[u8]) -> Result<(Head, Bytes)> {
        let chunks: Vec<_> = archive.chunks(100_000).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
        let bytes = ByteStream::new(futures::stream::iter(chunks));
        let (head, bytes) = Head::read_within(&Context::new(), bytes, LIMITS).await?;
        Ok((head, collect(bytes).await?))
    }

    #[tokio::test]
    async fn a_long_table_of_contents_is_packed_and_comes_back_as_it_was() {
        let archive = long(40_000, |n| format!("CREATE VIEW v{n} AS SELECT id, name FROM public.t{n};"));
        assert!(archive.len() > 5 * LIMITS.plain);
        let (head, again) = read(&archive).await.unwrap();
        assert!(again == archive, "other bytes come back");
        // What stands first and what stands last is known.
        assert!(head.contents.create_database.is_some_and(|text| text.contains("LATIN1")));
        assert!(head.contents.roles.contains("other"), "{:?}", head.contents.roles);
    }

    #[tokio::test]
    async fn one_that_does_not_fit_is_an_error_and_not_forgotten() {
        let mut seed = 1_u64;
        let random = std::iter::repeat_with(|| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            format!("{seed:016x}")
        });
        let noise: String = random.take(400_000).collect();
        let archive = long(40, |n| {
            noise[usize::try_from(n).unwrap() * noise.len() / 40..][..noise.len() / 40].to_owned()
        });
        let error = read(&archive).await.map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.hint().unwrap().contains("pg_restore"), "{error}");
    }
}
