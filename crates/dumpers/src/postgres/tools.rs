//! The client programs of PostgreSQL: which of those installed fits a server.

use std::path::PathBuf;
use std::time::Duration;

use backup_core::Context;

use super::error::PostgresError;
use crate::tool::{Places, ToolCommand, ToolError, ToolVersion, Waiting, capture};

/// A client program with its version.
#[derive(Debug, Clone)]
pub(super) struct Client {
    pub(super) path: PathBuf,
    pub(super) version: ToolVersion,
}

/// Short calls answer within this or are stopped.
pub(super) const SHORT: Waiting = Waiting {
    stall: Duration::from_secs(60),
    grace: Duration::from_secs(5),
    kill_after: Duration::from_secs(2),
};

/// All installed programs of that name that tell their version, newest first.
pub(super) async fn installed(
    cx: &Context,
    places: &Places,
    name: &str,
) -> Result<Vec<Client>, PostgresError> {
    let mut clients = Vec::new();
    let mut last_failure = None;
    for path in places.all(name)? {
        let command = ToolCommand::new(&path).arg("--version");
        match capture(cx, &command, SHORT, None, 64 * 1024).await {
            Ok(said) => match ToolVersion::find(&String::from_utf8_lossy(&said)) {
                Some(version) => clients.push(Client { path, version }),
                None => {
                    let what = format!("{} --version", path.display());
                    last_failure = Some(PostgresError::Answer(what));
                }
            },
            Err(error @ ToolError::Cancelled { .. }) => return Err(error.into()),
            // One broken installation must not hide a good one.
            Err(error) => last_failure = Some(error.into()),
        }
    }
    clients.sort_by(|a, b| b.version.cmp(&a.version));
    match last_failure {
        Some(error) if clients.is_empty() => Err(error),
        _ => Ok(clients),
    }
}

/// The program for a server: of the same major version if there is one, else the newest, but never
/// an older one.
pub(super) fn fitting(
    clients: Vec<Client>,
    tool: &str,
    server: &ToolVersion,
) -> Result<Client, PostgresError> {
    let same = clients.iter().position(|client| client.version.major() == server.major());
    let newest = clients.iter().position(|client| client.version.major() > server.major());
    match same.or(newest) {
        Some(at) => Ok(clients.into_iter().nth(at).unwrap_or_else(|| unreachable!("found above"))),
        None => {
            let found: Vec<String> = clients
                .iter()
                .map(|client| format!("{} at {}", client.version, client.path.display()))
                .collect();
            let found = if found.is_empty() { "none".to_owned() } else { found.join(", ") };
            Err(PostgresError::ToolTooOld { tool: tool.to_owned(), server: server.clone(), found })
        }
    }
}

/// The major version whose `pg_restore` began to read this version of archives.
pub(super) fn first_reader(archive: &str) -> u32 {
    match archive {
        "1.16" => 17,
        "1.15" => 16,
        // Everything that is still in use.
        _ => 0,
    }
}

/// Whether `pg_restore` of this version sets `transaction_timeout`, which such a server does not
/// know. Each from 17 on does, whatever server it talks to.
pub(super) fn sets_unknown_timeout(client: &ToolVersion, server: &ToolVersion) -> bool {
    const SINCE: u32 = 17;
    client.major() >= SINCE && server.major() < SINCE
}

/// Whether the one thing that went wrong was that setting: `pg_restore` counts its errors last.
pub(super) fn only_unknown_timeout(error: &ToolError) -> bool {
    const ONE: &str = "pg_restore: warning: errors ignored on restore: 1";
    const SETTING: &str = "ERROR:  unrecognized configuration parameter \"transaction_timeout\"";
    let said = error.stderr();
    let mut errors = said.lines().filter(|line| line.starts_with("pg_restore: error: "));
    matches!(error, ToolError::Exited { status: 1, .. })
        && said.lines().next_back() == Some(ONE)
        && errors.next().is_some_and(|line| line.ends_with(SETTING))
        && errors.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(version: &str) -> Client {
        Client { path: PathBuf::from("/bin/pg_dump"), version: ToolVersion::find(version).unwrap() }
    }

    #[test]
    fn the_same_major_wins_then_the_newest_and_never_an_older_one() {
        let table: [(&[&str], &str, Option<&str>); 6] = [
            (&["18.1", "15.18"], "15.3", Some("15.18")),
            (&["18.1", "15.18"], "16.3", Some("18.1")),
            (&["18.1", "17.0", "15.18"], "16.3", Some("18.1")),
            (&["15.18", "15.2"], "15.20", Some("15.18")),
            (&["15.18"], "18.1", None),
            (&[], "18.1", None),
        ];
        for (have, server, expected) in table {
            let clients = have.iter().map(|version| client(version)).collect();
            let found = fitting(clients, "pg_dump", &ToolVersion::find(server).unwrap());
            assert_eq!(found.ok().map(|client| client.version.to_string()).as_deref(), expected, "{server}");
        }
    }

    #[test]
    fn the_message_names_versions_places_and_the_package() {
        let server = ToolVersion::find("18.6").unwrap();
        let error = fitting(vec![client("15.18")], "pg_dump", &server).unwrap_err().about("database \"x\"");
        assert_eq!(error.what(), "server 18.6 is newer than every pg_dump found (15.18 at /bin/pg_dump)");
        assert_eq!(error.hint(), Some("install postgresql-client-18"));
    }

    #[test]
    fn one_known_error_is_forgiven_and_nothing_else() {
        let known = "pg_restore: error: could not execute query: ERROR:  unrecognized configuration \
                     parameter \"transaction_timeout\"\nCommand was: SET transaction_timeout = 0;\n";
        let other = "pg_restore: error: could not execute query: ERROR:  out of memory\n";
        let ended = |status, stderr: String| ToolError::Exited { tool: "pg_restore".into(), status, stderr };
        let count = |count| format!("pg_restore: warning: errors ignored on restore: {count}");
        assert!(only_unknown_timeout(&ended(1, format!("{known}{}", count(1)))));
        for (status, said) in [
            (1, format!("{known}{other}{}", count(2))),
            (1, format!("{known}{}", count(2))),
            (1, format!("{known}{}", count(11))),
            (1, format!("{other}{}", count(1))),
            (1, known.to_owned()),
            (1, count(1)),
            (2, format!("{known}{}", count(1))),
            (1, format!("{known}{}\n{other}", count(1))),
        ] {
            assert!(!only_unknown_timeout(&ended(status, said.clone())), "{said}");
        }
        let version = |text: &str| ToolVersion::find(text).unwrap();
        assert!(sets_unknown_timeout(&version("18.1"), &version("15.2")));
        assert!(!sets_unknown_timeout(&version("18.1"), &version("17.2")));
        assert!(!sets_unknown_timeout(&version("16.1"), &version("15.2")));
    }
}
