//! `shred`: destroying one backup on purpose, with a certificate.

use backup_core::pipeline::{self, ClockCheck, PruneParts};
use backup_core::{BackupId, BackupRef, Error, ErrorKind, Shredding, SourceName};
use clap::Args;
use envelope_crypto::trust::Role;
use serde_json::json;

use super::Surroundings;
use crate::args::DestinationArgs;
use crate::failure::{Failure, Outcome};
use crate::host;
use crate::reading::{OriginArgs, Reader};
use crate::selector::Selector;
use crate::settings::Needs;

/// Destroy every version of every object of one backup, look that they are gone, and sign a certificate.
#[derive(Debug, Args)]
pub(crate) struct Shred {
    /// The backup: SOURCE@ID or ID, never `latest`
    backup: String,
    /// Why; it stands in the history and in the certificate for good
    #[arg(long)]
    reason: String,
    /// Destroy it although it is the last backup of its source that was deeply verified
    #[arg(long)]
    last_good: bool,
    #[command(flatten)]
    destination: DestinationArgs,
}

impl Shred {
    /// The backup by its id; also one that an earlier attempt left half destroyed.
    async fn find(&self, selector: &Selector, reader: &Reader) -> Outcome<BackupRef> {
        let source = reader.place.ports.source.as_ref();
        let id: BackupId = match selector {
            Selector::Of(at) => return Ok(at.clone()),
            Selector::Id(id) => *id,
            Selector::Latest(_) => {
                return Err(Failure::usage(
                    "argument SOURCE@ID|ID",
                    "what is destroyed is named by its id",
                    "`strongroom list` shows the ids",
                ));
            }
        };
        match pipeline::find(source, id).await {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let noted = source.list("history/").await?;
                let at = noted.iter().filter_map(|object| BackupRef::of_history(&object.key));
                at.into_iter().find(|at| at.id == id).ok_or_else(|| error.into())
            }
            found => Ok(found?),
        }
    }

    /// Runs the command.
    pub(crate) async fn run(self, mut around: Surroundings) -> Outcome {
        if self.reason.trim().is_empty() {
            return Err(Failure::usage("flag --reason", "says nothing", "write why the backup is destroyed"));
        }
        let selector = crate::reading::selector(&self.backup)?;
        let needs = Needs {
            source: selector.source().map(SourceName::as_str),
            destination: true,
            ..Needs::default()
        };
        let settings = around.settings(&[&self.destination], needs)?;
        let reader = Reader::open(&around, &settings, &OriginArgs::default()).await?;
        let at = self.find(&selector, &reader).await?;
        let signer = host::host_key(&reader.state, &around.printer)?;
        if let Some(repository) = &reader.repository {
            repository.check_role(&signer, Role::Pruner, &at.source)?;
        }
        let ports = &reader.place.ports;
        let parts = PruneParts {
            source: ports.source.as_ref(),
            sink: ports.sink.as_ref(),
            remover: ports.remover.as_ref(),
            trust: reader.trust.as_ref(),
            signer: &signer,
            clock: ClockCheck::Compared,
        };
        let manifest = pipeline::shreddable(parts, &at).await?;
        let standing = pipeline::survey(&around.cx, parts, &at.source).await?;
        let one = standing.iter().find(|one| one.candidate.id == at.id);
        if one.is_some_and(|one| one.candidate.pinned) {
            return Err(Error::new(ErrorKind::Conflict, at.to_string(), "is pinned")
                .with_hint(format!("end that first: strongroom pin {at} --off", at = self.backup))
                .into());
        }
        if one.is_some() && pipeline::is_last_good(&standing, at.id) && !self.last_good {
            return Err(Error::new(
                ErrorKind::Conflict,
                at.to_string(),
                format!(
                    "no other backup of {} was deeply verified, so nothing would stand for it",
                    at.source
                ),
            )
            .with_hint(
                "verify another first (`verify ID --deep --record`); or, if this is meant, pass --last-good",
            )
            .into());
        }
        let done = pipeline::shred(&around.cx, parts, &manifest, &self.reason).await?;
        let text = said(&at, &done);
        around.printer.result(&json!({ "certificate": at.shredded().as_str(), "shredded": done }), &text)
    }
}

fn said(at: &BackupRef, done: &Shredding) -> String {
    let mut text = format!("{at} is destroyed: {}\n", done.reason);
    for object in &done.objects {
        let versions = match object.versions {
            Some(versions) => format!("{versions} versions removed"),
            None => "removed".to_owned(),
        };
        text.push_str(&format!("  {}  {versions}\n", object.key));
    }
    for line in &done.verified {
        text.push_str(&format!("looked at: {line}\n"));
    }
    for line in &done.not_promised {
        text.push_str(&format!("not promised: {line}\n"));
    }
    text.push_str(&format!("certificate: {}", at.shredded()));
    text
}
