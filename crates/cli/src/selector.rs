//! How a person names a backup: `SOURCE@latest`, `SOURCE@ID`, or `ID`.

use std::fmt;
use std::str::FromStr;

use backup_core::pipeline::{self, Listed};
use backup_core::{
    BackupId, BackupRef, Error, ErrorKind, Result, Source, SourceName, Trust, VouchedManifest,
};

/// A backup as it was named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Selector {
    /// The newest of a source.
    Latest(SourceName),
    /// One of a source.
    Of(BackupRef),
    /// One, whatever its source.
    Id(BackupId),
}

impl FromStr for Selector {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let shape = || format!("{text:?} names no backup; write SOURCE@latest, SOURCE@ID or ID");
        match text.rsplit_once('@') {
            None => text.parse().map(Self::Id).map_err(|_| shape()),
            Some((source, which)) => {
                let source: SourceName = source.parse().map_err(|e: Error| e.to_string())?;
                match which {
                    "latest" => Ok(Self::Latest(source)),
                    id => {
                        let id = id.parse().map_err(|_| shape())?;
                        Ok(Self::Of(BackupRef { source, id }))
                    }
                }
            }
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Latest(source) => write!(f, "{source}@latest"),
            Self::Of(at) => write!(f, "{}@{}", at.source, at.id),
            Self::Id(id) => write!(f, "{id}"),
        }
    }
}

impl Selector {
    /// The source, where it is named.
    pub(crate) fn source(&self) -> Option<&SourceName> {
        match self {
            Self::Latest(source) => Some(source),
            Self::Of(at) => Some(&at.source),
            Self::Id(_) => None,
        }
    }

    /// Finds the backup. For `latest` also answers the listing it is chosen from, and the backup as
    /// `Err` where that listing has none that is believed.
    ///
    /// # Errors
    /// `NotFound` for a named backup that is not there, those of the place.
    pub(crate) async fn find(&self, source: &dyn Source, trust: &dyn Trust) -> Result<Found> {
        match self {
            Self::Id(id) => Ok(Found { at: Ok(pipeline::find(source, *id).await?), listed: Vec::new() }),
            Self::Of(at) => Ok(Found { at: Ok(at.clone()), listed: Vec::new() }),
            Self::Latest(name) => {
                let listed = pipeline::list(source, trust, Some(name)).await?;
                let latest = pipeline::latest(&listed, name).map(|v: &VouchedManifest| v.manifest().backup());
                let at = latest.ok_or_else(|| nothing(name, &listed, source));
                Ok(Found { at, listed })
            }
        }
    }
}

/// What a selector found.
#[derive(Debug)]
pub(crate) struct Found {
    /// The backup, or why there is none.
    pub(crate) at: Result<BackupRef>,
    /// Every backup of the source, for `latest`.
    pub(crate) listed: Vec<Listed>,
}

fn nothing(name: &SourceName, listed: &[Listed], source: &dyn Source) -> Error {
    let doubted = listed.iter().find_map(|l| l.manifest.as_ref().err());
    match doubted {
        // Say why nothing is believed rather than that nothing is there.
        Some(error) => Error::new(
            error.kind(),
            format!("{name}@latest"),
            format!("none of {} backups is believed; of the first: {error}", listed.len()),
        )
        .with_hint("`strongroom list` shows all of them"),
        None => Error::new(
            ErrorKind::NotFound,
            format!("{name}@latest"),
            format!("no backup of {name} in {source}"),
        )
        .with_hint("`strongroom list` shows what is there"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_forms_are_read_and_written() {
        let id = "7f0a1c52-6f0b-4a53-9b5e-0d6f6c1d2e3f";
        for text in ["orders@latest", &format!("orders@{id}"), id] {
            assert_eq!(text.parse::<Selector>().unwrap().to_string(), text);
        }
        for bad in ["", "orders", "orders@", "orders@newest", "@latest", "a/b@latest"] {
            assert!(bad.parse::<Selector>().is_err(), "{bad}");
        }
    }
}
