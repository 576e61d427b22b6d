//! Keys on their way into a server: `RESTORE` commands in batches.

use std::time::Duration;

use bytes::BytesMut;
use crc_fast::{CrcAlgorithm, Digest};

use super::client::{Client, Reply, begin, encode, push};
use super::error::RedisError;
use super::probe::Info;
use super::rdb::{Entry, Item, More, shown};

/// Bytes and commands of a batch; the answers of one fit into any socket's buffer.
const BATCH_BYTES: usize = 1024 * 1024;
const BATCH_COMMANDS: usize = 512;

/// Writes keys through one connection.
#[derive(Debug)]
pub(super) struct Writer {
    client: Client,
    stall: Option<Duration>,
    replace: bool,
    batch: BytesMut,
    /// What the commands of the batch and the ones sent before are about.
    unanswered: Vec<Sent>,
    written: u64,
    /// Whether the server has to be empty when the first command goes out.
    into_empty: bool,
    sent: bool,
    /// Milliseconds by which the server's clock is ahead of this one.
    ahead: i64,
    /// Entries that would only have removed a key of their name, since their own time has passed.
    passed: u64,
    /// A long string whose parts are on their way.
    long: Option<Entry>,
    /// A value of many elements whose parts are on their way, without its body.
    parted: Option<Entry>,
    /// How many elements the list under way has, once the server said so.
    length: Option<u64>,
    /// The parts on their way are not written.
    passing: bool,
}

/// A command that was sent.
#[derive(Debug)]
enum Sent {
    Select(u64),
    Function,
    Key {
        command: &'static str,
        name: String,
    },
    /// So many elements for a value that is there.
    More {
        command: &'static str,
        name: String,
        elements: u64,
    },
}

impl Writer {
    /// `into_empty` looks once more before the first write whether the server is still empty.
    pub(super) fn new(client: Client, stall: Option<Duration>, replace: bool, into_empty: bool) -> Self {
        Self {
            client,
            stall,
            replace,
            batch: BytesMut::new(),
            unanswered: Vec::new(),
            written: 0,
            into_empty,
            sent: false,
            ahead: 0,
            passed: 0,
            long: None,
            parted: None,
            length: None,
            passing: false,
        }
    }

    /// Counts with a server's clock that is so many milliseconds ahead of this one.
    pub(super) fn ahead_by(self, ahead: i64) -> Self {
        Self { ahead, ..self }
    }

    /// How many keys and libraries may have been written.
    pub(super) fn written(&self) -> u64 {
        if self.sent { self.written } else { 0 }
    }

    /// How many entries were passed over because their time has passed.
    pub(super) fn passed(&self) -> u64 {
        self.passed
    }

    /// With `REPLACE` a server takes an entry whose time has passed as an order to remove the key.
    fn passes(&mut self, entry: &Entry) -> bool {
        let now = now_millis().saturating_add(self.ahead);
        let passes = self.replace && entry.expires.is_some_and(|at| i128::from(at) <= i128::from(now));
        self.passed += u64::from(passes);
        passes
    }

    /// Writes something of a dump of this RDB version.
    pub(super) async fn item(&mut self, item: Item, version: u32) -> Result<(), RedisError> {
        match item {
            Item::Database(number) => {
                encode(&mut self.batch, &[b"SELECT", number.to_string().as_bytes()]);
                self.unanswered.push(Sent::Select(number));
            }
            Item::Function(library) => {
                let payload = payload(library, version);
                let policy: &[u8] = if self.replace { b"REPLACE" } else { b"APPEND" };
                encode(&mut self.batch, &[b"FUNCTION", b"RESTORE", &payload, policy]);
                self.unanswered.push(Sent::Function);
                self.written += 1;
            }
            Item::Entry(entry) if self.passes(&entry) => {}
            Item::Entry(entry) => self.entry(entry, version).await?,
            Item::First(entry) if self.passes(&entry) => self.passing = true,
            Item::First(entry) => self.first(entry, version).await?,
            Item::More(_) if self.passing => {}
            Item::More(more) => self.more(&more),
            Item::Last if self.passing => self.passing = false,
            Item::Last => {
                if let Some(entry) = self.parted.take() {
                    self.expire(&entry);
                }
            }
            Item::Long(entry, _) if self.passes(&entry) => self.passing = true,
            Item::Long(entry, len) => self.long(entry, len),
            Item::Part(_, last) if self.passing => self.passing = !last,
            Item::Part(part, last) => {
                self.batch.extend_from_slice(&part);
                if last {
                    self.long_end();
                } else if self.batch.len() >= BATCH_BYTES {
                    return self.send().await;
                }
            }
        }
        if self.long.is_none() && (self.batch.len() >= BATCH_BYTES || self.unanswered.len() >= BATCH_COMMANDS)
        {
            self.settle().await?;
        }
        Ok(())
    }

