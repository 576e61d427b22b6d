//! `mariadb` or `mysql` into databases of temporary names, whose tables are moved when everything is
//! there.
//!
//! A database cannot be renamed, but tables can be moved from one to another by one statement, and
//! no row is copied. So nothing stands in the target before the verified end of the dump; then, in
//! this order: the target is created, all tables are moved, views, triggers, routines and events are
//! made, the temporary database is dropped.

mod definers;
mod handover;
mod route;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use backup_core::{
    Context, Dump, DumpFormat, Error, ErrorKind, RestorePlan, RestoreRequest, Restored, Restorer, Result,
    Stage,
};

use super::config::{Connection, Definers, MysqlConfig, wrong};
use super::error::MysqlError;
use super::look::{Server, tables};
use super::names::{identifier, literal};
use super::query::Sql;
use super::tools::{CLIENT, Flavour, installed};
use super::{MARIADB_SQL, MYSQL_SQL, check_extra_args};
use crate::command::{unaccepted, waiting};
use crate::tool::{Places, Waiting, feed};
use route::{Routing, routed};

/// Names of databases have at most so many characters.
const NAME_MAX: usize = 64;

/// Restores into databases that are new or empty, or on request into others.
#[derive(Debug)]
pub struct MysqlRestorer {
    connection: Connection,
    /// The one database to make; without it, each of the dump by its own name.
    target: Option<String>,
    places: Places,
    definers: Definers,
    accounts: bool,
    extra_args: Vec<String>,
    waiting: Waiting,
}

impl MysqlRestorer {
    /// The server, and perhaps the database, of these settings; nothing is connected yet.
    ///
    /// # Errors
    /// `Config` for a wrong URL, a name that is too long and arguments that are not allowed.
    pub fn new(config: &MysqlConfig) -> Result<Self> {
        check_extra_args(&config.extra_args)?;
        let mut connection = config.connection()?;
        let target = connection.database.clone().filter(|name| !name.is_empty());
        if target.as_ref().is_some_and(|name| name.chars().count() > NAME_MAX) {
            return Err(wrong("dbname", "is longer than 64 characters"));
        }
        connection.database = target.clone();
        Ok(Self {
            connection,
            target,
            places: Places::new(&config.tool_dirs),
            definers: config.definers,
            accounts: config.accounts,
            extra_args: config.extra_args.clone(),
            waiting: waiting(config.stall_seconds),
        })
    }

    fn fail(&self, error: MysqlError) -> Error {
        error.about(&self.connection.describe()).at(Stage::Restore)
    }

    async fn look(&self, cx: &Context) -> Result<Looked, MysqlError> {
        let sql = Sql::find(cx, &self.places, &self.connection).await?;
        let server = Server::look(cx, &sql, &self.connection).await?;
        // The server's own family knows best how to sign in and what to send.
        let clients = installed(cx, &self.places, CLIENT).await?;
        let own = clients.into_iter().find(|client| client.flavour == server.flavour);
        let sql = own.map_or_else(|| sql.clone(), |client| sql.with(client));
        let names: Vec<String> = sql
            .ask(cx, "SELECT SCHEMA_NAME FROM information_schema.SCHEMATA")
            .await?
            .into_iter()
            .flatten()
            .collect();
        let leftovers = names.iter().filter(|name| is_temporary(name)).cloned().collect();
        let wanted: Vec<String> = match &self.target {
            Some(target) => names.into_iter().filter(|name| name == target).collect(),
            None => names,
        };
        let existing = held(cx, &sql, &wanted).await?;
        Ok(Looked { sql, server, existing, leftovers })
    }

    /// The statement that grants what a restore needs, where the user may not make the database.
    fn grant(&self, server: &Server) -> Option<String> {
        let target = self.target.as_deref()?;
        let draft = temporary(target, "00000000");
        if ["CREATE", "DROP", "ALTER", "INSERT"].iter().all(|privilege| {
            server.grants.on_database(privilege, &draft) && server.grants.on_database(privilege, target)
        }) {
            return None;
        }
        let pattern =
            |name: &str| identifier(&name.replace('\\', "\\\\").replace('_', "\\_").replace('%', "\\%"));
        let drafts =
            identifier(&format!("{}%", target.replace('\\', "\\\\").replace('_', "\\_").replace('%', "\\%")));
        let account = server.account();
        Some(format!(
            "GRANT ALL PRIVILEGES ON {}.* TO {account}; GRANT ALL PRIVILEGES ON {drafts}.* TO {account};",
            pattern(target)
        ))
    }
}

