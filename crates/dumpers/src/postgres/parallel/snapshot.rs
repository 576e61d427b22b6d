//! The session that holds the snapshot and the locks, and what it says of the tables.

use backup_core::Context;
use serde::Deserialize;

use super::super::config::Connection;
use super::super::dump::Mark;
use super::super::error::PostgresError;
use super::super::names::literal;
use super::super::tools::Client;
use super::ranges::{TableFacts, lock_statements};
use super::session::Session;
use super::toc::TableData;
use super::wire::Reached;
use crate::tool::Waiting;

/// The first version that reads a range of `ctid` without reading the whole table.
const RANGE_SCANS_SINCE: u32 = 140_000;
/// How long a lock is waited for that `pg_dump` already has: only somebody who waits for a stronger
/// one stands before us then, and waits for us.
const LOCK_WAIT_MAX: u64 = 10;

/// That time for a server, where the settings give so many seconds to all waiting.
pub(super) fn lock_wait(timeout: u64) -> String {
    format!("{}s", if timeout == 0 { LOCK_WAIT_MAX } else { timeout.min(LOCK_WAIT_MAX) })
}

/// A snapshot that other sessions can read at, as long as this value lives.
#[derive(Debug)]
pub(in crate::postgres) struct Snapshot {
    session: Session,
    /// The one server of possibly several that the snapshot is on.
    pub(in crate::postgres) connection: Connection,
    /// The snapshot's name.
    pub(in crate::postgres) id: String,
    /// The encoding of the database, in which rows are dumped.
    pub(super) encoding: String,
    /// When the server was started, as it writes it: another server has another moment.
    pub(super) started: String,
    version: u32,
}

#[derive(Debug, Deserialize)]
struct Found {
    id: String,
    encoding: String,
    started: String,
    version: u32,
    host: String,
    port: String,
}

const EXPORT: &str = "SELECT json_build_object('id', pg_catalog.pg_export_snapshot(), \
  'encoding', pg_catalog.current_setting('server_encoding'), \
  'started', pg_catalog.pg_postmaster_start_time(), \
  'version', pg_catalog.current_setting('server_version_num')::pg_catalog.int4, \
  'host', :'HOST', 'port', :'PORT');";

const REACHED: &str = "SELECT json_build_object('host', :'HOST', 'port', :'PORT', 'user', :'USER', \
  'dbname', :'DBNAME', 'ssl', coalesce((SELECT ssl FROM pg_catalog.pg_stat_ssl \
    WHERE pid = pg_catalog.pg_backend_pid()), false), \
  'gss', coalesce((SELECT encrypted FROM pg_catalog.pg_stat_gssapi WHERE pid = pg_catalog.pg_backend_pid()), false));";

#[derive(Debug, Deserialize)]
struct Kind {
    relkind: Option<String>,
    heap: bool,
    condition: String,
}

#[derive(Debug, Deserialize)]
struct Size {
    pages: u64,
    bytes: u64,
}

impl Snapshot {
    /// Takes the snapshot of this moment.
    pub(in crate::postgres) async fn take(
        cx: &Context,
        psql: &Client,
        connection: &Connection,
        waiting: Waiting,
        mark: &Mark,
    ) -> Result<Self, PostgresError> {
        // So that whoever looks at the sessions can tell it from those that can be spared.
        let named = connection.named(&mark.snapshot());
        let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;";
        let mut session = Session::open(cx, psql, &named, waiting, begin).await?;
        let found: Found = session.ask(EXPORT).await?;
        Ok(Self {
            session,
            connection: connection.pinned(&found.host, &found.port),
            id: found.id,
            encoding: found.encoding,
            started: found.started,
            version: found.version,
        })
    }

    /// How the server was reached.
    pub(super) async fn reached(&mut self) -> Result<Reached, PostgresError> {
        self.session.ask(REACHED).await
    }

