//! Listpacks: the nodes of which long lists are made
//! (<https://github.com/antirez/listpack/blob/master/listpack.md>).

/// The elements, in order, numbers as their text; `None` where the bytes are no listpack.
pub(super) fn elements(pack: &[u8]) -> Option<Vec<Vec<u8>>> {
    let total = u32::from_le_bytes(*pack.first_chunk()?);
    if usize::try_from(total).ok()? != pack.len() {
        return None;
    }
    let mut rest = pack.get(6..)?;
    let mut found = Vec::new();
    loop {
        let (&first, after) = rest.split_first()?;
        if first == 0xff {
            return after.is_empty().then_some(found);
        }
        let (element, len) = element(first, after)?;
        found.push(element);
        // Each element is followed by its own length, to be read backwards.
        rest = rest.get(len + back_len(len)..)?;
    }
}

/// An element by its first byte and what follows, and how many bytes it takes with the first.
fn element(first: u8, after: &[u8]) -> Option<(Vec<u8>, usize)> {
    let text = |head: usize, len: usize| {
        // `after` begins behind the first byte.
        let bytes = after.get(head - 1..)?.get(..len)?;
        Some((bytes.to_vec(), head + len))
    };
    let number = |width: usize| {
        let bytes = after.get(..width)?;
        let negative = bytes.last()? & 0x80 != 0;
        let mut wide = [if negative { 0xff } else { 0 }; 8];
        wide[..width].copy_from_slice(bytes);
        Some((i64::from_le_bytes(wide).to_string().into_bytes(), width + 1))
    };
    match first {
        0..=0x7f => Some((first.to_string().into_bytes(), 1)),
        0x80..=0xbf => text(1, usize::from(first & 0x3f)),
        0xc0..=0xdf => {
            let bits = i32::from(first & 0x1f) << 8 | i32::from(*after.first()?);
            let value = if bits >= 1 << 12 { bits - (1 << 13) } else { bits };
            Some((value.to_string().into_bytes(), 2))
        }
        0xe0..=0xef => text(2, usize::from(first & 0x0f) << 8 | usize::from(*after.first()?)),
        0xf0 => text(5, usize::try_from(u32::from_le_bytes(*after.first_chunk()?)).ok()?),
        0xf1 => number(2),
        0xf2 => number(3),
        0xf3 => number(4),
        0xf4 => number(8),
        _ => None,
    }
}

/// How many bytes the length of an element takes.
const fn back_len(len: usize) -> usize {
    match len {
        0..=127 => 1,
        128..16_383 => 2,
        16_383..2_097_151 => 3,
        2_097_151..268_435_455 => 4,
        _ => 5,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pack(elements: &[(&[u8], usize)]) -> Vec<u8> {
        let mut body = Vec::new();
        for (element, back) in elements {
            body.extend_from_slice(element);
            body.extend_from_slice(&vec![1; *back]);
        }
        body.push(0xff);
        let total = u32::try_from(body.len() + 6).unwrap();
        [&total.to_le_bytes()[..], &[elements.len() as u8, 0], &body].concat()
    }

    #[test]
    fn every_form_of_an_element_is_read() {
        let long = [&[0xe1, 0x2c][..], &[b'x'; 300]].concat();
        let longest = [&[0xf0, 0x88, 0x13, 0, 0][..], &[b'y'; 5000]].concat();
        let whole = pack(&[
            (&[7], 1),
            (&[0x82, b'a', b'b'], 1),
            (&[0xc0, 200], 1),
            (&[0xdf, 0xff], 1),
            (&long, 2),
            (&longest, 2),
            (&[0xf1, 0xd4, 0xfe], 1),
            (&[0xf2, 0, 0, 1], 1),
            (&[0xf3, 0xff, 0xff, 0xff, 0xff], 1),
            (&[0xf4, 0, 0, 0, 0, 1, 0, 0, 0], 1),
            (&[0x80], 1),
        ]);
        let found = elements(&whole).unwrap();
        let texts = [
            "7",
            "ab",
            "200",
            "-1",
            &"x".repeat(300),
            &"y".repeat(5000),
            "-300",
            "65536",
            "-1",
            "4294967296",
            "",
        ];
        assert_eq!(found, texts.map(|text| text.as_bytes().to_vec()));
        for cut in 0..whole.len() {
            assert_eq!(elements(&whole[..cut]), None, "{cut}");
        }
        assert_eq!(elements(&pack(&[(&[0xf5], 1)])), None);
    }
}
