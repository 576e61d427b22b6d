//! What a server says of itself, of its databases, and of what this user may see.

use std::collections::{BTreeMap, BTreeSet};

use backup_core::{Context, Error, ErrorKind, Obstacle, ProbeItem, Result, Selection};

use super::config::{Connection, Encryption};
use super::error::MysqlError;
use super::grants::{Grants, NEEDED, NEEDED_OF_TABLES};
use super::names::{Pattern, identifier, literal, qualified, shown};
use super::query::{Row, Sql};
use super::tools::{Client, Flavour};
use crate::tool::ToolVersion;

/// The databases that belong to the server itself.
const SYSTEM: [&str; 5] = ["information_schema", "performance_schema", "mysql", "sys", "ndbinfo"];

/// Whether a database belongs to the server itself.
pub(super) fn is_system(name: &str) -> bool {
    SYSTEM.iter().any(|system| name.eq_ignore_ascii_case(system))
}

/// Engines whose tables a snapshot shows as they were at its moment.
const TRANSACTIONAL: [&str; 5] = ["InnoDB", "ROCKSDB", "TokuDB", "ndbcluster", "SEQUENCE"];
/// Engines that keep no rows of their own.
const WITHOUT_ROWS: [&str; 4] = ["BLACKHOLE", "FEDERATED", "MRG_MYISAM", "SPIDER"];
/// The most names that one message lists.
const NAMED_MAX: usize = 10;

/// A server, as one look found it.
#[derive(Debug, Clone)]
pub(super) struct Server {
    pub(super) version: String,
    pub(super) flavour: Flavour,
    pub(super) user: String,
    pub(super) max_packet: u64,
    pub(super) grants: Grants,
    cipher: String,
}

/// A table or a view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) database: String,
    pub(super) name: String,
    pub(super) view: bool,
    sequence: bool,
    versioned: bool,
    pub(super) engine: String,
    pub(super) rows: Option<u64>,
    pub(super) bytes: Option<u64>,
    /// When it got its present form.
    pub(super) created: String,
}

/// What a dump is to hold.
#[derive(Debug, Clone)]
pub(super) struct Looked {
    pub(super) server: Server,
    pub(super) databases: Vec<String>,
    /// Everything in those databases.
    pub(super) tables: Vec<Table>,
}

impl Server {
    /// Asks the server for itself.
    pub(super) async fn look(cx: &Context, sql: &Sql, connection: &Connection) -> Result<Self, MysqlError> {
        let rows = sql
            .ask(
                cx,
                "SELECT 'server', VERSION(), CURRENT_USER(), @@global.max_allowed_packet;\n\
                 SHOW SESSION STATUS LIKE 'Ssl_cipher'",
            )
            .await?;
        let row = |name: &str| rows.iter().find(|row| row.first().is_some_and(|first| first == name));
        let [_, version, user, packet] = row("server").map(Vec::as_slice).unwrap_or_default() else {
            return Err(MysqlError::Answer("version of the server".to_owned()));
        };
        let server = Self {
            version: version.clone(),
            flavour: Flavour::of(version),
            user: user.clone(),
            max_packet: packet.parse().unwrap_or(16 * 1024 * 1024),
            grants: Grants::default(),
            cipher: row("Ssl_cipher").and_then(|row| row.get(1)).cloned().unwrap_or_default(),
        };
        let wanted = !matches!(connection.encryption, None | Some(Encryption::Disable | Encryption::Prefer));
        if wanted && server.cipher.is_empty() && !connection.is_local() {
            return Err(MysqlError::Certificate("the server offers no encryption".to_owned()));
        }
        Ok(Self { grants: grants(cx, sql, server.flavour).await?, ..server })
    }

    pub(super) fn number(&self) -> Result<ToolVersion, MysqlError> {
        ToolVersion::find(self.version.split('-').next().unwrap_or_default())
            .ok_or_else(|| MysqlError::Answer(self.version.clone()))
    }

    /// The current user as statements name it.
    pub(super) fn account(&self) -> String {
        let (name, host) = self.user.rsplit_once('@').unwrap_or((&self.user, "%"));
        format!("{}@{}", literal(name), literal(host))
    }
}

