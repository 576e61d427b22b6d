//! S3 as a place, over `opendal`.
//!
//! `opendal` does everything that is one request; uploads in parts are made here ([`multipart`]),
//! because `opendal` has no UploadPartCopy. Requests are retried by its retry layer and by
//! [`requests`]; the time limit of each request sits below that, in [`transport`].

mod direct;
mod gather;
mod lock;
mod multipart;
mod open;
mod proof;
mod read;
mod requests;
mod resume;
mod segment;
mod settle;
mod transport;
mod unfinished;
mod upload;
mod versions;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use backup_core::{
    ByteStream, EntityTag, Erased, Held, Journal, Limits, ObjectInfo, ObjectKey, Remover, Result, Sealed,
    Sink, Source, Swept, Upload,
};
use jiff::Timestamp;
use opendal::Operator;

use crate::config::{Credentials, LockOnWrite, Retrying, S3Place};
use crate::parts::{Plan, Rules};
use crate::trouble::{Trouble, from_opendal};

/// A bucket, or a prefix in it, and the ports to it.
pub(crate) struct S3Store {
    /// Paths are keys below the prefix.
    operator: Operator,
    /// As people write it.
    name: Arc<str>,
    rules: Rules,
    /// Whether the server itself refuses a second object of one key.
    put_if_absent: bool,
    transport: transport::Transport,
    requests: requests::Requests,
    /// The lock that objects of backups are written with.
    lock: Option<LockOnWrite>,
    /// Whether the bucket has object lock, once that was told.
    has_locks: tokio::sync::OnceCell<bool>,
}

impl S3Store {
    /// Prepares the client; sends nothing.
    pub(crate) fn open(
        place: &S3Place,
        credentials: Option<&Credentials>,
        retry: Retrying,
        lock: Option<LockOnWrite>,
    ) -> Result<Self> {
        let store = open::open(place, credentials, retry, |name| std::env::var(name).ok())?;
        Ok(Self { lock, ..store })
    }

    fn subject(&self, key: &ObjectKey) -> String {
        format!("{}/{key}", self.name)
    }

    /// `Conflict` when the key is taken.
    async fn check_free(&self, key: &ObjectKey) -> Result<()> {
        match self.head(key).await {
            Ok(None) => Ok(()),
            Ok(Some(_)) => Err(Trouble::Taken.with(self.subject(key), "")),
            // A key that may only write cannot look; the server's own refusal has to do.
            Err(error) if Trouble::of_opendal(&error) == Trouble::AccessDenied => Ok(()),
            Err(error) => Err(from_opendal(self.subject(key), "looking for it", &error)),
        }
    }

    /// What the server says of an object, or `None` where it says that there is none.
    async fn head(&self, key: &ObjectKey) -> Result<Option<opendal::Metadata>, opendal::Error> {
        match self.operator.stat(key.as_str()).await {
            Ok(found) if found.is_file() => Ok(Some(found)),
            Ok(_) => Ok(None),
            Err(error) if error.kind() == opendal::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl fmt::Display for S3Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl fmt::Debug for S3Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Store")
            .field("name", &self.name)
            .field("rules", &self.rules)
            .field("put_if_absent", &self.put_if_absent)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Sink for S3Store {
    fn limits(&self) -> Limits {
        Limits {
            object_len_max: Plan::new(self.rules, None).object_len_max(),
            put_if_absent: self.put_if_absent,
        }
    }

    async fn begin(&self, key: &ObjectKey, size_hint: Option<u64>) -> Result<Box<dyn Upload>> {
        self.check_free(key).await?;
        let lock = self.lock_for(key).await?;
        Ok(Box::new(upload::S3Upload::begin(self, key, Plan::new(self.rules, size_hint), lock, None)))
    }

    async fn resume(&self, key: &ObjectKey, len: u64, journal: Arc<dyn Journal>) -> Result<Box<dyn Upload>> {
        let lock = self.lock_for(key).await?;
        if lock.is_some() {
            // The retention date of an upload is given when it begins, so one that is locked begins anew.
            return self.begin(key, Some(len)).await;
        }
        self.check_free(key).await?;
        let subject = self.subject(key);
        let continued = resume::Continued::load(&self.requests, key.as_str(), &subject, journal).await?;
        let plan = Plan::new(self.rules, Some(len));
        Ok(Box::new(upload::S3Upload::begin(self, key, plan, lock, Some(continued))))
    }

    async fn hold(&self, key: &ObjectKey, on: bool) -> Result<()> {
        self.set_hold(key, on).await
    }
}

#[async_trait]
impl Source for S3Store {
    async fn stat(&self, key: &ObjectKey) -> Result<Option<ObjectInfo>> {
        match self.head(key).await {
            Ok(found) => Ok(found.map(|found| read::info(key.clone(), &found))),
            Err(error) => Err(from_opendal(self.subject(key), "looking for it", &error)),
        }
    }

    async fn fetch(
        &self,
        key: &ObjectKey,
        range: Option<Range<u64>>,
        pin: Option<&EntityTag>,
    ) -> Result<ByteStream<Sealed>> {
        read::fetch(self, key, range, pin).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        read::list(self, prefix).await
    }

    async fn held(&self, key: &ObjectKey) -> Result<Option<Held>> {
        self.held_by(key).await
    }
}

#[async_trait]
impl Remover for S3Store {
    async fn remove(&self, key: &ObjectKey) -> Result<()> {
        match self.operator.delete(key.as_str()).await {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == opendal::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(from_opendal(self.subject(key), "removing", &error)),
        }
    }

    async fn erase(&self, key: &ObjectKey) -> Result<Erased> {
        versions::erase(self, key).await
    }

    async fn sweep_unfinished(&self, older_than: Timestamp) -> Result<Swept> {
        let unfinished =
            unfinished::Unfinished { requests: &self.requests, operator: &self.operator, name: &self.name };
        unfinished.sweep(older_than).await
    }
}
