//! Sessions that read rows back, one for each member that is open.

use std::collections::HashMap;
use std::sync::Arc;

use backup_core::{ByteStream, Context, Error, Event, Plain, Result, Stage};
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::super::config::Connection;
use super::super::error::PostgresError;
use super::super::inspect::{not_whole, parsed};
use super::super::tools::{Client, only_unknown_timeout};
use super::copy::lines;
use super::incoming::wrong;
use super::session::Session;
use super::{META_RESTORE, META_TABLE};
use crate::bundle::{MemberHead, MemberId};
use crate::tool::{ToolCommand, Waiting, feed, feed_forgiving};

/// Chunks, of at most 1 MiB, that wait for a session.
const AHEAD: usize = 2;

/// What every loading session needs to know.
#[derive(Debug)]
pub(in crate::postgres) struct Place {
    pub(in crate::postgres) cx: Context,
    pub(in crate::postgres) psql: Client,
    /// To the temporary database.
    pub(in crate::postgres) connection: Connection,
    /// What every session begins with, such as another role.
    pub(in crate::postgres) begin: String,
    pub(in crate::postgres) waiting: Waiting,
    /// How errors speak of the target.
    pub(in crate::postgres) subject: String,
    /// Whether `pg_restore` sets what this server does not know.
    pub(in crate::postgres) forgiving: bool,
    /// `pg_restore` into the temporary database.
    pub(in crate::postgres) command: ToolCommand,
}

impl Place {
    fn fail(&self, error: PostgresError) -> Error {
        error.about(&self.subject).at(Stage::Restore)
    }

    /// Gives an archive to `pg_restore`; what it said nevertheless.
    pub(in crate::postgres) async fn restored(&self, bytes: ByteStream<Plain>) -> Result<String> {
        let convert = |error| self.fail(PostgresError::of_tool(error));
        let (cx, waiting) = (&self.cx, self.waiting);
        let fed = if self.forgiving {
            feed_forgiving(cx, &self.command, waiting, bytes, convert, only_unknown_timeout).await?
        } else {
            feed(cx, &self.command.clone().arg("--exit-on-error"), waiting, bytes, convert).await?
        };
        Ok(fed.stderr)
    }
}

/// What a session is told about its member.
#[derive(Debug)]
enum Word {
    Chunk(Bytes),
    Whole,
}

/// What a session has done: itself, free again, and what it brought in.
#[derive(Debug, Default)]
struct Done {
    session: Option<Session>,
    rows: Option<(String, u64)>,
}

/// The members that are open, and the sessions that read them.
#[derive(Debug)]
pub(in crate::postgres) struct Loaders {
    place: Arc<Place>,
    open: HashMap<MemberId, mpsc::Sender<Word>>,
    running: JoinSet<Result<Done>>,
    free: Vec<Session>,
}

impl Loaders {
    pub(in crate::postgres) fn new(place: Arc<Place>) -> Self {
        Self { place, open: HashMap::new(), running: JoinSet::new(), free: Vec::new() }
    }

    /// A member with rows begins.
    pub(in crate::postgres) fn rows(&mut self, id: MemberId, head: &MemberHead) -> Result<()> {
        let meta = |key: &str| head.meta.get(key).cloned();
        let (Some(statement), Some(table)) = (meta(META_RESTORE), meta(META_TABLE)) else {
            return Err(wrong(format!("member {:?} does not say its table", head.name)));
        };
        self.place.cx.report(Event::Table(&table));
        let (sender, words) = mpsc::channel(AHEAD);
        self.open.insert(id, sender);
        let load = Load { place: Arc::clone(&self.place), member: head.name.clone(), statement, words };
        self.running.spawn(load.run(self.free.pop()));
        Ok(())
    }

    /// The member with large objects begins.
    pub(in crate::postgres) fn objects(&mut self, id: MemberId) {
        let (sender, words) = mpsc::channel(AHEAD);
        self.open.insert(id, sender);
        let place = Arc::clone(&self.place);
        self.running.spawn(async move {
            let bytes = ByteStream::new(futures::stream::unfold(Some(words), async |words| {
                let mut words = words?;
                match words.recv().await {
                    Some(Word::Chunk(chunk)) => Some((Ok(chunk), Some(words))),
                    Some(Word::Whole) => None,
                    // What it has read cannot be undone alone.
                    None => Some((Err(wrong("its large objects are not whole")), None)),
                }
            }));
            let bytes = parsed(&place.cx, bytes, |error| not_whole(error).at(Stage::Restore), drop);
            place.restored(bytes).await.map(|_| Done::default())
        });
    }

