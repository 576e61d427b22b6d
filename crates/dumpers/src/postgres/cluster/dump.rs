//! `pg_dumpall` for what databases share, `pg_dump` for each of them.

use std::collections::{BTreeSet, VecDeque};

use async_trait::async_trait;
use backup_core::{
    ByteStream, Context, Dump, DumpFormat, DumpReport, Dumper, Error, ErrorKind, Obstacle, Probe, ProbeItem,
    Result, Selection, Settled, Stage,
};
use serde::Deserialize;

use super::super::config::{Connection, PostgresConfig};
use super::super::dump::PostgresDumper;
use super::super::error::PostgresError;
use super::super::names::{conninfo_value, identifier, shown};
use super::super::query::Psql;
use super::super::tools::{fitting, installed};
use super::super::{PG_CUSTOM, check_extra_args};
use super::{
    DATABASES, GLOBALS, GLOBALS_FORMAT, INDEX, INDEX_FORMAT, Index, IndexDatabase, PG_BUNDLE, Patterns,
};
use crate::bundle::{Gathered, MemberHead, gathered};
use crate::command::waiting;
use crate::tool::{Places, ToolCommand, ToolVersion, Waiting, stream};

/// Dumps the databases of a server, one after another.
#[derive(Debug, Clone)]
pub struct PostgresClusterDumper {
    connection: Connection,
    config: PostgresConfig,
    places: Places,
    patterns: Patterns,
    waiting: Waiting,
}

/// What the server says of itself.
#[derive(Debug, Deserialize)]
struct Listed {
    server: String,
    user: String,
    may_read_passwords: bool,
    /// Where the questions are asked.
    asked: String,
    databases: Vec<ListedDatabase>,
}

#[derive(Debug, Deserialize)]
struct ListedDatabase {
    name: String,
    encoding: String,
    template: bool,
    connectable: bool,
    may_connect: bool,
    /// Left half dropped by the server.
    invalid: bool,
}

const LIST: &str = "
SELECT json_build_object(
  'server', current_setting('server_version'), 'user', current_user, 'asked', current_database(),
  'may_read_passwords', has_table_privilege('pg_catalog.pg_authid', 'SELECT'),
  'databases', (SELECT json_agg(json_build_object(
      'name', datname, 'encoding', pg_encoding_to_char(encoding), 'template', datistemplate,
      'connectable', datallowconn, 'may_connect', has_database_privilege(oid, 'CONNECT'),
      'invalid', datconnlimit = -2) ORDER BY datname) FROM pg_catalog.pg_database));";

/// Whether a database holds anything that somebody put there.
const UNUSED: &str = "
SELECT to_json(NOT EXISTS (SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                           WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema')
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
                  WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema')
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_namespace
                  WHERE nspname !~ '^pg_' AND nspname NOT IN ('information_schema', 'public'))
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname <> 'plpgsql')
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_largeobject_metadata));";

impl PostgresClusterDumper {
    /// The databases of these settings; nothing is connected yet.
    ///
    /// # Errors
    /// `Config` as for one database.
    pub fn new(config: &PostgresConfig) -> Result<Self> {
        check_extra_args(&config.extra_args)?;
        config.check_source()?;
        Ok(Self {
            connection: config.connection()?,
            config: config.clone(),
            places: Places::new(&config.tool_dirs),
            patterns: Patterns::new(&config.databases, &config.exclude_databases),
            waiting: waiting(config.stall_seconds),
        })
    }

    fn subject(&self) -> String {
        self.connection.describe_server()
    }

    fn with_globals(&self) -> bool {
        self.config.globals == Some(true)
    }

    fn with_passwords(&self) -> bool {
        self.config.role_passwords.unwrap_or(true)
    }

