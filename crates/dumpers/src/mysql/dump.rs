//! `mariadb-dump` or `mysqldump`, in one transaction, as a stream.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use backup_core::{
    ByteStream, Context, Dump, DumpFormat, DumpReport, Dumper, Error, ErrorKind, Event, Plain, Probe, Result,
    Selection, Settled, Stage,
};
use bytes::Bytes;
use futures::StreamExt as _;

use super::config::{Connection, MysqlConfig, wrong};
use super::error::MysqlError;
use super::inspect::Told;
use super::look::{Looked, Scope, Server, is_system};
use super::names::Pattern;
use super::option_file::{OptionFile, line};
use super::query::Sql;
use super::script::{Script, ScriptContents, ScriptError};
use super::tools::{Client, DUMP, Flavour, fitting, installed};
use super::watch::Watch;
use super::{MARIADB_SQL, MYSQL_SQL, accounts, charsets, check_extra_args};
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
        let patterns = |names: &[String]| names.iter().map(|name| Pattern::of_database(name)).collect();
        let scope = match (connection.database.take(), config.databases.as_slice(), config.all_databases) {
            (Some(name), [], false) if is_system(&name) => {
                return Err(wrong(
                    "dbname",
                    format!(
                        "names {name:?}, which is the server's own: accounts come along with accounts = true"
                    ),
                ));
            }
            (Some(name), [], false) if !name.is_empty() => {
                connection.database = Some(name.clone());
                Scope::One(name)
            }
            (None, [], true) => Scope::Several(Vec::new(), patterns(&config.exclude_databases)),
            (None, names @ [_, ..], false) => {
                Scope::Several(patterns(names), patterns(&config.exclude_databases))
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

    fn warnings(&self, looked: &Looked, client: &Client) -> Vec<String> {
        let history = self.config.extra_args.iter().any(|argument| argument == "--dump-history");
        looked.warnings(client, self.config.lock_all_tables, history)
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
        // A destination that is slow for minutes: the server waits for it.
        if client.knows("network-timeout") {
            add("network-timeout");
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
            obstacles: looked.obstacles(self.config.accounts, None),
            warnings: self.warnings(&looked, &client),
        })
    }

    async fn dump(&self, cx: &Context, what: &Selection) -> Result<Dump> {
        let subject = self.connection.describe();
        cx.check(&subject)?;
        let (sql, looked, client) =
            self.look(cx).await.map_err(|error| error.about(&subject).at(Stage::Dump))?;
        let left_out = looked.left_out(&subject, what).map_err(|error| error.at(Stage::Dump))?;
        let chosen: Option<BTreeSet<&str>> = (!what.include.is_empty()).then(|| {
            let chosen = looked.tables.iter().filter(|table| !left_out.contains(table));
            chosen.map(|table| &*table.database).collect()
        });
        looked
            .refuse_obstacles(&subject, self.config.accounts, chosen.as_ref())
            .map_err(|error| error.at(Stage::Dump))?;
        for warning in self.warnings(&looked, &client) {
            cx.report(Event::Warning(&warning));
        }
        let changed = charsets::changed(cx, &sql, &looked, &left_out).await;
        for warning in changed.map_err(|error| error.about(&subject).at(Stage::Dump))? {
            cx.report(Event::Warning(&warning));
        }
        let mut text = self.connection.options(client.flavour);
        text.push_str("[mysqldump]\n");
        for table in &left_out {
            text.push_str(&line("ignore-table", &format!("{}.{}", table.database, table.name)));
        }
        let watch = Watch::begin(cx, &sql, &looked, &left_out).await;
        let watch = watch.map_err(|error| error.about(&subject).at(Stage::Dump))?;
        let accounts = if self.config.accounts {
            let statements = accounts::statements(cx, &sql, looked.server.flavour).await;
            let (statements, left_out) = statements.map_err(|error| error.about(&subject).at(Stage::Dump))?;
            for account in left_out {
                cx.report(Event::Warning(&format!("account {account} is not in force, and was left out")));
            }
            statements
        } else {
            String::new()
        };
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
        if self.config.accounts {
            options.push("accounts".to_owned());
        }
        options.extend(what.include.iter().map(|pattern| format!("include={pattern}")));
        options.extend(what.exclude.iter().map(|pattern| format!("exclude={pattern}")));
        let (settler, report) = Settled::pending();
        let facts = DumpReport {
            engine: looked.server.flavour.engine().to_owned(),
            versions: versions(&looked.server, &client),
            options,
            ..DumpReport::default()
        };
        let convert = {
            let subject = subject.clone();
            // The program opens its options while it starts; they stay until its end.
            move |error| {
                let _ = &file;
                MysqlError::of_dump(error).about(&subject).at(Stage::Dump)
            }
        };
        let reading = Reading {
            cx: cx.clone(),
            subject,
            bytes: preceded(accounts, output.into_bytes(convert, || ())),
            script: Script::new(),
            told: Told::new(cx),
            watch,
        };
        let bytes = reading.into_stream(move |contents| {
            settler.settle(DumpReport { tables: contents.tables, ..facts });
        });
        let format = match client.flavour {
            Flavour::MariaDb => MARIADB_SQL,
            Flavour::MySql => MYSQL_SQL,
        };
        Ok(Dump { format: DumpFormat::new(format), bytes, report })
    }
}

