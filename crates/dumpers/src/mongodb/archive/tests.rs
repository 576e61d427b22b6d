//! Against archives that `mongodump` 100.14.0 wrote, and against hostile ones.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::*;

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/mongodump").join(name)
}

/// What the files hold, told by an independent reader of them.
fn expected(archive: &str) -> Value {
    let all: Value = serde_json::from_slice(&std::fs::read(data("expected.json")).unwrap()).unwrap();
    all["files"][archive].clone()
}

/// All documents of each collection, in the order of the archive.
fn read(
    archive: &[u8],
    chunk: usize,
) -> Result<(ArchiveContents, BTreeMap<String, Vec<Bytes>>), ArchiveError> {
    let mut parser = ArchiveParser::new();
    let mut documents = BTreeMap::<String, Vec<Bytes>>::new();
    for part in archive.chunks(chunk) {
        parser.push(part);
        while let Some(item) = parser.next_item()? {
            if let Item::Documents { namespace, documents: many, count, .. } = item {
                let mut many = many;
                for _ in 0..count {
                    let len = i32::from_le_bytes(*many.first_chunk().unwrap()) as usize;
                    documents.entry(namespace.to_string()).or_default().push(many.split_to(len));
                }
                assert!(many.is_empty(), "whole documents and nothing else");
            }
        }
    }
    Ok((parser.finish()?, documents))
}

fn check_against(archive: &[u8], name: &str) {
    let (contents, documents) = read(archive, 64 * 1024).unwrap();
    let expected = expected(name);
    assert_eq!(contents.prelude.server_version, expected["prelude"]["server_version"]);
    assert_eq!(contents.bytes, archive.len() as u64);
    let namespaces = expected["namespaces"].as_object().unwrap();
    let mut seen = 0;
    for (entry, (count, bytes)) in contents.prelude.entries.iter().zip(&contents.counts) {
        if entry.namespace.is_oplog() {
            continue;
        }
        seen += 1;
        let full = entry.namespace.to_string();
        let expected = &namespaces[&full];
        // A view has none.
        assert_eq!(*count, expected["documents"].as_u64().unwrap_or(0), "{full}");
        assert_eq!(*bytes, expected["bytes"].as_u64().unwrap_or(0), "{full}");
        assert_eq!(entry.kind, expected["type"], "{full}");
        let mut hash = Sha256::new();
        documents.get(&full).into_iter().flatten().for_each(|document| hash.update(document));
        let digest: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        if entry.kind != "view" {
            assert_eq!(digest, expected["file_order_sha256"], "{full}");
        }
        let metadata = Metadata::from_text(&entry.metadata).unwrap();
        assert_eq!(metadata.to_text(), entry.metadata, "{full}: the same text, byte by byte");
        assert_eq!(metadata.uuid.as_deref(), expected["uuid"].as_str(), "{full}");
        let names: Vec<&str> = metadata.indexes.iter().map(|index| index.get_str("name").unwrap()).collect();
        let mut sorted = names.clone();
        sorted.sort_unstable();
        assert_eq!(serde_json::json!(sorted), expected["indexes"], "{full}");
    }
    assert_eq!(seen, namespaces.len());
}

#[test]
fn an_archive_of_mongodump_is_read_as_it_says() {
    check_against(&std::fs::read(data("oplog.archive")).unwrap(), "oplog.archive");
}

#[test]
fn blocks_that_alternate_and_large_ones_are_read() {
    let mut archive = Vec::new();
    let file = std::fs::File::open(data("split.archive.gz")).unwrap();
    flate2::read::GzDecoder::new(file).read_to_end(&mut archive).unwrap();
    check_against(&archive, "split.archive.gz");
}

/// An archive is taken apart and written again: the same bytes.
#[test]
fn what_is_written_again_is_the_same() {
    let archive = std::fs::read(data("oplog.archive")).unwrap();
    let mut parser = ArchiveParser::new();
    let mut writer = ArchiveWriter::default();
    let mut again = Vec::new();
    let mut crcs: Vec<Crc64> = Vec::new();
    let mut entries = Vec::new();
    parser.push(&archive);
    while let Some(item) = parser.next_item().unwrap() {
        match item {
            Item::Prelude(mut prelude) => {
                entries = prelude.entries.clone();
                crcs.resize_with(entries.len(), Crc64::new);
                let (begun, head) = ArchiveWriter::begin(&prelude);
                writer = begun;
                again.extend_from_slice(&head);
                prelude.entries.clear();
            }
            Item::Documents { entry, namespace, documents, .. } => {
                again.extend(writer.documents(&namespace).into_iter().flatten());
                again.extend_from_slice(&documents);
                crcs[entry].update(&documents);
            }
            Item::Ended { entry } => {
                again.extend_from_slice(&writer.end(&entries[entry].namespace, crcs[entry].value()));
            }
        }
    }
    parser.finish().unwrap();
    assert!(again == archive, "{} bytes instead of {}", again.len(), archive.len());
}

