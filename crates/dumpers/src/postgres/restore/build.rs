//! One archive applied to one database.

use backup_core::{ByteStream, Context, Error, Plain, Result, Stage};

use super::super::error::PostgresError;
use super::super::inspect::{not_whole, parsed};
use super::super::names::{conninfo_value, identifier};
use super::super::tools::{
    Client, first_reader, fitting, installed, only_unknown_timeout, sets_unknown_timeout,
};
use super::PostgresRestorer;
use super::draft::{Draft, discarded};
use super::head::Head;
use super::look::Looked;
use super::run::Run;
use crate::tool::{ToolCommand, ToolError, feed, feed_forgiving, feed_partly};

/// What an archive and a server make of one another.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fit {
    pub(super) no_owner: bool,
    pub(super) no_privileges: bool,
    no_tablespaces: bool,
}

impl Fit {
    /// What two parts of a dump need together.
    pub(super) const fn and(self, other: Self) -> Self {
        Self {
            no_owner: self.no_owner || other.no_owner,
            no_privileges: self.no_privileges || other.no_privileges,
            no_tablespaces: self.no_tablespaces || other.no_tablespaces,
        }
    }
}

impl PostgresRestorer {
    /// Whether only a part of the dump is wanted.
    pub(super) fn is_partial(&self) -> bool {
        !self.config.tables.is_empty() || !self.config.schemas.is_empty()
    }

    /// The client for this server and, where its beginning is known, this dump.
    pub(super) async fn client(
        &self,
        cx: &Context,
        looked: &Looked,
        head: Option<&Head>,
    ) -> Result<Client, PostgresError> {
        let mut clients = installed(cx, &self.places, "pg_restore").await?;
        let archive = head.map(|head| &head.contents.version);
        let first = archive.map_or(0, |version| first_reader(version));
        if clients.iter().any(|client| client.version.major() >= first) {
            clients.retain(|client| client.version.major() >= first);
        }
        fitting(clients, "pg_restore", &looked.server()?)
    }

    pub(super) fn command(&self, client: &Client, database: &str, fit: Fit) -> ToolCommand {
        let mut command = ToolCommand::new(&client.path)
            .arg("--no-password")
            .arg(format!("--dbname=dbname={}", conninfo_value(database)));
        for (wanted, option) in [
            (fit.no_owner, "--no-owner"),
            (fit.no_privileges, "--no-privileges"),
            (fit.no_tablespaces, "--no-tablespaces"),
            (self.is_partial(), "--strict-names"),
        ] {
            if wanted {
                command = command.arg(option);
            }
        }
        if let Some(role) = &self.config.role {
            command = command.arg(format!("--role={role}"));
        }
        let tables = self.config.tables.iter().map(|table| format!("--table={table}"));
        let schemas = self.config.schemas.iter().map(|schema| format!("--schema={schema}"));
        let command = command.args(tables.chain(schemas).collect::<Vec<_>>());
        self.connection.give(command.args(&self.config.extra_args))
    }

    pub(super) fn fit(&self, looked: &Looked, head: &Head, warnings: &mut Vec<String>) -> Fit {
        let no_owner = self.leaves_owners_out(looked, head, warnings);
        let tablespaces = head.contents.tablespaces.iter();
        let missing: Vec<String> = tablespaces
            .filter(|name| !looked.tablespaces.contains(*name))
            .map(|name| format!("{name:?}"))
            .collect();
        if !missing.is_empty() {
            warnings.push(format!(
                "everything is in the default tablespace, because these do not exist here: {}",
                missing.join(", ")
            ));
        }
        Fit {
            no_owner,
            no_privileges: no_owner || self.config.no_privileges,
            no_tablespaces: !missing.is_empty(),
        }
    }

    /// Applies the dump to a database that exists, in one transaction. The database's own settings
    /// stay as they are.
    pub(super) async fn apply_to_existing(
        &self,
        cx: &Context,
        looked: &Looked,
        target: &str,
        head: &Head,
        bytes: ByteStream<Plain>,
        warnings: &mut Vec<String>,
    ) -> Result<u64> {
        let client = self.client(cx, looked, Some(head)).await.map_err(|error| self.fail(error))?;
        let server = looked.server().map_err(|error| self.fail(error))?;
        if sets_unknown_timeout(&client.version, &server) {
            // One transaction ends with its first error.
            let tool = client.version.clone();
            return Err(self.fail(PostgresError::ToolTooNew { tool, server }));
        }
        let fit = self.fit(looked, head, warnings);
        let bytes = parsed(cx, bytes, |error| not_whole(error).at(Stage::Restore), drop);
        let mut command =
            self.command(&client, target, fit).args(["--single-transaction", "--exit-on-error"]);
        if self.config.clean {
            command = command.args(["--clean", "--if-exists"]);
        }
        let convert = |error| self.fail(PostgresError::of_tool(error));
        let fed = feed(cx, &command, self.waiting, bytes, convert).await?;
        warnings.extend(fed.stderr.lines().map(str::to_owned));
        Ok(fed.bytes)
    }

    /// Builds a database of a temporary name from the dump; nothing is left of it on an error.
    #[allow(clippy::too_many_arguments, reason = "a dump, a server, and what was found out about both")]
    pub(super) async fn build(
        &self,
        cx: &Context,
        run: &Run,
        looked: &Looked,
        target: &str,
        head: &Head,
        bytes: ByteStream<Plain>,
        warnings: &mut Vec<String>,
    ) -> Result<(Draft, u64)> {
        let psql = &run.psql;
        let client = self.client(cx, looked, Some(head)).await.map_err(|error| self.fail(error))?;
        let server = looked.server().map_err(|error| self.fail(error))?;
        let forgiving = sets_unknown_timeout(&client.version, &server);
        let fit = self.fit(looked, head, warnings);
        let bytes = parsed(cx, bytes, |error| not_whole(error).at(Stage::Restore), drop);
        let mut draft =
            Draft::create(cx, run, target, head, warnings).await.map_err(|error| self.fail(error))?;
        let outcome = async {
            if !self.config.schemas.is_empty() {
                // pg_restore takes what is in a schema, but not the schema.
                let schemas = self.config.schemas.iter();
                let create: Vec<String> = schemas
                    .map(|schema| format!("CREATE SCHEMA IF NOT EXISTS {};", identifier(schema)))
                    .collect();
                let psql = psql.on(&draft.name);
                psql.run(cx, &create.join("\n")).await.map_err(|error| self.fail(error))?;
            }
            let mut command = self.command(&client, &draft.name, fit);
            if !forgiving {
                command = command.arg("--exit-on-error");
                if self.config.single_transaction {
                    command = command.arg("--single-transaction");
                }
            }
            let convert = |error| self.fail(PostgresError::of_tool(error));
            let forgive = |error: &ToolError| forgiving && only_unknown_timeout(error);
            let fed = if self.is_partial() {
                feed_partly(cx, &command, self.waiting, bytes, convert, forgive).await?
            } else {
                feed_forgiving(cx, &command, self.waiting, bytes, convert, forgive).await?
            };
            if !self.is_partial() {
                draft.take_settings(cx, psql, looked, &head.contents, fit, warnings).await;
            }
            Ok::<_, Error>(fed)
        }
        .await;
        match outcome {
            Ok(fed) => {
                warnings.extend(fed.stderr.lines().map(str::to_owned));
                Ok((draft, fed.bytes))
            }
            Err(error) => Err(discarded(psql, &[draft], error).await),
        }
    }
}
