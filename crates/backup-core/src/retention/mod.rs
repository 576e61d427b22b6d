//! Which backups are kept and which may go: a pure decision, with a reason for each.
//!
//! The decision is made so that somebody who can write backups, even with a host's own key, cannot
//! use it to have older ones removed:
//!
//! - Age is counted from [`Candidate::first_seen`], which the one who prunes noted itself, and never
//!   from a host's clock, an id or a store's times. What was seen first in the future is new.
//! - A slot (an hour, a day, a week, ...) has one keeper: the first backup in it that was proven by a
//!   deep verification. More backups in a slot displace nothing, whatever their number.
//! - Only proven backups count towards a number of slots. One that is not proven is kept beside the
//!   count, so that it displaces nothing either.
//! - The limit on total size removes only what no slot keeps.
//! - Nothing goes while there is no proven backup to stand for the source.
//! - A backup that failed a verification, or whose size is unlike those before it, counts as not proven;
//!   while it is the newest, nothing goes ([`freeze`]).
//!
//! The rules add up: what any of them keeps is kept.

mod anomaly;
mod decide;
mod policy;
mod reason;
mod slot;
#[cfg(test)]
mod tests;

pub use decide::{Candidate, Decision, decide, freeze};
pub use policy::{Policy, PolicyError};
pub use reason::{Reason, Verdict};
pub use slot::Period;
