//! Packets of SFTP version 3 (draft-ietf-secsh-filexfer-02), the version that servers speak.
//!
//! Everything a server sends is parsed with bounds, and nothing of it is trusted.

use bytes::{Buf as _, Bytes};

/// The version we speak.
pub(super) const VERSION: u32 = 3;
/// The longest packet taken from a server, in bytes. Requests are made so that none needs more.
pub(super) const PACKET_LEN_MAX: usize = 1 << 20;

/// Kinds of packets.
pub(super) mod kind {
    pub(crate) const INIT: u8 = 1;
    pub(crate) const VERSION: u8 = 2;
    pub(crate) const OPEN: u8 = 3;
    pub(crate) const CLOSE: u8 = 4;
    pub(crate) const READ: u8 = 5;
    pub(crate) const WRITE: u8 = 6;
    pub(crate) const LSTAT: u8 = 7;
    pub(crate) const FSTAT: u8 = 8;
    pub(crate) const OPENDIR: u8 = 11;
    pub(crate) const READDIR: u8 = 12;
    pub(crate) const REMOVE: u8 = 13;
    pub(crate) const MKDIR: u8 = 14;
    pub(crate) const RMDIR: u8 = 15;
    pub(crate) const STAT: u8 = 17;
    pub(crate) const RENAME: u8 = 18;
    pub(crate) const STATUS: u8 = 101;
    pub(crate) const HANDLE: u8 = 102;
    pub(crate) const DATA: u8 = 103;
    pub(crate) const NAME: u8 = 104;
    pub(crate) const ATTRS: u8 = 105;
    pub(crate) const EXTENDED: u8 = 200;
    pub(crate) const EXTENDED_REPLY: u8 = 201;
}

/// Codes of a status.
pub(super) mod status {
    pub(crate) const OK: u32 = 0;
    pub(crate) const EOF: u32 = 1;
    pub(crate) const NO_SUCH_FILE: u32 = 2;
    pub(crate) const PERMISSION_DENIED: u32 = 3;
    pub(crate) const FAILURE: u32 = 4;
    pub(crate) const OP_UNSUPPORTED: u32 = 8;
}

/// How files are opened.
pub(super) mod open {
    pub(crate) const READ: u32 = 0x01;
    pub(crate) const WRITE: u32 = 0x02;
    pub(crate) const CREATE: u32 = 0x08;
    pub(crate) const EXCLUSIVE: u32 = 0x20;
}

const ATTR_SIZE: u32 = 0x1;
const ATTR_OWNER: u32 = 0x2;
const ATTR_PERMISSIONS: u32 = 0x4;
const ATTR_TIMES: u32 = 0x8;
const ATTR_EXTENDED: u32 = 0x8000_0000;

/// The bits of a mode that say what a name stands for.
const TYPE_MASK: u32 = 0o170_000;
const TYPE_FOLDER: u32 = 0o040_000;
const TYPE_FILE: u32 = 0o100_000;

/// What a server sent is no packet of this protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

/// A request: its head, and what follows it without being copied.
#[derive(Debug, Clone)]
pub(super) struct Request {
    /// Four bytes for the length, the kind, four bytes for the id, the fields.
    head: Vec<u8>,
    payload: Bytes,
}

impl Request {
    pub(super) fn new(kind: u8) -> Self {
        Self { head: vec![0, 0, 0, 0, kind, 0, 0, 0, 0], payload: Bytes::new() }
    }

    pub(super) fn extended(name: &str) -> Self {
        Self::new(kind::EXTENDED).text(name.as_bytes())
    }

