//! What joins the ports: storing, backing up, restoring, verifying. The only caller of
//! [`Upload::commit`](crate::Upload::commit).

mod backup;
mod catalogue;
mod meter;
mod read;
mod restore;
mod store;
mod verify;

pub use backup::{BackedUp, BackupParts, BackupRequest, backup};
pub use catalogue::{Listed, find, latest, list};
pub use read::{OpenedBackup, open};
pub use restore::{RestoreOptions, RestoreOutcome, restore};
pub use store::store;
pub use verify::{DeepVerified, QuickVerified, deep, quick};
