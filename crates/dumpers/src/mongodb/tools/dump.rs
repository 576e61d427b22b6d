//! What `mongodump` writes, read on its way.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use async_trait::async_trait;
use backup_core::{
    ByteStream, Context, Dump, DumpFormat, DumpReport, Dumper, Obstacle, Probe, Result, Selection, Settled,
    Settler, Stage,
};
use bytes::Bytes;

use super::connection::Connection;
use super::program::Program;
use super::said::reason;
use crate::mongodb::archive::{ArchiveParser, Item, Namespace, Prelude};
use crate::mongodb::catalog;
use crate::mongodb::config::{Consistency, MongoConfig, wrong};
use crate::mongodb::connect::{Address, Role, Server};
use crate::mongodb::error::MongoError;
use crate::mongodb::pattern::Patterns;
use crate::mongodb::{MONGODB_ARCHIVE, probe};
use crate::tool::{Output, Places, PrivateFile, ToolError, Waiting, stream};

/// The program.
const NAME: &str = "mongodump";
/// Bytes of all arguments that leave collections out; a system takes 2 MiB of them.
const ARGUMENTS_MAX: usize = 1024 * 1024;

/// Dumps one database, or all of a server, by `mongodump`.
#[derive(Debug)]
pub struct MongodumpDumper {
    address: Address,
    connection: Connection,
    places: Places,
    waiting: Waiting,
    consistency: Consistency,
    parallel: usize,
    users: bool,
}

/// Short of no limit, which is zero.
pub(super) fn waiting(stall_seconds: Option<u64>) -> Waiting {
    let stall = stall_seconds.map_or(Waiting::default().stall, Duration::from_secs);
    Waiting { stall, ..Waiting::default() }
}

impl MongodumpDumper {
    /// The server of these settings; nothing is connected yet, and no program looked for.
    ///
    /// # Errors
    /// `Config` for settings that cannot work.
    pub fn new(config: &MongoConfig) -> Result<Self> {
        let address = Address::new(config)?;
        if config.users && address.database().is_some() {
            return Err(wrong("users", "is set, and so is a database: users belong to the whole server"));
        }
        Ok(Self {
            connection: Connection::new(config, address.database())?,
            address,
            places: Places::new(&config.tool_dirs),
            waiting: waiting(config.stall_seconds),
            consistency: config.consistency,
            parallel: config.parallel(),
            users: config.users,
        })
    }

    fn subject(&self) -> &str {
        self.address.describe()
    }

    /// The program's arguments for these collections out of all.
    fn arguments(
        &self,
        server: &Server,
        kept: &[Namespace],
        all: &[Namespace],
    ) -> Result<Vec<String>, MongoError> {
        let cannot = |what: &str, hint| Err(MongoError::NotByTool(format!("{NAME} cannot {what}"), hint));
        let mut arguments = vec![format!("--numParallelCollections={}", self.parallel)];
        if self.address.database().is_none() {
            if kept.len() != all.len() {
                let hint = "name one database, or leave native = false out";
                return cannot("leave something out of several databases", hint);
            }
            match (self.consistency, server.role) {
                (Consistency::None, _) => {}
                (Consistency::Auto | Consistency::Oplog, Role::ReplicaSet) => {
                    arguments.push("--oplog".to_owned());
                }
                (Consistency::Snapshot, _) | (_, Role::Router) => {
                    let hint =
                        "leave native = false out, or set consistency = \"none\" if nobody writes meanwhile";
                    return cannot("read a snapshot, which is what this needs to be one moment", hint);
                }
                (_, Role::Standalone) => {
                    let what = "the server is no replica set: it has no oplog";
                    return Err(MongoError::NoMoment(what.to_owned()));
                }
            }
            return Ok(arguments);
        }
        if self.consistency != Consistency::None {
            let hint = "dump the whole server, leave native = false out, or set consistency = \"none\" if nobody writes \
                        meanwhile";
            return cannot(
                "dump one database as of one moment: it takes the oplog of whole servers only",
                hint,
            );
        }
        match kept {
            _ if kept.len() == all.len() => {}
            [one] => arguments.push(format!("--collection={}", one.collection)),
            _ => {
                let kept: HashSet<&Namespace> = kept.iter().collect();
                let left_out = all.iter().filter(|namespace| !kept.contains(namespace));
                arguments.extend(
                    left_out.map(|namespace| format!("--excludeCollection={}", namespace.collection)),
                );
            }
        }
        if arguments.iter().map(String::len).sum::<usize>() > ARGUMENTS_MAX {
            return cannot("be told to leave out so many collections", "leave native = false out");
        }
        Ok(arguments)
    }

    /// What is on the server, and how the program is to be called for it.
    async fn look(&self, cx: &Context, what: &Selection) -> Result<Looked> {
        let server = self.address.connect(cx).await.map_err(|error| error.about(self.subject()))?;
        let about = |error| match &server.database {
            Some(db) => server.about(error, self.subject(), "read", db),
            None => server.about(error, self.subject(), "backup", "admin"),
        };
        let patterns = Patterns::new(what, server.database.is_some());
        let (kept, all) = catalog::collections(cx, &server, &patterns, false).await.map_err(about)?;
        patterns.check(&all)?;
        let kept: Vec<Namespace> = kept.into_iter().map(|collection| collection.namespace).collect();
        let arguments = self.arguments(&server, &kept, &all).map_err(about)?;
        let program = Program::find(cx, &self.places, NAME).await.map_err(about)?;
        Ok(Looked { server, kept, arguments, program })
    }

