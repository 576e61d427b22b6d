//! Bytes in motion, typed by whether they may leave the machine.

use std::fmt;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::stream::{BoxStream, Stream, StreamExt};

use crate::error::{Error, ErrorKind, Result};
use crate::statement::SignedStatement;

/// Bytes that may be read by anyone who sees them. They never reach a [`Sink`](crate::Sink).
#[derive(Debug, Clone, Copy)]
pub enum Plain {}

/// Bytes that are sealed, or public and signed: fit to be stored.
#[derive(Debug, Clone, Copy)]
pub enum Sealed {}

/// A stream of byte chunks whose clean end is a claim: nothing is missing.
///
/// After the first error the stream never ends cleanly: every later poll gives an error again, so
/// that no consumer can mistake a failed stream for a finished one. Chunks are never empty by
/// convention of the producers here; consumers accept empty ones.
///
/// A plain stream cannot be stored, by type:
///
/// ```compile_fail,E0308
/// use backup_core::{ByteStream, Plain, Sink, ObjectKey, pipeline};
/// async fn leak(sink: &dyn Sink, key: &ObjectKey, plain: ByteStream<Plain>) {
///     let cx = backup_core::Context::new();
///     let _ = pipeline::store(&cx, sink, key, plain, None).await;
/// }
/// ```
pub struct ByteStream<Kind> {
    inner: State,
    kind: PhantomData<fn() -> Kind>,
}

enum State {
    Running(BoxStream<'static, Result<Bytes>>),
    Ended,
    Failed(ErrorKind),
}

impl<Kind> ByteStream<Kind> {
    fn from_stream(stream: impl Stream<Item = Result<Bytes>> + Send + 'static) -> Self {
        Self { inner: State::Running(stream.boxed()), kind: PhantomData }
    }

    /// The next chunk; `None` is the clean end.
    ///
    /// Cancel safe: a dropped future loses no chunk.
    pub async fn next(&mut self) -> Option<Result<Bytes>> {
        StreamExt::next(self).await
    }

    /// Passes every chunk by `look` on its way, without changing the stream's kind.
    #[must_use]
    pub fn inspect(self, mut look: impl FnMut(&Bytes) + Send + 'static) -> Self
    where
        Kind: 'static,
    {
        Self::from_stream(self.map(move |item| {
            if let Ok(chunk) = &item {
                look(chunk);
            }
            item
        }))
    }
}

impl ByteStream<Plain> {
    /// A stream of plaintext.
    pub fn new(stream: impl Stream<Item = Result<Bytes>> + Send + 'static) -> Self {
        Self::from_stream(stream)
    }

    /// A stream of one chunk.
    pub fn once(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self::from_stream(futures::stream::iter([Ok(bytes)]))
    }
}

impl ByteStream<Sealed> {
    /// Declares that these bytes are ciphertext or public. One of the two doors to `Sealed`: called
    /// by sealers and by readers of stores, and worth a question in any review.
    pub fn declare_sealed(stream: impl Stream<Item = Result<Bytes>> + Send + 'static) -> Self {
        Self::from_stream(stream)
    }

    /// A signed statement is public: the other door.
    #[must_use]
    pub fn of_statement(statement: &SignedStatement) -> Self {
        Self::from_stream(futures::stream::iter([Ok(statement.stored().clone())]))
    }
}

impl<Kind> Stream for ByteStream<Kind> {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let polled = match &mut self.inner {
            State::Running(stream) => stream.poll_next_unpin(cx),
            State::Ended => return Poll::Ready(None),
            State::Failed(kind) => {
                return Poll::Ready(Some(Err(Error::new(*kind, "stream", "read on after it had failed"))));
            }
        };
        match &polled {
            Poll::Ready(None) => self.inner = State::Ended,
            Poll::Ready(Some(Err(error))) => self.inner = State::Failed(error.kind()),
            _ => {}
        }
        polled
    }
}

impl<Kind> fmt::Debug for ByteStream<Kind> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.inner {
            State::Running(_) => "running",
            State::Ended => "ended",
            State::Failed(_) => "failed",
        };
        f.debug_tuple("ByteStream").field(&state).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_failed_stream_never_ends_cleanly() {
        let items = vec![Ok(Bytes::from_static(b"a")), Err(Error::new(ErrorKind::Tool, "t", "died"))];
        let mut stream = ByteStream::new(futures::stream::iter(items));
        assert!(stream.next().await.unwrap().is_ok());
        for _ in 0..3 {
            assert_eq!(stream.next().await.unwrap().unwrap_err().kind(), ErrorKind::Tool);
        }
    }

    #[tokio::test]
    async fn a_clean_end_stays_the_end() {
        let mut stream = ByteStream::once("abc");
        assert_eq!(stream.next().await.unwrap().unwrap(), "abc");
        assert!(stream.next().await.is_none());
        assert!(stream.next().await.is_none());
    }
}