    /// Locks the tables against changes of their shape, as `pg_dump` does, and looks at them.
    pub(super) async fn lock(
        &mut self,
        tables: &[TableData],
        wait: &str,
    ) -> Result<Vec<TableFacts>, PostgresError> {
        let names: Vec<[&str; 2]> = tables.iter().map(|table| [&*table.schema, &*table.name]).collect();
        let names =
            serde_json::to_string(&names).map_err(|error| PostgresError::Answer(error.to_string()))?;
        let wanted = format!(
            "FROM pg_catalog.json_array_elements({}::pg_catalog.json) WITH ORDINALITY AS wanted (pair, n)
             LEFT JOIN pg_catalog.pg_namespace s ON s.nspname = pair->>0
             LEFT JOIN pg_catalog.pg_class c ON c.relnamespace = s.oid AND c.relname = pair->>1",
            literal(&names)
        );
        let kinds: Vec<Kind> = self
            .session
            .ask(&format!(
                "SELECT coalesce(json_agg(json_build_object('relkind', c.relkind,
                   'heap', coalesce(m.amname = 'heap', false),
                   'condition', coalesce((SELECT e.extcondition[array_position(e.extconfig, c.oid)]
                                          FROM pg_catalog.pg_extension e
                                          WHERE c.oid = ANY (e.extconfig) LIMIT 1), '')) ORDER BY n), '[]'::json)
                 {wanted} LEFT JOIN pg_catalog.pg_am m ON m.oid = c.relam;"
            ))
            .await?;
        if kinds.len() != tables.len() {
            return Err(PostgresError::Answer("another number of tables than asked for".to_owned()));
        }
        let plain = |kind: &Kind| kind.relkind.as_deref() == Some("r");
        let lockable: Vec<&TableData> =
            tables.iter().zip(&kinds).filter(|(_, kind)| plain(kind)).map(|(table, _)| table).collect();
        self.session.run(&format!("SET LOCAL lock_timeout = '{wait}';")).await?;
        for statement in lock_statements(&lockable) {
            self.session.run(&statement).await?;
        }
        self.session.run("SET LOCAL lock_timeout = 0;").await?;
        self.unchanged(true).await?;
        let sizes: Vec<Size> = self
            .session
            .ask(&format!(
                "SELECT coalesce(json_agg(json_build_object(
                   'pages', coalesce(pg_catalog.pg_relation_size(c.oid), 0)
                            / pg_catalog.current_setting('block_size')::pg_catalog.int8,
                   'bytes', coalesce(pg_catalog.pg_table_size(c.oid), 0)) ORDER BY n), '[]'::json) {wanted};"
            ))
            .await?;
        let mut facts = Vec::with_capacity(tables.len());
        for ((table, kind), size) in tables.iter().zip(kinds).zip(sizes) {
            let plain = plain(&kind);
            if kind.relkind.is_none() {
                return Err(PostgresError::Answer(format!("there is no table {}", table.shown())));
            }
            // psql reads a command of its own wherever a backslash stands.
            if kind.condition.contains('\\') {
                return Err(PostgresError::NotParallel(format!(
                    "{}, whose extension gives it a condition with a backslash",
                    table.shown()
                )));
            }
            facts.push(TableFacts {
                cut: plain && kind.heap && kind.condition.is_empty() && self.version >= RANGE_SCANS_SINCE,
                pages: size.pages,
                bytes: size.bytes,
                condition: kind.condition,
                plain,
            });
        }
        Ok(facts)
    }

    /// Refuses a snapshot older than what is locked now: a table that was truncated, rewritten or put in
    /// another's place after it was taken reads as empty at it (PostgreSQL manual, 13.6, Caveats).
    ///
    /// Of all tables, or of those that this session has locked. The tables of the catalog are read at the
    /// snapshot; what functions say of an object is of this moment.
    ///
    /// # Errors
    /// `Changed` with some of the tables.
    pub(in crate::postgres) async fn unchanged(&mut self, locked_only: bool) -> Result<(), PostgresError> {
        let which = if locked_only {
            "c.oid IN (SELECT l.relation FROM pg_catalog.pg_locks l WHERE l.locktype = 'relation'
               AND l.pid = pg_catalog.pg_backend_pid())"
        } else {
            "c.relpersistence <> 't'"
        };
        // Of what was locked by its name, only the table that has the name now is locked.
        let other = if locked_only {
            "UNION ALL SELECT l.relation::pg_catalog.regclass::pg_catalog.text FROM pg_catalog.pg_locks l
               WHERE l.locktype = 'relation' AND l.pid = pg_catalog.pg_backend_pid()
                 AND l.relation >= '16384'::pg_catalog.oid
                 AND NOT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = l.relation)"
        } else {
            ""
        };
        let changed: Vec<String> = self
            .session
            .ask(&format!(
                "SELECT coalesce(json_agg(name), '[]'::json) FROM (
                   SELECT pg_catalog.format('%I.%I', s.nspname, c.relname) AS name
                   FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace s ON s.oid = c.relnamespace
                   WHERE c.relkind = 'r' AND c.oid >= '16384'::pg_catalog.oid AND {which} AND (
                     c.oid::pg_catalog.regclass::pg_catalog.text
                       IS DISTINCT FROM pg_catalog.format('%I.%I', s.nspname, c.relname)
                     OR c.relfilenode IS DISTINCT FROM pg_catalog.pg_relation_filenode(c.oid))
                   {other}) AS changed;"
            ))
            .await?;
        if changed.is_empty() {
            return Ok(());
        }
        const SHOWN: usize = 5;
        let more = if changed.len() > SHOWN { " and others" } else { "" };
        let some = changed.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
        Err(PostgresError::Changed(format!("{some}{more} were rewritten, emptied or replaced")))
    }

    /// Whether the snapshot and the locks are still held.
    ///
    /// # Errors
    /// `SnapshotLost` when the session has ended.
    pub(super) async fn check(&mut self) -> Result<(), PostgresError> {
        match self.session.run("SELECT 1;").await {
            Ok(()) => Ok(()),
            Err(PostgresError::Tool(error @ crate::tool::ToolError::Cancelled { .. })) => Err(error.into()),
            Err(error) => Err(PostgresError::SnapshotLost(error.to_string())),
        }
    }
}
