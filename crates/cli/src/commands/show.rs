//! `show`: what the signed manifest says of one backup.

use std::fmt::Write as _;

use backup_core::{Held, SourceName, VouchedManifest, pipeline};
use clap::Args;
use serde_json::{Value, json};

use super::Surroundings;
use crate::args::DestinationArgs;
use crate::failure::{Failure, Outcome};
use crate::reading::{self, OriginArgs, Reader};
use crate::settings::{Needs, Settings};
use crate::{notice, printer};

/// Show what is known of one backup.
#[derive(Debug, Args)]
pub(crate) struct Show {
    /// The backup: SOURCE@latest, SOURCE@ID or ID
    backup: String,
    #[command(flatten)]
    destination: DestinationArgs,
    #[command(flatten)]
    origin: OriginArgs,
}

impl Show {
    /// Runs the command.
    pub(crate) async fn run(self, mut around: Surroundings) -> Outcome {
        let selector = reading::selector(&self.backup)?;
        let needs = Needs {
            source: selector.source().map(backup_core::SourceName::as_str),
            destination: true,
            ..Needs::default()
        };
        let settings = around.settings(&[&self.destination], needs)?;
        let mut reader = Reader::open(&around, &settings, &self.origin).await?;
        let at = reader.select(&around, &settings, &selector).await?;
        let source = reader.place.ports.source.as_ref();
        let listed = pipeline::list(source, reader.trust.as_ref(), Some(&at.source)).await?;
        let entry = listed.into_iter().find(|entry| entry.at == at).ok_or_else(|| {
            backup_core::Error::new(backup_core::ErrorKind::NotFound, at.to_string(), "not found")
                .with_hint("`strongroom list` shows what is there")
        })?;
        let vouched = entry.manifest.map_err(Failure::from)?;
        notice::warn_unless_encrypted(&around.printer, vouched.manifest());
        let held = pipeline::held(source, &at).await;
        let lock = match &held {
            Ok(held) => held.as_ref().map(ToString::to_string),
            Err(error) => Some(format!("not known: {error}")),
        };
        let text = human(&vouched, around.cx.now(), settings.label(at.source.as_str()), lock);
        let mut document = document(&vouched);
        add_lock(&mut document, held.ok().flatten().as_ref());
        add_label(&mut document, &settings, &at.source);
        around.printer.result(&document, &text)
    }
}

/// A manifest for a program.
pub(crate) fn document(vouched: &VouchedManifest) -> Value {
    let mut document = json!(vouched.manifest());
    if let Value::Object(members) = &mut document {
        members.insert("encrypted".to_owned(), json!(notice::is_encrypted(vouched.manifest())));
        members.insert("signer".to_owned(), json!(reading::origin(vouched)));
        members.insert("manifest_sha256".to_owned(), json!(vouched.pae_sha256()));
    }
    document
}

/// What people on this machine call the source. It stands in the configuration and in no backup.
pub(crate) fn add_label(document: &mut Value, settings: &Settings, source: &SourceName) {
    if let (Value::Object(members), Some(label)) = (document, settings.label(source.as_str())) {
        members.insert("label".to_owned(), json!(label));
    }
}

/// What the store keeps it by, where it says so.
pub(crate) fn add_lock(document: &mut Value, held: Option<&Held>) {
    if let (Value::Object(members), Some(held)) = (document, held) {
        members.insert("locked_until".to_owned(), json!(held.until));
        members.insert("lock_mode".to_owned(), json!(held.mode));
        members.insert("legal_hold".to_owned(), json!(held.legal_hold));
    }
}

/// A manifest for a person.
fn human(
    vouched: &VouchedManifest,
    now: jiff::Timestamp,
    label: Option<&str>,
    lock: Option<String>,
) -> String {
    let m = vouched.manifest();
    let mut text = String::new();
    let mut row = |name: &str, value: String| {
        let _ = writeln!(text, "{name:12}{value}");
    };
    row("backup", m.id.to_string());
    row("source", format!("{} (number {})", m.source, m.seq));
    if let Some(label) = label {
        row("label", label.to_owned());
    }
    row("started", format!("{} ({} ago)", m.started, reading::age(m, now)));
    row("took", printer::duration(m.finished.duration_since(m.started).as_secs()));
    row("size", format!("{} of {}", printer::bytes(m.object_len), printer::bytes(m.source_len)));
    row("format", format!("{} ({})", m.format, m.engine));
    for (what, version) in &m.versions {
        row("version", format!("{what} {version}"));
    }
    for recipient in &m.recipients {
        let key = recipient.key_id.map(|id| format!(" {id}")).unwrap_or_default();
        row("recipient", format!("{}{key}", recipient.kind));
    }
    for (name, value) in m.tags.iter() {
        row("tag", format!("{name}={value}"));
    }
    if let Some(lock) = lock {
        row("lock", lock);
    }
    row("signer", reading::origin(vouched));
    row("sha256", m.sha256.to_string());
    row("repository", m.repository.to_string());
    text
}
