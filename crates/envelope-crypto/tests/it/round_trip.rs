//! What is sealed comes back, by every reader, for every shape of input.

use backup_core::Expected;
use envelope_crypto::{BlockLen, Compression};
use proptest::prelude::*;

use crate::fixture::*;

#[tokio::test]
async fn every_kind_of_recipient_opens_what_was_sealed_for_it() {
    let plain = text(3 * BLOCK + 17);
    for pair in [rsa(), secret_key(), passphrase(ARGON2ID), none()] {
        let (file, summary) = seal_stream(&[&pair], options(2), &plain).await.unwrap();
        assert_eq!(summary.source_len, plain.len() as u64);
        let ids = &pair.identities;
        for known in [Expected::default(), expected(&summary, &file)] {
            assert_eq!(open_sync(ids, known.clone(), &file), (plain.clone(), Ok(())), "{:?}", pair.recipient);
            assert_eq!(open_stream(ids, 2, known.clone(), &file).await, (plain.clone(), Ok(())));
            assert_eq!(open_as_range(ids, known, &file), (plain.clone(), Ok(())));
        }
    }
}

#[test]
fn a_passphrase_by_pbkdf2_opens() {
    // Once only: in an unoptimized build the derivation takes seconds.
    let (pair, plain) = (passphrase(PBKDF2), text(1000));
    let (file, _) = seal(&[&pair], &options(1), &plain);
    assert_eq!(open_sync(&pair.identities, Expected::default(), &file), (plain, Ok(())));
}

#[tokio::test]
async fn any_one_of_many_recipients_opens() {
    let plain = text(1000);
    let (one, two, three) = (rsa(), secret_key(), passphrase(ARGON2ID));
    let (file, _) = seal(&[&one, &two, &three], &options(1), &plain);
    for pair in [one, two, three] {
        assert_eq!(open_sync(&pair.identities, Expected::default(), &file), (plain.clone(), Ok(())));
    }
}

#[tokio::test]
async fn lengths_around_block_boundaries_on_every_path() {
    let key = secret_key();
    let around = |n: usize| [n.saturating_sub(1), n, n + 1];
    for len in [0, BLOCK, 2 * BLOCK, 9 * BLOCK].into_iter().flat_map(around) {
        for (plain, compression) in [
            (text(len), Compression::Zstd(3)),
            (text(len), Compression::None),
            (noise(len), Compression::Zstd(1)),
        ] {
            let (file, summary) = seal(&[&key], &sealing(compression, 1), &plain);
            let (streamed, also) = seal_stream(&[&key], sealing(compression, 3), &plain).await.unwrap();
            // Frames differ by the key; everything that depends on the lengths is the same.
            assert_eq!(streamed.len(), file.len());
            assert_eq!((also.source_len, also.tree.len()), (summary.source_len, summary.tree.len()));
            for (file, summary) in [(file, summary), (streamed, also)] {
                let known = expected(&summary, &file);
                assert_eq!(
                    open_sync(&key.identities, known.clone(), &file),
                    (plain.clone(), Ok(())),
                    "{len}"
                );
                assert_eq!(
                    open_stream(&key.identities, 3, known.clone(), &file).await,
                    (plain.clone(), Ok(()))
                );
                assert_eq!(open_as_range(&key.identities, known, &file), (plain.clone(), Ok(())));
            }
        }
    }
}

fn sealing(compression: Compression, workers: usize) -> envelope_crypto::SealOptions {
    envelope_crypto::SealOptions { compression, ..options(workers) }
}

#[test]
fn incompressible_blocks_are_stored_and_never_grow() {
    let (file, _) = seal(&[&none()], &sealing(Compression::Zstd(19), 1), &noise(4 * BLOCK));
    let (stored, _) = seal(&[&none()], &sealing(Compression::None, 1), &noise(4 * BLOCK));
    assert_eq!(file.len(), stored.len());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn any_range_is_what_stands_there(
        len in 0_usize..5 * BLOCK,
        from in 0_u64..6 * BLOCK as u64,
        span in 0_u64..6 * BLOCK as u64,
        level in 0_i32..4,
    ) {
        let key = secret_key();
        let plain = text(len);
        let compression = if level == 0 { Compression::None } else { Compression::Zstd(level) };
        let (file, summary) = seal(&[&key], &sealing(compression, 1), &plain);
        let reader = open_ranges(&key.identities, expected(&summary, &file), &file).unwrap();
        let (start, end) = ((from as usize).min(len), ((from + span) as usize).min(len));
        let (read, result) = read_range(&reader, &file, from..from + span);
        prop_assert_eq!(result, Ok(()));
        prop_assert_eq!(&read[..], &plain[start..end]);
    }

    #[test]
    fn any_length_and_any_number_of_workers(
        len in 0_usize..12 * BLOCK,
        workers in 1_usize..5,
        stored in any::<bool>(),
    ) {
        let key = secret_key();
        let plain = text(len);
        let compression = if stored { Compression::None } else { Compression::Zstd(1) };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let outcome = runtime.block_on(async {
            let (file, summary) = seal_stream(&[&key], sealing(compression, workers), &plain).await.unwrap();
            open_stream(&key.identities, workers, expected(&summary, &file), &file).await
        });
        prop_assert_eq!(outcome, (plain, Ok(())));
    }
}

#[tokio::test]
async fn larger_blocks_work_in_fewer_hands() {
    let key = secret_key();
    let plain = text(3 << 20);
    for len in [1 << 20, 2 << 20, 1 << 24] {
        let options = envelope_crypto::SealOptions { block_len: BlockLen::new(len).unwrap(), ..options(8) };
        let (file, summary) = seal_stream(&[&key], options, &plain).await.unwrap();
        let outcome = open_stream(&key.identities, 8, expected(&summary, &file), &file).await;
        assert_eq!(outcome, (plain.clone(), Ok(())));
    }
}
