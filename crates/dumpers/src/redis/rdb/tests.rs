//! Dumps made by hand, for what no server of the tests writes.

use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest};
use proptest::prelude::*;

use super::{Item, More, RdbContents, RdbError, RdbParser};

const LIMIT: u64 = 64 << 20;

/// A dump of this head and body, with its end mark and checksum.
fn dump(head: &str, body: &[u8]) -> Bytes {
    let mut bytes = [head.as_bytes(), body, &[255]].concat();
    let mut checksum = Digest::new(CrcAlgorithm::Crc64Redis);
    checksum.update(&bytes);
    bytes.extend_from_slice(&checksum.finalize().to_le_bytes());
    bytes.into()
}

fn parse(bytes: &Bytes, chunk: usize) -> Result<RdbContents, RdbError> {
    let mut parser = RdbParser::new();
    for at in (0..bytes.len()).step_by(chunk) {
        parser.push(&bytes.slice(at..bytes.len().min(at + chunk)))?;
    }
    parser.finish()
}

/// One key `k` of this type and value in database 0.
fn one(head: &str, kind: u8, value: &[u8]) -> Result<RdbContents, RdbError> {
    let whole = dump(head, &[&[254, 0, kind, 1, b'k'], value].concat());
    let parsed = parse(&whole, whole.len());
    assert_eq!(parse(&whole, 1), parsed, "in single bytes");
    if let Ok(contents) = &parsed {
        assert_eq!(contents.databases[&0].keys, 1);
        let mut keeping = RdbParser::keeping(LIMIT);
        keeping.push(&whole).unwrap();
        let items = keeping.items();
        let [Item::Database(0), Item::Entry(entry)] = &items[..] else { panic!("{items:?}") };
        assert_eq!((&entry.key[..], &entry.body[1..]), (&b"k"[..], value));
    }
    parsed
}

#[test]
fn old_and_new_types_are_passed_over() {
    let double = [0; 8];
    let cases: [(&str, u8, Vec<u8>); 12] = [
        ("REDIS0009", 1, vec![2, 1, b'a', 0xc0, 5]),
        ("REDIS0009", 3, vec![3, 1, b'a', 3, b'1', b'.', b'5', 1, b'b', 254, 1, b'c', 255]),
        ("REDIS0009", 5, [&[1, 1, b'a'][..], &double].concat()),
        ("REDIS0009", 4, vec![1, 1, b'f', 1, b'v']),
        ("REDIS0006", 9, vec![3, 1, 2, 3]),
        ("REDIS0009", 14, vec![1, 2, b'z', b'l']),
        ("REDIS0012", 22, vec![1, 0x40, 0x80, 1, b'f', 1, b'v']),
        ("REDIS0012", 23, vec![2, 1, 2]),
        ("REDIS0012", 24, [&double[..], &[1, 0, 1, b'f', 1, b'v']].concat()),
        ("REDIS0012", 25, [&double[..], &[2, 1, 2]].concat()),
        ("VALKEY080", 22, [&[1, 1, b'f', 1, b'v'][..], &double].concat()),
        // A compressed string: 3 bytes that stand for 10.
        ("REDIS0011", 0, vec![0xc3, 3, 10, 0, b'a', 7 << 5]),
    ];
    for (head, kind, value) in cases {
        one(head, kind, &value).unwrap_or_else(|error| panic!("type {kind} of {head}: {error}"));
    }
}

#[test]
fn what_is_not_known_is_refused_by_name() {
    assert_eq!(one("REDIS0012", 26, &[]), Err(RdbError::Type { kind: 26, version: 12 }));
    assert_eq!(one("VALKEY080", 24, &[]), Err(RdbError::Type { kind: 24, version: 80 }));
    assert_eq!(one("REDIS0009", 8, &[]), Err(RdbError::Type { kind: 8, version: 9 }));
    assert_eq!(one("REDIS0009", 6, &[]), Err(RdbError::OldModule));
    for (head, version) in [("REDIS0004", 4), ("REDIS0080", 80), ("VALKEY011", 11)] {
        assert_eq!(parse(&dump(head, &[]), 5), Err(RdbError::Version(version)));
    }
    for head in ["REDIS00x9", "redis0009", "PGDMP\x01\x0f\x00\x04"] {
        assert_eq!(parse(&dump(head, &[]), 5), Err(RdbError::Magic));
    }
}