    async fn entry(&mut self, entry: Entry, version: u32) -> Result<(), RedisError> {
        let name = shown(&entry.key);
        let payload = payload(entry.body, version);
        let expires = entry.expires.unwrap_or(0).to_string();
        let mut after: Vec<&[u8]> = Vec::new();
        if entry.expires.is_some() {
            after.push(b"ABSTTL");
        }
        if self.replace {
            after.push(b"REPLACE");
        }
        let idle = entry.idle.map(|idle| idle.to_string());
        let frequency = entry.frequency.map(|frequency| frequency.to_string());
        if let Some(idle) = &idle {
            after.extend([b"IDLETIME", idle.as_bytes()]);
        } else if let Some(frequency) = &frequency {
            after.extend([b"FREQ".as_slice(), frequency.as_bytes()]);
        }
        begin(&mut self.batch, 4 + after.len());
        for word in [b"RESTORE", &*entry.key, expires.as_bytes()] {
            push(&mut self.batch, word);
        }
        self.written += 1;
        if payload.len() < BATCH_BYTES {
            push(&mut self.batch, &payload);
        } else {
            // As it is, and not copied.
            self.batch.extend_from_slice(format!("${}\r\n", payload.len()).as_bytes());
            self.send().await?;
            limited(self.stall, self.client.send(&payload)).await?;
            self.batch.extend_from_slice(b"\r\n");
        }
        for word in after {
            push(&mut self.batch, word);
        }
        self.unanswered.push(Sent::Key { command: "RESTORE", name });
        Ok(())
    }

    /// The beginning of a value of many elements. Its time to live comes with its end.
    async fn first(&mut self, entry: Entry, version: u32) -> Result<(), RedisError> {
        let Entry { key, expires, .. } = &entry;
        self.parted = Some(Entry { key: key.clone(), expires: *expires, ..Entry::default() });
        self.entry(Entry { expires: None, ..entry }, version).await
    }

    fn more(&mut self, more: &More) {
        let Some(entry) = &self.parted else { return };
        begin(&mut self.batch, 2 + more.words.len());
        push(&mut self.batch, more.command.as_bytes());
        push(&mut self.batch, &entry.key);
        for word in &more.words {
            push(&mut self.batch, word);
        }
        let (command, name, elements) = (more.command, shown(&entry.key), more.elements);
        self.unanswered.push(Sent::More { command, name, elements });
    }

    fn expire(&mut self, entry: &Entry) {
        if let Some(expires) = entry.expires {
            encode(&mut self.batch, &[b"PEXPIREAT", &entry.key, expires.to_string().as_bytes()]);
            self.unanswered.push(Sent::Key { command: "PEXPIREAT", name: shown(&entry.key) });
        }
    }

    /// A plain `SET`, whose value is written as it comes. How often the key was used is lost.
    fn long(&mut self, entry: Entry, len: u64) {
        let words = if self.replace { 3 } else { 4 };
        self.batch.extend_from_slice(format!("*{words}\r\n$3\r\nSET\r\n${}\r\n", entry.key.len()).as_bytes());
        self.batch.extend_from_slice(&entry.key);
        self.batch.extend_from_slice(format!("\r\n${len}\r\n").as_bytes());
        self.unanswered.push(Sent::Key { command: "SET", name: shown(&entry.key) });
        self.written += 1;
        self.long = Some(entry);
    }

    fn long_end(&mut self) {
        self.batch.extend_from_slice(b"\r\n");
        if !self.replace {
            self.batch.extend_from_slice(b"$2\r\nNX\r\n");
        }
        if let Some(entry) = self.long.take() {
            self.expire(&entry);
        }
    }

