//! One moment of a database, read page by page.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use backup_core::{
    ByteStream, Context, Dump, DumpFormat, DumpReport, Dumper, Error, ErrorKind, Event, Obstacle, Plain,
    Probe, ProbeItem, Result, Selection, Settled, Stage,
};
use bytes::Bytes;
use jiff::{Timestamp, Unit};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::api::{Database, Query};
use super::archive::{Head, Lines, Writer};
use super::config::FirestoreConfig;
use super::error::FirestoreError;
use super::names::{Range, Wanted, kind_of};
use super::{FIRESTORE_NDJSON, users};

/// So many documents are asked for at a time.
const PAGE: u32 = 1_000;
/// Lines are handed on when there are so many bytes of them.
const BATCH: usize = 256 * 1024;
/// Collections that a probe counts one by one.
const COUNTED_MAX: usize = 200;

/// Dumps a Firestore database as `firestore-ndjson`.
#[derive(Debug, Clone)]
pub struct FirestoreDumper {
    config: FirestoreConfig,
}

impl FirestoreDumper {
    /// A dumper with these settings; nothing is connected yet.
    ///
    /// # Errors
    /// `Config` for settings that cannot work.
    pub fn new(config: &FirestoreConfig) -> Result<Self> {
        let config = config.clone().resolved()?;
        if config.root.is_some() {
            return Err(Error::new(ErrorKind::Config, "root", "is for restores only")
                .with_hint("to back up what is below one document, select its collections with include"));
        }
        Ok(Self { config })
    }

    /// The moment to dump, and what to say of it.
    pub(super) async fn moment(
        &self,
        cx: &Context,
        database: &Database,
    ) -> Result<(Timestamp, &'static str)> {
        let failed = |error| database.failed(error);
        let now = database.now(cx).await.map_err(failed)?;
        if let Some(text) = &self.config.read_time {
            let time: Timestamp = text.parse().unwrap_or(now);
            if time > now {
                return Err(Error::new(ErrorKind::Config, "read_time", format!("{time} is in the future")));
            }
            return Ok((time, "as asked for"));
        }
        // After an hour only whole minutes can be read, and only with point-in-time recovery.
        let about = database.about(cx).await.unwrap_or_default();
        let minute =
            now.round(jiff::TimestampRound::new().smallest(Unit::Minute).mode(jiff::RoundMode::Floor));
        Ok(match minute {
            Ok(minute)
                if about.keeps_the_past() && about.earliest().is_none_or(|earliest| earliest <= minute) =>
            {
                (minute, "the last whole minute, which point-in-time recovery keeps for 7 days")
            }
            _ => (now, "the moment of the start, which Firestore keeps for one hour"),
        })
    }
}

#[async_trait]
impl Dumper for FirestoreDumper {
    async fn probe(&self, cx: &Context) -> Result<Probe> {
        cx.check("firestore probe")?;
        let database = Database::open(&self.config).map_err(|error| error.at(Stage::Probe))?;
        let failed = |error: FirestoreError| database.failed(error).at(Stage::Probe);
        let mut warnings = database.warnings.clone();
        // The first request of all tells whether we may read.
        database.now(cx).await.map_err(failed)?;
        let collections = database.collections(cx, None).await.map_err(failed)?;
        let about = database.about(cx).await;
        if let Some(about) = &about {
            if about.kind == "DATASTORE_MODE" {
                return Err(Error::new(ErrorKind::Unsupported, database.subject(), "is in Datastore mode")
                    .with_hint("this program backs up databases in Native mode")
                    .at(Stage::Probe));
            }
            if !about.keeps_the_past() {
                warnings.push(
                    "point-in-time recovery is off: a dump that takes longer than one hour fails, because \
                     Firestore forgets the moment it is of; switch it on with gcloud firestore databases update \
                     --enable-pitr"
                        .to_owned(),
                );
            }
        }
        let (mut items, mut obstacles) = (Vec::new(), Vec::new());
        let mut estimated_bytes = Some(0_u64);
        for name in &collections {
            let (mut estimated_rows, mut bytes) = (None, None);
            if items.len() < COUNTED_MAX {
                estimated_rows = database.count(cx, name).await.ok();
                let range = Range::of_collection(name);
                let sample = Query { range: Some(&range), limit: 20, ..Query::default() };
                if let (Ok((sample, _)), Some(rows)) = (database.few(cx, &sample).await, estimated_rows) {
                    let len = |found: &super::api::Found| {
                        (found.path.len() + 120 + found.fields.as_ref().map_or(2, String::len)) as u64
                    };
                    let sum: u64 = sample.iter().map(len).sum();
                    bytes = Some(sum.saturating_mul(rows) / (sample.len() as u64).max(1));
                }
            }
            estimated_bytes = estimated_bytes.zip(bytes).map(|(sum, bytes)| sum.saturating_add(bytes));
            items.push(ProbeItem { name: name.clone(), estimated_rows, estimated_bytes: bytes });
        }
        if self.config.include_auth {
            match users::check(cx, &database, &mut warnings).await {
                Ok(()) => {}
                Err(FirestoreError::Refused { http: 403, message, .. }) => obstacles.push(Obstacle {
                    what: format!(
                        "the users of Firebase Auth cannot be read with their passwords: {message}"
                    ),
                    remedy: format!(
                        "gcloud projects add-iam-policy-binding {} --member serviceAccount:ACCOUNT --role \
                         roles/firebaseauth.admin",
                        database.project
                    ),
                }),
                Err(error) => return Err(failed(error)),
            }
        }
        cx.check("firestore probe")?;
        let mut versions = BTreeMap::from([("api".to_owned(), "v1".to_owned())]);
        if let Some(about) = about.filter(|about| !about.location_id.is_empty()) {
            versions.insert("location".to_owned(), about.location_id);
        }
        Ok(Probe { engine: "firestore".to_owned(), versions, estimated_bytes, items, obstacles, warnings })
    }

