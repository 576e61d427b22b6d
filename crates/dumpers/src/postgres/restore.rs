//! `pg_restore` into a database of a temporary name, renamed when everything is there.
//!
//! A restore into an existing database runs as one transaction instead. In both cases the program
//! gets the last bytes of the archive only after the verified end of the dump, so it cannot finish
//! with less.

mod head;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;
use backup_core::{
    Context, Dump, DumpFormat, Error, ErrorKind, RestorePlan, RestoreRequest, Restored, Restorer, Result,
    Stage,
};
use serde::Deserialize;

use super::config::{Connection, Owners, PostgresConfig};
use super::error::PostgresError;
use super::inspect::{not_whole, parsed};
use super::names::{conninfo_value, identifier, literal, text_options};
use super::query::Psql;
use super::tools::{Client, first_reader, fitting, installed, only_unknown_timeout, sets_unknown_timeout};
use super::{PG_CUSTOM, check_extra_args};
use crate::command::{unaccepted, waiting};
use crate::tool::{Places, ToolCommand, ToolVersion, Waiting, feed, feed_forgiving};
use head::Head;

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

    /// A way to ask the server that does not need the target to exist.
    async fn maintenance(&self, cx: &Context) -> Result<Psql, PostgresError> {
        let psql = Psql::find(cx, &self.places, &self.connection).await?.on("postgres");
        match psql.run(cx, "SELECT 1").await {
            Err(PostgresError::NoDatabase(_)) => Ok(psql.on("template1")),
            Err(error) => Err(error),
            Ok(_) => Ok(psql),
        }
    }

    async fn look(&self, cx: &Context, psql: &Psql) -> Result<Looked, PostgresError> {
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

#[derive(Debug, Deserialize)]
struct Looked {
    server: String,
    exists: bool,
    may_create: bool,
    superuser: bool,
    user: String,
    roles: BTreeSet<String>,
    leftovers: Vec<String>,
}

impl Looked {
    fn server(&self) -> Result<ToolVersion, PostgresError> {
        ToolVersion::find(&self.server).ok_or_else(|| PostgresError::Answer(self.server.clone()))
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

impl PostgresRestorer {
    /// Whether owners and privileges are left out, and what there is to say about it.
    fn leaves_owners_out(&self, looked: &Looked, head: &Head, warnings: &mut Vec<String>) -> bool {
        match self.owners {
            Owners::Keep => false,
            Owners::Drop => true,
            Owners::Auto => {
                let Some(contents) = &head.contents else {
                    warnings.push(
                        "the table of contents is too large to look for roles first: owners and privileges \
                         were left out"
                            .to_owned(),
                    );
                    return true;
                };
                let roles = &contents.roles;
                let missing: Vec<String> =
                    roles.difference(&looked.roles).map(|role| format!("{role:?}")).collect();
                if !missing.is_empty() {
                    warnings.push(format!(
                        "owners and privileges were left out, because these roles do not exist here: {}",
                        missing.join(", ")
                    ));
                    return true;
                }
                let others = roles.iter().any(|role| *role != looked.user);
                if others && !looked.superuser {
                    warnings.push(format!(
                        "owners and privileges were left out, because {:?} is no superuser",
                        looked.user
                    ));
                    return true;
                }
                false
            }
        }
    }

    /// Creates the temporary database with the encoding and the locale of the dumped one.
    async fn create(
        &self,
        cx: &Context,
        psql: &Psql,
        draft: &str,
        head: &Head,
        warnings: &mut Vec<String>,
    ) -> Result<(), PostgresError> {
        let statement = |options: &[(String, String)]| {
            let mut sql = format!("CREATE DATABASE {} TEMPLATE template0", identifier(draft));
            for (key, value) in options {
                let value = if key == "LOCALE_PROVIDER" { value.clone() } else { literal(value) };
                sql.push_str(&format!(" {key} = {value}"));
            }
            sql.push(';');
            sql
        };
        let wanted = head
            .contents
            .as_ref()
            .and_then(|contents| contents.create_database.as_deref())
            .map(text_options)
            .unwrap_or_default();
        let error = match psql.run(cx, &statement(&wanted)).await {
            Ok(_) => return Ok(()),
            Err(error @ PostgresError::Tool(_)) if !wanted.is_empty() => error,
            Err(error) => return Err(error),
        };
        // A locale of another system: keep the encoding, compare by bytes.
        let mut plain: Vec<_> = wanted.into_iter().filter(|(key, _)| key == "ENCODING").collect();
        plain.extend(["LC_COLLATE", "LC_CTYPE"].map(|key| (key.to_owned(), "C".to_owned())));
        psql.run(cx, &statement(&plain)).await.map_err(|_| error)?;
        warnings
            .push("the dump's locale does not exist here: the database was made with locale C".to_owned());
        Ok(())
    }

    /// Gives the finished database the target's name, which must still be free.
    async fn hand_over(&self, cx: &Context, psql: &Psql, draft: &str) -> Result<(), PostgresError> {
        let rename = format!("ALTER DATABASE {} RENAME TO {};", identifier(draft), identifier(&self.target));
        // The server may need a moment to end the session of the program that has just ended.
        let mut tries = 20;
        let outcome = loop {
            match psql.run(cx, &rename).await {
                Err(PostgresError::Tool(error))
                    if error.stderr().contains("is being accessed") && tries > 0 =>
                {
                    tries -= 1;
                    tokio::time::sleep(Duration::from_millis(250)).await;
                }
                outcome => break outcome.map(drop),
            }
        };
        match outcome {
            Err(PostgresError::Tool(error)) if error.stderr().contains("already exists") => {
                Err(PostgresError::Exists)
            }
            // The answer may be lost while the rename happened: look.
            Err(error @ (PostgresError::Unreachable(_) | PostgresError::Tool(_))) => {
                match handed_over(psql, draft, &self.target).await {
                    Ok(true) => Ok(()),
                    Ok(false) => Err(error),
                    Err(_) => Err(PostgresError::Unsettled(error.to_string())),
                }
            }
            outcome => outcome,
        }
    }
}

/// Whether the temporary database has become the target.
async fn handed_over(psql: &Psql, draft: &str, target: &str) -> Result<bool, PostgresError> {
    let sql = format!(
        "SELECT to_json(EXISTS (SELECT FROM pg_catalog.pg_database WHERE datname = {}) AND NOT EXISTS \
         (SELECT FROM pg_catalog.pg_database WHERE datname = {}));",
        literal(target),
        literal(draft)
    );
    psql.ask(&Context::new(), &sql).await
}

/// Drops the temporary database, whoever is still in it.
async fn discard(psql: &Psql, draft: &str) -> Result<(), PostgresError> {
    let cx = Context::new();
    let sql = format!(
        "SELECT pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity WHERE datname = {};\n\
         DROP DATABASE IF EXISTS {};",
        literal(draft),
        identifier(draft)
    );
    for _ in 0..20 {
        match psql.run(&cx, &sql).await {
            Err(PostgresError::Tool(error)) if error.stderr().contains("is being accessed") => {
                tokio::time::sleep(Duration::from_millis(250)).await;
            }
            other => return other.map(drop),
        }
    }
    psql.run(&cx, &sql).await.map(drop)
}

fn with_leftover(error: Error, draft: &str, left: &PostgresError) -> Error {
    let hint = format!("the temporary database {draft:?} could not be dropped ({left}): drop it by hand");
    let kind = error.kind();
    Error::new(kind, error.subject().to_owned(), error.what().to_owned())
        .with_hint(hint)
        .at(error.stage().unwrap_or(Stage::Restore))
        .with_source(error)
}

/// `target_strongroom_1a2b3c4d`, the target's part shortened where a name would be too long.
fn temporary(target: &str, random: &str) -> String {
    let suffix = format!("_strongroom_{random}");
    let mut end = target.len().min(NAME_MAX - suffix.len());
    while !target.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{suffix}", &target[..end])
}

fn random_u32() -> Result<u32> {
    let mut bytes = [0; 4];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| std::io::Read::read_exact(&mut file, &mut bytes))
        .map_err(|error| Error::bug(format!("no random numbers: {error}")))?;
    Ok(u32::from_ne_bytes(bytes))
}
