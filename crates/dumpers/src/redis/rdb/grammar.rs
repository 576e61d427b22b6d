//! The structure of a dump, from its magic to its checksum.

use bytes::Bytes;

use super::RdbError;
use super::input::Input;
use super::listpack;
use super::lzf;
use super::parser::{Entry, Item, More};

/// Plain strings from this length on are handed on in parts.
const LONG: u64 = 4 * 1024 * 1024;
/// Values of many elements from this length on are handed on in parts, of which the first is so long.
const SPLIT: u64 = 8 * 1024 * 1024;
/// The other parts have about so many bytes, and at most so many words.
const PART: usize = 1024 * 1024;
const WORDS: usize = 4096;
/// The most bytes of a `RESTORE` command's argument (`proto-max-bulk-len`), with room for the end
/// of the payload.
const COMMAND_MAX: u64 = 512 * 1024 * 1024 - 16;
/// The longest key or name.
const NAME_MAX: u64 = 512 * 1024 * 1024;
/// From this version on a dump is Valkey's own; below it, type 22 and others mean what Redis says.
const VALKEY_FIRST: u32 = 80;

mod opcode {
    pub(super) const SLOT_IMPORT: u8 = 243;
    pub(super) const SLOT_INFO: u8 = 244;
    pub(super) const FUNCTION: u8 = 245;
    pub(super) const MODULE_AUX: u8 = 247;
    pub(super) const IDLE: u8 = 248;
    pub(super) const FREQUENCY: u8 = 249;
    pub(super) const AUX: u8 = 250;
    pub(super) const RESIZE: u8 = 251;
    pub(super) const EXPIRES_MS: u8 = 252;
    pub(super) const EXPIRES: u8 = 253;
    pub(super) const DATABASE: u8 = 254;
    pub(super) const END: u8 = 255;
}

/// A length, or the form of a string that has none.
enum Length {
    Plain(u64),
    Special(u8),
}

/// The command that adds elements to a value of this type.
const fn command(kind: u8) -> &'static str {
    match kind {
        2 => "SADD",
        3 | 5 => "ZADD",
        4 => "HSET",
        _ => "RPUSH",
    }
}

/// Reads a dump to its end.
///
/// With a limit it keeps what is to be written, of each value at most so many bytes at once.
pub(super) async fn parse(input: Input, keep: Option<u64>) -> Result<(), RdbError> {
    let limit = keep.unwrap_or(COMMAND_MAX).min(COMMAND_MAX);
    let mut reader = Reader { input, keep: keep.is_some(), limit, version: 0, database: None };
    reader.head().await?;
    let mut next = Entry::default();
    let mut attributes = false;
    loop {
        let code = reader.input.byte().await?;
        match code {
            opcode::EXPIRES_MS => next.expires = Some(u64::from_le_bytes(reader.input.exact().await?)),
            opcode::EXPIRES => {
                let seconds = u32::from_le_bytes(reader.input.exact().await?);
                next.expires = Some(u64::from(seconds) * 1000);
            }
            opcode::IDLE => next.idle = Some(reader.len().await?),
            opcode::FREQUENCY => next.frequency = Some(reader.input.byte().await?),
            _ if code < opcode::SLOT_IMPORT => {
                reader.entry(code, std::mem::take(&mut next)).await?;
                attributes = false;
                continue;
            }
            _ if attributes => return Err(reader.input.damaged("an expiry or idle time without a key")),
            opcode::END => return reader.end().await,
            _ => {
                reader.section(code).await?;
                continue;
            }
        }
        attributes = true;
    }
}

struct Reader {
    input: Input,
    keep: bool,
    limit: u64,
    version: u32,
    database: Option<u64>,
}

impl Reader {
    async fn head(&mut self) -> Result<(), RdbError> {
        let head: [u8; 9] = self.input.exact().await?;
        let digits = match (head.strip_prefix(b"REDIS"), head.strip_prefix(b"VALKEY")) {
            (Some(digits), _) | (_, Some(digits)) => digits,
            _ => return Err(RdbError::Magic),
        };
        let number =
            |total: u32, digit: &u8| digit.is_ascii_digit().then(|| total * 10 + u32::from(digit - b'0'));
        let version = digits.iter().try_fold(0, number).ok_or(RdbError::Magic)?;
        let fits =
            if head[0] == b'V' { version >= VALKEY_FIRST } else { (5..VALKEY_FIRST).contains(&version) };
        if !fits {
            return Err(RdbError::Version(version));
        }
        self.version = version;
        self.input.feed().contents.version = version;
        Ok(())
    }

    async fn end(&mut self) -> Result<(), RdbError> {
        let computed = self.input.checksum();
        let stored = u64::from_le_bytes(self.input.exact().await?);
        // Zero is what a server with rdbchecksum no writes.
        if stored != 0 && stored != computed {
            return Err(RdbError::Checksum);
        }
        self.input.feed().contents.checksum = stored != 0;
        Ok(())
    }

