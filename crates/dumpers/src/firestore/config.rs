//! Settings of a Firestore database, as a source or as a target.

use std::path::PathBuf;

use backup_core::{Error, ErrorKind, Result};
use serde::Deserialize;

use super::names::is_document;
use crate::percent;

/// A database and how it is reached, dumped and restored into.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FirestoreConfig {
    /// `firestore://project/database/root?emulator=...`; the settings below win over it.
    pub url: Option<String>,
    /// The project's id.
    pub project: Option<String>,
    /// The database's id; `(default)` without it.
    pub database: Option<String>,
    /// Restore below this document instead of at the root, such as `restored/monday`.
    pub root: Option<String>,
    /// `host:port` of an emulator to use instead of the service.
    pub emulator: Option<String>,
    /// `host:port` of an emulator of Firebase Auth.
    pub auth_emulator: Option<String>,
    /// A service account's key file; `GOOGLE_APPLICATION_CREDENTIALS`, then the metadata server,
    /// without it.
    pub credentials_file: Option<PathBuf>,
    /// A file that holds an access token.
    pub token_file: Option<PathBuf>,
    /// Dump this moment of the past, RFC 3339.
    pub read_time: Option<String>,
    /// Dump or restore the users of Firebase Auth too.
    pub include_auth: bool,
    /// So many collections are read, or batches written, at the same time; 4 without it, at most 16.
    pub parallel: Option<u64>,
    /// Seconds during which a request that fails is repeated; 300 without it.
    pub retry_seconds: Option<u64>,
    /// What a restore does with a document that exists.
    pub conflicts: Conflicts,
    /// What a restore does with references between documents.
    pub references: References,
    /// Write 500 documents a second at first, and half as many again every five minutes.
    pub ramp: bool,
    /// Leave what was written when a restore fails.
    pub keep_partial: bool,
}

/// What a restore does with a document that exists.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Conflicts {
    /// Fail.
    #[default]
    Fail,
    /// Keep what exists.
    Skip,
    /// Replace it.
    Overwrite,
    /// Replace the fields that the backup has, keep the others.
    Merge,
}

/// What a restore does with references between documents.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum References {
    /// Those into the backed-up database point to the same path of the target.
    #[default]
    Rewrite,
    /// They point to where they pointed.
    Keep,
}

impl FirestoreConfig {
    /// From a URL alone: `firestore://PROJECT[/DATABASE[/ROOT...]][?SETTING=VALUE&...]`, where a
    /// setting is one of this type's fields.
    ///
    /// # Errors
    /// `Config`.
    pub fn from_url(url: &str) -> Result<Self> {
        Self { url: Some(url.to_owned()), ..Self::default() }.resolved()
    }

    /// A name for the source: the project, and the database if it has a name.
    #[must_use]
    pub fn default_name(&self) -> Option<String> {
        let this = self.clone().resolved().ok()?;
        match this.database.as_deref() {
            None | Some("(default)") => this.project,
            Some(database) => Some(format!("{}_{database}", this.project?)),
        }
    }

    /// The settings with those of the URL filled in, checked.
    ///
    /// # Errors
    /// `Config`.
    pub(super) fn resolved(mut self) -> Result<Self> {
        if let Some(url) = self.url.take() {
            self.fill(&url)?;
        }
        let project = self.project.as_deref().unwrap_or_default();
        let project_ok = |c: char| c.is_ascii_alphanumeric() || "-:._".contains(c);
        if project.is_empty() || !project.chars().all(project_ok) {
            return Err(wrong("project", "is missing or is no id of a project")
                .with_hint("write firestore://PROJECT or firestore://PROJECT/DATABASE"));
        }
        let database = self.database.get_or_insert_with(|| "(default)".to_owned());
        let database_ok = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if database != "(default)" && (database.is_empty() || !database.chars().all(database_ok)) {
            return Err(wrong("database", "is no id of a database")
                .with_hint("write (default), or lower-case letters, digits and hyphens"));
        }
        if let Some(root) = &self.root
            && !is_document(root)
        {
            return Err(wrong("root", "is no path of a document")
                .with_hint("write pairs of a collection and a document, such as restored/monday"));
        }
        for (name, place) in [("emulator", &self.emulator), ("auth_emulator", &self.auth_emulator)] {
            let fits = |place: &String| {
                place.rsplit_once(':').is_some_and(|(host, port)| {
                    !host.is_empty()
                        && port.parse::<u16>().is_ok()
                        && host.chars().all(|c| c.is_ascii_alphanumeric() || "-.[]:".contains(c))
                })
            };
            if place.as_ref().is_some_and(|place| !fits(place)) {
                return Err(wrong(name, "is not host:port"));
            }
        }
        if let Some(time) = &self.read_time
            && time.parse::<jiff::Timestamp>().is_err()
        {
            return Err(wrong("read_time", "is no time").with_hint("write it as 2026-01-31T12:00:00Z"));
        }
        if self.parallel.is_some_and(|parallel| !(1..=16).contains(&parallel)) {
            return Err(wrong("parallel", "is not between 1 and 16"));
        }
        Ok(self)
    }

