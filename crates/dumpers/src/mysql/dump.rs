//! `mariadb-dump` or `mysqldump`, in one transaction, as a stream.

use std::collections::BTreeMap;

use async_trait::async_trait;
use backup_core::{
    ByteStream, Context, Dump, DumpFormat, DumpReport, Dumper, Error, ErrorKind, Event, Plain, Probe, Result,
    Selection, Settled, Stage,
};

use super::config::{Connection, MysqlConfig, wrong};
use super::error::MysqlError;
use super::inspect::Told;
use super::look::{Looked, Scope, Server};
use super::names::Pattern;
use super::option_file::{OptionFile, line};
use super::query::Sql;
use super::script::{Script, ScriptContents, ScriptError};
use super::tools::{Client, DUMP, Flavour, fitting, installed};
use super::{MARIADB_SQL, MYSQL_SQL, check_extra_args};
use crate::command::waiting;
use crate::tool::{Places, Waiting, stream};

/// Dumps databases of one server as one moment.
#[derive(Debug)]
pub struct MysqlDumper {
    connection: Connection,
    scope: Scope,
    config: MysqlConfig,
    places: Places,
    waiting: Waiting,
}

impl MysqlDumper {
    /// The databases of these settings; nothing is connected yet.
    ///
    /// # Errors
    /// `Config` for a wrong URL, for no database or two ways to name them, and for an argument that
    /// would change what the stream is.
    pub fn new(config: &MysqlConfig) -> Result<Self> {
        check_extra_args(&config.extra_args)?;
        let mut connection = config.connection()?;
        let scope = match (connection.database.take(), config.databases.as_slice(), config.all_databases) {
            (Some(name), [], false) if !name.is_empty() => {
                connection.database = Some(name.clone());
                Scope::One(name)
            }
            (None, [], true) => Scope::All,
            (None, names @ [_, ..], false) => {
                Scope::Some(names.iter().map(|name| Pattern::of_database(name)).collect())
            }
            (None, [], false) => {
                return Err(wrong(
                    "dbname",
                    "is not set: name a database, several in databases, or all_databases",
                ));
            }
            _ => return Err(wrong("dbname", "is set beside databases or all_databases: use one of them")),
        };
        let (places, waiting) = (Places::new(&config.tool_dirs), waiting(config.stall_seconds));
        Ok(Self { connection, scope, config: config.clone(), places, waiting })
    }

    async fn look(&self, cx: &Context) -> Result<(Sql, Looked, Client), MysqlError> {
        let sql = Sql::find(cx, &self.places, &self.connection).await?;
        let server = Server::look(cx, &sql, &self.connection).await?;
        let clients = installed(cx, &self.places, DUMP).await?;
        let client = fitting(clients, server.flavour, &server.number()?)?;
        let looked = Looked::look(cx, &sql, server, &self.scope).await?;
        Ok((sql, looked, client))
    }

    /// The arguments: what every dump has, and what this program knows of the rest. Connection and
    /// selection are not among them.
    fn options(&self, client: &Client, partial: bool) -> Vec<String> {
        let mut options: Vec<String> = Vec::new();
        let mut add = |option: &str| options.push(format!("--{option}"));
        add(if self.config.lock_all_tables { "lock-all-tables" } else { "single-transaction" });
        add("quick");
        add("opt");
        add("comments");
        add("dump-date");
        add("tz-utc");
        add("default-character-set=utf8mb4");
        add("max-allowed-packet=1073741824");
        add("triggers");
        if !partial {
            add("routines");
            add("events");
        }
        if client.knows("no-tablespaces") {
            add("no-tablespaces");
        }
        // A program newer than its server asks for what that server does not have.
        if client.knows("column-statistics") {
            add("column-statistics=0");
        }
        if client.knows("set-gtid-purged") {
            add("set-gtid-purged=OFF");
        }
        if client.knows("skip-mysql-schema") {
            add("skip-mysql-schema");
        }
        if self.config.hex_blob {
            add("hex-blob");
        }
        if self.config.binlog_position {
            add(if client.knows("source-data") { "source-data=2" } else { "master-data=2" });
        }
        options.extend(self.config.extra_args.iter().cloned());
        options
    }
}

fn versions(server: &Server, client: &Client) -> BTreeMap<String, String> {
    BTreeMap::from([
        ("server".to_owned(), server.version.clone()),
        (client.name(), client.version.to_string()),
    ])
}

