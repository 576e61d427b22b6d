//! `sweep` and `storage orphans`: what killed runs left behind in the destination.

use std::fmt::Write as _;

use backup_core::pipeline::{self, Orphan};
use backup_core::{ErrorKind, ObjectKey, Source};
use clap::Args;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::Surroundings;
use crate::args::DestinationArgs;
use crate::failure::{Failure, Outcome};
use crate::settings::Needs;
use crate::state::{Lock, SpoolFolder, State};
use crate::wiring::{self, Place};
use crate::{printer, retention};

/// What has no manifest may belong to a backup that is being made; younger than this it is never
/// removed, whatever a person asks for.
const AGE_MIN: SignedDuration = SignedDuration::from_hours(24);

/// Remove uploads that were begun and never finished, and objects without a manifest. Never touches a
/// backup.
#[derive(Debug, Args)]
pub(crate) struct Sweep {
    #[command(flatten)]
    age: SweepAge,
    #[command(flatten)]
    destination: DestinationArgs,
}

/// How old what is swept must be.
#[derive(Debug, Args)]
pub(crate) struct SweepAge {
    /// Only what was begun so many days ago or earlier
    #[arg(long, value_name = "DAYS", default_value_t = 7, conflicts_with = "older_than")]
    older_than_days: u16,
    /// Only what was begun so long ago or earlier, such as 36h, 7d or 2w; objects without a manifest are
    /// never removed before a day
    #[arg(long, value_name = "AGE")]
    older_than: Option<String>,
}

/// What is known of one orphan.
struct Found {
    orphan: Orphan,
    /// Since when it lies there unchanged; `None` where nobody knows.
    since: Option<Timestamp>,
    standing: Standing,
}

/// What may become of an orphan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// A backup that was never finished, or one that is being made.
    Unfinished,
    /// A removal that was not brought to its end.
    HalfRemoved,
    /// It was a backup, for somebody said so of it, and its manifest is gone without a word.
    ManifestLost,
}

impl Standing {
    fn word(self) -> &'static str {
        match self {
            Self::Unfinished => "unfinished",
            Self::HalfRemoved => "half-removed",
            Self::ManifestLost => "manifest-lost",
        }
    }

    async fn of(source: &dyn Source, orphan: &Orphan) -> Outcome<Self> {
        if source.stat(&orphan.at.history()).await?.is_some() {
            return Ok(Self::HalfRemoved);
        }
        let inner = |key: &ObjectKey| key.as_str()[orphan.at.prefix().len()..].contains('/');
        // Statements and keys are only ever written beside a manifest that is believed.
        match orphan.objects.iter().any(|object| inner(&object.key)) {
            true => Ok(Self::ManifestLost),
            false => Ok(Self::Unfinished),
        }
    }
}

/// Looks at a place, and remembers what was seen for the first time.
async fn look(around: &Surroundings, place: &Place, state: &State) -> Outcome<Vec<Found>> {
    let source = place.ports.source.as_ref();
    let orphans = pipeline::orphans(source).await?;
    let firsts = state.orphans(&place.name).see(&orphans, around.cx.now())?;
    let mut found = Vec::with_capacity(orphans.len());
    for (orphan, first) in orphans.into_iter().zip(firsts) {
        let standing = Standing::of(source, &orphan).await?;
        found.push(Found { since: orphan.since(Some(first)), standing, orphan });
    }
    Ok(found)
}

fn document(found: &Found) -> Value {
    json!({
        "source": found.orphan.at.source, "id": found.orphan.at.id, "state": found.standing.word(),
        "objects": found.orphan.objects.iter().map(|object| object.key.as_str()).collect::<Vec<_>>(),
        "bytes": found.orphan.bytes(), "written": found.orphan.written(), "unchanged_since": found.since,
    })
}

fn row(text: &mut String, found: &Found, now: Timestamp) {
    let age = found.since.map_or_else(
        || "of unknown age".to_owned(),
        |since| format!("seen unchanged for {}", printer::duration(now.duration_since(since).as_secs())),
    );
    let _ = writeln!(
        text,
        "{:13}  {}  {} objects, {}  {age}",
        found.standing.word(),
        found.orphan.at,
        found.orphan.objects.len(),
        printer::bytes(found.orphan.bytes()),
    );
}

/// Says what no sweep removes.
fn tell(around: &Surroundings, found: &[Found]) {
    for one in found {
        match one.standing {
            Standing::Unfinished => {}
            Standing::HalfRemoved => around.printer.warn(&format!(
                "{} was removed and not to its end; `strongroom prune {}` ends it",
                one.orphan.at, one.orphan.at.source
            )),
            Standing::ManifestLost => around.printer.warn(&format!(
                "{} was a backup, and its manifest is gone without a word in the history: find out who removed it; it is never swept",
                one.orphan.at
            )),
        }
    }
}

/// A place, this machine's memory, and its spool.
type Opened = (Place, State, Option<SpoolFolder>);

