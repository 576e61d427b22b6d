//! An archive given to `mongorestore`.
//!
//! The program fills collections under their own names, so what is restored can be seen while it is
//! written. What a failed restore made is dropped again: collections of the archive that were not
//! there when it began.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;

use async_trait::async_trait;
use backup_core::{
    ByteStream, Context, Dump, DumpFormat, Error, Plain, RestorePlan, RestoreRequest, Restored, Restorer,
    Result, Stage,
};
use bytes::Bytes;

use super::connection::Connection;
use super::dump::waiting;
use super::names::pairs;
use super::program::Program;
use super::said::{reason, refused};
use crate::command::unaccepted;
use crate::mongodb::MONGODB_ARCHIVE;
use crate::mongodb::archive::{ArchiveParser, Item, Namespace, Prelude};
use crate::mongodb::catalog::{self, USERS};
use crate::mongodb::config::MongoConfig;
use crate::mongodb::connect::{Address, Server};
use crate::mongodb::error::MongoError;
use crate::mongodb::pattern::Renames;
use crate::mongodb::restore::{TEMPORARY, drop_one, holds};
use crate::tool::{Places, ToolError, Waiting, feed};

/// The program.
const NAME: &str = "mongorestore";
/// How long the removal of what a failed restore made may last.
const CLEANUP: Duration = Duration::from_secs(60);

/// Restores into the databases of the archive, or all into one, by `mongorestore`.
#[derive(Debug)]
pub struct MongorestoreRestorer {
    address: Address,
    connection: Connection,
    renames: Renames,
    places: Places,
    waiting: Waiting,
    parallel: usize,
    users: bool,
}

