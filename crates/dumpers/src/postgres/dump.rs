//! `pg_dump` in its custom format, uncompressed, as a stream.

use std::collections::BTreeMap;

use async_trait::async_trait;
use backup_core::{
    Context, Dump, DumpFormat, DumpReport, Dumper, Error, ErrorKind, Obstacle, Probe, ProbeItem, Result,
    Selection, Settled, Stage,
};
use serde::Deserialize;

use super::config::{Connection, PostgresConfig};
use super::error::PostgresError;
use super::inspect::parsed;
use super::names::qualified;
use super::parallel;
use super::query::Psql;
use super::tools::{Client, fitting, installed};
use super::{PG_CUSTOM, check_extra_args};
use crate::command::waiting;
use crate::tool::{Places, ToolCommand, ToolVersion, Waiting, stream};

/// The most obstacles that one message names; a probe names all.
const NAMED_MAX: usize = 10;

/// Dumps one database.
#[derive(Debug)]
pub struct PostgresDumper {
    pub(super) connection: Connection,
    pub(super) places: Places,
    pub(super) extra_args: Vec<String>,
    pub(super) waiting: Waiting,
    /// More than one where rows are read over several connections.
    jobs: u32,
}

impl PostgresDumper {
    /// The database of these settings; nothing is connected yet.
    ///
    /// # Errors
    /// `Config` for a wrong URI or an argument that would change what the stream is.
    pub fn new(config: &PostgresConfig) -> Result<Self> {
        check_extra_args(&config.extra_args)?;
        config.check_source()?;
        Ok(Self {
            connection: config.connection()?,
            places: Places::new(&config.tool_dirs),
            extra_args: config.extra_args.clone(),
            waiting: waiting(config.stall_seconds),
            jobs: parallel::jobs(config)?,
        })
    }

    async fn look(&self, cx: &Context) -> Result<(Looked, Client), PostgresError> {
        let psql = Psql::find(cx, &self.places, &self.connection).await?;
        let looked: Looked = psql.ask(cx, LOOK).await?;
        let server = looked.server()?;
        let client = fitting(installed(cx, &self.places, "pg_dump").await?, "pg_dump", &server)?;
        Ok((looked, client))
    }
}

/// What the server says of the database.
#[derive(Debug, Deserialize)]
struct Looked {
    server: String,
    bytes: Option<u64>,
    tables: Vec<LookedTable>,
    /// `GRANT` statements that are missing, each complete.
    grants: Vec<String>,
    /// Names of what those would open.
    unreadable: Vec<String>,
    /// Tables whose row security hides rows from this user.
    hidden: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct LookedTable {
    schema: String,
    name: String,
    rows: f64,
    bytes: Option<u64>,
}

/// One statement: version, size without indexes, tables, and what this user cannot read. It takes no
/// lock on any table. System
/// schemas and members of extensions are left out, as `pg_dump` does.
const LOOK: &str = r"
WITH own AS (
  SELECT c.oid, c.relkind, c.reltuples, c.relrowsecurity, c.relforcerowsecurity, c.relowner,
         c.relpages, c.reltoastrelid, n.nspname, c.relname, n.oid AS schema_oid,
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
                      WHERE relkind = 'r' AND row_security_active(oid)), '[]'::json)
);";

impl Looked {
    fn server(&self) -> Result<ToolVersion, PostgresError> {
        ToolVersion::find(&self.server).ok_or_else(|| PostgresError::Answer(self.server.clone()))
    }

