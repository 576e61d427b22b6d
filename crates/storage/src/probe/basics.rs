//! What every backup needs: storing, reading, listing.

use backup_core::{Context, Error, ErrorKind, ObjectKey, Result};
use bytes::Bytes;

use crate::probe::report::{Outcome, ProbeReport};
use crate::probe::run::{Names, Subject, outcome, read, store};

/// The length of the small object.
const SMALL: usize = 1_000;
/// More than one part of every place that has parts.
const LARGE: usize = (8 << 20) + 1_000;

pub(super) async fn try_all(
    cx: &Context,
    subject: &Subject<'_>,
    names: &Names,
    report: &mut ProbeReport,
) -> Result<()> {
    let key = names.key("object")?;
    let bytes = pattern(SMALL, 1);
    if let Err(error) = store(cx, subject, &key, &bytes).await {
        report.note("put", outcome(&error), error.what());
        report.problem = Some(error);
        return cx.check(subject.name);
    }
    report.note("put", Outcome::Yes, format!("an object of {SMALL} bytes was stored"));
    cx.check(subject.name)?;
    reading(subject, &key, &bytes, report).await;
    listing(subject, names, &key, report).await?;
    cx.check(subject.name)?;
    parts(cx, subject, names, report).await?;
    cx.check(subject.name)
}

async fn reading(subject: &Subject<'_>, key: &ObjectKey, bytes: &Bytes, report: &mut ProbeReport) {
    let source = subject.opened.source.as_ref();
    for (check, range) in [("get", None), ("range", Some(100..300))] {
        let wanted = range.clone().map_or(&bytes[..], |range| &bytes[range]);
        let range = range.map(|range| range.start as u64..range.end as u64);
        match read(source, key, range).await {
            Ok(got) if got == wanted => {
                report.note(check, Outcome::Yes, format!("{} bytes came back as they were", got.len()));
            }
            Ok(got) => {
                let what = format!("{} other bytes came back than were stored", got.len());
                report.note(check, Outcome::No, &*what);
                report.problem = Some(
                    Error::new(ErrorKind::Integrity, key.as_str(), what).with_hint("do not use this store"),
                );
                return;
            }
            Err(error) => {
                report.note(check, outcome(&error), error.what());
                report.problem.get_or_insert(error);
            }
        }
    }
}

async fn listing(
    subject: &Subject<'_>,
    names: &Names,
    key: &ObjectKey,
    report: &mut ProbeReport,
) -> Result<()> {
    let source = subject.opened.source.as_ref();
    match source.list(names.folder()).await {
        Ok(found) if found.iter().any(|object| object.key == *key && object.len == SMALL as u64) => {
            report.note("list", Outcome::Yes, "the object is listed with its length");
        }
        Ok(_) => {
            report.note("list", Outcome::No, "the object is stored and not listed");
            let what = "an object that was stored is not listed";
            report.problem.get_or_insert(
                Error::new(ErrorKind::Unsupported, subject.name, what)
                    .with_hint("use a store whose listings are up to date"),
            );
        }
        Err(error) => {
            report.note("list", outcome(&error), error.what());
            report.problem.get_or_insert(error);
        }
    }
    match source.stat(&names.key("missing")?).await {
        Ok(None) => report.note("missing", Outcome::Yes, "an object that is not there is called missing"),
        Ok(Some(_)) => {
            report.note("missing", Outcome::No, "an object that nobody made is said to be there");
        }
        Err(error) => {
            let detail = "an object that is not there looks like one that may not be read: allow listing";
            report.note("missing", outcome(&error), detail);
        }
    }
    Ok(())
}

async fn parts(cx: &Context, subject: &Subject<'_>, names: &Names, report: &mut ProbeReport) -> Result<()> {
    let Some(direct) = subject.direct.filter(|direct| direct.has_parts()) else { return Ok(()) };
    let key = names.key("parts")?;
    let bytes = pattern(LARGE, 2);
    if let Err(error) = store(cx, subject, &key, &bytes).await {
        report.note("multipart", outcome(&error), error.what());
        report.problem.get_or_insert(error);
        return Ok(());
    }
    // Across the border between two parts, whichever length they have.
    let from = bytes.len() - 2_000;
    let range = from as u64..bytes.len() as u64;
    match read(subject.opened.source.as_ref(), &key, Some(range)).await {
        Ok(got) if got == bytes[from..] => {
            report.note("multipart", Outcome::Yes, format!("an object of {LARGE} bytes was stored in parts"));
        }
        Ok(_) => {
            report.note("multipart", Outcome::No, "an object stored in parts has other bytes");
            let what = "an object that was stored in parts has other bytes";
            report.problem.get_or_insert(
                Error::new(ErrorKind::Integrity, subject.name, what).with_hint("do not use this store"),
            );
        }
        Err(error) => {
            report.note("multipart", outcome(&error), error.what());
            report.problem.get_or_insert(error);
        }
    }
    match direct.abort(&names.key("aborted")?).await {
        Ok(true) => report.note("abort", Outcome::Yes, "an aborted upload is gone at the server"),
        Ok(false) => {
            report.note("abort", Outcome::NotObeyed, "an aborted upload still takes parts");
            report.not_obeyed.push("aborting an unfinished upload".to_owned());
        }
        Err(error) => report.note("abort", outcome(&error), error.what()),
    }
    Ok(())
}

/// Bytes that repeat in no short period.
pub(super) fn pattern(len: usize, seed: u64) -> Bytes {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        // Xorshift (Marsaglia 2003).
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes.into()
}