    /// What stands between keys.
    async fn section(&mut self, code: u8) -> Result<(), RdbError> {
        match code {
            opcode::DATABASE => {
                let number = self.len().await?;
                self.database = Some(number);
                let mut feed = self.input.feed();
                feed.contents.databases.entry(number).or_default();
                if self.keep {
                    feed.items.push_back(Item::Database(number));
                }
            }
            opcode::RESIZE => {
                self.len().await?;
                self.len().await?;
            }
            opcode::AUX => {
                let name = self.text(NAME_MAX).await?;
                let value = self.text(NAME_MAX).await?;
                let server = match &name[..] {
                    b"redis-ver" => "redis",
                    b"valkey-ver" => "valkey",
                    _ => return Ok(()),
                };
                let version = String::from_utf8_lossy(&value).chars().take(40).collect::<String>();
                self.input.feed().contents.server = Some(format!("{server} {version}"));
            }
            opcode::FUNCTION => {
                if self.keep {
                    self.input.keep(code);
                }
                self.string().await?;
                let library = self.input.kept();
                let mut feed = self.input.feed();
                feed.contents.functions += 1;
                if self.keep {
                    feed.items.push_back(Item::Function(library));
                }
            }
            opcode::MODULE_AUX => {
                self.module_name().await?;
                // When it was written: an unsigned number with its own code.
                if self.len().await? != 2 {
                    return Err(self.input.damaged("data of a module without its place"));
                }
                self.len().await?;
                self.module_fields().await?;
                self.input.feed().contents.module_sections += 1;
            }
            opcode::SLOT_INFO => {
                for _ in 0..3 {
                    self.len().await?;
                }
            }
            opcode::SLOT_IMPORT if self.version >= VALKEY_FIRST => {
                self.string().await?;
                for _ in 0..self.len().await? {
                    self.len().await?;
                    self.len().await?;
                }
            }
            _ => return Err(RdbError::Type { kind: code, version: self.version }),
        }
        Ok(())
    }

    /// A key and its value.
    async fn entry(&mut self, kind: u8, entry: Entry) -> Result<(), RdbError> {
        let Some(database) = self.database else {
            return Err(self.input.damaged("a key before its database"));
        };
        let key = if self.keep {
            self.text(NAME_MAX).await?
        } else {
            self.string().await?;
            Vec::new()
        };
        {
            let mut feed = self.input.feed();
            let counts = feed.contents.databases.entry(database).or_default();
            counts.keys += 1;
            counts.expiring += u64::from(entry.expires.is_some());
        }
        if !self.keep {
            return self.value(kind).await;
        }
        let kept = self.kept_value(kind, Entry { key: key.clone(), ..entry }).await;
        kept.map_err(|error| error.of_key(&key))
    }

    /// A value that somebody wants to write.
    async fn kept_value(&mut self, kind: u8, mut entry: Entry) -> Result<(), RdbError> {
        self.input.keep(kind);
        match kind {
            0 => match self.length().await? {
                Length::Plain(len) if len >= LONG => {
                    self.input.kept();
                    return self.long(entry, len).await;
                }
                Length::Plain(len) => self.input.skip(len).await?,
                Length::Special(form) => self.special(form).await?,
            },
            1..=5 | 18 => return self.collection(kind, entry).await,
            _ => self.value(kind).await?,
        }
        entry.body = self.input.kept();
        self.input.feed().items.push_back(Item::Entry(entry));
        Ok(())
    }

    /// A value of many elements: whole where it is short; else its beginning as a value of its own,
    /// and the rest as words of commands.
    async fn collection(&mut self, kind: u8, mut entry: Entry) -> Result<(), RdbError> {
        let total = self.len().await?;
        let head = self.input.kept_len();
        let first = SPLIT.min(self.limit / 2);
        let mut done = 0;
        while done < total && self.input.kept_len() < first {
            self.element(kind).await?;
            done += 1;
        }
        let body = self.input.kept();
        if done == total {
            entry.body = body;
            self.input.feed().items.push_back(Item::Entry(entry));
            return Ok(());
        }
        // Each element has a byte at least, so this many have a number of 32 bits.
        let count = u32::try_from(done).map_err(|_| self.input.damaged("elements without a byte"))?;
        entry.body = [&[kind, 0x80][..], &count.to_be_bytes(), &body[head as usize..]].concat();
        drop(body);
        self.input.feed().items.push_back(Item::First(entry));
        while done < total {
            let (mut more, mut bytes) = (More { command: command(kind), words: Vec::new(), elements: 0 }, 0);
            while done < total && bytes < PART && more.words.len() < WORDS {
                let before = more.words.len();
                self.words(kind, &mut more).await?;
                bytes += more.words[before..].iter().map(Vec::len).sum::<usize>();
                done += 1;
            }
            self.input.feed().items.push_back(Item::More(more));
        }
        self.input.feed().items.push_back(Item::Last);
        Ok(())
    }

