//! What joins the ports: storing, backing up, restoring, verifying. The only caller of
//! [`Upload::commit`](crate::Upload::commit).

mod attest;
mod backup;
mod catalogue;
mod meter;
mod prune;
mod read;
mod restore;
mod store;
mod verify;

pub use attest::{Attested, attest, attestations};
pub use backup::{BackedUp, BackupParts, BackupRequest, backup};
pub use catalogue::{Listed, find, latest, list};
pub use prune::{PruneParts, PrunePlan, Pruned, Standing, plan_prune, prune, survey};
pub use read::{OpenedBackup, manifest, open};
pub use restore::{RestoreOptions, RestoreOutcome, restore};
pub use store::store;
pub use verify::{DeepVerified, QuickVerified, deep, quick};
