//! Several dumps in one stream: the bundle format, version 1 (`docs/bundle.md`).
//!
//! A bundle is a magic number and records. A member begins with a head that names it and its
//! format, goes on with data and ends with its length; the bundle ends with the number of its whole
//! members, so that a stream cut anywhere is no bundle. Records of different members may alternate.
//! A member can be abandoned: what came of it is to be dropped, and another with the same name may
//! follow.
//!
//! [`BundleWriter`] and [`BundleReader`] are sans-IO; [`gathered`] and [`Members`] work on streams of
//! members one after another. The bytes are authentic by the envelope around them; lengths are
//! checked here to find defects of whoever wrote them.

mod error;
mod gather;
mod inspect;
mod members;
mod names;
mod read;
mod record;
mod write;

pub use error::BundleError;
pub use gather::{Gathered, gathered};
pub use inspect::inspected;
pub use members::{Member, Members};
pub use read::{BundleReader, Summary, Turn};
pub use record::{
    DATA_LEN_MAX, HEAD_LEN_MAX, MAGIC, MEMBERS_MAX, MEMBERS_OPEN_MAX, MemberHead, MemberId, NAME_LEN_MAX,
    NAMES_LEN_MAX,
};
pub use write::BundleWriter;