#[test]
fn data_of_modules_is_passed_over_and_named() {
    // The id of "ReJSON-RL", encoding version 3.
    let letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let at = |letter: u8| letters.iter().position(|other| *other == letter).unwrap() as u64;
    let id = b"ReJSON-RL".iter().fold(0, |id, letter| id << 6 | at(*letter)) << 10 | 3;
    let id = [&[0x81][..], &id.to_be_bytes()].concat();
    let fields = [&[1, 5, 2, 6, 3, 0, 0, 0, 0, 4][..], &[0; 8], &[5, 2, b'{', b'}', 0]].concat();
    let found = one("REDIS0011", 7, &[&id[..], &fields].concat()).unwrap();
    assert!(found.modules.contains("ReJSON-RL"));
    assert!(found.warnings()[0].contains("ReJSON-RL"));
    let section = [&[247][..], &id, &[2, 2], &fields].concat();
    assert_eq!(parse(&dump("REDIS0011", &section), 3).unwrap().module_sections, 1);
    assert!(matches!(one("REDIS0011", 7, &[&id[..], &[9]].concat()), Err(RdbError::Damaged { .. })));
}

#[test]
fn sections_between_keys_are_understood() {
    let aux = [&[250, 9][..], b"redis-ver", &[5], b"7.2.4"].concat();
    let slots = [244, 1, 2, 3];
    let key = [254, 2, 251, 1, 1, 252, 1, 0, 0, 0, 0, 0, 0, 0, 248, 5, 0, 1, b'k', 0xc0, 1];
    let found = parse(&dump("REDIS0011", &[&aux[..], &slots, &key].concat()), 4).unwrap();
    assert_eq!(found.server.as_deref(), Some("redis 7.2.4"));
    assert_eq!(found.describe(), ["db2: 1 keys, 1 of them with a time to live"]);
    let import = [&[243, 2][..], b"id", &[1, 0, 9]].concat();
    assert!(parse(&dump("VALKEY080", &import), 4).is_ok());
    assert_eq!(parse(&dump("REDIS0011", &import), 4), Err(RdbError::Type { kind: 243, version: 11 }));
    // An expiry without its key, and a key without its database.
    for bad in [&[252, 1, 0, 0, 0, 0, 0, 0, 0][..], &[248, 5, 254, 0], &[0, 1, b'k', 0xc0, 1]] {
        assert!(matches!(parse(&dump("REDIS0011", bad), 4), Err(RdbError::Damaged { .. })), "{bad:?}");
    }
}

#[test]
fn a_length_that_lies_takes_no_memory() {
    for length in
        [[0x81, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff].as_slice(), &[0x80, 0xff, 0xff, 0xff, 0xff]]
    {
        let whole = dump("REDIS0011", &[&[254, 0, 2, 1, b'k'], length].concat());
        assert!(parse(&whole, 7).is_err());
        let name = dump("REDIS0011", &[&[254, 0, 2], length].concat());
        let mut keeping = RdbParser::keeping(LIMIT);
        let failed = keeping.push(&name).and_then(|()| keeping.finish().map(drop));
        assert!(failed.is_err());
        assert!(keeping.push(&name).is_err(), "an error stays");
    }
}

