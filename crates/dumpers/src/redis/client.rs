//! One connection: commands and replies in RESP2
//! (<https://redis.io/docs/latest/develop/reference/protocol-spec/>).

use std::fmt;
use std::io;
use std::time::Duration;

use backup_core::{CancelToken, Error};
use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::rustls::pki_types::ServerName;

use super::config::{Endpoint, Place};
use super::error::RedisError;
use super::tls::connector;

/// How long a connection and an answer to a small command may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a server may take to say the first of TLS. One without TLS waits for the end of a line
/// that never comes.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// The most bytes of a line.
const LINE_MAX: usize = 64 * 1024;
/// The most bytes of a reply; the largest asked for is that of `INFO`.
const REPLY_MAX: usize = 16 * 1024 * 1024;
/// The most parts of a list.
const LIST_MAX: i64 = 1 << 20;
/// Bytes asked for at once.
const READ: usize = 256 * 1024;
/// Replies inside of replies.
const DEPTH_MAX: u8 = 8;

trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}

/// A server's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reply {
    Simple(String),
    Refused(String),
    Number(i64),
    Bulk(Option<Bytes>),
    List(Vec<Reply>),
}

impl Reply {
    /// The text of an answer that is one.
    pub(super) fn text(&self) -> Option<String> {
        match self {
            Self::Simple(text) => Some(text.clone()),
            Self::Bulk(Some(bytes)) => Some(String::from_utf8_lossy(bytes).into_owned()),
            _ => None,
        }
    }
}

/// A connection that is logged in.
pub(super) struct Client {
    stream: Box<dyn Transport>,
    read: BytesMut,
    user: Option<String>,
}

impl Client {
    /// Connects and logs in.
    ///
    /// Cancel safe: the connection is closed with the future.
    pub(super) async fn connect(endpoint: &Endpoint) -> Result<Self, RedisError> {
        let mut client = within(PATIENCE, Self::open(endpoint)).await?;
        if let Some(password) = &endpoint.password {
            let mut login = vec![b"AUTH".as_slice()];
            login.extend(endpoint.user.as_deref().map(str::as_bytes));
            login.push(password.expose().as_bytes());
            client.ask(&login).await?;
        }
        // Refused where a login is needed and none was given.
        match client.ask(&[b"PING"]).await {
            Ok(_) | Err(RedisError::NotPermitted { .. }) => Ok(client),
            Err(error) => Err(error),
        }
    }

    async fn open(endpoint: &Endpoint) -> Result<Self, RedisError> {
        let stream: Box<dyn Transport> = match &endpoint.place {
            Place::Unix(path) => Box::new(UnixStream::connect(path).await.map_err(RedisError::Unreachable)?),
            Place::Tcp { host, port, tls } => {
                let plain = TcpStream::connect((&**host, *port)).await.map_err(RedisError::Unreachable)?;
                plain.set_nodelay(true).map_err(RedisError::Unreachable)?;
                match tls {
                    None => Box::new(plain),
                    Some(files) => {
                        let name = ServerName::try_from(host.clone()).map_err(|_| {
                            RedisError::Tls("the host is no name a certificate can have".to_owned())
                        })?;
                        let connecting = connector(files)?.connect(name, plain);
                        match tokio::time::timeout(HANDSHAKE, connecting).await {
                            Ok(Ok(tls)) => Box::new(tls),
                            Ok(Err(error)) => return Err(handshake(&error)),
                            Err(_) => {
                                let what = format!("no answer to it in {} seconds", HANDSHAKE.as_secs());
                                return Err(RedisError::NoTls(what));
                            }
                        }
                    }
                }
            }
        };
        Ok(Self { stream, read: BytesMut::new(), user: endpoint.user.clone() })
    }

    /// Sends a command and reads its answer; a refusal is an error.
    pub(super) async fn ask(&mut self, command: &[&[u8]]) -> Result<Reply, RedisError> {
        match self.answer(command).await? {
            Reply::Refused(answer) => Err(self.refused(&name_of(command), &answer)),
            reply => Ok(reply),
        }
    }

    /// Sends a command and reads its answer, whatever it is.
    pub(super) async fn answer(&mut self, command: &[&[u8]]) -> Result<Reply, RedisError> {
        within(PATIENCE, async {
            let mut bytes = BytesMut::new();
            encode(&mut bytes, command);
            self.send(&bytes).await?;
            self.reply().await
        })
        .await
    }

    pub(super) fn refused(&self, command: &str, answer: &str) -> RedisError {
        RedisError::answered(self.user.as_deref(), command, answer)
    }

    /// Sends bytes that were encoded before.
    pub(super) async fn send(&mut self, bytes: &[u8]) -> Result<(), RedisError> {
        self.stream.write_all(bytes).await.map_err(lost)?;
        self.stream.flush().await.map_err(lost)
    }

    /// The next answer.
    pub(super) async fn reply(&mut self) -> Result<Reply, RedisError> {
        self.reply_at(0).await
    }

