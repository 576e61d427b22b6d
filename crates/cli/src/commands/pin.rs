//! `pin`: exempting a backup from retention.

use backup_core::{BackupRef, Claim, ErrorKind, Source, pipeline};
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
    /// Hold it at the store too, so that nobody can remove it there (S3 legal hold)
    #[arg(long, conflicts_with = "off")]
    legal_hold: bool,
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
        let held = self.hold(&around, &reader, &at).await?;
        let text = match (self.off, held) {
            (false, None) => format!("{at} is pinned: no rule of retention removes it"),
            (false, Some(_)) => {
                format!("{at} is pinned and under a legal hold of the store: nobody removes it there")
            }
            (true, None) => format!("{at} is not pinned any more"),
            (true, Some(_)) => format!("{at} is not pinned any more, and its legal hold ended"),
        };
        around.printer.result(&json!({ "backup": at.id, "pinned": !self.off, "legal_hold": held }), &text)
    }

    /// Sets or ends the legal hold where there is to be one, or is one; `None` where the store has no part in it.
    async fn hold(&self, around: &Surroundings, reader: &Reader, at: &BackupRef) -> Outcome<Option<bool>> {
        let (sink, source) = (reader.place.ports.sink.as_ref(), reader.place.ports.source.as_ref());
        let wanted = !self.off && (self.legal_hold || reader.place.legal_hold);
        let ended = self.off && (reader.place.legal_hold || is_held(around, source, at).await?);
        if !wanted && !ended {
            return Ok(None);
        }
        match pipeline::hold(&around.cx, sink, source, at, wanted).await {
            Ok(()) => Ok(Some(wanted)),
            Err(error) => {
                let said = if self.off {
                    "the pin ended, and the legal hold not"
                } else {
                    "it is pinned, and not held at the store"
                };
                let what = format!("{said}: {}", error.what());
                let again = backup_core::Error::new(error.kind(), error.subject(), what);
                Err(again.with_hint(error.hint().unwrap_or("do it again").to_owned()).into())
            }
        }
    }
}

/// Whether the store says that there is a legal hold. Credentials that may not ask find none.
async fn is_held(around: &Surroundings, source: &dyn Source, at: &BackupRef) -> Outcome<bool> {
    match pipeline::held(source, at).await {
        Ok(held) => Ok(held.is_some_and(|held| held.legal_hold)),
        Err(error) if error.kind() == ErrorKind::Denied => {
            around.printer.warn(&format!("whether the store holds {at} is not known: {error}"));
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}