/// The grants of this user with those of the roles that are active in a session of its own.
async fn grants(cx: &Context, sql: &Sql, flavour: Flavour) -> Result<Grants, MysqlError> {
    let mut statement = "SHOW GRANTS".to_owned();
    if flavour == Flavour::MySql {
        // Before version 8 there are no roles, and no such function.
        let roles = sql.ask(cx, "SELECT CURRENT_ROLE()").await.ok().and_then(|rows| rows.into_iter().next());
        if let Some(roles) = roles.and_then(|row| row.into_iter().next()).filter(|roles| roles != "NONE") {
            statement = format!("SHOW GRANTS FOR CURRENT_USER() USING {roles}");
        }
    }
    let rows = sql.ask(cx, &statement).await?;
    Ok(Grants::of(rows.iter().filter_map(|row| row.first()).map(String::as_str)))
}

/// Which databases a dump is of.
#[derive(Debug, Clone)]
pub(super) enum Scope {
    One(String),
    /// Those that fit one of the first and none of the second; without a first, all.
    Several(Vec<Pattern>, Vec<Pattern>),
}

impl Looked {
    /// Asks for the databases of a scope and everything in them.
    pub(super) async fn look(
        cx: &Context,
        sql: &Sql,
        server: Server,
        scope: &Scope,
    ) -> Result<Self, MysqlError> {
        let names = sql.ask(cx, "SELECT SCHEMA_NAME FROM information_schema.SCHEMATA ORDER BY 1").await?;
        let all: Vec<String> = names.into_iter().flatten().collect();
        let databases: Vec<String> = match scope {
            Scope::One(name) => all.into_iter().filter(|found| found == name).collect(),
            Scope::Several(include, exclude) => {
                let fits = |patterns: &[Pattern], name: &str| {
                    patterns.iter().any(|pattern| pattern.matches_database(name))
                };
                let wanted = |name: &String| {
                    !is_system(name) && (include.is_empty() || fits(include, name)) && !fits(exclude, name)
                };
                all.into_iter().filter(wanted).collect()
            }
        };
        if databases.is_empty() {
            let name = match scope {
                Scope::One(name) => format!("{name:?}"),
                _ => "none matches, or this user may see none".to_owned(),
            };
            return Err(MysqlError::NoDatabase(name));
        }
        let tables = tables(cx, sql, &databases).await?;
        Ok(Self { server, databases, tables })
    }

    /// Everything that would make a dump fail later, or leave something out of it silently.
    ///
    /// A dump of chosen tables alone is one of the databases in which they lie.
    pub(super) fn obstacles(&self, accounts: bool, chosen: Option<&BTreeSet<&str>>) -> Vec<Obstacle> {
        let mut missing: BTreeMap<Vec<&str>, Vec<&str>> = BTreeMap::new();
        let needed: &[&str] = if chosen.is_some() { &NEEDED_OF_TABLES } else { &NEEDED };
        for database in &self.databases {
            if chosen.is_some_and(|chosen| !chosen.contains(&**database)) {
                continue;
            }
            let lacks = self.server.grants.missing(database, needed);
            if !lacks.is_empty() {
                missing.entry(lacks).or_default().push(database);
            }
        }
        let account = self.server.account();
        let mut obstacles = Vec::new();
        for (privileges, databases) in missing {
            for database in databases {
                obstacles.push(Obstacle::new(
                    format!(
                        "user {} lacks {} on database {}, so that a part of it may be out of its sight",
                        self.server.user,
                        privileges.join(", "),
                        shown(database)
                    ),
                    format!("GRANT {} ON {}.* TO {account};", privileges.join(", "), granted(database)),
                ));
            }
        }
        if chosen.is_none() {
            obstacles.extend(self.hidden_routines());
        }
        if accounts && !self.server.grants.on_database("SELECT", "mysql") {
            obstacles.push(Obstacle::new(
                format!("user {} may not read the accounts of the server", self.server.user),
                format!("GRANT SELECT ON `mysql`.* TO {account};"),
            ));
        }
        obstacles
    }

