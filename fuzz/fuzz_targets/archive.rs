//! PostgreSQL's custom archives: whole input and pieces give the same answer. Which of several faults
//! is named first may depend on the pieces.
#![no_main]

use dumpers::postgres::{ArchiveContents, ArchiveError, ArchiveParser};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let whole = read(bytes, bytes.len().max(1)).ok();
    assert_eq!(whole, read(bytes, 1).ok());
    assert_eq!(whole, read(bytes, 13).ok());
});

fn read(bytes: &[u8], piece: usize) -> Result<ArchiveContents, ArchiveError> {
    let mut parser = ArchiveParser::new();
    for piece in bytes.chunks(piece) {
        parser.push(piece)?;
    }
    parser.finish()
}
