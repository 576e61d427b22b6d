//! Options for the client programs in a file that no disk and no other user sees.

use crate::tool::{PrivateFile, ToolError};

/// Text in the form of the programs' option files (MySQL manual, 6.2.2.2), kept in memory.
#[derive(Debug)]
pub(super) struct OptionFile {
    file: PrivateFile,
}

impl OptionFile {
    /// Keeps `text`. Only this user may open it.
    ///
    /// # Errors
    /// `NotStarted` when the system has no memory for it.
    pub(super) fn new(text: &str) -> Result<Self, ToolError> {
        PrivateFile::new("option file", text).map(|file| Self { file })
    }

    /// The argument that makes a program read this file and no other; it must be the first.
    pub(super) fn argument(&self) -> String {
        format!("--defaults-file={}", self.file.path())
    }
}

/// A line `name="value"`, for a value of any characters.
pub(super) fn line(name: &str, value: &str) -> String {
    let mut line = format!("{name}=\"");
    for char in value.chars() {
        match char {
            '\\' => line.push_str("\\\\"),
            '"' => line.push_str("\\\""),
            '\n' => line.push_str("\\n"),
            '\r' => line.push_str("\\r"),
            '\t' => line.push_str("\\t"),
            other => line.push(other),
        }
    }
    line.push_str("\"\n");
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_quoted() {
        assert_eq!(line("password", "a\"b'c\\d#e\nf"), "password=\"a\\\"b'c\\\\d#e\\nf\"\n");
    }
}
