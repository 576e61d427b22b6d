//! One more copy of a backup that exists, made without any private key.
//!
//! What is read is held against the signed manifest and the hash tree on its way, and the manifest is
//! written last: killed at any call, the other place holds a whole copy or none. What stands there and
//! differs is named, and removed only by a repair that has read the good copy to its end before.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::attestation::Claim;
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result, Stage};
use crate::id::ObjectKey;
use crate::manifest::{BackupRef, Manifest, printable};
use crate::progress::{Event, RunStatus};
use crate::seal::{Auditor, Expected, Opening};
use crate::statement::{Signer, Trust, VouchedManifest};
use crate::store::{Receipt, Remover, Sink, Source};
use crate::stream::{ByteStream, Sealed};

use super::{attest, attestations, read, store, verify};

/// Chunks that may wait for the auditor.
const WAITING: usize = 2;

/// The ports that copying runs on.
#[derive(Debug, Clone)]
pub struct CopyParts<'a> {
    /// Where the good copy is.
    pub from: &'a dyn Source,
    /// What that place is called in receipts.
    pub from_name: &'a str,
    /// Where the copy goes: a place that holds the same repository.
    pub to: &'a dyn Sink,
    /// The same place, for looking and reading back.
    pub there: &'a dyn Source,
    /// What that place is called in receipts.
    pub to_name: &'a str,
    /// Removes what stands there and differs; without it, that is an error.
    pub repair: Option<&'a dyn Remover>,
    /// Says who is believed.
    pub trust: &'a dyn Trust,
    /// Walks envelopes without a key.
    pub auditor: Arc<dyn Auditor>,
    /// Signs the receipts, where the repository trusts a key here.
    pub signer: Option<&'a dyn Signer>,
    /// Whether that key is a pruner's, whose word about a backup's age counts.
    pub tells_age: bool,
    /// Read to its end what is there already, and do not only look at its length.
    pub thorough: bool,
}

/// What copying a backup came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Copied {
    /// It was stored there, read back and found equal.
    Stored {
        /// Bytes of the envelope.
        bytes: u64,
    },
    /// It was there.
    Already,
    /// It was there in part or damaged, and is whole now.
    Repaired {
        /// What was wrong.
        was: Vec<String>,
    },
    /// A pruner removed it there, and it is not brought back.
    Removed,
}

/// Copies one backup, or completes or repairs its copy. Doing it again changes nothing.
///
/// Order: data, hash tree, recipients added later, statements, receipt, manifest. The statements of
/// pruners who first saw it come along, so that the copy is as old as what it was made from; those who
/// are about to remove it do not.
///
/// Not cancel safe: stop it through the context's token.
///
/// # Errors
/// Those of [`Trust::vouch`]; `Integrity` where the bytes that are read are not those that were signed
/// (nothing becomes visible then), or where the other place holds different ones and no repair is
/// allowed; those of the places.
pub async fn copy(cx: &Context, parts: &CopyParts<'_>, at: &BackupRef) -> Result<Copied> {
    let stored = read::small(parts.from, &at.manifest(), read::STATEMENT_LEN_MAX).await?;
    let manifest = parts.trust.vouch(at, &stored).map_err(|e| e.at(Stage::Verify))?;
    let whole = Original { stored, manifest };
    if is_removed(parts, at).await? {
        return Ok(Copied::Removed);
    }
    let mut found = look(cx, parts, &whole).await?;
    let was = found.wrong(at);
    if found.is_whole() {
        receipt(cx, parts, &whole).await?;
        return Ok(Copied::Already);
    }
    if found.differs() {
        let Some(remover) = parts.repair else { return Err(damaged(parts, at, &was)) };
        // Nothing is removed before the good copy was read to its end.
        let tree = read::tree(parts.from, whole.body()).await?;
        drain(audited(&quiet(cx), parts.from, &parts.auditor, &whole.manifest, tree).await?).await?;
        clear(parts, remover, at, &found).await?;
        found.clear();
    }
    write(cx, parts, &whole, &found).await?;
    Ok(match found.manifest {
        Part::Good => Copied::Repaired { was },
        _ if !was.is_empty() => Copied::Repaired { was },
        _ => Copied::Stored { bytes: whole.body().object_len },
    })
}

