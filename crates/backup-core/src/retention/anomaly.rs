//! Sizes that are not like those before: a source that was emptied, or encrypted by somebody else,
//! makes backups of another size, and nothing should go because of them.
//!
//! The usual size is the median over the last [`DAYS`] days that have a proven backup, the first of
//! each day, so that a flood within a day moves it by no more than one backup does. A backup below half
//! of it or above three times of it is unusual. Nothing is unusual before there are [`DAYS_MIN`] such
//! days, and no difference counts below [`BYTES_MIN`].
//!
//! An unusual backup displaces nothing, and nothing goes while the newest one is unusual, until a person
//! accepts it by name. What was accepted is the beginning of a new history.

use jiff::Timestamp;

use super::decide::Candidate;
use super::policy::Policy;
use super::slot::Period;

/// Over how many days the usual size is taken.
pub(super) const DAYS: usize = 10;
/// How many days there must be before anything is unusual.
pub(super) const DAYS_MIN: usize = 3;
/// Sizes below this many bytes count as this many.
pub(super) const BYTES_MIN: u64 = 8 << 10;
/// Less than the usual size divided by this is far smaller.
const SMALLER: u64 = 2;
/// More than this many times the usual size is far larger.
const LARGER: u64 = 3;

/// What is wrong with one backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wrong {
    /// It is far smaller or far larger than this usual size.
    Size { usual: u64 },
    /// Its last verification failed.
    Failed,
}

/// What is wrong with each backup of `oldest_first`, in that order.
pub(super) fn wrongs(oldest_first: &[&Candidate], policy: &Policy, now: Timestamp) -> Vec<Option<Wrong>> {
    let mut days: Vec<u64> = Vec::new();
    let mut least = DAYS_MIN;
    let mut last_day = None;
    let mut wrongs = Vec::with_capacity(oldest_first.len());
    for backup in oldest_first {
        let bytes = backup.bytes.max(BYTES_MIN);
        let usual = (days.len() >= least).then(|| median(&days));
        let unusual = usual
            .filter(|usual| bytes < usual / SMALLER || bytes > usual.saturating_mul(LARGER))
            .map(|usual| Wrong::Size { usual });
        let wrong = if backup.failed { Some(Wrong::Failed) } else { unusual.filter(|_| !backup.accepted) };
        wrongs.push(wrong);
        if wrong.is_some() || !backup.proven {
            continue;
        }
        let day = Some(Period::Day.slot(backup.first_seen.min(now), &policy.time_zone));
        if unusual.is_some() {
            // Accepted: what was usual before says nothing any more.
            days.clear();
            least = 1;
        } else if day == last_day {
            continue;
        }
        last_day = day;
        if days.len() == DAYS {
            days.remove(0);
        }
        days.push(bytes);
    }
    wrongs
}

fn median(sizes: &[u64]) -> u64 {
    let mut sorted = sizes.to_vec();
    sorted.sort_unstable();
    sorted[(sorted.len() - 1) / 2]
}
