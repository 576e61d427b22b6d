//! The archive's bytes: headers of 512 bytes (ustar), extended headers (pax) where a value does not
//! fit, data padded to 512 bytes, two blocks of zeros at the end.

use std::fmt::Write as _;

use bytes::{Buf as _, Bytes, BytesMut};

use super::TarError;

const BLOCK: usize = 512;
/// The longest extended header: names have at most 4,096 bytes.
const EXTENDED_MAX: u64 = 1024 * 1024;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A file with data.
    File,
    /// Another name of a file that came before.
    HardLink,
    /// A symbolic link.
    SymbolicLink,
    /// A folder.
    Folder,
}

impl EntryKind {
    const fn flag(self) -> u8 {
        match self {
            Self::File => b'0',
            Self::HardLink => b'1',
            Self::SymbolicLink => b'2',
            Self::Folder => b'5',
        }
    }
}

/// A file, a folder or a link, as the archive tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name below the folder: components joined by slashes; empty for the folder itself.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
    /// Permission bits, with those for set-user-id, set-group-id and sticky.
    pub mode: u32,
    /// The owner's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
    /// Bytes of data.
    pub size: u64,
    /// When it was modified, in seconds since 1970 and nanoseconds.
    pub modified: (i64, u32),
    /// What a link leads to; for a hard link a name below the folder.
    pub link: Vec<u8>,
}

impl Entry {
    /// The headers in front of the data.
    pub(super) fn headers(&self) -> Bytes {
        let mut name = [b"./", &self.path[..]].concat();
        if self.kind == EntryKind::Folder && !self.path.is_empty() {
            name.push(b'/');
        }
        let link = match self.kind {
            EntryKind::HardLink => [b"./", &self.link[..]].concat(),
            _ => self.link.clone(),
        };
        let mut extended = Vec::new();
        let mut binary = false;
        for (key, value) in [("path", &name), ("linkpath", &link)] {
            if value.len() > 100 {
                binary |= std::str::from_utf8(value).is_err();
                record(&mut extended, key, value);
            }
        }
        if binary {
            // Names are bytes here, whatever they mean; this is how pax says so.
            let rest = std::mem::take(&mut extended);
            record(&mut extended, "hdrcharset", b"BINARY");
            extended.extend_from_slice(&rest);
        }
        for (key, value, max) in [
            ("size", self.size, 0o777_7777_7777),
            ("uid", u64::from(self.uid), 0o777_7777),
            ("gid", u64::from(self.gid), 0o777_7777),
        ] {
            if value > max {
                record(&mut extended, key, value.to_string().as_bytes());
            }
        }
        let (seconds, nanos) = self.modified;
        if nanos != 0 || !(0..=0o777_7777_7777).contains(&seconds) {
            record(&mut extended, "mtime", decimal(seconds, nanos).as_bytes());
        }
        let mut bytes = BytesMut::new();
        if !extended.is_empty() {
            let head = Block {
                flag: b'x',
                name: b"././@PaxHeader",
                link: b"",
                numbers: [0o644, 0, 0, extended.len() as u64, 0],
            };
            bytes.extend_from_slice(&head.bytes());
            bytes.extend_from_slice(&extended);
            bytes.resize(bytes.len() + padding(extended.len() as u64), 0);
        }
        let seconds = u64::try_from(seconds).unwrap_or(0);
        let numbers =
            [u64::from(self.mode & 0o7777), u64::from(self.uid), u64::from(self.gid), self.size, seconds];
        bytes.extend_from_slice(&Block { flag: self.kind.flag(), name: &name, link: &link, numbers }.bytes());
        bytes.freeze()
    }
}

/// The end of an archive.
pub(super) const END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];

/// Zeros behind so many bytes.
pub(super) fn padding(len: u64) -> usize {
    // Less than a block.
    (len.wrapping_neg() % BLOCK as u64) as usize
}

/// Mode, owner, group, size, time: what does not fit is left to the extended header.
struct Block<'a> {
    flag: u8,
    name: &'a [u8],
    link: &'a [u8],
    numbers: [u64; 5],
}

