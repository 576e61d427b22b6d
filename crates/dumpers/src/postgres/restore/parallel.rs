//! The restore: schema, rows by as many sessions as the dump had at a time, indexes.
//!
//! Members alternate in the stream, so each that is open has a session of its own: one that is slow
//! makes the stream wait and never another session that the stream would have to feed first. What a
//! session reads is one transaction, committed when its member is whole.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use backup_core::{ByteStream, Context, Dump, Error, ErrorKind, Plain, Restored, Result, Stage};
use tokio::sync::Mutex;

use super::super::PG_CUSTOM;
use super::super::error::PostgresError;
use super::super::inspect::{not_whole, parsed};
use super::super::names::identifier;
use super::super::parallel::contents::{CONTENTS_MAX, Contents};
use super::super::parallel::incoming::{Incoming, member, wrong};
use super::super::parallel::load::{Loaders, Place};
use super::super::parallel::{CONTENTS, DATA_FORMAT, OBJECTS, POST_DATA, PRE_DATA, SEQUENCES};
use super::super::tools::{Client, sets_unknown_timeout};
use super::PostgresRestorer;
use super::build::Fit;
use super::draft::{Draft, discarded, hand_over};
use super::head::Head;
use super::look::Looked;
use super::run::Run;
use crate::bundle::{MemberHead, MemberId, Turn};
use crate::tool::ToolCommand;

impl PostgresRestorer {
    /// Refuses what a dump over several connections cannot be restored like: several connections
    /// share no transaction, so a failure in an existing database could not be undone.
    pub(super) fn refuse_for_parallel(&self, exists: bool) -> Result<()> {
        self.refuse_arguments()?;
        let what = if exists {
            "an existing database"
        } else if self.is_partial() {
            "tables or schemas of it alone"
        } else if self.config.single_transaction {
            "one transaction"
        } else {
            return Ok(());
        };
        let what = format!("a dump over several connections cannot be restored into {what}");
        Err(Error::new(ErrorKind::Unsupported, self.connection.describe(), what)
            .with_hint("restore all of it to a new database, and take from there what is needed")
            .at(Stage::Restore))
    }

    /// Refuses arguments that would leave out a part which the other sessions fill, or that are
    /// obeyed in a part of the sessions only.
    fn refuse_arguments(&self) -> Result<()> {
        const OTHERS: [&str; 23] = [
            "section",
            "data-only",
            "schema-only",
            "statistics",
            "statistics-only",
            "no-data",
            "no-schema",
            "table",
            "schema",
            "exclude-schema",
            "exclude-table",
            "function",
            "index",
            "trigger",
            "filter",
            "strict-names",
            "clean",
            "if-exists",
            "disable-triggers",
            "enable-row-security",
            "superuser",
            "role",
            "transaction-size",
        ];
        for arg in &self.config.extra_args {
            let name = arg.strip_prefix("--").and_then(|long| long.split('=').next()).unwrap_or_default();
            // The program takes every unambiguous beginning for the whole option.
            if OTHERS.iter().any(|other| other.starts_with(name)) {
                let what = format!("{arg:?} does not go together with a dump over several connections");
                return Err(Error::new(ErrorKind::Config, self.connection.describe(), what)
                    .with_hint("leave it out of restore_args; role and no_privileges are settings")
                    .at(Stage::Restore));
            }
        }
        Ok(())
    }

