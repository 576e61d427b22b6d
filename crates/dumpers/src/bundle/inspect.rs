//! Bundles read from end to end, each member by the reader of its format.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use backup_core::{ByteStream, Context, DumpFormat, Error, Inspection, Inspector, Plain, Result, Stage};

use super::Members;

/// Reads every member of a bundle to its end. Tables are named `member/table`; a member of a format
/// that no inspector accepts is read without being parsed, and so is the whole.
///
/// # Errors
/// As [`Inspector::inspect`].
pub async fn inspected(
    cx: &Context,
    format: &str,
    bytes: ByteStream<Plain>,
    inspectors: &[Arc<dyn Inspector>],
) -> Result<Inspection> {
    // The bytes of a bundle are more than those of its members.
    let read = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&read);
    let bytes = bytes.inspect(move |chunk| {
        counter.fetch_add(chunk.len() as u64, Ordering::Relaxed);
    });
    let mut members = Members::new(format, bytes);
    let mut all = Inspection { parsed: true, ..Inspection::default() };
    while let Some(member) = stoppable(cx, format, members.next()).await? {
        let shape = DumpFormat::new(member.head.format);
        let Some(inspector) = inspectors.iter().find(|inspector| inspector.accepts(&shape)) else {
            all.parsed = false;
            let mut bytes = member.bytes;
            while stoppable(cx, format, async { bytes.next().await.transpose() }).await?.is_some() {}
            continue;
        };
        let one = inspector.inspect(cx, &shape, member.bytes).await?;
        all.parsed &= one.parsed;
        all.tables.extend(one.tables.into_iter().map(|table| format!("{}/{table}", member.head.name)));
    }
    all.bytes = read.load(Ordering::Relaxed);
    Ok(all)
}

/// Also where the input stalls.
async fn stoppable<T>(cx: &Context, format: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::select! {
        biased;
        () = cx.cancel().cancelled() => Err(Error::cancelled(format).at(Stage::Verify)),
        done = work => done,
    }
}

#[cfg(test)]
mod tests {
    use backup_core::testing::collect;
    use backup_core::{DumpReport, Settled};

    use super::super::{Gathered, MemberHead, gathered};
    use super::*;

    #[tokio::test]
    async fn all_bytes_of_a_bundle_are_counted_and_a_foreign_member_is_only_read() {
        let member = Gathered {
            head: MemberHead::new("a", "raw"),
            bytes: ByteStream::once("one"),
            report: Settled::known(DumpReport::default()),
        };
        let whole = collect(gathered("test", futures::stream::iter([Ok(member)]), |_| ())).await.unwrap();
        let found =
            inspected(&Context::new(), "test-bundle", ByteStream::once(whole.clone()), &[]).await.unwrap();
        assert_eq!((found.bytes, found.parsed), (whole.len() as u64, false));
    }
}