impl MongorestoreRestorer {
    /// The server of these settings; nothing is connected yet, and no program looked for.
    ///
    /// # Errors
    /// `Config` for settings that cannot work.
    pub fn new(config: &MongoConfig) -> Result<Self> {
        let address = Address::new(config)?;
        let into = address.database().map(str::to_owned);
        Ok(Self {
            renames: Renames::new(&config.rename, into)?,
            // A database in the path would be a selection.
            connection: Connection::new(config, None)?,
            address,
            places: Places::new(&config.tool_dirs),
            waiting: waiting(config.stall_seconds),
            parallel: config.parallel(),
            users: config.users,
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

    fn plain(&self, error: MongoError) -> Error {
        error.about(self.subject()).at(Stage::Restore)
    }

    /// What the restore will make, and how the program is to be called for it.
    async fn look(
        &self,
        cx: &Context,
        server: &Server,
        prelude: &Prelude,
        into_existing: bool,
    ) -> Result<Looked, MongoError> {
        let own = |ns: &Namespace| ns.db == "admin" && USERS.contains(&&*ns.collection);
        let all = || prelude.entries.iter().map(|entry| &entry.namespace);
        let plain = || all().filter(|ns| !ns.is_oplog() && !own(ns));
        self.renames.check(plain().map(|ns| &*ns.db))?;
        let names: Vec<(Namespace, Namespace)> =
            plain().map(|ns| (ns.clone(), self.renames.of(ns))).collect();
        let mut seen = HashSet::new();
        if let Some((_, twice)) = names.iter().find(|(_, last)| !seen.insert(last)) {
            return Err(MongoError::Names(format!("two collections would become {twice}")));
        }
        let arguments =
            self.arguments(&pairs(&names), all().any(Namespace::is_oplog), all().any(own), into_existing)?;
        let mut existing = HashMap::new();
        for db in names.iter().map(|(_, last)| &last.db).collect::<BTreeSet<_>>() {
            let there = present(cx, server, db).await?;
            if !there.is_empty() && !into_existing {
                return Err(holds(db, there.len()));
            }
            existing.insert(db.clone(), there);
        }
        let complete = !all().any(Namespace::is_oplog);
        Ok(Looked { last: names.into_iter().map(|(_, last)| last).collect(), existing, arguments, complete })
    }

    fn arguments(
        &self,
        renamed: &[(String, String)],
        oplog: bool,
        users: bool,
        into_existing: bool,
    ) -> Result<Vec<String>, MongoError> {
        let without = "leave native = false out";
        if oplog && !renamed.is_empty() {
            let what = format!("{NAME} cannot apply an oplog under other names than those of the backup");
            return Err(MongoError::NotByTool(what, without));
        }
        if oplog && users && !self.users {
            let what = format!("{NAME} cannot apply an oplog without the users and roles of the backup");
            return Err(MongoError::NotByTool(what, "set users = true, or leave native = false out"));
        }
        if self.users && users && into_existing {
            let what = format!("{NAME} would remove every user and role that the backup does not hold");
            return Err(MongoError::NotByTool(what, without));
        }
        let mut arguments = vec![
            // It goes on after a refused document otherwise, and ends well.
            "--stopOnError".to_owned(),
            // It was accepted once; today's rules may be stricter than those of its time.
            "--bypassDocumentValidation".to_owned(),
            format!("--numParallelCollections={}", self.parallel),
        ];
        if oplog {
            arguments.push("--oplogReplay".to_owned());
        }
        if into_existing {
            arguments.push("--drop".to_owned());
        }
        if users && !self.users {
            arguments.extend(USERS.map(|name| format!("--nsExclude=admin.{name}")));
        }
        for (from, to) in renamed {
            arguments.extend([format!("--nsFrom={from}"), format!("--nsTo={to}")]);
        }
        Ok(arguments)
    }

    async fn run(
        &self,
        cx: &Context,
        server: &Server,
        looked: &Looked,
        head: Head,
        dump: Dump,
    ) -> Result<u64> {
        let program = Program::find(cx, &self.places, NAME).await.map_err(|error| self.plain(error))?;
        let started = |error: ToolError| self.plain(error.into());
        let file = self.connection.file().map_err(started)?;
        let command = program.command(&file, &self.connection).args(&looked.arguments);
        let subject = self.subject().to_owned();
        let bytes = checked(head, dump.bytes, subject);
        let failed = |error: ToolError| self.about(server, reason(error));
        let fed = feed(cx, &command, self.waiting, bytes, failed).await?;
        match refused(&fed.stderr) {
            0 => {}
            count => {
                let what = format!("{count} of them, says {NAME}");
                return Err(self.plain(MongoError::Refused("some collections".to_owned(), what)));
            }
        }
        if looked.complete {
            for (db, before) in &looked.existing {
                let there = present(cx, server, db).await.map_err(|error| self.about(server, error))?;
                let missing = looked.last.iter().find(|name| name.db == *db && !there.contains(*name));
                if let Some(missing) = missing.filter(|missing| !before.contains(*missing)) {
                    let what = format!("{NAME} ended well and did not make it");
                    return Err(self.plain(MongoError::Refused(missing.to_string(), what)));
                }
            }
        }
        Ok(fed.bytes)
    }

    /// Drops what a failed restore made; what there is to say of the rest.
    async fn clean(&self, server: &Server, looked: &Looked) -> Vec<String> {
        let cx = &Context::new();
        let mut said = Vec::new();
        let dropped = tokio::time::timeout(CLEANUP, async {
            for (db, before) in &looked.existing {
                for name in present(cx, server, db).await? {
                    if !before.contains(&name) && looked.last.contains(&name) {
                        drop_one(cx, server, &name).await?;
                    }
                }
            }
            Ok::<_, MongoError>(())
        })
        .await;
        if !matches!(dropped, Ok(Ok(()))) {
            said.push("collections of the backup may be left in the target: drop them".to_owned());
        }
        let replaced: Vec<String> = looked
            .last
            .iter()
            .filter(|name| looked.existing.get(&name.db).is_some_and(|before| before.contains(*name)))
            .take(10)
            .map(ToString::to_string)
            .collect();
        if !replaced.is_empty() {
            said.push(format!(
                "of the target may have been replaced or dropped already: {}",
                replaced.join(", ")
            ));
        }
        if self.users {
            said.push("users and roles may have been added already".to_owned());
        }
        said
    }
}

/// A restore that can begin.
struct Looked {
    /// The collections of the backup, as they will be called.
    last: HashSet<Namespace>,
    /// What was there before, by database.
    existing: HashMap<String, HashSet<Namespace>>,
    arguments: Vec<String>,
    /// Whether nothing is dropped or renamed after it was made.
    complete: bool,
}

async fn present(cx: &Context, server: &Server, db: &str) -> Result<HashSet<Namespace>, MongoError> {
    let there = catalog::of_database(cx, server, db).await?;
    let names = there.into_iter().map(|collection| collection.namespace);
    Ok(names.filter(|namespace| !namespace.collection.starts_with(TEMPORARY)).collect())
}

/// The beginning of an archive, with what was read for it.
struct Head {
    prelude: Prelude,
    chunks: Vec<Bytes>,
    parser: ArchiveParser,
}

impl Head {
    async fn read(cx: &Context, subject: &str, bytes: &mut ByteStream<Plain>) -> Result<Self> {
        let refuse = |error: MongoError| error.about(subject).at(Stage::Restore);
        let (mut parser, mut chunks) = (ArchiveParser::new(), Vec::new());
        loop {
            let chunk = tokio::select! {
                biased;
                () = cx.cancel().cancelled() => return Err(Error::cancelled(subject).at(Stage::Restore)),
                chunk = bytes.next() => chunk.transpose()?,
            };
            let Some(chunk) = chunk else {
                return match parser.finish() {
                    Err(error) => Err(refuse(error.into())),
                    Ok(_) => Err(Error::bug("an archive without a beginning was whole")),
                };
            };
            parser.push(&chunk);
            chunks.push(chunk);
            if let Some(Item::Prelude(prelude)) = parser.next_item().map_err(|error| refuse(error.into()))? {
                return Ok(Self { prelude, chunks, parser });
            }
        }
    }
}

/// The archive again, from its beginning; its end is clean only where it is whole.
fn checked(head: Head, rest: ByteStream<Plain>, subject: String) -> ByteStream<Plain> {
    let Head { chunks, parser, .. } = head;
    let state = Some((chunks.into_iter(), rest, parser, subject));
    ByteStream::new(futures::stream::unfold(state, async |state| {
        let (mut chunks, mut rest, mut parser, subject) = state?;
        let refuse = |error: MongoError| Some((Err(error.about(&subject).at(Stage::Restore)), None));
        let next = match chunks.next() {
            Some(chunk) => Some(chunk),
            None => match rest.next().await {
                Some(Ok(chunk)) => {
                    parser.push(&chunk);
                    Some(chunk)
                }
                Some(Err(error)) => return Some((Err(error), None)),
                None => None,
            },
        };
        loop {
            match parser.next_item() {
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(error) => return refuse(error.into()),
            }
        }
        match next {
            Some(chunk) => Some((Ok(chunk), Some((chunks, rest, parser, subject)))),
            None => parser.finish().err().and_then(|error| refuse(error.into())),
        }
    }))
}

#[async_trait]
impl Restorer for MongorestoreRestorer {
    fn accepts(&self, format: &DumpFormat) -> bool {
        format.as_str() == MONGODB_ARCHIVE
    }

    async fn plan(&self, cx: &Context, request: RestoreRequest) -> Result<RestorePlan> {
        if !self.accepts(&request.format) {
            return Err(unaccepted(self.subject(), &request.format));
        }
        let server = self.address.connect(cx).await.map_err(|error| self.plain(error))?;
        let program = Program::find(cx, &self.places, NAME).await.map_err(|error| self.plain(error))?;
        if let Some(db) = self.address.database() {
            let there = present(cx, &server, db).await.map_err(|error| self.about(&server, error))?;
            if !there.is_empty() && !request.into_existing {
                return Err(self.plain(holds(db, there.len())));
            }
        }
        let place = match self.address.database() {
            Some(db) => format!("database {db:?}"),
            None if request.into_existing => "the databases of the backup".to_owned(),
            None => "the databases of the backup, which must not hold anything yet".to_owned(),
        };
        let mut steps = vec![format!(
            "give the backup to {NAME} {}, which fills {place}: it can be seen while it is written",
            program.version
        )];
        if request.into_existing {
            steps.push(
                "replace what has the name of a collection of the backup; other collections stay".to_owned(),
            );
        }
        steps.extend(self.renames.describe());
        steps.push("drop what it made if it fails".to_owned());
        if self.users {
            steps.push("add the users and roles of the backup".to_owned());
        }
        Ok(RestorePlan::looked_at(request, self.subject(), steps))
    }

    async fn restore(&self, cx: &Context, plan: RestorePlan, mut dump: Dump) -> Result<Restored> {
        cx.check(self.subject()).map_err(|error| error.at(Stage::Restore))?;
        let server = self.address.connect(cx).await.map_err(|error| self.plain(error))?;
        let head = Head::read(cx, self.subject(), &mut dump.bytes).await?;
        let into_existing = plan.request().into_existing;
        let looked = self.look(cx, &server, &head.prelude, into_existing).await;
        let looked = looked.map_err(|error| self.about(&server, error))?;
        match self.run(cx, &server, &looked, head, dump).await {
            Ok(bytes) => Ok(Restored { target: plan.target().to_owned(), bytes, warnings: Vec::new() }),
            Err(error) => {
                let mut hint = self.clean(&server, &looked).await;
                if hint.is_empty() {
                    return Err(error);
                }
                hint.extend(error.hint().map(str::to_owned));
                Err(error.with_hint(hint.join("; ")))
            }
        }
    }
}
