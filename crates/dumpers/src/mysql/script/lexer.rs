//! Where units end.

/// What a look at some bytes found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// The unit ends after so many of them.
    End(usize),
    /// It goes on.
    More,
}

/// The end of a block of statements with another delimiter.
const BLOCK_END: &[u8] = b";;\nDELIMITER ;\n";
/// The beginnings that decide how a unit ends.
const DELIMITER: &[u8] = b"DELIMITER ;;";
const SANDBOX: &[u8] = b"/*M!999999\\-";

/// Reads one unit after the other; knows nothing of what they mean.
///
/// Text outside of blocks is what the server itself prints of its objects under the program's own
/// SQL mode, so backslashes escape inside strings, and names are quoted by backticks. What somebody
/// wrote under a mode of their own stands in blocks, which are read as lines.
#[derive(Debug)]
pub(super) struct Lexer {
    state: State,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// Nothing but white space yet.
    Before,
    /// The first bytes, while they may still begin like one of the special units.
    Start { seen: [u8; 12], len: u8 },
    /// A comment that is a unit of its own, or another line without a semicolon.
    Line,
    /// A statement.
    Code { last: u8, before_last: u8 },
    /// A string or a quoted name in it.
    Quoted { by: u8, escaped: bool },
    /// A comment in it, up to the end of the line.
    Remark,
    /// A comment in it, up to its closing mark.
    Comment { star: bool },
    /// A block: so many bytes of its end were seen.
    Block { matched: usize },
}

impl Lexer {
    pub(super) const fn new() -> Self {
        Self { state: State::Before }
    }

    /// To be called after the end of a unit.
    pub(super) fn restart(&mut self) {
        self.state = State::Before;
    }

    /// Looks for the end of the unit in the next bytes.
    pub(super) fn find_end(&mut self, bytes: &[u8]) -> Found {
        let mut at = 0;
        while at < bytes.len() {
            // Long stretches first: most of a dump is inside of strings or numbers.
            at += self.skip(&bytes[at..]);
            let Some(&byte) = bytes.get(at) else { break };
            at += 1;
            if self.step(byte) {
                return Found::End(at);
            }
        }
        Found::More
    }

    /// How many bytes from here on change nothing.
    fn skip(&mut self, bytes: &[u8]) -> usize {
        let stop = match self.state {
            State::Quoted { by, escaped: false } => memchr::memchr2(by, b'\\', bytes),
            State::Line | State::Remark => memchr::memchr(b'\n', bytes),
            State::Block { matched: 0 } => memchr::memchr(b';', bytes),
            State::Comment { star: false } => memchr::memchr(b'*', bytes),
            State::Code { .. } => {
                let plain = |byte: &u8| PLAIN[usize::from(*byte)];
                let stop = bytes.iter().position(|byte| !plain(byte));
                if stop != Some(0) {
                    self.state = State::Code { last: 0, before_last: 0 };
                }
                stop
            }
            _ => Some(0),
        };
        stop.unwrap_or(bytes.len())
    }

    /// Takes one byte; whether the unit ends with it.
    fn step(&mut self, byte: u8) -> bool {
        match self.state {
            State::Before if byte.is_ascii_whitespace() => {}
            State::Before => {
                self.state = State::Start { seen: [0; 12], len: 0 };
                return self.step(byte);
            }
            State::Start { mut seen, len } => {
                let begun = usize::from(len);
                seen[begun] = byte;
                let text = &seen[..=begun];
                if text.starts_with(b"--") || text.starts_with(b"#") || text == SANDBOX {
                    self.state = State::Line;
                } else if text == DELIMITER {
                    self.state = State::Block { matched: 0 };
                } else if SANDBOX.starts_with(text) || DELIMITER.starts_with(text) || text == b"-" {
                    self.state = State::Start { seen, len: len + 1 };
                } else {
                    // Nothing special: read what was seen as code.
                    self.state = State::Code { last: 0, before_last: 0 };
                    return text.iter().copied().any(|byte| self.step(byte));
                }
            }
            State::Line => return byte == b'\n',
            State::Code { last, before_last } => return self.code(before_last, last, byte),
            State::Quoted { by, escaped } => {
                if escaped {
                    self.state = State::Quoted { by, escaped: false };
                } else if byte == b'\\' && by != b'`' {
                    self.state = State::Quoted { by, escaped: true };
                } else if byte == by {
                    // A doubled quote opens again at once.
                    self.state = State::Code { last: 0, before_last: 0 };
                }
            }
            State::Remark if byte == b'\n' => self.state = State::Code { last: 0, before_last: 0 },
            State::Remark => {}
            State::Comment { star: true } if byte == b'/' => {
                self.state = State::Code { last: 0, before_last: 0 };
            }
            State::Comment { .. } => self.state = State::Comment { star: byte == b'*' },
            State::Block { matched } => {
                let matched = if byte == BLOCK_END[matched] {
                    matched + 1
                } else if byte == b';' {
                    // The third of three semicolons is the second of two.
                    if matched == 2 { 2 } else { 1 }
                } else {
                    0
                };
                self.state = State::Block { matched };
                return matched == BLOCK_END.len();
            }
        }
        false
    }

