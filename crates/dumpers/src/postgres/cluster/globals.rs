//! What databases share, applied to a server that has roles of its own.
//!
//! A role that exists is kept as it is: neither its attributes nor its memberships change, and what
//! differs is told. What the dump has more is made.

use std::collections::{BTreeMap, BTreeSet};

use backup_core::Context;

use super::super::error::PostgresError;
use super::super::names::identifier;
use super::super::query::{Psql, verbatim};
use super::super::statements::{Statement, StatementError, statements};

/// What is to be done, and what there is to say.
#[derive(Debug, Default)]
pub(in super::super) struct Globals {
    /// Roles that are made.
    pub(in super::super) created: Vec<String>,
    /// In one transaction: these roles and what belongs to them alone.
    roles: Vec<String>,
    /// One by one, each with another try where it has one: what may fail without harm.
    others: Vec<(String, Option<String>)>,
    /// What is not done.
    pub(in super::super) warnings: Vec<String>,
}

/// Attributes of a role by their keyword.
type Attributes = BTreeMap<String, bool>;

const ROLES: &str = "
SELECT json_build_object(
  'roles', (SELECT json_object_agg(rolname, json_build_object('SUPERUSER', rolsuper, 'INHERIT', rolinherit,
     'CREATEROLE', rolcreaterole, 'CREATEDB', rolcreatedb, 'LOGIN', rolcanlogin, 'REPLICATION', rolreplication,
     'BYPASSRLS', rolbypassrls)) FROM pg_catalog.pg_roles),
  'tablespaces', (SELECT json_agg(spcname) FROM pg_catalog.pg_tablespace));";

/// Roles and tablespaces of the server.
#[derive(Debug, serde::Deserialize)]
pub(in super::super) struct Present {
    roles: BTreeMap<String, Attributes>,
    tablespaces: BTreeSet<String>,
}

impl Present {
    pub(in super::super) async fn ask(cx: &Context, psql: &Psql) -> Result<Self, PostgresError> {
        psql.ask(cx, ROLES).await
    }
}

impl Globals {
    /// Sorts the script of `pg_dumpall --globals-only` by what the server has already.
    pub(in super::super) fn sorted(script: &str, present: &Present) -> Result<Self, StatementError> {
        let mut globals = Self::default();
        let mut kept: BTreeSet<String> = BTreeSet::new();
        for statement in statements(script)? {
            globals.sort(&statement, present, &mut kept);
        }
        let unlike = globals.warnings.len();
        if unlike == 0 && !kept.is_empty() {
            let names: Vec<String> = kept.iter().map(|name| format!("{name:?}")).collect();
            globals.warnings.push(format!("roles that exist were kept as they are: {}", names.join(", ")));
        }
        Ok(globals)
    }

    fn sort(&mut self, statement: &Statement, present: &Present, kept: &mut BTreeSet<String>) {
        let exists = |role: &str| present.roles.contains_key(role);
        let text = statement.text.clone();
        if statement.begins(&["SET"]) {
            return;
        }
        if statement.begins(&["CREATE", "ROLE"]) {
            let Some(role) = statement.name_after("ROLE") else { return };
            if exists(role) {
                kept.insert(role.to_owned());
            } else {
                self.created.push(role.to_owned());
                self.roles.push(text);
            }
        } else if statement.begins(&["ALTER", "ROLE"]) || statement.begins(&["COMMENT", "ON", "ROLE"]) {
            let Some(role) = statement.name_after("ROLE") else { return };
            if self.created.iter().any(|created| created == role) {
                self.roles.push(text);
            } else if statement.is(3, "WITH") {
                if let Some(attributes) = present.roles.get(role) {
                    self.compare(role, statement, attributes);
                }
            } else if statement.is(3, "SET") || statement.is(3, "IN") {
                let setting = statement.name_after("SET").unwrap_or_default();
                self.warnings.push(format!("role {role:?} exists: its setting {setting} was left as it is"));
            }
        } else if statement.begins(&["CREATE", "TABLESPACE"]) {
            let name = statement.name_after("TABLESPACE").unwrap_or_default();
            if !present.tablespaces.contains(name) {
                self.others.push((text, None));
            }
        } else if statement.begins(&["GRANT"]) && statement.find("ON").is_none() {
            self.membership(statement, text);
        } else {
            // Tablespaces and parameters, and what is granted on them.
            self.others.push((text, None));
        }
    }

