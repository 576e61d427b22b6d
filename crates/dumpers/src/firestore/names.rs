//! Names of documents and collections, and which of them are wanted.

use std::sync::atomic::{AtomicBool, Ordering};

use backup_core::{Error, ErrorKind, Result, Selection};

/// The lowest document id there can be: in the order of names, ids of this form are numbers and come
/// before all others.
const LOWEST_ID: &str = "__id-9223372036854775808__";

/// Whether a path, relative to the root of a database, names a document.
pub(super) fn is_document(path: &str) -> bool {
    path.split('/').count().is_multiple_of(2) && has_segments(path)
}

/// Whether a path names a collection.
pub(super) fn is_collection(path: &str) -> bool {
    !path.split('/').count().is_multiple_of(2) && has_segments(path)
}

fn has_segments(path: &str) -> bool {
    path.split('/').all(|segment| !matches!(segment, "" | "." | "..") && !segment.contains('\0'))
}

/// `users/alice/orders/7` as `users/*/orders`: what collections of one kind have in common.
pub(super) fn kind_of(document: &str) -> String {
    let mut kind = String::new();
    let mut segments = document.split('/').peekable();
    while let (Some(collection), Some(_)) = (segments.next(), segments.next()) {
        kind.push_str(collection);
        if segments.peek().is_some() {
            kind.push_str("/*/");
        }
    }
    kind
}

/// All documents of one collection and below it: names from `from` on, before `before`. Both are
/// relative to the root of the database; empty bounds are none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) from: String,
    pub(super) before: String,
}

impl Range {
    /// The documents of this collection and everything below them.
    pub(super) fn of_collection(path: &str) -> Self {
        // The name right behind a collection's is its own with a zero byte.
        Self { from: format!("{path}/{LOWEST_ID}"), before: format!("{path}\0/{LOWEST_ID}") }
    }
}

/// Which documents a dump holds.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    include: Vec<Pattern>,
    /// Which of them held a document so far.
    fitted: Vec<AtomicBool>,
    exclude: Vec<Pattern>,
}

/// `users`, `users/alice/orders`, `users/*/orders`, `log_*`, or `**/orders` at any depth.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pattern {
    text: String,
    segments: Vec<String>,
    anywhere: bool,
}

impl Pattern {
    fn parse(text: &str) -> Result<Self> {
        let (anywhere, path) = text.strip_prefix("**/").map_or((false, text), |path| (true, path));
        if !is_collection(path) || anywhere && path.contains('/') || path.contains("**") {
            return Err(Error::new(ErrorKind::Config, "selection", format!("{text:?} names no collection"))
                .with_hint(
                    "write the id of a collection, a path such as users/alice/orders or users/*/orders, \
                     or **/orders for all collections of that id",
                ));
        }
        let segments = path.split('/').map(str::to_owned).collect();
        Ok(Self { text: text.to_owned(), segments, anywhere })
    }

    fn is_literal(&self) -> bool {
        !self.anywhere && !self.text.contains('*')
    }

    /// Whether this document lies in a matching collection or below one.
    fn holds(&self, document: &[&str]) -> bool {
        if self.anywhere {
            let wanted = &self.segments[0];
            return document.iter().step_by(2).any(|collection| fits(wanted, collection));
        }
        document.len() > self.segments.len()
            && self.segments.iter().zip(document).all(|(pattern, segment)| fits(pattern, segment))
    }
}

/// Whether a text fits a pattern in which `*` stands for any letters.
fn fits(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    true
}

impl Wanted {
    /// Reads a selection.
    ///
    /// # Errors
    /// `Config` for what names no collection.
    pub(super) fn parse(selection: &Selection) -> Result<Self> {
        let all =
            |texts: &[String]| texts.iter().map(|text| Pattern::parse(text)).collect::<Result<Vec<_>>>();
        let include = all(&selection.include)?;
        let fitted = include.iter().map(|_| AtomicBool::new(false)).collect();
        Ok(Self { include, fitted, exclude: all(&selection.exclude)? })
    }

    /// Whether the dump holds this document.
    pub(super) fn holds(&self, document: &str) -> bool {
        if self.include.is_empty() && self.exclude.is_empty() {
            return true;
        }
        let segments: Vec<&str> = document.split('/').collect();
        let mut included = self.include.is_empty();
        for (pattern, fitted) in self.include.iter().zip(&self.fitted) {
            let known = included && fitted.load(Ordering::Relaxed);
            if !known && pattern.holds(&segments) {
                fitted.store(true, Ordering::Relaxed);
                included = true;
            }
        }
        included && !self.exclude.iter().any(|pattern| pattern.holds(&segments))
    }

    /// The collections that have to be read, given those at the root: no one within another.
    pub(super) fn collections(&self, roots: &[String]) -> Vec<String> {
        let mut found: Vec<String> = Vec::new();
        if self.include.is_empty() {
            found.extend_from_slice(roots);
        }
        for pattern in &self.include {
            if pattern.is_literal() {
                found.push(pattern.segments.join("/"));
            } else {
                let fits_root = |root: &&String| pattern.anywhere || fits(&pattern.segments[0], root);
                found.extend(roots.iter().filter(fits_root).cloned());
            }
        }
        found.sort();
        found.dedup();
        let all = found.clone();
        let within = |path: &String| all.iter().any(|other| path.starts_with(&format!("{other}/")));
        found.retain(|path| !within(path));
        // What is left out as a whole is not read at all.
        let gone = |path: &String| {
            let below: Vec<&str> = path.split('/').chain([""]).collect();
            self.exclude.iter().any(|pattern| pattern.holds(&below))
        };
        found.retain(|path| !gone(path));
        found
    }