    /// The databases to dump, and what else the server says.
    async fn list(&self, cx: &Context) -> Result<(Listed, Vec<IndexDatabase>)> {
        let fail = |error: PostgresError| error.about(&self.subject());
        let psql = Psql::find(cx, &self.places, &self.connection).await.map_err(fail)?;
        let psql = match self.connection.database() {
            None | Some("") => psql.maintenance(cx).await.map_err(fail)?,
            Some(_) => psql,
        };
        let listed: Listed = psql.ask(cx, LIST).await.map_err(fail)?;
        let names = listed.databases.iter().map(|database| database.name.as_str());
        if let Some(pattern) = self.patterns.unmatched(&names) {
            let what = format!("no database of the server fits {pattern:?}");
            return Err(Error::new(ErrorKind::NotFound, self.subject(), what)
                .with_hint("correct databases and exclude_databases; * and ? stand for other characters"));
        }
        let mut chosen = Vec::new();
        for database in listed.databases.iter().filter(|database| self.patterns.take(&database.name)) {
            let name = &database.name;
            let named = self.patterns.names(name);
            // A template holds nothing of its own, unless somebody says so.
            if database.template && !named {
                continue;
            }
            if database.invalid || !database.connectable {
                let why = if database.invalid {
                    "is half dropped: run DROP DATABASE again, or exclude it".to_owned()
                } else {
                    format!(
                        "accepts no connections: run ALTER DATABASE {} ALLOW_CONNECTIONS true; or exclude it",
                        identifier(name)
                    )
                };
                return Err(Error::new(
                    ErrorKind::Denied,
                    self.subject(),
                    format!("database {name:?} {why}"),
                )
                .with_hint("set exclude_databases to leave it out"));
            }
            // Every server has it, mostly for administrators to connect to.
            if name == "postgres" && !named && database.may_connect {
                let unused: bool = psql.on(name).ask(cx, UNUSED).await.map_err(fail)?;
                if unused {
                    continue;
                }
            }
            chosen.push(IndexDatabase { name: name.clone(), encoding: database.encoding.clone() });
        }
        if chosen.is_empty() {
            return Err(Error::new(ErrorKind::NotFound, self.subject(), "no database is left to dump")
                .with_hint("correct databases and exclude_databases"));
        }
        Ok((listed, chosen))
    }

    /// What keeps this user from dumping, with the remedies.
    fn obstacles(&self, listed: &Listed, chosen: &[IndexDatabase]) -> Vec<Obstacle> {
        let mut obstacles = Vec::new();
        let closed = listed.databases.iter().filter(|database| !database.may_connect);
        for database in closed.filter(|closed| chosen.iter().any(|chosen| chosen.name == closed.name)) {
            obstacles.push(Obstacle {
                what: format!("database {:?} cannot be connected to", database.name),
                remedy: format!(
                    "GRANT CONNECT ON DATABASE {} TO {};",
                    identifier(&database.name),
                    identifier(&listed.user)
                ),
            });
        }
        if self.with_globals() && self.with_passwords() && !listed.may_read_passwords {
            obstacles.push(Obstacle {
                what: "the roles' password hashes (pg_authid) cannot be read".to_owned(),
                remedy: format!(
                    "set role_passwords = false, or run as a superuser: GRANT SELECT ON pg_catalog.pg_authid TO {};",
                    identifier(&listed.user)
                ),
            });
        }
        obstacles
    }

    /// The dumper of one database.
    fn one(&self, name: &str) -> Result<PostgresDumper> {
        let config = PostgresConfig {
            dbname: Some(name.to_owned()),
            databases: Vec::new(),
            exclude_databases: Vec::new(),
            globals: None,
            role_passwords: None,
            ..self.config.clone()
        };
        PostgresDumper::new(&config)
    }

    /// Roles, tablespaces, memberships.
    async fn globals(&self, cx: &Context, listed: &Listed) -> Result<Gathered> {
        let fail = |error: PostgresError| error.about(&self.subject()).at(Stage::Dump);
        let version = ToolVersion::find(&listed.server)
            .ok_or_else(|| fail(PostgresError::Answer(listed.server.clone())))?;
        let tools = installed(cx, &self.places, "pg_dumpall").await.map_err(fail)?;
        let client = fitting(tools, "pg_dumpall", &version).map_err(fail)?;
        let mut options: Vec<String> =
            ["--globals-only", "--encoding=UTF8", "--no-password"].map(str::to_owned).into();
        if !self.with_passwords() {
            options.push("--no-role-passwords".to_owned());
        }
        let command = ToolCommand::new(&client.path)
            .args(&options)
            .arg(format!("--database=dbname={}", conninfo_value(&listed.asked)));
        let output = stream(cx, &self.connection.give(command), self.waiting, false)
            .map_err(|error| Error::from(error).at(Stage::Dump))?;
        let subject = self.subject();
        let convert = move |error| PostgresError::of_tool(error).about(&subject).at(Stage::Dump);
        let report = DumpReport {
            engine: "postgresql".to_owned(),
            versions: [("pg_dumpall".to_owned(), client.version.to_string())].into(),
            options,
            ..DumpReport::default()
        };
        Ok(Gathered {
            head: MemberHead::new(GLOBALS, GLOBALS_FORMAT),
            bytes: output.into_bytes(convert, || ()),
            report: Settled::known(report),
        })
    }