    async fn dump(&self, cx: &Context, what: &Selection) -> Result<Dump> {
        let at = |error: Error| error.at(Stage::Dump);
        cx.check("firestore dump").map_err(at)?;
        let wanted = Wanted::parse(what).map_err(at)?;
        let database = Database::open(&self.config).map_err(at)?;
        for warning in &database.warnings {
            cx.report(Event::Warning(warning));
        }
        let (time, why) = self.moment(cx, &database).await.map_err(at)?;
        let mut head = Head::new(&database.project, &database.id, &time.to_string());
        head.include.clone_from(&what.include);
        head.exclude.clone_from(&what.exclude);
        head.users = self.config.include_auth;
        let failed = |error| at(database.failed(error));
        let roots = database.collections(cx, Some(&head.read_time)).await.map_err(failed)?;
        for named in wanted.named() {
            let range = Range::of_collection(named);
            let query = Query {
                range: Some(&range),
                limit: 1,
                read_time: Some(&head.read_time),
                names_only: true,
                ..Query::default()
            };
            let (found, _) = database.few(cx, &query).await.map_err(failed)?;
            if found.is_empty() {
                return Err(at(Error::new(
                    ErrorKind::NotFound,
                    database.subject(),
                    format!("has no collection {named:?}"),
                )
                .with_hint("check the selection: a collection exists only while it has documents")));
            }
        }
        let collections = wanted.collections(&roots);
        let parallel = self.config.parallel.unwrap_or(4) as usize;
        let options = options(&self.config, what, &head, why);
        let work =
            Work { cx: cx.clone(), database: Arc::new(database), wanted: Arc::new(wanted), head, options };
        let (bytes, report) = work.start(collections, parallel);
        Ok(Dump { format: DumpFormat::new(FIRESTORE_NDJSON), bytes, report })
    }
}

fn options(config: &FirestoreConfig, what: &Selection, head: &Head, why: &str) -> Vec<String> {
    let mut options = vec![format!("read_time={} ({why})", head.read_time)];
    options.extend(what.include.iter().map(|item| format!("include={item}")));
    options.extend(what.exclude.iter().map(|item| format!("exclude={item}")));
    if config.include_auth {
        options.push("include_auth (the users are of the time they were read, not of read_time)".to_owned());
    }
    options
}

/// A dump that was decided upon.
struct Work {
    cx: Context,
    database: Arc<Database>,
    wanted: Arc<Wanted>,
    head: Head,
    options: Vec<String>,
}

enum Message {
    Chunk(Bytes),
    Ended(DumpReport),
    Failed(Error),
}

