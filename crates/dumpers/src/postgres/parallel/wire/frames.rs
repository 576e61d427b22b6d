//! Messages of the server, as bytes: a letter, a length, the rest (PostgreSQL manual, 55.7).

use super::super::super::error::PostgresError;

/// Letter and length.
pub(super) const HEAD_LEN: usize = 5;
/// The longest message that is held as a whole. Rows are not: they are passed on as they come.
const MESSAGE_MAX: usize = 1024 * 1024;

/// What came of some bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unframed {
    /// So many bytes of rows are at the front now.
    pub(super) rows: usize,
    /// Here begins what is no row, or not enough of a message to tell.
    pub(super) rest: usize,
}

/// Moves the rows of CopyData messages to the front, as far as there are such messages. `left` is what
/// is still to come of a message that has begun.
///
/// # Errors
/// `Answer` for a length that none can have.
pub(super) fn unframe(bytes: &mut [u8], left: &mut usize) -> Result<Unframed, PostgresError> {
    let (mut to, mut at) = (0, 0);
    loop {
        let take = (*left).min(bytes.len() - at);
        if take > 0 {
            if to != at {
                bytes.copy_within(at..at + take, to);
            }
            to += take;
            at += take;
            *left -= take;
        }
        match bytes[at..] {
            [b'd', a, b, c, d, ..] if *left == 0 => *left = payload([a, b, c, d])?,
            _ => return Ok(Unframed { rows: to, rest: at }),
        }
        at += HEAD_LEN;
    }
}

/// The first message: its letter and its length with its head, once all of it is there.
///
/// # Errors
/// `Answer` for a length that none can have.
pub(super) fn whole(bytes: &[u8]) -> Result<Option<(u8, usize)>, PostgresError> {
    let [kind, a, b, c, d, ..] = *bytes else { return Ok(None) };
    let len = payload([a, b, c, d])?;
    if len > MESSAGE_MAX {
        return Err(wrong(format!("a message {:?} of {len} bytes", char::from(kind))));
    }
    Ok((bytes.len() >= HEAD_LEN + len).then_some((kind, HEAD_LEN + len)))
}

fn payload(len: [u8; 4]) -> Result<usize, PostgresError> {
    // The length counts itself.
    let len = u32::from_be_bytes(len) as usize;
    len.checked_sub(4).ok_or_else(|| wrong("a message shorter than its length".to_owned()))
}

pub(super) fn wrong(what: String) -> PostgresError {
    PostgresError::Answer(what)
}

/// The error of an ErrorResponse, by its words as the client programs write them, and else by its code.
pub(super) fn refused(body: &[u8]) -> PostgresError {
    let (mut severity, mut code, mut message) = Default::default();
    for field in body.split(|&byte| byte == 0) {
        let Some((kind, text)) = field.split_first() else { continue };
        let text = String::from_utf8_lossy(text).into_owned();
        match kind {
            b'S' => severity = text,
            b'C' => code = text,
            b'M' => message = text,
            _ => {}
        }
    }
    PostgresError::of_server(&code, format!("{severity}:  {message}"))
}

/// The first column of a DataRow.
pub(super) fn first_column(body: &[u8]) -> Result<&[u8], PostgresError> {
    let column = || {
        let len = body.get(2..6)?.try_into().ok()?;
        body.get(6..)?.get(..u32::from_be_bytes(len) as usize)
    };
    column().ok_or_else(|| wrong("a row without a value".to_owned()))
}

/// The rows of `COPY 123`, the tag of a CommandComplete.
pub(super) fn copied(body: &[u8]) -> Result<u64, PostgresError> {
    let text = std::str::from_utf8(body.strip_suffix(&[0]).unwrap_or(body)).unwrap_or_default();
    let count = text.strip_prefix("COPY ").and_then(|count| count.parse().ok());
    count.ok_or_else(|| wrong(format!("COPY ended with {text:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let len = u32::try_from(body.len() + 4).unwrap();
        [&[kind], &len.to_be_bytes()[..], body].concat()
    }

    #[test]
    fn rows_are_the_same_however_the_messages_are_cut() {
        let rows = [&b"1\tx\n"[..], b"", b"\n", &[b'y'; 300], b"\n", b"d\0\0\0\x04\n"];
        let mut sent: Vec<u8> = rows.iter().flat_map(|row| message(b'd', row)).collect();
        let end = message(b'c', b"");
        sent.extend_from_slice(&end);
        for size in 1..sent.len() {
            let (mut left, mut held, mut found) = (0, Vec::new(), Vec::new());
            for piece in sent.chunks(size) {
                held.extend_from_slice(piece);
                let Unframed { rows, rest } = unframe(&mut held, &mut left).unwrap();
                found.extend_from_slice(&held[..rows]);
                held.drain(..rest);
            }
            assert_eq!(found, rows.concat(), "in pieces of {size}");
            assert_eq!((left, &held), (0, &end));
            assert_eq!(whole(&held).unwrap(), Some((b'c', 5)));
        }
    }

    #[test]
    fn lengths_that_none_can_have_are_errors() {
        assert!(unframe(&mut [b'd', 0, 0, 0, 3, 0], &mut 0).is_err());
        assert!(whole(&[b'C', 0, 0, 0, 3]).is_err());
        assert!(whole(&[b'C', 0x7f, 0, 0, 0]).is_err());
        assert_eq!(whole(b"C\0\0\0").unwrap(), None);
        assert_eq!(whole(b"C\0\0\0\x05").unwrap(), None);
    }

    #[test]
    fn tags_values_and_errors_are_read() {
        assert_eq!(copied(b"COPY 17\0").unwrap(), 17);
        for bad in [&b"COPY\0"[..], b"SELECT 1\0", b"COPY -1\0", b"COPY 1 2\0", b""] {
            assert!(copied(bad).is_err());
        }
        assert_eq!(first_column(b"\0\x01\0\0\0\x02ab").unwrap(), b"ab");
        for bad in [&b"\0\x01\xff\xff\xff\xff"[..], b"\0\0", b"", b"\0\x01\0\0\0\x03ab"] {
            assert!(first_column(bad).is_err());
        }
        let error = refused(b"SFATAL\0VFATAL\0C28P01\0Mpassword authentication failed for user \"x\"\0\0");
        assert!(matches!(error, PostgresError::Credentials(_)), "{error}");
        let error = refused(b"SFEHLER\0C42501\0Mkeine Berechtigung\0\0");
        assert!(matches!(error, PostgresError::Permission(_)), "{error}");
        let error = refused(b"SERROR\0C22012\0Mdivision by zero\0\0");
        assert_eq!(error.to_string(), "the server says: ERROR:  division by zero");
        assert!(matches!(refused(b""), PostgresError::Server { .. }));
    }
}
