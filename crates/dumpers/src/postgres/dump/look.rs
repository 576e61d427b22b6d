//! What a server says before a dump.

use std::collections::BTreeMap;

use backup_core::{Error, ErrorKind, Obstacle, Result};
use serde::Deserialize;

use super::super::error::{ADVICE, PostgresError};
use super::super::tools::Client;
use crate::tool::ToolVersion;

/// The most obstacles that one message names; a probe names all.
const NAMED_MAX: usize = 10;

/// What the server says of the database.
#[derive(Debug, Deserialize)]
pub(super) struct Looked {
    pub(super) server: String,
    pub(super) bytes: Option<u64>,
    pub(super) tables: Vec<LookedTable>,
    /// `GRANT` statements that are missing, each complete.
    grants: Vec<String>,
    /// Names of what those would open.
    unreadable: Vec<String>,
    /// Tables whose row security hides rows from this user.
    hidden: Vec<String>,
    /// Where the server follows another one: what it does about long queries.
    standby: Option<Standby>,
    /// Tables whose rows a standby does not have.
    unlogged: Vec<String>,
}

/// How a standby treats those who read from it.
#[derive(Debug, Deserialize)]
struct Standby {
    /// `max_standby_streaming_delay`.
    delay: String,
    /// `hot_standby_feedback`.
    feedback: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct LookedTable {
    pub(super) schema: String,
    pub(super) name: String,
    pub(super) rows: f64,
    pub(super) bytes: Option<u64>,
}

/// One statement: version, size without indexes, tables, and what this user cannot read. It takes no
/// lock on any table. System
/// schemas and members of extensions are left out, as `pg_dump` does.
pub(super) const LOOK: &str = r"
WITH own AS (
  SELECT c.oid, c.relkind, c.reltuples, c.relrowsecurity, c.relforcerowsecurity, c.relowner,
         c.relpages, c.reltoastrelid, c.relpersistence, n.nspname, c.relname, n.oid AS schema_oid,
         format('%I.%I', n.nspname, c.relname) AS name
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  WHERE c.relkind IN ('r', 'S', 'm', 'p') AND c.relpersistence <> 't'
    AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
    AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_class'::regclass
                    AND d.objid = c.oid AND d.deptype = 'e')
), closed AS (
  SELECT format('schema %I', nspname) AS what,
         format('GRANT USAGE ON SCHEMA %I TO %I;', nspname, current_user) AS fix
  FROM (SELECT DISTINCT nspname, schema_oid FROM own) s
  WHERE NOT has_schema_privilege(schema_oid, 'USAGE')
  UNION ALL
  SELECT CASE relkind WHEN 'S' THEN 'sequence ' ELSE 'table ' END || name,
         format('GRANT SELECT ON %s %s TO %I;',
                CASE relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, name, current_user)
  FROM own WHERE relkind IN ('r', 'p', 'S') AND NOT
    CASE relkind WHEN 'S' THEN has_sequence_privilege(oid, 'SELECT') ELSE has_table_privilege(oid, 'SELECT') END
)
SELECT json_build_object(
  'server', current_setting('server_version'),
  'bytes', greatest(0, pg_database_size(current_database())
    - (SELECT coalesce(sum(relpages::bigint), 0) * current_setting('block_size')::bigint
       FROM pg_catalog.pg_class WHERE relkind = 'i')),
  'tables', coalesce((SELECT json_agg(json_build_object('schema', nspname, 'name', relname, 'rows', reltuples,
      'bytes', CASE WHEN reltuples >= 0 THEN current_setting('block_size')::bigint * (relpages::bigint
        + coalesce((SELECT t.relpages::bigint FROM pg_catalog.pg_class t WHERE t.oid = own.reltoastrelid), 0)) END)
    ORDER BY nspname, relname) FROM own WHERE relkind = 'r'), '[]'::json),
  'grants', coalesce((SELECT json_agg(fix ORDER BY fix DESC) FROM closed), '[]'::json),
  'unreadable', coalesce((SELECT json_agg(what ORDER BY fix DESC) FROM closed), '[]'::json),
  'hidden', coalesce((SELECT json_agg(name ORDER BY name) FROM own
                      WHERE relkind = 'r' AND row_security_active(oid)), '[]'::json),
  'standby', CASE WHEN pg_is_in_recovery() THEN json_build_object(
     'delay', current_setting('max_standby_streaming_delay'),
     'feedback', current_setting('hot_standby_feedback')) END,
  'unlogged', coalesce((SELECT json_agg(name ORDER BY name) FROM own
                        WHERE relkind = 'r' AND relpersistence = 'u'), '[]'::json)
);";

impl Looked {
    pub(super) fn server(&self) -> Result<ToolVersion, PostgresError> {
        ToolVersion::find(&self.server).ok_or_else(|| PostgresError::Answer(self.server.clone()))
    }

    /// Everything that would make `pg_dump` fail later, in sentences.
    pub(super) fn obstacles(&self) -> Vec<Obstacle> {
        let unreadable = self
            .unreadable
            .iter()
            .zip(&self.grants)
            .map(|(what, fix)| Obstacle::new(format!("{what} cannot be read"), fix));
        let hidden = self.hidden.iter().map(|name| {
            let what = format!("row security hides rows of table {name} from this user");
            Obstacle::new(what, "use a role with BYPASSRLS")
        });
        unreadable.chain(hidden).collect()
    }

    pub(super) fn refuse_obstacles(&self, subject: &str) -> Result<()> {
        let obstacles = self.obstacles();
        if obstacles.is_empty() {
            return Ok(());
        }
        let hint = match self.grants.as_slice() {
            [] => "use a role with BYPASSRLS".to_owned(),
            grants if grants.len() > NAMED_MAX => {
                "run as an administrator: GRANT pg_read_all_data TO this user (PostgreSQL 14 and newer)"
                    .to_owned()
            }
            grants => format!("run as the owner: {}", grants.join(" ")),
        };
        let named = obstacles.iter().take(NAMED_MAX).map(|obstacle| obstacle.what.as_str());
        let mut what = named.collect::<Vec<_>>().join("; ");
        if obstacles.len() > NAMED_MAX {
            what.push_str(&format!("; and {} more", obstacles.len() - NAMED_MAX));
        }
        Err(Error::new(ErrorKind::Denied, subject, what).with_hint(hint))
    }

    /// What is worth knowing of a dump of this server.
    pub(super) fn warnings(&self) -> Vec<String> {
        let Some(standby) = &self.standby else { return Vec::new() };
        let mut warnings = vec![if standby.feedback == "on" || standby.delay == "-1" {
            "this server is a standby: the dump is as old as what it has received".to_owned()
        } else {
            format!(
                "this server is a standby: the dump is as old as what it has received, and is cancelled where it \
                 stands in the way of the primary's changes for longer than max_standby_streaming_delay ({}); {ADVICE}",
                standby.delay
            )
        }];
        if !self.unlogged.is_empty() {
            warnings.push(format!(
                "a standby has no rows of unlogged tables, so they are not in the dump: {}",
                self.unlogged.join(", ")
            ));
        }
        warnings
    }

    pub(super) fn versions(&self, client: &Client) -> BTreeMap<String, String> {
        BTreeMap::from([
            ("server".to_owned(), self.server.clone()),
            ("pg_dump".to_owned(), client.version.to_string()),
        ])
    }
}
