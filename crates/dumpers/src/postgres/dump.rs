//! `pg_dump` in its custom format, uncompressed, as a stream.

mod look;
mod pattern;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use backup_core::{
    ByteStream, Context, Dump, DumpFormat, DumpReport, Dumper, Error, ErrorKind, Event, Plain, Probe,
    ProbeItem, Result, Selection, Settled, Stage,
};

use super::config::{Connection, PostgresConfig};
use super::error::PostgresError;
use super::inspect::parsed;
use super::names::qualified;
use super::parallel;
use super::parallel::snapshot::Snapshot;
use super::query::Psql;
use super::tools::{Client, fitting, installed};
use super::{PG_CUSTOM, check_extra_args};
use crate::command::waiting;
use crate::tool::{Places, ToolCommand, Waiting, stream};
use look::{LOOK, Looked};
pub(super) use watch::{Mark, Patience, Watch};

/// Seconds to wait for a lock on a table, unless the settings say otherwise.
const LOCK_TIMEOUT: u64 = 300;
/// Seconds that others may wait for the dump, unless the settings say otherwise.
const LOCK_WAIT_LIMIT: u64 = 60;
/// How often a dump that gave way before its first byte, or whose tables changed, is started in all.
const ATTEMPTS: u32 = 3;
/// The wait before the next start after tables changed.
const CHANGED_PAUSE: Duration = Duration::from_secs(1);

/// Dumps one database.
#[derive(Debug, Clone)]
pub struct PostgresDumper {
    pub(super) connection: Connection,
    pub(super) places: Places,
    pub(super) config: PostgresConfig,
    pub(super) waiting: Waiting,
    /// More than one where rows are read over several connections.
    jobs: u32,
}

impl PostgresDumper {
    /// The database of these settings; nothing is connected yet.
    ///
    /// # Errors
    /// `Config` for a wrong URI, and for settings and arguments that are not those of a dump or would
    /// change what the stream is.
    pub fn new(config: &PostgresConfig) -> Result<Self> {
        check_extra_args(&config.extra_args)?;
        config.check_source()?;
        Ok(Self {
            connection: config.connection()?,
            places: Places::new(&config.tool_dirs),
            config: config.clone(),
            waiting: waiting(config.stall_seconds),
            jobs: parallel::jobs(config)?,
        })
    }

    async fn look(&self, cx: &Context) -> Result<(Looked, Client, Psql), PostgresError> {
        let psql = Psql::find(cx, &self.places, &self.connection).await?;
        let looked: Looked = psql.ask(cx, LOOK).await?;
        let server = looked.server()?;
        let client = fitting(installed(cx, &self.places, "pg_dump").await?, "pg_dump", &server)?;
        Ok((looked, client, psql))
    }

    /// How long others may wait for the dump; `None` to look after nobody.
    pub(super) fn patience(&self) -> Option<Patience> {
        let limit = self.config.lock_wait_limit_seconds.unwrap_or(LOCK_WAIT_LIMIT);
        let on_blocked = self.config.on_blocked.unwrap_or_default();
        (limit > 0).then(|| Patience { limit: Duration::from_secs(limit), on_blocked })
    }

    /// Refuses a selection that cannot be meant.
    async fn check_selection(&self, cx: &Context, psql: &Psql, what: &Selection) -> Result<()> {
        let subject = self.connection.describe();
        if !what.include.is_empty() && !self.config.schemas.is_empty() {
            // pg_dump would pass over the schemas in silence.
            return Err(Error::new(ErrorKind::Config, subject, "both tables and schemas are chosen")
                .with_hint("choose tables as schema.table, or schemas and tables to exclude"));
        }
        let Some(query) = pattern::unmatched_query(&what.exclude, &self.config.exclude_schemas) else {
            return Ok(());
        };
        let unmatched: Vec<String> = psql.ask(cx, &query).await.map_err(|error| error.about(&subject))?;
        if unmatched.is_empty() {
            return Ok(());
        }
        let what = format!("excluded, and not there: {}", unmatched.join(", "));
        Err(PostgresError::NoMatch(what).about(&subject))
    }

