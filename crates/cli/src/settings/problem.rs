//! What is wrong with the settings, all of it at once.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

use super::table::Setting;

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The command line.
    Flag,
    /// The environment.
    Variable,
    /// A line of the file, counted from 1.
    File {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
    },
    /// Nobody set it.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => f.write_str("command line"),
            Self::Variable => f.write_str("environment"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Default => f.write_str("default"),
        }
    }
}

impl Setting {
    /// Every way to set it, and its place in the file if it is set there.
    pub(crate) fn named(&self, origin: &Origin) -> String {
        let Self { key, flag, variable, .. } = self;
        let place = match origin {
            Origin::File { path, line } => format!(" in {}:{line}", path.display()),
            _ => String::new(),
        };
        format!("{key} (flag {flag}, variable {variable}, key {key}{place})")
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Problem {
    /// The setting, with every way to set it.
    pub(crate) setting: String,
    /// What is wrong with it.
    pub(crate) what: String,
    /// What to try.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) hint: Option<String>,
}

impl Problem {
    /// A problem with a declared setting.
    pub(crate) fn of(setting: &Setting, origin: &Origin, what: impl Into<String>) -> Self {
        Self { setting: setting.named(origin), what: what.into(), hint: None }
    }

    /// A problem with something that only one place can hold.
    pub(crate) fn at(place: impl Into<String>, what: impl Into<String>) -> Self {
        Self { setting: place.into(), what: what.into(), hint: None }
    }

    /// Adds what to try.
    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "setting: {}: {}", self.setting, self.what)
    }
}

/// The nearest of `known` to `word`, when it is near enough to be meant.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|name| (distance(word, name), name))
        .filter(|(distance, name)| *distance <= 1 + name.len() / 4)
        .min()
        .map(|(_, name)| name)
}

/// How many letters must be inserted, removed or replaced (Levenshtein 1965).
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typing_error_finds_its_word_and_nonsense_finds_none() {
        let known = ["recipients", "identities", "passphrase_file"];
        assert_eq!(nearest("recipents", known), Some("recipients"));
        assert_eq!(nearest("passphrase-file", known), Some("passphrase_file"));
        assert_eq!(nearest("bananas", known), None);
    }

    #[test]
    fn distances_are_the_textbook_ones() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("same", "same"), 0);
    }
}
