//! The format `firestore-ndjson`: one JSON object a line, with a head and an end. docs/engines/firestore.md
//! describes it for those who read it by hand.

use std::collections::BTreeMap;

use backup_core::Sha256Digest;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::json::{Cursor, JsonError, push_string};
use super::names::{is_document, kind_of};
use super::value::copy_fields;

/// The version of the format that is written and read here.
pub const VERSION: u32 = 1;
/// The longest line.
const LINE_MAX: usize = 80 << 20;
/// So many kinds of collections are counted one by one; the rest only in the sum.
const KINDS_MAX: usize = 10_000;

/// Why bytes are not a whole archive.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// It does not begin as one.
    #[error("it does not begin with the head of an archive")]
    Head,
    /// Made by a later version.
    #[error("it has version {0} of the format; version {VERSION} is understood")]
    Version(u32),
    /// A line is not what may stand there.
    #[error("line {line}: {what}")]
    Line {
        /// Counted from 1.
        line: u64,
        /// What is wrong.
        what: String,
    },
    /// It stops before its end.
    #[error("it has no end: it was cut after line {0}")]
    Cut(u64),
    /// The counts or the digest of the end are not those of the lines.
    #[error("its end does not fit its lines: {0} differ")]
    End(&'static str),
    /// Something stands behind the end.
    #[error("something stands behind its end")]
    Behind,
}

/// What a dump is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Head {
    format: String,
    version: u32,
    /// The project whose database this was.
    pub(super) project: String,
    /// The database's id.
    pub(super) database: String,
    /// The moment that every document is of, RFC 3339.
    pub(super) read_time: String,
    /// The selection, as it was asked for.
    pub(super) include: Vec<String>,
    /// What was left out.
    pub(super) exclude: Vec<String>,
    /// Whether the users of Firebase Auth follow the documents.
    pub(super) users: bool,
}

impl Head {
    pub(super) fn new(project: &str, database: &str, read_time: &str) -> Self {
        Self {
            format: super::FIRESTORE_NDJSON.to_owned(),
            version: VERSION,
            project: project.to_owned(),
            database: database.to_owned(),
            read_time: read_time.to_owned(),
            include: Vec::new(),
            exclude: Vec::new(),
            users: false,
        }
    }

    /// The prefix of the names of all documents of that database.
    pub(super) fn documents(&self) -> String {
        format!("projects/{}/databases/{}/documents", self.project, self.database)
    }
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EndLine {
    end: Counts,
}

/// What the end of an archive says of all of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Counts {
    pub(super) documents: u64,
    pub(super) users: u64,
    /// Documents by the kind of their collection, such as `users/*/orders`.
    pub(super) collections: BTreeMap<String, u64>,
    /// SHA-256 of all bytes before the end's line.
    sha256: String,
}

impl Counts {
    fn document(&mut self, path: &str) {
        self.documents += 1;
        let kind = kind_of(path);
        if let Some(count) = self.collections.get_mut(&kind) {
            *count += 1;
        } else if self.collections.len() < KINDS_MAX {
            self.collections.insert(kind, 1);
        }
    }
}

/// Keeps count and digest of an archive that is written.
#[derive(Debug, Default)]
pub(super) struct Writer {
    counts: Counts,
    digest: Sha256,
}

impl Writer {
    /// The first line.
    pub(super) fn head(&mut self, head: &Head) -> String {
        let mut line = serde_json::to_string(head).unwrap_or_default();
        line.push('\n');
        self.digest.update(&line);
        line
    }

    /// Takes whole lines that [`push_document`] or [`push_user`] made.
    pub(super) fn lines(&mut self, lines: &Lines) {
        self.digest.update(&lines.text);
        self.counts.users += lines.counts.users;
        self.counts.documents += lines.counts.documents;
        for (kind, count) in &lines.counts.collections {
            if let Some(sum) = self.counts.collections.get_mut(kind) {
                *sum += count;
            } else if self.counts.collections.len() < KINDS_MAX {
                self.counts.collections.insert(kind.clone(), *count);
            }
        }
    }

