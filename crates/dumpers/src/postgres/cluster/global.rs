//! The statements that `pg_dumpall --globals-only` writes, each by its exact shape.
//!
//! The script comes out of a dump that somebody else may have made, and it is applied with the rights of
//! whoever restores. So only what has one of these shapes is ever sent, and about the roles that it
//! names: words that stand for another role (`current_user`) and names that the server would fold
//! (`Boss`) are none. `pg_dumpall` quotes such names.

use super::super::statements::{Statement, Word};

/// What a statement does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Global<'a> {
    /// `SET ...` and `RESET ...`: about the session of the script, and never sent.
    Session,
    /// `CREATE ROLE x`
    CreateRole(&'a str),
    /// `ALTER ROLE x WITH ...`: the attributes that are on or off.
    Attributes(&'a str, Vec<&'a str>),
    /// `ALTER ROLE x SET setting TO ...`
    Setting(&'a str, &'a str),
    /// `COMMENT ON ROLE x IS ...`
    Comment(&'a str),
    /// `SECURITY LABEL FOR provider ON ROLE x IS ...`
    Label(&'a str),
    /// `GRANT group TO member ...`
    Membership {
        /// What is joined.
        group: &'a str,
        /// Who joins.
        member: &'a str,
        /// The statement without its grantor, where it has one.
        without_grantor: Option<&'a str>,
    },
    /// `CREATE TABLESPACE x OWNER y LOCATION ...`
    CreateTablespace(&'a str),
    /// Options, comment or label of a tablespace.
    AboutTablespace(&'a str),
    /// `GRANT` or `REVOKE` on a tablespace or on a parameter.
    Privilege(Privilege<'a>),
}

/// What is granted or revoked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Privilege<'a> {
    /// Whether it is given or taken.
    pub(super) grant: bool,
    /// The tablespace; `None` for a parameter.
    pub(super) tablespace: Option<&'a str>,
    /// `TABLESPACE x` or `PARAMETER x`, as it stands.
    pub(super) object: &'a str,
    /// To whom; `None` for everybody.
    pub(super) grantee: Option<&'a str>,
}

impl<'a> Global<'a> {
    /// What this statement does; `None` where it has none of the shapes.
    pub(super) fn of(statement: &'a Statement) -> Option<Self> {
        let mut words = Words { statement, at: 0 };
        match words.keyword()? {
            "SET" | "RESET" => Some(Self::Session),
            "CREATE" => words.created(),
            "ALTER" => words.altered(),
            "COMMENT" => {
                words.all(&["ON"])?;
                words.remark(Self::Comment)
            }
            "SECURITY" => {
                words.all(&["LABEL", "FOR"])?;
                words.name()?;
                words.all(&["ON"])?;
                words.remark(Self::Label)
            }
            "GRANT" => words.membership().or_else(|| Words { statement, at: 1 }.privilege(true)),
            "REVOKE" => words.privilege(false),
            _ => None,
        }
    }
}

/// The words of a statement, read one after another.
#[derive(Clone, Copy)]
struct Words<'a> {
    statement: &'a Statement,
    at: usize,
}

impl<'a> Words<'a> {
    fn next(&mut self) -> Option<&'a Word> {
        let word = self.statement.word(self.at)?;
        self.at += 1;
        Some(word)
    }

    fn keyword(&mut self) -> Option<&'a str> {
        match self.next()? {
            Word::Bare(word) => Some(word),
            _ => None,
        }
    }

    /// All of these keywords.
    fn all(&mut self, keywords: &[&str]) -> Option<()> {
        keywords.iter().all(|keyword| self.keyword() == Some(keyword)).then_some(())
    }

    /// Whether this keyword is next; then it is read.
    fn has(&mut self, keyword: &str) -> bool {
        let found = self.statement.is(self.at, keyword);
        self.at += usize::from(found);
        found
    }

    fn sign(&mut self, sign: char) -> bool {
        let found = self.statement.word(self.at) == Some(&Word::Sign(sign));
        self.at += usize::from(found);
        found
    }

    fn text(&mut self) -> Option<()> {
        matches!(self.next()?, Word::Text(_)).then_some(())
    }

    fn name(&mut self) -> Option<&'a str> {
        match self.next()? {
            Word::Quoted(name) => Some(name),
            Word::Bare(name) if is_plain(name) => Some(name),
            _ => None,
        }
    }

    /// `a` or `a.b`; the first part.
    fn dotted(&mut self) -> Option<&'a str> {
        let first = self.name()?;
        while self.sign('.') {
            self.name()?;
        }
        Some(first)
    }

    fn end<T>(self, found: T) -> Option<T> {
        self.statement.word(self.at).is_none().then_some(found)
    }

    fn created(mut self) -> Option<Global<'a>> {
        match self.keyword()? {
            "ROLE" => {
                let role = self.name()?;
                self.end(Global::CreateRole(role))
            }
            "TABLESPACE" => {
                let name = self.name()?;
                self.all(&["OWNER"])?;
                self.name()?;
                self.all(&["LOCATION"])?;
                self.text()?;
                self.end(Global::CreateTablespace(name))
            }
            _ => None,
        }
    }

    fn altered(mut self) -> Option<Global<'a>> {
        match self.keyword()? {
            "ROLE" => {
                let role = self.name()?;
                match self.keyword()? {
                    "WITH" => self.attributes(role),
                    "SET" => self.setting(role),
                    _ => None,
                }
            }
            "TABLESPACE" => {
                let name = self.name()?;
                self.all(&["SET"])?;
                let options = self.sign('(') && {
                    while !self.sign(')') {
                        match self.next()? {
                            Word::Bare(word) if !word.starts_with('$') => {}
                            Word::Text(_) | Word::Sign('=' | ',' | '.' | '-') => {}
                            _ => return None,
                        }
                    }
                    true
                };
                self.end(Global::AboutTablespace(name)).filter(|_| options)
            }
            _ => None,
        }
    }

    fn attributes(mut self, role: &'a str) -> Option<Global<'a>> {
        const FLAGS: [&str; 7] =
            ["SUPERUSER", "INHERIT", "CREATEROLE", "CREATEDB", "LOGIN", "REPLICATION", "BYPASSRLS"];
        let mut found = Vec::new();
        while self.statement.word(self.at).is_some() {
            match self.keyword()? {
                "PASSWORD" if self.has("NULL") => {}
                "PASSWORD" => self.text()?,
                "VALID" => {
                    self.all(&["UNTIL"])?;
                    self.text()?;
                }
                "CONNECTION" => {
                    self.all(&["LIMIT"])?;
                    self.sign('-');
                    let limit = self.keyword()?;
                    limit.bytes().all(|byte| byte.is_ascii_digit()).then_some(())?;
                }
                flag if FLAGS.contains(&flag.strip_prefix("NO").unwrap_or(flag)) => found.push(flag),
                _ => return None,
            }
        }
        Some(Global::Attributes(role, found))
    }

    fn setting(mut self, role: &'a str) -> Option<Global<'a>> {
        let setting = self.dotted()?;
        self.all(&["TO"])?;
        loop {
            match self.next()? {
                Word::Text(_) => {}
                Word::Bare(value) if value.bytes().all(|byte| byte.is_ascii_alphanumeric()) => {}
                _ => return None,
            }
            if !self.sign(',') {
                break;
            }
        }
        self.end(Global::Setting(role, setting))
    }

    /// `ROLE x IS 'text'`, or the same of a tablespace.
    fn remark(mut self, of_role: impl Fn(&'a str) -> Global<'a>) -> Option<Global<'a>> {
        let found = match self.keyword()? {
            "ROLE" => of_role(self.name()?),
            "TABLESPACE" => Global::AboutTablespace(self.name()?),
            _ => return None,
        };
        self.all(&["IS"])?;
        self.text()?;
        self.end(found)
    }

    fn membership(mut self) -> Option<Global<'a>> {
        let group = self.name()?;
        self.all(&["TO"])?;
        let member = self.name()?;
        if self.has("WITH") {
            loop {
                (self.has("ADMIN") || self.has("INHERIT") || self.has("SET")).then_some(())?;
                (self.has("OPTION") || self.has("TRUE") || self.has("FALSE")).then_some(())?;
                if !self.sign(',') {
                    break;
                }
            }
        }
        let before = self.statement.text_before(self.at);
        let without_grantor = if self.has("GRANTED") {
            self.all(&["BY"])?;
            self.name()?;
            Some(before)
        } else {
            None
        };
        self.end(Global::Membership { group, member, without_grantor })
    }

    fn privilege(mut self, grant: bool) -> Option<Global<'a>> {
        loop {
            match self.keyword()? {
                "ALL" | "CREATE" | "SET" => {}
                "ALTER" => self.all(&["SYSTEM"])?,
                _ => return None,
            }
            if !self.sign(',') {
                break;
            }
        }
        self.all(&["ON"])?;
        let from = self.statement.text_before(self.at).len();
        let tablespace = match self.keyword()? {
            "TABLESPACE" => Some(self.name()?),
            "PARAMETER" => {
                self.dotted()?;
                None
            }
            _ => return None,
        };
        let object = self.statement.text_before(self.at)[from..].trim_start();
        self.all(&[if grant { "TO" } else { "FROM" }])?;
        let everybody = self.has("PUBLIC");
        let grantee = if everybody { None } else { Some(self.name()?) };
        if grant && self.has("WITH") {
            self.all(&["GRANT", "OPTION"])?;
        }
        let privilege =
            Privilege { grant, tablespace, object, grantee: grantee.filter(|name| *name != "public") };
        self.end(Global::Privilege(privilege))
    }
}

