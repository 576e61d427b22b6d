//! A dump's text on its way into the client: what goes in at once, and what waits.
//!
//! Tables and their rows go into databases of temporary names as they come. Views, triggers,
//! routines and events wait until the tables are in place: a table with triggers cannot be moved,
//! an event would run against half a database, and a view names the tables it stands on.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use backup_core::{ByteStream, Context, Error, ErrorKind, Plain, Stage};
use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use tokio::sync::oneshot;

use super::definers::{definers, with_current_user};
use crate::mysql::error::MysqlError;
use crate::mysql::inspect::{Told, not_whole};
use crate::mysql::names::identifier;
use crate::mysql::script::{Definition, Script, ScriptError, Text, Unit};
use crate::mysql::tools::Flavour;

/// The most bytes of definitions that wait.
const HELD_MAX: usize = 32 * 1024 * 1024;
/// The variable that dumps set to a value of their own.
const SQL_MODE: &[u8] = b"SQL_MODE";
/// Without this mode a server that lacks a table's storage engine takes another one silently.
const KEEP_ENGINES: &[u8] =
    b"\nSET SESSION sql_mode = CONCAT(@@SESSION.sql_mode, ',NO_ENGINE_SUBSTITUTION');\n";
/// Parts shorter than this are gathered into one.
const GATHERED: usize = 64 * 1024;

/// Where a restore puts what it reads.
#[derive(Debug, Clone)]
pub(super) struct Routing {
    /// The one database to make, or each by its own name.
    pub(super) target: Option<String>,
    /// The end of the temporary names.
    pub(super) suffix: String,
    /// What databases hold already: empty for one that holds nothing.
    pub(super) existing: BTreeMap<String, BTreeSet<String>>,
    /// Whether a target that holds something may take more.
    pub(super) into_existing: bool,
    /// The longest statement that the server takes.
    pub(super) max_packet: u64,
    /// Whose dump it is, and whose server.
    pub(super) families: (Flavour, Flavour),
    /// What this restore is about, in errors.
    pub(super) subject: String,
}

/// One database of a dump.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    /// Its temporary name.
    pub(super) draft: String,
    /// The name it gets.
    pub(super) target: String,
    /// `CHARACTER SET x COLLATE y`, as it was dumped.
    pub(super) character_set: String,
}

/// What was read besides the tables.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// The databases, by the names in the dump.
    pub(super) parts: Vec<(String, Part)>,
    /// Statements to be run when the tables are in place.
    pub(super) definitions: Vec<u8>,
    /// What they make, by target and `key`.
    pub(super) names: BTreeSet<(String, String)>,
    /// Accounts and grants.
    pub(super) accounts: Vec<u8>,
    /// Everyone that a definition runs as.
    pub(super) definers: BTreeSet<String>,
}

/// The part of the text that is to be run at once; what waits is sent at the clean end.
pub(super) fn routed(
    cx: &Context,
    bytes: ByteStream<Plain>,
    routing: Routing,
) -> (ByteStream<Plain>, oneshot::Receiver<(Waiting, u64)>) {
    let (sender, receiver) = oneshot::channel();
    let router = Router {
        routing,
        waiting: Waiting::default(),
        out: Vec::new(),
        small: BytesMut::new(),
        unit: BytesMut::new(),
        statement: 0,
        database: None,
    };
    let state = Some((bytes, Script::new(), router, Told::new(cx), sender, 0));
    let parts = futures::stream::unfold(state, async |state| {
        let (mut bytes, mut script, mut router, mut told, sender, total) = state?;
        match bytes.next().await {
            Some(Ok(chunk)) => {
                let pushed = script.push(&chunk, |script, unit, text, ends| {
                    let _ = told.look(script);
                    router.take(&chunk, unit, &text, ends)
                });
                let parts: Vec<_> = match pushed {
                    Ok(()) => router.flushed().into_iter().map(Ok).collect(),
                    Err(error) => return Some((vec![Err(error.0)], None)),
                };
                let total = total + chunk.len() as u64;
                Some((parts, Some((bytes, script, router, told, sender, total))))
            }
            Some(Err(error)) => Some((vec![Err(error)], None)),
            None => match script.finish() {
                Ok(_) => {
                    // Nobody waits for it any more: then nobody restores.
                    let _ = sender.send((router.waiting, total));
                    None
                }
                Err(error) => Some((vec![Err(not_whole(error).at(Stage::Restore))], None)),
            },
        }
    });
    (ByteStream::new(parts.map(futures::stream::iter).flatten()), receiver)
}

