//! Files by an author who has the keys and keeps no rule: authenticated, and still not to be
//! believed. The first byte says which part is hostile; the others are that part's plaintext.
#![no_main]

use backup_core::Expected;
use libfuzzer_sys::fuzz_target;
use strongroom_fuzz::{Author, BLOCK_LEN, expected, open, open_range, read_all};

fuzz_target!(|bytes: &[u8]| {
    let Some((choice, plain)) = bytes.split_first() else { return };
    let full = vec![b'x'; BLOCK_LEN];
    let blocks = usize::from(choice >> 1 & 3);
    let author = || {
        let mut author = Author::new();
        (0..blocks).for_each(|_| author.compressed(&full));
        author
    };
    match choice & 1 {
        0 => block(author, &full.repeat(blocks), plain),
        _ => trailer(author(), &full.repeat(blocks), plain),
    }
});

/// A hostile last block, then an honest end for whatever the reader made of it.
fn block(author: impl Fn() -> Author, before: &[u8], plain: &[u8]) {
    let file = |source: &[u8]| {
        let mut author = author();
        author.block(plain);
        author.finish(source)
    };
    let (released, _) = open(&file(before), 999, Expected::default());
    assert!(released.starts_with(before), "good blocks were refused");
    let body = released.len() - before.len();
    assert!(body <= BLOCK_LEN);

    let file = file(&released);
    let (again, end) = open(&file, 5000, Expected::default());
    assert_eq!(again, released);
    // Released is whole, and whole is released.
    assert_eq!(end.is_ok(), body > 0, "{end:?}");
    let (pinned, end_pinned) = open(&file, 5000, expected(&file));
    assert_eq!((pinned == again, end_pinned), (true, end.clone()));
    if end.is_ok() {
        let reader = open_range(&file, Expected::default()).expect("a whole file");
        assert_eq!(read_all(&file, &reader), Ok(released));
    }
}

/// A hostile trailer behind good blocks.
fn trailer(author: Author, source: &[u8], plain: &[u8]) {
    let file = author.finish_with(plain);
    let (released, end) = open(&file, 999, Expected::default());
    assert_eq!(released, source);
    let ranges = open_range(&file, Expected::default()).and_then(|reader| read_all(&file, &reader));
    if let Ok(facts) = end {
        assert_eq!(facts.source_len, source.len() as u64);
        assert_eq!(ranges.as_deref(), Ok(source));
    }
    if let Ok(ranges) = ranges {
        assert_eq!(ranges, source);
    }
}
