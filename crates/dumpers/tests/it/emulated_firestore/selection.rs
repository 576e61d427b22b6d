//! Some collections and not others.

use backup_core::{Context, Dumper as _, ErrorKind, Selection};
use dumpers::firestore::FirestoreDumper;
use serde_json::json;

use super::lab::{Project, restore, selected};

#[tokio::test]
async fn incident_53_some_collections_with_what_is_below_them() {
    let source = Project::new("selected");
    let paths =
        ["users/a", "users/a/orders/1", "users/ghost/orders/2/lines/3", "usersx/b", "log 1/c", "orders/4"];
    source.put(&paths.map(|path| (path, json!({})))).await;
    for (include, exclude, expected) in [
        (&["users"][..], &[][..], &[0, 1, 2][..]),
        (&["users/ghost/orders"], &[], &[2]),
        (&["**/orders"], &[], &[1, 2, 5]),
        (&["log *", "usersx"], &[], &[3, 4]),
        (&[], &["users", "orders"], &[3, 4]),
        (&["users"], &["users/*/orders"], &[0]),
    ] {
        let whole = selected(&source.config(), include, exclude).await;
        let target = Project::new("selected-back");
        restore(&target.config(), &whole, false).await.unwrap();
        let found = target.documents().await;
        let mut expected: Vec<&str> = expected.iter().map(|&i: &usize| paths[i]).collect();
        expected.sort_unstable();
        assert_eq!(found.keys().collect::<Vec<_>>(), expected, "{include:?} without {exclude:?}");
    }
}

#[tokio::test]
async fn a_collection_that_is_not_there_is_named() {
    let source = Project::new("absent");
    source.put(&[("users/a", json!({}))]).await;
    let dumper = FirestoreDumper::new(&source.config()).unwrap();
    for (include, kind) in [("user", ErrorKind::NotFound), ("users/a", ErrorKind::Config)] {
        let selection = Selection { include: vec![include.to_owned()], exclude: vec![] };
        let error = dumper.dump(&Context::new(), &selection).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.what().contains(&format!("{include:?}")), "{error}");
    }
}
