//! One repository in several places: what its owner signed is the same in each.

use std::cmp::Reverse;
use std::time::Duration;

use backup_core::{
    ByteStream, Context, Error, ErrorKind, ObjectKey, RepositoryId, Result, Sink, Source, pipeline,
};
use bytes::Bytes;
use envelope_crypto::sign::SigningKey;
use envelope_crypto::trust::{repository_object, trust_number};

use crate::commands::Surroundings;
use crate::failure::{Failure, Outcome};
use crate::repository::{Reading, Repository, absent, claimed, small};
use crate::settings::{Destination, Settings};
use crate::state::State;
use crate::wiring::Place;

/// The places of a backup, and the repository that they hold.
#[derive(Debug)]
pub(crate) struct Several {
    /// The repository, as the place with the newest trust file has it.
    pub(crate) repository: Repository,
    /// Which place that is.
    pub(crate) chosen: usize,
    /// Places that cannot be used, and why.
    pub(crate) unusable: Vec<(usize, Error)>,
}

/// How a place is read.
pub(crate) fn reading<'a>(
    around: &'a Surroundings,
    settings: &'a Settings,
    state: &'a State,
    place: &'a Place,
) -> Reading<'a> {
    Reading {
        source: place.ports.source.as_ref(),
        place: &place.name,
        state,
        settings,
        printer: &around.printer,
    }
}

impl Several {
    /// Opens the repository of all places; makes it where none of them holds one, and carries it to
    /// those that are empty. Newer trust files of one place are carried to the others.
    ///
    /// # Errors
    /// As [`Repository::read_or_make`], when no place is left; `Config` when two places hold different
    /// repositories.
    pub(crate) async fn open(
        cx: &Context,
        around: &Surroundings,
        settings: &Settings,
        state: &State,
        places: &[Place],
        host: &SigningKey,
    ) -> Outcome<Self> {
        let reading = |i: usize| reading(around, settings, state, &places[i]);
        let (mut found, mut unusable) = (Vec::new(), Vec::new());
        if let [place] = places {
            let made = Repository::read_or_make(cx, reading(0), place.ports.sink.as_ref(), host).await?;
            return Ok(Self { repository: made, chosen: 0, unusable });
        }
        // One that does not answer must not hold up the others for as long as a request is repeated.
        let patience = |i: usize| settings.destinations.get(i).and_then(Destination::patience);
        for (i, place) in places.iter().enumerate() {
            let files = async { Ok(trust_files(place.ports.source.as_ref()).await?) };
            match answered(patience(i), place, files).await {
                Ok(Some(files)) => found.push((i, files)),
                Ok(None) => {}
                Err(Failure::Error(error)) => unusable.push((i, error)),
                Err(other) => return Err(other),
            }
        }
        if found.is_empty() {
            // Whether this is the first backup can only be known when every place was looked at.
            if let Some((_, error)) = unusable.into_iter().next() {
                return Err(error.into());
            }
            unusable = Vec::new();
            found.push((0, 0));
        }
        found.sort_by_key(|(_, files)| Reverse(*files));
        let mut chosen = None;
        for (i, _) in found {
            let made = Repository::read_or_make(cx, reading(i), places[i].ports.sink.as_ref(), host);
            match answered(patience(i), &places[i], made).await {
                Ok(repository) => {
                    chosen = Some((i, repository));
                    break;
                }
                Err(Failure::Error(error)) => unusable.push((i, error)),
                Err(other) => return Err(other),
            }
        }
        let Some((chosen, repository)) = chosen else {
            let first = unusable.into_iter().next();
            return Err(first.map_or_else(|| Error::bug("no destination"), |(_, error)| error).into());
        };
        for (i, place) in places.iter().enumerate() {
            if i == chosen || unusable.iter().any(|(other, _)| *other == i) {
                continue;
            }
            let (from, to) = (reading(chosen), reading(i));
            let read = async {
                carry(cx, from, to, place.ports.sink.as_ref(), repository.id(), false).await?;
                Repository::read(to).await.map(drop)
            };
            match answered(patience(i), place, read).await {
                Ok(()) => {}
                Err(Failure::Error(error)) if error.kind() != ErrorKind::Config => unusable.push((i, error)),
                Err(failure) => return Err(failure),
            }
        }
        Ok(Self { repository, chosen, unusable })
    }
}

/// Waits for a place no longer than it may hold up the others.
async fn answered<T>(
    patience: Option<Duration>,
    place: &Place,
    answer: impl Future<Output = Outcome<T>>,
) -> Outcome<T> {
    let Some(patience) = patience else { return answer.await };
    tokio::time::timeout(patience, answer).await.unwrap_or_else(|_| {
        let what = format!("did not answer for {} s and held up the others", patience.as_secs());
        Err(Error::new(ErrorKind::TimedOut, &place.name, what)
            .with_hint(
                "look what is wrong there; stall_seconds of a destination sets how long the others wait",
            )
            .into())
    })
}

/// How many trust files a place holds; `None` where there is no repository.
async fn trust_files(source: &dyn Source) -> Result<Option<usize>> {
    if source.stat(&repository_object()).await?.is_none() {
        return Ok(None);
    }
    Ok(Some(source.list("trust/").await?.len()))
}

/// Brings a place what another has of the repository's own: its identity and its trust files, as the
/// owner signed them. What is there is never replaced. A place that held a repository before and holds
/// none now is filled only with `refill`.
///
/// # Errors
/// `Config` when the place holds another repository; `Integrity` when it was emptied.
pub(crate) async fn carry(
    cx: &Context,
    from: Reading<'_>,
    to: Reading<'_>,
    sink: &dyn Sink,
    id: RepositoryId,
    refill: bool,
) -> Outcome {
    match small(to.source, &repository_object()).await? {
        Some(stored) => {
            let there = claimed(&stored)?.repository;
            if there != id {
                let what = format!("holds repository {there}, and {} holds {id}", from.place);
                return Err(Error::new(ErrorKind::Config, to.place, what)
                    .with_hint(
                        "copies of a backup belong to one repository: choose an empty prefix or folder",
                    )
                    .into());
            }
        }
        None => {
            let known = to.state.pins().at(to.place)?;
            if known.is_some() && !refill {
                return Err(absent(&to, known.as_ref()).into());
            }
            take_along(cx, from, sink, &repository_object()).await?;
            to.printer.say(&format!("repository {id} is now in {} too", to.place));
        }
    }
    for object in from.source.list("trust/").await? {
        if trust_number(&object.key).is_some() && to.source.stat(&object.key).await?.is_none() {
            take_along(cx, from, sink, &object.key).await?;
        }
    }
    Ok(())
}

/// Copies a signed statement as it is stored.
async fn take_along(cx: &Context, from: Reading<'_>, sink: &dyn Sink, key: &ObjectKey) -> Result<()> {
    let Some(stored) = small(from.source, key).await? else { return Ok(()) };
    match put(cx, sink, key, stored).await {
        // Somebody else carried it in the same moment; whoever reads it checks it.
        Err(error) if error.kind() == ErrorKind::Conflict => Ok(()),
        put => put,
    }
}

async fn put(cx: &Context, sink: &dyn Sink, key: &ObjectKey, stored: Bytes) -> Result<()> {
    let len = stored.len() as u64;
    // Read from a store, so sealed or public and signed.
    let stream = ByteStream::declare_sealed(futures::stream::iter([Ok(stored)]));
    let cx = cx.clone().with_progress(std::sync::Arc::new(backup_core::NoProgress));
    pipeline::store(&cx, sink, key, stream, Some(len)).await.map(drop)
}
