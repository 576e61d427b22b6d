//! A folder on an SFTP server as a place.
//!
//! The connection is made by the system's SSH client ([`ssh`]); the protocol above it is spoken here ([`session`]), with
//! many requests under way at a time. Objects are files of mode 0600 in folders of mode 0700, as in a local folder: an
//! upload writes a file below `.strongroom-tmp/`, has it synced, and gives it a second name, which never replaces one
//! (`hardlink@openssh.com`); then the first name is removed.
//!
//! Calls that change nothing, or nothing more the second time, are made again over a new connection when one breaks. An
//! upload is not: a server that fell over may have lost what it had confirmed.

mod fault;
mod files;
pub(crate) mod place;
mod read;
mod session;
mod ssh;
mod upload;
mod wire;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use backup_core::{
    ByteStream, EntityTag, Error, ErrorKind, Limits, ObjectInfo, ObjectKey, Remover, Result, Sealed, Sink,
    Source, Swept, Upload,
};
use jiff::Timestamp;

use crate::again::Again;
use crate::config::{Login, Retrying};
use crate::local::check_key;
use crate::sftp::fault::Fault;
use crate::sftp::place::SftpPlace;
use crate::sftp::session::Session;
use crate::trouble::Trouble;

/// A folder on a server and the ports to it; clones share the connection.
#[derive(Clone)]
pub(crate) struct SftpStore {
    inner: Arc<Inner>,
}

struct Inner {
    place: SftpPlace,
    login: Login,
    retry: Retrying,
    /// As people write it, without a slash at its end.
    name: String,
    session: tokio::sync::Mutex<Option<Arc<Session>>>,
    /// Whether the server publishes in a way that never replaces, as the last object showed.
    links: AtomicBool,
}

impl SftpStore {
    /// Prepares the place; connects to nothing.
    ///
    /// # Errors
    /// `Config` for a password together with a passphrase: the SSH client does not say which one it asks for.
    pub(crate) fn open(place: &SftpPlace, login: &Login, retry: Retrying) -> Result<Self> {
        if login.password.is_some() && login.key_passphrase.is_some() {
            return Err(Error::new(
                ErrorKind::Config,
                place.to_string(),
                "has a password and a passphrase of a key",
            )
            .with_hint("set one of them; where a server wants both, give the key to an agent (ssh-add)"));
        }
        let name = place.to_string().trim_end_matches('/').to_owned();
        let inner = Inner {
            place: place.clone(),
            login: login.clone(),
            retry,
            name,
            session: tokio::sync::Mutex::default(),
            links: AtomicBool::new(false),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    fn place(&self) -> &SftpPlace {
        &self.inner.place
    }

    fn path(&self, key: &ObjectKey) -> String {
        // A key has no empty, `.` or `..` segment, so this stays below the folder.
        self.inner.place.path(key.as_str())
    }

    fn subject(&self, key: &ObjectKey) -> String {
        format!("{}/{key}", self.inner.name)
    }

    fn retry(&self) -> Retrying {
        self.inner.retry
    }

    /// The session, begun now if there is none.
    async fn session(&self) -> Result<Arc<Session>, Fault> {
        // Held while connecting, so that many callers make one connection.
        let mut current = self.inner.session.lock().await;
        if let Some(session) = current.as_ref().filter(|session| session.is_alive()) {
            return Ok(Arc::clone(session));
        }
        let session = Session::begin(&self.inner.place, &self.inner.login, self.inner.retry.patience).await?;
        *current = Some(Arc::clone(&session));
        Ok(session)
    }

    /// Makes a call that may be made twice, again while what keeps it from succeeding may pass.
    async fn again<T, F>(&self, call: impl Fn(Arc<Session>) -> F) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        let mut again = Again::new(self.inner.retry);
        loop {
            let done = match self.session().await {
                Ok(session) => call(session).await,
                Err(fault) => Err(fault),
            };
            match done {
                Err(fault) if fault.may_pass() => {
                    if !again.wait().await {
                        return Err(fault);
                    }
                }
                done => return done,
            }
        }
    }
}

impl fmt::Display for SftpStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.place.fmt(f)
    }
}

impl fmt::Debug for SftpStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SftpStore").field("place", &self.inner.place).finish_non_exhaustive()
    }
}

#[async_trait]
impl Sink for SftpStore {
    fn limits(&self) -> Limits {
        // Unknown before the first object.
        Limits { object_len_max: i64::MAX as u64, put_if_absent: self.inner.links.load(Ordering::Relaxed) }
    }

    async fn begin(&self, key: &ObjectKey, _size_hint: Option<u64>) -> Result<Box<dyn Upload>> {
        check_key(key)?;
        Ok(Box::new(upload::SftpUpload::begin(self, key).await?))
    }
}

#[async_trait]
impl Source for SftpStore {
    async fn stat(&self, key: &ObjectKey) -> Result<Option<ObjectInfo>> {
        let path = self.path(key);
        let found = self.again(|session| {
            let path = path.clone();
            async move { files::look(&session, &path, true).await }
        });
        match found.await {
            Ok(found) => {
                Ok(found.filter(wire::Attributes::is_file).map(|found| read::info(key.clone(), &found)))
            }
            Err(fault) => Err(fault.at(self.subject(key), "looking for it")),
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
}

#[async_trait]
impl Remover for SftpStore {
    async fn remove(&self, key: &ObjectKey) -> Result<()> {
        let store = self;
        let removing = self.again(|session| async move {
            let path = store.path(key);
            match files::look(&session, &path, false).await? {
                // A folder is no object.
                Some(found) if !found.is_folder() => {}
                _ => return Ok(()),
            }
            if let Err(fault) = files::remove(&session, &path).await {
                return Err(files::explained(&session, &store.place().folder, fault).await);
            }
            // Empty folders are no objects either; the first that is not empty ends this.
            let mut folders = key.as_str();
            while let Some((folder, _)) = folders.rsplit_once('/') {
                let path = store.place().path(folder);
                files::sync_folder(&session, &path).await;
                if files::remove_folder(&session, &path).await.is_err() {
                    break;
                }
                folders = folder;
            }
            Ok(())
        });
        removing.await.map_err(|fault| fault.at(self.subject(key), "removing"))
    }

    async fn sweep_unfinished(&self, older_than: Timestamp) -> Result<Swept> {
        let folder = files::unfinished(self.place());
        let folder = &folder;
        let sweeping = self.again(|session| async move {
            let mut swept = Swept::default();
            let Some(found) = files::entries(&session, folder).await? else { return Ok(swept) };
            for (name, attributes) in found {
                let old = attributes.modified.is_none_or(|at| i64::from(at) < older_than.as_second());
                if name.ends_with(".part") && attributes.is_file() && old {
                    let removed = files::remove(&session, &format!("{folder}/{name}")).await;
                    swept.uploads += u64::from(match removed {
                        Ok(removed) => removed,
                        Err(fault) => return Err(files::explained(&session, folder, fault).await),
                    });
                }
            }
            Ok(swept)
        });
        sweeping.await.map_err(|fault: Fault| fault.at(folder.clone(), "sweeping"))
    }
}

/// The object has another length than what was sent.
fn other_length(subject: &str, found: Option<u64>, sent: u64) -> Error {
    let what = match found {
        Some(found) => format!("the server keeps {found} bytes of {sent}"),
        None => "the server does not say how many bytes it keeps".to_owned(),
    };
    Trouble::Corrupted.with(subject, &what).with_hint("the server lost bytes: do not trust it with backups")
}
