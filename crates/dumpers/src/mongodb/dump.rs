//! A server's collections as one archive, read by several readers at a time.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use backup_core::{
    ByteStream, Context, Dump, DumpFormat, DumpReport, Dumper, Event, Plain, Probe, Result, Selection,
    Settled, Stage,
};
use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use mongodb::bson::{Document, Timestamp, doc};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::archive::{ArchiveWriter, Crc64, Entry, Namespace, Prelude};
use super::catalog::{self, Collection, Size};
use super::config::{Consistency, MongoConfig, wrong};
use super::connect::{Address, Server};
use super::error::MongoError;
use super::moment::{self, Moment};
use super::oplog::{self, Kept};
use super::pattern::Patterns;
use super::read::{self, Piece};
use super::{MONGODB_ARCHIVE, probe};

/// How often a catalogue that changes while it is read is read again.
const CATALOGUE_TRIES: usize = 5;
/// Chunks that wait between the writer and the stream.
const AHEAD: usize = 1;
/// Oplog entries are collected into chunks of about this size.
const OPLOG_CHUNK: usize = 1024 * 1024;

/// Dumps one database, or all of a server.
#[derive(Debug)]
pub struct MongoDumper {
    address: Address,
    consistency: Consistency,
    parallel: usize,
    users: bool,
}

impl MongoDumper {
    /// The server of these settings; nothing is connected yet.
    ///
    /// # Errors
    /// `Config` for settings that cannot work.
    pub fn new(config: &MongoConfig) -> Result<Self> {
        let address = Address::new(config)?;
        if config.users && address.database().is_some() {
            return Err(wrong("users", "is set, and so is a database: users belong to the whole server")
                .with_hint(
                    "leave users out, or leave the database out of the URL to back up all of the server",
                ));
        }
        Ok(Self {
            address,
            consistency: config.consistency,
            parallel: config.parallel(),
            users: config.users,
        })
    }

    fn subject(&self) -> &str {
        self.address.describe()
    }

    /// What is to be dumped, and the moment that it will show.
    async fn look(&self, cx: &Context, what: &Selection) -> Result<Looked> {
        let server = self.address.connect(cx).await.map_err(|error| error.about(self.subject()))?;
        let db = server.database.clone();
        let about = |error| match &db {
            Some(db) => server.about(error, self.subject(), "read", db),
            None => server.about(error, self.subject(), "backup", "admin"),
        };
        let patterns = Patterns::new(what, db.is_some());
        for _ in 0..CATALOGUE_TRIES {
            let (before, names) =
                catalog::collections(cx, &server, &patterns, self.users).await.map_err(about)?;
            patterns.check(&names)?;
            let sizes = catalog::sizes(cx, &server, &before).await.map_err(about)?;
            let estimate = sizes.iter().filter_map(|size| size.bytes).sum();
            let first = before.iter().find_map(|collection| collection.data.as_ref());
            let moment =
                moment::choose(cx, &server, self.consistency, first, estimate).await.map_err(|error| {
                    match error {
                        MongoError::Permission { ref what, .. } if what.contains("local.") => {
                            server.about(error, self.subject(), "read", "local")
                        }
                        error => about(error),
                    }
                })?;
            // The catalogue has no snapshots: it is that of the moment if it did not change around it.
            let (mut after, _) =
                catalog::collections(cx, &server, &patterns, self.users).await.map_err(about)?;
            let same = before.len() == after.len()
                && before.iter().zip(&after).all(|(a, b)| a.identity() == b.identity());
            if !same {
                continue;
            }
            match catalog::read_indexes(cx, &server, &mut after).await {
                Ok(()) => return Ok(Looked { server, collections: after, sizes, moment, patterns }),
                Err(MongoError::Changed(_)) => {}
                Err(error) => return Err(about(error)),
            }
        }
        Err(MongoError::Changed("a collection, again and again,".to_owned()).about(self.subject()))
    }
}

/// A dump that can begin.
struct Looked {
    server: Server,
    collections: Vec<Collection>,
    sizes: Vec<Size>,
    moment: Moment,
    patterns: Patterns,
}

#[async_trait]
impl Dumper for MongoDumper {
    async fn probe(&self, cx: &Context) -> Result<Probe> {
        probe::probe(cx, &self.address, Some(self.consistency), self.users)
            .await
            .map_err(|error| error.at(Stage::Probe))
    }

    async fn dump(&self, cx: &Context, what: &Selection) -> Result<Dump> {
        cx.check(self.subject())?;
        let looked = self.look(cx, what).await.map_err(|error| error.at(Stage::Dump))?;
        let report = self.report(&looked, what);
        let (bytes, report) = self.stream(cx, looked, report);
        Ok(Dump { format: DumpFormat::new(MONGODB_ARCHIVE), bytes, report })
    }
}

