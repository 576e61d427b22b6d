//! What a server says before a restore.

use std::collections::BTreeSet;

use backup_core::Context;
use serde::Deserialize;

use super::super::error::PostgresError;
use super::super::names::{identifier, literal};
use super::super::query::Psql;
use super::PostgresRestorer;
use super::draft::MARK;
use super::run::RESTORING;
use crate::tool::ToolVersion;

/// Unfinished databases younger than this may belong to a restore that is under way.
const OLD: i64 = 24 * 3600;

/// The server, its roles and what stands in the way.
#[derive(Debug, Deserialize)]
pub(super) struct Looked {
    pub(super) server: String,
    pub(super) may_create: bool,
    pub(super) superuser: bool,
    pub(super) user: String,
    pub(super) roles: BTreeSet<String>,
    pub(super) tablespaces: BTreeSet<String>,
    pub(super) leftovers: Vec<Leftover>,
    /// Which of the databases that were asked for exist.
    existing: BTreeSet<String>,
}

/// A database with a temporary name.
#[derive(Debug, Deserialize)]
pub(super) struct Leftover {
    pub(super) name: String,
    /// Seconds since its restore began, by its mark and the server's clock; `None` without one.
    age: Option<i64>,
    /// Sessions in it.
    sessions: u64,
    /// Whether the restore that made it has its session open.
    alive: bool,
}

impl Leftover {
    /// Whether nobody can be at work on it any more.
    fn is_dead(&self) -> bool {
        !self.alive && self.sessions == 0 && self.age.is_some_and(|age| age >= OLD)
    }

    /// What a plan says about it.
    pub(super) fn remark(&self, dropping: bool) -> String {
        let Self { name, .. } = self;
        let drop = format!("DROP DATABASE {};", identifier(name));
        match self.age {
            _ if self.alive => {
                format!("note: database {name:?} belongs to a restore that is under way")
            }
            Some(_) if self.is_dead() && dropping => {
                format!("drop {name:?}, left from an interrupted restore")
            }
            Some(age) if self.is_dead() => format!(
                "note: database {name:?} is left from a restore interrupted {} hours ago and holds its data: set \
                 drop_leftovers, or run {drop}",
                age / 3600
            ),
            Some(_) => format!(
                "note: database {name:?} belongs to a restore that is under way or was interrupted; in the \
                 latter case run {drop}"
            ),
            None => format!("note: database {name:?} may be left from an interrupted restore"),
        }
    }
}

impl Looked {
    pub(super) fn server(&self) -> Result<ToolVersion, PostgresError> {
        ToolVersion::find(&self.server).ok_or_else(|| PostgresError::Answer(self.server.clone()))
    }

    pub(super) fn exists(&self, database: &str) -> bool {
        self.existing.contains(database)
    }
}

impl PostgresRestorer {
    /// A way to ask the server that does not need the target to exist.
    pub(super) async fn maintenance(&self, cx: &Context) -> Result<Psql, PostgresError> {
        Psql::find(cx, &self.places, &self.connection).await?.maintenance(cx).await
    }

    /// Looks at the server, and whether databases of these names exist.
    pub(super) async fn look<S: AsRef<str>>(
        &self,
        cx: &Context,
        psql: &Psql,
        databases: &[S],
    ) -> Result<Looked, PostgresError> {
        let names: Vec<String> = databases.iter().map(|name| literal(name.as_ref())).collect();
        let sql = format!(
            "SELECT json_build_object(
               'server', current_setting('server_version'),
               'existing', coalesce((SELECT json_agg(datname) FROM pg_catalog.pg_database
                                     WHERE datname = ANY (ARRAY[{names}]::text[])), '[]'::json),
               'may_create', (SELECT rolcreatedb OR rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user),
               'superuser', (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user),
               'user', current_user,
               'roles', (SELECT json_agg(rolname) FROM pg_catalog.pg_roles),
               'tablespaces', (SELECT json_agg(spcname) FROM pg_catalog.pg_tablespace),
               'leftovers', coalesce((SELECT json_agg(json_build_object(
                   'name', datname,
                   'age', extract(epoch FROM now())::bigint - mark[1]::bigint,
                   'sessions', (SELECT count(*) FROM pg_catalog.pg_stat_activity a WHERE a.datid = d.oid),
                   'alive', EXISTS (SELECT FROM pg_catalog.pg_stat_activity a
                                    WHERE a.application_name = {restoring} || mark[2])
                 ) ORDER BY datname) FROM pg_catalog.pg_database d
                 LEFT JOIN LATERAL regexp_match(shobj_description(d.oid, 'pg_database'), {mark}) AS mark ON true
                 WHERE datname ~ '_strongroom_[0-9a-f]{{8}}$'), '[]'::json));",
            names = names.join(", "),
            restoring = literal(RESTORING),
            mark = literal(&format!("^{MARK}([0-9]{{1,12}})(?: by ([0-9a-f]{{8}}))?$")),
        );
        psql.ask(cx, &sql).await
    }

    /// Drops what earlier restores left, where that is wanted and nobody can be at work on it.
    pub(super) async fn drop_leftovers(
        &self,
        cx: &Context,
        psql: &Psql,
        looked: &Looked,
        warnings: &mut Vec<String>,
    ) {
        for leftover in looked.leftovers.iter().filter(|leftover| leftover.is_dead()) {
            if !self.config.drop_leftovers {
                continue;
            }
            let name = &leftover.name;
            // Refused by the server while a session is in it.
            match psql.run(cx, &format!("DROP DATABASE {};", identifier(name))).await {
                Ok(_) => warnings.push(format!("dropped {name:?}, left from an interrupted restore")),
                Err(error) => warnings.push(format!("{name:?} is left from an interrupted restore: {error}")),
            }
        }
    }
}