    /// The last line.
    pub(super) fn end(self) -> (String, Counts) {
        let mut counts = self.counts;
        counts.sha256 = Sha256Digest(self.digest.finalize().into()).to_string();
        let end = EndLine { end: counts };
        let mut line = serde_json::to_string(&end).unwrap_or_default();
        line.push('\n');
        (line, end.end)
    }
}

/// Whole lines, and what they hold.
#[derive(Debug, Default)]
pub(super) struct Lines {
    pub(super) text: String,
    counts: Counts,
}

impl Lines {
    /// Adds a document. `fields` are checked and copied.
    pub(super) fn push_document(
        &mut self,
        path: &str,
        created: &str,
        updated: &str,
        fields: Option<&str>,
    ) -> Result<(), JsonError> {
        if !is_document(path) {
            return Err(JsonError::Value(format!("{path:?} is no name of a document")));
        }
        self.text.push_str("{\"document\":");
        push_string(&mut self.text, path);
        self.text.push_str(",\"createTime\":");
        push_string(&mut self.text, created);
        self.text.push_str(",\"updateTime\":");
        push_string(&mut self.text, updated);
        self.text.push_str(",\"fields\":");
        copy_fields(&mut Cursor::new(fields.unwrap_or("{}")), &mut self.text, &mut |_| None)?;
        self.text.push_str("}\n");
        self.counts.document(path);
        Ok(())
    }

    /// Adds the parameters that passwords were hashed with; any object in one line.
    pub(super) fn push_hashing(&mut self, config: &serde_json::Value) {
        self.text.push_str(&serde_json::json!({ "hashing": config }).to_string());
        self.text.push('\n');
    }

    /// Adds a user of Firebase Auth, an object as the service gave it.
    pub(super) fn push_user(&mut self, user: &serde_json::Value) {
        self.text.push_str(&serde_json::json!({ "user": user }).to_string());
        self.text.push('\n');
        self.counts.users += 1;
    }
}

/// One line of an archive.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Entry {
    /// What the dump is of; always the first.
    Head(Head),
    /// A document: its path below the root, its fields as an object of typed values.
    Document {
        /// The path.
        path: String,
        /// The fields.
        fields: String,
    },
    /// How passwords were hashed.
    Hashing(serde_json::Value),
    /// A user of Firebase Auth.
    User(serde_json::Value),
}

/// Reads an archive in chunks of any size.
#[derive(Debug, Default)]
pub(super) struct Parser {
    buffer: Vec<u8>,
    scanned: usize,
    line: u64,
    stage: Stage,
    counts: Counts,
    digest: Sha256,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    #[default]
    Head,
    Documents,
    Users,
    Ended,
}

impl Parser {
    /// Reads on; every whole line becomes an entry.
    pub(super) fn push(&mut self, chunk: &[u8], mut entry: impl FnMut(Entry)) -> Result<(), ArchiveError> {
        if chunk.is_empty() {
            return Ok(());
        }
        self.buffer.extend_from_slice(chunk);
        let mut taken = 0;
        while let Some(len) = self.buffer[self.scanned..].iter().position(|&byte| byte == b'\n') {
            let end = self.scanned + len + 1;
            let line = self.buffer[taken..end].to_vec();
            if let Some(read) = self.read(&line)? {
                entry(read);
            }
            taken = end;
            self.scanned = end;
        }
        self.buffer.drain(..taken);
        self.scanned = self.buffer.len();
        if self.stage == Stage::Ended && !self.buffer.is_empty() {
            return Err(ArchiveError::Behind);
        }
        // What is no archive is refused before it fills the memory.
        let looks_wrong = self.stage == Stage::Head && self.buffer.first().is_some_and(|&byte| byte != b'{');
        if looks_wrong || self.stage == Stage::Head && self.buffer.len() > 1 << 20 {
            return Err(ArchiveError::Head);
        }
        if self.buffer.len() > LINE_MAX {
            return Err(self.wrong("it is too long"));
        }
        Ok(())
    }