/// What databases hold: tables and views by their names, everything else by its `key`.
async fn held(
    cx: &Context,
    sql: &Sql,
    databases: &[String],
) -> Result<BTreeMap<String, BTreeSet<String>>, MysqlError> {
    let mut held: BTreeMap<String, BTreeSet<String>> =
        databases.iter().map(|name| (name.clone(), BTreeSet::new())).collect();
    if databases.is_empty() {
        return Ok(held);
    }
    for table in tables(cx, sql, databases).await? {
        held.entry(table.database).or_default().insert(table.name);
    }
    // A database with nothing but routines or events is not empty.
    let list: Vec<String> = databases.iter().map(|name| literal(name)).collect();
    let list = list.join(", ");
    let others = format!(
        "SELECT ROUTINE_SCHEMA, ROUTINE_TYPE, ROUTINE_NAME FROM information_schema.ROUTINES \
         WHERE ROUTINE_SCHEMA IN ({list});\n\
         SELECT EVENT_SCHEMA, 'EVENT', EVENT_NAME FROM information_schema.EVENTS WHERE EVENT_SCHEMA IN ({list});\n\
         SELECT TRIGGER_SCHEMA, 'TRIGGER', TRIGGER_NAME FROM information_schema.TRIGGERS \
         WHERE TRIGGER_SCHEMA IN ({list})"
    );
    for row in sql.ask(cx, &others).await? {
        if let [database, kind, name] = row.as_slice() {
            held.entry(database.clone()).or_default().insert(key(kind, name));
        }
    }
    Ok(held)
}

/// What a routine, event or trigger is known by among what a database holds: no table can have that
/// name, and case makes no difference.
fn key(kind: &str, name: &str) -> String {
    format!("\0{} {}", kind.to_lowercase(), name.to_lowercase())
}

/// The server as a restore finds it.
#[derive(Debug)]
struct Looked {
    sql: Sql,
    server: Server,
    /// What databases hold: the target, or all where each keeps its name.
    existing: BTreeMap<String, BTreeSet<String>>,
    leftovers: Vec<String>,
}

#[async_trait]
impl Restorer for MysqlRestorer {
    fn accepts(&self, format: &DumpFormat) -> bool {
        [MARIADB_SQL, MYSQL_SQL].contains(&format.as_str())
    }

    async fn plan(&self, cx: &Context, request: RestoreRequest) -> Result<RestorePlan> {
        let subject = self.connection.describe();
        if !self.accepts(&request.format) {
            return Err(unaccepted(&subject, &request.format));
        }
        let looked = self.look(cx).await.map_err(|error| self.fail(error))?;
        let full = |name: &String| looked.existing.get(name).is_some_and(|held| !held.is_empty());
        if let Some(target) = self.target.as_ref().filter(|target| full(target))
            && !request.into_existing
        {
            return Err(self.fail(MysqlError::Exists(target.clone())));
        }
        if let Some(grant) = self.grant(&looked.server) {
            let what = "this user may not create the target and a temporary database beside it";
            let error = Error::new(ErrorKind::Denied, subject, what);
            return Err(error.with_hint(format!("run as an administrator: {grant}")).at(Stage::Restore));
        }
        let client = &looked.sql.client;
        let server = &looked.server;
        let by = format!("{} {}", client.name(), client.version);
        let mut steps = match &self.target {
            Some(target) => vec![
                format!("create a database {:?} on server {}", temporary(target, "XXXXXXXX"), server.version),
                format!("apply tables and rows to it with {by}"),
                format!("after the verified end of the dump move its tables to {target:?}"),
            ],
            None => vec![
                format!("create a temporary database on server {} for each of the dump", server.version),
                format!("apply tables and rows to them with {by}"),
                "after the verified end of the dump move the tables to databases of their own names"
                    .to_owned(),
            ],
        };
        steps.push("then create views, triggers, routines and events there".to_owned());
        steps.push(match self.definers {
            Definers::Auto => {
                "keep definers if all of them exist here and may be set, else make this user the definer"
                    .to_owned()
            }
            Definers::Keep => "keep definers, whether they exist here or not".to_owned(),
            Definers::Current => format!("make {} the definer of everything", server.user),
        });
        if self.accounts {
            steps.push(
                "create the accounts of the dump that are missing, and grant what they were granted"
                    .to_owned(),
            );
        }
        let from = family(&request.format);
        if from != server.flavour {
            steps.push(format!(
                "note: the dump was made by a program of {}, and the server is {}: what one has and the other lacks \
                 fails the restore",
                from.shown(),
                server.flavour.shown()
            ));
        }
        let note = |name: &String| format!("note: database {name:?} may be left from an interrupted restore");
        steps.extend(looked.leftovers.iter().map(note));
        let into = if self.target.as_ref().is_some_and(full) { "yes" } else { "no" };
        Ok(RestorePlan::looked_at(request, subject, steps).with_detail("full", into))
    }

