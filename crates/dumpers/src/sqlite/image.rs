//! The database image: its header (file format, section 1.3) and a check of a whole one.

use async_trait::async_trait;
use backup_core::{ByteStream, Context, DumpFormat, Inspection, Inspector, Plain, Result, Stage};
use std::path::{Path, PathBuf};

use super::SQLITE_IMAGE;
use super::content::Content;
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

/// Checks that a `sqlite-image` dump is exactly as long as its header says, and that SQLite finds its
/// pages sound (`PRAGMA quick_check`).
///
/// For the second, SQLite needs all pages at once: an image up to 24 MiB is looked at in memory, a
/// larger one in a file without a name in the scratch folder. Where there is none, its pages are only
/// counted, and [`Inspection::parsed`] is false.
#[derive(Debug, Clone, Default)]
pub struct SqliteInspector {
    scratch: Option<PathBuf>,
}

impl SqliteInspector {
    /// Large images are written to this folder, as plaintext, and are gone afterwards.
    #[must_use]
    pub fn with_scratch(folder: Option<&Path>) -> Self {
        Self { scratch: folder.map(Path::to_owned) }
    }
}

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
        let at = |error: SqliteError| error.at(Path::new(SQLITE_IMAGE)).at(Stage::Verify);
        let refuse = |what| at(SqliteError::Image(what));
        let mut head = Vec::with_capacity(HEADER_LEN);
        let mut begun: Option<(ImageHeader, Content)> = None;
        let mut total = 0_u64;
        read_to_end(cx, SQLITE_IMAGE, &mut bytes, |mut chunk| {
            total += chunk.len() as u64;
            if begun.is_none() {
                let missing = chunk.len().min(HEADER_LEN - head.len());
                head.extend_from_slice(&chunk.split_to(missing));
                let Ok(read) = head.as_slice().try_into() else { return Ok(()) };
                let header = ImageHeader::read(read).map_err(at)?;
                let mut content = Content::new(&header, self.scratch.as_deref()).map_err(at)?;
                content.push(&head).map_err(at)?;
                begun = Some((header, content));
            }
            match &mut begun {
                Some((header, _)) if total > header.image_len() => {
                    Err(refuse("it is longer than its header says"))
                }
                Some((_, content)) => content.push(&chunk).map_err(at),
                None => Ok(()),
            }
        })
        .await?;
        match begun {
            None => Err(refuse("it ends within its header")),
            Some((header, _)) if total != header.image_len() => {
                Err(refuse("it is shorter than its header says"))
            }
            Some((header, content)) => {
                let pages = header.page_count;
                let parsed = crate::publish::blocking(move || content.check(pages).map_err(at)).await?;
                Ok(Inspection { bytes: total, parsed, tables: Vec::new() })
            }
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
        SqliteInspector::default().inspect(&Context::new(), &DumpFormat::new(SQLITE_IMAGE), bytes).await
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

    /// A database whose pages but the first are overwritten, of at least so many bytes.
    fn ruin(bytes: u32) -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        let db = rusqlite::Connection::open(&path).unwrap();
        db.execute_batch("CREATE TABLE t (a)").unwrap();
        db.execute("INSERT INTO t VALUES (zeroblob(?1))", [bytes]).unwrap();
        drop(db);
        let mut image = std::fs::read(path).unwrap();
        image[4096..].fill(0xff);
        image
    }

    #[tokio::test]
    async fn pages_that_are_no_database_are_refused_however_many() {
        let folder = tempfile::tempdir().unwrap();
        let format = DumpFormat::new(SQLITE_IMAGE);
        for (scratch, bytes) in [(None, 100_000), (Some(folder.path()), 30_000_000)] {
            let inspector = SqliteInspector::with_scratch(scratch);
            let dump = ByteStream::once(ruin(bytes));
            let error = inspector.inspect(&Context::new(), &format, dump).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Integrity, "{error}");
            assert!(error.what().contains("damaged"), "{error}");
        }
        let without = inspect(ruin(30_000_000), 1 << 20).await.unwrap();
        assert!(!without.parsed, "nobody looked at it");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "the file has no name any more");
    }

    #[tokio::test]
    async fn a_large_sound_image_is_looked_into_in_the_scratch_folder() {
        let folder = tempfile::tempdir().unwrap();
        // Letters that mean something in a URI.
        let folder = folder.path().join("a ?b#c%20");
        std::fs::create_dir(&folder).unwrap();
        let path = folder.join("a.db");
        let db = rusqlite::Connection::open(&path).unwrap();
        db.execute_batch("CREATE TABLE t (a); INSERT INTO t VALUES (zeroblob(30000000))").unwrap();
        drop(db);
        let dump = ByteStream::once(std::fs::read(&path).unwrap());
        let inspector = SqliteInspector::with_scratch(Some(&folder));
        let seen = inspector.inspect(&Context::new(), &DumpFormat::new(SQLITE_IMAGE), dump).await.unwrap();
        assert!(seen.parsed);
        let missing = SqliteInspector::with_scratch(Some(&folder.join("none")));
        let dump = ByteStream::once(std::fs::read(&path).unwrap());
        let error = missing.inspect(&Context::new(), &DumpFormat::new(SQLITE_IMAGE), dump).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    }
}
