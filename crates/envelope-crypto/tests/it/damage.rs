//! Damage without a key: every bit, every length, every rearrangement.

use std::ops::Range;

use backup_core::Expected;
use envelope_crypto::{HeaderProblem, OpenError};

use crate::fixture::*;

/// Where the parts of a file stand.
struct Map {
    header: Range<usize>,
    mac: Range<usize>,
    blocks: Vec<Range<usize>>,
    trailer: Range<usize>,
    footer: Range<usize>,
}

fn map(file: &[u8]) -> Map {
    let number = |at: usize| u32::from_be_bytes(file[at..at + 4].try_into().unwrap());
    let header = 14..14 + number(10) as usize;
    let mac = header.end..header.end + 32;
    let (mut at, mut blocks) = (mac.end, Vec::new());
    loop {
        let end = at + 4 + (number(at) & !(1 << 31)) as usize;
        if number(at) >> 31 == 1 {
            return Map { header, mac, blocks, trailer: at..end, footer: end..file.len() };
        }
        blocks.push(at..end);
        at = end;
    }
}

/// A small file of three blocks: what compresses to nothing keeps it short.
fn small() -> (Pair, Vec<u8>, Vec<u8>) {
    let key = secret_key();
    let plain = vec![b'a'; 2 * BLOCK + 100];
    let (file, _) = seal(&[&key], &options(1), &plain);
    (key, plain, file)
}