/// Two collections with documents, one without, and the oplog.
fn small() -> Vec<u8> {
    let document = |i: i32| mongodb::bson::doc! { "_id": i, "text": "é\0x" }.to_vec().unwrap();
    let entry = |name: &str| Entry {
        namespace: Namespace::new("d", name),
        metadata: Metadata::default().to_text(),
        kind: "collection".to_owned(),
    };
    let mut entries = vec![entry("a"), entry("b.c d"), entry("empty")];
    entries.push(Entry { namespace: Namespace::oplog(), ..Entry::default() });
    let prelude =
        Prelude { concurrent_collections: 2, server_version: "8".into(), tool_version: "t".into(), entries };
    let (mut writer, head) = ArchiveWriter::begin(&prelude);
    let mut archive = head.to_vec();
    let mut crcs = vec![Crc64::new(); 4];
    for (entry, i) in [(0, 1), (1, 2), (0, 3), (0, 4), (3, 5)] {
        let namespace = &prelude.entries[entry].namespace;
        archive.extend(writer.documents(namespace).into_iter().flatten());
        archive.extend(document(i));
        crcs[entry].update(&document(i));
    }
    for entry in [1, 0, 2, 3] {
        archive.extend_from_slice(&writer.end(&prelude.entries[entry].namespace, crcs[entry].value()));
    }
    archive
}

#[test]
fn every_cut_and_every_changed_byte_of_the_documents_is_found() {
    let archive = small();
    let (contents, documents) = read(&archive, 7).unwrap();
    assert_eq!(contents.counts.iter().map(|(count, _)| *count).collect::<Vec<_>>(), [3, 1, 0, 1]);
    assert_eq!(documents["d.b.c d"].len(), 1);
    for cut in 0..archive.len() {
        assert!(read(&archive[..cut], 5).is_err(), "cut at {cut}");
    }
    for chunk in [1, 3, archive.len()] {
        assert_eq!(read(&archive, chunk).unwrap().0, contents);
    }
    // Metadata, versions and types are only text; all that carries documents is checked.
    let blocks = archive.windows(4).position(|four| four == TERMINATOR).unwrap() + 4;
    for at in (0..4).chain(blocks..archive.len()) {
        let mut changed = archive.clone();
        changed[at] ^= 0x01;
        assert!(read(&changed, 4096).is_err(), "byte {at}");
    }
}

#[test]
fn what_is_wrong_is_named() {
    let archive = small();
    let replaced = |from: &[u8], to: &[u8]| {
        let at = archive.windows(from.len()).position(|part| part == from).unwrap();
        [&archive[..at], to, &archive[at + from.len()..]].concat()
    };
    let error = |bytes: &[u8]| read(bytes, 4096).unwrap_err();
    assert_eq!(error(b"PGDMP"), ArchiveError::NotAnArchive);
    assert_eq!(error(&replaced(b"0.1\0", b"0.2\0")), ArchiveError::Version("0.2".to_owned()));
    assert_eq!(error(&[&archive[..], b"\0"].concat()), ArchiveError::Trailing);
    assert!(matches!(error(&archive[..archive.len() - 1]), ArchiveError::Truncated(_)));
    assert!(matches!(error(&replaced(b"b.c d\0", b"empty\0")), ArchiveError::Twice(_)));
    // A length of two gigabytes takes no memory.
    let huge = [&MAGIC[..], &i32::MAX.to_le_bytes()].concat();
    assert!(matches!(error(&huge), ArchiveError::Document(_)));
}

proptest! {
    #[test]
    fn nothing_makes_the_parser_panic(bytes: Vec<u8>, chunk in 1_usize..64) {
        let _ = read(&bytes, chunk);
        let mut behind = MAGIC.to_vec();
        behind.extend(bytes);
        let _ = read(&behind, chunk);
    }
}
