//! From a manifest in a store to plaintext: the checks every reader goes through.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::context::Context;
use crate::dump::Dump;
use crate::error::{Error, ErrorKind, Result, Stage};
use crate::id::ObjectKey;
use crate::manifest::{BackupRef, Manifest};
use crate::progress::NoProgress;
use crate::seal::{Decryptor, Expected, Opened, Opening};
use crate::statement::{Trust, VouchedManifest};
use crate::store::{EntityTag, ObjectInfo, Source};

use super::meter;

/// The largest statement that is read, in bytes.
pub(super) const STATEMENT_LEN_MAX: u64 = 4 << 20;
/// The largest `data.tree` that is read, in bytes: 2^23 blocks, the trailer and the head of the file.
pub(super) const TREE_LEN_MAX: u64 = 36 * ((1 << 23) + 2);

/// A backup being read.
#[derive(Debug)]
pub struct OpenedBackup {
    /// Its manifest, vouched for.
    pub manifest: VouchedManifest,
    /// Its plaintext.
    pub dump: Dump,
}

/// Opens a backup: the manifest under a trusted key, the head before a private key is used, the
/// data pinned to one version. The dump ends cleanly only after the whole envelope was verified.
///
/// # Errors
/// `NotFound`, and those of [`Trust::vouch`], [`Source::fetch`] and [`Decryptor::open`].
pub async fn open(
    cx: &Context,
    source: &dyn Source,
    trust: &dyn Trust,
    decryptor: &dyn Decryptor,
    at: &BackupRef,
) -> Result<OpenedBackup> {
    let manifest = manifest(source, trust, at).await?;
    open_data(cx, source, decryptor, manifest, None).await
}

/// The manifest of a backup, under a trusted key.
///
/// # Errors
/// `NotFound`, and those of [`Trust::vouch`].
pub async fn manifest(source: &dyn Source, trust: &dyn Trust, at: &BackupRef) -> Result<VouchedManifest> {
    let stored = small(source, &at.manifest(), STATEMENT_LEN_MAX).await?;
    trust.vouch(at, &stored).map_err(|e| e.at(Stage::Verify))
}

/// The manifest of a backup whose object was just listed.
pub(super) async fn listed_manifest(
    source: &dyn Source,
    trust: &dyn Trust,
    at: &BackupRef,
    info: &ObjectInfo,
) -> Result<VouchedManifest> {
    let stored = small_known(source, info, STATEMENT_LEN_MAX).await?;
    trust.vouch(at, &stored).map_err(|e| e.at(Stage::Verify))
}

/// Opens the data of a manifest; with `tree`, every frame is held against the leaves first.
pub(super) async fn open_data(
    cx: &Context,
    source: &dyn Source,
    decryptor: &dyn Decryptor,
    manifest: VouchedManifest,
    tree: Option<Arc<[u8]>>,
) -> Result<OpenedBackup> {
    let body = manifest.manifest();
    let key = body.backup().data();
    let pin = data_version(source, &manifest).await?;
    let sealed = source.fetch(&key, None, pin.as_ref()).await.map_err(|e| e.at(Stage::Fetch))?;
    let expected = Expected {
        id: Some(body.id),
        head_sha256: Some(body.head_sha256),
        object_len: Some(body.object_len),
        tree_root: Some(body.tree_root),
        tree,
    };
    let Opened { bytes, report } = decryptor
        .open(Opening { sealed: meter::fetched(cx, sealed), expected })
        .await
        .map_err(|e| e.at(Stage::Open))?;
    let dump = Dump { format: body.format.clone(), bytes, report };
    Ok(OpenedBackup { manifest, dump })
}

/// The version of the data object to pin, after a look at its length.
pub(super) async fn data_version(
    source: &dyn Source,
    manifest: &VouchedManifest,
) -> Result<Option<EntityTag>> {
    let body = manifest.manifest();
    let key = body.backup().data();
    let info = source.stat(&key).await.map_err(|e| e.at(Stage::Fetch))?.ok_or_else(|| {
        Error::new(ErrorKind::Integrity, key.as_str(), "the manifest is there, but its data is gone")
            .with_hint("look for another copy of this backup, or restore an earlier one")
            .at(Stage::Fetch)
    })?;
    if info.len != body.object_len {
        return Err(Error::new(
            ErrorKind::Integrity,
            key.as_str(),
            format!("has {} bytes where the signed manifest says {}", info.len, body.object_len),
        )
        .with_hint("the object was cut or replaced; look for another copy, or restore an earlier backup")
        .at(Stage::Fetch));
    }
    Ok(info.tag)
}

/// The leaves of a backup's hash tree, as stored; the decryptor proves them by their root.
pub(super) async fn tree(source: &dyn Source, manifest: &Manifest) -> Result<Arc<[u8]>> {
    // A leaf and its length have 36 bytes and no frame is shorter than 22, so a longer tree is not this
    // object's.
    let len_max = manifest.object_len.saturating_mul(2).min(TREE_LEN_MAX);
    let key = manifest.backup().tree();
    let stored = small(source, &key, len_max).await.map_err(|error| match error.kind() {
        ErrorKind::NotFound => {
            Error::new(ErrorKind::Integrity, key.as_str(), "the manifest is there, but its hash tree is gone")
                .with_hint("look for another copy of it; a restore that does not verify first needs none")
                .at(Stage::Fetch)
        }
        _ => error,
    })?;
    Ok(Arc::from(stored.as_ref()))
}

/// A small object as a whole.
pub(super) async fn small(source: &dyn Source, key: &ObjectKey, len_max: u64) -> Result<Bytes> {
    let info = source.stat(key).await.map_err(|e| e.at(Stage::Fetch))?.ok_or_else(|| {
        Error::new(ErrorKind::NotFound, key.as_str(), format!("not found in {source}"))
            .with_hint("`strongroom list` shows what is there")
            .at(Stage::Fetch)
    })?;
    small_known(source, &info, len_max).await
}

/// A small object as a whole, of the version that was looked at.
pub(super) async fn small_known(source: &dyn Source, info: &ObjectInfo, len_max: u64) -> Result<Bytes> {
    let key = &info.key;
    let too_long = || {
        Error::new(
            ErrorKind::Integrity,
            key.as_str(),
            format!("longer than the {len_max} bytes such an object may have"),
        )
        .at(Stage::Fetch)
    };
    if info.len > len_max {
        return Err(too_long());
    }
    let mut stream = source.fetch(key, None, info.tag.as_ref()).await.map_err(|e| e.at(Stage::Fetch))?;
    let mut bytes = BytesMut::with_capacity(info.len as usize);
    while let Some(chunk) = stream.next().await {
        bytes.extend_from_slice(&chunk.map_err(|e| e.at(Stage::Fetch))?);
        if bytes.len() as u64 > len_max {
            return Err(too_long());
        }
    }
    if bytes.len() as u64 != info.len {
        return Err(Error::new(
            ErrorKind::Integrity,
            key.as_str(),
            format!("gave {} bytes where {} are stored", bytes.len(), info.len),
        )
        .at(Stage::Fetch));
    }
    Ok(bytes.freeze())
}

/// The same context with nobody watching: small objects are not progress.
pub(super) fn without_progress(cx: &Context) -> Context {
    cx.clone().with_progress(Arc::new(NoProgress))
}
