//! Documents written where they belong, and taken back where that fails.

mod batch;
mod cleanup;
mod pace;

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use async_trait::async_trait;
use backup_core::{
    Context, Dump, DumpFormat, Error, ErrorKind, Event, RestorePlan, RestoreRequest, Restored, Restorer,
    Result, Stage,
};
use jiff::Timestamp;
use tokio::task::JoinSet;

use super::api::{Database, Query};
use super::archive::{Entry, Head, Parser};
use super::config::{Conflicts, FirestoreConfig, References};
use super::error::FirestoreError;
use super::inspect::not_whole;
use super::json::{Cursor, push_string};
use super::value::{copy_fields, leaf_paths};
use super::{FIRESTORE_NDJSON, users};
use crate::command::unaccepted;
use batch::{Batch, Done, Write};
use pace::Pace;

/// The most writes of one request, by the service's limit.
const WRITES_MAX: usize = 500;
/// A request is sent when it has so many bytes; the service takes 10 MiB.
const REQUEST: usize = 2 << 20;
/// So many moments of writing are remembered for taking them back.
const TIMES_MAX: usize = 2_000_000;

/// Restores `firestore-ndjson` dumps into a database, or below one of its documents.
#[derive(Debug, Clone)]
pub struct FirestoreRestorer {
    config: FirestoreConfig,
}

impl FirestoreRestorer {
    /// A restorer with these settings; nothing is connected yet.
    ///
    /// # Errors
    /// `Config` for settings that cannot work.
    pub fn new(config: &FirestoreConfig) -> Result<Self> {
        let config = config.clone().resolved()?;
        if config.read_time.is_some() {
            return Err(Error::new(ErrorKind::Config, "read_time", "is for dumps only"));
        }
        Ok(Self { config })
    }

    fn target(&self, database: &Database) -> String {
        match &self.config.root {
            Some(root) => format!("{}/{root}", database.subject()),
            None => database.subject(),
        }
    }

    async fn is_empty(&self, cx: &Context, database: &Database) -> Result<bool, FirestoreError> {
        let query =
            Query { below: self.config.root.as_deref(), limit: 1, names_only: true, ..Query::default() };
        let (found, _) = database.few(cx, &query).await?;
        Ok(found.is_empty() && !(self.config.include_auth && users::exist(cx, database).await?))
    }
}

#[async_trait]
impl Restorer for FirestoreRestorer {
    fn accepts(&self, format: &DumpFormat) -> bool {
        format.as_str() == FIRESTORE_NDJSON
    }

    async fn plan(&self, cx: &Context, request: RestoreRequest) -> Result<RestorePlan> {
        let at = |error: Error| error.at(Stage::Restore);
        let database = Database::open(&self.config).map_err(at)?;
        let target = self.target(&database);
        if !self.accepts(&request.format) {
            return Err(unaccepted(&target, &request.format));
        }
        cx.check(&target).map_err(at)?;
        let empty = self.is_empty(cx, &database).await.map_err(|error| at(database.failed(error)))?;
        if !empty && !request.into_existing {
            let what = "already holds documents or users";
            return Err(at(Error::new(ErrorKind::Conflict, target, what)
                .with_hint("choose another database or another root, or allow restoring into what exists")));
        }
        let mut steps = database.warnings.clone();
        steps.push(format!("write the documents to {target}, where they can be seen at once"));
        steps.push(
            match (empty, self.config.conflicts) {
                (true, _) if self.config.keep_partial => "if that fails, leave what was written",
                (true, _) => "if that fails, remove what was written",
                (false, Conflicts::Fail) => "stop at a document that exists; what was written before stays",
                (false, Conflicts::Skip) => {
                    "keep documents that exist; if that fails, what was written stays"
                }
                (false, Conflicts::Overwrite) => {
                    "replace documents that exist; if that fails, what was written stays"
                }
                (false, Conflicts::Merge) => {
                    "put the backup's fields into documents that exist; if that fails, what was written stays"
                }
            }
            .to_owned(),
        );
        steps.push(match self.config.references {
            References::Rewrite => {
                "let references into the backed-up database point to the target".to_owned()
            }
            References::Keep => "leave references between documents as they are".to_owned(),
        });
        if self.config.include_auth {
            steps.push("import the users of Firebase Auth, after the documents".to_owned());
        }
        Ok(RestorePlan::looked_at(request, target, steps).with_detail("empty", empty.to_string()))
    }

