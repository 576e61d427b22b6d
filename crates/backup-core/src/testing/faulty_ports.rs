//! Wrappers that make one chosen call of the ports other than stores fail. Every chunk of a stream and
//! its end count as calls of their own.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::Stream;
use jiff::Timestamp;

use crate::attestation::{Attestation, Removal, Shredding};
use crate::catalog::{Catalog, Run, RunRecord};
use crate::context::Context;
use crate::digest::Sha256Digest;
use crate::dump::{Dump, DumpFormat, DumpReport, Dumper, Probe, Selection};
use crate::error::{ErrorKind, Result};
use crate::id::BackupId;
use crate::manifest::{BackupRef, RecipientRef};
use crate::progress::RunStatus;
use crate::restore::{RestorePlan, RestoreRequest, Restored, Restorer};
use crate::seal::{Decryptor, Encryptor, Opened, Opening, Sealing};
use crate::settled::Settled;
use crate::statement::{Recognized, SignedStatement, Signer, StatementKind, Trust, VouchedManifest};
use crate::stream::{ByteStream, Plain};

use super::faulty_store::{Fault, FaultPlan, run};

/// A port whose calls fail as its [`FaultPlan`] says; they are counted with the plan's other calls.
#[derive(Debug, Clone)]
pub struct Faulty<P> {
    inner: P,
    plan: FaultPlan,
}

impl<P> Faulty<P> {
    /// Wraps `inner`.
    pub fn new(inner: P, plan: FaultPlan) -> Self {
        Self { inner, plan }
    }

    async fn call<T>(
        &self,
        call: &'static str,
        subject: &str,
        inner: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        run(&self.plan, call, subject, self.plan.kind(), inner).await
    }

    fn call_now<T>(&self, call: &str, subject: &str, inner: impl FnOnce() -> Result<T>) -> Result<T> {
        match self.plan.strike(call, subject) {
            None => inner(),
            Some(Fault::After) => {
                inner()?;
                Err(self.plan.lost(call, subject, self.plan.kind()))
            }
            Some(_) => Err(self.plan.failed(call, subject)),
        }
    }

    /// The chunks and the end of `inner`, until one of them fails.
    fn chunks<K: 'static>(
        &self,
        call: &'static str,
        inner: ByteStream<K>,
    ) -> impl Stream<Item = Result<Bytes>> + Send + 'static {
        let plan = self.plan.clone();
        futures::stream::unfold(Some(inner), move |inner| {
            let plan = plan.clone();
            async move {
                let mut inner = inner?;
                match plan.strike(call, "stream") {
                    None => inner.next().await.map(|item| (item, Some(inner))),
                    Some(Fault::After) => {
                        drop(inner.next().await);
                        Some((Err(plan.lost(call, "stream", plan.kind())), None))
                    }
                    Some(_) => Some((Err(plan.failed(call, "stream")), None)),
                }
            }
        })
    }
}

#[async_trait]
impl Dumper for Faulty<Arc<dyn Dumper>> {
    async fn probe(&self, cx: &Context) -> Result<Probe> {
        self.call("probe", "source", self.inner.probe(cx)).await
    }

    async fn dump(&self, cx: &Context, what: &Selection) -> Result<Dump> {
        let Dump { format, bytes, report } = self.call("dump", "source", self.inner.dump(cx, what)).await?;
        Ok(Dump { format, bytes: ByteStream::new(self.chunks("dumped", bytes)), report })
    }
}

#[async_trait]
impl<P: Encryptor> Encryptor for Faulty<P> {
    fn recipients(&self) -> Vec<RecipientRef> {
        self.inner.recipients()
    }

    async fn seal(
        &self,
        id: &BackupId,
        plain: ByteStream<Plain>,
        report: Settled<DumpReport>,
    ) -> Result<Sealing> {
        let sealing = self.call("seal", "envelope", self.inner.seal(id, plain, report)).await?;
        let bytes = ByteStream::declare_sealed(self.chunks("sealed", sealing.bytes));
        Ok(Sealing { bytes, summary: sealing.summary })
    }
}

