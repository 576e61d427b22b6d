//! `seal`: a file or stdin into an envelope, with nothing else needed.

use std::path::PathBuf;

use backup_core::{BackupId, DumpReport, Error, Sealing, Settled};
use clap::Args;
use serde_json::json;

use super::Surroundings;
use crate::args::{SealArgs, SecretArgs};
use crate::failure::Outcome;
use crate::input::Input;
use crate::output::{Content, Output};
use crate::settings::Needs;
use crate::{keys, wiring};

/// Encrypt a file or stdin.
#[derive(Debug, Args)]
pub(crate) struct Seal {
    /// The file to seal; stdin if it is left out or `-`
    file: Option<PathBuf>,
    /// The file to write; stdout if it is left out or `-`
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Replace the output file if it is there
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    seal: SealArgs,
    #[command(flatten)]
    secrets: SecretArgs,
}

impl Seal {
    /// Runs the command.
    pub(crate) async fn run(self, mut around: Surroundings) -> Outcome {
        let needs = Needs { recipients: true, ..Needs::default() };
        let (settings, mut checks) = around.checked(&[&self.seal, &self.secrets], needs)?;
        let input = checks.keep("", Input::open(self.file.as_deref()));
        keys::check_stdin(&settings, input.as_ref().is_some_and(Input::is_stdin), &mut checks);
        let input = checks.done(input)?;
        let recipients = keys::recipients(&settings, &around.printer)?;
        let output = Output::open(self.output.as_deref(), self.force, Content::Sealed)?;
        let told = around.printer.json() && !output.is_stdout();
        let output = output.hashed(told);
        let encryptor = wiring::encryptor(&settings, recipients, input.len())?;
        let report = DumpReport { engine: "file".to_owned(), ..DumpReport::default() };
        let (cx, bar) = around.watched_beside(&output);
        let plain = wiring::counted(&cx, input.len(), input.plain());
        let id = BackupId::random();
        let Sealing { bytes, summary } = encryptor.seal(&id, plain, Settled::known(report)).await?;
        let written = output.take(&cx, bytes).await;
        bar.done();
        let written = written?;
        match summary.get() {
            _ if !told => Ok(()),
            None => Err(Error::bug("an envelope ended without a summary").into()),
            Some(summary) => {
                let document = json!({
                    "sealed": self.output, "id": id, "recipients": encryptor.recipients(),
                    "encrypted": !settings.no_encryption, "source_len": summary.source_len,
                    "object_len": written.bytes, "sha256": written.sha256, "head_sha256": summary.head_sha256,
                    "tree_root": summary.tree_root,
                });
                around.printer.result(&document, "")
            }
        }
    }
}
