//! A program that backs up its own data (as a `Dumper`) to a place of its own (as a `Sink`), sealed
//! for a public key: `cargo run -p benches --example embed`.
#![allow(clippy::print_stdout, unreachable_pub)]

use std::{fmt, sync::Arc};

use backup_core::{pipeline::*, testing::MemoryLedger, *};
use envelope_crypto::{EnvelopeEncryptor, RsaRecipient, SealOptions, keys::RsaPrivateKey, sign::SigningKey};

/// The program: it has data, and a place to keep backups in.
#[derive(Debug, Clone)]
struct App(Arc<dyn Sink>);
impl fmt::Display for App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the app's own place")
    }
}
#[async_trait::async_trait]
impl Dumper for App {
    async fn dump(&self, _: &Context, _: &Selection) -> Result<Dump> {
        Ok(Dump::of("notes", ByteStream::once("milk and bread\n")))
    }
}
#[async_trait::async_trait]
impl Sink for App {
    async fn begin(&self, key: &ObjectKey, size_hint: Option<u64>) -> Result<Box<dyn Upload>> {
        println!("writing {key} to {self}");
        self.0.begin(key, size_hint).await
    }
}
/// Seals the notes and stores them; the backup exists once this returns.
pub async fn back_up(to: storage::Opened, cipher: EnvelopeEncryptor, signer: SigningKey) -> Result<BackedUp> {
    let app = App(to.sink);
    // A real program keeps a `Ledger` of what it signed last on its disk.
    let parts = BackupParts::new(app.clone(), cipher, app, to.source, signer, MemoryLedger::default());
    backup(&Context::new(), &parts, BackupRequest::new(RepositoryId::random(), "notes".parse()?)).await
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::temp_dir().join(format!("embed-{}", BackupId::random()));
    let recipient = RsaRecipient::from_public(RsaPrivateKey::generate(2048)?.as_rsa().to_public_key())?;
    let encryptor = EnvelopeEncryptor::new(vec![Arc::new(recipient)], SealOptions::default())?;
    let place = storage::open(&storage::StorageConfig::local(&folder))?;
    let done = back_up(place, encryptor, SigningKey::generate()?).await?;
    println!("{:#?}\nin {}", done.manifest, folder.display());
    Ok(())
}