    fn fill(&mut self, url: &str) -> Result<()> {
        let not_usable = || {
            wrong("url", "is no URL of a Firestore database")
                .with_hint("write firestore://PROJECT/DATABASE, and settings behind a question mark")
        };
        let rest = url.strip_prefix("firestore://").ok_or_else(not_usable)?;
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut segments = Vec::new();
        for segment in path.trim_end_matches('/').split('/') {
            segments.push(percent::decoded(segment).map_err(|_| not_usable())?);
        }
        let mut segments = segments.into_iter();
        let keep = |place: &mut Option<String>, value: Option<String>| {
            if place.is_none() {
                *place = value.filter(|value| !value.is_empty());
            }
        };
        keep(&mut self.project, segments.next());
        keep(&mut self.database, segments.next());
        let root: Vec<String> = segments.collect();
        if root.iter().any(|segment| segment.contains('/')) {
            return Err(wrong("url", "has a slash inside a name below its database"));
        }
        keep(&mut self.root, Some(root.join("/")));
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').ok_or_else(not_usable)?;
            let value = percent::decoded(value).map_err(|_| not_usable())?;
            let switch = || match &*value {
                "true" => Ok(true),
                "false" => Ok(false),
                _ => Err(wrong(name, "is neither true nor false")),
            };
            let number = || value.parse::<u64>().map_err(|_| wrong(name, "is no number"));
            let word = || serde_json::Value::String(value.clone());
            match name {
                "emulator" => keep(&mut self.emulator, Some(value)),
                "auth_emulator" => keep(&mut self.auth_emulator, Some(value)),
                "read_time" => keep(&mut self.read_time, Some(value)),
                "credentials_file" => {
                    self.credentials_file.get_or_insert_with(|| value.into());
                }
                "token_file" => {
                    self.token_file.get_or_insert_with(|| value.into());
                }
                "include_auth" => self.include_auth |= switch()?,
                "ramp" => self.ramp |= switch()?,
                "keep_partial" => self.keep_partial |= switch()?,
                "parallel" => self.parallel = self.parallel.or(Some(number()?)),
                "retry_seconds" => self.retry_seconds = self.retry_seconds.or(Some(number()?)),
                "conflicts" => {
                    let conflicts = serde_json::from_value(word())
                        .map_err(|_| wrong(name, "is not fail, skip, overwrite or merge"))?;
                    if self.conflicts == Conflicts::default() {
                        self.conflicts = conflicts;
                    }
                }
                "references" => {
                    let references =
                        serde_json::from_value(word()).map_err(|_| wrong(name, "is not rewrite or keep"))?;
                    if self.references == References::default() {
                        self.references = references;
                    }
                }
                _ => {
                    return Err(wrong("url", format!("has an unknown setting {name:?}"))
                        .with_hint("docs/engines/firestore.md lists the settings"));
                }
            }
        }
        Ok(())
    }
}

fn wrong(subject: impl Into<String>, what: impl Into<String>) -> Error {
    Error::new(ErrorKind::Config, subject, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_databases() {
        let config = FirestoreConfig::from_url("firestore://my-app").unwrap();
        assert_eq!(
            (config.project.as_deref(), config.database.as_deref()),
            (Some("my-app"), Some("(default)"))
        );
        assert_eq!(config.default_name().as_deref(), Some("my-app"));
        let config = FirestoreConfig::from_url(
            "firestore://my-app/(default)/restored/m%20%C3%B6?emulator=127.0.0.1:8080&conflicts=merge&ramp=true\
             &include_auth=true&references=keep&parallel=2&retry_seconds=9&credentials_file=/k%2Bx.json",
        )
        .unwrap();
        assert_eq!(config.root.as_deref(), Some("restored/m ö"));
        assert_eq!(config.emulator.as_deref(), Some("127.0.0.1:8080"));
        assert_eq!((config.conflicts, config.references), (Conflicts::Merge, References::Keep));
        assert!(config.ramp && config.include_auth && !config.keep_partial);
        assert_eq!(config.credentials_file, Some("/k+x.json".into()));
        let named = FirestoreConfig::from_url("firestore://p/other-db").unwrap();
        assert_eq!(named.default_name().as_deref(), Some("p_other-db"));
    }

    #[test]
    fn settings_win_over_the_url() {
        let config = FirestoreConfig {
            url: Some("firestore://p/d1?parallel=2".to_owned()),
            database: Some("d2".to_owned()),
            parallel: Some(3),
            ..FirestoreConfig::default()
        };
        let config = config.resolved().unwrap();
        assert_eq!((config.database.as_deref(), config.parallel), (Some("d2"), Some(3)));
    }

    #[test]
    fn what_cannot_work_is_refused() {
        for bad in [
            "firestore://",
            "firestore:p",
            "firestore://p q",
            "firestore://p/D",
            "firestore://p/d/one",
            "firestore://p/d/a//b",
            "firestore://p?emulator=x",
            "firestore://p?emulator=:1",
            "firestore://p?conflicts=maybe",
            "firestore://p?what=1",
            "firestore://p?ramp=yes",
            "firestore://p?parallel=0",
            "firestore://p?read_time=today",
            "firestore://p%zz",
            "firestore://p?emulator=h/x:1",
            "firestore://p/d/a/b%2Fc",
        ] {
            let error = FirestoreConfig::from_url(bad).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{bad}");
        }
    }
}
