//! One session with a server: requests go out one after the other without waiting, and answers find back by their
//! number.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, ChildStdin, ChildStdout};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::config::Login;
use crate::sftp::fault::{Fault, Lost};
use crate::sftp::place::SftpPlace;
use crate::sftp::ssh;
use crate::sftp::wire::{self, Malformed, Reply, Request, kind, status};
use crate::trouble::Trouble;

/// Requests that may wait for the pipe to the client.
const WAITING: usize = 4;
/// What is kept of the client's words, in bytes.
const SAID_MAX: usize = 8 * 1024;
/// How long the client may take to end after its output has.
const ENDING: Duration = Duration::from_secs(3);
/// How long a session may take to begin: a slow server may take this for its checks.
const BEGINNING: Duration = Duration::from_secs(60);
/// The length of data in one request that every server takes.
const DATA_LEN_SAFE: u64 = 32 * 1024;
/// The longest that is asked for where a server says what it takes.
const DATA_LEN_MAX: u64 = 255 * 1024;

/// What a server can do beyond the draft.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Offers {
    /// `fsync@openssh.com`: a file's bytes are written to the disk.
    pub(super) fsync: bool,
    /// `statvfs@openssh.com`: what the file system has left.
    pub(super) statvfs: bool,
    /// Bytes in one read.
    pub(super) read_len: u32,
    /// Bytes in one write.
    pub(super) write_len: u32,
}

/// A session; it ends when dropped.
#[derive(Debug)]
pub(super) struct Session {
    packets: mpsc::Sender<(Vec<u8>, Bytes)>,
    shared: Arc<Shared>,
    offers: Offers,
    /// `hardlink@openssh.com`: a second name, which never replaces one.
    links: AtomicBool,
    patience: Duration,
}

#[derive(Debug)]
struct Shared {
    waiting: Mutex<Requests>,
    ended: OnceLock<Arc<Lost>>,
    stop: Notify,
}

#[derive(Debug)]
struct Requests {
    next: u32,
    /// `None` once the session has ended.
    open: Option<HashMap<u32, oneshot::Sender<Reply>>>,
    /// When something came from the server last.
    heard: Instant,
}

impl Shared {
    fn requests(&self) -> MutexGuard<'_, Requests> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lost(&self) -> Fault {
        match self.ended.get() {
            Some(lost) => Fault::Lost(Arc::clone(lost)),
            None => ssh::lost(Trouble::ConnectionLost, String::new(), None),
        }
    }

    fn end(&self, lost: Lost) {
        let _ = self.ended.set(Arc::new(lost));
        // Whoever waits learns of it by the end of its channel.
        self.requests().open = None;
    }
}

