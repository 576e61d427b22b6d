//! What every dumper and every restorer must do, and a scripted pair of them held in memory.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;

use crate::{
    ByteStream, CancelToken, Context, Dump, DumpFormat, DumpReport, Dumper, Error, ErrorKind, Plain, Probe,
    ProbeItem, RestorePlan, RestoreRequest, Restored, Restorer, Result, Selection, Settled,
};

/// How a scripted dump ends after its chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Clean,
    Fails(ErrorKind),
    Waits,
}

/// A dumper that yields the chunks it was given and then ends, fails or waits.
#[derive(Debug)]
pub struct ScriptedDumper {
    format: DumpFormat,
    chunks: Vec<Bytes>,
    tables: Vec<String>,
    refusal: Option<ErrorKind>,
    end: End,
    started: AtomicUsize,
}

impl ScriptedDumper {
    /// A dumper whose dumps are these chunks and a clean end.
    pub fn new<B: Into<Bytes>>(chunks: impl IntoIterator<Item = B>) -> Self {
        Self {
            format: DumpFormat::new("raw"),
            chunks: chunks.into_iter().map(Into::into).collect(),
            tables: Vec::new(),
            refusal: None,
            end: End::Clean,
            started: AtomicUsize::new(0),
        }
    }

    /// Fails with `kind` where the clean end would be.
    #[must_use]
    pub fn then_fails(mut self, kind: ErrorKind) -> Self {
        self.end = End::Fails(kind);
        self
    }

    /// Waits after the last chunk until the run is cancelled.
    #[must_use]
    pub fn then_waits(mut self) -> Self {
        self.end = End::Waits;
        self
    }

    /// Refuses to probe and to start, with `kind`.
    #[must_use]
    pub fn refusing(mut self, kind: ErrorKind) -> Self {
        self.refusal = Some(kind);
        self
    }

    /// Says that its dumps are of this shape instead of `raw`.
    #[must_use]
    pub fn with_format(mut self, format: DumpFormat) -> Self {
        self.format = format;
        self
    }

    /// Names tables in probes and reports.
    #[must_use]
    pub fn with_tables(mut self, tables: &[&str]) -> Self {
        self.tables = tables.iter().map(|&table| table.to_owned()).collect();
        self
    }

    /// How many dumps were started.
    pub fn started(&self) -> usize {
        self.started.load(Ordering::SeqCst)
    }

    /// All bytes of one whole dump.
    #[must_use]
    pub fn whole(&self) -> Bytes {
        let mut whole = BytesMut::new();
        self.chunks.iter().for_each(|chunk| whole.extend_from_slice(chunk));
        whole.freeze()
    }

    fn admit(&self) -> Result<()> {
        match self.refusal {
            Some(kind) => Err(Error::new(kind, "scripted source", "refused as scripted")),
            None => Ok(()),
        }
    }

    fn report(&self) -> DumpReport {
        DumpReport {
            engine: "scripted".to_owned(),
            versions: BTreeMap::from([("server".to_owned(), "1".to_owned())]),
            options: Vec::new(),
            tables: self.tables.clone(),
            warnings: Vec::new(),
        }
    }
}

#[async_trait]
impl Dumper for ScriptedDumper {
    async fn probe(&self, _cx: &Context) -> Result<Probe> {
        self.admit()?;
        Ok(Probe {
            engine: "scripted".to_owned(),
            versions: self.report().versions,
            estimated_bytes: Some(self.chunks.iter().map(|chunk| chunk.len() as u64).sum()),
            items: self
                .tables
                .iter()
                .map(|name| ProbeItem { name: name.clone(), estimated_rows: None, estimated_bytes: None })
                .collect(),
            obstacles: Vec::new(),
            warnings: Vec::new(),
        })
    }

    async fn dump(&self, cx: &Context, _what: &Selection) -> Result<Dump> {
        self.admit()?;
        cx.check("scripted dump")?;
        self.started.fetch_add(1, Ordering::SeqCst);
        let (settler, report) = Settled::pending();
        let (facts, end, cancel) = (self.report(), self.end, cx.cancel().clone());
        let chunks = futures::stream::iter(self.chunks.clone().into_iter().map(Ok));
        let tail = futures::stream::once(async move {
            match end {
                End::Clean => settler.settle(facts),
                End::Fails(kind) => {
                    return Some(Err(Error::new(kind, "scripted source", "failed as scripted")));
                }
                End::Waits => {
                    cancel.cancelled().await;
                    return Some(Err(Error::cancelled("scripted dump")));
                }
            }
            None
        })
        .filter_map(std::future::ready);
        let token = cx.cancel().clone();
        let bytes = chunks.chain(tail).map(move |item| {
            if token.is_cancelled() { Err(Error::cancelled("scripted dump")) } else { item }
        });
        Ok(Dump { format: self.format.clone(), bytes: ByteStream::new(bytes), report })
    }
}

