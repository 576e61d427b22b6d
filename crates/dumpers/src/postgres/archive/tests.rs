//! Archives written as `pg_dump` writes them, whole and spoiled.

use super::*;

/// Writes archives as `pg_dump` does.
#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn int(mut self, value: i64) -> Self {
        self.0.push(u8::from(value < 0));
        self.0.extend_from_slice(&(value.unsigned_abs() as u32).to_le_bytes());
        self
    }
    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }
    fn text(self, text: &str) -> Self {
        self.int(text.len() as i64).bytes(text.as_bytes())
    }
    fn absent(self) -> Self {
        self.int(-1)
    }
    fn head(self, minor: u8, entries: i64) -> Self {
        let head = self.bytes(b"PGDMP").bytes(&[1, minor, 0, 4, 8, 1]);
        let head = if minor >= 15 { head.bytes(&[0]) } else { head.int(0) };
        let head = (0..7).fold(head, |head, field| head.int(field));
        head.text("db").text("15.18").text("15.18").int(entries)
    }
    fn entry(self, minor: u8, id: i64, description: &str, tag: &str, definition: &str, data: bool) -> Self {
        let entry = self.int(id).int(i64::from(data)).text("1259").text("16384").text(tag).text(description);
        let entry = entry.int(3).text(definition).text("").absent().text("public").absent();
        let entry = if minor >= 14 { entry.text("heap") } else { entry };
        let entry = if minor >= 16 { entry.int(114) } else { entry };
        let entry = entry.text("owner").text("false").text("7").text("8").absent();
        entry.bytes(&[if data { 1 } else { 3 }]).bytes(&[0; 8])
    }
}

fn archive(minor: u8) -> Vec<u8> {
    let writer = Writer::default()
        .head(minor, 4)
        .entry(minor, 1, "TABLE", "t", "CREATE TABLE", false)
        .entry(minor, 2, "TABLE DATA", "T x", "", true)
        .entry(minor, 3, "BLOBS", "BLOBS", "", true)
        .entry(minor, 4, "ACL", "TABLE t", "GRANT SELECT ON TABLE t TO reader;\n", false);
    writer
        .bytes(&[1])
        .int(2)
        .int(3)
        .bytes(b"abc")
        .int(1)
        .bytes(b"d")
        .int(0)
        .bytes(&[3])
        .int(3)
        .int(17)
        .int(2)
        .bytes(b"xy")
        .int(0)
        .int(18)
        .int(0)
        .int(0)
        .0
}

/// A database, so many views with these definitions, and one of another owner at the end; no data.
pub(in crate::postgres) fn long(views: i64, definition: impl Fn(i64) -> String) -> Vec<u8> {
    const MINOR: u8 = 14;
    let create = "CREATE DATABASE db WITH TEMPLATE = template0 ENCODING = 'LATIN1' LOCALE = 'C';\n";
    let begun = Writer::default().head(MINOR, views + 2).entry(MINOR, 1, "DATABASE", "db", create, false);
    let views = (0..views)
        .fold(begun, |begun, n| begun.entry(MINOR, n + 2, "VIEW", &format!("v{n}"), &definition(n), false));
    let Writer(mut bytes) = views.entry(MINOR, 16_000_000, "VIEW", "last", "", false);
    // The owner of the last.
    let at = bytes.len() - 64
        + bytes[bytes.len() - 64..].windows(5).position(|w| w == b"owner").expect("an owner");
    bytes[at..at + 5].copy_from_slice(b"other");
    bytes
}

fn parse(bytes: &[u8], step: usize) -> Result<ArchiveContents, ArchiveError> {
    let mut parser = ArchiveParser::new();
    for chunk in bytes.chunks(step) {
        parser.push(chunk)?;
    }
    parser.finish()
}

#[test]
fn every_version_is_read_in_pieces_of_any_size() {
    for minor in 12..=16 {
        let bytes = archive(minor);
        for step in [1, 2, 3, 7, 64, bytes.len()] {
            let contents = parse(&bytes, step).unwrap();
            assert_eq!(contents.tables, ["public.\"T x\""]);
            assert_eq!(contents.roles, BTreeSet::from(["owner".to_owned(), "reader".to_owned()]));
            assert_eq!(contents.server, "15.18");
            assert_eq!(contents.version, format!("1.{minor}"));
        }
    }
}

