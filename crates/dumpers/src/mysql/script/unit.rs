//! What a unit of a dump's text is, from its beginning.

/// What a unit does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::mysql) enum Unit {
    /// A comment.
    Comment,
    /// White space at the end.
    Blank,
    /// The comment that is written last.
    Completed,
    /// The line by which newer programs of MariaDB forbid their own client to touch files.
    Sandbox,
    /// `SET`: the session's.
    Session,
    /// `CREATE DATABASE`, with the clause of its character set and collation.
    CreateDatabase { name: String, text: Option<String> },
    /// `USE`.
    Use(String),
    /// `ALTER DATABASE`, around definitions with another collation than their database's.
    AlterDatabase(String),
    /// `CREATE TABLE`.
    CreateTable(String),
    /// Rows of a table.
    Insert,
    /// A view, trigger, routine or event is made or dropped.
    Definition(Definition, String),
    /// A block of statements between two `DELIMITER` lines: a trigger, routine or event.
    Block,
    /// `CREATE USER`, `CREATE ROLE`, `GRANT` and what else belongs to accounts.
    Account,
    /// A statement that changes the server beyond its databases, or removes a database.
    Foreign(&'static str),
    /// Everything else that belongs to tables.
    Table,
}

/// Kinds of things that are defined, beside tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::mysql) enum Definition {
    View,
    Trigger,
    Procedure,
    Function,
    Package,
    PackageBody,
    Event,
}

