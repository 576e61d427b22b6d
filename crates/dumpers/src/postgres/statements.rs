//! Statements as `pg_dump` and `pg_dumpall` write them, taken apart.
//!
//! They are sent to a server one by one and never to `psql` as a script: a line that begins with a
//! backslash is a command to `psql` itself, and a dump of a server that somebody else rules must not
//! be able to run programs here.

use std::fmt;

/// Why a script cannot be taken apart.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum StatementError {
    /// A quote that does not close.
    #[error("a quote does not close")]
    OpenQuote,
    /// The last statement has no end.
    #[error("the last statement has no end")]
    NoEnd,
    /// A NUL character, where `psql` ends its reading of a line and of a quote in it.
    #[error("a NUL character")]
    Nul,
    /// A comment within a statement, which no dump has.
    #[error("a comment within a statement")]
    Comment,
    /// A command to `psql` that no dump has.
    #[error("a command to psql: {0}")]
    Command(String),
}

/// One statement, without the semicolon. It may hold the hash of a password.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Statement {
    /// As it stands.
    pub(super) text: String,
    /// Its words, each with where it begins and ends in the text.
    words: Vec<(usize, usize, Word)>,
}

impl fmt::Debug for Statement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Statement({})", self.kind())
    }
}

/// A word of a statement.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Word {
    /// A keyword, a number or a name without quotes.
    Bare(String),
    /// A name in quotes, without them.
    Quoted(String),
    /// A string literal, as it stands.
    Text(String),
    /// Anything else.
    Sign(char),
}

impl fmt::Debug for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bare(word) => write!(f, "{word}"),
            Self::Quoted(name) => write!(f, "{name:?}"),
            Self::Text(_) => write!(f, "'...'"),
            Self::Sign(sign) => write!(f, "{sign}"),
        }
    }
}

impl Word {
    /// The name that it stands for, if it can be one.
    pub(super) fn name(&self) -> Option<&str> {
        match self {
            Self::Bare(name) | Self::Quoted(name) => Some(name),
            Self::Text(_) | Self::Sign(_) => None,
        }
    }
}

impl Statement {
    /// The word at this place.
    pub(super) fn word(&self, at: usize) -> Option<&Word> {
        self.words.get(at).map(|(_, _, word)| word)
    }

    /// What kind of a statement it is, for a message: its first two keywords.
    pub(super) fn kind(&self) -> String {
        const SHOWN: usize = 30;
        let words = self.words().take(2).map_while(|word| match word {
            Word::Bare(word) => Some(word.chars().take(SHOWN).collect::<String>()),
            _ => None,
        });
        words.collect::<Vec<_>>().join(" ")
    }

    /// Its text before the word at this place.
    pub(super) fn text_before(&self, at: usize) -> &str {
        let end = self.words.get(at).map_or(self.text.len(), |(start, _, _)| *start);
        self.text[..end].trim_end()
    }

    /// All words.
    pub(super) fn words(&self) -> impl Iterator<Item = &Word> {
        self.words.iter().map(|(_, _, word)| word)
    }

    /// Whether it begins with these keywords.
    pub(super) fn begins(&self, keywords: &[&str]) -> bool {
        keywords.iter().enumerate().all(|(at, keyword)| self.is(at, keyword))
    }

    /// Whether the word at this place is this keyword.
    pub(super) fn is(&self, at: usize, keyword: &str) -> bool {
        matches!(self.word(at), Some(Word::Bare(word)) if word == keyword)
    }

    /// Where this keyword stands first.
    pub(super) fn find(&self, keyword: &str) -> Option<usize> {
        (0..self.words.len()).find(|at| self.is(*at, keyword))
    }

    /// The name behind the first occurrence of this keyword.
    pub(super) fn name_after(&self, keyword: &str) -> Option<&str> {
        self.word(self.find(keyword)? + 1)?.name()
    }

    /// The keywords from this place on.
    pub(super) fn bare_from(&self, at: usize) -> impl Iterator<Item = &str> {
        self.words.iter().skip(at).filter_map(|(_, _, word)| match word {
            Word::Bare(word) => Some(word.as_str()),
            _ => None,
        })
    }

    /// The same statement about another database: the name behind the first `DATABASE` that is
    /// followed by `from` is replaced. `None` where there is no such place.
    pub(super) fn about_database(&self, from: &str, to: &str) -> Option<String> {
        let at = (0..self.words.len())
            .find(|at| self.is(*at, "DATABASE") && self.word(at + 1).and_then(Word::name) == Some(from))?;
        let (start, end, _) = &self.words[at + 1];
        Some(format!("{}{}{}", &self.text[..*start], super::names::identifier(to), &self.text[*end..]))
    }
}