/// A restorer that keeps the last whole dump in memory, and nothing of a broken one.
#[derive(Debug, Default)]
pub struct MemoryRestorer {
    applied: Mutex<Option<Bytes>>,
    fails_after: Option<(usize, ErrorKind)>,
}

impl MemoryRestorer {
    /// An empty target.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Fails with `kind` after `chunks` chunks were read.
    #[must_use]
    pub fn fails_after(chunks: usize, kind: ErrorKind) -> Self {
        Self { applied: Mutex::default(), fails_after: Some((chunks, kind)) }
    }

    /// What was restored, once a restore succeeded.
    #[must_use]
    pub fn applied(&self) -> Option<Bytes> {
        self.applied.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[async_trait]
impl Restorer for MemoryRestorer {
    fn accepts(&self, _format: &DumpFormat) -> bool {
        true
    }

    async fn plan(&self, _cx: &Context, request: RestoreRequest) -> Result<RestorePlan> {
        if self.applied().is_some() && !request.into_existing {
            return Err(Error::new(ErrorKind::Conflict, "memory target", "already holds a dump"));
        }
        Ok(RestorePlan::looked_at(request, "memory target", vec!["keep the bytes in memory".to_owned()]))
    }

    async fn restore(&self, cx: &Context, plan: RestorePlan, mut dump: Dump) -> Result<Restored> {
        let mut whole = BytesMut::new();
        let mut chunks = 0;
        loop {
            cx.check("memory target")?;
            if let Some((limit, kind)) = self.fails_after
                && chunks >= limit
            {
                return Err(Error::new(kind, "memory target", "failed as scripted"));
            }
            match dump.bytes.next().await {
                Some(chunk) => whole.extend_from_slice(&chunk?),
                None => break,
            }
            chunks += 1;
        }
        let bytes = whole.len() as u64;
        *self.applied.lock().unwrap_or_else(PoisonError::into_inner) = Some(whole.freeze());
        Ok(Restored { target: plan.target().to_owned(), bytes, warnings: Vec::new() })
    }
}

/// Reads a plain stream to its clean end.
///
/// # Errors
/// The stream's own.
pub async fn collect(mut bytes: ByteStream<Plain>) -> Result<Bytes> {
    let mut whole = BytesMut::new();
    while let Some(chunk) = bytes.next().await {
        whole.extend_from_slice(&chunk?);
    }
    Ok(whole.freeze())
}

/// Checks what every [`Dumper`] of a healthy, non-empty source must do: probe and dump agree on the
/// engine, the report is settled exactly at the clean end, a second dump works, a cancelled run
/// never ends cleanly, and a dropped stream leaves the source usable.
///
/// # Panics
/// Where the dumper breaks the contract.
pub async fn dumper_suite(dumper: &dyn Dumper) {
    let cx = Context::new();
    let probe = dumper.probe(&cx).await.expect("a healthy source can be probed");
    assert!(!probe.engine.is_empty(), "a probe names its engine");

    for round in 0..2 {
        let mut dump = dumper.dump(&cx, &Selection::default()).await.expect("a healthy source can be dumped");
        let mut total = 0;
        while let Some(chunk) = dump.bytes.next().await {
            assert!(dump.report.get().is_none(), "the report is settled at the end, not before");
            total += chunk.expect("a healthy source is dumped to its end").len();
        }
        assert!(total > 0, "round {round} gave nothing");
        let report = dump.report.get().expect("the report is settled at the clean end");
        assert_eq!(report.engine, probe.engine, "probe and report name the same engine");
    }

    let mut dropped = dumper.dump(&cx, &Selection::default()).await.expect("dumps again");
    let _ = dropped.bytes.next().await;
    let report = dropped.report.clone();
    drop(dropped);
    assert!(report.get().is_none(), "a dropped dump has no report");

    let cancel = CancelToken::new();
    let cancelled = Context::new().with_cancel(cancel.clone());
    cancel.cancel();
    match dumper.dump(&cancelled, &Selection::default()).await {
        Err(error) => assert_eq!(error.kind(), ErrorKind::Cancelled),
        Ok(dump) => {
            let error = collect(dump.bytes).await.expect_err("a cancelled dump has no clean end");
            assert_eq!(error.kind(), ErrorKind::Cancelled);
        }
    }
}

/// Checks what every [`Restorer`] must do with the dump `whole` of shape `format`: a plan and a
/// broken, cancelled or failed dump leave no target behind, a whole dump makes it, and an existing
/// target is a conflict. `exists` says whether the target is there.
///
/// # Panics
/// Where the restorer breaks the contract.
pub async fn restorer_suite<F, Answer>(restorer: &dyn Restorer, format: &DumpFormat, whole: &Bytes, exists: F)
where
    F: Fn() -> Answer,
    Answer: Future<Output = bool>,
{
    let cx = Context::new();
    let request = || RestoreRequest {
        format: format.clone(),
        source_len: Some(whole.len() as u64),
        into_existing: false,
    };
    assert!(restorer.accepts(format), "{format} is accepted");

    let plan = restorer.plan(&cx, request()).await.expect("a free target can be planned");
    assert!(!plan.steps().is_empty(), "a plan says what it will do");
    drop(plan);
    assert!(!exists().await, "a plan changes nothing");

    // Broken at the start, inside and just before the clean end: never a target.
    for cut in [0, whole.len() / 2, whole.len()] {
        let plan = restorer.plan(&cx, request()).await.expect("plans");
        let dump = broken(format, &whole.slice(..cut), ErrorKind::Integrity);
        let error = restorer.restore(&cx, plan, dump).await.expect_err("a broken dump is refused");
        // With bytes missing the tool may complain first; with all of them only the end is missing.
        assert!(matches!(error.kind(), ErrorKind::Integrity | ErrorKind::Tool), "cut at {cut}: {error}");
        assert!(!exists().await, "a dump broken at {cut} of {} made a target", whole.len());
    }

    let cancel = CancelToken::new();
    let stopped = Context::new().with_cancel(cancel.clone());
    let plan = restorer.plan(&cx, request()).await.expect("plans");
    cancel.cancel();
    let error =
        restorer.restore(&stopped, plan, known(format, whole)).await.expect_err("a cancelled restore stops");
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert!(!exists().await, "a cancelled restore made a target");

    let plan = restorer.plan(&cx, request()).await.expect("plans");
    let restored = restorer.restore(&cx, plan, known(format, whole)).await.expect("a whole dump is restored");
    assert_eq!(restored.bytes, whole.len() as u64);
    assert!(exists().await, "the target is there after success");

    let error = restorer.plan(&cx, request()).await.expect_err("an existing target is a conflict");
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(exists().await, "a refused plan left the target alone");
}

/// A whole dump of known bytes, in chunks of 64 KiB.
#[must_use]
pub fn known(format: &DumpFormat, whole: &Bytes) -> Dump {
    Dump {
        format: format.clone(),
        bytes: ByteStream::new(futures::stream::iter(chunks_of(whole).into_iter().map(Ok))),
        report: Settled::known(DumpReport::default()),
    }
}

/// A dump that fails with `kind` where its clean end should be.
#[must_use]
pub fn broken(format: &DumpFormat, bytes: &Bytes, kind: ErrorKind) -> Dump {
    let failure = Err(Error::new(kind, "dump", "broken for a test"));
    let items: Vec<Result<Bytes>> = chunks_of(bytes).into_iter().map(Ok).chain([failure]).collect();
    let (_, report) = Settled::pending();
    Dump { format: format.clone(), bytes: ByteStream::new(futures::stream::iter(items)), report }
}

fn chunks_of(whole: &Bytes) -> Vec<Bytes> {
    const CHUNK: usize = 64 * 1024;
    (0..whole.len()).step_by(CHUNK).map(|at| whole.slice(at..whole.len().min(at + CHUNK))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_scripted_dumper_obeys_the_suite() {
        dumper_suite(&ScriptedDumper::new(["ab", "c"]).with_tables(&["t"])).await;
    }

    #[tokio::test]
    async fn the_memory_restorer_obeys_the_suite() {
        let restorer = MemoryRestorer::new();
        let whole = Bytes::from(vec![7; 200_000]);
        let format = DumpFormat::new("raw");
        restorer_suite(&restorer, &format, &whole, async || restorer.applied().is_some()).await;
        assert_eq!(restorer.applied(), Some(whole));
    }

    #[tokio::test]
    async fn a_scripted_failure_stands_where_the_end_would() {
        let dumper = ScriptedDumper::new(["ab"]).then_fails(ErrorKind::Tool);
        let mut dump = dumper.dump(&Context::new(), &Selection::default()).await.unwrap();
        assert_eq!(dump.bytes.next().await.unwrap().unwrap(), "ab");
        assert_eq!(dump.bytes.next().await.unwrap().unwrap_err().kind(), ErrorKind::Tool);
        assert!(dump.report.get().is_none());
    }

    #[tokio::test]
    async fn a_waiting_dump_ends_when_cancelled() {
        let cancel = CancelToken::new();
        let cx = Context::new().with_cancel(cancel.clone());
        let dumper = ScriptedDumper::new(["ab"]).then_waits();
        let mut dump = dumper.dump(&cx, &Selection::default()).await.unwrap();
        assert!(dump.bytes.next().await.unwrap().is_ok());
        cancel.cancel();
        assert_eq!(dump.bytes.next().await.unwrap().unwrap_err().kind(), ErrorKind::Cancelled);
    }
}
