//! `quickstart`, the first command that anybody runs.

use crate::lab::Lab;

#[test]
fn everything_works_once_and_again_in_the_same_folder() {
    let lab = Lab::new();
    let first = lab.run(["--json", "quickstart", "--dir", "try"]).ok().json();
    assert_eq!(first["equal"], true);
    let tables = first["tables"].as_array().unwrap();
    assert!(tables.len() >= 4 && tables.iter().all(|t| t["rows"].as_u64().unwrap() > 0), "{tables:?}");
    assert!(std::fs::metadata(lab.path("try/sample.db")).unwrap().len() >= 50_000_000);
    assert!(!lab.path("state").exists(), "a trial touches nothing that is real");
    let again = lab.run(["quickstart", "--dir", "try"]).ok();
    assert!(again.stderr.contains("there already"), "{}", again.stderr);
    assert!(again.text().contains("equal"), "{}", again.text());
}

#[test]
fn a_folder_with_something_else_in_it_is_left_alone() {
    let lab = Lab::new();
    std::fs::create_dir(lab.path("mine")).unwrap();
    lab.write("mine/letter.txt", "dear");
    lab.run(["quickstart", "--dir", "mine"]).fails(11, "letter.txt");
    assert_eq!(lab.tree("mine"), ["letter.txt"]);
}
