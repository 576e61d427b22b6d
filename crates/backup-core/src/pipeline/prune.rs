//! Removing backups by a policy: history first, then the manifest, then the data, then a look.
//!
//! Killed at any call, a backup is either whole or has no manifest, and what has no manifest and is in
//! the history is removed by the next run. Two machines may prune at once, also by different policies:
//! each says beside every backup of a batch that it is about to remove it, and then looks, and decides
//! once more without all that others say this of, or have removed. Of two that rely on what the other
//! removes, the one that looks last sees the other's word, for both spoke before they looked.

use std::collections::{BTreeMap, BTreeSet};

use futures::stream::{StreamExt as _, TryStreamExt as _};
use jiff::{SignedDuration, Timestamp};

use crate::attestation::{Claim, Removal};
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result, Stage};
use crate::id::{BackupId, SourceName};
use crate::manifest::{BackupRef, printable};
use crate::retention::{Candidate, Decision, Policy, Reason, Verdict, decide, freeze};
use crate::statement::{Signer, StatementKind, Trust, VouchedManifest};
use crate::store::{ObjectInfo, Remover, Sink, Source};
use crate::stream::ByteStream;

use super::held::held_among;
use super::{Attested, attest, attestations, attestations_among, list_among, read, store};

/// How long a pruner's word that it is about to remove a backup counts.
const INTENT: SignedDuration = SignedDuration::from_hours(24);
/// How far a clock may be ahead of the newest time in a place.
const CLOCK_AHEAD_MAX: SignedDuration = SignedDuration::from_hours(7 * 24);
/// How far a clock may be ahead of the time that a place gives to what is written now.
const PLACE_BEHIND_MAX: SignedDuration = SignedDuration::from_hours(24);
/// Of how many backups a prune says that they are leaving, before it looks once at what others say.
const BATCH: usize = 64;
/// How old such a look may be when a backup goes; far below [`INTENT`].
const LOOK_AGE_MAX: SignedDuration = SignedDuration::from_hours(1);
/// Of how many backups the statements are read at a time.
const LOOKS_MAX: usize = 16;

/// What pruning works with.
#[derive(Debug, Clone, Copy)]
pub struct PruneParts<'a> {
    /// Reads the place.
    pub source: &'a dyn Source,
    /// Writes statements and the history.
    pub sink: &'a dyn Sink,
    /// Removes.
    pub remover: &'a dyn Remover,
    /// Says who is believed.
    pub trust: &'a dyn Trust,
    /// A key with the role of a pruner.
    pub signer: &'a dyn Signer,
    /// Whether this machine's clock is doubted.
    pub clock: ClockCheck,
}

/// A backup that stands, as the pruner sees it.
#[derive(Debug, Clone)]
pub struct Standing {
    /// Its manifest.
    pub manifest: VouchedManifest,
    /// What the decision needs to know of it.
    pub candidate: Candidate,
    /// Since when it is marked as let go by the rules.
    pub marked: Option<Timestamp>,
}

/// What would be kept and removed, and why.
#[derive(Debug)]
pub struct PrunePlan {
    source: SourceName,
    policy: Policy,
    /// Why nothing goes for now.
    pub frozen: Option<String>,
    /// Every backup that stands, the newest first, with what was decided of it.
    pub decisions: Vec<(Standing, Decision)>,
    /// Whether what goes stands in another place, so that what others remove here displaces nothing.
    elsewhere: bool,
}

/// What another place holds of a source.
#[derive(Debug, Clone, Copy)]
pub struct Elsewhere<'a> {
    /// What people call it.
    pub name: &'a str,
    /// The backups that were verified there now.
    pub verified: &'a BTreeSet<BackupId>,
    /// How many of them were deeply verified by a verifier, and are not known as damaged.
    pub proven: usize,
}

/// What a prune did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Backups that are gone.
    pub removed: Vec<BackupRef>,
    /// Leftovers of earlier prunes that are gone.
    pub finished: Vec<BackupRef>,
    /// Backups that were marked now, or before and not long enough ago, and go when the delay is over.
    pub waiting: Vec<BackupRef>,
    /// Backups that were to go and stay, because another machine removes what would stand for them, or
    /// somebody pinned them meanwhile.
    pub spared: Vec<BackupRef>,
}

/// Whether this machine's clock is held against what else tells the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClockCheck {
    /// A clock far ahead of everything in the place is refused.
    Compared,
    /// A person says that the clock is right.
    Trusted,
}

