//! What is said of backups after they were made: stored beside them, and read.

use jiff::Timestamp;

use crate::attestation::{Attestation, Claim};
use crate::context::Context;
use crate::error::{ErrorKind, Result, Stage};
use crate::manifest::BackupRef;
use crate::statement::{Signer, StatementKind, Trust, VouchedManifest};
use crate::store::{Sink, Source};
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
        let pins = self.believed.iter().filter_map(|said| match said.claim {
            Claim::Pinned { on } => Some((said.made, on)),
            _ => None,
        });
        pins.max()
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
    let at = about.manifest().backup();
    let prefix = format!("{}statements/", at.prefix());
    let mut attested = Attested::default();
    for object in source.list(&prefix).await.map_err(|e| e.at(Stage::Fetch))? {
        if BackupRef::of_statement(&object.key).as_ref() != Some(&at) {
            continue;
        }
        let stored = match read::small(source, &object.key, read::STATEMENT_LEN_MAX).await {
            Ok(stored) => stored,
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            // One that is too long is nobody's statement.
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
