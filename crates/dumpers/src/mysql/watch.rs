//! Whether tables kept their form while they were dumped.
//!
//! A snapshot holds rows, not forms: a table that is truncated, altered or made anew after the
//! snapshot and before its rows are read may come out empty or short, and no program complains. So
//! the form of every table is noted before the snapshot and compared after its rows were read.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use backup_core::Context;

use super::error::MysqlError;
use super::look::{Looked, Table, tables};
use super::names::{literal, qualified};
use super::query::Sql;
use super::tools::Flavour;

/// The shortest time between two looks. A change within this time after a table's rows were read
/// fails the dump, too.
const BETWEEN: Duration = Duration::from_secs(10);
/// Looks take at most one part in so many of a dump's time.
const SHARE: u32 = 50;

/// A table by database and name.
pub(super) type Name = (String, String);

/// The forms of all tables, as they were before the dump.
#[derive(Debug)]
pub(super) struct Watch {
    sql: Sql,
    flavour: Flavour,
    databases: Vec<String>,
    /// Whether this user may see the numbers of tables, which a TRUNCATE changes.
    numbers: bool,
    before: BTreeMap<Name, String>,
    /// Those that the dump must hold.
    wanted: BTreeSet<Name>,
    /// Those whose rows were read since the last look.
    read: Vec<Name>,
    looked: Instant,
    pause: Duration,
}

impl Watch {
    /// Notes the forms. To be called before the dump program starts.
    pub(super) async fn begin(
        cx: &Context,
        sql: &Sql,
        looked: &Looked,
        left_out: &[&Table],
    ) -> Result<Self, MysqlError> {
        let left_out: BTreeSet<Name> = left_out.iter().map(|table| table.key()).collect();
        let wanted = looked.tables.iter().filter(|table| table.has_rows()).map(Table::key);
        let mut watch = Self {
            sql: sql.clone(),
            flavour: looked.server.flavour,
            databases: looked.databases.clone(),
            numbers: looked.server.grants.everywhere("PROCESS"),
            before: BTreeMap::new(),
            wanted: wanted.filter(|name| !left_out.contains(name)).collect(),
            read: Vec::new(),
            looked: Instant::now(),
            pause: BETWEEN,
        };
        watch.before = watch.forms(cx, looked.tables.clone()).await?;
        Ok(watch)
    }

    /// The rows of a table were read.
    pub(super) fn passed(&mut self, table: Name) {
        self.wanted.remove(&table);
        self.read.push(table);
    }

    /// Whether it is time for a look.
    pub(super) fn is_due(&self) -> bool {
        !self.read.is_empty() && self.looked.elapsed() >= self.pause
    }

    /// Compares the tables whose rows were read.
    pub(super) async fn compare(&mut self, cx: &Context) -> Result<(), MysqlError> {
        let began = Instant::now();
        let found = tables(cx, &self.sql, &self.databases).await?;
        let now = self.forms(cx, found).await?;
        for name in self.read.drain(..) {
            // One that is new since then is as empty in the dump as it was at the snapshot.
            let Some(before) = self.before.get(&name) else { continue };
            let what = match now.get(&name) {
                Some(form) if form == before => continue,
                Some(_) => "was altered, truncated or made anew",
                None => "was dropped or renamed",
            };
            return Err(MysqlError::Changed(format!("table {} {what}", qualified(&name.0, &name.1))));
        }
        self.looked = Instant::now();
        self.pause = BETWEEN.max(began.elapsed() * SHARE);
        Ok(())
    }

    /// The last look, after the program's end.
    pub(super) async fn finish(mut self, cx: &Context) -> Result<(), MysqlError> {
        if let Some((database, name)) = self.wanted.first() {
            let what =
                format!("table {} was dropped or renamed before it was read", qualified(database, name));
            return Err(MysqlError::Changed(what));
        }
        self.compare(cx).await
    }

    /// The form of each of these tables: when it was made, and the numbers of what it is stored in.
    async fn forms(&self, cx: &Context, found: Vec<Table>) -> Result<BTreeMap<Name, String>, MysqlError> {
        let mut numbers: BTreeMap<Name, String> = BTreeMap::new();
        if self.numbers {
            let mut plain: Vec<String> =
                self.databases.iter().filter(|name| is_plain(name)).cloned().collect();
            // Other names are stored in a code of their own, so they are told apart as a group.
            if plain.len() < self.databases.len() {
                plain.clear();
            }
            let table = match self.flavour {
                Flavour::MariaDb => "INNODB_SYS_TABLES",
                Flavour::MySql => "INNODB_TABLES",
            };
            let some = if plain.is_empty() {
                String::new()
            } else {
                let names: Vec<String> = plain.iter().map(|name| literal(name)).collect();
                format!("WHERE SUBSTRING_INDEX(NAME, '/', 1) IN ({})", names.join(", "))
            };
            let statement = format!(
                "SELECT NAME, TABLE_ID, N_COLS, FLAG FROM information_schema.{table} {some} ORDER BY 2"
            );
            for row in self.sql.ask(cx, &statement).await? {
                let [stored, facts @ ..] = row.as_slice() else { continue };
                let Some((database, name)) = stored.split_once('/') else { continue };
                // After the first sign of a number: a partition. A name that begins with it is
                // that of a table being altered.
                let name = name.split('#').next().unwrap_or_default();
                if !name.is_empty() {
                    numbers
                        .entry(group(database, name))
                        .or_default()
                        .push_str(&format!("/{}", facts.join("-")));
                }
            }
        }
        Ok(found
            .into_iter()
            .map(|table| {
                let stored = numbers.get(&group(&table.database, &table.name));
                let form = format!("{}{}", table.created, stored.map_or("", String::as_str));
                (table.key(), form)
            })
            .collect())
    }
}

/// The group in which a name is compared: a plain name alone, all others of a database together.
fn group(database: &str, name: &str) -> Name {
    let part = |text: &str| if is_plain(text) { text.to_owned() } else { String::new() };
    (part(database), part(name))
}

/// Whether a name is stored as it is written.
fn is_plain(name: &str) -> bool {
    name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}
