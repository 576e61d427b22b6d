//! Reading ranges of a stored envelope.

use std::ops::Range;
use std::sync::Arc;

use backup_core::{
    ByteStream, EntityTag, Error, ErrorKind, Expected, ObjectKey, Plain, Result, Sealed, Source, Stage,
};
use bytes::{Bytes, BytesMut};
use tokio::task::spawn_blocking;

use crate::error::OpenError;
use crate::range::{Progress, RangeOpening, RangeReader};
use crate::recipients::Identity;

/// An envelope in a store, opened for reading any range of its plaintext. Every request is pinned to
/// the version that was there at the opening, where the store names versions; and whatever the
/// store serves, only blocks of this envelope are released.
#[derive(Debug)]
pub struct StoredEnvelope {
    source: Arc<dyn Source>,
    key: ObjectKey,
    pin: Option<EntityTag>,
    reader: Arc<RangeReader>,
}

impl StoredEnvelope {
    /// Looks at the object's head and end; reads no block. What `expected` pins is checked before a
    /// private key is used.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// `NotFound`; `Denied` when no identity fits; `Integrity`; those of the store.
    pub async fn open(
        source: Arc<dyn Source>,
        key: ObjectKey,
        identities: Vec<Arc<dyn Identity>>,
        expected: Expected,
    ) -> Result<Self> {
        let info = source.stat(&key).await?.ok_or_else(|| {
            Error::new(ErrorKind::NotFound, key.to_string(), "does not exist")
                .with_hint("list the backups that are there")
                .at(Stage::Fetch)
        })?;
        let mut opening = RangeOpening::new(identities, expected, info.len)?;
        loop {
            let wanted = opening.wanted()?;
            let bytes = fetch_all(&*source, &key, wanted, info.tag.as_ref()).await?;
            let progress = spawn_blocking(move || opening.supply(&bytes)).await.map_err(|_| died())??;
            match progress {
                Progress::More(more) => opening = more,
                Progress::Ready(reader) => {
                    return Ok(Self { source, key, pin: info.tag, reader: Arc::new(reader) });
                }
            }
        }
    }

    /// What is known of the envelope: its head, length, digest and report.
    #[must_use]
    pub fn reader(&self) -> &RangeReader {
        &self.reader
    }

    /// The plaintext of a range; what lies beyond its end is left out. One request, in bounded memory.
    ///
    /// Cancel safe, as is reading the stream.
    ///
    /// # Errors
    /// Those of the store; the stream gives `Integrity` for a block that is not the one sealed there.
    pub async fn read(&self, plain: Range<u64>) -> Result<ByteStream<Plain>> {
        let blocks = self.reader.blocks(plain.clone());
        let place = |index: u64| self.reader.frame(index).ok_or(OpenError::Block(index));
        let Some(last) = blocks.end.checked_sub(1).filter(|last| blocks.start <= *last) else {
            return Ok(ByteStream::new(futures::stream::empty()));
        };
        let frames = place(blocks.start)?.start..place(last)?.end;
        let sealed = self.source.fetch(&self.key, Some(frames), self.pin.as_ref()).await?;
        let (buffer, have) = (BytesMut::new(), None);
        let state = Reading { reader: Arc::clone(&self.reader), sealed, buffer, have, blocks, plain };
        Ok(ByteStream::new(futures::stream::try_unfold(state, |mut state| async move {
            Ok(state.next().await?.map(|bytes| (bytes, state)))
        })))
    }
}

struct Reading {
    reader: Arc<RangeReader>,
    sealed: ByteStream<Sealed>,
    buffer: BytesMut,
    /// The bytes that the last block was opened from, and where they stand.
    have: Option<(Range<u64>, Bytes)>,
    blocks: Range<u64>,
    plain: Range<u64>,
}

impl Reading {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        let Some(index) = self.blocks.next() else { return Ok(None) };
        let place = self.reader.frame(index).ok_or(OpenError::Block(index))?;
        let frame = match self.have.take() {
            Some((known, bytes)) if known == place => bytes,
            _ => {
                let len = (place.end - place.start) as usize;
                while self.buffer.len() < len {
                    let chunk = self.sealed.next().await.ok_or(OpenError::Truncated)??;
                    self.buffer.extend_from_slice(&chunk);
                }
                self.buffer.split_to(len).freeze()
            }
        };
        self.have = Some((place, frame.clone()));
        let reader = Arc::clone(&self.reader);
        let block = spawn_blocking(move || reader.open(index, &frame)).await.map_err(|_| died())??;
        Ok(Some(block.slice(self.reader.part(index, &self.plain))))
    }
}

async fn fetch_all(
    source: &dyn Source,
    key: &ObjectKey,
    range: Range<u64>,
    pin: Option<&EntityTag>,
) -> Result<Bytes> {
    let len = range.end - range.start;
    let mut stream = source.fetch(key, Some(range), pin).await?;
    let mut bytes = BytesMut::new();
    while let Some(chunk) = stream.next().await {
        bytes.extend_from_slice(&chunk?);
        // What is wanted was bounded; a store that sends more is not followed.
        if bytes.len() as u64 > len {
            return Err(OpenError::TrailingBytes.into());
        }
    }
    Ok(bytes.freeze())
}

fn died() -> Error {
    Error::bug("an opening thread died").at(Stage::Open)
}
