//! `quickstart`, the first command that anybody runs.

use crate::lab::Lab;

#[test]
fn everything_works_once_and_again_in_the_same_folder() {
    let lab = Lab::new();
    let first = lab.run(["--json", "--quiet", "quickstart", "--dir", "try"]).ok();
    let warnings: Vec<_> = first.stderr.lines().filter(|line| !line.contains("has no passphrase")).collect();
    assert_eq!(warnings, [] as [&str; 0], "a newcomer is not worried");
    let first = first.json();
    let mut files = lab.tree("try");
    files.retain(|name| !name.contains('/'));
    assert_eq!(files, ["restored.db", "sample.db"], "no log is left beside a database");
    assert_eq!(first["equal"], true);
    let tables = first["tables"].as_array().unwrap();
    assert!(tables.len() >= 4 && tables.iter().all(|t| t["rows"].as_u64().unwrap() > 0), "{tables:?}");
    assert!(std::fs::metadata(lab.path("try/sample.db")).unwrap().len() >= 50_000_000);
    assert!(!lab.path("state").exists(), "a trial touches nothing that is real");
    // As a killed run leaves it.
    lab.write("try/.restored.db.abcdef.partial", "half");
    let again = lab.run(["quickstart", "--dir", "try"]).ok();
    assert!(again.stderr.contains("there already"), "{}", again.stderr);
    assert!(again.text().contains("equal"), "{}", again.text());
    assert!(!lab.path("try/.restored.db.abcdef.partial").exists());
}

#[test]
fn a_folder_with_something_else_in_it_is_left_alone() {
    let lab = Lab::new();
    std::fs::create_dir(lab.path("mine")).unwrap();
    lab.write("mine/letter.txt", "dear");
    lab.run(["quickstart", "--dir", "mine"]).fails(11, "letter.txt");
    assert_eq!(lab.tree("mine"), ["letter.txt"]);
}
