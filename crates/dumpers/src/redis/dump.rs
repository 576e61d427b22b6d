//! A dump as a replica gets it.

use std::collections::BTreeMap;

use async_trait::async_trait;
use backup_core::{
    ByteStream, CancelToken, Context, Dump, DumpFormat, DumpReport, Dumper, Event, Probe, Result, Selection,
    Settled, Stage,
};
use bytes::{Bytes, BytesMut};

use super::REDIS_RDB;
use super::client::{Client, unless_cancelled};
use super::config::{Endpoint, RedisConfig};
use super::error::RedisError;
use super::probe::look;
use super::rdb::{RdbContents, RdbParser};
use crate::command::refuse_selection;

/// Bytes of the mark that ends a payload of unknown length.
const MARK: usize = 40;

/// Dumps all databases of one server.
#[derive(Debug)]
pub struct RedisDumper {
    endpoint: Endpoint,
}

impl RedisDumper {
    /// The server of these settings; it is connected to when it is needed.
    ///
    /// # Errors
    /// `Config` for settings that cannot work.
    pub fn new(config: &RedisConfig) -> Result<Self> {
        Ok(Self { endpoint: config.endpoint()? })
    }
}

#[async_trait]
impl Dumper for RedisDumper {
    async fn probe(&self, cx: &Context) -> Result<Probe> {
        let subject = self.endpoint.to_string();
        let looked = unless_cancelled(cx.cancel(), &subject, look(&self.endpoint)).await;
        looked.map_err(|error| error.at(Stage::Probe))
    }

    async fn dump(&self, cx: &Context, what: &Selection) -> Result<Dump> {
        let subject = self.endpoint.to_string();
        cx.check(&subject)?;
        refuse_selection(&subject, what)?;
        let begun = unless_cancelled(cx.cancel(), &subject, Transfer::begin(&self.endpoint)).await;
        let transfer = begun.map_err(|error| error.at(Stage::Dump))?;
        let (settler, report) = Settled::pending();
        let running = Running { transfer, subject, cx: cx.clone(), told: None };
        let state = Some((running, settler));
        let bytes = ByteStream::new(futures::stream::unfold(state, async |state| {
            let (mut running, settler) = state?;
            match running.next().await {
                Ok(Some(chunk)) => Some((Ok(chunk), Some((running, settler)))),
                Ok(None) => {
                    settler.settle(running.transfer.report());
                    None
                }
                Err(error) => Some((Err(error.at(Stage::Dump)), None)),
            }
        }));
        Ok(Dump { format: DumpFormat::new(REDIS_RDB), bytes, report })
    }
}

/// A transfer with its surroundings.
struct Running {
    transfer: Transfer,
    subject: String,
    cx: Context,
    told: Option<u64>,
}

impl Running {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        let cancel: CancelToken = self.cx.cancel().clone();
        let chunk = unless_cancelled(&cancel, &self.subject, self.transfer.next()).await?;
        let database = self.transfer.parser.database();
        if database.is_some() && database != self.told {
            self.told = database;
            self.cx.report(Event::Table(&format!("db{}", database.unwrap_or_default())));
        }
        if chunk.is_none() {
            for warning in self.transfer.contents.warnings() {
                self.cx.report(Event::Warning(&warning));
            }
        }
        Ok(chunk)
    }
}

/// How the server said the payload ends.
#[derive(Debug)]
enum Frame {
    /// After so many more bytes.
    Counted(u64),
    /// Before this mark. The last bytes read are held back until they are known not to be it.
    Marked { mark: [u8; MARK], held: BytesMut },
    /// It has ended.
    Over,
}

/// A payload on its way.
#[derive(Debug)]
struct Transfer {
    client: Client,
    stall: Option<std::time::Duration>,
    frame: Frame,
    parser: RdbParser,
    contents: RdbContents,
    offset: String,
}

