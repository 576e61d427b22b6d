//! Heads from whole input and from pieces: the same answer, and never more than a head is taken.
#![no_main]

use envelope_crypto::format::{Head, HeadReader, Header};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = Header::parse(bytes);
    let whole = Head::parse(bytes);

    let mut reader = HeadReader::default();
    let mut rest = bytes;
    let mut pieced = None;
    let mut error = None;
    for piece in bytes.chunks(7) {
        let mut input = piece;
        match reader.feed(&mut input) {
            Ok(Some(head)) => pieced = Some(head),
            Ok(None) => assert!(input.is_empty(), "bytes were left although more are needed"),
            Err(e) => error = Some(e),
        }
        rest = &rest[piece.len() - input.len()..];
        if pieced.is_some() || error.is_some() {
            break;
        }
    }
    match (whole, pieced, error) {
        (Ok(whole), Some(pieced), None) => {
            assert_eq!(whole, pieced);
            assert!(rest.is_empty());
            assert_eq!(whole.bytes(), bytes);
        }
        // A head, and bytes behind it.
        (Err(_), Some(pieced), None) => assert_eq!(Head::parse(pieced.bytes()).as_ref(), Ok(&pieced)),
        (Err(whole), None, Some(pieced)) => assert_eq!(whole, pieced),
        (Err(_), None, None) => {}
        other => panic!("whole and pieces disagree: {other:?}"),
    }
});
