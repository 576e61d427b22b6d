//! How a command ends badly, and how that is told once, at the edge.

use std::error::Error as _;

use backup_core::{Error, ErrorKind};
use serde_json::{Value, json};

use crate::settings::Problem;

/// The result of a command.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Settings that are wrong, all of them.
    Settings(Vec<Problem>),
    /// Anything else.
    Error(Error),
    /// A backup into several destinations that is not in enough of them: why, and what is where.
    Copies(Error, Vec<Value>),
    /// Somebody stopped reading our output; nobody is there to be told.
    ClosedPipe,
}

impl Failure {
    /// A setting or argument that is missing or wrong.
    pub(crate) fn usage(
        setting: impl Into<String>,
        what: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self::Settings(vec![Problem::at(setting, what).with_hint(hint)])
    }

    /// The exit code; see docs/exit-codes.md.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Settings(_) => ErrorKind::Config.exit_code(),
            Self::Error(error) | Self::Copies(error, _) => error.kind().exit_code(),
            // 128 + SIGPIPE, as a program reports that the signal ended.
            Self::ClosedPipe => 141,
        }
    }

    /// The kind of error.
    pub(crate) fn kind(&self) -> ErrorKind {
        match self {
            Self::Settings(_) => ErrorKind::Config,
            Self::Error(error) | Self::Copies(error, _) => error.kind(),
            Self::ClosedPipe => ErrorKind::Cancelled,
        }
    }

    /// What a person reads.
    pub(crate) fn for_a_person(&self) -> String {
        match self {
            Self::ClosedPipe => String::new(),
            Self::Settings(problems) => {
                let mut text = String::new();
                for problem in problems {
                    text.push_str(&format!("error: {problem}\n"));
                    if let Some(hint) = &problem.hint {
                        text.push_str(&format!("  try: {hint}\n"));
                    }
                }
                text
            }
            Self::Error(error) | Self::Copies(error, _) => {
                let mut text = format!("error: {error}\n");
                for cause in causes(error) {
                    text.push_str(&format!("  because: {cause}\n"));
                }
                if let Some(hint) = error.hint() {
                    text.push_str(&format!("  try: {hint}\n"));
                }
                text
            }
        }
    }

    /// What a program reads.
    pub(crate) fn for_a_program(&self) -> Value {
        let body = match self {
            Self::ClosedPipe => json!({ "kind": "closed pipe" }),
            Self::Settings(problems) => json!({
                "kind": ErrorKind::Config.to_string(),
                "exit_code": self.exit_code(),
                "subject": "settings",
                "what": problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
                "stage": "settings",
                "problems": problems,
            }),
            Self::Error(error) => of_error(error),
            Self::Copies(error, copies) => {
                let mut body = of_error(error);
                body["copies"] = Value::Array(copies.clone());
                body
            }
        };
        json!({ "error": body })
    }
}

fn of_error(error: &Error) -> Value {
    json!({
        "kind": error.kind().to_string(),
        "exit_code": error.kind().exit_code(),
        "subject": error.subject(),
        "what": error.what(),
        "hint": error.hint(),
        "stage": error.stage().map(|stage| stage.to_string()),
        "causes": causes(error),
    })
}

/// The chain below an error, without repetitions.
fn causes(error: &Error) -> Vec<String> {
    let mut causes = Vec::new();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if !error.to_string().contains(&text) && !causes.contains(&text) {
            causes.push(text);
        }
        next = cause.source();
    }
    causes
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

/// An error of this machine's file system about `path`.
pub(crate) fn io_error(path: &std::path::Path, doing: &str, error: std::io::Error) -> Error {
    use std::io::ErrorKind as Io;
    let kind = match error.kind() {
        Io::NotFound => ErrorKind::NotFound,
        Io::AlreadyExists => ErrorKind::Conflict,
        Io::PermissionDenied => ErrorKind::Denied,
        Io::StorageFull | Io::QuotaExceeded => ErrorKind::Unavailable,
        _ => ErrorKind::Unavailable,
    };
    let hint = match error.kind() {
        Io::NotFound => "check the path",
        Io::AlreadyExists => "choose another name, or remove the file if it is not needed",
        Io::PermissionDenied => "run as a user who may, or change the file's owner",
        Io::StorageFull | Io::QuotaExceeded => "make room there, then run the command again",
        _ => "check the disk and the path, then run the command again",
    };
    Error::new(kind, path.display().to_string(), format!("cannot {doing}: {error}"))
        .with_hint(hint)
        .with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_carry_what_happened_and_what_to_try() {
        let error = Error::new(ErrorKind::Denied, "key.pem", "wrong passphrase")
            .with_source(std::io::Error::other("deep down"))
            .with_hint("try again");
        let failure = Failure::from(error);
        assert_eq!(
            failure.for_a_person(),
            "error: key.pem: wrong passphrase\n  because: deep down\n  try: try again\n"
        );
        let json = failure.for_a_program();
        assert_eq!(json["error"]["kind"], "denied");
        assert_eq!(json["error"]["exit_code"], 12);
        assert_eq!(json["error"]["causes"][0], "deep down");
    }

    #[test]
    fn settings_are_told_together() {
        let failure =
            Failure::Settings(vec![Problem::at("a", "bad"), Problem::at("b", "worse").with_hint("mend it")]);
        assert_eq!(
            failure.for_a_person(),
            "error: setting: a: bad\nerror: setting: b: worse\n  try: mend it\n"
        );
        assert_eq!(failure.exit_code(), 2);
        assert_eq!(failure.for_a_program()["error"]["problems"][1]["hint"], "mend it");
    }
}
