//! What a place and our credentials can really do, found out by trying.
//!
//! Everything happens below `.probe/` and a random name in the destination's prefix, and is removed
//! afterwards; what cannot be removed is named. Nothing else there is read, written or removed.
//!
//! A server's word is not taken: an answer of success is followed by a look at what is there.

mod basics;
mod direct;
mod guard;
mod report;
mod run;

pub(crate) use direct::{Direct, Lock, Versioning, Way, Written, none};
pub use report::{AppendOnly, Check, Outcome, ProbeReport};

use backup_core::{Context, Result};
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimeParser;

use crate::StorageConfig;

/// Tries what a place and its credentials can do. With `create`, a folder or bucket that is not there
/// is made first.
///
/// That something cannot be done is no error but part of the report. Not cancel safe: a future that
/// is dropped leaves its objects behind; cancelling the context ends it at the next step, and what was
/// made is removed.
///
/// # Errors
/// `Config` when the place cannot be what the configuration says; `NotFound` when it is not there and
/// `create` is off; those of a place that does not answer.
pub async fn probe(cx: &Context, config: &StorageConfig, create: bool) -> Result<ProbeReport> {
    let (opened, direct) = crate::open_both(config)?;
    let name = config.to_string();
    run::run(cx, &run::Subject { opened: &opened, direct: direct.as_deref(), name: &name }, create).await
}

/// The time of an answer (RFC 9110 section 5.6.7).
pub(crate) fn http_date(text: &str) -> Option<Timestamp> {
    DateTimeParser::new().parse_timestamp(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_an_answer_is_read() {
        let read = http_date("Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(read, Some("1994-11-06T08:49:37Z".parse().unwrap()));
        assert_eq!(http_date("yesterday"), None);
    }
}
