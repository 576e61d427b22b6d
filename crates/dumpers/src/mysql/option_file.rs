//! Options for the client programs in a file that no disk and no other user sees.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;

use crate::tool::ToolError;

/// Text in the form of the programs' option files (MySQL manual, 6.2.2.2), kept in memory. The
/// programs open it through our process, as long as this value lives; when we die, it is gone.
#[derive(Debug)]
pub(super) struct OptionFile {
    file: File,
}

impl OptionFile {
    /// Keeps `text`. Only this user may open it.
    ///
    /// # Errors
    /// `NotStarted` when the system has no memory for it.
    pub(super) fn new(text: &str) -> Result<Self, ToolError> {
        let made = || -> std::io::Result<File> {
            let descriptor = rustix::fs::memfd_create("strongroom-options", rustix::fs::MemfdFlags::CLOEXEC)?;
            // The programs pass over a file that everyone may write to, and it has no other mode yet.
            rustix::fs::fchmod(&descriptor, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR)?;
            let mut file = File::from(descriptor);
            file.write_all(text.as_bytes())?;
            Ok(file)
        };
        made().map(|file| Self { file }).map_err(|error| ToolError::NotStarted {
            tool: "option file".to_owned(),
            reason: error.to_string(),
        })
    }

    /// The argument that makes a program read this file and no other; it must be the first.
    pub(super) fn argument(&self) -> String {
        format!("--defaults-file=/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd())
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
    fn only_this_user_can_open_it() {
        let file = OptionFile::new("[client]\n").unwrap();
        let argument = file.argument();
        let path = argument.strip_prefix("--defaults-file=").unwrap();
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(path).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
        // Each time from the beginning: the programs read it more than once.
        for _ in 0..2 {
            assert_eq!(std::fs::read_to_string(path).unwrap(), "[client]\n");
        }
        let path = path.to_owned();
        drop(file);
        assert!(std::fs::read_to_string(path).is_err());
    }

    #[test]
    fn values_are_quoted() {
        assert_eq!(line("password", "a\"b'c\\d#e\nf"), "password=\"a\\\"b'c\\\\d#e\\nf\"\n");
    }
}
