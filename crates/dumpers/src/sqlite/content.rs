//! Whether the pages of an image are a sound database, which only SQLite can tell, and only of all
//! of them at once.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use super::error::{SqliteError, plain};
use super::image::ImageHeader;
use super::restore::quick_check;

/// Images up to this many bytes are looked at in memory, where they are held twice for a moment.
const MEMORY_MAX: u64 = 24 * 1024 * 1024;

/// The pages of one image on their way to SQLite.
#[derive(Debug)]
pub(super) enum Content {
    /// All of them, for a small image.
    Memory(Vec<u8>),
    /// In a file that has no name any more, with the connection that will read it.
    File(File, Connection),
    /// Nowhere: too many for memory, and nobody allowed a file.
    Passed,
}

impl Content {
    /// Chooses where the pages go. In `scratch` they are plaintext on a disk, in a file without a name
    /// that ends with this value or the process.
    pub(super) fn new(header: &ImageHeader, scratch: Option<&Path>) -> Result<Self, SqliteError> {
        match scratch {
            _ if header.image_len() <= MEMORY_MAX => Ok(Self::Memory(Vec::new())),
            Some(folder) => Self::in_folder(folder),
            None => Ok(Self::Passed),
        }
    }

    fn in_folder(folder: &Path) -> Result<Self, SqliteError> {
        let refused = |error: std::io::Error| SqliteError::Scratch(format!("{}: {error}", folder.display()));
        let path = plain(&folder.join(format!(".strongroom-{}.check", uuid::Uuid::new_v4())));
        let file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(refused)?;
        // Opened while it still has its name; SQLite reads nothing before it is asked, and looks at the
        // length again then.
        let opened = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY);
        std::fs::remove_file(&path).map_err(refused)?;
        Ok(Self::File(file, opened?))
    }

    /// Takes the next bytes of the image.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<(), SqliteError> {
        match self {
            Self::Memory(image) => image.extend_from_slice(bytes),
            // Blocking, as a disk is: whoever asks for this check waits for nothing else.
            Self::File(file, _) => {
                file.write_all(bytes).map_err(|error| SqliteError::Scratch(error.to_string()))?;
            }
            Self::Passed => {}
        }
        Ok(())
    }

    /// After the last byte: whether SQLite looked at the pages, of which there are so many.
    ///
    /// # Errors
    /// `Damaged` and `Image` as after a restore.
    pub(super) fn check(self, pages: u32) -> Result<bool, SqliteError> {
        let connection = match self {
            Self::Memory(image) => {
                let mut connection = Connection::open_in_memory()?;
                connection.deserialize_read_exact("main", &image[..], image.len(), true)?;
                connection
            }
            Self::File(file, connection) => {
                drop(file);
                connection
            }
            Self::Passed => return Ok(false),
        };
        quick_check(&connection)?;
        // An empty database would be sound, too.
        let seen: u32 = connection.pragma_query_value(None, "page_count", |row| row.get(0))?;
        if seen == pages {
            Ok(true)
        } else {
            Err(SqliteError::Damaged(format!("SQLite sees {seen} of its {pages} pages")))
        }
    }
}
