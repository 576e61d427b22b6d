//! Places that hold backups: a local folder, S3, Google Cloud Storage, Azure Blob Storage, SFTP and WebDAV.
//!
//! [`open`] turns a [`StorageConfig`] into the three ports of `backup_core`. All kinds of place keep
//! the same promises, shown by the same suites: nothing is visible before its commit, nothing that
//! is visible is ever replaced, and a stream that ends has delivered every byte.
//!
//! | place | publication | if two write one name at once |
//! |---|---|---|
//! | folder | temporary file, fsync, rename that never replaces, fsync of the folder | exactly one wins |
//! | S3 that obeys `If-None-Match: *` | one put, or the completion of a multipart upload | exactly one wins |
//! | other S3 | the same, after looking that the name is free and looking afterwards that it is ours | one of them is there, whole; both may be told that they won |
//! | Google | one request, or the end of a resumable upload, with `ifGenerationMatch=0` | exactly one wins |
//! | Azure | one put, or a list of blocks, with `If-None-Match: *` | exactly one wins |
//! | SFTP with `hardlink@openssh.com` | temporary file, fsync, second name | exactly one wins |
//! | other SFTP | temporary file, rename after looking that the name is free | as the server's rename does: the draft's rule is that one wins |
//! | WebDAV | temporary name, MOVE with `Overwrite: F` | as the server does: one of them is there, whole |
//!
//! Every part goes to S3 with a checksum that the server verifies: CRC-32C at Amazon, the MD5 too
//! elsewhere. Where a server compares nothing, its answers are compared instead: a part that changed on
//! the way is noticed before its upload is completed, so that it is never published. An object small
//! enough for one put can be there, damaged, on such a server; its commit then fails with `Integrity`,
//! and it is removed if the key may do that.
//!
//! Memory per upload: a few chunks for a folder, SFTP (4 MiB under way) and WebDAV, 48 MiB for S3 as far as [`parts`] says.
//!
//! S3 goes over `opendal`. Google's and Azure's services are spoken to in requests of our own: `opendal`
//! has no resumable uploads, and its signers bring a second, older RSA library. The folder does not go over it: its file writer cannot publish without replacing,
//! does not sync the folder, and reads through `tokio::fs` at three times the cost.

mod again;
mod azure;
mod client;
mod config;
mod gcs;
mod local;
pub mod parts;
mod percent;
mod probe;
mod rest;
mod s3;
mod sftp;
mod trouble;
mod webdav;

use std::sync::Arc;

use backup_core::{Error, ErrorKind, Remover, Result, Sink, Source};

pub use config::{Credentials, LockOnWrite, Login, Retrying, StorageConfig};
pub use probe::{AppendOnly, Check, Outcome, ProbeReport, probe};
pub use trouble::Trouble;

use crate::config::Place;
use crate::probe::Direct;

/// The ports of one place. Whoever only backs up drops the remover.
#[derive(Debug, Clone)]
pub struct Opened {
    /// Writes.
    pub sink: Arc<dyn Sink>,
    /// Reads.
    pub source: Arc<dyn Source>,
    /// Removes.
    pub remover: Arc<dyn Remover>,
}

/// Opens a place. Nothing is written and no request is sent: whether the place answers shows at the
/// first call.
///
/// # Errors
/// `Config` when the place cannot be what the configuration says.
pub fn open(config: &StorageConfig) -> Result<Opened> {
    open_both(config).map(|(opened, _)| opened)
}

/// The ports, and the calls that only the probe makes; `None` where a place has only its ports.
fn open_both(config: &StorageConfig) -> Result<(Opened, Option<Arc<dyn Direct>>)> {
    if config.lock.is_some() && !matches!(config.place, Place::S3(_)) {
        return Err(Error::new(
            ErrorKind::Config,
            config.to_string(),
            "lock_days is set, and only S3 takes a lock with an object",
        )
        .with_hint("leave lock_days out; docs/storage.md says what else protects backups there"));
    }
    match &config.place {
        Place::Local(folder) => {
            let place = Arc::new(local::LocalPlace::open(folder)?);
            Ok((ports(&place), Some(place)))
        }
        Place::S3(s3) => {
            let place =
                Arc::new(s3::S3Store::open(s3, config.credentials.as_ref(), config.retry, config.lock)?);
            Ok((ports(&place), Some(place)))
        }
        Place::Gcs(gcs) => {
            if config.credentials.is_some() {
                return Err(Error::new(ErrorKind::Config, gcs.to_string(), "it takes no access key")
                    .with_hint("add credentials_file= with the key of a service account instead"));
            }
            let place = Arc::new(gcs::open(gcs, config.retry, variable)?);
            Ok((ports(&place), Some(place)))
        }
        Place::Azure(azure) => {
            let account = config.credentials.as_ref();
            let account = account.map(|given| (given.access_key.as_str(), given.secret_key.as_str()));
            let place = Arc::new(azure::open(azure, account, config.retry, variable)?);
            Ok((ports(&place), Some(place)))
        }
        Place::Sftp(sftp) => {
            let place = Arc::new(sftp::SftpStore::open(sftp, &config.login, config.retry)?);
            Ok((ports(&place), None))
        }
        Place::WebDav(webdav) => {
            let place = Arc::new(webdav::WebDavStore::open(webdav, &config.login, config.retry)?);
            Ok((ports(&place), None))
        }
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn ports<P: Sink + Source + Remover + 'static>(place: &Arc<P>) -> Opened {
    Opened { sink: Arc::clone(place) as _, source: Arc::clone(place) as _, remover: Arc::clone(place) as _ }
}