impl Transfer {
    /// Asks for a full copy, as a new replica does, and waits for its beginning.
    ///
    /// Cancel safe: the server forgets a replica that is gone.
    async fn begin(endpoint: &Endpoint) -> Result<Self, RedisError> {
        let mut client = Client::connect(endpoint).await?;
        client.ask(&[b"REPLCONF", b"capa", b"eof"]).await?;
        // Since Redis 7.0: nothing but the dump is wanted, so the server keeps no backlog for us.
        match client.ask(&[b"REPLCONF", b"rdb-only", b"1"]).await {
            Ok(_) | Err(RedisError::Refused { .. }) => {}
            Err(error) => return Err(error),
        }
        let mut command = BytesMut::new();
        super::client::encode(&mut command, &[b"PSYNC", b"?", b"-1"]);
        client.send(&command).await?;
        let mut transfer = Self {
            client,
            stall: endpoint.stall,
            frame: Frame::Over,
            parser: RdbParser::new(),
            contents: RdbContents::default(),
            offset: String::new(),
        };
        transfer.frame = transfer.head().await?;
        Ok(transfer)
    }

    /// Newlines while the server prepares; `+FULLRESYNC`; the payload's length or mark.
    async fn head(&mut self) -> Result<Frame, RedisError> {
        loop {
            let line = self.alive(async |client| client.line().await).await?;
            if line.is_empty() {
                continue;
            }
            if let Some(answer) = line.strip_prefix(b"+") {
                let answer = String::from_utf8_lossy(answer);
                let Some(rest) = answer.strip_prefix("FULLRESYNC ") else {
                    return Err(RedisError::Protocol("another answer to PSYNC than FULLRESYNC"));
                };
                self.offset = rest.split(' ').nth(1).unwrap_or_default().to_owned();
            } else if let Some(answer) = line.strip_prefix(b"-") {
                return Err(self.client.refused("PSYNC", &String::from_utf8_lossy(answer)));
            } else if let Some(mark) = line.strip_prefix(b"$EOF:") {
                let mark =
                    mark.try_into().map_err(|_| RedisError::Protocol("an end mark that is not 40 bytes"))?;
                return Ok(Frame::Marked { mark, held: BytesMut::new() });
            } else if let Some(len) = line.strip_prefix(b"$") {
                let len = std::str::from_utf8(len).ok().and_then(|len| len.parse().ok());
                return Ok(Frame::Counted(len.ok_or(RedisError::Protocol("a length that is none"))?));
            } else {
                return Err(RedisError::Protocol("another answer to PSYNC than a dump"));
            }
        }
    }

    /// The next bytes of the payload; `None` after its verified end.
    async fn next(&mut self) -> Result<Option<Bytes>, RedisError> {
        loop {
            let want = match &self.frame {
                Frame::Over => return Ok(None),
                Frame::Counted(0) => {
                    self.end()?;
                    return Ok(None);
                }
                Frame::Counted(rest) => *rest,
                Frame::Marked { .. } => u64::MAX,
            };
            let some = self.alive(async |client| client.some(want).await).await?;
            let chunk = match &mut self.frame {
                Frame::Counted(rest) => {
                    *rest -= some.len() as u64;
                    some
                }
                Frame::Marked { mark, held } => {
                    held.extend_from_slice(&some);
                    if held.ends_with(mark) {
                        let rest = held.split_to(held.len() - MARK).freeze();
                        self.frame = Frame::Counted(0);
                        rest
                    } else {
                        held.split_to(held.len().saturating_sub(MARK)).freeze()
                    }
                }
                Frame::Over => Bytes::new(),
            };
            if !chunk.is_empty() {
                self.parser.push(&chunk)?;
                return Ok(Some(chunk));
            }
        }
    }

    fn end(&mut self) -> Result<(), RedisError> {
        self.contents = self.parser.finish()?;
        self.frame = Frame::Over;
        Ok(())
    }

    async fn alive<T>(
        &mut self,
        work: impl AsyncFnOnce(&mut Client) -> Result<T, RedisError>,
    ) -> Result<T, RedisError> {
        match self.stall {
            None => work(&mut self.client).await,
            Some(limit) => tokio::time::timeout(limit, work(&mut self.client))
                .await
                .unwrap_or(Err(RedisError::Stalled(limit.as_secs()))),
        }
    }

    fn report(&self) -> DumpReport {
        let contents = &self.contents;
        let mut versions = BTreeMap::from([("rdb".to_owned(), contents.version.to_string())]);
        if let Some(server) = &contents.server {
            versions.insert("server".to_owned(), server.clone());
        }
        let mut options = contents.describe();
        options.push(format!("functions: {}", contents.functions));
        options.push(format!("replication offset: {}", self.offset));
        let tables = contents.databases.keys().map(|number| format!("db{number}")).collect();
        DumpReport { engine: "redis".to_owned(), versions, options, tables, ..DumpReport::default() }
    }
}