/// The backup that is copied.
struct Original {
    stored: Bytes,
    manifest: VouchedManifest,
}

impl Original {
    fn body(&self) -> &Manifest {
        self.manifest.manifest()
    }

    fn receipt(&self) -> Receipt {
        Receipt { len: self.body().object_len, sha256: self.body().sha256, tag: None }
    }
}

/// One object of a copy, as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Missing,
    Good,
    /// It is other bytes than were signed.
    Differs(String),
}

/// A copy as it was found.
#[derive(Debug)]
struct Found {
    data: Part,
    tree: Part,
    manifest: Part,
}

impl Found {
    fn parts(&self, at: &BackupRef) -> [(ObjectKey, &Part); 3] {
        // The order in which they may be removed.
        [(at.manifest(), &self.manifest), (at.data(), &self.data), (at.tree(), &self.tree)]
    }

    fn is_whole(&self) -> bool {
        [&self.data, &self.tree, &self.manifest].into_iter().all(|part| *part == Part::Good)
    }

    fn differs(&self) -> bool {
        [&self.data, &self.tree, &self.manifest].into_iter().any(|part| matches!(part, Part::Differs(_)))
    }

    /// What is wrong with a copy that is there in part.
    fn wrong(&self, at: &BackupRef) -> Vec<String> {
        let there = self.manifest != Part::Missing;
        self.parts(at)
            .into_iter()
            .filter_map(|(key, part)| match part {
                Part::Differs(what) => Some(format!("{key} {what}")),
                Part::Missing if there => Some(format!("{key} is missing")),
                _ => None,
            })
            .collect()
    }

    /// What differed was removed, and the manifest with it.
    fn clear(&mut self) {
        self.manifest = Part::Missing;
        for part in [&mut self.data, &mut self.tree] {
            if matches!(part, Part::Differs(_)) {
                *part = Part::Missing;
            }
        }
    }
}

async fn look(cx: &Context, parts: &CopyParts<'_>, whole: &Original) -> Result<Found> {
    let at = whole.body().backup();
    let manifest = match read::small(parts.there, &at.manifest(), read::STATEMENT_LEN_MAX).await {
        Ok(stored) => match parts.trust.vouch(&at, &stored) {
            Ok(there) if there.pae_sha256() == whole.manifest.pae_sha256() => Part::Good,
            Ok(_) => Part::Differs("is another manifest than that of the copy it was to be made from".into()),
            Err(error) => Part::Differs(format!("is not believed: {}", error.what())),
        },
        Err(error) if error.kind() == ErrorKind::NotFound => Part::Missing,
        Err(error) if error.kind() == ErrorKind::Integrity => Part::Differs(error.what().to_owned()),
        Err(error) => return Err(error),
    };
    // What has no manifest was left by a run that was cut short: its length says nothing of its bytes.
    let thorough = parts.thorough || manifest != Part::Good;
    let data = look_at_data(cx, parts, whole, thorough).await?;
    let tree = match parts.there.stat(&at.tree()).await.map_err(|e| e.at(Stage::Fetch))? {
        None => Part::Missing,
        Some(_) if thorough && data == Part::Good => match read::tree(parts.there, whole.body()).await {
            Ok(tree) => match audited(&quiet(cx), parts.there, &parts.auditor, &whole.manifest, tree).await {
                Ok(stream) => judged(drain(stream).await, "is not the hash tree that was signed")?,
                Err(error) => return Err(error),
            },
            Err(error) => judged(Err(error), "is not the hash tree that was signed")?,
        },
        // Nothing to hold it against yet: it is held against the data that is copied.
        Some(_) if thorough => {
            let tree = read::tree(parts.there, whole.body()).await;
            let equal = match (tree, read::tree(parts.from, whole.body()).await) {
                (Ok(there), Ok(here)) => there == here,
                (_, Err(error)) => return Err(error),
                (Err(error), _) if error.kind() == ErrorKind::Integrity => false,
                (Err(error), _) => return Err(error),
            };
            if equal { Part::Good } else { Part::Differs("is not the hash tree of the good copy".into()) }
        }
        Some(_) => Part::Good,
    };
    Ok(Found { data, tree, manifest })
}

