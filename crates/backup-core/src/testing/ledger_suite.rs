//! What every ledger must do.

use crate::digest::Sha256Digest;
use crate::id::{BackupId, RepositoryId, SourceName};
use crate::ledger::{Head, Ledger};

/// Checks what every [`Ledger`] must do: an intended head takes the settled one's place only when it
/// is settled as stored, a dropped one leaves no trace, entries of other sources and repositories are
/// left alone, and all of it outlives the value that wrote it.
///
/// `open` opens the same ledger anew, as another process would; every step goes through a fresh one.
///
/// # Panics
/// Where the ledger breaks the contract.
pub async fn ledger_suite<L: Ledger>(open: impl Fn() -> L) {
    heads_move_only_when_settled_as_stored(&open).await;
    entries_are_apart(&open).await;
}

/// One entry, which every step opens anew.
struct Entry<'a, F> {
    open: &'a F,
    repository: RepositoryId,
    source: SourceName,
}

impl<L: Ledger, F: Fn() -> L> Entry<'_, F> {
    async fn intend(&self, head: Head) {
        (self.open)().intend(&self.repository, &self.source, head).await.expect("an intention is recorded");
    }

    async fn settle(&self, stored: bool) {
        (self.open)().settle(&self.repository, &self.source, stored).await.expect("it is settled");
    }

    /// The settled head and the intended one.
    async fn heads(&self) -> (Option<Head>, Option<Head>) {
        let head =
            (self.open)().head(&self.repository, &self.source).await.expect("the head can be asked for");
        let intended = (self.open)().intended(&self.repository, &self.source).await;
        (head, intended.expect("the intention can be asked for"))
    }
}

fn head(seq: u64) -> Head {
    let id = BackupId::random();
    Head { id, seq, pae_sha256: Sha256Digest::of(id.to_string().as_bytes()) }
}

async fn heads_move_only_when_settled_as_stored<L: Ledger>(open: &impl Fn() -> L) {
    let source = "orders".parse().expect("a source name");
    let entry = Entry { open, repository: RepositoryId::random(), source };
    assert_eq!(entry.heads().await, (None, None), "a new ledger knows nothing");
    for stored in [true, false] {
        entry.settle(stored).await;
        assert_eq!(entry.heads().await, (None, None), "settling nothing makes no head");
    }

    let (first, dropped, second) = (head(1), head(2), head(u64::MAX));
    entry.intend(first).await;
    assert_eq!(entry.heads().await, (None, Some(first)), "intended, and not yet the head");
    entry.settle(false).await;
    assert_eq!(entry.heads().await, (None, None), "a first head that was dropped leaves none");

    entry.intend(first).await;
    entry.settle(true).await;
    assert_eq!(entry.heads().await, (Some(first), None), "settled as stored");
    for stored in [true, false] {
        entry.settle(stored).await;
        assert_eq!(entry.heads().await, (Some(first), None), "settling again changes nothing");
    }

    entry.intend(dropped).await;
    assert_eq!(entry.heads().await, (Some(first), Some(dropped)), "the head stands beside an intention");
    entry.settle(false).await;
    assert_eq!(entry.heads().await, (Some(first), None), "a dropped intention leaves the head");

    entry.intend(dropped).await;
    entry.intend(second).await;
    assert_eq!(entry.heads().await, (Some(first), Some(second)), "the last intention counts");
    entry.settle(true).await;
    assert_eq!(entry.heads().await, (Some(second), None), "the head moves on");
}

async fn entries_are_apart<L: Ledger>(open: &impl Fn() -> L) {
    let long = "x".repeat(SourceName::LEN_MAX);
    // Names that a careless choice of file names would confuse.
    let names = ["a", "A", "a.json", "a.b", "a-b", "a_b", "0", long.as_str()];
    let mut entries = Vec::new();
    for repository in [RepositoryId::random(), RepositoryId::random()] {
        for name in names {
            entries.push(Entry { open, repository, source: name.parse().expect("a source name") });
        }
    }
    let mut expected = Vec::new();
    for (seq, entry) in (1..).zip(&entries) {
        let (settled, intended) = (head(seq), head(seq + 1));
        entry.intend(settled).await;
        entry.settle(true).await;
        // Every other entry is in the middle of a backup.
        let intended = (seq % 2 == 0).then_some(intended);
        if let Some(intended) = intended {
            entry.intend(intended).await;
        }
        expected.push((Some(settled), intended));
    }
    for (entry, expected) in entries.iter().zip(&expected) {
        let (repository, source) = (entry.repository, &entry.source);
        assert_eq!(entry.heads().await, *expected, "the entry of {source} in {repository}");
    }
    entries[1].settle(false).await;
    expected[1].1 = None;
    for (entry, expected) in entries.iter().zip(&expected) {
        assert_eq!(entry.heads().await, *expected, "settling one entry changed that of {}", entry.source);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::MemoryLedger;

    #[tokio::test]
    async fn the_memory_ledger_obeys_the_suite() {
        let ledger = MemoryLedger::default();
        ledger_suite(|| ledger.clone()).await;
    }

    #[tokio::test]
    #[should_panic(expected = "intended, and not yet the head")]
    async fn a_ledger_that_forgets_is_found() {
        ledger_suite(MemoryLedger::default).await;
    }
}
