//! A proxy between us and an S3 or WebDAV server that does harm to one chosen request.
//!
//! It handles one request per connection, so that the end of each answer is the end of its
//! connection.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

/// What is done to the chosen request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Harm {
    /// The connection is closed before the server sees anything.
    Refuse,
    /// The server sees half of the request.
    CutRequest,
    /// The server sees all of it, and its answer is thrown away.
    LoseAnswer,
    /// Half of the answer comes back.
    CutAnswer,
    /// Half of the answer comes back, and the connection ends only when [`Proxy::release`] is called.
    HoldAnswer,
    /// The answer is 403, and the server sees nothing.
    Deny,
    /// The answer is 403 to deletes and to every publication without `If-None-Match`, as the policy of
    /// docs/storage.md makes it.
    Policy,
    /// The answer is 503, and the server sees nothing.
    Busy,
    /// The answer is that of a bucket in another region, and the server sees nothing.
    Elsewhere,
    /// One bit of the body changes on the way to the server.
    FlipBit,
    /// The same, and the server does not see the MD5 of the body, as if it compared nothing.
    FlipBitUnseen,
    /// The ETag of the answer is another, as if the server did not make it of the bytes; it is put
    /// right again where it comes back.
    OtherTag,
}

/// Which requests are harmed: those whose first line contains `what`, from the `at`-th of them on,
/// `times` of them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) what: &'static str,
    pub(crate) at: usize,
    pub(crate) times: usize,
    pub(crate) harm: Harm,
}

/// The proxy; ends when dropped.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) endpoint: String,
    state: Arc<State>,
    task: AbortHandle,
}

#[derive(Debug)]
struct State {
    /// Our own host and port.
    own: String,
    upstream: String,
    plan: Plan,
    seen: AtomicUsize,
    harmed: Mutex<Vec<String>>,
    /// What the server answered to them.
    statuses: Mutex<Vec<u16>>,
    /// What ETags were changed to, and from.
    tags: Mutex<Vec<(String, String)>>,
    answered: Mutex<Vec<String>>,
    release: Notify,
}

