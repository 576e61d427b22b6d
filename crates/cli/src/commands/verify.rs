//! `verify`: quick or a sample without a key, deep with one.

use std::error::Error as _;
use std::path::PathBuf;

use backup_core::pipeline::{self, SampleSize};
use backup_core::{BackupRef, Claim, Depth, Error, ErrorKind, VouchedManifest};
use clap::Args;
use envelope_crypto::OpenError;
use envelope_crypto::sign::SigningKey;
use envelope_crypto::trust::Role;
use serde_json::json;

use super::Surroundings;
use crate::args::{DestinationArgs, IdentityArgs, SecretArgs, Sets};
use crate::failure::{Failure, Outcome};
use crate::reading::{self, OriginArgs, Reader};
use crate::settings::Needs;
use crate::{host, notice, printer, wiring};

/// Check that a backup is whole; with --deep, that it opens and parses.
#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// The backup: SOURCE@latest, SOURCE@ID or ID
    backup: String,
    /// Decrypt, decompress and parse everything; needs a key
    #[arg(long)]
    deep: bool,
    /// Where to check a SQLite database of more than 24 MiB: its pages are written there, as plaintext, and
    /// gone afterwards
    #[arg(long, value_name = "FOLDER", requires = "deep")]
    scratch: Option<PathBuf>,
    /// Read only random parts, such as 1% of them or 500 of them, and say how much that proves; needs no key
    #[arg(long, value_name = "PERCENT|N", conflicts_with = "deep")]
    sample: Option<String>,
    /// Say so beside the backup, be it whole or damaged, signed with this machine's key, which must be a
    /// verifier's
    #[arg(long, conflicts_with = "unsigned_origin")]
    record: bool,
    #[command(flatten)]
    destination: DestinationArgs,
    #[command(flatten)]
    identity: IdentityArgs,
    #[command(flatten)]
    secrets: SecretArgs,
    #[command(flatten)]
    origin: OriginArgs,
}

/// Stores what was found, where a key was given for it.
async fn record(
    around: &Surroundings,
    reader: &Reader,
    signer: Option<&SigningKey>,
    manifest: &VouchedManifest,
    claim: Claim,
) -> Outcome {
    if let Some(signer) = signer {
        pipeline::attest(&around.cx, reader.place.ports.sink.as_ref(), signer, manifest, claim).await?;
    }
    Ok(())
}

/// That all of its bytes were read.
fn verified(manifest: &VouchedManifest, depth: Depth) -> Claim {
    Claim::Verified { depth, bytes: manifest.manifest().object_len }
}

/// A share in percent, with three digits, never less than it is.
fn percent_up(share: f64) -> String {
    let percent = share * 100.0;
    let digits = if percent >= 10.0 {
        1
    } else if percent >= 1.0 {
        2
    } else {
        3
    };
    let scale = 10f64.powi(digits);
    format!("{} %", (percent * scale).ceil() / scale)
}

/// Stores that a backup is damaged, where a key was given for it. Only what the bytes themselves show
/// counts: a place that does not answer or a key that does not fit says nothing of the backup.
async fn record_failure(
    around: &Surroundings,
    reader: &Reader,
    signer: Option<&SigningKey>,
    at: &BackupRef,
    depth: Depth,
    error: &Error,
) {
    // The head was held against the manifest before a key was used, so this is a wrong passphrase.
    let wrong_key = error.source().and_then(|source| source.downcast_ref::<OpenError>())
        == Some(&OpenError::NotAuthentic);
    if signer.is_none() || error.kind() != ErrorKind::Integrity || wrong_key {
        return;
    }
    let source = reader.place.ports.source.as_ref();
    let recorded = match pipeline::manifest(source, reader.trust.as_ref(), at).await {
        Ok(manifest) => record(around, reader, signer, &manifest, Claim::Failed { depth }).await,
        Err(error) => Err(error.into()),
    };
    match recorded {
        Ok(()) => around.printer.say("recorded beside the backup that this verification failed"),
        Err(error) => around.printer.warn(&format!(
            "the failed verification could not be recorded: {}",
            error.for_a_person().trim_end()
        )),
    }
}

