//! Round trips through real MariaDB and MySQL servers.

use backup_core::testing::{collect, dumper_suite, inspector_suite, known, restorer_suite};
use backup_core::{
    ByteStream, Context, DumpFormat, Dumper as _, Inspector as _, RestoreRequest, Restorer as _, Selection,
};
use bytes::Bytes;
use dumpers::mysql::{MARIADB_SQL, MYSQL_SQL, MysqlConfig, MysqlDumper, MysqlInspector, MysqlRestorer};

use crate::mysql_server::Server;

/// Many types, names that need quoting, text beyond ASCII, every byte, a view on a view, a trigger,
/// routines, an event, a foreign key, partitions.
const VARIED: &str = r#"
SET SESSION sql_mode = 'NO_AUTO_VALUE_ON_ZERO';
CREATE TABLE `Kunden "A" 'x' ``y`` .z` (
  `id` bigint NOT NULL AUTO_INCREMENT PRIMARY KEY, `Näme` varchar(200) CHARACTER SET utf8mb4, raw blob, bin binary(4),
  vb varbinary(300), bits bit(11), doc json, at datetime(6), ts timestamp NULL, d date, y year, amount decimal(20, 4),
  f double, fl float, e enum('gut', 'schl''echt'), s set('a', 'b'), geo geometry, lat varchar(50) CHARACTER SET latin1,
  twice bigint GENERATED ALWAYS AS (f * 2) STORED, thrice bigint GENERATED ALWAYS AS (f * 3) VIRTUAL,
  t longtext COMMENT 'a ''comment''; -- with \\ # signs', KEY (lat), FULLTEXT KEY (`Näme`)) ENGINE=InnoDB;
CREATE TABLE n (i int PRIMARY KEY) ;
INSERT INTO n VALUES (0),(1),(2),(3),(4),(5),(6),(7),(8),(9);
INSERT INTO `Kunden "A" 'x' ``y`` .z`
  (id, `Näme`, raw, bin, vb, bits, doc, at, ts, d, y, amount, f, fl, e, s, geo, lat, t)
  SELECT a.i * 100 + b.i * 10 + c.i, CONCAT('Zoë 🦀 \\ '' " ; -- ', a.i, '\n\t\r', b.i), UNHEX(CONCAT('00ff0a5c27221a0d', HEX(c.i))),
    UNHEX('00ff5c27'), UNHEX('00'), b'10000000001', JSON_OBJECT('i', a.i, 'ü', '"\\'), '2024-02-29 23:59:59.123456',
    '2024-06-01 12:00:00', IF(c.i = 0, '0000-00-00', '2024-02-29'), 2024, a.i / 7, 1 / 3 + b.i, 0.1, IF(a.i % 2, 'gut', 'schl''echt'),
    'a,b', ST_GeomFromText('POINT(1 2)'), 'Grüße ÿ', REPEAT('x', 50)
  FROM n a, n b, n c;
INSERT INTO `Kunden "A" 'x' ``y`` .z` (id, raw) SELECT 5000, CAST(GROUP_CONCAT(CHAR(a.i * 100 + b.i * 10 + c.i) ORDER BY a.i, b.i, c.i SEPARATOR '') AS BINARY)
  FROM n a, n b, n c WHERE a.i * 100 + b.i * 10 + c.i < 256;
CREATE TABLE orders (id int PRIMARY KEY, kunde bigint, CONSTRAINT fk FOREIGN KEY (kunde) REFERENCES `Kunden "A" 'x' ``y`` .z` (id)) ENGINE=InnoDB;
INSERT INTO orders SELECT a.i * 10 + b.i, a.i FROM n a, n b;
CREATE TABLE legacy (x varchar(20), id int) ENGINE=InnoDB CHARACTER SET latin1;
INSERT INTO legacy VALUES ('Grüße', 1), (UNHEX('80FF'), 2);
CREATE TABLE parts (i int) PARTITION BY HASH (i) PARTITIONS 3;
INSERT INTO parts SELECT i FROM n;
CREATE TABLE empty_one (i int);
CREATE TABLE log (what varchar(100));
CREATE VIEW a_view AS SELECT count(*) AS c FROM z_view;
"#;
/// A view needs what it stands on, so the first above is made late.
const DEFINITIONS: &str = r#"
CREATE VIEW z_view AS SELECT id, `Näme` FROM `Kunden "A" 'x' ``y`` .z`;
CREATE VIEW a_view AS SELECT count(*) AS c FROM z_view;
DELIMITER //
CREATE TRIGGER `tr ü` BEFORE INSERT ON orders FOR EACH ROW BEGIN
  INSERT INTO log VALUES (CONCAT('DELIMITER ;', NEW.id, 'it''s; -- ')); END//
