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
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::error::{SqliteError, companions, plain};
use super::image::{HEADER_LEN, ImageHeader};
use super::{SQLITE_BUNDLE, SQLITE_IMAGE, SqliteConfig};
use crate::command::unaccepted;
use crate::publish::{Draft, blocking, check_new, tidying};

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
        [SQLITE_IMAGE, SQLITE_BUNDLE].contains(&format.as_str())
    }

    async fn plan(&self, _cx: &Context, request: RestoreRequest) -> Result<RestorePlan> {
        let name = self.path.display().to_string();
        if !self.accepts(&request.format) {
            return Err(unaccepted(&name, &request.format));
        }
        if request.format.as_str() == SQLITE_BUNDLE {
            return super::bundle::plan(&self.path, request).await;
        }
        let (this, len, may_exist) = (self.clone(), request.source_len, request.into_existing);
        let (exists, mut steps) = blocking(move || {
            check_new(&this.path, len, may_exist)?;
            let exists = this.path.exists();
            if !exists {
                this.check_companions()?;
            }
            Ok((exists, tidying(&this.path)))
        })
        .await?;
        let last = if exists {
            format!("replace the content of {name} in one transaction")
        } else {
            format!("give it the name {name}")
        };
        steps.extend([
            format!("write the database to a hidden file beside {name}"),
            "check it with PRAGMA quick_check after the verified end of the dump".to_owned(),
            last,
        ]);
        Ok(RestorePlan::looked_at(request, name, steps))
    }

    async fn restore(&self, cx: &Context, plan: RestorePlan, dump: Dump) -> Result<Restored> {
        if plan.request().format.as_str() == SQLITE_BUNDLE {
            let restored = super::bundle::restore(cx, &self.path, dump).await;
            return restored.map_err(|error| error.at(Stage::Restore));
        }
        let facts = dump.report.clone();
        let (draft, bytes) =
            Draft::write(cx, &self.path, dump).await.map_err(|error| error.at(Stage::Restore))?;
        let wal =
            facts.get().is_some_and(|report| report.options.iter().any(|option| option == "journal=wal"));
        let into_existing = plan.request().into_existing;
        let this = self.clone();
        let warnings = blocking(move || {
            let warnings = check(draft.path(), wal).map_err(|error| refused(error, &this.path))?;
            draft.sync()?;
            if into_existing && this.path.exists() {
                this.replace_content(draft.path()).map_err(|error| error.at(&this.path))?;
            } else {
                this.check_companions()?;
                draft.publish()?;
            }
            Ok(warnings)
        })
        .await
        .map_err(|error| error.at(Stage::Restore))?;
        Ok(Restored { target: plan.target().to_owned(), bytes, warnings })
    }
}

impl SqliteRestorer {
    /// One backup transaction over the existing database: other connections see the old content or
    /// the new one.
    fn replace_content(&self, image: &Path) -> Result<(), SqliteError> {
        let source = Connection::open_with_flags(image, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        let mut target = Connection::open_with_flags(plain(&self.path), OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        target.busy_timeout(self.lock_wait)?;
        let page_size = |connection: &Connection| -> rusqlite::Result<u32> {
            connection.pragma_query_value(None, "page_size", |row| row.get(0))
        };
        let mode: String = target.pragma_query_value(None, "journal_mode", |row| row.get(0))?;
        if mode == "wal" && page_size(&source)? != page_size(&target)? {
            return Err(SqliteError::OtherPageSize);
        }
        let backup = Backup::new(&source, &mut target)?;
        match backup.step(-1)? {
            StepResult::Done => Ok(()),
            _ => Err(SqliteError::Locked),
        }
    }
}

/// A refused image whose own bytes can still be had.
fn refused(error: SqliteError, path: &Path) -> Error {
    let damaged = matches!(error, SqliteError::Damaged(_));
    let error = error.at(path);
    if !damaged {
        return error;
    }
    error.with_hint(
        "the database was damaged when it was backed up: use an earlier backup, or restore to file:PATH \
         to get it as it was",
    )
}

/// Compares the image with its own header, lets SQLite check it, and brings its journal mode back.
///
/// The header comes first: SQLite itself takes an empty file for a good, empty database.
///
/// The bytes are the ones that were backed up, whatever is found: rows that break a constraint, or
/// a schema that needs functions of its own program, are told and do not stand in the way.
fn check(image: &Path, wal: bool) -> Result<Vec<String>, SqliteError> {
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
    let warnings = quick_check(&connection)?;
    if wal {
        connection.pragma_update(None, "journal_mode", "wal")?;
    }
    connection.close().map_err(|(_, error)| error)?;
    Ok(warnings)
}

/// What SQLite finds at most so often.
const FINDINGS_MAX: u32 = 20;

/// Damage is an error; what only concerns the content is told.
pub(super) fn quick_check(connection: &Connection) -> Result<Vec<String>, SqliteError> {
    // The schema comes from the image: it gets to run nothing that reaches outside of it.
    connection.execute_batch("PRAGMA trusted_schema=OFF; PRAGMA ignore_check_constraints=ON")?;
    let read = || -> rusqlite::Result<Vec<String>> {
        let mut statement = connection.prepare(&format!("PRAGMA quick_check({FINDINGS_MAX})"))?;
        let findings = statement.query_map([], |row| {
            row.get_ref(0)
                .map(|text| String::from_utf8_lossy(text.as_bytes().unwrap_or_default()).into_owned())
        })?;
        findings.collect()
    };
    let findings = match read() {
        Ok(findings) => findings,
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::Unknown) => {
            return Ok(vec![format!("SQLite alone cannot check this database: {error}")]);
        }
        Err(error) => match SqliteError::from(error) {
            SqliteError::NotADatabase => return Err(SqliteError::Image("it is not a database")),
            other => return Err(other),
        },
    };
    match findings.iter().find(|finding| *finding != "ok" && !is_about_content(finding)) {
        Some(damage) => Err(SqliteError::Damaged(damage.clone())),
        None => Ok(findings.into_iter().filter(|finding| finding != "ok").collect()),
    }
}

/// `NULL value in t.c`, `TEXT value in t.c`, `non-INT value in t.c`: rows that the schema of today
/// would not take, in a sound file.
fn is_about_content(finding: &str) -> bool {
    let kind = finding.split_once(" value in ").map(|(kind, _)| kind);
    kind.is_some_and(|kind| {
        matches!(kind, "NULL" | "NUMERIC" | "TEXT") || kind.starts_with("non-") && !kind.contains(' ')
    })
}
