//! `verify`: quick without a key, deep with one.

use backup_core::pipeline;
use clap::Args;
use serde_json::json;

use super::Surroundings;
use crate::args::{DestinationArgs, IdentityArgs, SecretArgs};
use crate::failure::Outcome;
use crate::reading::{self, OriginArgs, Reader};
use crate::settings::Needs;
use crate::{notice, printer, wiring};

/// Check that a backup is whole; with --deep, that it opens and parses.
#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// The backup: SOURCE@latest, SOURCE@ID or ID
    backup: String,
    /// Decrypt, decompress and parse everything; needs a key
    #[arg(long)]
    deep: bool,
    #[command(flatten)]
    destination: DestinationArgs,
    #[command(flatten)]
    identity: IdentityArgs,
    #[command(flatten)]
    secrets: SecretArgs,
    #[command(flatten)]
    origin: OriginArgs,
}

impl Verify {
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
        let (cx, bar) = around.watched();
        if !self.deep {
            let auditor = wiring::auditor();
            let done =
                pipeline::quick(&cx, source.as_ref(), reader.trust.as_ref(), auditor.as_ref(), &at).await;
            bar.done();
            let done = done?;
            notice::warn_unless_encrypted(&around.printer, done.manifest.manifest());
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