/// An error on the way; what is wrong with the text becomes one of the dump's.
struct Stop(Error);

impl From<ScriptError> for Stop {
    fn from(error: ScriptError) -> Self {
        Self(not_whole(error).at(Stage::Restore))
    }
}

struct Router {
    routing: Routing,
    waiting: Waiting,
    out: Vec<Bytes>,
    small: BytesMut,
    /// A unit that has to be known whole.
    unit: BytesMut,
    /// Bytes of the present statement that were passed on.
    statement: u64,
    /// The target of the present database.
    database: Option<String>,
}

impl Router {
    fn take(&mut self, chunk: &Bytes, unit: &Unit, text: &Text<'_>, ends: bool) -> Result<(), Stop> {
        match unit {
            Unit::Blank | Unit::Comment | Unit::Completed | Unit::Sandbox => {}
            Unit::Insert | Unit::Table | Unit::CreateTable(_) => {
                if let Unit::CreateTable(name) = unit
                    && self.statement == 0
                {
                    self.refuse_clash(name)?;
                }
                self.pass(chunk, text)?;
            }
            Unit::Foreign(what) => {
                let error = Error::new(
                    ErrorKind::Unsupported,
                    &*self.routing.subject,
                    format!("the dump holds {what}"),
                );
                return Err(Stop(
                    error
                        .with_hint("it reaches beyond the databases of the dump: restore it to a file and apply it by hand")
                        .at(Stage::Restore),
                ));
            }
            Unit::Session
            | Unit::CreateDatabase { .. }
            | Unit::Use(_)
            | Unit::AlterDatabase(_)
            | Unit::Definition(..)
            | Unit::Block
            | Unit::Account => {
                self.unit.extend_from_slice(slice(chunk, text));
                let held = self.waiting.definitions.len() + self.waiting.accounts.len() + self.unit.len();
                if held > HELD_MAX {
                    let what =
                        format!("its views, triggers, routines and events have more than {HELD_MAX} bytes");
                    let error = Error::new(ErrorKind::Unsupported, &*self.routing.subject, what);
                    return Err(Stop(
                        error.with_hint("restore it to a file and apply it by hand").at(Stage::Restore),
                    ));
                }
                if ends {
                    let whole = self.unit.split().freeze();
                    self.whole(unit, &whole)?;
                }
            }
        }
        if ends {
            self.statement = 0;
        }
        Ok(())
    }

    /// Passes a part of a statement on.
    fn pass(&mut self, chunk: &Bytes, text: &Text<'_>) -> Result<(), Stop> {
        let part = slice(chunk, text);
        self.statement += part.len() as u64;
        if self.statement > self.routing.max_packet {
            let what = format!("the dump holds a statement longer than {} bytes", self.routing.max_packet);
            return Err(Stop(MysqlError::Packet(what).about(&self.routing.subject).at(Stage::Restore)));
        }
        if part.len() < GATHERED {
            self.small.extend_from_slice(part);
            if self.small.len() >= GATHERED {
                self.out.push(self.small.split().freeze());
            }
        } else {
            self.out.push(self.small.split().freeze());
            self.out.push(match text {
                Text::At(range) => chunk.slice(range.clone()),
                Text::Held(bytes) => Bytes::copy_from_slice(bytes),
            });
        }
        Ok(())
    }

    fn flushed(&mut self) -> Vec<Bytes> {
        if !self.small.is_empty() {
            self.out.push(self.small.split().freeze());
        }
        self.out.retain(|part| !part.is_empty());
        std::mem::take(&mut self.out)
    }