fn readers(key: &Pair, file: &[u8]) -> [(&'static str, Outcome); 2] {
    let ids = &key.identities;
    [
        ("whole", open_sync(ids, Expected::default(), file)),
        ("range", open_as_range(ids, Expected::default(), file)),
    ]
}

#[test]
fn every_flipped_bit_is_refused_with_its_class() {
    let (key, plain, file) = small();
    let map = map(&file);
    for at in 0..file.len() {
        // Which blocks may be released: those before the damage. A reader of ranges checks the end
        // first, and then the same.
        let good = map.blocks.iter().filter(|block| block.end <= at).count() * BLOCK;
        for bit in 0..8 {
            let mut bad = file.clone();
            bad[at] ^= 1 << bit;
            for (reader, (released, result)) in readers(&key, &bad) {
                let error = result.expect_err("a flipped bit");
                let what = format!("byte {at} bit {bit}, {reader}: {error:?}");
                assert!(plain.starts_with(&released), "{what}");
                assert!(released.len() <= good, "{what}");
                use OpenError::*;
                let fits = match at {
                    0..8 => error == NotEnvelope,
                    8..10 => matches!(error, UnsupportedVersion(_)),
                    10..14 => matches!(error, HeaderMalformed(_) | Truncated | NotAuthentic),
                    _ if map.header.contains(&at) => {
                        matches!(error, HeaderMalformed(_) | NotAuthentic | NoRecipient)
                    }
                    _ if map.mac.contains(&at) => error == NotAuthentic,
                    _ if map.trailer.contains(&at) => matches!(error, Trailer | Truncated | Block(_)),
                    _ if map.footer.contains(&at) => matches!(error, Trailer | Truncated),
                    _ => {
                        let (index, block) =
                            map.blocks.iter().enumerate().find(|(_, block)| block.contains(&at)).unwrap();
                        // A length that was made longer may swallow the rest of the file.
                        let in_len = at < block.start + 4;
                        error == Block(index as u64) || in_len && matches!(error, Truncated | Trailer)
                    }
                };
                assert!(fits, "{what}");
            }
        }
    }
}

#[test]
fn every_prefix_is_refused_as_cut_off() {
    let (key, plain, file) = small();
    let map = map(&file);
    for len in 0..file.len() {
        let good = map.blocks.iter().filter(|block| block.end <= len).count() * BLOCK;
        for (reader, (released, result)) in readers(&key, &file[..len]) {
            let expected = if len < 8 { OpenError::NotEnvelope } else { OpenError::Truncated };
            assert_eq!(result, Err(expected), "{len} bytes, {reader}");
            assert!(plain.starts_with(&released) && released.len() <= good, "{len} bytes, {reader}");
        }
    }
}

#[tokio::test]
async fn the_parallel_reader_gives_the_same_answer_as_the_plain_one() {
    let (key, _, file) = small();
    for at in (0..file.len()).step_by(3) {
        let mut bad = file.clone();
        bad[at] ^= 0x10;
        for bad in [&bad[..], &file[..at]] {
            let plain = open_sync(&key.identities, Expected::default(), bad);
            let parallel = open_stream(&key.identities, 2, Expected::default(), bad).await;
            assert_eq!(parallel, plain, "byte {at}");
        }
    }
}

#[test]
fn rearranged_and_spliced_files_are_refused() {
    let key = secret_key();
    let plain = noise(3 * BLOCK);
    let (file, _) = seal(&[&key], &options(1), &plain);
    let (other, _) = seal(&[&key], &options(1), &plain);
    let (m, o) = (map(&file), map(&other));
    // Equal key ids and lengths, so the parts of one fit into the other.
    assert_eq!((m.mac.end, m.trailer.start), (o.mac.end, o.trailer.start));
    let [a, b, c] = [0, 1, 2].map(|i| &file[m.blocks[i].clone()]);
    let (head, end) = (&file[..m.mac.end], &file[m.trailer.start..]);
    let (other_head, other_end) = (&other[..o.mac.end], &other[o.trailer.start..]);
    let other_b = &other[o.blocks[1].clone()];
    let short_end = |drop: usize| {
        let mut end = end.to_vec();
        let at = end.len() - 20;
        let offset = (m.trailer.start - drop * b.len()) as u64;
        end[at..at + 8].copy_from_slice(&offset.to_be_bytes());
        end[at + 8..at + 16].copy_from_slice(&(3 - drop as u64).to_be_bytes());
        end
    };
    use OpenError::*;
    let table: [(&str, Vec<u8>, OpenError, OpenError); 10] = [
        ("swapped", [head, b, a, c, end].concat(), Block(0), Block(0)),
        ("repeated", [head, a, a, c, end].concat(), Block(1), Block(1)),
        ("inserted", [head, a, b, b, c, end].concat(), Block(2), Trailer),
        ("dropped", [head, a, b, end].concat(), Trailer, Trailer),
        ("dropped, with a footer to fit", [head, a, b, &short_end(1)].concat(), Trailer, Trailer),
        ("spliced block", [head, a, other_b, c, end].concat(), Block(1), Block(1)),
        ("spliced end", [head, a, b, c, other_end].concat(), Trailer, Trailer),
        ("another file's header", [other_head, a, b, c, end].concat(), Block(0), Trailer),
        ("appended", [&file[..], b"\n"].concat(), TrailingBytes, Truncated),
        ("two files", [&file[..], &other[..]].concat(), TrailingBytes, Trailer),
    ];
    for (what, bad, whole, range) in table {
        let (released, result) = open_sync(&key.identities, Expected::default(), &bad);
        assert_eq!(result, Err(whole), "{what}");
        assert!(plain.starts_with(&released), "{what}");
        let (released, result) = open_as_range(&key.identities, Expected::default(), &bad);
        assert_eq!((released.len() % BLOCK, result), (0, Err(range)), "{what}");
    }
}

#[test]
fn what_is_no_envelope_is_said_to_be_none() {
    for bytes in [&b""[..], b"S", b"PGDMP\x01\x0e\x00", b"STRONGROOM is not the mark", &[0; 5000]] {
        for (_, outcome) in readers(&secret_key(), bytes) {
            assert_eq!(outcome, (vec![], Err(OpenError::NotEnvelope)));
        }
    }
}

#[test]
fn a_header_over_the_limit_is_refused_before_it_is_read() {
    for len in [(1_u32 << 20) + 1, u32::MAX] {
        let bytes = [&b"STRONGRM\x00\x01"[..], &len.to_be_bytes()].concat();
        for (_, outcome) in readers(&secret_key(), &bytes) {
            assert_eq!(outcome, (vec![], Err(OpenError::HeaderMalformed(HeaderProblem::TooLong))));
        }
    }
    let bytes =
        [&b"STRONGRM\x00\x01"[..], &(1_u32 << 20).to_be_bytes(), &vec![b' '; 1 << 20], &[0; 32]].concat();
    for (_, (_, result)) in readers(&secret_key(), &bytes) {
        assert!(matches!(result, Err(OpenError::HeaderMalformed(HeaderProblem::Json(_)))));
    }
}
