//! What the programs say, told apart.

use crate::mongodb::error::MongoError;
use crate::tool::ToolError;

/// The reason that a program gave on standard error, as far as it is a known one.
pub(super) fn reason(error: ToolError) -> MongoError {
    let said = error.stderr();
    let line = said
        .lines()
        .rev()
        .find(|line| line.contains("Failed: ") || line.contains("error: "))
        .or_else(|| said.lines().next_back());
    let Some(line) = line else { return error.into() };
    let line: String = line.trim().chars().take(400).collect();
    let has = |needles: &[&str]| needles.iter().any(|needle| line.contains(needle));
    // In the order of their weight: a refused password is told within a failure to connect.
    if has(&["AuthenticationFailed", "auth error", "Authentication failed"]) {
        MongoError::Credentials(line)
    } else if has(&["not authorized", "(Unauthorized)"]) {
        MongoError::Permission { what: format!("do what {} does", error.tool()), said: line }
    } else if has(&["oplog overflow", "CappedPositionLost"]) {
        MongoError::OplogOverrun
    } else if has(&["x509:", "tls:", "certificate"]) {
        MongoError::Certificate(line)
    } else if has(&["No space left on device", "OutOfDiskSpace"]) {
        MongoError::Full(line)
    } else if has(&["server selection error", "no reachable servers", "connection refused", "no such host"]) {
        MongoError::Unreachable(line)
    } else if has(&[
        "socket was unexpectedly closed",
        "connection reset",
        "broken pipe",
        "ShutdownInProgress",
    ]) {
        MongoError::Lost(line)
    } else {
        error.into()
    }
}

/// The number of documents that `mongorestore` says it could not restore.
pub(super) fn refused(said: &str) -> u64 {
    let told = said.match_indices(" document(s) failed to restore");
    let number = |at: usize| said[..at].rsplit(|c: char| !c.is_ascii_digit()).next()?.parse().ok();
    told.filter_map(|(at, _)| number(at)).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_found_in_what_the_programs_say() {
        let exited = |stderr: &str| {
            reason(ToolError::Exited { tool: "mongodump".to_owned(), status: 1, stderr: stderr.to_owned() })
        };
        let time = "2026-11-22T05:00:00.000+0000\t";
        type Is = fn(&MongoError) -> bool;
        let table: [(&str, Is); 8] = [
            (
                "Failed: can't create session: failed to connect to mongodb://h/: connection() error occurred during \
                 connection handshake: auth error: sasl conversation error: unable to authenticate using mechanism \
                 \"SCRAM-SHA-256\": (AuthenticationFailed) Authentication failed.",
                |error| matches!(error, MongoError::Credentials(_)),
            ),
            (
                "Failed: can't create session: failed to connect to mongodb://h/: server selection error: server \
                 selection timeout, current topology: { Type: Unknown, Servers: [{ Addr: h:27017, Type: Unknown, Last \
                 error: dial tcp 127.0.0.1:1: connect: connection refused }, ] }",
                |error| matches!(error, MongoError::Unreachable(_)),
            ),
            (
                "Failed: error getting collections for database `shop`: (Unauthorized) not authorized on shop to \
                 execute command { listCollections: 1 }",
                |error| matches!(error, MongoError::Permission { .. }),
            ),
            (
                "Failed: oplog overflow: mongodump was unable to capture all new oplog entries during execution",
                |error| matches!(error, MongoError::OplogOverrun),
            ),
            (
                "Failed: can't create session: server selection error: x509: certificate signed by unknown authority",
                |error| matches!(error, MongoError::Certificate(_)),
            ),
            ("Failed: shop.a: error restoring from archive on stdin: (OutOfDiskSpace) no room", |error| {
                matches!(error, MongoError::Full(_))
            }),
            ("Failed: something new", |error| matches!(error, MongoError::Tool(_))),
            ("", |error| matches!(error, MongoError::Tool(_))),
        ];
        for (line, is) in table {
            let error = exited(&format!("{time}writing shop.a\n{time}{line}"));
            assert!(is(&error), "{line}: {error:?}");
        }
    }

    #[test]
    fn refused_documents_are_counted() {
        let said = "t\t5 document(s) restored successfully. 12 document(s) failed to restore.\n";
        assert_eq!(refused(said), 12);
        assert_eq!(refused("0 document(s) failed to restore"), 0);
        assert_eq!(refused("nothing of the kind"), 0);
    }
}
