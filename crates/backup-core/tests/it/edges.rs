//! Arrows point inward: which crate may name which.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The seven crates and everything of ours that each may depend on.
const ALLOWED: [(&str, &[&str]); 7] = [
    ("backup-core", &[]),
    ("envelope-crypto", &["backup-core"]),
    ("dumpers", &["backup-core"]),
    ("storage", &["backup-core"]),
    ("notifiers", &["backup-core"]),
    ("cli", &["backup-core", "dumpers", "envelope-crypto", "notifiers", "storage"]),
    ("server", &["backup-core", "dumpers", "envelope-crypto", "notifiers", "storage"]),
];

fn crates_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The names under every `[...dependencies]` table of a manifest, dev-dependencies included.
fn dependencies(manifest: &str) -> BTreeSet<String> {
    let mut inside = false;
    let mut names = BTreeSet::new();
    for line in manifest.lines().map(str::trim) {
        if let Some(table) = line.strip_prefix('[') {
            let table = table.trim_end_matches(']');
            inside = table.ends_with("dependencies");
            // The long form: [dependencies.name]
            if let Some((parent, name)) = table.rsplit_once('.')
                && parent.ends_with("dependencies")
            {
                names.insert(name.to_owned());
            }
        } else if inside && !line.starts_with('#') {
            let name = line.split(['.', '=', ' ']).next().unwrap_or_default();
            if !name.is_empty() {
                names.insert(name.to_owned());
            }
        }
    }
    names
}

#[test]
fn every_crate_names_only_what_it_may() {
    let allowed: BTreeMap<_, BTreeSet<_>> =
        ALLOWED.iter().map(|(name, edges)| (*name, edges.iter().copied().collect())).collect();
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(crates_folder()).unwrap() {
        let folder = entry.unwrap().path();
        let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
        let manifest = std::fs::read_to_string(folder.join("Cargo.toml")).unwrap();
        assert!(
            manifest.contains(&format!("name = \"{name}\"")),
            "{name}: package names are the folder names"
        );
        let edges =
            allowed.get(name.as_str()).unwrap_or_else(|| panic!("{name} is not one of the seven crates"));
        for ours in dependencies(&manifest).iter().filter(|d| allowed.contains_key(d.as_str())) {
            assert!(edges.contains(ours.as_str()) || *ours == name, "{name} may not depend on {ours}");
        }
        found.insert(name);
    }
    assert_eq!(found.len(), ALLOWED.len(), "found {found:?}");
}

#[test]
fn the_core_names_no_database_no_store_and_no_cipher() {
    let manifest = std::fs::read_to_string(crates_folder().join("backup-core/Cargo.toml")).unwrap();
    let dependencies = dependencies(&manifest);
    for outside in
        ["opendal", "rusqlite", "rsa", "aes-gcm", "aws-lc-rs", "zstd", "clap", "axum", "reqwest", "sqlx"]
    {
        assert!(!dependencies.contains(outside), "backup-core depends on {outside}");
    }
    assert!(dependencies.contains("bytes"), "the manifest was not understood: {dependencies:?}");
}