/// Looks at the backups of a source. One that is seen for the first time is noted so, signed, beside
/// it: its age counts from that note.
///
/// Manifests that are not believed are left alone: they are neither kept for nor removed.
///
/// # Errors
/// Those of the place and of the signer; `Unavailable` when this machine's clock is more than seven days
/// ahead of every time in the place: those of the manifests, of the statements, and of the place itself.
/// Nothing was noted then.
pub async fn survey(cx: &Context, parts: PruneParts<'_>, source: &SourceName) -> Result<Vec<Standing>> {
    let objects = parts.source.list(&format!("{source}/")).await.map_err(|e| e.at(Stage::Fetch))?;
    let mut statements: BTreeMap<BackupRef, Vec<&ObjectInfo>> = BTreeMap::new();
    for object in &objects {
        if let Some(at) = BackupRef::of_statement(&object.key) {
            statements.entry(at).or_default().push(object);
        }
    }
    let believed = list_among(parts.source, parts.trust, &objects)
        .await?
        .into_iter()
        .filter_map(|listed| listed.manifest.ok());
    let statements = &statements;
    let looked: Vec<(VouchedManifest, Attested)> = futures::stream::iter(believed)
        .map(|manifest| async move {
            cx.check(source.as_str())?;
            let of = statements.get(&manifest.manifest().backup()).into_iter().flatten().copied();
            let said = attestations_among(parts.source, parts.trust, &manifest, of).await?;
            Ok((manifest, said))
        })
        .buffered(LOOKS_MAX)
        .try_collect()
        .await?;
    if parts.clock == ClockCheck::Compared {
        check_clock(cx, &objects, &looked)?;
    }
    let mut standing = Vec::with_capacity(looked.len());
    for (manifest, said) in looked {
        cx.check(source.as_str())?;
        let seen = said.believed.iter().filter_map(|said| said.claim.first_seen(said.made));
        let first_seen = match seen.min() {
            Some(first_seen) => first_seen,
            None => attest(cx, parts.sink, parts.signer, &manifest, Claim::Seen {}).await?.made,
        };
        let body = manifest.manifest();
        let candidate = Candidate {
            id: body.id,
            first_seen,
            bytes: body.object_len,
            proven: said.proven(),
            failed: said.failed(),
            accepted: said.accepted(),
            pinned: said.pinned(),
            locked_until: None,
            needs: Vec::new(),
        };
        standing.push(Standing { manifest, candidate, marked: said.marked() });
    }
    Ok(standing)
}

/// Refuses a clock that is far ahead of everything else that tells the time. A clock that runs ahead
/// makes backups old, and its notes would count for as long as they stand.
fn check_clock(cx: &Context, objects: &[ObjectInfo], looked: &[(VouchedManifest, Attested)]) -> Result<()> {
    let said = looked.iter().flat_map(|(_, said)| &said.believed).map(|said| said.made);
    let made = looked.iter().map(|(manifest, _)| manifest.manifest().finished);
    let stored = objects.iter().filter_map(|object| object.modified);
    match said.chain(made).chain(stored).max() {
        Some(newest) if cx.now().duration_since(newest) > CLOCK_AHEAD_MAX => Err(clock_ahead(cx, newest)),
        _ => Ok(()),
    }
}

fn clock_ahead(cx: &Context, newest: Timestamp) -> Error {
    Error::new(
        ErrorKind::Unavailable,
        "this machine's clock",
        format!("says {}, and nothing in the destination is newer than {newest}", cx.now()),
    )
    .with_hint("set the clock; or, if it is right and there was no backup for so long, pass --clock-is-right")
    .at(Stage::Remove)
}

/// Decides over what stands; removes nothing. `frozen` says why nothing may go for now, beside what
/// [`freeze`] finds.
#[must_use]
pub fn plan_prune(
    cx: &Context,
    source: &SourceName,
    standing: Vec<Standing>,
    policy: &Policy,
    frozen: Option<&str>,
) -> PrunePlan {
    let candidates: Vec<Candidate> = standing.iter().map(|one| one.candidate.clone()).collect();
    let frozen = frozen.map(str::to_owned).or_else(|| freeze(&candidates, policy, cx.now()));
    let mut by_id: BTreeMap<_, _> = standing.into_iter().map(|one| (one.candidate.id, one)).collect();
    let decisions = decide(&candidates, policy, cx.now(), frozen.as_deref())
        .into_iter()
        .filter_map(|decision| Some((by_id.remove(&decision.id)?, decision)))
        .collect();
    PrunePlan { source: source.clone(), policy: policy.clone(), frozen, decisions, elsewhere: false }
}

