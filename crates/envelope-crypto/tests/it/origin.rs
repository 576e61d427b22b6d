//! What a manifest pins is checked: the head before a private key is used, every frame before
//! anything of it is released.

use std::sync::Arc;

use backup_core::{BackupId, Expected};
use envelope_crypto::format::Stanza;
use envelope_crypto::recipients::{Binding, FileKey};
use envelope_crypto::{Head, Identity, Mismatch, OpenError};

use crate::fixture::*;

#[derive(Debug)]
struct Untouched;

impl Identity for Untouched {
    fn fits(&self, _: &Stanza) -> bool {
        true
    }
    fn unwrap(&self, _: &Stanza, _: Binding<'_>) -> Result<FileKey, OpenError> {
        panic!("a private key was used on an object that is not the expected one");
    }
}

async fn every_reader(ids: &[Arc<dyn Identity>], known: &Expected, file: &[u8]) -> [Outcome; 3] {
    [
        open_sync(ids, known.clone(), file),
        open_stream(ids, 2, known.clone(), file).await,
        open_as_range(ids, known.clone(), file),
    ]
}

fn not_expected(mismatch: Mismatch) -> Result<(), OpenError> {
    Err(OpenError::NotTheExpectedObject(mismatch))
}

#[tokio::test]
async fn a_replaced_object_is_refused_before_a_private_key_is_used() {
    let key = rsa();
    let plain = text(2 * BLOCK);
    let (file, summary) = seal(&[&key], &options(1), &plain);
    let (replacement, other) = seal(&[&key], &options(1), &plain);
    let known = expected(&summary, &file);
    let untouched: [Arc<dyn Identity>; 1] = [Arc::new(Untouched)];
    let head_only = Expected { head_sha256: known.head_sha256, ..Expected::default() };
    for known in [&known, &head_only] {
        for outcome in every_reader(&untouched, known, &replacement).await {
            assert_eq!(outcome, (vec![], not_expected(Mismatch::Head)));
        }
    }
    let id = Expected { id: Some(BackupId::random()), ..Expected::default() };
    for outcome in every_reader(&untouched, &id, &file).await {
        assert_eq!(outcome, (vec![], not_expected(Mismatch::Id)));
    }
    let tree = Expected { tree: Some(Arc::from(&other.tree[..])), ..known.clone() };
    for outcome in every_reader(&untouched, &tree, &file).await {
        assert_eq!(outcome, (vec![], not_expected(Mismatch::Tree)));
    }
    let unvouched = Expected { tree_root: None, ..known.clone() };
    for outcome in every_reader(&untouched, &unvouched, &file).await {
        assert_eq!(outcome, (vec![], not_expected(Mismatch::Tree)));
    }
    let right = Expected { id: Some(Head::parse(&file[..head_len(&file)]).unwrap().header().id), ..known };
    for outcome in every_reader(&key.identities, &right, &file).await {
        assert_eq!(outcome, (plain.clone(), Ok(())));
    }
}

fn head_len(file: &[u8]) -> usize {
    14 + u32::from_be_bytes(file[10..14].try_into().unwrap()) as usize + 32
}

/// The same head in front of other frames: what a writer with the file key could do, or a store
/// that serves another version from the second request on.
#[tokio::test]
async fn frames_are_checked_against_the_tree_before_they_are_released() {
    let source = noise(3 * BLOCK);
    let mut other_source = source.clone();
    other_source[BLOCK + 5] ^= 1;
    let (file, other) =
        (crate::forge::Forge::good(&source).write(), crate::forge::Forge::good(&other_source).write());
    let tree = |file: &[u8]| {
        let at = head_len(file);
        let frame = 4 + BLOCK + 17;
        let mut bytes = b"SRTREE01".to_vec();
        bytes.extend(4_u64.to_be_bytes());
        let mut root = envelope_crypto::tree::RootHasher::default();
        for i in 0..4 {
            let end = if i == 3 { file.len() - 20 } else { at + (i + 1) * frame };
            let leaf = envelope_crypto::tree::leaf(&file[at + i * frame..end]);
            bytes.extend(leaf);
            root.push(leaf);
        }
        (bytes, root.root())
    };
    let (leaves, root) = tree(&file);
    let known = Expected { tree_root: Some(root), tree: Some(Arc::from(leaves)), ..Expected::default() };
    for outcome in every_reader(&[], &known, &file).await {
        assert_eq!(outcome, (source.clone(), Ok(())));
    }
    let [whole, parallel, range] = every_reader(&[], &known, &other).await;
    for (released, result) in [whole, parallel] {
        assert_eq!(result, not_expected(Mismatch::Frame(1)));
        assert_eq!(released, source[..BLOCK]);
    }
    // The end is read first, and its digest of the source differs.
    assert_eq!(range, (vec![], not_expected(Mismatch::Frame(3))));

    // Without the leaves a whole read still knows at its end, and a range is not read at all.
    let root_only = Expected { tree: None, ..known.clone() };
    assert_eq!(open_sync(&[], root_only.clone(), &other), (other_source, not_expected(Mismatch::TreeRoot)));
    assert_eq!(open_as_range(&[], root_only, &file), (vec![], not_expected(Mismatch::TreeMissing)));

    // An object that is replaced between the opening and the reading of a range.
    let reader = open_ranges(&[], known, &file).unwrap();
    let (released, result) = read_range(&reader, &other, 0..u64::MAX);
    assert_eq!((released, result), (source[..BLOCK].to_vec(), not_expected(Mismatch::Frame(1))));
    let bare = open_ranges(&[], Expected::default(), &file).unwrap();
    let (unrelated, _) = seal(&[&none()], &options(1), &source);
    let shifted = [&unrelated[..], &[0; 200]].concat();
    assert_eq!(read_range(&bare, &shifted, 0..10), (vec![], Err(OpenError::Block(0))));
}

#[tokio::test]
async fn another_length_is_refused() {
    let key = secret_key();
    let (file, summary) = seal(&[&key], &options(1), &text(100));
    let mut known = expected(&summary, &file);
    known.object_len = Some(file.len() as u64 + 1);
    for (_, result) in every_reader(&key.identities, &known, &file).await {
        assert_eq!(result, not_expected(Mismatch::Length));
    }
}
