//! What joins the ports: storing, backing up, restoring, verifying. The only caller of
//! [`Upload::commit`](crate::Upload::commit).

mod attest;
mod backup;
mod catalogue;
mod copy;
mod held;
mod meter;
mod mirror;
mod orphans;
mod prune;
mod read;
mod restore;
mod resume;
mod sample;
mod shred;
mod spool;
mod store;
mod told;
mod verify;

pub use attest::{Attested, attest, attestations, attestations_among};
pub use backup::{BackedUp, BackupParts, BackupRequest, backup};
pub use catalogue::{Listed, find, latest, list, list_among};
pub use copy::{Copied, CopyParts, copy, copy_history};
pub use held::{held, held_among, hold};
pub use mirror::{CopyOutcome, CopyState, Destination, Enough, MirrorParts, Mirrored, mirror};
pub use orphans::{Orphan, orphans, remove_orphan};
pub use prune::{
    ClockCheck, Elsewhere, PruneParts, PrunePlan, Pruned, Standing, heed_locks, plan_prune, plan_retire,
    prune, survey,
};
pub use read::{OpenedBackup, manifest, open};
pub use restore::{RestoreOptions, RestoreOutcome, restore};
pub use resume::{Resumed, mirror_through, resume};
pub use sample::{CONFIDENCE, SampleSize, Sampled, damaged_below, sample};
pub use shred::{certificate, is_last_good, shred, shreddable};
pub use spool::{Journals, Spool, Spooled};
pub use store::store;
pub use verify::{DeepVerified, QuickVerified, deep, quick};
