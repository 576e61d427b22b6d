//! MySQL and MariaDB servers through their own client programs.
//!
//! A dump is the text of `mariadb-dump` or `mysqldump` in one transaction, streamed and read on its
//! way: it ends cleanly only after the line that the program writes last, with exit status 0, and
//! while every table kept its form until its rows were read. It is restored by `mariadb` or `mysql`
//! into databases of temporary names; tables are moved to the target, and views, triggers, routines
//! and events made there, only after the verified end of the dump.
//!
//! Passwords and selections reach the programs by an option file in memory, nothing by argument.

mod accounts;
mod charsets;
mod config;
mod dump;
mod error;
mod grants;
mod inspect;
mod look;
mod names;
mod option_file;
mod query;
mod restore;
mod script;
mod tools;
mod watch;

use backup_core::{Error, ErrorKind, Result};

use crate::secret::without_value;

pub use config::{Definers, MysqlConfig};
pub use dump::MysqlDumper;
pub use error::MysqlError;
pub use inspect::MysqlInspector;
pub use restore::MysqlRestorer;
pub use script::{ScriptContents, ScriptError};

/// The name of the format: the text of MariaDB's `mariadb-dump`.
pub const MARIADB_SQL: &str = "mariadb-sql";
/// The name of the format: the text of MySQL's `mysqldump`.
pub const MYSQL_SQL: &str = "mysql-sql";

/// Refuses arguments that would change where the bytes go, what they are, or whom we talk to.
///
/// Only long options with their value in the same word are taken: a bare word would be a database's
/// name, and a cluster of letters can hide anything.
pub(crate) fn check_extra_args(args: &[String]) -> Result<()> {
    const OWN: [&str; 46] = [
        "add-drop-database",
        "all-databases",
        "apply-replica-statements",
        "apply-slave-statements",
        "comments",
        "compact",
        "compatible",
        "databases",
        "debug",
        "default-character-set",
        "defaults-extra-file",
        "defaults-file",
        "defaults-group-suffix",
        "delete-master-logs",
        "delete-source-logs",
        "delimiter",
        "dir",
        "execute",
        "flush-logs",
        "force",
        "help",
        "host",
        "html",
        "ignore-error",
        "ignore-table",
        "init-command",
        "log-error",
        "login-path",
        "no-create-db",
        "no-create-info",
        "no-defaults",
        "opt",
        "password",
        "pipe",
        "port",
        "print-defaults",
        "protocol",
        "result-file",
        "set-charset",
        "socket",
        "tab",
        "tables",
        "tee",
        "user",
        "version",
        "xml",
    ];
    for arg in args {
        let name = arg.strip_prefix("--").and_then(|long| long.split('=').next()).unwrap_or_default();
        let name = name.replace('_', "-").to_ascii_lowercase();
        let mut bare = name.as_str();
        for prefix in ["loose-", "skip-", "disable-", "enable-"] {
            bare = bare.strip_prefix(prefix).unwrap_or(bare);
        }
        // The programs take every unambiguous beginning for the whole option.
        let own = |name: &str| OWN.iter().any(|own| own.starts_with(name));
        if name.is_empty() || bare.is_empty() || own(&name) || own(bare) || arg.contains('\0') {
            return Err(Error::new(ErrorKind::Config, "extra_args", format!("{:?} is not allowed", without_value(arg))).with_hint(
                "write long options as --option=value; output, databases, format and connection are set elsewhere",
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
            "-r",
            "-fx",
            "--result-file=x",
            "--result_file=x",
            "--res=x",
            "--loose-result-file=x",
            "--skip-comments",
            "--skip-opt",
            "--compact",
            "--tab=/tmp",
            "--force",
            "--databases",
            "--all-databases",
            "--password=x",
            "--host=x",
            "shop",
            "--",
            "-",
            "",
        ] {
            assert!(check_extra_args(&[bad.to_owned()]).is_err(), "{bad}");
        }
        for good in ["--skip-lock-tables", "--where=a<5", "--dump-history", "--no-data", "--order-by-primary"]
        {
            assert!(check_extra_args(&[good.to_owned()]).is_ok(), "{good}");
        }
    }
}