#[async_trait]
impl Dumper for MysqlDumper {
    async fn probe(&self, cx: &Context) -> Result<Probe> {
        let subject = self.connection.describe();
        let (_, looked, client) =
            self.look(cx).await.map_err(|error| error.about(&subject).at(Stage::Probe))?;
        let sizes = looked.tables.iter().filter_map(|table| table.bytes);
        Ok(Probe {
            engine: looked.server.flavour.engine().to_owned(),
            versions: versions(&looked.server, &client),
            estimated_bytes: Some(sizes.sum()),
            items: looked.items(),
            obstacles: looked.obstacles(),
            warnings: looked.warnings(&client, self.config.lock_all_tables),
        })
    }

    async fn dump(&self, cx: &Context, what: &Selection) -> Result<Dump> {
        let subject = self.connection.describe();
        cx.check(&subject)?;
        let (_sql, looked, client) =
            self.look(cx).await.map_err(|error| error.about(&subject).at(Stage::Dump))?;
        if what.include.is_empty() {
            looked.refuse_obstacles(&subject).map_err(|error| error.at(Stage::Dump))?;
        }
        for warning in looked.warnings(&client, self.config.lock_all_tables) {
            cx.report(Event::ToolLine(&warning));
        }
        let left_out = looked.left_out(&subject, what).map_err(|error| error.at(Stage::Dump))?;
        let mut text = self.connection.options(client.flavour);
        text.push_str("[mysqldump]\n");
        for table in &left_out {
            text.push_str(&line("ignore-table", &format!("{}.{}", table.database, table.name)));
        }
        let started = |error: crate::tool::ToolError| Error::from(error).at(Stage::Dump);
        let file = OptionFile::new(&text).map_err(started)?;
        let mut options = self.options(&client, !what.include.is_empty());
        options.push("--databases".to_owned());
        let command = client
            .command(&file, &self.connection.secrets())
            .args(&options)
            .arg("--")
            .args(&looked.databases);
        let output = stream(cx, &command, self.waiting, false).map_err(started)?;
        options.extend(what.include.iter().map(|pattern| format!("include={pattern}")));
        options.extend(what.exclude.iter().map(|pattern| format!("exclude={pattern}")));
        let (settler, report) = Settled::pending();
        let facts = DumpReport {
            engine: looked.server.flavour.engine().to_owned(),
            versions: versions(&looked.server, &client),
            options,
            tables: Vec::new(),
        };
        let convert = {
            let subject = subject.clone();
            // The program opens its options while it starts; they stay until its end.
            move |error| {
                let _ = &file;
                MysqlError::of_dump(error).about(&subject).at(Stage::Dump)
            }
        };
        let refuse = move |error: ScriptError| {
            let what = format!("the program ended well, but its dump is broken: {error}");
            Error::new(ErrorKind::Tool, &*subject, what).at(Stage::Dump).with_source(error)
        };
        let bytes = parsed(cx, output.into_bytes(convert, || ()), refuse, move |contents| {
            settler.settle(DumpReport { tables: contents.tables, ..facts });
        });
        let format = match client.flavour {
            Flavour::MariaDb => MARIADB_SQL,
            Flavour::MySql => MYSQL_SQL,
        };
        Ok(Dump { format: DumpFormat::new(format), bytes, report })
    }
}

/// The same bytes, with a clean end only where the dump ends: damage goes through `refuse`, `at_end`
/// is told the contents just before the clean end.
fn parsed(
    cx: &Context,
    bytes: ByteStream<Plain>,
    refuse: impl Fn(ScriptError) -> Error + Send + 'static,
    at_end: impl FnOnce(ScriptContents) + Send + 'static,
) -> ByteStream<Plain> {
    let state = Some((bytes, Script::new(), Told::new(cx), refuse, at_end));
    ByteStream::new(futures::stream::unfold(state, async |state| {
        let (mut bytes, mut script, mut told, refuse, at_end) = state?;
        match bytes.next().await {
            Some(Ok(chunk)) => {
                let read = script.push(&chunk, |script, _, _, _| {
                    told.look(script);
                    Ok::<_, ScriptError>(())
                });
                match read {
                    Ok(()) => Some((Ok(chunk), Some((bytes, script, told, refuse, at_end)))),
                    Err(error) => Some((Err(refuse(error)), None)),
                }
            }
            Some(Err(error)) => Some((Err(error), None)),
            None => match script.finish() {
                Ok(contents) => {
                    at_end(contents);
                    None
                }
                Err(error) => Some((Err(refuse(error)), None)),
            },
        }
    }))
}
