//! What a backup run does with the spool: finish what an earlier run left there, and see that there is room.

use backup_core::pipeline::{self, MirrorParts, Resumed};
use backup_core::{Context, Error, ErrorKind, RepositoryId, Result, SourceName};
use jiff::SignedDuration;

use crate::commands::Surroundings;
use crate::printer;
use crate::settings::{Compression, Settings};
use crate::state::SpoolFolder;

/// After how long a backup in the spool is one that somebody has forgotten.
const FORGOTTEN: SignedDuration = SignedDuration::from_hours(7 * 24);

/// Brings what earlier runs left in the spool to its destinations, oldest first. With `alone` no new backup
/// follows, so that what is not everywhere yet stays.
///
/// # Errors
/// Those of the destinations, when an entry could not be finished and may be later.
pub(crate) async fn finish(
    around: &Surroundings,
    settings: &Settings,
    cx: &Context,
    spool: &pipeline::Spool,
    parts: &MirrorParts,
    source: &SourceName,
    alone: bool,
) -> Result<Vec<Resumed>> {
    let mut finished = Vec::new();
    for (at, entry) in spool.entries(cx, source).await? {
        let spooled = match entry {
            Ok(spooled) => spooled,
            Err(error) => {
                around.printer.warn(&format!("what the spool holds of {at} is discarded: {error}"));
                spool.discard(&at).await?;
                continue;
            }
        };
        if spooled.signer() != parts.signer.key_id() {
            around
                .printer
                .warn(&format!("the spool holds {at} of a host with another key; it is left alone"));
            continue;
        }
        let age = printer::duration(cx.now().duration_since(spooled.started()).as_secs());
        let size = printer::bytes(spooled.bytes());
        around.printer.say(&format!("finishing {at} from the spool: {size}, dumped {age} ago"));
        let resumed = pipeline::resume(cx, parts, spool, &spooled, settings.verify).await;
        match &resumed.mirrored.outcome {
            Ok(_) if resumed.delivered || alone => finished.push(resumed),
            Ok(_) => {
                around.printer.warn(&format!(
                    "{at} is stored, and not in every destination; the spool makes room for a new backup, and \
                     `strongroom copy {} --to NAME` adds what is missing",
                    at.id
                ));
                spool.discard(&at).await?;
                finished.push(resumed);
            }
            Err(error) if resumed.hopeless => {
                around.printer.warn(&format!("what the spool holds of {at} is discarded: {error}"));
                spool.discard(&at).await?;
            }
            Err(error) if error.kind() == ErrorKind::Cancelled => return Err(error.told()),
            Err(error) => {
                around.printer.warn(&format!(
                    "{at} stays in the spool: the next run of {source} goes on where this one stopped"
                ));
                return Err(error.told());
            }
        }
    }
    Ok(finished)
}

/// Whether the spool has room for a backup of about `estimate` bytes before compression.
///
/// # Errors
/// `Unavailable` where it surely has not.
pub(crate) fn check_room(
    around: &Surroundings,
    settings: &Settings,
    spool: &SpoolFolder,
    estimate: Option<u64>,
) -> Result<()> {
    let (Some(room), Some(estimate)) = (spool.room(), estimate) else { return Ok(()) };
    // Nothing compresses to less than a tenth so reliably that one could count on it.
    let least = if settings.compression == Compression::None { estimate } else { estimate / 10 };
    let path = spool.path().display();
    let have =
        format!("{} free, and the database is about {}", printer::bytes(room), printer::bytes(estimate));
    if room < least {
        return Err(Error::new(ErrorKind::Unavailable, path.to_string(), format!("the spool has {have}"))
            .with_hint("free space, choose another folder for the spool, or back up without one"));
    }
    if room < estimate {
        around.printer.warn(&format!("the spool {path} has {have}: it may not be enough"));
    }
    Ok(())
}

/// Names what lies in the spool and nobody comes back for.
pub(crate) fn tell_of_forgotten(
    around: &Surroundings,
    spool: &SpoolFolder,
    repository: &RepositoryId,
    source: &SourceName,
) {
    let Ok(waiting) = spool.waiting() else { return };
    for one in waiting {
        let mine = one.repository == *repository && one.at.source == *source;
        let age = one.age(around.cx.now());
        if !mine && age > FORGOTTEN {
            around.printer.warn(&format!(
                "{} lies in the spool for {} ({}): back up its source again, or remove it with `strongroom sweep`",
                one.at,
                printer::duration(age.as_secs()),
                printer::bytes(one.bytes),
            ));
        }
    }
}
