//! Ports, vocabulary and pipeline of Strongroom.
//!
//! This crate says what a backup is and when it may be called one. It owns the traits that
//! databases, ciphers and places implement ([`Dumper`], [`Restorer`], [`Encryptor`], [`Decryptor`],
//! [`Sink`], [`Source`], [`Remover`]) and the [`pipeline`] that joins them. It names no database,
//! no store and no cipher.
//!
//! The thread through all of it: every layer marks its own end, and only a real end may make the
//! next one. Tool exit 0 makes a clean end of stream, that makes the sealed trailer, that makes the
//! upload's commit, that makes the manifest. A missing mark is truncation, never "done".

mod attestation;
mod catalog;
mod context;
mod digest;
mod dump;
mod error;
mod id;
mod ledger;
mod manifest;
mod notify;
pub mod pipeline;
mod progress;
mod restore;
pub mod retention;
mod seal;
mod settled;
mod statement;
mod store;
mod stream;
pub mod strict_json;
mod tags;
#[cfg(feature = "testing")]
pub mod testing;
pub mod wrap;

pub use attestation::{Attestation, Claim, Depth, Removal, ShreddedObject, Shredding};
pub use catalog::{Catalog, Run, RunRecord};
pub use context::{CancelToken, Clock, Context, SystemClock};
pub use digest::Sha256Digest;
pub use dump::{Dump, DumpFormat, DumpReport, Dumper, Obstacle, Probe, ProbeItem, Selection};
pub use error::{Error, ErrorKind, Result, Retry, Stage};
pub use id::{BackupId, ObjectKey, RepositoryId, SourceName};
pub use ledger::{Head, Ledger};
pub use manifest::{BackupRef, Manifest, RecipientRef, printable};
pub use notify::{Notice, Notifier};
pub use progress::{Event, NoProgress, Progress, RunStatus};
pub use restore::{Inspection, Inspector, RestorePlan, RestoreRequest, Restored, Restorer};
pub use seal::{Auditor, Decryptor, Encryptor, Expected, Frames, Opened, Opening, SealSummary, Sealing};
pub use settled::{Settled, Settler};
pub use statement::{Origin, Recognized, SignedStatement, Signer, StatementKind, Trust, VouchedManifest};
pub use store::{
    EntityTag, Erased, Held, Journal, Limits, ObjectInfo, Receipt, Remover, Sink, Source, Swept, Upload,
    Whole,
};
pub use stream::{ByteStream, Plain, Sealed};
pub use tags::{Tag, TagError, Tags};
