//! The dump: schema, rows from several sessions, and what is counted at the end.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use backup_core::{
    ByteStream, Context, Dump, DumpFormat, DumpReport, Error, ErrorKind, Plain, Result, Selection, Settled,
    Settler, Stage,
};
use bytes::Bytes;
use futures::StreamExt as _;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::super::PG_CUSTOM;
use super::super::dump::{PostgresDumper, Watch};
use super::super::error::PostgresError;
use super::super::inspect::parsed;
use super::super::query::Psql;
use super::super::tools::Client;
use super::contents::Contents;
use super::copy::{Copier, Piece};
use super::snapshot::Snapshot;
use super::start::{Begun, objects};
use super::{CONTENTS, CONTENTS_FORMAT, OBJECTS, PG_PARALLEL, POST_DATA, PRE_DATA, SEQUENCES, SQL_FORMAT};
use crate::bundle::{BundleError, BundleWriter, MemberHead, MemberId};
use crate::tool::Output;

/// How often the session that holds the snapshot is asked.
const CHECK_EVERY: Duration = Duration::from_secs(2);
/// Chunks, of at most about 1 MiB, between the programs and the stream.
const AHEAD: usize = 4;

impl PostgresDumper {
    /// Starts a dump over several connections.
    pub(in super::super) async fn dump_parallel(
        &self,
        cx: &Context,
        what: &Selection,
        jobs: u32,
        pg_dump: Client,
        psql: &Psql,
        versions: BTreeMap<String, String>,
    ) -> Result<Dump> {
        let subject = self.connection.describe();
        let start = self.start(cx, what, jobs as usize, psql, &pg_dump).await?;
        let mut options = vec!["--format=custom".to_owned(), "--compress=0".to_owned()];
        options.push(format!("jobs={jobs}"));
        options.extend(self.choosing(what));
        let report = DumpReport {
            engine: "postgresql".to_owned(),
            versions,
            options,
            tables: start.section.tables.iter().map(|table| table.shown()).collect(),
            ..DumpReport::default()
        };
        let objects = match start.section.objects {
            true => Some(
                objects(cx, self, &pg_dump, &start.snapshot.id, &start.connection)
                    .map_err(|error| Error::from(error).at(Stage::Dump))?,
            ),
            false => None,
        };
        let (settler, settled) = Settled::pending();
        let (out, chunks) = mpsc::channel(AHEAD);
        let work = Work {
            cx: cx.clone(),
            subject: subject.clone(),
            snapshot: start.snapshot,
            bundle: Writer { writer: BundleWriter::new(), out },
            rows: BTreeMap::new(),
            watch: start.watch,
        };
        let sequences = start.section.sequences;
        let (pre, post) = (start.pre_data, start.post_data);
        let running = tokio::spawn(work.run(start.copiers, objects, sequences, pre, post, report));
        Ok(Dump {
            format: DumpFormat::new(PG_PARALLEL),
            bytes: received(cx.clone(), subject, chunks, Running(running), settler),
            report: settled,
        })
    }
}

/// What the working task tells the stream.
#[derive(Debug)]
enum Message {
    Chunk(Bytes),
    Ended(Box<DumpReport>),
    Failed(Error),
}