    /// A pattern that none of the documents asked about so far fitted: a backup without it would look
    /// whole.
    pub(super) fn unfitted(&self) -> Option<&str> {
        let mut patterns = self.include.iter().zip(&self.fitted);
        let unfitted = |(pattern, fitted): &(&Pattern, &AtomicBool)| {
            !pattern.is_literal() && !fitted.load(Ordering::Relaxed)
        };
        patterns.find(unfitted).map(|(pattern, _)| &*pattern.text)
    }

    /// The collections that were asked for by their very names.
    pub(super) fn named(&self) -> impl Iterator<Item = &str> {
        self.include.iter().filter(|pattern| pattern.is_literal()).map(|pattern| pattern.text.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(include: &[&str], exclude: &[&str]) -> Wanted {
        let owned = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
        Wanted::parse(&Selection { include: owned(include), exclude: owned(exclude) }).unwrap()
    }

    #[test]
    fn a_selection_takes_collections_with_what_is_below() {
        let documents = [
            "users/alice",
            "users/alice/orders/1",
            "users/alice/orders/1/lines/2",
            "users/bob/orders/1",
            "usersx/a",
            "log_1/a",
            "orders/9",
            "a.b \"é/x",
        ];
        let table: [(&[&str], &[&str], &[usize]); 10] = [
            (&[], &[], &[0, 1, 2, 3, 4, 5, 6, 7]),
            (&["users"], &[], &[0, 1, 2, 3]),
            (&["users/alice/orders"], &[], &[1, 2]),
            (&["users/*/orders"], &[], &[1, 2, 3]),
            (&["**/orders"], &[], &[1, 2, 3, 6]),
            (&["log_*", "a.b \"é"], &[], &[5, 7]),
            (&[], &["users"], &[4, 5, 6, 7]),
            (&["users"], &["users/alice/orders/1/lines"], &[0, 1, 3]),
            (&["users"], &["**/orders"], &[0]),
            (&["*"], &["*"], &[]),
        ];
        for (include, exclude, expected) in table {
            let wanted = wanted(include, exclude);
            let held: Vec<usize> = (0..documents.len()).filter(|&i| wanted.holds(documents[i])).collect();
            assert_eq!(held, expected, "{include:?} without {exclude:?}");
        }
    }

    #[test]
    fn a_pattern_that_fits_nothing_is_known() {
        let wanted = wanted(&["log_*", "**/orders", "users"], &[]);
        assert_eq!(wanted.unfitted(), Some("log_*"));
        assert!(wanted.holds("log_1/a") && !wanted.holds("other/a"));
        assert_eq!(wanted.unfitted(), Some("**/orders"));
        assert!(wanted.holds("users/a/orders/1"));
        assert_eq!(wanted.unfitted(), None);
    }

    #[test]
    fn only_what_may_be_wanted_is_read() {
        let roots = ["a", "b", "users"].map(str::to_owned);
        for (include, exclude, expected) in [
            (&[][..], &[][..], &["a", "b", "users"][..]),
            (&[], &["a", "users/x/y"], &["b", "users"]),
            (&["users/x/y", "users/x/y/z/w"], &[], &["users/x/y"]),
            (&["users/*/y", "users/x/y"], &[], &["users"]),
            (&["nowhere"], &[], &["nowhere"]),
            (&["**/y"], &["**/b"], &["a", "users"]),
        ] {
            assert_eq!(wanted(include, exclude).collections(&roots), expected, "{include:?} {exclude:?}");
        }
    }

    #[test]
    fn what_names_no_collection_is_refused() {
        for bad in ["", "users/alice", "/users", "users/", "a//b", "**/a/b/c", "../x/y", "**", "a/**/b"] {
            let selection = Selection { include: vec![bad.to_owned()], exclude: vec![] };
            assert_eq!(Wanted::parse(&selection).unwrap_err().kind(), ErrorKind::Config, "{bad}");
        }
    }

    #[test]
    fn names_have_kinds() {
        assert_eq!(kind_of("users/alice"), "users");
        assert_eq!(kind_of("users/alice/orders/7"), "users/*/orders");
        assert!(is_document("a/b") && !is_document("a") && !is_document("a/../b/c") && !is_document("a/"));
        assert!(is_collection("a") && !is_collection("a/b") && !is_collection(""));
    }

    #[test]
    fn patterns_fit_as_in_a_shell() {
        for (pattern, text, fit) in [
            ("*", "", true),
            ("a*", "abc", true),
            ("*c", "abc", true),
            ("a*c", "abc", true),
            ("a*b*c", "aXbYc", true),
            ("a*b", "a", false),
            ("abc", "abc", true),
            ("abc", "abcd", false),
            ("a*a", "a", false),
            ("a*bc*c", "abc", false),
        ] {
            assert_eq!(fits(pattern, text), fit, "{pattern} {text}");
        }
    }
}
