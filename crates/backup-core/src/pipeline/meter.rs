//! Counts bytes on their way and tells the watcher.

use crate::context::Context;
use crate::progress::{Event, RunStatus};
use crate::stream::{ByteStream, Plain, Sealed};

/// Reports plaintext as it passes, and that compressing began with the first of it.
pub(super) fn plain(cx: &Context, stream: ByteStream<Plain>) -> ByteStream<Plain> {
    let cx = cx.clone();
    let mut first = true;
    stream.inspect(move |chunk| {
        if std::mem::take(&mut first) {
            cx.report(Event::Status(RunStatus::Compressing));
        }
        cx.report(Event::Plain { bytes: chunk.len() as u64 });
    })
}

/// Reports that encrypting, then uploading began with the first sealed bytes. The bytes themselves
/// are counted where they are stored.
pub(super) fn sealing(cx: &Context, stream: ByteStream<Sealed>) -> ByteStream<Sealed> {
    let cx = cx.clone();
    let mut seen = 0_u8;
    stream.inspect(move |_| {
        match seen {
            0 => cx.report(Event::Status(RunStatus::Encrypting)),
            1 => cx.report(Event::Status(RunStatus::Uploading)),
            _ => {}
        }
        seen = seen.saturating_add(1);
    })
}

/// Reports sealed bytes as they are read from a place.
pub(super) fn fetched(cx: &Context, stream: ByteStream<Sealed>) -> ByteStream<Sealed> {
    let cx = cx.clone();
    stream.inspect(move |chunk| cx.report(Event::Sealed { bytes: chunk.len() as u64 }))
}

/// Reports plaintext as it is handed to a restorer.
pub(super) fn restored(cx: &Context, stream: ByteStream<Plain>) -> ByteStream<Plain> {
    let cx = cx.clone();
    stream.inspect(move |chunk| cx.report(Event::Plain { bytes: chunk.len() as u64 }))
}