/// The working task, ended with the stream.
#[derive(Debug)]
struct Running(tokio::task::JoinHandle<()>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn received(
    cx: Context,
    subject: String,
    chunks: mpsc::Receiver<Message>,
    running: Running,
    settler: Settler<DumpReport>,
) -> ByteStream<Plain> {
    let state = Some((chunks, running, settler));
    ByteStream::new(futures::stream::unfold(state, move |state| {
        let (cx, subject) = (cx.clone(), subject.clone());
        async move {
            let (mut chunks, running, settler) = state?;
            let message = tokio::select! {
                biased;
                () = cx.cancel().cancelled() => Some(Message::Failed(Error::cancelled(&*subject).at(Stage::Dump))),
                message = chunks.recv() => message,
            };
            match message {
                Some(Message::Chunk(chunk)) => Some((Ok(chunk), Some((chunks, running, settler)))),
                Some(Message::Failed(error)) => Some((Err(error), None)),
                Some(Message::Ended(report)) => {
                    settler.settle(*report);
                    None
                }
                None => Some((Err(Error::bug(format!("the task that dumped {subject} died"))), None)),
            }
        }
    }))
}

/// The one writer of the bundle.
#[derive(Debug)]
struct Writer {
    writer: BundleWriter,
    out: mpsc::Sender<Message>,
}

/// Nobody reads any more, or the bundle is misused.
enum Broken {
    Unread,
    Wrong(BundleError),
}

impl Writer {
    async fn put<T>(
        &mut self,
        add: impl FnOnce(&mut BundleWriter, &mut Vec<Bytes>) -> Result<T, BundleError>,
    ) -> Result<T, Broken> {
        let mut ready = Vec::new();
        let added = add(&mut self.writer, &mut ready).map_err(Broken::Wrong)?;
        for chunk in ready {
            self.out.send(Message::Chunk(chunk)).await.map_err(|_| Broken::Unread)?;
        }
        Ok(added)
    }

    async fn whole(&mut self, head: MemberHead, bytes: Bytes) -> Result<(), Broken> {
        let id = self.put(|writer, ready| writer.open(&head, ready)).await?;
        self.put(|writer, ready| writer.data(id, bytes, ready)).await?;
        self.put(|writer, ready| writer.close(id, ready)).await
    }
}

struct Work {
    cx: Context,
    subject: String,
    snapshot: Snapshot,
    bundle: Writer,
    rows: BTreeMap<String, u64>,
    watch: Option<Watch>,
}

/// Why the work stopped before its end.
enum Stop {
    Error(Error),
    Unread,
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl From<Broken> for Stop {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Unread => Self::Unread,
            Broken::Wrong(error) => Self::Error(Error::bug(error.to_string()).at(Stage::Dump)),
        }
    }
}

impl Work {
    async fn run(
        mut self,
        copiers: Vec<Copier>,
        objects: Option<Output>,
        sequences: Vec<String>,
        pre_data: Begun,
        post_data: Begun,
        report: DumpReport,
    ) {
        let out = self.bundle.out.clone();
        let done = async {
            self.schema(PRE_DATA, pre_data).await?;
            self.data(copiers, objects).await?;
            if !sequences.is_empty() {
                let head = MemberHead::new(SEQUENCES, SQL_FORMAT);
                self.bundle.whole(head, sequences.concat().into()).await?;
            }
            self.schema(POST_DATA, post_data).await?;
            // To the last byte that was read, it was one snapshot.
            self.snapshot.check().await.map_err(|error| self.failed(error))?;
            let contents = serde_json::to_vec(&Contents { rows: std::mem::take(&mut self.rows) })
                .map_err(|error| Error::bug(format!("contents: {error}")))?;
            self.bundle.whole(MemberHead::new(CONTENTS, CONTENTS_FORMAT), contents.into()).await?;
            let writer = std::mem::take(&mut self.bundle.writer);
            self.bundle.put(|_, ready| writer.end(ready)).await?;
            Ok(())
        };
        let last = match done.await {
            Ok(()) => Message::Ended(Box::new(report)),
            Err(Stop::Error(error)) => Message::Failed(self.reason(error)),
            Err(Stop::Unread) => return,
        };
        // Nobody listens any more: then nobody needs to know.
        let _ = out.send(last).await;
    }

    fn failed(&self, error: PostgresError) -> Error {
        error.about(&self.subject).at(Stage::Dump)
    }

    /// The error, or that the dump gave way: its sessions were ended then, each with an error.
    fn reason(&self, error: Error) -> Error {
        match self.watch.as_ref().and_then(Watch::gave_way) {
            Some(who) if error.kind() != ErrorKind::Cancelled => self.failed(PostgresError::GaveWay(who)),
            _ => error,
        }
    }

    /// One half of the schema.
    async fn schema(&mut self, name: &str, begun: Begun) -> Result<(), Stop> {
        let mut bytes = self.archive(name, Some(begun.first), begun.output);
        let head = MemberHead::new(name, PG_CUSTOM);
        let id = self.bundle.put(|writer, ready| writer.open(&head, ready)).await?;
        while let Some(chunk) = bytes.next().await.transpose()? {
            self.bundle.put(|writer, ready| writer.data(id, chunk, ready)).await?;
        }
        self.bundle.put(|writer, ready| writer.close(id, ready)).await?;
        Ok(())
    }