    /// Takes a unit that was held to its end.
    fn whole(&mut self, unit: &Unit, text: &Bytes) -> Result<(), Stop> {
        match unit {
            Unit::Session => {
                let text = &*self.portable(text);
                self.small.extend_from_slice(text);
                if text.to_ascii_uppercase().windows(SQL_MODE.len()).any(|word| word == SQL_MODE) {
                    self.small.extend_from_slice(KEEP_ENGINES);
                }
                self.waiting.definitions.extend_from_slice(text);
            }
            Unit::CreateDatabase { name, text } => {
                let part = self.part(name, text.as_deref())?;
                let statement =
                    format!("\nCREATE DATABASE {} {};\n", identifier(&part.draft), part.character_set);
                self.small.extend_from_slice(statement.as_bytes());
            }
            Unit::Use(name) => {
                let part = self.part(name, None)?;
                self.small.extend_from_slice(format!("\nUSE {};\n", identifier(&part.draft)).as_bytes());
                let later = format!("\nUSE {};\n", identifier(&part.target));
                self.waiting.definitions.extend_from_slice(later.as_bytes());
                self.database = Some(part.target);
            }
            Unit::AlterDatabase(name) => {
                let part = self.part(name, None)?;
                let statement = String::from_utf8_lossy(text);
                let renamed = statement.replacen(&identifier(name), &identifier(&part.target), 1);
                self.waiting.definitions.extend_from_slice(renamed.as_bytes());
            }
            Unit::Definition(what, name) => {
                let (key, drops) = (what.key(name), Unit::drops(text));
                let ours = |target: &String| self.waiting.names.contains(&(target.clone(), key.clone()));
                let made = self.database.as_ref().is_some_and(ours);
                if drops {
                    self.refuse_clash(&key)?;
                } else {
                    self.note(*what, name)?;
                }
                // Dumps drop what exists before they make it: here it does not exist, or is somebody
                // else's. A view is made twice, first without its text, and that is dropped.
                if !drops || made {
                    self.define(text);
                }
            }
            Unit::Block => {
                for (what, name) in Unit::of_block(text) {
                    self.note(what, &name)?;
                }
                self.define(&self.portable(text));
            }
            Unit::Account => self.waiting.accounts.extend_from_slice(text),
            _ => {}
        }
        Ok(())
    }

    /// The text without what the server's family does not know and can do without.
    fn portable<'a>(&self, text: &'a [u8]) -> Cow<'a, [u8]> {
        match self.routing.families {
            (Flavour::MariaDb, Flavour::MySql) => without_mode(text),
            _ => Cow::Borrowed(text),
        }
    }

    fn define(&mut self, text: &[u8]) {
        self.waiting.definers.extend(definers(text));
        self.waiting.definitions.extend_from_slice(text);
    }

    /// The place of a database of the dump.
    fn part(&mut self, name: &str, character_set: Option<&str>) -> Result<Part, Stop> {
        if let Some((_, part)) = self.waiting.parts.iter().find(|(known, _)| known == name) {
            return Ok(part.clone());
        }
        let subject = &self.routing.subject;
        let target = match &self.routing.target {
            Some(_) if !self.waiting.parts.is_empty() => {
                let what = "the dump holds several databases, and the target names one";
                let error = Error::new(ErrorKind::Config, &**subject, what);
                let hint = "leave the database out of the target: each is then restored under its own name";
                return Err(Stop(error.with_hint(hint).at(Stage::Restore)));
            }
            Some(target) => target.clone(),
            None => name.to_owned(),
        };
        let full = self.routing.existing.get(&target).is_some_and(|tables| !tables.is_empty());
        if full && !self.routing.into_existing {
            return Err(Stop(MysqlError::Exists(target).about(subject).at(Stage::Restore)));
        }
        let part = Part {
            draft: super::temporary(&target, &self.routing.suffix),
            character_set: character_set.unwrap_or_default().to_owned(),
            target,
        };
        self.waiting.parts.push((name.to_owned(), part.clone()));
        Ok(part)
    }

    /// Takes down what is defined, which nothing in the target may be named like.
    fn note(&mut self, what: Definition, name: &str) -> Result<(), Stop> {
        let key = what.key(name);
        self.refuse_clash(&key)?;
        if let Some(target) = &self.database {
            self.waiting.names.insert((target.clone(), key));
        }
        Ok(())
    }

    /// What the target holds already is not replaced.
    fn refuse_clash(&self, name: &str) -> Result<(), Stop> {
        let Some(target) = &self.database else { return Ok(()) };
        match self.routing.existing.get(target) {
            Some(tables) if tables.contains(name) => Err(Stop(
                MysqlError::Clash(format!("{:?}", name.trim_start_matches('\0')))
                    .about(&self.routing.subject)
                    .at(Stage::Restore),
            )),
            _ => Ok(()),
        }
    }
}

