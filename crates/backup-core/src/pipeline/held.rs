//! What a place itself keeps a backup by.

use futures::stream::{StreamExt as _, TryStreamExt as _};

use crate::context::Context;
use crate::error::Result;
use crate::manifest::BackupRef;
use crate::store::{Held, Sink, Source};

/// The objects without which a backup is none.
fn parts_of(at: &BackupRef) -> [crate::id::ObjectKey; 3] {
    [at.data(), at.tree(), at.manifest()]
}

/// What the place keeps a backup by, taken over its data, its tree and its manifest; `None` where it has no locks.
///
/// # Errors
/// `Denied` where the credentials may not ask; those of the place.
pub async fn held(source: &dyn Source, at: &BackupRef) -> Result<Option<Held>> {
    let mut all: Option<Held> = None;
    for key in parts_of(at) {
        match source.held(&key).await? {
            Some(found) => all = Some(all.unwrap_or_default().and(found)),
            None => return Ok(all),
        }
    }
    Ok(all)
}

/// Puts every object of a backup under a legal hold of the place, the manifest first, or ends that, the manifest
/// last; each is looked at. What was said of it by others later is not held: it is no part of what a restore needs.
/// Cut short, do it again.
///
/// # Errors
/// `Unsupported` where the place has no such thing; `Denied`; those of the place.
pub async fn hold(
    cx: &Context,
    sink: &dyn Sink,
    source: &dyn Source,
    at: &BackupRef,
    on: bool,
) -> Result<()> {
    let objects = source.list(&at.prefix()).await?;
    let later_keys = format!("{}keys/", at.prefix());
    let later =
        objects.into_iter().map(|object| object.key).filter(|key| key.as_str().starts_with(&later_keys));
    let mut keys: Vec<_> = parts_of(at).into_iter().rev().chain(later).collect();
    if !on {
        keys.reverse();
    }
    for key in keys {
        cx.check(key.as_str())?;
        sink.hold(&key, on).await?;
    }
    Ok(())
}

/// The same question as [`held`] about several backups, so many at a time; those that a place has no lock for are
/// left out.
///
/// # Errors
/// As [`held`].
pub async fn held_among(
    source: &dyn Source,
    backups: Vec<BackupRef>,
    at_a_time: usize,
) -> Result<Vec<(BackupRef, Held)>> {
    let asked = futures::stream::iter(backups).map(|at| async move {
        let found = held(source, &at).await?;
        Ok(found.map(|found| (at, found)))
    });
    let found: Vec<_> = asked.buffered(at_a_time).try_collect().await?;
    Ok(found.into_iter().flatten().collect())
}
