//! What databases share, applied to a server that has roles of its own.
//!
//! A role that exists is kept as it is: neither its attributes nor its memberships change, and what
//! differs is told. What the dump has more is made. Only statements of known shapes are ever sent
//! ([`Global`]), and only about what is made here.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use backup_core::Context;

use super::super::error::PostgresError;
use super::super::names::identifier;
use super::super::query::Psql;
use super::super::statements::{Statement, StatementError, statements};
use super::global::{Global, Privilege};

/// What is to be done, and what there is to say.
#[derive(Default)]
pub(in super::super) struct Globals {
    /// Roles that are made.
    pub(super) created: Vec<String>,
    /// Tablespaces that are made.
    tablespaces: BTreeSet<String>,
    /// In one transaction: these roles and what belongs to them alone. With hashes of passwords.
    pub(super) roles: Vec<String>,
    /// One by one: what may fail without harm.
    pub(super) others: Vec<Other>,
    /// What is not done.
    pub(in super::super) warnings: Vec<String>,
    /// Whether the roles were made.
    pub(super) made: bool,
    /// What undoes that of the others which was done.
    pub(super) undo: Vec<String>,
}

/// A statement that may fail without harm.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Other {
    /// It.
    pub(super) statement: String,
    /// What is tried if it fails.
    pub(super) otherwise: Option<String>,
    /// What undoes it, where dropping the roles does not.
    pub(super) undo: Option<String>,
}

impl fmt::Debug for Globals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Globals");
        shown.field("created", &self.created).field("tablespaces", &self.tablespaces);
        shown.field("others", &self.others.len()).field("made", &self.made).finish_non_exhaustive()
    }
}

/// Attributes of a role by their keyword.
type Attributes = BTreeMap<String, bool>;

const ROLES: &str = "
SELECT json_build_object(
  'roles', (SELECT json_object_agg(rolname, json_build_object('SUPERUSER', rolsuper, 'INHERIT', rolinherit,
     'CREATEROLE', rolcreaterole, 'CREATEDB', rolcreatedb, 'LOGIN', rolcanlogin, 'REPLICATION', rolreplication,
     'BYPASSRLS', rolbypassrls)) FROM pg_catalog.pg_roles),
  'members', (SELECT coalesce(json_agg(json_build_array(g.rolname, m.rolname)), '[]'::json)
     FROM pg_catalog.pg_auth_members JOIN pg_catalog.pg_roles g ON g.oid = roleid
     JOIN pg_catalog.pg_roles m ON m.oid = member),
  'tablespaces', (SELECT json_agg(spcname) FROM pg_catalog.pg_tablespace));";

/// Roles and tablespaces of the server.
#[derive(Debug, serde::Deserialize)]
pub(in super::super) struct Present {
    roles: BTreeMap<String, Attributes>,
    /// Groups and who is in them.
    members: BTreeSet<(String, String)>,
    tablespaces: BTreeSet<String>,
}

impl Present {
    pub(in super::super) async fn ask(cx: &Context, psql: &Psql) -> Result<Self, PostgresError> {
        psql.ask(cx, ROLES).await
    }
}

/// What is said at the end of the sorting, once of each.
#[derive(Default)]
struct Kept {
    roles: BTreeSet<String>,
    tablespaces: BTreeSet<String>,
    /// Kinds of statements that are not among the known.
    strange: BTreeSet<String>,
}

impl Globals {
    /// Sorts the script of `pg_dumpall --globals-only` by what the server has already.
    pub(in super::super) fn sorted(script: &str, present: &Present) -> Result<Self, StatementError> {
        const NAMED_MAX: usize = 10;
        let mut globals = Self::default();
        let mut kept = Kept::default();
        for statement in statements(script)? {
            globals.sort(&statement, present, &mut kept);
        }
        if globals.warnings.is_empty() && !kept.roles.is_empty() {
            let names: Vec<String> = kept.roles.iter().map(|name| format!("{name:?}")).collect();
            globals.warnings.push(format!("roles that exist were kept as they are: {}", names.join(", ")));
        }
        for name in kept.tablespaces {
            globals.warnings.push(format!(
                "tablespace {name:?} exists: its options and privileges were left as they are"
            ));
        }
        if !kept.strange.is_empty() {
            let mut named = kept.strange.iter().take(NAMED_MAX).cloned().collect::<Vec<_>>().join(", ");
            if kept.strange.len() > NAMED_MAX {
                named.push_str(" and others");
            }
            globals.warnings.push(format!(
                "statements among the dump's roles that pg_dumpall does not write were left out: {named}"
            ));
        }
        Ok(globals)
    }

    fn makes(&self, role: &str) -> bool {
        self.created.iter().any(|created| created == role)
    }

