//! What a server says before a restore.

use std::collections::BTreeSet;

use backup_core::Context;
use serde::Deserialize;

use super::super::error::PostgresError;
use super::super::names::literal;
use super::super::query::Psql;
use super::PostgresRestorer;
use crate::tool::ToolVersion;

#[derive(Debug, Deserialize)]
pub(super) struct Looked {
    pub(super) server: String,
    pub(super) exists: bool,
    pub(super) may_create: bool,
    pub(super) superuser: bool,
    pub(super) user: String,
    pub(super) roles: BTreeSet<String>,
    pub(super) leftovers: Vec<String>,
}

impl Looked {
    pub(super) fn server(&self) -> Result<ToolVersion, PostgresError> {
        ToolVersion::find(&self.server).ok_or_else(|| PostgresError::Answer(self.server.clone()))
    }
}

impl PostgresRestorer {
    /// A way to ask the server that does not need the target to exist.
    pub(super) async fn maintenance(&self, cx: &Context) -> Result<Psql, PostgresError> {
        let psql = Psql::find(cx, &self.places, &self.connection).await?.on("postgres");
        match psql.run(cx, "SELECT 1").await {
            Err(PostgresError::NoDatabase(_)) => Ok(psql.on("template1")),
            Err(error) => Err(error),
            Ok(_) => Ok(psql),
        }
    }

    pub(super) async fn look(&self, cx: &Context, psql: &Psql) -> Result<Looked, PostgresError> {
        let sql = format!(
            "SELECT json_build_object(
               'server', current_setting('server_version'),
               'exists', EXISTS (SELECT FROM pg_catalog.pg_database WHERE datname = {name}),
               'may_create', (SELECT rolcreatedb OR rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user),
               'superuser', (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user),
               'user', current_user,
               'roles', (SELECT json_agg(rolname) FROM pg_catalog.pg_roles),
               'leftovers', coalesce((SELECT json_agg(datname) FROM pg_catalog.pg_database
                                      WHERE datname ~ '_strongroom_[0-9a-f]{{8}}$'), '[]'::json));",
            name = literal(&self.target)
        );
        psql.ask(cx, &sql).await
    }
}
