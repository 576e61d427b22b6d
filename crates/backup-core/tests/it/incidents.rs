//! The table of docs/incidents.md names tests; they must exist, and tests so named must be in it.

use std::collections::BTreeSet;
use std::path::Path;

/// Every `incident_NN_...` in a text that ends where an identifier ends.
fn named(text: &str) -> impl Iterator<Item = &str> {
    text.match_indices("incident_").filter_map(|(at, _)| {
        let rest = &text[at..];
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(rest.len());
        let name = &rest[..end];
        name["incident_".len()..].starts_with(|c: char| c.is_ascii_digit()).then_some(name)
    })
}

fn tests_below(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("a folder entry")) {
        let path = entry.path();
        if path.is_dir() {
            tests_below(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text = std::fs::read_to_string(&path).expect("a source file");
            let functions = text.lines().filter(|line| line.trim_start().contains("fn incident_"));
            found.extend(functions.flat_map(named).map(str::to_owned));
        }
    }
}

#[test]
fn every_incident_has_its_tests() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut tests = BTreeSet::new();
    tests_below(&root.join("crates"), &mut tests);
    let table = std::fs::read_to_string(root.join("docs/incidents.md")).unwrap();
    let rows: BTreeSet<String> = named(&table).map(str::to_owned).collect();
    assert!(rows.len() >= 30, "the table was not understood: {rows:?}");
    let missing: Vec<_> = rows.difference(&tests).collect();
    assert!(missing.is_empty(), "docs/incidents.md names tests that do not exist: {missing:?}");
    for number in [
        "01", "02", "03", "04", "05", "06", "10", "15", "18", "19", "20", "29", "56", "61", "62", "64", "67",
        "12", "53", "54", "55", "73", "74", "75", "79", "82",
    ] {
        assert!(
            rows.iter().any(|name| name.starts_with(&format!("incident_{number}_"))),
            "no test for incident {number}"
        );
    }
}