impl Unit {
    /// From its first bytes, at most a few thousand.
    pub(super) fn of(head: &[u8]) -> Self {
        let text = head.trim_ascii_start();
        if text.is_empty() {
            return Self::Blank;
        }
        if text.starts_with(b"/*M!999999\\-") {
            return Self::Sandbox;
        }
        if text.starts_with(b"--") || text.starts_with(b"#") {
            return Self::Comment;
        }
        if text.starts_with(b"DELIMITER ;;") {
            return Self::Block;
        }
        let mut words = Words { rest: text };
        match words.keyword().as_str() {
            "SET" => {
                // A role that an account has from the start is the account's.
                let mut next = words.clone();
                if next.keyword() == "DEFAULT" && next.keyword() == "ROLE" {
                    return Self::Account;
                }
                if words.rest.to_ascii_uppercase().windows(6).take(64).any(|part| part == b"GLOBAL") {
                    return Self::Foreign("SET GLOBAL");
                }
                Self::Session
            }
            "USE" => Self::Use(words.name().unwrap_or_default()),
            "INSERT" | "REPLACE" => Self::Insert,
            "GRANT" | "REVOKE" => Self::Account,
            "CHANGE" => Self::Foreign("CHANGE MASTER"),
            "START" | "STOP" => Self::Foreign("START or STOP of a replica"),
            "DROP" => match words.object() {
                Some(Object::Definition(what)) => Self::Definition(what, words.name().unwrap_or_default()),
                Some(Object::Database) => Self::Foreign("DROP DATABASE"),
                _ => Self::Table,
            },
            "ALTER" => match words.object() {
                Some(Object::Database) => Self::AlterDatabase(words.name().unwrap_or_default()),
                Some(Object::Account) => Self::Account,
                _ => Self::Table,
            },
            "CREATE" => match words.object() {
                Some(Object::Database) => {
                    let name = words.name().unwrap_or_default();
                    Self::CreateDatabase { name, text: character_set(words.rest) }
                }
                Some(Object::Table) => Self::CreateTable(words.name().unwrap_or_default()),
                Some(Object::Definition(what)) => Self::Definition(what, words.name().unwrap_or_default()),
                Some(Object::Account) => Self::Account,
                Some(Object::Sequence) | None => Self::Table,
            },
            _ => Self::Table,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Object {
    Database,
    Table,
    Sequence,
    Account,
    Definition(Definition),
}

/// The words of a statement, with the marks of conditional comments passed over.
#[derive(Debug, Clone)]
struct Words<'a> {
    rest: &'a [u8],
}

impl Words<'_> {
    /// The next word in upper case; a quoted text, a number or a sign as it begins.
    fn keyword(&mut self) -> String {
        self.pass_marks();
        let Some(&first) = self.rest.first() else { return String::new() };
        if matches!(first, b'`' | b'\'' | b'"') {
            self.quoted();
            return char::from(first).to_string();
        }
        let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_' || *byte >= 0x80;
        let len = self.rest.iter().position(|byte| !is_word(byte)).unwrap_or(self.rest.len()).max(1);
        let (word, rest) = self.rest.split_at(len);
        self.rest = rest;
        String::from_utf8_lossy(word).to_ascii_uppercase()
    }

    /// What kind of thing a statement is about: the first word that says so before any name that is
    /// not an account's.
    fn object(&mut self) -> Option<Object> {
        for _ in 0..64 {
            let word = self.keyword();
            return Some(match word.as_str() {
                "DATABASE" | "SCHEMA" => Object::Database,
                "TABLE" => Object::Table,
                "SEQUENCE" => Object::Sequence,
                "USER" | "ROLE" => Object::Account,
                "VIEW" => Object::Definition(Definition::View),
                "TRIGGER" => Object::Definition(Definition::Trigger),
                "PROCEDURE" => Object::Definition(Definition::Procedure),
                "FUNCTION" => Object::Definition(Definition::Function),
                "EVENT" => Object::Definition(Definition::Event),
                "PACKAGE" => {
                    let mut next = self.clone();
                    if next.keyword() == "BODY" {
                        *self = next;
                        Object::Definition(Definition::PackageBody)
                    } else {
                        Object::Definition(Definition::Package)
                    }
                }
                "" => return None,
                _ => continue,
            });
        }
        None
    }

    /// The name that comes next, after `IF NOT EXISTS` or `IF EXISTS`; of a qualified one the last.
    fn name(&mut self) -> Option<String> {
        for _ in 0..4 {
            self.pass_marks();
            match self.rest.first()? {
                b'`' => {
                    let name = self.quoted();
                    if self.rest.first() == Some(&b'.') && self.rest.get(1) == Some(&b'`') {
                        self.rest = &self.rest[1..];
                        return Some(self.quoted());
                    }
                    return Some(name);
                }
                _ => match self.keyword().as_str() {
                    "IF" | "NOT" | "EXISTS" => {}
                    // Only what is quoted is a name to us, and the programs quote all of them.
                    _ => return None,
                },
            }
        }
        None
    }

    /// The text in quotes that begins here.
    fn quoted(&mut self) -> String {
        let Some((&by, mut rest)) = self.rest.split_first() else { return String::new() };
        let mut text = Vec::new();
        while let Some((&byte, after)) = rest.split_first() {
            rest = after;
            if byte == by {
                if rest.first() == Some(&by) {
                    rest = &rest[1..];
                } else {
                    break;
                }
            } else if byte == b'\\' && by != b'`' {
                let Some((&byte, after)) = rest.split_first() else { break };
                text.push(byte);
                rest = after;
                continue;
            }
            text.push(byte);
        }
        self.rest = rest;
        String::from_utf8_lossy(&text).into_owned()
    }

    /// White space, `/*!50003`, `/*M!100301` and `*/`.
    fn pass_marks(&mut self) {
        loop {
            let text = self.rest.trim_ascii_start();
            let mark = [b"/*!".as_slice(), b"/*M!", b"*/"].into_iter().find(|mark| text.starts_with(mark));
            let Some(mark) = mark else {
                self.rest = text;
                return;
            };
            let text = &text[mark.len()..];
            let digits =
                if mark == b"*/" { 0 } else { text.iter().take_while(|byte| byte.is_ascii_digit()).count() };
            self.rest = &text[digits..];
        }
    }
}

/// `CHARACTER SET x COLLATE y`, from words of a small alphabet.
fn character_set(text: &[u8]) -> Option<String> {
    let mut words = Words { rest: text };
    let mut clause = Vec::new();
    for _ in 0..16 {
        let word = words.keyword();
        let value = |words: &mut Words<'_>| {
            let word = words.keyword().to_ascii_lowercase();
            let safe =
                !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
            safe.then_some(word)
        };
        match word.as_str() {
            "CHARACTER" if words.clone().keyword() == "SET" => {
                words.keyword();
                clause.push(format!("CHARACTER SET {}", value(&mut words)?));
            }
            "COLLATE" => clause.push(format!("COLLATE {}", value(&mut words)?)),
            "" | ";" => break,
            _ => {}
        }
    }
    (!clause.is_empty()).then(|| clause.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_told_apart_by_their_beginning() {
        let name = |text: &str| text.to_owned();
        let table = [
            ("\n-- x", Unit::Comment),
            ("  \n", Unit::Blank),
            ("/*!40101 SET NAMES utf8mb4 */;", Unit::Session),
            ("SET @saved_cs_client     = @@character_set_client;", Unit::Session),
            ("SET @@GLOBAL.GTID_PURGED=/*!80000 '+'*/ 'x';", Unit::Foreign("SET GLOBAL")),
            ("SET DEFAULT ROLE `r` TO `u`@`%`;", Unit::Account),
            (
                "\n\nCREATE DATABASE /*!32312 IF NOT EXISTS*/ `a``b` /*!40100 DEFAULT CHARACTER SET latin1 COLLATE latin1_swedish_ci */;",
                Unit::CreateDatabase {
                    name: name("a`b"),
                    text: Some(name("CHARACTER SET latin1 COLLATE latin1_swedish_ci")),
                },
            ),
            (
                "CREATE DATABASE /*!32312 IF NOT EXISTS*/ `d` /*!40100 DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_0900_ai_ci */ /*!80016 DEFAULT ENCRYPTION='N' */;",
                Unit::CreateDatabase {
                    name: name("d"),
                    text: Some(name("CHARACTER SET utf8mb4 COLLATE utf8mb4_0900_ai_ci")),
                },
            ),
            ("USE `é x`;", Unit::Use(name("é x"))),
            (
                "ALTER DATABASE `d` CHARACTER SET latin1 COLLATE latin1_swedish_ci ;",
                Unit::AlterDatabase(name("d")),
            ),
            ("CREATE TABLE `t.x` (\n `view` int", Unit::CreateTable(name("t.x"))),
            ("CREATE TABLE IF NOT EXISTS `t` (", Unit::CreateTable(name("t"))),
            ("DROP TABLE IF EXISTS `view`;", Unit::Table),
            ("/*!40000 ALTER TABLE `t` DISABLE KEYS */;", Unit::Table),
            ("INSERT INTO `t` VALUES (1);", Unit::Insert),
            ("/*!50001 DROP VIEW IF EXISTS `v`*/;", Unit::Definition(Definition::View, name("v"))),
            (
                "/*!50001 CREATE VIEW `v` AS SELECT \n 1 AS `x`*/;",
                Unit::Definition(Definition::View, name("v")),
            ),
            (
                "/*!50001 CREATE ALGORITHM=UNDEFINED */\n/*!50013 DEFINER=`table`@`%` SQL SECURITY DEFINER */\n/*!50001 VIEW `v` AS select 1 */;",
                Unit::Definition(Definition::View, name("v")),
            ),
            ("/*!50003 DROP PROCEDURE IF EXISTS `p` */;", Unit::Definition(Definition::Procedure, name("p"))),
            ("/*!50106 DROP EVENT IF EXISTS `e` */;", Unit::Definition(Definition::Event, name("e"))),
            ("DELIMITER ;;\nCREATE", Unit::Block),
            ("CREATE SEQUENCE `s` start with 1;", Unit::Table),
            ("CREATE USER IF NOT EXISTS `u`@`%`;", Unit::Account),
            ("GRANT USAGE ON *.* TO `u`@`%`;", Unit::Account),
            ("DROP DATABASE `x`;", Unit::Foreign("DROP DATABASE")),
            ("/*!40000 DROP DATABASE IF EXISTS `x`*/;", Unit::Foreign("DROP DATABASE")),
            ("CHANGE MASTER TO MASTER_LOG_FILE='x';", Unit::Foreign("CHANGE MASTER")),
            ("/*M!999999\\- enable the sandbox mode */ \n", Unit::Sandbox),
        ];
        for (text, expected) in table {
            assert_eq!(Unit::of(text.as_bytes()), expected, "{text}");
        }
    }
}
