//! The decision.

use std::collections::HashMap;

use jiff::{SignedDuration, Timestamp};

use crate::id::BackupId;

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
    /// Whether a verifier's statement says that it was deeply verified.
    pub proven: bool,
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

/// Decides over all backups of one source. The answer has one decision for each, the newest first,
/// and is the same for any order of `backups`. `frozen` says why nothing may go for now.
///
/// Takes time in proportion to `n log n`.
#[must_use]
pub fn decide(backups: &[Candidate], policy: &Policy, now: Timestamp, frozen: Option<&str>) -> Vec<Decision> {
    let mut sorted: Vec<&Candidate> = backups.iter().collect();
    // The id only makes the order the same for every order of input.
    sorted.sort_by_key(|backup| (std::cmp::Reverse(backup.first_seen.min(now)), backup.id));
    let mut kept: Vec<Vec<Reason>> = vec![Vec::new(); sorted.len()];
    let mut refused: Vec<Reason> = vec![Reason::PastEveryRule; sorted.len()];

    for (index, backup) in sorted.iter().enumerate() {
        if let Some(why) = frozen {
            kept[index].push(Reason::Frozen(why.to_owned()));
        }
        if policy.keeps_everything() {
            kept[index].push(Reason::NoRule);
        }
        if backup.pinned {
            kept[index].push(Reason::Pinned);
        }
        if let Some(until) = backup.locked_until.filter(|until| *until > now) {
            kept[index].push(Reason::Locked(until));
        }
    }
    for (rule, period, count) in policy.slots() {
        keep_slots(&sorted, policy, now, (rule, period, count), &mut kept, &mut refused);
    }
    keep_young(&sorted, policy, now, &mut kept, &mut refused);
    keep_floor(&sorted, policy, &mut kept);
    keep_needed(&sorted, &mut kept);

    let decided = kept.into_iter().zip(refused);
    sorted
        .iter()
        .zip(decided)
        .map(|(backup, (kept, refused))| Decision {
            id: backup.id,
            verdict: if kept.is_empty() { Verdict::Remove(refused) } else { Verdict::Keep(kept) },
        })
        .collect()
}

/// Keeps one of each of the newest slots, until so many of them have a proven keeper.
fn keep_slots(
    sorted: &[&Candidate],
    policy: &Policy,
    now: Timestamp,
    (rule, period, count): (Rule, super::Period, usize),
    kept: &mut [Vec<Reason>],
    refused: &mut [Reason],
) {
    let seen = |backup: &Candidate| backup.first_seen.min(now);
    let slot = |backup: &Candidate| period.slot(seen(backup), &policy.time_zone);
    let mut filled = 0;
    let mut at = 0;
    while at < sorted.len() && filled < count {
        let this = slot(sorted[at]);
        let end = at + sorted[at..].iter().take_while(|backup| slot(backup) == this).count();
        // Newest first, so the last proven one of the slot is the one that came first.
        let keeper = (at..end).rev().find(|&index| sorted[index].proven);
        for index in at..end {
            if !sorted[index].proven {
                kept[index].push(Reason::Unproven);
            } else if Some(index) != keeper
                && let Some(keeper) = keeper
            {
                refused[index] = Reason::SlotTaken(sorted[keeper].id);
            }
        }
        if let Some(keeper) = keeper {
            let name = period.name(seen(sorted[keeper]), &policy.time_zone);
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
    sorted: &[&Candidate],
    policy: &Policy,
    now: Timestamp,
    kept: &mut [Vec<Reason>],
    refused: &mut [Reason],
) {
    let Some(within) = policy.within else { return };
    // Everything newer counts, kept or not, so that no other rule changes what this one keeps.
    let mut total = 0u64;
    for (index, backup) in sorted.iter().enumerate() {
        total = total.saturating_add(backup.bytes);
        if now.duration_since(backup.first_seen).max(SignedDuration::ZERO) > within {
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
fn keep_floor(sorted: &[&Candidate], policy: &Policy, kept: &mut [Vec<Reason>]) {
    let floor = policy.at_least.map_or(1, |count| count.get() as usize);
    let proven: Vec<usize> = (0..sorted.len()).filter(|&index| sorted[index].proven).collect();
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
fn keep_needed(sorted: &[&Candidate], kept: &mut [Vec<Reason>]) {
    let places: HashMap<BackupId, usize> =
        sorted.iter().enumerate().map(|(index, backup)| (backup.id, index)).collect();
    let mut open: Vec<usize> = (0..sorted.len()).filter(|&index| !kept[index].is_empty()).collect();
    while let Some(index) = open.pop() {
        for needed in &sorted[index].needs {
            if let Some(&base) = places.get(needed) {
                let new = kept[base].is_empty();
                let reason = Reason::NeededBy(sorted[index].id);
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