/// A text before a stream.
fn preceded(text: String, bytes: ByteStream<Plain>) -> ByteStream<Plain> {
    if text.is_empty() {
        return bytes;
    }
    ByteStream::new(futures::stream::iter([Ok(Bytes::from(text))]).chain(bytes))
}

/// A dump on its way.
struct Reading {
    cx: Context,
    subject: String,
    bytes: ByteStream<Plain>,
    script: Script,
    told: Told,
    watch: Watch,
}

impl Reading {
    fn fail(&self, error: MysqlError) -> Error {
        error.about(&self.subject).at(Stage::Dump)
    }

    /// The next bytes. `None` only where the dump ends, and every table kept its form until its rows
    /// were read.
    async fn next(&mut self) -> Option<Result<Bytes>> {
        let chunk = match self.bytes.next().await? {
            Ok(chunk) => chunk,
            Err(error) => return Some(Err(error)),
        };
        let (told, watch) = (&mut self.told, &mut self.watch);
        let read = self.script.push(&chunk, |script, _, _, _| {
            if let Some(table) = told.look(script) {
                watch.passed(table);
            }
            Ok::<_, ScriptError>(())
        });
        if let Err(error) = read {
            return Some(Err(self.broken(error)));
        }
        if self.watch.is_due()
            && let Err(error) = self.watch.compare(&self.cx).await
        {
            return Some(Err(self.fail(error)));
        }
        Some(Ok(chunk))
    }

    /// After the clean end of the program.
    async fn finish(self) -> Result<ScriptContents> {
        let Self { cx, subject, script, watch, .. } = self;
        let contents = script.finish().map_err(|error| broken(&subject, error))?;
        watch.finish(&cx).await.map_err(|error| error.about(&subject).at(Stage::Dump))?;
        Ok(contents)
    }

    fn broken(&self, error: ScriptError) -> Error {
        broken(&self.subject, error)
    }

    fn into_stream(self, at_end: impl FnOnce(ScriptContents) + Send + 'static) -> ByteStream<Plain> {
        let state = Some((self, at_end));
        ByteStream::new(futures::stream::unfold(state, async |state| {
            let (mut reading, at_end) = state?;
            match reading.next().await {
                Some(Ok(chunk)) => Some((Ok(chunk), Some((reading, at_end)))),
                Some(Err(error)) => Some((Err(error), None)),
                None => match reading.finish().await {
                    Ok(contents) => {
                        at_end(contents);
                        None
                    }
                    Err(error) => Some((Err(error), None)),
                },
            }
        }))
    }
}

fn broken(subject: &str, error: ScriptError) -> Error {
    let what = format!("the program ended well, but its dump is broken: {error}");
    Error::new(ErrorKind::Tool, subject, what).at(Stage::Dump).with_source(error)
}