    /// Restores a dump over several connections into a new database.
    pub(super) async fn restore_parallel(
        &self,
        cx: &Context,
        described: &str,
        target: &str,
        dump: Dump,
    ) -> Result<Restored> {
        let at = |error: Error| error.at(Stage::Restore);
        let incoming = Arc::new(Mutex::new(Incoming::new(cx, dump.bytes)));
        let (id, _) = incoming.lock().await.begin(PRE_DATA).await.map_err(at)?;
        let (head, pre_data) = Head::read(cx, member(&incoming, id)).await.map_err(at)?;
        let psql = self.maintenance(cx).await.map_err(|error| self.fail(error))?;
        let looked = self.look(cx, &psql, &[target]).await.map_err(|error| self.fail(error))?;
        if looked.exists(target) {
            return Err(self.fail(PostgresError::Exists));
        }
        let mut warnings = Vec::new();
        self.drop_leftovers(cx, &psql, &looked, &mut warnings).await;
        let client = self.client(cx, &looked, Some(&head)).await.map_err(|error| self.fail(error))?;
        let server = looked.server().map_err(|error| self.fail(error))?;
        let fit = self.fit(&looked, &head, &mut warnings);
        let run = Run::begin(cx, &psql).await.map_err(|error| self.fail(error))?;
        let mut draft =
            Draft::create(cx, &run, target, &head, &mut warnings).await.map_err(|error| self.fail(error))?;
        let begin = self.config.role.as_ref().map(|role| format!("SET ROLE {};", identifier(role)));
        let place = Place {
            cx: cx.clone(),
            psql: psql.client().clone(),
            connection: self.connection.with_database(&draft.name),
            begin: begin.unwrap_or_default(),
            waiting: self.waiting,
            subject: self.connection.describe(),
            forgiving: sets_unknown_timeout(&client.version, &server),
            command: self.command(&client, &draft.name, fit),
        };
        let fitting =
            Fitting { restorer: self, looked: &looked, client: &client, database: &draft.name, fit };
        let applied = Applying::new(place, fitting).all(&incoming, pre_data).await.map_err(at);
        if applied.is_ok() {
            draft.take_settings(cx, &psql, &looked, &head.contents, fit, &mut warnings).await;
        }
        let drafts = [draft];
        let handed = match applied.and_then(|said| cx.check(described).map(|()| said)) {
            Ok(said) => {
                for line in said {
                    if !warnings.contains(&line) {
                        warnings.push(line);
                    }
                }
                hand_over(cx, &psql, &drafts).await.map_err(|error| self.fail(error))
            }
            Err(error) => Err(error),
        };
        match handed {
            Ok(()) => {
                let bytes = incoming.lock().await.total;
                Ok(Restored { target: described.to_owned(), bytes, warnings })
            }
            Err(error) => Err(discarded(&psql, &drafts, error).await),
        }
    }
}

/// What a member is for.
enum Kind {
    Rows,
    Objects,
    Sequences,
    PostData,
    Contents,
}

impl Kind {
    fn of(head: &MemberHead) -> Result<Self> {
        Ok(match (head.name.as_str(), head.format.as_str()) {
            (_, DATA_FORMAT) => Self::Rows,
            (OBJECTS, PG_CUSTOM) => Self::Objects,
            (SEQUENCES, _) => Self::Sequences,
            (POST_DATA, PG_CUSTOM) => Self::PostData,
            (CONTENTS, _) => Self::Contents,
            (name, format) => {
                let what = format!("member {name:?} of format {format} is not known here");
                return Err(wrong(what));
            }
        })
    }
}

/// What the schema after the rows is looked at with: it may name roles and tablespaces of its own.
struct Fitting<'a> {
    restorer: &'a PostgresRestorer,
    looked: &'a Looked,
    client: &'a Client,
    database: &'a str,
    /// What was found for the schema before the rows.
    fit: Fit,
}

/// The restore of one dump into its temporary database.
struct Applying<'a> {
    fitting: Fitting<'a>,
    place: Arc<Place>,
    loaders: Loaders,
    /// Small members, read whole.
    texts: HashMap<MemberId, (Kind, Vec<u8>)>,
    rows: BTreeMap<String, u64>,
    built: bool,
    contents: Option<Contents>,
    said: Vec<String>,
}