    async fn restore(&self, cx: &Context, plan: RestorePlan, dump: Dump) -> Result<Restored> {
        let at = |error: Error| error.at(Stage::Restore);
        cx.check(plan.target()).map_err(at)?;
        let database = Arc::new(Database::open(&self.config).map_err(at)?);
        let start = database.now(cx).await.map_err(|error| at(database.failed(error)))?;
        let was_empty = plan.detail("empty") == Some("true");
        let mut work = Work::new(cx, Arc::clone(&database), &self.config, start, plan.target(), was_empty);
        match work.all(dump).await {
            Ok(bytes) => {
                let warnings = work.warnings();
                Ok(Restored { target: plan.target().to_owned(), bytes, warnings })
            }
            Err(error) => {
                work.settle().await;
                Err(at(work.give_up(error).await))
            }
        }
    }
}

/// A restore under way, and what has to be known to undo it.
struct Work<'a> {
    cx: &'a Context,
    database: Arc<Database>,
    config: &'a FirestoreConfig,
    target: &'a str,
    was_empty: bool,
    /// The server's time before the first write.
    start: Timestamp,
    head: Option<Head>,
    batch: Batch,
    flying: JoinSet<Done>,
    pace: Pace,
    written: u64,
    skipped: u64,
    /// References to other databases than the backed-up one.
    foreign: u64,
    /// When documents were written, which tells ours from those of others.
    times: HashSet<Timestamp>,
    too_many: bool,
    /// Documents of which it is not known whether they were written.
    doubt: HashSet<String>,
    users: users::Import,
}

impl<'a> Work<'a> {
    fn new(
        cx: &'a Context,
        database: Arc<Database>,
        config: &'a FirestoreConfig,
        start: Timestamp,
        target: &'a str,
        was_empty: bool,
    ) -> Self {
        Self {
            cx,
            database,
            config,
            target,
            was_empty,
            start,
            head: None,
            batch: Batch::default(),
            flying: JoinSet::new(),
            pace: Pace::new(config.ramp),
            written: 0,
            skipped: 0,
            foreign: 0,
            times: HashSet::new(),
            too_many: false,
            doubt: HashSet::new(),
            users: users::Import::default(),
        }
    }

    /// Reads the dump to its verified end and writes all of it.
    async fn all(&mut self, mut dump: Dump) -> Result<u64> {
        let mut parser = Parser::default();
        let mut entries = VecDeque::new();
        let mut bytes = 0;
        loop {
            let chunk = tokio::select! {
                biased;
                () = self.cx.cancel().cancelled() => return Err(Error::cancelled(self.target)),
                chunk = dump.bytes.next() => chunk,
            };
            let Some(chunk) = chunk.transpose()? else { break };
            bytes += chunk.len() as u64;
            // An entry at a time in memory would do; a chunk's worth of them is no more than twice that.
            parser.push(&chunk, |entry| entries.push_back(entry)).map_err(not_whole)?;
            while let Some(entry) = entries.pop_front() {
                self.entry(entry).await?;
            }
        }
        parser.finish().map_err(not_whole)?;
        self.flush().await?;
        while let Some(done) = self.flying.join_next().await {
            self.done(done)?;
        }
        self.users.finish(self.cx, &self.database).await?;
        Ok(bytes)
    }

    async fn entry(&mut self, entry: Entry) -> Result<()> {
        match entry {
            Entry::Head(head) => self.head = Some(head),
            Entry::Document { path, fields } => {
                let write = self.write(&path, &fields)?;
                if self.batch.len() == WRITES_MAX || self.batch.bytes() + write.text.len() > REQUEST {
                    self.flush().await?;
                }
                self.batch.push(write);
            }
            Entry::Hashing(config) => self.users.hashing(config),
            Entry::User(user) => {
                if self.config.include_auth {
                    self.users.push(self.cx, &self.database, self.config.conflicts, user).await?;
                } else {
                    self.users.left_out();
                }
            }
        }
        Ok(())
    }

    fn write(&mut self, path: &str, fields: &str) -> Result<Write> {
        let malformed =
            |error| not_whole(super::archive::ArchiveError::Line { line: 0, what: format!("{error}") });
        let root = self.config.root.as_ref().map_or(String::new(), |root| format!("{root}/"));
        let path = format!("{root}{path}");
        let ours = self.head.as_ref().map(|head| format!("{}/", head.documents())).unwrap_or_default();
        let theirs = format!("{}/{root}", self.database.documents());
        let rewrite = self.config.references == References::Rewrite;
        let mut foreign = 0;
        let mut text = String::with_capacity(fields.len() + 200);
        text.push_str("{\"update\":{\"name\":");
        push_string(&mut text, &format!("{}/{path}", self.database.documents()));
        text.push_str(",\"fields\":");
        copy_fields(&mut Cursor::new(fields), &mut text, &mut |name| match name.strip_prefix(&ours) {
            Some(path) if rewrite => Some(format!("{theirs}{path}")),
            Some(_) => None,
            None => {
                foreign += 1;
                None
            }
        })
        .map_err(malformed)?;
        text.push('}');
        match self.config.conflicts {
            Conflicts::Fail | Conflicts::Skip => text.push_str(",\"currentDocument\":{\"exists\":false}"),
            Conflicts::Overwrite => {}
            Conflicts::Merge => {
                text.push_str(",\"updateMask\":{\"fieldPaths\":[");
                for (index, path) in leaf_paths(fields).map_err(malformed)?.iter().enumerate() {
                    if index > 0 {
                        text.push(',');
                    }
                    push_string(&mut text, path);
                }
                text.push_str("]}");
            }
        }
        text.push('}');
        self.foreign += foreign;
        Ok(Write { path, text })
    }