/// Takes a script apart.
///
/// # Errors
/// What is no statement of a dump.
pub(super) fn statements(script: &str) -> Result<Vec<Statement>, StatementError> {
    if script.contains('\0') {
        return Err(StatementError::Nul);
    }
    let bytes = script.as_bytes();
    let mut found = Vec::new();
    let mut at = 0;
    // Where the statement begins, and its words so far.
    let mut begin = None;
    let mut words: Vec<(usize, usize, Word)> = Vec::new();
    while at < bytes.len() {
        let rest = &script[at..];
        let first = bytes[at];
        if first.is_ascii_whitespace() {
            at += 1;
            continue;
        }
        if rest.starts_with("--") {
            // The server ends it at a carriage return too: what is text there would be a comment here.
            if begin.is_some() {
                return Err(StatementError::Comment);
            }
            at += rest.find('\n').unwrap_or(rest.len());
            continue;
        }
        if first == b'\\' && begin.is_none() {
            let line = rest.lines().next().unwrap_or_default();
            let command = line.split_whitespace().next().unwrap_or_default();
            // What newer programs write around a script, for psql alone.
            if !matches!(command, "\\restrict" | "\\unrestrict") {
                return Err(StatementError::Command(command.to_owned()));
            }
            at += line.len();
            continue;
        }
        if first == b';' {
            if let Some(begin) = begin.take() {
                let words = std::mem::take(&mut words);
                let words = words.into_iter().map(|(start, end, word)| (start - begin, end - begin, word));
                let text = script[begin..at].to_owned();
                found.push(Statement { text, words: words.collect() });
            }
            at += 1;
            continue;
        }
        begin.get_or_insert(at);
        let (len, word) = match first {
            b'"' => {
                let len = quoted_len(rest, '"', false)?;
                (len, Word::Quoted(rest[1..len - 1].replace("\"\"", "\"")))
            }
            b'\'' => {
                let len = quoted_len(rest, '\'', false)?;
                (len, Word::Text(rest[..len].to_owned()))
            }
            b'E' | b'e' if rest[1..].starts_with('\'') => {
                let len = 1 + quoted_len(&rest[1..], '\'', true)?;
                (len, Word::Text(rest[..len].to_owned()))
            }
            _ => {
                let part = |c: char| c.is_alphanumeric() || c == '_' || c == '$' || !c.is_ascii();
                match rest.find(|c: char| !part(c)).unwrap_or(rest.len()) {
                    0 => (1, Word::Sign(first as char)),
                    len => (len, Word::Bare(rest[..len].to_owned())),
                }
            }
        };
        words.push((at, at + len, word));
        at += len;
    }
    if begin.is_some() { Err(StatementError::NoEnd) } else { Ok(found) }
}

/// The length of a quoted piece with both quotes; a doubled quote is one inside.
fn quoted_len(text: &str, quote: char, escapes: bool) -> Result<usize, StatementError> {
    let mut chars = text.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        if c == '\\' && escapes {
            chars.next();
        } else if c == quote {
            if chars.peek().is_some_and(|(_, next)| *next == quote) {
                chars.next();
            } else {
                return Ok(at + 1);
            }
        }
    }
    Err(StatementError::OpenQuote)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_is_taken_apart() {
        let script = "--\n-- Roles; all\n--\n\\restrict abc\nSET x = on;\n\
             CREATE ROLE \"a;\"\"b\";\nALTER ROLE \"a;\"\"b\" WITH PASSWORD 'x;''y' VALID UNTIL E'\\';';\n\\unrestrict abc\n\n";
        let found = statements(script).unwrap();
        let texts: Vec<&str> = found.iter().map(|statement| statement.text.as_str()).collect();
        assert_eq!(
            texts,
            [
                "SET x = on",
                "CREATE ROLE \"a;\"\"b\"",
                "ALTER ROLE \"a;\"\"b\" WITH PASSWORD 'x;''y' VALID UNTIL E'\\';'"
            ]
        );
        assert_eq!(found[1].name_after("ROLE"), Some("a;\"b"));
        assert!(found[2].begins(&["ALTER", "ROLE"]) && !found[2].begins(&["ALTER", "TABLE"]));
    }

    #[test]
    fn commands_to_psql_and_broken_scripts_are_refused() {
        assert_eq!(statements("SET a = 1;\n\\! rm -rf /\n"), Err(StatementError::Command("\\!".to_owned())));
        assert_eq!(statements("COMMENT ON ROLE a IS 'x"), Err(StatementError::OpenQuote));
        assert_eq!(statements("SET a = 1"), Err(StatementError::NoEnd));
        assert_eq!(statements("\"ü"), Err(StatementError::OpenQuote));
        assert_eq!(statements("CREATE ROLE a --\r SUPERUSER\n;"), Err(StatementError::Comment));
        assert_eq!(statements("COMMENT ON ROLE a IS 'x\0';"), Err(StatementError::Nul));
        assert_eq!(statements("-- a\n--b;\n"), Ok(Vec::new()));
    }

    #[test]
    fn no_hash_of_a_password_is_shown() {
        let found = statements("ALTER ROLE \"boss\" WITH LOGIN PASSWORD 'SCRAM-SHA-256$x';").unwrap();
        let shown = format!("{found:?} {:?} {}", found[0].words().collect::<Vec<_>>(), found[0].kind());
        assert!(shown.contains("ALTER ROLE") && !shown.contains("SCRAM"), "{shown}");
    }

    #[test]
    fn only_the_name_of_the_database_is_replaced() {
        let renamed = |text: &str| statements(text).unwrap()[0].about_database("Old db", "new \"x\"");
        assert_eq!(
            renamed("ALTER ROLE database IN DATABASE \"Old db\" SET a TO 'DATABASE \"Old db\"';").as_deref(),
            Some("ALTER ROLE database IN DATABASE \"new \"\"x\"\"\" SET a TO 'DATABASE \"Old db\"'")
        );
        assert_eq!(
            renamed("GRANT CONNECT ON DATABASE \"Old db\" TO \"Old db\";").as_deref(),
            Some("GRANT CONNECT ON DATABASE \"new \"\"x\"\"\" TO \"Old db\"")
        );
        assert_eq!(renamed("ALTER DATABASE other SET a TO 'b';"), None);
    }
}