    fn wrong(&self, what: impl Into<String>) -> ArchiveError {
        ArchiveError::Line { line: self.line, what: what.into() }
    }

    /// The counts, once the end was read.
    pub(super) fn finish(self) -> Result<Counts, ArchiveError> {
        if self.stage == Stage::Ended { Ok(self.counts) } else { Err(ArchiveError::Cut(self.line)) }
    }

    fn read(&mut self, line: &[u8]) -> Result<Option<Entry>, ArchiveError> {
        self.line += 1;
        if self.stage == Stage::Ended {
            return Err(ArchiveError::Behind);
        }
        let text = std::str::from_utf8(line).map_err(|_| match self.stage {
            Stage::Head => ArchiveError::Head,
            _ => self.wrong("it is not UTF-8"),
        })?;
        let text = &text[..text.len() - 1];
        if self.stage == Stage::Head {
            return self.head(text).map(|head| {
                self.digest.update(line);
                Some(Entry::Head(head))
            });
        }
        if text.starts_with("{\"end\":") {
            return self.end(text).map(|()| None);
        }
        self.digest.update(line);
        let entry = if text.starts_with("{\"document\":") {
            self.document(text).map_err(|error| self.wrong(error.to_string()))?
        } else {
            self.about_users(text)?
        };
        let stage = if matches!(entry, Entry::Document { .. }) { Stage::Documents } else { Stage::Users };
        if stage < self.stage {
            return Err(self.wrong("a document stands behind the users"));
        }
        self.stage = stage;
        Ok(Some(entry))
    }

    fn head(&mut self, text: &str) -> Result<Head, ArchiveError> {
        /// What every version says of itself.
        #[derive(Deserialize)]
        struct Any {
            format: String,
            version: u32,
        }
        let any: Any = serde_json::from_str(text).map_err(|_| ArchiveError::Head)?;
        if any.format != super::FIRESTORE_NDJSON {
            return Err(ArchiveError::Head);
        }
        if any.version != VERSION {
            return Err(ArchiveError::Version(any.version));
        }
        let head: Head = serde_json::from_str(text).map_err(|_| ArchiveError::Head)?;
        if head.read_time.parse::<jiff::Timestamp>().is_err() {
            return Err(ArchiveError::Head);
        }
        self.stage = Stage::Documents;
        Ok(head)
    }

    fn document(&mut self, text: &str) -> Result<Entry, JsonError> {
        const MEMBERS: [&str; 4] = ["document", "createTime", "updateTime", "fields"];
        let mut path = String::new();
        let mut fields = String::with_capacity(text.len());
        let mut members = 0;
        let mut cursor = Cursor::new(text);
        cursor.object(|name, cursor| {
            if MEMBERS.get(members) != Some(&name) {
                return Err(cursor.expected("another member"));
            }
            members += 1;
            match name {
                "document" => path = cursor.string()?.into_owned(),
                "fields" => copy_fields(cursor, &mut fields, &mut |_| None)?,
                _ => {
                    let time = cursor.string()?;
                    time.parse::<jiff::Timestamp>().map_err(|_| cursor.expected("a time"))?;
                }
            }
            Ok(())
        })?;
        if members != MEMBERS.len() {
            return Err(cursor.expected("four members"));
        }
        cursor.finish()?;
        if !is_document(&path) {
            return Err(JsonError::Value(format!("{path:?} is no name of a document")));
        }
        self.counts.document(&path);
        Ok(Entry::Document { path, fields })
    }

