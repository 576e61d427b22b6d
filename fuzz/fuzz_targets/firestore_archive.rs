//! Archives of Firestore databases: whole input and pieces give the same answer.
#![no_main]

use backup_core::{ByteStream, Context, DumpFormat, Inspector as _};
use bytes::Bytes;
use dumpers::firestore::{FIRESTORE_NDJSON, FirestoreInspector};
use futures::FutureExt as _;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let whole = read(bytes, bytes.len().max(1));
    assert_eq!(whole, read(bytes, 1));
    assert_eq!(whole, read(bytes, 13));
});

/// Bytes and collections, where it is a whole archive.
fn read(bytes: &[u8], piece: usize) -> Option<(u64, Vec<String>)> {
    let pieces: Vec<_> = bytes.chunks(piece).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    let stream = ByteStream::new(futures::stream::iter(pieces));
    let (cx, format) = (Context::new(), DumpFormat::new(FIRESTORE_NDJSON));
    let read = FirestoreInspector.inspect(&cx, &format, stream).now_or_never();
    let read = read.expect("nothing has to be waited for").ok()?;
    Some((read.bytes, read.tables))
}
