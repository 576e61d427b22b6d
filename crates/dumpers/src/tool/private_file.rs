//! Text for a program in a file that no disk and no other user sees.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;

use super::error::ToolError;

/// A file in memory. The program opens it through our process, as long as this value lives; when we
/// die, it is gone.
#[derive(Debug)]
pub(crate) struct PrivateFile {
    file: File,
}

impl PrivateFile {
    /// Keeps `text`. Only this user may open it.
    ///
    /// # Errors
    /// `NotStarted` about `what` when the system has no memory for it.
    pub(crate) fn new(what: &str, text: &str) -> Result<Self, ToolError> {
        let made = || -> std::io::Result<File> {
            let descriptor = rustix::fs::memfd_create("strongroom-options", rustix::fs::MemfdFlags::CLOEXEC)?;
            // Programs pass over a file that everyone may write to, and it has no other mode yet.
            rustix::fs::fchmod(&descriptor, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR)?;
            let mut file = File::from(descriptor);
            file.write_all(text.as_bytes())?;
            Ok(file)
        };
        made()
            .map(|file| Self { file })
            .map_err(|error| ToolError::NotStarted { tool: what.to_owned(), reason: error.to_string() })
    }

    /// Where the program opens it. Each time it is read from its beginning.
    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_user_can_open_it() {
        let file = PrivateFile::new("options", "[client]\n").unwrap();
        let path = file.path();
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
        // Each time from the beginning: programs may read it more than once.
        for _ in 0..2 {
            assert_eq!(std::fs::read_to_string(&path).unwrap(), "[client]\n");
        }
        drop(file);
        assert!(std::fs::read_to_string(path).is_err());
    }
}
