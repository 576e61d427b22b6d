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
        let words = Words { rest: text };
        words.clone().unit(text.len() >= super::HEAD_MAX).unwrap_or_else(|| {
            let (mut first, mut next) = (words.clone(), words);
            Self::Foreign(match (first.keyword().as_str(), next.second().as_str()) {
                ("SET", _) => "SET of something that is not the session's (SET GLOBAL and the like)",
                ("DROP", "DATABASE" | "SCHEMA") => "DROP DATABASE",
                ("CHANGE", _) => "CHANGE MASTER",
                ("START" | "STOP", _) => "START or STOP of a replica",
                _ => "a statement that no dump program writes, or one about another database",
            })
        })
    }

    /// Whether a statement drops something.
    pub(in crate::mysql) fn drops(text: &[u8]) -> bool {
        Words { rest: text.trim_ascii_start() }.keyword() == "DROP"
    }

    /// The routines, triggers and events that a block makes or drops.
    pub(in crate::mysql) fn of_block(text: &[u8]) -> Vec<(Definition, String)> {
        let text = text.trim_ascii_start();
        let text = text.strip_prefix(b"DELIMITER ;;").unwrap_or(text);
        let mut found = Vec::new();
        let mut start = 0;
        for end in memchr::memmem::find_iter(text, b";;\n").chain([text.len()]) {
            let statement = &text[start.min(end)..end];
            start = end + 3;
            let mut words = Words { rest: statement };
            if matches!(words.keyword().as_str(), "CREATE" | "DROP")
                && let Some(Object::Definition(what)) = words.object()
                && let Some(name) = words.last_name()
            {
                found.push((what, name));
            }
        }
        found
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
    /// The unit of a statement, if it is one that the dump programs write; `cut` if more of it
    /// follows.
    ///
    /// Text inside of a routine can look like the end of its block to somebody who reads lines. What
    /// follows must then not reach anything beyond the temporary databases, so this is a list of what
    /// is allowed, and names are those of the current database.
    fn unit(mut self, cut: bool) -> Option<Unit> {
        let first = self.keyword();
        match first.as_str() {
            "SET" => {
                // A role that an account has from the start is the account's.
                let mut next = self.clone();
                if next.keyword() == "DEFAULT" && next.keyword() == "ROLE" {
                    return Some(Unit::Account);
                }
                (!cut && self.is_of_session()).then_some(Unit::Session)
            }
            "USE" => self.own_name().map(Unit::Use),
            "INSERT" | "REPLACE" => {
                self.pass_word(&["IGNORE"]);
                self.pass_word(&["INTO"]).then_some(())?;
                self.own_name().map(|_| Unit::Insert)
            }
            "GRANT" | "REVOKE" => Some(Unit::Account),
            "COMMIT" => Some(Unit::Table),
            "DO" | "SELECT" => {
                (self.pass_word(&["SETVAL"]) && self.pass_word(&["("])).then_some(())?;
                self.own_name().map(|_| Unit::Table)
            }
            "LOCK" => {
                self.pass_word(&["TABLES", "TABLE"]).then_some(())?;
                self.own_name().map(|_| Unit::Table)
            }
            "UNLOCK" => self.pass_word(&["TABLES", "TABLE"]).then_some(Unit::Table),
            "DROP" => match self.object()? {
                Object::Definition(what) => self.own_name().map(|name| Unit::Definition(what, name)),
                Object::Table | Object::Sequence => self.own_name().map(|_| Unit::Table),
                _ => None,
            },
            "ALTER" => match self.object()? {
                Object::Database => self.own_name().map(Unit::AlterDatabase),
                Object::Table => {
                    self.own_name()?;
                    (self.pass_word(&["DISABLE", "ENABLE"]) && self.pass_word(&["KEYS"]))
                        .then_some(Unit::Table)
                }
                _ => None,
            },
            "ANALYZE" => {
                self.pass_word(&["TABLE"]).then_some(())?;
                self.own_name().map(|_| Unit::Table)
            }
            "CREATE" => match self.object()? {
                Object::Database => {
                    let name = self.own_name()?;
                    Some(Unit::CreateDatabase { name, text: character_set(self.rest) })
                }
                Object::Table => self.own_name().map(Unit::CreateTable),
                Object::Sequence => self.own_name().map(|_| Unit::Table),
                // Everything else is made in blocks.
                Object::Definition(Definition::View) => {
                    self.own_name().map(|name| Unit::Definition(Definition::View, name))
                }
                Object::Definition(_) => None,
                Object::Account => ["IF", "NOT", "EXISTS"]
                    .iter()
                    .all(|word| self.pass_word(&[word]))
                    .then_some(Unit::Account),
            },
            _ => None,
        }
    }

    /// The second word.
    fn second(&mut self) -> String {
        self.keyword();
        self.keyword()
    }

    /// Passes the next word over if it is one of these.
    fn pass_word(&mut self, words: &[&str]) -> bool {
        let mut next = self.clone();
        let found = words.contains(&&*next.keyword());
        if found {
            *self = next;
        }
        found
    }

    /// The next name, if it is quoted and names something of the current database.
    fn own_name(&mut self) -> Option<String> {
        for word in ["IF", "NOT", "EXISTS"] {
            self.pass_word(&[word]);
        }
        self.pass_marks();
        if self.rest.first() != Some(&b'`') {
            return None;
        }
        let name = self.quoted();
        self.pass_marks();
        // A comment could stand before the dot.
        (!name.is_empty() && !matches!(self.rest.first(), Some(b'.' | b'/' | b'-' | b'#'))).then_some(name)
    }

    /// Whether `SET` changes nothing but the session: assignments of plain values to the variables
    /// that the programs write.
    fn is_of_session(&mut self) -> bool {
        const OF_SESSION: [&str; 14] = [
            "NAMES",
            "TIME_ZONE",
            "SQL_MODE",
            "FOREIGN_KEY_CHECKS",
            "UNIQUE_CHECKS",
            "SQL_NOTES",
            "NOTE_VERBOSITY",
            "AUTOCOMMIT",
            "CHARACTER_SET_CLIENT",
            "CHARACTER_SET_RESULTS",
            "CHARACTER_SET_CONNECTION",
            "COLLATION_CONNECTION",
            "COLLATION_DATABASE",
            "CHARACTER_SET_DATABASE",
        ];
        loop {
            let mut word = self.keyword();
            if word == "@" {
                if self.rest.first() == Some(&b'@') {
                    self.keyword();
                    word = self.keyword();
                    let of_session = matches!(word.as_str(), "SESSION" | "LOCAL");
                    if self.rest.first() == Some(&b'.') {
                        if !of_session {
                            return false;
                        }
                        self.keyword();
                        word = self.keyword();
                    }
                } else {
                    word = self.keyword();
                }
                if !is_plain(&word) {
                    return false;
                }
            } else {
                if matches!(word.as_str(), "SESSION" | "LOCAL") {
                    word = self.keyword();
                }
                if !OF_SESSION.contains(&&*word) {
                    return false;
                }
            }
            if word != "NAMES" {
                self.pass_word(&[":"]);
                if !self.pass_word(&["="]) {
                    return false;
                }
            }
            // Values: nothing that could call or ask something.
            loop {
                let word = self.keyword();
                match word.as_str() {
                    "," => break,
                    ";" | "" => return true,
                    "\"" | "'" | "@" | "+" | "." | "=" => {}
                    "-" if self.rest.first() != Some(&b'-') => {}
                    word if is_plain(word) => {}
                    _ => return false,
                }
            }
        }
    }

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

    /// What kind of thing a statement is about: the first word after those that may stand before
    /// it, a definer's name among them.
    fn object(&mut self) -> Option<Object> {
        const BEFORE: [&str; 14] = [
            "OR",
            "REPLACE",
            "ALGORITHM",
            "=",
            "UNDEFINED",
            "MERGE",
            "TEMPTABLE",
            "DEFINER",
            "@",
            "CURRENT_USER",
            "SQL",
            "SECURITY",
            "INVOKER",
            "AGGREGATE",
        ];
        let mut of_definer = false;
        for _ in 0..64 {
            let word = self.keyword();
            let is_definer =
                std::mem::replace(&mut of_definer, matches!(&*word, "DEFINER" | "=" | "@" | "`"));
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
                "`" if is_definer => continue,
                word if BEFORE.contains(&word) => continue,
                _ => return None,
            });
        }
        None
    }

    /// The name that comes next, after `IF NOT EXISTS` or `IF EXISTS`; of a qualified one the last.
    fn last_name(&mut self) -> Option<String> {
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
                    // What somebody wrote is shown as they wrote it.
                    word if is_plain(word) => {
                        let mut name = word.to_owned();
                        if self.rest.first() == Some(&b'.') {
                            self.keyword();
                            self.pass_marks();
                            if self.rest.first() == Some(&b'`') {
                                return Some(self.quoted());
                            }
                            name = self.keyword();
                        }
                        return Some(name);
                    }
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

/// Whether it is a word of letters, digits and underlines.
fn is_plain(word: &str) -> bool {
    !word.is_empty() && word.chars().all(|char| char.is_alphanumeric() || char == '_' || char == '$')
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
            (
                "SET @@GLOBAL.GTID_PURGED=/*!80000 '+'*/ 'x';",
                Unit::Foreign("SET of something that is not the session's (SET GLOBAL and the like)"),
            ),
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

    #[test]
    fn only_what_dump_programs_write_is_taken() {
        for text in [
            "SET @OLD_TIME_ZONE=@@TIME_ZONE, NOTE_VERBOSITY=0, @x := 'a;''b' */;",
            "/*!40101 SET @OLD_SQL_MODE=@@SQL_MODE, SQL_MODE='NO_AUTO_VALUE_ON_ZERO' */;",
            "/*!50003 SET sql_mode              = 'A,B' */ ;",
            "/*!40103 SET TIME_ZONE='+00:00' */;",
            "SET NAMES utf8mb4 COLLATE utf8mb4_bin;",
            "SET @@SESSION.SQL_LOG_BIN= 0;",
            "SET @OLD_AUTOCOMMIT=@@AUTOCOMMIT, @@AUTOCOMMIT=0;",
        ] {
            assert_eq!(Unit::of(text.as_bytes()), Unit::Session, "{text}");
        }
        for text in [
            "LOCK TABLES `t` WRITE;",
            "UNLOCK TABLES;",
            "COMMIT;",
            "commit;",
            "DO SETVAL(`s`, 1, 0);",
            "SELECT SETVAL(`s`, 1, 0);",
            "DROP SEQUENCE IF EXISTS `s`;",
        ] {
            assert_eq!(Unit::of(text.as_bytes()), Unit::Table, "{text}");
        }
        for text in [
            "SET PASSWORD = 'x';",
            "SET PASSWORD FOR root@localhost = 'x';",
            "SET ROLE admin;",
            "SET PERSIST x = 1;",
            "SET @@PERSIST.x = 1;",
            "SET @@GLOBAL . x = 1;",
            "SET @a = 1, GLOBAL x = 1;",
            "SET @a = 1 /*!50000 , GLOBAL x = 1 */;",
            "SET @a = (SELECT 1);",
            "SET @a = other.f();",
            "SET sql_log_bin = 0;",
            "SET @a = 1 /* x */, GLOBAL y = 1;",
            "INSERT INTO `mysql`.`user` VALUES (1);",
            "INSERT INTO mysql.user VALUES (1);",
            "INSERT INTO `mysql`/**/.`user` VALUES (1);",
            "INSERT INTO `mysql` /*!50000 . `user` */ VALUES (1);",
            "CREATE TABLE `other`.`t` (i int);",
            "DROP TABLE IF EXISTS `other`.`t`;",
            "DROP VIEW `other`.`v`;",
            "ALTER TABLE `t` RENAME TO `other`.`t`;",
            "ALTER TABLE other.t DISABLE KEYS;",
            "ALTER USER root@localhost IDENTIFIED BY 'x';",
            "DROP USER root@localhost;",
            "CREATE OR REPLACE USER `u`@`%`;",
            "CREATE FUNCTION `f` RETURNS INTEGER SONAME 'x.so';",
            "CREATE SERVER s FOREIGN DATA WRAPPER mysql OPTIONS (USER 'x');",
            "UPDATE `mysql`.`user` SET x = 1;",
            "DELETE FROM t;",
            "TRUNCATE t;",
            "CALL p();",
            "RENAME TABLE a TO b;",
            "LOAD DATA INFILE 'x' INTO TABLE t;",
            "SELECT 1 INTO OUTFILE '/tmp/x';",
            "PREPARE s FROM 'x';",
            "EXECUTE IMMEDIATE 'x';",
            "INSTALL SONAME 'x';",
            "FLUSH PRIVILEGES;",
            "USE mysql;",
        ] {
            assert!(matches!(Unit::of(text.as_bytes()), Unit::Foreign(_)), "{text}");
        }
    }

    #[test]
    fn a_block_tells_what_it_makes() {
        let text = b"DELIMITER ;;\n/*!50003 SET x = 1 */ ;;\n/*!50106 CREATE*/ /*!50117 DEFINER=`a`@`%`*/ /*!50106 EVENT `e` DO \nSELECT 1 */ ;;\n\
            CREATE OR REPLACE DEFINER=`a`@`%` PROCEDURE p() BEGIN END ;;\nDELIMITER ;\n";
        let expected = [(Definition::Event, "e".to_owned()), (Definition::Procedure, "P".to_owned())];
        assert_eq!(Unit::of_block(text), expected);
    }
}