/// Decides over what stands where all of it is to go because another place has it; removes nothing. What is pinned
/// stays, as does what was not verified there; nothing goes while fewer backups than `policy.at_least` are proven
/// there, while something is unusual ([`freeze`]), or for the reason `frozen`.
///
/// Of the policy, `at_least` and `delay` count, and what [`freeze`] asks of it.
#[must_use]
pub fn plan_retire(
    cx: &Context,
    source: &SourceName,
    mut standing: Vec<Standing>,
    policy: &Policy,
    other: Elsewhere<'_>,
    frozen: Option<&str>,
) -> PrunePlan {
    let candidates: Vec<Candidate> = standing.iter().map(|one| one.candidate.clone()).collect();
    let frozen = frozen.map(str::to_owned).or_else(|| freeze(&candidates, policy, cx.now()));
    let floor = policy.at_least.map_or(1, |count| count.get() as usize);
    standing.sort_by_key(|one| std::cmp::Reverse((one.candidate.first_seen.min(cx.now()), one.candidate.id)));
    let decided = |one: &Standing| {
        let candidate = &one.candidate;
        let mut kept: Vec<Reason> = frozen.iter().cloned().map(Reason::Frozen).collect();
        if candidate.pinned {
            kept.push(Reason::Pinned);
        }
        if !other.verified.contains(&candidate.id) {
            kept.push(Reason::OnlyHere);
        }
        if other.proven == 0 {
            kept.push(Reason::NothingProven);
        } else if other.proven < floor {
            kept.push(Reason::AtLeast);
        }
        let gone = Verdict::Remove(Reason::Elsewhere(printable(other.name)));
        Decision { id: candidate.id, verdict: if kept.is_empty() { gone } else { Verdict::Keep(kept) } }
    };
    let decisions = standing.into_iter().map(|one| {
        let decision = decided(&one);
        (one, decision)
    });
    let decisions = decisions.collect();
    PrunePlan { source: source.clone(), policy: policy.clone(), frozen, decisions, elsewhere: true }
}

/// Asks the place what it holds of what is to go: that waits, with the date for its reason.
///
/// # Errors
/// `Denied` where the credentials may not ask; those of the place.
pub async fn heed_locks(cx: &Context, source: &dyn Source, mut plan: PrunePlan) -> Result<PrunePlan> {
    let asked = plan.removals().map(|(standing, _)| standing.manifest.manifest().backup()).collect();
    cx.check(plan.source.as_str())?;
    for (at, held) in held_among(source, asked, LOOKS_MAX).await? {
        let mut kept = Vec::new();
        if held.legal_hold {
            kept.push(Reason::LegalHold);
        }
        if let Some(until) = held.until.filter(|until| *until > cx.now()) {
            kept.push(Reason::Locked(until));
        }
        let of = plan.decisions.iter_mut().find(|(one, _)| one.candidate.id == at.id);
        // A lock only keeps: it lets nothing else go.
        if let (Some((standing, decision)), false) = (of, kept.is_empty()) {
            standing.candidate.locked_until = held.until;
            decision.verdict = Verdict::Keep(kept);
        }
    }
    Ok(plan)
}

impl PrunePlan {
    /// What is to go, the oldest first.
    pub fn removals(&self) -> impl Iterator<Item = (&Standing, &Reason)> {
        self.decisions.iter().rev().filter_map(|(standing, decision)| match &decision.verdict {
            Verdict::Remove(reason) => Some((standing, reason)),
            Verdict::Keep(_) => None,
        })
    }

    /// Whether a backup would still go if the others in `gone` were not there.
    fn still_removes(&self, cx: &Context, one: &Standing, gone: &[BackupRef]) -> bool {
        if self.elsewhere {
            return true;
        }
        let left: Vec<Candidate> = self
            .decisions
            .iter()
            .map(|(standing, _)| standing)
            .filter(|other| {
                other.candidate.id == one.candidate.id || !gone.contains(&other.manifest.manifest().backup())
            })
            .map(|standing| standing.candidate.clone())
            .collect();
        decide(&left, &self.policy, cx.now(), None)
            .iter()
            .any(|decision| decision.id == one.candidate.id && !decision.keeps())
    }
}

