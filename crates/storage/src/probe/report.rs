//! What was found out.

use backup_core::{Error, ObjectKey};
use serde::Serialize;

/// What a place and the credentials can do.
#[derive(Debug)]
pub struct ProbeReport {
    /// The place, without a secret.
    pub destination: String,
    /// Whether the folder or bucket was made by this probe.
    pub created: bool,
    /// What keeps backups from being made there; `None` where they can be.
    pub problem: Option<Error>,
    /// Each thing that was tried, in the order of trying.
    pub checks: Vec<Check>,
    /// Whether whoever holds these credentials can take back what is stored.
    pub append_only: AppendOnly,
    /// Why.
    pub because: Vec<String>,
    /// What the server accepts and does not do.
    pub not_obeyed: Vec<String>,
    /// How far the store's clock is ahead of ours, in seconds, where it tells its time.
    pub clock_ahead_seconds: Option<f64>,
    /// What the probe made and could not remove.
    pub left: Vec<String>,
    /// What to set up for append-only credentials; `None` where they are.
    pub advice: Option<String>,
}

/// One thing that was tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// A stable name.
    pub check: &'static str,
    /// What came of it.
    pub outcome: Outcome,
    /// In words.
    pub detail: String,
}

/// What came of trying.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It can be done, or is kept.
    Yes,
    /// It cannot be done, or is not kept.
    No,
    /// The server accepts the request and does not do what it says.
    NotObeyed,
    /// The credentials do not allow it.
    Denied,
    /// The place has no such thing.
    Unsupported,
    /// It could not be found out.
    Unknown,
}

impl Outcome {
    /// As it is printed.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Yes => "yes",
            Self::No => "no",
            Self::NotObeyed => "not-obeyed",
            Self::Denied => "denied",
            Self::Unsupported => "unsupported",
            Self::Unknown => "unknown",
        }
    }
}

/// Whether the credentials can only add.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum AppendOnly {
    /// Every kind of unconditional overwrite and a delete were refused.
    Refused,
    /// They are accepted, and the version before them is still there and locked: it was read back and could
    /// not be removed.
    Versions,
    /// What is stored can be taken back.
    No,
    /// It could not be found out, so do not count on it.
    Unknown,
}

impl ProbeReport {
    pub(super) fn new(destination: &str) -> Self {
        Self {
            destination: destination.to_owned(),
            created: false,
            problem: None,
            checks: Vec::new(),
            append_only: AppendOnly::Unknown,
            because: Vec::new(),
            not_obeyed: Vec::new(),
            clock_ahead_seconds: None,
            left: Vec::new(),
            advice: None,
        }
    }

    /// What came of one check.
    #[must_use]
    pub fn outcome(&self, check: &str) -> Option<Outcome> {
        self.checks.iter().find(|done| done.check == check).map(|done| done.outcome)
    }

    pub(super) fn note(&mut self, check: &'static str, outcome: Outcome, detail: impl Into<String>) {
        self.checks.push(Check { check, outcome, detail: detail.into() });
    }

    pub(super) fn leave(&mut self, key: &ObjectKey) {
        self.left.push(key.to_string());
    }
}