impl MongoDumper {
    fn report(&self, looked: &Looked, what: &Selection) -> DumpReport {
        let mut options = vec![looked.moment.option().to_owned(), format!("parallel={}", self.parallel)];
        options.extend(what.include.iter().map(|pattern| format!("include={pattern}")));
        options.extend(what.exclude.iter().map(|pattern| format!("exclude={pattern}")));
        if self.users {
            options.push("users".to_owned());
        }
        DumpReport {
            engine: "mongodb".to_owned(),
            versions: BTreeMap::from([("server".to_owned(), looked.server.version.clone())]),
            options,
            tables: looked.collections.iter().map(|collection| collection.namespace.to_string()).collect(),
            ..DumpReport::default()
        }
    }

    /// Starts the readers and gives what they read as it comes.
    fn stream(
        &self,
        cx: &Context,
        looked: Looked,
        report: DumpReport,
    ) -> (ByteStream<Plain>, Settled<DumpReport>) {
        let (settler, settled) = Settled::pending();
        let (out, pieces) = mpsc::channel(AHEAD);
        let subject = self.subject().to_owned();
        let work = Work { cx: cx.clone(), parallel: self.parallel, looked, out };
        let mut tasks = JoinSet::new();
        tasks.spawn(work.run());
        // Dropping the stream drops the tasks, and with them the readers and their cursors.
        let state = Some((tasks, pieces, settler, report, cx.clone(), subject));
        let bytes = ByteStream::new(futures::stream::unfold(state, async |state| {
            let (mut tasks, mut pieces, settler, report, cx, subject) = state?;
            let piece = tokio::select! {
                biased;
                () = cx.cancel().cancelled() => {
                    return Some((Err(backup_core::Error::cancelled(&*subject).at(Stage::Dump)), None));
                }
                piece = pieces.recv() => piece,
            };
            if let Some(chunk) = piece {
                return Some((Ok(chunk), Some((tasks, pieces, settler, report, cx, subject))));
            }
            match tasks.join_next().await {
                Some(Ok(Ok(()))) => {
                    settler.settle(report);
                    None
                }
                Some(Ok(Err(error))) => Some((Err(error.about(&subject).at(Stage::Dump)), None)),
                _ => Some((Err(backup_core::Error::bug("the task that wrote the archive died")), None)),
            }
        }));
        (bytes, settled)
    }
}

/// What turns a server into an archive.
struct Work {
    cx: Context,
    parallel: usize,
    looked: Looked,
    out: mpsc::Sender<Bytes>,
}

impl Work {
    async fn run(self) -> Result<(), MongoError> {
        let Looked { server, collections, sizes, moment, .. } = &self.looked;
        let mut entries: Vec<Entry> = collections.iter().map(Collection::entry).collect();
        if matches!(moment, Moment::Oplog(_)) {
            entries.push(Entry { namespace: Namespace::oplog(), ..Entry::default() });
        }
        let prelude = Prelude {
            concurrent_collections: self.parallel as i32,
            server_version: server.version.clone(),
            tool_version: format!("strongroom {}", env!("CARGO_PKG_VERSION")),
            entries,
        };
        let (mut writer, head) = ArchiveWriter::begin(&prelude);
        self.put(head).await?;
        for collection in collections.iter().filter(|collection| collection.data.is_none()) {
            self.put(writer.end(&collection.namespace, Crc64::new().value())).await?;
        }

        // The largest first, so that no reader is left with it at the end.
        let mut queue: Vec<(Namespace, Size)> = collections
            .iter()
            .zip(sizes)
            .filter_map(|(collection, size)| Some((collection.data.clone()?, *size)))
            .collect();
        queue.sort_by_key(|(_, size)| std::cmp::Reverse(size.bytes));
        let mut open = queue.len();
        let queue = Arc::new(Mutex::new(VecDeque::from(queue)));
        let (sender, mut pieces) = mpsc::channel(1);
        let mut readers = JoinSet::new();
        for _ in 0..self.parallel.min(open) {
            readers.spawn(reader(
                self.cx.clone(),
                server.clone(),
                *moment,
                Arc::clone(&queue),
                sender.clone(),
            ));
        }
        drop(sender);
        while let Some(piece) = pieces.recv().await {
            match piece {
                Piece::Documents(namespace, documents) => {
                    if let Some(header) = writer.documents(&namespace) {
                        self.put(header).await?;
                    }
                    self.put(documents).await?;
                }
                Piece::Ended(namespace, checksum) => {
                    self.put(writer.end(&namespace, checksum)).await?;
                    open -= 1;
                }
                Piece::Failed(error) => return Err(error),
            }
        }
        if open > 0 {
            return Err(MongoError::Answer("reading: a reader ended before its collection".to_owned()));
        }
        match moment {
            Moment::Oplog(start) => self.oplog(&mut writer, *start).await,
            // A collection that is dropped may read as an empty one, also at a moment of the past.
            Moment::None | Moment::Snapshot(_) => self.check_unchanged().await,
        }
    }

