//! Tells people and programs what became of a backup.
//!
//! A notifier is called after the state that it reports is durable, and its failure never fails a
//! backup.

mod json_lines;

pub use json_lines::JsonLines;
