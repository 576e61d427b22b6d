//! Dumps one after another as a bundle.

use std::collections::VecDeque;
use std::sync::Arc;

use backup_core::{ByteStream, DumpReport, Error, Plain, Result, Settled, Stage};
use bytes::Bytes;
use futures::Stream;
use futures::stream::BoxStream;
use futures::stream::StreamExt as _;

use super::{BundleWriter, MemberHead};

/// One dump that becomes a member, with what it says of itself at its end.
#[derive(Debug)]
pub struct Gathered {
    /// Its name and format.
    pub head: MemberHead,
    /// Its bytes.
    pub bytes: ByteStream<Plain>,
    /// Settled when `bytes` ended cleanly.
    pub report: Settled<DumpReport>,
}

/// Puts dumps one after another into one bundle. The next is asked for when the one before has
/// ended cleanly; the bundle ends when there is no next, and `at_end` is told all heads and reports
/// in their order just before. An error of any dump is the error of the bundle.
pub fn gathered(
    subject: &str,
    dumps: impl Stream<Item = Result<Gathered>> + Send + 'static,
    at_end: impl FnOnce(Vec<(MemberHead, DumpReport)>) + Send + 'static,
) -> ByteStream<Plain> {
    let state = Gathering {
        subject: subject.into(),
        dumps: dumps.boxed(),
        current: None,
        writer: Some(BundleWriter::new()),
        ready: VecDeque::new(),
        told: Vec::new(),
        at_end: Some(at_end),
    };
    ByteStream::new(futures::stream::unfold(Some(state), async |state| {
        let mut state = state?;
        loop {
            if let Some(chunk) = state.ready.pop_front() {
                return Some((Ok(chunk), Some(state)));
            }
            match state.step().await {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => return Some((Err(error), None)),
            }
        }
    }))
}

struct Gathering<F> {
    subject: Arc<str>,
    dumps: BoxStream<'static, Result<Gathered>>,
    current: Option<(super::MemberId, Gathered)>,
    /// `None` once the end was written.
    writer: Option<BundleWriter>,
    ready: VecDeque<Bytes>,
    told: Vec<(MemberHead, DumpReport)>,
    at_end: Option<F>,
}

impl<F: FnOnce(Vec<(MemberHead, DumpReport)>)> Gathering<F> {
    /// One step further; `false` after the end.
    async fn step(&mut self) -> Result<bool> {
        let subject = Arc::clone(&self.subject);
        let wrong = |error: super::BundleError| Error::bug(format!("{subject}: {error}")).at(Stage::Dump);
        let Some(writer) = self.writer.as_mut() else {
            if let Some(at_end) = self.at_end.take() {
                at_end(std::mem::take(&mut self.told));
            }
            return Ok(false);
        };
        let mut out = Vec::new();
        match self.current.take() {
            Some((id, mut dump)) => match dump.bytes.next().await.transpose()? {
                Some(chunk) => {
                    writer.data(id, chunk, &mut out).map_err(wrong)?;
                    self.current = Some((id, dump));
                }
                None => {
                    writer.close(id, &mut out).map_err(wrong)?;
                    let report = dump.report.get().cloned().unwrap_or_default();
                    self.told.push((dump.head, report));
                }
            },
            None => match self.dumps.next().await.transpose()? {
                Some(dump) => {
                    let id = writer.open(&dump.head, &mut out).map_err(wrong)?;
                    self.current = Some((id, dump));
                }
                None => {
                    if let Some(writer) = self.writer.take() {
                        writer.end(&mut out).map_err(wrong)?;
                    }
                }
            },
        }
        self.ready.extend(out);
        Ok(true)
    }
}
