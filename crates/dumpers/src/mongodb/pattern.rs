//! Which collections are meant, and what they are called after a restore.

use backup_core::{Error, ErrorKind, Result, Selection};

use super::archive::Namespace;
use super::config::wrong;

/// Patterns over full names: `database`, `database.collection`, and where one database is chosen
/// `collection` alone; `*` stands for any text and `?` for one character.
#[derive(Debug, Clone)]
pub(super) struct Patterns {
    include: Vec<String>,
    exclude: Vec<String>,
    one_database: bool,
}

impl Patterns {
    pub(super) fn new(what: &Selection, one_database: bool) -> Self {
        Self { include: what.include.clone(), exclude: what.exclude.clone(), one_database }
    }

    fn fits(&self, pattern: &str, namespace: &Namespace) -> bool {
        let (db, collection) = (&*namespace.db, &*namespace.collection);
        matches(pattern, &format!("{db}.{collection}"))
            || if self.one_database { matches(pattern, collection) } else { matches(pattern, db) }
    }

    /// Whether this collection is meant.
    pub(super) fn take(&self, namespace: &Namespace) -> bool {
        let any = |patterns: &[String]| patterns.iter().any(|pattern| self.fits(pattern, namespace));
        (self.include.is_empty() || any(&self.include)) && !any(&self.exclude)
    }

    /// Refuses a pattern of what is wanted that fits nothing: a backup without it would look whole.
    pub(super) fn check(&self, all: &[Namespace]) -> Result<()> {
        for pattern in &self.include {
            if !all.iter().any(|namespace| self.fits(pattern, namespace)) {
                let usable = if self.one_database { "collection" } else { "database or database.collection" };
                return Err(Error::new(
                    ErrorKind::NotFound,
                    "include",
                    format!("{pattern:?} fits no collection"),
                )
                .with_hint(format!("write the name of a {usable}; * stands for any text")));
            }
        }
        Ok(())
    }
}

/// Whether `pattern` fits all of `text`.
pub(super) fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut at_pattern, mut at_text) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while at_text < text.len() {
        match pattern.get(at_pattern) {
            Some('*') => {
                star = Some((at_pattern, at_text));
                at_pattern += 1;
            }
            Some(c) if *c == '?' || *c == text[at_text] => {
                at_pattern += 1;
                at_text += 1;
            }
            _ => match star {
                // Let the last star take one more character.
                Some((pattern_at, text_at)) => {
                    star = Some((pattern_at, text_at + 1));
                    (at_pattern, at_text) = (pattern_at + 1, text_at + 1);
                }
                None => return false,
            },
        }
    }
    pattern[at_pattern..].iter().all(|c| *c == '*')
}

/// New names: the first rule that fits wins, what fits none keeps its name.
#[derive(Debug, Clone, Default)]
pub(super) struct Renames {
    rules: Vec<(String, String)>,
    /// Everything goes into this database.
    into: Option<String>,
}

impl Renames {
    /// `from=to` rules, and the one database of the target where it names one.
    pub(super) fn new(rules: &[String], into: Option<String>) -> Result<Self> {
        let rules = rules
            .iter()
            .map(|rule| {
                let refuse = |what: &str| wrong("rename", format!("{rule:?} {what}"));
                let (from, to) = rule.split_once('=').ok_or_else(|| refuse("is not FROM=TO"))?;
                if from.is_empty() || to.is_empty() || from.contains('.') != to.contains('.') {
                    return Err(refuse("needs a database, or database.collection, on both sides"));
                }
                let stars = |text: &str| text.matches('*').count();
                if stars(from) > 1 || stars(to) > stars(from) {
                    return Err(refuse("may have one * on each side"));
                }
                Ok((from.to_owned(), to.to_owned()))
            })
            .collect::<Result<_>>()?;
        Ok(Self { rules, into })
    }

