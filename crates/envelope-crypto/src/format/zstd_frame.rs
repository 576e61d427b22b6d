//! Looks at a zstd frame before it is decoded (RFC 8878, section 3.1.1).

/// Whether `body` begins with one frame that decodes to `content_len` bytes, says so, needs no
/// dictionary and no window larger than `window_max`. Says nothing about what follows the header.
pub(crate) fn declares(body: &[u8], content_len: usize, window_max: usize) -> bool {
    Header::parse(body).is_some_and(|header| {
        header.content_len == content_len as u64 && header.window <= window_max as u64 && !header.dictionary
    })
}

/// The content length that the frame declares, when it declares one.
pub(crate) fn content_len(body: &[u8]) -> Option<u64> {
    Header::parse(body).map(|header| header.content_len)
}

struct Header {
    content_len: u64,
    window: u64,
    dictionary: bool,
}

impl Header {
    fn parse(body: &[u8]) -> Option<Self> {
        let rest = body.strip_prefix(&0xFD2F_B528_u32.to_le_bytes())?;
        let (&descriptor, rest) = rest.split_first()?;
        // Bit 3 is reserved, bit 4 is to be ignored.
        if descriptor & 0b1000 != 0 {
            return None;
        }
        let single_segment = descriptor & 0b10_0000 != 0;
        let (window, rest) = if single_segment {
            (None, rest)
        } else {
            let (&byte, rest) = rest.split_first()?;
            let base = 1_u64 << (10 + (byte >> 3));
            (Some(base + base / 8 * u64::from(byte & 7)), rest)
        };
        let (id, rest) = rest.split_at_checked([0, 1, 2, 4][usize::from(descriptor & 3)])?;
        let size_len = match descriptor >> 6 {
            0 => usize::from(single_segment),
            1 => 2,
            2 => 4,
            _ => 8,
        };
        let size = rest.get(..size_len)?;
        if size.is_empty() {
            return None;
        }
        let value = size.iter().rev().fold(0_u64, |value, byte| value << 8 | u64::from(*byte));
        let content_len = value.checked_add(if size_len == 2 { 256 } else { 0 })?;
        // A frame of 0 for an id has none (section 3.1.1.1.3).
        let dictionary = id.iter().any(|byte| *byte != 0);
        Some(Self { content_len, window: window.unwrap_or(content_len), dictionary })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_library_writes_is_read_back() {
        for len in [1, 255, 256, 257, 65_535, 65_536, 65_791, 65_792, 1 << 20] {
            for level in [1, 3, 19] {
                let plain: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
                let frame = zstd::bulk::compress(&plain, level).unwrap();
                assert_eq!(content_len(&frame), Some(len as u64), "{len} at {level}");
                assert!(declares(&frame, len, len.max(1 << 16)));
                assert!(!declares(&frame, len + 1, 1 << 24));
            }
        }
    }

    #[test]
    fn odd_headers_are_refused() {
        let magic = [0x28, 0xB5, 0x2F, 0xFD];
        let with = |rest: &[u8]| [&magic, rest].concat();
        assert!(declares(&with(&[0x20, 7]), 7, 1 << 16));
        assert!(!declares(&with(&[0x28, 7]), 7, 1 << 16), "reserved bit");
        assert!(!declares(&with(&[0x21, 9, 7]), 7, 1 << 16), "dictionary");
        assert!(!declares(&with(&[0x00, 0x00]), 0, 1 << 16), "no content size");
        assert!(!declares(&with(&[0x80, 0xF8, 7, 0, 0, 0]), 7, 1 << 24), "window of 2^41");
        assert!(!declares(&[0x50, 0x2A, 0x4D, 0x18, 0, 0, 0, 0], 0, 1 << 16), "skippable");
        for len in 0..6 {
            assert!(!declares(&with(&[0x20, 7])[..len], 7, 1 << 16));
        }
    }
}