impl<'a> Applying<'a> {
    fn new(place: Place, fitting: Fitting<'a>) -> Self {
        let place = Arc::new(place);
        Self {
            fitting,
            loaders: Loaders::new(Arc::clone(&place)),
            place,
            texts: HashMap::new(),
            rows: BTreeMap::new(),
            built: false,
            contents: None,
            said: Vec::new(),
        }
    }

    /// Applies everything to the end of the stream; gives what the programs said nevertheless.
    async fn all(
        mut self,
        incoming: &Arc<Mutex<Incoming>>,
        pre_data: ByteStream<Plain>,
    ) -> Result<Vec<String>> {
        let command = self.place.command.clone();
        self.archive(&command, pre_data).await?;
        loop {
            let turn = incoming.lock().await.turn().await?;
            let Some(turn) = turn else { break };
            self.rows.extend(self.loaders.finished()?);
            match turn {
                Turn::Open(id, head) => self.open(id, &head, incoming).await?,
                Turn::Data(id, chunk) => match self.texts.get_mut(&id) {
                    Some((_, text)) if text.len() + chunk.len() > CONTENTS_MAX => {
                        return Err(wrong("a list in it is longer than any real one"));
                    }
                    Some((_, text)) => text.extend_from_slice(&chunk),
                    None => self.loaders.data(id, chunk).await?,
                },
                Turn::Close(id) => match self.texts.remove(&id) {
                    Some((kind, text)) => self.text(&kind, text).await?,
                    None => self.loaders.close(id).await?,
                },
                Turn::Abandon(id) => self.loaders.abandon(id),
            }
        }
        let contents = self.contents.ok_or_else(|| wrong(format!("member {CONTENTS:?} is missing")))?;
        if !self.built {
            return Err(wrong(format!("member {POST_DATA:?} is missing")));
        }
        match contents.differs(&self.rows) {
            Some(difference) => Err(wrong(difference)),
            None => Ok(self.said),
        }
    }

    async fn open(&mut self, id: MemberId, head: &MemberHead, incoming: &Arc<Mutex<Incoming>>) -> Result<()> {
        match Kind::of(head)? {
            Kind::Contents if self.built => drop(self.texts.insert(id, (Kind::Contents, Vec::new()))),
            Kind::Contents => return Err(wrong("its contents come before its end")),
            _ if self.built => return Err(wrong(format!("member {:?} comes too late", head.name))),
            Kind::Rows => self.loaders.rows(id, head)?,
            Kind::Objects => self.loaders.objects(id)?,
            Kind::Sequences => drop(self.texts.insert(id, (Kind::Sequences, Vec::new()))),
            Kind::PostData => {
                self.rows.extend(self.loaders.wait().await?);
                let (head, bytes) = Head::read(&self.place.cx, member(incoming, id)).await?;
                let Fitting { restorer, looked, client, database, fit } = self.fitting;
                let fit = fit.and(restorer.fit(looked, &head, &mut self.said));
                self.archive(&restorer.command(client, database, fit), bytes).await?;
                self.built = true;
            }
        }
        Ok(())
    }

    /// A small member is whole.
    async fn text(&mut self, kind: &Kind, text: Vec<u8>) -> Result<()> {
        if matches!(kind, Kind::Sequences) {
            self.rows.extend(self.loaders.wait().await?);
            let text = String::from_utf8(text).map_err(|_| wrong("its sequences are no text"))?;
            return self.loaders.run(&text).await;
        }
        let contents = serde_json::from_slice(&text)
            .map_err(|error| wrong("its contents are not understood").with_source(error))?;
        self.contents = Some(contents);
        Ok(())
    }

    /// Gives an archive to `pg_restore`, whole or not at all.
    async fn archive(&mut self, command: &ToolCommand, bytes: ByteStream<Plain>) -> Result<()> {
        let bytes = parsed(&self.place.cx, bytes, |error| not_whole(error).at(Stage::Restore), drop);
        let said = self.place.restored(command, bytes).await?;
        self.said.extend(said.lines().map(str::to_owned));
        Ok(())
    }
}
