//! The members of a bundle, one after another.

use std::sync::Arc;

use backup_core::{ByteStream, Plain, Result};
use bytes::Bytes;
use tokio::sync::Mutex;

use super::{BundleError, BundleReader, MemberHead, MemberId, Turn};

/// Reads a bundle whose members follow one another.
///
/// A member's bytes come through its own stream, whose clean end means that the member is whole;
/// that the bundle is whole is known when [`Members::next`] gives `None`.
#[derive(Debug)]
pub struct Members {
    shared: Arc<Mutex<Shared>>,
}

/// One member.
#[derive(Debug)]
pub struct Member {
    /// Its name and format.
    pub head: MemberHead,
    /// Its bytes. What is not read is passed over by the next [`Members::next`].
    pub bytes: ByteStream<Plain>,
}

#[derive(Debug)]
struct Shared {
    format: Arc<str>,
    bytes: ByteStream<Plain>,
    /// `None` after the end.
    reader: Option<BundleReader>,
    current: Option<MemberId>,
}

impl Members {
    /// The members of the bundle in a dump of this format.
    #[must_use]
    pub fn new(format: &str, bytes: ByteStream<Plain>) -> Self {
        let shared =
            Shared { format: format.into(), bytes, reader: Some(BundleReader::new()), current: None };
        Self { shared: Arc::new(Mutex::new(shared)) }
    }

    /// The next member; `None` after the whole bundle.
    ///
    /// An abandoned member is an error here: nobody who writes members one after another abandons
    /// one. Cancel safe.
    ///
    /// # Errors
    /// `Integrity` where the bytes are no whole bundle, those of the stream as they are.
    pub async fn next(&mut self) -> Result<Option<Member>> {
        let head = {
            let mut shared = self.shared.lock().await;
            // What nobody wanted of the one before.
            while shared.current.is_some() {
                shared.data().await?;
            }
            match shared.turn().await? {
                Some(Turn::Open(id, head)) => {
                    shared.current = Some(id);
                    Some((id, head))
                }
                Some(_) => return Err(shared.wrong(BundleError::Interleaved)),
                None => None,
            }
        };
        let Some((id, head)) = head else { return Ok(None) };
        let shared = Arc::clone(&self.shared);
        let bytes = futures::stream::unfold(Some(shared), move |shared| async move {
            let shared = shared?;
            let next = {
                let mut locked = shared.lock().await;
                if locked.current == Some(id) { locked.data().await } else { Ok(None) }
            };
            match next {
                Ok(Some(chunk)) => Some((Ok(chunk), Some(shared))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        });
        Ok(Some(Member { head, bytes: ByteStream::new(bytes) }))
    }
}

impl Shared {
    fn wrong(&self, error: BundleError) -> backup_core::Error {
        error.about(&self.format)
    }

    /// Bytes of the current member; `None` at its end.
    async fn data(&mut self) -> Result<Option<Bytes>> {
        match self.turn().await? {
            Some(Turn::Data(id, chunk)) if self.current == Some(id) => Ok(Some(chunk)),
            Some(Turn::Close(id)) if self.current == Some(id) => {
                self.current = None;
                Ok(None)
            }
            Some(_) => Err(self.wrong(BundleError::Interleaved)),
            None => Err(self.wrong(BundleError::Truncated)),
        }
    }

    /// The next turn; `None` after the whole bundle.
    async fn turn(&mut self) -> Result<Option<Turn>> {
        loop {
            let Some(reader) = self.reader.as_mut() else { return Ok(None) };
            match reader.turn() {
                Ok(Some(turn)) => return Ok(Some(turn)),
                Ok(None) => {}
                Err(error) => return Err(self.wrong(error)),
            }
            match self.bytes.next().await.transpose()? {
                Some(chunk) => reader.feed(chunk),
                None => {
                    if let Some(reader) = self.reader.take() {
                        reader.finish().map_err(|error| error.about(&self.format))?;
                    }
                    return Ok(None);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use backup_core::testing::collect;
    use backup_core::{DumpReport, Error, ErrorKind, Settled};

    use super::super::{Gathered, gathered};
    use super::*;

    fn dumps(bodies: &[&'static str]) -> Vec<Result<Gathered>> {
        bodies
            .iter()
            .enumerate()
            .map(|(n, body)| {
                Ok(Gathered {
                    head: MemberHead::new(n.to_string(), "raw"),
                    bytes: if body.is_empty() {
                        ByteStream::new(futures::stream::empty())
                    } else {
                        ByteStream::once(*body)
                    },
                    report: Settled::known(DumpReport {
                        engine: (*body).to_owned(),
                        ..DumpReport::default()
                    }),
                })
            })
            .collect()
    }

    #[tokio::test]
    async fn members_come_out_as_they_went_in() {
        let (tell, told) = std::sync::mpsc::channel();
        let bytes = gathered("test", futures::stream::iter(dumps(&["one", "", "three"])), move |reports| {
            let _ = tell.send(reports.len());
        });
        let mut members = Members::new("test-bundle", bytes);
        let mut seen = Vec::new();
        while let Some(member) = members.next().await.unwrap() {
            seen.push((member.head.name, collect(member.bytes).await.unwrap()));
        }
        assert_eq!(told.recv(), Ok(3));
        let expected = [("0", "one"), ("1", ""), ("2", "three")];
        assert_eq!(seen, expected.map(|(name, body)| (name.to_owned(), Bytes::from_static(body.as_bytes()))));
    }

    #[tokio::test]
    async fn what_is_not_read_is_passed_over() {
        let bytes = gathered("test", futures::stream::iter(dumps(&["one", "two"])), |_| ());
        let mut members = Members::new("test-bundle", bytes);
        let first = members.next().await.unwrap().unwrap();
        let second = members.next().await.unwrap().unwrap();
        assert_eq!(second.head.name, "1");
        assert_eq!(collect(second.bytes).await.unwrap(), "two");
        drop(first);
        assert!(members.next().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn an_error_of_a_member_ends_the_bundle_and_a_cut_bundle_is_none() {
        let mut broken = dumps(&["one"]);
        broken.push(Err(Error::new(ErrorKind::Tool, "t", "died")));
        let bytes = gathered("test", futures::stream::iter(broken), |_| panic!("no end"));
        assert_eq!(collect(bytes).await.unwrap_err().kind(), ErrorKind::Tool);

        let whole = collect(gathered("test", futures::stream::iter(dumps(&["one"])), |_| ())).await.unwrap();
        for len in 0..whole.len() {
            let mut members = Members::new("test-bundle", ByteStream::once(whole.slice(..len)));
            let outcome = async {
                while let Some(member) = members.next().await? {
                    collect(member.bytes).await?;
                }
                Ok::<_, Error>(())
            };
            assert_eq!(outcome.await.unwrap_err().kind(), ErrorKind::Integrity, "{len}");
        }
    }
}