const FIELDS: [(usize, usize); 5] = [(100, 8), (108, 8), (116, 8), (124, 12), (136, 12)];

impl Block<'_> {
    fn bytes(&self) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        for (at, text) in [(0, self.name), (157, self.link)] {
            let len = text.len().min(100);
            block[at..at + len].copy_from_slice(&text[..len]);
        }
        for ((at, len), number) in FIELDS.into_iter().zip(self.numbers) {
            let digits = format!("{:0width$o}", number, width = len - 1);
            let digits = if digits.len() < len { digits } else { "0".repeat(len - 1) };
            block[at..at + len - 1].copy_from_slice(digits.as_bytes());
        }
        block[156] = self.flag;
        block[257..265].copy_from_slice(b"ustar\x0000");
        let sum = format!("{:06o}\0 ", sum_of(&block));
        block[148..156].copy_from_slice(sum.as_bytes());
        block
    }
}

/// The sum of all bytes, those of the sum itself taken as spaces.
fn sum_of(block: &[u8; BLOCK]) -> u32 {
    let bytes = block.iter().enumerate();
    bytes.map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u32::from(*byte) }).sum()
}

/// `LEN KEY=VALUE\n`, where the length counts itself.
fn record(bytes: &mut Vec<u8>, key: &str, value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut len = rest + 1;
    while len != rest + len.to_string().len() {
        len = rest + len.to_string().len();
    }
    bytes.extend_from_slice(format!("{len} {key}=").as_bytes());
    bytes.extend_from_slice(value);
    bytes.push(b'\n');
}

fn decimal(seconds: i64, nanos: u32) -> String {
    let mut text = String::new();
    let (whole, nanos) = match (seconds < 0, nanos) {
        (true, 1..) => {
            text.push('-');
            ((seconds + 1).unsigned_abs(), 1_000_000_000 - nanos)
        }
        (true, 0) => {
            text.push('-');
            (seconds.unsigned_abs(), 0)
        }
        (false, _) => (seconds.unsigned_abs(), nanos),
    };
    let _ = write!(text, "{whole}.{nanos:09}");
    text
}

fn read_decimal(text: &str) -> Option<(i64, u32)> {
    let (minus, text) = text.strip_prefix('-').map_or((false, text), |text| (true, text));
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !(part.is_empty() || digits(part)) {
        return None;
    }
    let whole: i64 = whole.parse().ok()?;
    let nanos: u32 = format!("{part:0<9}").get(..9)?.parse().ok()?;
    Some(match (minus, nanos) {
        (false, _) => (whole, nanos),
        (true, 0) => (-whole, 0),
        (true, _) => (-whole - 1, 1_000_000_000 - nanos),
    })
}

/// What an archive holds next.
#[derive(Debug)]
pub enum TarEvent {
    /// An entry begins.
    Entry(Entry),
    /// Data of the entry.
    Data(Bytes),
    /// The entry's data is complete.
    Complete,
}

/// Reads an archive in chunks of any size. After an error it gives no more events.
#[derive(Debug)]
pub struct TarReader {
    state: State,
    /// Bytes of a header that is not complete.
    part: BytesMut,
    extended: Extended,
    position: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Header,
    Extended(u64),
    Data(u64),
    Padding(usize),
    /// One block of zeros was seen.
    Closing,
    Ended,
}

#[derive(Debug, Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u32>,
    gid: Option<u32>,
    modified: Option<(i64, u32)>,
}

impl TarReader {
    /// At the beginning of an archive.
    #[must_use]
    pub fn new() -> Self {
        Self { state: State::Header, part: BytesMut::new(), extended: Extended::default(), position: 0 }
    }

