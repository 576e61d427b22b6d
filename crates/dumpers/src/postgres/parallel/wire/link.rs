//! Bytes to and from a server, and messages of them.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

use super::super::super::error::PostgresError;
use super::endpoint::{Endpoint, Place, Tls};
use super::frames::{HEAD_LEN, refused, whole, wrong};
use super::tls::{Check, binding};

/// Bytes of a server that are read at once, and of a piece of rows at the most.
pub(super) const READ: usize = 256 * 1024;

/// NoticeResponse.
pub(super) const NOTICE: u8 = b'N';

pub(super) trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}

/// A connection to a server. Dropped, it is closed, and the server ends its session as soon as it
/// sends or waits.
pub(super) struct Link {
    stream: Box<dyn Transport>,
    /// What has come and was not yet taken.
    pub(super) read: BytesMut,
    /// Whether TLS is spoken.
    pub(super) encrypted: bool,
    /// What binds a login to the server's certificate, where it has one.
    pub(super) binding: Option<Vec<u8>>,
}

impl Link {
    /// Connects, with TLS as the settings ask for it.
    pub(super) async fn connect(endpoint: &Endpoint) -> Result<Self, PostgresError> {
        match &endpoint.place {
            Place::Unix(path) => {
                let stream = UnixStream::connect(path).await.map_err(|error| lost(&error))?;
                Ok(Self::of(Box::new(stream), false, None))
            }
            Place::Tcp { host, to, port } => {
                let mut plain = tcp(to, *port).await?;
                let (config, always) = match &endpoint.tls {
                    Tls::Never => return Ok(Self::of(Box::new(plain), false, None)),
                    Tls::Prefer(config) => (config, false),
                    Tls::Always(config) => (config, true),
                };
                let mut request = BytesMut::new();
                frontend::ssl_request(&mut request);
                plain.write_all(&request).await.map_err(|error| lost(&error))?;
                // One byte and no more: what follows is to be TLS's own.
                match plain.read_u8().await.map_err(|error| lost(&error))? {
                    b'S' => Self::secured(plain, config, host, endpoint.check).await,
                    b'N' if !always => Ok(Self::of(Box::new(plain), false, None)),
                    b'N' => Err(PostgresError::Unreachable("the server does not support TLS".to_owned())),
                    other => Err(wrong(format!("{other} to the question for TLS"))),
                }
            }
        }
    }

    async fn secured(
        plain: TcpStream,
        config: &std::sync::Arc<ClientConfig>,
        host: &str,
        check: Check,
    ) -> Result<Self, PostgresError> {
        let address = || plain.peer_addr().map(|address| ServerName::from(address.ip()));
        let name = match (ServerName::try_from(host.to_owned()), check) {
            (Ok(name), _) => name,
            (Err(_), Check::Name) => {
                return Err(PostgresError::Certificate(format!("none can be for {host:?}")));
            }
            (Err(_), _) => address().map_err(|error| lost(&error))?,
        };
        let connecting = TlsConnector::from(std::sync::Arc::clone(config)).connect(name, plain);
        let stream = connecting.await.map_err(|error| PostgresError::Certificate(error.to_string()))?;
        let certificates = stream.get_ref().1.peer_certificates();
        let binding = certificates.and_then(<[_]>::first).and_then(|certificate| binding(certificate));
        Ok(Self::of(Box::new(stream), true, binding))
    }

    pub(super) fn of(stream: Box<dyn Transport>, encrypted: bool, binding: Option<Vec<u8>>) -> Self {
        Self { stream, read: BytesMut::with_capacity(READ), encrypted, binding }
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) -> Result<(), PostgresError> {
        self.stream.write_all(bytes).await.map_err(|error| lost(&error))?;
        self.stream.flush().await.map_err(|error| lost(&error))
    }

    /// Reads what is there, at least one byte. There must be room for it.
    ///
    /// Cancel safe.
    pub(super) async fn fill(&mut self) -> Result<(), PostgresError> {
        match self.stream.read_buf(&mut self.read).await {
            Ok(0) => Err(PostgresError::Unreachable("the server closed the connection".to_owned())),
            Ok(_) => Ok(()),
            Err(error) => Err(lost(&error)),
        }
    }

    /// The next message that is neither a notice nor an error: its letter and the rest.
    ///
    /// Cancel safe.
    pub(super) async fn message(&mut self) -> Result<(u8, Bytes), PostgresError> {
        loop {
            match self.held()? {
                Some((NOTICE, _)) => {}
                Some(message) => return Ok(message),
                None => {
                    self.read.reserve(HEAD_LEN);
                    self.fill().await?;
                }
            }
        }
    }

    /// The next message if all of it has come; whatever is only told by the way as [`NOTICE`].
    ///
    /// # Errors
    /// What the server says, where it is an error.
    pub(super) fn held(&mut self) -> Result<Option<(u8, Bytes)>, PostgresError> {
        let Some((kind, len)) = whole(&self.read)? else { return Ok(None) };
        let body = self.read.split_to(len).freeze().slice(HEAD_LEN..);
        match kind {
            // ParameterStatus, NotificationResponse
            b'S' | b'A' => Ok(Some((NOTICE, body))),
            b'E' => Err(refused(&body)),
            kind => Ok(Some((kind, body))),
        }
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("encrypted", &self.encrypted).finish_non_exhaustive()
    }
}

/// The first address that answers, with keepalive as libpq sets it.
async fn tcp(to: &str, port: u16) -> Result<TcpStream, PostgresError> {
    let mut last = format!("{to} has no address");
    for address in tokio::net::lookup_host((to, port)).await.map_err(|error| lost(&error))? {
        let connecting = async {
            let socket = match address {
                SocketAddr::V4(_) => TcpSocket::new_v4()?,
                SocketAddr::V6(_) => TcpSocket::new_v6()?,
            };
            socket.set_keepalive(true)?;
            let stream = socket.connect(address).await?;
            stream.set_nodelay(true)?;
            Ok::<_, io::Error>(stream)
        };
        match connecting.await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error.to_string(),
        }
    }
    Err(PostgresError::Unreachable(last))
}

fn lost(error: &io::Error) -> PostgresError {
    PostgresError::Unreachable(error.to_string())
}
