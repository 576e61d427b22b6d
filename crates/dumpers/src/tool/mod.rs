//! Programs that make or apply dumps: found, versioned, run and watched.
//!
//! Every run has its own process group and ends as a group. Standard error is drained beside the
//! data into a bounded tail. The exit status is part of the stream: its clean end means exit 0 and
//! the end of output, both. There is no shell in between, and no secret among the arguments.

mod command;
mod error;
mod feed;
mod group;
mod locate;
mod output;
mod private_file;
mod stderr;
#[cfg(test)]
mod tests;
mod version;

pub(crate) use command::{ToolCommand, Waiting};
pub use error::ToolError;
pub(crate) use feed::{feed, feed_forgiving, feed_partly};
pub use group::programs_ended;
pub(crate) use locate::Places;
pub(crate) use output::{Output, capture, converse, deadline, stream};
pub(crate) use private_file::PrivateFile;
pub use version::ToolVersion;
