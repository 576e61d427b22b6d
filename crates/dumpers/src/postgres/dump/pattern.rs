//! Patterns of tables and schemas, as `pg_dump` and `psql` read them (PostgreSQL manual, psql,
//! "Patterns").
//!
//! `pg_dump` itself complains of a wanted name that does not exist, but not of one to be left out.

use super::super::names::literal;

/// A query for the patterns that fit nothing, as a JSON list; `None` without patterns.
pub(super) fn unmatched_query(tables: &[String], schemas: &[String]) -> Option<String> {
    let mut rows = Vec::new();
    for pattern in tables {
        let condition = match parts(pattern).as_slice() {
            [name] => format!("c.relname ~ {} AND pg_table_is_visible(c.oid)", anchored(name)),
            [schema, name] => format!("c.relname ~ {} AND n.nspname ~ {}", anchored(name), anchored(schema)),
            // With the database in front; pg_dump checks that.
            _ => continue,
        };
        rows.push(format!(
            "SELECT {} AS pattern WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_class c \
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
             WHERE c.relkind IN ('r', 'S', 'v', 'm', 'f', 'p') AND {condition})",
            literal(pattern)
        ));
    }
    for pattern in schemas {
        let parts = parts(pattern);
        let [name] = parts.as_slice() else { continue };
        rows.push(format!(
            "SELECT {} AS pattern WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_namespace n WHERE n.nspname ~ {})",
            literal(pattern),
            anchored(name)
        ));
    }
    if rows.is_empty() {
        return None;
    }
    let all = rows.join(" UNION ALL ");
    Some(format!("SELECT coalesce(json_agg(pattern), '[]'::json) FROM ({all}) AS patterns;"))
}

fn anchored(pattern: &str) -> String {
    format!("{} COLLATE pg_catalog.default", literal(&format!("^({pattern})$")))
}

/// The parts between dots, each as a regular expression.
fn parts(pattern: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut quoted = false;
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        let Some(part) = parts.last_mut() else { break };
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                part.push('"');
            }
            '"' => quoted = !quoted,
            '.' if !quoted => parts.push(String::new()),
            '*' if !quoted => part.push_str(".*"),
            '?' if !quoted => part.push('.'),
            '$' => part.push_str("\\$"),
            c if quoted && "|*+?()[]{}.^\\".contains(c) => {
                part.push('\\');
                part.push(c);
            }
            c if !quoted => part.push(c.to_ascii_lowercase()),
            c => part.push(c),
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_become_expressions_as_psql_makes_them() {
        for (pattern, expected) in [
            ("Orders", vec!["orders"]),
            ("\"Orders\"", vec!["Orders"]),
            ("a*.b?", vec!["a.*", "b."]),
            ("\"a.b*\".\"c\"\"d\"", vec!["a\\.b\\*", "c\"d"]),
            ("x$y", vec!["x\\$y"]),
            ("a|b", vec!["a|b"]),
        ] {
            assert_eq!(parts(pattern), expected, "{pattern}");
        }
        assert_eq!(unmatched_query(&[], &[]), None);
    }
}