    /// `GRANT group TO member ...`: only where the member is new. Its grantor may be none here.
    fn membership(&mut self, statement: &Statement, text: String) {
        let member = statement.name_after("TO").unwrap_or_default();
        let group = statement.word(1).and_then(|word| word.name()).unwrap_or_default();
        if !self.created.iter().any(|created| created == member) {
            // The bootstrap superuser is told to be a member of what it made by newer servers.
            if self.created.iter().any(|created| created == group) {
                self.warnings.push(format!(
                    "role {member:?} exists: it was not made a member of {group:?}; if that is wanted: GRANT {} TO {};",
                    identifier(group),
                    identifier(member)
                ));
            }
            return;
        }
        let without = text.rfind(" GRANTED BY ").map(|at| text[..at].to_owned());
        self.others.push((text, without));
    }

    fn compare(&mut self, role: &str, statement: &Statement, present: &Attributes) {
        let differs: Vec<&str> = statement
            .bare_from(4)
            .filter(|word| {
                let (name, wanted) = match word.strip_prefix("NO") {
                    Some(name) => (name, false),
                    None => (*word, true),
                };
                present.get(name).is_some_and(|here| *here != wanted)
            })
            .collect();
        if !differs.is_empty() {
            self.warnings.push(format!(
                "role {role:?} exists and was kept as it is; in the dump it is {}",
                differs.join(", ")
            ));
        }
    }

    /// Makes what is missing. On an error no role was made.
    pub(in super::super) async fn apply(&mut self, cx: &Context, psql: &Psql) -> Result<(), PostgresError> {
        if !self.roles.is_empty() {
            let lines: String = self.roles.iter().map(|statement| verbatim(statement)).collect();
            psql.run(cx, &format!("BEGIN;\n{lines}COMMIT;")).await?;
        }
        for (statement, other) in std::mem::take(&mut self.others) {
            let mut outcome = psql.run(cx, &verbatim(&statement)).await;
            if let (Err(_), Some(other)) = (&outcome, &other) {
                outcome = psql.run(cx, &verbatim(other)).await;
            }
            if let Err(error) = outcome {
                self.warnings.push(format!("{statement}: {error}"));
            }
        }
        Ok(())
    }

    /// Drops the roles that were made; names those that could not be.
    pub(in super::super) async fn undo(&self, psql: &Psql) -> Vec<String> {
        let mut left = Vec::new();
        for role in self.created.iter().rev() {
            if psql.run(&Context::new(), &format!("DROP ROLE IF EXISTS {};", identifier(role))).await.is_err()
            {
                left.push(role.clone());
            }
        }
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_exists_is_kept_and_what_differs_is_told() {
        let script = "SET default_transaction_read_only = off;\n\nCREATE ROLE boss;\n\
             ALTER ROLE boss WITH SUPERUSER INHERIT LOGIN PASSWORD 'SCRAM-SHA-256$x';\nCREATE ROLE \"New one\";\n\
             ALTER ROLE \"New one\" WITH NOSUPERUSER NOINHERIT LOGIN;\nALTER ROLE \"New one\" SET work_mem TO '1MB';\n\
             ALTER ROLE boss SET work_mem TO '2MB';\nGRANT boss TO \"New one\" WITH ADMIN OPTION GRANTED BY gone;\n\
             GRANT \"New one\" TO boss;\nCREATE TABLESPACE fast OWNER boss LOCATION '/x';\n\
             CREATE TABLESPACE pg_default OWNER boss LOCATION '/x';\nGRANT ALL ON TABLESPACE fast TO boss;\n";
        let present = Present {
            roles: [(
                "boss".to_owned(),
                [("SUPERUSER".to_owned(), false), ("LOGIN".to_owned(), true)].into(),
            )]
            .into(),
            tablespaces: ["pg_default".to_owned()].into(),
        };
        let globals = Globals::sorted(script, &present).unwrap();
        assert_eq!(globals.created, ["New one"]);
        assert_eq!(
            globals.roles,
            [
                "CREATE ROLE \"New one\"",
                "ALTER ROLE \"New one\" WITH NOSUPERUSER NOINHERIT LOGIN",
                "ALTER ROLE \"New one\" SET work_mem TO '1MB'"
            ]
        );
        let others: Vec<&str> = globals.others.iter().map(|(statement, _)| statement.as_str()).collect();
        assert_eq!(
            others,
            [
                "GRANT boss TO \"New one\" WITH ADMIN OPTION GRANTED BY gone",
                "CREATE TABLESPACE fast OWNER boss LOCATION '/x'",
                "GRANT ALL ON TABLESPACE fast TO boss"
            ]
        );
        assert_eq!(globals.others[0].1.as_deref(), Some("GRANT boss TO \"New one\" WITH ADMIN OPTION"));
        let said = globals.warnings.join("\n");
        assert!(
            said.contains("role \"boss\" exists and was kept as it is; in the dump it is SUPERUSER\n"),
            "{said}"
        );
        assert!(
            said.contains("setting work_mem") && said.contains("GRANT \"New one\" TO \"boss\";"),
            "{said}"
        );
        assert!(!said.contains("SCRAM"), "{said}");
    }
}
