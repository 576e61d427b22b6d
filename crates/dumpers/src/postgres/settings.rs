//! What a dump leaves out or does on the way, and what a restore does with what it is given.

use backup_core::{Error, ErrorKind, Result};

use super::config::PostgresConfig;

/// What a dump does about sessions that wait for its locks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnBlocked {
    /// Say so and go on.
    #[default]
    Warn,
    /// End the dump, so that they go on, and say that it is to be tried again.
    GiveWay,
}

fn wrong(setting: &str, what: &str, hint: &str) -> Error {
    Error::new(ErrorKind::Config, format!("PostgreSQL setting {setting}"), what).with_hint(hint)
}

impl PostgresConfig {
    /// Whether this is about a whole server and not about one database.
    #[must_use]
    pub fn is_whole_server(&self) -> bool {
        !self.databases.is_empty() || !self.exclude_databases.is_empty() || self.globals == Some(true)
    }

    /// Refuses what only a restore understands.
    pub(super) fn check_source(&self) -> Result<()> {
        let set = [
            ("clean", self.clean),
            ("single_transaction", self.single_transaction),
            ("no_privileges", self.no_privileges),
            ("drop_leftovers", self.drop_leftovers),
            ("role", self.role.is_some()),
            ("tables", !self.tables.is_empty()),
            ("rename_databases", !self.rename_databases.is_empty()),
            ("database_prefix", self.database_prefix.is_some()),
        ];
        if let Some((setting, _)) = set.iter().find(|(_, set)| *set) {
            return Err(wrong(setting, "is a setting of a restore", "leave it out of the source"));
        }
        if self.is_whole_server() && self.jobs.is_some_and(|jobs| jobs > 1) {
            let hint = "leave it out, or make the database that needs it a source of its own";
            return Err(wrong("jobs", "is for one database", hint));
        }
        Ok(())
    }

    /// Refuses what only a dump understands, and what excludes each other.
    pub(super) fn check_target(&self) -> Result<()> {
        let set = [
            ("exclude_schemas", !self.exclude_schemas.is_empty()),
            ("role_passwords", self.role_passwords.is_some()),
            ("lock_timeout_seconds", self.lock_timeout_seconds.is_some()),
            ("lock_wait_limit_seconds", self.lock_wait_limit_seconds.is_some()),
            ("on_blocked", self.on_blocked.is_some()),
            ("native", self.native.is_some()),
        ];
        if let Some((setting, _)) = set.iter().find(|(_, set)| *set) {
            return Err(wrong(setting, "is a setting of a dump", "leave it out of the target"));
        }
        if self.jobs.is_some_and(|jobs| jobs > 1) {
            return Err(wrong(
                "jobs",
                "a custom archive is restored as it streams, which one pg_restore does in one session",
                "leave jobs out; a dump over several connections is restored over as many",
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{PostgresDumper, PostgresRestorer};
    use super::*;

    #[test]
    fn each_side_refuses_the_settings_of_the_other() {
        let read = |json: &str| serde_json::from_str::<PostgresConfig>(json).unwrap();
        for (json, source, target) in [
            (r#"{"dbname":"d","schemas":["a"],"databases":[]}"#, true, true),
            (r#"{"dbname":"d","clean":true}"#, false, true),
            (r#"{"dbname":"d","role":"r"}"#, false, true),
            (r#"{"dbname":"d","jobs":4}"#, true, false),
            (r#"{"databases":["*"],"jobs":4}"#, false, false),
            (r#"{"dbname":"d","jobs":1}"#, true, true),
            (r#"{"dbname":"d","jobs":2,"native":false}"#, true, false),
            (r#"{"dbname":"d","on_blocked":"give-way","lock_wait_limit_seconds":5}"#, true, false),
        ] {
            let config = read(json);
            assert_eq!(PostgresDumper::new(&config).is_ok(), source, "{json}");
            assert_eq!(PostgresRestorer::new(&config).is_ok(), target, "{json}");
        }
    }
}
