//! A good file, changed in places: whatever is read of it is what was sealed, in one pass and by
//! ranges, and a changed file never ends well.
#![no_main]

use std::sync::LazyLock;

use arbitrary::Arbitrary;
use backup_core::Expected;
use libfuzzer_sys::fuzz_target;
use strongroom_fuzz::{Author, BLOCK_LEN, expected, open, open_range};

#[derive(Debug, Arbitrary)]
enum Change {
    Xor { at: u16, with: u8 },
    Cut { len: u16 },
    Append { bytes: Vec<u8> },
    Remove { at: u16, len: u16 },
    Repeat { at: u16, len: u16, to: u16 },
    Swap { a: u16, b: u16, len: u16 },
}

static SOURCE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let row = |i: usize| format!("{i}\t{}\tsome words of a row\n", i * 7919 % 1000).into_bytes();
    let mut source: Vec<u8> = (0..).flat_map(row).take(2 * BLOCK_LEN).collect();
    source.extend_from_slice(b"a short last block");
    source
});

static FILE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut author = Author::new();
    author.compressed(&SOURCE[..BLOCK_LEN]);
    author.compressed(&SOURCE[BLOCK_LEN..2 * BLOCK_LEN]);
    author.stored(&SOURCE[2 * BLOCK_LEN..]);
    author.finish(&SOURCE)
});

fuzz_target!(|input: (Vec<Change>, u16)| {
    let (changes, piece) = input;
    let mut file = FILE.clone();
    changes.into_iter().take(8).for_each(|change| apply(&mut file, change));
    let changed = file != *FILE;

    for expected in [Expected::default(), expected(&FILE)] {
        let (released, end) = open(&file, usize::from(piece).max(64), expected.clone());
        assert!(SOURCE.starts_with(&released), "released what was never sealed");
        assert_eq!(end.is_err(), changed, "{end:?}");

        let Ok(reader) = open_range(&file, expected) else {
            assert!(changed);
            continue;
        };
        for index in reader.blocks(0..u64::MAX) {
            let place = reader.frame(index).expect("a block that it named");
            let Some(frame) = file.get(place.start as usize..place.end as usize) else { continue };
            if let Ok(plain) = reader.open(index, frame) {
                let at = index as usize * BLOCK_LEN;
                assert_eq!(plain, SOURCE[at..SOURCE.len().min(at + BLOCK_LEN)]);
            } else {
                assert!(changed);
            }
        }
    }
});

fn apply(file: &mut Vec<u8>, change: Change) {
    let len = file.len();
    if len == 0 {
        return;
    }
    let place = |at: u16| usize::from(at) % len;
    let span = |at: u16, length: u16| place(at)..(place(at) + usize::from(length)).min(len);
    match change {
        Change::Xor { at, with } => file[place(at)] ^= with,
        Change::Cut { len } => file.truncate(usize::from(len)),
        Change::Append { bytes } => file.extend_from_slice(&bytes),
        Change::Remove { at, len } => drop(file.drain(span(at, len))),
        Change::Repeat { at, len, to } => {
            let copy = file[span(at, len)].to_vec();
            let to = place(to);
            file.splice(to..to, copy);
        }
        Change::Swap { a, b, len: length } => {
            let (a, b) = (span(a, length), span(b, length));
            let length = a.len().min(b.len());
            let (first, second) =
                (file[a.start..a.start + length].to_vec(), file[b.start..b.start + length].to_vec());
            file[a.start..a.start + length].copy_from_slice(&second);
            file[b.start..b.start + length].copy_from_slice(&first);
        }
    }
}