    async fn database(&self, cx: &Context, name: &str) -> Result<Gathered> {
        let dump = match self.one(name)?.dump(cx, &Selection::default()).await {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let what = "the database was dropped while the server was being dumped";
                return Err(Error::new(ErrorKind::Unavailable, error.subject().to_owned(), what)
                    .with_hint("run the backup again")
                    .at(Stage::Dump)
                    .with_source(error));
            }
            dump => dump?,
        };
        Ok(Gathered {
            head: MemberHead::new(format!("{DATABASES}{name}"), PG_CUSTOM).with("database", name),
            bytes: dump.bytes,
            report: dump.report,
        })
    }

    async fn member(&self, cx: &Context, listed: &Listed, step: Step) -> Result<Gathered> {
        match step {
            Step::Index(index) => {
                let json = serde_json::to_vec(&index)
                    .map_err(|error| Error::bug(format!("a list of databases: {error}")))?;
                Ok(Gathered {
                    head: MemberHead::new(INDEX, INDEX_FORMAT),
                    bytes: ByteStream::once(json),
                    report: Settled::known(DumpReport::default()),
                })
            }
            Step::Globals => self.globals(cx, listed).await,
            Step::Database(name) => self.database(cx, &name).await,
        }
    }
}

/// What becomes a member.
#[derive(Debug)]
enum Step {
    Index(Index),
    Globals,
    Database(String),
}

#[async_trait]
impl Dumper for PostgresClusterDumper {
    async fn probe(&self, cx: &Context) -> Result<Probe> {
        let (listed, chosen) = self.list(cx).await.map_err(|error| error.at(Stage::Probe))?;
        let mut whole = Probe {
            engine: "postgresql".to_owned(),
            estimated_bytes: Some(0),
            obstacles: self.obstacles(&listed, &chosen),
            ..Probe::default()
        };
        let closed =
            |name: &str| listed.databases.iter().any(|other| other.name == name && !other.may_connect);
        for database in chosen.iter().filter(|database| !closed(&database.name)) {
            let name = shown(&database.name);
            let one = self.one(&database.name)?.probe(cx).await?;
            whole.versions.extend(one.versions);
            whole.estimated_bytes = whole.estimated_bytes.zip(one.estimated_bytes).map(|(a, b)| a + b);
            let items = one.items.into_iter();
            whole.items.extend(items.map(|item| ProbeItem { name: format!("{name}.{}", item.name), ..item }));
            let obstacles = one.obstacles.into_iter();
            whole.obstacles.extend(obstacles.map(|obstacle| Obstacle {
                what: format!("database {name}: {}", obstacle.what),
                remedy: format!("in database {name}: {}", obstacle.remedy),
            }));
            whole.warnings.extend(one.warnings.iter().map(|warning| format!("database {name}: {warning}")));
        }
        Ok(whole)
    }

    async fn dump(&self, cx: &Context, what: &Selection) -> Result<Dump> {
        let subject = self.subject();
        cx.check(&subject)?;
        if !what.include.is_empty() || !what.exclude.is_empty() {
            return Err(Error::new(ErrorKind::Config, subject, "tables are chosen within one database")
                .with_hint("leave include and exclude out, or back up the one database with dbname")
                .at(Stage::Dump));
        }
        let (listed, chosen) = self.list(cx).await.map_err(|error| error.at(Stage::Dump))?;
        if let Some(obstacle) = self.obstacles(&listed, &chosen).into_iter().next() {
            return Err(Error::new(ErrorKind::Denied, subject, obstacle.what)
                .with_hint(obstacle.remedy)
                .at(Stage::Dump));
        }
        let mut steps: VecDeque<Step> = VecDeque::new();
        steps.push_back(Step::Index(Index { server: listed.server.clone(), databases: chosen.clone() }));
        if self.with_globals() {
            steps.push_back(Step::Globals);
        }
        steps.extend(chosen.into_iter().map(|database| Step::Database(database.name)));
        let (settler, report) = Settled::pending();
        let server = listed.server.clone();
        let state = Some((self.clone(), cx.clone(), listed, steps));
        let dumps = futures::stream::unfold(state, async |state| {
            let (dumper, cx, listed, mut steps) = state?;
            let step = steps.pop_front()?;
            let member = dumper.member(&cx, &listed, step).await;
            let rest = member.is_ok().then_some((dumper, cx, listed, steps));
            Some((member, rest))
        });
        let bytes = gathered(&subject, dumps, move |reports| settler.settle(joined(server, reports)));
        Ok(Dump { format: DumpFormat::new(PG_BUNDLE), bytes, report })
    }
}

/// The reports of all members as one: tables as `database.schema.table`.
fn joined(server: String, reports: Vec<(MemberHead, DumpReport)>) -> DumpReport {
    let mut whole = DumpReport { engine: "postgresql".to_owned(), ..DumpReport::default() };
    let mut options = BTreeSet::new();
    for (head, report) in reports {
        whole.versions.extend(report.versions);
        options.extend(report.options);
        if let Some(database) = head.meta.get("database") {
            let database = shown(database);
            whole.tables.extend(report.tables.iter().map(|table| format!("{database}.{table}")));
        }
    }
    whole.versions.insert("server".to_owned(), server);
    whole.options = options.into_iter().collect();
    whole
}
