//! One object on its way.

use std::io;
use std::time::Duration;

use async_trait::async_trait;
use backup_core::{
    BackupId, Error, ErrorKind, ObjectInfo, ObjectKey, Receipt, Result, Sha256Digest, Upload, Whole,
};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use reqwest::Body;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::again::Again;
use crate::local::UNFINISHED;
use crate::trouble::Trouble;
use crate::webdav::requests::{Fault, uncertain};
use crate::webdav::{WebDavStore, nothing, read};

/// Chunks that may wait for the connection.
const WAITING: usize = 1;
/// How long a server may put an object away without a word: some copy it once more.
const COMPLETION: Duration = Duration::from_secs(15 * 60);
const DESTINATION: HeaderName = HeaderName::from_static("destination");
/// Longer than any PUT.
const ENDLESS: Duration = Duration::from_secs(365 * 24 * 3600);

/// An object on its way.
#[derive(Debug)]
pub(super) struct WebDavUpload {
    store: WebDavStore,
    key: ObjectKey,
    subject: String,
    temporary: Temporary,
    /// Begun with the first chunk, because servers do not wait long for a body.
    sending: Option<Sending>,
    len: u64,
}

/// The PUT; dropping it breaks the connection, so that the server sees no whole body.
#[derive(Debug)]
struct Sending {
    /// `None` is the end: a body whose sender vanishes has none.
    chunks: mpsc::Sender<Option<Bytes>>,
    task: JoinHandle<Result<(), Fault>>,
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The object under its first name; dropping it removes that.
#[derive(Debug)]
struct Temporary {
    store: WebDavStore,
    /// Decoded.
    path: String,
    there: bool,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // Hygiene: the sweeper removes what this cannot.
        if self.there
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let (store, path) = (self.store.clone(), self.path.clone());
            runtime.spawn(async move { store.delete(&path).await.map(drop) });
        }
    }
}

impl WebDavUpload {
    pub(super) async fn begin(store: &WebDavStore, key: &ObjectKey) -> Result<Self> {
        let subject = store.subject(key);
        match store.look(&store.place.object_path(key)).await {
            Ok(None) => {}
            Ok(Some(_)) => return Err(Trouble::Taken.with(subject, "")),
            Err(fault) => return Err(fault.at(subject, "looking for it")),
        }
        let folder = store.place.folder_path(UNFINISHED);
        store.ensure_folder(&folder).await.map_err(|fault| fault.at(&subject, "beginning"))?;
        let path = format!("{folder}{}.part", BackupId::random());
        let temporary = Temporary { store: store.clone(), path, there: false };
        Ok(Self { store: store.clone(), key: key.clone(), subject, temporary, sending: None, len: 0 })
    }

    fn put(&mut self) -> Sending {
        let (chunks, queue) = mpsc::channel::<Option<Bytes>>(WAITING);
        let body = futures::stream::unfold(Some(queue), |queue| async move {
            let mut queue = queue?;
            match queue.recv().await {
                Some(Some(chunk)) => Some((Ok(chunk), Some(queue))),
                Some(None) => None,
                None => Some((Err(io::Error::from(io::ErrorKind::UnexpectedEof)), None)),
            }
        });
        let (requests, url) = (self.store.requests.clone(), self.store.place.url(&self.temporary.path));
        self.temporary.there = true;
        let task = tokio::spawn(async move {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
            requests.once("PUT", &url, headers, Body::wrap_stream(body), ENDLESS).await.map(drop)
        });
        Sending { chunks, task }
    }

    /// What became of the PUT, after its body has ended or the server has answered before that.
    async fn outcome(&self, mut sending: Sending, limit: Duration) -> Result<()> {
        let ended = async {
            // The request may have ended before its body.
            let _ = sending.chunks.send(None).await;
            (&mut sending.task).await
        };
        match tokio::time::timeout(limit, ended).await {
            Ok(Ok(Ok(()))) => Ok(()),
            Ok(Ok(Err(fault))) => Err(fault.at(&self.subject, "writing")),
            Ok(Err(error)) => Err(Error::bug(format!("the upload of {} ended badly: {error}", self.subject))),
            Err(_) => Err(Trouble::TimedOut.with(&self.subject, "writing")),
        }
    }

    async fn end(&mut self, whole: Whole) -> Result<ObjectInfo> {
        if self.len != whole.len() {
            return Err(Error::new(
                ErrorKind::Integrity,
                &self.subject,
                format!("{} bytes arrived of {}", self.len, whole.len()),
            ));
        }
        let sending = match self.sending.take() {
            Some(sending) => sending,
            None => self.put(),
        };
        self.outcome(sending, COMPLETION).await?;
        match self.store.object_at(&self.key, &self.temporary.path).await {
            Ok(Some(found)) if found.len == whole.len() => Ok(found),
            Ok(Some(found)) => Err(self.other_length(found.len, whole)),
            Ok(None) => Err(Error::new(
                ErrorKind::Unavailable,
                &self.subject,
                "the server said that it has the bytes, and does not have them",
            )),
            Err(fault) => Err(fault.at(&self.subject, "writing")),
        }
    }

    fn other_length(&self, found: u64, whole: Whole) -> Error {
        let what = format!("the server keeps {found} bytes of {}", whole.len());
        Trouble::Corrupted
            .with(&self.subject, &what)
            .with_hint("the server lost bytes: do not trust it with backups")
    }

