//! Reading an object: all of one version, and every byte.

use std::ops::Range;
use std::sync::Arc;

use backup_core::{ByteStream, EntityTag, Error, ErrorKind, ObjectKey, Result, Sealed};
use bytes::{Bytes, BytesMut};

use crate::rest::http::{Answer, Fault};
use crate::rest::{Api, RestStore};
use crate::trouble::Trouble;

/// Pieces that arrive are gathered to chunks of this size.
const CHUNK: usize = 1 << 20;

pub(super) async fn fetch<A: Api>(
    store: &RestStore<A>,
    key: &ObjectKey,
    range: Option<Range<u64>>,
    pin: Option<&EntityTag>,
) -> Result<ByteStream<Sealed>> {
    let subject = store.subject(key);
    let full = store.full(key);
    let head = match store.api.head(&full).await {
        Ok(Some(head)) => head,
        Ok(None) => return Err(Trouble::NoSuchObject.with(subject, "")),
        Err(fault) => return Err(fault.at(subject, "looking for it")),
    };
    if pin.is_some_and(|pin| pin.0 != head.tag) {
        return Err(Trouble::Changed.with(subject, ""));
    }
    let range = range.unwrap_or(0..head.len);
    if range.start > range.end || range.end > head.len {
        return Err(crate::local::too_short(subject, head.len, &range));
    }
    let tries = store.api.retries();
    let reading = Reading {
        api: Arc::clone(&store.api),
        key: full,
        tag: head.tag,
        range,
        answer: None,
        tries,
        subject,
    };
    Ok(ByteStream::declare_sealed(futures::stream::try_unfold(reading, Reading::next)))
}

struct Reading<A> {
    api: Arc<A>,
    key: String,
    tag: String,
    /// What is still to come.
    range: Range<u64>,
    answer: Option<Answer>,
    /// Connections that may still break.
    tries: usize,
    subject: String,
}

impl<A: Api> Reading<A> {
    /// The next chunk; the end only when every byte was there and no more.
    async fn next(mut self) -> Result<Option<(Bytes, Self)>> {
        let mut gathered = BytesMut::new();
        while !self.range.is_empty() && gathered.len() < CHUNK {
            match self.piece().await {
                Ok(Some(piece)) => {
                    let len = piece.len() as u64;
                    if len > self.range.end - self.range.start {
                        let what = "the server sent more bytes than asked for";
                        return Err(Error::new(ErrorKind::Integrity, self.subject, what));
                    }
                    self.range.start += len;
                    gathered.extend_from_slice(&piece);
                }
                // Cut off, with or without a word: what is left is asked for anew, of the same version.
                Ok(None) => self.again(Fault::new(Trouble::ConnectionLost, "the answer ended early"))?,
                Err(fault) if fault.is_passing() => self.again(fault)?,
                Err(fault) => return Err(self.broken(fault)),
            }
        }
        if gathered.is_empty() { Ok(None) } else { Ok(Some((gathered.freeze(), self))) }
    }

    async fn piece(&mut self) -> Result<Option<Bytes>, Fault> {
        let answer = match &mut self.answer {
            Some(answer) => answer,
            none => none.insert(self.api.get(&self.key, self.range.clone(), &self.tag).await?),
        };
        answer.chunk().await
    }

    fn again(&mut self, fault: Fault) -> Result<()> {
        self.answer = None;
        if self.tries == 0 {
            let left = self.range.end - self.range.start;
            return Err(fault.at(&*self.subject, &format!("reading, {left} bytes before the end")));
        }
        self.tries -= 1;
        Ok(())
    }

    /// An object that vanishes or changes while it is read is not what it was.
    fn broken(&self, fault: Fault) -> Error {
        match fault.trouble {
            Trouble::NoSuchObject | Trouble::Taken | Trouble::Changed => {
                Trouble::Changed.with(&*self.subject, "reading").with_source(fault.said().to_owned())
            }
            _ => fault.at(&*self.subject, "reading"),
        }
    }
}