    /// Routines of others are not even listed to a user who may not read them, so that nobody can
    /// tell whether some are missing.
    fn hidden_routines(&self) -> Vec<Obstacle> {
        let server = &self.server;
        let (grants, account) = (&server.grants, server.account());
        let from = |version: &str| match (server.number(), ToolVersion::find(version)) {
            (Ok(server), Some(version)) => server >= version,
            _ => false,
        };
        let in_table = !(server.flavour == Flavour::MySql && from("8.0.0"));
        let sees_all = (in_table && grants.on_table("SELECT", "mysql", "proc"))
            || (server.flavour == Flavour::MySql
                && (grants.everywhere("SELECT") || grants.everywhere("SHOW_ROUTINE")));
        if sees_all {
            return Vec::new();
        }
        let what = |place: &str| {
            format!(
                "user {} may not see stored routines of others{place}, so that they would be missing silently",
                server.user
            )
        };
        if server.flavour == Flavour::MariaDb && from("11.3.0") {
            let right = "SHOW CREATE ROUTINE";
            let hidden = self.databases.iter().filter(|database| !grants.on_database(right, database));
            return hidden
                .map(|database| {
                    Obstacle::new(
                        what(&format!(" in database {}", shown(database))),
                        format!("GRANT {right} ON {}.* TO {account};", granted(database)),
                    )
                })
                .collect();
        }
        let right = match (in_table, from("8.0.20")) {
            (true, _) => "SELECT ON `mysql`.`proc`",
            (false, true) => "SHOW_ROUTINE ON *.*",
            (false, false) => "SELECT ON *.*",
        };
        vec![Obstacle::new(what(""), format!("GRANT {right} TO {account};"))]
    }

    /// What a person should know; `history` if rows of the past are dumped, too.
    pub(super) fn warnings(&self, client: &Client, locked: bool, history: bool) -> Vec<String> {
        let mut warnings = Vec::new();
        let listed = |names: Vec<String>| {
            let more = names.len().saturating_sub(NAMED_MAX);
            let mut text = names.into_iter().take(NAMED_MAX).collect::<Vec<_>>().join(", ");
            if more > 0 {
                text.push_str(&format!(" and {more} more"));
            }
            text
        };
        let unprotected: Vec<String> = self
            .tables
            .iter()
            .filter(|table| table.is_unprotected())
            .map(|table| format!("{} ({})", table.qualified(), table.engine))
            .collect();
        if !unprotected.is_empty() && !locked {
            warnings.push(format!(
                "a transaction does not protect the tables of engines without one: if they are written to during \
                 the dump they may belong to another moment, or to several: {}; convert them to InnoDB or set \
                 lock_all_tables",
                listed(unprotected)
            ));
        }
        let rowless: Vec<String> = self
            .tables
            .iter()
            .filter(|table| WITHOUT_ROWS.iter().any(|engine| table.engine.eq_ignore_ascii_case(engine)))
            .map(|table| format!("{} ({})", table.qualified(), table.engine))
            .collect();
        if !rowless.is_empty() {
            warnings.push(format!(
                "of tables that keep their rows elsewhere only the form is dumped: {}",
                listed(rowless)
            ));
        }
        let versioned: Vec<String> =
            self.tables.iter().filter(|table| table.versioned).map(Table::qualified).collect();
        if !versioned.is_empty() && !history {
            warnings.push(format!(
                "of system-versioned tables only the present rows are dumped, not their history: {}; add \
                 --dump-history to dump_args to have it",
                listed(versioned)
            ));
        }
        if client.flavour != self.server.flavour {
            warnings.push(format!(
                "{} is a program of {}, and the server is {} {}: install the client programs of {} to be sure of \
                 every type and definition",
                client.name(),
                client.flavour.shown(),
                self.server.flavour.shown(),
                self.server.version,
                self.server.flavour.shown(),
            ));
        } else if self.server.number().is_ok_and(|server| client.version < server) {
            warnings.push(format!(
                "{} {} is older than the server, {}: what is new in the server may be missing from the dump",
                client.name(),
                client.version,
                self.server.version
            ));
        }
        if !self.server.grants.everywhere("PROCESS") {
            warnings.push(format!(
                "a TRUNCATE TABLE during the dump is noticed only with the privilege PROCESS: GRANT PROCESS ON *.* TO \
                 {};",
                self.server.account()
            ));
        }
        warnings
    }

