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
use super::super::query::verbatim;
use super::super::statements::{Statement, Word as Part, statements};
use super::super::tools::{Client, only_unknown_timeout};
use super::copy::Rows;
use super::incoming::wrong;
use super::session::Session;
use super::{META_RESTORE, META_TABLE};
use crate::bundle::{MemberHead, MemberId};
use crate::tool::{ToolCommand, Waiting, feed, feed_forgiving};

/// The most members that are open at a time: as many as sessions read rows, and the large objects.
const OPEN_MAX: usize = super::JOBS_MAX as usize + 1;
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
    pub(in crate::postgres) async fn restored(
        &self,
        command: &ToolCommand,
        bytes: ByteStream<Plain>,
    ) -> Result<String> {
        let convert = |error| self.fail(PostgresError::of_tool(error));
        let (cx, waiting) = (&self.cx, self.waiting);
        let fed = if self.forgiving {
            feed_forgiving(cx, command, waiting, bytes, convert, only_unknown_timeout).await?
        } else {
            feed(cx, &command.clone().arg("--exit-on-error"), waiting, bytes, convert).await?
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
        check_copy(&statement).map_err(|what| wrong(format!("member {:?}: {what}", head.name)))?;
        self.room()?;
        self.place.cx.report(Event::Table(&table));
        let (sender, words) = mpsc::channel(AHEAD);
        self.open.insert(id, sender);
        let load = Load { place: Arc::clone(&self.place), member: head.name.clone(), statement, words };
        self.running.spawn(load.run(self.free.pop()));
        Ok(())
    }

    /// The member with large objects begins.
    pub(in crate::postgres) fn objects(&mut self, id: MemberId) -> Result<()> {
        self.room()?;
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
            place.restored(&place.command, bytes).await.map(|_| Done::default())
        });
        Ok(())
    }

    /// Refuses one more open member than any dump has.
    fn room(&self) -> Result<()> {
        if self.open.len() < OPEN_MAX {
            return Ok(());
        }
        Err(wrong(format!("more than {OPEN_MAX} of its members are open at a time")))
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

    /// Runs somebody else's statements that set sequences in one of the sessions.
    pub(in crate::postgres) async fn run(&mut self, script: &str) -> Result<()> {
        let found = statements(script).map_err(|error| wrong(format!("its sequences: {error}")))?;
        if let Some(other) = found.iter().find(|statement| !sets_a_sequence(statement)) {
            return Err(wrong(format!("its sequences: a statement that sets none: {}", other.kind())));
        }
        let sql: String = found.iter().map(|statement| verbatim(&statement.text)).collect();
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

/// Refuses a statement that reads rows and is more than that: `psql` reads commands of its own wherever
/// a backslash stands, and another statement would find rows that are none.
pub(super) fn check_copy(statement: &str) -> std::result::Result<(), String> {
    let found = statements(statement).map_err(|error| error.to_string())?;
    match &*found {
        [one]
            if one.begins(&["COPY"])
                && one.find("FROM").is_some_and(|at| one.is(at + 1, "STDIN"))
                && one.words().all(|word| match word {
                    Part::Bare(word) => !word.starts_with('$'),
                    Part::Quoted(_) => true,
                    Part::Text(text) => !text.contains('\\'),
                    Part::Sign(sign) => ".,()".contains(*sign),
                }) =>
        {
            Ok(())
        }
        _ => Err("its statement to restore is not one COPY".to_owned()),
    }
}

/// `SELECT pg_catalog.setval('name', 7, true)` and nothing more.
fn sets_a_sequence(statement: &Statement) -> bool {
    let words: Vec<&Part> = statement.words().collect();
    let bare = |word: &Part, expected: &str| matches!(word, Part::Bare(bare) if bare == expected);
    let sign = |word: &Part, expected: char| *word == Part::Sign(expected);
    let number =
        |word: &Part| matches!(word, Part::Bare(bare) if bare.bytes().all(|byte| byte.is_ascii_digit()));
    let (begin, value) = match &*words {
        [begin @ .., minus, value, c, called, end] if sign(minus, '-') => {
            (begin, [*value, *c, *called, *end])
        }
        [begin @ .., value, c, called, end] => (begin, [*value, *c, *called, *end]),
        _ => return false,
    };
    let [select, schema, dot, setval, open, Part::Text(_), comma] = begin else { return false };
    let [value, second, called, end] = value;
    bare(select, "SELECT")
        && bare(schema, "pg_catalog")
        && sign(dot, '.')
        && bare(setval, "setval")
        && sign(open, '(')
        && sign(comma, ',')
        && number(value)
        && sign(second, ',')
        && (bare(called, "true") || bare(called, "false"))
        && sign(end, ')')
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
        let mut sent = Rows::new();
        loop {
            match self.words.recv().await {
                Some(Word::Chunk(chunk)) => {
                    if !sent.push(&chunk) {
                        let what = format!("a row of member {:?} is none of COPY's text format", self.member);
                        return Err(PostgresError::Answer(what));
                    }
                    session.write(&chunk).await?;
                }
                Some(Word::Whole) if sent.whole() => break,
                Some(Word::Whole) => {
                    let what = format!("the rows of member {:?} end within a row", self.member);
                    return Err(PostgresError::Answer(what));
                }
                None => return Ok(Done::default()),
            }
        }
        session.run("\\.").await?;
        let sent = sent.count;
        if session.rows() != sent {
            let what = format!("{} of {sent} rows of member {:?} arrived", session.rows(), self.member);
            return Err(PostgresError::Answer(what));
        }
        session.run("COMMIT;").await?;
        Ok(Done { session: Some(session), rows: Some((self.member.clone(), sent)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_setval_sets_sequences() {
        for (script, good) in [
            ("SELECT pg_catalog.setval('public.\"Odd ''one''\"', 77, false);", true),
            ("SELECT pg_catalog.setval(E'a\\\\b', -9223372036854775808, true);", true),
            ("SELECT pg_catalog.setval('a', 1, true), pg_read_file('x');", false),
            ("SELECT pg_catalog.setval('a', nextval('b'), true);", false),
            ("SELECT setval('a', 1, true);", false),
            ("SELECT pg_catalog.setval('a', - -1, true);", false),
            ("COPY t FROM PROGRAM 'x';", false),
            ("SELECT 1;", false),
        ] {
            let found = statements(script).unwrap();
            assert_eq!(found.iter().all(sets_a_sequence), good, "{script}");
        }
    }

    #[test]
    fn only_one_copy_reads_rows() {
        for good in [
            "COPY public.t (a, b) FROM STDIN (ENCODING 'UTF8');",
            "COPY \"a\\b\".\"c\nd\" (\"x\"\"; y\") FROM STDIN (ENCODING 'LATIN1');",
        ] {
            assert_eq!(check_copy(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "COPY t FROM STDIN",
            "SELECT 1;",
            "SELECT 1; COPY t FROM STDIN;",
            "COPY t FROM STDIN; \\! touch x",
            "COPY t \\! touch x\nFROM STDIN;",
            "COPY t -- x\n\\! touch x\nFROM STDIN;",
            "COPY t FROM STDIN (ENCODING E'\\'');",
            "COPY t FROM STDIN /* \\! x */;",
            "COPY t $$ FROM STDIN $$ FROM STDIN;",
            "COPY t FROM PROGRAM 'x';",
        ] {
            assert!(check_copy(bad).is_err(), "{bad}");
        }
    }
}
