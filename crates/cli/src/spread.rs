//! The 3-2-1 rule: three copies of the data, the database itself being the first; on two kinds of
//! storage; one of them away.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::settings::Destination;

/// Copies that are needed beside the database.
const COPIES: usize = 2;
/// Kinds of storage that they are on.
const KINDS: usize = 2;

/// What a copy may be lost with.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct Domain {
    /// What the place is.
    pub(crate) kind: String,
    /// Where it stands.
    pub(crate) site: String,
    /// Whether that is away from the database.
    pub(crate) offsite: bool,
}

impl Domain {
    /// That of a destination: as its table says, or else as its URL lets guess.
    pub(crate) fn of(destination: &Destination) -> Self {
        let url = url::Url::parse(&destination.url).ok();
        let url = url.filter(|url| url.scheme().len() > 1);
        let (kind, site) = match url.as_ref().map(|url| (url.scheme(), url)) {
            None | Some(("file", _)) => ("disk", "here".to_owned()),
            Some(("memory", _)) => ("memory", "here".to_owned()),
            Some(("sftp" | "ssh" | "webdav" | "webdavs" | "http" | "https", url)) => ("server", host(url)),
            Some((_, url)) => ("object-storage", host(url)),
        };
        let text = |key: &str, default: String| destination.table.text(key).map_or(default, str::to_owned);
        Self {
            kind: text("kind", kind.to_owned()),
            site: text("site", site),
            offsite: destination.table.switch("offsite").unwrap_or(false),
        }
    }
}

/// The server of a URL: that of its endpoint, else its region, else its own.
fn host(url: &url::Url) -> String {
    let query =
        |name: &str| url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned());
    let endpoint = query("endpoint").and_then(|endpoint| url::Url::parse(&endpoint).ok());
    let endpoint = endpoint.and_then(|endpoint| endpoint.host_str().map(str::to_owned));
    endpoint.or_else(|| query("region")).or_else(|| url.host_str().map(str::to_owned)).unwrap_or_default()
}

/// How the good copies of one backup are spread.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Spread {
    /// Good copies.
    pub(crate) copies: usize,
    /// Of them, those that are not lost together: different sites or kinds.
    pub(crate) domains: usize,
    /// Kinds of storage.
    pub(crate) kinds: usize,
    /// Copies that are away.
    pub(crate) offsite: usize,
    /// What the rule still asks for; nothing where it is met.
    pub(crate) missing: Vec<String>,
}

impl Spread {
    /// Judges the good copies of one backup.
    pub(crate) fn of(copies: &[&Domain]) -> Self {
        let domains: BTreeSet<_> = copies.iter().map(|domain| (&domain.site, &domain.kind)).collect();
        let kinds: BTreeSet<_> = copies.iter().map(|domain| &domain.kind).collect();
        let offsite = copies.iter().filter(|domain| domain.offsite).count();
        let mut missing = Vec::new();
        if domains.len() < COPIES {
            let together = copies.len() - domains.len();
            let why = if together > 0 { " (copies of one site and kind are lost together)" } else { "" };
            missing.push(format!("{} of {COPIES} separate copies{why}", domains.len()));
        }
        if kinds.len() < KINDS {
            missing.push(format!("{} of {KINDS} kinds of storage", kinds.len()));
        }
        if offsite == 0 {
            missing.push("no copy is offsite".to_owned());
        }
        Self { copies: copies.len(), domains: domains.len(), kinds: kinds.len(), offsite, missing }
    }

    /// Whether the rule is met.
    pub(crate) fn is_met(&self) -> bool {
        self.missing.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain(kind: &str, site: &str, offsite: bool) -> Domain {
        Domain { kind: kind.into(), site: site.into(), offsite }
    }

    #[test]
    fn the_rule_counts_separate_copies_kinds_and_what_is_away() {
        let (disk, tape) = (domain("disk", "here", false), domain("tape", "vault", true));
        let (nas, cloud) = (domain("disk", "attic", false), domain("object-storage", "eu", true));
        for (copies, missing) in [
            (vec![], 3),
            (vec![&disk], 3),
            (vec![&cloud], 2),
            (vec![&disk, &disk], 3),
            (vec![&disk, &nas], 2),
            (vec![&disk, &cloud], 0),
            (vec![&cloud, &cloud], 2),
            (vec![&tape, &cloud], 0),
            (vec![&disk, &nas, &tape], 0),
        ] {
            let spread = Spread::of(&copies);
            assert_eq!(spread.missing.len(), missing, "{spread:?}");
            assert_eq!(spread.is_met(), missing == 0);
        }
        assert!(Spread::of(&[&disk, &disk]).missing[0].contains("lost together"));
    }

    #[test]
    fn a_place_is_guessed_from_its_url_and_never_thought_to_be_away() {
        let place = |url: &str| {
            let table = crate::settings::Table::default();
            let Domain { kind, site, offsite } =
                Domain::of(&Destination { name: None, url: url.into(), table });
            assert!(!offsite);
            (kind, site)
        };
        let pair = |kind: &str, site: &str| (kind.to_owned(), site.to_owned());
        assert_eq!(place("/srv/backups"), pair("disk", "here"));
        assert_eq!(place("./b"), pair("disk", "here"));
        assert_eq!(place("file:///srv"), pair("disk", "here"));
        assert_eq!(place("s3://bucket/prefix?region=eu-central-1"), pair("object-storage", "eu-central-1"));
        assert_eq!(
            place("s3://b/p?endpoint=https://s3.example.org:9000&region=x"),
            pair("object-storage", "s3.example.org")
        );
        assert_eq!(place("sftp://nas.example.org/x"), pair("server", "nas.example.org"));
    }
}
