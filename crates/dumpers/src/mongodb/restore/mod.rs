//! Restoring an archive: under temporary names first, and under its own after the verified end.
//!
//! MongoDB cannot rename a database, but it renames a collection inside one at once. So documents go
//! into collections called `strongroom_restoring_...`, which get their names when the archive has
//! ended well and every index is built. What fails before is dropped again. Views come last, and a
//! time series, which cannot be renamed, is filled under its own name and dropped if the restore
//! fails.

mod empty_time;
mod insert;
mod replay;
mod target;

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;
use backup_core::{
    Context, Dump, DumpFormat, Error, Event, RestorePlan, RestoreRequest, Restored, Restorer, Result, Stage,
};

use super::MONGODB_ARCHIVE;
use super::archive::{ArchiveParser, Item, Prelude};
use super::catalog;
use super::config::MongoConfig;
use super::connect::{Address, Server};
use super::error::MongoError;
use super::pattern::Renames;
use crate::command::unaccepted;
use insert::Inserts;
use replay::Replay;
use target::Targets;
pub(super) use target::{TEMPORARY, drop_one};

/// How long the removal of what a failed restore made may last.
const CLEANUP: Duration = Duration::from_secs(60);

/// Restores into the databases of the archive, or all into one.
#[derive(Debug)]
pub struct MongoRestorer {
    address: Address,
    renames: Renames,
    parallel: usize,
    users: bool,
}

impl MongoRestorer {
    /// The server of these settings; nothing is connected yet.
    ///
    /// # Errors
    /// `Config` for settings that cannot work.
    pub fn new(config: &MongoConfig) -> Result<Self> {
        let address = Address::new(config)?;
        let into = address.database().map(str::to_owned);
        Ok(Self {
            renames: Renames::new(&config.rename, into)?,
            parallel: config.parallel(),
            users: config.users,
            address,
        })
    }

    fn subject(&self) -> &str {
        self.address.describe()
    }

    fn about(&self, server: &Server, error: MongoError) -> Error {
        match self.address.database() {
            Some(db) => server.about(error, self.subject(), "readWrite", db),
            None => server.about(error, self.subject(), "restore", "admin"),
        }
        .at(Stage::Restore)
    }
}

#[async_trait]
impl Restorer for MongoRestorer {
    fn accepts(&self, format: &DumpFormat) -> bool {
        format.as_str() == MONGODB_ARCHIVE
    }

    async fn plan(&self, cx: &Context, request: RestoreRequest) -> Result<RestorePlan> {
        if !self.accepts(&request.format) {
            return Err(unaccepted(self.subject(), &request.format));
        }
        let failed = |error: MongoError| error.about(self.subject()).at(Stage::Restore);
        let server = self.address.connect(cx).await.map_err(failed)?;
        let mut steps = Vec::new();
        if let Some(db) = self.address.database() {
            let existing =
                catalog::of_database(cx, &server, db).await.map_err(|error| self.about(&server, error))?;
            let (left, existing): (Vec<_>, Vec<_>) = existing
                .into_iter()
                .map(|collection| collection.namespace.collection)
                .partition(|name| name.starts_with(TEMPORARY));
            if !existing.is_empty() && !request.into_existing {
                return Err(failed(holds(db, existing.len())));
            }
            if !left.is_empty() {
                steps.push(format!(
                    "leave alone {} collections of an interrupted restore, called {TEMPORARY}...: drop them",
                    left.len()
                ));
            }
            steps.push(format!("fill collections called {TEMPORARY}... in database {db:?}"));
        } else {
            steps.push(format!(
                "fill collections called {TEMPORARY}... in the databases of the backup{}",
                if request.into_existing { "" } else { ", which must not hold anything yet" }
            ));
        }
        steps.extend(self.renames.describe());
        steps.push("build their indexes after the verified end of the dump".to_owned());
        steps.push(if request.into_existing {
            "give them their names; what has such a name is replaced, other collections stay".to_owned()
        } else {
            "give them their names".to_owned()
        });
        if self.users {
            steps.push("add the users and roles of the backup".to_owned());
        }
        Ok(RestorePlan::looked_at(request, self.subject(), steps))
    }

    async fn restore(&self, cx: &Context, plan: RestorePlan, dump: Dump) -> Result<Restored> {
        cx.check(self.subject()).map_err(|error| error.at(Stage::Restore))?;
        let server =
            self.address.connect(cx).await.map_err(|error| error.about(self.subject()).at(Stage::Restore))?;
        let mut run = Run::new(cx, self, &server, plan.request().into_existing);
        match run.all(dump).await {
            Ok((bytes, warnings)) => Ok(Restored { target: plan.target().to_owned(), bytes, warnings }),
            Err(error) => {
                // Also for a run that was cancelled: what it made must go.
                let cleanup = Context::new();
                let dropped = tokio::time::timeout(CLEANUP, async {
                    run.inserts.stop().await;
                    run.targets.drop_all(&cleanup, &server).await
                })
                .await;
                let mut hint = Vec::new();
                hint.extend(run.targets.kept());
                if !matches!(dropped, Ok(Ok(()))) {
                    hint.push(format!(
                        "collections called {TEMPORARY}... may be left in the target: drop them"
                    ));
                }
                if hint.is_empty() {
                    return Err(error);
                }
                hint.extend(error.hint().map(str::to_owned));
                Err(error.with_hint(hint.join("; ")))
            }
        }
    }
}

