//! Random parts of a stored backup, held against the signed tree without a key.

use std::sync::Arc;

use backup_core::pipeline::{self, SampleSize, Sampled};
use backup_core::testing::{FaultPlan, ScriptedDumper};
use backup_core::{Auditor as _, BackupRef, Context, ErrorKind, Expected, Result};
use envelope_crypto::EnvelopeAuditor;

use crate::fixture::{self, BLOCK};
use crate::pipeline::World;

/// A backup of so many blocks, none of which shrinks.
async fn stored(blocks: usize) -> (World, BackupRef) {
    let world = World::new();
    let dump = fixture::noise(blocks * BLOCK);
    let dumper = Arc::new(ScriptedDumper::new([dump]));
    let (_, made) = world.back_up(&Context::new(), dumper, &FaultPlan::never()).await;
    let at = made.unwrap().manifest.backup();
    (world, at)
}

async fn sampled(world: &World, at: &BackupRef, size: SampleSize) -> Result<Sampled> {
    pipeline::sample(&Context::new(), &world.store, &world.trust, &EnvelopeAuditor, at, size).await
}

#[tokio::test]
async fn a_sample_reads_what_it_says_and_says_how_much_that_proves() {
    let (world, at) = stored(40).await;
    let data = world.store.bytes(&at.data()).unwrap().len() as u64;
    let all = sampled(&world, &at, SampleSize::Share(1.0)).await.unwrap();
    assert_eq!((all.frames, all.sampled, all.damaged_below, all.bytes), (41, 41, 1, data));
    let some = sampled(&world, &at, SampleSize::Frames(10)).await.unwrap();
    assert_eq!((some.frames, some.sampled), (41, 10));
    assert_eq!(some.damaged_below, pipeline::damaged_below(41, 10, pipeline::CONFIDENCE));
    assert!(some.bytes < data / 2 && some.share_below() > 0.3, "{some:?}");
    let one = sampled(&world, &at, SampleSize::Share(0.000_1)).await.unwrap();
    assert_eq!(one.sampled, 1);
}

#[tokio::test]
async fn every_flipped_bit_is_found_by_a_sample_that_comes_by() {
    let (world, at) = stored(3).await;
    let good = world.store.bytes(&at.data()).unwrap();
    let manifest = pipeline::manifest(&world.store, &world.trust, &at).await.unwrap();
    let body = manifest.manifest();
    let expected = Expected {
        id: Some(body.id),
        head_sha256: Some(body.head_sha256),
        object_len: Some(body.object_len),
        tree_root: Some(body.tree_root),
        tree: Some(Arc::from(&world.store.bytes(&at.tree()).unwrap()[..])),
    };
    let frames = EnvelopeAuditor.frames(expected).await.unwrap();
    assert_eq!((frames.count(), frames.place(4)), (4, None));
    // Head, frames and end are the whole object, without a gap.
    let mut end = frames.head().end;
    for index in 0..frames.count() {
        let place = frames.place(index).unwrap();
        assert_eq!(place.start, end);
        end = place.end;
        let bytes = &good[place.start as usize..place.end as usize];
        frames.check(index, bytes).unwrap();
        assert!(frames.check((index + 1) % 4, bytes).is_err(), "another place");
        for at in [0, 3, 4, bytes.len() / 2, bytes.len() - 1] {
            let mut flipped = bytes.to_vec();
            flipped[at] ^= 0x10;
            assert_eq!(frames.check(index, &flipped).unwrap_err().kind(), ErrorKind::Integrity);
        }
    }
    assert_eq!((frames.end().start, frames.end().end), (end, good.len() as u64));
    for byte in (0..good.len()).step_by(997).chain([0, good.len() - 1]) {
        let mut flipped = good.to_vec();
        flipped[byte] ^= 1;
        world.store.overwrite(&at.data(), flipped);
        let error = sampled(&world, &at, SampleSize::Share(1.0)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Integrity, "byte {byte}");
        assert!(error.hint().is_some(), "byte {byte}: {error}");
    }
}

#[tokio::test]
async fn a_replaced_object_and_a_replaced_tree_are_found_whatever_is_sampled() {
    let ((world, at), (other, theirs)) = (stored(3).await, stored(3).await);
    let (good, tree) = (world.store.bytes(&at.data()).unwrap(), world.store.bytes(&at.tree()).unwrap());
    let one = SampleSize::Frames(1);
    // Of the same length, and of another.
    let replacement = other.store.bytes(&theirs.data()).unwrap();
    assert_eq!(replacement.len(), good.len());
    for bytes in [replacement, good.slice(..good.len() - 1)] {
        world.store.overwrite(&at.data(), bytes);
        assert_eq!(sampled(&world, &at, one).await.unwrap_err().kind(), ErrorKind::Integrity);
    }
    world.store.overwrite(&at.data(), good);
    world.store.overwrite(&at.tree(), other.store.bytes(&theirs.tree()).unwrap());
    assert_eq!(sampled(&world, &at, one).await.unwrap_err().kind(), ErrorKind::Integrity);
    // Lengths are signed by nobody; a wrong one leads to bytes that are not the frame's.
    let mut lens = tree.to_vec();
    let last = lens.len() - 1;
    lens[last] ^= 1;
    world.store.overwrite(&at.tree(), lens.clone());
    assert_eq!(sampled(&world, &at, one).await.unwrap_err().kind(), ErrorKind::Integrity);
    // Two that make up for each other pass where neither is looked at, and only there.
    lens[last - 4] ^= 1;
    world.store.overwrite(&at.tree(), lens);
    let all = sampled(&world, &at, SampleSize::Share(1.0)).await;
    assert_eq!(all.unwrap_err().kind(), ErrorKind::Integrity);
    // A tree of the first version has none, and serves a whole pass.
    let leaves = [b"SRTREE01", &tree[8..tree.len() - 16]].concat();
    world.store.overwrite(&at.tree(), leaves);
    assert_eq!(sampled(&world, &at, one).await.unwrap_err().kind(), ErrorKind::Unsupported);
    pipeline::quick(&Context::new(), &world.store, &world.trust, &EnvelopeAuditor, &at).await.unwrap();
    world.store.overwrite(&at.tree(), tree);
    sampled(&world, &at, one).await.unwrap();
}
