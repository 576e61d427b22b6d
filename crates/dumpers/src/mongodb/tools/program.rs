//! The programs themselves: found, and asked for their version.

use std::path::PathBuf;
use std::time::Duration;

use backup_core::Context;

use crate::mongodb::error::MongoError;
use crate::tool::{Places, PrivateFile, ToolCommand, ToolError, ToolVersion, Waiting, capture};

use super::connection::Connection;

/// The first version that is told its secrets by a file: <https://www.mongodb.com/docs/database-tools/>.
const OLDEST: &str = "100.3";

/// A short call answers within this or is stopped.
const SHORT: Waiting = Waiting {
    stall: Duration::from_secs(30),
    grace: Duration::from_secs(5),
    kill_after: Duration::from_secs(2),
};

/// A program with its version.
#[derive(Debug, Clone)]
pub(super) struct Program {
    path: PathBuf,
    pub(super) version: ToolVersion,
}

impl Program {
    /// The newest program of this name.
    ///
    /// # Errors
    /// `Missing`; `ToolTooOld` where every one is; what the only one said.
    pub(super) async fn find(cx: &Context, places: &Places, name: &str) -> Result<Self, MongoError> {
        let mut found: Vec<Self> = Vec::new();
        let mut failure = None;
        for path in places.all(name)? {
            match Self::ask(cx, name, path).await {
                Ok(program) => found.push(program),
                Err(error @ MongoError::Tool(ToolError::Cancelled { .. })) => return Err(error),
                // One broken installation must not hide a good one.
                Err(error) => failure = Some(error),
            }
        }
        let newest = found.into_iter().max_by(|a, b| a.version.cmp(&b.version));
        match (newest, failure) {
            (Some(newest), _) if Some(&newest.version) < ToolVersion::find(OLDEST).as_ref() => {
                let found = format!("{} at {}", newest.version, newest.path.display());
                Err(MongoError::ToolTooOld { tool: name.to_owned(), oldest: OLDEST, found })
            }
            (Some(newest), _) => Ok(newest),
            (None, Some(error)) => Err(error),
            (None, None) => Err(MongoError::Answer(format!("{name} --version"))),
        }
    }

    async fn ask(cx: &Context, name: &str, path: PathBuf) -> Result<Self, MongoError> {
        let command = ToolCommand::new(&path).arg("--version");
        let said = capture(cx, &command, SHORT, None, 64 * 1024).await?;
        let said = String::from_utf8_lossy(&said);
        let version = banner_version(name, &said);
        let version = version.ok_or_else(|| MongoError::Answer(format!("{} --version", path.display())))?;
        Ok(Self { path, version })
    }

    /// The program with its configuration file, which must outlive the program.
    pub(super) fn command(&self, file: &PrivateFile, connection: &Connection) -> ToolCommand {
        let command = ToolCommand::new(&self.path).arg(format!("--config={}", file.path())).arg("--archive");
        connection.secrets().iter().fold(command, ToolCommand::masking)
    }
}

/// `mongodump version: 100.14.0`, and `r4.0.28` of the programs that came with a server.
fn banner_version(name: &str, said: &str) -> Option<ToolVersion> {
    let rest = said.lines().next()?.strip_prefix(name)?.strip_prefix(" version:")?;
    ToolVersion::find(rest.trim().trim_start_matches(['r', 'v']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_program_that_is_missing_is_named_with_its_package() {
        let nowhere = tempfile::tempdir().unwrap();
        let places = Places::only(&[nowhere.path().to_owned()]);
        let error = Program::find(&Context::new(), &places, "mongodump").await.unwrap_err().about("database");
        assert_eq!(error.kind(), backup_core::ErrorKind::Unsupported);
        assert!(error.what().contains("mongodump was not found"), "{error}");
        assert!(error.hint().unwrap().contains("mongodb-database-tools"), "{:?}", error.hint());
    }

    #[test]
    fn banners_are_read() {
        let table = [
            ("mongodump version: 100.14.0\ngit version: 6d4f1\nGo version: go1.24\n", Some("100.14.0")),
            ("mongodump version: r4.0.28\ngit version: af1a9\n", Some("4.0.28")),
            ("mongodump version: built-without-version-string\n", None),
            ("git version: 100\n", None),
            ("", None),
        ];
        for (said, expected) in table {
            let version = banner_version("mongodump", said).map(|version| version.to_string());
            assert_eq!(version.as_deref(), expected, "{said}");
        }
        assert!(ToolVersion::find("100.14.0") > ToolVersion::find(OLDEST));
        assert!(ToolVersion::find("4.0.28") < ToolVersion::find(OLDEST));
    }
}
