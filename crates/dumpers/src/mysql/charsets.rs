//! Text that a dump in Unicode changes.
//!
//! A dump is text in UTF-8, and the server converts each column to it and back. In most character
//! sets every text survives that. In some, two codes stand for one character (cp932), or a code for
//! none (gbk's private area): then another code comes back, or a question mark.

use std::collections::BTreeMap;

use backup_core::Context;

use super::error::MysqlError;
use super::look::{Looked, Table};
use super::names::{identifier, literal, qualified};
use super::query::Sql;
use crate::tool::ToolError;

/// Character sets of which every code is one character of Unicode, and no other code the same;
/// and `ascii`, which holds nothing else unless somebody went to some trouble.
const ONE_TO_ONE: [&str; 9] =
    ["ascii", "binary", "latin1", "ucs2", "utf16", "utf16le", "utf32", "utf8mb3", "utf8mb4"];

/// Looks through the columns of other character sets and tells of those that hold such text.
///
/// This reads their tables once, on the server.
pub(super) async fn changed(
    cx: &Context,
    sql: &Sql,
    looked: &Looked,
    left_out: &[&Table],
) -> Result<Vec<String>, MysqlError> {
    let names = |names: &[String]| names.iter().map(|name| literal(name)).collect::<Vec<_>>().join(", ");
    let well_known: Vec<String> = ONE_TO_ONE.iter().chain(&["utf8"]).map(|&name| name.to_owned()).collect();
    let statement = format!(
        "SELECT TABLE_SCHEMA, TABLE_NAME, COLUMN_NAME, CHARACTER_SET_NAME FROM information_schema.COLUMNS \
         WHERE TABLE_SCHEMA IN ({}) AND CHARACTER_SET_NAME NOT IN ({}) ORDER BY 1, 2, ORDINAL_POSITION",
        names(&looked.databases),
        names(&well_known),
    );
    let mut columns: BTreeMap<(String, String), Vec<(String, String)>> = BTreeMap::new();
    for row in sql.ask(cx, &statement).await? {
        let [database, table, column, set] = <[String; 4]>::try_from(row)
            .map_err(|row| MysqlError::Answer(format!("a list of columns with {} columns", row.len())))?;
        let found = looked.tables.iter().find(|found| found.database == database && found.name == table);
        let is_dumped = |found: &Table| found.has_rows() && !left_out.contains(&found);
        // The name goes into a statement as it is.
        if found.is_some_and(is_dumped) && set.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            columns.entry((database, table)).or_default().push((column, set));
        }
    }
    let mut told = Vec::new();
    for ((database, table), columns) in columns {
        let counts: Vec<String> = columns
            .iter()
            .map(|(column, set)| {
                let column = identifier(column);
                let back = format!("CONVERT(CONVERT({column} USING utf8mb4) USING {set})");
                format!("COALESCE(SUM(CAST({back} AS BINARY) <> CAST({column} AS BINARY)), 0)")
            })
            .collect();
        let statement =
            format!("SELECT {} FROM {}.{}", counts.join(", "), identifier(&database), identifier(&table));
        let rows = match sql.patient().ask(cx, &statement).await {
            Ok(rows) => rows,
            // Dropped meanwhile: the dump tells of that itself.
            Err(MysqlError::Tool(error @ ToolError::Exited { .. })) if error.stderr().contains("1146") => {
                continue;
            }
            Err(error) => return Err(error),
        };
        let counts = rows.into_iter().next().unwrap_or_default();
        for ((column, set), count) in columns.iter().zip(counts).filter(|(_, count)| count != "0") {
            told.push(format!(
                "column {} of {} has characters of {set} in {count} rows that do not come back from Unicode as they \
                 were; convert the column to utf8mb4, or keep such bytes in a binary column",
                identifier(column),
                qualified(&database, &table),
            ));
        }
    }
    Ok(told)
}
