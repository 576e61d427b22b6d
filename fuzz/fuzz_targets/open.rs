//! Bytes that nobody sealed: as a whole file, and behind a valid head. Nothing is released, and the
//! size of the input decides how much work it is.
#![no_main]

use backup_core::Expected;
use libfuzzer_sys::fuzz_target;
use strongroom_fuzz::{Author, open, open_range};

fuzz_target!(|bytes: &[u8]| {
    // The corpus holds whole files, which are opened.
    let (_, whole) = open(bytes, 4096, Expected::default());
    let ranges = open_range(bytes, Expected::default());
    assert!(whole.is_err() || ranges.is_ok(), "one pass reads what ranges refuse");

    let mut file = Author::new().into_unfinished();
    file.extend_from_slice(bytes);
    let (released, end) = open(&file, 1000, Expected::default());
    let ranges = open_range(&file, Expected::default());
    // Some inputs may have been sealed by the author of the corpus for this very place.
    assert!(end.is_err() || ranges.is_ok(), "one pass reads what ranges refuse");
    assert!(released.len() <= bytes.len() * 20_000);
});
