//! The one error that crosses a port.

use std::error::Error as StdError;
use std::fmt;

/// The result of every port.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What to do about an error; each kind has one documented exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// We are wrong: a broken promise inside the program.
    Bug,
    /// A setting is missing or wrong; the message names the setting and where it came from.
    Config,
    /// The thing named does not exist.
    NotFound,
    /// Another run, or an object that is already there, stands in the way.
    Conflict,
    /// Credentials or a key were refused.
    Denied,
    /// Bytes are not what was sealed or signed. Never retried away.
    Integrity,
    /// A dump or restore program failed; the tail of its stderr is in the message.
    Tool,
    /// The other side is down or out of space.
    Unavailable,
    /// The other side did not answer in time.
    TimedOut,
    /// The input is understood and this version cannot do it.
    Unsupported,
    /// A commit was sent and its answer is lost; verify before doing anything else.
    Uncertain,
    /// It was done in fewer places than asked for.
    Incomplete,
    /// Somebody asked to stop.
    Cancelled,
}

impl ErrorKind {
    /// The process exit code that stands for this kind.
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Bug => 1,
            Self::Config => 2,
            Self::NotFound => 10,
            Self::Conflict => 11,
            Self::Denied => 12,
            Self::Integrity => 13,
            Self::Tool => 14,
            Self::Unavailable | Self::TimedOut => 15,
            Self::Unsupported => 16,
            Self::Uncertain => 17,
            Self::Incomplete => 18,
            Self::Cancelled => 130,
        }
    }

    /// Whether and how trying again can help.
    #[must_use]
    pub const fn retry(self) -> Retry {
        match self {
            Self::Unavailable | Self::TimedOut => Retry::BackedOff,
            Self::Tool => Retry::WholeRun,
            Self::Conflict => Retry::AfterTheOther,
            Self::Uncertain => Retry::VerifyFirst,
            _ => Retry::Never,
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bug => "bug",
            Self::Config => "configuration",
            Self::NotFound => "not found",
            Self::Conflict => "conflict",
            Self::Denied => "denied",
            Self::Integrity => "integrity",
            Self::Tool => "tool failed",
            Self::Unavailable => "unavailable",
            Self::TimedOut => "timed out",
            Self::Unsupported => "unsupported",
            Self::Uncertain => "uncertain",
            Self::Incomplete => "incomplete",
            Self::Cancelled => "cancelled",
        })
    }
}

/// Whether trying again can help, and what to try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Retry {
    /// The same call gives the same answer.
    Never,
    /// The same request, later.
    BackedOff,
    /// The whole run, under a new id.
    WholeRun,
    /// After the other holder ends.
    AfterTheOther,
    /// Look first whether it happened.
    VerifyFirst,
}

/// Where in a run an error arose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Stage {
    /// Reading settings, keys and arguments.
    Settings,
    /// Looking at the database before a dump.
    Probe,
    /// Reading the dump.
    Dump,
    /// Compressing and encrypting.
    Seal,
    /// Writing to the destination.
    Upload,
    /// The one step that makes an object visible.
    Commit,
    /// Signing and writing the manifest.
    Manifest,
    /// Reading from the destination.
    Fetch,
    /// Decrypting.
    Open,
    /// Checking what is stored.
    Verify,
    /// Feeding the restore tool.
    Restore,
    /// Removing objects.
    Remove,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Settings => "settings",
            Self::Probe => "probe",
            Self::Dump => "dump",
            Self::Seal => "seal",
            Self::Upload => "upload",
            Self::Commit => "commit",
            Self::Manifest => "manifest",
            Self::Fetch => "fetch",
            Self::Open => "open",
            Self::Verify => "verify",
            Self::Restore => "restore",
            Self::Remove => "remove",
        })
    }
}

/// What happened, to what, and what to try.
///
/// `Display` prints the subject and what happened; [`Error::hint`] and the chain of sources are
/// printed once, at the edge of the program. No field may ever hold a secret.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    retry: Retry,
    stage: Option<Stage>,
    subject: String,
    what: String,
    hint: Option<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of `kind` about `subject` (a path, an object, a setting): `what` happened.
    pub fn new(kind: ErrorKind, subject: impl Into<String>, what: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            retry: kind.retry(),
            stage: None,
            subject: subject.into(),
            what: what.into(),
            hint: None,
            source: None,
        }))
    }

    /// Adds what to try.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Adds the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Says where in the run it happened, unless that is already said.
    #[must_use]
    pub fn at(mut self, stage: Stage) -> Self {
        self.0.stage.get_or_insert(stage);
        self
    }

    /// Overrides the retry advice of the kind.
    #[must_use]
    pub fn with_retry(mut self, retry: Retry) -> Self {
        self.0.retry = retry;
        self
    }

    /// The same once more, without its cause: for a list beside an error that is passed on.
    #[must_use]
    pub fn told(&self) -> Self {
        let inner = &self.0;
        Self(Box::new(Inner {
            kind: inner.kind,
            retry: inner.retry,
            stage: inner.stage,
            subject: inner.subject.clone(),
            what: inner.what.clone(),
            hint: inner.hint.clone(),
            source: None,
        }))
    }

    /// A broken promise inside the program.
    pub fn bug(what: impl Into<String>) -> Self {
        Self::new(ErrorKind::Bug, "strongroom", what)
            .with_hint("this is a defect in Strongroom: please report it with this message")
    }

    /// Somebody asked to stop while `subject` was under way.
    pub fn cancelled(subject: impl Into<String>) -> Self {
        Self::new(ErrorKind::Cancelled, subject, "cancelled on request")
    }

    /// The kind.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether trying again can help.
    #[must_use]
    pub fn retry(&self) -> Retry {
        self.0.retry
    }

    /// Where in the run it happened.
    #[must_use]
    pub fn stage(&self) -> Option<Stage> {
        self.0.stage
    }

    /// What it happened to.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.0.subject
    }

    /// What happened.
    #[must_use]
    pub fn what(&self) -> &str {
        &self.0.what
    }

    /// What to try.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.subject, self.0.what)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("stage", &self.0.stage)
            .field("subject", &self.0.subject)
            .field("what", &self.0.what)
            .field("source", &self.0.source)
            .finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_ref().map(|s| s.as_ref() as &(dyn StdError + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_the_documented_ones() {
        let table = [
            (ErrorKind::Bug, 1, Retry::Never),
            (ErrorKind::Config, 2, Retry::Never),
            (ErrorKind::NotFound, 10, Retry::Never),
            (ErrorKind::Conflict, 11, Retry::AfterTheOther),
            (ErrorKind::Denied, 12, Retry::Never),
            (ErrorKind::Integrity, 13, Retry::Never),
            (ErrorKind::Tool, 14, Retry::WholeRun),
            (ErrorKind::Unavailable, 15, Retry::BackedOff),
            (ErrorKind::TimedOut, 15, Retry::BackedOff),
            (ErrorKind::Unsupported, 16, Retry::Never),
            (ErrorKind::Uncertain, 17, Retry::VerifyFirst),
            (ErrorKind::Incomplete, 18, Retry::Never),
            (ErrorKind::Cancelled, 130, Retry::Never),
        ];
        for (kind, code, retry) in table {
            assert_eq!((kind.exit_code(), kind.retry()), (code, retry), "{kind}");
        }
    }

    #[test]
    fn the_first_stage_named_stays() {
        let error = Error::bug("x").at(Stage::Dump).at(Stage::Commit);
        assert_eq!(error.stage(), Some(Stage::Dump));
    }
}
