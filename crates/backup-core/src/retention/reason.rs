//! Why a backup is kept or may go.

use std::fmt;

use jiff::Timestamp;
use serde::Serialize;

use crate::id::BackupId;

use super::slot::Period;

/// What is decided of one backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It stays, for all of these reasons.
    Keep(Vec<Reason>),
    /// It may go, for this reason.
    Remove(Reason),
}

/// One reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Reason {
    /// There is no rule.
    NoRule,
    /// Somebody pinned it.
    Pinned,
    /// It is locked until then.
    Locked(Timestamp),
    /// The store holds it without a date.
    LegalHold,
    /// All of it is in another place, of this name, and was verified there.
    Elsewhere(String),
    /// It is in no other place, or was not verified there.
    OnlyHere,
    /// It keeps a slot of the schedule for `last`.
    Last(String),
    /// It keeps a slot of the calendar.
    Slot(Period, String),
    /// It is in such a slot and not proven, so it is kept beside the count.
    Unproven,
    /// It is in such a slot, and damaged or of an unusual size, so it is kept beside the count.
    Unusual,
    /// It is no older than the rule says.
    Within,
    /// Fewer proven backups would be left than is allowed.
    AtLeast,
    /// A kept backup cannot be restored without it.
    NeededBy(BackupId),
    /// Nothing goes for now, because of this.
    Frozen(String),
    /// There is no proven backup yet that could stand in for it.
    NothingProven,
    /// No rule keeps it.
    PastEveryRule,
    /// No slot keeps it, and the backups up to it are larger than the limit.
    OverSize,
    /// Another backup keeps each of its slots.
    SlotTaken(BackupId),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRule => f.write_str("there is no rule that lets anything go"),
            Self::Pinned => f.write_str("it is pinned"),
            Self::Locked(until) => write!(f, "it is locked until {until}"),
            Self::LegalHold => f.write_str("a legal hold of the store keeps it"),
            Self::Elsewhere(place) => write!(f, "all of it is in {place}"),
            Self::OnlyHere => f.write_str("it was not verified in the other place"),
            Self::Last(slot) => write!(f, "one of the last: {slot}"),
            Self::Slot(period, slot) => write!(f, "the one of the {period} {slot}"),
            Self::Unproven => f.write_str("it was not deeply verified yet, and is kept beside the count"),
            Self::Unusual => {
                f.write_str("it failed a verification or has an unusual size, and is kept beside the count")
            }
            Self::Within => f.write_str("it is young enough"),
            Self::AtLeast => f.write_str("fewer proven backups than allowed would be left"),
            Self::NeededBy(id) => write!(f, "backup {id} cannot be restored without it"),
            Self::Frozen(why) => write!(f, "nothing goes for now: {why}"),
            Self::NothingProven => f.write_str("no other backup was deeply verified yet"),
            Self::PastEveryRule => f.write_str("it is past every rule"),
            Self::OverSize => f.write_str("no slot keeps it, and the total size is reached"),
            Self::SlotTaken(id) => write!(f, "backup {id} is the one of its slot"),
        }
    }
}
