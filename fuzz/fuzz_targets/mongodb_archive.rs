//! Archives of mongodump: whole input and pieces give the same answer, and no description of a
//! collection makes its reader panic.
#![no_main]

use dumpers::mongodb::archive::{ArchiveContents, ArchiveError, ArchiveParser, Metadata};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let whole = read(bytes, bytes.len().max(1)).ok();
    assert_eq!(whole, read(bytes, 1).ok());
    assert_eq!(whole, read(bytes, 13).ok());
    for entry in whole.iter().flat_map(|whole| &whole.prelude.entries) {
        if let Ok(metadata) = Metadata::from_text(&entry.metadata) {
            let _ = metadata.to_text();
        }
    }
});

fn read(bytes: &[u8], piece: usize) -> Result<ArchiveContents, ArchiveError> {
    let mut parser = ArchiveParser::new();
    for piece in bytes.chunks(piece) {
        parser.push(piece);
        while parser.next_item()?.is_some() {}
    }
    parser.finish()
}
