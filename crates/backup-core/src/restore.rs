//! The port to a database that can be restored into, and to a reader that checks a dump's shape.

use std::collections::BTreeMap;
use std::fmt;

use async_trait::async_trait;

use crate::context::Context;
use crate::dump::{Dump, DumpFormat};
use crate::error::Result;
use crate::stream::{ByteStream, Plain};

/// Applies a dump to a target.
#[async_trait]
pub trait Restorer: fmt::Debug + Send + Sync {
    /// Whether dumps of this shape can be applied.
    fn accepts(&self, format: &DumpFormat) -> bool;

    /// Looks at the target and says what a restore would do. Changes nothing: a dry run stops here.
    ///
    /// # Errors
    /// `Conflict` when the target exists and the request does not allow that, `Unsupported` for a
    /// format that is not accepted, and those of a probe.
    async fn plan(&self, cx: &Context, request: RestoreRequest) -> Result<RestorePlan>;

    /// Applies the dump as planned. The target is handed over (renamed into place) only after the
    /// dump's clean end and the tool's success; on any error it is left as it was.
    ///
    /// Not cancel safe: stop it through the context's token.
    async fn restore(&self, cx: &Context, plan: RestorePlan, dump: Dump) -> Result<Restored>;
}

/// What somebody wants restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreRequest {
    /// The shape of the dump.
    pub format: DumpFormat,
    /// How many bytes of plaintext, when known.
    pub source_len: Option<u64>,
    /// Allow a target that already holds something.
    pub into_existing: bool,
}

/// A restore that was looked at and can be done; only [`Restorer::plan`] makes one, and
/// [`Restorer::restore`] consumes it.
///
/// There is no restore without a plan:
///
/// ```compile_fail,E0061
/// async fn hasty(cx: &backup_core::Context, restorer: &dyn backup_core::Restorer, dump: backup_core::Dump) {
///     let _ = restorer.restore(cx, dump).await;
/// }
/// ```
#[derive(Debug)]
#[must_use]
pub struct RestorePlan {
    request: RestoreRequest,
    target: String,
    steps: Vec<String>,
    details: BTreeMap<String, String>,
}

impl RestorePlan {
    /// Made by a [`Restorer`] after it looked: `target` names what will exist afterwards, without a
    /// secret; `steps` are sentences for a person.
    pub fn looked_at(request: RestoreRequest, target: impl Into<String>, steps: Vec<String>) -> Self {
        Self { request, target: target.into(), steps, details: BTreeMap::new() }
    }

    /// Keeps a value for the restorer that made the plan.
    pub fn with_detail(mut self, name: &str, value: impl Into<String>) -> Self {
        self.details.insert(name.to_owned(), value.into());
        self
    }

    /// What was asked.
    #[must_use]
    pub fn request(&self) -> &RestoreRequest {
        &self.request
    }

    /// What will exist afterwards.
    #[must_use]
    pub fn target(&self) -> &str {
        &self.target
    }

    /// What will be done, in sentences.
    #[must_use]
    pub fn steps(&self) -> &[String] {
        &self.steps
    }

    /// A value kept by the restorer.
    #[must_use]
    pub fn detail(&self, name: &str) -> Option<&str> {
        self.details.get(name).map(String::as_str)
    }
}

/// What a finished restore did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// What exists now.
    pub target: String,
    /// Bytes of plaintext that were applied.
    pub bytes: u64,
    /// What the tool complained of although it succeeded.
    pub warnings: Vec<String>,
}

/// Parses a dump from end to end without applying it.
#[async_trait]
pub trait Inspector: fmt::Debug + Send + Sync {
    /// Whether dumps of this shape can be parsed.
    fn accepts(&self, format: &DumpFormat) -> bool;

    /// Reads the dump to its end.
    ///
    /// # Errors
    /// `Integrity` where the bytes are not a whole dump of that shape, those of the stream as they
    /// are, and `Cancelled` soon after somebody asks to stop, also where the stream stalls.
    async fn inspect(
        &self,
        cx: &Context,
        format: &DumpFormat,
        bytes: ByteStream<Plain>,
    ) -> Result<Inspection>;
}

/// What a parsed dump holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inspection {
    /// Bytes that were parsed.
    pub bytes: u64,
    /// Whether the structure was understood; `false` means only the bytes were read.
    pub parsed: bool,
    /// Tables with data, where the shape tells.
    pub tables: Vec<String>,
}