async fn look_at_data(cx: &Context, parts: &CopyParts<'_>, whole: &Original, thorough: bool) -> Result<Part> {
    let key = whole.body().backup().data();
    let Some(info) = parts.there.stat(&key).await.map_err(|e| e.at(Stage::Fetch))? else {
        return Ok(Part::Missing);
    };
    if info.len != whole.body().object_len {
        let what =
            format!("has {} bytes where the signed manifest says {}", info.len, whole.body().object_len);
        return Ok(Part::Differs(what));
    }
    if !thorough {
        return Ok(Part::Good);
    }
    let sent = Receipt { tag: info.tag, ..whole.receipt() };
    let same = verify::same_bytes(&quiet(cx), parts.there, &key, &sent).await;
    judged(same, "has other bytes than were signed")
}

/// Bytes that differ are a finding; a place that does not answer is an error.
fn judged(read: Result<()>, what: &str) -> Result<Part> {
    match read {
        Ok(()) => Ok(Part::Good),
        Err(error) if matches!(error.kind(), ErrorKind::Integrity | ErrorKind::Unsupported) => {
            Ok(Part::Differs(what.to_owned()))
        }
        Err(error) => Err(error),
    }
}

fn damaged(parts: &CopyParts<'_>, at: &BackupRef, was: &[String]) -> Error {
    let what = format!("is there and differs: {}", was.join("; "));
    Error::new(ErrorKind::Integrity, format!("copy of {at} in {}", parts.to_name), what)
        .with_hint("nothing was changed; `strongroom copy --repair` reads the good copy to its end, then removes what differs and copies anew")
        .at(Stage::Verify)
}

