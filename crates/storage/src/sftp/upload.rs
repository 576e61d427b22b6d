//! One file on its way.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use backup_core::{Error, ErrorKind, ObjectKey, Receipt, Result, Sha256Digest, Upload, Whole};
use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use crate::again::Again;
use crate::sftp::fault::{Fault, uncertain};
use crate::sftp::session::{self, Handle, Session, Waiting};
use crate::sftp::wire::{Request, kind};
use crate::sftp::{SftpStore, files, other_length, read};
use crate::trouble::Trouble;

/// Bytes that may be under way, that is, written and not confirmed.
const UNDER_WAY: u64 = 4 << 20;
/// How long a server may write a file's last bytes to its disk without a word.
const SYNCING: Duration = Duration::from_secs(15 * 60);
/// Folders may vanish between making and using them when others remove objects.
const PUBLISH_TRIES: usize = 5;

/// A file on its way.
#[derive(Debug)]
pub(super) struct SftpUpload {
    store: SftpStore,
    key: ObjectKey,
    subject: String,
    /// `None` once it is closed.
    handle: Option<Handle>,
    temporary: Temporary,
    len: u64,
    /// Writes without an answer yet, with their lengths.
    flying: VecDeque<(u64, Waiting)>,
    in_flight: u64,
}

/// The file under its first name; dropping it removes that name.
#[derive(Debug)]
struct Temporary {
    session: Arc<Session>,
    path: String,
    there: bool,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if self.there {
            // Hygiene: the sweeper removes what this cannot.
            self.session.tell(Request::new(kind::REMOVE).text(self.path.as_bytes()));
        }
    }
}

impl SftpUpload {
    pub(super) async fn begin(store: &SftpStore, key: &ObjectKey) -> Result<Self> {
        let subject = store.subject(key);
        let target = store.path(key);
        let target = &target;
        let beginning = store.again(|session| async move {
            if files::look(&session, target, false).await?.is_some() {
                return Err(Fault::Known(Trouble::Taken));
            }
            let (path, handle) = files::begin(&session, store.place()).await?;
            Ok((handle, Temporary { session, path, there: true }))
        });
        let (handle, temporary) = beginning.await.map_err(|fault| match fault {
            Fault::Known(Trouble::Taken) => Trouble::Taken.with(&subject, ""),
            fault => fault.at(&subject, "beginning"),
        })?;
        Ok(Self {
            store: store.clone(),
            key: key.clone(),
            subject,
            handle: Some(handle),
            temporary,
            len: 0,
            flying: VecDeque::new(),
            in_flight: 0,
        })
    }

    fn handle(&self) -> Result<&Handle> {
        self.handle
            .as_ref()
            .ok_or_else(|| Error::bug(format!("the upload of {} was used after its end", self.subject)))
    }

    /// Waits for the oldest write.
    async fn land(&mut self) -> Result<()> {
        let Some((len, waiting)) = self.flying.pop_front() else { return Ok(()) };
        self.in_flight -= len;
        let session = Arc::clone(&self.temporary.session);
        let fault = match waiting.reply(session.patience()).await.and_then(session::done) {
            Ok(()) => return Ok(()),
            Err(fault) => fault,
        };
        let fault = files::explained(&session, &self.store.place().folder, fault).await;
        Err(fault.at(&self.subject, "writing"))
    }

    async fn end(&mut self, whole: Whole) -> Result<()> {
        if self.len != whole.len() {
            return Err(Error::new(
                ErrorKind::Integrity,
                &self.subject,
                format!("{} bytes arrived of {}", self.len, whole.len()),
            ));
        }
        while !self.flying.is_empty() {
            self.land().await?;
        }
        let Some(handle) = self.handle.take() else { return Ok(()) };
        let subject = &self.subject;
        files::sync(&handle, SYNCING).await.map_err(|fault| fault.at(subject, "syncing"))?;
        let found = files::look_at(&handle).await.map_err(|fault| fault.at(subject, "looking at it"))?;
        handle.close().await.map_err(|fault| fault.at(subject, "closing"))?;
        if found.size == Some(whole.len()) {
            Ok(())
        } else {
            Err(other_length(subject, found.size, whole.len()))
        }
    }

