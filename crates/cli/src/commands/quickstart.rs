//! `quickstart`: everything once, on a sample database, in one folder.

mod compare;
mod sample;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use backup_core::{Error, ErrorKind, pipeline};
use clap::Args;
use dumpers::sqlite::SqliteConfig;
use dumpers::{SourceConfig, TargetConfig};
use serde_json::json;

use super::Surroundings;
use super::{backup, keygen};
use crate::args::Sets;
use crate::failure::{Failure, Outcome};
use crate::reading::{self, OriginArgs, Reader};
use crate::settings::{Needs, RawArgs, Value};
use crate::source::Source;
use crate::{printer, wiring};

/// Try everything on a sample database: keys, backup, deep verification, restore, comparison.
#[derive(Debug, Args)]
pub(crate) struct Quickstart {
    /// The folder for everything that is made
    #[arg(long, default_value = "strongroom-quickstart", value_name = "FOLDER")]
    dir: PathBuf,
}

struct Paths {
    sample: PathBuf,
    key: PathBuf,
    public: PathBuf,
    backups: PathBuf,
    state: PathBuf,
    restored: PathBuf,
}

impl Paths {
    fn below(dir: &Path) -> Self {
        Self {
            sample: dir.join("sample.db"),
            key: dir.join("keys/recovery.key.pem"),
            public: dir.join("keys/recovery.key.pub.pem"),
            backups: dir.join("backups"),
            state: dir.join("state"),
            restored: dir.join("restored.db"),
        }
    }
}

/// The flags that the steps would have been given by hand.
struct Flags<'a>(&'a Paths);

impl Sets for Flags<'_> {
    fn set(&self, raw: &mut RawArgs) {
        let text = |path: &Path| Value::Text(path.display().to_string());
        raw.values.insert("destination", text(&self.0.backups));
        raw.values.insert("state_dir", text(&self.0.state));
        raw.values.insert("keys.recipients", Value::List(vec![self.0.public.display().to_string()]));
        raw.values.insert("keys.identities", Value::List(vec![self.0.key.display().to_string()]));
        raw.values.insert("keys.no_encryption", Value::Switch(false));
    }
}

