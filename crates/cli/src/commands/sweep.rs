//! `sweep`: what killed runs left behind in the destination.

use clap::Args;
use jiff::SignedDuration;
use serde_json::json;

use super::Surroundings;
use crate::args::DestinationArgs;
use crate::failure::Outcome;
use crate::settings::Needs;
use crate::wiring;

/// Remove uploads that were begun and never finished. Never touches a backup.
#[derive(Debug, Args)]
pub(crate) struct Sweep {
    /// Only those begun so many days ago or earlier
    #[arg(long, value_name = "DAYS", default_value_t = 7)]
    older_than_days: u16,
    #[command(flatten)]
    destination: DestinationArgs,
}

impl Sweep {
    /// Runs the command.
    pub(crate) async fn run(self, mut around: Surroundings) -> Outcome {
        let settings =
            around.settings(&[&self.destination], Needs { destination: true, ..Needs::default() })?;
        let Some(destination) = &settings.destination else {
            return Err(backup_core::Error::bug("sweep did not ask for a destination").into());
        };
        let place = wiring::place(destination, &around.env)?;
        let age = SignedDuration::from_hours(i64::from(self.older_than_days) * 24);
        let swept = place.ports.remover.sweep_unfinished(around.cx.now() - age).await?;
        let text = format!("removed {} unfinished uploads", swept.uploads);
        around.printer.result(&json!({ "removed": swept.uploads }), &text)
    }
}