impl Proxy {
    /// In front of the server at `endpoint`.
    pub(crate) async fn start(endpoint: &str, plan: Plan) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(State {
            own: own.trim_start_matches("http://").to_owned(),
            upstream: endpoint.trim_start_matches("http://").split('/').next().unwrap().to_owned(),
            plan,
            seen: AtomicUsize::new(0),
            harmed: Mutex::default(),
            statuses: Mutex::default(),
            tags: Mutex::default(),
            answered: Mutex::default(),
            release: Notify::new(),
        });
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let state = Arc::clone(&shared);
                // A broken connection is what this is for.
                tokio::spawn(async move { drop(state.serve(client).await) });
            }
        });
        Self { endpoint: own, state, task: task.abort_handle() }
    }

    /// The first lines of the requests that were harmed.
    pub(crate) fn harmed(&self) -> Vec<String> {
        self.state.harmed.lock().unwrap().clone()
    }

    /// The server's own answers to them, where it saw them whole.
    pub(crate) fn statuses(&self) -> Vec<u16> {
        self.state.statuses.lock().unwrap().clone()
    }

    /// How many requests the plan was asked about.
    pub(crate) fn seen(&self) -> usize {
        self.state.seen.load(Ordering::SeqCst)
    }

    /// Waits until `times` requests whose first line contains `what` were answered.
    pub(crate) async fn answered(&self, what: &str, times: usize) {
        let count = || self.state.answered.lock().unwrap().iter().filter(|line| line.contains(what)).count();
        let waiting = async {
            while count() < times {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        // Only so that a defect ends the test.
        tokio::time::timeout(Duration::from_secs(60), waiting)
            .await
            .unwrap_or_else(|_| panic!("{:#?}", self.state.answered.lock().unwrap()));
    }

    /// Lets a held answer end.
    pub(crate) fn release(&self) {
        self.state.release.notify_one();
    }
}

impl Plan {
    /// Only watches.
    pub(crate) const HARMLESS: Self = Self { what: "", at: 0, times: 0, harm: Harm::Refuse };
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl State {
    fn harm(&self, line: &str) -> Option<Harm> {
        if !line.contains(self.plan.what) {
            return None;
        }
        let n = self.seen.fetch_add(1, Ordering::SeqCst);
        let struck = n >= self.plan.at && n - self.plan.at < self.plan.times;
        struck.then(|| {
            self.harmed.lock().unwrap().push(line.to_owned());
            self.plan.harm
        })
    }

    async fn serve(&self, mut client: TcpStream) -> io::Result<()> {
        let Some((head, mut body)) = read_head(&mut client).await? else { return Ok(()) };
        let line = head.lines().next().unwrap_or_default().to_owned();
        let harm = self.harm(&line);
        if harm == Some(Harm::Refuse) {
            return Ok(());
        }
        let mut len = length(&head);
        let mut head = head.replacen("\r\n", "\r\nConnection: close\r\n", 1);
        if harm == Some(Harm::FlipBitUnseen) {
            assert!(head.contains("\r\ncontent-md5:"), "{head}");
            head = head.replacen("\r\ncontent-md5:", "\r\nx-unseen:", 1);
        }

        // Of unknown length: the last chunk is empty.
        if head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
            while !body.ends_with(b"\r\n0\r\n\r\n") && !body.starts_with(b"0\r\n\r\n") {
                let mut more = vec![0; 1 << 16];
                let got = client.read(&mut more).await?;
                if got == 0 {
                    return Ok(());
                }
                body.extend_from_slice(&more[..got]);
            }
            len = body.len();
        }
        // All of it first: who still sends would see a broken connection and no answer.
        while body.len() < len {
            let mut more = vec![0; (len - body.len()).min(1 << 16)];
            let got = client.read(&mut more).await?;
            if got == 0 {
                return Ok(());
            }
            body.extend_from_slice(&more[..got]);
        }
        let instead = match harm {
            Some(Harm::Deny) => Some("403 Forbidden"),
            Some(Harm::Policy) if forbidden(&head) => Some("403 Forbidden"),
            Some(Harm::Busy) => Some("503 Slow Down"),
            Some(Harm::Elsewhere) => Some("301 Moved Permanently\r\nx-amz-bucket-region: eu-north-9"),
            _ => None,
        };
        if let Some(instead) = instead {
            let answer = format!("HTTP/1.1 {instead}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            client.write_all(answer.as_bytes()).await?;
            return client.shutdown().await;
        }
        let mut server = TcpStream::connect(&self.upstream).await?;
        server.write_all(head.as_bytes()).await?;
        if matches!(harm, Some(Harm::FlipBit | Harm::FlipBitUnseen)) {
            body[len / 2] ^= 1;
        }
        if head.starts_with("POST") && !self.tags.lock().unwrap().is_empty() {
            let mut text = String::from_utf8(body).unwrap();
            for (other, tag) in self.tags.lock().unwrap().iter() {
                text = text.replace(other, tag);
            }
            body = text.into_bytes();
        }
        if harm == Some(Harm::CutRequest) {
            server.write_all(&body[..len / 2]).await?;
            return Ok(());
        }
        server.write_all(&body).await?;

        let mut answer = Vec::new();
        server.read_to_end(&mut answer).await?;
        if harm.is_some() {
            let status = std::str::from_utf8(&answer[9..12]).unwrap().parse().unwrap();
            self.statuses.lock().unwrap().push(status);
        }
        answer = self.with_own_location(answer);
        if harm == Some(Harm::OtherTag) {
            answer = self.with_other_tag(answer);
        }
        match harm {
            Some(Harm::LoseAnswer) => {}
            Some(Harm::CutAnswer) => client.write_all(&answer[..answer.len() / 2]).await?,
            Some(Harm::HoldAnswer) => {
                client.write_all(&answer[..answer.len() / 2]).await?;
                self.release.notified().await;
            }
            _ => {
                client.write_all(&answer).await?;
                self.answered.lock().unwrap().push(line);
            }
        }
        client.shutdown().await
    }
}

impl State {
    /// The answer with our address instead of the server's in its headers: who is sent on comes through us again.
    fn with_own_location(&self, answer: Vec<u8>) -> Vec<u8> {
        let Some(end) = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n") else { return answer };
        let head = String::from_utf8_lossy(&answer[..end]).replace(&self.upstream, &self.own);
        [head.as_bytes(), &answer[end..]].concat()
    }

    /// The answer with the digits of its ETag in reverse.
    fn with_other_tag(&self, answer: Vec<u8>) -> Vec<u8> {
        let text = String::from_utf8(answer).unwrap();
        let header = text.lines().find(|line| line.to_ascii_lowercase().starts_with("etag:")).unwrap();
        let tag = header.split('"').nth(1).unwrap();
        let other: String = tag.chars().rev().collect();
        assert_ne!(tag, other);
        let changed = text.replace(tag, &other);
        self.tags.lock().unwrap().push((other, tag.to_owned()));
        changed.into_bytes()
    }
}

/// The length of a request's body.
pub(crate) fn length(head: &str) -> usize {
    head.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .map_or(0, |(_, value)| value.trim().parse().unwrap())
}

/// Whether the policy of docs/storage.md forbids a request.
fn forbidden(head: &str) -> bool {
    let line = head.lines().next().unwrap_or_default();
    let conditional = head.to_ascii_lowercase().contains("\r\nif-none-match:");
    match line.split(' ').next() {
        Some("DELETE") => !line.contains("uploadId="),
        Some("PUT") => !line.contains("partNumber=") && !conditional,
        Some("POST") => line.contains("uploadId=") && !conditional,
        _ => false,
    }
}

/// The head of a request, and what was read of its body; `None` where nothing came.
pub(crate) async fn read_head(client: &mut TcpStream) -> io::Result<Option<(String, Vec<u8>)>> {
    let mut read = Vec::new();
    loop {
        if let Some(end) = read.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            let body = read.split_off(end + 4);
            return Ok(Some((String::from_utf8(read).unwrap(), body)));
        }
        let mut more = [0; 4096];
        let got = client.read(&mut more).await?;
        if got == 0 {
            return Ok(None);
        }
        read.extend_from_slice(&more[..got]);
    }
}
