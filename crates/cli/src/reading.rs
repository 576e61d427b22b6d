//! What every command that reads backups does first: settings, place, trust, selection.

use std::sync::Arc;

use backup_core::pipeline::{self, Attested, Listed};
use backup_core::{BackupRef, Decryptor, Manifest, ObjectInfo, Origin, Trust, VouchedManifest};
use clap::Args;
use envelope_crypto::trust::UnsignedOrigin;

use crate::commands::Surroundings;
use crate::failure::{Failure, Outcome};
use crate::repository::{Reading, Repository};
use crate::selector::{Found, Selector};
use crate::settings::Settings;
use crate::state::{CachedSource, Compared, RememberedSource, State};
use crate::wiring::{self, Place};
use crate::{keys, printer};

/// Whether backups that nobody vouches for are read.
#[derive(Debug, Default, Args)]
pub(crate) struct OriginArgs {
    /// Read backups without asking who made them; they are intact, their origin is unknown
    #[arg(long)]
    pub(crate) unsigned_origin: bool,
}

/// An opened place and whom to believe there.
#[derive(Debug)]
pub(crate) struct Reader {
    /// The destination.
    pub(crate) place: Place,
    /// Says who is believed.
    pub(crate) trust: Arc<dyn Trust>,
    /// The repository; `None` when origins are not asked for.
    pub(crate) repository: Option<Repository>,
    /// This machine's memory.
    pub(crate) state: State,
}

/// A place opened for listing.
#[derive(Debug)]
pub(crate) struct Listing {
    /// The place and whom to believe there.
    pub(crate) reader: Reader,
    /// The cache between, where the place is asked.
    pub(crate) cached: Option<Arc<CachedSource>>,
    /// When it was as it is shown, where the place is not asked.
    pub(crate) as_of: Option<jiff::Timestamp>,
}

impl Listing {
    /// Every backup among these objects. What the cache has and nobody signed is read from the place.
    ///
    /// # Errors
    /// Those of the place.
    pub(crate) async fn of(&self, objects: &[ObjectInfo]) -> Outcome<Vec<Listed>> {
        let (source, trust) = (self.reader.place.ports.source.as_ref(), self.reader.trust.as_ref());
        let listed = pipeline::list_among(source, trust, objects).await?;
        let Some(cached) = &self.cached else { return Ok(listed) };
        let mut healed = false;
        for entry in listed.iter().filter(|entry| entry.manifest.is_err()) {
            cached.forget(&entry.at.manifest());
            healed |= pipeline::manifest(source, trust, &entry.at).await.is_ok();
        }
        if healed { Ok(pipeline::list_among(source, trust, objects).await?) } else { Ok(listed) }
    }

    /// What is said of a backup in these objects, in the same way.
    ///
    /// # Errors
    /// Those of the place.
    pub(crate) async fn said(&self, about: &VouchedManifest, objects: &[&ObjectInfo]) -> Outcome<Attested> {
        let (source, trust) = (self.reader.place.ports.source.as_ref(), self.reader.trust.as_ref());
        let said = pipeline::attestations_among(source, trust, about, objects.iter().copied()).await?;
        match &self.cached {
            Some(cached) if said.refused > 0 => {
                objects.iter().for_each(|object| cached.forget(&object.key));
                Ok(pipeline::attestations_among(source, trust, about, objects.iter().copied()).await?)
            }
            _ => Ok(said),
        }
    }
}

impl Reader {
    /// Opens the destination of the settings.
    ///
    /// # Errors
    /// Those of the place and of [`Repository::read`].
    pub(crate) async fn open(
        around: &Surroundings,
        settings: &Settings,
        origin: &OriginArgs,
    ) -> Outcome<Self> {
        let Some(destination) = &settings.destination else {
            return Err(backup_core::Error::bug("a command that reads did not ask for a destination").into());
        };
        let place = wiring::place(destination, &around.env)?;
        let state = State::open(&settings.state_dir)?;
        Self::of(around, settings, origin, place, state).await
    }

    /// As [`Reader::open`], through the cache of listings; with `remembered`, from the cache alone. Only
    /// for showing what is there.
    ///
    /// # Errors
    /// As [`Reader::open`]; those of the cache.
    pub(crate) async fn open_to_list(
        around: &Surroundings,
        settings: &Settings,
        origin: &OriginArgs,
        remembered: bool,
    ) -> Outcome<Listing> {
        let Some(destination) = &settings.destination else {
            return Err(backup_core::Error::bug("a command that lists did not ask for a destination").into());
        };
        let mut place = wiring::place(destination, &around.env)?;
        let state = State::open(&settings.state_dir)?;
        let (mut as_of, mut cached) = (None, None);
        if remembered {
            let source = RememberedSource::new(place.name.clone(), state.catalogue(&place.name)?)?;
            as_of = source.listed()?;
            place.ports.source = Arc::new(source);
        } else {
            match state.catalogue(&place.name) {
                Ok(cache) => {
                    let now = around.cx.now();
                    let source = Arc::new(CachedSource::new(place.ports.source.clone(), cache, now));
                    place.ports.source = source.clone();
                    cached = Some(source);
                }
                Err(error) => around.printer.warn(&format!("listing without a cache: {error}")),
            }
        }
        let reader = Self::of(around, settings, origin, place, state).await?;
        Ok(Listing { reader, cached, as_of })
    }