    /// Gives the object its name. A lost answer is followed by the same request, which either publishes or finds the
    /// name taken; whose it is then, its version or its bytes say.
    async fn publish(&mut self, sent: &ObjectInfo, whole: Whole) -> Result<()> {
        let target = self.store.place.object_path(&self.key);
        let folder = target.rsplit_once('/').map_or("", |(folder, _)| folder).to_owned();
        self.store
            .ensure_folder(&folder)
            .await
            .map_err(|fault| fault.at(&self.subject, "making its folder"))?;
        // Some servers do not know `Overwrite`.
        if self
            .store
            .look(&target)
            .await
            .map_err(|fault| fault.at(&self.subject, "looking for it"))?
            .is_some()
        {
            return Err(Trouble::Taken.with(&self.subject, "publishing"));
        }
        let mut headers = HeaderMap::new();
        headers.insert("overwrite", HeaderValue::from_static("F"));
        // A path, because a server behind one that ends TLS does not know its own URL; RFC 2518 had URLs only.
        let url = self.store.place.url(&target);
        let path = url.strip_prefix(&self.store.place.origin).unwrap_or(&url);
        headers.extend(HeaderValue::from_str(path).ok().map(|path| (DESTINATION, path)));
        let mut old_form = HeaderValue::from_str(&url).ok();
        let from = self.store.place.url(&self.temporary.path);
        let mut again = Again::new(self.store.requests.retry());
        let mut unsettled = false;
        loop {
            let moved = self.store.requests.once("MOVE", &from, headers.clone(), nothing(), COMPLETION).await;
            let fault = match moved {
                Ok(_) => return Ok(()),
                Err(fault) => fault,
            };
            if fault.status() == Some(StatusCode::BAD_REQUEST)
                && let Some(url) = old_form.take()
            {
                headers.insert(DESTINATION, url);
                continue;
            }
            unsettled |= fault.is_unsettled();
            if fault.may_pass() && again.wait().await {
                continue;
            }
            if !unsettled {
                return Err(match fault.status() {
                    Some(StatusCode::PRECONDITION_FAILED) => Trouble::Taken.with(&self.subject, "publishing"),
                    _ => fault.at(&self.subject, "publishing"),
                });
            }
            return match self.store.object(&self.key).await {
                Ok(Some(found)) if found.len != whole.len() => {
                    Err(Trouble::Taken.with(&self.subject, "publishing"))
                }
                Ok(Some(found)) if found.tag.is_some() && found.tag == sent.tag && self.is_gone().await => {
                    Ok(())
                }
                Ok(Some(_)) => self.is_ours(whole).await,
                // The server has answered at last, and it was no.
                Ok(None) if !fault.is_unsettled() => Err(fault.at(&self.subject, "publishing")),
                Ok(None) | Err(_) => Err(uncertain(&self.subject, fault)),
            };
        }
    }

    /// Whether the first name is no longer there.
    async fn is_gone(&self) -> bool {
        matches!(self.store.look(&self.temporary.path).await, Ok(None))
    }

    /// Compares what is there under the name.
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
}

#[async_trait]
impl Upload for WebDavUpload {
    async fn write(&mut self, chunk: Bytes) -> Result<()> {
        if chunk.is_empty() {
            return Ok(());
        }
        let sending = match self.sending.take() {
            Some(sending) => sending,
            None => self.put(),
        };
        let patience = self.store.requests.retry().patience;
        let len = chunk.len() as u64;
        match tokio::time::timeout(patience, sending.chunks.send(Some(chunk))).await {
            Ok(Ok(())) => {
                self.len += len;
                self.sending = Some(sending);
                Ok(())
            }
            // The request has ended before its body.
            Ok(Err(_)) => Err(self.outcome(sending, patience).await.err().unwrap_or_else(|| {
                Error::new(
                    ErrorKind::Unavailable,
                    &self.subject,
                    "the server answered before it had all bytes",
                )
            })),
            Err(_) => Err(Trouble::TimedOut.with(&self.subject, "writing")),
        }
    }

    async fn commit(mut self: Box<Self>, whole: Whole) -> Result<Receipt> {
        // On an error the object under its first name is removed when this is dropped.
        let sent = self.end(whole).await?;
        self.publish(&sent, whole).await?;
        self.temporary.there = false;
        match self.store.object(&self.key).await {
            Ok(Some(found)) if found.len == whole.len() => {
                Ok(Receipt { len: whole.len(), sha256: whole.sha256(), tag: found.tag })
            }
            // Two at once, and a server that does not look: the other one's is there.
            Ok(Some(_)) => Err(Trouble::Taken.with(&self.subject, "publishing")),
            Ok(None) => Err(Error::new(
                ErrorKind::Uncertain,
                &self.subject,
                "the server said that it is stored, and it is not there",
            )
            .with_hint("find out who removes files on the server")),
            Err(fault) => Err(uncertain(&self.subject, fault)),
        }
    }

    async fn abort(mut self: Box<Self>) -> Result<()> {
        self.sending = None;
        if self.temporary.there && self.store.delete(&self.temporary.path).await.is_ok() {
            self.temporary.there = false;
        }
        Ok(())
    }
}
