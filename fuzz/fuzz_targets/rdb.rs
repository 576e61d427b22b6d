//! RDB dumps: whole input and pieces give the same answer.
#![no_main]

use bytes::Bytes;
use dumpers::redis::rdb::{RdbContents, RdbError, RdbParser};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let whole = read(bytes, bytes.len().max(1)).ok();
    assert_eq!(whole, read(bytes, 1).ok());
    assert_eq!(whole, read(bytes, 13).ok());
});

fn read(bytes: &[u8], piece: usize) -> Result<RdbContents, RdbError> {
    let mut parser = RdbParser::new();
    for piece in bytes.chunks(piece) {
        parser.push(&Bytes::copy_from_slice(piece))?;
    }
    parser.finish()
}
