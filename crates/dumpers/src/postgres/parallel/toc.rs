//! What `pg_dump` would dump: the table of contents of its data section.
//!
//! The rules by which tables are chosen (patterns, extensions, partitions, generated columns) are
//! `pg_dump`'s own and change from version to version, so it is asked. It writes the table of contents
//! before the first row and is stopped then.

use super::super::archive::DataEntry;
use super::super::error::PostgresError;
use super::super::names::{identifier, qualified};

/// The work of the data section.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct DataSection {
    /// Tables with rows, in `pg_dump`'s order.
    pub(super) tables: Vec<TableData>,
    /// Statements that set sequences, one each.
    pub(super) sequences: Vec<String>,
    /// Whether there are large objects.
    pub(super) objects: bool,
}

/// One table whose rows are dumped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TableData {
    pub(super) schema: String,
    pub(super) name: String,
    /// Where the rows are restored to: the table, or the partitioned table above it. Quoted.
    pub(super) target: String,
    /// The columns, each quoted where needed, separated by commas; empty for a table without any.
    pub(super) columns: String,
}

impl TableData {
    /// The table as statements name it.
    pub(super) fn quoted(&self) -> String {
        format!("{}.{}", identifier(&self.schema), identifier(&self.name))
    }

    /// The table as people see it.
    pub(super) fn shown(&self) -> String {
        qualified(&self.schema, &self.name)
    }

    /// The columns as a list behind a table's name; nothing where there are none.
    pub(super) fn column_list(&self) -> String {
        if self.columns.is_empty() { String::new() } else { format!(" ({})", self.columns) }
    }
}

impl DataSection {
    /// Sorts the entries of the data section.
    ///
    /// # Errors
    /// `NotParallel` for a kind of data that is not known here.
    pub(super) fn of(entries: Vec<DataEntry>) -> Result<Self, PostgresError> {
        let mut section = Self::default();
        for entry in entries {
            match entry.description.as_str() {
                "TABLE DATA" => {
                    let (target, columns) = copy_parts(&entry.statement)
                        .ok_or_else(|| PostgresError::Answer(entry.statement.clone()))?;
                    section.tables.push(TableData {
                        schema: entry.schema,
                        name: entry.name,
                        target: target.to_owned(),
                        columns: columns.to_owned(),
                    });
                }
                "SEQUENCE SET" => section.sequences.push(entry.statement),
                "BLOBS" => section.objects = true,
                other => return Err(PostgresError::NotParallel(format!("{other} of {}", entry.name))),
            }
        }
        Ok(section)
    }
}

/// Table and columns of `COPY schema.table (a, "b (c)") FROM stdin;`.
fn copy_parts(statement: &str) -> Option<(&str, &str)> {
    let rest = statement.trim_end().strip_prefix("COPY ")?.strip_suffix(" FROM stdin;")?;
    let end = name_end(rest)?;
    let (target, columns) = rest.split_at(end);
    let columns = columns.trim();
    if columns.is_empty() {
        return Some((target, ""));
    }
    Some((target, columns.strip_prefix('(')?.strip_suffix(')')?))
}

/// Where `schema.table` ends: at the first space outside of quotes.
fn name_end(text: &str) -> Option<usize> {
    let mut quoted = false;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'"' => quoted = !quoted,
            b' ' if !quoted => return Some(at),
            _ => {}
        }
    }
    (!quoted).then_some(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_statement_is_taken_apart_whatever_the_names_are() {
        for (statement, expected) in [
            ("COPY public.a (x, y) FROM stdin;\n", Some(("public.a", "x, y"))),
            ("COPY public.e  FROM stdin;\n", Some(("public.e", ""))),
            (
                "COPY \"S (1)\".\"t \"\" FROM stdin;\" (\"a (b)\", c) FROM stdin;\n",
                Some(("\"S (1)\".\"t \"\" FROM stdin;\"", "\"a (b)\", c")),
            ),
            ("COPY a.b (x FROM stdin;", None),
            ("COPY a.\"b (x) FROM stdin;", None),
            ("INSERT INTO a", None),
        ] {
            assert_eq!(copy_parts(statement), expected, "{statement}");
        }
    }

    #[test]
    fn unknown_data_is_refused_by_its_kind() {
        let entry = |description: &str, statement: &str| DataEntry {
            description: description.to_owned(),
            schema: "s".to_owned(),
            name: "n".to_owned(),
            statement: statement.to_owned(),
        };
        let section = DataSection::of(vec![
            entry("TABLE DATA", "COPY s.n (a) FROM stdin;\n"),
            entry("SEQUENCE SET", "SELECT pg_catalog.setval('s.q', 1, true);\n"),
            entry("BLOBS", ""),
        ]);
        let section = section.unwrap();
        assert_eq!(section.tables[0].quoted(), "\"s\".\"n\"");
        assert_eq!(section.tables[0].column_list(), " (a)");
        assert!(section.objects && section.sequences.len() == 1);
        let error = DataSection::of(vec![entry("STATISTICS DATA", "")]).unwrap_err();
        assert!(error.to_string().contains("STATISTICS DATA of n"), "{error}");
    }
}
