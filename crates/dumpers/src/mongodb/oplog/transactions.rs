//! Transactions that fill more than one entry.
//!
//! All entries but the last have `partialTxn`; they are written together when the transaction commits,
//! and each names its session and number. What has no last entry did not happen.

use std::collections::HashMap;

use mongodb::bson::{Document, Timestamp, doc};

/// Bytes of entries that are held back in all.
const HELD_MAX: usize = 32 * 1024 * 1024;

/// Whether this entry is one of a transaction's, and not the last.
pub(in crate::mongodb) fn is_partial(entry: &Document) -> bool {
    entry.get_document("o").is_ok_and(|o| o.get_bool("partialTxn").is_ok_and(|partial| partial))
}

/// Whether this entry is the last of several.
pub(super) fn ends_several(entry: &Document) -> bool {
    let previous = entry.get_document("prevOpTime").and_then(|previous| previous.get_timestamp("ts"));
    !is_partial(entry) && previous.is_ok_and(|ts| ts != Timestamp { time: 0, increment: 0 })
}

/// Holds entries back until the last of their transaction is there.
#[derive(Debug, Default)]
pub(in crate::mongodb) struct Transactions {
    open: HashMap<Vec<u8>, Open>,
    held: usize,
}

#[derive(Debug, Default)]
struct Open {
    entries: Vec<Document>,
    bytes: usize,
    /// It is larger than what may be held back, and was given out before its end.
    begun: bool,
}

impl Transactions {
    /// What can be applied now that this entry of `len` bytes is there, in order.
    pub(in crate::mongodb) fn next(&mut self, entry: Document, len: usize) -> Vec<Document> {
        let partial = is_partial(&entry);
        if !partial && (self.open.is_empty() || !ends_several(&entry)) {
            return vec![entry];
        }
        let key = key(&entry);
        if !partial {
            let mut entries = self.open.remove(&key).map_or_else(Vec::new, |open| {
                self.held -= open.bytes;
                open.entries
            });
            entries.push(entry);
            return entries;
        }
        let open = self.open.entry(key).or_default();
        open.entries.push(entry);
        open.bytes += len;
        self.held += len;
        if self.held <= HELD_MAX && !open.begun {
            return Vec::new();
        }
        open.begun = true;
        self.held -= open.bytes;
        open.bytes = 0;
        std::mem::take(&mut open.entries)
    }

    /// Whether a transaction was given out and has no end.
    pub(in crate::mongodb) fn is_torn(&self) -> bool {
        self.open.values().any(|open| open.begun)
    }
}

/// Session and number of a transaction.
fn key(entry: &Document) -> Vec<u8> {
    let part = |name: &str| entry.get(name).cloned().unwrap_or_default();
    doc! { "lsid": part("lsid"), "txnNumber": part("txnNumber") }.to_vec().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(session: i32, number: i64, partial: bool) -> Document {
        let mut o = doc! { "applyOps": [] };
        if partial {
            o.insert("partialTxn", true);
        }
        let previous = Timestamp { time: 7, increment: 1 };
        doc! {
            "op": "c", "ns": "admin.$cmd", "o": o, "lsid": { "id": session }, "txnNumber": number,
            "prevOpTime": { "ts": previous, "t": 1_i64 },
        }
    }

    #[test]
    fn entries_wait_for_the_last_of_their_transaction() {
        let mut transactions = Transactions::default();
        let plain = doc! { "op": "i", "ns": "a.b", "o": { "_id": 1 } };
        assert_eq!(transactions.next(entry(1, 1, true), 10).len(), 0);
        assert_eq!(transactions.next(plain.clone(), 10), [plain]);
        assert_eq!(transactions.next(entry(2, 1, true), 10).len(), 0);
        assert_eq!(transactions.next(entry(1, 1, true), 10).len(), 0);
        assert_eq!(transactions.next(entry(1, 1, false), 10).len(), 3);
        assert_eq!(transactions.held, 10);
        // The other one has no end: it did not happen, and nothing of it was given out.
        assert!(!transactions.is_torn());
        assert_eq!(transactions.next(entry(3, 1, false), 10).len(), 1);
    }

    #[test]
    fn what_is_too_large_to_wait_must_have_its_end() {
        let mut transactions = Transactions::default();
        assert_eq!(transactions.next(entry(1, 1, true), HELD_MAX).len(), 0);
        assert_eq!(transactions.next(entry(1, 1, true), 1).len(), 2);
        assert_eq!(transactions.next(entry(1, 1, true), 1).len(), 1);
        assert!(transactions.is_torn());
        assert_eq!(transactions.next(entry(1, 1, false), 1).len(), 1);
        assert!(!transactions.is_torn());
        assert_eq!(transactions.held, 0);
    }

    #[test]
    fn the_last_of_several_is_told_from_a_single_one() {
        assert!(ends_several(&entry(1, 1, false)));
        assert!(!ends_several(&entry(1, 1, true)));
        let mut single = entry(1, 1, false);
        single.insert("prevOpTime", doc! { "ts": Timestamp { time: 0, increment: 0 }, "t": -1_i64 });
        assert!(!ends_several(&single));
    }
}