#[async_trait]
impl<P: Decryptor> Decryptor for Faulty<P> {
    async fn open(&self, opening: Opening) -> Result<Opened> {
        let Opened { bytes, report } = self.call("open", "envelope", self.inner.open(opening)).await?;
        Ok(Opened { bytes: ByteStream::new(self.chunks("opened", bytes)), report })
    }
}

impl Signer for Faulty<Arc<dyn Signer>> {
    fn key_id(&self) -> Sha256Digest {
        self.inner.key_id()
    }

    fn sign(&self, kind: StatementKind, body: &[u8]) -> Result<SignedStatement> {
        self.call_now("sign", kind.payload_type(), || self.inner.sign(kind, body))
    }

    /// Cannot fail, so it is not counted.
    fn recognize(&self, kind: StatementKind, stored: &[u8]) -> Option<Recognized> {
        self.inner.recognize(kind, stored)
    }
}

impl<P: Trust> Trust for Faulty<&P> {
    fn vouch(&self, at: &BackupRef, stored: &[u8]) -> Result<VouchedManifest> {
        self.call_now("vouch", "manifest", || self.inner.vouch(at, stored))
    }

    fn vouch_attestation(&self, at: &BackupRef, stored: &[u8]) -> Result<Attestation> {
        self.call_now("vouch", "attestation", || self.inner.vouch_attestation(at, stored))
    }

    fn vouch_removal(&self, at: &BackupRef, stored: &[u8]) -> Result<Removal> {
        self.call_now("vouch", "removal", || self.inner.vouch_removal(at, stored))
    }

    fn vouch_shredding(&self, at: &BackupRef, stored: &[u8]) -> Result<Shredding> {
        self.call_now("vouch", "shredding", || self.inner.vouch_shredding(at, stored))
    }
}

#[async_trait]
impl<P: Catalog> Catalog for Faulty<P> {
    async fn begin(&self, record: RunRecord) -> Result<Run> {
        self.call("begin run", "catalogue", self.inner.begin(record)).await
    }

    async fn advance(&self, run: &Run, status: RunStatus) -> Result<()> {
        self.call("advance run", "catalogue", self.inner.advance(run, status)).await
    }

    async fn end(&self, run: Run, at: Timestamp, outcome: Result<(), (ErrorKind, String)>) -> Result<()> {
        self.call("end run", "catalogue", self.inner.end(run, at, outcome)).await
    }

    async fn list(&self) -> Result<Vec<RunRecord>> {
        self.call("list runs", "catalogue", self.inner.list()).await
    }
}

#[async_trait]
impl<P: Restorer> Restorer for Faulty<&P> {
    fn accepts(&self, format: &DumpFormat) -> bool {
        self.inner.accepts(format)
    }

    async fn plan(&self, cx: &Context, request: RestoreRequest) -> Result<RestorePlan> {
        self.call("plan", "target", self.inner.plan(cx, request)).await
    }

    /// With [`Fault::CutShort`] it claims success without having read anything, which a restorer must
    /// never do; with [`Fault::Broken`] it fails after the first chunk.
    async fn restore(&self, cx: &Context, plan: RestorePlan, dump: Dump) -> Result<Restored> {
        match self.plan.strike("restore", "target") {
            None => self.inner.restore(cx, plan, dump).await,
            Some(Fault::After) => {
                self.inner.restore(cx, plan, dump).await?;
                Err(self.plan.lost("restore", "target", self.plan.kind()))
            }
            Some(Fault::CutShort) => {
                Ok(Restored { target: plan.target().to_owned(), bytes: 0, warnings: Vec::new() })
            }
            Some(Fault::Broken) => {
                let Dump { format, mut bytes, report } = dump;
                let first = bytes.next().await;
                let broken = Err(self.plan.failed("restore", "target"));
                let bytes = ByteStream::new(futures::stream::iter(first.into_iter().chain([broken])));
                self.inner.restore(cx, plan, Dump { format, bytes, report }).await
            }
            Some(Fault::Before | Fault::Gone) => Err(self.plan.failed("restore", "target")),
        }
    }
}
