//! What is refused before anything is sealed, and what is never printed.

use std::sync::Arc;

use backup_core::{BackupId, DumpReport};
use envelope_crypto::{
    Compression, EnvelopeEncryptor, KeyProblem, NoneRecipient, PassphraseKdf, PassphraseRecipient, Recipient,
    RsaRecipient, SealError, SealOptions, Sealer,
};
use rsa::{BoxedUint, RsaPublicKey};

use crate::fixture::*;

fn refused(recipients: &[&Pair], options: SealOptions) -> SealError {
    let recipients: Vec<_> = recipients.iter().map(|pair| Arc::clone(&pair.recipient)).collect();
    let error = Sealer::new(BackupId::random(), &recipients, &options).unwrap_err();
    assert_eq!(EnvelopeEncryptor::new(recipients, options).unwrap_err(), error);
    error
}

#[test]
fn recipients_that_do_not_go_together_are_refused() {
    let (rsa, secret, phrase, none) = (rsa(), secret_key(), passphrase(ARGON2ID), none());
    let public_only = SealOptions { allow_symmetric: false, ..options(1) };
    assert_eq!(refused(&[], options(1)), SealError::NoRecipients);
    for (pair, kind) in [(&secret, "secret-key"), (&phrase, "passphrase")] {
        let error = refused(&[&rsa, pair], public_only);
        assert_eq!(error, SealError::SymmetricNotAllowed(kind.into()));
        assert!(error.to_string().contains("allow_symmetric"), "the message names the setting");
    }
    assert_eq!(refused(&[&none, &rsa], public_only), SealError::NoneNotAlone);
    assert_eq!(refused(&[&none, &none], public_only), SealError::NoneNotAlone);
    assert!(matches!(refused(&[&rsa, &rsa], public_only), SealError::DuplicateRecipient(_)));
    assert_eq!(refused(&[&phrase; 3], options(1)), SealError::TooManyPassphrases(3));
    assert_eq!(refused(&[&rsa; 65], options(1)), SealError::TooManyRecipients(65));
    for level in [0, -1, 23, i32::MAX] {
        let options = SealOptions { compression: Compression::Zstd(level), ..options(1) };
        assert_eq!(refused(&[&rsa], options), SealError::Level(level));
    }
    let default = SealOptions::default();
    assert!(!default.allow_symmetric, "symmetric recipients are an explicit wish");
}

#[test]
fn incident_29_encryption_is_never_silently_left_out() {
    assert_eq!(refused(&[], SealOptions::default()), SealError::NoRecipients);
    let plain = b"a sentence that must not be found in the file".repeat(30);
    let options = SealOptions { compression: Compression::None, ..options(1) };
    let found = |file: &[u8]| file.windows(40).any(|window| window == &plain[..40]);
    for pair in [rsa(), secret_key(), passphrase(ARGON2ID)] {
        let (file, _) = seal(&[&pair], &options, &plain);
        assert!(!found(&file));
        // Nor does the file open without a key.
        assert!(open_sync(&[], backup_core::Expected::default(), &file).1.is_err());
    }
    // Left out on an explicit wish, the header says so to everybody.
    let (mut sealer, mut file) =
        Sealer::new(BackupId::random(), &[Arc::new(NoneRecipient) as Arc<dyn Recipient>], &options).unwrap();
    let head = envelope_crypto::Head::parse(&file).unwrap();
    assert!(!head.header().is_encrypted());
    assert_eq!(head.header().recipients()[0].kind, "none");
    sealer.push(&plain, &mut file).unwrap();
    sealer.finish(DumpReport::default(), &mut file).unwrap();
}

#[test]
fn weak_and_monstrous_keys_are_refused() {
    let key = |bits: usize, e: u64| {
        let mut n = vec![0xff; bits / 8];
        n[0] = 0x80;
        RsaPublicKey::new_unchecked(BoxedUint::from_be_slice_vartime(&n), BoxedUint::from(e))
    };
    let problem = |bits, e| RsaRecipient::from_public(key(bits, e)).err();
    assert_eq!(problem(512, 65_537), Some(KeyProblem::RsaBits(512)));
    assert_eq!(problem(2040, 65_537), Some(KeyProblem::RsaBits(2040)));
    assert_eq!(problem(8200, 65_537), Some(KeyProblem::RsaBits(8200)));
    assert_eq!(problem(2048, 65_536), Some(KeyProblem::RsaExponent));
    assert_eq!(problem(2048, 1), Some(KeyProblem::RsaExponent));
    assert_eq!(problem(2048, 65_537), None);

    let phrase = || envelope_crypto::keys::Passphrase::new(b"x").unwrap();
    let weak = PassphraseKdf::Pbkdf2 { iterations: 1000 };
    assert_eq!(PassphraseRecipient::with_kdf(phrase(), weak).err(), Some(KeyProblem::PassphraseWork));
}

#[test]
fn nothing_secret_is_printed() {
    for pair in [rsa(), secret_key(), passphrase(ARGON2ID)] {
        let encryptor = EnvelopeEncryptor::new(vec![Arc::clone(&pair.recipient)], options(1)).unwrap();
        let printed = format!("{encryptor:?} {:?} {:?}", pair.recipient, pair.identities);
        for secret in [PASSPHRASE, SECRET, &SECRET[..12], "000102030405", "[0, 1, 2, 3", "PrecomputedValues"]
        {
            assert!(!printed.contains(secret), "{printed}");
        }
    }
}