/// Removes what the plan says, and what earlier prunes left half removed. Stops at the first error;
/// run it again to go on.
///
/// Not cancel safe in the sense that a backup may be half removed; it is then no backup any more, and
/// the next run removes the rest.
///
/// # Errors
/// Those of the place and of the signer; `Conflict` when something is still there after it was
/// removed, as with object lock.
pub async fn prune(cx: &Context, parts: PruneParts<'_>, plan: &PrunePlan) -> Result<Pruned> {
    let mut pruned = Pruned::default();
    for at in history(parts, &plan.source).await? {
        cx.check(&at.to_string())?;
        let left = parts.source.list(&at.prefix()).await.map_err(|e| e.at(Stage::Remove))?;
        let half = !left.is_empty() && !left.iter().any(|object| object.key == at.manifest());
        // Without a pruner's word, data without a manifest may be a backup that is being made.
        if half && noted(parts, &at).await?.is_some() {
            remove_data(parts, &at).await?;
            pruned.finished.push(at);
        }
    }
    if plan.frozen.is_none() {
        unmark(cx, parts, plan).await?;
    }
    let mut going = Vec::new();
    for (standing, reason) in plan.removals() {
        let at = standing.manifest.manifest().backup();
        cx.check(&at.to_string())?;
        if ripe(cx, parts, plan, standing).await? {
            going.push((at, standing, reason));
        } else {
            pruned.waiting.push(at);
        }
    }
    for (n, batch) in going.chunks(BATCH).enumerate() {
        let said = cx.now();
        for (i, (at, standing, _)) in batch.iter().enumerate() {
            cx.check(&at.to_string())?;
            attest(cx, parts.sink, parts.signer, &standing.manifest, Claim::Leaving {}).await?;
            if (n, i) == (0, 0) {
                check_place_clock(cx, parts, at).await?;
            }
        }
        // One look for the whole batch is enough: who says afterwards that something is leaving looks after
        // that, and sees all of our words.
        let mut gone = leaving(cx, parts, &plan.source).await?;
        for (at, standing, reason) in batch {
            cx.check(&at.to_string())?;
            // Our words must still count where this place is so slow.
            if cx.now().duration_since(said) > LOOK_AGE_MAX {
                attest(cx, parts.sink, parts.signer, &standing.manifest, Claim::Leaving {}).await?;
                gone = leaving(cx, parts, &plan.source).await?;
            }
            // Somebody may have pinned it since it was looked at.
            let pinned = attestations(parts.source, parts.trust, &standing.manifest).await?.pinned();
            if pinned || !plan.still_removes(cx, standing, &gone) {
                pruned.spared.push(at.clone());
                continue;
            }
            if !note(cx, parts, &standing.manifest, &reason.to_string()).await? {
                // Another machine was quicker; what is left are the words said just now.
                if noted(parts, at).await?.is_some() {
                    remove_data(parts, at).await?;
                }
                continue;
            }
            parts.remover.remove(&at.manifest()).await.map_err(|e| e.at(Stage::Remove))?;
            remove_data(parts, at).await?;
            pruned.removed.push(at.clone());
        }
    }
    Ok(pruned)
}

/// Takes back the marks of what is kept after all, so that a later mark begins a delay of its own.
async fn unmark(cx: &Context, parts: PruneParts<'_>, plan: &PrunePlan) -> Result<()> {
    for (standing, decision) in &plan.decisions {
        if decision.keeps() && standing.marked.is_some() {
            attest(cx, parts.sink, parts.signer, &standing.manifest, Claim::Marked { on: false }).await?;
        }
    }
    Ok(())
}

/// Whether a backup that the rules let go was marked so long enough ago; marks it otherwise.
async fn ripe(cx: &Context, parts: PruneParts<'_>, plan: &PrunePlan, one: &Standing) -> Result<bool> {
    let Some(delay) = plan.policy.delay else { return Ok(true) };
    match one.marked {
        Some(since) => Ok(cx.now().duration_since(since) >= delay),
        None => {
            attest(cx, parts.sink, parts.signer, &one.manifest, Claim::Marked { on: true }).await?;
            Ok(delay.is_zero())
        }
    }
}

