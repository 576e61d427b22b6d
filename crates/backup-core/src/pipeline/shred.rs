//! Destroying one backup on purpose, and saying so.

use crate::attestation::{ShreddedObject, Shredding};
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result, Stage};
use crate::id::BackupId;
use crate::manifest::{BackupRef, printable};
use crate::statement::{StatementKind, VouchedManifest};
use crate::stream::ByteStream;

use super::prune::{PruneParts, Standing, note, noted};
use super::{held, read, store};

/// What no look at one place can tell.
const NOT_PROMISED: [&str; 4] = [
    "copies in other places, and copies that somebody with access made of the objects",
    "replicas, snapshots, trash and backups that the store or its operator keeps by itself",
    "blocks of disks and flash that were freed and not overwritten",
    "plaintext that was restored or exported from it",
];

/// Whether no other backup of the source that stands was deeply verified and is not known as damaged.
#[must_use]
pub fn is_last_good(standing: &[Standing], id: BackupId) -> bool {
    !standing.iter().any(|one| one.candidate.id != id && one.candidate.proven && !one.candidate.failed)
}

/// The manifest of a backup that is to be destroyed: as it stands, or, where an earlier attempt was cut
/// short, as its history tells.
///
/// # Errors
/// `NotFound` when there is neither; those of the place and of [`Trust::vouch`](crate::Trust::vouch).
pub async fn shreddable(parts: PruneParts<'_>, at: &BackupRef) -> Result<VouchedManifest> {
    match read::manifest(parts.source, parts.trust, at).await {
        Err(error) if error.kind() == ErrorKind::NotFound => match noted(parts, at).await? {
            Some(removal) => parts.trust.vouch(at, removal.manifest.as_bytes()),
            None => Err(error),
        },
        manifest => manifest,
    }
}

/// Destroys a backup: history first, then the manifest, then every version of every object of it, then a
/// look that all is gone, then the signed certificate `history/<source>/<id>.shredded.json`. Killed at
/// any point, the next call goes on.
///
/// Whether it may go is the caller's to ask: pins, and [`is_last_good`].
///
/// # Errors
/// Those of the place and of the signer; `Conflict` when something is still there, as with a lock.
pub async fn shred(
    cx: &Context,
    parts: PruneParts<'_>,
    manifest: &VouchedManifest,
    reason: &str,
) -> Result<Shredding> {
    let body = manifest.manifest();
    let at = body.backup();
    if let Some(done) = certificate(parts, &at).await? {
        return Ok(done);
    }
    // Nothing is begun that a lock would leave half done. Credentials that may not ask are told by the erasing.
    match held(parts.source, &at).await {
        Ok(Some(found)) if found.holds(cx.now()) => {
            return Err(Error::new(ErrorKind::Conflict, at.to_string(), format!("is {found}"))
                .with_hint("nothing was removed; shred it when the lock has ended (`strongroom pin --off` ends a legal hold)")
                .at(Stage::Remove));
        }
        Err(error) if !matches!(error.kind(), ErrorKind::Denied | ErrorKind::NotFound) => return Err(error),
        _ => {}
    }
    let reason = printable(reason);
    note(cx, parts, manifest, &format!("shredded: {reason}")).await?;
    let listed = parts.source.list(&at.prefix()).await.map_err(|e| e.at(Stage::Remove))?;
    let mut lens: Vec<_> = listed.into_iter().map(|object| (object.key, object.len)).collect();
    // A store with versions does not list what was removed before, and still has it.
    for (key, len) in [(at.data(), body.object_len), (at.tree(), 0), (at.manifest(), 0)] {
        if !lens.iter().any(|(listed, _)| *listed == key) {
            lens.push((key, len));
        }
    }
    lens.sort_by_key(|(key, _)| (*key != at.manifest(), key.clone()));
    let mut objects = Vec::new();
    for (key, len) in lens {
        cx.check(key.as_str())?;
        let erased = parts.remover.erase(&key).await.map_err(|e| e.at(Stage::Remove))?;
        objects.push(ShreddedObject { key: key.to_string(), len, versions: erased.versions });
    }
    let left = parts.source.list(&at.prefix()).await.map_err(|e| e.at(Stage::Remove))?;
    if let Some(left) = left.first() {
        return Err(Error::new(
            ErrorKind::Conflict,
            left.key.to_string(),
            "is still there after it was removed",
        )
        .with_hint(
            "the store may keep it under a lock; shred again when the lock has ended: nothing was certified",
        )
        .at(Stage::Remove));
    }
    let mut verified = vec![format!("a listing of {}/{} shows nothing", at.source, at.id)];
    if objects.iter().all(|object| object.versions.is_some()) {
        verified.push("a listing of all versions shows none of them".to_owned());
    } else {
        verified.push("earlier versions: this place cannot tell of versions".to_owned());
    }
    verified.extend(
        parts
            .remover
            .kept_after_erasing()
            .await
            .map_err(|e| e.at(Stage::Remove))?
            .iter()
            .map(|text| printable(text)),
    );
    verified.push("destroying the recipients' private keys was no part of this".to_owned());
    let said = Shredding {
        repository: body.repository,
        source: at.source.clone(),
        id: at.id,
        manifest: manifest.pae_sha256(),
        data: body.sha256,
        reason,
        made: cx.now(),
        objects,
        verified,
        not_promised: NOT_PROMISED.map(str::to_owned).to_vec(),
    };
    let signed = parts.signer.sign(StatementKind::Shredding, &said.to_json()?)?;
    let len = signed.stored().len() as u64;
    store(cx, parts.sink, &at.shredded(), ByteStream::of_statement(&signed), Some(len)).await?;
    Ok(said)
}

/// The certificate that a backup was destroyed, if there is one that is believed.
///
/// # Errors
/// Those of the place.
pub async fn certificate(parts: PruneParts<'_>, at: &BackupRef) -> Result<Option<Shredding>> {
    match read::small(parts.source, &at.shredded(), read::STATEMENT_LEN_MAX).await {
        Ok(stored) => Ok(parts.trust.vouch_shredding(at, &stored).ok()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