    fn code(&mut self, before_last: u8, last: u8, byte: u8) -> bool {
        self.state = match (last, byte) {
            (_, b';') => return true,
            (_, b'\'' | b'"' | b'`') => State::Quoted { by: byte, escaped: false },
            (_, b'#') => State::Remark,
            // `--` begins a comment only before white space.
            (b'-', b' ' | b'\t' | b'\n') if before_last == b'-' => {
                if byte == b'\n' {
                    State::Code { last: 0, before_last: 0 }
                } else {
                    State::Remark
                }
            }
            // `/*!` and `/*M!` are conditions, and what they hold is code.
            (b'*', b'!' | b'M') if before_last == b'/' => State::Code { last: 0, before_last: 0 },
            (b'*', _) if before_last == b'/' => State::Comment { star: byte == b'*' },
            _ => State::Code { last: byte, before_last: last },
        };
        false
    }
}

/// Bytes that mean nothing to the end of a statement, also as the middle of something.
static PLAIN: [bool; 256] = {
    let mut plain = [true; 256];
    let mut special = b"';\"`#-/*! \t\nM".as_slice();
    while let [byte, rest @ ..] = special {
        plain[*byte as usize] = false;
        special = rest;
    }
    plain
};

#[cfg(test)]
mod tests {
    use super::*;

    /// The units of a text, read in chunks of each size.
    fn units(text: &[u8]) -> Vec<String> {
        let mut first: Option<Vec<String>> = None;
        for size in [1, 2, 3, 7, text.len().max(1)] {
            let (mut lexer, mut found, mut unit) = (Lexer::new(), Vec::new(), Vec::new());
            for chunk in text.chunks(size) {
                let mut rest = chunk;
                while !rest.is_empty() {
                    match lexer.find_end(rest) {
                        Found::End(len) => {
                            unit.extend_from_slice(&rest[..len]);
                            found.push(String::from_utf8_lossy(&std::mem::take(&mut unit)).trim().to_owned());
                            lexer.restart();
                            rest = &rest[len..];
                        }
                        Found::More => {
                            unit.extend_from_slice(rest);
                            rest = &[];
                        }
                    }
                }
            }
            found.push(format!("rest:{}", String::from_utf8_lossy(&unit)));
            assert_eq!(first.get_or_insert_with(|| found.clone()), &found, "chunks of {size}");
        }
        first.unwrap_or_default()
    }

    #[test]
    fn statements_end_at_semicolons_that_are_no_text() {
        let table: [(&str, &[&str]); 13] = [
            ("a; b;", &["a;", "b;", "rest:"]),
            ("i 'a;''b;\\';c';x;", &["i 'a;''b;\\';c';", "x;", "rest:"]),
            ("i `a;``\\`;x;", &["i `a;``\\`;", "x;", "rest:"]),
            ("i \"a;\\\"\";x", &["i \"a;\\\"\";", "rest:x"]),
            ("-- a;b 'c\nx;", &["-- a;b 'c", "x;", "rest:"]),
            ("--\nx;", &["--", "x;", "rest:"]),
            ("a -- b;'\n;c;", &["a -- b;'\n;", "c;", "rest:"]),
            ("a 5--3 ';' ;", &["a 5--3 ';' ;", "rest:"]),
            ("/*!50001 CREATE 'a;' */;b;", &["/*!50001 CREATE 'a;' */;", "b;", "rest:"]),
            ("/* a;'b */ c;", &["/* a;'b */ c;", "rest:"]),
            ("/**/ c;/***/d;", &["/**/ c;", "/***/d;", "rest:"]),
            (
                "/*M!999999\\- enable the sandbox mode */ \nx;",
                &["/*M!999999\\- enable the sandbox mode */", "x;", "rest:"],
            ),
            (
                "DELIMITER ;;\nCREATE 'it;s; -- \" /* \n;;;\nDELIMITER ;\nx;",
                &["DELIMITER ;;\nCREATE 'it;s; -- \" /* \n;;;\nDELIMITER ;", "x;", "rest:"],
            ),
        ];
        for (text, expected) in table {
            assert_eq!(units(text.as_bytes()), expected, "{text}");
        }
    }
}
