//! Databases, commands and files as streams, and back.
pub mod command;
pub mod files;
mod produce;
mod publish;
mod secret;
pub mod sqlite;
pub mod stdin;
mod tool;
pub use secret::Secret;
pub use tool::{ToolError, ToolVersion};
