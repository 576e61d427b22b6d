//! Which entries are wanted.

use std::cell::Cell;

use backup_core::Selection;

/// Patterns over names below the folder. `*` and `?` stand for anything but a slash, `**` for
/// anything. One with a slash is held against the whole name, one without against its last part.
/// A folder that fits brings or takes all that is in it.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    include: Vec<Vec<u8>>,
    exclude: Vec<Vec<u8>>,
    /// The patterns of `include` that fitted something.
    used: Vec<Cell<bool>>,
}

impl Wanted {
    pub(super) fn new(what: &Selection) -> Self {
        let patterns = |list: &[String]| {
            let trimmed =
                list.iter().map(|text| text.strip_prefix("./").unwrap_or(text).trim_end_matches('/'));
            trimmed.map(|text| text.as_bytes().to_vec()).collect()
        };
        let include: Vec<Vec<u8>> = patterns(&what.include);
        let used = vec![Cell::new(false); include.len()];
        Self { include, exclude: patterns(&what.exclude), used }
    }

    /// Whether everything is wanted.
    pub(super) fn everything(&self) -> bool {
        self.include.is_empty() && self.exclude.is_empty()
    }

    /// Not this, and nothing below it.
    pub(super) fn excludes(&self, path: &[u8]) -> bool {
        self.exclude.iter().any(|pattern| fits(pattern, path))
    }

    /// This, and all below it.
    pub(super) fn includes(&self, path: &[u8]) -> bool {
        let mut included = self.include.is_empty();
        for (pattern, used) in self.include.iter().zip(&self.used) {
            if fits(pattern, path) {
                used.set(true);
                included = true;
            }
        }
        included
    }

    /// The patterns of `include` that fitted nothing so far.
    pub(super) fn unused(&self) -> Vec<String> {
        let unused = self.include.iter().zip(&self.used).filter(|(_, used)| !used.get());
        unused.map(|(pattern, _)| String::from_utf8_lossy(pattern).into_owned()).collect()
    }
}

fn fits(pattern: &[u8], path: &[u8]) -> bool {
    match pattern.strip_prefix(b"/") {
        Some(whole) => matches(whole, path),
        None if pattern.contains(&b'/') => matches(pattern, path),
        None => matches(pattern, path.rsplit(|byte| *byte == b'/').next().unwrap_or_default()),
    }
}

/// Whether a pattern stands for a whole text.
///
/// Goes back to the last star where the rest does not fit: a product of the lengths at most for
/// each kind of star.
pub(crate) fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where to go on after a star took one more byte: a single star, a double one.
    type Back = Option<(usize, usize)>;
    let (mut single, mut double): (Back, Back) = (None, None);
    loop {
        if pattern[p..].starts_with(b"**") {
            p += 2;
            // `**/` also stands for nothing.
            if pattern.get(p) == Some(&b'/') && matches(&pattern[p + 1..], &text[t..]) {
                return true;
            }
            (double, single) = (Some((p, t)), None);
            continue;
        }
        match (pattern.get(p), text.get(t)) {
            (None, None) => return true,
            (Some(b'*'), _) => {
                p += 1;
                single = Some((p, t));
                continue;
            }
            (Some(b'?'), Some(byte)) if *byte != b'/' => {
                (p, t) = (p + 1, t + 1);
                continue;
            }
            (Some(a), Some(b)) if a == b => {
                (p, t) = (p + 1, t + 1);
                continue;
            }
            _ => {}
        }
        if let Some((after, from)) = single
            && text.get(from).is_some_and(|byte| *byte != b'/')
        {
            (p, t) = (after, from + 1);
            single = Some((p, t));
        } else if let Some((after, from)) = double
            && from < text.len()
        {
            (p, t) = (after, from + 1);
            (double, single) = (Some((p, t)), None);
        } else {
            return false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_what_they_say() {
        for (pattern, path, expected) in [
            ("*.log", "a/b/x.log", true),
            ("*.log", "a/b/x.logs", false),
            ("cache", "a/cache", true),
            ("a/*.log", "a/x.log", true),
            ("a/*.log", "a/b/x.log", false),
            ("a/**/*.log", "a/b/c/x.log", true),
            ("a/**/x.log", "a/x.log", true),
            ("**/tmp", "tmp", true),
            ("**/tmp", "a/tmp", true),
            ("/top", "top", true),
            ("/top", "a/top", false),
            ("a?c", "abc", true),
            ("a?c", "a/c", false),
            ("*", "", true),
            ("a*b*c", "aXbYbZc", true),
            ("a/**c", "a/b/c", true),
        ] {
            assert_eq!(fits(pattern.as_bytes(), path.as_bytes()), expected, "{pattern} {path}");
        }
        let many = "*a".repeat(30);
        assert!(!fits(many.as_bytes(), "a".repeat(200).replace("aaaaaaaaaa", "ab").as_bytes()));
    }
}