    async fn of(
        around: &Surroundings,
        settings: &Settings,
        origin: &OriginArgs,
        place: Place,
        state: State,
    ) -> Outcome<Self> {
        if origin.unsigned_origin {
            around.printer.warn("--unsigned-origin: nobody vouches for where these backups come from");
            return Ok(Self { place, trust: Arc::new(UnsignedOrigin), repository: None, state });
        }
        let reading = Reading {
            source: place.ports.source.as_ref(),
            place: &place.name,
            state: &state,
            settings,
            printer: &around.printer,
        };
        let repository = Repository::read(reading).await?;
        let trust = Arc::new(repository.trust.clone());
        Ok(Self { place, trust, repository: Some(repository), state })
    }

    /// Finds a backup; `latest` of a place that went back in time is refused.
    ///
    /// # Errors
    /// `NotFound`; `Integrity` for a listing that is older than what this machine has seen.
    pub(crate) async fn select(
        &mut self,
        around: &Surroundings,
        settings: &Settings,
        selector: &Selector,
    ) -> Outcome<BackupRef> {
        let Found { at, listed } =
            selector.find(self.place.ports.source.as_ref(), self.trust.as_ref()).await?;
        if let Selector::Latest(_) = selector {
            let wrong = self.compare(around, settings, &listed, selector)?;
            // Where backups are there and not one is believed, why not is the better answer.
            if !wrong.is_empty() && (at.is_ok() || listed.is_empty()) {
                return Err(Failure::from(
                    backup_core::Error::new(
                        backup_core::ErrorKind::Integrity,
                        selector.to_string(),
                        format!("this is not the newest that was made: {}", wrong.join("; ")),
                    )
                    .with_hint("backups were removed or replaced, or it is in another destination alone: copy it from there, or look with `strongroom list` and name one by its id"),
                ));
            }
            if let Ok(at) = &at {
                warn_of_disbelieved(around, &listed, selector);
                around.printer.say(&format!("{selector} is {}", at.id));
            }
        }
        Ok(at?)
    }

    /// Compares a listing with this machine's memory.
    pub(crate) fn compare(
        &mut self,
        around: &Surroundings,
        settings: &Settings,
        listed: &[Listed],
        selector: &Selector,
    ) -> Outcome<Vec<String>> {
        self.compare_listing(around, settings, listed, selector.source())
    }

    /// As [`Reader::compare`], for a listing of one source or of all.
    pub(crate) fn compare_listing(
        &mut self,
        around: &Surroundings,
        settings: &Settings,
        listed: &[Listed],
        only: Option<&backup_core::SourceName>,
    ) -> Outcome<Vec<String>> {
        let reading = Reading {
            source: self.place.ports.source.as_ref(),
            place: &self.place.name,
            state: &self.state,
            settings,
            printer: &around.printer,
        };
        match &mut self.repository {
            Some(repository) => {
                let believed = listed.iter().filter_map(|l| l.manifest.as_ref().ok());
                let Compared { wrong, withdrawn } = repository.compare(believed, only, &reading)?;
                for text in &withdrawn {
                    around.printer.warn(text);
                }
                Ok(wrong)
            }
            None => Ok(Vec::new()),
        }
    }
}

/// What `latest` passed over may have been newer than what it chose.
fn warn_of_disbelieved(around: &Surroundings, listed: &[Listed], selector: &Selector) {
    let mut disbelieved = listed.iter().filter_map(|entry| Some((entry, entry.manifest.as_ref().err()?)));
    let Some((entry, why)) = disbelieved.next() else { return };
    let more = match disbelieved.count() {
        0 => String::new(),
        more => format!(", and {more} more"),
    };
    around.printer.warn(&format!(
        "{selector} passes over {}, which may be newer and is not believed: {}{more}; `strongroom list` shows all",
        entry.at.id,
        why.what(),
    ));
}

/// The private side, asked for only after everything that needs no key was checked.
///
/// # Errors
/// Those of the key files.
pub(crate) fn decryptor(around: &Surroundings, settings: &Settings) -> Outcome<Arc<dyn Decryptor>> {
    Ok(wiring::decryptor(settings, keys::identities(settings, &around.printer)?))
}

/// A backup selector from the command line.
///
/// # Errors
/// `Config` for any other text.
pub(crate) fn selector(text: &str) -> Outcome<Selector> {
    text.parse().map_err(|what: String| {
        Failure::usage("argument SOURCE@latest|ID", what, "`strongroom list` shows sources and ids")
    })
}

/// The source that a selector names, if it does.
pub(crate) fn named_source(selector: &Outcome<Selector>) -> Option<&str> {
    selector.as_ref().ok()?.source().map(backup_core::SourceName::as_str)
}

/// How old a backup is, for a person.
pub(crate) fn age(manifest: &Manifest, now: jiff::Timestamp) -> String {
    printer::duration(now.duration_since(manifest.started).as_secs())
}

/// What stands behind the bytes, for a person.
pub(crate) fn vouched(vouched: &VouchedManifest) -> String {
    match vouched.origin() {
        Origin::Trusted { signer } => format!("as signed by {signer}"),
        Origin::Unknown => "origin unknown: no signature was looked at".to_owned(),
    }
}

/// Who signed, for a person and a program.
pub(crate) fn origin(vouched: &VouchedManifest) -> String {
    match vouched.origin() {
        Origin::Trusted { signer } => signer.to_string(),
        Origin::Unknown => "unknown".to_owned(),
    }
}
