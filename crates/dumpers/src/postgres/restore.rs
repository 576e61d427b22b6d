//! `pg_restore` into a database of a temporary name, renamed when everything is there.
//!
//! A restore into an existing database runs as one transaction instead. In both cases the program
//! gets the last bytes of the archive only after the verified end of the dump, so it cannot finish
//! with less.

mod draft;
mod head;
mod look;
mod owners;
#[cfg(test)]
mod tests;

use async_trait::async_trait;
use backup_core::{
    Context, Dump, DumpFormat, Error, ErrorKind, RestorePlan, RestoreRequest, Restored, Restorer, Result,
    Stage,
};

use super::config::{Connection, Owners, PostgresConfig};
use super::error::PostgresError;
use super::inspect::{not_whole, parsed};
use super::names::{conninfo_value, identifier};
use super::tools::{Client, first_reader, fitting, installed, only_unknown_timeout, sets_unknown_timeout};
use super::{PG_CUSTOM, check_extra_args};
use crate::command::{unaccepted, waiting};
use crate::tool::{Places, ToolCommand, Waiting, feed, feed_forgiving};
use draft::{discard, random_u32, temporary, with_leftover};
use head::Head;
use look::Looked;

/// PostgreSQL's names have at most so many bytes.
const NAME_MAX: usize = 63;

/// Restores into a database that is new, or on request into an existing one.
#[derive(Debug)]
pub struct PostgresRestorer {
    connection: Connection,
    target: String,
    places: Places,
    extra_args: Vec<String>,
    owners: Owners,
    waiting: Waiting,
}

impl PostgresRestorer {
    /// The database of these settings; nothing is connected yet.
    ///
    /// # Errors
    /// `Config` when no database is named, for a wrong URI and for arguments that are not allowed.
    pub fn new(config: &PostgresConfig) -> Result<Self> {
        check_extra_args(&config.extra_args)?;
        let connection = config.connection()?;
        let refuse = |what: &str| {
            Error::new(ErrorKind::Config, "PostgreSQL target", what)
                .with_hint("name the database to create: postgresql://user@host/new_database")
        };
        let target = match connection.database() {
            None | Some("") => return Err(refuse("names no database")),
            Some(name) if name.len() > NAME_MAX => {
                return Err(refuse("names a database longer than 63 bytes"));
            }
            Some(name) => name.to_owned(),
        };
        Ok(Self {
            connection,
            target,
            places: Places::new(&config.tool_dirs),
            extra_args: config.extra_args.clone(),
            owners: config.owners,
            waiting: waiting(config.stall_seconds),
        })
    }

    fn fail(&self, error: PostgresError) -> Error {
        error.about(&self.connection.describe()).at(Stage::Restore)
    }

    /// The client for this server and, where its beginning is known, this dump.
    async fn client(
        &self,
        cx: &Context,
        looked: &Looked,
        head: Option<&Head>,
    ) -> Result<Client, PostgresError> {
        let mut clients = installed(cx, &self.places, "pg_restore").await?;
        let archive = head.and_then(|head| head.contents.as_ref()).map(|contents| &contents.version);
        let first = archive.map_or(0, |version| first_reader(version));
        if clients.iter().any(|client| client.version.major() >= first) {
            clients.retain(|client| client.version.major() >= first);
        }
        fitting(clients, "pg_restore", &looked.server()?)
    }

    fn command(&self, client: &Client, database: &str, one_transaction: bool, no_owner: bool) -> ToolCommand {
        let mut command = ToolCommand::new(&client.path)
            .arg("--no-password")
            .arg(format!("--dbname=dbname={}", conninfo_value(database)));
        if one_transaction {
            command = command.arg("--single-transaction");
        }
        if no_owner {
            command = command.args(["--no-owner", "--no-privileges"]);
        }
        self.connection.give(command.args(&self.extra_args))
    }
}

#[async_trait]
impl Restorer for PostgresRestorer {
    fn accepts(&self, format: &DumpFormat) -> bool {
        format.as_str() == PG_CUSTOM
    }

