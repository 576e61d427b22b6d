//! New names for collections, as patterns of `mongorestore`.

use std::collections::BTreeMap;

use crate::mongodb::archive::Namespace;

/// Pairs of `--nsFrom` and `--nsTo` that give every collection its name: one for a whole database
/// where all of it moves together.
pub(super) fn pairs(names: &[(Namespace, Namespace)]) -> Vec<(String, String)> {
    let mut databases = BTreeMap::<&str, Vec<&(Namespace, Namespace)>>::new();
    for pair in names {
        databases.entry(&pair.0.db).or_default().push(pair);
    }
    let mut pairs = Vec::new();
    for (db, names) in databases {
        if names.iter().all(|(from, to)| from == to) {
            continue;
        }
        let to = &names[0].1.db;
        let together = names.iter().all(|(from, last)| last.db == *to && last.collection == from.collection);
        if together {
            pairs.push((format!("{}.*", literal(db)), format!("{}.*", literal(to))));
        } else {
            let moved = names.iter().filter(|(from, to)| from != to);
            pairs.extend(moved.map(|(from, to)| (literal(&from.to_string()), literal(&to.to_string()))));
        }
    }
    pairs
}

/// The text itself, where `*` and `$` would have a meaning.
fn literal(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, '*' | '$' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn databases_move_together_or_one_by_one() {
        let ns = |text: &str| {
            let (db, collection) = text.split_once('.').unwrap();
            Namespace::new(db, collection)
        };
        let of = |names: &[(&str, &str)]| {
            let names: Vec<_> = names.iter().map(|(from, to)| (ns(from), ns(to))).collect();
            pairs(&names)
        };
        let pair = |from: &str, to: &str| (from.to_owned(), to.to_owned());
        assert_eq!(of(&[("a.x", "a.x"), ("a.y", "a.y")]), []);
        assert_eq!(of(&[("a.x", "b.x"), ("a.y.z", "b.y.z")]), [pair("a.*", "b.*")]);
        assert_eq!(
            of(&[("a.x*", "b.x*"), ("a.y", "b.old"), ("c.z", "c.z")]),
            [pair("a.x\\*", "b.x\\*"), pair("a.y", "b.old")]
        );
        assert_eq!(of(&[("a.x", "a.x"), ("a.$y", "a.z")]), [pair("a.\\$y", "a.z")]);
    }
}