    /// Passes over one element of a collection.
    async fn element(&self, kind: u8) -> Result<(), RdbError> {
        if kind == 18 {
            self.len().await?;
        }
        self.string().await?;
        match kind {
            3 => self.text_double().await?,
            4 => self.string().await?,
            5 => self.input.skip(8).await?,
            _ => {}
        }
        self.check_size()
    }

    /// The words by which a command adds one element; of a list's node, all its elements.
    async fn words(&self, kind: u8, more: &mut More) -> Result<(), RdbError> {
        let container = if kind == 18 { self.len().await? } else { 1 };
        let text = self.text(self.limit).await?;
        match (kind, container) {
            (3, _) => more.words.push(self.score().await?),
            (5, _) => {
                let score = f64::from_le_bytes(self.input.exact().await?);
                // The shortest text that is read as the same number again.
                more.words.push(score.to_string().into_bytes());
            }
            (18, 2) => {
                let elements = listpack::elements(&text);
                let elements = elements.ok_or_else(|| self.input.damaged("a node of a list that is none"))?;
                more.elements += elements.len() as u64;
                more.words.extend(elements);
                return Ok(());
            }
            (18, 1) | (1 | 2 | 4, _) => {}
            _ => return Err(self.input.damaged("a node of a list of no known form")),
        }
        more.elements += 1;
        more.words.push(text);
        if kind == 4 {
            more.words.push(self.text(self.limit).await?);
        }
        Ok(())
    }

    /// A score as text.
    async fn score(&self) -> Result<Vec<u8>, RdbError> {
        match self.input.byte().await? {
            253 => Err(self.input.damaged("a score that is no number")),
            254 => Ok(b"inf".to_vec()),
            255 => Ok(b"-inf".to_vec()),
            len => self.input.bytes(u64::from(len)).await,
        }
    }

    async fn long(&mut self, entry: Entry, mut len: u64) -> Result<(), RdbError> {
        self.input.feed().items.push_back(Item::Long(entry, len));
        while len > 0 {
            let part: Bytes = self.input.some(len).await?;
            len -= part.len() as u64;
            self.input.feed().items.push_back(Item::Part(part, len == 0));
        }
        Ok(())
    }

    /// Passes over a value.
    async fn value(&mut self, kind: u8) -> Result<(), RdbError> {
        let valkey = self.version >= VALKEY_FIRST;
        match kind {
            // A string, or an encoding of a whole value that is stored as one: zipmap, ziplist,
            // intset, listpack.
            0 | 9..=13 | 16 | 17 | 20 => self.string().await?,
            // List, set, sorted set, hash; a list of nodes and of long elements.
            1..=5 | 18 => {
                for _ in 0..self.len().await? {
                    self.element(kind).await?;
                }
            }
            // A list of ziplists.
            14 => self.strings(1).await?,
            6 => return Err(RdbError::OldModule),
            7 => {
                self.module_name().await?;
                self.module_fields().await?;
            }
            15 | 19 | 21 => self.stream(kind).await?,
            // Fields with times to live: Valkey's form, then those of Redis.
            22 if valkey => {
                for _ in 0..self.len().await? {
                    self.string().await?;
                    self.string().await?;
                    self.input.skip(8).await?;
                    self.check_size()?;
                }
            }
            22 | 24 if !valkey => {
                if kind == 24 {
                    self.input.skip(8).await?;
                }
                for _ in 0..self.len().await? {
                    self.len().await?;
                    self.string().await?;
                    self.string().await?;
                    self.check_size()?;
                }
            }
            23 | 25 if !valkey => {
                if kind == 25 {
                    self.input.skip(8).await?;
                }
                self.string().await?;
            }
            _ => return Err(RdbError::Type { kind, version: self.version }),
        }
        self.check_size()
    }

    async fn strings(&self, each: u64) -> Result<(), RdbError> {
        for _ in 0..self.len().await? {
            for _ in 0..each {
                self.string().await?;
            }
            self.check_size()?;
        }
        Ok(())
    }