    async fn plan(&self, cx: &Context, request: RestoreRequest) -> Result<RestorePlan> {
        let subject = self.connection.describe();
        if !self.accepts(&request.format) {
            return Err(unaccepted(&subject, &request.format));
        }
        let psql = self.maintenance(cx).await.map_err(|error| self.fail(error))?;
        let looked = self.look(cx, &psql).await.map_err(|error| self.fail(error))?;
        let client = self.client(cx, &looked, None).await.map_err(|error| self.fail(error))?;
        if looked.exists && !request.into_existing {
            return Err(self.fail(PostgresError::Exists));
        }
        if !looked.exists && !looked.may_create {
            let grant = format!("run as an administrator: ALTER ROLE {} CREATEDB;", identifier(&looked.user));
            let error = Error::new(ErrorKind::Denied, subject, "this user may not create databases");
            return Err(error.with_hint(grant).at(Stage::Restore));
        }
        let target = &self.target;
        let mut steps = if looked.exists {
            vec![format!(
                "apply the dump to database {target:?} with pg_restore {} in one transaction",
                client.version
            )]
        } else {
            vec![
                format!("create a database {:?} on server {}", temporary(target, "XXXXXXXX"), looked.server),
                format!("apply the dump to it with pg_restore {}", client.version),
                format!("after the verified end of the dump rename it to {target:?}"),
            ]
        };
        steps.push(match self.owners {
            Owners::Keep => "keep owners and privileges; a role that is missing fails the restore".to_owned(),
            Owners::Drop => {
                format!("leave owners and privileges out: everything belongs to {:?}", looked.user)
            }
            Owners::Auto if looked.superuser => {
                "keep owners and privileges if all roles in the dump exist here, else leave them out"
                    .to_owned()
            }
            Owners::Auto => format!(
                "leave owners and privileges out unless all of them are {:?}, who is no superuser",
                looked.user
            ),
        });
        steps.extend(
            looked
                .leftovers
                .iter()
                .map(|name| format!("note: database {name:?} may be left from an interrupted restore")),
        );
        let exists = if looked.exists { "yes" } else { "no" };
        Ok(RestorePlan::looked_at(request, subject, steps).with_detail("exists", exists))
    }

    async fn restore(&self, cx: &Context, plan: RestorePlan, dump: Dump) -> Result<Restored> {
        cx.check(plan.target())?;
        let (head, bytes) = Head::read(cx, dump.bytes).await?;
        let psql = self.maintenance(cx).await.map_err(|error| self.fail(error))?;
        let looked = self.look(cx, &psql).await.map_err(|error| self.fail(error))?;
        let client = self.client(cx, &looked, Some(&head)).await.map_err(|error| self.fail(error))?;
        let mut warnings = Vec::new();
        let no_owner = self.leaves_owners_out(&looked, &head, &mut warnings);
        let server = looked.server().map_err(|error| self.fail(error))?;
        let forgiving = sets_unknown_timeout(&client.version, &server);
        let bytes = parsed(cx, bytes, |error| not_whole(error).at(Stage::Restore), drop);

        if looked.exists {
            if plan.detail("exists") != Some("yes") {
                return Err(self.fail(PostgresError::Exists));
            }
            if forgiving {
                // One transaction ends with its first error.
                let tool = client.version.clone();
                return Err(self.fail(PostgresError::ToolTooNew { tool, server }));
            }
            let command = self.command(&client, &self.target, true, no_owner).arg("--exit-on-error");
            let fed =
                feed(cx, &command, self.waiting, bytes, |error| self.fail(PostgresError::of_tool(error)));
            let fed = fed.await?;
            warnings.extend(fed.stderr.lines().map(str::to_owned));
            return Ok(Restored { target: plan.target().to_owned(), bytes: fed.bytes, warnings });
        }

        let random = format!("{:08x}", random_u32()?);
        let draft = temporary(&self.target, &random);
        self.create(cx, &psql, &draft, &head, &mut warnings).await.map_err(|error| self.fail(error))?;
        let applied = async {
            let command = self.command(&client, &draft, false, no_owner);
            let convert = |error| self.fail(PostgresError::of_tool(error));
            let fed = if forgiving {
                feed_forgiving(cx, &command, self.waiting, bytes, convert, only_unknown_timeout).await?
            } else {
                feed(cx, &command.arg("--exit-on-error"), self.waiting, bytes, convert).await?
            };
            cx.check(plan.target())?;
            self.hand_over(cx, &psql, &draft).await.map_err(|error| self.fail(error))?;
            Ok(fed)
        }
        .await;
        match applied {
            Ok(fed) => {
                warnings.extend(fed.stderr.lines().map(str::to_owned));
                Ok(Restored { target: plan.target().to_owned(), bytes: fed.bytes, warnings })
            }
            Err(error) => {
                // The run's own token may be what ended it; the cleaning has its own short limits.
                match discard(&psql, &draft).await {
                    Ok(()) => Err(error),
                    Err(left) => Err(with_leftover(error, &draft, &left)),
                }
            }
        }
    }
}
