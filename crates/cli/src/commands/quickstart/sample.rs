//! A database of varied rows, the same on every machine.

use std::path::Path;

use backup_core::{Context, Error, ErrorKind, Result};
use rusqlite::{Connection, params};

/// Rows of each kind; together somewhat more than 50 MB.
const CUSTOMERS: i64 = 40_000;
const ORDERS: i64 = 160_000;
const DOCUMENTS: i64 = 600;
const EVENTS: i64 = 120_000;

/// Rows between two looks at whether somebody asked to stop.
const ROWS_A_LOOK: i64 = 10_000;

/// Makes the database at `path`, or nothing.
///
/// # Errors
/// Those of SQLite and the file system, `Cancelled`.
pub(super) fn make(cx: &Context, path: &Path) -> Result<()> {
    let temporary = path.with_file_name(".sample.db.part");
    let _ = std::fs::remove_file(&temporary);
    let made = fill(cx, &temporary).and_then(|()| {
        std::fs::rename(&temporary, path).map_err(|e| crate::failure::io_error(path, "create", e))
    });
    if made.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    made
}

fn fill(cx: &Context, path: &Path) -> Result<()> {
    let sqlite = |e: rusqlite::Error| {
        Error::new(
            ErrorKind::Unavailable,
            path.display().to_string(),
            format!("the sample could not be written: {e}"),
        )
        .with_hint("check that there is room for 100 MB")
    };
    let mut db = Connection::open(path).map_err(sqlite)?;
    db.execute_batch(SCHEMA).map_err(sqlite)?;
    let tx = db.transaction().map_err(sqlite)?;
    let mut random = Random(0x5eed_0f57_0460_0001);
    let table = |count: i64, insert: &mut dyn FnMut(i64) -> rusqlite::Result<()>| -> Result<()> {
        for i in 1..=count {
            if i % ROWS_A_LOOK == 0 {
                cx.check("the sample database")?;
            }
            insert(i).map_err(sqlite)?;
        }
        Ok(())
    };
    {
        let mut statement = tx.prepare("INSERT INTO customers VALUES (?, ?, ?, ?, ?, ?)").map_err(sqlite)?;
        table(CUSTOMERS, &mut |i| {
            let name = format!("{} {}", random.word(), random.word());
            let mail = format!("{}.{i}@example.org", name.replace(' ', "."));
            let note = (random.below(3) == 0).then(|| random.text(12));
            let balance = random.below(2_000_000) as f64 / 100.0 - 5000.0;
            statement.execute(params![i, name, mail, balance, random.below(2), note]).map(drop)
        })?;
        let mut statement = tx.prepare("INSERT INTO orders VALUES (?, ?, ?, ?, ?)").map_err(sqlite)?;
        table(ORDERS, &mut |i| {
            let customer = 1 + random.below(CUSTOMERS);
            let placed = format!(
                "2025-{:02}-{:02}T{:02}:00:00Z",
                1 + random.below(12),
                1 + random.below(28),
                random.below(24)
            );
            let lines = format!(
                "{{\"sku\":\"{}-{}\",\"quantity\":{},\"gift\":{}}}",
                random.word(),
                random.below(10_000),
                1 + random.below(9),
                random.below(2) == 0
            );
            statement.execute(params![i, customer, placed, random.below(1_000_000), lines]).map(drop)
        })?;
        let mut statement = tx.prepare("INSERT INTO documents VALUES (?, ?, ?)").map_err(sqlite)?;
        table(DOCUMENTS, &mut |i| {
            let len = 20_000 + random.below(40_000).unsigned_abs();
            let body: Vec<u8> = (0..len.div_ceil(8)).flat_map(|_| random.next().to_le_bytes()).collect();
            statement.execute(params![i, format!("{} ünïcödé 漢字 {i}", random.word()), body]).map(drop)
        })?;
        let mut statement = tx.prepare("INSERT INTO events VALUES (?, ?, ?)").map_err(sqlite)?;
        table(EVENTS, &mut |i| {
            let id: Vec<u8> = [random.next().to_be_bytes(), i.unsigned_abs().to_be_bytes()].concat();
            statement.execute(params![id, random.word(), random.text(14)]).map(drop)
        })?;
    }
    tx.commit().map_err(sqlite)?;
    // As an application would have it: its writers go on while it is backed up.
    db.pragma_update(None, "journal_mode", "wal").map_err(sqlite)?;
    db.close().map_err(|(_, e)| sqlite(e))
}

const SCHEMA: &str = "
    PRAGMA journal_mode = OFF;
    PRAGMA synchronous = OFF;
    CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT NOT NULL, mail TEXT UNIQUE, balance REAL, active INTEGER, note TEXT);
    CREATE TABLE orders (id INTEGER PRIMARY KEY, customer INTEGER NOT NULL REFERENCES customers (id), placed TEXT, cents INTEGER, lines TEXT);
    CREATE TABLE documents (id INTEGER PRIMARY KEY, title TEXT, body BLOB);
    CREATE TABLE events (id BLOB PRIMARY KEY, kind TEXT, message TEXT) WITHOUT ROWID;
    CREATE INDEX orders_by_customer ON orders (customer);
    CREATE VIEW debtors AS SELECT id, name, balance FROM customers WHERE balance < 0;
";

/// SplitMix64 (Steele, Lea, Flood 2014): small, and the same everywhere. Not for secrets.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: i64) -> i64 {
        (self.next() % bound.unsigned_abs()) as i64
    }

    fn word(&mut self) -> String {
        const PARTS: [&str; 16] = [
            "ka", "lo", "mi", "ne", "ru", "ta", "so", "vi", "ber", "dan", "fel", "gor", "hul", "jin", "pas",
            "zet",
        ];
        let count = 2 + self.below(3);
        (0..count).map(|_| PARTS[(self.next() % 16) as usize]).collect()
    }

    fn text(&mut self, words: i64) -> String {
        (0..words).map(|_| self.word()).collect::<Vec<_>>().join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_is_the_published_one() {
        let mut random = Random(0);
        assert_eq!(random.next(), 0xe220_a839_7b1d_cdaf);
        assert_eq!(random.next(), 0x6e78_9e6a_a1b9_65f4);
    }
}
