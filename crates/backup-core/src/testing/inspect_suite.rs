//! What every reader of dumps must do.

use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;

use super::seal_suite::samples;
use crate::context::{CancelToken, Context};
use crate::dump::DumpFormat;
use crate::error::{Error, ErrorKind, Result};
use crate::restore::{Inspection, Inspector};
use crate::stream::ByteStream;

/// How long a call may need to hear that it is cancelled, on the slowest of machines.
const PATIENCE: Duration = Duration::from_secs(60);

/// Checks what every [`Inspector`] must do with the dump `whole` of shape `format`: it is accepted in
/// any chunks and all of it is counted; one that is cut, or goes on after its end, is refused; an
/// error of the stream is passed on and never taken for the dump's; and a cancelled run ends as such.
///
/// # Panics
/// Where the inspector breaks the contract.
pub async fn inspector_suite(inspector: &dyn Inspector, format: &DumpFormat, whole: &Bytes) {
    assert!(inspector.accepts(format), "{format} is accepted");
    assert!(!inspector.accepts(&DumpFormat::new("no-such-format")), "what is unknown is not");
    assert!(whole.len() > 2, "a dump long enough to be cut");
    let refused = async |bytes: &[u8], size: usize, what: String| {
        let result = inspect(inspector, &Context::new(), format, chunks(bytes, size)).await;
        let error = result.expect_err(&what);
        assert_eq!(error.kind(), ErrorKind::Integrity, "{what}: {error}");
    };

    let mut first: Option<Inspection> = None;
    for size in [1, 4_096, whole.len()] {
        let seen = inspect(inspector, &Context::new(), format, chunks(whole, size)).await;
        let seen = seen.unwrap_or_else(|error| panic!("a whole dump in chunks of {size}: {error}"));
        assert_eq!(seen.bytes, whole.len() as u64, "every byte is counted, in chunks of {size}");
        assert_eq!(first.get_or_insert_with(|| seen.clone()), &seen, "chunks of {size} tell the same");
    }

    for len in samples(whole.len(), 48) {
        refused(&whole[..len], 4_096, format!("cut at {len} of {}", whole.len())).await;
    }
    for size in [7, 2 * whole.len()] {
        for rest in [b"\0", b"\n", &whole[..1], &whole[..]] {
            let longer = [&whole[..], rest].concat();
            refused(&longer, size, format!("{} bytes after the end, chunks of {size}", rest.len())).await;
        }
    }

    for len in [0, 1, whole.len() / 2, whole.len() - 1, whole.len()] {
        let mut items = chunks(&whole[..len], 4_096);
        items.push(Err(Error::new(ErrorKind::Unavailable, "dump", "broken for a test")));
        let result = inspect(inspector, &Context::new(), format, items).await;
        let error = result.expect_err("a broken stream has no end");
        assert_eq!(error.kind(), ErrorKind::Unavailable, "broken after {len}: {error}");
    }

    // Asked before the start, in the middle, and where the input stalls.
    for after in [0, 1] {
        for stalls in [false, true] {
            let what = format!("cancelled at chunk {after}, stalled: {stalls}");
            let cancel = CancelToken::new();
            let cx = Context::new().with_cancel(cancel.clone());
            let mut items = chunks(whole, whole.len() / 3).into_iter().filter(|item| !is_empty(item));
            let mut index = 0;
            let bytes = ByteStream::new(futures::stream::poll_fn(move |_| {
                if index >= after {
                    cancel.cancel();
                    if stalls {
                        return Poll::Pending;
                    }
                }
                index += 1;
                Poll::Ready(items.next())
            }));
            let answer = tokio::time::timeout(PATIENCE, inspector.inspect(&cx, format, bytes)).await;
            let result = answer.unwrap_or_else(|_| panic!("{what}, and still at work"));
            let error = result.expect_err("a cancelled run has no answer");
            assert_eq!(error.kind(), ErrorKind::Cancelled, "{what}: {error}");
        }
    }
}

async fn inspect(
    inspector: &dyn Inspector,
    cx: &Context,
    format: &DumpFormat,
    items: Vec<Result<Bytes>>,
) -> Result<Inspection> {
    inspector.inspect(cx, format, ByteStream::new(futures::stream::iter(items))).await
}

fn is_empty(item: &Result<Bytes>) -> bool {
    item.as_ref().is_ok_and(Bytes::is_empty)
}

/// Chunks of this size, an empty one before and after each.
fn chunks(bytes: &[u8], size: usize) -> Vec<Result<Bytes>> {
    let mut items = vec![Ok(Bytes::new())];
    for chunk in bytes.chunks(size) {
        items.push(Ok(Bytes::copy_from_slice(chunk)));
        items.push(Ok(Bytes::new()));
    }
    items
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;

    use super::*;
    use crate::stream::Plain;

    /// Dumps that begin with their own length; `deaf` to the token while it waits.
    #[derive(Debug)]
    struct Counted {
        deaf: bool,
    }

    #[async_trait]
    impl Inspector for Counted {
        fn accepts(&self, format: &DumpFormat) -> bool {
            format.as_str() == "counted"
        }

        async fn inspect(
            &self,
            cx: &Context,
            _format: &DumpFormat,
            mut bytes: ByteStream<Plain>,
        ) -> Result<Inspection> {
            let mut whole = Vec::new();
            loop {
                let next = tokio::select! {
                    biased;
                    () = cx.cancel().cancelled(), if !self.deaf => return Err(Error::cancelled("counted")),
                    next = bytes.next() => next,
                };
                let Some(chunk) = next.transpose()? else { break };
                cx.check("counted")?;
                whole.extend_from_slice(&chunk);
            }
            match whole.first() {
                Some(len) if usize::from(*len) == whole.len() => {
                    Ok(Inspection { bytes: whole.len() as u64, parsed: true, tables: Vec::new() })
                }
                _ => Err(Error::new(ErrorKind::Integrity, "counted", "has another length")),
            }
        }
    }

    #[tokio::test]
    async fn a_counting_inspector_obeys_the_suite() {
        let whole = Bytes::from(vec![200; 200]);
        inspector_suite(&Counted { deaf: false }, &DumpFormat::new("counted"), &whole).await;
    }

    #[tokio::test(start_paused = true)]
    #[should_panic(expected = "cancelled at chunk 0, stalled: true, and still at work")]
    async fn an_inspector_that_cannot_be_stopped_is_found() {
        let whole = Bytes::from(vec![200; 200]);
        inspector_suite(&Counted { deaf: true }, &DumpFormat::new("counted"), &whole).await;
    }
}
