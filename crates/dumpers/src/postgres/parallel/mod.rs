//! Several connections on one snapshot, several tables at a time.
//!
//! One session takes a snapshot, exports it and locks the tables; it stays open to the end. `pg_dump`
//! gives the schema in its two sections, at that snapshot. Several more sessions write the rows, large
//! tables in ranges of pages, all at that snapshot. Everything goes into one bundle (`docs/bundle.md`),
//! whose data members alternate:
//!
//! 1. `pre-data`: a custom archive of what must exist before the rows;
//! 2. `data/...`: rows in COPY's text format, and `large-objects`: a custom archive of those;
//! 3. `sequences`: statements that set them;
//! 4. `post-data`: a custom archive of indexes, constraints, triggers;
//! 5. `contents`: JSON with the number of rows of each data member.
//!
//! A range whose connection is lost is abandoned and begins again at the same snapshot. The snapshot's
//! own session is asked every few seconds and before the end; without it the dump fails.

pub(super) mod contents;
mod copy;
mod dump;
pub(super) mod incoming;
mod inspect;
pub(super) mod load;
mod ranges;
mod reader;
pub(super) mod session;
pub(super) mod snapshot;
mod start;
mod toc;
mod wire;

use backup_core::{Error, ErrorKind, Result};

use super::config::PostgresConfig;
use crate::secret::without_value;

pub use inspect::ParallelInspector;

/// The name of the format: a bundle of schema and rows.
pub const PG_PARALLEL: &str = "postgresql-parallel";
/// The most connections that a dump uses for rows: each holds about 2 MiB.
pub(super) const JOBS_MAX: u32 = 16;

/// Rows in COPY's text format.
pub(super) const DATA_FORMAT: &str = "postgresql-copy";
/// Statements, UTF-8.
const SQL_FORMAT: &str = "sql";
/// JSON.
const CONTENTS_FORMAT: &str = "postgresql-parallel-contents";

/// What must exist before the rows.
pub(super) const PRE_DATA: &str = "pre-data";
/// Large objects.
pub(super) const OBJECTS: &str = "large-objects";
/// Values of sequences.
pub(super) const SEQUENCES: &str = "sequences";
/// What is built over the rows.
pub(super) const POST_DATA: &str = "post-data";
/// Rows by member.
pub(super) const CONTENTS: &str = "contents";

/// The table of a data member, for people.
const META_TABLE: &str = "table";
/// Its pages, for people; absent where the member holds the whole table.
const META_PAGES: &str = "pages";
/// The statement that reads the rows back, to be run with `client_encoding` UTF8.
const META_RESTORE: &str = "restore";

/// How many connections read rows, if the settings fit together.
///
/// # Errors
/// `Config` for a number out of bounds, and for arguments that a dump over several connections does
/// not obey.
pub(super) fn jobs(config: &PostgresConfig) -> Result<u32> {
    let jobs = config.jobs.unwrap_or(1);
    if !(1..=JOBS_MAX).contains(&jobs) {
        return Err(Error::new(ErrorKind::Config, "jobs", format!("{jobs} is not between 1 and {JOBS_MAX}"))
            .with_hint("use as many as the server has cores to spare"));
    }
    if jobs > 1 {
        for arg in &config.extra_args {
            check_arg(arg)?;
        }
    }
    Ok(jobs)
}

/// Arguments that choose what is dumped are `pg_dump`'s business; those that change how rows or
/// sections are written would change a part of the dump only.
fn check_arg(arg: &str) -> Result<()> {
    const OTHERS: [&str; 21] = [
        "attribute-inserts",
        "column-inserts",
        "inserts",
        "rows-per-insert",
        "on-conflict-do-nothing",
        "disable-triggers",
        "enable-row-security",
        "encoding",
        "section",
        "snapshot",
        "data-only",
        "schema-only",
        "statistics",
        "statistics-only",
        "sequence-data",
        "serializable-deferrable",
        "role",
        "lock-wait-timeout",
        "binary-upgrade",
        "no-data",
        "no-schema",
    ];
    let name = arg.strip_prefix("--").and_then(|long| long.split('=').next()).unwrap_or_default();
    // The programs take every unambiguous beginning for the whole option; this one is whole.
    if name != "schema" && OTHERS.iter().any(|other| other.starts_with(name)) {
        let what = format!("{:?} does not go together with jobs", without_value(arg));
        return Err(Error::new(ErrorKind::Config, "extra_args", what)
            .with_hint("leave it out, or leave jobs out for this source"));
    }
    Ok(())
}
