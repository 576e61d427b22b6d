//! The order of things, and the clearing up.

use std::sync::Mutex;

use backup_core::{BackupId, ByteStream, Context, Error, ErrorKind, ObjectKey, Result, Source, pipeline};
use bytes::Bytes;
use jiff::Timestamp;

use crate::Opened;
use crate::probe::direct::Direct;
use crate::probe::report::{Outcome, ProbeReport};
use crate::probe::{basics, guard};

/// What is tried.
pub(super) struct Subject<'a> {
    pub(super) opened: &'a Opened,
    /// `None` for places that have only their ports.
    pub(super) direct: Option<&'a dyn Direct>,
    pub(super) name: &'a str,
}

/// The names of one probe's objects.
pub(super) struct Names {
    folder: String,
    made: Mutex<Vec<ObjectKey>>,
    locked_until: Mutex<Option<Timestamp>>,
}

impl Names {
    fn new() -> Self {
        Self {
            folder: format!(".probe/{}/", BackupId::random()),
            made: Mutex::default(),
            locked_until: Mutex::default(),
        }
    }

    /// What all names begin with.
    pub(super) fn folder(&self) -> &str {
        &self.folder
    }

    /// A name that will be cleared up.
    pub(super) fn key(&self, name: &str) -> Result<ObjectKey> {
        let key: ObjectKey = format!("{}{name}", self.folder).parse()?;
        if let Ok(mut made) = self.made.lock() {
            made.push(key.clone());
        }
        Ok(key)
    }

    /// Something cannot be removed before then.
    pub(super) fn lock_until(&self, until: Timestamp) {
        if let Ok(mut locked) = self.locked_until.lock() {
            *locked = (*locked).max(Some(until));
        }
    }
}

pub(super) async fn run(cx: &Context, subject: &Subject<'_>, create: bool) -> Result<ProbeReport> {
    let mut report = ProbeReport::new(subject.name);
    if let Some(direct) = subject.direct {
        report.created = ensure(direct, subject.name, create).await?;
    }
    let names = Names::new();
    let tried = try_all(cx, subject, &names, &mut report).await;
    // Also after a failure.
    clear_up(subject, &names, &mut report).await;
    tried.map(|()| report)
}

async fn ensure(direct: &dyn Direct, name: &str, create: bool) -> Result<bool> {
    match direct.exists().await {
        Ok(true) => Ok(false),
        // A key that may not look may still write; the first object shows it.
        Err(error) if error.kind() == ErrorKind::Denied && !create => Ok(false),
        Ok(false) if create => direct.create().await.map(|()| true),
        Ok(false) => {
            Err(Error::new(ErrorKind::NotFound, name, format!("the {} does not exist", direct.container()))
                .with_hint("check the name, or run again with --create to make it"))
        }
        Err(error) => Err(error),
    }
}

async fn try_all(cx: &Context, subject: &Subject<'_>, names: &Names, report: &mut ProbeReport) -> Result<()> {
    basics::try_all(cx, subject, names, report).await?;
    if report.problem.is_none() {
        guard::try_all(cx, subject, names, report).await?;
    }
    Ok(())
}

async fn clear_up(subject: &Subject<'_>, names: &Names, report: &mut ProbeReport) {
    let until = names.locked_until.lock().ok().and_then(|until| *until);
    if let Some(until) = until {
        let ahead = report.clock_ahead_seconds.unwrap_or_default().max(0.0);
        let wait =
            (until.as_second() - Timestamp::now().as_second()).clamp(0, 30) as f64 + ahead.min(1.0) + 1.0;
        tokio::time::sleep(std::time::Duration::from_secs_f64(wait)).await;
    }
    let made = names.made.lock().map(|made| made.clone()).unwrap_or_default();
    for key in &made {
        if subject.opened.remover.remove(key).await.is_err()
            && !matches!(subject.opened.source.stat(key).await, Ok(None))
        {
            report.leave(key);
        }
    }
    let Some(direct) = subject.direct else { return };
    for (key, version) in direct.all_versions(names.folder()).await.unwrap_or_default() {
        if direct.remove_version(&key, &version, true).await.is_err() {
            report.left.push(format!("{key} (version {version})"));
        }
    }
}

/// Stores `bytes` as backups are stored.
pub(super) async fn store(cx: &Context, subject: &Subject<'_>, key: &ObjectKey, bytes: &Bytes) -> Result<()> {
    // Chunks of the length that the pipeline makes.
    let mut chunks = Vec::new();
    let mut rest = bytes.clone();
    while !rest.is_empty() {
        chunks.push(Ok(rest.split_to(rest.len().min(1 << 20))));
    }
    let stream = ByteStream::declare_sealed(futures::stream::iter(chunks));
    let len = Some(bytes.len() as u64);
    pipeline::store(cx, subject.opened.sink.as_ref(), key, stream, len).await.map(drop)
}

/// Reads an object or a range of it.
pub(super) async fn read(
    source: &dyn Source,
    key: &ObjectKey,
    range: Option<std::ops::Range<u64>>,
) -> Result<Vec<u8>> {
    let mut stream = source.fetch(key, range, None).await?;
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.next().await {
        bytes.extend_from_slice(&chunk?);
    }
    Ok(bytes)
}

/// What an error of trying means.
pub(super) fn outcome(error: &Error) -> Outcome {
    match error.kind() {
        ErrorKind::Denied => Outcome::Denied,
        ErrorKind::Unsupported => Outcome::Unsupported,
        _ => Outcome::Unknown,
    }
}
