//! The last member: what was written, counted by its writer.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::bundle::HEAD_LEN_MAX;

/// The longest list that is read: a million members.
pub(in crate::postgres) const CONTENTS_MAX: usize = 1024 * HEAD_LEN_MAX;

/// Rows by the names of the data members.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::postgres) struct Contents {
    /// Every data member of the bundle, and how many rows it has.
    pub(in crate::postgres) rows: BTreeMap<String, u64>,
}

impl Contents {
    /// Where what was found differs from what was written, in one sentence.
    pub(in crate::postgres) fn differs(&self, found: &BTreeMap<String, u64>) -> Option<String> {
        let wrong = self.rows.iter().find(|(name, rows)| found.get(*name) != Some(rows));
        if let Some((name, rows)) = wrong {
            return Some(match found.get(name) {
                None => format!("member {name:?} is missing"),
                Some(found) => format!("member {name:?} has {found} rows, and {rows} were written"),
            });
        }
        let more = found.keys().find(|name| !self.rows.contains_key(*name));
        more.map(|name| format!("member {name:?} was not written"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_difference_is_found() {
        let rows = |rows: &[(&str, u64)]| -> BTreeMap<String, u64> {
            rows.iter().map(|(name, rows)| ((*name).to_owned(), *rows)).collect()
        };
        let contents = Contents { rows: rows(&[("a", 1), ("b", 2)]) };
        assert_eq!(contents.differs(&contents.rows), None);
        for (found, expected) in [
            (rows(&[("a", 1)]), "member \"b\" is missing"),
            (rows(&[("a", 1), ("b", 3)]), "member \"b\" has 3 rows, and 2 were written"),
            (rows(&[("a", 1), ("b", 2), ("c", 0)]), "member \"c\" was not written"),
        ] {
            assert_eq!(contents.differs(&found).as_deref(), Some(expected));
        }
    }
}
