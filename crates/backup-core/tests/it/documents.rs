//! Every page of the documentation is found from another, and every link leads somewhere.

use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the workspace")
}

/// The Markdown pages of the project.
fn pages() -> Vec<PathBuf> {
    let mut pages = Vec::new();
    for folder in ["", "docs", "docs/engines", "examples"] {
        let entries = std::fs::read_dir(root().join(folder)).expect("a folder");
        let paths = entries.map(|entry| entry.expect("a folder entry").path());
        pages.extend(paths.filter(|path| path.extension().is_some_and(|e| e == "md")));
    }
    pages
}

/// What the links of a page lead to, without those to other sites and to places within the page.
fn targets(page: &Path) -> Vec<PathBuf> {
    let text = std::fs::read_to_string(page).expect("a page");
    let links = text.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
    links
        .map(|(link, _)| link.split('#').next().unwrap_or_default())
        .filter(|link| !link.is_empty() && !link.contains("://") && !link.starts_with("mailto:"))
        .map(|link| page.parent().expect("a folder").join(link))
        .collect()
}

#[test]
fn every_link_leads_somewhere_and_every_page_is_found() {
    let pages = pages();
    assert!(pages.len() >= 10, "{pages:?}");
    let mut linked = Vec::new();
    for page in &pages {
        for target in targets(page) {
            let found = target.canonicalize();
            assert!(found.is_ok(), "{} links to {}, which is not there", page.display(), target.display());
            linked.extend(found);
        }
    }
    let roots = ["README.md", "CHANGELOG.md"].map(|name| root().join(name));
    for page in pages.iter().filter(|page| !roots.contains(page)) {
        assert!(linked.contains(page), "no page links to {}", page.display());
    }
}
