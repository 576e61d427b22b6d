//! What became of a commit: looked at, never guessed.

use std::time::Duration;

use backup_core::{EntityTag, Error, ErrorKind, ObjectKey, Receipt, Result, Sha256Digest, Stage, Whole};
use opendal::{Metadata, Operator};

use crate::s3::multipart::Multipart;
use crate::s3::transport::Witness;
use crate::s3::upload::MARK;
use crate::trouble::{Trouble, from_opendal};

/// How long parts that are on their way may take to arrive before their upload is aborted; one that
/// arrives later would stay at the server. What is cut off here never arrives whole.
const ARRIVING: Duration = Duration::from_secs(3);

/// An object whose last request is about to be, or was, sent.
pub(super) struct Sent<'a> {
    pub(super) operator: &'a Operator,
    pub(super) key: &'a ObjectKey,
    pub(super) subject: &'a str,
    /// The mark that only this upload knows.
    pub(super) mark: &'a str,
    pub(super) whole: Whole,
    pub(super) witness: &'a Witness,
    /// The upload at the server, if the object has more than one part.
    pub(super) multipart: Option<&'a Multipart>,
}

/// What is there under the object's name.
enum Found {
    Nothing,
    Ours(Metadata),
    /// Somebody else's.
    Other,
    Unknown(opendal::Error),
}

impl Sent<'_> {
    async fn look(&self) -> Found {
        match self.operator.stat(self.key.as_str()).await {
            Ok(found) if self.is_ours(&found) => Found::Ours(found),
            Ok(found) if found.is_file() => Found::Other,
            Ok(_) => Found::Nothing,
            Err(error) if error.kind() == opendal::ErrorKind::NotFound => Found::Nothing,
            Err(error) => Found::Unknown(error),
        }
    }

    fn is_ours(&self, found: &Metadata) -> bool {
        found.user_metadata().is_some_and(|metadata| metadata.get(MARK) == Some(self.mark))
    }

    /// `Conflict` when the name is already taken, for servers that would not say so themselves.
    pub(super) async fn check_free(&self) -> Result<()> {
        match self.look().await {
            Found::Nothing => Ok(()),
            Found::Ours(_) | Found::Other => Err(Trouble::Taken.with(self.subject, "")),
            Found::Unknown(error) if may_not_look(&error) => Ok(()),
            Found::Unknown(error) => Err(from_opendal(self.subject, "looking for it", &error)),
        }
    }

    /// Removes an object that we made and that is not what we sent, where our key may do that.
    pub(super) async fn take_back(&self) {
        if let Found::Ours(_) = self.look().await
            && let Err(error) = self.operator.delete(self.key.as_str()).await
        {
            tracing::warn!(object = self.subject, error = %error.message(), "a damaged object could not be removed");
        }
    }

    /// Compares an object of one put with what was sent, where the answers left that in doubt and our
    /// key may read. Its length is at most that of the first part.
    async fn read_back(&self, found: &Metadata) -> Result<()> {
        if self.multipart.is_some() || !self.witness.in_doubt() {
            return Ok(());
        }
        let mut reading = self.operator.read_with(self.key.as_str());
        if let Some(tag) = found.etag() {
            reading = reading.if_match(tag);
        }
        match reading.await {
            Ok(stored) if Sha256Digest::of(&stored.to_bytes()) == self.whole.sha256() => Ok(()),
            Ok(_) => {
                self.take_back().await;
                Err(Trouble::Corrupted.with(self.subject, "committing"))
            }
            // The server was told the checksum and said yes; a key that may only write hears no more.
            Err(error) if may_not_look(&error) => Ok(()),
            Err(error) => Err(uncertain(self.subject, error.to_string())),
        }
    }

    fn receipt(&self, etag: Option<String>) -> Receipt {
        let tag = etag.filter(|etag| !etag.is_empty()).map(EntityTag);
        Receipt { len: self.whole.len(), sha256: self.whole.sha256(), tag }
    }

    /// The receipt for our object, which must have all its bytes.
    fn whole(&self, found: &Metadata) -> Result<Receipt> {
        if found.content_length() == self.whole.len() {
            return Ok(self.receipt(found.etag().map(str::to_owned)));
        }
        let what = format!("the server keeps {} bytes of {}", found.content_length(), self.whole.len());
        Err(Error::new(ErrorKind::Integrity, self.subject, what)
            .with_hint("the server lost bytes: do not trust it with backups"))
    }

    async fn abort(&self) -> Aborted {
        match self.multipart {
            Some(multipart) => abort(multipart, self.witness, self.subject).await,
            None => Aborted::Unknown,
        }
    }

    /// Turns the answer to the last request into what is so.
    pub(super) async fn settle(&self, closed: opendal::Result<Option<String>>) -> Result<Receipt> {
        let closed = match closed {
            // Nothing that could publish was sent, or the server has other bytes than ours: there is
            // nothing to settle.
            Err(error) if self.witness.publications() == 0 || is_corrupted(&error) => {
                if let Some(multipart) = self.multipart {
                    abort(multipart, self.witness, self.subject).await;
                } else if is_corrupted(&error) {
                    self.take_back().await;
                }
                return Err(from_opendal(self.subject, "committing", &error));
            }
            closed => closed,
        };
        let found = self.look().await;
        let error = match (closed, found) {
            (_, Found::Ours(found)) => {
                let receipt = self.whole(&found)?;
                self.read_back(&found).await?;
                return Ok(receipt);
            }
            // The server said yes, and keys that may only write cannot look.
            (Ok(answer), Found::Unknown(error)) if may_not_look(&error) => return Ok(self.receipt(answer)),
            (Ok(_), Found::Unknown(error)) => return Err(uncertain(self.subject, error.to_string())),
            (Ok(_), Found::Nothing) => {
                return Err(uncertain(
                    self.subject,
                    "the server said that it is stored, and it is not there",
                ));
            }
            (answer, Found::Other) => {
                if answer.is_err() {
                    self.abort().await;
                }
                return Err(Trouble::Taken.with(self.subject, "committing"));
            }
            // Refused because the name was taken: by ourselves only if we asked before.
            (Err(error), Found::Unknown(_)) if was_taken(&error) && self.witness.publications() > 1 => {
                return Err(uncertain(self.subject, "the name is taken, perhaps by this very object"));
            }
            (Err(error), Found::Nothing | Found::Unknown(_)) if was_taken(&error) => {
                self.abort().await;
                return Err(Trouble::Taken.with(self.subject, "committing"));
            }
            (Err(error), Found::Nothing | Found::Unknown(_)) => error,
        };
        if self.multipart.is_some() {
            // An upload that could be aborted cannot be completed any more.
            if self.abort().await == Aborted::Yes {
                return match self.look().await {
                    Found::Ours(found) => self.whole(&found),
                    Found::Other => Err(Trouble::Taken.with(self.subject, "committing")),
                    Found::Nothing => Err(from_opendal(self.subject, "committing", &error)),
                    Found::Unknown(_) if refused(&error) => {
                        Err(from_opendal(self.subject, "committing", &error))
                    }
                    Found::Unknown(other) => Err(uncertain(self.subject, other.to_string())),
                };
            }
            if let Found::Ours(found) = self.look().await {
                return self.whole(&found);
            }
        }
        if refused(&error) {
            return Err(from_opendal(self.subject, "committing", &error));
        }
        let trouble = Trouble::of_opendal(&error);
        Err(uncertain(self.subject, format!("{trouble}")))
    }
}

