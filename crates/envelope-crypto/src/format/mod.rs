//! The bytes of an envelope, and nothing about keys: what `docs/format.md` specifies.

pub(crate) mod base64;
pub mod footer;
pub mod frames;
pub mod head;
pub mod header;
pub mod limits;
pub mod stanza;
pub mod trailer;
pub(crate) mod zstd_frame;

pub use footer::Footer;
pub use head::{Head, HeadReader};
pub use header::Header;
pub use limits::BlockLen;
pub use stanza::Stanza;
pub use trailer::Trailer;