impl Work {
    /// Starts the tasks that read; they end with the stream.
    fn start(self, collections: Vec<String>, parallel: usize) -> (ByteStream<Plain>, Settled<DumpReport>) {
        let (sender, receiver) = mpsc::channel(2);
        let (settler, report) = Settled::pending();
        let (cx, subject) = (self.cx.clone(), self.database.subject());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let database = Arc::clone(&self.database);
            let last = match self.run(collections, parallel, &sender).await {
                Ok(report) => Message::Ended(report),
                Err(error) => Message::Failed(database.failed(error).at(Stage::Dump)),
            };
            // Nobody listens any more: then nobody needs to know.
            let _ = sender.send(last).await;
        });
        // Dropping the stream drops the tasks with it.
        let state = Some((receiver, settler, cx, subject, tasks));
        let bytes = ByteStream::new(futures::stream::unfold(state, async |state| {
            let (mut receiver, settler, cx, subject, tasks) = state?;
            let message = tokio::select! {
                biased;
                () = cx.cancel().cancelled() => Some(Message::Failed(Error::cancelled(&*subject).at(Stage::Dump))),
                message = receiver.recv() => message,
            };
            match message {
                Some(Message::Chunk(chunk)) => {
                    Some((Ok(chunk), Some((receiver, settler, cx, subject, tasks))))
                }
                Some(Message::Failed(error)) => Some((Err(error), None)),
                Some(Message::Ended(report)) => {
                    settler.settle(report);
                    None
                }
                None => Some((Err(Error::bug(format!("the task that read {subject} died"))), None)),
            }
        }));
        (bytes, report)
    }

    async fn run(
        self,
        collections: Vec<String>,
        parallel: usize,
        sender: &mpsc::Sender<Message>,
    ) -> Result<DumpReport, FirestoreError> {
        let mut writer = Writer::default();
        put(sender, writer.head(&self.head)).await?;

        let (batches, mut filled) = mpsc::channel(1);
        let queue = Arc::new(Mutex::new(collections.into_iter()));
        let mut readers = JoinSet::new();
        for _ in 0..parallel {
            let (queue, batches) = (Arc::clone(&queue), batches.clone());
            let reader = Reader {
                cx: self.cx.clone(),
                database: Arc::clone(&self.database),
                wanted: Arc::clone(&self.wanted),
                read_time: self.head.read_time.clone(),
                batches,
            };
            readers.spawn(async move {
                loop {
                    let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let Some(collection) = next else { return Ok(()) };
                    reader.cx.report(Event::Table(&collection));
                    reader.collection(&collection).await?;
                }
            });
        }
        drop(batches);
        loop {
            tokio::select! {
                biased;
                // A reader that failed ends the dump; one that is done does not.
                Some(done) = readers.join_next() => match done {
                    Ok(done) => done?,
                    Err(died) => return Err(FirestoreError::Answer(format!("a reader died: {died}"))),
                },
                batch = filled.recv() => {
                    let Some(batch) = batch else { break };
                    writer.lines(&batch);
                    put(sender, batch.text).await?;
                }
            }
        }
        while let Some(done) = readers.join_next().await {
            done.map_err(|died| FirestoreError::Answer(format!("a reader died: {died}")))??;
        }
        if let Some(pattern) = self.wanted.unfitted() {
            return Err(FirestoreError::NothingFits(pattern.to_owned()));
        }
        if self.head.users {
            let mut pages = users::Pages::default();
            while let Some(lines) = pages.next(&self.cx, &self.database).await? {
                writer.lines(&lines);
                put(sender, lines.text).await?;
            }
        }
        let (end, counts) = writer.end();
        put(sender, end).await?;
        let mut versions = BTreeMap::from([("api".to_owned(), "v1".to_owned())]);
        versions.insert("format".to_owned(), super::archive::VERSION.to_string());
        let mut options = self.options;
        options.push(format!("documents={}", counts.documents));
        if self.head.users {
            options.push(format!("users={}", counts.users));
        }
        let tables = counts.collections.into_keys().collect();
        Ok(DumpReport { engine: "firestore".to_owned(), versions, options, tables, ..DumpReport::default() })
    }
}

async fn put(sender: &mpsc::Sender<Message>, text: String) -> Result<(), FirestoreError> {
    sender.send(Message::Chunk(text.into())).await.map_err(|_| FirestoreError::Cancelled)
}

/// Reads collections, one after the other.
struct Reader {
    cx: Context,
    database: Arc<Database>,
    wanted: Arc<Wanted>,
    read_time: String,
    batches: mpsc::Sender<Lines>,
}

impl Reader {
    /// All documents of a collection and below it, in the order of their names. A page that breaks
    /// goes on behind the last document that arrived, at the same moment.
    async fn collection(&self, collection: &str) -> Result<(), FirestoreError> {
        let range = Range::of_collection(collection);
        let mut after: Option<String> = None;
        let mut pauses = self.database.pauses();
        let mut lines = Lines::default();
        loop {
            let before = after.clone();
            match self.page(&range, &mut after, &mut lines).await {
                // The answer was whole, and the limit was not what ended it.
                Ok(count) if count < PAGE => break,
                Ok(_) => pauses.reset(),
                Err(error) => {
                    if after != before {
                        pauses.reset();
                    }
                    pauses.wait(&self.cx, error).await?;
                }
            }
        }
        self.put(&mut lines).await
    }

    /// How many documents the page had.
    async fn page(
        &self,
        range: &Range,
        after: &mut Option<String>,
        lines: &mut Lines,
    ) -> Result<u32, FirestoreError> {
        let from = after.clone();
        let query = Query {
            range: Some(range),
            after: from.as_deref(),
            limit: PAGE,
            read_time: Some(&self.read_time),
            ..Query::default()
        };
        let mut page = self.database.page(&query).await?;
        let mut count = 0;
        while let Some(found) = page.next().await? {
            // A server that repeats itself would keep us for ever.
            if after.as_ref() == Some(&found.path) {
                return Err(FirestoreError::Answer(format!("{} came twice", found.path)));
            }
            count += 1;
            if self.wanted.holds(&found.path) {
                lines
                    .push_document(&found.path, &found.created, &found.updated, found.fields.as_deref())
                    .map_err(|error| FirestoreError::Document {
                        path: kind_of(&found.path),
                        what: error.to_string(),
                    })?;
            }
            *after = Some(found.path);
            if lines.text.len() >= BATCH {
                self.put(lines).await?;
            }
        }
        Ok(count)
    }

    async fn put(&self, lines: &mut Lines) -> Result<(), FirestoreError> {
        if lines.text.is_empty() {
            return Ok(());
        }
        self.batches.send(std::mem::take(lines)).await.map_err(|_| FirestoreError::Cancelled)
    }
}
