//! Which databases of a server are meant.

/// Names and patterns of databases: `*` is any text, `?` any one character, everything else itself.
#[derive(Debug, Clone, Default)]
pub(in super::super) struct Patterns {
    include: Vec<String>,
    exclude: Vec<String>,
}

impl Patterns {
    /// Everything where `include` is empty.
    pub(in super::super) fn new(include: &[String], exclude: &[String]) -> Self {
        let include = if include.is_empty() { vec!["*".to_owned()] } else { include.to_vec() };
        Self { include, exclude: exclude.to_vec() }
    }

    /// Whether the database is meant.
    pub(in super::super) fn take(&self, name: &str) -> bool {
        let any = |patterns: &[String]| patterns.iter().any(|pattern| matches(pattern, name));
        any(&self.include) && !any(&self.exclude)
    }

    /// Whether the database is meant by its very name.
    pub(in super::super) fn names(&self, name: &str) -> bool {
        self.include.iter().any(|pattern| pattern == name)
    }

    /// The first name or pattern, of either kind, that fits none of these: surely a mistake.
    pub(in super::super) fn unmatched<'a>(
        &self,
        names: &(impl Iterator<Item = &'a str> + Clone),
    ) -> Option<&str> {
        let mut all = self.include.iter().chain(&self.exclude);
        all.find(|pattern| !names.clone().any(|name| matches(pattern, name))).map(String::as_str)
    }
}

fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    // Where the last star stands, and up to where it reaches.
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        if pattern.get(p) == Some(&'*') {
            star = Some((p, n));
            p += 1;
        } else if pattern.get(p).is_some_and(|c| *c == '?' || *c == name[n]) {
            p += 1;
            n += 1;
        } else if let Some((at, reach)) = star {
            star = Some((at, reach + 1));
            p = at + 1;
            n = reach + 1;
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_a_shell() {
        for (pattern, name, expected) in [
            ("*", "", true),
            ("*", "a b", true),
            ("shop_*", "shop_", true),
            ("shop_*", "Shop_1", false),
            ("*_*x", "a_bxx", true),
            ("*_*x", "a_bxy", false),
            ("?", "ü", true),
            ("?", "", false),
            ("a?c*", "abcd", true),
            ("", "a", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn mistakes_are_found() {
        let names = ["a", "b"];
        let owned = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let patterns = |include: &[&str], exclude: &[&str]| Patterns::new(&owned(include), &owned(exclude));
        assert_eq!(patterns(&[], &["b"]).unmatched(&names.into_iter()), None);
        assert_eq!(patterns(&["a", "c*"], &[]).unmatched(&names.into_iter()), Some("c*"));
        assert_eq!(patterns(&[], &["c"]).unmatched(&names.into_iter()), Some("c"));
        assert!(patterns(&[], &["b"]).take("a") && !patterns(&[], &["b"]).take("b"));
        assert!(patterns(&["a"], &[]).names("a") && !patterns(&[], &[]).names("a"));
    }
}