/// Refuses this machine's clock when it is far ahead of the time that the place gives to what was written
/// there just now.
async fn check_place_clock(cx: &Context, parts: PruneParts<'_>, at: &BackupRef) -> Result<()> {
    if parts.clock == ClockCheck::Trusted {
        return Ok(());
    }
    let said = parts.source.list(&format!("{}statements/", at.prefix())).await;
    let said = said.map_err(|e| e.at(Stage::Remove))?;
    match said.iter().filter_map(|object| object.modified).max() {
        Some(newest) if cx.now().duration_since(newest) > PLACE_BEHIND_MAX => Err(clock_ahead(cx, newest)),
        _ => Ok(()),
    }
}

/// Writes into the history what is about to be removed, unless it is there. `false` when the backup
/// is gone already.
pub(super) async fn note(
    cx: &Context,
    parts: PruneParts<'_>,
    manifest: &VouchedManifest,
    reason: &str,
) -> Result<bool> {
    let manifest = manifest.manifest();
    let at = manifest.backup();
    let stored = match read::small(parts.source, &at.manifest(), read::STATEMENT_LEN_MAX).await {
        Ok(stored) => stored,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    if noted(parts, &at).await?.is_some() {
        return Ok(true);
    }
    let removal = Removal {
        repository: manifest.repository,
        source: at.source.clone(),
        id: at.id,
        manifest: String::from_utf8(stored.to_vec())
            .map_err(|_| Error::new(ErrorKind::Integrity, at.to_string(), "its manifest is no text"))?,
        reason: reason.to_owned(),
        made: cx.now(),
    };
    let signed = parts.signer.sign(StatementKind::Removal, &removal.to_json()?)?;
    let len = signed.stored().len() as u64;
    match store(cx, parts.sink, &at.history(), ByteStream::of_statement(&signed), Some(len)).await {
        Ok(_) => Ok(true),
        Err(error) if matches!(error.kind(), ErrorKind::Conflict | ErrorKind::Uncertain) => {
            // By another machine in this moment, or by us; or by somebody who may not.
            if noted(parts, &at).await?.is_some() { Ok(true) } else { Err(error) }
        }
        Err(error) => Err(error),
    }
}

/// What a pruner wrote into the history of a backup, if it is believed.
pub(super) async fn noted(parts: PruneParts<'_>, at: &BackupRef) -> Result<Option<Removal>> {
    match read::small(parts.source, &at.history(), read::STATEMENT_LEN_MAX).await {
        Ok(stored) => Ok(parts.trust.vouch_removal(at, &stored).ok()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The backups of the source that somebody is about to remove, or has removed.
async fn leaving(cx: &Context, parts: PruneParts<'_>, source: &SourceName) -> Result<Vec<BackupRef>> {
    let mut leaving = history(parts, source).await?;
    let objects = parts.source.list(&format!("{source}/")).await.map_err(|e| e.at(Stage::Remove))?;
    for object in objects.iter().filter(|object| object.key.file_name().starts_with("leaving-")) {
        let Some(at) = BackupRef::of_statement(&object.key) else { continue };
        let stored = match read::small(parts.source, &object.key, read::STATEMENT_LEN_MAX).await {
            Ok(stored) => stored,
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        // A word that is not believed removes nothing.
        if let Ok(said) = parts.trust.vouch_attestation(&at, &stored)
            && matches!(said.claim, Claim::Leaving {})
            && cx.now().duration_since(said.made) < INTENT
        {
            leaving.push(at);
        }
    }
    Ok(leaving)
}

async fn history(parts: PruneParts<'_>, source: &SourceName) -> Result<Vec<BackupRef>> {
    let objects = parts.source.list(&format!("history/{source}/")).await.map_err(|e| e.at(Stage::Remove))?;
    Ok(objects.iter().filter_map(|object| BackupRef::of_history(&object.key)).collect())
}

/// Removes everything of a backup that has no manifest any more, and looks that it is gone.
async fn remove_data(parts: PruneParts<'_>, at: &BackupRef) -> Result<()> {
    for object in parts.source.list(&at.prefix()).await.map_err(|e| e.at(Stage::Remove))? {
        parts.remover.remove(&object.key).await.map_err(|e| e.at(Stage::Remove))?;
    }
    let left = parts.source.list(&at.prefix()).await.map_err(|e| e.at(Stage::Remove))?;
    match left.first() {
        None => Ok(()),
        Some(object) => Err(Error::new(
            ErrorKind::Conflict,
            object.key.to_string(),
            "is still there after it was removed",
        )
        .with_hint("the store may keep it under a lock or as a version; prune again when the lock has ended")
        .at(Stage::Remove)),
    }
}
