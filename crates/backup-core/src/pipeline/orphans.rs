//! Objects of backups that have no manifest: what killed runs left behind.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::context::Context;
use crate::error::{Error, ErrorKind, Result, Stage};
use crate::manifest::BackupRef;
use crate::store::{ObjectInfo, Remover, Source};

/// Everything under one id that has no manifest, so that nobody can call it a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Orphan {
    /// Where it lies.
    pub at: BackupRef,
    /// Its objects, in the order of their keys.
    pub objects: Vec<ObjectInfo>,
}

impl Orphan {
    /// Bytes of all its objects.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.objects.iter().map(|object| object.len).sum()
    }

    /// When the youngest of its objects was written, by the place; `None` where it does not say of each.
    #[must_use]
    pub fn written(&self) -> Option<Timestamp> {
        self.objects.iter().map(|object| object.modified).collect::<Option<Vec<_>>>()?.into_iter().max()
    }

    /// Since when it lies there unchanged, as far as two witnesses agree: the place's time of its youngest
    /// object, and `first_seen`, when this machine first saw it as it is. The younger counts; `None`
    /// when one of them does not know, so it is not old.
    #[must_use]
    pub fn since(&self, first_seen: Option<Timestamp>) -> Option<Timestamp> {
        Some(self.written()?.max(first_seen?))
    }

    /// What tells this state of it from another: its number of objects, their bytes and when the youngest
    /// was written. What grows is being made.
    #[must_use]
    pub fn state(&self) -> String {
        let written = self.written().map_or_else(String::new, |written| written.to_string());
        format!("{} {} {written}", self.objects.len(), self.bytes())
    }
}

/// What has no manifest in a place. One listing.
///
/// A backup that is being made looks like this from the moment its data is whole until its manifest is
/// stored, and that includes the reading back; so age alone tells the two apart.
///
/// # Errors
/// Those of the place.
pub async fn orphans(source: &dyn Source) -> Result<Vec<Orphan>> {
    let mut found: BTreeMap<BackupRef, (Vec<ObjectInfo>, bool)> = BTreeMap::new();
    for object in source.list("").await.map_err(|e| e.at(Stage::Fetch))? {
        // What no program of ours names so is not ours.
        let Some(at) = BackupRef::of_object(&object.key) else { continue };
        let (objects, has_manifest) = found.entry(at.clone()).or_default();
        *has_manifest |= object.key == at.manifest();
        objects.push(object);
    }
    let orphans = found.into_iter().filter(|(_, (_, has_manifest))| !has_manifest);
    Ok(orphans.map(|(at, (objects, _))| Orphan { at, objects }).collect())
}

/// Removes an orphan, unless it has changed since or has a manifest now. `false` when it was left alone.
///
/// The look comes directly before the removal. The caller sees to the age.
///
/// # Errors
/// Those of the place; `Conflict` when something is still there afterwards.
pub async fn remove_orphan(
    cx: &Context,
    source: &dyn Source,
    remover: &dyn Remover,
    orphan: &Orphan,
) -> Result<bool> {
    cx.check(&orphan.at.to_string())?;
    let prefix = orphan.at.prefix();
    let list = async || source.list(&prefix).await.map_err(|e| e.at(Stage::Remove));
    let now = Orphan { at: orphan.at.clone(), objects: list().await? };
    if now.objects.iter().any(|object| object.key == orphan.at.manifest()) || now.state() != orphan.state() {
        return Ok(false);
    }
    for object in &now.objects {
        remover.remove(&object.key).await.map_err(|e| e.at(Stage::Remove))?;
    }
    match list().await?.first() {
        None => Ok(true),
        Some(left) => {
            Err(Error::new(ErrorKind::Conflict, left.key.to_string(), "is still there after it was removed")
                .with_hint("the store may keep it under a lock; sweep again when the lock has ended")
                .at(Stage::Remove))
        }
    }
}