    /// Sends what is left and reads every answer.
    pub(super) async fn settle(&mut self) -> Result<(), RedisError> {
        self.send().await?;
        for sent in std::mem::take(&mut self.unanswered) {
            let reply = limited(self.stall, self.client.reply()).await?;
            match (&sent, reply) {
                (Sent::Key { command: "SET", name }, Reply::Bulk(None)) => {
                    return Err(RedisError::KeyExists(name.clone()));
                }
                (sent, Reply::Refused(answer)) => return Err(self.refused(sent, &answer)),
                (Sent::Key { .. }, _) => self.length = None,
                (Sent::More { command, name, elements }, reply) => {
                    let answered = match reply {
                        Reply::Number(number) => u64::try_from(number).unwrap_or(0),
                        _ => return Err(RedisError::Protocol("no number for elements that were added")),
                    };
                    self.added(command, name, *elements, answered)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Somebody who removes a value or adds to it between two of its parts is noticed: a list tells
    /// its new length, all others how many elements were new.
    fn added(&mut self, command: &str, name: &str, elements: u64, answered: u64) -> Result<(), RedisError> {
        let good = if command == "RPUSH" {
            let before = self.length.replace(answered);
            before.map_or(answered > elements, |before| answered == before + elements)
        } else {
            answered == elements
        };
        if good {
            Ok(())
        } else {
            Err(RedisError::Lost(format!("key {name} was changed by somebody else while it was written")))
        }
    }

    /// What the server says of itself now.
    pub(super) async fn ask_info(&mut self) -> Result<Info, RedisError> {
        Info::ask(&mut self.client).await
    }

    async fn send(&mut self) -> Result<(), RedisError> {
        if !self.batch.is_empty() {
            if self.into_empty
                && !self.sent
                && !Info::ask(&mut self.client).await?.is_empty(&mut self.client).await?
            {
                return Err(RedisError::Filled);
            }
            self.sent = true;
            limited(self.stall, self.client.send(&self.batch)).await?;
            self.batch.clear();
        }
        Ok(())
    }

    fn refused(&self, sent: &Sent, answer: &str) -> RedisError {
        match sent {
            Sent::Select(number) if answer.contains("out of range") => RedisError::FewerDatabases(*number),
            Sent::Select(_) => self.client.refused("SELECT", answer),
            Sent::Function if answer.contains("already exists") => {
                RedisError::FunctionExists(answer.to_owned())
            }
            Sent::Function => self.client.refused("function|restore", answer),
            Sent::Key { command, name } | Sent::More { command, name, .. } => {
                match self.client.refused(command, answer) {
                    RedisError::KeyExists(_) => RedisError::KeyExists(name.clone()),
                    RedisError::TooOld(answer) => RedisError::TooOld(format!("key {name}: {answer}")),
                    RedisError::Refused { command, answer } => {
                        RedisError::Refused { command: format!("{command} of key {name}"), answer }
                    }
                    other => other,
                }
            }
        }
    }
}

async fn limited<T>(
    stall: Option<Duration>,
    work: impl Future<Output = Result<T, RedisError>>,
) -> Result<T, RedisError> {
    match stall {
        None => work.await,
        Some(limit) => {
            tokio::time::timeout(limit, work).await.unwrap_or(Err(RedisError::Stalled(limit.as_secs())))
        }
    }
}

/// Milliseconds since 1970.
pub(super) fn now_millis() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.ok().and_then(|since| i64::try_from(since.as_millis()).ok()).unwrap_or(0)
}

/// A value as `DUMP` gives it: type, bytes, RDB version, checksum of all that.
///
/// A server takes any version up to its own, so the oldest that knows the type is named: what an
/// older server can hold can be restored into it.
fn payload(mut body: Vec<u8>, version: u32) -> Vec<u8> {
    let known_since = match body.first().copied().unwrap_or_default() {
        0..=4 | 9..=13 => 6,
        14 => 7,
        5 | 7 => 8,
        15 => 9,
        // 245 stands for a function library.
        16..=19 | 245 => 10,
        20 | 21 => 11,
        _ => version,
    };
    let version = u16::try_from(known_since.min(version)).unwrap_or(u16::MAX);
    body.extend_from_slice(&version.to_le_bytes());
    let mut checksum = Digest::new(CrcAlgorithm::Crc64Redis);
    checksum.update(&body);
    body.extend_from_slice(&checksum.finalize().to_le_bytes());
    body
}
