//! `seal`: a file or stdin into an envelope, with nothing else needed.

use std::path::PathBuf;

use backup_core::{BackupId, DumpReport, Settled};
use clap::Args;

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
        let settings = around.settings(&[&self.seal, &self.secrets], needs)?;
        let recipients = keys::recipients(&settings, &around.printer)?;
        let input = Input::open(self.file.as_deref())?;
        let output = Output::open(self.output.as_deref(), self.force, Content::Sealed)?;
        let encryptor = wiring::encryptor(&settings, recipients, input.len())?;
        let report = DumpReport { engine: "file".to_owned(), ..DumpReport::default() };
        let (cx, bar) = around.watched_beside(&output);
        let plain = wiring::counted(&cx, input.len(), input.plain());
        let sealing = encryptor.seal(&BackupId::random(), plain, Settled::known(report)).await?;
        let written = output.take(&cx, sealing.bytes).await;
        bar.done();
        written.map(drop)
    }
}