    fn sort(&mut self, statement: &Statement, present: &Present, kept: &mut Kept) {
        let text = || statement.text.clone();
        let other = |undo| Other { statement: text(), otherwise: None, undo };
        match Global::of(statement) {
            Some(Global::Session) => {}
            Some(Global::CreateRole(role)) if present.roles.contains_key(role) => {
                kept.roles.insert(role.to_owned());
            }
            Some(Global::CreateRole(role)) => {
                self.created.push(role.to_owned());
                self.roles.push(text());
            }
            Some(Global::Attributes(role, _) | Global::Setting(role, _) | Global::Comment(role))
                if self.makes(role) =>
            {
                self.roles.push(text());
            }
            Some(Global::Attributes(role, attributes)) if present.roles.contains_key(role) => {
                self.compare(role, &attributes, &present.roles[role]);
            }
            Some(Global::Setting(role, setting)) if present.roles.contains_key(role) => {
                self.warnings.push(format!("role {role:?} exists: its setting {setting} was left as it is"));
            }
            Some(Global::Label(role)) if self.makes(role) => self.others.push(other(None)),
            Some(Global::Comment(role) | Global::Label(role)) if present.roles.contains_key(role) => {}
            Some(Global::Membership { member, without_grantor, .. }) if self.makes(member) => {
                // Its grantor may be none here.
                let otherwise = without_grantor.map(str::to_owned);
                self.others.push(Other { otherwise, ..other(None) });
            }
            Some(Global::Membership { group, member, .. }) => self.not_joined(group, member, present),
            Some(Global::CreateTablespace(name)) if !present.tablespaces.contains(name) => {
                self.tablespaces.insert(name.to_owned());
                self.others.push(other(Some(format!("DROP TABLESPACE {}", identifier(name)))));
            }
            Some(Global::CreateTablespace(_)) => {}
            Some(Global::AboutTablespace(name)) if self.tablespaces.contains(name) => {
                self.others.push(other(None));
            }
            Some(Global::AboutTablespace(name)) if present.tablespaces.contains(name) => {
                kept.tablespaces.insert(name.to_owned());
            }
            Some(Global::Privilege(privilege)) => {
                if let Some(undo) = self.privilege(&privilege, present, kept) {
                    self.others.push(other(undo));
                }
            }
            _ => {
                kept.strange.insert(statement.kind());
            }
        }
    }

    /// Privileges are given on what is made here, and to roles that are made here. What undoes it where
    /// it is to be sent.
    #[allow(clippy::option_option, reason = "not to be sent, and nothing to undo, are two things")]
    fn privilege(
        &mut self,
        privilege: &Privilege<'_>,
        present: &Present,
        kept: &mut Kept,
    ) -> Option<Option<String>> {
        if privilege.tablespace.is_some_and(|name| self.tablespaces.contains(name)) {
            return Some(None);
        }
        match privilege.grantee {
            Some(role) if privilege.grant && self.makes(role) => {
                return Some(Some(format!("REVOKE ALL ON {} FROM {}", privilege.object, identifier(role))));
            }
            _ => {}
        }
        match (privilege.tablespace, privilege.grantee) {
            (Some(name), _) if present.tablespaces.contains(name) => {
                kept.tablespaces.insert(name.to_owned());
            }
            (_, Some(role)) if present.roles.contains_key(role) => self.warnings.push(format!(
                "role {role:?} exists: its privileges on {} were left as they are",
                privilege.object
            )),
            _ => {
                kept.strange.insert(format!(
                    "privileges on {}",
                    privilege.object.chars().take(60).collect::<String>()
                ));
            }
        }
        None
    }

    /// Whoever exists joins no group.
    fn not_joined(&mut self, group: &str, member: &str, present: &Present) {
        // The bootstrap superuser is told to be a member of what it made by newer servers.
        if !present.members.contains(&(group.to_owned(), member.to_owned())) {
            self.warnings.push(format!(
                "role {member:?} exists: it was not made a member of {group:?}; if that is wanted: GRANT {} TO {};",
                identifier(group),
                identifier(member)
            ));
        }
    }