    /// What this collection is called afterwards.
    pub(super) fn of(&self, namespace: &Namespace) -> Namespace {
        let full = namespace.to_string();
        for (from, to) in &self.rules {
            if from.contains('.') {
                if let Some(name) = replaced(from, to, &full)
                    && let Some((db, collection)) = name.split_once('.')
                {
                    return Namespace::new(db, collection);
                }
            } else if let Some(db) = replaced(from, to, &namespace.db) {
                return Namespace::new(db, &*namespace.collection);
            }
        }
        match &self.into {
            Some(db) => Namespace::new(&**db, &*namespace.collection),
            None => namespace.clone(),
        }
    }

    /// Whether all of it goes into one database.
    pub(super) fn into(&self) -> Option<&str> {
        self.into.as_deref()
    }

    /// Whether there are rules besides the one database.
    pub(super) fn has_rules(&self) -> bool {
        !self.rules.is_empty()
    }

    /// The rules as they were written.
    pub(super) fn describe(&self) -> Vec<String> {
        self.rules.iter().map(|(from, to)| format!("{from} becomes {to}")).collect()
    }
}

/// `text` with the part that the star of `from` stands for put in the place of the star of `to`.
fn replaced(from: &str, to: &str, text: &str) -> Option<String> {
    match from.split_once('*') {
        None => (from == text).then(|| to.to_owned()),
        Some((before, after)) => {
            let part = text.strip_prefix(before)?.strip_suffix(after)?;
            Some(to.replacen('*', part, 1))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_and_question_marks_stand_for_text() {
        for (pattern, text, fits) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("*", "", true),
            ("*", "anything.at all", true),
            ("a*c", "abbc", true),
            ("a*c", "abbd", false),
            ("*log*", "shop.catalogue", true),
            ("a?c", "aüc", true),
            ("a?c", "ac", false),
            ("**x", "aax", true),
            ("", "", true),
            ("", "a", false),
        ] {
            assert_eq!(matches(pattern, text), fits, "{pattern} {text}");
        }
    }

    #[test]
    fn a_selection_is_of_databases_or_collections() {
        let ns = |db: &str, collection: &str| Namespace::new(db, collection);
        let select = |include: &[&str], exclude: &[&str], one| {
            let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
            Patterns::new(&Selection { include: texts(include), exclude: texts(exclude) }, one)
        };
        assert!(select(&["shop"], &[], false).take(&ns("shop", "a.b")));
        assert!(!select(&["shop"], &[], false).take(&ns("other", "shop")));
        assert!(select(&["a.b"], &[], true).take(&ns("shop", "a.b")));
        assert!(select(&["shop.a.*"], &[], true).take(&ns("shop", "a.b")));
        assert!(!select(&[], &["*.log"], false).take(&ns("shop", "log")));
        assert!(!select(&["shop"], &["shop.log*"], false).take(&ns("shop", "log1")));
        let all = [ns("shop", "a")];
        let error = select(&["shop", "shpo"], &[], false).check(&all).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.what().contains("shpo"));
    }

    #[test]
    fn names_change_by_the_first_rule_that_fits() {
        let rules = ["shop.orders=arch.orders_old", "shop.*=new.*", "a*=b*"].map(str::to_owned);
        let renames = Renames::new(&rules, None).unwrap();
        for (from, to) in [
            (("shop", "orders"), ("arch", "orders_old")),
            (("shop", "x.y"), ("new", "x.y")),
            (("abc", "x"), ("bbc", "x")),
            (("z", "x"), ("z", "x")),
        ] {
            assert_eq!(renames.of(&Namespace::new(from.0, from.1)), Namespace::new(to.0, to.1));
        }
        let into = Renames::new(&[], Some("t".to_owned())).unwrap();
        assert_eq!(into.of(&Namespace::new("s", "c")), Namespace::new("t", "c"));
        for bad in ["x", "=x", "a.b=c", "*a*=b", "a=b*"] {
            assert!(Renames::new(&[bad.to_owned()], None).is_err(), "{bad}");
        }
    }
}
