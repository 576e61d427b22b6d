//! What is said of backups after they were made: stored beside them, and read.

use jiff::Timestamp;

use crate::attestation::{Attestation, Claim, Depth};
use crate::context::Context;
use crate::error::{ErrorKind, Result, Stage};
use crate::manifest::BackupRef;
use crate::statement::{Signer, StatementKind, Trust, VouchedManifest};
use crate::store::{ObjectInfo, Sink, Source};
use crate::stream::ByteStream;

use super::{read, store};

/// What is believed of the statements about a backup.
#[derive(Debug, Clone, Default)]
pub struct Attested {
    /// Those that are believed and about this very manifest, in the order of their keys.
    pub believed: Vec<Attestation>,
    /// How many are not.
    pub refused: usize,
}

impl Attested {
    /// Whether the newest word about it pins the backup; of two at one moment the one that does.
    #[must_use]
    pub fn pinned(&self) -> bool {
        self.newest_pin().is_some_and(|(_, on)| on)
    }

    /// When the newest word about pinning was said, and which.
    #[must_use]
    pub fn newest_pin(&self) -> Option<(Timestamp, bool)> {
        self.newest(|claim| match claim {
            Claim::Pinned { on } => Some(*on),
            _ => None,
        })
    }

    /// Since when it is marked as let go by the rules, if its newest mark says so.
    #[must_use]
    pub fn marked(&self) -> Option<Timestamp> {
        let newest = self.newest(|claim| match claim {
            Claim::Marked { on } => Some(*on),
            _ => None,
        });
        newest.filter(|(_, on)| *on).map(|(made, _)| made)
    }

    /// Whether a verifier's newest word is that it is damaged. A failed verification of any depth is
    /// answered by none but a later deep one; of two at one moment the failed one counts.
    #[must_use]
    pub fn failed(&self) -> bool {
        self.newest_verdict().is_some_and(|(_, failed)| failed)
    }

    /// Whether it was deeply verified, and no verification failed since.
    #[must_use]
    pub fn proven(&self) -> bool {
        self.newest_verdict().is_some_and(|(_, failed)| !failed)
    }

    /// Whether an operator accepted its size.
    #[must_use]
    pub fn accepted(&self) -> bool {
        self.believed.iter().any(|said| matches!(said.claim, Claim::Accepted {}))
    }

    /// The newest word that a deep verification succeeded or that any failed.
    fn newest_verdict(&self) -> Option<(Timestamp, bool)> {
        self.newest(|claim| match claim {
            Claim::Verified { depth: Depth::Deep, .. } => Some(false),
            Claim::Failed { .. } => Some(true),
            _ => None,
        })
    }

    fn newest(&self, of: impl Fn(&Claim) -> Option<bool>) -> Option<(Timestamp, bool)> {
        self.believed.iter().filter_map(|said| Some((said.made, of(&said.claim)?))).max()
    }
}

/// Signs and stores something about a backup.
///
/// # Errors
/// Those of the signer and of [`store`].
pub async fn attest(
    cx: &Context,
    sink: &dyn Sink,
    signer: &dyn Signer,
    about: &VouchedManifest,
    claim: Claim,
) -> Result<Attestation> {
    let manifest = about.manifest();
    let said = Attestation {
        repository: manifest.repository,
        source: manifest.source.clone(),
        id: manifest.id,
        manifest: about.pae_sha256(),
        made: cx.now(),
        claim,
    };
    let signed = signer.sign(StatementKind::Attestation, &said.to_json()?)?;
    let len = signed.stored().len() as u64;
    store(cx, sink, &said.new_key(), ByteStream::of_statement(&signed), Some(len)).await?;
    Ok(said)
}

/// Reads what is said of a backup. A statement that is not believed hides no other.
///
/// # Errors
/// Those of the place.
pub async fn attestations(
    source: &dyn Source,
    trust: &dyn Trust,
    about: &VouchedManifest,
) -> Result<Attested> {
    let prefix = format!("{}statements/", about.manifest().backup().prefix());
    let objects = source.list(&prefix).await.map_err(|e| e.at(Stage::Fetch))?;
    attestations_among(source, trust, about, &objects).await
}

/// As [`attestations`], of those that a listing of the place just showed.
///
/// # Errors
/// As [`attestations`].
pub async fn attestations_among<'a>(
    source: &dyn Source,
    trust: &dyn Trust,
    about: &VouchedManifest,
    objects: impl IntoIterator<Item = &'a ObjectInfo>,
) -> Result<Attested> {
    let at = about.manifest().backup();
    let mut attested = Attested::default();
    for object in objects {
        if BackupRef::of_statement(&object.key).as_ref() != Some(&at) {
            continue;
        }
        let stored = match read::small_known(source, object, read::STATEMENT_LEN_MAX).await {
            Ok(stored) => stored,
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            // One that is too long, or was replaced since, is nobody's statement.
            Err(error) if error.kind() == ErrorKind::Integrity => {
                attested.refused += 1;
                continue;
            }
            Err(error) => return Err(error),
        };
        match trust.vouch_attestation(&at, &stored) {
            Ok(said) if said.manifest == about.pae_sha256() => attested.believed.push(said),
            _ => attested.refused += 1,
        }
    }
    Ok(attested)
}
