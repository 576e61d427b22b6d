//! `copies`: how many good copies each backup has, and whether that meets the 3-2-1 rule.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use backup_core::pipeline;
use backup_core::{BackupRef, Error, ErrorKind, ObjectKey, RepositoryId, Sha256Digest, SourceName};
use clap::Args;
use serde_json::{Value as Json, json};

use super::Surroundings;
use crate::args::Sets;
use crate::failure::{Failure, Outcome};
use crate::reading::{OriginArgs, Reader};
use crate::settings::{Destination, Needs, RawArgs, Settings, Value};
use crate::spread::{Domain, Spread};
use crate::wiring;

/// Count the copies of each backup, and say whether they meet the 3-2-1 rule.
#[derive(Debug, Args)]
pub(crate) struct Copies {
    /// Only this source
    source: Option<SourceName>,
    /// Where to look, repeatable; by default every destination of the configuration
    #[arg(short, long = "destination", value_name = "NAME|URL")]
    destinations: Vec<String>,
    /// The public key of the repository's owner, as the recovery sheet shows it
    #[arg(long, value_name = "ed25519:...")]
    owner: Option<String>,
    /// Read every copy to its end and compare it with what was signed, instead of looking at lengths
    #[arg(long)]
    read: bool,
}

impl Sets for Copies {
    fn set(&self, raw: &mut RawArgs) {
        if !self.destinations.is_empty() {
            raw.values.insert("destination", Value::List(self.destinations.clone()));
        }
        if let Some(owner) = &self.owner {
            raw.values.insert("trust.owner", Value::Text(owner.clone()));
        }
    }
}

/// A backup in several places.
struct Point {
    started: jiff::Timestamp,
    /// The manifest that all its copies must have.
    manifest: Sha256Digest,
    /// The place and what is wrong with the copy there, if anything.
    copies: Vec<(usize, Option<String>)>,
}

/// A destination as it was found.
struct Looked {
    destination: Destination,
    domain: Domain,
    /// Why nothing is known of it.
    unknown: Option<String>,
}

impl Looked {
    fn name(&self) -> &str {
        self.destination.name.as_deref().unwrap_or(&self.destination.url)
    }
}

impl Copies {
    /// Runs the command.
    pub(crate) async fn run(self, mut around: Surroundings) -> Outcome {
        let named = self.source.as_ref().map(ToString::to_string);
        let needs = Needs { source: named.as_deref(), ..Needs::default() };
        let settings = around.settings(&[&self], needs)?;
        let destinations = self.places(&settings)?;
        if destinations.is_empty() {
            return Err(Failure::usage(
                "destinations",
                "none is known",
                "name them with -d, or in [destinations] tables of the configuration",
            ));
        }
        let (mut points, mut repository) = (BTreeMap::new(), None);
        let mut looked = Vec::new();
        for destination in destinations {
            let place = looked.len();
            let here = settings.at(destination.clone());
            let unknown = match self.look(&around, &here, place, &mut points, &mut repository).await {
                Ok(()) => None,
                Err(Failure::Error(error)) if error.kind() == ErrorKind::Cancelled => {
                    return Err(error.into());
                }
                Err(Failure::Error(error)) => Some(error.to_string()),
                Err(other) => return Err(other),
            };
            let domain = Domain::of(&destination);
            looked.push(Looked { destination, domain, unknown });
        }
        for place in &looked {
            if let Some(why) = &place.unknown {
                around.printer.warn(&format!("nothing is known of the copies in {}: {why}", place.name()));
            }
        }
        if repository.is_none() {
            return Err(Error::new(ErrorKind::NotFound, "copies", "no destination could be looked at")
                .with_hint("check the destinations with `strongroom list -d NAME`")
                .into());
        }
        self.tell(&around, &looked, &points)
    }

    /// Where to look: what the command line names, or everything that is known.
    fn places(&self, settings: &Settings) -> Outcome<Vec<Destination>> {
        let mut places = settings.destinations.clone();
        if self.destinations.is_empty() {
            for name in settings.known.keys() {
                let one = settings.destination_named("destinations", name).map_err(Failure::Settings)?;
                if !places.iter().any(|other| other.url == one.url) {
                    places.push(one);
                }
            }
        }
        Ok(places)
    }