impl Session {
    /// Connects. One try.
    pub(super) async fn begin(
        place: &SftpPlace,
        login: &Login,
        patience: Duration,
    ) -> Result<Arc<Self>, Fault> {
        let ssh::Started { mut child, helper } = ssh::start(place, login, patience)?;
        let (Some(mut stdin), Some(mut stdout), Some(stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(ssh::lost(Trouble::Other, "the SSH client has no pipes".to_owned(), None));
        };
        let said = tokio::spawn(keep(stderr));
        let greeting = async {
            // A client that has already ended says why.
            let _ = stdin.write_all(&Request::init()).await;
            packet(&mut stdout).await
        };
        let first = match tokio::time::timeout(patience.max(BEGINNING), greeting).await {
            Ok(first) => first,
            Err(_) => return Err(Fault::Silent(patience.max(BEGINNING))),
        };
        drop(helper);
        let Ok(Some(first)) = first else {
            let mut lost = last_words(&mut child, said, first.is_err()).await;
            if lost.trouble == Trouble::HostKeyUnknown {
                lost.hint = Some(ssh::unknown_host_hint(place).await);
            }
            return Err(Fault::Lost(Arc::new(lost)));
        };
        let (version, extensions) = wire::parse_version(first)?;
        if version != wire::VERSION {
            return Err(Fault::Malformed);
        }
        let has = |name: &str, version: &str| {
            extensions.iter().any(|(found, number)| found == name && number == version)
        };
        let offers = Offers {
            fsync: has("fsync@openssh.com", "1"),
            statvfs: has("statvfs@openssh.com", "2"),
            read_len: DATA_LEN_SAFE as u32,
            write_len: DATA_LEN_SAFE as u32,
        };
        let (packets, queue) = mpsc::channel(WAITING);
        let waiting = Requests { next: 0, open: Some(HashMap::new()), heard: Instant::now() };
        let shared =
            Arc::new(Shared { waiting: Mutex::new(waiting), ended: OnceLock::new(), stop: Notify::new() });
        tokio::spawn(write_on(stdin, queue, Arc::clone(&shared)));
        tokio::spawn(read_on(stdout, child, said, Arc::clone(&shared), packets.downgrade()));
        let links = AtomicBool::new(has("hardlink@openssh.com", "1"));
        let mut session = Self { packets, shared, offers, links, patience };
        if has("limits@openssh.com", "1") {
            let reply = session.ask(Request::extended("limits@openssh.com")).await?;
            let Reply::Extended(limits) = reply else { return Err(Fault::Malformed) };
            let [_, read, write, _] = wire::numbers(limits)?;
            // 0 says that the server knows no limit.
            let len = |limit: u64| if limit == 0 { DATA_LEN_SAFE } else { limit.clamp(1_024, DATA_LEN_MAX) };
            session.offers.read_len = len(read) as u32;
            session.offers.write_len = len(write) as u32;
        }
        Ok(Arc::new(session))
    }

    pub(super) fn offers(&self) -> Offers {
        self.offers
    }

    /// Whether the server makes second names, as far as is known.
    pub(super) fn links(&self) -> bool {
        self.links.load(Ordering::Relaxed)
    }

    /// The server turned out to make none.
    pub(super) fn without_links(&self) {
        self.links.store(false, Ordering::Relaxed);
    }

    pub(super) fn is_alive(&self) -> bool {
        self.shared.requests().open.is_some()
    }

    /// How long the server may be silent.
    pub(super) fn patience(&self) -> Duration {
        self.patience
    }

    /// Sends a request; the answer is waited for by whoever wants it. Cancel safe.
    pub(super) async fn send(&self, request: Request) -> Result<Waiting, Fault> {
        let (tell, reply) = oneshot::channel();
        let id = {
            let mut requests = self.shared.requests();
            let id = requests.next;
            requests.next = requests.next.wrapping_add(1);
            match &mut requests.open {
                Some(open) => open.insert(id, tell),
                None => {
                    drop(requests);
                    return Err(self.shared.lost());
                }
            };
            id
        };
        let waiting = Waiting { id, reply, shared: Arc::clone(&self.shared), sent: Instant::now() };
        // Where nobody takes the packet any more, the answer is the end of the session.
        let sending = self.packets.send(request.packet(id));
        patient(sending, &self.shared, waiting.sent, self.patience).await?.ok();
        Ok(waiting)
    }

    /// Sends a request and waits for its answer.
    pub(super) async fn ask(&self, request: Request) -> Result<Reply, Fault> {
        self.send(request).await?.reply(self.patience).await
    }

    /// Sends a request whose answer is that it was done.
    pub(super) async fn done(&self, request: Request) -> Result<(), Fault> {
        done(self.ask(request).await?)
    }

    /// Sends a request whose answer nobody wants. Does not wait.
    pub(super) fn tell(&self, request: Request) {
        tell(&self.packets, &self.shared, request);
    }
}

fn tell(packets: &mpsc::Sender<(Vec<u8>, Bytes)>, shared: &Shared, request: Request) {
    let id = {
        let mut requests = shared.requests();
        requests.next = requests.next.wrapping_add(1);
        requests.next.wrapping_sub(1)
    };
    if let Err(mpsc::error::TrySendError::Full(packet)) = packets.try_send(request.packet(id))
        && let Ok(runtime) = tokio::runtime::Handle::try_current()
    {
        let packets = packets.clone();
        runtime.spawn(async move { packets.send(packet).await });
    }
}

/// The answer to a request that was sent; dropping it forgets the request.
#[derive(Debug)]
pub(super) struct Waiting {
    id: u32,
    reply: oneshot::Receiver<Reply>,
    shared: Arc<Shared>,
    sent: Instant,
}

impl Waiting {
    /// The answer; `limit` is how long the server may say nothing at all.
    pub(super) async fn reply(mut self, limit: Duration) -> Result<Reply, Fault> {
        let shared = Arc::clone(&self.shared);
        let sent = self.sent;
        match patient(&mut self.reply, &shared, sent, limit).await? {
            Ok(reply) => Ok(reply),
            Err(_) => Err(shared.lost()),
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(open) = &mut self.shared.requests().open {
            open.remove(&self.id);
        }
    }
}

/// Waits for something as long as the server still says something now and then.
async fn patient<T>(
    work: impl Future<Output = T>,
    shared: &Shared,
    since: Instant,
    limit: Duration,
) -> Result<T, Fault> {
    let mut work = std::pin::pin!(work);
    loop {
        let heard = shared.requests().heard.max(since);
        if let Ok(done) = tokio::time::timeout_at(heard + limit, &mut work).await {
            return Ok(done);
        }
        if shared.requests().heard.max(since) + limit <= Instant::now() {
            // A session in which an answer is missing is of no use to others either.
            shared.stop.notify_one();
            return Err(Fault::Silent(limit));
        }
    }
}

/// The answer that something was done.
pub(super) fn done(reply: Reply) -> Result<(), Fault> {
    match reply {
        Reply::Status { code: status::OK, .. } => Ok(()),
        Reply::Status { code, said } => Err(Fault::Refused { code, said }),
        _ => Err(Fault::Malformed),
    }
}

/// An open file or folder of a server; closed when dropped.
#[derive(Debug)]
pub(super) struct Handle {
    pub(super) session: Arc<Session>,
    bytes: Bytes,
    open: bool,
}

impl Handle {
    pub(super) async fn of(session: &Arc<Session>, request: Request) -> Result<Self, Fault> {
        match session.ask(request).await? {
            Reply::Handle(bytes) => Ok(Self { session: Arc::clone(session), bytes, open: true }),
            Reply::Status { code, said } => Err(Fault::Refused { code, said }),
            _ => Err(Fault::Malformed),
        }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Closes it and says whether that went well: some servers write only now.
    pub(super) async fn close(mut self) -> Result<(), Fault> {
        self.open = false;
        self.session.done(Request::new(kind::CLOSE).text(&self.bytes)).await
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if self.open {
            self.session.tell(Request::new(kind::CLOSE).text(&self.bytes));
        }
    }
}

/// Hands packets to the client until nobody sends any more.
async fn write_on(mut stdin: ChildStdin, mut queue: mpsc::Receiver<(Vec<u8>, Bytes)>, shared: Arc<Shared>) {
    while let Some((head, payload)) = queue.recv().await {
        let written = async {
            stdin.write_all(&head).await?;
            stdin.write_all(&payload).await
        };
        if written.await.is_err() {
            // The client has ended, or will: the reader hears why.
            shared.stop.notify_one();
            return;
        }
    }
}

/// Hands answers to whoever waits for them until the session ends.
async fn read_on(
    mut stdout: ChildStdout,
    mut child: Child,
    said: JoinHandle<String>,
    shared: Arc<Shared>,
    packets: mpsc::WeakSender<(Vec<u8>, Bytes)>,
) {
    let malformed = loop {
        let packet = tokio::select! {
            packet = packet(&mut stdout) => packet,
            () = shared.stop.notified() => {
                let _ = child.start_kill();
                break false;
            }
        };
        let Ok(packet) = packet else { break true };
        let Some(packet) = packet else { break false };
        let Ok((id, reply)) = Reply::parse(packet) else { break true };
        let waiting = {
            let mut requests = shared.requests();
            requests.heard = Instant::now();
            requests.open.as_mut().and_then(|open| open.remove(&id))
        };
        let unwanted = match waiting {
            Some(waiting) => waiting.send(reply).err(),
            None => Some(reply),
        };
        // Whoever opened it is gone, and nobody else would close it.
        if let (Some(Reply::Handle(handle)), Some(packets)) = (unwanted, packets.upgrade()) {
            tell(&packets, &shared, Request::new(kind::CLOSE).text(&handle));
        }
    };
    drop(stdout);
    let lost = last_words(&mut child, said, malformed).await;
    shared.end(lost);
}

/// What the client has to say at its end.
async fn last_words(child: &mut Child, said: JoinHandle<String>, malformed: bool) -> Lost {
    if tokio::time::timeout(ENDING, child.wait()).await.is_err() {
        let _ = child.start_kill();
    }
    let said = match tokio::time::timeout(ENDING, said).await {
        Ok(Ok(said)) => said,
        _ => String::new(),
    };
    if malformed {
        let said = format!("the server sent something that is no answer; {said}");
        return Lost { trouble: Trouble::NotSupported, said, hint: None };
    }
    Lost { trouble: ssh::understood(&said), said, hint: None }
}

/// Keeps the end of the client's words, in one line.
async fn keep(mut stderr: impl AsyncRead + Unpin) -> String {
    let mut kept = Vec::new();
    let mut piece = [0; 1_024];
    while let Ok(got @ 1..) = stderr.read(&mut piece).await {
        kept.extend_from_slice(&piece[..got]);
        let over = kept.len().saturating_sub(SAID_MAX);
        kept.drain(..over);
    }
    let text = String::from_utf8_lossy(&kept);
    let lines: Vec<String> = text
        .lines()
        .map(|line| line.chars().filter(|c| !c.is_control()).collect::<String>().trim().to_owned())
        .filter(|line| !line.is_empty())
        .collect();
    lines.join("; ")
}

/// The next packet without its length; `None` at the end.
async fn packet(stdout: &mut (impl AsyncRead + Unpin)) -> Result<Option<Bytes>, Malformed> {
    let mut len = [0; 4];
    if stdout.read_exact(&mut len).await.is_err() {
        return Ok(None);
    }
    let len = u32::from_be_bytes(len) as usize;
    if !(1..=wire::PACKET_LEN_MAX).contains(&len) {
        return Err(Malformed);
    }
    let mut packet = BytesMut::zeroed(len);
    match stdout.read_exact(&mut packet).await {
        Ok(_) => Ok(Some(packet.freeze())),
        Err(_) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn packets_have_a_length_that_is_believed_within_bounds() {
        let read = async |bytes: &[u8]| packet(&mut &*bytes).await;
        assert_eq!(read(b"\0\0\0\x03abcd").await, Ok(Some(Bytes::from_static(b"abc"))));
        assert_eq!(read(b"\0\0\0\x03ab").await, Ok(None));
        assert_eq!(read(b"").await, Ok(None));
        // A shell that greets: "Welc" is no length.
        assert_eq!(read(b"Welcome!").await, Err(Malformed));
        assert_eq!(read(b"\0\0\0\0").await, Err(Malformed));
    }
}
