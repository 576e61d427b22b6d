//! Text in other character sets, byte by byte; and from one family of servers to the other.

use std::sync::{Arc, Mutex};

use backup_core::testing::collect;
use backup_core::{Context, Dumper as _, ErrorKind, Event, Progress, Selection};
use dumpers::mysql::MysqlDumper;

use crate::mysql::{dump_of, restore, varied};
use crate::mysql_server::{Database, Server};

/// A column of each set with bytes of it: every byte that stands for itself where there is one for
/// each, else letters of one, two and three bytes, with the second byte a backslash or a quote.
fn texts(source: &Database) {
    let all: String = (1..=255).map(|byte: u8| format!("{byte:02x}")).collect();
    let rows: [(&str, &[&str]); 11] = [
        ("latin1", &[&all, "80ff5c27"]),
        ("latin2", &["41a1b15c27", "e6eaf1f3b6bf"]),
        ("koi8r", &["f0d2c9d7c5d45c"]),
        ("cp1251", &["cff0e8e2e5f25c27"]),
        // The second byte of these letters is 5c, a backslash to whoever reads bytes.
        ("cp932", &["835c", "815c5c", "955c", "b1b2b3dd", "8160"]),
        ("sjis", &["835c815c"]),
        ("gbk", &["815c", "d6d0cec4", "b55c27"]),
        ("big5", &["a55ca4a4"]),
        ("ujis", &["c6fccbdc", "8eb1"]),
        ("utf16", &["00410042d83edd80005c0027", "4e2d"]),
        ("ucs2", &["00410042005c0027"]),
    ];
    for (set, values) in rows {
        source.sql(&format!("CREATE TABLE `{set}` (id int AUTO_INCREMENT PRIMARY KEY, c text CHARACTER SET {set}, v varchar(400) CHARACTER SET {set} DEFAULT NULL) CHARACTER SET {set}"));
        for value in values {
            let text = format!("CONVERT(UNHEX('{value}') USING {set})");
            source.sql(&format!("INSERT INTO `{set}` (c, v) VALUES ({text}, {text})"));
        }
    }
}

fn all_bytes(database: &Database) -> String {
    let names = database.sql("SHOW TABLES");
    let one =
        |name: &str| database.sql(&format!("SELECT '{name}', id, HEX(c), HEX(v) FROM `{name}` ORDER BY id"));
    names.lines().map(one).collect::<Vec<_>>().join("\n")
}

async fn other_sets_survive(server: Server) {
    let source = server.database("texts");
    texts(&source);
    let warned = Warned::default();
    let cx = Context::new().with_progress(Arc::new(warned.clone()));
    let dumper = MysqlDumper::new(&source.config()).unwrap();
    let dump = dumper.dump(&cx, &Selection::default()).await.unwrap();
    let format = dump.format.clone();
    let whole = collect(dump.bytes).await.unwrap();
    assert_eq!(warned.said(), Vec::<String>::new());
    let target = server.free_name("texts_back");
    restore(&target.config(), &(format, whole), false).await.unwrap();
    let bytes = all_bytes(&source);
    assert!(bytes.contains("835C") && bytes.contains("D83EDD80") && bytes.contains("80FF5C27"), "{bytes}");
    assert_eq!(all_bytes(&target), bytes);
    for facts in [
        "SELECT TABLE_NAME, COLUMN_NAME, CHARACTER_SET_NAME, COLLATION_NAME FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = database() ORDER BY 1, 2",
        "SELECT TABLE_NAME, TABLE_COLLATION FROM information_schema.TABLES WHERE TABLE_SCHEMA = database() ORDER BY 1",
    ] {
        assert_eq!(target.sql(facts), source.sql(facts));
    }
}

#[tokio::test]
async fn text_in_other_character_sets_comes_back_byte_by_byte() {
    other_sets_survive(Server::mariadb()).await;
}