    pub(super) fn u32(mut self, value: u32) -> Self {
        self.head.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub(super) fn u64(mut self, value: u64) -> Self {
        self.head.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub(super) fn text(self, bytes: &[u8]) -> Self {
        // Paths and handles; nothing near 4 GiB.
        let mut request = self.u32(bytes.len() as u32);
        request.head.extend_from_slice(bytes);
        request
    }

    /// Attributes that hold nothing but a mode.
    pub(super) fn mode(self, mode: u32) -> Self {
        self.u32(ATTR_PERMISSIONS).u32(mode)
    }

    /// No attributes.
    pub(super) fn no_attributes(self) -> Self {
        self.u32(0)
    }

    /// The last field, which is not copied.
    pub(super) fn data(self, bytes: Bytes) -> Self {
        let mut request = self.u32(bytes.len() as u32);
        request.payload = bytes;
        request
    }

    /// The packet's two halves, under this id.
    pub(super) fn packet(mut self, id: u32) -> (Vec<u8>, Bytes) {
        let len = (self.head.len() - 4 + self.payload.len()) as u32;
        self.head[..4].copy_from_slice(&len.to_be_bytes());
        self.head[5..9].copy_from_slice(&id.to_be_bytes());
        (self.head, self.payload)
    }

    /// The first packet of a session, which has no id.
    pub(super) fn init() -> Vec<u8> {
        let mut packet = vec![0, 0, 0, 5, kind::INIT];
        packet.extend_from_slice(&VERSION.to_be_bytes());
        packet
    }
}

/// What a server knows of a name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Attributes {
    pub(super) size: Option<u64>,
    pub(super) mode: Option<u32>,
    /// Seconds since 1970.
    pub(super) modified: Option<u32>,
}

impl Attributes {
    pub(super) fn is_folder(&self) -> bool {
        self.mode.is_some_and(|mode| mode & TYPE_MASK == TYPE_FOLDER)
    }

    pub(super) fn is_file(&self) -> bool {
        self.mode.is_some_and(|mode| mode & TYPE_MASK == TYPE_FILE)
    }

    fn read(from: &mut Bytes) -> Result<Self, Malformed> {
        let flags = u32_of(from)?;
        let mut found = Self::default();
        if flags & ATTR_SIZE != 0 {
            found.size = Some(u64_of(from)?);
        }
        if flags & ATTR_OWNER != 0 {
            u32_of(from)?;
            u32_of(from)?;
        }
        if flags & ATTR_PERMISSIONS != 0 {
            found.mode = Some(u32_of(from)?);
        }
        if flags & ATTR_TIMES != 0 {
            u32_of(from)?;
            found.modified = Some(u32_of(from)?);
        }
        if flags & ATTR_EXTENDED != 0 {
            for _ in 0..u32_of(from)? {
                text_of(from)?;
                text_of(from)?;
            }
        }
        Ok(found)
    }
}

/// What a server answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reply {
    Status { code: u32, said: String },
    Handle(Bytes),
    Data(Bytes),
    Names(Vec<(Bytes, Attributes)>),
    Attributes(Attributes),
    Extended(Bytes),
}

impl Reply {
    /// Reads a packet without its length: the id of the request, and the answer.
    pub(super) fn parse(mut packet: Bytes) -> Result<(u32, Self), Malformed> {
        let from = &mut packet;
        let kind = from.try_get_u8().map_err(|_| Malformed)?;
        let id = u32_of(from)?;
        let reply = match kind {
            kind::STATUS => {
                let code = u32_of(from)?;
                // Some servers leave the text out.
                let said = text_of(from).unwrap_or_default();
                Self::Status { code, said: readable(&said) }
            }
            kind::HANDLE => Self::Handle(text_of(from)?),
            kind::DATA => Self::Data(text_of(from)?),
            kind::NAME => {
                let count = u32_of(from)?;
                let mut names = Vec::new();
                for _ in 0..count {
                    let name = text_of(from)?;
                    // The line that `ls -l` would show.
                    text_of(from)?;
                    names.push((name, Attributes::read(from)?));
                }
                Self::Names(names)
            }
            kind::ATTRS => Self::Attributes(Attributes::read(from)?),
            kind::EXTENDED_REPLY => Self::Extended(packet),
            _ => return Err(Malformed),
        };
        Ok((id, reply))
    }
}