/// Whether the server itself said no, so that nothing can have happened.
fn refused(error: &opendal::Error) -> bool {
    matches!(
        Trouble::of_opendal(error),
        Trouble::AccessDenied
            | Trouble::BadCredentials
            | Trouble::NoCredentials
            | Trouble::WrongRegion
            | Trouble::ClockSkew
            | Trouble::NoSuchBucket
            | Trouble::NotSupported
            | Trouble::ConnectionRefused
            | Trouble::Certificate
    )
}

/// Whether the server refused because the condition that the name is free was not met.
fn was_taken(error: &opendal::Error) -> bool {
    matches!(error.kind(), opendal::ErrorKind::ConditionNotMatch | opendal::ErrorKind::Conflict)
}

fn is_corrupted(error: &opendal::Error) -> bool {
    Trouble::of_opendal(error) == Trouble::Corrupted
}

fn may_not_look(error: &opendal::Error) -> bool {
    Trouble::of_opendal(error) == Trouble::AccessDenied
}

/// Nobody knows whether the object is there.
pub(super) fn uncertain(subject: &str, why: impl Into<String>) -> Error {
    Error::new(ErrorKind::Uncertain, subject, "it is not known whether it was stored")
        .with_hint("look whether the object is there before anything else")
        .with_source(why.into())
        .at(Stage::Commit)
}

/// Whether the server has confirmed that an upload is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Aborted {
    /// It was there and is gone.
    Yes,
    /// It was not there, or nobody answered.
    Unknown,
}

/// Aborts a multipart upload.
pub(super) async fn abort(multipart: &Multipart, witness: &Witness, subject: &str) -> Aborted {
    witness.quiet(ARRIVING).await;
    match multipart.abort().await {
        Ok(()) => Aborted::Yes,
        Err(error) if error.kind() == opendal::ErrorKind::NotFound => Aborted::Unknown,
        Err(error) => {
            tracing::warn!(object = subject, error = %error.message(), "an unfinished upload could not be aborted");
            Aborted::Unknown
        }
    }
}