    /// Bytes of a member; waits while its session is behind.
    pub(in crate::postgres) async fn data(&mut self, id: MemberId, chunk: Bytes) -> Result<()> {
        self.tell(id, Word::Chunk(chunk)).await
    }

    /// A member is whole.
    pub(in crate::postgres) async fn close(&mut self, id: MemberId) -> Result<()> {
        self.tell(id, Word::Whole).await?;
        self.open.remove(&id);
        Ok(())
    }

    /// What came of a member is to be undone.
    pub(in crate::postgres) fn abandon(&mut self, id: MemberId) {
        self.open.remove(&id);
    }

    async fn tell(&mut self, id: MemberId, word: Word) -> Result<()> {
        let sender = self.open.get(&id).ok_or_else(|| wrong("a record of a member that is not open"))?;
        if sender.send(word).await.is_ok() {
            return Ok(());
        }
        // The session is gone: one of those that have ended says why.
        while let Some(ended) = self.running.join_next().await {
            self.take(ended)?;
        }
        Err(Error::bug("a session ended without a reason"))
    }

    /// Members that were read in meanwhile, with their rows.
    pub(in crate::postgres) fn finished(&mut self) -> Result<Vec<(String, u64)>> {
        let mut rows = Vec::new();
        while let Some(ended) = self.running.try_join_next() {
            rows.extend(self.take(ended)?);
        }
        Ok(rows)
    }

    /// Waits until every member so far was read in.
    pub(in crate::postgres) async fn wait(&mut self) -> Result<Vec<(String, u64)>> {
        if !self.open.is_empty() {
            return Err(wrong("rows go on behind their end"));
        }
        let mut rows = Vec::new();
        while let Some(ended) = self.running.join_next().await {
            rows.extend(self.take(ended)?);
        }
        Ok(rows)
    }

    /// Runs statements in one of the sessions.
    pub(in crate::postgres) async fn run(&mut self, sql: &str) -> Result<()> {
        let mut session = match self.free.pop() {
            Some(session) => session,
            None => self.place.open().await.map_err(|error| self.place.fail(error))?,
        };
        // Each of them gives a row that nobody needs.
        let ran = session.run(&format!("BEGIN;\n{sql}\nCOMMIT;")).await;
        ran.map_err(|error| self.place.fail(error))
    }

    fn take(
        &mut self,
        ended: std::result::Result<Result<Done>, tokio::task::JoinError>,
    ) -> Result<Option<(String, u64)>> {
        let done = ended.map_err(|error| Error::bug(format!("a loading task died: {error}")))??;
        self.free.extend(done.session);
        Ok(done.rows)
    }
}

impl Place {
    async fn open(&self) -> Result<Session, PostgresError> {
        Session::open(&self.cx, &self.psql, &self.connection, self.waiting, &self.begin).await
    }
}

/// One member on its way into the database.
struct Load {
    place: Arc<Place>,
    member: String,
    statement: String,
    words: mpsc::Receiver<Word>,
}

impl Load {
    async fn run(mut self, session: Option<Session>) -> Result<Done> {
        let loaded = match session {
            Some(session) => self.load(session).await,
            None => match self.place.open().await {
                Ok(session) => self.load(session).await,
                Err(error) => Err(error),
            },
        };
        loaded.map_err(|error| self.place.fail(error))
    }

    /// One transaction: committed when the member is whole, undone with the session when it is
    /// abandoned.
    async fn load(&mut self, mut session: Session) -> Result<Done, PostgresError> {
        session.write(format!("BEGIN;\n{}\n", self.statement).as_bytes()).await?;
        let (mut sent, mut last) = (0, b'\n');
        loop {
            match self.words.recv().await {
                Some(Word::Chunk(chunk)) => {
                    sent += lines(&chunk);
                    last = chunk.last().copied().unwrap_or(last);
                    session.write(&chunk).await?;
                }
                Some(Word::Whole) if last == b'\n' => break,
                Some(Word::Whole) => {
                    let what = format!("the rows of member {:?} end within a row", self.member);
                    return Err(PostgresError::Answer(what));
                }
                None => return Ok(Done::default()),
            }
        }
        session.run("\\.").await?;
        if session.rows() != sent {
            let what = format!("{} of {sent} rows of member {:?} arrived", session.rows(), self.member);
            return Err(PostgresError::Answer(what));
        }
        session.run("COMMIT;").await?;
        Ok(Done { session: Some(session), rows: Some((self.member.clone(), sent)) })
    }
}