    async fn reply_at(&mut self, depth: u8) -> Result<Reply, RedisError> {
        let line = self.line().await?;
        let (kind, rest) = line.split_first().ok_or(RedisError::Protocol("an empty line for an answer"))?;
        let text = || String::from_utf8_lossy(rest).into_owned();
        let number = || {
            let number = std::str::from_utf8(rest).ok().and_then(|text| text.parse::<i64>().ok());
            number.ok_or(RedisError::Protocol("a number that is none"))
        };
        match kind {
            b'+' => Ok(Reply::Simple(text())),
            b'-' => Ok(Reply::Refused(text())),
            b':' => Ok(Reply::Number(number()?)),
            b'$' => match usize::try_from(number()?) {
                Err(_) => Ok(Reply::Bulk(None)),
                Ok(len) if len > REPLY_MAX => Err(RedisError::Protocol("an answer that is too long")),
                Ok(len) => {
                    while self.read.len() < len + 2 {
                        self.fill().await?;
                    }
                    let bulk = self.read.split_to(len).freeze();
                    self.read.advance(2);
                    Ok(Reply::Bulk(Some(bulk)))
                }
            },
            b'*' if depth < DEPTH_MAX => {
                let len = number()?;
                if len > LIST_MAX {
                    return Err(RedisError::Protocol("an answer with too many parts"));
                }
                let mut list = Vec::new();
                for _ in 0..len {
                    list.push(Box::pin(self.reply_at(depth + 1)).await?);
                }
                Ok(Reply::List(list))
            }
            _ => Err(RedisError::Protocol("an answer of no known kind")),
        }
    }

    /// The next line, without its end.
    pub(super) async fn line(&mut self) -> Result<Bytes, RedisError> {
        let mut seen = 0;
        loop {
            if let Some(end) = self.read[seen..].iter().position(|byte| *byte == b'\n') {
                let mut line = self.read.split_to(seen + end + 1);
                line.truncate(seen + end);
                if line.last() == Some(&b'\r') {
                    line.truncate(line.len() - 1);
                }
                return Ok(line.freeze());
            }
            seen = self.read.len();
            if seen > LINE_MAX {
                return Err(RedisError::Protocol("a line without an end"));
            }
            self.fill().await?;
        }
    }

    /// Some bytes, at least one and at most `max`; the end of the stream is an error.
    ///
    /// Cancel safe: what was read stays.
    pub(super) async fn some(&mut self, max: u64) -> Result<Bytes, RedisError> {
        if self.read.is_empty() {
            self.fill().await?;
        }
        let take = usize::try_from(max).unwrap_or(usize::MAX).min(self.read.len());
        Ok(self.read.split_to(take).freeze())
    }

    async fn fill(&mut self) -> Result<(), RedisError> {
        self.read.reserve(READ);
        match self.stream.read_buf(&mut self.read).await {
            Ok(0) => Err(RedisError::Cut("by the server".to_owned())),
            Ok(_) => Ok(()),
            Err(error) => Err(lost(error)),
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("user", &self.user).finish_non_exhaustive()
    }
}

/// What came instead of TLS, or how TLS failed.
fn handshake(error: &io::Error) -> RedisError {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<tokio_rustls::rustls::Error>());
    match inner {
        // A server without TLS takes it for a command, and says that there is none of that name.
        Some(tokio_rustls::rustls::Error::InvalidMessage(_)) => {
            RedisError::NoTls("its answer is not TLS".to_owned())
        }
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            RedisError::NoTls("it hung up at once".to_owned())
        }
        _ => RedisError::Tls(error.to_string()),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn lost(error: io::Error) -> RedisError {
    RedisError::Cut(format!("({error})"))
}

/// The command's name as an ACL rule has it: `psync`, `function|restore`.
fn name_of(command: &[&[u8]]) -> String {
    let word = |at: usize| command.get(at).map(|word| String::from_utf8_lossy(word).to_lowercase());
    let name = word(0).unwrap_or_default();
    match word(1) {
        Some(sub) if matches!(&*name, "function" | "acl" | "config" | "client") => format!("{name}|{sub}"),
        _ => name,
    }
}

async fn within<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, RedisError>>,
) -> Result<T, RedisError> {
    tokio::time::timeout(limit, work).await.unwrap_or(Err(RedisError::Stalled(limit.as_secs())))
}

/// Waits for `work` unless somebody asks to stop.
pub(super) async fn unless_cancelled<T>(
    cancel: &CancelToken,
    subject: &str,
    work: impl Future<Output = Result<T, RedisError>>,
) -> backup_core::Result<T> {
    tokio::select! {
        biased;
        () = cancel.cancelled() => Err(Error::cancelled(subject)),
        done = work => done.map_err(|error| error.at(subject)),
    }
}

/// Appends a command.
pub(super) fn encode(bytes: &mut BytesMut, command: &[&[u8]]) {
    begin(bytes, command.len());
    for word in command {
        push(bytes, word);
    }
}

/// Begins a command of so many words.
pub(super) fn begin(bytes: &mut BytesMut, words: usize) {
    bytes.extend_from_slice(format!("*{words}\r\n").as_bytes());
}

/// Appends a word of a command.
pub(super) fn push(bytes: &mut BytesMut, word: &[u8]) {
    bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
    bytes.extend_from_slice(word);
    bytes.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_list_is_whole_or_an_error() {
        for (bytes, whole) in [("*2\r\n:1\r\n:2\r\n", true), ("*1048577\r\n:1\r\n", false)] {
            let (near, mut far) = tokio::io::duplex(1024);
            far.write_all(bytes.as_bytes()).await.unwrap();
            let mut client = Client { stream: Box::new(near), read: BytesMut::new(), user: None };
            match client.reply().await {
                Ok(reply) => assert!(whole && reply == Reply::List(vec![Reply::Number(1), Reply::Number(2)])),
                Err(error) => assert!(!whole && matches!(error, RedisError::Protocol(_)), "{error}"),
            }
        }
    }
}
