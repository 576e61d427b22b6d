//! What became of a commit: looked at, never guessed.

use backup_core::{EntityTag, Error, ErrorKind, Receipt, Result, Stage, Whole};

use crate::rest::http::Fault;
use crate::rest::{Api, Head};
use crate::trouble::Trouble;

/// An object whose last request was sent.
pub(super) struct Sent<'a, A> {
    pub(super) api: &'a A,
    pub(super) key: &'a str,
    pub(super) subject: &'a str,
    /// The mark that only this upload knows.
    pub(super) mark: &'a str,
    pub(super) whole: Whole,
    pub(super) crc32c: u32,
}

enum Found {
    Nothing,
    Ours(Head),
    /// Somebody else's.
    Other,
    Unknown(Fault),
}

impl<A: Api> Sent<'_, A> {
    async fn look(&self) -> Found {
        match self.api.head(self.key).await {
            Ok(Some(head)) if head.mark.as_deref() == Some(self.mark) => Found::Ours(head),
            Ok(Some(_)) => Found::Other,
            Ok(None) => Found::Nothing,
            Err(fault) => Found::Unknown(fault),
        }
    }

    /// `Conflict` when the name is already taken, for servers that would not say so themselves.
    pub(super) async fn check_free(&self) -> Result<()> {
        match self.look().await {
            Found::Nothing => Ok(()),
            Found::Ours(_) | Found::Other => Err(Trouble::Taken.with(self.subject, "")),
            Found::Unknown(fault) if fault.trouble == Trouble::AccessDenied => Ok(()),
            Found::Unknown(fault) => Err(fault.at(self.subject, "looking for it")),
        }
    }

    /// Turns the answer to the last request into what is so; `gone` says whether the server confirmed
    /// that the upload can no longer be completed.
    pub(super) async fn settle(&self, answer: Result<(), Fault>, gone: bool) -> Result<Receipt> {
        let fault = match (answer, self.look().await) {
            (_, Found::Ours(head)) => return self.whole(head).await,
            // The server said yes, and keys that may only write cannot look.
            (Ok(()), Found::Unknown(fault)) if fault.trouble == Trouble::AccessDenied => {
                return Ok(self.receipt(None));
            }
            (Ok(()), Found::Unknown(fault)) => return Err(uncertain(self.subject, fault.said())),
            (Ok(()), Found::Nothing) => {
                let why = "the server said that it is stored, and it is not there";
                return Err(uncertain(self.subject, why));
            }
            (_, Found::Other) => return Err(Trouble::Taken.with(self.subject, "committing")),
            (Err(fault), Found::Unknown(_)) if fault.trouble == Trouble::Taken => {
                return Err(uncertain(self.subject, "the name is taken, perhaps by this very object"));
            }
            (Err(fault), Found::Nothing | Found::Unknown(_)) => fault,
        };
        if gone || refused(fault.trouble) {
            return Err(fault.at(self.subject, "committing"));
        }
        Err(uncertain(self.subject, fault.said()))
    }

    /// The receipt for our object, which must have all its bytes.
    async fn whole(&self, head: Head) -> Result<Receipt> {
        if head.len != self.whole.len() {
            let what = format!("the server keeps {} bytes of {}", head.len, self.whole.len());
            return Err(Error::new(ErrorKind::Integrity, self.subject, what)
                .with_hint("the server lost bytes: do not trust it with backups"));
        }
        if head.crc32c.is_some_and(|crc| crc != self.crc32c) {
            // Only this very version, which is ours.
            if let Err(fault) = self.api.remove(self.key, Some(&head.tag)).await {
                tracing::warn!(
                    object = self.subject,
                    error = fault.said(),
                    "a damaged object could not be removed"
                );
            }
            return Err(Trouble::Corrupted.with(self.subject, "committing"));
        }
        Ok(self.receipt(Some(head.tag)))
    }

    fn receipt(&self, tag: Option<String>) -> Receipt {
        Receipt { len: self.whole.len(), sha256: self.whole.sha256(), tag: tag.map(EntityTag) }
    }
}

/// Whether the server itself said no, so that nothing can have happened.
fn refused(trouble: Trouble) -> bool {
    matches!(
        trouble,
        Trouble::AccessDenied
            | Trouble::BadCredentials
            | Trouble::NoCredentials
            | Trouble::NoSuchBucket
            | Trouble::NotSupported
            | Trouble::ConnectionRefused
            | Trouble::Certificate
            | Trouble::Corrupted
            | Trouble::UploadGone
            | Trouble::Taken
    )
}

/// Nobody knows whether the object is there.
pub(super) fn uncertain(subject: &str, why: &str) -> Error {
    Error::new(ErrorKind::Uncertain, subject, "it is not known whether it was stored")
        .with_hint("look whether the object is there before anything else")
        .with_source(why.to_owned())
        .at(Stage::Commit)
}