    /// The arguments: the custom format, uncompressed, to standard output. The connection is not
    /// among them.
    fn options(&self, what: &Selection) -> Vec<String> {
        let mut options: Vec<String> =
            ["--format=custom", "--compress=0", "--no-password"].map(str::to_owned).into();
        options.extend(self.choosing(what));
        options
    }

    /// The arguments that choose what is dumped and how long is waited for it.
    pub(super) fn choosing(&self, what: &Selection) -> Vec<String> {
        let config = &self.config;
        let mut options = Vec::new();
        let timeout = config.lock_timeout_seconds.unwrap_or(LOCK_TIMEOUT);
        if timeout > 0 {
            options
                .push(format!("--lock-wait-timeout={}", timeout.saturating_mul(1000).min(i32::MAX as u64)));
        }
        if !what.include.is_empty() || !config.schemas.is_empty() {
            options.push("--strict-names".to_owned());
        }
        options.extend(what.include.iter().map(|pattern| format!("--table={pattern}")));
        options.extend(what.exclude.iter().map(|pattern| format!("--exclude-table={pattern}")));
        options.extend(config.schemas.iter().map(|pattern| format!("--schema={pattern}")));
        options.extend(config.exclude_schemas.iter().map(|pattern| format!("--exclude-schema={pattern}")));
        options.extend(config.extra_args.iter().cloned());
        options
    }

    /// One run of `pg_dump` at a snapshot, watched over.
    async fn attempt(
        &self,
        cx: &Context,
        client: &Client,
        psql: &Psql,
        options: &[String],
    ) -> Result<Attempt> {
        let subject = self.connection.describe();
        let mark = Mark::random().map_err(|error| error.about(&subject).at(Stage::Dump))?;
        let before = Snapshot::take(cx, psql.client(), &self.connection, self.waiting, &mark)
            .await
            .map_err(|error| error.about(&subject).at(Stage::Dump))?;
        // A snapshot of its own is a little later: what changed in between is told needlessly.
        let own = |arg: &String| ["--sn", "--ser"].iter().any(|beginning| arg.starts_with(beginning));
        let at = (!options.iter().any(own)).then(|| format!("--snapshot={}", before.id));
        let connection = before.connection.named(&mark.dump());
        let command = connection.give(ToolCommand::new(&client.path).args(options).args(at));
        let output =
            stream(cx, &command, self.waiting, false).map_err(|error| Error::from(error).at(Stage::Dump))?;
        let watch =
            self.patience().map(|patience| Watch::start(cx, psql.at(&before.connection), &mark, patience));
        let convert = move |error| PostgresError::of_tool(error).about(&subject).at(Stage::Dump);
        Ok(Attempt { bytes: output.into_bytes(convert, || ()), watch, before: Some(before), changed: false })
    }
}

/// A run of `pg_dump` and the watch over who waits for it.
struct Attempt {
    bytes: ByteStream<Plain>,
    watch: Option<Watch>,
    /// The snapshot, until the first bytes came.
    before: Option<Snapshot>,
    /// Whether a table changed between the snapshot and its lock.
    changed: bool,
}

impl Attempt {
    async fn next(&mut self, subject: &str) -> Option<Result<bytes::Bytes>> {
        let next = self.read(subject).await?;
        // The sessions that were ended are no errors of their own.
        Some(match (next, self.watch.as_ref().and_then(Watch::gave_way)) {
            (Err(error), Some(who)) if error.kind() != ErrorKind::Cancelled => {
                Err(PostgresError::GaveWay(who).about(subject).at(Stage::Dump))
            }
            (next, _) => next,
        })
    }

    async fn read(&mut self, subject: &str) -> Option<Result<bytes::Bytes>> {
        let next = self.bytes.next().await;
        // pg_dump writes nothing before it has all its locks. A small dump is over by now, so all tables
        // are looked at rather than those it has locked.
        if let (Some(Ok(_)), Some(mut snapshot)) = (&next, self.before.take())
            && let Err(error) = snapshot.unchanged(false).await
        {
            self.changed = matches!(error, PostgresError::Changed(_));
            return Some(Err(error.about(subject).at(Stage::Dump)));
        }
        next
    }
}