    /// Refuses a dump that would leave something out.
    pub(super) fn refuse_obstacles(
        &self,
        subject: &str,
        accounts: bool,
        chosen: Option<&BTreeSet<&str>>,
    ) -> Result<()> {
        let obstacles = self.obstacles(accounts, chosen);
        if obstacles.is_empty() {
            return Ok(());
        }
        let mut what: Vec<&str> = obstacles.iter().take(NAMED_MAX).map(|obstacle| &*obstacle.what).collect();
        let more = format!("and {} more", obstacles.len().saturating_sub(NAMED_MAX));
        if obstacles.len() > NAMED_MAX {
            what.push(&more);
        }
        let remedies: Vec<&str> =
            obstacles.iter().take(NAMED_MAX).map(|obstacle| &*obstacle.remedy).collect();
        Err(Error::new(ErrorKind::Denied, subject, what.join("; "))
            .with_hint(format!("run as an administrator: {}", remedies.join(" "))))
    }

    /// The tables and views that a selection leaves out.
    ///
    /// # Errors
    /// `NotFound` where a pattern of the selection fits nothing: a misspelt name must not make an
    /// empty backup, nor a whole one.
    pub(super) fn left_out(&self, subject: &str, what: &Selection) -> Result<Vec<&Table>> {
        let include: Vec<Pattern> = what.include.iter().map(|text| Pattern::of_table(text)).collect();
        let exclude: Vec<Pattern> = what.exclude.iter().map(|text| Pattern::of_table(text)).collect();
        for (pattern, text) in include.iter().zip(&what.include) {
            if !self.tables.iter().any(|table| pattern.matches(&table.database, &table.name)) {
                return Err(Error::new(ErrorKind::NotFound, subject, format!("no table fits include {text:?}"))
                    .with_hint("write table, database.table or a pattern with * and ?; a part in backticks is taken as it is"));
            }
        }
        Ok(self
            .tables
            .iter()
            .filter(|table| {
                let fits = |pattern: &Pattern| pattern.matches(&table.database, &table.name);
                (!include.is_empty() && !include.iter().any(fits)) || exclude.iter().any(fits)
            })
            .collect())
    }

    /// Tables as a probe lists them.
    pub(super) fn items(&self) -> Vec<ProbeItem> {
        let tables = self.tables.iter().filter(|table| table.has_rows());
        tables
            .map(|table| ProbeItem {
                name: table.qualified(),
                estimated_rows: table.rows,
                estimated_bytes: table.bytes,
            })
            .collect()
    }
}

impl Table {
    pub(super) fn qualified(&self) -> String {
        qualified(&self.database, &self.name)
    }

    pub(super) fn key(&self) -> (String, String) {
        (self.database.clone(), self.name.clone())
    }

    /// Whether it is a table with rows of its own.
    pub(super) fn has_rows(&self) -> bool {
        !self.view && !self.sequence
    }

    fn is_unprotected(&self) -> bool {
        let among = |engines: &[&str]| engines.iter().any(|engine| self.engine.eq_ignore_ascii_case(engine));
        self.has_rows() && !self.engine.is_empty() && !among(&TRANSACTIONAL) && !among(&WITHOUT_ROWS)
    }
}

/// A database as a grant names it, where its name is a pattern.
fn granted(database: &str) -> String {
    identifier(&database.replace('\\', "\\\\").replace('_', "\\_").replace('%', "\\%"))
}

/// Everything in these databases.
pub(super) async fn tables(cx: &Context, sql: &Sql, databases: &[String]) -> Result<Vec<Table>, MysqlError> {
    let list: Vec<String> = databases.iter().map(|name| literal(name)).collect();
    let statement = format!(
        "SELECT TABLE_SCHEMA, TABLE_NAME, TABLE_TYPE, COALESCE(ENGINE, ''), COALESCE(TABLE_ROWS, ''), \
         COALESCE(DATA_LENGTH, ''), COALESCE(CREATE_TIME, '') FROM information_schema.TABLES \
         WHERE TABLE_SCHEMA IN ({}) ORDER BY 1, 2",
        list.join(", ")
    );
    sql.ask(cx, &statement).await?.into_iter().map(table).collect()
}

fn table(row: Row) -> Result<Table, MysqlError> {
    let [database, name, kind, engine, rows, bytes, created] = <[String; 7]>::try_from(row)
        .map_err(|row| MysqlError::Answer(format!("a list of tables with {} columns", row.len())))?;
    Ok(Table {
        view: kind.contains("VIEW"),
        sequence: kind == "SEQUENCE",
        versioned: kind == "SYSTEM VERSIONED",
        rows: rows.parse().ok(),
        bytes: bytes.parse().ok(),
        database,
        name,
        engine,
        created,
    })
}