/// What a server says of itself: its version and its extensions with their versions.
pub(super) fn parse_version(mut packet: Bytes) -> Result<(u32, Vec<(String, String)>), Malformed> {
    let from = &mut packet;
    if from.try_get_u8() != Ok(kind::VERSION) {
        return Err(Malformed);
    }
    let version = u32_of(from)?;
    let mut extensions = Vec::new();
    while from.has_remaining() {
        extensions.push((readable(&text_of(from)?), readable(&text_of(from)?)));
    }
    Ok((version, extensions))
}

/// The numbers of an extended reply.
pub(super) fn numbers<const N: usize>(mut reply: Bytes) -> Result<[u64; N], Malformed> {
    let mut numbers = [0; N];
    for number in &mut numbers {
        *number = u64_of(&mut reply)?;
    }
    Ok(numbers)
}

fn u32_of(from: &mut Bytes) -> Result<u32, Malformed> {
    from.try_get_u32().map_err(|_| Malformed)
}

fn u64_of(from: &mut Bytes) -> Result<u64, Malformed> {
    from.try_get_u64().map_err(|_| Malformed)
}

fn text_of(from: &mut Bytes) -> Result<Bytes, Malformed> {
    let len = u32_of(from)? as usize;
    if len > from.len() { Err(Malformed) } else { Ok(from.split_to(len)) }
}

/// A server's words for a message: one line, not long, no control characters.
fn readable(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().filter(|c| !c.is_control()).take(200).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn requests_have_the_bytes_of_the_draft() {
        let (head, payload) = Request::new(kind::OPEN).text(b"/a").u32(open::READ).mode(0o600).packet(7);
        let expected = b"\0\0\0\x17\x03\0\0\0\x07\0\0\0\x02/a\0\0\0\x01\0\0\0\x04\0\0\x01\x80";
        assert_eq!((&head[..], payload.len()), (&expected[..], 0));
        let (head, payload) =
            Request::new(kind::WRITE).text(b"h").u64(1).data(Bytes::from_static(b"abc")).packet(1);
        assert_eq!(&head[..], b"\0\0\0\x19\x06\0\0\0\x01\0\0\0\x01h\0\0\0\0\0\0\0\x01\0\0\0\x03");
        assert_eq!(&payload[..], b"abc");
    }

    #[test]
    fn answers_are_read_and_cut_ones_refused() {
        let names = b"\x68\0\0\0\x05\0\0\0\x01\0\0\0\x01f\0\0\0\x02ls\0\0\0\x0d\
                      \0\0\0\0\0\0\0\x09\0\0\x81\x80\0\0\0\x01\0\0\0\x02";
        let expected = Attributes { size: Some(9), mode: Some(0o100_600), modified: Some(2) };
        let packet = Bytes::from_static(names);
        let (id, reply) = Reply::parse(packet.clone()).unwrap();
        assert_eq!((id, reply), (5, Reply::Names(vec![(Bytes::from_static(b"f"), expected)])));
        assert!(expected.is_file() && !expected.is_folder());
        for cut in 0..packet.len() {
            assert_eq!(Reply::parse(packet.slice(..cut)), Err(Malformed), "{cut}");
        }
        let version = b"\x02\0\0\0\x03\0\0\0\x03a@b\0\0\0\x011";
        let (version, extensions) = parse_version(Bytes::from_static(version)).unwrap();
        assert_eq!((version, &extensions[..]), (3, &[("a@b".to_owned(), "1".to_owned())][..]));
    }

    proptest! {
        #[test]
        fn no_answer_is_too_strange(bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 100u8..106) {
            let _ = Reply::parse(Bytes::from(bytes.clone()));
            let _ = parse_version(Bytes::from(bytes.clone()));
            let mut with_kind = vec![kind];
            with_kind.extend(bytes);
            let _ = Reply::parse(Bytes::from(with_kind));
        }
    }
}