    /// Everything that would make `pg_dump` fail later, in sentences.
    fn obstacles(&self) -> Vec<Obstacle> {
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

    fn refuse_obstacles(&self, subject: &str) -> Result<()> {
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

    fn versions(&self, client: &Client) -> BTreeMap<String, String> {
        BTreeMap::from([
            ("server".to_owned(), self.server.clone()),
            ("pg_dump".to_owned(), client.version.to_string()),
        ])
    }
}

#[async_trait]
impl Dumper for PostgresDumper {
    async fn probe(&self, cx: &Context) -> Result<Probe> {
        let subject = self.connection.describe();
        let (looked, client) = self.look(cx).await.map_err(|error| error.about(&subject).at(Stage::Probe))?;
        Ok(Probe {
            engine: "postgresql".to_owned(),
            versions: looked.versions(&client),
            estimated_bytes: looked.bytes,
            obstacles: looked.obstacles(),
            warnings: Vec::new(),
            items: looked
                .tables
                .into_iter()
                // Below zero: never analyzed.
                .map(|table| ProbeItem {
                    estimated_rows: (table.rows >= 0.0).then_some(table.rows as u64),
                    estimated_bytes: table.bytes,
                    name: qualified(&table.schema, &table.name),
                })
                .collect(),
        })
    }

    async fn dump(&self, cx: &Context, what: &Selection) -> Result<Dump> {
        let subject = self.connection.describe();
        cx.check(&subject)?;
        let (looked, client) = self.look(cx).await.map_err(|error| error.about(&subject).at(Stage::Dump))?;
        let everything = what.include.is_empty() && what.exclude.is_empty();
        if everything && self.extra_args.is_empty() {
            looked.refuse_obstacles(&subject).map_err(|error| error.at(Stage::Dump))?;
        }
        if self.jobs > 1 {
            let versions = looked.versions(&client);
            return self.dump_parallel(cx, what, self.jobs, client, versions).await;
        }
        let options = self.options(what);
        let command = self.connection.give(ToolCommand::new(&client.path).args(&options));
        let output =
            stream(cx, &command, self.waiting, false).map_err(|error| Error::from(error).at(Stage::Dump))?;
        let (settler, report) = Settled::pending();
        let facts = DumpReport {
            engine: "postgresql".to_owned(),
            versions: looked.versions(&client),
            options,
            tables: Vec::new(),
        };
        let convert = {
            let subject = subject.clone();
            move |error| PostgresError::of_tool(error).about(&subject).at(Stage::Dump)
        };
        // The archive is read on its way: its own table of contents names the tables, and an end
        // before its end is no end, whatever the program's status says.
        let refuse = move |error| {
            let what = format!("pg_dump ended well, but its archive is broken: {error}");
            Error::new(ErrorKind::Tool, &*subject, what).at(Stage::Dump).with_source(error)
        };
        let bytes = parsed(cx, output.into_bytes(convert, || ()), refuse, move |contents| {
            settler.settle(DumpReport { tables: contents.tables, ..facts });
        });
        Ok(Dump { format: DumpFormat::new(PG_CUSTOM), bytes, report })
    }
}

impl PostgresDumper {
    /// The arguments: the custom format, uncompressed, to standard output. The connection is not
    /// among them.
    fn options(&self, what: &Selection) -> Vec<String> {
        let mut options: Vec<String> =
            ["--format=custom", "--compress=0", "--no-password"].map(str::to_owned).into();
        options.extend(self.choosing(what));
        options
    }

    /// The arguments that choose what is dumped.
    pub(super) fn choosing(&self, what: &Selection) -> Vec<String> {
        let include = what.include.iter().map(|pattern| format!("--table={pattern}"));
        let exclude = what.exclude.iter().map(|pattern| format!("--exclude-table={pattern}"));
        include.chain(exclude).chain(self.extra_args.iter().cloned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dumper(folder: &std::path::Path, variable: &str) -> PostgresDumper {
        let url =
            std::env::var(variable).unwrap_or_else(|_| panic!("{variable} is not set: run scripts/test"));
        let config = PostgresConfig::from_url(&url).unwrap();
        PostgresDumper { places: Places::only(&[folder.to_owned()]), ..PostgresDumper::new(&config).unwrap() }
    }

    async fn refusals(dumper: &PostgresDumper) -> [Error; 2] {
        let cx = Context::new();
        [dumper.probe(&cx).await.unwrap_err(), dumper.dump(&cx, &Selection::default()).await.unwrap_err()]
    }

    /// A folder with links to these programs, of a version before 18.
    async fn older(programs: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for program in programs {
            let clients = installed(&Context::new(), &Places::new(&[]), program).await.unwrap();
            let older = clients.into_iter().find(|client| client.version.major() < 18).unwrap();
            std::os::unix::fs::symlink(older.path, folder.path().join(program)).unwrap();
        }
        folder
    }

    #[tokio::test]
    async fn incident_82_a_pg_dump_older_than_the_server_is_named_with_the_remedy() {
        let folder = older(&["psql", "pg_dump"]).await;
        for error in refusals(&dumper(folder.path(), "STRONGROOM_TEST_PG18_URL")).await {
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            let what = error.what();
            assert!(
                what.starts_with("server 18.") && what.contains("is newer than every pg_dump found ("),
                "{what}"
            );
            assert!(what.contains(&folder.path().display().to_string()), "{what}");
            assert_eq!(error.hint(), Some("install postgresql-client-18"));
        }
    }

    #[tokio::test]
    async fn a_missing_program_is_named() {
        let folder = older(&["psql"]).await;
        for error in refusals(&dumper(folder.path(), "STRONGROOM_TEST_PG_URL")).await {
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.what().contains("pg_dump was not found in"), "{error}");
        }
        let empty = tempfile::tempdir().unwrap();
        for error in refusals(&dumper(empty.path(), "STRONGROOM_TEST_PG_URL")).await {
            assert!(error.what().contains("psql was not found in"), "{error}");
            assert!(error.hint().unwrap().contains("tool_dirs"), "{:?}", error.hint());
        }
    }
}
