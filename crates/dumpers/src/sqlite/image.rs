//! The database image: its header (file format, section 1.3) and a check of a whole one.

use async_trait::async_trait;
use backup_core::{ByteStream, Context, DumpFormat, Inspection, Inspector, Plain, Result, Stage};
use std::path::Path;

use super::SQLITE_IMAGE;
use super::error::SqliteError;
use crate::inspection::read_to_end;

const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// The length of the header.
pub(super) const HEADER_LEN: usize = 100;

/// What the first 100 bytes of an image say of the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageHeader {
    /// Bytes of a page: a power of two, 512 to 65,536.
    pub page_size: u32,
    /// Pages of the image.
    pub page_count: u32,
}

impl ImageHeader {
    /// Reads the header of an image in which the stored page count is valid, as in every dump made
    /// here.
    ///
    /// # Errors
    /// [`SqliteError::Image`] for anything else.
    pub fn read(header: &[u8; 100]) -> Result<Self, SqliteError> {
        if &header[..16] != MAGIC {
            return Err(SqliteError::Image("it does not begin like a SQLite database"));
        }
        let page_size = match u32::from(header[16]) << 8 | u32::from(header[17]) {
            1 => 65_536,
            size if size >= 512 && size.is_power_of_two() => size,
            _ => return Err(SqliteError::Image("its page size is impossible")),
        };
        if !matches!((header[18], header[19]), (1 | 2, 1 | 2)) {
            return Err(SqliteError::Image("its file format version is unknown"));
        }
        let page_count = u32_at(header, 28);
        if page_count == 0 || u32_at(header, 24) != u32_at(header, 92) {
            return Err(SqliteError::Image("its page count is not valid"));
        }
        Ok(Self { page_size, page_count })
    }

    /// Bytes of the whole image.
    #[must_use]
    pub fn image_len(&self) -> u64 {
        u64::from(self.page_size) * u64::from(self.page_count)
    }

    /// Makes the first page that of a self-contained image of `page_count` pages: the count is
    /// stored and marked valid, and the file opens without a write-ahead log beside it.
    pub(super) fn complete(first_page: &mut [u8], page_count: u32) {
        first_page[18] = 1;
        first_page[19] = 1;
        first_page[28..32].copy_from_slice(&page_count.to_be_bytes());
        let change_counter = [first_page[24], first_page[25], first_page[26], first_page[27]];
        first_page[92..96].copy_from_slice(&change_counter);
    }
}

fn u32_at(bytes: &[u8; HEADER_LEN], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Checks that a `sqlite-image` dump begins with a header and is exactly as long as that says.
#[derive(Debug, Clone, Copy, Default)]
pub struct SqliteInspector;

#[async_trait]
impl Inspector for SqliteInspector {
    fn accepts(&self, format: &DumpFormat) -> bool {
        format.as_str() == SQLITE_IMAGE
    }

    async fn inspect(
        &self,
        cx: &Context,
        _format: &DumpFormat,
        mut bytes: ByteStream<Plain>,
    ) -> Result<Inspection> {
        let refuse = |what| SqliteError::Image(what).at(Path::new(SQLITE_IMAGE)).at(Stage::Verify);
        let mut head = [0; HEADER_LEN];
        let mut filled = 0;
        let mut header = None;
        let mut total = 0_u64;
        read_to_end(cx, SQLITE_IMAGE, &mut bytes, |chunk| {
            let take = chunk.len().min(HEADER_LEN - filled);
            head[filled..filled + take].copy_from_slice(&chunk[..take]);
            filled += take;
            if filled == HEADER_LEN && header.is_none() {
                let read = ImageHeader::read(&head);
                header = Some(read.map_err(|error| error.at(Path::new(SQLITE_IMAGE)).at(Stage::Verify))?);
            }
            total += chunk.len() as u64;
            if header.is_some_and(|header: ImageHeader| total > header.image_len()) {
                return Err(refuse("it is longer than its header says"));
            }
            Ok(())
        })
        .await?;
        match header {
            None => Err(refuse("it ends within its header")),
            Some(header) if total != header.image_len() => Err(refuse("it is shorter than its header says")),
            Some(_) => Ok(Inspection { bytes: total, parsed: true, tables: Vec::new() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use backup_core::ErrorKind;
    use bytes::Bytes;

    use super::*;

    fn image() -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        let db = rusqlite::Connection::open(&path).unwrap();
        db.execute_batch("CREATE TABLE t (a); INSERT INTO t VALUES (1)").unwrap();
        drop(db);
        std::fs::read(path).unwrap()
    }

    async fn inspect(image: Vec<u8>, chunk: usize) -> Result<Inspection> {
        let chunks: Vec<_> = image.chunks(chunk).map(|part| Ok(Bytes::copy_from_slice(part))).collect();
        let bytes = ByteStream::new(futures::stream::iter(chunks));
        SqliteInspector.inspect(&Context::new(), &DumpFormat::new(SQLITE_IMAGE), bytes).await
    }

    #[tokio::test]
    async fn a_whole_image_passes_in_any_chunks() {
        let image = image();
        for chunk in [1, 7, 99, 100, 101, 4096, 1 << 20] {
            let seen = inspect(image.clone(), chunk).await.unwrap();
            assert!(seen.parsed);
            assert_eq!(seen.bytes, image.len() as u64);
        }
    }

    #[tokio::test]
    async fn every_other_length_and_header_is_refused() {
        let image = image();
        for len in [0, 1, 99, 100, 4096, image.len() - 1] {
            let error = inspect(image[..len].to_vec(), 512).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Integrity, "{len}");
        }
        let mut longer = image.clone();
        longer.push(0);
        assert!(inspect(longer, 512).await.is_err());
        for (at, value) in [(0, b'T'), (16, 3), (18, 9), (31, 9), (27, 200)] {
            let mut broken = image.clone();
            broken[at] = value;
            assert_eq!(inspect(broken, 512).await.unwrap_err().kind(), ErrorKind::Integrity, "byte {at}");
        }
    }
}