    fn report(&self, looked: &Looked, what: &Selection) -> DumpReport {
        let oplog = looked.arguments.iter().any(|argument| argument == "--oplog");
        let consistency = if oplog { "consistency=oplog" } else { "consistency=none" };
        let mut options =
            vec![format!("by {NAME}"), consistency.to_owned(), format!("parallel={}", self.parallel)];
        options.extend(what.include.iter().map(|pattern| format!("include={pattern}")));
        options.extend(what.exclude.iter().map(|pattern| format!("exclude={pattern}")));
        if self.address.database().is_none() {
            // The program has no option to leave them out.
            options.push("users".to_owned());
        }
        DumpReport {
            engine: "mongodb".to_owned(),
            versions: BTreeMap::from([
                ("server".to_owned(), looked.server.version.clone()),
                (NAME.to_owned(), looked.program.version.to_string()),
            ]),
            options,
            tables: looked.kept.iter().map(ToString::to_string).collect(),
            ..DumpReport::default()
        }
    }
}

/// A dump that can begin.
struct Looked {
    server: Server,
    kept: Vec<Namespace>,
    arguments: Vec<String>,
    program: Program,
}

#[async_trait]
impl Dumper for MongodumpDumper {
    async fn probe(&self, cx: &Context) -> Result<Probe> {
        let at = |error: backup_core::Error| error.at(Stage::Probe);
        let consistency = (self.consistency == Consistency::None).then_some(Consistency::None);
        let mut probe = probe::probe(cx, &self.address, consistency, self.users).await.map_err(at)?;
        match self.look(cx, &Selection::default()).await {
            Ok(looked) => {
                probe.versions.insert(NAME.to_owned(), looked.program.version.to_string());
            }
            // What only we can mend is an obstacle; a server that does not answer is an error.
            Err(error) if error.kind() == backup_core::ErrorKind::Unsupported => {
                let remedy = error.hint().unwrap_or_default().to_owned();
                probe.obstacles.push(Obstacle::new(error.what().to_owned(), remedy));
            }
            Err(error) => return Err(at(error)),
        }
        Ok(probe)
    }

    async fn dump(&self, cx: &Context, what: &Selection) -> Result<Dump> {
        let at = |error: backup_core::Error| error.at(Stage::Dump);
        cx.check(self.subject()).map_err(at)?;
        let looked = self.look(cx, what).await.map_err(at)?;
        let report = self.report(&looked, what);
        let started = |error: ToolError| at(MongoError::from(error).about(self.subject()));
        let file = self.connection.file().map_err(started)?;
        let command = looked.program.command(&file, &self.connection).args(&looked.arguments);
        let output = stream(cx, &command, self.waiting, false).map_err(started)?;
        let (settler, settled) = Settled::pending();
        let reading = Reading {
            output,
            parser: ArchiveParser::new(),
            expected: looked.kept,
            oplog: looked.arguments.iter().any(|argument| argument == "--oplog"),
            subject: self.subject().to_owned(),
            settler,
            report,
            _file: file,
        };
        Ok(Dump { format: DumpFormat::new(MONGODB_ARCHIVE), bytes: reading.into_bytes(), report: settled })
    }
}

/// An archive that is being written.
struct Reading {
    output: Output,
    parser: ArchiveParser,
    expected: Vec<Namespace>,
    oplog: bool,
    subject: String,
    settler: Settler<DumpReport>,
    report: DumpReport,
    /// The program may open it at any time.
    _file: PrivateFile,
}

impl Reading {
    fn into_bytes(self) -> ByteStream<backup_core::Plain> {
        ByteStream::new(futures::stream::unfold(Some(self), async |state| {
            let mut this = state?;
            match this.output.next().await {
                Some(Ok(chunk)) => match this.read(&chunk) {
                    Ok(()) => Some((Ok(chunk), Some(this))),
                    Err(error) => Some((Err(error.about(&this.subject).at(Stage::Dump)), None)),
                },
                Some(Err(error)) => Some((Err(reason(error).about(&this.subject).at(Stage::Dump)), None)),
                None => this.end().err().map(|error| (Err(error), None)),
            }
        }))
    }

    fn read(&mut self, chunk: &Bytes) -> Result<(), MongoError> {
        self.parser.push(chunk);
        while let Some(item) = self.parser.next_item()? {
            if let Item::Prelude(prelude) = item {
                self.check(&prelude)?;
            }
        }
        Ok(())
    }

    /// Whether everything that was there a moment ago is announced.
    fn check(&self, prelude: &Prelude) -> Result<(), MongoError> {
        let announced: HashSet<&Namespace> = prelude.entries.iter().map(|entry| &entry.namespace).collect();
        if let Some(missing) = self.expected.iter().find(|namespace| !announced.contains(namespace)) {
            return Err(MongoError::Changed(missing.to_string()));
        }
        if self.oplog && !announced.contains(&Namespace::oplog()) {
            return Err(MongoError::Answer(format!("{NAME} --oplog, which wrote none:")));
        }
        Ok(())
    }

    /// The program's good end is not enough.
    fn end(self) -> Result<()> {
        let Self { parser, subject, settler, report, .. } = self;
        parser.finish().map_err(|error| MongoError::from(error).about(&subject).at(Stage::Dump))?;
        settler.settle(report);
        Ok(())
    }
}
