//! Tables cut into ranges of pages.

use super::super::names::literal;
use super::toc::TableData;

/// Bytes of a table in one range, its long values included: what is read again at the most when a
/// connection is lost. Of a very large table more, so that the ranges stay countable.
const RANGE_BYTES: u64 = 16 * 1024 * 1024;
const RANGE_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// A larger table has longer ranges.
const RANGES_WANTED: u64 = 1024;
/// The fewest pages of one range, however long the values are that its rows point to.
const PAGES_MIN: u64 = 128;

/// What the server says of a table.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct TableFacts {
    /// A plain table in heap pages, which a condition on `ctid` cuts.
    pub(super) cut: bool,
    /// Pages of the table itself.
    pub(super) pages: u64,
    /// Bytes of the table and its long values.
    pub(super) bytes: u64,
    /// The condition of an extension that keeps some rows of its own table to itself: `WHERE ...`.
    pub(super) condition: String,
    /// Whether `COPY table TO` reads it; otherwise only a query does.
    pub(super) plain: bool,
}

/// One piece of work: rows of one table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Range {
    /// Which table, by its place among all.
    pub(super) table: usize,
    /// First page, and the page after the last; `None` is the end of the table. Without both it is
    /// the whole table.
    pub(super) pages: Option<(u64, Option<u64>)>,
}

/// The ranges of all tables, the largest table first, so that all workers end together.
pub(super) fn ranges(facts: &[TableFacts]) -> Vec<Range> {
    let mut order: Vec<usize> = (0..facts.len()).collect();
    order.sort_by_key(|&at| std::cmp::Reverse(facts[at].bytes));
    let mut ranges = Vec::new();
    for table in order {
        let pages = step(&facts[table]);
        if pages == 0 || facts[table].pages <= pages {
            ranges.push(Range { table, pages: None });
            continue;
        }
        let mut from = 0;
        // Pages that were added after the snapshot hold nothing that it sees; the last range takes
        // them all the same.
        while from < facts[table].pages {
            let to = from + pages;
            let last = to >= facts[table].pages;
            ranges.push(Range { table, pages: Some((from, (!last).then_some(to))) });
            from = to;
        }
    }
    ranges
}

/// Who does what: ranges of tables that are cut are anybody's, every other table is one session's
/// alone, so that only that one has to lock it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Shares {
    /// Ranges for whoever is free.
    pub(super) common: Vec<Range>,
    /// Ranges of each session alone; as many lists as there are sessions.
    pub(super) own: Vec<Vec<Range>>,
}

/// The ranges of all tables for at most so many sessions.
pub(super) fn shares(facts: &[TableFacts], jobs: usize) -> Shares {
    let ranges = ranges(facts);
    let mut shares = Shares { common: Vec::new(), own: vec![Vec::new(); jobs.min(ranges.len())] };
    let mut bytes = vec![0; shares.own.len()];
    for range in ranges {
        if range.pages.is_some() {
            shares.common.push(range);
        } else if let Some(least) = (0..bytes.len()).min_by_key(|&at| bytes[at]) {
            bytes[least] += facts[range.table].bytes.max(1);
            shares.own[least].push(range);
        }
    }
    shares
}

/// Pages of one range; 0 where the table is not cut.
fn step(facts: &TableFacts) -> u64 {
    if !facts.cut || facts.pages == 0 {
        return 0;
    }
    let of_one_page = (facts.bytes / facts.pages).max(1);
    let bytes = (facts.bytes / RANGES_WANTED).clamp(RANGE_BYTES, RANGE_BYTES_MAX);
    (bytes / of_one_page).max(PAGES_MIN)
}

impl Range {
    /// The statement that writes the rows, in this encoding.
    pub(super) fn statement(&self, table: &TableData, facts: &TableFacts, encoding: &str) -> String {
        let options = format!("(ENCODING {})", literal(encoding));
        let name = table.quoted();
        let condition = match self.pages {
            None if facts.condition.is_empty() && facts.plain => {
                return format!("COPY {name}{} TO STDOUT {options};", table.column_list());
            }
            None => facts.condition.clone(),
            Some((from, None)) => format!("WHERE ctid >= '({from},0)'::pg_catalog.tid"),
            Some((from, Some(to))) => {
                format!("WHERE ctid >= '({from},0)'::pg_catalog.tid AND ctid < '({to},0)'::pg_catalog.tid")
            }
        };
        format!("COPY (SELECT {} FROM ONLY {name} {condition}) TO STDOUT {options};", table.columns)
    }