    /// The next event within `chunk`, from which what was read is taken; `None` when more bytes are
    /// needed.
    ///
    /// # Errors
    /// What is wrong with the archive up to here.
    pub fn next(&mut self, chunk: &mut Bytes) -> Result<Option<TarEvent>, TarError> {
        loop {
            match self.state {
                State::Ended if chunk.is_empty() => return Ok(None),
                State::Ended => return Err(TarError::Trailing),
                State::Data(0) => {
                    self.state = State::Header;
                    return Ok(Some(TarEvent::Complete));
                }
                _ if chunk.is_empty() => return Ok(None),
                State::Data(rest) => {
                    let take = usize::try_from(rest).unwrap_or(usize::MAX).min(chunk.len());
                    let data = chunk.split_to(take);
                    self.position += take as u64;
                    self.state = State::Data(rest - take as u64);
                    if rest == take as u64 {
                        // The padding comes first; the entry is complete behind it.
                        self.state = State::Padding(self.pad_here());
                    }
                    return Ok(Some(TarEvent::Data(data)));
                }
                State::Padding(0) => {
                    self.state = State::Data(0);
                }
                State::Padding(rest) => {
                    let take = rest.min(chunk.len());
                    if chunk[..take].iter().any(|byte| *byte != 0) {
                        return Err(TarError::Padding(self.position));
                    }
                    chunk.advance(take);
                    self.position += take as u64;
                    self.state = State::Padding(rest - take);
                }
                State::Extended(len) => {
                    // Both limited by EXTENDED_MAX.
                    let all = len as usize + padding(len);
                    if self.gather(chunk, all) {
                        let bytes = self.part.split();
                        let (records, zeros) = bytes.split_at(len as usize);
                        if zeros.iter().any(|byte| *byte != 0) {
                            return Err(TarError::Padding(self.position));
                        }
                        self.extended = Extended::read(records).ok_or(TarError::Extended(self.position))?;
                        self.state = State::Header;
                    }
                }
                State::Header | State::Closing => {
                    if !self.gather(chunk, BLOCK) {
                        return Ok(None);
                    }
                    let bytes = self.part.split();
                    let block: &[u8; BLOCK] =
                        bytes[..].try_into().map_err(|_| TarError::Header(self.position))?;
                    if let Some(entry) = self.header(block)? {
                        return Ok(Some(TarEvent::Entry(entry)));
                    }
                }
            }
        }
    }

    /// Says whether the archive is whole.
    ///
    /// # Errors
    /// `Truncated` unless its end mark was read.
    pub fn finish(&self) -> Result<(), TarError> {
        if self.state == State::Ended { Ok(()) } else { Err(TarError::Truncated(self.position)) }
    }

    fn pad_here(&self) -> usize {
        padding(self.position)
    }

    fn gather(&mut self, chunk: &mut Bytes, len: usize) -> bool {
        let take = (len - self.part.len()).min(chunk.len());
        self.part.extend_from_slice(&chunk.split_to(take));
        self.position += take as u64;
        self.part.len() == len
    }

    fn header(&mut self, block: &[u8; BLOCK]) -> Result<Option<Entry>, TarError> {
        let damaged = TarError::Header(self.position);
        if block.iter().all(|byte| *byte == 0) {
            let first = self.state == State::Header && self.extended.is_empty();
            self.state = match self.state {
                State::Closing => State::Ended,
                _ if first => State::Closing,
                _ => return Err(damaged),
            };
            return Ok(None);
        }
        if self.state == State::Closing {
            return Err(TarError::Padding(self.position));
        }
        let numbers: Vec<u64> = FIELDS.iter().map_while(|(at, len)| octal(&block[*at..at + len])).collect();
        let [mode, uid, gid, size, seconds] = numbers[..] else { return Err(damaged) };
        let sum = octal(&block[148..156]);
        if &block[257..265] != b"ustar\x0000" || sum != Some(u64::from(sum_of(block))) {
            return Err(damaged);
        }
        if block[156] == b'x' {
            if size > EXTENDED_MAX || !self.extended.is_empty() {
                return Err(TarError::Extended(self.position));
            }
            self.state = State::Extended(size);
            return Ok(None);
        }
        let extended = std::mem::take(&mut self.extended);
        let kind = match block[156] {
            b'0' => EntryKind::File,
            b'1' => EntryKind::HardLink,
            b'2' => EntryKind::SymbolicLink,
            b'5' => EntryKind::Folder,
            other => return Err(TarError::Kind(char::from(other))),
        };
        let number = |number: u64| u32::try_from(number).map_err(|_| damaged.clone());
        let seconds = i64::try_from(seconds).map_err(|_| damaged.clone())?;
        let link = extended.link.unwrap_or_else(|| text(&block[157..257]));
        let entry = Entry {
            path: inside(&extended.path.unwrap_or_else(|| text(&block[..100])), kind == EntryKind::Folder)?,
            kind,
            mode: number(mode)? & 0o7777,
            uid: extended.uid.map_or_else(|| number(uid), Ok)?,
            gid: extended.gid.map_or_else(|| number(gid), Ok)?,
            size: extended.size.unwrap_or(size),
            modified: extended.modified.unwrap_or((seconds, 0)),
            link: if kind == EntryKind::HardLink { inside(&link, false)? } else { link },
        };
        if kind != EntryKind::File && entry.size != 0
            || matches!(kind, EntryKind::SymbolicLink) && (entry.link.is_empty() || entry.link.contains(&0))
        {
            return Err(damaged);
        }
        self.state = State::Data(entry.size);
        Ok(Some(entry))
    }
}

