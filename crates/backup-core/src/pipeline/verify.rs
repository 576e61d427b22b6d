//! Whether what is stored is what was signed, with a key and without.

use std::sync::Arc;

use crate::context::Context;
use crate::dump::DumpReport;
use crate::error::{Error, ErrorKind, Result, Stage};
use crate::id::ObjectKey;
use crate::manifest::BackupRef;
use crate::progress::{Event, RunStatus};
use crate::restore::{Inspection, Inspector};
use crate::seal::{Auditor, Decryptor, Expected, Opening};
use crate::statement::{Trust, VouchedManifest};
use crate::store::{EntityTag, Receipt, Source};
use crate::stream::{ByteStream, Sealed};

use super::store::Hasher;
use super::{OpenedBackup, meter, read};

/// A backup whose stored bytes are those that were signed.
#[derive(Debug)]
pub struct QuickVerified {
    /// Its manifest.
    pub manifest: VouchedManifest,
    /// Bytes that were read.
    pub bytes: u64,
    /// Frames that were held against the hash tree.
    pub frames: u64,
}

/// Checks signature, lengths, digest, and every frame against the hash tree, without a private key.
///
/// Cancel safe; also stops through the context's token.
///
/// # Errors
/// `Integrity` where the stored bytes differ from what was signed; those of [`Trust::vouch`].
pub async fn quick(
    cx: &Context,
    source: &dyn Source,
    trust: &dyn Trust,
    auditor: &dyn Auditor,
    at: &BackupRef,
) -> Result<QuickVerified> {
    cx.report(Event::Status(RunStatus::Verifying));
    let manifest = read::manifest(source, trust, at).await?;
    let body = manifest.manifest();
    let pin = read::data_version(source, &manifest).await?;
    let tree = read::tree(source, body).await?;
    let receipt = Receipt { len: body.object_len, sha256: body.sha256, tag: pin };
    cx.report(Event::Estimate { bytes: body.object_len });
    let stream = checked(cx, source, &at.data(), &receipt).await?;
    let expected = Expected {
        id: Some(body.id),
        head_sha256: Some(body.head_sha256),
        object_len: Some(body.object_len),
        tree_root: Some(body.tree_root),
        tree: Some(tree),
    };
    let frames =
        auditor.audit(Opening { sealed: stream, expected }).await.map_err(|e| e.at(Stage::Verify))?;
    cx.report(Event::Status(RunStatus::Completed));
    Ok(QuickVerified { bytes: body.object_len, manifest, frames })
}

/// A backup that was decrypted and parsed to its end.
#[derive(Debug)]
pub struct DeepVerified {
    /// Its manifest.
    pub manifest: VouchedManifest,
    /// What the dump said of itself when it was made.
    pub report: DumpReport,
    /// What the parser found.
    pub inspection: Inspection,
}

/// Decrypts, decompresses and parses a backup to its end, keeping nothing. Every frame is held against
/// the hash tree on its way, so that all that a quick verification finds is found here too.
///
/// Of a format that no inspector knows, the bytes are read to their verified end and
/// [`Inspection::parsed`] is false.
///
/// Not cancel safe where an [`Inspector`] is not: stop it through the context's token.
///
/// # Errors
/// `Integrity` where the envelope or the dump inside is damaged; those of [`open`](super::open).
pub async fn deep(
    cx: &Context,
    source: &dyn Source,
    trust: &dyn Trust,
    decryptor: &dyn Decryptor,
    inspectors: &[Arc<dyn Inspector>],
    at: &BackupRef,
) -> Result<DeepVerified> {
    cx.report(Event::Status(RunStatus::Verifying));
    let manifest = read::manifest(source, trust, at).await?;
    let tree = read::tree(source, manifest.manifest()).await?;
    let OpenedBackup { manifest, dump } =
        read::open_data(cx, source, decryptor, manifest, Some(tree)).await?;
    let source_len = manifest.manifest().source_len;
    cx.report(Event::Estimate { bytes: source_len });
    let bytes = meter::restored(cx, dump.bytes);
    let inspection = match inspectors.iter().find(|i| i.accepts(&dump.format)) {
        Some(inspector) => {
            inspector.inspect(cx, &dump.format, bytes).await.map_err(|e| e.at(Stage::Verify))?
        }
        None => count(cx, bytes).await?,
    };
    // An inspector that stopped early has not seen the verified end, and may not say that all is well.
    let report = dump.report.get().ok_or_else(|| {
        Error::bug(format!("the inspector of {} ended before the envelope's end was verified", dump.format))
    })?;
    if inspection.bytes != source_len {
        return Err(Error::new(
            ErrorKind::Integrity,
            at.to_string(),
            format!("holds {} bytes of dump where the signed manifest says {source_len}", inspection.bytes),
        )
        .at(Stage::Verify));
    }
    cx.report(Event::Status(RunStatus::Completed));
    Ok(DeepVerified { manifest, report: report.clone(), inspection })
}

async fn count(cx: &Context, mut bytes: ByteStream<crate::stream::Plain>) -> Result<Inspection> {
    let mut inspection = Inspection::default();
    loop {
        let next = tokio::select! {
            biased;
            () = cx.cancel().cancelled() => return Err(Error::cancelled("deep verification").at(Stage::Verify)),
            next = bytes.next() => next,
        };
        let Some(chunk) = next else { return Ok(inspection) };
        inspection.bytes += chunk.map_err(|e| e.at(Stage::Verify))?.len() as u64;
    }
}

/// Reads an object back and compares its length and digest with what was sent.
pub(super) async fn same_bytes(
    cx: &Context,
    source: &dyn Source,
    key: &ObjectKey,
    sent: &Receipt,
) -> Result<()> {
    let mut stream = checked(cx, source, key, sent).await?;
    while let Some(chunk) = stream.next().await {
        chunk?;
    }
    Ok(())
}

/// The object's bytes; the stream ends cleanly only if length and digest are the expected ones, and
/// with `Cancelled` when somebody asks to stop.
pub(super) async fn checked(
    cx: &Context,
    source: &dyn Source,
    key: &ObjectKey,
    expected: &Receipt,
) -> Result<ByteStream<Sealed>> {
    let pin: Option<&EntityTag> = expected.tag.as_ref();
    let stream = source.fetch(key, None, pin).await.map_err(|e| e.at(Stage::Verify))?;
    let stream = meter::fetched(cx, stream);
    let (key, len, sha256, cancel) = (key.clone(), expected.len, expected.sha256, cx.cancel().clone());
    Ok(ByteStream::declare_sealed(futures::stream::try_unfold(
        (stream, Hasher::default()),
        move |(mut stream, mut hasher)| {
            let (key, cancel) = (key.clone(), cancel.clone());
            async move {
                let next = tokio::select! {
                    biased;
                    () = cancel.cancelled() => {
                        return Err(Error::cancelled(key.as_str()).at(Stage::Verify));
                    }
                    next = stream.next() => next,
                };
                if let Some(chunk) = next {
                    let chunk = chunk.map_err(|e| e.at(Stage::Verify))?;
                    hasher.update(chunk.clone()).await?;
                    return Ok(Some((chunk, (stream, hasher))));
                }
                if hasher.finish() == (len, sha256) {
                    return Ok(None);
                }
                Err(Error::new(ErrorKind::Integrity, key.as_str(), "the stored bytes are not those that were sent and signed")
                    .with_hint("the store or the way to it damages data: do not rely on this copy; look for another, and check the store")
                    .at(Stage::Verify))
            }
        },
    )))
}