/// A name that means itself without quotes.
fn is_plain(name: &str) -> bool {
    const OTHERS: [&str; 7] =
        ["current_role", "current_user", "session_user", "user", "public", "none", "all"];
    name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
        && !OTHERS.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::super::super::statements::statements;
    use super::*;

    fn shape(text: &str) -> Option<String> {
        let found = statements(&format!("{text};\n")).unwrap();
        let [one] = &*found else { panic!("one statement: {text}") };
        Global::of(one).map(|global| format!("{global:?}"))
    }

    #[test]
    fn what_pg_dumpall_writes_is_known() {
        for (text, expected) in [
            ("SET default_transaction_read_only = off", "Session"),
            ("CREATE ROLE \"New one\"", "CreateRole(\"New one\")"),
            (
                "ALTER ROLE x WITH NOSUPERUSER INHERIT LOGIN CONNECTION LIMIT 5 PASSWORD 'md5' VALID UNTIL 'infinity'",
                "Attributes(\"x\", [\"NOSUPERUSER\", \"INHERIT\", \"LOGIN\"])",
            ),
            ("ALTER ROLE x SET search_path TO 'a', 'b'", "Setting(\"x\", \"search_path\")"),
            ("ALTER ROLE x SET \"my.own\" TO E'a\\\\b'", "Setting(\"x\", \"my.own\")"),
            ("COMMENT ON ROLE x IS 'it''s'", "Comment(\"x\")"),
            ("SECURITY LABEL FOR p ON ROLE x IS 'l'", "Label(\"x\")"),
            ("CREATE TABLESPACE t OWNER x LOCATION '/x'", "CreateTablespace(\"t\")"),
            ("ALTER TABLESPACE t SET (seq_page_cost=1.5, random_page_cost='2')", "AboutTablespace(\"t\")"),
            ("COMMENT ON TABLESPACE t IS 'x'", "AboutTablespace(\"t\")"),
            ("SECURITY LABEL FOR p ON TABLESPACE t IS 'l'", "AboutTablespace(\"t\")"),
        ] {
            assert_eq!(shape(text).as_deref(), Some(expected), "{text}");
        }
        for (text, parts) in [
            (
                "GRANT a TO \"b c\" WITH ADMIN OPTION, INHERIT FALSE, SET TRUE GRANTED BY d",
                "without_grantor: Some(\"GRANT a TO",
            ),
            ("GRANT a TO b", "without_grantor: None"),
            ("GRANT ALL ON TABLESPACE t TO PUBLIC", "object: \"TABLESPACE t\", grantee: None"),
            ("GRANT CREATE ON TABLESPACE t TO x WITH GRANT OPTION", "tablespace: Some(\"t\")"),
            ("REVOKE ALL ON TABLESPACE t FROM x", "grant: false"),
            (
                "GRANT SET, ALTER SYSTEM ON PARAMETER work_mem TO x",
                "object: \"PARAMETER work_mem\", grantee: Some(\"x\")",
            ),
            ("GRANT SET ON PARAMETER \"my.own\" TO \"x y\"", "grantee: Some(\"x y\")"),
        ] {
            assert!(shape(text).is_some_and(|shape| shape.contains(parts)), "{text}: {:?}", shape(text));
        }
    }

    #[test]
    fn nothing_else_has_a_shape() {
        for text in [
            "CREATE ROLE x SUPERUSER",
            "CREATE ROLE x ADMIN boss",
            "CREATE ROLE Boss",
            "CREATE USER x",
            "CREATE ROLE U&\"\\0061\"",
            "ALTER ROLE current_user WITH PASSWORD 'mine'",
            "ALTER ROLE CURRENT_USER WITH PASSWORD 'mine'",
            "ALTER ROLE all SET work_mem TO '1'",
            "ALTER ROLE x RENAME TO y",
            "ALTER ROLE x IN DATABASE d SET a TO 'b'",
            "ALTER ROLE x WITH LOGIN IN ROLE boss",
            "ALTER ROLE x WITH PASSWORD 'a' 'b' SUPERUSERS",
            "ALTER ROLE x SET a TO 'b' RESET",
            "ALTER ROLE x SET a TO $$b$$",
            "GRANT a TO b, c",
            "GRANT a, b TO c",
            "GRANT a TO current_user",
            "GRANT a TO b WITH ADMIN OPTION GRANTED BY session_user",
            "GRANT SELECT ON TABLE t TO x",
            "GRANT ALL ON TABLESPACE a, b TO x",
            "GRANT CREATE ON TABLESPACE t TO x, y",
            "REVOKE a FROM b",
            "REVOKE GRANT OPTION FOR ALL ON TABLESPACE t FROM x",
            "COPY t FROM PROGRAM 'touch x'",
            "DO $$ BEGIN END $$",
            "DROP ROLE x",
            "ALTER SYSTEM SET a TO b",
            "ALTER TABLESPACE t RENAME TO u",
            "ALTER TABLESPACE t SET (a = $$x$$)",
            "COMMENT ON ROLE x IS 'a' 'b'",
            "COMMENT ON DATABASE x IS 'a'",
            "SELECT 1",
            "INSERT INTO pg_authid VALUES (1)",
        ] {
            assert_eq!(shape(text), None, "{text}");
        }
    }
}
