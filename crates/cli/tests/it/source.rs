//! A look at a source: what is there, what may be read, what changed since the last backup.

use std::os::unix::fs::PermissionsExt as _;

use crate::lab::{Lab, server};
use crate::postgres::{Database, psql};

fn names(list: &serde_json::Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect()
}

#[test]
fn tables_are_listed_and_drift_is_told_on_the_machine_that_backs_up() {
    let lab = Lab::with_keys();
    let db = rusqlite::Connection::open(lab.database("app.db", 40)).unwrap();
    db.execute_batch("CREATE TABLE old (x); CREATE TABLE \"odd \"\" é\" (x); ANALYZE").unwrap();

    let seen = lab.run(["--json", "source", "tables", "sqlite:app.db"]).ok().json();
    let t = seen["tables"].as_array().unwrap().iter().find(|table| table["name"] == "t").unwrap();
    assert_eq!(
        (&t["estimated_rows"], &seen["source"], &seen["drift"]),
        (&40.into(), &"app".into(), &().into())
    );
    assert!(!lab.path("state").exists(), "a look leaves nothing behind");
    lab.run(["source", "drift", "sqlite:app.db"]).fails(10, "remembers no backup");

    lab.run(["backup", "sqlite:app.db", "-d", "./b", "-r", "key.pub.pem"]).ok();
    let mode = lab.path("state/inventory/app.json").metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let drift = lab.run(["--json", "source", "drift", "sqlite:app.db"]).ok().json();
    assert_eq!(drift["changed"], false, "{drift}");
    assert!(lab.run(["source", "drift", "sqlite:app.db"]).ok().text().contains("no change"));

    db.execute_batch("DROP TABLE old; CREATE TABLE \"new\u{1b}[31m\" (x)").unwrap();
    let drift = lab.run(["--json", "source", "drift", "sqlite:app.db"]).ok().json();
    assert_eq!((&drift["changed"], names(&drift["drift"]["gone"])), (&true.into(), vec!["old"]));
    assert_eq!(names(&drift["drift"]["added"]), ["new\u{1b}[31m"]);
    let tables = lab.run(["source", "tables", "sqlite:app.db"]).ok();
    assert!(tables.text().contains("new?[31m  new since the last backup"), "{}", tables.text());
    assert!(tables.text().contains("old  gone since the last backup"), "{}", tables.text());

    // Another database under the same name is not compared table by table with this one.
    lab.run(["source", "drift", "-", "--name", "app"]).fails(11, "the last backup was of sqlite");
}

#[test]
fn a_failed_backup_is_not_what_drift_is_told_against() {
    let lab = Lab::with_keys();
    let db = rusqlite::Connection::open(lab.database("app.db", 4)).unwrap();
    let backup = ["backup", "sqlite:app.db", "-d", "./b", "-r", "key.pub.pem"];
    lab.run(backup).ok();
    db.execute_batch("CREATE TABLE late (x)").unwrap();
    std::fs::rename(lab.path("b"), lab.path("away")).unwrap();
    lab.write("b", "no folder");
    assert_ne!(lab.run(backup).code, Some(0));
    let drift = lab.run(["--json", "source", "drift", "sqlite:app.db"]).ok().json();
    assert_eq!(names(&drift["drift"]["added"]), ["late"]);
}

#[test]
fn missing_privileges_are_named_with_their_statements_and_stop_a_test() {
    let mut lab = Lab::with_keys();
    let database = Database::filled(10);
    let role = format!("limited_{}", database.name());
    psql(
        database.name(),
        &format!("CREATE ROLE {role} LOGIN PASSWORD 'limited'; GRANT SELECT ON customers TO {role}"),
    );
    let place =
        server("STRONGROOM_TEST_PG_URL").rsplit_once('@').unwrap().1.split('/').next().unwrap().to_owned();
    let url = format!("postgres://{role}@{place}/{}", database.name());
    lab.set("PGPASSWORD", "limited");

    let ran = lab.run(["--json", "source", "test", &url]).fails(12, "1 obstacle is in the way");
    let seen = ran.json();
    let grant = format!("GRANT SELECT ON TABLE public.\"odd Name\" TO {role};");
    assert_eq!((&seen["ready"], &seen["obstacles"][0]["remedy"]), (&false.into(), &grant.clone().into()));
    let ran = lab.run(["source", "test", &url]).fails(12, "cannot be read");
    assert!(ran.text().contains(&format!("missing     {grant}")), "{}", ran.text());
    lab.run(["source", "tables", &url]).ok();

    psql(database.name(), &grant);
    let ran = lab.run(["source", "test", &url]).ok();
    assert!(
        ran.text().contains("pg_dump") && ran.text().contains("enough to read everything"),
        "{}",
        ran.text()
    );
    lab.set("PGPASSWORD", "wrong");
    lab.run(["source", "test", &url]).fails(12, "password");
    lab.run(["source", "test", &url.replace(&place, "127.0.0.1:1")]).fails(15, "");
    lab.run(["source", "test", "sqlite:absent.db"]).fails(10, "absent.db");
    psql(database.name(), &format!("DROP OWNED BY {role}; DROP ROLE {role}"));
}

/// A label is for the people of this machine: it is shown here and stands in no backup.
#[test]
fn a_label_is_shown_beside_the_name_and_kept_in_no_backup() {
    let lab = Lab::with_keys();
    lab.database("app.db", 4);
    lab.write(
        "s.toml",
        "destination = \"./b\"\n[sources.shop]\nurl = \"sqlite:app.db\"\nlabel = \"The shop's orders\"\n",
    );
    let run = |args: &[&str]| lab.run(["--config", "s.toml"].iter().chain(args)).ok();
    run(&["backup", "shop", "-r", "key.pub.pem"]);
    assert!(run(&["list"]).text().contains("latest  \"The shop's orders\""));
    assert!(run(&["show", "shop@latest"]).text().contains("label       The shop's orders"));
    assert_eq!(run(&["--json", "list"]).json()["backups"][0]["label"], "The shop's orders");
    assert!(run(&["source", "tables", "shop"]).text().contains("shop \"The shop's orders\" (sqlite)"));
    for file in lab.tree("b") {
        let bytes = lab.read(&format!("b/{file}"));
        assert!(!bytes.windows(9).any(|part| part == b"The shop'"), "{file}");
    }
}