/// What stands where a length is expected must not be read as one when only a part of a text came.
#[test]
fn a_header_of_long_names_is_read_in_pieces_of_any_size() {
    let head = Writer::default().bytes(b"PGDMP").bytes(&[1, 14, 0, 4, 8, 1]).int(0);
    let head = (0..7).fold(head, |head, field| head.int(field));
    let bytes = head.text("a database of a long name").text("15.18 (Debian)").text("16.1 (Debian)").int(0).0;
    let whole = parse(&bytes, bytes.len()).unwrap();
    assert_eq!((whole.server.as_str(), whole.pg_dump.as_str()), ("15.18 (Debian)", "16.1 (Debian)"));
    for step in 1..bytes.len() {
        assert_eq!(parse(&bytes, step).unwrap(), whole, "{step}");
    }
}

#[test]
fn every_prefix_is_truncated() {
    let bytes = archive(14);
    for len in 0..bytes.len() {
        let outcome = parse(&bytes[..len], 64);
        assert!(matches!(outcome, Err(ArchiveError::Truncated(_))), "{len}: {outcome:?}");
    }
}

#[test]
fn what_is_impossible_is_named() {
    let good = archive(14);
    let with = |at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] = value;
        parse(&bytes, 64).unwrap_err()
    };
    assert_eq!(with(0, b'p'), ArchiveError::NotAnArchive);
    assert_eq!(with(5, 2), ArchiveError::Version(2, 14));
    assert_eq!(with(6, 17), ArchiveError::Version(1, 17));
    assert_eq!(with(6, 11), ArchiveError::Version(1, 11));
    assert_eq!(with(8, 8), ArchiveError::Field("integer size"));
    assert_eq!(with(9, 0), ArchiveError::Field("offset size"));
    assert_eq!(with(10, 3), ArchiveError::Field("format"));
    assert_eq!(with(11, 9), ArchiveError::Field("sign"));
    let huge = Writer::default().head(14, ENTRIES_MAX + 1).0;
    assert_eq!(parse(&huge, 64), Err(ArchiveError::Limit("number of entries")));
    let long = Writer::default().head(14, 1).int(1).int(0).int(ENTRY_MAX as i64 + 1).0;
    assert_eq!(parse(&long, 64), Err(ArchiveError::Limit("text")));
    let mut twice = archive(14);
    twice.extend(Writer::default().bytes(&[1]).int(2).int(0).0);
    assert_eq!(parse(&twice, 64), Err(ArchiveError::Block(2)));
    let mut garbage = archive(14);
    garbage.push(b'x');
    assert_eq!(parse(&garbage, 64), Err(ArchiveError::Field("block type")));
}

#[test]
fn the_table_under_way_is_known() {
    let bytes = archive(14);
    let mut parser = ArchiveParser::new();
    let mut seen = Vec::new();
    for byte in &bytes {
        parser.push(&[*byte]).unwrap();
        let table = parser.current_table().map(str::to_owned);
        if seen.last() != Some(&table) {
            seen.push(table);
        }
    }
    assert_eq!(seen, [None, Some("public.\"T x\"".to_owned()), None]);
}

#[test]
fn a_long_entry_costs_in_proportion_to_its_length() {
    let view = "x".repeat(8 * 1024 * 1024);
    let mut dependencies = Writer::default().head(14, 2).entry(14, 1, "VIEW", "v", &view, false);
    // An entry of many small fields is the dearest to read again.
    dependencies = dependencies.int(2).int(0).text("0").text("0").text("v").text("VIEW").int(2);
    dependencies = dependencies.text("").text("").absent().text("public").absent().text("");
    dependencies = dependencies.text("owner").text("false");
    dependencies = (0..1_000_000).fold(dependencies, |entry, _| entry.int(1).bytes(b"7"));
    let bytes = dependencies.absent().bytes(&[3]).bytes(&[0; 8]).0;
    let mut parser = ArchiveParser::new();
    for chunk in bytes.chunks(8 * 1024) {
        parser.push(chunk).unwrap();
    }
    assert_eq!(parser.finish().unwrap().roles.len(), 1);
}

#[test]
fn a_parser_that_failed_stays_failed() {
    let mut parser = ArchiveParser::new();
    assert!(parser.push(b"nonsense").is_err());
    assert!(parser.push(&archive(14)).is_err());
    assert!(parser.contents().is_none());
    assert!(parser.finish().is_err());
}

proptest::proptest! {
    #[test]
    fn no_bytes_panic(flips in proptest::collection::vec((0..400_usize, 0..=255_u8), 0..8), step in 1..64_usize) {
        let mut bytes = archive(16);
        for (at, value) in flips {
            let at = at % bytes.len();
            bytes[at] = value;
        }
        let _ = parse(&bytes, step);
    }
}
