//! What a destination holds, read from its manifests alone.

use std::collections::BTreeMap;

use futures::stream::{StreamExt, TryStreamExt};

use crate::digest::Sha256Digest;
use crate::error::{Error, ErrorKind, Result, Stage};
use crate::id::{BackupId, SourceName};
use crate::manifest::BackupRef;
use crate::statement::{Origin, Trust, VouchedManifest};
use crate::store::{ObjectInfo, Source};

use super::read;

/// How many manifests are fetched at a time.
const FETCHES_MAX: usize = 16;

/// A manifest that stands in a destination.
#[derive(Debug)]
pub struct Listed {
    /// Where.
    pub at: BackupRef,
    /// The manifest, or why it is not believed.
    pub manifest: Result<VouchedManifest>,
}

/// Every backup of a destination, or of one source: those that are believed in the order of their
/// source, signer and sequence number, then those that are not. One listing, and one object read for
/// each backup.
///
/// # Errors
/// Those of the place. A manifest that is not believed is listed as such, and hides no other.
pub async fn list(source: &dyn Source, trust: &dyn Trust, only: Option<&SourceName>) -> Result<Vec<Listed>> {
    let prefix = only.map_or_else(String::new, |name| format!("{name}/"));
    let objects = source.list(&prefix).await.map_err(|e| e.at(Stage::Fetch))?;
    list_among(source, trust, &objects).await
}

/// As [`list`], of what a listing of the place just showed.
///
/// # Errors
/// As [`list`].
pub async fn list_among(
    source: &dyn Source,
    trust: &dyn Trust,
    objects: &[ObjectInfo],
) -> Result<Vec<Listed>> {
    let backups = objects.iter().filter_map(|object| Some((BackupRef::of_manifest(&object.key)?, object)));
    let mut listed: Vec<Listed> = futures::stream::iter(backups)
        .map(|(at, object)| async move {
            match read::listed_manifest(source, trust, &at, object).await {
                // The place failed, not the manifest: a listing with holes would be a lie.
                Err(error) if matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::TimedOut) => {
                    Err(error)
                }
                // Removed since the listing.
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
                manifest => Ok(Some(Listed { at, manifest })),
            }
        })
        .buffered(FETCHES_MAX)
        .try_filter_map(async |listed| Ok(listed))
        .try_collect()
        .await?;
    listed.sort_by_cached_key(|entry| match &entry.manifest {
        Ok(vouched) => {
            let signer = match vouched.origin() {
                Origin::Trusted { signer } => Some(signer),
                Origin::Unknown => None,
            };
            (false, entry.at.source.clone(), signer, vouched.manifest().seq, entry.at.id)
        }
        Err(_) => (true, entry.at.source.clone(), None, 0, entry.at.id),
    });
    Ok(listed)
}

/// The newest backup of a source: the highest sequence number of a trusted signer. Where several
/// hosts sign for one source, the newest of theirs by the signed time of its start.
#[must_use]
pub fn latest<'a>(listed: &'a [Listed], source: &SourceName) -> Option<&'a VouchedManifest> {
    let mut heads: BTreeMap<Option<Sha256Digest>, &VouchedManifest> = BTreeMap::new();
    for vouched in listed.iter().filter(|l| l.at.source == *source).filter_map(|l| l.manifest.as_ref().ok()) {
        let signer = match vouched.origin() {
            Origin::Trusted { signer } => Some(signer),
            Origin::Unknown => None,
        };
        let head = heads.entry(signer).or_insert(vouched);
        if vouched.manifest().seq > head.manifest().seq {
            *head = vouched;
        }
    }
    // A signature outranks every unsigned claim, whatever time that claims.
    heads
        .into_iter()
        .max_by_key(|(signer, head)| (signer.is_some(), head.manifest().started))
        .map(|(_, head)| head)
}

/// The backup of this id, whatever its source.
///
/// # Errors
/// `NotFound`; `Conflict` when two sources claim the same id.
pub async fn find(source: &dyn Source, id: BackupId) -> Result<BackupRef> {
    let objects = source.list("").await.map_err(|e| e.at(Stage::Fetch))?;
    let mut found = objects.iter().filter_map(|o| BackupRef::of_manifest(&o.key)).filter(|at| at.id == id);
    match (found.next(), found.next()) {
        (Some(at), None) => Ok(at),
        (Some(_), Some(_)) => {
            Err(Error::new(ErrorKind::Conflict, id.to_string(), "two sources claim this id")
                .with_hint("somebody copied objects in the destination; look at it with `strongroom list`"))
        }
        (None, _) => {
            Err(Error::new(ErrorKind::NotFound, id.to_string(), format!("no backup of this id in {source}"))
                .with_hint("`strongroom list` shows what is there"))
        }
    }
}
