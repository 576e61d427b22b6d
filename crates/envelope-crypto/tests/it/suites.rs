//! The behaviour suites of the ports that this crate implements.

use std::sync::Arc;

use backup_core::testing::{Cipher, Signing, seal_suite, statement_suite};
use envelope_crypto::keys::SecretKey;
use envelope_crypto::sign::SigningKey;
use envelope_crypto::trust::{KeyGrant, NewRepository, RepositoryTrust};
use envelope_crypto::{
    Compression, EnvelopeAuditor, EnvelopeDecryptor, EnvelopeEncryptor, OpenOptions, SealOptions,
    SecretKeyIdentity,
};
use zeroize::Zeroizing;

use crate::fixture::{self, BLOCK, Pair};

fn cipher(pair: &Pair, options: SealOptions) -> Cipher {
    let workers = options.workers;
    let identities = pair.identities.clone();
    let other = SecretKeyIdentity::from_bytes(Zeroizing::new(*SecretKey::random().unwrap().as_bytes()));
    let stranger = EnvelopeDecryptor::new(vec![Arc::new(other)], OpenOptions { workers });
    Cipher {
        encryptor: Arc::new(EnvelopeEncryptor::new(vec![Arc::clone(&pair.recipient)], options).unwrap()),
        decryptor: Arc::new(EnvelopeDecryptor::new(identities.clone(), OpenOptions { workers })),
        auditor: Arc::new(EnvelopeAuditor),
        // Without a recipient there is no secret, and nobody is a stranger.
        stranger: (!identities.is_empty()).then(|| Arc::new(stranger) as _),
        block: BLOCK,
    }
}

#[tokio::test]
async fn the_envelope_obeys_the_suite() {
    seal_suite(&cipher(&fixture::secret_key(), fixture::options(1))).await;
}

#[tokio::test]
async fn the_envelope_of_many_workers_without_compression_obeys_the_suite() {
    let options = SealOptions { compression: Compression::None, ..fixture::options(3) };
    seal_suite(&cipher(&fixture::secret_key(), options)).await;
}

#[tokio::test]
async fn the_envelope_that_is_not_encrypted_obeys_the_suite() {
    seal_suite(&cipher(&fixture::none(), fixture::options(2))).await;
}

#[test]
fn signing_keys_and_a_repositorys_trust_obey_the_suite() {
    let (owner, host) = (SigningKey::generate().unwrap(), SigningKey::generate().unwrap());
    let grants = vec![KeyGrant::backup_of_all(*host.verifying_key())];
    let made = NewRepository::create(&owner, jiff::Timestamp::UNIX_EPOCH, grants).unwrap();
    let files = [(1, made.trust_json.stored().clone())];
    let trust = RepositoryTrust::load(&made.pin, made.repository_json.stored(), files, None).unwrap();
    let repository = made.pin.repository;
    let nobody = SigningKey::generate().unwrap();
    // The owner says who may sign manifests, and may sign none of its own.
    for stranger in [&nobody, &owner] {
        statement_suite(Signing { signer: &host, stranger, trust: &trust, repository });
    }
}
