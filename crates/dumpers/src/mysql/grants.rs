//! What a user may do, read from `SHOW GRANTS`.

use std::collections::BTreeSet;

/// The privileges that a dump needs on everything it dumps.
pub(super) const NEEDED: [&str; 4] = ["SELECT", "SHOW VIEW", "TRIGGER", "EVENT"];
/// Those that a dump of chosen tables needs.
pub(super) const NEEDED_OF_TABLES: [&str; 3] = ["SELECT", "SHOW VIEW", "TRIGGER"];

/// The grants of the current user, those of its active roles among them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Grants {
    lines: Vec<Grant>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Grant {
    revoked: bool,
    /// Upper case; `ALL PRIVILEGES` as it stands.
    privileges: BTreeSet<String>,
    on: On,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum On {
    Everything,
    /// A database by a pattern of `LIKE`.
    Database(String),
    /// A table of a database.
    Table(String, String),
    /// A routine.
    Part,
}

impl Grants {
    /// From the lines of `SHOW GRANTS`.
    pub(super) fn of<'a>(lines: impl IntoIterator<Item = &'a str>) -> Self {
        Self { lines: lines.into_iter().filter_map(grant).collect() }
    }

    /// Whether the user has a privilege on the whole server.
    pub(super) fn everywhere(&self, privilege: &str) -> bool {
        self.lines.iter().any(|line| !line.revoked && line.on == On::Everything && line.gives(privilege))
    }

    /// Whether the user has a privilege on every part of a database.
    pub(super) fn on_database(&self, privilege: &str, database: &str) -> bool {
        let named = |line: &&Grant| match &line.on {
            On::Database(pattern) => like(pattern, database),
            _ => false,
        };
        let given = self.lines.iter().filter(named).any(|line| !line.revoked && line.gives(privilege));
        // MySQL's partial revokes take a database out of what is granted everywhere.
        let taken = self.lines.iter().filter(named).any(|line| line.revoked && line.gives(privilege));
        given || (self.everywhere(privilege) && !taken)
    }

    /// Whether the user has a privilege on a table.
    pub(super) fn on_table(&self, privilege: &str, database: &str, table: &str) -> bool {
        let named = |line: &Grant| matches!(&line.on, On::Table(of, name) if of == database && name == table);
        self.on_database(privilege, database)
            || self.lines.iter().any(|line| !line.revoked && named(line) && line.gives(privilege))
    }

    /// Of these privileges, those that are missing on a database.
    pub(super) fn missing(&self, database: &str, needed: &[&'static str]) -> Vec<&'static str> {
        needed.iter().copied().filter(|privilege| !self.on_database(privilege, database)).collect()
    }
}

impl Grant {
    fn gives(&self, privilege: &str) -> bool {
        self.privileges.contains(privilege)
            || (self.privileges.contains("ALL PRIVILEGES") && !self.revoked)
            || self.privileges.contains("ALL")
    }
}

/// `GRANT SELECT, SHOW VIEW ON `db`.* TO ...` or `REVOKE ... FROM ...`; `None` for the grant of a
/// role.
fn grant(line: &str) -> Option<Grant> {
    let (revoked, rest) = match line.strip_prefix("GRANT ") {
        Some(rest) => (false, rest),
        None => (true, line.strip_prefix("REVOKE ")?),
    };
    let (privileges, rest) = rest.split_once(" ON ")?;
    let privileges = privileges.split(", ").map(|word| word.trim().to_ascii_uppercase()).collect();
    let on = if rest.starts_with("*.*") {
        On::Everything
    } else {
        match quoted(rest) {
            Some((name, rest)) if rest.starts_with(".*") => On::Database(name),
            Some((name, rest)) => match rest.strip_prefix('.').and_then(quoted) {
                Some((table, _)) => On::Table(name, table),
                None => On::Part,
            },
            // `PROCEDURE`, `FUNCTION` and the like come before the name.
            None => On::Part,
        }
    };
    Some(Grant { revoked, privileges, on })
}

/// The name in backticks at the beginning, and what follows it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut rest = text.strip_prefix('`')?;
    let mut name = String::new();
    loop {
        let (part, after) = rest.split_once('`')?;
        name.push_str(part);
        match after.strip_prefix('`') {
            Some(after) => {
                name.push('`');
                rest = after;
            }
            None => return Some((name, after)),
        }
    }
}

/// A pattern of `LIKE`: `%` and `_`, and a backslash before what means itself.
fn like(pattern: &str, text: &str) -> bool {
    fn matches(pattern: &[char], text: &[char]) -> bool {
        match (pattern, text) {
            ([], []) => true,
            (['%', rest @ ..], _) => {
                matches(rest, text) || text.split_first().is_some_and(|(_, text)| matches(pattern, text))
            }
            (['\\', char, rest @ ..], [first, text @ ..]) if char == first => matches(rest, text),
            (['\\', ..], _) => false,
            (['_', rest @ ..], [_, text @ ..]) => matches(rest, text),
            ([char, rest @ ..], [first, text @ ..]) if char == first => matches(rest, text),
            _ => false,
        }
    }
    let pattern: Vec<char> = pattern.chars().collect();
    matches(&pattern, &text.chars().collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn privileges_are_found_on_their_database() {
        let grants = Grants::of([
            "GRANT USAGE, PROCESS ON *.* TO `u`@`%` IDENTIFIED BY PASSWORD '*AB'",
            "GRANT SELECT, SHOW VIEW, TRIGGER, EVENT ON `shop\\_%`.* TO `u`@`%`",
            "GRANT SELECT ON `other`.* TO `u`@`%`",
            "GRANT SELECT ON `third`.`t` TO `u`@`%`",
            "GRANT `role`@`%` TO `u`@`%`",
        ]);
        assert!(grants.missing("shop_1", &NEEDED).is_empty());
        assert_eq!(grants.missing("shopx1", &NEEDED), NEEDED);
        assert_eq!(grants.missing("other", &NEEDED), ["SHOW VIEW", "TRIGGER", "EVENT"]);
        assert_eq!(grants.missing("third", &NEEDED), NEEDED);
        assert!(grants.everywhere("PROCESS") && !grants.everywhere("SELECT"));
        assert!(grants.on_table("SELECT", "third", "t") && !grants.on_table("SELECT", "third", "u"));
        assert!(grants.on_table("SELECT", "other", "any") && !grants.on_table("TRIGGER", "other", "any"));
    }

    #[test]
    fn what_is_granted_everywhere_may_be_taken_back_in_part() {
        let all = Grants::of(["GRANT ALL PRIVILEGES ON *.* TO `root`@`localhost` WITH GRANT OPTION"]);
        assert!(all.missing("any", &NEEDED).is_empty() && all.everywhere("PROCESS"));
        let part = Grants::of([
            "GRANT SELECT, SHOW VIEW, TRIGGER, EVENT ON *.* TO `u`@`%`",
            "REVOKE SELECT ON `hidden`.* FROM `u`@`%`",
        ]);
        assert!(part.missing("any", &NEEDED).is_empty());
        assert_eq!(part.missing("hidden", &NEEDED), ["SELECT"]);
    }
}
