//! `storage test` and `storage list`.

use crate::lab::{Lab, server};

#[test]
fn a_folder_is_tried_and_left_as_it_was() {
    let lab = Lab::new();
    lab.run(["storage", "test", "./place"]).fails(10, "--create");
    let report = lab.run(["--json", "storage", "test", "./place", "--create"]).ok().json();
    assert_eq!((&report["created"], &report["ready"]), (&true.into(), &true.into()));
    assert_eq!(report["append_only"], "no");
    assert_eq!(report["left"].as_array().unwrap().len(), 0);
    let checks = report["checks"].as_array().unwrap();
    let outcome = |name: &str| checks.iter().find(|check| check["check"] == name).unwrap()["outcome"].clone();
    for check in ["put", "get", "range", "list", "refuse-overwrite", "delete"] {
        assert_eq!(outcome(check), "yes", "{check}");
    }
    let text = lab.run(["storage", "test", "./place"]).ok();
    assert!(text.text().contains("append-only       no"), "{}", text.text());
    assert!(lab.tree("place").is_empty(), "{:?}", lab.tree("place"));
}

#[test]
fn what_a_destination_holds_is_listed_level_by_level() {
    let lab = Lab::with_keys();
    lab.database("app.db", 3);
    lab.run(["backup", "sqlite:app.db", "-d", "./place", "-r", "key.pub.pem"]).ok();
    let top = lab.run(["--json", "storage", "list", "./place"]).ok().json();
    let folders: Vec<&str> =
        top["folders"].as_array().unwrap().iter().map(|f| f["folder"].as_str().unwrap()).collect();
    assert_eq!(folders, ["app/", "trust/"]);
    assert_eq!(top["objects"][0]["key"], "repository.json");
    let all = lab.run(["--json", "storage", "list", "./place", "app", "--all"]).ok().json();
    let keys = all["objects"].as_array().unwrap();
    assert!(keys.iter().any(|object| object["key"].as_str().unwrap().ends_with("/data.strongroom")));
    let text = lab.run(["storage", "list", "./place"]).ok();
    assert!(text.text().contains("app/  ("), "{}", text.text());
}

#[test]
fn a_bucket_is_tried_and_its_policy_is_printed() {
    let variable = |name: &str| server(&format!("STRONGROOM_TEST_RGW_{name}"));
    let mut lab = Lab::new();
    lab.set("AWS_ACCESS_KEY_ID", variable("ACCESS_KEY"));
    lab.set("AWS_SECRET_ACCESS_KEY", variable("SECRET_KEY"));
    let id = std::fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap();
    let url = format!("s3://{}/cli/{}?endpoint={}", variable("BUCKET"), id.trim(), variable("ENDPOINT"));
    let ran = lab.run(["storage", "test", &url]).ok();
    assert!(ran.text().contains("s3:if-none-match"), "{}", ran.text());
    assert!(ran.stderr.contains("does not keep its word"), "{}", ran.stderr);
    lab.set("AWS_SECRET_ACCESS_KEY", "wrong");
    let ran = lab.run(["storage", "test", &url]).fails(12, "");
    assert!(!ran.stderr.contains("wrong"), "{}", ran.stderr);
}