fn open(around: &mut Surroundings, destination: &DestinationArgs) -> Outcome<Opened> {
    let settings = around.settings(&[destination], Needs { destination: true, ..Needs::default() })?;
    let Some(destination) = &settings.destination else {
        return Err(backup_core::Error::bug("sweep did not ask for a destination").into());
    };
    let spool = settings.spool.as_deref().filter(|folder| folder.exists()).map(SpoolFolder::open);
    Ok((wiring::place(destination, &around.env)?, State::open(&settings.state_dir)?, spool.transpose()?))
}

/// Removes what has lain in the spool so long; how many backups, and their bytes.
async fn sweep_spool(around: &Surroundings, spool: &SpoolFolder, age: SignedDuration) -> Outcome<(u64, u64)> {
    let (mut removed, mut bytes) = (0, 0);
    for one in spool.waiting()? {
        if one.age(around.cx.now()) < age {
            continue;
        }
        // Whoever holds the lock finishes it just now.
        let _lock = match spool.lock(&one.repository, &one.at.source) {
            Ok(lock) => lock,
            Err(error) if error.kind() == ErrorKind::Conflict => continue,
            Err(error) => return Err(error.into()),
        };
        spool.ports(&one.repository)?.discard(&one.at).await?;
        removed += 1;
        bytes += one.bytes;
    }
    Ok((removed, bytes))
}

/// Lists what has no manifest; removes nothing.
///
/// # Errors
/// Those of the place.
pub(crate) async fn orphans(mut around: Surroundings, destination: &DestinationArgs) -> Outcome {
    let (place, state, _) = open(&mut around, destination)?;
    let found = look(&around, &place, &state).await?;
    tell(&around, &found);
    let mut text = String::new();
    found.iter().for_each(|one| row(&mut text, one, around.cx.now()));
    if found.is_empty() {
        around.printer.say("nothing without a manifest");
    }
    around.printer.result(&json!({ "orphans": found.iter().map(document).collect::<Vec<_>>() }), &text)
}

impl SweepAge {
    fn parsed(&self) -> Outcome<SignedDuration> {
        let Some(text) = &self.older_than else {
            return Ok(SignedDuration::from_hours(i64::from(self.older_than_days) * 24));
        };
        retention::age(text).ok_or_else(|| {
            Failure::usage(
                "flag --older-than",
                format!("{text:?} is not understood"),
                "write a number and h, d or w, such as 7d",
            )
        })
    }
}

impl Sweep {
    /// A sweep of this destination.
    pub(crate) fn at(destination: String, age: SweepAge) -> Self {
        Self { age, destination: DestinationArgs::at(destination) }
    }

    /// Runs the command.
    pub(crate) async fn run(self, mut around: Surroundings) -> Outcome {
        let age = self.age.parsed()?;
        let (place, state, spool) = open(&mut around, &self.destination)?;
        let now = around.cx.now();
        let swept = place.ports.remover.sweep_unfinished(now - age).await?;
        let found = look(&around, &place, &state).await?;
        tell(&around, &found);
        let (mut removed, mut left, mut bytes) = (Vec::new(), Vec::new(), 0);
        for one in &found {
            let old = one.since.is_some_and(|since| now.duration_since(since) >= age.max(AGE_MIN));
            if one.standing == Standing::Unfinished && old && remove(&around, &place, &state, one).await? {
                bytes += one.orphan.bytes();
                removed.push(document(one));
            } else {
                left.push(document(one));
            }
        }
        let (spooled, spooled_bytes) = match &spool {
            Some(spool) => sweep_spool(&around, spool, age.max(AGE_MIN)).await?,
            None => (0, 0),
        };
        let mut text = format!(
            "removed {} unfinished uploads, and {} that had no manifest ({}); left {} without a manifest alone",
            swept.uploads,
            removed.len(),
            printer::bytes(bytes),
            left.len(),
        );
        if spooled > 0 {
            let size = printer::bytes(spooled_bytes);
            let _ = write!(text, "; removed {spooled} from the spool ({size})");
        }
        let document = json!({ "removed": swept.uploads, "removed_from_spool": spooled, "orphans_removed": removed, "orphans_left": left });
        around.printer.result(&document, &text)
    }
}

/// Removes an orphan unless this machine is making a backup of its source just now.
async fn remove(around: &Surroundings, place: &Place, state: &State, one: &Found) -> Outcome<bool> {
    // Held until all is removed, so that no backup of this machine begins meanwhile.
    let _lock: Option<Lock> = match state.pins().at(&place.name)? {
        None => None,
        Some(pin) => match state.lock_backup(&pin.repository, &one.orphan.at.source) {
            Ok(lock) => Some(lock),
            Err(error) if error.kind() == ErrorKind::Conflict => return Ok(false),
            Err(error) => return Err(error.into()),
        },
    };
    let (source, remover) = (place.ports.source.as_ref(), place.ports.remover.as_ref());
    Ok(pipeline::remove_orphan(&around.cx, source, remover, &one.orphan).await?)
}
