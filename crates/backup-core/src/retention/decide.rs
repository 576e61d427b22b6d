//! The decision.

use std::collections::HashMap;

use jiff::Timestamp;

use crate::id::BackupId;

use super::anomaly::{self, Wrong};
use super::policy::{Policy, Rule};
use super::reason::{Reason, Verdict};

/// One backup of the source in question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Which.
    pub id: BackupId,
    /// When the one who prunes saw it first, by its own signed note.
    pub first_seen: Timestamp,
    /// Bytes at the destination.
    pub bytes: u64,
    /// Whether a verifier's newest word is that it was deeply verified.
    pub proven: bool,
    /// Whether a verifier's newest word is that it is damaged.
    pub failed: bool,
    /// Whether an operator said that its size is as it should be.
    pub accepted: bool,
    /// Whether somebody pinned it.
    pub pinned: bool,
    /// Until when the store or a legal hold keeps it.
    pub locked_until: Option<Timestamp>,
    /// Backups without which it cannot be restored.
    pub needs: Vec<BackupId>,
}

/// What is decided of one backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Which.
    pub id: BackupId,
    /// What is decided.
    pub verdict: Verdict,
}

impl Decision {
    /// Whether it stays.
    #[must_use]
    pub fn keeps(&self) -> bool {
        matches!(self.verdict, Verdict::Keep(_))
    }
}

/// A backup with what its history says of it.
#[derive(Debug, Clone, Copy)]
struct Seen<'a> {
    backup: &'a Candidate,
    at: Timestamp,
    wrong: Option<Wrong>,
}

impl Seen<'_> {
    /// Whether it counts as one that stands for the source.
    fn proven(&self) -> bool {
        self.backup.proven && self.wrong.is_none()
    }
}

/// All of them, the newest first, in the same order for any order of input.
fn sorted<'a>(backups: &'a [Candidate], policy: &Policy, now: Timestamp) -> Vec<Seen<'a>> {
    let mut oldest_first: Vec<&Candidate> = backups.iter().collect();
    // The id only makes the order the same for every order of input.
    oldest_first.sort_by_key(|backup| (backup.first_seen.min(now), std::cmp::Reverse(backup.id)));
    let wrongs = anomaly::wrongs(&oldest_first, policy, now);
    let seen = oldest_first.into_iter().zip(wrongs);
    seen.map(|(backup, wrong)| Seen { backup, at: backup.first_seen.min(now), wrong }).rev().collect()
}

/// Why nothing of a source may go: its newest backup is damaged, or of an unusual size that nobody
/// accepted. `None` when all is as it was.
///
/// Takes time in proportion to `n log n`.
#[must_use]
pub fn freeze(backups: &[Candidate], policy: &Policy, now: Timestamp) -> Option<String> {
    frozen_by(&sorted(backups, policy, now))
}

