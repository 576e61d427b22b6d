//! PostgreSQL databases through their own client programs.
//!
//! A dump is `pg_dump --format=custom --compress=0`, streamed. It is restored by `pg_restore` into a
//! database of a temporary name, which gets the target's name only after the verified end of the
//! dump and the program's success.
//!
//! The client programs are those installed here. `pg_dump` must not be older than the server; the
//! same major version is preferred, because only it gives a dump that the same server surely reads.

mod archive;
mod cluster;
mod config;
mod dump;
mod error;
mod inspect;
mod names;
mod parallel;
mod query;
mod restore;
mod settings;
mod statements;
mod tools;

use backup_core::{Error, ErrorKind, Result};

use crate::secret::without_value;

pub use archive::{ArchiveContents, ArchiveError, ArchiveParser};
pub use cluster::{PG_BUNDLE, PostgresClusterDumper, PostgresClusterInspector};
pub use config::{Owners, PostgresConfig};
pub use dump::PostgresDumper;
pub use error::PostgresError;
pub use inspect::PostgresInspector;
pub use parallel::{PG_PARALLEL, ParallelInspector};
pub use restore::PostgresRestorer;
pub use settings::OnBlocked;

/// The name of the format: `pg_dump`'s custom format.
pub const PG_CUSTOM: &str = "postgresql-custom";

/// Refuses arguments that would change where the bytes go, what they are, or whom we talk to.
///
/// Only long options with their value in the same word are taken: a bare word would be a database's
/// name, and a cluster of letters can hide anything.
pub(crate) fn check_extra_args(args: &[String]) -> Result<()> {
    const OWN: [&str; 18] = [
        "file",
        "format",
        "compress",
        "jobs",
        "dbname",
        "host",
        "port",
        "username",
        "password",
        "no-password",
        "encrypt",
        "help",
        "version",
        "list",
        "use-list",
        "create",
        "exit-on-error",
        "single-transaction",
    ];
    for arg in args {
        let name = arg.strip_prefix("--").and_then(|long| long.split('=').next()).unwrap_or_default();
        // The programs take every unambiguous beginning for the whole option.
        if name.is_empty() || OWN.iter().any(|own| own.starts_with(name)) || arg.contains('\0') {
            return Err(Error::new(
                ErrorKind::Config,
                "extra_args",
                format!("{:?} is not allowed", without_value(arg)),
            )
            .with_hint(
                "write long options as --option=value; output, format, jobs and connection are set elsewhere",
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_that_break_the_stream_are_refused() {
        for bad in [
            "-f",
            "-vfx",
            "--file=x",
            "--fi=x",
            "--format=plain",
            "--compress=9",
            "-j4",
            "postgres://u:p@h/d",
            "--dbname=x",
            "--host=x",
            "--",
            "-",
            "",
            "--no-pass",
        ] {
            assert!(check_extra_args(&[bad.to_owned()]).is_err(), "{bad}");
        }
        for good in ["--no-comments", "--schema=a b", "--lock-wait-timeout=10s", "--no-owner"] {
            assert!(check_extra_args(&[good.to_owned()]).is_ok(), "{good}");
        }
    }
}