/// Gives a long dump in chunks; whether it is whole, how many bytes were ever held at once, and
/// what its parts were: values, commands, elements.
fn parts(limit: u64, kind: u8, count: u32, element: &[u8]) -> Result<(usize, Vec<String>, u64), RdbError> {
    let mut body = vec![254, 0, kind, 1, b'k', 0x80];
    body.extend_from_slice(&count.to_be_bytes());
    for _ in 0..count {
        body.extend_from_slice(element);
    }
    let whole = dump("REDIS0011", &body);
    drop(body);
    let mut parser = RdbParser::keeping(limit);
    let (mut most, mut told, mut elements) = (0, Vec::new(), 0);
    for at in (0..whole.len()).step_by(64 * 1024) {
        parser.push(&whole.slice(at..whole.len().min(at + 64 * 1024)))?;
        let items = parser.items();
        let len = |item: &Item| match item {
            Item::Entry(entry) | Item::First(entry) => entry.body.len(),
            Item::More(More { words, .. }) => words.iter().map(Vec::len).sum(),
            _ => 0,
        };
        most = most.max(items.iter().map(len).sum::<usize>());
        for item in items {
            let name = match item {
                Item::First(_) => "first",
                Item::Entry(_) => "entry",
                Item::Last => "last",
                Item::More(more) => {
                    elements += more.elements;
                    more.command
                }
                _ => continue,
            };
            if told.last().is_none_or(|last| last != name) {
                told.push(name.to_owned());
            }
        }
    }
    parser.finish()?;
    Ok((most, told, elements))
}

#[test]
fn large_collections_come_in_parts() {
    let text = [&[0x43, 0xe8][..], &[b'v'; 1000]].concat();
    let hash = [&text[..], &text].concat();
    let ranked = [&text[..], &1.5_f64.to_le_bytes()].concat();
    let old_ranked = [&text[..], &[3], b"1.5"].concat();
    let plain_node = [&[1][..], &text].concat();
    // A node of one element, "ab".
    let node = [2, 11, 11, 0, 0, 0, 1, 0, 0x82, b'a', b'b', 4, 0xff];
    for (kind, element, command) in [
        (1, &text, "RPUSH"),
        (2, &text, "SADD"),
        (3, &old_ranked, "ZADD"),
        (4, &hash, "HSET"),
        (5, &ranked, "ZADD"),
        (18, &plain_node, "RPUSH"),
        (18, &node.to_vec(), "RPUSH"),
    ] {
        let count = u32::try_from((24 << 20) / element.len()).unwrap();
        let (most, told, elements) = parts(LIMIT, kind, count, element).unwrap();
        assert_eq!(told, ["first", command, "last"], "type {kind}");
        let first = (8 << 20) / element.len() as u64 + 1;
        assert_eq!(elements, u64::from(count) - first, "type {kind}");
        assert!(most < 10 << 20, "type {kind}: {most} bytes at once");
        let (_, told, _) = parts(LIMIT, kind, count / 8, element).unwrap();
        assert_eq!(told, ["entry"], "type {kind}");
    }
}

#[test]
fn what_cannot_be_divided_has_a_limit_and_is_named() {
    // One string of 16 MiB that stands for a whole value, and one element as long in a set.
    let long = [&[0x80, 1, 0, 0, 0][..], &vec![b'x'; 16 << 20]].concat();
    for (kind, value) in [(13, long.clone()), (2, [&[1][..], &long].concat())] {
        let whole = dump("REDIS0011", &[&[254, 0, kind, 3, b'b', b'i', b'g'][..], &value].concat());
        let parse = |limit| RdbParser::keeping(limit).push(&whole);
        parse(17 << 20).unwrap();
        let error = parse(8 << 20).unwrap_err();
        assert!(matches!(&error, RdbError::TooLarge { key, .. } if key == "\"big\""), "{error}");
        assert!(error.is_unsupported());
    }
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(body in prop::collection::vec(any::<u8>(), 0..200), chunk in 1_usize..50) {
        let head = [&b"REDIS0011\xfe\x00"[..], &body].concat();
        let _ = parse(&head.into(), chunk);
        let _ = parse(&dump("VALKEY080", &body), chunk);
        let _ = super::lzf::unpack(&body, 300);
    }
}