CREATE TRIGGER second AFTER UPDATE ON orders FOR EACH ROW INSERT INTO log VALUES ('u')//
CREATE PROCEDURE `p ;;` (IN a int) BEGIN -- a comment 'with a quote
  SELECT a, 'x;y' FROM orders LIMIT 1; END//
CREATE FUNCTION f(a int) RETURNS int DETERMINISTIC RETURN a * 7//
CREATE EVENT ev ON SCHEDULE EVERY 1 DAY STARTS '2030-01-01' DO BEGIN INSERT INTO log VALUES ('event'); END//
DELIMITER ;
"#;

/// What must be the same afterwards, asked without a dump program.
const FACTS: &str = r#"
SET SESSION group_concat_max_len = 1000000000;
SELECT count(*), sum(id), sha2(group_concat(hex(`Näme`), hex(raw), hex(bin), hex(vb), hex(bits), hex(doc), at, ts, d, y, amount, f, fl, e, s,
   hex(ST_AsBinary(geo)), hex(lat), twice, thrice, hex(t) ORDER BY id), 256) FROM `Kunden "A" 'x' ``y`` .z`;
SELECT sha2(raw, 256), length(raw) FROM `Kunden "A" 'x' ``y`` .z` WHERE id = 5000;
SELECT count(*), sum(id * kunde) FROM orders;
SELECT hex(x), id FROM legacy ORDER BY id;
SELECT count(*), sum(i) FROM parts PARTITION (p1);
SELECT count(*) FROM empty_one; SELECT count(*) FROM log; SELECT * FROM a_view; SELECT f(6);
SELECT TRIGGER_NAME, EVENT_MANIPULATION, sha2(ACTION_STATEMENT, 256) FROM information_schema.TRIGGERS WHERE TRIGGER_SCHEMA = database() ORDER BY 1;
SELECT ROUTINE_NAME, ROUTINE_TYPE, sha2(ROUTINE_DEFINITION, 256) FROM information_schema.ROUTINES WHERE ROUTINE_SCHEMA = database() ORDER BY 1;
SELECT EVENT_NAME, STATUS, sha2(EVENT_DEFINITION, 256) FROM information_schema.EVENTS WHERE EVENT_SCHEMA = database() ORDER BY 1;
SELECT TABLE_NAME, TABLE_TYPE, ENGINE, TABLE_COLLATION FROM information_schema.TABLES WHERE TABLE_SCHEMA = database() ORDER BY 1;
SELECT TABLE_NAME, COLUMN_NAME, COLUMN_TYPE, COLUMN_DEFAULT, EXTRA, COLUMN_COMMENT FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = database() ORDER BY 1, 2;
SELECT TABLE_NAME, INDEX_NAME, COLUMN_NAME, SEQ_IN_INDEX FROM information_schema.STATISTICS WHERE TABLE_SCHEMA = database() ORDER BY 1, 2, 4;
SELECT CONSTRAINT_NAME, TABLE_NAME, REFERENCED_TABLE_NAME, UNIQUE_CONSTRAINT_SCHEMA = database() FROM information_schema.REFERENTIAL_CONSTRAINTS WHERE CONSTRAINT_SCHEMA = database();
SELECT DEFAULT_CHARACTER_SET_NAME, DEFAULT_COLLATION_NAME FROM information_schema.SCHEMATA WHERE SCHEMA_NAME = database();
"#;

pub(crate) fn varied() -> String {
    VARIED.lines().filter(|line| !line.starts_with("CREATE VIEW")).collect::<Vec<_>>().join("\n")
        + DEFINITIONS
}

pub(crate) fn request(format: &DumpFormat, into_existing: bool) -> RestoreRequest {
    RestoreRequest { format: format.clone(), source_len: None, into_existing }
}

pub(crate) async fn dump_of(config: &MysqlConfig) -> (DumpFormat, Bytes) {
    let dumper = MysqlDumper::new(config).unwrap();
    let dump = dumper.dump(&Context::new(), &Selection::default()).await.unwrap();
    (dump.format, collect(dump.bytes).await.unwrap())
}

/// Restores known bytes and gives the warnings.
pub(crate) async fn restore(
    config: &MysqlConfig,
    (format, whole): &(DumpFormat, Bytes),
    into_existing: bool,
) -> backup_core::Result<Vec<String>> {
    let restorer = MysqlRestorer::new(config).unwrap();
    let cx = Context::new();
    let plan = restorer.plan(&cx, request(format, into_existing)).await?;
    let restored = restorer.restore(&cx, plan, known(format, whole)).await?;
    assert_eq!(restored.bytes, whole.len() as u64);
    Ok(restored.warnings)
}