    async fn look(
        &self,
        around: &Surroundings,
        settings: &Settings,
        place: usize,
        points: &mut BTreeMap<BackupRef, Point>,
        repository: &mut Option<RepositoryId>,
    ) -> Outcome {
        let reader = Reader::open(around, settings, &OriginArgs::default()).await?;
        let Some(id) = reader.repository.as_ref().map(crate::repository::Repository::id) else {
            return Ok(());
        };
        if *repository.get_or_insert(id) != id {
            let what = format!("holds another repository, {id}");
            return Err(Error::new(ErrorKind::Config, &reader.place.name, what).into());
        }
        let source = reader.place.ports.source.as_ref();
        let prefix = self.source.as_ref().map_or_else(String::new, |name| format!("{name}/"));
        let lengths: BTreeMap<ObjectKey, u64> =
            source.list(&prefix).await?.into_iter().map(|object| (object.key, object.len)).collect();
        for listed in pipeline::list(source, reader.trust.as_ref(), self.source.as_ref()).await? {
            around.cx.check(&listed.at.to_string())?;
            let manifest = match listed.manifest {
                Ok(manifest) => manifest,
                Err(error) => {
                    around.printer.warn(&format!(
                        "{} in {} is not believed: {}",
                        listed.at,
                        reader.place.name,
                        error.what()
                    ));
                    continue;
                }
            };
            let (at, body) = (listed.at, manifest.manifest());
            let mut wrong = match (lengths.get(&at.data()), lengths.get(&at.tree())) {
                (None, _) => Some("its data is gone".to_owned()),
                (Some(len), _) if *len != body.object_len => {
                    Some(format!("has {len} bytes where {} were signed", body.object_len))
                }
                (_, None) => Some("its hash tree is gone".to_owned()),
                _ => None,
            };
            if self.read && wrong.is_none() {
                let (cx, bar) = around.watched();
                let auditor = wiring::auditor();
                let read = pipeline::quick(&cx, source, reader.trust.as_ref(), auditor.as_ref(), &at).await;
                bar.done();
                match read {
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::Integrity => {
                        wrong = Some(error.what().to_owned());
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            let point = points.entry(at).or_insert_with(|| Point {
                started: body.started,
                manifest: manifest.pae_sha256(),
                copies: Vec::new(),
            });
            if point.manifest != manifest.pae_sha256() {
                wrong = Some("has another manifest than the other copies".to_owned());
            }
            point.copies.push((place, wrong));
        }
        Ok(())
    }

    fn tell(&self, around: &Surroundings, looked: &[Looked], points: &BTreeMap<BackupRef, Point>) -> Outcome {
        let mut order: Vec<_> = points.iter().collect();
        order.sort_by_key(|(at, point)| (at.source.clone(), point.started, at.id));
        let (mut text, mut rows) = (String::new(), Vec::new());
        let mut newest: BTreeMap<&SourceName, (&BackupRef, Spread)> = BTreeMap::new();
        for (at, point) in order {
            let good: Vec<_> = point
                .copies
                .iter()
                .filter(|(_, wrong)| wrong.is_none())
                .map(|(place, _)| &looked[*place].domain)
                .collect();
            let spread = Spread::of(&good);
            let _ = writeln!(
                text,
                "{}  {:20}  {}  {} copies, {} kinds, {} offsite  {}",
                point.started.strftime("%F %T"),
                at.source.as_str(),
                at.id,
                spread.copies,
                spread.kinds,
                spread.offsite,
                verdict(&spread),
            );
            for (place, wrong) in &point.copies {
                if let Some(wrong) = wrong {
                    let _ = writeln!(text, "    NOT GOOD in {}: {wrong}", looked[*place].name());
                }
            }
            rows.push(row(at, point, &spread, looked));
            newest.insert(&at.source, (at, spread));
        }
        let unmet: Vec<String> = newest
            .values()
            .filter(|(_, spread)| !spread.is_met())
            .map(|(at, spread)| format!("{at}: {}", spread.missing.join(", ")))
            .collect();
        let met = unmet.is_empty() && !points.is_empty();
        let _ = write!(
            text,
            "3-2-1 {} for the newest backup of each source (the database counts as the first copy)",
            if met { "met" } else { "NOT MET" }
        );
        let document = json!({
            "met": met, "backups": rows, "read": self.read,
            "destinations": looked.iter().map(|place| json!({
                "name": place.name(), "kind": place.domain.kind, "site": place.domain.site,
                "offsite": place.domain.offsite, "unknown": place.unknown,
            })).collect::<Vec<_>>(),
        });
        around.printer.result(&document, &text)?;
        if met {
            return Ok(());
        }
        let what = match unmet.is_empty() {
            true => "there is no backup".to_owned(),
            false => unmet.join("; "),
        };
        Err(Error::new(ErrorKind::Incomplete, "3-2-1", what)
            .with_hint("`strongroom copy --all --to NAME` adds copies; kind, site and offsite in [destinations] say what each place is")
            .into())
    }
}

fn verdict(spread: &Spread) -> String {
    match spread.is_met() {
        true => "3-2-1 met".to_owned(),
        false => format!("missing: {}", spread.missing.join(", ")),
    }
}

fn row(at: &BackupRef, point: &Point, spread: &Spread, looked: &[Looked]) -> Json {
    json!({
        "source": at.source, "id": at.id, "started": point.started, "met": spread.is_met(), "spread": spread,
        "copies": point.copies.iter().map(|(place, wrong)| json!({
            "destination": looked[*place].name(), "good": wrong.is_none(), "wrong": wrong,
        })).collect::<Vec<_>>(),
    })
}