    /// A stream: nodes, its own numbers, consumer groups with what is pending.
    async fn stream(&self, kind: u8) -> Result<(), RdbError> {
        const ID: u64 = 16;
        const TIME: u64 = 8;
        self.strings(2).await?;
        // Length and last id; since version 2 the first id, the largest deleted one, entries added.
        for _ in 0..if kind == 15 { 3 } else { 8 } {
            self.len().await?;
        }
        for _ in 0..self.len().await? {
            self.string().await?;
            for _ in 0..if kind == 15 { 2 } else { 3 } {
                self.len().await?;
            }
            for _ in 0..self.len().await? {
                self.input.skip(ID + TIME).await?;
                self.len().await?;
                self.check_size()?;
            }
            for _ in 0..self.len().await? {
                self.string().await?;
                // Since version 3 also when it was last active.
                self.input.skip(if kind == 21 { 2 * TIME } else { TIME }).await?;
                for _ in 0..self.len().await? {
                    self.input.skip(ID).await?;
                    self.check_size()?;
                }
            }
        }
        Ok(())
    }

    /// A module's id: nine letters of six bits and a version of ten.
    async fn module_name(&self) -> Result<(), RdbError> {
        const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let id = self.len().await?;
        let letter = |at: u32| char::from(LETTERS[(id >> (10 + 6 * at) & 63) as usize]);
        let name = (0..9).rev().map(letter).collect();
        self.input.feed().contents.modules.insert(name);
        Ok(())
    }

    async fn module_fields(&self) -> Result<(), RdbError> {
        loop {
            match self.len().await? {
                0 => return Ok(()),
                1 | 2 => {
                    self.len().await?;
                }
                3 => self.input.skip(4).await?,
                4 => self.input.skip(8).await?,
                5 => self.string().await?,
                _ => return Err(self.input.damaged("a field of a module of an unknown kind")),
            }
            self.check_size()?;
        }
    }

    /// The text form of a number, before version 8.
    async fn text_double(&self) -> Result<(), RdbError> {
        match self.input.byte().await? {
            253..=255 => Ok(()),
            len => self.input.skip(u64::from(len)).await,
        }
    }

    async fn length(&self) -> Result<Length, RdbError> {
        let first = self.input.byte().await?;
        Ok(match (first >> 6, first) {
            (0, _) => Length::Plain(u64::from(first)),
            (1, _) => Length::Plain(u64::from(first & 0x3f) << 8 | u64::from(self.input.byte().await?)),
            (_, 0x80) => Length::Plain(u64::from(u32::from_be_bytes(self.input.exact().await?))),
            (_, 0x81) => Length::Plain(u64::from_be_bytes(self.input.exact().await?)),
            (3, _) => Length::Special(first & 0x3f),
            _ => return Err(self.input.damaged("a length of no known form")),
        })
    }

    async fn len(&self) -> Result<u64, RdbError> {
        match self.length().await? {
            Length::Plain(len) => Ok(len),
            Length::Special(_) => Err(self.input.damaged("a string where a number belongs")),
        }
    }

    /// Passes over a string.
    async fn string(&self) -> Result<(), RdbError> {
        match self.length().await? {
            Length::Plain(len) => {
                self.check_room(len)?;
                self.input.skip(len).await
            }
            Length::Special(form) => self.special(form).await,
        }
    }

    async fn special(&self, form: u8) -> Result<(), RdbError> {
        match form {
            0..=2 => self.input.skip(1 << form).await,
            3 => {
                let packed = self.len().await?;
                self.len().await?;
                self.check_room(packed)?;
                self.input.skip(packed).await
            }
            _ => Err(self.input.damaged("a string of no known form")),
        }
    }

    /// A string's own bytes, at most so many.
    async fn text(&self, max: u64) -> Result<Vec<u8>, RdbError> {
        let too_large = |len| RdbError::TooLarge { key: String::new(), len, limit: max };
        let form = match self.length().await? {
            Length::Plain(len) if len <= max => return self.input.bytes(len).await,
            Length::Plain(len) => return Err(too_large(len)),
            Length::Special(form) => form,
        };
        Ok(match form {
            0 => i8::from_le_bytes(self.input.exact().await?).to_string().into(),
            1 => i16::from_le_bytes(self.input.exact().await?).to_string().into(),
            2 => i32::from_le_bytes(self.input.exact().await?).to_string().into(),
            3 => {
                let packed = self.len().await?;
                let len = self.len().await?;
                if packed > max || len > max {
                    return Err(too_large(packed.max(len)));
                }
                let packed = self.input.bytes(packed).await?;
                let text = usize::try_from(len).ok().and_then(|len| lzf::unpack(&packed, len));
                text.ok_or_else(|| self.input.damaged("a compressed string that cannot be unpacked"))?
            }
            _ => return Err(self.input.damaged("a string of no known form")),
        })
    }

    /// What is kept of a value must fit into one command, and into memory.
    fn check_size(&self) -> Result<(), RdbError> {
        self.check_room(0)
    }

    fn check_room(&self, more: u64) -> Result<(), RdbError> {
        if !self.keep {
            return Ok(());
        }
        let len = self.input.kept_len().saturating_add(more);
        if len > self.limit {
            return Err(RdbError::TooLarge { key: String::new(), len, limit: self.limit });
        }
        Ok(())
    }
}
