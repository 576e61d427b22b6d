//! A container of Azure Blob Storage, as a person writes it down.

use std::fmt;
use std::path::PathBuf;

use url::Url;

use crate::config::{Problem, bucket_url, check_endpoint, file, flag, unknown};

/// `azblob://container/prefix?name=value&...`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AzurePlace {
    pub(crate) container: String,
    /// Without slashes at its ends; may be empty.
    pub(crate) prefix: String,
    pub(crate) account: Option<String>,
    /// The service's URL, with the account in its path where the host does not name it.
    pub(crate) endpoint: Option<String>,
    pub(crate) key_file: Option<PathBuf>,
    pub(crate) sas_file: Option<PathBuf>,
    pub(crate) connection_string_file: Option<PathBuf>,
    pub(crate) anonymous: bool,
    pub(crate) ca_file: Option<PathBuf>,
    pub(crate) allow_http: bool,
    pub(crate) part_memory: usize,
    pub(crate) put_if_absent: Option<bool>,
}

impl AzurePlace {
    pub(crate) fn parse(text: &str, rest: &str) -> Result<Self, Vec<Problem>> {
        let mut place = Self {
            container: String::new(),
            prefix: String::new(),
            account: None,
            endpoint: None,
            key_file: None,
            sas_file: None,
            connection_string_file: None,
            anonymous: false,
            ca_file: None,
            allow_http: false,
            part_memory: crate::parts::MEMORY,
            put_if_absent: None,
        };
        let (container, prefix, mut problems) = bucket_url(text, rest, |name, value| place.set(name, value))?;
        (place.container, place.prefix) = (container, prefix);
        if let Some(endpoint) = &place.endpoint
            && let Err(problem) = check_service(endpoint, place.allow_http)
        {
            problems.push(problem);
        }
        if problems.is_empty() { Ok(place) } else { Err(problems) }
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), Problem> {
        match name {
            "account" if !is_account(value) => {
                return Err(Problem::Parameter("account", "a storage account's name"));
            }
            "account" => self.account = Some(value.to_owned()),
            "endpoint" => self.endpoint = Some(value.trim_end_matches('/').to_owned()),
            "key_file" => self.key_file = Some(file("key_file", value)?),
            "sas_file" => self.sas_file = Some(file("sas_file", value)?),
            "connection_string_file" => {
                self.connection_string_file = Some(file("connection_string_file", value)?);
            }
            "anonymous" => self.anonymous = flag("anonymous", value)?,
            "ca_file" => self.ca_file = Some(file("ca_file", value)?),
            "allow_http" => self.allow_http = flag("allow_http", value)?,
            "put_if_absent" => self.put_if_absent = Some(flag("put_if_absent", value)?),
            "part_memory" => {
                let mib: usize = value
                    .parse()
                    .ok()
                    .filter(|mib| (20..=65_536).contains(mib))
                    .ok_or(Problem::Parameter("part_memory", "a whole number of MiB from 20 to 65536"))?;
                self.part_memory = mib << 20;
            }
            "sig" => return Err(Problem::CredentialsInside),
            _ => return Err(unknown(name)),
        }
        Ok(())
    }
}

/// Whether this can be the name of a storage account.
pub(super) fn is_account(name: &str) -> bool {
    (3..=24).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
}

/// As [`check_endpoint`], with an account's name as the path where there is one.
pub(super) fn check_service(endpoint: &str, allow_http: bool) -> Result<(), Problem> {
    let bare = match Url::parse(endpoint) {
        Ok(url) if is_account(url.path().trim_matches('/')) => {
            endpoint.trim_end_matches('/').trim_end_matches(url.path().trim_matches('/')).to_owned()
        }
        _ => endpoint.to_owned(),
    };
    check_endpoint(&bare, allow_http)
}

impl fmt::Display for AzurePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "azblob://{}", self.container)?;
        if self.prefix.is_empty() { Ok(()) } else { write!(f, "/{}", self.prefix) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<AzurePlace, Vec<Problem>> {
        AzurePlace::parse(text, text.strip_prefix("azblob://").unwrap())
    }

    #[test]
    fn a_container_a_prefix_and_parameters() {
        let place = parse(
            "azblob://backups/a/b?account=myaccount&key_file=/etc/key&endpoint=http://127.0.0.1:10000/myaccount",
        )
        .unwrap();
        assert_eq!((place.container.as_str(), place.prefix.as_str()), ("backups", "a/b"));
        assert_eq!(place.account.as_deref(), Some("myaccount"));
        assert_eq!(place.endpoint.as_deref(), Some("http://127.0.0.1:10000/myaccount"));
        assert_eq!(place.to_string(), "azblob://backups/a/b");
    }

    #[test]
    fn what_is_wrong_is_named_and_no_secret_is_repeated() {
        for text in
            ["azblob://c?sig=x", "azblob://c?account_key=x", "azblob://c?sas_token=x", "azblob://me:x@c/p"]
        {
            assert_eq!(parse(text).unwrap_err(), [Problem::CredentialsInside], "{text}");
        }
        assert_eq!(
            parse("azblob://c?account=My-Account").unwrap_err(),
            [Problem::Parameter("account", "a storage account's name")]
        );
        for bad in ["http://10.0.0.1/myaccount", "https://host/a/b", "https://host/?sig=x"] {
            assert!(parse(&format!("azblob://c?endpoint={bad}")).is_err(), "{bad}");
        }
        assert!(parse("azblob://c?endpoint=https://store.example").is_ok());
    }
}
