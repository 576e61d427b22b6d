//! Two SQLite databases, table by table: row counts and a hash of every value.

use std::path::Path;

use backup_core::{Error, ErrorKind, Result, Sha256Digest};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};
use sha2::{Digest as _, Sha256};

/// One table's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Table {
    /// Its name.
    pub(super) name: String,
    /// How many rows.
    pub(super) rows: u64,
    /// SHA-256 over every value of every row, ordered by the primary key, each with its type and
    /// length.
    pub(super) sha256: Sha256Digest,
}

/// The tables of two databases, when they are equal.
///
/// # Errors
/// `Integrity`, naming the first table or the part of the schema that differs.
pub(super) fn tables(left: &Path, right: &Path) -> Result<Vec<Table>> {
    let (a, b) = (Database::open(left)?, Database::open(right)?);
    let differ = |what: String| {
        Error::new(
            ErrorKind::Integrity,
            right.display().to_string(),
            format!("differs from {}: {what}", left.display()),
        )
        .with_hint("this must not happen: please report it")
    };
    if a.schema()? != b.schema()? {
        return Err(differ("the schema".to_owned()));
    }
    let mut tables = Vec::new();
    for name in a.names()? {
        let (left, right) = (a.table(&name)?, b.table(&name)?);
        if left != right {
            return Err(differ(format!("table {name}: {} and {} rows", left.rows, right.rows)));
        }
        tables.push(left);
    }
    Ok(tables)
}

struct Database<'a> {
    db: Connection,
    path: &'a Path,
}

impl<'a> Database<'a> {
    fn open(path: &'a Path) -> Result<Self> {
        // One that may only read could not remove the log that every reader of a database in WAL mode
        // makes.
        let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)
            .map_err(|e| Self::error(path, &e))?;
        Ok(Self { db, path })
    }

    fn error(path: &Path, error: &rusqlite::Error) -> Error {
        Error::new(ErrorKind::Integrity, path.display().to_string(), format!("cannot be compared: {error}"))
    }

    fn texts(&self, sql: &str) -> Result<Vec<String>> {
        let read = || -> rusqlite::Result<Vec<String>> {
            self.db.prepare(sql)?.query_map([], |row| row.get(0))?.collect()
        };
        read().map_err(|e| Self::error(self.path, &e))
    }

    fn names(&self) -> Result<Vec<String>> {
        self.texts("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name")
    }

    fn schema(&self) -> Result<Vec<String>> {
        self.texts(
            "SELECT type || ' ' || name || ' ' || ifnull(sql, '') FROM sqlite_schema ORDER BY type, name",
        )
    }

    fn table(&self, name: &str) -> Result<Table> {
        let read = || -> rusqlite::Result<Table> {
            let quoted = name.replace('"', "\"\"");
            // The first column of every table is its primary key or comes before it: with the rest it
            // is a total order, since no two rows are alike in all columns that are ordered by.
            let columns = self.db.prepare(&format!("SELECT * FROM \"{quoted}\""))?.column_count();
            let order: Vec<String> = (1..=columns).map(|i| i.to_string()).collect();
            let mut statement =
                self.db.prepare(&format!("SELECT * FROM \"{quoted}\" ORDER BY {}", order.join(", ")))?;
            let mut rows = statement.query([])?;
            let (mut hasher, mut count) = (Sha256::new(), 0);
            while let Some(row) = rows.next()? {
                for i in 0..columns {
                    value(&mut hasher, row.get_ref(i)?);
                }
                count += 1;
            }
            Ok(Table { name: name.to_owned(), rows: count, sha256: Sha256Digest(hasher.finalize().into()) })
        };
        read().map_err(|e| Self::error(self.path, &e))
    }
}

fn value(hasher: &mut Sha256, value: ValueRef<'_>) {
    let (kind, bytes): (u8, &[u8]) = match &value {
        ValueRef::Null => (0, &[]),
        ValueRef::Integer(number) => (1, &number.to_be_bytes()),
        ValueRef::Real(number) => (2, &number.to_bits().to_be_bytes()),
        ValueRef::Text(text) => (3, text),
        ValueRef::Blob(blob) => (4, blob),
    };
    hasher.update([kind]);
    hasher.update((bytes.len() as u64).to_be_bytes());
    hasher.update(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database(path: &Path, rows: &str) {
        let db = Connection::open(path).unwrap();
        db.execute_batch("CREATE TABLE t (a INTEGER PRIMARY KEY, b)").unwrap();
        db.execute_batch(&format!("INSERT INTO t VALUES {rows}")).unwrap();
    }

    #[test]
    fn one_value_of_another_type_or_content_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        database(&path("a"), "(1, 'x'), (2, NULL)");
        for (i, (rows, equal)) in [
            ("(2, NULL), (1, 'x')", true),
            ("(1, 'x'), (2, '')", false),
            ("(1, x'78'), (2, NULL)", false),
            ("(1, 'x')", false),
        ]
        .into_iter()
        .enumerate()
        {
            let other = path(&format!("b{i}"));
            database(&other, rows);
            assert_eq!(tables(&path("a"), &other).is_ok(), equal, "{rows}");
        }
    }
}