    fn compare(&mut self, role: &str, attributes: &[&str], present: &Attributes) {
        let differs: Vec<&str> = attributes
            .iter()
            .filter(|word| {
                let (name, wanted) = match word.strip_prefix("NO") {
                    Some(name) => (name, false),
                    None => (**word, true),
                };
                present.get(name).is_some_and(|here| *here != wanted)
            })
            .copied()
            .collect();
        if !differs.is_empty() {
            self.warnings.push(format!(
                "role {role:?} exists and was kept as it is; in the dump it is {}",
                differs.join(", ")
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server with one role and one tablespace.
    fn present() -> Present {
        let attributes = [("SUPERUSER".to_owned(), false), ("LOGIN".to_owned(), true)].into();
        Present {
            roles: [("boss".to_owned(), attributes), ("readers".to_owned(), Attributes::new())].into(),
            members: [("readers".to_owned(), "boss".to_owned())].into(),
            tablespaces: ["here".to_owned()].into(),
        }
    }

    fn others(globals: &Globals) -> Vec<&str> {
        globals.others.iter().map(|other| other.statement.as_str()).collect()
    }

    #[test]
    fn what_exists_is_kept_and_what_differs_is_told() {
        let script = "SET default_transaction_read_only = off;\n\nCREATE ROLE boss;\n\
             ALTER ROLE boss WITH SUPERUSER INHERIT LOGIN PASSWORD 'SCRAM-SHA-256$x';\nCREATE ROLE \"New one\";\n\
             ALTER ROLE \"New one\" WITH NOSUPERUSER NOINHERIT LOGIN;\nALTER ROLE \"New one\" SET work_mem TO '1MB';\n\
             ALTER ROLE boss SET work_mem TO '2MB';\nGRANT boss TO \"New one\" WITH ADMIN OPTION GRANTED BY gone;\n\
             GRANT \"New one\" TO boss;\nGRANT readers TO boss;\nCREATE TABLESPACE fast OWNER boss LOCATION '/x';\n\
             CREATE TABLESPACE here OWNER boss LOCATION '/x';\nGRANT ALL ON TABLESPACE fast TO boss;\n\
             GRANT SET ON PARAMETER work_mem TO \"New one\";\n";
        let globals = Globals::sorted(script, &present()).unwrap();
        assert_eq!(globals.created, ["New one"]);
        assert_eq!(
            globals.roles,
            [
                "CREATE ROLE \"New one\"",
                "ALTER ROLE \"New one\" WITH NOSUPERUSER NOINHERIT LOGIN",
                "ALTER ROLE \"New one\" SET work_mem TO '1MB'"
            ]
        );
        assert_eq!(
            others(&globals),
            [
                "GRANT boss TO \"New one\" WITH ADMIN OPTION GRANTED BY gone",
                "CREATE TABLESPACE fast OWNER boss LOCATION '/x'",
                "GRANT ALL ON TABLESPACE fast TO boss",
                "GRANT SET ON PARAMETER work_mem TO \"New one\"",
            ]
        );
        let otherwise = globals.others[0].otherwise.as_deref();
        assert_eq!(otherwise, Some("GRANT boss TO \"New one\" WITH ADMIN OPTION"));
        let undo: Vec<&str> = globals.others.iter().filter_map(|other| other.undo.as_deref()).collect();
        assert_eq!(undo, ["DROP TABLESPACE \"fast\"", "REVOKE ALL ON PARAMETER work_mem FROM \"New one\""]);
        let said = globals.warnings.join("\n");
        assert!(
            said.contains("role \"boss\" exists and was kept as it is; in the dump it is SUPERUSER\n"),
            "{said}"
        );
        assert!(
            said.contains("setting work_mem") && said.contains("GRANT \"New one\" TO \"boss\";"),
            "{said}"
        );
        assert!(!said.contains("SCRAM") && !said.contains("readers"), "{said}");
    }

    #[test]
    fn nothing_is_sent_that_changes_what_exists_or_has_no_shape() {
        let script = "CREATE ROLE \"current_user\";\nALTER ROLE current_user WITH PASSWORD 'SCRAM-SHA-256$x';\n\
             CREATE ROLE \"BOSS\";\nALTER ROLE BOSS WITH SUPERUSER;\nGRANT boss TO \"BOSS\", readers;\n\
             COPY t FROM PROGRAM 'touch x';\nALTER SYSTEM SET archive_command TO 'x';\n\
             GRANT readers TO nobody;\nGRANT SET ON PARAMETER work_mem TO boss;\nGRANT SET ON PARAMETER work_mem TO PUBLIC;\n\
             REVOKE ALL ON TABLESPACE here FROM boss;\nALTER TABLESPACE here SET (seq_page_cost=1);\n\
             COMMENT ON ROLE boss IS 'x';\nDROP ROLE boss;\n";
        let globals = Globals::sorted(script, &present()).unwrap();
        assert_eq!(globals.roles, ["CREATE ROLE \"current_user\"", "CREATE ROLE \"BOSS\""]);
        assert_eq!(others(&globals), [""; 0]);
        let said = globals.warnings.join("\n");
        for kind in [
            "COPY t",
            "ALTER SYSTEM",
            "ALTER ROLE",
            "GRANT boss",
            "DROP ROLE",
            "privileges on PARAMETER work_mem",
        ] {
            assert!(said.contains(kind), "{kind}: {said}");
        }
        assert!(said.contains("role \"boss\" exists: its privileges on PARAMETER work_mem"), "{said}");
        assert!(
            said.contains("tablespace \"here\" exists") && said.contains("member of \"readers\""),
            "{said}"
        );
        assert!(!said.contains("SCRAM"), "{said}");
    }

    #[test]
    fn no_hash_of_a_password_is_shown() {
        let script = "CREATE ROLE x;\nALTER ROLE x WITH LOGIN PASSWORD 'SCRAM-SHA-256$x';\n";
        let globals = Globals::sorted(script, &present()).unwrap();
        assert!(globals.roles[1].contains("SCRAM"));
        let shown = format!("{globals:?} {globals:#?}");
        assert!(shown.contains("\"x\"") && !shown.contains("SCRAM"), "{shown}");
    }
}