impl Default for TarReader {
    fn default() -> Self {
        Self::new()
    }
}

impl Extended {
    fn is_empty(&self) -> bool {
        matches!(self, Self { path: None, link: None, size: None, uid: None, gid: None, modified: None })
    }

    fn read(mut records: &[u8]) -> Option<Self> {
        let mut found = Self::default();
        while !records.is_empty() {
            let space = records.iter().take(10).position(|byte| *byte == b' ')?;
            let len: usize = std::str::from_utf8(&records[..space]).ok()?.parse().ok()?;
            let (record, rest) = records.split_at_checked(len)?;
            let record = record.get(space + 1..)?.strip_suffix(b"\n")?;
            let equals = record.iter().position(|byte| *byte == b'=')?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            let text = || std::str::from_utf8(value).ok();
            match key {
                b"path" => found.path = Some(value.to_vec()),
                b"linkpath" => found.link = Some(value.to_vec()),
                b"size" => found.size = Some(text()?.parse().ok()?),
                b"uid" => found.uid = Some(text()?.parse().ok()?),
                b"gid" => found.gid = Some(text()?.parse().ok()?),
                b"mtime" => found.modified = Some(read_decimal(text()?)?),
                _ => {}
            }
            records = rest;
        }
        Some(found)
    }
}

fn text(field: &[u8]) -> Vec<u8> {
    field.split(|byte| *byte == 0).next().unwrap_or_default().to_vec()
}

fn octal(field: &[u8]) -> Option<u64> {
    let digits = field.split(|byte| matches!(byte, 0 | b' ')).next()?;
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0, |number, digit| match digit {
        b'0'..=b'7' => Some(number << 3 | u64::from(digit - b'0')),
        _ => None,
    })
}