/// How much to sample: a share in percent, or a number of parts.
fn sample_size(text: &str) -> Outcome<SampleSize> {
    let share = || {
        let percent: f64 = text.strip_suffix('%')?.parse().ok()?;
        (percent > 0.0 && percent <= 100.0).then_some(SampleSize::Share(percent / 100.0))
    };
    let frames = || text.parse().ok().filter(|frames| *frames > 0).map(SampleSize::Frames);
    share().or_else(frames).ok_or_else(|| {
        Failure::usage(
            "flag --sample",
            format!("{text:?} is not understood"),
            "write a share such as 1%, or a number of parts such as 500",
        )
    })
}

impl Verify {
    /// How far this goes.
    fn depth(&self) -> Depth {
        match (self.deep, &self.sample) {
            (true, _) => Depth::Deep,
            (false, Some(_)) => Depth::Sample,
            (false, None) => Depth::Quick,
        }
    }

    /// Reads random parts, and says what was bought by that.
    async fn sampled(
        &self,
        around: &Surroundings,
        reader: &Reader,
        signer: Option<&SigningKey>,
        at: &BackupRef,
        size: SampleSize,
    ) -> Outcome {
        let (cx, bar) = around.watched();
        let (source, auditor) = (reader.place.ports.source.clone(), wiring::auditor());
        let trust = reader.trust.as_ref();
        let done = pipeline::sample(&cx, source.as_ref(), trust, auditor.as_ref(), at, size).await;
        bar.done();
        let done = match done {
            Ok(done) => done,
            Err(error) => {
                record_failure(around, reader, signer, at, Depth::Sample, &error).await;
                return Err(error.into());
            }
        };
        let claim = Claim::Verified { depth: Depth::Sample, bytes: done.bytes };
        record(around, reader, signer, &done.manifest, claim).await?;
        let sure = pipeline::CONFIDENCE * 100.0;
        let proved = if done.sampled == done.frames {
            "all of them are".to_owned()
        } else {
            format!("less than {} of the backup is damaged, {sure} % sure", percent_up(done.share_below()))
        };
        let text = format!(
            "{at}: {} of {} parts read ({}), {}: {proved}\n(sample: without a key, and as far as the store answers a restore as it answered this)",
            done.sampled,
            done.frames,
            printer::bytes(done.bytes),
            reading::vouched(&done.manifest),
        );
        let document = json!({
            "verified": "sample", "backup": super::show::document(&done.manifest), "bytes": done.bytes,
            "frames": done.frames, "sampled": done.sampled, "confidence": pipeline::CONFIDENCE,
            "damaged_frames_below": done.damaged_below, "damaged_share_below": done.share_below(),
        });
        around.printer.result(&document, &text)
    }

    /// The key to record with, looked at before anything is read.
    fn signer(&self, around: &Surroundings, reader: &Reader, at: &BackupRef) -> Outcome<Option<SigningKey>> {
        let Some(repository) = reader.repository.as_ref().filter(|_| self.record) else { return Ok(None) };
        let signer = host::host_key(&reader.state, &around.printer)?;
        repository.check_role(&signer, Role::Verifier, &at.source)?;
        if repository.trust.allows(signer.verifying_key(), Role::Backup, &at.source) {
            return Err(Failure::usage(
                "flag --record",
                "this machine's key may also back up, so nobody would believe what it says of backups",
                "verify on another machine, or with another --state-dir, whose key has the role verifier alone",
            ));
        }
        Ok(Some(signer))
    }

