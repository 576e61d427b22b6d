//! A bundle being read: one thing after another, or one member as a stream.

use std::sync::Arc;

use backup_core::{ByteStream, Context, Error, ErrorKind, Plain, Result};
use bytes::Bytes;
use tokio::sync::Mutex;

use super::PG_PARALLEL;
use crate::bundle::{BundleReader, MemberHead, MemberId, Turn};

/// Reads the turns of a bundle.
#[derive(Debug)]
pub(in crate::postgres) struct Incoming {
    cx: Context,
    bytes: ByteStream<Plain>,
    /// `None` after the end.
    reader: Option<BundleReader>,
    /// Bytes that were read.
    pub(in crate::postgres) total: u64,
}

/// The port's error for a bundle that breaks the rules of this format.
pub(in crate::postgres) fn wrong(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::Integrity, PG_PARALLEL, what).with_hint("use another backup")
}

impl Incoming {
    pub(in crate::postgres) fn new(cx: &Context, bytes: ByteStream<Plain>) -> Self {
        Self { cx: cx.clone(), bytes, reader: Some(BundleReader::new()), total: 0 }
    }

    /// The next turn; `None` after the whole bundle. Cancel safe.
    ///
    /// # Errors
    /// `Integrity` where the bytes are no whole bundle, those of the stream as they are, `Cancelled`
    /// also where the stream stalls.
    pub(in crate::postgres) async fn turn(&mut self) -> Result<Option<Turn>> {
        loop {
            let Some(reader) = self.reader.as_mut() else { return Ok(None) };
            match reader.turn() {
                Ok(Some(turn)) => return Ok(Some(turn)),
                Ok(None) => {}
                Err(error) => return Err(error.about(PG_PARALLEL)),
            }
            let next = tokio::select! {
                biased;
                () = self.cx.cancel().cancelled() => return Err(Error::cancelled(PG_PARALLEL)),
                next = self.bytes.next() => next,
            };
            match next.transpose()? {
                Some(chunk) => {
                    self.total += chunk.len() as u64;
                    reader.feed(chunk);
                }
                None => {
                    if let Some(reader) = self.reader.take() {
                        reader.finish().map_err(|error| error.about(PG_PARALLEL))?;
                    }
                    return Ok(None);
                }
            }
        }
    }

    /// The member that must begin now.
    pub(in crate::postgres) async fn begin(&mut self, name: &str) -> Result<(MemberId, MemberHead)> {
        match self.turn().await? {
            Some(Turn::Open(id, head)) if head.name == name => Ok((id, head)),
            _ => Err(wrong(format!("it has no member {name:?} where one must be"))),
        }
    }

    /// The next bytes of a member that no other may interrupt; `None` at its end.
    async fn data(&mut self, id: MemberId) -> Result<Option<Bytes>> {
        match self.turn().await? {
            Some(Turn::Data(of, chunk)) if of == id => Ok(Some(chunk)),
            Some(Turn::Close(of)) if of == id => Ok(None),
            _ => Err(wrong("a member of the schema is interrupted")),
        }
    }
}

/// The bytes of one member that no other may interrupt, as a stream. Its end is the member's.
pub(in crate::postgres) fn member(incoming: &Arc<Mutex<Incoming>>, id: MemberId) -> ByteStream<Plain> {
    let state = Some(Arc::clone(incoming));
    ByteStream::new(futures::stream::unfold(state, move |state| async move {
        let incoming = state?;
        let next = incoming.lock().await.data(id).await;
        match next {
            Ok(Some(chunk)) => Some((Ok(chunk), Some(incoming))),
            Ok(None) => None,
            Err(error) => Some((Err(error), None)),
        }
    }))
}