/// The bytes of a run; one that gives way before its first byte, or whose tables changed before it had
/// its locks, is started again after a pause.
fn persistent<F>(
    cx: &Context,
    subject: &str,
    pause: Duration,
    first: Attempt,
    again: impl Fn() -> F + Send + 'static,
) -> ByteStream<Plain>
where
    F: Future<Output = Result<Attempt>> + Send + 'static,
{
    let state = Some((first, ATTEMPTS - 1, cx.clone(), subject.to_owned(), again));
    ByteStream::new(futures::stream::unfold(state, move |state| async move {
        let (mut attempt, mut left, cx, subject, again) = state?;
        loop {
            let error = match attempt.next(&subject).await? {
                // The rest of the dump follows whatever it is.
                Ok(chunk) => return Some((Ok(chunk), Some((attempt, 0, cx, subject, again)))),
                Err(error) => error,
            };
            let gave_way = attempt.watch.as_ref().is_some_and(|watch| watch.gave_way().is_some());
            if !(gave_way || attempt.changed) || left == 0 {
                return Some((Err(error), None));
            }
            left -= 1;
            let pause = if gave_way { pause } else { CHANGED_PAUSE };
            cx.report(Event::Warning(&format!("{error}; it is tried again")));
            tokio::select! {
                biased;
                () = cx.cancel().cancelled() => return Some((Err(Error::cancelled(&*subject)), None)),
                () = tokio::time::sleep(pause) => {}
            }
            drop(attempt);
            attempt = match again().await {
                Ok(attempt) => attempt,
                Err(error) => return Some((Err(error), None)),
            };
        }
    }))
}

#[async_trait]
impl Dumper for PostgresDumper {
    async fn probe(&self, cx: &Context) -> Result<Probe> {
        let subject = self.connection.describe();
        let (looked, client, _) =
            self.look(cx).await.map_err(|error| error.about(&subject).at(Stage::Probe))?;
        Ok(Probe {
            engine: "postgresql".to_owned(),
            versions: looked.versions(&client),
            estimated_bytes: looked.bytes,
            obstacles: looked.obstacles(),
            warnings: looked.warnings(),
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
        let (looked, client, psql) =
            self.look(cx).await.map_err(|error| error.about(&subject).at(Stage::Dump))?;
        self.check_selection(cx, &psql, what).await.map_err(|error| error.at(Stage::Dump))?;
        let config = &self.config;
        let everything = what.include.is_empty()
            && what.exclude.is_empty()
            && config.schemas.is_empty()
            && config.exclude_schemas.is_empty();
        if everything && config.extra_args.is_empty() {
            looked.refuse_obstacles(&subject).map_err(|error| error.at(Stage::Dump))?;
        }
        for warning in looked.warnings() {
            cx.report(Event::Warning(&warning));
        }
        if self.jobs > 1 {
            let versions = looked.versions(&client);
            return self.dump_parallel(cx, what, self.jobs, client, &psql, versions).await;
        }
        let options = self.options(what);
        let (settler, report) = Settled::pending();
        let facts = DumpReport {
            engine: "postgresql".to_owned(),
            versions: looked.versions(&client),
            options: options.clone(),
            ..DumpReport::default()
        };
        let first = self.attempt(cx, &client, &psql, &options).await?;
        let pause = self.patience().map_or(CHANGED_PAUSE, |patience| patience.limit);
        let run = Arc::new((self.clone(), cx.clone(), client, psql, options));
        let again = move || {
            let run = Arc::clone(&run);
            async move {
                let (dumper, cx, client, psql, options) = &*run;
                dumper.attempt(cx, client, psql, options).await
            }
        };
        let bytes = persistent(cx, &subject, pause, first, again);
        // The archive is read on its way: its own table of contents names the tables, and an end
        // before its end is no end, whatever the program's status says.
        let refuse = move |error| {
            let what = format!("pg_dump ended well, but its archive is broken: {error}");
            Error::new(ErrorKind::Tool, &*subject, what).at(Stage::Dump).with_source(error)
        };
        let bytes = parsed(cx, bytes, refuse, move |contents| {
            settler.settle(DumpReport { tables: contents.tables, ..facts });
        });
        Ok(Dump { format: DumpFormat::new(PG_CUSTOM), bytes, report })
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