    async fn put(&self, chunk: Bytes) -> Result<(), MongoError> {
        self.out.send(chunk).await.map_err(|_| MongoError::Cancelled)
    }

    /// Without the oplog the dump at least holds what was listed.
    async fn check_unchanged(&self) -> Result<(), MongoError> {
        let Looked { server, collections, patterns, .. } = &self.looked;
        let (now, _) = catalog::collections(&self.cx, server, patterns, false).await?;
        let users = |collection: &&Collection| !catalog::USERS.contains(&&*collection.namespace.collection);
        for before in collections.iter().filter(users) {
            if !now.iter().any(|after| after.identity() == before.identity()) {
                return Err(MongoError::Changed(before.namespace.to_string()));
            }
        }
        Ok(())
    }

    /// Everything that was written since before the first read, up to after the last.
    async fn oplog(&self, writer: &mut ArchiveWriter, start: Timestamp) -> Result<(), MongoError> {
        let (cx, server) = (&self.cx, &self.looked.server);
        let namespace = Namespace::oplog();
        let (end, newest) = moment::last_whole_write(cx, server).await?;
        let takes = |namespace: &Namespace| self.takes(namespace);
        let command = doc! {
            "find": "oplog.rs",
            "filter": { "ts": { "$gte": start, "$lte": end } },
            "readConcern": { "level": "majority" },
        };
        let what = "reading the oplog";
        let database = server.database("local");
        let find = async { database.run_cursor_command(command).batch().await };
        let mut batches = server.wait(cx, what, find).await?;
        let mut crc = Crc64::new();
        let mut chunk = BytesMut::new();
        let mut last = None;
        while let Some(batch) = server.wait(cx, what, async { batches.next().await.transpose() }).await? {
            let entries = read::decoded(&batch).ok_or_else(|| MongoError::Answer(what.to_owned()))?;
            for entry in entries {
                last = entry.get_timestamp("ts").ok();
                let document: Document =
                    match oplog::kept(&entry, &takes).map_err(MongoError::Unrepeatable)? {
                        Kept::Nothing => continue,
                        Kept::Whole => entry,
                        Kept::Part(part) => part,
                    };
                let encoded = document.to_vec().map_err(|_| MongoError::Answer(what.to_owned()))?;
                chunk.extend_from_slice(&encoded);
                if chunk.len() >= OPLOG_CHUNK {
                    self.put_oplog(writer, &mut crc, chunk.split().freeze()).await?;
                }
            }
        }
        if !chunk.is_empty() {
            self.put_oplog(writer, &mut crc, chunk.freeze()).await?;
        }
        if !moment::is_whole(last, start, newest) {
            return Err(MongoError::OplogOverrun);
        }
        // Only now is it sure that nothing was overwritten before it was read.
        moment::reaches_back(cx, server, start).await?;
        self.put(writer.end(&namespace, crc.value())).await
    }

    async fn put_oplog(
        &self,
        writer: &mut ArchiveWriter,
        crc: &mut Crc64,
        chunk: Bytes,
    ) -> Result<(), MongoError> {
        crc.update(&chunk);
        if let Some(header) = writer.documents(&Namespace::oplog()) {
            self.put(header).await?;
        }
        self.put(chunk).await
    }

    /// Whether changes of this collection belong to the dump: also of one that is new.
    fn takes(&self, namespace: &Namespace) -> bool {
        let Looked { server, patterns, .. } = &self.looked;
        let system = namespace.collection.starts_with("system.") && namespace.collection != "system.js";
        let own = matches!(&*namespace.db, "admin" | "config" | "local");
        let here = match &server.database {
            Some(db) => *db == namespace.db,
            None => !own,
        };
        here && !system && patterns.take(namespace)
    }
}

/// Reads collections until none is left.
async fn reader(
    cx: Context,
    server: Server,
    moment: Moment,
    queue: Arc<Mutex<VecDeque<(Namespace, Size)>>>,
    out: mpsc::Sender<Piece>,
) {
    loop {
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let Some((namespace, size)) = next else { return };
        cx.report(Event::Table(&namespace.to_string()));
        let read = read::collection(&cx, &server, moment, &namespace, read::batch_size(size), &out).await;
        if let Err(error) = read {
            // Nobody listens any more: then nobody needs to know.
            let _ = out.send(Piece::Failed(error)).await;
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_of_a_whole_server() {
        let config = |url| MongoConfig { users: true, ..MongoConfig::from_url(url).unwrap() };
        assert!(MongoDumper::new(&config("mongodb://h")).is_ok());
        let error = MongoDumper::new(&config("mongodb://h/shop")).unwrap_err();
        assert_eq!(error.kind(), backup_core::ErrorKind::Config);
        assert!(error.to_string().contains("users"), "{error}");
    }
}