    /// What `pg_dump` writes, with a clean end only where the archive ends too.
    fn archive(&self, name: &str, first: Option<Bytes>, output: Output) -> ByteStream<Plain> {
        let subject = self.subject.clone();
        let convert = {
            let subject = subject.clone();
            move |error| PostgresError::of_tool(error).about(&subject).at(Stage::Dump)
        };
        let refuse = {
            let name = name.to_owned();
            move |error| {
                let what = format!("pg_dump ended well, but its archive of {name} is broken: {error}");
                Error::new(ErrorKind::Tool, &*subject, what).at(Stage::Dump).with_source(error)
            }
        };
        let first = futures::stream::iter(first.map(Ok));
        let bytes = ByteStream::new(first.chain(output.into_bytes(convert, || ())));
        parsed(&self.cx, bytes, refuse, drop)
    }

    /// Rows and large objects, as they come.
    async fn data(&mut self, copiers: Vec<Copier>, objects: Option<Output>) -> Result<(), Stop> {
        let (sender, mut pieces) = mpsc::channel(copiers.len().max(1));
        let mut sessions = JoinSet::new();
        for copier in copiers {
            sessions.spawn(copier.run(sender.clone()));
        }
        drop(sender);
        let mut objects = objects.map(|output| self.archive(OBJECTS, None, output));
        let mut objects_id = None;
        if objects.is_some() {
            let head = MemberHead::new(OBJECTS, PG_CUSTOM);
            objects_id = Some(self.bundle.put(|writer, ready| writer.open(&head, ready)).await?);
        }
        let mut open: HashMap<usize, (MemberId, String)> = HashMap::new();
        let mut check = tokio::time::interval(CHECK_EVERY);
        let mut copying = true;
        while copying || objects.is_some() {
            tokio::select! {
                // A failed session first: it is the reason for whatever else ends.
                biased;
                Some(ended) = sessions.join_next() => match ended {
                    Ok(ended) => ended.map_err(|error| error.at(Stage::Dump))?,
                    Err(error) => return Err(Error::bug(format!("a copying task died: {error}")).into()),
                },
                _ = check.tick() => {
                    self.snapshot.check().await.map_err(|error| self.failed(error))?;
                }
                piece = pieces.recv(), if copying => match piece {
                    Some(piece) => self.piece(piece, &mut open).await?,
                    None => copying = false,
                },
                chunk = next(&mut objects), if objects.is_some() => match (chunk.transpose()?, objects_id) {
                    (Some(chunk), Some(id)) => {
                        self.bundle.put(|writer, ready| writer.data(id, chunk, ready)).await?;
                    }
                    (None, Some(id)) => {
                        self.bundle.put(|writer, ready| writer.close(id, ready)).await?;
                        objects = None;
                    }
                    (_, None) => objects = None,
                },
            }
        }
        // A session that failed closed its end of the pieces too.
        while let Some(ended) = sessions.join_next().await {
            ended.map_err(|error| Error::bug(format!("a copying task died: {error}")))??;
        }
        Ok(())
    }

    async fn piece(
        &mut self,
        piece: Piece,
        open: &mut HashMap<usize, (MemberId, String)>,
    ) -> Result<(), Stop> {
        let missing = || Error::bug("a piece of a range that has not begun");
        match piece {
            Piece::Begun(task) => {
                let head = task.head();
                let id = self.bundle.put(|writer, ready| writer.open(&head, ready)).await?;
                open.insert(task.number, (id, task.member));
            }
            Piece::Rows(number, chunk) => {
                let id = open.get(&number).ok_or_else(missing)?.0;
                self.bundle.put(|writer, ready| writer.data(id, chunk, ready)).await?;
            }
            Piece::Whole(number, rows) => {
                let (id, member) = open.remove(&number).ok_or_else(missing)?;
                self.bundle.put(|writer, ready| writer.close(id, ready)).await?;
                self.rows.insert(member, rows);
            }
            Piece::Lost(number) => {
                let (id, _) = open.remove(&number).ok_or_else(missing)?;
                self.bundle.put(|writer, ready| writer.abandon(id, ready)).await?;
            }
        }
        Ok(())
    }
}

/// The next of a stream that may be over.
async fn next(bytes: &mut Option<ByteStream<Plain>>) -> Option<Result<Bytes>> {
    match bytes {
        Some(bytes) => bytes.next().await,
        None => None,
    }
}
