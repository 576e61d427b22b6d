//! The behaviour suites of the ports that this crate implements.

use std::sync::Arc;

use backup_core::testing::{Cipher, Signing, seal_suite, statement_suite};
use backup_core::{ByteStream, Decryptor, Opened, Opening, Settled};
use bytes::Bytes;
use envelope_crypto::keys::SecretKey;
use envelope_crypto::sign::SigningKey;
use envelope_crypto::trust::{KeyGrant, NewRepository, RepositoryTrust};
use envelope_crypto::{
    Compression, EnvelopeAuditor, EnvelopeDecryptor, EnvelopeEncryptor, OpenOptions, SealOptions,
    SecretKeyIdentity,
};
use futures::{StreamExt as _, stream};
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

/// How a decryptor can be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// Forgets the root where it stands alone.
    NoRoot,
    /// Refuses only while its stream is read.
    Late,
    /// Takes an error of its stream for the end.
    EndsAtErrors,
}

#[derive(Debug)]
struct Careless(Arc<dyn Decryptor>, Fault);

#[async_trait::async_trait]
impl Decryptor for Careless {
    async fn open(&self, mut opening: Opening) -> backup_core::Result<Opened> {
        let Self(inner, fault) = self;
        if *fault == Fault::NoRoot && opening.expected.tree.is_none() {
            opening.expected.tree_root = None;
        }
        let opened = match inner.open(opening).await {
            Err(error) if *fault == Fault::Late => {
                let bytes = ByteStream::new(stream::iter([Err(error)]));
                return Ok(Opened { bytes, report: Settled::pending().1 });
            }
            opened => opened?,
        };
        if *fault != Fault::EndsAtErrors {
            return Ok(opened);
        }
        let (settler, report) = Settled::pending();
        let known = opened.report;
        let end = stream::once(async move {
            settler.settle(known.get().cloned().unwrap_or_default());
            Ok(Bytes::new())
        });
        let bytes = opened.bytes.take_while(|item| std::future::ready(item.is_ok()));
        let bytes = bytes
            .chain(end)
            .filter(|item| std::future::ready(item.as_ref().map_or(true, |chunk| !chunk.is_empty())));
        Ok(Opened { bytes: ByteStream::new(bytes), report })
    }
}

async fn suite_with(fault: Fault) {
    let mut cipher = cipher(&fixture::secret_key(), fixture::options(1));
    cipher.decryptor = Arc::new(Careless(cipher.decryptor, fault));
    seal_suite(&cipher).await;
}

#[tokio::test]
#[should_panic(expected = "a root: DumpReport")]
async fn a_decryptor_that_ignores_the_root_is_found() {
    suite_with(Fault::NoRoot).await;
}

#[tokio::test]
#[should_panic(expected = "another head is refused before any plaintext is promised")]
async fn a_decryptor_that_refuses_late_is_found() {
    suite_with(Fault::Late).await;
}

#[tokio::test]
#[should_panic(expected = "a shorter length: DumpReport")]
async fn a_decryptor_that_ends_at_errors_is_found() {
    suite_with(Fault::EndsAtErrors).await;
}
