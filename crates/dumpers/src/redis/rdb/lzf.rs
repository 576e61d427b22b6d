//! LZF as Redis compresses strings with it: literal runs and back references.

/// The `len` bytes that `packed` stands for; `None` where it stands for something else.
pub(crate) fn unpack(packed: &[u8], len: usize) -> Option<Vec<u8>> {
    // Memory grows with what is really there: a packed byte makes at most 88.
    let mut out = Vec::with_capacity(len.min(packed.len().saturating_mul(88)));
    let mut rest = packed.iter();
    while let Some(&control) = rest.next() {
        if control < 32 {
            let run = usize::from(control) + 1;
            let (literal, after) = rest.as_slice().split_at_checked(run)?;
            out.extend_from_slice(literal);
            rest = after.iter();
        } else {
            let mut run = usize::from(control >> 5);
            if run == 7 {
                run += usize::from(*rest.next()?);
            }
            let back = (usize::from(control & 31) << 8 | usize::from(*rest.next()?)) + 1;
            let from = out.len().checked_sub(back)?;
            // Byte by byte: a reference may reach into what it makes itself.
            for at in from..from + run + 2 {
                out.push(out[at]);
            }
        }
        if out.len() > len {
            return None;
        }
    }
    (out.len() == len).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::unpack;

    #[test]
    fn literals_and_references_are_unpacked() {
        assert_eq!(unpack(&[2, b'a', b'b', b'c'], 3).unwrap(), b"abc");
        // "a", then nine bytes from one byte back.
        assert_eq!(unpack(&[0, b'a', 7 << 5, 0, 0], 10).unwrap(), [b'a'; 10]);
        assert_eq!(unpack(&[1, b'a', b'b', 1 << 5, 1], 5).unwrap(), b"ababa");
        for (bad, len) in [(&[2, b'a'][..], 3), (&[0, b'a', 1 << 5, 9], 4), (&[0, b'a'], 2), (&[1 << 5], 3)] {
            assert_eq!(unpack(bad, len), None, "{bad:?}");
        }
    }
}