/// Whether a pruner removed it from the other place.
async fn is_removed(parts: &CopyParts<'_>, at: &BackupRef) -> Result<bool> {
    match read::small(parts.there, &at.history(), read::STATEMENT_LEN_MAX).await {
        // A word that is not believed removes nothing.
        Ok(stored) => Ok(parts.trust.vouch_removal(at, &stored).is_ok()),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Integrity) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes what differs; its manifest first, so that nobody takes the rest for a backup meanwhile.
async fn clear(parts: &CopyParts<'_>, remover: &dyn Remover, at: &BackupRef, found: &Found) -> Result<()> {
    let gone = found.parts(at).into_iter().filter(|(key, part)| {
        matches!(part, Part::Differs(_)) || (*key == at.manifest() && **part != Part::Missing)
    });
    for (key, _) in gone {
        remover.remove(&key).await.map_err(|e| e.at(Stage::Remove))?;
        if parts.there.stat(&key).await.map_err(|e| e.at(Stage::Remove))?.is_some() {
            return Err(Error::new(
                ErrorKind::Conflict,
                key.to_string(),
                "is still there after it was removed",
            )
            .with_hint(
                "the store may keep it under a lock or as a version; repair again when the lock has ended",
            )
            .at(Stage::Remove));
        }
    }
    Ok(())
}

async fn write(cx: &Context, parts: &CopyParts<'_>, whole: &Original, found: &Found) -> Result<()> {
    let (body, at) = (whole.body(), whole.body().backup());
    let quiet = quiet(cx);
    let tree = read::tree(parts.from, body).await?;
    if found.data == Part::Missing {
        cx.report(Event::Estimate { bytes: body.object_len });
        cx.report(Event::Status(RunStatus::Uploading));
        let stream = audited(&quiet, parts.from, &parts.auditor, &whole.manifest, tree.clone()).await?;
        let written = store(cx, parts.to, &at.data(), stream, Some(body.object_len)).await;
        let sent = match written {
            Ok(sent) => sent,
            // Another copier was quicker; what it wrote is read like our own.
            Err(error) if error.kind() == ErrorKind::Conflict => whole.receipt(),
            Err(error) => return Err(error),
        };
        cx.report(Event::Status(RunStatus::Verifying));
        verify::same_bytes(&quiet, parts.there, &at.data(), &sent).await?;
    } else if found.tree == Part::Missing {
        // The tree has not been held against the data on this way yet.
        drain(audited(&quiet, parts.there, &parts.auditor, &whole.manifest, tree.clone()).await?).await?;
    }
    if found.tree == Part::Missing {
        put(&quiet, parts, &at.tree(), &Bytes::copy_from_slice(&tree), read::TREE_LEN_MAX).await?;
    }
    beside(&quiet, parts, &at, &whole.manifest).await?;
    receipt(&quiet, parts, whole).await?;
    if found.manifest == Part::Missing {
        put(&quiet, parts, &at.manifest(), &whole.stored, read::STATEMENT_LEN_MAX).await?;
    }
    Ok(())
}

/// Recipients that were added later and what is believed of what was said, as they were signed.
async fn beside(
    cx: &Context,
    parts: &CopyParts<'_>,
    at: &BackupRef,
    manifest: &VouchedManifest,
) -> Result<()> {
    let keys = format!("{}keys/", at.prefix());
    for object in parts.from.list(&at.prefix()).await.map_err(|e| e.at(Stage::Fetch))? {
        cx.check(object.key.as_str())?;
        let is_statement = BackupRef::of_statement(&object.key).as_ref() == Some(at);
        if !is_statement && !object.key.as_str().starts_with(&keys) {
            continue;
        }
        let stored = match read::small(parts.from, &object.key, read::STATEMENT_LEN_MAX).await {
            Ok(stored) => stored,
            // Removed since the listing, or too long to be anybody's.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Integrity) => continue,
            Err(error) => return Err(error),
        };
        if is_statement {
            match parts.trust.vouch_attestation(at, &stored) {
                Ok(said) if said.manifest != manifest.pae_sha256() => continue,
                // Of the other place alone: what leaves or is damaged there is neither here.
                Ok(said) if is_of_one_place(&said.claim) => continue,
                Ok(_) => {}
                Err(_) => continue,
            }
        }
        if parts.there.stat(&object.key).await.map_err(|e| e.at(Stage::Fetch))?.is_none() {
            put(cx, parts, &object.key, &stored, read::STATEMENT_LEN_MAX).await?;
        }
    }
    Ok(())
}

/// Whether a claim is about the copy in one place, and not about the backup.
fn is_of_one_place(claim: &Claim) -> bool {
    matches!(claim, Claim::Leaving {} | Claim::Marked { .. } | Claim::Failed { .. } | Claim::Copied { .. })
}

/// Says beside the copy that it is one, unless that was said before.
async fn receipt(cx: &Context, parts: &CopyParts<'_>, whole: &Original) -> Result<()> {
    let Some(signer) = parts.signer else { return Ok(()) };
    let cx = quiet(cx);
    let to = printable(parts.to_name);
    let said = attestations(parts.there, parts.trust, &whole.manifest).await?.believed;
    let is_of_here = |claim: &Claim| matches!(claim, Claim::Copied { to: named, .. } if *named == to);
    if said.iter().any(|said| is_of_here(&said.claim)) {
        return Ok(());
    }
    let first_seen = match parts.tells_age {
        false => None,
        true => {
            let there = attestations(parts.from, parts.trust, &whole.manifest).await?.believed;
            there.iter().filter_map(|said| said.claim.first_seen(said.made)).min()
        }
    };
    let from = Some(printable(parts.from_name));
    let claim = Claim::Copied { from, to, object_len: whole.body().object_len, first_seen };
    attest(&cx, parts.to, signer, &whole.manifest, claim).await.map(drop)
}

/// Stores a small object as it was signed, and reads it back. One that is there already must be equal.
async fn put(
    cx: &Context,
    parts: &CopyParts<'_>,
    key: &ObjectKey,
    stored: &Bytes,
    len_max: u64,
) -> Result<()> {
    // What was read from a store is sealed or public and signed.
    let stream = ByteStream::declare_sealed(futures::stream::iter([Ok(stored.clone())]));
    match store(cx, parts.to, key, stream, Some(stored.len() as u64)).await {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::Conflict => {}
        Err(error) => return Err(error),
    }
    if read::small(parts.there, key, len_max).await? == *stored {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Integrity,
        key.to_string(),
        format!("is other bytes in {} than were sent", parts.to_name),
    )
    .with_hint(
        "the store or the way to it damages data, or somebody else wrote there: do not rely on this copy",
    )
    .at(Stage::Verify))
}