    /// Sends the batch on its way, when there is room.
    async fn flush(&mut self) -> Result<()> {
        if self.batch.len() == 0 {
            return Ok(());
        }
        let parallel = self.config.parallel.unwrap_or(4) as usize;
        while self.flying.len() >= parallel {
            match self.flying.join_next().await {
                Some(done) => self.done(done)?,
                None => break,
            }
        }
        self.pace.take(self.cx, self.target, self.batch.len()).await?;
        let batch = std::mem::take(&mut self.batch);
        let (cx, database) = (self.cx.clone(), Arc::clone(&self.database));
        let (start, conflicts) = (self.start, self.config.conflicts);
        self.flying.spawn(async move { batch.send(&cx, &database, conflicts, start).await });
        Ok(())
    }

    fn done(&mut self, done: Result<Done, tokio::task::JoinError>) -> Result<()> {
        let done = done.map_err(|died| Error::bug(format!("a task that wrote documents died: {died}")))?;
        self.written += done.times.len() as u64;
        self.skipped += done.skipped;
        if self.was_empty {
            self.times.extend(done.times);
            self.too_many |= self.times.len() > TIMES_MAX;
        }
        self.doubt.extend(done.doubt);
        match done.error {
            Some((path, error)) => {
                let subject = format!("{}/{path}", self.database.subject());
                Err(error.about(if path.is_empty() { self.target } else { &subject }))
            }
            None => Ok(()),
        }
    }

    /// Waits for what is on its way: afterwards nothing is written any more.
    async fn settle(&mut self) {
        while let Some(done) = self.flying.join_next().await {
            // The first error is the one that is told.
            let _ = self.done(done);
        }
    }

    /// Undoes what can be undone; the error then says what is there.
    async fn give_up(&mut self, error: Error) -> Error {
        let (written, doubt) = (self.written, self.doubt.len());
        let users = self.users.imported();
        let nothing = written == 0 && doubt == 0 && users == 0 && self.users.doubt() == 0;
        let told = if nothing {
            "nothing was written".to_owned()
        } else if !self.was_empty || self.config.keep_partial {
            let kept = if self.was_empty { "keep_partial" } else { "the target was not empty" };
            format!("{} stay in {} ({kept})", self.amount(), self.target)
        } else if self.too_many {
            format!("{} stay in {}: too many to be told from others' and removed", self.amount(), self.target)
        } else {
            // Also when somebody asked to stop: tidying up is the end of stopping.
            let cx = Context::new();
            let documents =
                cleanup::remove(&cx, &self.database, self.config, self.start, &self.times, &self.doubt);
            let documents = documents.await;
            let users = self.users.remove(&cx, &self.database).await;
            match (documents, users) {
                (Ok(removed), Ok(())) if removed.left == 0 => {
                    format!("{} were removed again", self.amount())
                }
                (Ok(removed), Ok(())) => format!(
                    "{} of the documents that were written were removed again; {} are there that somebody else \
                     wrote or changed",
                    removed.removed, removed.left
                ),
                (Err(failure), _) | (_, Err(failure)) => {
                    format!(
                        "{} stay in {}, because removing them failed: {failure}",
                        self.amount(),
                        self.target
                    )
                }
            }
        };
        let told = Error::new(error.kind(), error.subject(), format!("{}; {told}", error.what())).with_hint(
            error.hint().unwrap_or("see docs/engines/firestore.md for what a failed restore leaves"),
        );
        self.cx.report(Event::Warning(told.what()));
        told
    }

    fn amount(&self) -> String {
        let mut amount = format!("{} documents", self.written);
        if !self.doubt.is_empty() {
            amount += &format!(" and up to {} more", self.doubt.len());
        }
        if self.users.imported() > 0 {
            amount += &format!(" and {} users", self.users.imported());
        }
        if self.users.doubt() > 0 {
            amount += &format!(" and up to {} users whose import was not answered", self.users.doubt());
        }
        amount
    }

    fn warnings(&self) -> Vec<String> {
        let mut warnings = self.database.warnings.clone();
        if self.skipped > 0 {
            warnings.push(format!("{} documents existed and were kept as they were", self.skipped));
        }
        if self.foreign > 0 {
            warnings.push(format!("{} references point to other databases and were left", self.foreign));
        }
        warnings.extend(self.users.warnings());
        warnings
    }
}