/// A name below the folder, without the `./` in front; one that leads elsewhere is refused.
fn inside(name: &[u8], folder: bool) -> Result<Vec<u8>, TarError> {
    let refuse = || TarError::Escapes(String::from_utf8_lossy(&name[..name.len().min(300)]).into_owned());
    let below = name.strip_prefix(b"./").ok_or_else(refuse)?;
    let below = if folder { below.strip_suffix(b"/").unwrap_or(below) } else { below };
    if below.is_empty() && folder {
        return Ok(Vec::new());
    }
    let bad = |part: &[u8]| part.is_empty() || part == b"." || part == b".." || part.contains(&0);
    if below.split(|byte| *byte == b'/').any(bad) { Err(refuse()) } else { Ok(below.to_vec()) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(archive: &[u8], piece: usize) -> Result<Vec<(Entry, Vec<u8>)>, TarError> {
        let mut reader = TarReader::new();
        let mut found: Vec<(Entry, Vec<u8>)> = Vec::new();
        for piece in archive.chunks(piece) {
            let mut chunk = Bytes::copy_from_slice(piece);
            while let Some(event) = reader.next(&mut chunk)? {
                match event {
                    TarEvent::Entry(entry) => found.push((entry, Vec::new())),
                    TarEvent::Data(data) => found.last_mut().unwrap().1.extend_from_slice(&data),
                    TarEvent::Complete => {}
                }
            }
        }
        reader.finish()?;
        Ok(found)
    }

    fn write(entries: &[(Entry, Vec<u8>)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (entry, data) in entries {
            bytes.extend_from_slice(&entry.headers());
            bytes.extend_from_slice(data);
            bytes.resize(bytes.len() + padding(data.len() as u64), 0);
        }
        bytes.extend_from_slice(&END);
        bytes
    }

    fn file(path: &[u8], data: &[u8]) -> (Entry, Vec<u8>) {
        let entry = Entry {
            path: path.to_vec(),
            kind: EntryKind::File,
            mode: 0o4755,
            uid: 0,
            gid: 3_000_000_000,
            size: data.len() as u64,
            modified: (-3, 250_000_000),
            link: Vec::new(),
        };
        (entry, data.to_vec())
    }

    #[test]
    fn names_that_lead_out_are_refused() {
        for bad in ["../x", "a/../../x", "/etc/passwd", "a//b", "a/./b", ".", ""] {
            let mut archive = write(&[file(bad.as_bytes(), b"")]);
            let result = read(&archive, 7);
            assert!(matches!(result, Err(TarError::Escapes(_))), "{bad}: {result:?}");
            // The same as a plain name and as the target of a hard link.
            let (mut entry, _) = file(b"ok", b"");
            entry.kind = EntryKind::HardLink;
            entry.link = bad.as_bytes().to_vec();
            archive = write(&[(entry, Vec::new())]);
            assert!(matches!(read(&archive, 7), Err(TarError::Escapes(_))), "{bad}");
        }
    }

    #[test]
    fn numbers_of_any_size_come_back() {
        for (modified, text) in [
            ((0, 0), "0.000000000"),
            ((-1, 500_000_000), "-0.500000000"),
            ((-2, 0), "-2.000000000"),
            ((7, 1), "7.000000001"),
        ] {
            assert_eq!(decimal(modified.0, modified.1), text);
            assert_eq!(read_decimal(text), Some(modified));
        }
        let mut large = file(b"a", b"").0;
        (large.size, large.uid) = (1 << 40, u32::MAX - 1);
        let mut reader = TarReader::new();
        let Ok(Some(TarEvent::Entry(found))) = reader.next(&mut large.headers()) else { panic!("no entry") };
        assert_eq!(found, large);
    }

    #[test]
    fn every_cut_and_every_changed_byte_of_a_header_is_found() {
        let archive = write(&[file(b"a/b", b"data"), file(&[b'x'; 300], b"")]);
        for len in 0..archive.len() {
            assert!(read(&archive[..len], 100).is_err(), "cut at {len}");
        }
        // The byte behind the sum and its end says nothing.
        for at in (0..BLOCK).filter(|at| *at != 155).chain(archive.len() - 1024..archive.len()) {
            let mut changed = archive.clone();
            changed[at] ^= 0x11;
            assert!(read(&changed, 100).is_err(), "byte {at}");
        }
    }

    proptest! {
        #[test]
        fn entries_come_back_in_any_pieces(
            names in prop::collection::vec(prop::collection::vec(1_u8..=255, 1..200), 1..5),
            data in prop::collection::vec(any::<u8>(), 0..1500),
            piece in 1_usize..2000,
        ) {
            let clean = |name: &Vec<u8>| {
                let name: Vec<u8> = name.iter().map(|b| if *b == b'/' { b'|' } else { *b }).collect();
                [b"d/n", &name[..]].concat()
            };
            let entries: Vec<_> = names.iter().map(|name| file(&clean(name), &data)).collect();
            prop_assert_eq!(read(&write(&entries), piece).unwrap(), entries);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..3000), piece in 1_usize..600) {
            let _ = read(&bytes, piece);
            let _ = Extended::read(&bytes);
        }
    }
}