    /// Gives the file its name. A lost answer is followed by the same request over another connection, which either
    /// publishes or finds the name taken; whose it is then, its bytes say.
    async fn publish(&mut self, whole: Whole) -> Result<()> {
        let target = self.store.path(&self.key);
        let folder = target.rsplit_once('/').map_or(".", |(folder, _)| folder).to_owned();
        let mut again = Again::new(self.store.retry());
        let mut unsettled: Option<Fault> = None;
        let mut tries = 0;
        loop {
            let session = match self.store.session().await {
                Ok(session) => session,
                Err(fault) => {
                    if fault.may_pass() && again.wait().await {
                        continue;
                    }
                    return Err(match unsettled {
                        Some(_) => uncertain(&self.subject, fault),
                        None => fault.at(&self.subject, "publishing"),
                    });
                }
            };
            // The new connection removes the first name if this ends badly.
            self.temporary.session = Arc::clone(&session);
            if let Err(fault) = files::ensure_folder(&session, &folder).await {
                if fault.may_pass() && again.wait().await {
                    continue;
                }
                return Err(match unsettled {
                    Some(_) => uncertain(&self.subject, fault),
                    None => fault.at(&self.subject, "making its folder"),
                });
            }
            let fault = match files::publish(&session, &self.temporary.path, &target).await {
                Ok(never_replaces) => {
                    self.store.inner.links.store(never_replaces, Ordering::Relaxed);
                    return Ok(());
                }
                Err(fault) => fault,
            };
            if fault.is_unsettled() {
                let ended = !(fault.may_pass() && again.wait().await);
                if ended {
                    return Err(uncertain(&self.subject, fault));
                }
                unsettled = Some(fault);
                continue;
            }
            // The server said no. Is the name taken, and by whom?
            let taken = match files::look(&session, &target, false).await {
                Ok(found) => found,
                Err(_) if unsettled.is_some() => return Err(uncertain(&self.subject, fault)),
                Err(_) => return Err(fault.at(&self.subject, "publishing")),
            };
            return match taken {
                Some(found) if unsettled.is_some() && found.size == Some(whole.len()) => {
                    self.is_ours(whole).await
                }
                Some(_) => Err(Trouble::Taken.with(&self.subject, "publishing")),
                None => {
                    tries += 1;
                    if fault.is_absent() && tries < PUBLISH_TRIES {
                        continue;
                    }
                    let fault = files::explained(&session, &folder, fault).await;
                    Err(fault.at(&self.subject, "publishing"))
                }
            };
        }
    }

    /// Compares what is there under the name, after an answer was lost.
    async fn is_ours(&self, whole: Whole) -> Result<()> {
        let unknown = |error: Error| {
            Error::new(ErrorKind::Uncertain, &self.subject, "it is not known whether it was stored")
                .with_hint("look whether the object is there before anything else")
                .with_source(error)
        };
        let mut stream = read::fetch(&self.store, &self.key, None, None).await.map_err(unknown)?;
        let mut digest = Sha256::new();
        while let Some(chunk) = stream.next().await {
            digest.update(chunk.map_err(unknown)?);
        }
        if Sha256Digest(digest.finalize().into()) == whole.sha256() {
            Ok(())
        } else {
            Err(Trouble::Taken.with(&self.subject, "publishing"))
        }
    }

    /// The receipt for what is there now.
    async fn settle(&mut self, whole: Whole) -> Result<Receipt> {
        let target = self.store.path(&self.key);
        let (target, temporary) = (&target, &self.temporary.path);
        let looking = self.store.again(|session| async move {
            let found = files::look(&session, target, false).await?;
            // One name is enough; the first is not removed where the second is not seen, and swept later if it stays.
            let removed = found.is_some() && files::remove(&session, temporary).await.is_ok();
            if let Some((folder, _)) = target.rsplit_once('/') {
                files::sync_folder(&session, folder).await;
            }
            Ok((removed, found))
        });
        let (removed, found) = looking.await.map_err(|fault| uncertain(&self.subject, fault))?;
        self.temporary.there = !removed;
        match found {
            Some(found) if found.size == Some(whole.len()) => {
                Ok(Receipt { len: whole.len(), sha256: whole.sha256(), tag: Some(read::tag(&found)) })
            }
            Some(found) => Err(other_length(&self.subject, found.size, whole.len())),
            None => Err(Error::new(
                ErrorKind::Uncertain,
                &self.subject,
                "the server said that it is stored, and it is not there",
            )
            .with_hint("find out who removes files on the server")),
        }
    }
}

#[async_trait]
impl Upload for SftpUpload {
    async fn write(&mut self, mut chunk: Bytes) -> Result<()> {
        let piece = self.temporary.session.offers().write_len as usize;
        while !chunk.is_empty() {
            while self.in_flight >= UNDER_WAY {
                self.land().await?;
            }
            let data = chunk.split_to(chunk.len().min(piece));
            let len = data.len() as u64;
            let request = Request::new(kind::WRITE).text(self.handle()?.bytes()).u64(self.len).data(data);
            let sent = self.temporary.session.send(request).await;
            let waiting = sent.map_err(|fault| fault.at(&self.subject, "writing"))?;
            self.flying.push_back((len, waiting));
            self.in_flight += len;
            self.len += len;
        }
        Ok(())
    }

    async fn commit(mut self: Box<Self>, whole: Whole) -> Result<Receipt> {
        // On an error the file under its first name is removed when this is dropped.
        self.end(whole).await?;
        self.publish(whole).await?;
        self.settle(whole).await
    }

    async fn abort(mut self: Box<Self>) -> Result<()> {
        self.handle = None;
        // Over a new connection where the old one has ended; one try, because a sweep does the same later.
        if let Ok(session) = self.store.session().await
            && files::remove(&session, &self.temporary.path).await.is_ok()
        {
            self.temporary.there = false;
        }
        Ok(())
    }
}