fn frozen_by(sorted: &[Seen<'_>]) -> Option<String> {
    let newest = sorted.first()?;
    let id = newest.backup.id;
    Some(match newest.wrong? {
        Wrong::Failed => format!("the newest backup, {id}, failed its verification"),
        Wrong::Size { usual } => format!(
            "the newest backup, {id}, has {} bytes where about {usual} are usual; if that is right, accept it by name",
            newest.backup.bytes
        ),
    })
}

/// Decides over all backups of one source. The answer has one decision for each, the newest first,
/// and is the same for any order of `backups`. `frozen` says why nothing may go for now, beside what
/// [`freeze`] finds.
///
/// Takes time in proportion to `n log n`.
#[must_use]
pub fn decide(backups: &[Candidate], policy: &Policy, now: Timestamp, frozen: Option<&str>) -> Vec<Decision> {
    let sorted = sorted(backups, policy, now);
    let unusual = frozen_by(&sorted);
    let mut kept: Vec<Vec<Reason>> = vec![Vec::new(); sorted.len()];
    let mut refused: Vec<Reason> = vec![Reason::PastEveryRule; sorted.len()];

    for (Seen { backup, .. }, kept) in sorted.iter().zip(&mut kept) {
        for why in [frozen, unusual.as_deref()].into_iter().flatten() {
            kept.push(Reason::Frozen(why.to_owned()));
        }
        if policy.keeps_everything() {
            kept.push(Reason::NoRule);
        }
        if backup.pinned {
            kept.push(Reason::Pinned);
        }
        if let Some(until) = backup.locked_until.filter(|until| *until > now) {
            kept.push(Reason::Locked(until));
        }
    }
    for (rule, period, count) in policy.slots() {
        keep_slots(&sorted, policy, (rule, period, count), &mut kept, &mut refused);
    }
    keep_young(&sorted, policy, now, &mut kept, &mut refused);
    keep_floor(&sorted, policy, &mut kept);
    keep_needed(&sorted, &mut kept);

    let decided = kept.into_iter().zip(refused);
    sorted
        .iter()
        .zip(decided)
        .map(|(seen, (kept, refused))| Decision {
            id: seen.backup.id,
            verdict: if kept.is_empty() { Verdict::Remove(refused) } else { Verdict::Keep(kept) },
        })
        .collect()
}

/// Keeps one of each of the newest slots, until so many of them have a proven keeper.
fn keep_slots(
    sorted: &[Seen<'_>],
    policy: &Policy,
    (rule, period, count): (Rule, super::Period, usize),
    kept: &mut [Vec<Reason>],
    refused: &mut [Reason],
) {
    let slots: Vec<i64> = sorted.iter().map(|seen| period.slot(seen.at, &policy.time_zone)).collect();
    let mut filled = 0;
    let mut at = 0;
    while at < sorted.len() && filled < count {
        let end = at + slots[at..].iter().take_while(|slot| **slot == slots[at]).count();
        // Newest first, so the last proven one of the slot is the one that came first.
        let keeper = (at..end).rev().find(|&index| sorted[index].proven());
        for index in at..end {
            if sorted[index].wrong.is_some() {
                kept[index].push(Reason::Unusual);
            } else if !sorted[index].proven() {
                kept[index].push(Reason::Unproven);
            } else if Some(index) != keeper
                && let Some(keeper) = keeper
            {
                refused[index] = Reason::SlotTaken(sorted[keeper].backup.id);
            }
        }
        if let Some(keeper) = keeper {
            let name = period.name(sorted[keeper].at, &policy.time_zone);
            kept[keeper].push(match rule {
                Rule::Last => Reason::Last(name),
                Rule::Every => Reason::Slot(period, name),
            });
            filled += 1;
        }
        at = end;
    }
}

/// Keeps what is young enough, as far as the limit on size reaches.
fn keep_young(
    sorted: &[Seen<'_>],
    policy: &Policy,
    now: Timestamp,
    kept: &mut [Vec<Reason>],
    refused: &mut [Reason],
) {
    let Some(within) = policy.within else { return };
    // Everything newer counts, kept or not, so that no other rule changes what this one keeps.
    let mut total = 0u64;
    for (index, Seen { backup, at, .. }) in sorted.iter().enumerate() {
        total = total.saturating_add(backup.bytes);
        if now.duration_since(*at) > within {
            break;
        }
        if policy.max_bytes.is_none_or(|most| total <= most) {
            kept[index].push(Reason::Within);
        } else {
            refused[index] = Reason::OverSize;
        }
    }
}

/// Keeps the newest proven ones up to the floor; everything while nothing is proven.
fn keep_floor(sorted: &[Seen<'_>], policy: &Policy, kept: &mut [Vec<Reason>]) {
    let floor = policy.at_least.map_or(1, |count| count.get() as usize);
    let proven: Vec<usize> = (0..sorted.len()).filter(|&index| sorted[index].proven()).collect();
    if proven.is_empty() {
        kept.iter_mut().for_each(|kept| kept.push(Reason::NothingProven));
        return;
    }
    for &index in proven.iter().take(floor) {
        if kept[index].is_empty() {
            kept[index].push(Reason::AtLeast);
        }
    }
}

/// Keeps what kept ones need, and what those need.
fn keep_needed(sorted: &[Seen<'_>], kept: &mut [Vec<Reason>]) {
    if sorted.iter().all(|seen| seen.backup.needs.is_empty()) {
        return;
    }
    let places: HashMap<BackupId, usize> =
        sorted.iter().enumerate().map(|(index, seen)| (seen.backup.id, index)).collect();
    let mut open: Vec<usize> = (0..sorted.len()).filter(|&index| !kept[index].is_empty()).collect();
    while let Some(index) = open.pop() {
        for needed in &sorted[index].backup.needs {
            if let Some(&base) = places.get(needed) {
                let new = kept[base].is_empty();
                let reason = Reason::NeededBy(sorted[index].backup.id);
                if !kept[base].contains(&reason) {
                    kept[base].push(reason);
                }
                if new {
                    open.push(base);
                }
            }
        }
    }
}
