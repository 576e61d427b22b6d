//! `pin`: exempting a backup from retention.

use backup_core::{Claim, pipeline};
use clap::Args;
use envelope_crypto::trust::Role;
use serde_json::json;

use super::Surroundings;
use crate::args::DestinationArgs;
use crate::failure::Outcome;
use crate::host;
use crate::reading::{self, OriginArgs, Reader};
use crate::settings::Needs;

/// Exempt a backup from retention, or end that.
#[derive(Debug, Args)]
pub(crate) struct Pin {
    /// The backup: SOURCE@latest, SOURCE@ID or ID
    backup: String,
    /// End the exemption
    #[arg(long)]
    off: bool,
    #[command(flatten)]
    destination: DestinationArgs,
}

impl Pin {
    /// Runs the command.
    pub(crate) async fn run(self, mut around: Surroundings) -> Outcome {
        let selector = reading::selector(&self.backup)?;
        let needs = Needs {
            source: selector.source().map(backup_core::SourceName::as_str),
            destination: true,
            ..Needs::default()
        };
        let settings = around.settings(&[&self.destination], needs)?;
        let mut reader = Reader::open(&around, &settings, &OriginArgs::default()).await?;
        let at = reader.select(&around, &settings, &selector).await?;
        let signer = host::host_key(&reader.state, &around.printer)?;
        if let Some(repository) = &reader.repository {
            repository.check_role(&signer, Role::Operator, &at.source)?;
        }
        let source = reader.place.ports.source.as_ref();
        let manifest = pipeline::manifest(source, reader.trust.as_ref(), &at).await?;
        let claim = Claim::Pinned { on: !self.off };
        // The newest word counts, and clocks differ.
        let said = pipeline::attestations(source, reader.trust.as_ref(), &manifest).await?;
        if let Some((newest, _)) = said.newest_pin().filter(|(newest, _)| *newest >= around.cx.now()) {
            return Err(backup_core::Error::new(
                backup_core::ErrorKind::Conflict,
                at.to_string(),
                format!("another machine pinned or unpinned it at {newest}, which is in the future here"),
            )
            .with_hint("set the clocks of both machines; until then the other word counts")
            .into());
        }
        pipeline::attest(&around.cx, reader.place.ports.sink.as_ref(), &signer, &manifest, claim).await?;
        let text = match self.off {
            false => format!("{at} is pinned: no rule of retention removes it"),
            true => format!("{at} is not pinned any more"),
        };
        around.printer.result(&json!({ "backup": at.id, "pinned": !self.off }), &text)
    }
}