/// What is said of a database that is not empty.
pub(super) fn holds(db: &str, count: usize) -> MongoError {
    let collections = if count == 1 { "a collection".to_owned() } else { format!("{count} collections") };
    MongoError::Exists(format!("database {db:?} already holds {collections}"))
}

/// One restore under way.
struct Run<'a> {
    cx: &'a Context,
    restorer: &'a MongoRestorer,
    server: &'a Server,
    into_existing: bool,
    targets: Targets,
    inserts: Inserts,
    replay: Replay,
}

impl<'a> Run<'a> {
    fn new(cx: &'a Context, restorer: &'a MongoRestorer, server: &'a Server, into_existing: bool) -> Self {
        Self {
            cx,
            restorer,
            server,
            into_existing,
            targets: Targets::default(),
            inserts: Inserts::new(server, restorer.parallel),
            replay: Replay::new(&restorer.renames),
        }
    }

    async fn all(&mut self, mut dump: Dump) -> Result<(u64, Vec<String>)> {
        let mut parser = ArchiveParser::new();
        loop {
            let chunk = tokio::select! {
                biased;
                () = self.cx.cancel().cancelled() => {
                    return Err(Error::cancelled(self.restorer.subject()).at(Stage::Restore));
                }
                chunk = dump.bytes.next() => chunk,
            };
            let Some(chunk) = chunk.transpose()? else { break };
            parser.push(&chunk);
            loop {
                match parser.next_item() {
                    Ok(Some(item)) => self.item(item).await.map_err(|error| self.about(error))?,
                    Ok(None) => break,
                    Err(error) => return Err(self.about(error.into())),
                }
            }
        }
        let contents = parser.finish().map_err(|error| self.about(error.into()))?;
        self.finish().await.map_err(|error| self.about(error))?;
        Ok((contents.bytes, std::mem::take(&mut self.targets.warnings)))
    }

    fn about(&self, error: MongoError) -> Error {
        self.restorer.about(self.server, error)
    }

    async fn item(&mut self, item: Item) -> Result<(), MongoError> {
        match item {
            Item::Prelude(prelude) => self.begin(&prelude).await,
            Item::Documents { entry, namespace, documents, .. } => {
                if self.targets.is_oplog(entry) {
                    if !self.targets.all_ended() {
                        return Err(super::archive::ArchiveError::Field("order of the oplog").into());
                    }
                    self.inserts.drain().await?;
                    return self.replay.apply(self.cx, self.server, &mut self.targets, &documents).await;
                }
                match self.targets.place_of(entry, &namespace) {
                    Some(place) => self.inserts.add(entry, place, documents).await,
                    // Users that nobody asked for.
                    None => Ok(()),
                }
            }
            Item::Ended { entry } => {
                self.targets.ended(entry);
                self.inserts.flush(entry).await
            }
        }
    }

    async fn begin(&mut self, prelude: &Prelude) -> Result<(), MongoError> {
        let Self { cx, restorer, server, .. } = *self;
        self.targets = Targets::of(prelude, &restorer.renames, restorer.users)?;
        let databases: BTreeSet<String> = self.targets.databases();
        for db in &databases {
            let existing = catalog::of_database(cx, server, db).await?;
            let existing: Vec<_> = existing
                .into_iter()
                .filter(|collection| !collection.namespace.collection.starts_with(TEMPORARY))
                .collect();
            if !existing.is_empty() && !self.into_existing {
                return Err(holds(db, existing.len()));
            }
            self.targets.know(existing);
        }
        self.targets.create(cx, server).await
    }

    async fn finish(&mut self) -> Result<(), MongoError> {
        let (cx, server) = (self.cx, self.server);
        self.inserts.drain().await?;
        self.replay.finish(server).await?;
        self.targets.build_indexes(cx, server, self.restorer.parallel).await?;
        // From here on it is a matter of names.
        if cx.cancel().is_cancelled() {
            return Err(MongoError::Cancelled);
        }
        self.targets.hand_over(server, self.into_existing).await?;
        for warning in &self.targets.warnings {
            cx.report(Event::Warning(warning));
        }
        Ok(())
    }
}

impl Renames {
    /// Refuses to mix databases: with one target database there must be one in the archive.
    pub(super) fn check<'a>(&self, databases: impl Iterator<Item = &'a str>) -> Result<(), MongoError> {
        let names: BTreeSet<&str> = databases.collect();
        match self.into() {
            Some(into) if names.len() > 1 && !self.has_rules() => {
                let names = names.into_iter().take(10).collect::<Vec<_>>().join(", ");
                Err(MongoError::Names(format!(
                    "the backup holds several databases ({names}), which do not go into one called {into:?}"
                )))
            }
            _ => Ok(()),
        }
    }
}
