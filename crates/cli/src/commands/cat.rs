//! `cat`: a backup's dump on stdout.

use std::path::PathBuf;

use backup_core::pipeline;
use clap::Args;
use serde_json::json;

use super::Surroundings;
use crate::args::{DestinationArgs, IdentityArgs, SecretArgs, Sets};
use crate::export::{self, Export};
use crate::failure::Outcome;
use crate::output::{Content, Output};
use crate::reading::{self, OriginArgs, Reader};
use crate::settings::Needs;
use crate::wiring;

/// Write a backup's decrypted dump to stdout. Only exit code 0 says that it is whole.
#[derive(Debug, Args)]
pub(crate) struct Cat {
    /// The backup: SOURCE@latest, SOURCE@ID or ID
    backup: String,
    /// A file instead of stdout; it is written only when it is whole
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Replace the output file if it is there
    #[arg(long)]
    force: bool,
    /// Compress what is written
    #[arg(long, value_name = "HOW", value_enum)]
    compress: Option<Export>,
    #[command(flatten)]
    destination: DestinationArgs,
    #[command(flatten)]
    identity: IdentityArgs,
    #[command(flatten)]
    secrets: SecretArgs,
    #[command(flatten)]
    origin: OriginArgs,
}

impl Cat {
    /// Runs the command.
    pub(crate) async fn run(self, mut around: Surroundings) -> Outcome {
        let selector = reading::selector(&self.backup);
        let needs = Needs {
            source: reading::named_source(&selector),
            destination: true,
            identity: true,
            ..Needs::default()
        };
        let flags: [&dyn Sets; 3] = [&self.destination, &self.identity, &self.secrets];
        let (settings, mut checks) = around.checked(&flags, needs)?;
        let selector = checks.keep("", selector);
        let selector = checks.done(selector)?;
        let output = Output::open(self.output.as_deref(), self.force, Content::Plain)?;
        let told = around.printer.json() && !output.is_stdout();
        let output = output.hashed(told);
        let mut reader = Reader::open(&around, &settings, &self.origin).await?;
        let at = reader.select(&around, &settings, &selector).await?;
        let decryptor = reading::decryptor(&around, &settings)?;
        let (cx, bar) = around.watched_beside(&output);
        let source = reader.place.ports.source.as_ref();
        let opened = pipeline::open(&cx, source, reader.trust.as_ref(), decryptor.as_ref(), &at).await?;
        crate::notice::warn_unless_encrypted(&around.printer, opened.manifest.manifest());
        let len = opened.manifest.manifest().source_len;
        let bytes = wiring::counted(&cx, Some(len), opened.dump.bytes);
        let bytes = match self.compress {
            Some(how) => export::compressed(how, bytes),
            None => bytes,
        };
        let written = output.take(&cx, bytes).await;
        bar.done();
        let written = written?;
        if !told {
            return Ok(());
        }
        let document = json!({
            "written": self.output, "bytes": written.bytes, "sha256": written.sha256,
            "backup": super::show::document(&opened.manifest), "report": opened.dump.report.get(),
        });
        around.printer.result(&document, "")
    }
}
