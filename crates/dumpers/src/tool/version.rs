//! Versions of programs and servers.

use std::fmt;

/// A version as database tools print it: `15.18`, `18beta1`, `9.6.24`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ToolVersion {
    /// The numbers, most significant first.
    numbers: Vec<u32>,
    /// As it was printed.
    text: String,
}

impl ToolVersion {
    /// Reads the first word of `text` that begins with a digit, such as `15.18` in
    /// `pg_dump (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`.
    #[must_use]
    pub fn find(text: &str) -> Option<Self> {
        let word = text.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
        let word: String = word.chars().take(64).collect();
        let digits = word.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(word.len());
        let numbers = word[..digits].split('.').filter(|part| !part.is_empty()).map(str::parse);
        let numbers = numbers.collect::<Result<Vec<u32>, _>>().ok()?;
        if numbers.is_empty() {
            return None;
        }
        Some(Self { numbers, text: word })
    }

    /// The first number: what decides which servers a PostgreSQL tool can talk to.
    #[must_use]
    pub fn major(&self) -> u32 {
        self.numbers[0]
    }
}

impl fmt::Display for ToolVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_tools_print() {
        let table = [
            ("pg_dump (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)", Some((15, "15.18"))),
            ("psql (PostgreSQL) 18beta1", Some((18, "18beta1"))),
            ("9.6.24", Some((9, "9.6.24"))),
            ("no version here", None),
            ("99999999999999.1", None),
            ("", None),
        ];
        for (text, expected) in table {
            let found = ToolVersion::find(text);
            assert_eq!(found.as_ref().map(|v| (v.major(), v.text.as_str())), expected, "{text}");
        }
        assert!(ToolVersion::find("15.9") < ToolVersion::find("15.18"));
    }
}
