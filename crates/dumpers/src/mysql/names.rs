//! Names as MySQL and MariaDB write them.

/// A quoted identifier (MySQL manual, 11.2).
#[must_use]
pub(super) fn identifier(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// A string literal, as it is read in every SQL mode but `NO_BACKSLASH_ESCAPES`.
#[must_use]
pub(super) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

/// A name, quoted unless it is a plain word.
#[must_use]
pub(super) fn shown(name: &str) -> String {
    let plain = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if plain { name.to_owned() } else { identifier(name) }
}

/// `database.table`, each quoted where that is needed.
#[must_use]
pub(super) fn qualified(database: &str, name: &str) -> String {
    format!("{}.{}", shown(database), shown(name))
}

/// A pattern for names: `*` stands for any letters, `?` for one; a dot parts database and table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern {
    database: Option<String>,
    name: String,
}

impl Pattern {
    /// `table`, `database.table`, or either part in backticks where it holds a dot or a star.
    pub(super) fn of_table(text: &str) -> Self {
        let (first, rest) = part(text);
        match rest.strip_prefix('.') {
            Some(rest) if !rest.is_empty() => Self { database: Some(first), name: part_whole(rest) },
            _ if rest.is_empty() => Self { database: None, name: first },
            _ => Self { database: None, name: escaped(text) },
        }
    }

    /// One for the names of databases.
    pub(super) fn of_database(text: &str) -> Self {
        Self { database: None, name: part_whole(text) }
    }

    /// Whether a table is meant.
    pub(super) fn matches(&self, database: &str, name: &str) -> bool {
        self.database.as_ref().is_none_or(|pattern| matches(pattern, database)) && matches(&self.name, name)
    }

    /// Whether a database is meant.
    pub(super) fn matches_database(&self, name: &str) -> bool {
        matches(&self.name, name)
    }
}

/// The part before the first dot outside of backticks, as a pattern.
fn part(text: &str) -> (String, &str) {
    if let Some(inside) = text.strip_prefix('`') {
        let mut name = String::new();
        let mut rest = inside;
        while let Some(at) = rest.find('`') {
            name.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            match rest.strip_prefix('`') {
                Some(after) => {
                    name.push('`');
                    rest = after;
                }
                None => return (escaped(&name), rest),
            }
        }
        return (escaped(text), "");
    }
    match text.find('.') {
        Some(at) => (text[..at].replace('\\', "\\\\"), &text[at..]),
        None => (text.replace('\\', "\\\\"), ""),
    }
}

fn part_whole(text: &str) -> String {
    if text.starts_with('`') { part(text).0 } else { text.replace('\\', "\\\\") }
}

fn escaped(name: &str) -> String {
    name.replace('\\', "\\\\").replace('*', "\\*").replace('?', "\\?")
}

/// Whether a text is what a pattern stands for.
fn matches(pattern: &str, text: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let text: Vec<char> = text.chars().collect();
    let (mut p, mut t) = (0, 0);
    let mut again: Option<(usize, usize)> = None;
    while t < text.len() {
        let (literal, width) = match pattern.get(p) {
            Some('\\') => (pattern.get(p + 1), 2),
            other => (other, 1),
        };
        match pattern.get(p) {
            Some('*') => {
                again = Some((p, t));
                p += 1;
                continue;
            }
            Some('?') => {
                p += 1;
                t += 1;
                continue;
            }
            _ if literal == Some(&text[t]) => {
                p += width;
                t += 1;
                continue;
            }
            _ => {}
        }
        // Let the last star stand for one letter more.
        let Some((star, from)) = again else { return false };
        again = Some((star, from + 1));
        p = star + 1;
        t = from + 1;
    }
    pattern[p..].iter().all(|char| *char == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_names_stay_values() {
        assert_eq!(identifier("a`b; DROP"), "`a``b; DROP`");
        assert_eq!(literal("a'b\\"), "'a''b\\\\'");
        assert_eq!(qualified("shop", "Ünsinn"), "shop.`Ünsinn`");
    }

    #[test]
    fn patterns_stand_for_tables() {
        let table = [
            ("orders", "shop", "orders", true),
            ("orders", "shop", "orders2", false),
            ("ord*", "shop", "orders", true),
            ("*_log", "shop", "a_log_log", true),
            ("*_log", "shop", "a_log_lo", false),
            ("o?ders", "shop", "orders", true),
            ("shop.orders", "shop", "orders", true),
            ("shop.orders", "other", "orders", false),
            ("s*.*", "shop", "orders", true),
            ("`a.b`", "shop", "a.b", true),
            ("`a*`", "shop", "ab", false),
            ("`a*`", "shop", "a*", true),
            ("`x``y`.`a.b`", "x`y", "a.b", true),
            ("a\\b", "shop", "a\\b", true),
            ("é*", "shop", "été", true),
        ];
        for (pattern, database, name, expected) in table {
            assert_eq!(Pattern::of_table(pattern).matches(database, name), expected, "{pattern} {name}");
        }
    }
}
