//! The rules.

use std::num::NonZeroU32;

use jiff::SignedDuration;
use jiff::tz::TimeZone;
use thiserror::Error;

use super::slot::Period;

/// What to keep. Rules that are `None` say nothing; with no rule at all everything is kept.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// The newest backups, as many; those that fall into one slot of the schedule count as one.
    pub last: Option<NonZeroU32>,
    /// The schedule's slot for `last`.
    pub slot: Period,
    /// Everything that is no older.
    pub within: Option<SignedDuration>,
    /// Of what only `within` keeps, the newest whose bytes at the destination add up to no more,
    /// counted with everything newer.
    pub max_bytes: Option<u64>,
    /// One for each of so many hours.
    pub hourly: Option<NonZeroU32>,
    /// One for each of so many days.
    pub daily: Option<NonZeroU32>,
    /// One for each of so many ISO 8601 weeks.
    pub weekly: Option<NonZeroU32>,
    /// One for each of so many months.
    pub monthly: Option<NonZeroU32>,
    /// One for each of so many years.
    pub yearly: Option<NonZeroU32>,
    /// Never fewer proven backups than these, whatever the rules say; 1 where it is `None`.
    pub at_least: Option<NonZeroU32>,
    /// How long a backup that the rules let go stays marked before it is removed; at once where it is
    /// `None`. It changes nothing of what the rules decide.
    pub delay: Option<SignedDuration>,
    /// Where days begin.
    pub time_zone: TimeZone,
}

/// A policy that cannot be meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// A limit on size with nothing that holds against it.
    #[error(
        "a limit on the total size needs `within`, and a number of slots or `last` beside it: alone, one huge backup would displace all others"
    )]
    SizeAlone,
    /// An age or a delay below zero.
    #[error("an age is less than nothing")]
    NegativeAge,
}

impl Default for Policy {
    /// Keeps everything; days begin at midnight UTC, the schedule's slot is an hour.
    fn default() -> Self {
        Self {
            last: None,
            slot: Period::Hour,
            within: None,
            max_bytes: None,
            hourly: None,
            daily: None,
            weekly: None,
            monthly: None,
            yearly: None,
            at_least: None,
            delay: None,
            time_zone: TimeZone::UTC,
        }
    }
}

impl Policy {
    /// Refuses what cannot be meant.
    ///
    /// # Errors
    /// Which rule, and why.
    pub fn check(&self) -> Result<(), PolicyError> {
        if [self.within, self.delay].into_iter().flatten().any(|age| age.is_negative()) {
            return Err(PolicyError::NegativeAge);
        }
        if self.max_bytes.is_some() && (self.within.is_none() || self.slots().next().is_none()) {
            return Err(PolicyError::SizeAlone);
        }
        Ok(())
    }

    /// Whether nothing is ever removed.
    #[must_use]
    pub fn keeps_everything(&self) -> bool {
        self.within.is_none() && self.slots().next().is_none()
    }

    /// The rules that count slots.
    pub(super) fn slots(&self) -> impl Iterator<Item = (Rule, Period, usize)> {
        [
            (Rule::Last, self.slot, self.last),
            (Rule::Every, Period::Hour, self.hourly),
            (Rule::Every, Period::Day, self.daily),
            (Rule::Every, Period::Week, self.weekly),
            (Rule::Every, Period::Month, self.monthly),
            (Rule::Every, Period::Year, self.yearly),
        ]
        .into_iter()
        .filter_map(|(rule, period, count)| Some((rule, period, count?.get() as usize)))
    }
}

/// Which kind of rule counts slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    /// The newest slots of the schedule.
    Last,
    /// The newest slots of a period of the calendar.
    Every,
}