impl Definition {
    /// What it is known by among what a database holds.
    fn key(self, name: &str) -> String {
        let kind = match self {
            Self::View => return name.to_owned(),
            Self::Trigger => "trigger",
            Self::Procedure => "procedure",
            Self::Function => "function",
            Self::Package => "package",
            Self::PackageBody => "package body",
            Self::Event => "event",
        };
        super::key(kind, name)
    }
}

impl Waiting {
    /// Makes the restoring user the definer of everything.
    pub(super) fn define_as_current_user(&mut self) {
        self.definitions = with_current_user(&self.definitions);
    }
}

/// Without a mode that MariaDB has set for every definition, that MySQL lacks, and that means nothing
/// outside of `GRANT`. Only in the lines that set modes, before the definition itself.
fn without_mode(text: &[u8]) -> Cow<'_, [u8]> {
    const MODE: &[u8] = b"NO_AUTO_CREATE_USER";
    if memchr::memmem::find(text, MODE).is_none() {
        return Cow::Borrowed(text);
    }
    let (mut changed, mut defines) = (Vec::with_capacity(text.len()), false);
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        let sets = memchr::memmem::find(line, b"SET ").is_some_and(|at| at < 12)
            && memchr::memmem::find(line, b"sql_mode").is_some();
        defines |= memchr::memmem::find(line, b"CREATE").is_some_and(|at| at < 12);
        match memchr::memmem::find(line, MODE) {
            Some(at) if sets && !defines => {
                let (before, after) = (&line[..at], &line[at + MODE.len()..]);
                let (before, after) = match before.strip_suffix(b",") {
                    Some(before) => (before, after),
                    None => (before, after.strip_prefix(b",").unwrap_or(after)),
                };
                changed.extend_from_slice(before);
                changed.extend_from_slice(after);
            }
            _ => changed.extend_from_slice(line),
        }
    }
    Cow::Owned(changed)
}

fn slice<'a>(chunk: &'a Bytes, text: &'a Text<'_>) -> &'a [u8] {
    match text {
        Text::Held(bytes) => bytes,
        Text::At(range) => &chunk[range.clone()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mode_is_taken_out_where_it_is_set_and_nowhere_else() {
        for (text, expected) in [
            (
                "/*!50003 SET sql_mode = 'A,NO_AUTO_CREATE_USER,B' */ ;\n",
                "/*!50003 SET sql_mode = 'A,B' */ ;\n",
            ),
            ("SET sql_mode = 'NO_AUTO_CREATE_USER,B';\n", "SET sql_mode = 'B';\n"),
            ("/*!50003 SET sql_mode = 'NO_AUTO_CREATE_USER,B' */ ;\n", "/*!50003 SET sql_mode = 'B' */ ;\n"),
            ("/*!50003 SET sql_mode = 'NO_AUTO_CREATE_USER' */ ;\n", "/*!50003 SET sql_mode = '' */ ;\n"),
            (
                "DELIMITER ;;\n/*!50003 SET sql_mode = 'A,NO_AUTO_CREATE_USER' */ ;;\n/*!50106 CREATE EVENT e DO SELECT '\n/*!50003 SET sql_mode = NO_AUTO_CREATE_USER\n' */ ;;\n",
                "DELIMITER ;;\n/*!50003 SET sql_mode = 'A' */ ;;\n/*!50106 CREATE EVENT e DO SELECT '\n/*!50003 SET sql_mode = NO_AUTO_CREATE_USER\n' */ ;;\n",
            ),
        ] {
            assert_eq!(String::from_utf8_lossy(&without_mode(text.as_bytes())), expected);
        }
    }
}