    /// Runs the command.
    pub(crate) async fn run(self, mut around: Surroundings) -> Outcome {
        let selector = reading::selector(&self.backup);
        let size = self.sample.as_deref().map(sample_size).transpose();
        let needs = Needs {
            source: reading::named_source(&selector),
            destination: true,
            identity: self.deep,
            ..Needs::default()
        };
        let flags: [&dyn Sets; 3] = [&self.destination, &self.identity, &self.secrets];
        let (settings, mut checks) = around.checked(&flags, needs)?;
        let (selector, size) = (checks.keep("", selector), checks.keep("", size));
        let (selector, size) = checks.done(selector.zip(size))?;
        let mut reader = Reader::open(&around, &settings, &self.origin).await?;
        let at = reader.select(&around, &settings, &selector).await?;
        let source = reader.place.ports.source.clone();
        let signer = self.signer(&around, &reader, &at)?;
        if let Some(size) = size {
            return self.sampled(&around, &reader, signer.as_ref(), &at, size).await;
        }
        let (cx, bar) = around.watched();
        if !self.deep {
            let auditor = wiring::auditor();
            let done =
                pipeline::quick(&cx, source.as_ref(), reader.trust.as_ref(), auditor.as_ref(), &at).await;
            bar.done();
            if let Err(error) = &done {
                record_failure(&around, &reader, signer.as_ref(), &at, self.depth(), error).await;
            }
            let done = done?;
            notice::warn_unless_encrypted(&around.printer, done.manifest.manifest());
            record(&around, &reader, signer.as_ref(), &done.manifest, verified(&done.manifest, Depth::Quick))
                .await?;
            let text = format!(
                "{at}: whole, {}, {}\n(quick: hashes and signature; --deep -i KEY also opens and parses)",
                printer::bytes(done.bytes),
                reading::vouched(&done.manifest),
            );
            let document = json!({
                "verified": "quick", "backup": super::show::document(&done.manifest),
                "bytes": done.bytes, "frames": done.frames,
            });
            return around.printer.result(&document, &text);
        }
        let decryptor = reading::decryptor(&around, &settings)?;
        let inspectors = wiring::inspectors(self.scratch.as_deref());
        let trust = reader.trust.as_ref();
        let done = pipeline::deep(&cx, source.as_ref(), trust, decryptor.as_ref(), &inspectors, &at).await;
        bar.done();
        if let Err(error) = &done {
            record_failure(&around, &reader, signer.as_ref(), &at, self.depth(), error).await;
        }
        let done = done?;
        notice::warn_unless_encrypted(&around.printer, done.manifest.manifest());
        let format = &done.manifest.manifest().format;
        let looked_into = done.inspection.parsed || !inspectors.iter().any(|one| one.accepts(format));
        if !looked_into {
            around.printer.warn(&format!(
                "this {format} is too large to be looked into in memory, so only its bytes are known to be whole; \
                 name a folder with --scratch to have its content checked"
            ));
        }
        if signer.is_some() && !done.inspection.parsed {
            around.printer.warn(&match looked_into {
                true => format!(
                    "recorded as deep, although nobody here can parse {format}: it was decrypted to its verified \
                     end, not looked into"
                ),
                false => "recorded as quick".to_owned(),
            });
        }
        // Whoever prunes relies on what a deep verification looked into.
        let depth = if looked_into { Depth::Deep } else { Depth::Quick };
        record(&around, &reader, signer.as_ref(), &done.manifest, verified(&done.manifest, depth)).await?;
        let found = match done.inspection.parsed {
            true => format!("opens, and parses as {}", done.manifest.manifest().format),
            false => format!("opens; the structure of {} was not looked at", done.manifest.manifest().format),
        };
        let mut text = format!(
            "{at}: {found}, {}, {}",
            printer::bytes(done.inspection.bytes),
            reading::vouched(&done.manifest),
        );
        for warning in &done.report.warnings {
            text.push_str(&format!("\ntold at the dump: {}", printer::on_one_line(warning)));
        }
        let document = json!({
            "verified": "deep", "backup": super::show::document(&done.manifest), "report": done.report,
            "bytes": done.inspection.bytes, "parsed": done.inspection.parsed, "tables": done.inspection.tables,
        });
        around.printer.result(&document, &text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_a_share_or_a_number_and_a_share_is_never_said_too_small() {
        assert_eq!(sample_size("1%").unwrap(), SampleSize::Share(0.01));
        assert_eq!(sample_size("0.5%").unwrap(), SampleSize::Share(0.005));
        assert_eq!(sample_size("500").unwrap(), SampleSize::Frames(500));
        for bad in ["0", "0%", "101%", "-1%", "NaN%", "some", "1.5", ""] {
            let said = sample_size(bad).unwrap_err().for_a_person();
            assert!(said.contains("--sample"), "{said}");
        }
        assert_eq!(percent_up(0.000_999_2), "0.1 %");
        assert_eq!(percent_up(0.012_341), "1.24 %");
        assert_eq!(percent_up(1.0), "100 %");
    }
}
