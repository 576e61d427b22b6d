//! Names as PostgreSQL writes them.

/// A name, quoted unless it is a plain one.
#[must_use]
pub(super) fn shown(name: &str) -> String {
    let plain = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if plain { name.to_owned() } else { identifier(name) }
}

/// `schema.table`, each quoted where that is needed.
#[must_use]
pub(super) fn qualified(schema: &str, name: &str) -> String {
    format!("{}.{}", shown(schema), shown(name))
}

/// A quoted identifier (PostgreSQL manual, 4.1.1).
#[must_use]
pub(super) fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A string literal (PostgreSQL manual, 4.1.2.1), with `standard_conforming_strings` on.
#[must_use]
pub(super) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// A value in a connection string (PostgreSQL manual, 34.1.1.1).
#[must_use]
pub(super) fn conninfo_value(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// The roles that `pg_dump`'s `GRANT ... TO role;` and `REVOKE ... FROM role;` statements name.
#[must_use]
pub(super) fn grantees(statements: &str) -> Vec<String> {
    let mut roles = Vec::new();
    for line in statements.lines() {
        let Some(line) = line.strip_suffix(';') else { continue };
        let line = line.strip_suffix(" WITH GRANT OPTION").unwrap_or(line);
        let keyword = if line.contains("REVOKE ") { " FROM " } else { " TO " };
        let Some(at) = line.rfind(keyword) else { continue };
        if let Some(role) = unquoted(&line[at + keyword.len()..])
            && role != "PUBLIC"
            && role != "SESSION AUTHORIZATION"
        {
            roles.push(role);
        }
    }
    roles
}

/// The name behind an identifier; `None` for what is none.
fn unquoted(text: &str) -> Option<String> {
    match text.strip_prefix('"') {
        Some(rest) => rest.strip_suffix('"').map(|name| name.replace("\"\"", "\"")),
        None if text.is_empty() || text.contains([' ', '\'', '"']) => None,
        None => Some(text.to_owned()),
    }
}

/// The options of a `CREATE DATABASE` statement that decide how text is stored and compared, ready
/// for another such statement. Values are words of a small alphabet; anything else is left out.
#[must_use]
pub(super) fn text_options(create_database: &str) -> Vec<(String, String)> {
    const KEYS: [&str; 7] =
        ["ENCODING", "LOCALE_PROVIDER", "LOCALE", "LC_COLLATE", "LC_CTYPE", "ICU_LOCALE", "BUILTIN_LOCALE"];
    const START: &str = " WITH TEMPLATE = template0 ";
    let Some(at) = create_database.rfind(START) else { return Vec::new() };
    let options = create_database[at + START.len()..].trim_end().trim_end_matches(';');
    let words: Vec<&str> = options.split(' ').collect();
    let mut found = Vec::new();
    for triple in words.chunks(3) {
        let &[key, "=", value] = triple else { break };
        let bare = value.trim_matches('\'');
        let safe = !bare.is_empty()
            && bare.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | '@'));
        if KEYS.contains(&key) && safe {
            found.push((key.to_owned(), bare.to_owned()));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_names_stay_values() {
        assert_eq!(literal("a'b\\"), "'a''b\\'");
        assert_eq!(identifier("a\"b; DROP"), "\"a\"\"b; DROP\"");
        assert_eq!(conninfo_value("a'b\\c d"), "'a\\'b\\\\c d'");
        assert_eq!(qualified("public", "Ünsinn"), "public.\"Ünsinn\"");
    }

    #[test]
    fn roles_are_found_in_grants() {
        let statements = "REVOKE ALL ON TABLE public.t FROM owner;\n\
             GRANT SELECT ON TABLE public.\" TO x;\" TO reader;\n\
             GRANT ALL ON TABLE t TO \"Odd \"\"one\" WITH GRANT OPTION;\n\
             GRANT SELECT ON TABLE t TO PUBLIC;\n\
             ALTER DEFAULT PRIVILEGES FOR ROLE a IN SCHEMA s GRANT SELECT ON TABLES TO b;\n";
        assert_eq!(grantees(statements), ["owner", "reader", "Odd \"one", "b"]);
    }

    #[test]
    fn only_known_options_with_plain_values_are_taken() {
        let pairs = |text: &str| -> Vec<String> {
            text_options(text).into_iter().map(|(key, value)| format!("{key}={value}")).collect()
        };
        let statement = "CREATE DATABASE \"x WITH TEMPLATE = template0 OWNER = y\" WITH TEMPLATE = template0 \
             ENCODING = 'UTF8' LOCALE_PROVIDER = libc LOCALE = 'C.UTF-8';\n\n";
        assert_eq!(pairs(statement), ["ENCODING=UTF8", "LOCALE_PROVIDER=libc", "LOCALE=C.UTF-8"]);
        assert!(pairs("CREATE DATABASE x WITH TEMPLATE = template0 LOCALE = 'x';DROP'").is_empty());
        assert!(pairs("CREATE DATABASE x WITH TEMPLATE = template0 TABLESPACE = t;").is_empty());
        assert!(pairs("CREATE DATABASE x;").is_empty());
    }
}
