//! A place on a WebDAV server, as a person writes it down.

use std::fmt;
use std::path::PathBuf;

use backup_core::ObjectKey;
use url::Url;

use crate::config::{Problem, check_endpoint, looks_secret};
use crate::percent::{decoded, encoded};

/// The schemes that mean WebDAV, and what they are called on the wire.
const SCHEMES: [(&str, &str); 6] = [
    ("webdavs", "https"),
    ("webdav", "http"),
    ("davs", "https"),
    ("dav", "http"),
    ("https", "https"),
    ("http", "http"),
];

/// A collection on a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WebDavPlace {
    /// `https://host:port`.
    pub(crate) origin: String,
    /// The collection's path, decoded, with a slash at both ends.
    pub(crate) folder: String,
    pub(crate) user: Option<String>,
    pub(crate) ca_file: Option<PathBuf>,
    pub(crate) allow_http: bool,
}

impl WebDavPlace {
    /// Whether `text` is meant to be such a place.
    pub(crate) fn is_meant(text: &str) -> bool {
        on_the_wire(text).is_some()
    }

    /// Reads `webdavs://user@host:port/path?ca_file=...`.
    pub(crate) fn parse(text: &str) -> Result<Self, Vec<Problem>> {
        let Some(url) = on_the_wire(text).and_then(|text| Url::parse(&text).ok()) else {
            return Err(vec![Problem::NotAUrl]);
        };
        if url.password().is_some() {
            return Err(vec![Problem::CredentialsInside]);
        }
        // The parser would take the first part of the path for the host.
        if text.split_once("://").is_none_or(|(_, rest)| rest.starts_with(['/', '\\'])) {
            return Err(vec![Problem::NotAUrl]);
        }
        let mut problems = Vec::new();
        if url.fragment().is_some() {
            problems.push(Problem::NotAUrl);
        }
        let user = match decoded(url.username()).and_then(|user| String::from_utf8(user).ok()) {
            // RFC 7617: no colon, because one ends the name.
            Some(user) if !user.contains(':') && !user.chars().any(char::is_control) => {
                (!user.is_empty()).then_some(user)
            }
            _ => {
                problems.push(Problem::NotAUrl);
                None
            }
        };
        let folder = folder(url.path()).unwrap_or_else(|problem| {
            problems.push(problem);
            String::new()
        });
        let origin = url.origin().ascii_serialization();
        let mut place = Self { origin, folder, user, ca_file: None, allow_http: false };
        let mut seen = Vec::new();
        for (name, value) in url.query_pairs() {
            if seen.contains(&name) {
                problems.push(Problem::Twice(name.into_owned()));
                continue;
            }
            match (&*name, &*value) {
                ("ca_file", "") => {
                    problems.push(Problem::Parameter("ca_file", "the path of a PEM file"));
                }
                ("ca_file", path) => place.ca_file = Some(PathBuf::from(path)),
                ("allow_http", "true") => place.allow_http = true,
                ("allow_http", "false") => place.allow_http = false,
                ("allow_http", _) => problems.push(Problem::Parameter("allow_http", "`true` or `false`")),
                (name, _) if looks_secret(name) => problems.push(Problem::CredentialsInside),
                (name, _) => problems.push(Problem::UnknownParameter(name.to_owned())),
            }
            seen.push(name);
        }
        if problems.is_empty() && check_endpoint(&place.origin, place.allow_http).is_err() {
            problems.push(Problem::Parameter(
                "allow_http",
                "true for a server that is not this machine and not spoken to over TLS (webdavs)",
            ));
        }
        if problems.is_empty() { Ok(place) } else { Err(problems) }
    }

    /// The path of a collection below the place: decoded, with a slash at its end. Empty is the place itself.
    pub(super) fn folder_path(&self, within: &str) -> String {
        if within.is_empty() { self.folder.clone() } else { format!("{}{within}/", self.folder) }
    }

    /// The path of an object, decoded.
    pub(super) fn object_path(&self, key: &ObjectKey) -> String {
        format!("{}{key}", self.folder)
    }

    /// The URL of a decoded path.
    pub(super) fn url(&self, path: &str) -> String {
        format!("{}{}", self.origin, encoded(path, true))
    }
}

impl fmt::Display for WebDavPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, host) = self.origin.split_once("://").unwrap_or(("https", self.origin.as_str()));
        write!(f, "{}://", if scheme == "http" { "webdav" } else { "webdavs" })?;
        if let Some(user) = &self.user {
            write!(f, "{}@", encoded(user, false))?;
        }
        write!(f, "{host}{}", self.folder.trim_end_matches('/'))
    }
}

fn on_the_wire(text: &str) -> Option<String> {
    let (scheme, rest) = text.split_once("://")?;
    let (_, wire) = SCHEMES.iter().find(|(known, _)| *known == scheme)?;
    Some(format!("{wire}://{rest}"))
}

fn folder(path: &str) -> Result<String, Problem> {
    let bad = || Problem::Folder(path.to_owned());
    let path = decoded(path).and_then(|path| String::from_utf8(path).ok()).ok_or_else(bad)?;
    let inner = path.trim_matches('/');
    let good = |segment: &str| {
        !segment.is_empty() && segment != "." && segment != ".." && !segment.chars().any(char::is_control)
    };
    if inner.is_empty() {
        return Ok("/".to_owned());
    }
    if inner.split('/').all(good) { Ok(format!("/{inner}/")) } else { Err(bad()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_has_a_user_a_host_and_a_folder() {
        let place =
            WebDavPlace::parse("webdavs://me%40x@dav.example:8443/my%20backups/db?ca_file=/ca.pem").unwrap();
        assert_eq!(
            (place.origin.as_str(), place.user.as_deref()),
            ("https://dav.example:8443", Some("me@x"))
        );
        assert_eq!(place.folder, "/my backups/db/");
        assert_eq!(place.url(&place.folder_path("a")), "https://dav.example:8443/my%20backups/db/a/");
        assert_eq!(
            place.url(&place.object_path(&"a/b".parse().unwrap())),
            "https://dav.example:8443/my%20backups/db/a/b"
        );
        assert_eq!(place.to_string(), "webdavs://me%40x@dav.example:8443/my backups/db");
        assert_eq!(place.ca_file, Some("/ca.pem".into()));
        for (text, shown) in [
            ("https://h", "webdavs://h"),
            ("davs://h/", "webdavs://h"),
            ("http://127.0.0.1:8080/a/", "webdav://127.0.0.1:8080/a"),
            ("webdav://10.0.0.1/a?allow_http=true", "webdav://10.0.0.1/a"),
        ] {
            assert_eq!(WebDavPlace::parse(text).unwrap().to_string(), shown, "{text}");
        }
    }

    #[test]
    fn what_is_no_place_is_refused() {
        for text in [
            "webdav://10.0.0.1/a",
            "http://dav.example/a",
            "webdavs:///a",
            "https://h/a//b",
            "https://h/a%2F..%2Fb",
            "https://h/a#f",
            "https://h/a?ca_file=",
            "https://h/a?colour=red",
            "https://h/a?ca_file=x&ca_file=y",
        ] {
            assert!(WebDavPlace::parse(text).is_err(), "{text}");
        }
        for text in ["https://me:hunter2@h/a", "https://h/a?password=hunter2", "https://h/a?token=hunter2"] {
            let problems = WebDavPlace::parse(text).unwrap_err();
            assert!(!format!("{problems:?}").contains("hunter2"), "{problems:?}");
        }
    }
}