    /// The name of its member.
    pub(super) fn member(&self) -> String {
        match self.pages {
            None => format!("data/{}", self.table + 1),
            Some((from, _)) => format!("data/{}/{from}", self.table + 1),
        }
    }

    /// The pages, for a person.
    pub(super) fn shown(&self) -> Option<String> {
        let (from, to) = self.pages?;
        Some(format!("{from}-{}", to.map_or_else(String::new, |to| (to - 1).to_string())))
    }
}

/// `LOCK TABLE` for these tables, some with each statement.
pub(super) fn lock_statements(tables: &[&TableData]) -> Vec<String> {
    const AT_ONCE: usize = 500;
    let lock = |some: &[&TableData]| {
        let names: Vec<String> = some.iter().map(|table| format!("ONLY {}", table.quoted())).collect();
        format!("LOCK TABLE {} IN ACCESS SHARE MODE;", names.join(", "))
    };
    tables.chunks(AT_ONCE).map(lock).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heap(pages: u64, bytes: u64) -> TableFacts {
        TableFacts { cut: true, pages, bytes, plain: true, ..TableFacts::default() }
    }

    #[test]
    fn ranges_cover_every_page_once_and_the_last_is_open() {
        const PAGE: u64 = 8192;
        let facts = [
            heap(10, 10 * PAGE),
            heap(20_000, 20_000 * PAGE),
            heap(0, 0),
            TableFacts { cut: false, ..heap(90_000, 90_000 * PAGE) },
            // A few pages that point to a lot.
            heap(1_000, 1 << 40),
        ];
        let ranges = ranges(&facts);
        for (table, facts) in facts.iter().enumerate() {
            let mine: Vec<_> = ranges.iter().filter(|range| range.table == table).collect();
            if mine.len() == 1 {
                assert_eq!(mine[0].pages, None);
                continue;
            }
            let mut next = 0;
            for (at, range) in mine.iter().enumerate() {
                let (from, to) = range.pages.unwrap();
                assert_eq!(from, next);
                assert_eq!(to.is_none(), at == mine.len() - 1, "only the last is open");
                next = to.unwrap_or(facts.pages);
            }
            assert_eq!(next, facts.pages);
        }
        let count = |table| ranges.iter().filter(|range| range.table == table).count();
        assert_eq!([0, 1, 2, 3, 4].map(count), [1, 10, 1, 1, 8]);
        assert_eq!(ranges[0].table, 4, "the largest first");
    }

    #[test]
    fn small_tables_are_one_sessions_and_large_ones_are_everybodys() {
        const PAGE: u64 = 8192;
        let mut facts = vec![heap(1, PAGE); 9];
        facts[4] = heap(5_000, 5_000 * PAGE);
        facts[7] = heap(800, 800 * PAGE);
        let shares = shares(&facts, 3);
        assert!(shares.common.len() > 1 && shares.common.iter().all(|range| range.table == 4));
        let own: Vec<Vec<usize>> =
            shares.own.iter().map(|ranges| ranges.iter().map(|range| range.table).collect()).collect();
        assert_eq!(own, [vec![7], vec![0, 2, 5, 8], vec![1, 3, 6]]);
        assert_eq!(super::shares(&facts[..1], 3).own.len(), 1, "no session without work");
        assert_eq!(super::shares(&[], 3), Shares::default());
    }

    #[test]
    fn statements_read_what_they_should() {
        let table = TableData {
            schema: "S \"1\"".to_owned(),
            name: "t".to_owned(),
            target: "x.y".to_owned(),
            columns: "a, \"B\"".to_owned(),
        };
        let whole = Range { table: 0, pages: None };
        assert_eq!(
            whole.statement(&table, &heap(1, 1), "UTF8"),
            "COPY \"S \"\"1\"\"\".\"t\" (a, \"B\") TO STDOUT (ENCODING 'UTF8');"
        );
        let conditional = TableFacts { condition: "WHERE a > 1".to_owned(), ..heap(1, 1) };
        assert_eq!(
            whole.statement(&table, &conditional, "LATIN1"),
            "COPY (SELECT a, \"B\" FROM ONLY \"S \"\"1\"\"\".\"t\" WHERE a > 1) TO STDOUT (ENCODING 'LATIN1');"
        );
        let middle = Range { table: 0, pages: Some((8, Some(16))) };
        let text = middle.statement(&table, &heap(1, 1), "UTF8");
        let expected = "WHERE ctid >= '(8,0)'::pg_catalog.tid AND ctid < '(16,0)'::pg_catalog.tid)";
        assert!(text.contains(expected), "{text}");
        assert_eq!((middle.member().as_str(), middle.shown().as_deref()), ("data/1/8", Some("8-15")));
    }
}
