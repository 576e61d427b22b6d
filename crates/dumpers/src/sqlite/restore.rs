//! Restoring an image: written beside the target, checked by SQLite, published.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use backup_core::{
    Context, Dump, DumpFormat, Error, ErrorKind, RestorePlan, RestoreRequest, Restored, Restorer, Result,
    Stage,
};
use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};

use super::error::{SqliteError, companions};
use super::image::{HEADER_LEN, ImageHeader};
use super::{SQLITE_IMAGE, SqliteConfig};
use crate::command::unaccepted;
use crate::publish::{Draft, blocking, check_new};

/// Restores into a new file, or by SQLite's own backup transaction over an existing database.
#[derive(Debug, Clone)]
pub struct SqliteRestorer {
    path: PathBuf,
    lock_wait: Duration,
}

impl SqliteRestorer {
    /// The database file that will exist.
    #[must_use]
    pub fn new(config: &SqliteConfig) -> Self {
        Self { path: config.path.clone(), lock_wait: Duration::from_secs(config.lock_seconds.unwrap_or(30)) }
    }

    /// A free name needs free companions too: SQLite would roll a stale journal back into the new
    /// file.
    fn check_companions(&self) -> Result<()> {
        match companions(&self.path).into_iter().find(|path| path.symlink_metadata().is_ok()) {
            None => Ok(()),
            Some(stale) => {
                let what = "belongs to a database that is gone, and would be applied to the restored one";
                Err(Error::new(ErrorKind::Conflict, stale.display().to_string(), what)
                    .at(Stage::Restore)
                    .with_hint("remove it, or restore to another name"))
            }
        }
    }
}

#[async_trait]
impl Restorer for SqliteRestorer {
    fn accepts(&self, format: &DumpFormat) -> bool {
        format.as_str() == SQLITE_IMAGE
    }

    async fn plan(&self, _cx: &Context, request: RestoreRequest) -> Result<RestorePlan> {
        let name = self.path.display().to_string();
        if !self.accepts(&request.format) {
            return Err(unaccepted(&name, &request.format));
        }
        let (this, len, may_exist) = (self.clone(), request.source_len, request.into_existing);
        let exists = blocking(move || {
            check_new(&this.path, len, may_exist)?;
            let exists = this.path.exists();
            if !exists {
                this.check_companions()?;
            }
            Ok(exists)
        })
        .await?;
        let last = if exists {
            format!("replace the content of {name} in one transaction")
        } else {
            format!("give it the name {name}")
        };
        let steps = vec![
            format!("write the database to a hidden file beside {name}"),
            "check it with PRAGMA quick_check after the verified end of the dump".to_owned(),
            last,
        ];
        Ok(RestorePlan::looked_at(request, name, steps))
    }

    async fn restore(&self, cx: &Context, plan: RestorePlan, dump: Dump) -> Result<Restored> {
        let facts = dump.report.clone();
        let (draft, bytes) =
            Draft::write(cx, &self.path, dump).await.map_err(|error| error.at(Stage::Restore))?;
        let wal =
            facts.get().is_some_and(|report| report.options.iter().any(|option| option == "journal=wal"));
        let into_existing = plan.request().into_existing;
        let this = self.clone();
        blocking(move || {
            check(draft.path(), wal).map_err(|error| error.at(&this.path))?;
            draft.sync()?;
            if into_existing && this.path.exists() {
                this.replace_content(draft.path()).map_err(|error| error.at(&this.path))
            } else {
                this.check_companions()?;
                draft.publish()
            }
        })
        .await
        .map_err(|error| error.at(Stage::Restore))?;
        Ok(Restored { target: plan.target().to_owned(), bytes, warnings: Vec::new() })
    }
}

impl SqliteRestorer {
    /// One backup transaction over the existing database: other connections see the old content or
    /// the new one.
    fn replace_content(&self, image: &Path) -> Result<(), SqliteError> {
        let source = Connection::open_with_flags(image, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        let mut target = Connection::open_with_flags(&self.path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        target.busy_timeout(self.lock_wait)?;
        let backup = Backup::new(&source, &mut target)?;
        match backup.step(-1)? {
            StepResult::Done => Ok(()),
            _ => Err(SqliteError::Locked),
        }
    }
}

/// Compares the image with its own header, lets SQLite check it, and brings its journal mode back.
///
/// The header comes first: SQLite itself takes an empty file for a good, empty database.
fn check(image: &Path, wal: bool) -> Result<(), SqliteError> {
    let mut file = File::open(image).map_err(|error| SqliteError::Refused(error.to_string()))?;
    let mut header = [0; HEADER_LEN];
    file.read_exact(&mut header).map_err(|_| SqliteError::Image("it ends within its header"))?;
    let len = file.metadata().map_err(|error| SqliteError::Refused(error.to_string()))?.len();
    // Closed before SQLite opens the file: closing a file of one's own would release SQLite's locks.
    drop(file);
    if ImageHeader::read(&header)?.image_len() != len {
        return Err(SqliteError::Image("its length is not what its header says"));
    }
    let connection = Connection::open_with_flags(image, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    let verdict: String = match connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)) {
        Ok(verdict) => verdict,
        Err(error) => match SqliteError::from(error) {
            SqliteError::NotADatabase => return Err(SqliteError::Image("it is not a database")),
            other => return Err(other),
        },
    };
    if verdict != "ok" {
        return Err(SqliteError::Damaged(verdict));
    }
    if wal {
        connection.pragma_update(None, "journal_mode", "wal")?;
    }
    connection.close().map_err(|(_, error)| error.into())
}
