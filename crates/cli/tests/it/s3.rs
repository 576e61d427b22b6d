//! The same journey through real S3 servers.

use crate::lab::{Lab, server};
use crate::postgres::{Database, password};

/// A fresh prefix on one of the servers, and a lab that can reach it.
fn place(which: &str) -> (Lab, String) {
    let variable = |name: &str| server(&format!("STRONGROOM_TEST_{which}_{name}"));
    let mut lab = Lab::with_keys();
    lab.set("AWS_ACCESS_KEY_ID", variable("ACCESS_KEY"));
    lab.set("AWS_SECRET_ACCESS_KEY", variable("SECRET_KEY"));
    lab.set("PGPASSWORD", password());
    let id = std::fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap();
    let url = format!("s3://{}/cli/{}?endpoint={}", variable("BUCKET"), id.trim(), variable("ENDPOINT"));
    (lab, url)
}

fn sqlite_and_postgres(which: &str) {
    let (lab, url) = place(which);
    let (old, new) = (Database::filled(2000), Database::absent());
    lab.database("app.db", 3000);
    for source in ["sqlite:app.db".to_owned(), old.url()] {
        lab.run(["backup", &source, "-d", &url, "-r", "key.pub.pem"]).ok();
    }
    let list = lab.run(["--json", "list", "-d", &url]).ok().json();
    assert_eq!(list["backups"].as_array().unwrap().len(), 2);
    let database = format!("{}@latest", old.name());
    for backup in ["app@latest", &database] {
        lab.run(["verify", backup, "-d", &url]).ok();
        lab.run(["verify", backup, "--deep", "-i", "key.pem", "-d", &url]).ok();
    }
    lab.run(["restore", "app@latest", "--to", "sqlite:new.db", "-i", "key.pem", "-d", &url]).ok();
    assert_eq!(lab.rows("new.db"), lab.rows("app.db"));
    lab.run(["restore", &database, "--to", &new.url(), "--verify-first", "-i", "key.pem", "-d", &url]).ok();
    assert_eq!(new.content(), old.content());
}

#[test]
fn both_databases_through_ceph() {
    sqlite_and_postgres("RGW");
}

#[test]
fn both_databases_through_s3s() {
    sqlite_and_postgres("S3S");
}

/// A store that is not Amazon's is described in the URL alone.
#[test]
fn the_url_says_how_a_store_wants_to_be_asked() {
    for which in ["RGW", "S3S"] {
        let (lab, url) = place(which);
        lab.database("app.db", 10);
        let url = format!("{url}&region=auto&path_style=true");
        lab.run(["backup", "sqlite:app.db", "-d", &url, "-r", "key.pub.pem"]).ok();
        lab.run(["verify", "app@latest", "-d", &url]).ok();
        let wrong = format!("{url}x&path_style=maybe&ca_file=");
        let told = lab.run(["list", "-d", &wrong]).fails(2, "path_style");
        assert!(told.stderr.contains("ca_file"), "{}", told.stderr);
    }
}

#[test]
fn refused_credentials_and_a_missing_bucket_are_told() {
    let (mut lab, url) = place("RGW");
    lab.database("app.db", 1);
    let bucket = server("STRONGROOM_TEST_RGW_BUCKET");
    let missing = url.replacen(&format!("s3://{bucket}/"), "s3://no-such-bucket-here/", 1);
    lab.run(["backup", "sqlite:app.db", "-d", &missing, "-r", "key.pub.pem"])
        .fails(2, "the bucket does not exist");
    lab.set("AWS_SECRET_ACCESS_KEY", "wrong");
    let ran = lab.run(["backup", "sqlite:app.db", "-d", &url, "-r", "key.pub.pem"]).fails(12, "");
    assert!(!ran.stderr.contains("wrong"), "{}", ran.stderr);
}

/// Access keys come from files that a destination's table names.
#[test]
fn access_keys_come_from_files() {
    let (mut lab, url) = place("S3S");
    lab.database("app.db", 1);
    for (name, variable) in
        [("id", "STRONGROOM_TEST_S3S_ACCESS_KEY"), ("secret", "STRONGROOM_TEST_S3S_SECRET_KEY")]
    {
        lab.write(name, format!("{}\n", server(variable)));
    }
    lab.set("AWS_ACCESS_KEY_ID", "");
    lab.set("AWS_SECRET_ACCESS_KEY", "");
    lab.write(
        "s.toml",
        format!(
            "[destinations.far]\nurl = \"{url}\"\naccess_key_file = \"id\"\nsecret_key_file = \"secret\"\n"
        ),
    );
    lab.run(["--config", "s.toml", "backup", "sqlite:app.db", "-d", "far", "-r", "key.pub.pem"]).ok();
    lab.run(["--config", "s.toml", "verify", "app@latest", "-d", "far"]).ok();
}
