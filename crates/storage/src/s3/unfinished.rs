//! Multipart uploads that were begun and never finished.

use backup_core::{Error, ErrorKind, Result, Swept};
use jiff::Timestamp;

use crate::config::{Credentials, S3Place};
use crate::s3::transport::Transport;

/// Finds and aborts them.
pub(super) struct Unfinished;

impl Unfinished {
    pub(super) fn new(
        _place: &S3Place,
        _endpoint: Option<&str>,
        _region: &str,
        _credentials: Option<&Credentials>,
        _transport: Transport,
    ) -> Self {
        Self
    }

    pub(super) async fn sweep(&self, name: &str, _older_than: Timestamp) -> Result<Swept> {
        Err(Error::new(ErrorKind::Unsupported, name, "unfinished uploads cannot be listed")
            .with_hint("add a lifecycle rule to the bucket that aborts incomplete multipart uploads"))
    }
}
