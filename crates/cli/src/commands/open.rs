//! `open`: an envelope into its plaintext, with a key and nothing else.

use std::path::PathBuf;

use backup_core::{Expected, Opening};
use clap::Args;
use serde_json::json;

use super::Surroundings;
use crate::args::{IdentityArgs, SecretArgs};
use crate::failure::Outcome;
use crate::input::Input;
use crate::output::{Content, Output, unless_cancelled};
use crate::settings::Needs;
use crate::{keys, notice, printer, wiring};

/// Decrypt a file or stdin. On stdout, only exit code 0 says that the output is whole; a file is
/// written only when it is.
#[derive(Debug, Args)]
pub(crate) struct Open {
    /// The file to open; stdin if it is left out or `-`
    file: Option<PathBuf>,
    /// The file to write; stdout if it is left out or `-`
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Replace the output file if it is there
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    identity: IdentityArgs,
    #[command(flatten)]
    secrets: SecretArgs,
}

impl Open {
    /// Runs the command.
    pub(crate) async fn run(self, mut around: Surroundings) -> Outcome {
        let needs = Needs { identity: true, ..Needs::default() };
        let (settings, mut checks) = around.checked(&[&self.identity, &self.secrets], needs)?;
        let input = checks.keep("", Input::open(self.file.as_deref()));
        keys::check_stdin(&settings, input.as_ref().is_some_and(Input::is_stdin), &mut checks);
        let input = checks.done(input)?;
        let output = Output::open(self.output.as_deref(), self.force, Content::Plain)?;
        let told = around.printer.json() && !output.is_stdout();
        let output = output.hashed(told);
        let decryptor = wiring::envelope_decryptor(&settings, keys::identities(&settings, &around.printer)?);
        let (cx, bar) = around.watched_beside(&output);
        let opening = Opening { sealed: input.sealed(), expected: Expected::default() };
        let envelope = unless_cancelled(&cx, decryptor.open_envelope(opening)).await??;
        if !envelope.head.header().is_encrypted() {
            let file = self.file.as_ref().filter(|path| path.as_os_str() != "-");
            let name = file.map_or_else(|| "the input".to_owned(), |path| path.display().to_string());
            notice::warn_not_encrypted(&around.printer, &name);
        }
        let written = output.take(&cx, wiring::counted(&cx, None, envelope.opened.bytes)).await;
        bar.done();
        let written = written?;
        around.printer.say(&format!("intact, origin unknown: {}", printer::bytes(written.bytes)));
        if !told {
            return Ok(());
        }
        let header = envelope.head.header();
        let document = json!({
            "opened": self.output, "origin": "unknown", "id": header.id, "recipients": header.recipients(),
            "encrypted": header.is_encrypted(), "bytes": written.bytes, "sha256": written.sha256,
            "head_sha256": envelope.head.sha256(), "report": envelope.opened.report.get(),
        });
        around.printer.result(&document, "")
    }
}
