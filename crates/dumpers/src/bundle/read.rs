//! Members from records. No IO: the caller feeds bytes and takes turns.

use std::collections::{HashMap, VecDeque};

use bytes::{Buf as _, Bytes, BytesMut};

use super::names::Names;
use super::record::{Kind, RECORD_HEAD_LEN};
use super::{BundleError, MAGIC, MEMBERS_OPEN_MAX, MemberHead, MemberId};

/// What happens next in a bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Turn {
    /// A member begins.
    Open(MemberId, MemberHead),
    /// Bytes of a member, as they came.
    Data(MemberId, Bytes),
    /// A member is whole.
    Close(MemberId),
    /// What came of a member is to be dropped.
    Abandon(MemberId),
}

/// What a whole bundle held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Whole members.
    pub members: u64,
}

/// Reads a bundle strictly.
///
/// Holds what was fed and not taken yet, the names so far, and at most one head besides. After an error it gives the
/// same error for ever.
#[derive(Debug, Default)]
pub struct BundleReader {
    fed: VecDeque<Bytes>,
    waiting: usize,
    state: State,
    last: u32,
    open: HashMap<u32, (String, u64)>,
    names: Names,
    closed: u64,
    failed: Option<BundleError>,
}

#[derive(Debug, Default, Clone, Copy)]
enum State {
    #[default]
    Magic,
    Record,
    Small {
        kind: Kind,
        member: u32,
        len: usize,
    },
    Data {
        member: u32,
        left: usize,
    },
    Ended,
}

impl BundleReader {
    /// A reader at the beginning of a bundle.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds bytes. Take all turns before feeding more, or memory grows.
    pub fn feed(&mut self, chunk: Bytes) {
        if !chunk.is_empty() {
            self.waiting += chunk.len();
            self.fed.push_back(chunk);
        }
    }