#[tokio::test]
async fn mysql9_text_in_other_character_sets_comes_back_byte_by_byte() {
    other_sets_survive(Server::mysql9()).await;
}

#[derive(Debug, Clone, Default)]
struct Warned(Arc<Mutex<Vec<String>>>);

impl Warned {
    fn said(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

impl Progress for Warned {
    fn on(&self, event: Event<'_>) {
        if let Event::Warning(text) = event {
            self.0.lock().unwrap().push(text.to_owned());
        }
    }
}

/// Two codes of cp932 for one sign, and one of gbk for none: neither can pass through Unicode.
async fn lossy_text_is_told(server: Server) {
    let source = server.database("lossy");
    source.sql(
        "CREATE TABLE a (c varchar(20) CHARACTER SET cp932, other varchar(20) CHARACTER SET cp932);
         INSERT INTO a VALUES (CONVERT(UNHEX('8790') USING cp932), 'x'), (CONVERT(UNHEX('81e0') USING cp932), 'y'), (NULL, NULL);
         CREATE TABLE `b ``ö` (c text CHARACTER SET cp932); INSERT INTO `b ``ö` VALUES (CONVERT(UNHEX('fa5b') USING cp932));
         CREATE TABLE excluded (c text CHARACTER SET cp932); INSERT INTO excluded VALUES (CONVERT(UNHEX('fa5b') USING cp932));
         CREATE VIEW w AS SELECT c FROM a;",
    );
    let warned = Warned::default();
    let cx = Context::new().with_progress(Arc::new(warned.clone()));
    let what = Selection { exclude: vec!["excluded".to_owned()], ..Selection::default() };
    let dump = MysqlDumper::new(&source.config()).unwrap().dump(&cx, &what).await.unwrap();
    collect(dump.bytes).await.unwrap();
    let said = warned.said();
    let [first, second] = said.as_slice() else { panic!("{said:?}") };
    assert!(first.contains(&format!("`c` of {}.a ", source.name)) && first.contains("in 1 rows"), "{first}");
    assert!(second.contains("`b ``ö`") && second.contains("cp932"), "{second}");
}

#[tokio::test]
async fn text_that_does_not_come_back_from_unicode_is_told() {
    lossy_text_is_told(Server::mariadb()).await;
}

#[tokio::test]
async fn mysql9_text_that_does_not_come_back_from_unicode_is_told() {
    lossy_text_is_told(Server::mysql9()).await;
}

/// What both families have.
const COMMON: &str = "
CREATE TABLE k (id int PRIMARY KEY, name varchar(50) NOT NULL, amount decimal(12,2), at datetime(3), raw blob, e enum('a','b'),
  KEY (name)) CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci;
INSERT INTO k (id, name, amount, at, raw, e) VALUES (1, 'Zoë 🦀', 1.25, '2024-02-29 23:59:59.123', UNHEX('00ff5c27'), 'a'), (2, 'x', NULL, NULL, NULL, 'b');
CREATE TABLE o (id int PRIMARY KEY, k int, CONSTRAINT fk FOREIGN KEY (k) REFERENCES k (id)) CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci;
INSERT INTO o VALUES (1, 1), (2, 2), (3, 1);
CREATE VIEW v AS SELECT k.id, count(*) AS n FROM k JOIN o ON o.k = k.id GROUP BY k.id;
CREATE TRIGGER tr BEFORE INSERT ON o FOR EACH ROW SET NEW.k = 1;
CREATE PROCEDURE p() SELECT 'it''s; fine';
CREATE FUNCTION f(a int) RETURNS int DETERMINISTIC RETURN a * 7;
CREATE EVENT e ON SCHEDULE EVERY 1 DAY STARTS '2030-01-01' DO SELECT 1;";
const FACTS: &str = "SELECT id, HEX(name), amount, at, HEX(raw), e FROM k ORDER BY id; SELECT * FROM o ORDER BY id;
SELECT * FROM v ORDER BY id; SELECT f(6); CALL p(); SELECT count(*) FROM information_schema.TRIGGERS WHERE TRIGGER_SCHEMA = database();
SELECT count(*) FROM information_schema.EVENTS WHERE EVENT_SCHEMA = database();
SELECT count(*) FROM information_schema.REFERENTIAL_CONSTRAINTS WHERE CONSTRAINT_SCHEMA = database()";

/// What both know goes over; what one lacks is named, and leaves nothing.
async fn crosses(from: Server, to: Server, lacks: &[(&str, &str)]) {
    let source = from.database("across");
    source.sql(&format!("ALTER DATABASE CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci; SET NAMES utf8mb4 COLLATE utf8mb4_unicode_ci; {COMMON}"));
    let whole = dump_of(&source.config()).await;
    let target = to.free_name("across_back");
    restore(&target.config(), &whole, false).await.unwrap();
    assert_eq!(target.sql(FACTS), source.sql(FACTS));
    for (made, named) in lacks {
        let source = from.database("across_not");
        source.sql("ALTER DATABASE CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci");
        source.sql(made);
        let whole = dump_of(&source.config()).await;
        let target = to.free_name("across_not_back");
        let error = restore(&target.config(), &whole, false).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{made}: {error}");
        assert!(error.what().contains(named), "{made}: {error}");
        assert!(error.hint().unwrap().contains("restore to a server of M"), "{made}: {:?}", error.hint());
        assert!(to.databases(&target.name).is_empty(), "{made}");
    }
}

#[tokio::test]
async fn mysql9_takes_dumps_of_mariadb_or_names_what_it_lacks() {
    let lacks = [
        ("CREATE TABLE t (i int) ENGINE=Aria", "Aria"),
        // Its programs give values for them, which it passes over itself.
        (
            "CREATE TABLE t (a int, b int GENERATED ALWAYS AS (a * 2) STORED); INSERT INTO t (a) VALUES (1)",
            "generated column",
        ),
        ("CREATE TABLE t (u uuid)", "uuid"),
        ("CREATE SEQUENCE s; CREATE TABLE t (i int DEFAULT (NEXT VALUE FOR s))", "SEQUENCE"),
        ("CREATE TABLE t (i int) WITH SYSTEM VERSIONING", "VERSIONING"),
        ("CREATE PROCEDURE p() BEGIN FOR i IN 1..3 DO SELECT i; END FOR; END", "syntax"),
    ];
    crosses(Server::mariadb(), Server::mysql9(), &lacks).await;
}

#[tokio::test]
async fn mysql9_and_mariadb118_take_each_others_dumps() {
    crosses(Server::mariadb118(), Server::mysql9(), &[]).await;
    crosses(Server::mysql9(), Server::mariadb118(), &[]).await;
}

#[tokio::test]
async fn mysql9_dumps_go_to_mariadb_or_what_it_lacks_is_named() {
    let lacks = [
        ("CREATE TABLE t (c varchar(9)) COLLATE utf8mb4_0900_ai_ci", "utf8mb4_0900_ai_ci"),
        ("CREATE TABLE t (a int, KEY ((a + 1)))", "syntax"),
        ("CREATE TABLE t (v vector(3))", "vector"),
    ];
    crosses(Server::mysql9(), Server::mariadb(), &lacks).await;
}

/// A newer version of the same family.
#[tokio::test]
async fn mariadb118_takes_all_of_an_older_mariadb() {
    let source = Server::mariadb().database("upward");
    source.sql(&varied());
    let whole = dump_of(&source.config()).await;
    let target = Server::mariadb118().free_name("upward_back");
    restore(&target.config(), &whole, false).await.unwrap();
    let count =
        "SELECT count(*), sum(id) FROM `Kunden \"A\" 'x' ``y`` .z`; SELECT * FROM a_view; SELECT f(6)";
    assert_eq!(target.sql(count), source.sql(count));
}