async fn comes_back_equal(server: &Server, engine: &str, format: &str) {
    let source = server.database("varied");
    source.sql(&varied());
    let dumper = MysqlDumper::new(&source.config()).unwrap();
    let cx = Context::new();
    let probe = dumper.probe(&cx).await.unwrap();
    assert_eq!(probe.engine, engine);
    assert!(probe.obstacles.is_empty() && probe.warnings.is_empty(), "{probe:?}");
    assert!(probe.estimated_bytes.unwrap() > 100_000);
    let odd = format!("{}.`Kunden \"A\" 'x' ``y`` .z`", source.name);
    assert!(
        probe.items.iter().any(|item| item.name == odd && item.estimated_rows.is_some()),
        "{:?}",
        probe.items
    );

    let dump = dumper.dump(&cx, &Selection::default()).await.unwrap();
    let report = dump.report.clone();
    assert_eq!(dump.format.as_str(), format);
    let found = dump.format.clone();
    let whole = collect(dump.bytes).await.unwrap();
    let mut reported = report.get().unwrap().tables.clone();
    reported.sort();
    let mut tables: Vec<String> = probe.items.iter().map(|item| item.name.clone()).collect();
    tables.sort();
    assert_eq!(reported, tables);
    let seen = MysqlInspector.inspect(&cx, &found, ByteStream::once(whole.clone())).await.unwrap();
    assert!(seen.parsed && seen.bytes == whole.len() as u64);
    assert_eq!(seen.tables, report.get().unwrap().tables);

    let target = server.free_name("varied_back");
    let warnings = restore(&target.config(), &(found, whole), false).await.unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    assert_eq!(target.sql(FACTS), source.sql(FACTS));
    assert_eq!(server.databases(&target.name), std::slice::from_ref(&target.name), "nothing else is left");
    // The trigger writes to the copy's own log.
    target.sql("INSERT INTO orders VALUES (1000, 1)");
    assert_eq!(target.sql("SELECT count(*) FROM log"), "1");
    assert_eq!(source.sql("SELECT count(*) FROM log"), "0");
}

#[tokio::test]
async fn what_comes_back_equals_what_went_in() {
    comes_back_equal(&Server::mariadb(), "mariadb", MARIADB_SQL).await;
}

#[tokio::test]
async fn mariadb118_what_comes_back_equals_what_went_in() {
    comes_back_equal(&Server::mariadb118(), "mariadb", MARIADB_SQL).await;
}

#[tokio::test]
async fn mysql9_what_comes_back_equals_what_went_in() {
    comes_back_equal(&Server::mysql9(), "mysql", MYSQL_SQL).await;
}

async fn obeys_the_suites(server: &Server) {
    let source = server.database("suite");
    source.sql(
        "CREATE TABLE n (i int); INSERT INTO n VALUES (0),(1),(2),(3),(4),(5),(6),(7),(8),(9);
         CREATE TABLE t (i int PRIMARY KEY, x text);
         INSERT INTO t SELECT a.i * 100 + b.i * 10 + c.i, repeat(sha2(a.i * 100 + b.i, 256), 10) FROM n a, n b, n c;
         CREATE VIEW v AS SELECT count(*) c FROM t;",
    );
    dumper_suite(&MysqlDumper::new(&source.config()).unwrap()).await;
    let (format, whole) = dump_of(&source.config()).await;
    let target = server.free_name("suite_back");
    let restorer = MysqlRestorer::new(&target.config()).unwrap();
    restorer_suite(&restorer, &format, &whole, async || {
        let found = server.databases(&target.name);
        assert!(found.iter().all(|name| *name == target.name), "left behind: {found:?}");
        !found.is_empty()
    })
    .await;
    let count = "SELECT count(*), sha2(group_concat(x ORDER BY i), 256), (SELECT c FROM v) FROM t";
    assert_eq!(target.sql(count), source.sql(count));
}

#[tokio::test]
async fn dumper_and_restorer_obey_the_suites() {
    obeys_the_suites(&Server::mariadb()).await;
}

#[tokio::test]
async fn mariadb118_dumper_and_restorer_obey_the_suites() {
    obeys_the_suites(&Server::mariadb118()).await;
}

#[tokio::test]
async fn mysql9_dumper_and_restorer_obey_the_suites() {
    obeys_the_suites(&Server::mysql9()).await;
}

#[tokio::test]
async fn the_dump_inspector_obeys_the_suite() {
    for server in [Server::mariadb()] {
        let source = server.database("inspected");
        source.sql("CREATE TABLE t (i int, x blob); INSERT INTO t VALUES (1, repeat('\\0\\'\"', 900)); CREATE TABLE nothing (i int);");
        source.sql("CREATE VIEW v AS SELECT 1 AS x; CREATE PROCEDURE p() SELECT 'a;b';");
        let (format, whole) = dump_of(&source.config()).await;
        inspector_suite(&MysqlInspector, &format, &whole).await;
    }
}
