//! `verify`: quick without a key, deep with one.

use backup_core::{BackupRef, Claim, Depth, VouchedManifest, pipeline};
use clap::Args;
use envelope_crypto::sign::SigningKey;
use envelope_crypto::trust::Role;
use serde_json::json;

use super::Surroundings;
use crate::args::{DestinationArgs, IdentityArgs, SecretArgs};
use crate::failure::{Failure, Outcome};
use crate::reading::{self, OriginArgs, Reader};
use crate::settings::Needs;
use crate::{host, notice, printer, wiring};

/// Check that a backup is whole; with --deep, that it opens and parses.
#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// The backup: SOURCE@latest, SOURCE@ID or ID
    backup: String,
    /// Decrypt, decompress and parse everything; needs a key
    #[arg(long)]
    deep: bool,
    /// Say so beside the backup, signed with this machine's key, which must be a verifier's
    #[arg(long, conflicts_with = "unsigned_origin")]
    record: bool,
    #[command(flatten)]
    destination: DestinationArgs,
    #[command(flatten)]
    identity: IdentityArgs,
    #[command(flatten)]
    secrets: SecretArgs,
    #[command(flatten)]
    origin: OriginArgs,
}

/// Stores what was found, where a key was given for it.
async fn record(
    around: &Surroundings,
    reader: &Reader,
    signer: Option<&SigningKey>,
    manifest: &VouchedManifest,
    depth: Depth,
) -> Outcome {
    if let Some(signer) = signer {
        let claim = Claim::Verified { depth, bytes: manifest.manifest().object_len };
        pipeline::attest(&around.cx, reader.place.ports.sink.as_ref(), signer, manifest, claim).await?;
    }
    Ok(())
}

impl Verify {
    /// The key to record with, looked at before anything is read.
    fn signer(&self, around: &Surroundings, reader: &Reader, at: &BackupRef) -> Outcome<Option<SigningKey>> {
        let Some(repository) = reader.repository.as_ref().filter(|_| self.record) else { return Ok(None) };
        let signer = host::host_key(&reader.state, &around.printer)?;
        repository.check_role(&signer, Role::Verifier, &at.source)?;
        if repository.trust.allows(signer.verifying_key(), Role::Backup, &at.source) {
            return Err(Failure::usage(
                "flag --record",
                "this machine's key may also back up, so nobody would believe what it says of backups",
                "verify on another machine, or with another --state-dir, whose key has the role verifier alone",
            ));
        }
        Ok(Some(signer))
    }

    /// Runs the command.
    pub(crate) async fn run(self, mut around: Surroundings) -> Outcome {
        let selector = reading::selector(&self.backup)?;
        let needs = Needs {
            source: selector.source().map(backup_core::SourceName::as_str),
            destination: true,
            identity: self.deep,
            ..Needs::default()
        };
        let settings = around.settings(&[&self.destination, &self.identity, &self.secrets], needs)?;
        let mut reader = Reader::open(&around, &settings, &self.origin).await?;
        let at = reader.select(&around, &settings, &selector).await?;
        let source = reader.place.ports.source.clone();
        let signer = self.signer(&around, &reader, &at)?;
        let (cx, bar) = around.watched();
        if !self.deep {
            let auditor = wiring::auditor();
            let done =
                pipeline::quick(&cx, source.as_ref(), reader.trust.as_ref(), auditor.as_ref(), &at).await;
            bar.done();
            let done = done?;
            notice::warn_unless_encrypted(&around.printer, done.manifest.manifest());
            record(&around, &reader, signer.as_ref(), &done.manifest, Depth::Quick).await?;
            let text = format!(
                "{at}: whole, {}, as signed by {}\n(quick: hashes and signature; --deep -i KEY also opens and parses)",
                printer::bytes(done.bytes),
                reading::origin(&done.manifest),
            );
            let document = json!({
                "verified": "quick", "backup": super::show::document(&done.manifest),
                "bytes": done.bytes, "frames": done.frames,
            });
            return around.printer.result(&document, &text);
        }
        let decryptor = reading::decryptor(&around, &settings)?;
        let inspectors = wiring::inspectors();
        let trust = reader.trust.as_ref();
        let done = pipeline::deep(&cx, source.as_ref(), trust, decryptor.as_ref(), &inspectors, &at).await;
        bar.done();
        let done = done?;
        notice::warn_unless_encrypted(&around.printer, done.manifest.manifest());
        if signer.is_some() && !done.inspection.parsed {
            around.printer.warn(&format!(
                "recorded as deep, although nobody here can parse {}: it was decrypted to its verified end, not looked into",
                done.manifest.manifest().format
            ));
        }
        record(&around, &reader, signer.as_ref(), &done.manifest, Depth::Deep).await?;
        let found = match done.inspection.parsed {
            true => format!("opens, and parses as {}", done.manifest.manifest().format),
            false => format!("opens; the structure of {} was not looked at", done.manifest.manifest().format),
        };
        let text = format!(
            "{at}: {found}, {}, as signed by {}",
            printer::bytes(done.inspection.bytes),
            reading::origin(&done.manifest),
        );
        let document = json!({
            "verified": "deep", "backup": super::show::document(&done.manifest), "report": done.report,
            "bytes": done.inspection.bytes, "parsed": done.inspection.parsed, "tables": done.inspection.tables,
        });
        around.printer.result(&document, &text)
    }
}