/// The data of a backup; the stream ends cleanly only if length, digest, head and every frame are those
/// that were signed.
async fn audited(
    cx: &Context,
    source: &dyn Source,
    auditor: &Arc<dyn Auditor>,
    manifest: &VouchedManifest,
    tree: Arc<[u8]>,
) -> Result<ByteStream<Sealed>> {
    let body = manifest.manifest();
    let pin = read::data_version(source, manifest).await?;
    let receipt = Receipt { len: body.object_len, sha256: body.sha256, tag: pin };
    let stream = verify::checked(cx, source, &body.backup().data(), &receipt).await?;
    let (frames, mut queue) = mpsc::channel(WAITING);
    let sealed = ByteStream::declare_sealed(futures::stream::poll_fn(move |cx| queue.poll_recv(cx)));
    let expected = Expected {
        id: Some(body.id),
        head_sha256: Some(body.head_sha256),
        object_len: Some(body.object_len),
        tree_root: Some(body.tree_root),
        tree: Some(tree),
    };
    let opening = Opening { sealed, expected };
    let auditor = Arc::clone(auditor);
    let verdict = Verdict(Some(tokio::spawn(async move { auditor.audit(opening).await })));
    let start = (stream, Some(frames), verdict);
    Ok(ByteStream::declare_sealed(futures::stream::try_unfold(
        start,
        async |(mut stream, frames, mut verdict)| match (stream.next().await.transpose()?, frames) {
            (Some(chunk), Some(frames)) => {
                if frames.send(Ok(chunk.clone())).await.is_err() {
                    verdict.reached().await?;
                    return Err(Error::bug("the auditor ended before the data did"));
                }
                Ok(Some((chunk, (stream, Some(frames), verdict))))
            }
            (None, frames) => {
                drop(frames);
                verdict.reached().await?;
                Ok(None)
            }
            (Some(_), None) => Err(Error::bug("data after its end")),
        },
    )))
}

/// The auditor at work; ends with whoever waits for it.
struct Verdict(Option<JoinHandle<Result<u64>>>);

impl Verdict {
    async fn reached(&mut self) -> Result<()> {
        let Some(audit) = &mut self.0 else { return Ok(()) };
        let ended = audit.await;
        self.0 = None;
        match ended {
            Ok(frames) => frames.map(drop).map_err(|e| e.at(Stage::Verify)),
            Err(error) => Err(Error::bug(format!("the auditor ended badly: {error}"))),
        }
    }
}

impl Drop for Verdict {
    fn drop(&mut self) {
        if let Some(audit) = &self.0 {
            audit.abort();
        }
    }
}

async fn drain(mut stream: ByteStream<Sealed>) -> Result<()> {
    while let Some(chunk) = stream.next().await {
        chunk?;
    }
    Ok(())
}

fn quiet(cx: &Context) -> Context {
    read::without_progress(cx)
}

/// Copies what the history of one place tells of removed backups, so that their numbers stay explained
/// in the other; not of backups that still stand there. How many were copied.
///
/// # Errors
/// Those of the places.
pub async fn copy_history(cx: &Context, parts: &CopyParts<'_>) -> Result<usize> {
    let mut copied = 0;
    for object in parts.from.list("history/").await.map_err(|e| e.at(Stage::Fetch))? {
        cx.check(object.key.as_str())?;
        let Some(at) = BackupRef::of_history(&object.key) else { continue };
        let stored = match read::small(parts.from, &object.key, read::STATEMENT_LEN_MAX).await {
            Ok(stored) => stored,
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Integrity) => continue,
            Err(error) => return Err(error),
        };
        let known = parts.there.stat(&object.key).await.map_err(|e| e.at(Stage::Fetch))?.is_some();
        let stands = parts.there.stat(&at.manifest()).await.map_err(|e| e.at(Stage::Fetch))?.is_some();
        if known || stands || parts.trust.vouch_removal(&at, &stored).is_err() {
            continue;
        }
        put(&quiet(cx), parts, &object.key, &stored, read::STATEMENT_LEN_MAX).await?;
        copied += 1;
    }
    Ok(copied)
}
