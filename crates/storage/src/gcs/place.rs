//! A bucket of Google Cloud Storage, as a person writes it down.

use std::fmt;
use std::path::PathBuf;

use crate::config::{Problem, bucket_url, check_endpoint, file, flag, unknown};

/// `gs://bucket/prefix?name=value&...`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GcsPlace {
    pub(crate) bucket: String,
    /// Without slashes at its ends; may be empty.
    pub(crate) prefix: String,
    pub(crate) endpoint: Option<String>,
    /// A key of a service account, or what `gcloud` left.
    pub(crate) credentials_file: Option<PathBuf>,
    pub(crate) anonymous: bool,
    pub(crate) project: Option<String>,
    pub(crate) location: Option<String>,
    pub(crate) ca_file: Option<PathBuf>,
    pub(crate) allow_http: bool,
    pub(crate) put_if_absent: Option<bool>,
}

impl GcsPlace {
    pub(crate) fn parse(text: &str, rest: &str) -> Result<Self, Vec<Problem>> {
        let mut place = Self {
            bucket: String::new(),
            prefix: String::new(),
            endpoint: None,
            credentials_file: None,
            anonymous: false,
            project: None,
            location: None,
            ca_file: None,
            allow_http: false,
            put_if_absent: None,
        };
        let (bucket, prefix, mut problems) = bucket_url(text, rest, |name, value| place.set(name, value))?;
        (place.bucket, place.prefix) = (bucket, prefix);
        if let Some(endpoint) = &place.endpoint
            && let Err(problem) = check_endpoint(endpoint, place.allow_http)
        {
            problems.push(problem);
        }
        if problems.is_empty() { Ok(place) } else { Err(problems) }
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), Problem> {
        let word = |name| {
            let plain =
                !value.is_empty() && value.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b));
            if plain {
                Ok(Some(value.to_owned()))
            } else {
                Err(Problem::Parameter(name, "a name of Google's"))
            }
        };
        match name {
            "endpoint" => self.endpoint = Some(value.trim_end_matches('/').to_owned()),
            "credentials_file" => self.credentials_file = Some(file("credentials_file", value)?),
            "anonymous" => self.anonymous = flag("anonymous", value)?,
            "project" => self.project = word("project")?,
            "location" => self.location = word("location")?,
            "ca_file" => self.ca_file = Some(file("ca_file", value)?),
            "allow_http" => self.allow_http = flag("allow_http", value)?,
            "put_if_absent" => self.put_if_absent = Some(flag("put_if_absent", value)?),
            _ => return Err(unknown(name)),
        }
        Ok(())
    }
}

impl fmt::Display for GcsPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "gs://{}", self.bucket)?;
        if self.prefix.is_empty() { Ok(()) } else { write!(f, "/{}", self.prefix) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<GcsPlace, Vec<Problem>> {
        GcsPlace::parse(text, text.strip_prefix("gs://").unwrap())
    }

    #[test]
    fn a_bucket_a_prefix_and_parameters() {
        let place =
            parse("gs://app.firebasestorage.app/a/b/?credentials_file=/etc/sa.json&project=p-1&location=eu")
                .unwrap();
        assert_eq!((place.bucket.as_str(), place.prefix.as_str()), ("app.firebasestorage.app", "a/b"));
        assert_eq!(place.credentials_file, Some(PathBuf::from("/etc/sa.json")));
        assert_eq!((place.project.as_deref(), place.location.as_deref()), (Some("p-1"), Some("eu")));
        assert_eq!(place.to_string(), "gs://app.firebasestorage.app/a/b");
    }

    #[test]
    fn what_is_wrong_is_named_and_no_secret_is_repeated() {
        assert_eq!(parse("gs://b?colour=red").unwrap_err(), [Problem::UnknownParameter("colour".to_owned())]);
        assert_eq!(parse("gs://b?private_key=x").unwrap_err(), [Problem::CredentialsInside]);
        assert_eq!(parse("gs://b?token=x").unwrap_err(), [Problem::CredentialsInside]);
        assert_eq!(
            parse("gs://b?anonymous=yes").unwrap_err(),
            [Problem::Parameter("anonymous", "`true` or `false`")]
        );
        assert!(parse("gs://b?endpoint=http://10.0.0.1").is_err());
    }
}
