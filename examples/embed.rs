//! A program that backs up its own data (as a `Dumper`) to a place of its own (as a `Sink`), sealed
//! for a public key: `cargo run -p benches --example embed`.
#![allow(clippy::print_stdout, unreachable_pub)]

use std::{fmt, sync::Arc};

use backup_core::{pipeline::*, testing::MemoryLedger, *};
use envelope_crypto::{EnvelopeEncryptor, RsaRecipient, SealOptions, keys::RsaPrivateKey, sign::SigningKey};

#[derive(Debug)]
struct App(Arc<dyn Sink>);
impl fmt::Display for App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the app's own place")
    }
}
#[async_trait::async_trait]
impl Dumper for App {
    async fn probe(&self, _: &Context) -> Result<Probe> {
        Ok(Probe { engine: "notes".into(), ..Probe::default() })
    }
    async fn dump(&self, _: &Context, _: &Selection) -> Result<Dump> {
        let report = Settled::known(DumpReport { engine: "notes".into(), ..DumpReport::default() });
        Ok(Dump { format: DumpFormat::new("notes"), bytes: ByteStream::once("milk and bread\n"), report })
    }
}
#[async_trait::async_trait]
impl Sink for App {
    fn limits(&self) -> Limits {
        self.0.limits()
    }
    async fn begin(&self, key: &ObjectKey, size_hint: Option<u64>) -> Result<Box<dyn Upload>> {
        println!("writing {key} to {self}");
        self.0.begin(key, size_hint).await
    }
}
/// Seals the notes and stores them; the backup exists once this returns.
pub async fn back_up(to: storage::Opened, cipher: EnvelopeEncryptor, signer: SigningKey) -> Result<BackedUp> {
    let (app, encryptor, signer) = (Arc::new(App(to.sink)), Arc::new(cipher), Arc::new(signer));
    let (dumper, sink, reader) = (app.clone(), app, to.source);
    // A real program keeps a `Ledger` of what it signed last on its disk.
    let ledger = Arc::new(MemoryLedger::default());
    let parts = BackupParts { dumper, encryptor, sink, reader, signer, ledger, catalog: None };
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