    /// The next turn; `None` when more bytes are needed or the bundle has ended.
    ///
    /// # Errors
    /// What is wrong with the bundle.
    pub fn turn(&mut self) -> Result<Option<Turn>, BundleError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        self.advance().inspect_err(|error| self.failed = Some(error.clone()))
    }

    /// Ends the reading: only a whole bundle has a summary.
    ///
    /// # Errors
    /// [`BundleError::Truncated`] where the bytes ended before the bundle, and an earlier error.
    pub fn finish(self) -> Result<Summary, BundleError> {
        match (self.failed, self.state) {
            (Some(error), _) => Err(error),
            (None, State::Ended) if self.waiting == 0 => Ok(Summary { members: self.closed }),
            (None, State::Ended) => Err(BundleError::Trailing),
            (None, _) => Err(BundleError::Truncated),
        }
    }

    fn advance(&mut self) -> Result<Option<Turn>, BundleError> {
        loop {
            match self.state {
                State::Magic => {
                    let Some(magic) = self.take(MAGIC.len()) else { return Ok(None) };
                    let (name, version) = magic.split_at(MAGIC.len() - 1);
                    if name != &MAGIC[..MAGIC.len() - 1] {
                        return Err(BundleError::Magic);
                    }
                    if version != &MAGIC[MAGIC.len() - 1..] {
                        return Err(BundleError::Version(version[0]));
                    }
                    self.state = State::Record;
                }
                State::Record => {
                    let Some(mut head) = self.take(RECORD_HEAD_LEN) else { return Ok(None) };
                    let (byte, member, len) = (head.get_u8(), head.get_u32_le(), head.get_u32_le() as usize);
                    let kind = Kind::of(byte, len)?;
                    match kind {
                        Kind::Open if member != self.last + 1 => {
                            return Err(BundleError::Number { expected: self.last + 1, found: member });
                        }
                        Kind::End if member != 0 => return Err(BundleError::NotOpen(member)),
                        Kind::Data | Kind::Close | Kind::Abandon if !self.open.contains_key(&member) => {
                            return Err(BundleError::NotOpen(member));
                        }
                        _ => {}
                    }
                    self.state = match kind {
                        Kind::Data => State::Data { member, left: len },
                        _ => State::Small { kind, member, len },
                    };
                }
                State::Small { kind, member, len } => {
                    let Some(payload) = self.take(len) else { return Ok(None) };
                    self.state = if kind == Kind::End { State::Ended } else { State::Record };
                    if let Some(turn) = self.small(kind, member, &payload)? {
                        return Ok(Some(turn));
                    }
                }
                State::Data { member, left } => {
                    let Some(piece) = self.piece(left) else { return Ok(None) };
                    self.state = match left - piece.len() {
                        0 => State::Record,
                        left => State::Data { member, left },
                    };
                    if let Some((_, len)) = self.open.get_mut(&member) {
                        *len += piece.len() as u64;
                    }
                    return Ok(Some(Turn::Data(MemberId(member), piece)));
                }
                State::Ended if self.waiting > 0 => return Err(BundleError::Trailing),
                State::Ended => return Ok(None),
            }
        }
    }

    fn small(&mut self, kind: Kind, member: u32, payload: &[u8]) -> Result<Option<Turn>, BundleError> {
        let stated = || payload.try_into().map(u64::from_le_bytes).unwrap_or_default();
        let id = MemberId(member);
        Ok(Some(match kind {
            Kind::Open => {
                let head: MemberHead =
                    serde_json::from_slice(payload).map_err(|_| BundleError::Head(member))?;
                if self.open.len() >= MEMBERS_OPEN_MAX {
                    return Err(BundleError::TooManyOpen);
                }
                self.names.take(member, &head.name)?;
                self.last = member;
                self.open.insert(member, (head.name.clone(), 0));
                Turn::Open(id, head)
            }
            Kind::Close => {
                let (name, found) = self.open.remove(&member).ok_or(BundleError::NotOpen(member))?;
                if found != stated() {
                    return Err(BundleError::MemberLength { name, found, stated: stated() });
                }
                self.closed += 1;
                Turn::Close(id)
            }
            Kind::Abandon => {
                let (name, _) = self.open.remove(&member).ok_or(BundleError::NotOpen(member))?;
                self.names.free(&name);
                Turn::Abandon(id)
            }
            Kind::End | Kind::Data => {
                if let Some((name, _)) = self.open.values().next() {
                    return Err(BundleError::EndsOpen(name.clone()));
                }
                if self.closed != stated() {
                    return Err(BundleError::MemberCount { found: self.closed, stated: stated() });
                }
                return Ok(None);
            }
        }))
    }

    /// Exactly so many bytes, together; `None` while there are fewer.
    fn take(&mut self, len: usize) -> Option<Bytes> {
        if self.waiting < len {
            return None;
        }
        if let Some(first) = self.fed.front_mut()
            && first.len() > len
        {
            self.waiting -= len;
            return Some(first.split_to(len));
        }
        let mut taken = BytesMut::with_capacity(len);
        while taken.len() < len {
            taken.extend_from_slice(&self.piece(len - taken.len())?);
        }
        Some(taken.freeze())
    }

    /// Up to so many bytes, as they came.
    fn piece(&mut self, most: usize) -> Option<Bytes> {
        let first = self.fed.front_mut()?;
        let piece = first.split_to(first.len().min(most));
        if first.is_empty() {
            self.fed.pop_front();
        }
        self.waiting -= piece.len();
        Some(piece)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{BundleWriter, DATA_LEN_MAX, MEMBERS_MAX, NAME_LEN_MAX};
    use super::*;

    /// Everything a reader makes of bytes that come in pieces of this length.
    fn read(bytes: &[u8], step: usize) -> Result<(Vec<Turn>, Summary), BundleError> {
        let mut reader = BundleReader::new();
        let mut turns: Vec<Turn> = Vec::new();
        let mut data: Vec<u8> = Vec::new();
        for piece in bytes.chunks(step.max(1)) {
            reader.feed(Bytes::copy_from_slice(piece));
            while let Some(turn) = reader.turn()? {
                // How data is cut is nobody's business.
                match (turns.last_mut(), turn) {
                    (Some(Turn::Data(a, _)), Turn::Data(b, more)) if *a == b => data.extend(more),
                    (last, turn) => {
                        if let Some(Turn::Data(_, whole)) = last {
                            *whole = std::mem::take(&mut data).into();
                        }
                        if let Turn::Data(_, first) = &turn {
                            data.extend(first);
                        }
                        turns.push(turn);
                    }
                }
            }
        }
        reader.finish().map(|summary| (turns, summary))
    }

    /// Two members that alternate, one abandoned and written again.
    fn sample() -> Vec<u8> {
        let mut writer = BundleWriter::new();
        let mut out = Vec::new();
        let a = writer.open(&MemberHead::new("a \"1\"", "raw").with("range", "0-9"), &mut out).unwrap();
        let b = writer.open(&MemberHead::new("b", "raw"), &mut out).unwrap();
        writer.data(a, Bytes::from_static(b"one"), &mut out).unwrap();
        writer.data(b, Bytes::from_static(b"lost"), &mut out).unwrap();
        writer.abandon(b, &mut out).unwrap();
        let b = writer.open(&MemberHead::new("b", "raw"), &mut out).unwrap();
        writer.data(a, Bytes::from_static(b"two"), &mut out).unwrap();
        writer.data(b, Bytes::from(vec![7; DATA_LEN_MAX + 1]), &mut out).unwrap();
        writer.close(a, &mut out).unwrap();
        writer.close(b, &mut out).unwrap();
        writer.end(&mut out).unwrap();
        out.concat()
    }

    #[test]
    fn what_was_written_is_read_however_it_is_cut() {
        let bytes = sample();
        let (turns, summary) = read(&bytes, bytes.len()).unwrap();
        assert_eq!(summary.members, 2);
        assert_eq!(
            turns[..6],
            [
                Turn::Open(MemberId(1), MemberHead::new("a \"1\"", "raw").with("range", "0-9")),
                Turn::Open(MemberId(2), MemberHead::new("b", "raw")),
                Turn::Data(MemberId(1), Bytes::from_static(b"one")),
                Turn::Data(MemberId(2), Bytes::from_static(b"lost")),
                Turn::Abandon(MemberId(2)),
                Turn::Open(MemberId(3), MemberHead::new("b", "raw")),
            ]
        );
        for step in [1, 7, 9, 4096] {
            assert_eq!(read(&bytes, step).unwrap(), (turns.clone(), summary), "{step}");
        }
    }

    #[test]
    fn no_prefix_of_a_bundle_is_a_bundle_and_nothing_may_follow() {
        let mut bytes = sample();
        let small = bytes.len() - (DATA_LEN_MAX + 1);
        for len in (0..small).chain([bytes.len() - 1]) {
            assert!(read(&bytes[..len], 4096).is_err(), "{len}");
        }
        bytes.push(0);
        assert_eq!(read(&bytes, 4096), Err(BundleError::Trailing));
    }

    #[test]
    fn every_wrong_record_has_its_name() {
        let begin = |records: &[&[u8]]| [&MAGIC[..], &records.concat()].concat();
        let record = |kind: u8, member: u32, payload: &[u8]| {
            [&[kind][..], &member.to_le_bytes(), &(payload.len() as u32).to_le_bytes(), payload].concat()
        };
        let open = |n: u32, name: &str| {
            record(1, n, format!("{{\"name\":\"{name}\",\"format\":\"raw\"}}").as_bytes())
        };
        let zero = 0u64.to_le_bytes();
        let cases: Vec<(Vec<u8>, BundleError)> = vec![
            (b"PGDMP123".to_vec(), BundleError::Magic),
            (b"SRBNDL\0\x02".to_vec(), BundleError::Version(2)),
            (begin(&[&record(9, 0, b"")]), BundleError::Kind(9)),
            (begin(&[&record(2, 1, b"")]), BundleError::RecordLength { kind: 2, len: 0 }),
            (begin(&[&record(2, 1, b"x")]), BundleError::NotOpen(1)),
            (begin(&[&open(2, "a")]), BundleError::Number { expected: 1, found: 2 }),
            (begin(&[&record(1, 1, b"{}")]), BundleError::Head(1)),
            (begin(&[&open(1, "a"), &open(2, "a")]), BundleError::Twice("a".into())),
            (
                begin(&[&open(1, &"n".repeat(NAME_LEN_MAX + 1))]),
                BundleError::NameLength { name: "n".repeat(100) },
            ),
            (begin(&[&open(1, "a"), &record(5, 0, &zero)]), BundleError::EndsOpen("a".into())),
            (
                begin(&[&open(1, "a"), &record(2, 1, b"x"), &record(3, 1, &zero)]),
                BundleError::MemberLength { name: "a".into(), found: 1, stated: 0 },
            ),
            (
                begin(&[&open(1, "a"), &record(3, 1, &zero), &record(5, 0, &zero)]),
                BundleError::MemberCount { found: 1, stated: 0 },
            ),
            (begin(&[&open(1, "a"), &record(3, 1, &zero), &record(2, 1, b"x")]), BundleError::NotOpen(1)),
            (begin(&[&record(5, 3, &zero)]), BundleError::NotOpen(3)),
        ];
        for (bytes, expected) in cases {
            assert_eq!(read(&bytes, 3).unwrap_err(), expected);
        }
    }

    #[test]
    fn open_members_are_counted_on_both_sides() {
        let mut writer = BundleWriter::new();
        let mut out = Vec::new();
        for n in 0..MEMBERS_OPEN_MAX {
            writer.open(&MemberHead::new(n.to_string(), "raw"), &mut out).unwrap();
        }
        assert_eq!(writer.open(&MemberHead::new("x", "raw"), &mut out), Err(BundleError::TooManyOpen));
        assert_eq!(read(&out.concat(), 4096), Err(BundleError::Truncated));
    }

    #[test]
    fn one_member_more_than_allowed_is_refused() {
        let mut reader = BundleReader { last: MEMBERS_MAX - 1, state: State::Record, ..BundleReader::new() };
        for (number, expected) in [(MEMBERS_MAX, Ok(true)), (MEMBERS_MAX + 1, Err(BundleError::TooMany))] {
            let head = format!("{{\"name\":\"{number}\",\"format\":\"raw\"}}");
            let len = (head.len() as u32).to_le_bytes();
            reader.feed([&[1][..], &number.to_le_bytes(), &len, head.as_bytes()].concat().into());
            assert_eq!(reader.turn().map(|turn| turn.is_some()), expected);
        }
    }

    proptest! {
        #[test]
        fn garbage_is_refused_or_waits(bytes in proptest::collection::vec(any::<u8>(), 0..300), step in 1usize..50) {
            let bytes = [&MAGIC[..], &bytes].concat();
            let _ = read(&bytes, step);
        }
    }
}