    async fn restore(&self, cx: &Context, plan: RestorePlan, dump: Dump) -> Result<Restored> {
        cx.check(plan.target())?;
        let looked = self.look(cx).await.map_err(|error| self.fail(error))?;
        let into_existing = plan.request().into_existing;
        if let Some(target) = &self.target
            && plan.detail("full") != Some("yes")
            && looked.existing.get(target).is_some_and(|held| !held.is_empty())
        {
            return Err(self.fail(MysqlError::Exists(target.clone())));
        }
        let suffix = format!("{:08x}", random_u32()?);
        let routing = Routing {
            target: self.target.clone(),
            suffix: suffix.clone(),
            existing: looked.existing.clone(),
            into_existing,
            max_packet: looked.server.max_packet,
            families: (family(&plan.request().format), looked.server.flavour),
            subject: self.connection.describe(),
        };
        let (bytes, waiting) = routed(cx, dump.bytes, routing);
        let (command, file) = looked.sql.command().map_err(|error| self.fail(error))?;
        let command = command.args(&self.extra_args);
        let bytes = prefixed(bytes);
        let (from, to) = (family(&plan.request().format), looked.server.flavour);
        let refused = |error| self.fail(MysqlError::of_tool(error).of_other_family(from, to));
        let fed = feed(cx, &command, self.waiting, bytes, refused).await;
        drop(file);
        let outcome = match fed {
            Ok(fed) => match waiting.await {
                Ok((waiting, total)) => {
                    let mut warnings: Vec<String> = fed.stderr.lines().map(str::to_owned).collect();
                    let done = self.hand_over(cx, &looked, waiting, plan.request(), &mut warnings).await;
                    done.map(|()| Restored { target: plan.target().to_owned(), bytes: total, warnings })
                }
                Err(_) => Err(Error::bug("a dump was applied without its end")),
            },
            Err(error) => Err(error),
        };
        match outcome {
            Ok(restored) => Ok(restored),
            Err(error) if error.kind() == ErrorKind::Uncertain => Err(error),
            Err(error) => Err(match discard(&looked.sql, &suffix).await {
                Ok(()) => error,
                Err(left) => with_leftover(error, &suffix, &left),
            }),
        }
    }
}

/// Whose programs write this format.
fn family(format: &DumpFormat) -> Flavour {
    if format.as_str() == MARIADB_SQL { Flavour::MariaDb } else { Flavour::MySql }
}

/// The text with what makes a session ready for it: long pauses of the stream are no reason to end
/// it, and a statement that only warns elsewhere warns here, too.
fn prefixed(
    bytes: backup_core::ByteStream<backup_core::Plain>,
) -> backup_core::ByteStream<backup_core::Plain> {
    const PREFIX: &str = "SET SESSION wait_timeout = 86400, SESSION net_read_timeout = 86400;\n";
    let prefix = futures::stream::iter([Ok(bytes::Bytes::from_static(PREFIX.as_bytes()))]);
    backup_core::ByteStream::new(futures::StreamExt::chain(prefix, bytes))
}

/// Drops the temporary databases of one restore.
async fn discard(sql: &Sql, suffix: &str) -> Result<(), MysqlError> {
    let cx = Context::new();
    let names = sql.ask(&cx, "SELECT SCHEMA_NAME FROM information_schema.SCHEMATA").await?;
    let ending = format!("_strongroom_{suffix}");
    let mut statements = String::from("SET SESSION foreign_key_checks = 0;\n");
    for name in names.iter().flatten().filter(|name| name.ends_with(&ending)) {
        statements.push_str(&format!("DROP DATABASE IF EXISTS {};\n", identifier(name)));
    }
    sql.ask(&cx, &statements).await.map(drop)
}

fn with_leftover(error: Error, suffix: &str, left: &MysqlError) -> Error {
    let hint = format!(
        "the temporary databases whose names end with _strongroom_{suffix} could not be dropped ({left}): drop them \
         by hand"
    );
    let kind = error.kind();
    Error::new(kind, error.subject().to_owned(), error.what().to_owned())
        .with_hint(hint)
        .at(error.stage().unwrap_or(Stage::Restore))
        .with_source(error)
}

/// `target_strongroom_1a2b3c4d`, the target's part shortened where a name would be too long.
fn temporary(target: &str, random: &str) -> String {
    let suffix = format!("_strongroom_{random}");
    let keep = NAME_MAX - suffix.len();
    let start: String = target.chars().take(keep).collect();
    format!("{start}{suffix}")
}

fn is_temporary(name: &str) -> bool {
    name.rsplit_once("_strongroom_").is_some_and(|(_, random)| {
        random.len() == 8 && random.bytes().all(|byte| byte.is_ascii_hexdigit() && !byte.is_ascii_uppercase())
    })
}

fn random_u32() -> Result<u32> {
    let mut bytes = [0; 4];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| std::io::Read::read_exact(&mut file, &mut bytes))
        .map_err(|error| Error::bug(format!("no random numbers: {error}")))?;
    Ok(u32::from_ne_bytes(bytes))
}
