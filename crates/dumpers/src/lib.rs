//! Databases, commands and files as streams, and back.
//!
//! [`open_source`] gives a [`Dumper`](backup_core::Dumper), [`open_target`] a
//! [`Restorer`](backup_core::Restorer), [`inspectors`] the readers that check dumps from end to end.
//! A dump's clean end means that the program that made it succeeded, that it left nobody behind, and
//! where the format is understood, that the dump is whole. A restore hands its target over only
//! after the verified end of the dump.

pub mod bundle;
pub mod command;
mod config;
pub mod files;
pub mod firestore;
pub mod folder;
mod inspection;
mod leftovers;
pub mod mongodb;
pub mod mysql;
mod percent;
pub mod postgres;
mod produce;
mod publish;
pub mod redis;
mod secret;
pub mod sqlite;
pub mod stdin;
mod tool;

pub use config::{FileConfig, SourceConfig, TargetConfig, inspectors, keys_of_url, open_source, open_target};
pub use secret::Secret;
pub use tool::{ToolError, ToolVersion, programs_ended};