    fn about_users(&mut self, text: &str) -> Result<Entry, ArchiveError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "lowercase", deny_unknown_fields)]
        enum Line {
            Hashing(serde_json::Map<String, serde_json::Value>),
            User(serde_json::Map<String, serde_json::Value>),
        }
        match serde_json::from_str(text) {
            Ok(Line::Hashing(config)) => Ok(Entry::Hashing(config.into())),
            Ok(Line::User(user)) => {
                self.counts.users += 1;
                Ok(Entry::User(user.into()))
            }
            Err(_) => Err(self.wrong("it is no document, no user and no end")),
        }
    }

    fn end(&mut self, text: &str) -> Result<(), ArchiveError> {
        let EndLine { end } = serde_json::from_str(text).map_err(|_| self.wrong("it is no end"))?;
        let digest = Sha256Digest(std::mem::take(&mut self.digest).finalize().into()).to_string();
        let fits = [
            ("the documents", end.documents == self.counts.documents),
            ("the users", end.users == self.counts.users),
            (
                "the collections",
                end.collections == self.counts.collections || end.collections.len() == KINDS_MAX,
            ),
            ("the digests", end.sha256 == digest),
        ];
        if let Some((what, _)) = fits.iter().find(|(_, fits)| !fits) {
            return Err(ArchiveError::End(what));
        }
        self.counts = end;
        self.stage = Stage::Ended;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(in crate::firestore) fn sample() -> String {
        let mut writer = Writer::default();
        let mut text = writer.head(&Head::new("p", "(default)", "2026-01-02T03:04:05.678901Z"));
        let mut lines = Lines::default();
        let time = "2026-01-01T00:00:00Z";
        lines.push_document("a/b", time, time, Some(r#"{"é\n":{"doubleValue":-0.0}}"#)).unwrap();
        lines.push_document("a/b/c/\"d", time, time, None).unwrap();
        lines.push_hashing(&serde_json::json!({"algorithm": "SCRYPT"}));
        lines.push_user(&serde_json::json!({"localId": "u"}));
        writer.lines(&lines);
        text += &lines.text;
        text + &writer.end().0
    }

    fn read(bytes: &[u8], size: usize) -> Result<(Vec<Entry>, Counts), ArchiveError> {
        let mut parser = Parser::default();
        let mut entries = Vec::new();
        for chunk in bytes.chunks(size) {
            parser.push(chunk, |entry| entries.push(entry))?;
        }
        Ok((entries, parser.finish()?))
    }

    #[test]
    fn what_was_written_is_read_in_chunks_of_any_size() {
        let text = sample();
        for size in [1, 2, 7, 64, text.len()] {
            let (entries, counts) = read(text.as_bytes(), size).unwrap();
            assert_eq!(entries.len(), 5);
            let fields = r#"{"é\n":{"doubleValue":-0.0}}"#.to_owned();
            assert_eq!(entries[1], Entry::Document { path: "a/b".to_owned(), fields });
            assert_eq!((counts.documents, counts.users), (2, 1));
            assert_eq!(counts.collections, BTreeMap::from([("a".to_owned(), 1), ("a/*/c".to_owned(), 1)]));
        }
    }

    #[test]
    fn every_cut_every_missing_line_and_every_changed_byte_is_seen() {
        let text = sample();
        for len in 0..text.len() {
            assert!(read(&text.as_bytes()[..len], 16).is_err(), "cut at {len}");
        }
        let lines: Vec<&str> = text.split_inclusive('\n').collect();
        for left_out in 0..lines.len() {
            let mut some = lines.clone();
            some.remove(left_out);
            assert!(read(some.concat().as_bytes(), 64).is_err(), "without line {left_out}");
            let mut twice = lines.clone();
            twice.insert(left_out, lines[left_out]);
            assert!(read(twice.concat().as_bytes(), 64).is_err(), "line {left_out} twice");
        }
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            assert!(read(&bytes, 64).is_err(), "byte {at}: {}", &text[at..=at.max(at)].escape_debug());
        }
    }

    #[test]
    fn other_versions_and_other_things_are_told_apart() {
        let later = sample().replace("\"version\":1", "\"version\":2");
        assert_eq!(read(later.as_bytes(), 9), Err(ArchiveError::Version(2)));
        assert_eq!(read(b"PGDMP", 2), Err(ArchiveError::Head));
        assert_eq!(read(b"{}\n", 9), Err(ArchiveError::Head));
        assert_eq!(read(b"", 9), Err(ArchiveError::Cut(0)));
    }
}
