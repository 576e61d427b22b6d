//! Bundles read from end to end, each member by the reader of its format.

use std::sync::Arc;

use backup_core::{ByteStream, Context, DumpFormat, Inspection, Inspector, Plain, Result};

use super::Members;
use crate::inspection::{Counted, read_to_end, stoppable};

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
    let read = Counted::default();
    let mut members = Members::new(format, read.through(bytes));
    let mut all = Inspection { parsed: true, ..Inspection::default() };
    while let Some(member) = stoppable(cx, format, members.next()).await? {
        let shape = DumpFormat::new(member.head.format);
        let Some(inspector) = inspectors.iter().find(|inspector| inspector.accepts(&shape)) else {
            all.parsed = false;
            let mut bytes = member.bytes;
            read_to_end(cx, format, &mut bytes, |_| Ok(())).await?;
            continue;
        };
        let one = inspector.inspect(cx, &shape, member.bytes).await?;
        all.parsed &= one.parsed;
        all.tables.extend(one.tables.into_iter().map(|table| format!("{}/{table}", member.head.name)));
    }
    all.bytes = read.bytes();
    Ok(all)
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