impl Quickstart {
    /// Runs the command.
    pub(crate) async fn run(self, mut around: Surroundings) -> Outcome {
        let dir = std::path::absolute(&self.dir).unwrap_or_else(|_| self.dir.clone());
        let paths = Paths::below(&dir);
        // Nothing that is set for real backups may reach a trial, and nothing of a trial them.
        around.raw.no_file = true;
        around.env = around.env.only(&["HOME", "STRONGROOM_JSON", "STRONGROOM_QUIET", "STRONGROOM_VERBOSE"]);
        let settings = around.settings(&[&Flags(&paths)], Needs::default())?;
        let say = |text: &str| around.printer.say(text);
        check_folder(&dir, &paths)?;
        for folder in [&dir, &dir.join("keys"), &paths.backups] {
            crate::state::durable::create_folder(folder)?;
        }
        let began = Instant::now();

        let cx = &around.cx;
        if paths.sample.exists() {
            say(&format!("1. sample database: {} is there already", paths.sample.display()));
        } else {
            say("1. making a sample database");
            sample::make(cx, &paths.sample)?;
        }
        if paths.key.exists() {
            say("2. keys: there already");
        } else {
            say("2. making a key pair (RSA, 4096 bits)");
            around
                .printer
                .warn("the sample's private key has no passphrase; `strongroom keygen` asks for one");
            keygen::make(&paths.key, &paths.public, envelope_crypto::keys::RSA_BITS_DEFAULT, None)?;
        }

        say("3. backing up, with the public key alone");
        let name = "sample".parse().map_err(Failure::Error)?;
        let source = Source {
            name,
            config: SourceConfig::Sqlite(SqliteConfig::new(&paths.sample)),
            selection: backup_core::Selection::default(),
            tags: backup_core::Tags::default(),
        };
        let done = backup::run(&around, &settings, &source).await?.made;
        let at = done.manifest.backup();

        say("4. verifying: decrypting, decompressing and parsing everything");
        let reader = Reader::open(&around, &settings, &OriginArgs::default()).await?;
        let place = reader.place.ports.source.as_ref();
        let decryptor = reading::decryptor(&around, &settings)?;
        let inspectors = wiring::inspectors(Some(&dir));
        let verified =
            pipeline::deep(cx, place, reader.trust.as_ref(), decryptor.as_ref(), &inspectors, &at).await?;

        say("5. restoring into a new database");
        if paths.restored.exists() {
            // Made by an earlier quickstart, as the check of the folder has found.
            for suffix in ["-wal", "-shm", ""] {
                let path = PathBuf::from(format!("{}{suffix}", paths.restored.display()));
                if path.exists() {
                    std::fs::remove_file(&path).map_err(|e| crate::failure::io_error(&path, "remove", e))?;
                }
            }
        }
        let restorer = wiring::restorer(&TargetConfig::Sqlite(SqliteConfig::new(&paths.restored)))?;
        let options = pipeline::RestoreOptions::default();
        let trust = reader.trust.as_ref();
        pipeline::restore(cx, place, trust, decryptor.as_ref(), restorer.as_ref(), &at, options).await?;

        say("6. comparing, table by table: row counts and a hash of every value");
        let tables = compare::tables(&paths.sample, &paths.restored)?;
        let mut text = String::from("equal:\n");
        for table in &tables {
            let _ = writeln!(text, "  {:12} {:>8} rows  {}", table.name, table.rows, table.sha256);
        }
        let m = &done.manifest;
        let _ = writeln!(
            text,
            "backup {at}: {} stored as {} in {:.1} s; all of it took {:.1} s",
            printer::bytes(m.source_len),
            printer::bytes(m.object_len),
            m.finished.duration_since(m.started).as_secs_f64(),
            began.elapsed().as_secs_f64()
        );
        let _ = write!(text, "{}", whereabouts(&paths));
        let document = json!({
            "equal": true, "backup": m, "verified_bytes": verified.inspection.bytes,
            "parsed": verified.inspection.parsed,
            "tables": tables.iter().map(|t| json!({ "name": t.name, "rows": t.rows, "sha256": t.sha256 })).collect::<Vec<_>>(),
            "files": {
                "sample": paths.sample, "private_key": paths.key, "public_key": paths.public,
                "backups": paths.backups, "state": paths.state, "restored": paths.restored,
            },
        });
        around.printer.result(&document, &text)
    }
}

fn whereabouts(paths: &Paths) -> String {
    let Paths { sample, key, public, backups, state, restored } = paths;
    format!(
        "files:\n  the database     {}\n  the private key  {}\n  the public key   {}\n  the backups      {}\n  this machine     {}\n  the restored     {}\n\
         by hand:\n  strongroom list -d {} --state-dir {}\n  strongroom verify sample@latest --deep -i {} -d {} --state-dir {}\n",
        sample.display(),
        key.display(),
        public.display(),
        backups.display(),
        state.display(),
        restored.display(),
        backups.display(),
        state.display(),
        key.display(),
        backups.display(),
        state.display(),
    )
}

/// A folder is used again only when a quickstart made what is in it.
fn check_folder(dir: &Path, paths: &Paths) -> Outcome {
    let Ok(entries) = std::fs::read_dir(dir) else { return Ok(()) };
    let ours = ["sample.db", "keys", "backups", "state", "restored.db"];
    let beside = [".sample.db", "sample.db-", ".restored.db", "restored.db-"];
    let ours = |name: &str| ours.contains(&name) || beside.iter().any(|start| name.starts_with(start));
    let foreign =
        entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).find(|name| !ours(name));
    let half = paths.key.exists() != paths.public.exists();
    match foreign {
        Some(name) => Err(Error::new(
            ErrorKind::Conflict,
            dir.display().to_string(),
            format!("holds {name:?}, which no quickstart made"),
        )
        .with_hint("choose an empty or new folder with --dir")
        .into()),
        // What is restored into is replaced: it must be our own.
        None if paths.restored.exists() && !paths.key.exists() => Err(Error::new(
            ErrorKind::Conflict,
            paths.restored.display().to_string(),
            "is there without the keys of a quickstart, so it may be somebody's own",
        )
        .with_hint("choose an empty or new folder with --dir")
        .into()),
        None if half => Err(Error::new(
            ErrorKind::Conflict,
            dir.join("keys").display().to_string(),
            "holds one key of a pair",
        )
        .with_hint("remove that folder's content, or choose another folder with --dir")
        .into()),
        None => Ok(()),
    }
}
