//! The RDB format: what a server sends to a replica, and what it keeps on disk.
//!
//! The parser reads the dump's structure from the magic to the checksum and understands where each
//! value ends; what is inside an encoded value (a listpack, a compressed string) is covered by the
//! checksum and is the server's own business, but for values that are restored in parts. Everything it knows is Redis up to 8.2 and Valkey up
//! to 9.1; a type or an opcode it does not know is refused by name, since its end cannot be found.

mod error;
mod grammar;
mod input;
mod inspect;
mod listpack;
pub(super) mod lzf;
mod parser;
#[cfg(test)]
mod tests;

pub use error::RdbError;
pub(super) use error::shown;
pub use inspect::RdbInspector;
pub(super) use inspect::not_whole;
pub use parser::{Counts, RdbContents, RdbParser};
pub(super) use parser::{Entry, Item, More};
